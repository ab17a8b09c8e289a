"""Errands: what is owed after a change. Written in the change's transaction; done when Slack took it.

Nothing here knows Slack: an errand says to whom what is owed, by ids; the text is drawn when it is sent, so that it is true then.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, or_, select, update

from storage import posted
from storage.database import Transaction
from storage.models import AUDIT_EVENTS, CHANNEL_MAPPINGS, ERRANDS, Errand, PostedMessage, as_row

if TYPE_CHECKING:
    from storage.audit import Changed, What

LEASE = timedelta(seconds=30)
FIRST_WAIT = timedelta(seconds=5)
LONGEST_WAIT = timedelta(seconds=30)  # so that nothing stays open for a minute once Slack answers again
GIVEN_UP_AFTER = timedelta(days=1)
KEPT = timedelta(days=7)
CHANNELS_TOLD = 10
JUST_TOLD = timedelta(hours=1)
"""So long a message about a credential is brought up to date instead of posting another."""
TOLD = "told"
"""The outcome of an errand that reached somebody."""
OTHER_ORDER = "other_order"
"""Of an order to revoke all while an older one is worked off, which tells the channels."""
IN_ONE_STATEMENT = 500
QUEUE_TOLD_AFTER = timedelta(seconds=65)  # the minute in which hosts hold what is in flight, and a little
MODAL_AFTER = timedelta(seconds=25)
"""Longer than the process that shows a password takes to say so in the modal."""
ALARMS_AN_HOUR = 5  # messages about one credential that each raise an alarm of their own
BURST = "burst"
"""Why a warning of what a credential sends is owed, when no limit of its own is: ten times as much as usual."""
AWAKE = "awake"
"""The same: much, and nothing in the day before."""


class Kind(StrEnum):
    NOTICE = "notice"
    """Tells a workspace's channels what happened to its credentials."""
    ENDED = "ended"
    """Tells the requester that a password they may have seen does not work: the credential was discarded."""
    NOT_ROTATED = "not_rotated"
    """The same of a new password, whose rotation was cancelled."""
    MODAL = "modal"
    """Says in the modal of a creation or a rotation that the password is there, unless its own process did."""
    OUTCOME = "outcome"
    """Looks what became of a change whose outcome was not known, and tells the person."""
    REMIND = "remind"
    """Tells the owner of a credential and its channels that it expires."""
    PROOF = "proof"
    """Follows the mail servers until all refuse what was stopped."""
    REVOKE_ALL = "revoke_all"
    """Goes on with deleting all credentials of a workspace."""
    REVOKED_ALL = "revoked_all"
    """Tells whoever ordered that that it is done."""
    ASK = "ask"
    """Asks those who administer a workspace for a role that somebody wants."""
    ANSWER = "answer"
    """Tells whoever asked for a role what became of it, or brings a message about it up to date."""
    CONNECTED = "connected"
    """Tells a channel that it was connected, in place of the message that offered it."""
    WENT_BACK = "went_back"
    """Tells an owner of the app that the store went back in time."""
    SETTLE = "settle"
    """Draws a message that offers an act anew."""
    ALARM = "alarm"
    """Tells those who can revoke a credential that its password leaked: in a channel, one person, or, with neither, whoever can be told."""
    WARN = "warn"
    """Tells the author of a message that a password stands in it."""
    FIRST_USE = "first_use"
    """Tells the maker of a credential that it logged in for the first time."""
    LIMIT = "limit"
    """Tells a workspace's channels that a credential sends more than it may, or than usual."""
    OWNED = "owned"
    """Tells somebody that they answer for a credential now."""
    LEFT = "left"
    """Tells the admins of a workspace what somebody owned and which role they had, who has left the Slack team."""
    TIDY = "tidy"
    """Tells an owner what nothing uses."""
    WEBHOOK = "webhook"
    """Sends what happened to the workspace's webhook."""
    QUEUE = "queue"
    """Tells whoever ordered something about queued mail what the mail servers did, unless they saw it."""


def owe(tx: Transaction, changed: "Changed") -> None:
    """Writes down what is owed for a change."""
    from storage import asking
    from storage.audit import What

    workspace = changed.workspace
    credential = changed.credentials[0] if len(changed.credentials) == 1 else None
    about: dict[str, Any] = {
        "event_id": changed.first_event,
        "last_event_id": changed.last_event,
        "credential_id": credential.id if credential else None,
        "workspace_id": workspace.id if workspace else None,
    }
    match changed.what:
        case _ if changed.quiet:
            pass
        case What.ACTIVATE if workspace and workspace.notify_created:
            _notify(tx, workspace.id, about)
        case What.DELETE | What.FINISH_ROTATION if workspace and _told(changed):
            _notify(tx, workspace.id, about)
        case What.SUSPEND | What.RESUME if workspace and credential and _told(changed):
            _notify(tx, workspace.id, about, told=_just_told(tx, credential.id))
        case What.LEAK | What.REPORT if workspace and credential:
            _alarm(tx, changed, workspace.id, about)
        case What.SUSPEND_ALL | What.RESUME_ALL if workspace:
            _notify(tx, workspace.id, about)
        case What.ASK:
            add(tx, Kind.ASK, **about)
        case What.REPLAY if workspace and _told(changed):
            _notify(tx, workspace.id, about)
        case What.GRANT | What.DECLINE:
            person = (changed.subject or "").partition(" ")[0]
            for request in asking.answered(tx, workspace.id if workspace else None, person):
                answer_to(tx, request, about)
        case What.MAP_CHANNEL | What.UNMAP_CHANNEL if workspace:
            add(tx, Kind.CONNECTED, **about, channel_id=changed.subject)
        case What.REVOKE_ALL if workspace:
            told_by = (OTHER_ORDER,) if _being_revoked(tx, workspace.id) else ()
            add(tx, Kind.REVOKE_ALL, **about, person=changed.origin.actor.user, channel_id=changed.origin.channel, ids=told_by)
        case What.REMIND if workspace and credential:
            if (credential.owner or "").startswith(("U", "W")):  # a user group reads it in the channels, where it is mentioned
                add(tx, Kind.REMIND, **about, person=credential.owner)
            _notify(tx, workspace.id, about, Kind.REMIND)
        case What.DISCARD if credential:
            add(tx, Kind.ENDED, **about, person=credential.created_by, channel_id=credential.created_in)
        case What.CANCEL_ROTATION if credential and credential.rotation_in:
            add(tx, Kind.NOT_ROTATED, **about, person=credential.rotation_by, channel_id=credential.rotation_in)
        case What.OWNER if credential and credential.owner != changed.origin.actor.user and not (credential.owner or "S").startswith("S"):
            add(tx, Kind.OWNED, **about, person=credential.owner)
        case What.LEFT:
            add(tx, Kind.LEFT, **about)
        case What.QUEUE if changed.origin.actor.user.startswith(("U", "W")):
            add(tx, Kind.QUEUE, **about, person=changed.origin.actor.user, ids=changed.orders, after=QUEUE_TOLD_AFTER)
    match changed.what:
        case (
            What.DELETE | What.SUSPEND | What.RESUME | What.FINISH_ROTATION | What.END_PREVIOUS | What.EXPIRY | What.LEAK | What.REPORT
            | What.OWNER | What.KEEP | What.LIMITS | What.REPLAY
        ):  # fmt: skip
            settle(tx, posted.about(tx, [one.id for one in changed.credentials]), about)
        case What.LEAK_GONE:
            settle(tx, posted.about_source(tx, changed.origin.channel or "", changed.origin.source or ""), about)
        case What.SUSPEND_ALL | What.RESUME_ALL | What.REVOKE_ALL | What.CHANGE_WORKSPACE if workspace:
            settle(tx, posted.about_workspace(tx, workspace.id), about)
        case What.GRANT | What.UNGRANT:  # messages name those who can help
            settle(tx, posted.about_workspace(tx, workspace.id if workspace else None), about)
    if workspace and workspace.webhook_url and hooked(changed.what, changed.subject) and not changed.quiet:
        add(tx, Kind.WEBHOOK, **about)


def hooked(what: "What", subject: str | None) -> str | None:
    """The word by which a workspace's webhook is told of a change; None when it isn't. `subject`: of the audit row."""
    from storage.audit import Again, What

    words = {
        What.ACTIVATE: "credential.created",
        What.DELETE: "credential.deleted",
        What.SUSPEND: "credential.suspended",
        What.RESUME: "credential.resumed",
        What.FINISH_ROTATION: "credential.rotated",
        What.LEAK: "credential.leaked",
        What.REMIND: "credential.expiring",
        What.SUSPEND_ALL: "workspace.suspended",
        What.RESUME_ALL: "workspace.resumed",
        What.REVOKE_ALL: "workspace.revoked",
    }
    again = {
        Again.DELETED: "credential.deleted",
        Again.SUSPENDED: "credential.suspended",
        Again.PASSWORD: "credential.rotated",
        Again.ALL_SUSPENDED: "workspace.suspended",
    }
    return again.get(Again(subject)) if what is What.REPLAY and subject in list(Again) else words.get(what)


def warn_of_sending(tx: Transaction, credential_id: str, workspace_id: int, why: str) -> None:
    """Owes the workspace's channels a warning. `why`: the limit that was reached, such as `messages_hour`, `BURST` or `AWAKE`."""
    _notify(tx, workspace_id, {"credential_id": credential_id, "workspace_id": workspace_id, "ids": (why,)}, Kind.LIMIT)


def answer_to(tx: Transaction, request: int, about: dict[str, Any]) -> None:
    """Owes the answer to a request for a role: to its asker, who is told once, and to each message about it."""
    from storage import asking, audit

    asked, columns = audit.events(tx, request, request)[0], ERRANDS.c
    told = select(columns.id).where(
        columns.kind == Kind.ANSWER.value,
        columns.ids == (str(request),),
        columns.person == asked.user_id,
        or_(columns.done_at.is_(None), columns.done_at > tx.now - JUST_TOLD),
    )
    if tx.connection.execute(told.limit(1)).first() is None:
        add(tx, Kind.ANSWER, **about, ids=(str(request),), person=asked.user_id, channel_id=asked.channel_id)
    for message in asking.shown(tx, request):
        add(tx, Kind.ANSWER, **about, ids=(str(request),), channel_id=message.channel_id, message_ts=message.ts)


def _notify(tx: Transaction, workspace_id: int, about: dict[str, Any], kind: Kind = Kind.NOTICE, told: frozenset[str] = frozenset()) -> int:
    """One errand for each of the workspace's channels, so that one that fails is tried again alone. Returns how many.

    Args:
        told: the channels that have a message which is brought up to date instead.
    """
    columns = CHANNEL_MAPPINGS.c
    query = select(columns.channel_id).where(columns.workspace_id == workspace_id, columns.paused.is_(False))
    channels = tx.connection.scalars(query.order_by(columns.channel_id).limit(CHANNELS_TOLD)).all()
    for channel in channels:
        if channel not in told:
            add(tx, kind, **about, channel_id=channel)
    return len(channels)


def _just_told(tx: Transaction, credential_id: str) -> frozenset[str]:
    """The channels that have a recent message about the credential's suspension or leak, will have one soon, or cannot have one.

    It says what is true when it is drawn.
    """
    from storage.audit import What

    since = tx.now - JUST_TOLD
    recent = [one.channel_id for one in posted.about(tx, [credential_id]) if one.created_at > since]
    columns = ERRANDS.c
    told = select(columns.channel_id).join_from(ERRANDS, AUDIT_EVENTS, columns.event_id == AUDIT_EVENTS.c.id)
    told = told.where(
        columns.credential_id == credential_id,
        or_(columns.done_at.is_(None), columns.done_at > since),
        columns.kind.in_([Kind.NOTICE.value, Kind.ALARM.value]),
        AUDIT_EVENTS.c.action.in_([What.SUSPEND.value, What.LEAK.value, What.REPORT.value]),
    )
    return frozenset([*recent, *(channel for channel in tx.connection.scalars(told) if channel)])


def _alarm(tx: Transaction, changed: "Changed", workspace_id: int, about: dict[str, Any]) -> None:
    """One alarm for each message that leaks, whoever else reports it; above a bound, the audit log alone has it."""
    from storage.audit import What

    columns = AUDIT_EVENTS.c
    raised = select(columns.channel_id, columns.source_id).where(
        columns.credential_id == about["credential_id"],
        columns.action.in_([What.LEAK.value, What.REPORT.value]),
        columns.outcome == "done",
        columns.id < about["event_id"],
    )
    if changed.what is What.LEAK and changed.origin.actor.user.startswith(("U", "W")):
        add(tx, Kind.WARN, **about, person=changed.origin.actor.user, channel_id=changed.origin.channel)
    here = (posted.in_channel(tx, columns.channel_id, changed.origin.channel), columns.source_id == changed.origin.source)
    if tx.connection.execute(raised.where(*here).limit(1)).first():
        return
    lately = {tuple(row) for row in tx.connection.execute(raised.where(columns.at > tx.now - JUST_TOLD).limit(100))}
    if len(lately) < ALARMS_AN_HOUR and not _notify(tx, workspace_id, about, Kind.ALARM):
        add(tx, Kind.ALARM, **about)


def modal_is_told(tx: Transaction, credential_id: str) -> None:
    """Its own process has said it there. A note."""
    same = (ERRANDS.c.kind == Kind.MODAL.value, ERRANDS.c.credential_id == credential_id, ERRANDS.c.done_at.is_(None))
    tx.connection.execute(update(ERRANDS).where(*same).values(done_at=tx.now, outcome=TOLD))


def settle(tx: Transaction, messages: Sequence[PostedMessage], about: dict[str, Any] | None = None, at: datetime | None = None) -> None:
    """Owes that each message is drawn anew, as what it is about is then. One errand waiting is enough, however much changes meanwhile.

    Args:
        at: when, where it is known before what will be so then; None: now.
    """
    if not messages:
        return
    # Whoever holds a lease may have read the store already.
    free = (ERRANDS.c.done_at.is_(None), ERRANDS.c.kind == Kind.SETTLE.value, ERRANDS.c.lease.is_(None))
    query = select(ERRANDS.c.channel_id, ERRANDS.c.message_ts, ERRANDS.c.id).where(*free)
    waiting = {(channel, ts): number for channel, ts, number in tx.connection.execute(query)}
    places = dict.fromkeys((one.channel_id, one.ts) for one in messages)
    sooner = [waiting[place] for place in places if place in waiting]
    again = {"due": tx.now, "created_at": tx.now, "tries": 0, "outcome": None} | (about or {})
    kept = set(sooner) if at is not None else set()
    for start in range(0, len(sooner), IN_ONE_STATEMENT) if at is None else ():
        these = ERRANDS.c.id.in_(sooner[start : start + IN_ONE_STATEMENT])
        kept |= set(tx.connection.scalars(update(ERRANDS).where(these, *free).values(**again).returning(ERRANDS.c.id)))
    for channel, ts in places:
        if waiting.get((channel, ts)) not in kept:
            add(tx, Kind.SETTLE, **(about or {}), channel_id=channel, message_ts=ts, at=at)
    tx.owed = True


def renumbered(tx: Transaction, old: str, new: str) -> None:
    """Slack gave a channel another id: what is owed there is told there."""
    tx.connection.execute(update(ERRANDS).where(ERRANDS.c.done_at.is_(None), ERRANDS.c.channel_id == old).values(channel_id=new))


def _being_revoked(tx: Transaction, workspace_id: int) -> bool:
    same = (ERRANDS.c.done_at.is_(None), ERRANDS.c.kind == Kind.REVOKE_ALL.value, ERRANDS.c.workspace_id == workspace_id)
    return tx.connection.execute(select(ERRANDS.c.id).where(*same).limit(1)).first() is not None


def nobody_told(tx: Transaction, errand: Errand, outcome: str) -> None:
    """The alarm could not be raised there, for good: when that is so of every channel, it is owed to whoever can be told."""
    finish(tx, errand.id, outcome)
    same = (ERRANDS.c.kind == errand.kind, ERRANDS.c.event_id == errand.event_id, ERRANDS.c.id != errand.id)
    others = select(ERRANDS.c.id).where(*same, or_(ERRANDS.c.done_at.is_(None), ERRANDS.c.outcome == TOLD))
    if tx.connection.execute(others.limit(1)).first() is None:
        about: dict[str, Any] = {"event_id": errand.event_id, "last_event_id": errand.last_event_id, "workspace_id": errand.workspace_id}
        add(tx, Kind.ALARM, **about, credential_id=errand.credential_id)


def _told(changed: "Changed") -> bool:
    """Whether the workspace's channels read of it: what happens by itself is told whatever the setting, because nobody pressed anything."""
    from storage.audit import Surface

    return changed.workspace is not None and (changed.workspace.notify_deleted or changed.origin.surface is Surface.SWEEP)


def add(
    tx: Transaction,
    kind: Kind,
    *,
    event_id: int | None = None,
    last_event_id: int | None = None,
    credential_id: str | None = None,
    workspace_id: int | None = None,
    person: str | None = None,
    channel_id: str | None = None,
    message_ts: str | None = None,
    ids: tuple[str, ...] = (),
    after: timedelta = timedelta(0),
    at: datetime | None = None,
) -> None:
    """Writes an errand down.

    Args:
        after: how long it waits before it is due.
        at: when it begins to be owed, if not now.
    """
    begins = at or tx.now
    tx.connection.execute(
        ERRANDS.insert().values(
            kind=kind.value,
            event_id=event_id,
            last_event_id=last_event_id,
            credential_id=credential_id,
            workspace_id=workspace_id,
            person=person,
            channel_id=channel_id,
            message_ts=message_ts,
            ids=ids,
            created_at=begins,
            due=begins + after,
            tries=0,
        )
    )
    tx.owed = True


def take(tx: Transaction, limit: int, kinds: Collection[Kind]) -> list[Errand]:
    """Takes up to `limit` errands of these kinds that are due, for this caller alone until their lease ends; the oldest first."""
    free = or_(ERRANDS.c.lease.is_(None), ERRANDS.c.lease <= tx.now)
    due = (
        select(ERRANDS.c.id)
        .where(ERRANDS.c.done_at.is_(None), ERRANDS.c.due <= tx.now, free, ERRANDS.c.kind.in_([kind.value for kind in kinds]))
        .order_by(ERRANDS.c.due, ERRANDS.c.id)
        .limit(limit)
    )
    if not tx.sqlite:
        due = due.with_for_update(skip_locked=True)
    taking = update(ERRANDS).where(ERRANDS.c.id.in_(due.scalar_subquery())).values(lease=tx.now + LEASE).returning(ERRANDS)
    return sorted((as_row(Errand, row) for row in tx.connection.execute(taking)), key=lambda one: one.id)


def finish(tx: Transaction, errand_id: int, outcome: str) -> None:
    """It is done, or there is nothing left to do about it. `outcome`: a word."""
    values = {"done_at": tx.now, "lease": None, "outcome": outcome}
    tx.connection.execute(update(ERRANDS).where(ERRANDS.c.id == errand_id, ERRANDS.c.done_at.is_(None)).values(values))


def postpone(tx: Transaction, errand: Errand, outcome: str, after: timedelta | None = None) -> None:
    """It is tried again later: after so long, or twice as long as the time before."""
    wait = after or min(FIRST_WAIT * 2 ** min(errand.tries, 16), LONGEST_WAIT)
    values = {"due": tx.now + wait, "tries": errand.tries + 1, "lease": None, "outcome": outcome}
    tx.connection.execute(update(ERRANDS).where(ERRANDS.c.id == errand.id, ERRANDS.c.done_at.is_(None)).values(values))


def hold(tx: Transaction, errand: Errand, after: timedelta) -> None:
    """Others of its kind and workspace wait as well, also those that somebody took: what it needs does not answer."""
    others = (ERRANDS.c.kind == errand.kind, ERRANDS.c.workspace_id == errand.workspace_id, ERRANDS.c.done_at.is_(None))
    waiting = {"due": tx.now + after, "lease": None}
    tx.connection.execute(update(ERRANDS).where(*others, ERRANDS.c.due < tx.now + after).values(waiting))


def release_all(tx: Transaction, taken: Sequence[Errand]) -> None:
    """Gives back what was taken and not tried: it is due again when what was tried is."""
    ids = [one.id for one in taken]
    tx.connection.execute(update(ERRANDS).where(ERRANDS.c.id.in_(ids)).values(lease=None, due=tx.now + FIRST_WAIT))


def keep(tx: Transaction, errand: Errand) -> bool:
    """Takes it for another lease; False when it is somebody else's by now, or is to wait."""
    mine = (ERRANDS.c.id == errand.id, ERRANDS.c.done_at.is_(None), ERRANDS.c.lease > tx.now)
    return tx.connection.execute(update(ERRANDS).where(*mine).values(lease=tx.now + LEASE)).rowcount == 1


def revoked_all(tx: Transaction, errand: Errand) -> None:
    """Puts in the place of a workspace's revocation, which is done, what people read of it."""
    done = update(ERRANDS).where(ERRANDS.c.id == errand.id, ERRANDS.c.done_at.is_(None))
    if tx.connection.execute(done.values(done_at=tx.now, lease=None, outcome="done")).rowcount != 1 or errand.workspace_id is None:
        return
    about: dict[str, Any] = {"event_id": errand.event_id, "last_event_id": errand.last_event_id, "workspace_id": errand.workspace_id}
    add(tx, Kind.REVOKED_ALL, **about, person=errand.person, channel_id=errand.channel_id)
    if OTHER_ORDER not in errand.ids:
        _notify(tx, errand.workspace_id, about)


@dataclass(frozen=True)
class Open:
    """The errands that are not done: how many, which kinds are due, and the age of the oldest that is due, in seconds."""

    count: int
    due: frozenset[Kind]
    oldest: float


def still_open(tx: Transaction) -> Open:
    free = or_(ERRANDS.c.lease.is_(None), ERRANDS.c.lease <= tx.now)
    due = func.count(ERRANDS.c.id).filter(ERRANDS.c.due <= tx.now, free)
    kind = ERRANDS.c.kind
    # Trying again moves `due`, so that only their beginning tells how long somebody waits; a receiver of a webhook may be gone for good.
    late = or_(ERRANDS.c.due <= tx.now, ERRANDS.c.tries > 0) & (ERRANDS.c.kind != Kind.WEBHOOK.value)
    query = select(kind, func.count(), due, func.min(ERRANDS.c.created_at).filter(late)).where(ERRANDS.c.done_at.is_(None))
    rows = tx.connection.execute(query.group_by(kind)).all()
    waits = [(tx.now - oldest).total_seconds() for *_, oldest in rows if oldest]
    return Open(sum(count for _, count, *_ in rows), frozenset(Kind(one) for one, _, now, _ in rows if now), max([0.0, *waits]))


def forget_old(tx: Transaction) -> None:
    """Drops what was done long ago; called by the sweep."""
    tx.connection.execute(delete(ERRANDS).where(ERRANDS.c.done_at < tx.now - KEPT))

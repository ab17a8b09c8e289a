"""Errands: what is owed after a change. Written in the change's transaction; done when Slack took it.

Nothing here knows Slack: an errand says to whom what is owed, by ids; the text is drawn when it is sent, so that it is true then.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, or_, select, update

from storage.database import Transaction
from storage.models import CHANNEL_MAPPINGS, ERRANDS, Errand, as_row

if TYPE_CHECKING:
    from storage.audit import Changed

LEASE = timedelta(seconds=30)
FIRST_WAIT = timedelta(seconds=5)
LONGEST_WAIT = timedelta(seconds=30)  # so that nothing stays open for a minute once Slack answers again
GIVEN_UP_AFTER = timedelta(days=1)
KEPT = timedelta(days=7)
CHANNELS_TOLD = 10


class Kind(StrEnum):
    NOTICE = "notice"
    """Tells a workspace's channels what happened to its credentials."""
    ENDED = "ended"
    """Tells the requester that a password they may have seen does not work: the credential was discarded."""
    NOT_ROTATED = "not_rotated"
    """The same of a new password, whose rotation was cancelled."""
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
    SETTLE = "settle"
    """Draws messages about a credential anew."""


def owe(tx: Transaction, changed: "Changed") -> None:
    """Writes down what is owed for a change."""
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
        case What.DELETE | What.FINISH_ROTATION | What.SUSPEND | What.RESUME if workspace and _told(changed):
            _notify(tx, workspace.id, about)
        case What.SUSPEND_ALL | What.RESUME_ALL if workspace:
            _notify(tx, workspace.id, about)
        case What.REVOKE_ALL:
            add(tx, Kind.REVOKE_ALL, **about, person=changed.origin.actor.user, channel_id=changed.origin.channel)
        case What.REMIND if workspace and credential:
            add(tx, Kind.REMIND, **about, person=credential.owner)
            _notify(tx, workspace.id, about, Kind.REMIND)
        case What.DISCARD if credential:
            add(tx, Kind.ENDED, **about, person=credential.created_by, channel_id=credential.created_in)
        case What.CANCEL_ROTATION if credential and credential.rotation_in:
            add(tx, Kind.NOT_ROTATED, **about, person=credential.rotation_by, channel_id=credential.rotation_in)


def _notify(tx: Transaction, workspace_id: int, about: dict[str, Any], kind: Kind = Kind.NOTICE) -> None:
    """One errand for each of the workspace's channels, so that one that fails is tried again alone."""
    columns = CHANNEL_MAPPINGS.c
    query = select(columns.channel_id).where(columns.workspace_id == workspace_id, columns.paused.is_(False))
    for channel in tx.connection.scalars(query.order_by(columns.channel_id).limit(CHANNELS_TOLD)).all():
        add(tx, kind, **about, channel_id=channel)


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
) -> None:
    """Writes an errand down. `after`: how long it waits before it is due."""
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
            created_at=tx.now,
            due=tx.now + after,
            tries=0,
        )
    )
    tx.owed = True


def take(tx: Transaction, limit: int) -> list[Errand]:
    """Takes up to `limit` errands that are due, for this caller alone until their lease ends; the oldest first."""
    due = (
        select(ERRANDS.c.id)
        .where(ERRANDS.c.done_at.is_(None), ERRANDS.c.due <= tx.now, or_(ERRANDS.c.lease.is_(None), ERRANDS.c.lease <= tx.now))
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


def release_all(tx: Transaction, taken: Sequence[Errand]) -> None:
    """Gives back what was taken and not tried: it is due again when what was tried is."""
    ids = [one.id for one in taken]
    tx.connection.execute(update(ERRANDS).where(ERRANDS.c.id.in_(ids)).values(lease=None, due=tx.now + FIRST_WAIT))


def keep(tx: Transaction, errand: Errand) -> bool:
    """Takes it for another lease; False when it is somebody else's by now."""
    mine = (ERRANDS.c.id == errand.id, ERRANDS.c.done_at.is_(None), ERRANDS.c.lease > tx.now)
    return tx.connection.execute(update(ERRANDS).where(*mine).values(lease=tx.now + LEASE)).rowcount == 1


def revoked_all(tx: Transaction, errand: Errand) -> None:
    """Puts in the place of a workspace's revocation, which is done, what people read of it."""
    done = update(ERRANDS).where(ERRANDS.c.id == errand.id, ERRANDS.c.done_at.is_(None))
    if tx.connection.execute(done.values(done_at=tx.now, lease=None, outcome="done")).rowcount != 1 or errand.workspace_id is None:
        return
    about: dict[str, Any] = {"event_id": errand.event_id, "last_event_id": errand.last_event_id, "workspace_id": errand.workspace_id}
    add(tx, Kind.REVOKED_ALL, **about, person=errand.person, channel_id=errand.channel_id)
    _notify(tx, errand.workspace_id, about)


@dataclass(frozen=True)
class Open:
    """The errands that are not done: how many, how many of them are due, and the age of the oldest that is due, in seconds."""

    count: int
    due: int
    oldest: float


def still_open(tx: Transaction) -> Open:
    free = or_(ERRANDS.c.lease.is_(None), ERRANDS.c.lease <= tx.now)
    due = func.count(ERRANDS.c.id).filter(ERRANDS.c.due <= tx.now, free)
    query = select(func.count(), due, func.min(ERRANDS.c.due)).where(ERRANDS.c.done_at.is_(None))
    count, waiting, oldest = tx.connection.execute(query).one()
    return Open(count, waiting, max((tx.now - oldest).total_seconds(), 0.0) if oldest else 0.0)


def forget_old(tx: Transaction) -> None:
    """Drops what was done long ago; called by the sweep."""
    tx.connection.execute(delete(ERRANDS).where(ERRANDS.c.done_at < tx.now - KEPT))

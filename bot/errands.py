"""Working off what is owed: right after the commit that owes it, and by every replica with back-off until Slack took it.

An errand is taken with a lease, its text is drawn from what the store says now, and it is finished when Slack said ok. A word of Slack's
that cannot change leads to the next way; when there is none left, or after a day, the audit log says that somebody could not be told.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import structlog
from prometheus_client import Gauge

from bot import alarm, asking, create, notices, owner, past, queue, rotate, setup, tidy, webhook
from bot.blocks import Block, bold, line
from bot.door import describe
from bot.door import notice as notice_view
from bot.services import Services, new_reference
from bot.slack import Away, Ok, Posted, Refused, Reply
from storage import access, audit, credentials, errands, invitations, leaks, listing, mail_servers, posted, replay, workspaces
from storage import asking as asking_store
from storage import tidy as storage_tidy
from storage.access import Action, Actor
from storage.asking import Asked
from storage.audit import Origin, Surface, What
from storage.database import OutcomeUnknown, Transaction, Unavailable, cause
from storage.errands import Kind
from storage.leaks import Leak
from storage.mail_servers import Traffic
from storage.models import AuditEvent, Credential, Errand, PostedMessage, State, Workspace
from storage.refusals import NoSuchCredential, NoSuchRequest, NoSuchWorkspace

BATCH = 20
PERSONS_ASKED = 10
HOOK_FIRST_WAIT = timedelta(seconds=10)
HOOK_LONGEST_WAIT = timedelta(hours=1)
LOOKED_FOR = 1.0  # seconds between two looks for what other replicas left, or what is due again
PROOF_EVERY = timedelta(seconds=2)
PROOF_FOLLOWED = timedelta(seconds=50)
"""So long a message is brought up to date as the mail servers confirm one after the other."""
DRAWN_AGAIN = 5  # times in a row, when what it says changes meanwhile
PERSONS_TOLD = 10
MESSAGE_GONE = ("message_not_found",)
LANES: dict[frozenset[Kind], int] = {
    frozenset({Kind.WEBHOOK}): 16,
    frozenset({Kind.REVOKE_ALL}): 1,
    frozenset(Kind) - {Kind.WEBHOOK, Kind.REVOKE_ALL}: 4,
}
"""What is worked off beside each other, and how many at once: receivers that hang and long orders keep no message waiting."""

log = structlog.get_logger(__name__)
still_open = Gauge("smtp_bot_errands_open", "Errands that are not done")
oldest = Gauge("smtp_bot_errand_oldest_seconds", "Age of the oldest errand that is due or was tried in vain, webhooks apart")


@dataclass(frozen=True)
class Done:
    """Nothing is left to do about it."""

    outcome: str = errands.TOLD


@dataclass(frozen=True)
class Untold:
    """Nobody can be told any more."""

    outcome: str


@dataclass(frozen=True)
class Later:
    """It is tried again."""

    outcome: str
    slack_away: bool = False
    after: timedelta | None = None
    """How long it waits; None: longer each time."""


Result = Done | Untold | Later


class Worker:
    """Works errands off, one worker a process."""

    def __init__(self, services: Services, every: float = LOOKED_FOR) -> None:
        self._services = services
        self._every = every
        self._wanted = {lane: asyncio.Event() for lane in LANES}
        self._idle = {lane: asyncio.Event() for lane in LANES}
        services.db.owed = self.wake

    def wake(self) -> None:
        """Something is owed now."""
        for lane in LANES:
            self._idle[lane].clear()
            self._wanted[lane].set()

    async def idle(self) -> None:
        """Waits until nothing that is due is left."""
        while not all(one.is_set() for one in self._idle.values()):
            for one in self._idle.values():
                await one.wait()

    async def forever(self) -> None:
        self.wake()
        async with asyncio.TaskGroup() as lanes:
            for lane in LANES:
                lanes.create_task(self._forever(lane))

    async def _forever(self, lane: frozenset[Kind]) -> None:
        wanted, idle = self._wanted[lane], self._idle[lane]
        while True:
            try:
                async with asyncio.timeout(self._every):
                    await wanted.wait()
            except TimeoutError:
                pass
            wanted.clear()
            try:
                while await self._once(lane):
                    pass
            except (Unavailable, OutcomeUnknown) as error:
                log.warning("errands wait for the database", error=describe(error))
            except Exception as error:
                log.error("errands failed", error=describe(error))
            if not wanted.is_set():
                idle.set()

    async def _once(self, lane: frozenset[Kind]) -> bool:
        """Works off a batch; whether there may be more to do now."""
        db = self._services.db
        now = await db.read(errands.still_open)
        still_open.set(now.count)
        oldest.set(now.oldest)
        if not now.due & lane:
            return False
        at_once = LANES[lane]
        taken = await db.note(errands.take, BATCH, lane)
        away = False
        for start in range(0, len(taken), at_once):
            some = taken[start : start + at_once]
            if away:  # Slack does not answer: the others need not find that out one by one
                await db.note(errands.release_all, taken[start:])
                break
            away = any(await asyncio.gather(*(self._work_off(one) for one in some)))
        return bool(taken) and not away

    async def _work_off(self, errand: Errand) -> bool:
        """Whether Slack is away."""
        db = self._services.db
        if not await db.note(errands.keep, errand):
            return False  # those before it took so long that somebody else has it
        try:
            result = await KINDS[Kind(errand.kind)](self._services, errand)
        except (NoSuchCredential, NoSuchRequest, NoSuchWorkspace):
            result = Done("gone")
        except (Unavailable, OutcomeUnknown) as error:
            result = Later(describe(error))
        except Exception as error:
            log.error("errand failed", kind=errand.kind, errand=errand.id, error=describe(error))
            result = Later(cause(error))
        match result:
            case Done(outcome):
                await db.note(errands.finish, errand.id, outcome)
            case Untold(outcome):
                await self._give_up(errand, outcome)
            case Later(outcome, _, after):
                if db.clock() - errand.created_at > errands.GIVEN_UP_AFTER:
                    await self._give_up(errand, outcome)
                else:
                    await db.note(errands.postpone, errand, outcome, after)
        return isinstance(result, Later) and result.slack_away

    async def _give_up(self, errand: Errand, outcome: str) -> None:
        log.warning("could not be told", kind=errand.kind, errand=errand.id, person=errand.person, why=outcome)
        origin = Origin(Actor("errands", self._services.team), Surface.SWEEP, new_reference(), errand.channel_id)
        await self._services.db.change(_untold, origin, errand, outcome)


def _untold(tx: Transaction, origin: Origin, errand: Errand, outcome: str) -> None:
    with audit.attempt(tx, What.UNTOLD, origin) as current:
        current.subject = " ".join(part for part in (errand.kind, errand.person, outcome) if part)
        if errand.credential_id:
            current.credential, current.workspace = credentials.get(tx, errand.credential_id)
        elif errand.workspace_id:
            current.workspace = workspaces.by_id(tx, errand.workspace_id)
    errands.finish(tx, errand.id, outcome)


@dataclass(frozen=True)
class About:
    """What an errand is about, as the store says it now."""

    workspace: Workspace | None
    events: list[AuditEvent]
    credentials: list[Credential]


def _about(tx: Transaction, errand: Errand) -> About:
    first, last = errand.event_id or 0, errand.last_event_id or 0
    rows = audit.events(tx, first, last) if first else []
    usernames = [row.username for row in rows if row.username]
    found = listing.by_usernames(tx, usernames)
    if not found and errand.credential_id:
        found = [credentials.get(tx, errand.credential_id)[0]]
    return About(workspaces.by_id(tx, errand.workspace_id) if errand.workspace_id else None, rows, found)


async def _tell(services: Services, errand: Errand, rows: list[Block]) -> Result:
    """Tells one person: in the channel, for them alone, or else in a direct message."""
    message = notices.message(rows)
    person = errand.person or ""
    if errand.channel_id and not errand.channel_id.startswith("D"):
        match await services.slack.post_ephemeral(errand.channel_id, person, message):
            case Ok():
                return Done()
            case Away(why, _):
                return Later(why, slack_away=True)
    return _told(await services.slack.post_message(person, message), Untold)


def _told(reply: Reply[Any], hopeless: Callable[[str], Result]) -> Result:
    match reply:
        case Ok():
            return Done()
        case Refused(word):
            return hopeless(word)
        case Away(why, _):
            return Later(why, slack_away=True)


async def notice(services: Services, errand: Errand) -> Result:
    about = await services.db.read(_about, errand)
    rows = None
    if len(about.events) == 1 and about.events[0].action == What.SUSPEND:
        return await _suspension(services, errand, about.events[0])
    if about.workspace and about.events and (about.credentials or not about.events[0].credential_id):
        rows = notices.about_change(about.events, about.credentials, about.workspace)
    if rows is None:
        return Done("nothing to tell")
    # A channel that the bot is not in does without; the audit log has it all.
    return _told(await services.slack.post_message(errand.channel_id or "", notices.message(rows)), Done)


async def _suspension(services: Services, errand: Errand, event: AuditEvent) -> Result:
    """A notice that offers an act, so it is kept and settles."""
    drawn = await services.db.read(credentials.suspension, errand.credential_id or "", event.id)
    match await services.slack.post_message(errand.channel_id or "", notices.message(notices.suspension(drawn))):
        case Ok(where):

            def keep(tx: Transaction) -> None:
                now = credentials.suspension(tx, drawn.credential.id, event.id, wait=True)
                _keep(tx, errand, posted.Posted.SUSPENDED, where, now.credential, now != drawn, ids=(str(event.id),))

            await services.db.note(keep)
            return Done()
        case Refused(word):
            return Done(word)
        case Away(why, _):
            return Later(why, slack_away=True)


def _keep(
    tx: Transaction,
    errand: Errand,
    kind: posted.Posted,
    where: Posted,
    credential: Credential,
    changed: bool,
    ids: tuple[str, ...] = (),
    source: tuple[str | None, str | None] = (None, None),
) -> None:
    """Writes down where the message stands, and ends the errand.

    Args:
        changed: what it says is no longer so.
        source: see `posted.keep`.
    """
    if where.ts:
        posted.keep(
            tx, kind, where.channel, where.ts, credential_id=credential.id, workspace_id=credential.workspace_id, source=source, ids=ids
        )
        message = posted.at(tx, where.channel, where.ts)
        if message and changed:
            errands.settle(tx, [message])
        elif message:
            _settle_at_expiry(tx, message, credential)
    errands.finish(tx, errand.id, errands.TOLD)


def _settle_at_expiry(tx: Transaction, message: PostedMessage, credential: Credential) -> None:
    """An alarm says that the credential works; nothing is written when it expires."""
    expires_at = credential.expires_at
    if message.kind == posted.Posted.ALARM and credential.state == State.ACTIVE and expires_at and expires_at > tx.now:
        errands.settle(tx, [message], at=expires_at)


async def raise_alarm(services: Services, errand: Errand) -> Result:
    where = errand.channel_id or errand.person
    if not where:
        return await _raise_with_somebody(services, errand)
    [event] = (await services.db.read(_about, errand)).events
    drawn = await services.db.read(_leak, services.team, event)
    rows = alarm.draw(drawn, await _link(services, drawn), services.db.clock())
    match await services.slack.post_message(where, notices.message(rows)):
        case Ok(stands):

            def keep(tx: Transaction) -> None:
                now = _leak(tx, services.team, event, wait=True)
                changed = replace(now, proof=None) != replace(drawn, proof=None)
                _keep(tx, errand, posted.Posted.ALARM, stands, now.credential, changed, source=(now.channel, event.source_id))

            await services.db.note(keep)
            return Done()
        case Refused(word):
            if errand.person:
                return Untold(word)
            await services.db.note(errands.nobody_told, errand, word)
            return Done(word)
        case Away(why, _):
            return Later(why, slack_away=True)


def _leak(tx: Transaction, team: str, event: AuditEvent, wait: bool = False) -> Leak:
    """What is known of the leak that the audit row speaks of. `wait`: for a change of its credential that is under way."""
    if event.credential_id is None:
        raise NoSuchCredential
    if wait:
        credentials.wait_for(tx, event.credential_id)
    return leaks.leak(tx, team, event.credential_id, event.channel_id, event.source_id)


async def _link(services: Services, leak: Leak) -> str | None:
    """Of the message that leaks."""
    source = leak.events[0].source_id
    if not leak.channel or not source:
        return None
    found = await services.slack.permalink(leak.channel, source)
    return found.data if isinstance(found, Ok) else None


async def _raise_with_somebody(services: Services, errand: Errand) -> Result:
    """No channel can be told: those who can revoke it read it in a direct message, or else the owners of the app."""
    [event] = (await services.db.read(_about, errand)).events
    who = (await services.db.read(_leak, services.team, event)).who
    persons = [one for one in who if not one.startswith("S")]
    for group in (one for one in who if one.startswith("S")):
        match await services.slack.group_members(group):
            case Ok(members):
                persons += sorted(members)
            case Away(why, _):
                return Later(why, slack_away=True)
    told = list(dict.fromkeys(persons or sorted(services.settings.bot_owners)))[:PERSONS_TOLD]
    if not told:
        return Untold("nobody to tell")

    def owe(tx: Transaction) -> None:
        about: dict[str, Any] = {"event_id": errand.event_id, "last_event_id": errand.last_event_id, "workspace_id": errand.workspace_id}
        for person in told:
            errands.add(tx, Kind.ALARM, **about, credential_id=errand.credential_id, person=person)
        errands.finish(tx, errand.id, "passed on")

    await services.db.note(owe)
    services.db.owed()
    return Done("passed on")


@dataclass(frozen=True)
class Drawn:
    """What a message says now."""

    rows: list[Block]
    unconfirmed: bool = False
    """A mail server has not confirmed it yet."""
    several: tuple[str, ...] = ()
    """The credentials in it, where it is about more than one."""


async def settle(services: Services, errand: Errand) -> Result:
    """Draws a message anew until it says what is so."""
    message = await services.db.read(posted.at, errand.channel_id or "", errand.message_ts or "")
    if message is None:
        return Done("gone")
    drawn = await _drawn(services, message)
    for _ in range(DRAWN_AGAIN):
        match await services.slack.update_message(message.channel_id, message.ts, notices.message(drawn.rows)):
            case Refused(word):
                if word in MESSAGE_GONE:
                    await services.db.note(posted.forget, message)
                return Done(word)
            case Away(why, _):
                return Later(why, slack_away=True)
        before = drawn
        if before.several:
            await services.db.note(posted.keep_all, message, before.several)
        drawn = await _drawn(services, message)
        if drawn.rows == before.rows:
            break
    else:
        return Later("changes all the time", after=PROOF_EVERY)
    if drawn.unconfirmed and services.db.clock() - errand.created_at < PROOF_FOLLOWED:
        return Later("unconfirmed", after=PROOF_EVERY)

    def drawn_at_expiry(tx: Transaction) -> None:
        _settle_at_expiry(tx, message, credentials.get(tx, message.credential_id or "")[0])

    if message.kind == posted.Posted.ALARM:
        await services.db.note(drawn_at_expiry)
    return Done()


async def _drawn(services: Services, message: PostedMessage) -> Drawn:
    db = services.db
    match message.kind:
        case posted.Posted.SUSPENDED:
            return Drawn(notices.suspension(await db.read(credentials.suspension, message.credential_id or "", int(message.ids[0]))))
        case posted.Posted.SENDS_MUCH:
            sending = await db.read(_sending, message.credential_id or "")
            return Drawn(notices.sends_much(*sending, message.ids[0], message.channel_id))
        case posted.Posted.LEFT:
            found = await db.read(owner.look, int(message.ids[0]), services.team)
            if found is None:
                raise NoSuchWorkspace
            return Drawn(owner.left_message(*found), several=_ids(found[2]))
        case posted.Posted.IDLE:
            return await _idle(services, message.person or "", message.workspace_id)
    leak = await db.read(leaks.leak, services.team, message.credential_id or "", message.source_channel, message.source_ts)
    return Drawn(alarm.draw(leak, await _link(services, leak), db.clock()), bool(leak.proof and leak.proof.waiting))


async def warn(services: Services, errand: Errand) -> Result:
    [event] = (await services.db.read(_about, errand)).events
    leak = await services.db.read(_leak, services.team, event)
    return await _tell(services, errand, alarm.warning(leak, services.db.clock()))


async def first_use(services: Services, errand: Errand) -> Result:
    credential, _ = await services.db.read(credentials.get, errand.credential_id or "")
    return await _tell(services, errand, notices.first_use(credential, errand.ids[0] if errand.ids else None))


async def ended(services: Services, errand: Errand) -> Result:
    about = await services.db.read(_about, errand)
    credential, event = about.credentials[0], about.events[0]
    rows = notices.discarded(credential, event, errand.channel_id or "")
    await _end_modal(services, credential.request_key, rows, "Credential not created")
    return await _tell(services, errand, rows)


async def not_rotated(services: Services, errand: Errand) -> Result:
    about = await services.db.read(_about, errand)
    credential, event = about.credentials[0], about.events[0]
    rows = notices.not_rotated(credential, event, errand.channel_id or "")
    await _end_modal(services, credential.rotation_key, rows, "Password not changed")
    return await _tell(services, errand, rows)


async def finish_modal(services: Services, errand: Errand) -> Result:
    credential, workspace = await services.db.read(credentials.get, errand.credential_id or "")
    [view_id] = errand.ids
    if credential.state == State.DELETED:
        view = notice_view([line(bold(credential.name), " has been deleted since.")], "Credential deleted")
    elif view_id == (credential.rotation_key or "").partition(":")[2]:
        view = rotate.rotated_view(credential, credential.rotation_in or "")
    else:
        view = create.created_view(credential, workspace, credential.created_in or "")
    return _told(await services.slack.update_view(view_id, view), Done)


async def _end_modal(services: Services, key: str | None, rows: list[Block], title: str) -> None:
    """The modal of a request does not go on saying that it is being worked on, where a crash kept its own process from saying the rest.

    `key`: Slack team and view id.
    """
    if key:
        await services.slack.update_view(key.partition(":")[2], notice_view(rows, title))


async def outcome(services: Services, errand: Errand) -> Result:
    done, named = await services.db.look(_became, errand)
    return await _tell(services, errand, notices.outcome(done, named))


def _became(tx: Transaction, errand: Errand) -> tuple[list[AuditEvent], dict[str, str]]:
    """The audit rows of the request whose outcome was not known, and the names of the credentials in them."""
    rows = audit.of_reference(tx, errand.person or "", errand.ids[0])
    found = listing.by_usernames(tx, [row.username for row in rows if row.username])
    return rows, {one.id: one.name for one in found}


async def remind(services: Services, errand: Errand) -> Result:
    about = await services.db.read(_about, errand)
    credential = about.credentials[0]
    if credential.expires_at is None or about.workspace is None or credential.deleted_at:
        return Done("no longer due")
    rows = notices.reminder(credential, about.workspace, services.db.clock(), services.command)
    if errand.person:
        return await _tell(services, errand, rows)
    return _told(await services.slack.post_message(errand.channel_id or "", notices.message(rows)), Done)


async def sends_much(services: Services, errand: Errand) -> Result:
    sending = await services.db.read(_sending, errand.credential_id or "")
    credential, why = sending[0], errand.ids[0] if errand.ids else errands.BURST
    if credential.state != State.ACTIVE or (why in notices.UNUSUAL and not services.settings.bot_burst_warning):
        return Done("nothing to tell")
    channel = errand.channel_id or ""
    match await services.slack.post_message(channel, notices.message(notices.sends_much(*sending, why, channel))):
        case Ok(where):

            def keep(tx: Transaction) -> None:
                credentials.wait_for(tx, credential.id)
                changed = credentials.get(tx, credential.id)[0].state != credential.state
                _keep(tx, errand, posted.Posted.SENDS_MUCH, where, credential, changed, ids=(why,))

            await services.db.note(keep)
            return Done()
        case Refused(word):
            return Done(word)
        case Away(reason, _):
            return Later(reason, slack_away=True)


def _sending(tx: Transaction, credential_id: str) -> tuple[Credential, Workspace, Traffic, AuditEvent | None]:
    credential, workspace = credentials.get(tx, credential_id)
    traffic = mail_servers.traffic(tx, [credential.id])[credential.id]
    return credential, workspace, traffic, credentials.last_act(tx, credential.id)


async def ask(services: Services, errand: Errand) -> Result:
    """Each of those who can give the role reads it in a direct message."""
    asked = await services.db.read(asking_store.asked, errand.event_id or 0)
    if asked.given is not None:
        return Done("answered")
    if errand.person is None:
        return await _ask_each(services, errand, asked)
    match await services.slack.post_message(errand.person, notices.message(asking.draw(asked))):
        case Ok(where):

            def keep(tx: Transaction) -> None:
                if where.ts:
                    asking_store.keep(tx, asked, where.channel, where.ts)
                if where.ts and asking_store.asked(tx, asked.event).given is not None:
                    errands.add(tx, Kind.ANSWER, ids=(str(asked.event),), channel_id=where.channel, message_ts=where.ts)
                errands.finish(tx, errand.id, "told")

            await services.db.note(keep)
            return Done()
        case Refused(word):
            return Untold(word)
        case Away(why, _):
            return Later(why, slack_away=True)


async def _ask_each(services: Services, errand: Errand, asked: Asked) -> Result:
    admins = await services.db.read(access.helpers, services.team, asked.workspace)
    persons = [one for one in admins if not one.startswith("S")]
    for group in (one for one in admins if one.startswith("S")):
        match await services.slack.group_members(group):
            case Ok(members):
                persons += sorted(members)
            case Away(why, _):
                return Later(why, slack_away=True)
    told = [one for one in dict.fromkeys(persons) if one != asked.person] or services.owners
    if not told:
        return Untold("nobody to ask")

    def owe(tx: Transaction) -> None:
        for person in told[:PERSONS_ASKED]:
            errands.add(
                tx, Kind.ASK, event_id=errand.event_id, last_event_id=errand.event_id, workspace_id=asked.workspace.id, person=person
            )
        errands.finish(tx, errand.id, "passed on")

    await services.db.note(owe)
    services.db.owed()
    return Done("passed on")


async def answer(services: Services, errand: Errand) -> Result:
    asked = await services.db.read(asking_store.asked, int(errand.ids[0]))
    if errand.message_ts is None:
        return await _tell(services, errand, asking.answer(asked))
    channel = errand.channel_id or ""
    reply = await services.slack.update_message(channel, errand.message_ts, notices.message(asking.draw(asked)))
    if isinstance(reply, Ok | Refused):
        await services.db.note(asking_store.settled, channel, errand.message_ts)
    return _told(reply, Done)


async def connected(services: Services, errand: Errand) -> Result:
    """Connected, in place of the message that offered it, where there is one; disconnected, that message offers it again."""
    about = await services.db.read(_about, errand)
    channel = errand.channel_id or ""
    if about.workspace is None or not about.events:
        return Done("gone")
    mapped = await services.db.read(workspaces.mapping, services.team, channel)
    if mapped is not None and mapped.workspace_id != about.workspace.id:
        return Done("no longer so")
    rows = setup.connected(about.events[0].user_id, about.workspace, services.command) if mapped else setup.hello()
    message = notices.message(rows)
    settled = False
    for one in await services.db.read(invitations.of_channel, channel):
        match await services.slack.update_message(channel, one.ts, message):
            case Ok():
                settled = True
            case Refused(word) if word in MESSAGE_GONE:
                await services.db.note(posted.forget, one)
            case Away(why, _):
                return Later(why, slack_away=True)
    if settled or mapped is None or about.events[0].channel_id != channel:
        return Done("settled")  # who connects it from elsewhere, such as a shell, says so there
    match await services.slack.post_message(channel, message):
        case Ok(where):
            if where.ts:
                await services.db.note(invitations.keep, where.channel, where.ts)
            return Done()
        case Refused(word):
            return Done(word)
        case Away(why, _):
            return Later(why, slack_away=True)


async def revoke_all(services: Services, errand: Errand) -> Result:
    """Deletes the workspace's credentials in batches; a restart goes on where it was."""
    about = await services.db.read(_about, errand)
    if about.workspace is None:
        return Done("gone")
    ordered = about.events[0]
    origin = Origin(Actor(ordered.user_id, ordered.team_id), Surface(ordered.surface), ordered.reference, ordered.channel_id)
    while await services.db.change(credentials.delete_some, origin, about.workspace.id, ordered.reason):
        if not await services.db.note(errands.keep, errand):
            return Later("taken over")
    await services.db.note(errands.revoked_all, errand)
    return Done("done")


async def revoked_all(services: Services, errand: Errand) -> Result:
    about = await services.db.read(_about, errand)
    if about.workspace is None:
        return Done("gone")
    return await _tell(services, errand, notices.revoked_all(about.workspace, about.events[0].subject or "0"))


async def owned(services: Services, errand: Errand) -> Result:
    about = await services.db.read(_about, errand)
    if about.workspace is None or about.credentials[0].owner != errand.person:
        return Done("no longer so")
    return await _tell(services, errand, owner.given(about.credentials[0], about.workspace, about.events[0].user_id, services.command))


async def left(services: Services, errand: Errand) -> Result:
    """One message: in a channel of the workspace, or else to one of its admins, or to an owner of the app."""
    event_id = errand.event_id or 0
    found = await services.db.read(owner.look, event_id, services.team)
    if found is None:
        about = await services.db.read(_about, errand)
        return await _first(services, errand, sorted(services.settings.bot_owners), owner.gone_everywhere(about.events[0]))
    event, workspace, owned, _, admins = found
    ways = [*await _channels(services, workspace.id), *_people(services, admins)]
    kept = Kept(posted.Posted.LEFT, _ids(owned), owner.gone_person(event), workspace.id, (str(event_id),))
    return await _first(services, errand, ways, owner.left_message(*found), kept)


async def unused(services: Services, errand: Errand) -> Result:
    person = errand.person or ""
    drawn = await _idle(services, person, errand.workspace_id)
    if not drawn.several:
        return Done("nothing to tell")
    kept = Kept(posted.Posted.IDLE, drawn.several, person, errand.workspace_id)
    ways = [person] if errand.workspace_id is None else await _channels(services, errand.workspace_id)
    return await _first(services, errand, ways, drawn.rows, kept)


async def _idle(services: Services, person: str, workspace_id: int | None) -> Drawn:
    """What nothing uses of an owner; of a user group, in one workspace."""
    days = services.settings.bot_unused_days
    idle = await services.db.read(storage_tidy.idle_of, person, workspace_id, days)
    several = _ids([credential for credential, _ in idle.rows])
    if workspace_id is not None or not idle.rows:
        return Drawn(tidy.note(idle, person, days), several=several)
    where = list({workspace.id: workspace for _, workspace in idle.rows}.values())
    asked = await services.db.read(access.to_ask, person, services.team, [one.id for one in where])
    actor = await services.people.actor(person, None, None, asked.groups, asked.changed)
    may, admins = await services.db.read(_may_stop, actor, where)
    return Drawn(tidy.note(idle, person, days, may, admins), several=several)


def _ids(several: Sequence[Credential]) -> tuple[str, ...]:
    return tuple(one.id for one in several)


def _may_stop(tx: Transaction, actor: Actor, where: list[Workspace]) -> tuple[bool, tuple[str, ...]]:
    """Whether the person may suspend in one of these workspaces; and who administers the first."""
    may = any(Action.DELETE in access.allowed(access.rights(tx, actor, one)) for one in where)
    return may, tuple(access.helpers(tx, actor.team, where[0]))


async def _channels(services: Services, workspace_id: int) -> list[str]:
    found = await services.db.read(workspaces.channels_of, workspace_id)
    return [one.channel_id for one in found if not one.paused][: errands.CHANNELS_TOLD]


def _people(services: Services, principals: list[str]) -> list[str]:
    return [one for one in principals if one.startswith(("U", "W"))] or sorted(services.settings.bot_owners)


@dataclass(frozen=True)
class Kept:
    """What is written down of a message about several credentials, so that it settles."""

    kind: posted.Posted
    about: tuple[str, ...]
    person: str
    workspace_id: int | None
    ids: tuple[str, ...] = ()


async def _first(services: Services, errand: Errand, ways: list[str], rows: list[Block], kept: Kept | None = None) -> Result:
    """Posts once, by the first of these channels and people that Slack takes it for."""
    word = "nobody"
    for way in ways:
        match await services.slack.post_message(way, notices.message(rows)):
            case Ok(where):
                if kept is not None:
                    await services.db.note(_keep_several, errand, where, kept)
                return Done()
            case Refused(word):
                continue
            case Away(why, _):
                return Later(why, slack_away=True)
    return Untold(word)


def _keep_several(tx: Transaction, errand: Errand, where: Posted, kept: Kept) -> None:
    """Writes down where the message stands, and ends the errand. It is drawn once more: things may have changed meanwhile."""
    if where.ts and kept.about:
        for one in sorted(kept.about):
            credentials.wait_for(tx, one)
        first, *_ = kept.about
        same: dict[str, Any] = {"person": kept.person, "workspace_id": kept.workspace_id, "ids": kept.ids}
        posted.keep(tx, kept.kind, where.channel, where.ts, credential_id=first, **same)
        message = posted.at(tx, where.channel, where.ts)
        if message is not None:
            posted.keep_all(tx, message, kept.about)
            errands.settle(tx, [message])
    errands.finish(tx, errand.id, errands.TOLD)


DELIVERY_LENGTH = 32  # characters


async def hook(services: Services, errand: Errand) -> Result:
    """Tried for a day, at first after seconds, then hourly."""
    about = await services.db.read(_about, errand)
    if about.workspace is None or not about.workspace.webhook_url or not about.workspace.webhook_secret or not about.events:
        return Done("no webhook")
    content = webhook.body(about.events, about.workspace)
    url, secret, private = about.workspace.webhook_url, about.workspace.webhook_secret, services.settings.bot_webhook_private
    delivery = about.events[-1].hash[:DELIVERY_LENGTH]  # numbers begin anew: errands' after a quiet week, the audit log's after a restore
    sent = await webhook.send(url, secret, content, delivery, services.db.clock(), private, services.trust)
    if sent.taken:
        return Done()
    log.warning("webhook failed", workspace=about.workspace.slug, errand=errand.id, why=sent.word)
    if sent.hopeless:
        return Untold(sent.word)
    after = min(HOOK_FIRST_WAIT * 2 ** min(errand.tries, 16), HOOK_LONGEST_WAIT)
    await services.db.note(errands.hold, errand, after)
    return Later(sent.word, after=after)


async def went_back(services: Services, errand: Errand) -> Result:
    standing = await services.db.read(replay.standing)
    if not standing.restores:
        return Done("settled")
    return await _tell(services, errand, past.went_back(standing))


async def queued(services: Services, errand: Errand) -> Result:
    drawn = await queue.answers(services, errand.person or "", errand.workspace_id, [int(one) for one in errand.ids])
    standing = drawn.standing
    if standing is None:
        return Done("gone")
    if standing.waiting and services.db.clock() - errand.created_at < queue.WAITED:
        return Later("not all have answered", after=PROOF_EVERY)
    about = await services.db.read(_about, errand)
    return await _tell(services, errand, notices.queued(about.credentials, queue.draw(drawn)))


KINDS: dict[Kind, Callable[[Services, Errand], Awaitable[Result]]] = {
    Kind.NOTICE: notice,
    Kind.ENDED: ended,
    Kind.NOT_ROTATED: not_rotated,
    Kind.MODAL: finish_modal,
    Kind.OUTCOME: outcome,
    Kind.REMIND: remind,
    Kind.ASK: ask,
    Kind.ANSWER: answer,
    Kind.CONNECTED: connected,
    Kind.REVOKE_ALL: revoke_all,
    Kind.REVOKED_ALL: revoked_all,
    Kind.OWNED: owned,
    Kind.LEFT: left,
    Kind.TIDY: unused,
    Kind.WEBHOOK: hook,
    Kind.WENT_BACK: went_back,
    Kind.SETTLE: settle,
    Kind.ALARM: raise_alarm,
    Kind.WARN: warn,
    Kind.FIRST_USE: first_use,
    Kind.LIMIT: sends_much,
    Kind.QUEUE: queued,
}

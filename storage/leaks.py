"""Finding the credential that a password belongs to, and what is known of one that leaked.

A standard password names its credential, so one Argon2 computation tells whether it is live. A device password is too short for that: 16
bits of its SHA-256 stand in the store (`passwords.tag`) and leave a few candidates, which Argon2 decides between. A thief of the store
gains little by them: a standard password has 125 random bits behind Argon2id, and a device password still 49.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import ColumnElement, and_, or_, select

from storage import access, mail_servers, passwords, posted
from storage.access import Action
from storage.audit import Origin, What, attempt, record_refusal
from storage.credentials import about, get, rows
from storage.database import Database, Transaction
from storage.errands import Kind
from storage.lifecycle import has_expired, has_old_password
from storage.mail_servers import Proof
from storage.models import AUDIT_EVENTS, CREDENTIALS, ERRANDS, AuditEvent, Credential, State, Workspace, as_row
from storage.passwords import Hasher, Parsed
from storage.refusals import NoSuchCredential, TooManyReports

CANDIDATES = 64  # credentials with the same tag that Argon2 decides between
COMPUTED = 100  # Argon2 computations for one text
REPORTS_AN_HOUR = 5  # uses of the shortcut that tell somebody, by one person
LOOKED_BACK = 300  # audit rows that are read for one question
ACTS = (What.SUSPEND, What.RESUME, What.DELETE, What.FINISH_ROTATION, What.END_PREVIOUS)


class Standing(StrEnum):
    """What a password is worth now."""

    LIVE = "live"
    """It works, or will when its credential is resumed."""
    PREVIOUS = "previous"
    """The same, until the overlap of a rotation ends."""
    DEAD = "dead"
    """It was one once, or it never was."""
    UNKNOWN = "unknown"
    """Only its credential's username is known."""


class Gone(StrEnum):
    """Why a message does not hold a password any more."""

    DELETED = "deleted"
    EDITED = "edited"


def candidates(tx: Transaction, parsed: Parsed) -> list[Credential]:
    """The credentials that a password may belong to: the one that it names, or the few with its tag."""
    if parsed.credential_id:
        which: ColumnElement[bool] = CREDENTIALS.c.id == parsed.credential_id
    else:
        tag = passwords.tag(parsed.canonical)
        which = and_(CREDENTIALS.c.device, or_(CREDENTIALS.c.password_tag == tag, CREDENTIALS.c.previous_tag == tag))
    return rows(tx, select(CREDENTIALS).where(which).limit(CANDIDATES))


class Resolver:
    """Tells whose passwords are, in bounded work and one Argon2 computation at a time, so that no other one waits for many of these."""

    def __init__(self, db: Database, hasher: Hasher) -> None:
        self._db = db
        self._hasher = hasher
        self._turn = asyncio.Semaphore(1)

    async def resolve(self, found: Sequence[Parsed]) -> list[tuple[Credential, Standing]]:
        """As `resolve_each`; those that are nobody's are left out. Raises Unavailable."""
        return [one for one in await self.resolve_each(found) if one]

    async def resolve_each(self, found: Sequence[Parsed]) -> list[tuple[Credential, Standing] | None]:
        """The credential that each of these passwords belongs to, and what it is worth.

        With at most `COMPUTED` computations; after that the tag alone tells whether a password that names its credential is right.
        Raises Unavailable.
        """
        known: list[tuple[Credential, Standing] | None] = []
        left = COMPUTED
        for parsed in found:
            belongs: tuple[Credential, Standing] | None = None
            possible = await self._db.read(candidates, parsed)
            for credential in possible:
                for phc, tagged, standing in _hashes(credential, parsed, self._db.clock()):
                    if belongs:
                        break
                    if left:
                        left -= 1
                        async with self._turn:
                            fits = await self._hasher.verify(phc, parsed.canonical)
                    else:
                        fits = tagged and parsed.credential_id is not None
                    belongs = (credential, standing) if fits else None
            if belongs is None and parsed.credential_id and possible:
                belongs = possible[0], Standing.DEAD
            known.append(belongs)
        return known


def _hashes(credential: Credential, parsed: Parsed, now: datetime) -> list[tuple[str, bool, Standing]]:
    """The credential's hashes that may be this password's, whether the tag says so, and what it would be worth."""
    tag = passwords.tag(parsed.canonical)
    previous = Standing.PREVIOUS if has_old_password(credential, now) else Standing.DEAD
    both = (
        (credential.password_hash, credential.password_tag, Standing.LIVE),
        (credential.previous_hash, credential.previous_tag, previous),
    )
    return [(phc, stored is not None, standing) for phc, stored, standing in both if phc and stored in (None, tag)]


# --- a message that leaks: `origin` names its channel, and its ts as the source ---
def notice(tx: Transaction, origin: Origin, credential_id: str, standing: Standing, where: str | None = None) -> bool:
    """Writes down that the author posted a password that works, and owes the alarm. False when this message was noticed before.

    Args:
        where: the address at which a scanner found it, outside of Slack.

    Raises NoSuchCredential.
    """
    with attempt(tx, What.LEAK, origin, where) as current:
        about(current, credential_id)
        current.subject = standing.value
        before = _rows(tx, credential_id, origin.channel, origin.source, (What.LEAK, What.LEAK_GONE))
        # One that was edited not to hold it, and then edited to hold it again, leaks again.
        current.void = bool(before) and before[-1].action == What.LEAK
    return not current.void


def gone(tx: Transaction, origin: Origin, credential_ids: Iterable[str], how: Gone) -> None:
    """The message does not hold the passwords of these any more. Does nothing the second time."""
    for credential_id in credential_ids:
        with attempt(tx, What.LEAK_GONE, origin) as current:
            about(current, credential_id)
            current.subject = how.value
            before = _rows(tx, credential_id, origin.channel, origin.source, (What.LEAK, What.REPORT, What.LEAK_GONE))
            current.void = not before or before[-1].action == What.LEAK_GONE


def report(tx: Transaction, origin: Origin, leaked: Iterable[tuple[str, Standing]], unknown: Iterable[str | None]) -> None:
    """Somebody who cannot revoke them reports credentials (by id), and usernames (None: a password) that are nobody's.

    Each has its audit row; those that exist and can still be revoked raise an alarm.

    Raises:
        PersonBarred. TooManyReports: nobody is told.
    """
    if _lately_reported(tx, origin) >= REPORTS_AN_HOUR:
        with attempt(tx, What.REPORT, origin):
            raise TooManyReports(REPORTS_AN_HOUR)
    for credential_id, standing in leaked:
        with attempt(tx, What.REPORT, origin) as current:
            credential = about(current, credential_id)
            current.subject = standing.value
            current.void = credential.state not in (State.ACTIVE, State.SUSPENDED)
    for username in unknown:
        record_refusal(tx, What.REPORT, origin, NoSuchCredential(), username)


def _lately_reported(tx: Transaction, origin: Origin) -> int:
    """How often the person reported something in the last hour, whether or not it was one of ours."""
    columns = AUDIT_EVENTS.c
    latest = select(columns.id).where(columns.user_id == origin.actor.user).order_by(columns.id.desc()).limit(LOOKED_BACK)
    query = select(columns.reference).where(
        columns.id.in_(latest.scalar_subquery()),
        columns.action == What.REPORT.value,
        columns.at > tx.now - timedelta(hours=1),
        or_(columns.cause.is_(None), columns.cause != TooManyReports.cause),
    )
    return len(set(tx.connection.scalars(query)))


@dataclass(frozen=True)
class Leak:
    """A message that holds, or is said to hold, a credential's password, and all that became of it."""

    credential: Credential
    workspace: Workspace
    events: list[AuditEvent]
    """That it was noticed and reported, and that the message is gone; the oldest first."""
    last: AuditEvent | None
    """What was last done to the credential since."""
    who: list[str]
    """The users and user groups who can revoke it."""
    proof: Proof | None
    """Which mail servers refuse it, once it was stopped."""
    channel: str | None
    """Where the message stands, by the id that the channel has now."""

    @property
    def standing(self) -> Standing:
        """What the password that leaked was worth when it did."""
        said = {event.subject for event in self.events}
        return next((one for one in (Standing.LIVE, Standing.PREVIOUS) if one in said), Standing.UNKNOWN)

    @property
    def leaked_at(self) -> datetime:
        return max(event.at for event in self.events if event.action != What.LEAK_GONE)

    def works_until(self, now: datetime) -> datetime | None:
        """Until when the password that leaked works although it was changed since; None when that does not limit it."""
        credential = self.credential
        changed = credential.rotated_at is not None and credential.rotated_at > self.leaked_at
        if not changed and self.standing is not Standing.PREVIOUS:
            return None
        until = credential.previous_until
        return until if until is not None and until > now else now

    def works(self, now: datetime) -> bool:
        """Whether the password that leaked can log in, as far as the store knows."""
        if self.credential.state != State.ACTIVE or self.workspace.suspended_at is not None or has_expired(self.credential, now):
            return False
        until = self.works_until(now)
        return until is None or until > now


def leaked_in(tx: Transaction, channel: str, ts: str) -> set[str]:
    """The ids of the credentials that an alarm about this message is raised for, or will be."""
    columns = AUDIT_EVENTS.c
    on_its_way = select(columns.credential_id).join_from(ERRANDS, AUDIT_EVENTS, ERRANDS.c.event_id == columns.id)
    on_its_way = on_its_way.where(ERRANDS.c.done_at.is_(None), ERRANDS.c.kind == Kind.ALARM.value)
    on_its_way = on_its_way.where(posted.in_channel(tx, columns.channel_id, channel), columns.source_id == ts)
    told = [one.credential_id for one in posted.about_source(tx, channel, ts)]
    return {one for one in (*told, *tx.connection.scalars(on_its_way)) if one}


def leak(tx: Transaction, team: str, credential_id: str, channel: str | None, source: str | None) -> Leak:
    """What is known of the message in that channel with the ts `source`; None of both: of what was found outside of Slack.

    Raises NoSuchCredential, also when nothing is known of it.
    """
    columns = AUDIT_EVENTS.c
    credential, workspace = get(tx, credential_id)
    found = _rows(tx, credential_id, channel, source, (What.LEAK, What.REPORT, What.LEAK_GONE))
    if not found:
        raise NoSuchCredential
    since = select(AUDIT_EVENTS).where(
        columns.credential_id == credential_id,
        columns.id > found[0].id,
        columns.action.in_([one.value for one in ACTS]),
        columns.outcome == "done",
    )
    last = tx.connection.execute(since.order_by(columns.id.desc()).limit(1)).first()
    stopped = {State.DELETED.value: What.DELETE, State.SUSPENDED.value: What.SUSPEND}.get(credential.state)
    return Leak(
        credential,
        workspace,
        found,
        as_row(AuditEvent, last) if last else None,
        access.principals(tx, team, workspace, Action.DELETE),
        mail_servers.proof(tx, credential.username, stopped) if stopped else None,
        posted.ids_of(tx, channel)[-1] if channel else None,
    )


def _rows(tx: Transaction, credential_id: str, channel: str | None, source: str | None, what: Iterable[What]) -> list[AuditEvent]:
    """What was said of the credential and that message, the oldest first."""
    columns = AUDIT_EVENTS.c
    query = select(AUDIT_EVENTS).where(
        columns.credential_id == credential_id,
        posted.in_channel(tx, columns.channel_id, channel),
        *([] if channel is None and source is None else [columns.source_id == source]),
        columns.action.in_([one.value for one in what]),
        columns.outcome == "done",
    )
    return [as_row(AuditEvent, row) for row in tx.connection.execute(query.order_by(columns.id).limit(LOOKED_BACK))]

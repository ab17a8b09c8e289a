"""The audit log: one row for every attempt that changed something or was denied, in the transaction of the change.

`attempt` is the only way to a write transaction, so there is no change without its row. Each row carries the SHA-256 of the row before
it and of itself, and `audit_head` the last of them: a row that was changed, removed or cut off at the end is noticed by `verify`.
"""

import hashlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from storage.access import Action, Actor, Right, may
from storage.database import Database
from storage.models import AuditEvent, AuditHead, Credential, Workspace, milliseconds
from storage.passwords import mask
from storage.refusals import PersonBarred, Refusal

GENESIS = "0" * 64
PAGE = 15
VERIFY_BATCH = 1000
REASON_MAX = 300


class What(StrEnum):
    """What was attempted."""

    CREATE = "create"
    ACTIVATE = "activate"
    DISCARD = "discard"
    DELETE = "delete"
    ROTATE = "rotate"
    FINISH_ROTATION = "rotate.finish"
    CANCEL_ROTATION = "rotate.cancel"
    END_PREVIOUS = "rotate.end_old"
    """The password before the rotation stops, because somebody said so or because its overlap is over."""
    SUSPEND = "suspend"
    RESUME = "resume"
    EXPIRY = "expiry.change"
    REMIND = "expiry.remind"
    LEAK = "leak.noticed"
    LIST = "list"
    OPEN = "open"
    """A modal that the person may not open."""
    MAKE_WORKSPACE = "workspace.add"
    MAP_CHANNEL = "channel.map"
    UNMAP_CHANNEL = "channel.unmap"
    PAUSE_CHANNEL = "channel.pause"
    RESUME_CHANNEL = "channel.resume"
    MOVE_CHANNEL = "channel.move"
    NOTICES = "workspace.notices"
    GRANT = "access.grant"
    UNGRANT = "access.remove"


class Surface(StrEnum):
    COMMAND = "command"
    BUTTON = "button"
    MODAL = "modal"
    HOME = "home"
    EVENT = "event"
    SHELL = "shell"
    SWEEP = "sweep"


@dataclass(frozen=True)
class Origin:
    """Who asks, and from where."""

    actor: Actor
    surface: Surface
    reference: str
    """The id that the log and an error message share."""
    channel: str | None = None
    source: str | None = None
    """View id or message ts."""


class Attempt:
    """One attempt inside its transaction. What it is `about` goes into the row, also when it is refused."""

    def __init__(self, session: AsyncSession, origin: Origin) -> None:
        self.session = session
        self.origin = origin
        self.right: Right | None = None
        self.workspace: Workspace | None = None
        self.credential: Credential | None = None
        self.credentials: Sequence[Credential] = ()
        """Instead of one: several, each with a row of its own."""
        self.subject: str | None = None
        self.void = False
        """There was nothing to do after all: no row."""

    async def allow(self, action: Action, workspace: Workspace | None) -> Right:
        """`access.may` for the person who attempts this. Raises its refusals."""
        self.workspace = workspace
        self.right = await may(self.session, self.origin.actor, action, workspace)
        return self.right

    def rows(self, outcome: str, cause: str | None = None) -> list[dict[str, Any]]:
        """What the audit rows say of the attempt: one, or one for each of several credentials."""
        right = self.right
        row = {
            "outcome": outcome,
            "cause": cause,
            "role": right.role if right else None,
            "role_via": right.via if right else None,
            "role_age": right.age if right else None,
            "workspace_id": self.workspace.id if self.workspace else None,
            "subject": self.subject,
        }
        about: Sequence[Credential | None] = self.credentials or [self.credential]
        return [row | {"credential_id": one.id if one else None, "username": one.username if one else None} for one in about]


@asynccontextmanager
async def attempt(db: Database, what: What, origin: Origin, reason: str | None = None) -> AsyncIterator[Attempt]:
    """A write transaction for one attempt, with its audit row. Nobody who is barred gets as far as the attempt.

    A refusal raised inside undoes what the attempt changed, is written down with its cause, and goes on to the caller. Any other
    exception undoes everything and writes nothing.
    """
    rows: list[dict[str, Any]] = []
    try:
        async with db.write() as session:
            current = Attempt(session, origin)
            try:
                if origin.actor.barred:
                    raise PersonBarred(origin.actor.barred)
                yield current
            except Refusal as refusal:
                rows = current.rows(outcome="refused", cause=refusal.cause)  # before the session forgets what is undone
                raise
            if not current.void:
                await _append(db, session, what, origin, current.rows(outcome="done"), reason)
    except Refusal:
        async with db.write() as session:
            await _append(db, session, what, origin, rows, reason)
        raise


async def record_refusal(db: Database, what: What, origin: Origin, refusal: Refusal, workspace: Workspace | None) -> None:
    """The row for somebody who was denied before anything could be attempted."""
    try:
        async with attempt(db, what, origin) as current:
            current.workspace = workspace
            raise refusal
    except type(refusal):
        pass


async def record(db: Database, what: What, origin: Origin, workspace: Workspace, credential: Credential) -> None:
    """The row for something that was noticed, and changed nothing."""
    async with attempt(db, what, origin) as current:
        current.workspace = workspace
        current.credential = credential


async def _append(
    db: Database, session: AsyncSession, what: What, origin: Origin, rows: Sequence[Mapping[str, Any]], reason: str | None
) -> None:
    head = (await session.scalars(select(AuditHead))).one()
    last_event, last_hash = head.last_event, head.last_hash
    for row in rows:
        event = AuditEvent(
            id=last_event + 1,
            at=db.clock(),
            action=what,
            team_id=origin.actor.team,
            user_id=origin.actor.user,
            channel_id=origin.channel,
            surface=origin.surface,
            source_id=origin.source,
            reason=mask(reason)[:REASON_MAX] if reason else None,
            reference=origin.reference,
            previous_hash=last_hash,
            **row,
        )
        event.hash = fingerprint(event)
        session.add(event)
        last_event, last_hash = event.id, event.hash
    await session.execute(update(AuditHead).values(last_event=last_event, last_hash=last_hash))


FIELDS = [column.key for column in AuditEvent.__table__.columns if column.key != "hash"]


def fingerprint(event: AuditEvent) -> str:
    """SHA-256, in hex, of the row's fields and of the row before it."""
    values = [getattr(event, field) for field in FIELDS]
    values[FIELDS.index("at")] = milliseconds(event.at)
    return hashlib.sha256(json.dumps(values, separators=(",", ":")).encode("ascii")).hexdigest()


@dataclass(frozen=True)
class Verdict:
    rows: int
    broken: int | None = None
    """The id of the first row that is not what was written, or that is missing."""


async def verify(db: Database) -> Verdict:
    """Follows the chain from the first row to the head."""
    expected, previous = 1, GENESIS
    async with db.read() as session:
        head = (await session.scalars(select(AuditHead))).one()
        while True:
            query = select(AuditEvent).where(AuditEvent.id >= expected, AuditEvent.id <= head.last_event)
            events = (await session.scalars(query.order_by(AuditEvent.id).limit(VERIFY_BATCH))).all()
            for event in events:
                intact = event.id == expected and event.previous_hash == previous and event.hash == fingerprint(event)
                if not intact:
                    return Verdict(expected - 1, broken=expected)
                expected, previous = expected + 1, event.hash
            session.expunge_all()
            if len(events) < VERIFY_BATCH:
                break
    reached_head = expected == head.last_event + 1 and previous == head.last_hash
    return Verdict(expected - 1, broken=None if reached_head else expected)


async def latest(
    session: AsyncSession,
    workspace: Workspace | None,
    about: str | None = None,
    before: int | None = None,
    limit: int = PAGE,
) -> Sequence[AuditEvent]:
    """The latest rows, newest first: of the workspace (None: of all), about a username, id or person, older than the row `before`."""
    query = select(AuditEvent).order_by(AuditEvent.id.desc()).limit(limit)
    if workspace is not None:
        query = query.where(AuditEvent.workspace_id == workspace.id)
    if about:
        fields = (AuditEvent.username, AuditEvent.credential_id, AuditEvent.user_id, AuditEvent.subject)
        query = query.where(or_(*(field == about for field in fields)))
    if before is not None:
        query = query.where(AuditEvent.id < before)
    return (await session.scalars(query)).all()

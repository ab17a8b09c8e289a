"""The audit log: one row for every attempt that changed something or was denied, in the transaction of the change.

`attempt` is the only way to change anything: `Database.change` commits nothing that did not go through it. Each row carries the SHA-256
of the row before it and of itself, and `audit_head` the last of them: a row that was changed, removed or cut off at the end is noticed by
`verify`.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, bindparam, select, type_coerce, update

from storage import errands
from storage.access import PRINCIPAL, Action, Actor, Right, Role, may
from storage.database import Transaction
from storage.models import AUDIT_EVENTS, AUDIT_HEAD, OLD_HASHES, AuditEvent, Credential, Workspace, as_row, milliseconds
from storage.passwords import CROCKFORD, ID_LENGTH, mask
from storage.refusals import NotAllowed, PersonBarred, Refusal

GENESIS = "0" * 64
PAGE = 15
VERIFY_BATCH = 5000
REASON_MAX = 300


REVOKED = "revoked"
"""The subject of a deletion that somebody called revoking, because it leaked."""


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
    SUSPEND_ALL = "workspace.suspend"
    RESUME_ALL = "workspace.resume"
    REVOKE_ALL = "workspace.revoke"
    """All credentials of a workspace are to be deleted, in batches."""
    EXPIRY = "expiry.change"
    REMIND = "expiry.remind"
    LEAK = "leak.noticed"
    REPORT = "leak.report"
    """Somebody said that a message holds a credential's username or password."""
    LEAK_GONE = "leak.gone"
    """A message that leaked was deleted, or no longer holds the password."""
    LIST = "list"
    OPEN = "open"
    """A modal or a message that the person may not see."""
    LOOK_UP = "whois"
    MAKE_WORKSPACE = "workspace.add"
    CHANGE_WORKSPACE = "workspace.change"
    REMOVE_WORKSPACE = "workspace.remove"
    MAP_CHANNEL = "channel.map"
    UNMAP_CHANNEL = "channel.unmap"
    PAUSE_CHANNEL = "channel.pause"
    RESUME_CHANNEL = "channel.resume"
    MOVE_CHANNEL = "channel.move"
    NOTICES = "workspace.notices"
    GRANT = "access.grant"
    UNGRANT = "access.remove"
    ASK = "access.ask"
    """Somebody asked an admin for a role."""
    DECLINE = "access.decline"
    OWNER = "owner.change"
    LIMITS = "limits.change"
    KEEP = "unused.keep"
    LEFT = "person.left"
    """Somebody who owned credentials of a workspace, or had a role in it, is no longer in the Slack team."""
    QUEUE = "queue.order"
    UNTOLD = "errand.untold"
    """Something that was owed to somebody could not be told."""
    REPLAY = "store.replay"
    """A revocation that a restore of the database had undone was made anew."""
    WENT_BACK = "store.went_back"
    """The store was found to have gone back in time."""


class Again(StrEnum):
    """The subject of a REPLAY: what was done again."""

    DELETED = "deleted"
    SUSPENDED = "suspended"
    PASSWORD = "password ended"  # noqa: S105
    ALL_SUSPENDED = "workspace suspended"


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


@dataclass(frozen=True)
class Changed:
    """Something that happened: `what`, by whom, to which workspace and credentials, and its audit rows."""

    what: What
    origin: Origin
    workspace: Workspace | None
    credentials: Sequence[Credential]
    first_event: int
    last_event: int
    subject: str | None
    """What else it was about, as its audit row says."""
    quiet: bool
    """Nobody is told of it."""
    orders: tuple[str, ...] = ()
    """The numbers of what it orders, as an errand keeps them."""


class Attempt:
    """One attempt inside its transaction. What it is `about` goes into the row, also when it is refused."""

    def __init__(self, tx: Transaction, what: What, origin: Origin) -> None:
        self.tx = tx
        self.what = what
        self.origin = origin
        self.right: Right | None = None
        self.workspace: Workspace | None = None
        self.credential: Credential | None = None
        self.credentials: Sequence[Credential] = ()
        """Instead of one: several, each with a row of its own."""
        self.subject: str | None = None
        self.void = False
        """There was nothing to do after all: no row."""
        self.quiet = False
        """One of many steps that are told of together."""
        self.orders: tuple[str, ...] = ()
        """The numbers of what it orders of others."""
        self.refused: Refusal | None = None

    def allow(self, action: Action, workspace: Workspace | None) -> Right:
        """`access.may` for the person who attempts this. Raises its refusals."""
        self.workspace = workspace
        self.right = may(self.tx, self.origin.actor, action, workspace)
        return self.right

    def refuse(self, refusal: Refusal) -> None:
        """Writes the refusal down and goes on: other attempts of the same transaction may succeed."""
        if isinstance(refusal, NotAllowed):
            refusal.what = self.what.value
        self.refused = refusal

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


@contextmanager
def attempt(tx: Transaction, what: What, origin: Origin, reason: str | None = None) -> Iterator[Attempt]:
    """One attempt, with its audit row and what is owed for it. Nobody who is barred gets as far as the attempt.

    A refusal raised inside ends the transaction: what it changed is undone, and the refusal is written down with its cause. Any other
    exception undoes everything and writes nothing.
    """
    tx.attempted = True
    current = Attempt(tx, what, origin)
    try:
        if origin.actor.barred:
            raise PersonBarred(origin.actor.barred)
        yield current
    except Refusal as refusal:
        if isinstance(refusal, NotAllowed):
            refusal.what = what.value
        refused = current.rows("refused", refusal.cause)

        def write_down(writing: Transaction) -> None:
            _append(writing, what, origin, refused, reason)

        tx.denied.append(write_down)
        raise
    if current.void:
        return
    if current.refused is not None:
        _append(tx, what, origin, current.rows("refused", current.refused.cause), reason)
        return
    first, last = _append(tx, what, origin, current.rows("done"), reason)
    _keep_ended(tx, last)
    about = current.credentials or ([current.credential] if current.credential else [])
    errands.owe(tx, Changed(what, origin, current.workspace, about, first, last, current.subject, current.quiet, current.orders))


def _keep_ended(tx: Transaction, event: int) -> None:
    """Writes down which hashes' passwords ended at this row, with the older hashes of the same passwords."""
    ended, tx.ended = tx.ended, []
    if not ended:
        return
    rows = [{"credential_id": credential_id, "digest": digest, "event_id": event} for credential_id, digest in ended]
    tx.connection.execute(OLD_HASHES.insert(), rows)
    older = [digest for _, digest in ended]
    while older:
        before = update(OLD_HASHES).where(OLD_HASHES.c.successor.in_(older), OLD_HASHES.c.event_id.is_(None))
        older = list(tx.connection.scalars(before.values(event_id=event).returning(OLD_HASHES.c.digest)))


def record_refusal(tx: Transaction, what: What, origin: Origin, refusal: Refusal, username: str | None = None) -> None:
    """Writes the row for somebody who was denied before anything could be attempted. `username`: the credential's that they asked for."""
    tx.attempted = True
    if isinstance(refusal, NotAllowed):
        refusal.what = what.value
    row = Attempt(tx, what, origin).rows("refused", refusal.cause)[0]
    _append(tx, what, origin, [row | {"workspace_id": refusal.workspace_id, "username": username}], None)


def record(
    tx: Transaction, what: What, origin: Origin, workspace: Workspace | None, credential: Credential | None, subject: str = ""
) -> None:
    """Writes the row for something that was noticed, and changed nothing."""
    with attempt(tx, what, origin) as current:
        current.workspace = workspace
        current.credential = credential
        current.subject = subject or None


def _append(tx: Transaction, what: What, origin: Origin, rows: Sequence[Mapping[str, Any]], reason: str | None) -> tuple[int, int]:
    """Adds the rows to the chain, and returns the numbers of the first and the last."""
    last_event, last_hash = tx.connection.execute(select(AUDIT_HEAD.c.last_event, AUDIT_HEAD.c.last_hash)).one()
    first = last_event + 1
    made = []
    for row in rows:
        last_event += 1
        event = {
            "id": last_event,
            "at": tx.now,
            "action": what.value,
            "team_id": origin.actor.team,
            "user_id": origin.actor.user,
            "channel_id": origin.channel,
            "surface": origin.surface.value,
            "source_id": origin.source,
            "reason": mask(reason)[:REASON_MAX] if reason else None,
            "reference": origin.reference,
            "previous_hash": last_hash,
            **row,
        }
        last_hash = event["hash"] = _fingerprint(event)
        made.append(event)
    tx.connection.execute(AUDIT_EVENTS.insert(), made)
    tx.connection.execute(update(AUDIT_HEAD).values(last_event=last_event, last_hash=last_hash))
    return first, last_event


FIELDS = [field.name for field in fields(AuditEvent) if field.name != "hash"]
_AT = FIELDS.index("at")
_encode = json.JSONEncoder(separators=(",", ":")).encode


def _fingerprint(event: Mapping[str, Any]) -> str:
    """SHA-256, in hex, of the row's fields and of the row before it."""
    values = [event[field] for field in FIELDS]
    values[_AT] = milliseconds(event["at"])
    return _digest(values)


def _digest(values: Sequence[Any]) -> str:
    """`values`: the fields of a row in their order, its time in milliseconds."""
    return hashlib.sha256(_encode(values).encode("ascii")).hexdigest()


@dataclass(frozen=True)
class Head:
    """The end of the chain."""

    event: int
    hash: str


def head(tx: Transaction) -> Head:
    return Head(*tx.connection.execute(select(AUDIT_HEAD.c.last_event, AUDIT_HEAD.c.last_hash)).one())


@dataclass(frozen=True)
class Verdict:
    rows: int
    broken: int | None = None
    """The id of the first row that is not what was written, or that is missing."""
    head: Head | None = None
    """Where the chain ends."""


def verify(
    tx: Transaction, since: Head | None = None, last: int | None = None, progress: Callable[[int, int], None] | None = None
) -> Verdict:
    """Follows the chain to its head.

    Args:
        since: begins after this row, which must still have this hash: a head that was kept elsewhere.
        last: looks only at the last so many rows, taking the row before them as it is.
        progress: told how many rows of how many were looked at.
    """
    end = head(tx)
    expected, previous = 1, GENESIS
    if last is not None and end.event > last:
        since = Head(end.event - last, hash_of(tx, end.event - last) or "")
    if since is not None and since.event > 0:
        if since.event > end.event or hash_of(tx, since.event) != since.hash:
            return Verdict(0, broken=since.event, head=end)
        expected, previous = since.event + 1, since.hash
    first = expected
    # Times as they are stored, so that a row's fields are hashed as the database gives them.
    columns = [type_coerce(AUDIT_EVENTS.c[field], BigInteger) if field == "at" else AUDIT_EVENTS.c[field] for field in FIELDS]
    id_at, previous_at = FIELDS.index("id"), FIELDS.index("previous_hash")
    query = (
        select(*columns, AUDIT_EVENTS.c.hash)
        .where(AUDIT_EVENTS.c.id >= bindparam("first"), AUDIT_EVENTS.c.id <= end.event)
        .order_by(AUDIT_EVENTS.c.id)
        .limit(VERIFY_BATCH)
    )
    while True:
        rows = tx.connection.execute(query, {"first": expected}).all()
        for *values, hashed in rows:
            if values[id_at] != expected or values[previous_at] != previous or hashed != _digest(values):
                return Verdict(expected - first, broken=expected, head=end)
            expected, previous = expected + 1, hashed
        if progress:
            progress(expected - first, end.event - first + 1)
        if len(rows) < VERIFY_BATCH:
            break
    reached_head = expected == end.event + 1 and previous == end.hash
    return Verdict(expected - first, broken=None if reached_head else expected, head=end)


def hash_of(tx: Transaction, event: int) -> str | None:
    """The hash of that row; None when it is missing."""
    return GENESIS if event == 0 else tx.connection.scalar(select(AUDIT_EVENTS.c.hash).where(AUDIT_EVENTS.c.id == event))


USER = re.compile(r"[UW][A-Z0-9]{2,30}|shell:.*|sweep|errands")
CREDENTIAL = re.compile(rf"[{CROCKFORD}]{{{ID_LENGTH}}}")


def latest(
    tx: Transaction,
    workspace: Workspace | None,
    about: str | None = None,
    before: int | None = None,
    limit: int = PAGE,
    until: datetime | None = None,
) -> list[AuditEvent]:
    """The latest rows, newest first: of the workspace (None: of all), older than the row `before` and than the moment `until`.

    Args:
        about: a username, a credential's id, a person, a user group, or another subject such as a channel or a slug.
    """
    query = select(AUDIT_EVENTS).order_by(AUDIT_EVENTS.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(AUDIT_EVENTS.c.id < before)
    if until is not None:
        query = query.where(AUDIT_EVENTS.c.at < until)
    here = AUDIT_EVENTS.c.workspace_id
    if not about:
        query = query if workspace is None else query.where(here == workspace.id)
        return [as_row(AuditEvent, row) for row in tx.connection.execute(query)]
    # One column at a time: of each, an index has the rows in their order.
    found: dict[int, AuditEvent] = {}
    for column in _asked(about):
        about_it = query.where(column.in_(_subjects(about)) if column is AUDIT_EVENTS.c.subject else column == about)
        if workspace is not None:
            # The sum keeps a database from walking through all rows of the workspace instead; only persons have an index of both.
            about_it = about_it.where((here if column is AUDIT_EVENTS.c.user_id else here + 0) == workspace.id)
        found |= {row.id: as_row(AuditEvent, row) for row in tx.connection.execute(about_it)}
    return sorted(found.values(), key=lambda event: -event.id)[:limit]


def _asked(about: str) -> list[ColumnElement[Any]]:
    """The columns in which a word of this shape can stand."""
    columns: list[ColumnElement[Any]] = [AUDIT_EVENTS.c.subject]
    if about.startswith("smtp-"):
        columns.append(AUDIT_EVENTS.c.username)
    elif CREDENTIAL.fullmatch(about):
        columns.append(AUDIT_EVENTS.c.credential_id)
    elif USER.fullmatch(about):
        columns.append(AUDIT_EVENTS.c.user_id)
    return columns


def _subjects(about: str) -> list[str]:
    """The subjects that name it: a person or a user group also with the role that was given, taken or asked for."""
    return [about, *(f"{about} {role}" for role in Role if PRINCIPAL.fullmatch(about))]


def of_reference(tx: Transaction, user: str, reference: str, within: int = 1000) -> list[AuditEvent]:
    """The rows of what was done for one request of this user, among the latest so many of theirs; the oldest first."""
    latest_ids = select(AUDIT_EVENTS.c.id).where(AUDIT_EVENTS.c.user_id == user).order_by(AUDIT_EVENTS.c.id.desc()).limit(within)
    query = select(AUDIT_EVENTS).where(
        AUDIT_EVENTS.c.id.in_(latest_ids.scalar_subquery()), AUDIT_EVENTS.c.reference == reference, AUDIT_EVENTS.c.outcome == "done"
    )
    return [as_row(AuditEvent, row) for row in tx.connection.execute(query.order_by(AUDIT_EVENTS.c.id))]


def events(tx: Transaction, first: int, last: int, limit: int = 1000) -> list[AuditEvent]:
    """The rows from number `first` to `last`, in their order, at most `limit`."""
    query = select(AUDIT_EVENTS).where(AUDIT_EVENTS.c.id >= first, AUDIT_EVENTS.c.id <= last)
    return [as_row(AuditEvent, row) for row in tx.connection.execute(query.order_by(AUDIT_EVENTS.c.id).limit(limit))]

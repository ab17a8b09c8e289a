"""The needs of mail servers: looking credentials up, and writing down what was used and which process has seen what.

Nothing here is audited: it changes nothing about who may log in.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import bindparam, delete, or_, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

from storage.database import Transaction
from storage.models import AUDIT_HEAD, CREDENTIALS, MAIL_SERVERS, USAGE, WORKSPACES, State

SLOT = 300  # seconds of one slot of `login_counts`
COUNTED = timedelta(hours=25)
HEARTBEATS_KEPT = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Stored:
    """A password's hash in the store."""

    phc: str
    tag: int | None
    previous: bool
    """It is the one from before a rotation."""


@dataclass(frozen=True, slots=True)
class Known:
    """A credential as a log-in and an open session see it."""

    id: str
    username: str
    state: str
    password_hash: str | None
    password_tag: int | None
    previous_hash: str | None
    previous_tag: int | None
    previous_until: datetime | None
    expires_at: datetime | None
    allowed_from: tuple[str, ...]
    """The networks that it may be used from; none for any."""
    messages_hour: int | None
    messages_day: int | None
    recipients_hour: int | None
    recipients_day: int | None
    workspace: str
    """Its slug."""
    domains: tuple[str, ...]
    """The workspace's sender domains; none for any."""
    workspace_suspended_at: datetime | None

    def stopped(self, now: datetime) -> str | None:
        """Why it may not log in, by whichever password; None when it may."""
        if self.state != State.ACTIVE:
            return self.state
        if self.expires_at is not None and self.expires_at <= now:
            return "expired"
        return None if self.workspace_suspended_at is None else "workspace suspended"

    def passwords(self, now: datetime) -> list[Stored]:
        """The ones that count now."""
        found = [Stored(self.password_hash, self.password_tag, False)] if self.password_hash else []
        if self.previous_hash and self.previous_until and self.previous_until > now:
            found.append(Stored(self.previous_hash, self.previous_tag, True))
        return found


@dataclass(slots=True)
class Use:
    """A credential's log-ins since the last time they were written down."""

    at: datetime
    remote: str | None
    service: str
    previous: bool
    """With the password from before the rotation."""
    count: int = 1


_COLUMNS = (
    CREDENTIALS.c.id,
    CREDENTIALS.c.username,
    CREDENTIALS.c.state,
    CREDENTIALS.c.password_hash,
    CREDENTIALS.c.password_tag,
    CREDENTIALS.c.previous_hash,
    CREDENTIALS.c.previous_tag,
    CREDENTIALS.c.previous_until,
    CREDENTIALS.c.expires_at,
    CREDENTIALS.c.allowed_from,
    CREDENTIALS.c.messages_hour,
    CREDENTIALS.c.messages_day,
    CREDENTIALS.c.recipients_hour,
    CREDENTIALS.c.recipients_day,
    WORKSPACES.c.slug,
    WORKSPACES.c.domains,
    WORKSPACES.c.suspended_at,
)


def look_up(tx: Transaction, usernames: Iterable[str]) -> dict[str, Known]:
    """The credentials of these usernames as they are in the store now, in one query; unknown ones are left out."""
    query = select(*_COLUMNS).join_from(CREDENTIALS, WORKSPACES).where(CREDENTIALS.c.username.in_(list(usernames)))
    return {row.username: Known(*tuple(row)) for row in tx.connection.execute(query)}


def record(tx: Transaction, uses: Mapping[str, Use]) -> None:
    """Writes last used, by credential id, and the counts of log-ins. A note.

    Rows are changed in the order of their ids, by every process alike, so that two of them never wait for each other in a circle.
    """
    changed = [
        {"key": key, "at": use.at, "remote": use.remote, "service": use.service, "previous": use.previous}
        for key, use in sorted(uses.items())
    ]
    later = or_(CREDENTIALS.c.last_used_at.is_(None), CREDENTIALS.c.last_used_at <= bindparam("at"))
    used: dict[str, Any] = {
        "last_used_at": bindparam("at"),
        "last_used_from": bindparam("remote"),
        "last_used_service": bindparam("service"),
    }
    insert = sqlite.insert(USAGE) if tx.sqlite else postgresql.insert(USAGE)
    adding = insert.on_conflict_do_update(index_elements=["credential_id", "slot"], set_={"count": USAGE.c.count + insert.excluded.count})
    slots = [{"credential_id": key, "slot": int(use.at.timestamp()) // SLOT, "count": use.count} for key, use in sorted(uses.items())]
    tx.connection.execute(update(CREDENTIALS).where(CREDENTIALS.c.id == bindparam("key"), later).values(**used), changed)
    for previous, column in ((False, "current_used_at"), (True, "previous_used_at")):
        some = [{"key": one["key"], "at": one["at"]} for one in changed if one["previous"] is previous]
        if some:
            query = update(CREDENTIALS).where(CREDENTIALS.c.id == bindparam("key"), CREDENTIALS.c.rotated_at.is_not(None))
            tx.connection.execute(query.values({column: bindparam("at")}), some)
    tx.connection.execute(adding, slots)


def note_verified(tx: Transaction, credential_id: str, phc: str, tag: int, new: str | None) -> None:
    """A password fitted this hash: the row gets its tag, and the hash made anew with the present parameters if there is one. A note."""
    current = update(CREDENTIALS).where(CREDENTIALS.c.id == credential_id, CREDENTIALS.c.password_hash == phc)
    tx.connection.execute(current.values(password_tag=tag, password_hash=new or phc))
    previous = update(CREDENTIALS).where(CREDENTIALS.c.id == credential_id, CREDENTIALS.c.previous_hash == phc)
    tx.connection.execute(previous.values(previous_tag=tag))


def beat(tx: Transaction, process: str, name: str, started_at: datetime, stopped: bool = False) -> timedelta:
    """Says that the process lives, and sees the store as it was after the audit row that it writes down. A note.

    Returns:
        How far its clock is ahead of the database's; SQLite has no other clock.
    """
    insert = sqlite.insert(MAIL_SERVERS) if tx.sqlite else postgresql.insert(MAIL_SERVERS)
    seen = tx.connection.scalar(select(AUDIT_HEAD.c.last_event))
    skew = timedelta(0) if tx.sqlite else tx.now - database_now(tx)
    fresh = {"seen_at": tx.now, "seen_event": seen, "stopped": stopped, "clock_skew": round(skew.total_seconds() * 1000)}
    values = insert.values(id=process, name=name, started_at=started_at, **fresh)
    tx.connection.execute(values.on_conflict_do_update(index_elements=["id"], set_=fresh))
    return skew


def database_now(tx: Transaction) -> datetime:
    """What the database's own clock says at the beginning of the transaction."""
    now = text("CAST(strftime('%s', 'now') AS FLOAT)") if tx.sqlite else text("CAST(extract(epoch FROM now()) AS double precision)")
    return datetime.fromtimestamp(tx.connection.scalar(select(now)) or 0.0, UTC)


def forget_old(tx: Transaction) -> None:
    """Drops counts and heartbeats that nobody asks for any more. A note."""
    tx.connection.execute(delete(USAGE).where(USAGE.c.slot < int((tx.now - COUNTED).timestamp()) // SLOT))
    tx.connection.execute(delete(MAIL_SERVERS).where(MAIL_SERVERS.c.seen_at < tx.now - HEARTBEATS_KEPT))

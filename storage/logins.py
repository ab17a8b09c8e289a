"""What mail servers need of the store: looking credentials up, and writing down what was used and which process has seen what.

Nothing here is audited: it changes nothing about who may log in.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import bindparam, delete, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from storage.database import Database
from storage.models import AuditHead, Credential, LoginCount, MailServer, State

SLOT = 300  # seconds of one slot of `login_counts`
COUNTED = timedelta(hours=25)
HEARTBEATS_KEPT = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Known:
    """A credential as a log-in sees it."""

    id: str
    username: str
    state: str
    version: int
    password_hash: str | None
    previous_hash: str | None
    previous_until: datetime | None
    expires_at: datetime | None

    def works(self, now: datetime) -> bool:
        """Whether it may log in at all, by whichever password."""
        return self.state == State.ACTIVE and (self.expires_at is None or self.expires_at > now)

    def hashes(self, now: datetime) -> list[tuple[str, bool]]:
        """The hashes that count now, each with whether it is the one from before a rotation."""
        if not self.works(now):
            return []
        found = [(self.password_hash, False)] if self.password_hash else []
        if self.previous_hash and self.previous_until and self.previous_until > now:
            found.append((self.previous_hash, True))
        return found


@dataclass(slots=True)
class Use:
    """What one credential was used for since the last time it was written down."""

    at: datetime
    remote: str | None
    service: str
    previous: bool
    """With the password from before the rotation."""
    count: int = 1


_COLUMNS = (
    Credential.id,
    Credential.username,
    Credential.state,
    Credential.version,
    Credential.password_hash,
    Credential.previous_hash,
    Credential.previous_until,
    Credential.expires_at,
)


async def look_up(connection: AsyncConnection, usernames: Iterable[str]) -> dict[str, Known]:
    """The credentials of these usernames as they are in the store now, in one query; unknown ones are left out.

    Args:
        connection: of `Database.autocommit`.
    """
    query = select(*_COLUMNS).where(Credential.username.in_(list(usernames)))
    return {row.username: Known(*row) for row in await connection.execute(query)}


async def record(db: Database, uses: Mapping[str, Use]) -> None:
    """Writes last used, by credential id, and the counts of log-ins, in one transaction."""
    changed = [
        {"key": key, "at": use.at, "remote": use.remote, "service": use.service, "previous": use.previous} for key, use in uses.items()
    ]
    later = or_(Credential.last_used_at.is_(None), Credential.last_used_at <= bindparam("at"))
    used: dict[str, Any] = {
        "last_used_at": bindparam("at"),
        "last_used_from": bindparam("remote"),
        "last_used_service": bindparam("service"),
    }
    insert = sqlite.insert(LoginCount) if db.sqlite else postgresql.insert(LoginCount)
    adding = insert.on_conflict_do_update(
        index_elements=["credential_id", "slot"], set_={"count": LoginCount.count + insert.excluded.count}
    )
    slots = [{"credential_id": key, "slot": int(use.at.timestamp()) // SLOT, "count": use.count} for key, use in uses.items()]
    async with db.note() as session:
        connection = await session.connection()
        await connection.execute(update(Credential).where(Credential.id == bindparam("key"), later).values(**used), changed)
        for previous, column in ((False, "current_used_at"), (True, "previous_used_at")):
            some = [{"key": one["key"], "at": one["at"]} for one in changed if one["previous"] is previous]
            if some:
                query = update(Credential).where(Credential.id == bindparam("key"), Credential.rotated_at.is_not(None))
                await connection.execute(query.values({column: bindparam("at")}), some)
        await connection.execute(adding, slots)


async def renew_hash(db: Database, credential_id: str, old: str, new: str) -> None:
    """Puts a hash with the present parameters in an old one's place, if that still stands there."""
    query = update(Credential).where(Credential.id == credential_id, Credential.password_hash == old)
    async with db.note() as session:
        await session.execute(query.values(password_hash=new))


async def beat(db: Database, process: str, name: str, started_at: datetime, stopped: bool = False) -> None:
    """The process lives, and sees the store as it was after the audit row that it writes down."""
    insert = sqlite.insert(MailServer) if db.sqlite else postgresql.insert(MailServer)
    async with db.note() as session:
        seen = (await session.scalars(select(AuditHead.last_event))).one()
        fresh = {"seen_at": db.clock(), "seen_event": seen, "stopped": stopped}
        values = insert.values(id=process, name=name, started_at=started_at, **fresh)
        await session.execute(values.on_conflict_do_update(index_elements=["id"], set_=fresh))


async def forget_old(db: Database) -> None:
    """Drops counts and heartbeats that nobody asks for any more."""
    now = db.clock()
    async with db.note() as session:
        await session.execute(delete(LoginCount).where(LoginCount.slot < int((now - COUNTED).timestamp()) // SLOT))
        await session.execute(delete(MailServer).where(MailServer.seen_at < now - HEARTBEATS_KEPT))

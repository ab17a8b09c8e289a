"""Asks the store for credentials, many at once."""

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from storage.database import Database
from storage.models import Credential, State, Workspace

TIMEOUT = 5.0  # seconds
BATCH = 500  # usernames of one look-up


@dataclass(frozen=True, slots=True)
class Stored:
    """A password's hash in the store."""

    phc: str
    tag: int | None
    previous: bool
    """It is the one from before a rotation."""


@dataclass(frozen=True, slots=True)
class Known:
    """A credential as a log-in sees it."""

    id: str
    username: str
    state: str
    password_hash: str | None
    tag: int | None
    previous_hash: str | None
    previous_tag: int | None
    previous_until: datetime | None
    expires_at: datetime | None
    workspace: str
    """Its slug."""
    workspace_suspended: bool = False
    allowed: tuple[str, ...] = ()
    """The networks that it may be used from; none for any."""

    def stopped(self, now: datetime) -> str | None:
        """Why it may not log in, by whichever password; None when it may."""
        if self.state != State.ACTIVE:
            return self.state
        if self.expires_at is not None and self.expires_at <= now:
            return "expired"
        return "workspace suspended" if self.workspace_suspended else None

    def passwords(self, now: datetime) -> list[Stored]:
        """The ones that count now."""
        found = [Stored(self.password_hash, self.tag, False)] if self.password_hash else []
        if self.previous_hash and self.previous_until and self.previous_until > now:
            found.append(Stored(self.previous_hash, self.previous_tag, True))
        return found


_COLUMNS = (
    Credential.id,
    Credential.username,
    Credential.state,
    Credential.password_hash,
    Credential.password_tag,
    Credential.previous_hash,
    Credential.previous_tag,
    Credential.previous_until,
    Credential.expires_at,
    Workspace.slug,
)


async def look_up(connection: AsyncConnection, usernames: Iterable[str]) -> dict[str, Known]:
    """The credentials of these usernames as they are in the store now, in one query; unknown ones are left out."""
    query = select(*_COLUMNS).join(Workspace, Workspace.id == Credential.workspace_id).where(Credential.username.in_(list(usernames)))
    return {row.username: Known(*row) for row in await connection.execute(query)}


async def note_verified(db: Database, credential_id: str, phc: str, tag: int, new: str | None) -> None:
    """A password fitted this hash: the row gets its tag, and the hash made anew with the present parameters if there is one."""
    is_previous = Credential.previous_hash == phc
    async with db.note() as session:
        current = update(Credential).where(Credential.id == credential_id, Credential.password_hash == phc)
        await session.execute(current.values(password_tag=tag, password_hash=func.coalesce(new, Credential.password_hash)))
        await session.execute(update(Credential).where(Credential.id == credential_id, is_previous).values(previous_tag=tag))


class LookUps:
    """Asks for several usernames at once: those that came while the query before was under way."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._connection: AsyncConnection | None = None
        self._asked: dict[str, asyncio.Future[Known | None]] = {}
        self._working: asyncio.Task[None] | None = None

    async def __call__(self, username: str) -> Known | None:
        """The credential, as it is after this was called. Raises what the database raises."""
        found = self._asked.get(username)
        if found is None:
            found = self._asked[username] = asyncio.get_running_loop().create_future()
        if self._working is None:
            self._working = asyncio.create_task(self._work())
        return await asyncio.shield(found)

    async def _work(self) -> None:
        try:
            while self._asked:
                batch = dict(list(self._asked.items())[:BATCH])
                for username in batch:
                    del self._asked[username]
                try:
                    async with asyncio.timeout(TIMEOUT):
                        self._connection = self._connection or await self._db.autocommit()
                        known = await look_up(self._connection, batch)
                except Exception as error:
                    await self.close()
                    for future in batch.values():
                        if not future.cancelled():
                            future.set_exception(error)
                            future.exception()  # somebody who hung up does not ask for it
                else:
                    for username, future in batch.items():
                        if not future.cancelled():
                            future.set_result(known.get(username))
        finally:
            self._working = None

    async def close(self) -> None:
        """Gives up the connection; the next question opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                await connection.invalidate()
                await connection.close()

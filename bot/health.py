"""Whether the bot can serve, in words, for `/readyz`: what a start waits for, what keeps the database from being written to."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from storage.database import Database, Trouble, Unavailable

INTERVAL = 10.0  # seconds that an answer of the database is taken for
PATIENCE = 2.0  # seconds that a question waits for the answer of the database

WORDS = {
    Trouble.AWAY: "the database does not answer",
    Trouble.LATE: "the database does not answer",
    Trouble.LOCKED: "the database is locked by somebody else",
    Trouble.FULL: "the database is full: nothing can be written where it is kept",
    Trouble.READ_ONLY: "the database is read-only",
    Trouble.FORBIDDEN: "the database does not let its role do that: grant it what its owner may",
    Trouble.REPLACED: "the database file was replaced by another one: start the bot again",
}


class Health:
    """Asked often and by anybody, it asks the database seldom, and never twice at once.

    Args:
        interval: seconds between two tries to write.
        patience: seconds that somebody who asks is kept waiting.
    """

    def __init__(self, interval: float = INTERVAL, patience: float = PATIENCE, now: Callable[[], float] = time.monotonic) -> None:
        self._interval = interval
        self._patience = patience
        self._now = now
        self._checks: list[Callable[[], str | None]] = []
        self._try: Callable[[], Awaitable[str | None]] | None = None
        self._trying: asyncio.Task[None] | None = None
        self._tried_at: float | None = None
        self._found: str | None = None
        self.waiting: str | None = "starting"
        """Why it does not serve yet, or no more."""

    def watch(self, db: Database) -> None:
        """From now on the database is tried as well."""
        self._try = _writing(db)

    def add(self, check: Callable[[], str | None]) -> None:
        """From now on this is asked each time: None when all is well, else what is wrong."""
        self._checks.append(check)

    async def problem(self) -> str | None:
        """None when the bot can serve, else what is wrong."""
        if self.waiting is not None:
            return self.waiting
        for check in self._checks:
            if wrong := check():
                return wrong
        return await self._database()

    async def close(self) -> None:
        if self._trying is not None:
            self._trying.cancel()
            await asyncio.wait({self._trying}, timeout=self._patience)

    async def _database(self) -> str | None:
        if self._try is None:
            return None
        if self._trying is None and (self._tried_at is None or self._now() - self._tried_at >= self._interval):
            self._trying = asyncio.create_task(self._look(self._try))
        if self._trying is not None:
            await asyncio.wait({self._trying}, timeout=self._patience)
        # What still hangs after this long is wrong, whatever was found the last time.
        return self._found or WORDS[Trouble.AWAY] if self._trying is not None else self._found

    async def _look(self, attempt: Callable[[], Awaitable[str | None]]) -> None:
        try:
            self._found = await attempt()
        finally:
            self._tried_at = self._now()
            self._trying = None


def _writing(db: Database) -> Callable[[], Awaitable[str | None]]:
    """A try to write: None when it went well, else what is wrong."""

    async def attempt() -> str | None:
        try:
            await db.ping()
        except Unavailable as error:
            return WORDS[error.trouble]
        return None

    return attempt

"""Whether the bot can serve, in words, for `/readyz`: what a start waits for, what keeps the database from being written to."""

import asyncio
import os
import secrets
import time
from collections.abc import Awaitable, Callable

from storage import seen
from storage.database import Database

INTERVAL = 10.0  # seconds that an answer of the database is taken for
PATIENCE = 2.0  # seconds that a question waits for the answer of the database

WORDS = {
    "away": "the database does not answer",
    "late": "the database does not answer",
    "locked": "the database is locked by somebody else",
    "full": "the database is full: nothing can be written where it is kept",
    "read_only": "the database is read-only",
    "replaced": "the database file was replaced by another one: start the bot again",
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
        return self._found or WORDS["away"] if self._trying is not None else self._found

    async def _look(self, attempt: Callable[[], Awaitable[str | None]]) -> None:
        try:
            self._found = await attempt()
        finally:
            self._tried_at = self._now()
            self._trying = None


def _writing(db: Database) -> Callable[[], Awaitable[str | None]]:
    """A try to write: None when it went well, else what is wrong."""
    opened = _identity(db)

    async def attempt() -> str | None:
        if _identity(db) != opened:
            return WORDS["replaced"]
        try:
            await seen.first_time(db, f"readyz {secrets.token_hex(16)}")
        except Exception as error:
            return WORDS[_trouble(error)]
        return None

    return attempt


def _identity(db: Database) -> tuple[int, int] | None:
    """Which file SQLite's is; a file of the same name is another one."""
    if not db.sqlite:
        return None
    try:
        found = os.stat(db.url.database or "")
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _trouble(error: Exception) -> str:
    cause = getattr(error, "orig", error)
    name = str(getattr(cause, "sqlite_errorname", "") or getattr(cause, "sqlstate", "") or "")
    for start, word in (
        ("SQLITE_BUSY", "locked"),
        ("SQLITE_LOCKED", "locked"),
        ("SQLITE_FULL", "full"),
        ("SQLITE_READONLY", "read_only"),
        ("53100", "full"),
        ("25006", "read_only"),
        ("55P03", "locked"),
    ):
        if name.startswith(start):
            return word
    return "away"

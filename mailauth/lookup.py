"""Asks the store for credentials, many at once."""

import asyncio

from storage import logins
from storage.database import Database, Trouble, Unavailable
from storage.logins import Known

TIMEOUT = 5.0  # seconds
BATCH = 500  # usernames of one look-up


class LookUps:
    """Asks for several usernames at once: those that came while the query before was under way."""

    def __init__(self, db: Database) -> None:
        self._db = db
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
                        known = await self._read(list(batch))
                except Exception as error:
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

    async def _read(self, usernames: list[str]) -> dict[str, Known]:
        try:
            return await self._db.read(logins.look_up, usernames)
        except Unavailable as error:
            if error.trouble is not Trouble.REPLACED:
                raise
            await self._db.follow()
            return await self._db.read(logins.look_up, usernames)

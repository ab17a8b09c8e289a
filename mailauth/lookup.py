"""Asks the store for credentials, many at once."""

import asyncio
from collections.abc import Callable, Iterable

from storage.database import Database, Transaction, Trouble, Unavailable
from storage.logins import Known

TIMEOUT = 5.0  # seconds
BATCH = 500  # usernames of one look-up


class LookUps:
    """Asks for several usernames at once: those that came while the query before was under way.

    Args:
        query: `logins.look_up` or `logins.look_up_sending`.
    """

    def __init__(self, db: Database, query: Callable[[Transaction, Iterable[str]], dict[str, Known]]) -> None:
        self._db = db
        self._query = query
        self._asked: dict[str, list[asyncio.Future[Known | None]]] = {}
        self._working: asyncio.Task[None] | None = None

    async def __call__(self, username: str) -> Known | None:
        """The credential, as it is after this was called. Raises what the database raises."""
        answer: asyncio.Future[Known | None] = asyncio.get_running_loop().create_future()
        self._asked.setdefault(username, []).append(answer)
        if self._working is None:
            self._working = asyncio.create_task(self._work())
        return await answer

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
                    for answers in batch.values():
                        for answer in answers:
                            if not answer.done():  # otherwise whoever asked hung up
                                answer.set_exception(error)
                else:
                    for username, answers in batch.items():
                        for answer in answers:
                            if not answer.done():
                                answer.set_result(known.get(username))
        finally:
            self._working = None

    async def _read(self, usernames: list[str]) -> dict[str, Known]:
        try:
            return await self._db.read(self._query, usernames)
        except Unavailable as error:
            if error.trouble is not Trouble.REPLACED:
                raise
            await self._db.follow()
            return await self._db.read(self._query, usernames)

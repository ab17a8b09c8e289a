"""Whether a username and a password may log in now.

Every answer reads the credential's row after the question came, so that what was deleted, rotated out, suspended or has expired is refused
from the next log-in on, on every replica. Only the Argon2 computation is remembered, bound to the row's version.
"""

import asyncio
import os
import secrets
import socket
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from hashlib import blake2b
from typing import Generic, TypeVar

import structlog
from prometheus_client import Counter, Gauge, Histogram

from storage import logins, passwords
from storage.database import Database
from storage.logins import Known, Use
from storage.names import USERNAME
from storage.passwords import Hasher, Parsed

REMEMBERED = 50_000  # verified passwords; about 150 bytes each
WRONG_REMEMBERED = 10_000
LOOK_UP_TIMEOUT = 5.0  # seconds
BATCH = 500  # usernames of one look-up
QUEUE = 100  # Argon2 computations that wait or run, in all
PER_USERNAME = (10.0, 0.5)  # wrong passwords at once, and a second, that cost an Argon2 computation
PER_ADDRESS = (40.0, 4.0)
REFUSALS = (30.0, 3.0)  # at once, and a second, that an address is given without delay
SLOWED = 1.0  # seconds that further ones are held back
BUCKETS = 20_000
FLUSH = 1.0  # seconds between two flushes of what was used, and between two heartbeats
TIDY = 300.0  # seconds between two clean-ups
USES = 100_000  # credentials used since the last flush, when the database is away

log = structlog.get_logger(__name__)
answers = Counter("smtp_authd_answers_total", "Log-ins answered", ["answer", "why"])
took = Histogram("smtp_authd_seconds", "From a log-in's arrival to its answer", buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3))
waiting = Gauge("smtp_authd_argon2_waiting", "Argon2 computations that wait or run")

Key = TypeVar("Key")
Value = TypeVar("Value")


class Answer(StrEnum):
    YES = "yes"
    NO = "no"
    LATER = "later"
    """Neither can be said now."""


class Bounded(OrderedDict[Key, Value], Generic[Key, Value]):
    """A mapping that forgets what was not touched for longest."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def keep(self, key: Key, value: Value) -> None:
        self[key] = value
        self.move_to_end(key)
        if len(self) > self._most:
            self.popitem(last=False)


@dataclass(slots=True)
class Bucket:
    """A token bucket."""

    left: float
    at: float


class LookUps:
    """Asks the store for several usernames at once: those that came while the query before was under way."""

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
                    async with asyncio.timeout(LOOK_UP_TIMEOUT):
                        known = await self._db.read(logins.look_up, batch)
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


class Verifier:
    """Answers log-ins, and writes down what was used.

    Args:
        monotonic: seconds, for back-off.
    """

    def __init__(self, db: Database, hasher: Hasher, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._db = db
        self._hasher = hasher
        self._now = monotonic
        self._look_up = LookUps(db)
        self._key = secrets.token_bytes(32)
        self._right: Bounded[bytes, bool] = Bounded(REMEMBERED)
        self._wrong: Bounded[bytes, None] = Bounded(WRONG_REMEMBERED)
        self._by_username: Bounded[str, Bucket] = Bounded(BUCKETS)
        self._by_address: Bounded[str, Bucket] = Bounded(BUCKETS)
        self._refusals: Bounded[str, Bucket] = Bounded(BUCKETS)
        self._computing = 0
        self._under_way: dict[bytes, asyncio.Task[tuple[str, bool] | None]] = {}
        """One computation for all who ask the same at once."""
        self._uses: dict[str, Use] = {}
        self._renewing: set[asyncio.Task[None]] = set()
        self._dummy = ""
        self.process = secrets.token_hex(16)
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self.started_at = db.clock()

    async def start(self) -> None:
        """Makes the hash that unknown usernames are verified against, so that they take as long as known ones."""
        self._dummy = await self._hasher.hash(secrets.token_hex(16))

    async def check(self, username: str, password: str, remote: str | None, service: str) -> tuple[Answer, str]:
        """The answer, and the username as the store spells it."""
        answer, _ = await self.explain(username, password, remote, service)
        return answer, username.strip().lower()

    async def explain(self, username: str, password: str, remote: str | None, service: str) -> tuple[Answer, str]:
        """The answer, and a word for why, which is not for whoever asks."""
        started = self._now()
        name = username.strip().lower()
        try:
            answer, why = await self._decide(name, password, remote, service)
        except Exception as error:
            log.warning("cannot answer a log-in", error=type(error).__name__)
            answer, why = Answer.LATER, "database"
        answers.labels(answer, why).inc()
        took.observe(self._now() - started)
        if answer is Answer.NO and self._refused_too_often(remote):
            await asyncio.sleep(SLOWED)
        return answer, why

    async def _decide(self, name: str, password: str, remote: str | None, service: str) -> tuple[Answer, str]:
        parsed = passwords.parse(password)
        if parsed is None or not USERNAME.fullmatch(name) or parsed.credential_id not in (None, name[-passwords.ID_LENGTH :]):
            return Answer.NO, "format"
        known = await self._look_up(name)
        now = self._db.clock()
        hashes = known.hashes(now) if known else []
        if known:
            for _, _, previous in hashes:
                if self._digest(known, parsed, previous) in self._right:
                    self._used(known, now, remote, service, previous)
                    return Answer.YES, "remembered"
        wrong = self._digest(known, parsed, None)
        if wrong in self._wrong:
            return Answer.NO, "remembered"
        computing = self._under_way.get(wrong)
        first = computing is None
        if computing is None:
            if not self._may_compute(name, remote):
                return Answer.LATER, "back-off"
            computing = asyncio.create_task(self._fitting(hashes, parsed.canonical))
            self._under_way[wrong] = computing
            computing.add_done_callback(lambda _: self._under_way.pop(wrong, None))
        fitting = await asyncio.shield(computing)
        if fitting is None or known is None:
            self._wrong.keep(wrong, None)
            if first:
                self._charge(name, remote)
            return Answer.NO, "password"
        return await self._right_password(known, parsed, fitting, remote, service)

    async def _fitting(self, hashes: list[tuple[str, int | None, bool]], canonical: str) -> tuple[str, bool] | None:
        """The hash that the password fits. Without any, as long is spent on one that nothing fits."""
        for phc, _, previous in hashes:
            if await self._verify(phc, canonical):
                return phc, previous
        if not hashes:
            await self._verify(self._dummy, canonical)
        return None

    async def _right_password(
        self, verified: Known, parsed: Parsed, fitting: tuple[str, bool], remote: str | None, service: str
    ) -> tuple[Answer, str]:
        """The password fits the row as it was before the computation; whether it still works is asked once more."""
        phc, previous = fitting
        known = await self._look_up(verified.username)
        now = self._db.clock()
        if known is None or (phc, previous) not in [(one, which) for one, _, which in known.hashes(now)]:
            return Answer.NO, "changed meanwhile"
        self._right.keep(self._digest(known, parsed, previous), previous)
        self._used(known, now, remote, service, previous)
        if not previous and self._hasher.needs_rehash(phc):
            task = asyncio.create_task(self._renew(known.id, phc, parsed.canonical))
            self._renewing.add(task)
            task.add_done_callback(self._renewing.discard)
        return Answer.YES, "password"

    async def _renew(self, credential_id: str, old: str, canonical: str) -> None:
        try:
            tag = passwords.tag(canonical) or 0
            await self._db.note(logins.renew_hash, credential_id, old, await self._hasher.hash(canonical), tag)
        except Exception as error:
            log.warning("hash not renewed", error=type(error).__name__)

    def _digest(self, known: Known | None, parsed: Parsed, previous: bool | None) -> bytes:
        """A keyed digest of the password, bound to the row and its version; worth nothing without this process's key."""
        stored = (known.previous_hash if previous else known.password_hash) if known else "nobody"
        row = f"{known.id if known else ''}:{stored}"
        return blake2b(f"{row}:{parsed.canonical}".encode(), key=self._key, digest_size=24).digest()

    async def _verify(self, phc: str, canonical: str) -> bool:
        self._computing += 1
        waiting.set(self._computing)
        try:
            return await self._hasher.verify(phc, canonical)
        finally:
            self._computing -= 1
            waiting.set(self._computing)

    def _may_compute(self, name: str, remote: str | None) -> bool:
        """Whether an Argon2 computation may be spent on this username and address now."""
        if len(self._under_way) >= QUEUE:
            return False
        full = self._filled(self._by_username, name, PER_USERNAME).left >= 1
        return full and (remote is None or self._filled(self._by_address, remote, PER_ADDRESS).left >= 1)

    def _charge(self, name: str, remote: str | None) -> None:
        """A wrong password costs its username and its address some of what they may try."""
        self._filled(self._by_username, name, PER_USERNAME).left -= 1
        if remote is not None:
            self._filled(self._by_address, remote, PER_ADDRESS).left -= 1

    def _refused_too_often(self, remote: str | None) -> bool:
        """Whether refusals to this address are held back for a while: a flood of them would take the time of those who may log in."""
        bucket = self._filled(self._refusals, remote or "", REFUSALS)
        bucket.left = max(bucket.left - 1, -1.0)
        return bucket.left < 0

    def _filled(self, buckets: Bounded[str, Bucket], key: str, rate: tuple[float, float]) -> Bucket:
        most, a_second = rate
        now = self._now()
        bucket = buckets.get(key) or Bucket(most, now)
        bucket.left = min(most, bucket.left + (now - bucket.at) * a_second)
        bucket.at = now
        buckets.keep(key, bucket)
        return bucket

    # --- whether an open session may go on ---
    async def may_go_on(self, username: str) -> bool:
        """Whether the session of somebody who logged in with this username may send. Usernames that are not ours may. One look-up.

        Raises what the database raises.
        """
        name = username.strip().lower()
        if not USERNAME.fullmatch(name):
            return True
        known = await self._look_up(name)
        return known is None or known.works(self._db.clock())

    # --- writing down ---
    def _used(self, known: Known, now: datetime, remote: str | None, service: str, previous: bool) -> None:
        use = self._uses.get(known.id)
        if use is not None and use.previous == previous:
            use.at, use.remote, use.service, use.count = now, remote, service, use.count + 1
        elif len(self._uses) < USES:
            self._uses[known.id] = Use(now, remote, service, previous, use.count + 1 if use else 1)

    async def flush(self, stopped: bool = False) -> None:
        """Writes down what was used since the last time, and that this process lives."""
        uses, self._uses = self._uses, {}
        try:
            if uses:
                await self._db.note(logins.record, uses)
        except BaseException:
            for key, use in uses.items():
                self._uses.setdefault(key, use)
            raise
        await self._db.note(logins.beat, self.process, self.name, self.started_at, stopped)

    async def keep_flushing(self) -> None:
        """Flushes and tidies for ever, whatever the database does."""
        tidied = -TIDY
        while True:
            try:
                await self.flush()
                if self._now() - tidied >= TIDY:
                    tidied = self._now()
                    await self._db.note(logins.forget_old)
            except Exception as error:
                log.warning("use not written down", error=type(error).__name__)
            await asyncio.sleep(FLUSH)

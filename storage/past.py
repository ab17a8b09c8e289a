"""One process's look at the store's past: keeps in the journal what ended, and notices a store that went back in time.

While the journal names something that the store says works, the journal is right: whoever answers log-ins asks `Past.without_ended`.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

import structlog
from prometheus_client import Gauge

from storage import logins
from storage.database import Database, Trouble, Unavailable
from storage.journal import Journal, Mark, digest
from storage.journal import State as JournalState
from storage.logins import Known
from storage.models import State
from storage.replay import Look, Standing, look, missing, news, open_restores, post, standing, suspended_workspaces

EVERY = 1.0  # seconds between two looks; a change of this process is followed at once
LOOKED_AGAIN = 10.0  # seconds between two looks at what is alive again, while the store is back
SAID_EVERY = 3600.0  # seconds between two log lines with the head
STEP = 5000  # audit rows in one read

log = structlog.get_logger(__name__)
went_back = Gauge("smtp_bot_store_went_back", "1 while the database is one that went back in time")
kept = Gauge("smtp_bot_journal_kept", "1 while the journal of what must never work again is kept")


class Past:
    """One process's look at the store's past.

    Args:
        process: its name, for people; and `heartbeat`: its id among the mail servers, if it is one.
        monotonic: seconds.
    """

    def __init__(
        self,
        db: Database,
        journal: Journal,
        process: str,
        heartbeat: str | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._db = db
        self.journal = journal
        self._process = process
        self._heartbeat = heartbeat
        self._now = monotonic
        self._lock = asyncio.Lock()
        self._next: asyncio.Task[Mark] | None = None
        self._read = False
        self._wanted = asyncio.Event()
        self._unsaid = False
        """The store went back, which is not yet written into it."""
        self._looked = -LOOKED_AGAIN
        self._said: float | None = None
        self._words: str | None = None
        self.standing = Standing([], 0, [])
        db.changed = self._wanted.set

    @property
    def words(self) -> str:
        """How the journal is kept and how the store stands, for people."""
        journal = self.journal
        words = journal.state.value + (f" ({journal.problem})" if journal.problem else "")
        if journal.state is JournalState.KEPT and journal.memory.forgot:
            words += f", {journal.memory.forgot} oldest entries forgotten"
        return words + ("; the database went back" if journal.memory.back else "")

    @property
    def remark(self) -> str | None:
        """What is wrong with the store's past, or with the journal; None when nothing is."""
        if said := self.standing.sentence:
            return said
        return f"the journal is not kept: {self.words}" if self._read and self.journal.state is not JournalState.KEPT else None

    async def without_ended(self, known: Known) -> Known:
        """The credential as it may log in: without what the journal says must not work, whatever the store says.

        Raises what the database raises.
        """
        if not self._read:
            async with self._lock:
                if not self._read:
                    await self._read_journal()
        if not self._names(known):
            return known
        await self.follow()  # a resumption that was not followed yet, or a restore that was not noticed
        memory = self.journal.memory
        if known.id in memory.deleted:
            return replace(known, state=State.DELETED.value)
        if known.id in memory.suspended or known.workspace in memory.workspaces:
            return replace(known, state=State.SUSPENDED.value)
        return replace(known, password_hash=self._still(known.password_hash), previous_hash=self._still(known.previous_hash))

    def _still(self, password_hash: str | None) -> str | None:
        return None if password_hash and digest(password_hash) in self.journal.memory.passwords else password_hash

    def _names(self, known: Known) -> bool:
        if known.state != State.ACTIVE:
            return False
        memory = self.journal.memory
        return any(memory.names(known.id, known.workspace, one) for one in (known.password_hash, known.previous_hash))

    async def forever(self, every: float = EVERY) -> None:
        """Follows the store, whatever the database does."""
        while True:
            self._wanted.clear()
            try:
                await self._once()
            except Unavailable:
                pass  # what cannot be read now is followed later
            except Exception as error:
                log.error("the journal does not follow", error=type(error).__name__)
            try:
                async with asyncio.timeout(every):
                    await self._wanted.wait()
            except TimeoutError:
                pass

    async def _once(self) -> None:
        try:
            await self.follow()
        except Unavailable as error:
            if error.trouble is not Trouble.REPLACED or self._heartbeat is None:
                raise
            await self._db.follow()
            await self.follow()
        await self.say()

    async def follow(self) -> Mark:
        """Reads what happened since the last time, keeps what ended, and notices a store that went back. Returns the store's head.

        Those who ask while one look is under way share the next. Raises what the database raises.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._in_turn())
            self._next.add_done_callback(lambda task: None if task.cancelled() else task.exception() and None)
        return await asyncio.shield(self._next)

    async def _in_turn(self) -> Mark:
        async with self._lock:
            self._next = None
            journal = self.journal
            # What other processes of this host saw, and only then the store: their rows must be in it.
            found = await self._read_journal()
            if journal.state is JournalState.NONE:
                self.standing = await self._db.read(standing)
                return found.head
            found = await self._db.read(look, journal.memory.head)
            mark = journal.memory.head
            lines: list[str] = []
            if mark is not None and not found.same:
                log.error("the database went back in time", last_row=mark.event, row_now=found.head.event)
                lines.append(f"back {mark.event} {mark.hash} {found.head.event}")
                self._unsaid, mark = True, None
            moved = mark != found.head
            if moved:
                await self._learn(found, mark, lines)
            if journal.memory.back is not None:
                await self._look_back(found, moved)
            self.standing = await self._db.read(standing)
            went_back.set(bool(self.standing.restores))
            kept.set(journal.state is JournalState.KEPT)
            return found.head

    async def _read_journal(self) -> Look:
        """Takes what the file says; the store, as it was before that."""
        found = await self._db.read(look, None)
        await asyncio.to_thread(self.journal.exchange, found.store, found.head.event)
        self._read = True
        return found

    async def _learn(self, found: Look, mark: Mark | None, lines: list[str]) -> None:
        """Keeps what ended up to the store's head; without a mark, from the first row on."""
        journal = self.journal
        memory = journal.memory
        back = memory.back is not None or bool(lines)
        first = mark.event if mark else 0
        resumed: set[str] = set()
        for start in range(first, found.head.event, STEP):
            some = await self._db.read(news, start, min(start + STEP, found.head.event))
            resumed |= some.resumed
            for key, (state, event) in some.touched.items():
                if state == State.DELETED:
                    lines.append(f"ended {key} {event} -")
                elif state == State.SUSPENDED:
                    lines.append(f"suspended {key} {event}")
                elif key in memory.suspended and (not back or (mark is not None and key in some.resumed)):
                    lines.append(f"resumed {key} {event}")
            lines += [f"ended {key} {event} {hashed}" for key, hashed, event in some.passwords]
            if len(lines) > STEP:
                await self._keep(found, lines, mark is not None)
                lines.clear()
        stopped = await self._db.read(suspended_workspaces)
        lines += [f"stopped {slug} {found.head.event}" for slug in sorted(stopped)]
        started = set(memory.workspaces) - stopped
        started &= set(memory.workspaces) if not back else resumed if mark is not None else set()
        lines += [f"started {slug} {found.head.event}" for slug in sorted(started)]
        lines.append(f"head {found.head.event} {found.head.hash}")
        await self._keep(found, lines, mark is not None)

    async def _keep(self, found: Look, lines: list[str], said: bool) -> None:
        taken = await asyncio.to_thread(self.journal.exchange, found.store, found.head.event, list(lines))
        for entry in taken if said else ():
            if not entry.startswith("head "):
                log.info("journal", entry=entry)

    async def _look_back(self, found: Look, moved: bool) -> None:
        """Says what works again, and goes on once nothing does and somebody settled it."""
        if not moved and not self._unsaid and self._now() - self._looked < LOOKED_AGAIN:
            return
        memory = self.journal.memory
        back = memory.back
        if back is None:
            return
        again = await missing(self._db, memory)
        if again or self._unsaid:
            await self._db.note(post, again, back, self._process)
            self._unsaid = False
        elif not await self._db.read(open_restores):
            await asyncio.to_thread(self.journal.exchange, found.store, found.head.event, [f"forward {found.head.event}"])
            log.info("the journal goes on", row=found.head.event)
        self._looked = self._now()

    async def say(self) -> None:
        """What changed about the journal, and once an hour the head, into the log; and beside the heartbeat."""
        journal = self.journal
        if journal.fresh:
            journal.fresh = False
            log.warning(
                "a journal begins; whether the database was restored before that, and what was revoked since, cannot be known",
                journal=str(journal.path),
                row=journal.began,
            )
        head = journal.memory.head
        if head and (self._said is None or self._now() - self._said >= SAID_EVERY):
            self._said = self._now()
            log.info("journal", entry=f"head {head.event} {head.hash}")
        words = self.words
        if words != self._words:
            if journal.state is not JournalState.KEPT:
                log.error("the journal is not kept", journal=str(journal.path), why=words)
            if self._heartbeat is None or await self._db.note(logins.say_journal, self._heartbeat, words):
                self._words = words

    def close(self) -> None:
        self.journal.close()

"""One delivery from Slack, from its arrival to the end of what goes on after its acknowledgement.

Bolt calls a listener with what Slack sent and nothing of ours, and a flow is many functions deep. So three things travel beside it, in
context variables that every task inherits from the one that began it:

- whether it came for the first time: nothing is done before the database has answered that;
- that its acknowledgement went out: a modal changed by `views.update` before it would be overwritten by it, and a database thread at
  work would keep it waiting for the interpreter;
- the place it works in: given back while Slack is waited for, so that a hung call never keeps others from working.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from contextvars import ContextVar
from typing import Any, TypeVar

import structlog
from prometheus_client import Counter

from storage import seen
from storage.database import Database, cause

ACK_SENT_TIMEOUT = 3.0  # seconds, Slack's own limit
PLACES = 4
WAITING_MAX = 200
ASIDE_MAX = 100

log = structlog.get_logger(__name__)
repeated = Counter("smtp_bot_repeated_total", "Deliveries that came before and were answered without doing anything")
turned_away = Counter("smtp_bot_turned_away_total", "Deliveries that were not worked on because too many were waiting")
T = TypeVar("T")

_first: ContextVar["_First | None"] = ContextVar("first_delivery", default=None)
_sent: ContextVar[asyncio.Event | None] = ContextVar("acknowledgement_sent", default=None)
_place: ContextVar["_Place | None"] = ContextVar("place", default=None)


# --- whether it came for the first time ---
class _First:
    def __init__(self, db: Database, key: str) -> None:
        self.db, self.key = db, key
        self.asked: asyncio.Task[bool] | None = None


def delivered(db: Database, key: str) -> None:
    """Says by what this delivery is known: `key` (at most 80 characters) is the same for a repetition."""
    _first.set(_First(db, key))


async def first_delivery() -> bool:
    """Whether this delivery is handled for the first time. The database is asked once; awaited before anything is done for it."""
    first = _first.get()
    if first is None:
        return True
    if first.asked is None:
        first.asked = asyncio.create_task(_is_new(first.db, first.key))
    return await asyncio.shield(first.asked)


async def _is_new(db: Database, key: str) -> bool:
    try:
        new = await db.note_one(seen.first_time, key)
    except Exception as error:
        # Nothing can be changed while the database is away; let the person read that something is wrong.
        log.error("cannot tell whether a delivery is new", error=cause(error))
        return True
    if not new:
        repeated.inc()
    return new


# --- that its acknowledgement went out ---
def acknowledging() -> asyncio.Event:
    """Whoever passes a delivery to Bolt calls this before, and sets the event once the acknowledgement is on the wire."""
    event = asyncio.Event()
    _sent.set(event)
    return event


async def acknowledgement_sent() -> None:
    """Waits for it, at most as long as Slack does."""
    event = _sent.get()
    if event is not None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ACK_SENT_TIMEOUT):
                await event.wait()


_given_up: set[asyncio.Task[Any]] = set()


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns. When the time is up it is cancelled, and whatever it still needs to end is not waited for.

    Raises:
        TimeoutError: the time was up.
    """
    task = asyncio.create_task(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
    except asyncio.CancelledError:
        task.cancel()
        raise
    if done:
        return task.result()
    task.cancel()
    _given_up.add(task)
    task.add_done_callback(_forget)
    raise TimeoutError


def _forget(task: asyncio.Task[Any]) -> None:
    _given_up.discard(task)
    if not task.cancelled():
        task.exception()


# --- the place it works in ---
class Work:
    """What goes on after acknowledgements: a bounded number at a time, so that none of it keeps an acknowledgement waiting.

    Args:
        places: how many work at the same time. Who waits for Slack in `outside` holds none.
        waiting: how many may wait for a place before `full` says so.
    """

    def __init__(self, places: int = PLACES, waiting: int = WAITING_MAX) -> None:
        self._places = _Places(places)
        self._most_waiting = waiting
        self._waiting = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._aside: set[asyncio.Task[None]] = set()

    @property
    def full(self) -> bool:
        """Too many wait already: whoever comes now is told so instead."""
        return self._waiting >= self._most_waiting

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Goes on with it in a task of its own, acknowledged and as soon as there is a place; not at all when the delivery came before."""
        self._waiting += 1
        self._keep(self._tasks, self._once(work))

    def turn_away(self, telling: Coroutine[Any, Any, None]) -> None:
        """Tells a person that nothing will be done for them, without waiting for a place."""
        turned_away.inc()
        if len(self._aside) >= ASIDE_MAX:
            telling.close()
        else:
            self._keep(self._aside, telling)

    async def drain(self, timeout: float) -> bool:
        """Waits up to `timeout` seconds until nothing is under way, nor what that has begun; False when something still was."""
        until = time.monotonic() + timeout
        while under_way := self._tasks | self._aside:
            left = until - time.monotonic()
            if left <= 0:
                return False
            await asyncio.wait(under_way, timeout=left)
        return True

    async def _once(self, work: Coroutine[Any, Any, None]) -> None:
        place = _Place(self._places)
        try:
            await acknowledgement_sent()
            new = await first_delivery()
            if new:
                await place.take()
        except BaseException:
            work.close()
            raise
        finally:
            self._waiting -= 1
        if not new:
            work.close()
            return
        _place.set(place)
        try:
            await work
        finally:
            place.end()

    def _keep(self, where: set[asyncio.Task[None]], work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        where.add(task)
        task.add_done_callback(where.discard)


@contextlib.asynccontextmanager
async def outside() -> AsyncIterator[None]:
    """Gives the place back while the block waits for others, and goes on, before all who have not begun, once there is one again."""
    place = _place.get()
    if place is None:
        yield
        return
    place.leave()
    try:
        yield
    except asyncio.CancelledError:
        place.outside -= 1  # what is left to do is to end
        raise
    except BaseException:
        await place.come_back()
        raise
    await place.come_back()


class _Places:
    """Those who come back are served before those who begin: what was begun is finished first."""

    def __init__(self, number: int) -> None:
        self._free = number
        self._returning: deque[asyncio.Future[None]] = deque()
        self._beginning: deque[asyncio.Future[None]] = deque()

    async def take(self, returning: bool) -> None:
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        (self._returning if returning else self._beginning).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give()
            raise

    def give(self) -> None:
        for queue in (self._returning, self._beginning):
            while queue:
                turn = queue.popleft()
                if not turn.done():
                    turn.set_result(None)
                    return
        self._free += 1


class _Place:
    """One delivery's place. Several tasks of a delivery may be outside at once; it is taken again when the last of them is back."""

    def __init__(self, places: _Places) -> None:
        self._places = places
        self._held = False
        self._ended = False
        self.outside = 0

    async def take(self, returning: bool = False) -> None:
        await self._places.take(returning)
        if self._held or self._ended or self.outside:
            self._places.give()
        else:
            self._held = True

    def leave(self) -> None:
        self.outside += 1
        self._give()

    async def come_back(self) -> None:
        self.outside -= 1
        if not (self.outside or self._held or self._ended):
            await self.take(returning=True)

    def end(self) -> None:
        self._ended = True
        self._give()

    def _give(self) -> None:
        if self._held:
            self._held = False
            self._places.give()

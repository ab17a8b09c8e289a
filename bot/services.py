"""What the listeners work with, made once at start and handed to each `register`."""

import asyncio
import contextlib
import secrets
from collections.abc import Coroutine
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from slack_sdk.web.async_client import AsyncWebClient

from bot.people import People
from bot.settings import Settings
from bot.slack import Slack
from storage.database import Database
from storage.leaks import Resolver
from storage.passwords import CROCKFORD, Hasher


@dataclass(frozen=True)
class Limits:
    """How long things may take, in seconds."""

    submission: float = 2.5
    """Until a modal's submission is answered, inside Slack's 3."""
    work: float = 60.0
    """For all that follows an acknowledgement."""
    looked_up_after: tuple[float, ...] = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
    """Between two tries to write down that somebody must be told an outcome that is not known yet."""


@dataclass
class Services:
    settings: Settings
    db: Database
    hasher: Hasher
    slack: Slack
    client: AsyncWebClient
    """Bolt's own."""
    people: People
    team: str
    """The Slack team the bot is installed in."""
    work: "Work" = field(default_factory=lambda: Work())
    limits: Limits = field(default_factory=Limits)
    resolver: Resolver = field(init=False)
    """Whose passwords people paste."""

    def __post_init__(self) -> None:
        self.resolver = Resolver(self.db, self.hasher)

    @property
    def command(self) -> str:
        return self.settings.bot_command


class Work:
    """What goes on after the acknowledgement, so that a shutdown can wait for it."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Goes on with it in a task of its own; not at all when the request came before."""
        task = asyncio.create_task(_once(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def drain(self, timeout: float) -> bool:
        """Waits up to `timeout` seconds until nothing is under way; False when something still was."""
        pending = set(self._tasks)
        if pending:
            _, pending = await asyncio.wait(pending, timeout=timeout)
        return not pending


async def _once(work: Coroutine[Any, Any, None]) -> None:
    if await first_delivery():
        await work
    else:
        work.close()


_new: ContextVar[asyncio.Task[bool] | None] = ContextVar("first_delivery", default=None)


def expect_first_delivery(asked: asyncio.Task[bool]) -> None:
    """Whoever passes a request to Bolt hands in the answer to whether it is new; the acknowledgement does not wait for it."""
    _new.set(asked)


async def first_delivery() -> bool:
    """Whether this request is handled for the first time. Awaited before anything is done for it."""
    asked = _new.get()
    return asked is None or await asyncio.shield(asked)


ACK_SENT_TIMEOUT = 3.0  # seconds, Slack's own limit
_sent: ContextVar[asyncio.Event | None] = ContextVar("acknowledgement_sent", default=None)


def acknowledging() -> asyncio.Event:
    """Whoever passes a request to Bolt calls this before, and sets the event once the acknowledgement is on the wire."""
    event = asyncio.Event()
    _sent.set(event)
    return event


async def acknowledgement_sent() -> None:
    """Waits for it: a modal that was changed by `views.update` before it would be overwritten by its acknowledgement."""
    event = _sent.get()
    if event is not None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(event.wait(), ACK_SENT_TIMEOUT)


def new_reference() -> str:
    """An id for one request, that a person can read out and an admin can search the log for."""
    return "".join(secrets.choice(CROCKFORD) for _ in range(8))

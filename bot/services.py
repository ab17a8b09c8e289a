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
from storage.database import Database
from storage.passwords import CROCKFORD, Hasher


@dataclass
class Services:
    settings: Settings
    db: Database
    hasher: Hasher
    client: AsyncWebClient
    """With retries, for whatever may be sent twice."""
    careful_client: AsyncWebClient
    """Without retries, for the password."""
    people: People
    team: str
    """The Slack team the bot is installed in."""
    work: "Work" = field(default_factory=lambda: Work())

    @property
    def command(self) -> str:
        return self.settings.bot_command


class Work:
    """What goes on after the acknowledgement, so that a shutdown can wait for it."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Goes on with it in a task of its own."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def drain(self, timeout: float) -> bool:
        """Waits up to `timeout` seconds until nothing is under way; False when something still was."""
        pending = set(self._tasks)
        if pending:
            _, pending = await asyncio.wait(pending, timeout=timeout)
        return not pending


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

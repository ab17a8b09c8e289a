"""What the listeners work with, made once at start and handed to each `register`."""

import asyncio
import secrets
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

    def joins(self) -> None:
        """The task that calls this is waited for by `drain`."""
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def drain(self, timeout: float) -> bool:
        """Waits up to `timeout` seconds until nothing is under way; False when something still was."""
        await asyncio.sleep(0)  # lets a task that was just created say that it joins
        pending = self._tasks - {asyncio.current_task()}
        if pending:
            _, pending = await asyncio.wait(pending, timeout=timeout)
        return not pending


def new_reference() -> str:
    """An id for one request, that a person can read out and an admin can search the log for."""
    return "".join(secrets.choice(CROCKFORD) for _ in range(8))

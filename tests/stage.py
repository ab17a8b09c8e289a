"""The bot in a local Slack, with people of every role, a channel of each kind and two workspaces."""

import asyncio
import contextlib
import io
import logging
import os
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy import select

from bot import log
from bot.run import Bot
from bot.services import Limits
from bot.settings import Settings
from sandbox.people import Person
from sandbox.slack import Slack
from sandbox.world import Channel, Group, Message
from storage import audit, grants, workspaces
from storage.access import Actor, Role
from storage.audit import Origin, Surface
from storage.credentials import rows
from storage.database import Database
from storage.models import CREDENTIALS, AuditEvent, Credential, Workspace
from storage.passwords import Parsed, find
from tests import raw

MANIFEST: dict[str, Any] = yaml.safe_load((Path(__file__).parent.parent / "manifest.yml").read_text())
PATIENT = Limits(
    acknowledge=60,
    question=60,
    request=60,
    report_turn=60,
    stop=60,
    last_words=60,
    health_interval=0,
    health_patience=60,
    looks=(0.01, 0.05, 0.2, 1.0),
)
"""Nothing fails because the machine is slow."""
LATE_ACKS = float(os.environ.get("LATE_ACKS", "0"))  # seconds; `make soak` runs the flows with it too
BY_TEST = Origin(Actor("shell:test", "T0SANDBOX", owner=True), Surface.SHELL, reference="test")


class Clock:
    """A clock that goes on by itself only when it is told to."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC).replace(microsecond=0)

    def __call__(self) -> datetime:
        return self.now

    def seconds(self) -> float:
        return self.now.timestamp()

    def passes(self, **given: float) -> None:
        self.now += timedelta(**given)


@dataclass
class Stage:
    slack: Slack
    bot: Bot
    db: Database
    clock: Clock
    logs: io.StringIO
    database_url: str
    acme: Workspace
    zeta: Workspace
    olga: Person
    adam: Person
    wanda: Person
    rita: Person
    rex: Person
    mia: Person
    gus: Person
    mail: Channel
    secret: Channel
    quiet: Channel
    """Public, mapped to acme; the bot is no member."""
    other: Channel
    """Mapped to zeta."""
    lobby: Channel
    """Not mapped."""
    oncall: Group
    environment: dict[str, str]
    """The settings, for a bot in a process of its own."""
    running: list[Bot]
    """The bots of this process: that of the stage, unless it was not started, and those that a test starts beside it."""

    async def settled(self) -> None:
        """Waits until the bots have done all that they began, and all that they owe."""
        for bot in self.running:
            await bot.services.work.drain(20)
            async with asyncio.timeout(120):
                await bot.errands.idle()

    async def grant(self, person: Person, role: Role = Role.WRITER) -> None:
        """Gives a role in acme."""
        await self.db.change(grants.grant, BY_TEST, self.slack.world.team.id, person.id, role, self.acme.id)

    async def create(self, person: Person, name: str, channel: Channel | None = None) -> str:
        """The whole way by hand; returns the password as the person reads it."""
        where = channel or self.mail
        await person.types(where, f"/smtp create {name}")
        await person.sees_modal("New SMTP credential")
        await person.submits()
        shown = await person.sees(f": {name}\n", where)
        await self.settled()
        return password_in(person, shown).canonical

    async def events(self, **where: Any) -> list[AuditEvent]:
        found = await self.db.read(audit.latest, None, limit=1000)
        return [row for row in reversed(found) if all(getattr(row, key) == value for key, value in where.items())]

    async def credentials(self) -> list[Credential]:
        return await self.db.read(rows, select(CREDENTIALS).order_by(CREDENTIALS.c.created_at, CREDENTIALS.c.id))

    async def passdb(self) -> list[str]:
        return [username for (username,) in await raw.sql(self.db, "SELECT username FROM smtp_passdb ORDER BY username")]


def password_in(person: Person, message: Message) -> Parsed:
    """The password that a message shows."""
    return next(find(person.read(message)))


def settings(**given: Any) -> Settings:
    """With nothing from a `.env`."""
    make: Any = Settings
    made: Settings = make(_env_file=None, **given)
    return made


@contextlib.asynccontextmanager
async def stage(
    database_url: str,
    mode: str,
    limits: Limits = PATIENT,
    kind: type[Slack] = Slack,
    start: bool = True,
    late_acks: float = LATE_ACKS,
    **more: Any,
) -> AsyncIterator[Stage]:
    """Starts all of it. `mode`: `socket` or `http`. Without `start` all but the bot."""
    clock = Clock()
    slack = kind(clock.seconds, event_retries=(0.0, 0.0, 0.0), ack_timeout=60, late_acks=late_acks)
    app = slack.install(MANIFEST)
    olga, adam, wanda, rita, rex, mia = (slack.add_person(name) for name in ("olga", "adam", "wanda", "rita", "rex", "mia"))
    gus = slack.add_person("gus", is_restricted=True)
    everybody = (olga, adam, wanda, rita, rex, mia, gus)
    mail = slack.add_channel("mail", *everybody)
    secret = slack.add_channel("mail-secret", olga, adam, wanda, private=True, with_bot=False)
    quiet = slack.add_channel("mail-quiet", *everybody, with_bot=False)
    other = slack.add_channel("zeta-mail", *everybody)
    lobby = slack.add_channel("lobby", *everybody)
    oncall = slack.add_group("oncall", rex)

    db = Database(database_url, clock)
    acme = await db.change(workspaces.add, BY_TEST, "acme", "Acme")
    zeta = await db.change(workspaces.add, BY_TEST, "zeta", "Zeta")
    team = slack.world.team.id
    for channel in (mail, secret, quiet):
        await db.change(workspaces.map_channel, BY_TEST, team, channel.id, acme.id)
    await db.change(workspaces.map_channel, BY_TEST, team, other.id, zeta.id)
    roles = {adam.id: Role.ADMIN, wanda.id: Role.WRITER, rita.id: Role.READER, oncall.id: Role.RESPONDER}
    for principal, role in roles.items():
        await db.change(grants.grant, BY_TEST, team, principal, role, acme.id)

    log.configure("DEBUG", "json")
    logs = io.StringIO()
    handler = logging.getLogger().handlers[0]
    assert isinstance(handler, logging.StreamHandler)
    handler.setStream(logs)
    async with slack.serve():
        folder = tempfile.TemporaryDirectory()
        given: dict[str, Any] = {
            "slack_bot_token": app.bot_token,
            "slack_app_token": app.app_token if mode == "socket" else "",
            "slack_signing_secret": app.signing_secret,
            "slack_api_url": f"{slack.url}/api/",
            "bot_owners": olga.id,
            "database_url": database_url,
            "revoked_journal": Path(folder.name) / "journal",
            "host": "127.0.0.1",
            "port": 0,
            "smtp_host": "mail.example.com",
            "argon2_memory_kib": 8,
            "argon2_time_cost": 1,
            "log_level": "DEBUG",
            **more,
        }
        bot = Bot(settings(**given), clock, clock.seconds, ("127.0.0.1", 0), limits)
        environment = {name.upper(): str(value) for name, value in given.items()}
        if start:
            await bot.start()
        if mode == "http":
            app.request_url = f"http://127.0.0.1:{bot.port or given['port']}/slack/events"
        elif start:
            await slack.connected()
        try:
            yield Stage(
                slack, bot, db, clock, logs, database_url, acme, zeta, olga, adam, wanda, rita, rex, mia, gus,
                mail, secret, quiet, other, lobby, oncall, environment, [bot] if start else [],
            )  # fmt: skip
        finally:
            if start:
                await bot.stop()
            await db.close()
            folder.cleanup()
    assert '"event": "unexpected failure"' not in logs.getvalue(), logs.getvalue()

"""`python -m sandbox`: the whole product on one machine. A Slack of its own, the bot in it, and a mail server that shows each log-in."""

import asyncio
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import SecretStr
from sqlalchemy import select

from bot import log
from bot.log import SECRET
from bot.run import Bot, StartError
from bot.settings import Settings
from mailauth.verifier import Answer, Verifier
from sandbox.mail import MailServer
from sandbox.slack import Slack
from sandbox.web import Page
from storage import grants, workspaces
from storage.access import Actor, Role
from storage.audit import Origin, Surface
from storage.database import Database, Transaction
from storage.models import CREDENTIALS
from storage.passwords import Hasher, mask

PORT = 8080
MAIL_PORT = 2525
PORTS_TRIED = 20
LOOKED_AT = 0.2  # seconds
LEAK_WATCH = {"message.channels": "channels:history", "message.groups": "groups:history"}
"""What `BOT_LEAK_WATCH` adds to the manifest: event -> its scope."""
TOKENS = ("SLACK_BOT_TOKEN", "SLACK_APP_TOKEN", "SLACK_SIGNING_SECRET")


def main(port: int = PORT, mail_port: int = MAIL_PORT) -> None:
    """Runs until Ctrl-C, on the next free ports. Exits with status 1, and says why, when it cannot start."""
    try:
        refuse_real_tokens()
        asyncio.run(run(free_port(port), free_port(mail_port)))
    except (StartError, OSError) as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None


def free_port(first: int) -> int:
    """The first port from `first` on that nobody listens on here; 0 for 0. Raises StartError after 20 that are taken."""
    if first == 0:
        return 0
    for port in range(first, min(first + PORTS_TRIED, 65536)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise StartError(f"The {PORTS_TRIED} ports from {first} on are all taken. Choose another with --port or --mail-port.")


def refuse_real_tokens() -> None:
    """Raises StartError where settings for a real Slack are: a sandbox must not be mistaken for it."""
    written = Path(".env").read_text(errors="replace").replace("\0", "") if Path(".env").is_file() else ""
    found = [name for name in TOKENS if os.environ.get(name) or any(line.strip().startswith(f"{name}=") for line in written.splitlines())]
    if found:
        raise StartError(
            f"{', '.join(found)} is set: this is only a sandbox and refuses real Slack tokens. Run it in another folder, or unset it."
        )


def manifest() -> dict[str, Any]:
    made: dict[str, Any] = yaml.safe_load((files("bot") / "manifest.yml").read_text())
    made["settings"]["event_subscriptions"]["bot_events"] += LEAK_WATCH
    made["oauth_config"]["scopes"]["bot"] += LEAK_WATCH.values()
    return made


class Demo:
    """Everything, seeded and running.

    Args:
        folder: where the SQLite file is made.
    """

    def __init__(self, folder: Path, port: int, mail_port: int = MAIL_PORT, argon2: tuple[int, int, int] = (19456, 2, 1)) -> None:
        self._url = f"sqlite:///{folder / 'sandbox.db'}"
        self._port = port
        self._mail_port = mail_port
        self._argon2 = argon2
        self.slack: Slack
        self.page: Page

    async def run(self, ready: Callable[["Demo"], None], stop: asyncio.Event) -> None:
        roles: dict[str, str] = {}
        self.page = Page(roles, lambda text: SECRET.sub("[secret]", mask(text)))
        self.slack = self.page.slack = slack = Slack(routes=self.page.routes())
        app = slack.install(manifest())
        db = Database(self._url)
        await db.upgrade()
        await self._seed(db, roles)
        hasher = Hasher(*self._argon2)
        verifier = Verifier(db, hasher)
        mail = self.page.mail = MailServer(lambda *asked: self._verify(verifier, *asked), slack.world.clock, slack.world.touch)
        await mail.start(self._mail_port)
        flushing = asyncio.create_task(verifier.keep_flushing())
        try:
            async with slack.serve(self._port):
                settings = Settings(
                    _env_file=None,  # type: ignore[call-arg]
                    slack_bot_token=SecretStr(app.bot_token),
                    slack_app_token=SecretStr(app.app_token),
                    slack_api_url=f"{slack.url}/api/",
                    bot_mode="socket",
                    bot_leak_watch=True,
                    bot_owners=frozenset({next(key for key, role in roles.items() if role == "owner")}),
                    database_url=SecretStr(self._url),
                    smtp_host="127.0.0.1",
                    smtp_port=mail.port,
                    smtp_tls="none",
                    argon2_memory_kib=self._argon2[0],
                    argon2_time_cost=self._argon2[1],
                    argon2_parallelism=self._argon2[2],
                )
                bot = Bot(settings, metrics=("127.0.0.1", 0))
                await bot.start()
                watching = asyncio.create_task(self._watch(db, mail))
                try:
                    await slack.connected()
                    ready(self)
                    await stop.wait()
                finally:
                    watching.cancel()
                    await bot.stop()
        finally:
            flushing.cancel()
            await mail.stop()
            hasher.close()
            await db.close()

    async def _verify(self, verifier: Verifier, username: str, password: str, address: str) -> tuple[bool, str]:
        result = await verifier.check(username, password, address, "smtp")
        if result.answer is Answer.YES:
            self.page.done.add("send")
            return True, "accepted"
        return False, result.why

    async def _seed(self, db: Database, roles: dict[str, str]) -> None:
        slack, team = self.slack, self.slack.world.team.id
        by = Origin(Actor("shell:demo", team, owner=True), Surface.SHELL, reference="demo")
        wanda, rita, rex, adam, olga = (slack.add_person(name) for name in ("wanda", "rita", "rex", "adam", "olga"))
        gus = slack.add_person("gus", is_restricted=True)
        everybody = (wanda, rita, rex, adam, olga, gus)
        for person, role in zip(everybody, ("writer", "reader", "responder on call", "admin", "owner", "guest"), strict=True):
            roles[person.id] = role
        acme = await db.change(workspaces.add, by, "acme", "Acme")
        shop = await db.change(workspaces.add, by, "shop", "Acme Shop")
        mapped = {
            slack.add_channel("acme-mail", *everybody): acme,
            slack.add_channel("acme-secret", wanda, adam, olga, private=True): acme,
            slack.add_channel("shop-mail", *everybody): shop,
        }
        slack.add_channel("random", *everybody)
        for channel, workspace in mapped.items():
            await db.change(workspaces.map_channel, by, team, channel.id, workspace.id)
        oncall = slack.add_group("oncall", rex)
        for principal, role in ((wanda.id, Role.WRITER), (rita.id, Role.READER), (oncall.id, Role.RESPONDER), (adam.id, Role.ADMIN)):
            await db.change(grants.grant, by, team, principal, role, acme.id)
        for person in everybody:
            slack.world.dm(person.id)

    async def _watch(self, db: Database, mail: MailServer) -> None:
        """Ticks off the steps of the first minute. Some are only in the store, which tells nobody: it is looked at again and again."""
        while True:
            await self.slack.world.changed(LOOKED_AT)
            states = set(await db.read(_states))
            refused = bool(mail.logins) and not mail.logins[-1].accepted
            people = self.slack.people
            posted = [one.text for messages in self.slack.world.messages.values() for one in messages if one.user in people]
            done = {
                *({"create"} if states & {"active", "deleted"} else ()),
                *({"leak"} if any(mask(said) != said for said in posted) else ()),
                *({"revoke"} if "deleted" in states else ()),
                *({"refused"} if "deleted" in states and refused else ()),
            }
            if done - self.page.done:
                self.page.done |= done
                self.slack.world.touch()


def _states(tx: Transaction) -> Sequence[str]:
    return tx.connection.scalars(select(CREDENTIALS.c.state).distinct()).all()


async def run(port: int, mail_port: int) -> None:
    """Raises StartError, or OSError when a port cannot be listened on."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    log.configure("INFO", "console")
    logging.getLogger("sandbox").info("sandbox: nothing here is a real Slack or a real mail server")
    print("Starting a Slack, the bot and a mail server on this machine…", flush=True)

    def ready(demo: Demo) -> None:
        print(f"\nSandbox: open {demo.slack.url} in a browser. Ctrl-C ends it.")
        print(f"Its mail server listens on 127.0.0.1 port {demo.page.mail.port}.\n", flush=True)

    with tempfile.TemporaryDirectory(prefix="smtp-bot-sandbox-") as folder:
        await Demo(Path(folder), port, mail_port).run(ready, stop)

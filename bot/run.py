"""The running bot: starts everything in order, says when it is ready, and stops without dropping what is under way."""

import asyncio
import contextlib
import gc
import os
import signal
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

import structlog
from aiohttp import ClientSession
from prometheus_client import Counter, Gauge
from starlette.applications import Starlette

from bot import app, health, past, server, sweep, web
from bot.delivery import Work
from bot.errands import Worker
from bot.found import Desk
from bot.github import Keys
from bot.health import Health
from bot.people import People
from bot.server import ListenError, Server, listen
from bot.services import USUAL, Limits, Services
from bot.settings import Settings
from bot.slack import Away, Installation, Ok, Refused, Reply, Slack
from bot.socket_mode import SocketMode, pauses
from storage import workspaces
from storage.connecting import Unusable
from storage.database import Clock, Database, Schema, Trouble, Unavailable, utc_now
from storage.journal import Journal
from storage.passwords import Hasher
from storage.past import Past

CLOSE_TIMEOUT = 5.0  # seconds that it may take to close what is left then
DEFAULT_PORT = 3000
METRICS_LISTEN = ("127.0.0.1", 9464)
METRICS_CONNECTIONS = 16
# Only these are about the token; whatever else Slack answers may pass by itself. https://docs.slack.dev/reference/methods/auth.test
WRONG_TOKEN = (
    "invalid_auth",
    "not_authed",
    "account_inactive",
    "token_revoked",
    "token_expired",
    "not_allowed_token_type",
    "missing_scope",
    "no_permission",
    "org_login_required",
    "ekm_access_denied",
)

SCHEMAS = {
    Schema.EMPTY: "the database is empty. Run: smtp-bot db upgrade",
    Schema.OLD: "the database's schema is out of date. Run: smtp-bot db upgrade",
    Schema.UNKNOWN: "the database was made by a newer release, beside which this one must not run. Install that release.",
}

log = structlog.get_logger(__name__)
slack_connected = Gauge("smtp_bot_slack_connected", "1 while Slack can reach the bot: over the WebSocket, or by HTTP once it serves")
database_errors = Counter("smtp_bot_database_errors_total", "What the database was asked and did not do", ["trouble"])
for _trouble in Trouble:
    database_errors.labels(_trouble.value)  # begins at 0: a rate sees the first one only so
T = TypeVar("T")


class StartError(Exception):
    """Why the bot cannot start, and what to do about it."""


class NotYet(StartError):
    """It cannot start now; it may be different in a moment."""


async def open_database(settings: Settings, clock: Clock = utc_now, make: bool = True) -> Database:
    """Connects to the store. SQLite is brought up to date; PostgreSQL must be already.

    Args:
        make: whether an SQLite file that is not there is made.

    Raises:
        NotYet: it cannot be used now.
        StartError: it cannot be used until somebody changes something, or its schema is of another release.
    """
    db = Database(settings.database_url.get_secret_value(), clock, pooled=settings.database_pooler == "transaction")
    try:
        schema = await db.schema(make)
        if db.sqlite and (schema is Schema.OLD or (schema is Schema.EMPTY and make)):
            await db.upgrade()
            schema = Schema.CURRENT
        if not schema.serves:
            raise StartError(f"DATABASE_URL: {SCHEMAS[schema]}")
    except Unusable as error:
        await db.close()
        if error.passes:
            database_errors.labels(Trouble.AWAY.value).inc()
        raise (NotYet if error.passes else StartError)(f"DATABASE_URL: {error}") from None
    except BaseException:
        await db.close()
        raise
    return db


class Bot:
    """One bot process.

    Args:
        clock: tells the time for what is stored.
        monotonic: seconds, for the age of what is remembered.
        metrics: host and port for health and metrics; port 0 takes any. None: `METRICS_LISTEN`, if it is free.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
        metrics: tuple[str, int] | None = None,
        limits: Limits = USUAL,
    ) -> None:
        self.settings = settings
        self.limits = limits
        self._clock = clock
        self._monotonic = monotonic
        self._metrics = metrics
        self._stack = contextlib.AsyncExitStack()
        self._health = Health(limits.health_interval, limits.health_patience)
        self._gate = web.Gate()
        leaks_secret = settings.leaks_secret.get_secret_value()
        github = Keys(settings.leaks_github_keys, monotonic) if settings.leaks_github_keys else None
        self._found = Desk(leaks_secret, github, lambda: clock().timestamp()) if leaks_secret or github else None
        self._listeners: list[Server] = []
        self._front: Server | None = None
        self._socket: SocketMode | None = None
        self.services: Services
        self.errands: Worker
        self.past: Past | None = None
        self.port: int | None = None
        """Where HTTP listens."""
        self.metrics_port: int | None = None
        """Where health and metrics listen."""

    async def start(self) -> None:
        """Returns when the bot serves. Waits, as long as it takes, for Slack and the database; health listens meanwhile.

        Raises:
            StartError, SettingsError: waiting would not help.
        """
        settings = self.settings
        settings.check_slack()
        try:
            self._listen()
            db = await self._insist(lambda: open_database(settings, self._clock))
            db.failed = lambda trouble: database_errors.labels(trouble.value).inc()
            self._stack.push_async_callback(db.close)
            self._stack.push_async_callback(self._health.close)
            self._health.watch(db)
            me = await self._connect(db)
            if self._found is not None:
                self._found.services = self.services
            self.errands = Worker(self.services)
            self.past = following = Past(db, Journal(settings.journal), f"bot on {socket.gethostname()}")
            self._stack.callback(following.close)
            bolt = app.build(self.services, me.bot_id, me.bot_user)
            if settings.mode == "socket":
                await self._open_socket(bolt, db)
            else:
                slack_connected.set_function(lambda: 1.0)
                self._gate.guard = web.Guard(bolt, db, self.settings.signing_secrets, lambda: self._clock().timestamp())
            watching = past.watch(self.services)
            for forever in (sweep.forever(self.services), self.errands.forever(), following.forever(), watching):
                self._stack.push_async_callback(_end, asyncio.create_task(forever))
        except BaseException:
            await self._stack.aclose()
            raise
        self._health.waiting = None
        log.info("ready", mode=settings.mode, team=me.team_id, port=self.port, command=settings.bot_command)

    async def stop(self) -> None:
        """Takes nothing new, acknowledges what was taken, finishes what goes on after it, and closes."""
        self._health.waiting = "stopping"
        slack_connected.set_function(lambda: 0.0)
        until = time.monotonic() + self.limits.stop
        if self._front is not None:
            await self._front.close()
        if self._socket is not None:
            await self._socket.stop_taking(self.limits.stop)
        if not await self.services.work.drain(max(until - time.monotonic(), 0)):
            log.warning("stopped with work under way", seconds=self.limits.stop)
        await self._stack.aclose()

    def _listen(self) -> None:
        settings = self.settings
        operators = web.for_operators(self._health.problem, lambda: self.past.remark if self.past else None)
        self._stack.push_async_callback(self._end_listeners)
        try:
            host, port = self._metrics or METRICS_LISTEN
            self.metrics_port = self._serve(operators, "METRICS_LISTEN", host, port, METRICS_CONNECTIONS).port
        except StartError as error:
            if self._metrics is not None:
                raise
            # Nobody asked for this port: a second bot on the machine still starts.
            log.warning("no health and metrics for operators", why=str(error))
        if settings.listens:
            found = self._found.__call__ if self._found is not None else None
            outside = web.for_slack(self._gate if settings.mode == "http" else None, self._health.problem, found)
            port = DEFAULT_PORT if settings.port is None else settings.port
            front = self._serve(outside, "HOST, PORT", settings.host, port, self.limits.connections)
            self.port = front.port
            if settings.mode == "http":
                self._front = front
        elif self._found is not None:
            log.warning("LEAKS_SECRET or LEAKS_GITHUB_KEYS is set, but nothing listens for reports: set PORT")

    def _serve(self, asgi: Starlette, variables: str, host: str, port: int, connections: int) -> Server:
        try:
            listener = listen(host, port)
        except ListenError as error:
            raise StartError(f"{variables}: {error}.") from None
        made = Server(asgi, listener, connections, self.limits.request, int(self.limits.stop))
        self._listeners.append(made)
        return made

    async def _end_listeners(self) -> None:
        await asyncio.gather(*(one.close() for one in self._listeners))

    async def _connect(self, db: Database) -> Installation:
        settings, limits = self.settings, self.limits
        slack = Slack(settings.slack_bot_token.get_secret_value(), settings.slack_api_url, looks=limits.looks)
        self._stack.push_async_callback(slack.close)

        async def remember() -> None:
            try:
                await db.note(workspaces.remember_installation, me.team_id, me.team, me.bot_user)
            except Unavailable as error:
                raise NotYet(f"DATABASE_URL: {health.WORDS[error.trouble]}.") from None

        me = await self._insist(lambda: reached(slack.auth_test(), "SLACK_BOT_TOKEN"))
        await self._insist(remember)
        hasher = Hasher(settings.argon2_memory_kib, settings.argon2_time_cost, settings.argon2_parallelism)
        self._stack.callback(hasher.close)
        people = People(slack, me.team_id, settings.bot_owners, settings.bot_allow_guests, self._monotonic, limits.question)
        if not settings.bot_owners:
            log.warning("BOT_OWNERS is empty: nobody can make workspaces or give the first roles from Slack")
        self.services = Services(settings, db, hasher, slack, people, me.team_id, Work(limits.places, limits.waiting), limits)
        return me

    async def _open_socket(self, bolt: Any, db: Database) -> None:
        async def address() -> str:
            return await reached(self.services.slack.open_socket(self.settings.slack_app_token.get_secret_value()), "SLACK_APP_TOKEN")

        # Asking once first tells a wrong token apart, for which no further try would help.
        await self._insist(address)
        http = ClientSession()
        self._stack.push_async_callback(http.close)
        self._socket = SocketMode(bolt, address, db, http, self.limits.ping, self.limits.last_words)
        self._stack.push_async_callback(self._socket.close)
        self._health.waiting = "starting: the Socket Mode connection to Slack is not open yet"
        await self._socket.start()
        self._health.add(self._connected)
        slack_connected.set_function(lambda: float(self._connected() is None))

    def _connected(self) -> str | None:
        return None if self._socket is None or self._socket.connected else "not connected to Slack"

    async def _insist(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """What the attempt returns, once it does. While it raises NotYet, health says why."""
        for pause in pauses(self.limits.first_pause, self.limits.longest_pause):
            try:
                return await attempt()
            except NotYet as why:
                self._health.waiting = f"starting: {why}"
                log.warning("waiting", why=str(why))
            await asyncio.sleep(pause)
        raise AssertionError


async def reached(asked: Awaitable[Reply[T]], variable: str) -> T:
    """Slack's answer. Raises StartError naming the variable that it did not accept, or NotYet."""
    match await asked:
        case Ok(data):
            return data
        case Refused(word) if word in WRONG_TOKEN:
            raise StartError(f"{variable}: Slack answered {word}. Check the token; smtp-bot doctor tells more.")
        case Refused(word):
            raise NotYet(f"SLACK_API_URL: Slack answers {word}.")
        case Away("not_slack" | "malformed", _):
            raise NotYet("SLACK_API_URL: Slack answers what is no answer of its API.")
        case Away(why, _):
            raise NotYet(f"SLACK_API_URL: Slack does not answer ({why}).")


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def run(settings: Settings, metrics: tuple[str, int] | None = None, limits: Limits = USUAL) -> None:
    """Runs until SIGTERM or SIGINT, also while it starts. Raises StartError, SettingsError."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    bot = Bot(settings, metrics=metrics, limits=limits)
    starting = asyncio.create_task(bot.start())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        log.info("stopping before it was ready")
        last_resort(CLOSE_TIMEOUT)
        await _end(starting)
        return
    await starting
    # What was made until now stays: no collection has to look at it again.
    gc.collect()
    gc.freeze()
    await stopping
    log.info("stopping")
    last_resort(limits.stop + CLOSE_TIMEOUT)
    await bot.stop()


def last_resort(seconds: float) -> None:
    """Ends the process when it has not ended by then: a thread that hangs in a call of a database cannot be cancelled."""

    def end() -> None:
        log.error("ended by force", seconds=seconds)
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


def main(settings: Settings, metrics: tuple[str, int] | None = None, limits: Limits = USUAL) -> None:
    """Runs the bot on the fastest event loop there is. Raises StartError, SettingsError."""
    descriptors = server.raise_descriptor_limit()
    limits = replace(limits, connections=min(limits.connections, descriptors // 4))
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    with contextlib.suppress(ImportError):  # there is no build for some platforms
        from uvloop import new_event_loop as loop_factory
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(run(settings, metrics, limits))

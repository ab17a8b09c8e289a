"""The running bot: starts everything in order, says when it is ready, and stops without dropping what is under way."""

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import structlog
import uvicorn
from slack_bolt.adapter.socket_mode.aiohttp import AsyncSocketModeHandler
from slack_sdk.socket_mode.aiohttp import SocketModeClient
from slack_sdk.socket_mode.request import SocketModeRequest
from slack_sdk.web.async_client import AsyncWebClient

from bot import app, sweep, web
from bot.errands import Worker
from bot.people import People
from bot.services import Services, acknowledging
from bot.settings import Settings
from bot.slack import Away, Ok, Refused, Reply, Slack
from storage import workspaces
from storage.database import Clock, Database, Schema, utc_now
from storage.passwords import Hasher

DRAIN_TIMEOUT = 20.0  # seconds that a shutdown waits for work under way
DEFAULT_PORT = 3000
T = TypeVar("T")

log = structlog.get_logger(__name__)


class StartError(Exception):
    """Why the bot cannot start, and what to do about it."""


async def open_database(settings: Settings, clock: Clock = utc_now) -> Database:
    """Connects to the store. SQLite is brought up to date; PostgreSQL must be already.

    Raises:
        StartError: no connection, or a schema of another release.
    """
    db = Database(settings.database_url.get_secret_value(), clock)
    try:
        schema = await db.schema()
        if db.sqlite and schema in (Schema.EMPTY, Schema.OLD):
            await db.upgrade()
            schema = Schema.CURRENT
    except Exception as error:
        await db.close()
        raise StartError(f"DATABASE_URL: the database does not answer ({type(error).__name__}). Check that it runs.") from None
    if schema is not Schema.CURRENT:
        await db.close()
        if schema is Schema.UNKNOWN:
            raise StartError("DATABASE_URL: the database was made by a newer release. Install that release.")
        raise StartError("DATABASE_URL: the database's schema is out of date. Run: smtp-bot db upgrade")
    return db


class Server(uvicorn.Server):
    """uvicorn without its signal handlers: the bot stops it, after it has drained."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Socket(AsyncSocketModeHandler):
    """Bolt's Socket Mode adapter, which also says when an acknowledgement was sent."""

    async def handle(self, client: SocketModeClient, req: SocketModeRequest) -> None:  # type: ignore[override]
        sent = acknowledging()
        try:
            await super().handle(client, req)
        finally:
            sent.set()


class Bot:
    """One bot process.

    Args:
        clock: tells the time for what is stored.
        monotonic: seconds, for the age of what is remembered.
    """

    def __init__(self, settings: Settings, clock: Clock = utc_now, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.settings = settings
        self._clock = clock
        self._monotonic = monotonic
        self._stack = contextlib.AsyncExitStack()
        self._socket: Socket | None = None
        self.services: Services
        self.errands: Worker
        self.port: int | None = None
        """Where HTTP listens."""

    async def start(self) -> None:
        """Raises StartError, SettingsError."""
        settings = self.settings
        settings.check_slack()
        try:
            db = await open_database(settings, self._clock)
            self._stack.push_async_callback(db.close)
            self.services = await self._connect(db)
            self.errands = Worker(self.services)
            bolt = app.build(self.services)
            if settings.mode == "socket":
                handler = Socket(bolt, settings.slack_app_token.get_secret_value())
                self._stack.push_async_callback(handler.close_async)
                self._socket = handler
                # The client would try for ever; asking once first tells a wrong token apart.
                app_token = settings.slack_app_token.get_secret_value()
                reached(await self.services.slack.open_socket(app_token), "SLACK_APP_TOKEN")
                await handler.client.connect()
            if settings.mode == "http" or settings.port is not None:
                guard = None
                if settings.mode == "http":
                    secret = settings.slack_signing_secret.get_secret_value()
                    guard = web.Guard(bolt, db, secret, lambda: self._clock().timestamp())
                await self._serve(guard)
            for forever in (sweep.forever(self.services), self.errands.forever()):
                self._stack.push_async_callback(_end, asyncio.create_task(forever))
        except BaseException:
            await self._stack.aclose()
            raise
        log.info("ready", mode=settings.mode, team=self.services.team, port=self.port, command=settings.bot_command)

    async def stop(self) -> None:
        """Takes nothing new, finishes what is under way, and closes."""
        if self._socket is not None:
            self._socket.client.auto_reconnect_enabled = False
            await self._socket.client.disconnect()
        if not await self.services.work.drain(DRAIN_TIMEOUT):
            log.warning("stopped with work under way", seconds=DRAIN_TIMEOUT)
        await self._stack.aclose()

    async def ready(self) -> str | None:
        try:
            await self.services.db.ping()
        except Exception as error:
            return f"the database does not answer: {type(error).__name__}"
        if self._socket is not None and not await self._socket.client.is_connected():
            return "not connected to Slack"
        return None

    async def _connect(self, db: Database) -> Services:
        settings = self.settings
        token, base_url = settings.slack_bot_token.get_secret_value(), settings.slack_api_url
        slack = Slack(token, base_url)
        self._stack.push_async_callback(slack.close)
        me = reached(await slack.auth_test(), "SLACK_BOT_TOKEN")
        await db.note(workspaces.remember_installation, me.team_id, me.team, me.bot_user)
        hasher = Hasher(settings.argon2_memory_kib, settings.argon2_time_cost, settings.argon2_parallelism)
        self._stack.callback(hasher.close)
        people = People(slack, me.team_id, settings.bot_owners, settings.bot_allow_guests, self._monotonic)
        if not settings.bot_owners:
            log.warning("BOT_OWNERS is empty: nobody can make workspaces or give the first roles from Slack")
        return Services(settings, db, hasher, slack, AsyncWebClient(token, base_url=base_url), people, me.team_id)

    async def _serve(self, guard: web.Guard | None) -> None:
        port = DEFAULT_PORT if self.settings.port is None else self.settings.port
        listener = listen(self.settings.host, port)
        self.port = listener.getsockname()[1]
        config = uvicorn.Config(
            web.build(guard, self.ready), log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=10
        )
        server = Server(config)
        serving = asyncio.create_task(server.serve([listener]))

        async def close() -> None:
            server.should_exit = True
            await serving

        self._stack.push_async_callback(close)


def reached(reply: Reply[T], variable: str) -> T:
    """Slack's answer, or StartError naming the variable that it did not accept."""
    match reply:
        case Ok(data):
            return data
        case Refused(word):
            raise StartError(f"{variable}: Slack answered {word}. Check the token; smtp-bot doctor tells more.")
        case Away(why, _):
            raise StartError(f"SLACK_API_URL: Slack does not answer ({why}).")


def listen(host: str, port: int) -> socket.socket:
    """A listening socket that names its protocol: asyncio turns Nagle's delay (40 ms an answer) off only for those."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(512)
    except OSError as error:
        listener.close()
        raise StartError(f"HOST, PORT: cannot listen on {host} port {port} ({error.strerror}).") from None
    return listener


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def run(settings: Settings) -> None:
    """Runs until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    bot = Bot(settings)
    await bot.start()
    await stop.wait()
    log.info("stopping")
    await bot.stop()

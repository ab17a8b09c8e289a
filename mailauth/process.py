"""`smtp-bot authd`: a parent that holds the sockets, and workers behind it that answer.

The parent opens the sockets or takes them from systemd, starts workers as processes of their own with the sockets handed down, starts those
again that end or fall silent, and on SIGHUP replaces them one after the other: a new one (with the code and the settings of now) listens
and has reached the store before the old one stops taking connections. Nobody who connects ever finds nothing.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from urllib.parse import quote

import structlog

from mailauth import notify
from mailauth.http import Door, HttpServer, check_token
from mailauth.server import AuthdConfig, Server, connection_limit
from mailauth.sessions import Sessions, shared_memory
from mailauth.sockets import AUTH, HTTP, POLICY, ListenError, handed_in, listen
from mailauth.verifier import Verifier
from storage.connecting import Unusable, sqlite_path
from storage.database import Database, Schema, parse_url
from storage.journal import Journal
from storage.passwords import Hasher

WORKER = "SMTP_BOT_AUTHD_WORKER"  # set for workers: their number, then descriptors, as `0 auth=5 policy=6 sessions=7`
SESSIONS = "sessions"
LOOK = 1.0  # seconds between two tries to reach the store at the start
RESTART_WAIT = 1.0  # seconds before a worker that died is started again
READY_TIMEOUT = 30.0  # seconds that a replacement may take until it has reached the store
SILENT = 30.0  # seconds without a sign of life after which a worker is killed; longer than any answer of the database may take
STOP_TIMEOUT = 30.0  # seconds that the workers may take to end

Sockets = dict[str, list[socket.socket]]

log = structlog.get_logger(__name__)


def run(config: AuthdConfig) -> None:
    """Answers until SIGTERM or SIGINT. Raises ListenError."""
    told = os.environ.pop(WORKER, None)
    if told is not None:
        number, *handed = told.split()
        sockets: Sockets = {}
        sessions = None
        for one in handed:
            name, _, fd = one.partition("=")
            if name == SESSIONS:
                sessions = Sessions(int(fd))
            else:
                sockets.setdefault(name, []).append(socket.socket(fileno=int(fd)))
        asyncio.run(_work(config, int(number), sockets, sessions))
    else:
        check_token(config.token)
        asyncio.run(Parent(config, _open(config)).run())


def _open(config: AuthdConfig) -> Sockets:
    """What systemd handed in; what it did not is opened here."""
    sockets = handed_in({AUTH: config.auth, POLICY: config.policy, HTTP: config.http})
    for name, variable, address in ((AUTH, "AUTHD_LISTEN", config.auth), (POLICY, "POLICY_LISTEN", config.policy)):
        if name not in sockets and address:
            sockets[name] = [listen(address, variable, config.group)]
    if HTTP not in sockets and config.http:
        rest, _, port = config.http.rpartition(":")
        many = config.workers if config.http.startswith("tcp:") and port.isdigit() and port != "0" else 1
        if many > 1 and int(port) + many - 1 > 65535:
            raise ListenError(f"AUTHD_HTTP: {many} workers need {many} ports from {port} on, and 65535 is the last. Choose a lower one.")
        addresses = [f"{rest}:{int(port) + number}" for number in range(many)] if many > 1 else [config.http]
        sockets[HTTP] = [listen(address, "AUTHD_HTTP", config.group) for address in addresses]
    if HTTP in sockets and len(sockets[HTTP]) < config.workers:
        log.warning("workers without AUTHD_HTTP: their metrics cannot be read", addresses=len(sockets[HTTP]), workers=config.workers)
    if AUTH not in sockets:
        raise ListenError("AUTHD_LISTEN: missing. Where mail servers ask: unix:/run/smtp-bot/auth or tcp:127.0.0.1:12345")
    return sockets


class _Worker:
    """A worker, as its parent sees it."""

    def __init__(self, number: int, process: asyncio.subprocess.Process) -> None:
        self.number = number
        self.process = process
        self.heard = time.monotonic()
        self.ready = asyncio.Event()
        self.replaced = False

    def tell(self, what: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(what)


class Parent:
    """Keeps `config.workers` workers alive."""

    def __init__(self, config: AuthdConfig, sockets: Sockets) -> None:
        self._config = config
        self._sockets = sockets
        self._sessions = shared_memory()
        self._current: dict[int, _Worker] = {}
        self._following: dict[asyncio.Task[None], _Worker] = {}
        self._stop = asyncio.Event()
        self._reload = asyncio.Event()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        for number in range(self._config.workers):
            self._current[number] = await self._spawn(number)
        watching = asyncio.create_task(self._watch())
        notify.notify("READY=1", "STATUS=listening")
        log.info("listening", auth=self._config.auth, policy=self._config.policy, workers=self._config.workers)
        stopped = asyncio.create_task(self._stop.wait())
        while not self._stop.is_set():
            reloading = asyncio.create_task(self._reload.wait())
            await asyncio.wait({stopped, reloading}, return_when=asyncio.FIRST_COMPLETED)
            reloading.cancel()
            if self._reload.is_set() and not self._stop.is_set():
                self._reload.clear()
                replacing = asyncio.create_task(self._replace_all())
                await asyncio.wait({stopped, replacing}, return_when=asyncio.FIRST_COMPLETED)
                replacing.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await replacing
        notify.notify("STOPPING=1")
        watching.cancel()
        await self._end_all()

    async def _spawn(self, number: int) -> _Worker:
        handed = {AUTH: self._sockets[AUTH], POLICY: self._sockets.get(POLICY, []), HTTP: self._sockets.get(HTTP, [])[number : number + 1]}
        pairs = [*((name, one.fileno()) for name, some in handed.items() for one in some), (SESSIONS, self._sessions)]
        told = " ".join([str(number), *(f"{name}={fd}" for name, fd in pairs)])
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *sys.orig_argv[1:]),
            stdin=pipe,
            stdout=pipe,
            pass_fds=[fd for _, fd in pairs],
            env={**os.environ, WORKER: told},
        )
        worker = _Worker(number, process)
        task = asyncio.create_task(self._follow(worker))
        self._following[task] = worker
        task.add_done_callback(lambda _: self._following.pop(task, None))
        return worker

    async def _follow(self, worker: _Worker) -> None:
        """Hears a worker's signs of life until it ends, and starts another in its place if nobody wanted it to end."""
        said = worker.process.stdout
        assert said
        while line := await said.readline():
            worker.heard = time.monotonic()
            if line == b"ready\n":
                worker.ready.set()
        status = await worker.process.wait()
        while self._current.get(worker.number) is worker and not self._stop.is_set():
            log.error("worker ended and is started again", worker=worker.number, status=status)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), RESTART_WAIT)
            if self._current.get(worker.number) is worker and not self._stop.is_set():
                try:
                    self._current[worker.number] = await self._spawn(worker.number)
                except OSError as error:
                    log.error("worker not started", worker=worker.number, error=type(error).__name__)

    async def _replace_all(self) -> None:
        """One after the other. A new one that does not reach the store is ended, and the old ones go on."""
        notify.reloading()
        log.info("replacing the workers")
        for number in range(self._config.workers):
            try:
                fresh = await self._spawn(number)
            except OSError as error:
                log.error("no new worker; the old ones go on", worker=number, error=type(error).__name__)
                break
            ready = asyncio.create_task(fresh.ready.wait())
            ended = asyncio.create_task(fresh.process.wait())
            try:
                await asyncio.wait({ready, ended}, timeout=READY_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
                if not fresh.ready.is_set():
                    log.error("the new worker did not become ready; the old ones go on", worker=number)
                    break
                old, self._current[number] = self._current[number], fresh
                old.tell(signal.SIGHUP)
            finally:
                ready.cancel()
                ended.cancel()
                if self._current[number] is not fresh:
                    fresh.tell(signal.SIGTERM)
        else:
            log.info("replaced the workers")
        notify.notify("READY=1")

    async def _watch(self) -> None:
        """Ends workers that fell silent, and tells systemd that all goes on while none is."""
        interval = notify.watchdog_interval()
        while True:
            now = time.monotonic()
            silent = [worker for worker in self._current.values() if now - worker.heard > SILENT]
            for worker in silent:
                log.error("worker fell silent and is ended", worker=worker.number)
                worker.tell(signal.SIGKILL)
            if interval and not silent:
                notify.notify("WATCHDOG=1")
            await asyncio.sleep(min(interval or SILENT / 3, SILENT / 3))

    async def _end_all(self) -> None:
        for worker in self._following.values():
            worker.tell(signal.SIGTERM)
        if self._following:
            await asyncio.wait(set(self._following), timeout=STOP_TIMEOUT)
        for worker in self._following.values():
            log.error("worker did not end and is killed", worker=worker.number)
            worker.tell(signal.SIGKILL)
        if self._following:
            await asyncio.wait(set(self._following))


async def _work(config: AuthdConfig, number: int, sockets: Sockets, sessions: Sessions | None) -> None:
    """One worker: until SIGTERM, SIGINT, the end of its parent, or SIGHUP when another took over."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    replaced = False

    def end(by_another: bool) -> None:
        nonlocal replaced
        replaced = replaced or by_another
        stop.set()

    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, end, False)
    loop.add_signal_handler(signal.SIGHUP, end, True)
    loop.add_reader(0, _parent_gone, end)
    os.set_blocking(1, False)

    db = Database(existing(config.database_url), pooled=config.pooled)
    hasher = Hasher(*config.argon2)
    journal = Journal(config.journal) if config.journal else None
    verifier = Verifier(db, hasher, journal=journal, sessions=sessions, release=config.release)
    server = Server(config, verifier, connection_limit(), lambda: _say("alive"))
    await server.start(sockets[AUTH], sockets.get(POLICY, ()))
    http = HttpServer(Door(config, verifier, lambda: what_is_wrong(db))) if sockets.get(HTTP) else None
    answering = asyncio.create_task(http.serve(sockets[HTTP])) if http else None
    reaching = asyncio.create_task(_reach(db, number, verifier.name))
    await stop.wait()
    log.info("stopping", worker=number, replaced=replaced)
    reaching.cancel()
    if http:
        http.should_exit = True
    await server.stop(replaced)
    if answering:
        await answering
    hasher.close()
    await db.close()


def existing(database_url: str) -> str:
    """The same database, but an SQLite file that is not there is not made."""
    url = parse_url(database_url)
    if url.get_backend_name() != "sqlite":
        return database_url
    path = quote(str(sqlite_path(url)))
    return f"sqlite:///file:{path}?mode=rw&uri=true"


def _parent_gone(end: Callable[[bool], None]) -> None:
    if not os.read(0, 1024):
        asyncio.get_running_loop().remove_reader(0)
        end(False)


def _say(what: str) -> None:
    """To the parent; one that does not read hears it the next time."""
    with contextlib.suppress(OSError):
        os.write(1, f"{what}\n".encode())


async def _reach(db: Database, number: int, process: str) -> None:
    """Says so when the store can be asked; says why not, once for each reason."""
    told = None
    while (wrong := await what_is_wrong(db)) is not None:
        if wrong != told:
            told = wrong
            log.warning('listening, and answering "later"', why=wrong, worker=number)
        await asyncio.sleep(LOOK)
    _say("ready")
    log.info("ready", worker=number, process=process)


async def what_is_wrong(db: Database) -> str | None:
    """Why log-ins cannot be answered; None when they can."""
    try:
        async with asyncio.timeout(5):
            schema = await db.schema(make=False)
    except Unusable as error:
        return f"DATABASE_URL: {error}"
    except TimeoutError:
        return "DATABASE_URL: the database does not answer."
    if schema in (Schema.EMPTY, Schema.OLD):
        return "DATABASE_URL: the database's schema is out of date. Run: smtp-bot db upgrade"
    if schema is Schema.UNKNOWN:
        return "DATABASE_URL: the database was made by a newer release, beside which this one must not run. Install that release."
    return None

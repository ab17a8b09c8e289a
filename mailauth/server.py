"""`smtp-bot authd`: the sockets that mail servers connect to, and the processes behind them."""

import asyncio
import contextlib
import itertools
import os
import secrets
import signal
import socket
import stat
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import structlog
import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, Gauge, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from mailauth import policy
from mailauth.policy import PolicyReader, PolicyRequest, WhenAway
from mailauth.protocol import Conversation, Login
from mailauth.verifier import Answer, Verifier
from storage.database import Database
from storage.passwords import Hasher

CONNECTIONS = 2000
HANDSHAKE_TIMEOUT = 30.0  # seconds
DRAIN_TIMEOUT = 10.0  # seconds that a shutdown waits for answers under way
RESTART_WAIT = 1.0  # seconds before a worker that died is started again

log = structlog.get_logger(__name__)
open_connections = Gauge("smtp_authd_connections", "Open connections of mail servers", ["kind"])


class ListenError(Exception):
    """Why `authd` cannot listen, naming the variable."""


@dataclass(frozen=True)
class AuthdConfig:
    """Where to listen (`unix:PATH` or `tcp:HOST:PORT`) and how to answer."""

    database_url: str
    auth: str
    policy: str | None = None
    http: str | None = None
    """`tcp:HOST:PORT` of health and metrics; worker n listens on PORT + n."""
    require_tls: bool = True
    """Refuse a password that came to the mail server in clear text."""
    when_away: WhenAway = WhenAway.DEFER
    argon2: tuple[int, int, int] = (19456, 2, 1)
    """Memory in KiB, time cost, parallelism."""
    workers: int = 1


def listen(address: str, variable: str) -> socket.socket:
    """A listening socket. A Unix socket that nobody listens on any more is replaced. Raises ListenError."""
    kind, _, where = address.partition(":")
    try:
        if kind == "unix" and where:
            return _listen_unix(where)
        host, _, port = where.rpartition(":")
        if kind != "tcp" or not host or not port.isdigit():
            raise ListenError(f"{variable}: use unix:PATH or tcp:HOST:PORT")
        host = host.strip("[]")
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, int(port)))
    except OSError as error:
        raise ListenError(f"{variable}: cannot listen on {address} ({error.strerror or error}).") from None
    listener.listen(512)
    return listener


def _listen_unix(path: str) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise OSError(0, "something that is no socket is in the way")
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(ConnectionRefusedError):
            probe.connect(path)
            raise OSError(0, "somebody else listens there")
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    # Who may connect is decided by the folder: a mail server runs as a user of its own.
    os.chmod(path, 0o666)  # noqa: S103
    listener.listen(512)
    return listener


class Connection(asyncio.Protocol):
    """What both protocols share: reading stops while answers are due or the client reads none."""

    kind = ""

    def __init__(self, server: "Server") -> None:
        self.server = server
        self.transport: asyncio.Transport
        self._tasks: set[asyncio.Task[None]] = set()
        self._writable = True
        self._stopping = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        if len(self.server.connections) >= CONNECTIONS or self.server.stopping:
            self.transport.abort()
            return
        self.server.connections.add(self)
        open_connections.labels(self.kind).inc()
        self.begin()

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self.server.connections:
            self.server.connections.discard(self)
            open_connections.labels(self.kind).dec()
        self.end()

    def pause_writing(self) -> None:
        self._writable = False
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self._writable = True
        self.go_on()

    def start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def drain(self) -> None:
        """Reads no more, and closes when everything under way was answered."""
        self._stopping = True
        if not self.transport.is_closing():
            self.transport.pause_reading()
        while self._tasks:
            await asyncio.wait(set(self._tasks))
        self.transport.close()

    def begin(self) -> None: ...

    def end(self) -> None: ...

    def go_on(self) -> None: ...


class AuthConnection(Connection):
    kind = "auth"

    def begin(self) -> None:
        server = self.server
        self.conversation = Conversation(os.getpid(), next(server.numbers), secrets.token_hex(16))
        self._deadline = asyncio.get_running_loop().call_later(HANDSHAKE_TIMEOUT, self._late)
        self._send()

    def end(self) -> None:
        if hasattr(self, "conversation"):
            self._deadline.cancel()
            self.conversation.hang_up()

    def _late(self) -> None:
        if not self.conversation.ready:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if not self._stopping:
            self._read(data)

    def go_on(self) -> None:
        self._read(b"")

    def _read(self, data: bytes) -> None:
        for login in self.conversation.receive(data, time.monotonic()):
            self.start(self._answer(login))
        self._send()

    async def _answer(self, login: Login) -> None:
        conversation = self.conversation
        if self.server.config.require_tls and not login.secured:
            conversation.refuse_plaintext(login)
        else:
            answer, name = await self.server.verifier.check(login.username, login.password, login.remote, login.service)
            match answer:
                case Answer.YES:
                    conversation.grant(login, name)
                case Answer.NO:
                    conversation.refuse(login)
                case Answer.LATER:
                    conversation.fail_temporarily(login)
        if self.transport.is_closing():
            return
        if self._stopping:
            self._send()
        else:
            self._read(b"")

    def _send(self) -> None:
        if self.transport.is_closing():
            return
        out = self.conversation.take()
        if out:
            self.transport.write(out)
        if self.conversation.closed is not None:
            log.info("connection closed", why=self.conversation.closed)
            self.transport.close()
        elif self.conversation.full or not self._writable or self._stopping:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()


class PolicyConnection(Connection):
    """Requests of one connection are answered in their order, one after the other."""

    kind = "policy"

    def begin(self) -> None:
        self._reader = PolicyReader()
        self._queue: list[PolicyRequest] = []
        self._busy = False

    def data_received(self, data: bytes) -> None:
        self._read(data)

    def go_on(self) -> None:
        self._read(b"")

    def _read(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._queue += self._reader.receive(data, policy.MAX_QUEUED - len(self._queue))
        if self._queue and not self._busy:
            self._busy = True
            self.start(self._work())
        if self._reader.closed is not None and not self._busy:
            log.info("policy connection closed", why=self._reader.closed)
            self.transport.close()
        elif len(self._queue) >= policy.MAX_QUEUED or not self._writable or self._stopping:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    async def _work(self) -> None:
        try:
            while self._queue and not self.transport.is_closing():
                self.transport.write(await self._decide(self._queue.pop(0)))
        finally:
            self._busy = False
        self._read(b"")

    async def _decide(self, request: PolicyRequest) -> bytes:
        if not request.username:
            return policy.DUNNO
        try:
            return policy.DUNNO if await self.server.verifier.may_go_on(request.username) else policy.STOP
        except Exception as error:
            log.warning("cannot answer a policy request", error=type(error).__name__)
            return policy.LATER if self.server.config.when_away is WhenAway.DEFER else policy.DUNNO


class Server:
    """One process that answers on listening sockets which are open already."""

    def __init__(self, config: AuthdConfig, verifier: Verifier) -> None:
        self.config = config
        self.verifier = verifier
        self.connections: set[Connection] = set()
        self.numbers = itertools.count(1)
        self.stopping = False
        self._listening: list[asyncio.Server] = []
        self._flushing: asyncio.Task[None] | None = None

    async def start(self, auth: socket.socket, policy_socket: socket.socket | None) -> None:
        loop = asyncio.get_running_loop()
        await self.verifier.start()
        self._flushing = asyncio.create_task(self.verifier.keep_flushing())
        pairs: list[tuple[socket.socket | None, Callable[[], Connection]]] = [
            (auth, lambda: AuthConnection(self)),
            (policy_socket, lambda: PolicyConnection(self)),
        ]
        for listener, make in pairs:
            if listener is None:
                continue
            serve = loop.create_unix_server if listener.family == socket.AF_UNIX else loop.create_server
            self._listening.append(await serve(make, sock=listener))

    async def stop(self) -> None:
        """Answers what is under way, writes down what was used, and ends."""
        self.stopping = True
        for listening in self._listening:
            listening.close()
        draining = [asyncio.ensure_future(connection.drain()) for connection in set(self.connections)]
        if draining:
            await asyncio.wait(draining, timeout=DRAIN_TIMEOUT)
        for connection in set(self.connections):
            connection.transport.abort()
        if self._flushing:
            self._flushing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._flushing
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT):
                await self.verifier.flush(stopped=True)
        except Exception as error:
            log.warning("use not written down at the end", error=type(error).__name__)


class _Http(uvicorn.Server):
    """uvicorn without its signal handlers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def health(db: Database) -> Starlette:
    """/healthz, /readyz and /metrics."""

    async def healthz(_request: Request) -> Response:
        return PlainTextResponse("ok")

    async def readyz(_request: Request) -> Response:
        try:
            await db.ping()
        except Exception as error:
            return PlainTextResponse(f"the database does not answer: {type(error).__name__}", 503)
        return PlainTextResponse("ready")

    async def metrics(_request: Request) -> Response:
        return Response(generate_latest(), headers={"content-type": CONTENT_TYPE_LATEST})

    return Starlette(routes=[Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)])


async def serve(config: AuthdConfig, auth: socket.socket, policy_socket: socket.socket | None, number: int) -> None:
    """One worker, until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    db = Database(config.database_url)
    hasher = Hasher(*config.argon2)
    server = Server(config, Verifier(db, hasher))
    await server.start(auth, policy_socket)
    http: _Http | None = None
    answering: asyncio.Task[None] | None = None
    if config.http:
        host, _, port = config.http.removeprefix("tcp:").rpartition(":")
        listener = listen(f"tcp:{host}:{int(port) + number}", "AUTHD_HTTP")
        http = _Http(uvicorn.Config(health(db), log_config=None, access_log=False, lifespan="off"))
        answering = asyncio.create_task(http.serve([listener]))
    log.info("ready", auth=config.auth, policy=config.policy, worker=number, process=server.verifier.name)
    await stop.wait()
    log.info("stopping", worker=number)
    await server.stop()
    if http and answering:
        http.should_exit = True
        await answering
    hasher.close()
    await db.close()


def run(config: AuthdConfig) -> None:
    """Listens and answers until SIGTERM or SIGINT; with several workers, as their parent. Raises ListenError."""
    auth = listen(config.auth, "AUTHD_LISTEN")
    policy_socket = listen(config.policy, "POLICY_LISTEN") if config.policy else None
    try:
        if config.workers == 1:
            asyncio.run(serve(config, auth, policy_socket, 0))
        else:
            _parent(config, auth, policy_socket)
    finally:
        for address in (config.auth, config.policy):
            if address and address.startswith("unix:"):
                Path(address.removeprefix("unix:")).unlink(missing_ok=True)


def _parent(config: AuthdConfig, auth: socket.socket, policy_socket: socket.socket | None) -> None:
    """Keeps `config.workers` children alive, and ends them when it is told to end."""
    children: dict[int, int] = {}
    stopping = False

    def end(_number: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        for child in children:
            os.kill(child, signal.SIGTERM)

    def spawn(number: int) -> None:
        signals = {signal.SIGTERM, signal.SIGINT}
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # so that a signal finds each child in `children`, or none
        if stopping:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
            return
        child = os.fork()
        if child == 0:
            status = 1
            try:
                for name in signals:
                    signal.signal(name, signal.SIG_DFL)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
                asyncio.run(serve(config, auth, policy_socket, number))
                status = 0
            except Exception as error:
                log.error("worker failed", worker=number, error=type(error).__name__)
            finally:
                sys.stderr.flush()
                os._exit(status)
        children[child] = number
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    for number in range(config.workers):
        spawn(number)
    while children:
        child, status = os.wait()
        number = children.pop(child)
        if not stopping:
            log.error("worker ended and is started again", worker=number, status=os.waitstatus_to_exitcode(status))
            time.sleep(RESTART_WAIT)
            spawn(number)

"""The connections of mail servers: log-ins in Dovecot's authentication protocol, and Postfix's policy delegation."""

import asyncio
import contextlib
import itertools
import os
import resource
import secrets
import socket
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from pathlib import Path

import structlog
from prometheus_client import Gauge

from mailauth import policy
from mailauth.fair import Allowance
from mailauth.policy import PolicyReader, PolicyRequest, WhenAway
from mailauth.protocol import Conversation, Login
from mailauth.sockets import LOOPBACK, Networks, within
from mailauth.verifier import Answer, Verifier
from storage.database import cause
from storage.typed import our_username

CONNECTIONS = 4000  # of one process; fewer where it may not open as many files
PATIENCE = 4.0  # seconds; Postfix waits for 5 (smtpd_policy_service_timeout)
RESERVED = 400  # descriptors for everything else, health and log-ins by HTTP among it
HANDSHAKE_TIMEOUT = 30.0  # seconds
DRAIN_TIMEOUT = 10.0  # seconds that a shutdown waits for answers under way
ACCEPTING = 3  # turns of the event loop in which asyncio makes a connection of what it has accepted: task, transport, protocol
LINGER = 120.0  # seconds that a replaced process goes on with its TCP connections; a Postfix smtpd that idles ends after 100

log = structlog.get_logger(__name__)
open_connections = Gauge("smtp_authd_connections", "Open connections of mail servers", ["kind"])


@dataclass(frozen=True)
class AuthdConfig:
    """Where to listen (`unix:PATH` or `tcp:HOST:PORT`) and how to answer."""

    database_url: str
    pooled: bool = False
    """A pooler of transactions stands before PostgreSQL."""
    auth: str | None = None
    policy: str | None = None
    http: str | None = None
    """`tcp:HOST:PORT` of health, metrics and log-ins by HTTP; worker n listens on PORT + n."""
    token: str | None = None
    """What log-ins by HTTP must bring along; without one there are none."""
    nginx_server: tuple[str, int] | None = None
    """Address and port of the mail server that nginx is to pass accepted sessions on to."""
    group: str | None = None
    """Whose members may connect to the Unix sockets."""
    peers: Networks = LOOPBACK
    """Who may connect over TCP."""
    require_tls: bool = True
    """Refuse a password that came to the mail server in clear text."""
    when_away: WhenAway = WhenAway.DEFER
    argon2: tuple[int, int, int] = (19456, 2, 1)
    """Memory in KiB, time cost, parallelism."""
    workers: int = 1
    journal: Path | None = None
    """Where what must never work again is kept; the workers share it."""
    release: str | None = None
    """Of this program."""


def connection_limit() -> int:
    """How many connections this process takes, once it may open as many files as it is ever allowed to."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return CONNECTIONS
    return max(1, min(CONNECTIONS, (files - RESERVED) // 2))  # half: those that make room are open for a moment longer


class Connection(asyncio.Protocol):
    """What both protocols share: reading stops while answers are due or the client reads none."""

    kind = ""

    def __init__(self, server: "Server") -> None:
        self.server = server
        self.transport: asyncio.Transport
        self.retiring = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._writable = True
        self._shut = False
        """The client can send no more."""
        self._ended = False
        """What the client sent before that has all been read."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        if not self.server.admit(self):
            self.transport.abort()
            return
        open_connections.labels(self.kind).inc()
        self.begin()
        if self.server.stopping:
            self.retire()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.server.forget(self):
            open_connections.labels(self.kind).dec()
            self.end()
        for task in self._tasks:
            task.cancel()

    def data_received(self, data: bytes) -> None:
        self.server.touched(self)
        self.read(data)

    def eof_received(self) -> bool:
        self._ended = True
        return self._shut and bool(self._tasks)

    def pause_writing(self) -> None:
        self._writable = False
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self._writable = True
        self.read(b"")

    def start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("connection failed", kind=self.kind, error=type(error).__name__)
            self.transport.abort()
        elif self._ended and not self._tasks:
            self.transport.close()
        else:
            self.settle()

    @property
    def idle(self) -> bool:
        return not self._tasks and not self.retiring

    def make_room(self) -> None:
        if self.between():
            self.retire()
        else:
            self.retiring = True
            self.transport.abort()

    def retire(self) -> None:
        """Ends the connection between two requests, and loses none: what the client sent is answered first."""
        self.retiring = True
        self.settle()

    def settle(self) -> None:
        """Hangs up if it is to, and now is the moment."""
        if not self.retiring or self._shut or self.transport.is_closing() or not self.between():
            return
        connected: socket.socket = self.transport.get_extra_info("socket")
        if connected.family == socket.AF_UNIX:
            # From here on the client's next request fails while it sends it, so that it connects anew; Postfix does. (With TCP it would
            # be taken and lost.) What it sent before is still read, answered at its end.
            self._shut = True
            with contextlib.suppress(OSError):
                connected.shutdown(socket.SHUT_RD)
        elif not self._tasks:
            self.transport.close()

    def begin(self) -> None: ...

    def end(self) -> None: ...

    def read(self, data: bytes) -> None: ...

    def between(self) -> bool:
        """The client is not in the middle of a request, nor of its handshake."""
        raise NotImplementedError

    def begun(self) -> bool:
        """Somebody is logging in, and it is the client's turn."""
        return False


class AuthConnection(Connection):
    kind = "auth"

    def begin(self) -> None:
        server = self.server
        self.conversation = Conversation(os.getpid(), next(server.numbers), secrets.token_hex(16))
        self._answering: dict[Login, asyncio.Task[None]] = {}
        self._deadline = asyncio.get_running_loop().call_later(server.handshake, self._late)
        self._send()

    def end(self) -> None:
        self._deadline.cancel()
        self.conversation.hang_up()

    def between(self) -> bool:
        return self.conversation.between

    def begun(self) -> bool:
        return self.conversation.ready and not self.conversation.between

    def _late(self) -> None:
        if not self.conversation.ready:
            self.transport.abort()

    def read(self, data: bytes) -> None:
        logins = self.conversation.receive(data, time.monotonic())
        for unread in self.conversation.unread():
            self.server.verifier.report(Answer.NO, "unreadable", unread.username, unread.remote, unread.service)
        for login in logins:
            task = self._answering[login] = self.start(self._answer(login))
            task.add_done_callback(lambda _, login=login: self._answering.pop(login, None))  # type: ignore[misc]
        if self.conversation.answering < len(self._answering):
            for login, task in self._answering.items():
                if login.cancelled:
                    task.cancel()
        self._send()
        self.settle()

    async def _answer(self, login: Login) -> None:
        conversation = self.conversation
        if self.server.config.require_tls and not login.secured:
            username = our_username(login.username)
            self.server.verifier.report(Answer.NO, "no TLS", username, login.remote, login.service)
            conversation.refuse_plaintext(login, username)
        else:
            result = await self.server.verifier.check(login.username, login.password, login.remote, login.service)
            if result.wait and conversation.set_aside(login):
                self.read(b"")
                await asyncio.sleep(result.wait)
            match result.answer:
                case Answer.YES if result.username:
                    conversation.grant(login, result.username)
                case Answer.LATER:
                    conversation.fail_temporarily(login)
                case _:
                    conversation.refuse(login, result.username)
        if not self.transport.is_closing():
            self.read(b"")

    def _send(self) -> None:
        if self.transport.is_closing():
            return
        out = self.conversation.take()
        if out:
            self.transport.write(out)
        if self.conversation.closed is not None:
            self.server.complain("connection closed", why=self.conversation.closed)
            self.transport.close()
        elif self.conversation.full or not self._writable:
            self.transport.pause_reading()
        elif not self._ended:
            self.transport.resume_reading()


class PolicyConnection(Connection):
    """Requests of one connection are answered in their order, one after the other."""

    kind = "policy"

    def begin(self) -> None:
        self._reader = PolicyReader()
        self._queue: list[PolicyRequest] = []
        self._busy = False

    def between(self) -> bool:
        return self._reader.between

    def read(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._queue += self._reader.receive(data, policy.MAX_QUEUED - len(self._queue))
        if self._queue and not self._busy:
            self._busy = True
            self.start(self._work())
        if self._reader.closed is not None and not self._busy:
            self.server.complain("policy connection closed", why=self._reader.closed)
            self.transport.close()
        elif len(self._queue) >= policy.MAX_QUEUED or not self._writable:
            self.transport.pause_reading()
        elif not self._ended:
            self.transport.resume_reading()
        self.settle()

    async def _work(self) -> None:
        try:
            while self._queue and not self.transport.is_closing():
                self.transport.write(await self._decide(self._queue.pop(0)))
        finally:
            self._busy = False
        self.read(b"")

    async def _decide(self, request: PolicyRequest) -> bytes:
        if not request.username:
            return policy.DUNNO
        try:
            async with asyncio.timeout(self.server.patience):
                return await self.server.verifier.gate.decide(request)
        except Exception as error:
            self.server.complain("cannot answer a policy request", error=cause(error))
            return policy.LATER if self.server.config.when_away is WhenAway.DEFER else policy.DUNNO


class Server:
    """One process that answers on listening sockets which are open already.

    Args:
        limit: connections at once. One more makes the one that was idle for longest make room.
        alive: see `Verifier.keep_flushing`.
        handshake: seconds that a mail server has to say which protocol it speaks.
        patience: seconds that a question about an open session may take; whoever asked must still be there to hear `when_away`.
    """

    def __init__(
        self,
        config: AuthdConfig,
        verifier: Verifier,
        limit: int = CONNECTIONS,
        alive: Callable[[], None] = lambda: None,
        handshake: float = HANDSHAKE_TIMEOUT,
        patience: float = PATIENCE,
    ) -> None:
        self.config = config
        self.verifier = verifier
        self.handshake = handshake
        self.patience = patience
        self.numbers = itertools.count(1)
        self.stopping = False
        self.connections: dict[Connection, None] = {}
        """Those that were silent for longest come first."""
        self._limit = limit
        self._alive = alive
        self._complaints = Allowance(5, 0.1)
        self._empty = asyncio.Event()
        self._listening: list[asyncio.Server] = []
        self._forever: list[asyncio.Task[None]] = []

    async def start(self, auth: Iterable[socket.socket], policies: Iterable[socket.socket] = ()) -> None:
        loop = asyncio.get_running_loop()
        self._forever.append(asyncio.create_task(self.verifier.keep_flushing(self._alive)))
        if self.verifier.past:
            self._forever.append(asyncio.create_task(self.verifier.past.forever()))
        policies = list(policies)
        self.verifier.ends_sessions = bool(policies)
        pairs: list[tuple[Iterable[socket.socket], Callable[[], Connection]]] = [
            (auth, lambda: AuthConnection(self)),
            (policies, lambda: PolicyConnection(self)),
        ]
        for listeners, make in pairs:
            for listener in listeners:
                # Not create_unix_server: from Python 3.13 on that unlinks the path when it stops.
                self._listening.append(await loop.create_server(make, sock=listener, backlog=socket.SOMAXCONN))

    async def stop(self, replaced: bool = False) -> None:
        """Answers what is under way, writes down what was used, and ends.

        Args:
            replaced: another process has taken over; TCP connections, which cannot be ended without losing a request that is on its way,
                are given time to end by themselves.
        """
        self.stopping = True
        # Closed at once, asyncio would drop what it has accepted and not made a connection of yet.
        for listening in self._listening:
            for listener in listening.sockets:
                asyncio.get_running_loop().remove_reader(listener.fileno())
        for _ in range(ACCEPTING):
            await asyncio.sleep(0)
        for listening in self._listening:
            listening.close()
        lingering = {one for one in self.connections if replaced and one.transport.get_extra_info("socket").family != socket.AF_UNIX}
        for connection in list(self.connections):
            if connection not in lingering:
                connection.retire()
        if lingering:
            await self._ended(LINGER)
            for connection in list(self.connections):
                connection.retire()
        await self._ended(DRAIN_TIMEOUT)
        for connection in list(self.connections):
            connection.transport.abort()
        for task in self._forever:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if self.verifier.past:
            self.verifier.past.close()
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT):
                await self.verifier.flush(stopped=True)
        except Exception as error:
            log.warning("use not written down at the end", error=cause(error))

    async def _ended(self, seconds: float) -> None:
        """Waits for the last connection to end."""
        if self.connections:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), seconds)

    def admit(self, connection: Connection) -> bool:
        """Whether a connection may stay; if all places are taken, the one that was idle for longest is ended for it."""
        connected: socket.socket = connection.transport.get_extra_info("socket")
        if connected.family != socket.AF_UNIX:
            peer = connection.transport.get_extra_info("peername")
            if not peer or not within(peer[0], self.config.peers):
                self.complain("connection refused: not one of AUTHD_PEERS", address=peer[0] if peer else None)
                return False
        if len(self.connections) >= self._limit:
            idle = [one for one in self.connections if one.idle]
            if not idle:
                self.complain("connection refused: all places are taken", limit=self._limit)
                return False
            next((one for one in idle if not one.begun()), idle[0]).make_room()
        self.connections[connection] = None
        return True

    def complain(self, what: str, **facts: object) -> None:
        """A log line; five of each kind at once, and six a minute."""
        if self._complaints.take(what, time.monotonic()):
            log.warning(what, **facts)

    def touched(self, connection: Connection) -> None:
        """It goes to the end of those that were silent."""
        if connection in self.connections:
            del self.connections[connection]
            self.connections[connection] = None

    def forget(self, connection: Connection) -> bool:
        """Whether it was one of ours."""
        known = connection in self.connections
        self.connections.pop(connection, None)
        if self.stopping and not self.connections:
            self._empty.set()
        return known

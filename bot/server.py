"""An HTTP listener that nobody can hold up: every request has a time, a head of bounded size and a place among few.

Requests that are not complete make room for new ones, oldest first: who sends a whole request at once, as Slack does, is served while
others hold hundreds of half-sent ones.
"""

import asyncio
import contextlib
import resource
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

REQUEST_TIMEOUT = 5.0  # seconds for a whole request, and as long again for its answer
HEAD_MAX = 16 * 1024  # bytes of a request line with its headers
CONNECTIONS = 256
DESCRIPTORS = 8192
RECEIVE_BUFFER = 64 * 1024  # bytes that the kernel keeps of what was not read yet
LAST_WORDS = 0.2  # seconds that a connection which was just accepted has to send its request before the listener ends


class ListenError(Exception):
    """Nothing can listen there; the message says why."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket that names its protocol: asyncio turns Nagle's delay (40 ms an answer) off only for those. Raises ListenError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        listener.bind((host, port))
        listener.listen(CONNECTIONS)
    except OSError as error:
        listener.close()
        raise ListenError(f"cannot listen on {host} port {port} ({error.strerror})") from None
    return listener


def raise_descriptor_limit() -> int:
    """Takes as many file descriptors as the system gives, up to `DESCRIPTORS`; how many there are now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft == resource.RLIM_INFINITY:
        return DESCRIPTORS
    if soft >= wanted:
        return soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


class Server(uvicorn.Server):
    """One listener.

    Args:
        connections: how many may be open at once.
        request_timeout: seconds for a whole request, and as long again for its answer.
        stop_timeout: seconds that `close` waits for requests under way.
    """

    def __init__(
        self,
        app: ASGIApp,
        listener: socket.socket,
        connections: int = CONNECTIONS,
        request_timeout: float = REQUEST_TIMEOUT,
        stop_timeout: int = 10,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=_bounded(connections, request_timeout),
                ws="none",
                log_config=None,
                access_log=False,
                lifespan="off",
                backlog=connections,
                server_header=False,
                timeout_graceful_shutdown=stop_timeout,
            )
        )
        self.port: int = listener.getsockname()[1]
        self._ends = asyncio.Event()
        self._serving = asyncio.create_task(self.serve([listener]))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signals alone: the bot stops its listeners."""
        yield

    async def close(self) -> None:
        """Takes no new connection, answers the requests that were begun, and ends."""
        self._ends.set()
        await self._serving

    async def main_loop(self) -> None:
        """uvicorn's looks ten times a second whether it is to end; this one is told, and wakes for the date in its answers."""
        while not self._ends.is_set():
            await self.on_tick(0)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ends.wait(), 1)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        if any(connection.cycle is None for connection in self.server_state.connections if isinstance(connection, HttpToolsProtocol)):
            await asyncio.sleep(LAST_WORDS)
        await super().shutdown(sockets)


def _bounded(connections: int, request_timeout: float) -> type[HttpToolsProtocol]:
    """The protocol of one listener's connections."""
    idle: dict[HttpToolsProtocol, None] = {}  # those with no complete request, oldest first

    class Bounded(HttpToolsProtocol):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._timer: asyncio.TimerHandle | None = None
            self._complete = True
            self._in_head = False
            self._head = 0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            idle[self] = None
            self._arm()
            if len(self.connections) > connections:
                oldest = next(iter(idle))
                del idle[oldest]
                oldest.transport.abort()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            idle.pop(self, None)
            self._disarm()

        def data_received(self, data: bytes) -> None:
            if self._timer is None:
                self._arm()
            super().data_received(data)
            if self._in_head:
                self._head += len(data)
                if self._head > HEAD_MAX:
                    self.transport.abort()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._complete = False
            self._in_head = True
            self._head = 0

        def on_headers_complete(self) -> None:
            super().on_headers_complete()
            self._in_head = False

        def on_message_complete(self) -> None:
            super().on_message_complete()
            self._complete = True
            if self.cycle.response_complete:
                self._disarm()
            else:
                idle.pop(self, None)
                self._arm()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if not self.pipeline:
                idle.pop(self, None)
                if not self.transport.is_closing():
                    idle[self] = None
                if self._complete:
                    self._disarm()

        def _arm(self) -> None:
            self._disarm()
            self._timer = self.loop.call_later(request_timeout, self.transport.abort)

        def _disarm(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return Bounded

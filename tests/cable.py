"""A network between two processes that can be made to hang, as a cut cable does: what is sent arrives nowhere, and nothing is closed.

Before PostgreSQL it can also break at a COMMIT, before or after that arrived.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

DURABLE = b"synchronous_commit=on"  # in what the bot says first on a connection that changes something


@dataclass(eq=False)
class Flow:
    """One connection."""

    durable: bool = False
    loses_answer: bool = False
    """Breaks as soon as the other end has answered."""


class Broken(Exception):
    """The connection breaks here."""


class Wire:
    """Passes on what comes to `port`."""

    def __init__(self) -> None:
        self.port = 0
        self._whole = asyncio.Event()
        self._whole.set()
        self._cut: set[Flow] = set()
        self._flows: set[Flow] = set()
        self._commits_before = -1
        self._commit_arrives = False

    def hang(self) -> None:
        """Nothing passes any more, on old connections and new ones."""
        self._whole.clear()

    def heal(self) -> None:
        self._whole.set()

    def cut(self) -> None:
        """Nothing passes any more on the connections of now."""
        self._cut |= self._flows

    def lose_commit(self, arrives: bool, commits_before: int = 0) -> None:
        """Breaks at the next COMMIT of a change, after so many: it arrives and its answer does not, or neither."""
        self._commits_before, self._commit_arrives = commits_before, arrives

    @contextlib.asynccontextmanager
    async def between(self, host: str, port: int) -> AsyncIterator["Wire"]:
        """Listens on loopback while the block runs; host and port are the other end."""
        tasks: set[asyncio.Task[None]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            there, back = await asyncio.open_connection(host, port)
            flow = Flow()
            self._flows.add(flow)
            ways = [asyncio.create_task(self._pass(*way)) for way in ((reader, back, flow, True), (there, writer, flow, False))]
            with contextlib.suppress(ConnectionError, Broken, asyncio.CancelledError):
                await asyncio.gather(*ways)
            for way in ways:
                way.cancel()
            back.close()
            writer.close()

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in tasks:
                task.cancel()

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, flow: Flow, there: bool) -> None:
        while data := await source.read(65536):
            await self._whole.wait()
            if flow in self._cut:
                await asyncio.Event().wait()
            if there:
                self._watch(flow, data)
            elif flow.loses_answer:
                raise Broken
            target.write(data)
            await target.drain()
        target.close()

    def _watch(self, flow: Flow, data: bytes) -> None:
        flow.durable = flow.durable or DURABLE in data
        if self._commits_before < 0 or not flow.durable or b"COMMIT" not in data:
            return
        self._commits_before -= 1
        if self._commits_before < 0:
            flow.loses_answer = True
            if not self._commit_arrives:
                raise Broken

"""A network between two processes that can be made to hang, as a cut cable does: what is sent arrives nowhere, and nothing is closed."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Wire:
    """Passes on what comes to `port`."""

    def __init__(self) -> None:
        self.port = 0
        self._whole = asyncio.Event()
        self._whole.set()
        self._cut: set[asyncio.Event] = set()
        self._flows: set[asyncio.Event] = set()

    def hang(self) -> None:
        """Nothing passes any more, on old connections and new ones."""
        self._whole.clear()

    def heal(self) -> None:
        self._whole.set()

    def cut(self) -> None:
        """Nothing passes any more on the connections of now."""
        self._cut |= self._flows

    @contextlib.asynccontextmanager
    async def between(self, host: str, port: int) -> AsyncIterator["Wire"]:
        """Listens on loopback while the block runs; host and port are the other end."""
        tasks: set[asyncio.Task[None]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            there, back = await asyncio.open_connection(host, port)
            flow = asyncio.Event()
            self._flows.add(flow)
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await asyncio.gather(self._pass(reader, back, flow), self._pass(there, writer, flow))
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

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, flow: asyncio.Event) -> None:
        while data := await source.read(65536):
            await self._whole.wait()
            if flow in self._cut:
                await asyncio.Event().wait()
            target.write(data)
            await target.drain()
        target.close()

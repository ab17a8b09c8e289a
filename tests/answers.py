"""A server that answers HTTP with whatever it is told to, valid or not."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl


@dataclass(frozen=True)
class Asked:
    path: str
    headers: dict[str, str]
    body: str
    connection: int

    @property
    def method(self) -> str:
        """Of Slack's API."""
        return self.path.removeprefix("/api/")

    @property
    def arguments(self) -> dict[str, Any]:
        given: dict[str, Any] = json.loads(self.body) if self.body.startswith("{") else dict(parse_qsl(self.body))
        return given


Answer = Callable[[Asked], Awaitable[bytes | None]]
"""The bytes to send; None hangs up without any."""


def raw(status: int = 200, body: str | bytes = "", kind: str = "application/json", **headers: str) -> bytes:
    """An HTTP answer; `retry_after="1"` is a header. After `Connection="close"` the server hangs up."""
    content = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status} X", f"Content-Type: {kind}", f"Content-Length: {len(content)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


def says(status: int = 200, **fields: Any) -> bytes:
    return raw(status, json.dumps(fields))


class Wire:
    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[Asked] = []
        self.script: list[bytes | None] = []
        """Answers in order; the last one stays."""
        self.opened = asyncio.Event()
        """Set with each connection."""
        self.answer: Answer = self._scripted

    @property
    def api_url(self) -> str:
        return f"{self.url}/api/"

    async def _scripted(self, _asked: Asked) -> bytes | None:
        return self.script.pop(0) if len(self.script) > 1 else self.script[0]


@contextlib.asynccontextmanager
async def wire() -> AsyncIterator[Wire]:
    """Listens on loopback while the block runs."""
    connections = 0
    serving: set[asyncio.Task[Any]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        number = connections
        made.opened.set()
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            while True:
                first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                asked = Asked(first.split(" ")[1], headers, body.decode(), number)
                made.asked.append(asked)
                answer = await made.answer(asked)
                if answer is None:
                    break
                writer.write(answer)
                await writer.drain()
                if b"\r\n\r\n" not in answer or b"\r\nConnection: close\r\n" in answer:
                    break
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            serving.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    made = Wire(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        yield made
    finally:
        server.close()
        for task in list(serving):
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

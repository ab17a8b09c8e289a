"""Socket Mode: the connection to Slack that brings what HTTP would, and takes the acknowledgements.

slack_sdk's own client notices a cut connection after 10 s, tries again without back-off, and cannot stop taking without closing.
https://docs.slack.dev/apis/events-api/using-socket-mode
"""

import asyncio
import contextlib
import hashlib
import json
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import structlog
from aiohttp import ClientError, ClientSession, ClientWebSocketResponse, WSMsgType
from slack_bolt.app.async_app import AsyncApp
from slack_bolt.request.async_request import AsyncBoltRequest
from yarl import URL

from bot.delivery import acknowledging, delivered
from bot.slack import proxy_for
from storage.database import Database

PING_INTERVAL = 10.0  # seconds
STEADY = 10.0  # seconds after which a connection was a good one
FIRST_PAUSE = 0.25  # seconds
LONGEST_PAUSE = 30.0  # seconds
ENVELOPES_AT_ONCE = 256
LAST_WORDS = 1.0  # seconds
LAST = b"last"

log = structlog.get_logger(__name__)


def pauses(first: float = FIRST_PAUSE, longest: float = LONGEST_PAUSE) -> Iterator[float]:
    """Seconds to wait before each further try, doubling, spread so that several processes do not come at once."""
    pause = first
    while True:
        yield pause * random.uniform(0.5, 1)  # noqa: S311
        pause = min(pause * 2, longest)


class SocketMode:
    """Keeps one connection open and hands each envelope to Bolt.

    Args:
        ask_address: asks Slack where to connect (`apps.connections.open`).
        db: remembers what was received, so that a repeated envelope is acknowledged and nothing more.
        ping_interval: seconds; a connection whose ping is not answered in half of it is cut.
        last_words: seconds that a stop waits for what Slack has already sent.
    """

    def __init__(
        self,
        app: AsyncApp,
        ask_address: Callable[[], Awaitable[str]],
        db: Database,
        http: ClientSession,
        ping_interval: float = PING_INTERVAL,
        last_words: float = LAST_WORDS,
    ) -> None:
        self._ping_interval = ping_interval
        self._last_words = last_words
        self._app = app
        self._ask_address = ask_address
        self._db = db
        self._http = http
        self._current: ClientWebSocketResponse | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._handling: set[asyncio.Task[None]] = set()
        self._retiring: set[asyncio.Task[None]] = set()
        self._taking = True
        self._took_last = asyncio.Event()
        self._hello = asyncio.Event()

    @property
    def connected(self) -> bool:
        return self._current is not None and not self._current.closed

    async def start(self) -> None:
        """Returns once Slack has said hello; from then on a connection that ends is opened again until `close`."""
        self._keeping = asyncio.create_task(self._keep())
        await self._hello.wait()

    async def stop_taking(self, timeout: float) -> None:
        """Takes what Slack has already sent, then no more, and waits up to `timeout` seconds until all that is acknowledged."""
        connection = self._current
        if connection is not None and not connection.closed:
            # Slack answers a ping after all that it has sent before.
            with contextlib.suppress(TimeoutError, ClientError, OSError):
                async with asyncio.timeout(min(self._last_words, timeout)):
                    await connection.ping(LAST)
                    await self._took_last.wait()
        self._taking = False
        if self._handling:
            await asyncio.wait(set(self._handling), timeout=timeout)

    async def close(self) -> None:
        self._taking = False
        tasks = [task for task in (self._keeping, *self._retiring, *self._handling) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._current is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._current.close(), 1)

    async def _keep(self) -> None:
        waits = pauses()
        while self._taking:
            began = time.monotonic()
            replace = False
            try:
                self._current = await self._connect()
                replace = await self._read(self._current)
            except Exception as error:
                log.warning("no connection to Slack", error=type(error).__name__)
            steady = time.monotonic() - began > STEADY
            if self._current is not None and steady:
                waits = pauses()
            self._retire()
            if self._taking and not (replace and steady):
                await asyncio.sleep(next(waits))

    async def _connect(self) -> ClientWebSocketResponse:
        address = URL(await self._ask_address())
        return await self._http.ws_connect(address, heartbeat=self._ping_interval, autoping=False, proxy=proxy_for(address))

    async def _read(self, connection: ClientWebSocketResponse) -> bool:
        """Takes what comes until the connection ends; True when Slack asks for another one in its place."""
        while True:
            message = await connection.receive()
            match message.type:
                case WSMsgType.TEXT:
                    if self._take(connection, message.data):
                        return True
                    if len(self._handling) >= ENVELOPES_AT_ONCE:
                        await asyncio.wait(set(self._handling), return_when=asyncio.FIRST_COMPLETED)
                case WSMsgType.PING:
                    await connection.pong(message.data)
                case WSMsgType.PONG:
                    if message.data == LAST:
                        self._took_last.set()
                case WSMsgType.CLOSE | WSMsgType.CLOSING | WSMsgType.CLOSED | WSMsgType.ERROR:
                    log.info("connection to Slack ended")
                    return False
                case _:
                    pass

    def _take(self, connection: ClientWebSocketResponse, text: str) -> bool:
        """Begins with one message; whether Slack wants another connection in place of this one."""
        try:
            message = json.loads(text)
            kind = message.get("type")
        except (ValueError, AttributeError, RecursionError):
            log.warning("cannot read what Slack sent")
            return False
        if kind == "hello":
            log.info("connected to Slack")
            self._hello.set()
        elif kind == "disconnect":
            log.info("Slack asks for a new connection", reason=message.get("reason"))
            return True
        elif message.get("envelope_id") and isinstance(message.get("payload"), dict) and self._taking:
            task = asyncio.create_task(self._handle(connection, message))
            self._handling.add(task)
            task.add_done_callback(self._handling.discard)
        return False

    async def _handle(self, connection: ClientWebSocketResponse, envelope: dict[str, Any]) -> None:
        payload = envelope["payload"]
        if envelope["type"] != "events_api":
            # An event may be handled twice, but must not be lost because a process that had noted it died.
            written = json.dumps(payload, sort_keys=True).encode()
            delivered(self._db, f"envelope {hashlib.sha256(written).hexdigest()}")
        sent = acknowledging()
        try:
            answer = await self._app.async_dispatch(AsyncBoltRequest(mode="socket_mode", body=payload, headers=_headers(envelope)))
            if answer.status != 200:
                return  # not acknowledged: Slack sends it again
            reply: dict[str, Any] = {"envelope_id": envelope["envelope_id"]}
            if answer.body:
                is_json = answer.headers.get("content-type", [""])[0].startswith("application/json")
                reply["payload"] = json.loads(answer.body) if is_json else {"text": answer.body}
            through = self._current if connection.closed and self._current is not None else connection
            await through.send_str(json.dumps(reply))
        except (ClientError, OSError, RecursionError) as error:
            log.warning("acknowledgement not sent", error=type(error).__name__)
        finally:
            sent.set()

    def _retire(self) -> None:
        """Slack may go on for a while on the connection that is left, and takes acknowledgements there."""
        connection, self._current = self._current, None
        if connection is None:
            return

        async def end() -> None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STEADY):
                    await self._read(connection)
            await connection.close()

        task = asyncio.create_task(end())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)


def _headers(envelope: dict[str, Any]) -> dict[str, str | Sequence[str]]:
    """Bolt's names for what Slack says about a repetition."""
    headers: dict[str, str | Sequence[str]] = {}
    if envelope.get("retry_attempt") is not None:
        headers["x-slack-retry-num"] = str(envelope["retry_attempt"])
    if envelope.get("retry_reason") is not None:
        headers["x-slack-retry-reason"] = str(envelope["retry_reason"])
    return headers

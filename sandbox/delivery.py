"""From Slack to the app: over Socket Mode or signed HTTP, what it acknowledges, and a record of all that went over the wire."""

import asyncio
import hashlib
import hmac
import json
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import aiohttp
from starlette.websockets import WebSocket, WebSocketDisconnect

from sandbox.inputs import Json
from sandbox.world import Channel, Message, World

ACK_TIMEOUT = 3.0  # seconds that the app has for an acknowledgement
EVENT_RETRIES = (0.0, 60.0, 300.0)  # seconds before each repetition of an event that was not acknowledged
TRAFFIC_KEPT = 20_000
EVENT_SCOPES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("user_change", "team_join"), ("users:read",)),
    **dict.fromkeys(("subteam_created", "subteam_updated", "subteam_members_changed"), ("usergroups:read",)),
    **dict.fromkeys(("channel_archive", "channel_unarchive", "channel_deleted", "channel_rename", "channel_left"), ("channels:read",)),
    **dict.fromkeys(("group_archive", "group_unarchive", "group_deleted", "group_rename", "group_left"), ("groups:read",)),
    **dict.fromkeys(("channel_shared", "channel_unshared"), ("channels:read", "groups:read")),
    **dict.fromkeys(("member_joined_channel", "member_left_channel"), ("channels:read", "groups:read")),
    "message.channels": ("channels:history",),
    "message.groups": ("groups:history",),
    "message.im": ("im:history",),
}
"""Event -> the scopes of which the app needs one (https://docs.slack.dev/reference/events); the others need none."""


@dataclass(frozen=True)
class Exchange:
    """One thing that went over the wire."""

    way: str
    """`to app` or `from app`."""
    what: str
    """The method, `response_url`, or the kind of payload."""
    sent: str
    status: int
    answer: str
    at: float


@dataclass
class ResponseUrl:
    user: str
    channel: str
    at: float
    message: Message | None = None
    """The message that was pressed in: what `replace_original` and `delete_original` change."""
    uses: int = 0


class Ack:
    """The app's acknowledgement, or why there is none (`trouble`, Slack's word)."""

    def __init__(self, body: Any = None, trouble: str = "") -> None:
        self.body = body
        self.trouble = trouble


class Delivery:
    """The way from Slack to the app.

    Args:
        clock: seconds since the epoch.
        event_retries: seconds before each repetition of an event that was not acknowledged.
        ack_timeout: seconds.
        late_acks: seconds by which what an acknowledgement of a modal says is applied late: what `views.update` brought meanwhile is
            overwritten. Slack promises no order between the two.
        escape_typed: whether links, addresses, people and channels typed after a command are escaped, where its `should_escape` says so.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        event_retries: tuple[float, ...] = EVENT_RETRIES,
        ack_timeout: float = ACK_TIMEOUT,
        late_acks: float = 0.0,
        escape_typed: bool = True,
    ) -> None:
        self.world = World(clock)
        self.traffic: deque[Exchange] = deque(maxlen=TRAFFIC_KEPT)
        self.url = ""
        self.late_acks = late_acks
        self.escape_typed = escape_typed
        self._event_retries = event_retries
        self._ack_timeout = ack_timeout
        self._response_urls: dict[str, ResponseUrl] = {}
        self._tickets: set[str] = set()
        self._sockets: list[WebSocket] = []
        self._awaited: dict[str, asyncio.Future[Any]] = {}
        self._http: aiohttp.ClientSession | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def new_response_url(self, user: str, channel: str, message: Message | None = None) -> str:
        key = secrets.token_urlsafe(24)
        self._response_urls[key] = ResponseUrl(user, channel, self.world.clock(), message)
        return f"{self.url}/response/{key}"

    # --- Socket Mode ---
    def new_socket_url(self) -> str:
        ticket = secrets.token_urlsafe(16)
        self._tickets.add(ticket)
        return f"{self.url.replace('http', 'ws', 1)}/link/{ticket}"

    async def _socket(self, connection: WebSocket) -> None:
        """https://docs.slack.dev/apis/events-api/using-socket-mode"""
        ticket = connection.path_params["ticket"]
        if ticket not in self._tickets:
            await connection.close(4000)
            return
        self._tickets.discard(ticket)
        await connection.accept()
        app = self.world.installed()
        hello = {"type": "hello", "num_connections": len(self._sockets) + 1, "connection_info": {"app_id": app.id}}
        await connection.send_text(json.dumps(hello))
        self._sockets.append(connection)
        self.world.touch()
        try:
            while True:
                answer = json.loads(await connection.receive_text())
                waiting = self._awaited.pop(answer.get("envelope_id", ""), None)
                if waiting and not waiting.done():
                    waiting.set_result(answer.get("payload"))
        except (WebSocketDisconnect, RuntimeError):
            pass
        finally:
            self._sockets.remove(connection)
            self.world.touch()

    async def connected(self, timeout: float = 10) -> None:
        """Waits until the app has a Socket Mode connection."""
        if not await self.world.until(lambda: self._sockets or None, timeout):
            raise TimeoutError("The app opened no Socket Mode connection.")

    async def drop_sockets(self, warned: bool = True) -> None:
        """Slack ends every connection, as it does every few hours; not `warned`: without saying so first, as a broken network does."""
        for connection in list(self._sockets):
            if warned:
                await connection.send_text(json.dumps({"type": "disconnect", "reason": "refresh_requested"}))
            await connection.close(1000 if warned else 1011)

    # --- to the app ---
    async def deliver(self, kind: str, payload: Json, headers: Mapping[str, str] | None = None) -> Ack:
        """Sends the app a `slash_commands`, `interactive` or `events_api` payload and waits for its acknowledgement."""
        app = self.world.installed()
        if kind == "interactive" and not app.interactive:
            return Ack(trouble="app_missing_action_url")
        if app.request_url is None:
            ack = await self._deliver_socket(kind, payload)
        else:
            ack = await self._deliver_http(kind, payload, headers or {})
        return ack

    async def _deliver_http(self, kind: str, payload: Json, headers: Mapping[str, str]) -> Ack:
        if kind == "slash_commands":
            body, content_type = urlencode(payload), "application/x-www-form-urlencoded"
        elif kind == "interactive":
            body, content_type = urlencode({"payload": json.dumps(payload)}), "application/x-www-form-urlencoded"
        else:
            body, content_type = json.dumps(payload), "application/json"
        status, answer = await self.post(body, {**self.sign(body), "content-type": content_type, **headers})
        self._note("to app", kind, body, status, answer)
        if status != 200:
            return Ack(trouble="operation_timeout" if status == 0 else "dispatch_failed")
        try:
            return Ack(json.loads(answer) if answer.startswith("{") else answer)
        except ValueError:
            return Ack(trouble="dispatch_failed")

    def sign(self, body: str) -> dict[str, str]:
        """https://docs.slack.dev/authentication/verifying-requests-from-slack"""
        timestamp = str(int(self.world.clock()))
        secret = self.world.installed().signing_secret.encode()
        digest = hmac.new(secret, f"v0:{timestamp}:{body}".encode(), hashlib.sha256).hexdigest()
        return {"x-slack-request-timestamp": timestamp, "x-slack-signature": f"v0={digest}"}

    async def post(self, body: str | bytes, headers: Mapping[str, str]) -> tuple[int, str]:
        """Posts to the app's request URL. Status 0: no answer within Slack's three seconds."""
        url = self.world.installed().request_url
        if self._http is None or url is None:
            raise RuntimeError("The app has no request URL, or the sandbox does not serve.")
        try:
            async with asyncio.timeout(self._ack_timeout):
                async with self._http.post(url, data=body, headers=headers) as answer:
                    return answer.status, await answer.text()
        except (TimeoutError, aiohttp.ClientError):
            return 0, ""

    async def _deliver_socket(self, kind: str, payload: Json) -> Ack:
        if not self._sockets:
            return Ack(trouble="dispatch_failed")
        envelope_id = secrets.token_hex(16)
        accepts = kind != "events_api"
        envelope = {"envelope_id": envelope_id, "type": kind, "accepts_response_payload": accepts, "payload": payload}
        waiting: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._awaited[envelope_id] = waiting
        connection = self._sockets[0]
        self._sockets.append(self._sockets.pop(0))
        body = json.dumps(envelope)
        await connection.send_text(body)
        try:
            async with asyncio.timeout(self._ack_timeout):
                answer = await waiting
        except TimeoutError:
            self._awaited.pop(envelope_id, None)
            self._note("to app", kind, body, 0, "")
            return Ack(trouble="operation_timeout")
        self._note("to app", kind, body, 200, json.dumps(answer))
        return Ack(answer)

    async def event(self, event: Json) -> None:
        """Tells the app what happened, if it subscribed to it; repeats it when the app does not acknowledge."""
        app = self.world.installed()
        named = event["type"] if event["type"] != "message" else f"message.{_kind(self.world.channels.get(event['channel']))}"
        scopes = EVENT_SCOPES.get(named)
        if named not in app.events or (scopes and not set(scopes) & set(app.scopes)):
            return
        payload = {
            "token": "verification-token-deprecated",
            "team_id": self.world.team.id,
            "context_team_id": self.world.team.id,
            "api_app_id": app.id,
            "event": event | {"event_ts": self.world.new_ts()},
            "type": "event_callback",
            "event_id": self.world.new_id("Ev"),
            "event_time": int(self.world.clock()),
            "authorizations": [{"enterprise_id": None, "team_id": self.world.team.id, "user_id": app.bot_user, "is_bot": True}],
            "is_ext_shared_channel": False,
        }
        ack = await self.deliver("events_api", payload)
        for number, wait in enumerate(self._event_retries, 1):
            if not ack.trouble:
                return
            await asyncio.sleep(wait)
            headers = {"x-slack-retry-num": str(number), "x-slack-retry-reason": "http_error"}
            ack = await self.deliver("events_api", payload, headers)

    def happens(self, channel: Channel, event: Json) -> None:
        """Tells the app, in the background, what happened in a channel that its bot is in."""
        if self.world.bot_is_in(channel):
            self.soon(self.event(event))

    def soon(self, work: Any) -> None:
        """Goes on with something in the background while the sandbox serves."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- recording ---
    def _note(self, way: str, what: str, sent: str, status: int, answer: str) -> None:
        self.traffic.append(Exchange(way, what, sent, status, answer, self.world.clock()))
        self.world.touch()


def _kind(channel: Channel | None) -> str:
    return {"public": "channels", "private": "groups", "im": "im"}[channel.kind] if channel else "channels"

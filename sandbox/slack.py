"""A Slack on your own machine: its Web API, response_urls, signed HTTP and Socket Mode, for one installed app.

Everything lives in memory and listens on loopback only. Tests and the demo page act in it through `Person`.
"""

import asyncio
import contextlib
import hashlib
import hmac
import json
import secrets
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import aiohttp
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from sandbox import api
from sandbox.api import ApiError, check_message
from sandbox.inputs import Json
from sandbox.people import Person
from sandbox.world import App, Channel, Group, Message, World

ACK_TIMEOUT = 3.0  # seconds that the app has for an acknowledgement
RESPONSE_URL_LIFETIME = 30 * 60  # seconds
RESPONSE_URL_USES = 5
EVENT_RETRIES = (0.0, 60.0, 300.0)  # seconds before each repetition of an event that was not acknowledged
TRAFFIC_KEPT = 20_000
BODY_MAX = 4 * 1024 * 1024


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
class Fault:
    """What a method, `response_url`, answers instead of doing its work; or after it (`done`): then the app cannot know that it was done."""

    error: str = "internal_error"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1
    done: bool = False
    hang_up: bool = False


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


class Slack:
    """One Slack team.

    Args:
        clock: seconds since the epoch, by which triggers, response_urls and signatures age.
        event_retries: seconds before each repetition of an event that was not acknowledged.
        ack_timeout: seconds.
        routes: what else is served, such as the demo's page.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        event_retries: tuple[float, ...] = EVENT_RETRIES,
        ack_timeout: float = ACK_TIMEOUT,
        routes: tuple[BaseRoute, ...] = (),
    ) -> None:
        self.world = World(clock)
        self.traffic: deque[Exchange] = deque(maxlen=TRAFFIC_KEPT)
        self.people: dict[str, Person] = {}
        self.url = ""
        self._event_retries = event_retries
        self._ack_timeout = ack_timeout
        self._routes = routes
        self._faults: dict[str, list[Fault]] = {}
        self._response_urls: dict[str, ResponseUrl] = {}
        self._tickets: set[str] = set()
        self._sockets: list[WebSocket] = []
        self._awaited: dict[str, asyncio.Future[Any]] = {}
        self._http: aiohttp.ClientSession | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # --- making the team ---
    def install(self, manifest: Json, request_url: str | None = None) -> App:
        """Installs the app that the manifest describes. With a `request_url` it is served over HTTP, without over Socket Mode."""
        world = self.world
        features, settings = manifest["features"], manifest["settings"]
        name = features["bot_user"]["display_name"]
        bot = world.add_user("smtp_credentials", is_bot=True, real_name=name)
        home = features.get("app_home", {})
        world.app = App(
            id=world.new_id("A"),
            name=name,
            bot_id=world.new_id("B"),
            bot_user=bot.id,
            bot_token=f"xoxb-sandbox-{secrets.token_hex(12)}",
            app_token=f"xapp-sandbox-{secrets.token_hex(12)}",
            signing_secret=secrets.token_hex(16),
            scopes=list(manifest["oauth_config"]["scopes"]["bot"]),
            commands={command["command"]: command for command in features.get("slash_commands", [])},
            shortcuts=features.get("shortcuts", []),
            events=list(settings.get("event_subscriptions", {}).get("bot_events", [])),
            interactive=settings["interactivity"]["is_enabled"],
            home_tab=home.get("home_tab_enabled", False),
            messages_tab=home.get("messages_tab_enabled", False),
            request_url=request_url,
        )
        return world.app

    def add_person(self, name: str, **flags: Any) -> Person:
        """`flags`: fields of `world.User`, such as `is_restricted=True` for a guest or `team_id` for somebody from elsewhere."""
        person = Person(self, self.world.add_user(name, **flags))
        self.people[person.id] = person
        return person

    def add_channel(self, name: str, *members: Person, private: bool = False, with_bot: bool = True) -> Channel:
        ids = [member.id for member in members] + ([self.world.installed().bot_user] if with_bot else [])
        return self.world.add_channel(name, "private" if private else "public", ids)

    def add_group(self, handle: str, *members: Person) -> Group:
        group = Group(self.world.new_id("S"), handle, handle.replace("-", " ").title(), [member.id for member in members])
        self.world.groups[group.id] = group
        return group

    def fail(self, what: str, fault: Fault) -> None:
        """The next calls of a method, or of `response_url`, go wrong as the fault says."""
        self._faults.setdefault(what, []).append(fault)

    # --- serving ---
    @contextlib.asynccontextmanager
    async def serve(self, port: int = 0) -> AsyncIterator["Slack"]:
        """Listens on loopback while the block runs; `self.url` says where."""
        # asyncio turns Nagle's delay off only for sockets that name their protocol.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(
            self.application(), log_config=None, access_log=False, lifespan="off", ws="websockets-sansio", timeout_graceful_shutdown=2
        )
        server = _Server(config)
        # An app that uses a connection while this side closes it would see a broken one: keep none open.
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        serving = asyncio.create_task(server.serve([listener]))
        try:
            yield self
        finally:
            for task in list(self._tasks):
                task.cancel()
            for connection in list(self._sockets):
                with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                    await connection.close()
            await self._http.close()
            server.should_exit = True
            await serving

    def application(self) -> Starlette:
        routes = [
            Route("/api/{method}", self._api, methods=["GET", "POST"]),
            Route("/response/{key}", self._response, methods=["POST"]),
            WebSocketRoute("/link/{ticket}", self._socket),
            *self._routes,
        ]
        return Starlette(routes=routes)

    async def _api(self, request: Request) -> Response:
        method = request.path_params["method"]
        body = await _read(request)
        if body is None:
            return PlainTextResponse("body too large", 413)
        token, arguments = _arguments(request, body)
        fault = self._fault(method)
        answer: Json
        if fault and not fault.done:
            answer = {"ok": False, "error": fault.error}
        else:
            try:
                answer = api.call(self, method, token, arguments)
            except ApiError as error:
                answer = error.answer
            if fault:
                answer = {"ok": False, "error": fault.error}
        status = fault.status if fault else 200
        self._note("from app", method, body.decode("utf-8", "replace"), status, json.dumps(answer))
        if fault and fault.hang_up:
            raise _HangUp
        app = self.world.app
        headers = {"x-oauth-scopes": ",".join(app.scopes)} if app else {}
        return JSONResponse(answer, status, headers | (fault.headers if fault else {}))

    # --- response_url ---
    def new_response_url(self, user: str, channel: str, message: Message | None = None) -> str:
        key = secrets.token_urlsafe(24)
        self._response_urls[key] = ResponseUrl(user, channel, self.world.clock(), message)
        return f"{self.url}/response/{key}"

    async def _response(self, request: Request) -> Response:
        body = await _read(request)
        if body is None:
            return PlainTextResponse("body too large", 413)
        fault = self._fault("response_url")
        if fault and not fault.done:
            status, answer = fault.status, fault.error
        else:
            status, answer = self._use(request.path_params["key"], body)
            if fault:
                status, answer = fault.status, fault.error
        self._note("from app", "response_url", body.decode("utf-8", "replace"), status, answer)
        if fault and fault.hang_up:
            raise _HangUp
        return PlainTextResponse(answer, status, fault.headers if fault else None)

    def _use(self, key: str, body: bytes) -> tuple[int, str]:
        """https://docs.slack.dev/interactivity/handling-user-interaction: five uses in thirty minutes."""
        url = self._response_urls.get(key)
        if url is None:
            return 404, "no_team"
        if self.world.clock() - url.at > RESPONSE_URL_LIFETIME:
            return 404, '{"ok":false,"error":"expired_url"}'
        if url.uses >= RESPONSE_URL_USES:
            return 404, '{"ok":false,"error":"used_url"}'
        try:
            given = json.loads(body)
            if not isinstance(given, dict):
                raise ValueError
        except ValueError:
            return 400, "invalid_payload"
        url.uses += 1
        if given.get("delete_original"):
            if url.message:
                self.world.remove_message(url.message)
            return 200, "ok"
        try:
            blocks = check_message(str(given.get("text") or ""), given.get("blocks"))
        except ApiError as error:
            return 400, json.dumps(error.answer)
        text = str(given.get("text") or "")
        if given.get("replace_original") and url.message in self.world.messages[url.channel]:
            url.message.text, url.message.blocks = text, blocks
            self.world.touch()
            return 200, "ok"
        public = given.get("response_type") == "in_channel"
        bot = self.world.installed().bot_user
        self.world.add_message(url.channel, bot, text, blocks, ephemeral_to=None if public else url.user)
        return 200, "ok"

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

    async def drop_sockets(self) -> None:
        """Slack ends every connection, as it does every few hours."""
        for connection in list(self._sockets):
            await connection.send_text(json.dumps({"type": "disconnect", "reason": "refresh_requested"}))
            await connection.close()

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
        if named not in app.events:
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

    def soon(self, work: Any) -> None:
        """Goes on with something in the background while the sandbox serves."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- recording ---
    def _note(self, way: str, what: str, sent: str, status: int, answer: str) -> None:
        self.traffic.append(Exchange(way, what, sent, status, answer, self.world.clock()))
        self.world.touch()

    def _fault(self, what: str) -> Fault | None:
        planned = self._faults.get(what)
        if not planned:
            return None
        fault = planned[0]
        fault.times -= 1
        if fault.times == 0:
            planned.pop(0)
        return fault


class _HangUp(Exception):
    """Ends the connection without an answer, as a broken network does."""


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _read(request: Request) -> bytes | None:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_MAX:
            return None
    return body


def _arguments(request: Request, body: bytes) -> tuple[str, Json]:
    """The token and the arguments of a call, from JSON or a form."""
    arguments: Json = dict(request.query_params)
    if request.headers.get("content-type", "").startswith("application/json"):
        with contextlib.suppress(ValueError):
            given = json.loads(body)
            arguments |= given if isinstance(given, dict) else {}
    else:
        from urllib.parse import parse_qsl

        arguments |= dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return (token if scheme == "Bearer" else str(arguments.get("token", ""))), arguments


def _kind(channel: Channel | None) -> str:
    return {"public": "channels", "private": "groups", "im": "im"}[channel.kind] if channel else "channels"

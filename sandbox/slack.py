"""A Slack on your own machine: its Web API, response_urls, signed HTTP and Socket Mode, for one installed app.

Everything lives in memory and listens on loopback only. Tests and the demo page act in it through `Person`.
"""

import asyncio
import contextlib
import json
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

import aiohttp
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect
from uvicorn.protocols.http.h11_impl import H11Protocol

from sandbox import api
from sandbox.api import ApiError, check_message, message_changed, message_deleted, message_posted
from sandbox.delivery import ACK_TIMEOUT, EVENT_RETRIES, EVENT_SCOPES, Delivery, Exchange
from sandbox.faults import Fault
from sandbox.inputs import Json
from sandbox.people import OtherApp, Person
from sandbox.world import App, Channel, Group

__all__ = ["Exchange", "Fault", "Slack"]

RESPONSE_URL_LIFETIME = 30 * 60  # seconds
RESPONSE_URL_USES = 5
BODY_MAX = 4 * 1024 * 1024
TRANSPORT = "sandbox.transport"
ANY = "*"
"""In place of a method: every method, and `response_url`."""


class Slack(Delivery):
    """One Slack team.

    Args:
        clock: seconds since the epoch, by which triggers, response_urls and signatures age.
        event_retries, ack_timeout, late_acks, escape_typed: as of `Delivery`.
        routes: what else is served, such as the demo's page.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        event_retries: tuple[float, ...] = EVENT_RETRIES,
        ack_timeout: float = ACK_TIMEOUT,
        routes: tuple[BaseRoute, ...] = (),
        late_acks: float = 0.0,
        escape_typed: bool = True,
    ) -> None:
        super().__init__(clock, event_retries, ack_timeout, late_acks, escape_typed)
        self.people: dict[str, Person] = {}
        self._routes = routes
        self._faults: dict[str, list[Fault]] = {}
        self._told = asyncio.Event()

    # --- making the team ---
    def install(self, manifest: Json, request_url: str | None = None) -> App:
        """Installs the app that the manifest describes. With a `request_url` it is served over HTTP, without over Socket Mode.

        Raises ValueError for an event whose scope the manifest does not ask for, as Slack refuses it.
        """
        world = self.world
        features, settings = manifest["features"], manifest["settings"]
        scopes = list(manifest["oauth_config"]["scopes"]["bot"])
        events = list(settings.get("event_subscriptions", {}).get("bot_events", []))
        for event in events:
            needed = EVENT_SCOPES.get(event)
            if needed and not set(needed) & set(scopes):
                raise ValueError(f"The event {event} needs one of the scopes: {', '.join(needed)}")
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
            scopes=scopes,
            commands={command["command"]: command for command in features.get("slash_commands", [])},
            shortcuts=features.get("shortcuts", []),
            events=events,
            interactive=settings["interactivity"]["is_enabled"],
            home_tab=home.get("home_tab_enabled", False),
            messages_tab=home.get("messages_tab_enabled", False),
            read_only=home.get("messages_tab_read_only_enabled", False),
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

    def add_app(self, name: str, webhook: bool = False) -> OtherApp:
        """Another app, such as a build server's; with `webhook` one that posts through an incoming webhook and has no user."""
        user = self.world.add_user(name.lower().replace(" ", "_"), is_bot=True, real_name=name)
        return OtherApp(self, user, self.world.new_id("B"), self.world.new_id("A"), webhook)

    # --- going wrong ---
    def fail(self, what: str, fault: Fault) -> None:
        """The next calls of a method, of `response_url`, or of both (`*`) go wrong as the fault says."""
        self._faults.setdefault(what, []).append(replace(fault))

    def heals(self) -> None:
        """Nothing goes wrong any more."""
        self._faults.clear()
        self.answers()

    def answers(self) -> None:
        """Those that wait for the answer of a silent fault get it."""
        self._told.set()
        self._told = asyncio.Event()

    def _fault(self, what: str) -> Fault | None:
        for name in (what, ANY):
            planned = self._faults.get(name)
            if not planned:
                continue
            fault = planned[0]
            if fault.passes:
                fault.passes -= 1
                continue
            fault.times -= 1
            if fault.times == 0:
                planned.pop(0)
            return fault
        return None

    async def _wrong(self, request: Request, fault: Fault, sent: bytes, answer: str, media_type: str) -> Response:
        """The answer that the fault says."""
        what = request.path_params.get("method", "response_url")
        if fault.body is not None:
            answer = fault.body if isinstance(fault.body, str) else fault.body.decode("latin-1")
        body = fault.body if isinstance(fault.body, bytes) else answer.encode()
        self._note("from app", what, sent.decode("utf-8", "replace"), fault.status, answer)
        if fault.then:
            fault.then()
        if fault.silent:
            await self._told.wait()
        if fault.hang_up:
            request.scope[TRANSPORT].abort()
        headers = fault.headers | {"content-type": fault.content_type or media_type}
        if fault.cut:
            return StreamingResponse(_half(body), fault.status, headers | {"content-length": str(len(body))})
        return Response(body, fault.status, headers)

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
            self.application(),
            log_config=None,
            access_log=False,
            lifespan="off",
            http=_Protocol,
            ws="websockets-sansio",
            timeout_keep_alive=60,  # seconds; longer than clients keep a connection, so that none is closed just as it is used again
            timeout_graceful_shutdown=2,
        )
        server = _Server(config)
        # An app that uses a connection while this side closes it would see a broken one: keep none open.
        self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        serving = asyncio.create_task(server.serve([listener]))
        try:
            yield self
        finally:
            self.answers()
            for task in list(self._tasks):
                task.cancel()
            for connection in list(self._sockets):
                with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                    await connection.close()
            await self._http.close()
            await server.shutdown()
            serving.cancel()
            await asyncio.wait({serving})

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
        text = json.dumps(answer)
        if fault:
            return await self._wrong(request, fault, body, text, "application/json; charset=utf-8")
        self._note("from app", method, body.decode("utf-8", "replace"), 200, text)
        app = self.world.app
        headers = {"x-oauth-scopes": ",".join(app.scopes)} if app else {}
        return Response(text, 200, headers, "application/json; charset=utf-8")

    # --- response_url ---
    async def _response(self, request: Request) -> Response:
        body = await _read(request)
        if body is None:
            return PlainTextResponse("body too large", 413)
        fault = self._fault("response_url")
        if fault and not fault.done:
            return await self._wrong(request, fault, body, fault.error, "text/plain; charset=utf-8")
        status, answer = self._use(request.path_params["key"], body)
        if fault:
            return await self._wrong(request, fault, body, fault.error, "text/plain; charset=utf-8")
        self._note("from app", "response_url", body.decode("utf-8", "replace"), status, answer)
        return PlainTextResponse(answer, status)

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
            if url.message and url.message in self.world.messages[url.channel]:
                self.world.remove_message(url.message)
                if url.message.ephemeral_to is None:
                    self.happens(self.world.channels[url.channel], message_deleted(self.world, url.message))
            return 200, "ok"
        try:
            blocks = check_message(str(given.get("text") or ""), given.get("blocks"))
        except ApiError as error:
            return 400, json.dumps(error.answer)
        text = str(given.get("text") or "")
        if given.get("replace_original") and url.message in self.world.messages[url.channel]:
            before = api.describe_message(self.world, url.message)
            url.message.text, url.message.blocks = text, blocks
            self.world.touch()
            if url.message.ephemeral_to is None:
                self.happens(self.world.channels[url.channel], message_changed(self.world, url.message, before))
            return 200, "ok"
        public = given.get("response_type") == "in_channel"
        bot = self.world.installed().bot_user
        message = self.world.add_message(url.channel, bot, text, blocks, ephemeral_to=None if public else url.user)
        if public:
            message.more = {"subtype": "bot_message"}
            self.happens(self.world.channels[url.channel], message_posted(self.world, message))
        return 200, "ok"


async def _half(body: bytes) -> AsyncIterator[bytes]:
    yield body[: len(body) // 2]
    raise ConnectionAbortedError


class _Protocol(H11Protocol):
    """uvicorn's, which lets a fault break the connection: an exception in the application would still be answered with status 500."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        application = self.app

        async def with_transport(scope: Scope, receive: Receive, send: Send) -> None:
            scope[TRANSPORT] = transport
            await application(scope, receive, send)

        self.app = with_transport


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, and ended at once."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()


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
        arguments |= dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return (token if scheme == "Bearer" else str(arguments.get("token", ""))), arguments

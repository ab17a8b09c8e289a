"""`AUTHD_HTTP`: health, metrics, and log-ins for whatever speaks HTTP.

`POST /verify` takes JSON; `GET /auth` speaks nginx's mail proxy protocol (ngx_mail_auth_http_module). Both want the bearer token, and both
answer "later" (503, or nginx's 451) while the database is away.
"""

import asyncio
import contextlib
import hmac
import json
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any
from urllib.parse import unquote

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from mailauth.protocol import MAX_FIELD
from mailauth.server import AuthdConfig
from mailauth.sockets import ListenError
from mailauth.verifier import Answer, Verifier

BODY_MAX = 4096  # bytes
TOKEN_MIN = 16  # characters
REQUEST_TIMEOUT = 5.0  # seconds
CONNECTIONS = 200
WAIT = 3  # seconds that nginx makes a refused client wait, Auth-Wait

NotReady = Callable[[], Awaitable[str | None]]
"""None when log-ins can be answered, else what is wrong."""


def check_token(token: str | None) -> None:
    """Raises ListenError."""
    if token is not None and (len(token) < TOKEN_MIN or not token.isascii() or not token.isprintable() or " " in token):
        raise ListenError(f"AUTHD_HTTP_TOKEN: at least {TOKEN_MIN} characters, without blanks. openssl rand -hex 32 makes one.")


class Door:
    """The requests of one process.

    Args:
        patience: seconds for the head of a request, and for its body.
    """

    def __init__(self, config: AuthdConfig, verifier: Verifier, not_ready: NotReady, patience: float = REQUEST_TIMEOUT) -> None:
        self.patience = patience
        self._config = config
        self._verifier = verifier
        self._not_ready = not_ready
        self.app = Starlette(
            routes=[
                Route("/healthz", self.healthz),
                Route("/readyz", self.readyz),
                Route("/metrics", self.metrics),
                Route("/verify", self.verify, methods=["POST"]),
                Route("/auth", self.nginx, methods=["GET"]),
            ]
        )

    async def healthz(self, _request: Request) -> Response:
        return PlainTextResponse("ok")

    async def readyz(self, _request: Request) -> Response:
        wrong = await self._not_ready()
        if wrong:
            return PlainTextResponse(wrong, 503)
        remark = self._verifier.past.remark if self._verifier.past else None
        # What the journal names is refused, so a store that went back does not end the readiness.
        return PlainTextResponse(f"ready, but {remark}" if remark else "ready")

    async def metrics(self, _request: Request) -> Response:
        return Response(await asyncio.to_thread(generate_latest), headers={"content-type": CONTENT_TYPE_LATEST})

    async def verify(self, request: Request) -> Response:
        """`{"username", "password", "remote", "service"}`, of which the first two must be there."""
        if (denied := self._denied(request)) is not None:
            return denied
        if request.url.query:
            return _wrong("No query strings: passwords in an address end up in logs.")
        try:
            async with asyncio.timeout(self.patience):
                body = await _body(request)
        except (TimeoutError, ClientDisconnect):
            return _wrong("The body did not arrive.", 408)
        if body is None:
            return _wrong(f"The body is longer than {BODY_MAX} bytes.", 413)
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError):
            return _wrong("The body is no JSON.")
        fields = {name: asked.get(name) for name in ("username", "password", "remote", "service")} if isinstance(asked, dict) else {}
        username, password, remote, service = (fields.get(name) for name in ("username", "password", "remote", "service"))
        if not isinstance(username, str) or not isinstance(password, str):
            return _wrong("username and password must be text.")
        if any(one is not None and not isinstance(one, str) for one in (remote, service)):
            return _wrong("remote and service must be text, if they are there.")
        if max(len(username), len(password)) > MAX_FIELD:
            return JSONResponse({"ok": False}, 403)
        result = await self._verifier.check(username, password, remote, _word(service))
        await asyncio.sleep(result.wait)
        match result.answer:
            case Answer.YES:
                return JSONResponse({"ok": True, "username": result.username, "workspace": result.workspace})
            case Answer.NO:
                return JSONResponse({"ok": False}, 403)
            case Answer.LATER:
                return JSONResponse({"ok": False, "error": "later"}, 503, headers={"retry-after": "5"})

    async def nginx(self, request: Request) -> Response:
        """Everything is in headers, and always with status 200: http://nginx.org/en/docs/mail/ngx_mail_auth_http_module.html"""
        if (denied := self._denied(request)) is not None:
            return denied
        headers = request.headers
        if headers.get("auth-method", "plain").lower() not in ("plain", "login"):
            return _nginx("Unsupported authentication mechanism", "504 5.5.4")
        if self._config.require_tls and headers.get("auth-ssl") != "on":
            return _nginx("TLS is required", "538 5.7.11")
        username, password = (unquote(headers.get(name, ""), errors="replace") for name in ("auth-user", "auth-pass"))
        if max(len(username), len(password)) > MAX_FIELD:
            return _nginx("Invalid login or password", "535 5.7.8", WAIT)
        result = await self._verifier.check(username, password, headers.get("client-ip"), _word(headers.get("auth-protocol")))
        match result.answer:
            case Answer.YES:
                server = self._config.nginx_server
                where = {"Auth-Server": server[0], "Auth-Port": str(server[1])} if server else {}
                return Response(headers={"Auth-Status": "OK", "Auth-User": result.username or "", **where})
            case Answer.NO:
                return _nginx("Invalid login or password", "535 5.7.8", WAIT)
            case Answer.LATER:
                return _nginx("Temporary authentication failure", "454 4.7.0")

    def _denied(self, request: Request) -> Response | None:
        if self._config.token is None:
            return _wrong("Log-ins by HTTP are off: AUTHD_HTTP_TOKEN is not set.", 404)
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(given.strip().encode(), self._config.token.encode())
        if scheme.lower() != "bearer" or not right:
            response = _wrong("The bearer token is missing or wrong.", 401)
            response.headers["www-authenticate"] = "Bearer"
            return response
        return None


def _wrong(why: str, status: int = 400) -> Response:
    return JSONResponse({"ok": False, "error": why}, status)


def _nginx(why: str, code: str, wait: int | None = None) -> Response:
    headers = {"Auth-Status": why, "Auth-Error-Code": code}
    return Response(headers=headers | ({"Auth-Wait": str(wait)} if wait else {}))


def _word(service: str | None) -> str:
    word = (service or "http").lower()
    return word if word.isascii() and word.replace("-", "").isalnum() and len(word) <= 32 else "unknown"


async def _body(request: Request) -> bytes | None:
    """None when it is too long."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_MAX:
            return None
    return bytes(body)


class _Timely(H11Protocol):
    """Hangs up on who connects and asks nothing, or half of something; when all places are taken, on the first of these."""

    def __init__(self, patience: float, places: "dict[_Timely, None]", **settings: Any) -> None:
        super().__init__(**settings)
        self._patience = patience
        self._places = places

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self._places) >= CONNECTIONS:
            oldest = next((one for one in self._places if one.idle), self)
            self._places.pop(oldest, None)
            oldest.transport.abort()
        self._places[self] = None
        self._look = self.loop.call_later(self._patience, self._late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._places.pop(self, None)
        self._look.cancel()
        super().connection_lost(exc)

    @property
    def idle(self) -> bool:
        """Nothing is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _late(self) -> None:
        if self.idle:
            self.transport.abort()
        else:
            self._look = self.loop.call_later(self._patience, self._late)


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers, with few connections and short requests."""

    def __init__(self, door: Door) -> None:
        config = uvicorn.Config(
            door.app,
            http=partial(_Timely, door.patience, {}),  # type: ignore[arg-type]
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            h11_max_incomplete_event_size=16384,
            timeout_graceful_shutdown=5,
        )
        super().__init__(config)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

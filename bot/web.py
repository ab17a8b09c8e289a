"""HTTP: Slack's requests behind a guard, and health and metrics for whoever runs the bot.

https://docs.slack.dev/authentication/verifying-requests-from-slack
"""

import asyncio
import hmac
import re
import time
from collections.abc import Awaitable, Callable

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, Counter, generate_latest
from slack_bolt.app.async_app import AsyncApp
from slack_bolt.request.async_request import AsyncBoltRequest
from slack_sdk.signature import SignatureVerifier
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from bot.services import acknowledging, expect_first_delivery
from storage import seen
from storage.database import Database

BODY_MAX = 1024 * 1024
TIMESTAMP = re.compile(r"\d{1,12}")

log = structlog.get_logger(__name__)
refused = Counter("smtp_bot_http_refused_total", "HTTP requests refused before Bolt saw them", ["why"])

Ready = Callable[[], Awaitable[str | None]]
"""None when the bot can serve, else what is wrong."""


class Guard:
    """Lets through what Slack signed, and sees to it that nothing is done twice for one request.

    Args:
        now: seconds since the epoch.
    """

    def __init__(self, app: AsyncApp, db: Database, signing_secret: str, now: Callable[[], float] = time.time) -> None:
        self._app = app
        self._db = db
        self._now = now
        self._verifier = SignatureVerifier(signing_secret)

    async def __call__(self, request: Request) -> Response:
        try:
            body = await self._read(request)
        except ClientDisconnect:
            return Response(status_code=400)
        if body is None:
            return self._refuse(request, 413, "body over 1 MiB")
        timestamp = request.headers.get("x-slack-request-timestamp", "")
        signature = request.headers.get("x-slack-signature", "")
        if not TIMESTAMP.fullmatch(timestamp):
            return self._refuse(request, 401, "timestamp is no number")
        if abs(self._now() - int(timestamp)) > 60 * 5:
            return self._refuse(request, 401, "timestamp too old or too new")
        try:
            text = body.decode("utf-8")
        except UnicodeDecodeError:
            return self._refuse(request, 401, "body is no UTF-8")
        expected = self._verifier.generate_signature(timestamp=timestamp, body=text)
        if not _same(expected, signature):
            return self._refuse(request, 401, "signature does not fit")
        try:
            parsed = AsyncBoltRequest(body=text, headers=dict(request.headers))
        except (ValueError, AttributeError, TypeError):
            return self._refuse(request, 400, "body cannot be read")
        if not isinstance(parsed.body, dict):
            return self._refuse(request, 400, "body cannot be read")
        expect_first_delivery(asyncio.create_task(self._is_new(signature)))
        sent = acknowledging()
        answer = await self._app.async_dispatch(parsed)

        async def tell() -> None:
            sent.set()

        return Response(
            answer.body, answer.status, {name: values[0] for name, values in answer.headers.items()}, background=BackgroundTask(tell)
        )

    async def _is_new(self, signature: str) -> bool:
        try:
            new = await self._db.note(seen.first_time, signature)
        except Exception as error:
            # Nothing can be changed while the database is away; let the person read that something is wrong.
            log.error("cannot tell whether a request is new", error=type(error).__name__)
            return True
        if not new:
            refused.labels("replayed").inc()
        return new

    async def _read(self, request: Request) -> bytes | None:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > BODY_MAX:
                return None
        return body

    def _refuse(self, request: Request, status: int, why: str) -> Response:
        refused.labels(why).inc()
        log.warning("refused a request", address=request.client.host if request.client else None, why=why)
        return PlainTextResponse(why, status)


def _same(expected: str | None, given: str) -> bool:
    return expected is not None and hmac.compare_digest(expected.encode(), given.encode())


def build(guard: Guard | None, ready: Ready) -> Starlette:
    """The web application; without a guard (Socket Mode) only health and metrics."""

    async def healthz(_request: Request) -> Response:
        return PlainTextResponse("ok")

    async def readyz(_request: Request) -> Response:
        problem = await ready()
        return PlainTextResponse(problem or "ready", 503 if problem else 200)

    async def metrics(_request: Request) -> Response:
        return Response(generate_latest(), headers={"content-type": CONTENT_TYPE_LATEST})

    routes = [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)]
    if guard:
        routes.append(Route("/slack/events", guard.__call__, methods=["POST"]))
    return Starlette(routes=routes)

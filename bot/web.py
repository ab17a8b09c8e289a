"""HTTP: Slack's requests behind a guard, and health and metrics for whoever runs the bot.

https://docs.slack.dev/authentication/verifying-requests-from-slack
"""

import asyncio
import hmac
import platform
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, get_args

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Info, generate_latest
from slack_bolt.app.async_app import AsyncApp
from slack_bolt.request.async_request import AsyncBoltRequest
from slack_sdk.signature import SignatureVerifier
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from bot import release
from bot.delivery import acknowledging, delivered
from storage.database import Database

BODY_MAX = 1024 * 1024
SMALL_BODY = 64 * 1024  # what any request may have in memory; Slack's are seldom larger
LARGE_AT_ONCE = 8  # requests that may have more
AGE_MAX = 60 * 5  # seconds
TIMESTAMP = re.compile(r"\d{1,12}")
SIGNATURE = re.compile(r"v0=[0-9a-f]{64}")
LENGTH = re.compile(r"\d{1,10}")
METRICS_A_SECOND = 20

log = structlog.get_logger(__name__)
build = Info("smtp_bot_build", "The release that runs")
build.info({"version": release(), "python": platform.python_version()})
Why = Literal["length", "too_large", "timestamp", "age", "signature", "encoding", "body"]
refused = Counter("smtp_bot_http_refused_total", "HTTP requests refused before Bolt saw them", ["why"])
for _why in get_args(Why):
    refused.labels(_why)  # begins at 0: a rate sees the first burst only so

Ready = Callable[[], Awaitable[str | None]]
"""None when the bot can serve, else what is wrong."""


class Refused(Exception):
    """The request is not taken; `why` is the word in the metrics, `said` is answered."""

    def __init__(self, status: int, why: Why, said: str) -> None:
        super().__init__(why)
        self.status = status
        self.why = why
        self.said = said


class Guard:
    """Lets through what Slack signed, and sees to it that nothing is done twice for one request.

    What the headers show to be nobody's is refused before its body is read.

    Args:
        signing_secrets: any of them may have signed; more than one while Slack's is rotated.
        now: seconds since the epoch.
    """

    def __init__(self, app: AsyncApp, db: Database, signing_secrets: Sequence[str], now: Callable[[], float] = time.time) -> None:
        self._app = app
        self._db = db
        self._now = now
        self._verifiers = [SignatureVerifier(secret) for secret in signing_secrets]
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)

    async def __call__(self, request: Request) -> Response:
        try:
            timestamp, signature = self._headers(request)
            text = await self._body(request)
            parsed = self._parse(request, text, timestamp, signature)
        except ClientDisconnect:
            return Response(status_code=400)
        except Refused as refusal:
            refused.labels(refusal.why).inc()
            log.warning("refused a request", address=request.client.host if request.client else None, why=refusal.why)
            return PlainTextResponse(refusal.said, refusal.status)
        delivered(self._db, signature)
        sent = acknowledging()
        try:
            answer = await self._app.async_dispatch(parsed)
        except RecursionError:
            sent.set()
            return PlainTextResponse("body cannot be read", 400)

        async def tell() -> None:
            sent.set()

        return Response(
            answer.body, answer.status, {name: values[0] for name, values in answer.headers.items()}, background=BackgroundTask(tell)
        )

    def _headers(self, request: Request) -> tuple[str, str]:
        """The timestamp and the signature, when both can be Slack's. Raises Refused."""
        length = request.headers.get("content-length", "0")
        if not LENGTH.fullmatch(length):
            raise Refused(400, "length", "content-length is no number")
        if int(length) > BODY_MAX:
            raise Refused(413, "too_large", "body over 1 MiB")
        timestamp = request.headers.get("x-slack-request-timestamp", "")
        if not TIMESTAMP.fullmatch(timestamp):
            raise Refused(401, "timestamp", "timestamp is no number")
        if abs(self._now() - int(timestamp)) > AGE_MAX:
            raise Refused(401, "age", "timestamp too old or too new")
        signature = request.headers.get("x-slack-signature", "")
        if not SIGNATURE.fullmatch(signature):
            raise Refused(401, "signature", "signature does not fit")
        return timestamp, signature

    async def _body(self, request: Request) -> str:
        body = bytearray()
        stream = request.stream()
        async for chunk in stream:
            body += chunk
            if len(body) > SMALL_BODY:
                break
        if len(body) > SMALL_BODY:
            async with self._large:
                async for chunk in stream:
                    body += chunk
                    if len(body) > BODY_MAX:
                        raise Refused(413, "too_large", "body over 1 MiB")
        try:
            return body.decode("utf-8")
        except UnicodeDecodeError:
            raise Refused(401, "encoding", "body is no UTF-8") from None

    def _parse(self, request: Request, text: str, timestamp: str, signature: str) -> AsyncBoltRequest:
        expected = [verifier.generate_signature(timestamp=timestamp, body=text) for verifier in self._verifiers]
        if not any([one is not None and hmac.compare_digest(one, signature) for one in expected]):  # noqa: C419  # each is compared
            raise Refused(401, "signature", "signature does not fit")
        try:
            parsed = AsyncBoltRequest(body=text, headers=dict(request.headers))
        except (ValueError, AttributeError, TypeError, RecursionError):
            raise Refused(400, "body", "body cannot be read") from None
        if not isinstance(parsed.body, dict):
            raise Refused(400, "body", "body cannot be read")
        return parsed


class Gate:
    """Where Slack's requests come in; while the bot starts, Slack is asked to come again."""

    def __init__(self) -> None:
        self.guard: Guard | None = None

    async def __call__(self, request: Request) -> Response:
        if self.guard is None:
            return PlainTextResponse("not started yet", 503)
        return await self.guard(request)


def for_slack(gate: Gate | None, ready: Ready, found: Callable[[Request], Awaitable[Response]] | None = None) -> Starlette:
    """What the outside may ask on PORT; without a gate (Socket Mode) no Slack, but health, for a platform that watches a port.

    `found`: takes reports of leaked passwords.
    """
    routes = _health(ready)
    if gate is not None:
        routes.append(Route("/slack/events", gate.__call__, methods=["POST"]))
    if found is not None:
        routes.append(Route("/leaks", found, methods=["POST"]))
    return Starlette(routes=routes)


def for_operators(ready: Ready, remark: Callable[[], str | None]) -> Starlette:
    """Health and metrics. A flood of questions for metrics is answered a few a second: drawing them takes an acknowledgement's time.

    Args:
        remark: what is wrong although the bot serves.
    """
    turn = asyncio.Lock()

    async def metrics(_request: Request) -> Response:
        async with turn:
            await asyncio.sleep(1 / METRICS_A_SECOND)
        return Response(generate_latest(), headers={"content-type": CONTENT_TYPE_LATEST})

    return Starlette(routes=[*_health(ready, remark), Route("/metrics", metrics)])


def _health(ready: Ready, remark: Callable[[], str | None] = lambda: None) -> list[Route]:
    async def healthz(_request: Request) -> Response:
        return PlainTextResponse("ok")

    async def readyz(_request: Request) -> Response:
        problem = await ready()
        if problem:
            return PlainTextResponse(problem, 503)
        said = remark()
        return PlainTextResponse(f"ready, but {said}" if said else "ready")

    return [Route("/healthz", healthz), Route("/readyz", readyz)]

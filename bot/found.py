"""Passwords that were found elsewhere: `POST /leaks`, for a secret scanner that reports what it found outside of Slack.

The body is a JSON list of `{"token", "type", "url", "source"}`, as GitHub's secret scanning sends it; GitHub signs it with a key of its own
(`github.py`), everybody else with LEAKS_SECRET (`docs/webhook.md`). Each token is looked up as the leak watch looks up what stands in a
message. The answer says of each, by the SHA-256 of the token, whether it is one of ours. No token is logged or stored.
https://docs.github.com/en/code-security/secret-scanning/secret-scanning-partner-program
"""

import asyncio
import hashlib
import hmac
import json
import re
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from bot.alarm import SCANNER
from bot.door import describe
from bot.github import Keys, KeysAway
from bot.services import Services, new_reference
from bot.webhook import sign
from storage import leaks
from storage.access import Actor
from storage.audit import Origin, Surface
from storage.database import OutcomeUnknown, Unavailable
from storage.leaks import Standing
from storage.models import Credential
from storage.passwords import find, mask

BODY_MAX = 64 * 1024  # as much as `web.py` takes from anybody
TOKENS_MAX = 100
TOKEN_MAX = 200  # characters; ours are shorter
AGE_MAX = 300  # seconds
AGAIN_AFTER = 10  # seconds
SIGNATURE = "x-leaks-signature"
TIMESTAMP = "x-leaks-timestamp"
GITHUB_KEY = "github-public-key-identifier"
GITHUB_SIGNATURE = "github-public-key-signature"
URL_SHOWN = 200
_TIMESTAMP = re.compile(r"[0-9]{1,12}")
_SIGNATURE = re.compile(r"v1=[0-9a-f]{64}")

log = structlog.get_logger(__name__)


class Wrong(Exception):
    """The request is not taken: HTTP's status, and what is said."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(said)
        self.status = status
        self.said = said


@dataclass(frozen=True)
class Report:
    """One token that was found."""

    token: str
    type: str
    url: str


class Desk:
    """Takes reports in; one at a time is looked up, so that nothing else waits long for its Argon2, nor one of them for its answer.

    Args:
        secret: what they are signed with; empty: only GitHub may report.
        github: the keys that GitHub signs with; None: it may not.
        now: seconds since the epoch.
    """

    def __init__(self, secret: str, github: Keys | None, now: Callable[[], float]) -> None:
        self.services: Services | None = None
        """None while the bot starts."""
        self._secret = secret
        self._github = github
        self._now = now
        self._turn = asyncio.Lock()

    async def __call__(self, request: Request) -> Response:
        if self.services is None:
            return PlainTextResponse("not started yet", 503)
        try:
            signed = self._signed(request.headers)
            body = await _body(request)
            if not await signed(body):
                raise Wrong(401, "signature does not fit")
            reports = read(body)
            async with asyncio.timeout(self.services.limits.report_turn) as turn, self._turn:
                turn.reschedule(None)
                return JSONResponse(await look_up(self.services, reports))
        except TimeoutError:
            return PlainTextResponse("other reports are looked up; report it again", 503, {"retry-after": str(AGAIN_AFTER)})
        except ClientDisconnect:
            return Response(status_code=400)
        except Wrong as wrong:
            log.warning("refused a report", why=wrong.said, address=request.client.host if request.client else None)
            return PlainTextResponse(wrong.said, wrong.status)
        except KeysAway:
            return PlainTextResponse("GitHub's keys cannot be had; report it again", 503)
        except (Unavailable, OutcomeUnknown) as error:
            log.warning("a report waits for the database", error=describe(error))
            return PlainTextResponse("the database does not answer; report it again", 503)

    def _signed(self, headers: Mapping[str, str]) -> Callable[[bytes], Awaitable[bool]]:
        """What tells whether a body has the signature in the headers. No body is read before they can be right. Raises Wrong."""
        timestamp, signature = headers.get(TIMESTAMP, ""), headers.get(SIGNATURE, "")
        if GITHUB_SIGNATURE in headers and not signature:
            github, identifier, theirs = self._github, headers.get(GITHUB_KEY, ""), headers[GITHUB_SIGNATURE]
            if github is None:
                raise Wrong(401, "GitHub's own signature is not taken here: set LEAKS_GITHUB_KEYS")
            if not github.fits(identifier, theirs):
                raise Wrong(401, "signature does not fit")
            return lambda body: github.signed(identifier, theirs, body)
        if not self._secret:
            raise Wrong(401, "only GitHub's own signature is taken here: set LEAKS_SECRET")
        if not _TIMESTAMP.fullmatch(timestamp) or abs(self._now() - int(timestamp)) > AGE_MAX:
            raise Wrong(401, "timestamp too old, too new, or missing")
        if not _SIGNATURE.fullmatch(signature):
            raise Wrong(401, "signature does not fit")

        async def by_secret(body: bytes) -> bool:
            return hmac.compare_digest(sign(self._secret, timestamp, body), signature)

        return by_secret


async def _body(request: Request) -> bytes:
    """Raises Wrong, ClientDisconnect."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_MAX:
            raise Wrong(413, "body over 64 KiB")
    return bytes(body)


def read(body: bytes) -> list[Report]:
    """Raises Wrong."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        raise Wrong(400, "body is no JSON") from None
    if not isinstance(given, list) or not all(isinstance(one, dict) and isinstance(one.get("token"), str) for one in given):
        raise Wrong(400, 'body is no list of {"token", "type", "url", "source"}')
    if len(given) > TOKENS_MAX:
        raise Wrong(413, f"more than {TOKENS_MAX} tokens")

    def text(one: dict[str, Any], name: str) -> str:
        given = one.get(name)
        return given.encode("utf-8", "replace").decode() if isinstance(given, str) else ""  # half a surrogate pair cannot be answered

    return [Report(one["token"], text(one, "type"), text(one, "url")) for one in given]


async def look_up(services: Services, reports: list[Report]) -> list[dict[str, str]]:
    """Raises an alarm for each that works, once for each place; and labels them all, as GitHub expects it. Raises Unavailable."""
    passwords = [next(find(report.token[:TOKEN_MAX]), None) for report in reports]
    each = list({one.canonical: one for one in passwords if one}.values())
    known = dict(zip((one.canonical for one in each), await services.resolver.resolve_each(each), strict=True))
    answers = []
    for report, password in zip(reports, passwords, strict=True):
        belongs = known[password.canonical] if password else None
        if belongs:
            await _notice(services, report, *belongs)
        digest = b64encode(hashlib.sha256(report.token.encode("utf-8", "surrogatepass")).digest()).decode()
        label = "true_positive" if belongs else "false_positive"
        answers.append({"token_hash": digest, "token_type": report.type[:TOKEN_MAX], "label": label})
    return answers


async def _notice(services: Services, report: Report, credential: Credential, standing: Standing) -> None:
    if standing is Standing.DEAD:
        return
    # What tells two addresses apart, however long they are.
    place = "sha256:" + hashlib.sha256(report.url.encode()).hexdigest()[:32]
    origin = Origin(Actor(SCANNER, services.team), Surface.EVENT, new_reference(), source=place)
    await services.db.change(leaks.notice, origin, credential.id, standing, _where(report.url))


def _where(url: str) -> str | None:
    """The address, as it is kept and shown; without a password of ours that stands in it."""
    shown = mask(url)
    return shown[:URL_SHOWN] if shown.startswith(("https://", "http://")) and shown.isascii() and shown.isprintable() else None

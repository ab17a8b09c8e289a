"""A workspace's webhook: what happened to its credentials, as signed JSON. `docs/webhook.md` says how to receive it.

It goes straight to the address, not through a proxy: where a proxy resolves the name, nobody here sees whether it leads inside.
"""

import hashlib
import hmac
import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from ssl import SSLContext
from typing import Any
from urllib.parse import urlsplit

from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from storage.audit import What
from storage.errands import hooked
from storage.models import AuditEvent, Workspace
from storage.refusals import WebhookInvalid, WebhookProblem

LIMIT = ClientTimeout(total=5, connect=3)  # seconds
NAMED_MAX = 100  # credentials in one body
SIGNATURE = "X-SMTP-Bot-Signature"
TIMESTAMP = "X-SMTP-Bot-Timestamp"
DELIVERY = "X-SMTP-Bot-Delivery"
NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: an IPv4 address in the last 32 bits


@dataclass(frozen=True)
class Sent:
    """What came of a delivery: taken, or a word for why not. `hopeless`: trying again would not help."""

    taken: bool
    word: str
    hopeless: bool = False


class NotPublic(OSError):
    """The name leads to an address of this machine or of a private network."""


def sign(secret: str, timestamp: str, body: bytes) -> str:
    """`v1=` and the HMAC-SHA256, in hex, over timestamp, a dot, and the body."""
    return "v1=" + hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def body(events: Sequence[AuditEvent], workspace: Workspace) -> bytes:
    """What happened, in JSON: ids and usernames, nobody's words and no secret."""
    first = events[0]
    named = [{"id": one.credential_id, "username": one.username} for one in events if one.credential_id]
    happened: dict[str, Any] = {
        "id": first.id,
        "type": hooked(What(first.action), first.subject),
        "at": first.at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "by": first.user_id,
        "workspace": workspace.slug,
        "credentials": named[:NAMED_MAX],
        "more": max(len(named) - NAMED_MAX, 0),
    }
    return json.dumps(happened, separators=(",", ":")).encode()


async def send(
    url: str,
    secret: str,
    content: bytes,
    delivery: str,
    now: datetime,
    private: bool = False,
    trust: SSLContext | None = None,
    limit: ClientTimeout = LIMIT,
) -> Sent:
    """Posts it once: no redirect is followed, of the answer only the status counts.

    Args:
        delivery: the same for every try of one delivery, so that a receiver can tell a repetition.
        private: whether the address may be one of this machine or of a private network.
        trust: whose certificates count; None: those that the system trusts.
    """
    try:
        check_literal(url, private)
    except WebhookInvalid:
        return Sent(False, "private_address")
    timestamp = str(int(now.timestamp()))
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "smtp-credentials-bot",
        TIMESTAMP: timestamp,
        SIGNATURE: sign(secret, timestamp, content),
        DELIVERY: delivery,
    }
    resolver = ThreadedResolver() if private else PublicOnly()
    connector = TCPConnector(resolver=resolver, force_close=True, ssl=trust if trust is not None else True)
    try:
        async with (
            ClientSession(connector=connector, timeout=limit, trust_env=False, cookie_jar=DummyCookieJar()) as session,
            session.post(url, data=content, headers=headers, allow_redirects=False) as answer,
        ):
            if 200 <= answer.status < 300:
                return Sent(True, "told")
            return Sent(False, f"status_{answer.status}", hopeless=answer.status == 410)
    except TimeoutError:
        return Sent(False, "timeout")
    except ClientError as error:
        inside = isinstance(error.__cause__, NotPublic) or isinstance(getattr(error, "os_error", None), NotPublic)
        return Sent(False, "private_address" if inside else type(error).__name__)
    except (OSError, ValueError) as error:
        return Sent(False, type(error).__name__)


class PublicOnly(AbstractResolver):
    """Resolves a name, and hands out only addresses of the public Internet: the connection goes to what was looked at."""

    def __init__(self) -> None:
        self._resolver = ThreadedResolver()

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        if not all(is_public(one["host"]) for one in found):
            raise NotPublic(host)
        return found

    async def close(self) -> None:
        await self._resolver.close()


def check_literal(url: str, private: bool) -> None:
    """Raises WebhookInvalid for an address that names this machine or a private network by itself, unless those are allowed."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    if private:
        return
    try:
        public = is_public(host)
    except ValueError:
        # inet_aton's other forms (0x7f.1, 2130706433) are no names either: https://url.spec.whatwg.org/#ends-in-a-number-checker
        last = host.rpartition(".")[2]
        public = host != "localhost" and not host.endswith(".localhost") and not last.isdigit() and not last.startswith("0x")
    if not public:
        raise WebhookInvalid(WebhookProblem.PRIVATE)


def is_public(address: str) -> bool:
    """Whether it is an address of the public Internet, looking through IPv4 in IPv6. Raises ValueError."""
    found: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        inside = IPv4Address(int(found) & 0xFFFFFFFF) if found in NAT64 else found.ipv4_mapped or found.sixtofour
        found = inside or found
    return found.is_global and not found.is_multicast and not found.is_reserved

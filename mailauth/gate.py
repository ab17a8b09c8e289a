"""What an open session may do: go on, send as this sender, send so much. Each answer reads the credential's row after the question came."""

import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Network

import idna
import structlog
from prometheus_client import Counter

from mailauth import policy
from mailauth.fair import Bounded, Reporter, prefix
from mailauth.ledger import Ledger
from mailauth.policy import END, PolicyRequest
from mailauth.sessions import Sessions
from mailauth.sockets import ListenError, Networks, networks, within
from storage.logins import LIMITS, Known
from storage.names import USERNAME
from storage.typed import login_name

MESSAGES = 20_000  # that are remembered, so that each counts once
SHARE = 8  # a process keeps no more than this part of what is left of a limit to itself before it writes it down
SHOWN = 100  # characters of what somebody else wrote
LIMIT_TEXTS = {
    "messages_hour": "{} messages an hour",
    "messages_day": "{} messages a day",
    "recipients_hour": "to {} recipients an hour",
    "recipients_day": "to {} recipients a day",
}
_MAPPED = IPv6Network("::ffff:0:0/96")  # RFC 4291, section 2.5.5.2: IPv4 in IPv6
_LABEL = "[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})+")

log = structlog.get_logger(__name__)
answers = Counter("smtp_authd_policy_answers_total", "Questions about open sessions answered", ["answer"])


@dataclass(frozen=True, slots=True)
class _Refusal:
    code: str
    text: str
    why: str
    """A word or two for the log."""
    limit: str | None = None


_STOPPED = _Refusal("421 4.7.0", "This SMTP credential no longer works", "stopped")
_PASSWORD_ENDED = _Refusal("421 4.7.0", "The password of this session no longer works", "password ended")


class Gate:
    """Answers the questions of mail servers about open sessions.

    Args:
        look_up: the credential of a username, as it is now.
        monotonic: seconds.
    """

    def __init__(
        self,
        look_up: Callable[[str], Awaitable[Known | None]],
        ledger: Ledger,
        sessions: Sessions,
        reporter: Reporter,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._look_up = look_up
        self._ledger = ledger
        self._sessions = sessions
        self._reporter = reporter
        self._now = monotonic
        self._counted: Bounded[tuple[str, ...], None] = Bounded(MESSAGES)

    async def decide(self, request: PolicyRequest) -> bytes:
        """The answer. Usernames that are not ours may do everything. Raises what the database raises."""
        name = login_name(request.username)
        if not USERNAME.fullmatch(name):
            return self._say(name, request, None)
        known = await self._look_up(name)
        refusal = self._judge(known, request)
        if refusal is not None and refusal.limit is not None:
            async with self._ledger.between_writes():
                known = await self._look_up(name)
                refusal = self._judge(known, request, exactly=True)
        if refusal is None and known is not None and request.state == END and self._near(known):
            refusal = await self._write_down(name, request)
        if known is not None and refusal is not None and refusal.limit is not None:
            self._ledger.over(known, refusal.limit)
        return self._say(name, request, refusal)

    def _near(self, known: Known) -> bool:
        """Whether this process must write down what it counted: others may be as near to the limit without knowing of each other."""
        if not known.limited:
            return False
        messages, recipients = self._ledger.unwritten(known.id)
        for name in LIMITS:
            limit = getattr(known, name)
            mine = messages if name.startswith("messages") else recipients
            if limit is not None and mine * SHARE > _limit(limit) - known.sums[name]:
                return True
        return False

    async def _write_down(self, name: str, request: PolicyRequest) -> _Refusal | None:
        """Writes down what was counted; when others wrote so much meanwhile that it is too much, this message is taken back and refused."""
        await self._ledger.write(wait=True)
        known = await self._look_up(name)
        if known is None or not known.limited:
            return None
        over = next((one for one in LIMITS if getattr(known, one) is not None and known.sums[one] > _limit(getattr(known, one))), None)
        if over is None:
            return None
        self._ledger.take_back(known, request)
        self._counted.pop(_message(known, request), None)
        return _too_much(known, over)

    def _judge(self, known: Known | None, request: PolicyRequest, exactly: bool = False) -> _Refusal | None:
        """Counts the message when nothing speaks against it.

        Args:
            exactly: nothing is being written down; otherwise limits are taken a little too strictly.
        """
        if known is None:
            return None
        if known.stopped(known.now):
            return _STOPPED
        if self._password_ended(known, request):
            return _PASSWORD_ENDED
        if not allowed_from(known, request.client):
            text = f"This SMTP credential may not be used from {request.client[:SHOWN] or 'an unknown address'}"
            return _Refusal("421 4.7.0", text, "address not allowed")
        if (foreign := _foreign_sender(known, request.sender)) is not None:
            return _Refusal("553 5.7.1", f"This SMTP credential may not send as {foreign}", "sender not allowed")
        message = _message(known, request)
        if request.state == END and request.instance and message in self._counted:
            return None
        if known.limited and (limit := self._above(known, request, exactly)) is not None:
            return _too_much(known, limit, request.recipients)
        if request.state == END:
            self._counted.keep(message, None)
            self._ledger.sent(known, request)
        return None

    def _password_ended(self, known: Known, request: PolicyRequest) -> bool:
        tag = self._sessions.tag(known.username, request.client, request.port, self._now())
        if tag is None or any(stored.tag in (None, tag) for stored in known.passwords(known.now)):
            return False
        self._sessions.ended(known.username, request.client, request.port)
        return True

    def _above(self, known: Known, request: PolicyRequest, exactly: bool) -> str | None:
        """The limit that one more message, with the recipients that it has so far, is above."""
        messages, recipients = self._ledger.unwritten(known.id, exactly)
        for name in LIMITS:
            limit = getattr(known, name)
            if limit is not None:
                unwritten, more = (messages, 1) if name.startswith("messages") else (recipients, max(request.recipients, 1))
                if known.sums[name] + unwritten + more > _limit(limit):
                    return name
        return None

    def _say(self, username: str, request: PolicyRequest, refusal: _Refusal | None) -> bytes:
        answers.labels(refusal.why if refusal else "go on").inc()
        if refusal is None:
            return policy.DUNNO
        if self._reporter.wanted(prefix(request.client), self._now()):
            facts = {"username": username, "why": refusal.why, "address": request.client[:SHOWN], "state": request.state[:SHOWN]}
            log.info("sending refused", answer=refusal.code, text=refusal.text, **facts)
        return policy.answer(refusal.code, refusal.text)


def _message(known: Known, request: PolicyRequest) -> tuple[str, ...]:
    return known.id, request.client, request.port, request.instance


def _too_much(known: Known, limit: str, recipients: int = 0) -> _Refusal:
    """`recipients`: of this message, which may be more than any later try could send."""
    stored = _limit(getattr(known, limit))
    most = f"This SMTP credential may send {LIMIT_TEXTS[limit].format(stored)}"
    if limit.startswith("recipients") and 0 < stored < recipients:
        return _Refusal("554 5.5.3", f"{most}, and this message alone has {recipients}", "limit", limit)
    return _Refusal("450 4.7.1", f"{most}. Try again later", "limit", limit)


def allowed_from(known: Known, remote: str | None) -> bool:
    """Whether the credential may be used from this address. A missing address is outside, and so is all when a network cannot be read."""
    if not known.allowed_from:
        return True
    allowed = _networks(known.allowed_from)
    return allowed is not None and within(remote, allowed)


@lru_cache(maxsize=5000)
def _networks(cidrs: tuple[str, ...]) -> Networks | None:
    """None when one cannot be read. IPv4 in IPv6 is IPv4."""
    try:
        if not all(isinstance(one, str) for one in cidrs):
            raise ListenError("no text")
        return tuple(_plain(one) for one in networks(cidrs, "allowed_from"))
    except ListenError:
        log.warning("allowed addresses that cannot be read: nobody is let in", allowed_from=str(cidrs)[:SHOWN])
        return None


def _plain(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        return IPv4Network((IPv4Address(int(network.network_address) & 0xFFFFFFFF), network.prefixlen - 96))
    return network


def _foreign_sender(known: Known, sender: str | None) -> str | None:
    """What the sender may not be: its domain, or the words for one without; None for one that may be. The null sender may."""
    if not known.domains or not sender:
        return None
    _, at, domain = sender.rpartition("@")
    if not at:
        return "an address without a domain"
    return None if _domain(domain) in _domains(known.domains) else _domain(domain) or domain[:SHOWN] or "an address without a domain"


@lru_cache(maxsize=5000)
def _domains(stored: tuple[str, ...]) -> frozenset[str]:
    """As they are compared. What is no domain is none."""
    read = {one: _domain(one) if isinstance(one, str) else None for one in stored}
    broken = [str(one)[:SHOWN] for one, domain in read.items() if domain is None]
    if broken:
        log.warning("sender domains that cannot be read: nobody may send as these", domains=broken)
    return frozenset(domain for domain in read.values() if domain is not None)


@lru_cache(maxsize=20_000)
def _domain(text: str) -> str | None:
    """A domain as it is compared: in lower case, IDNA (RFC 5891, with UTS 46's mapping), no dot at its end; None for what is none."""
    domain = text.removesuffix(".")
    if not domain.isascii():
        try:
            domain = idna.encode(domain, uts46=True, std3_rules=True).decode("ascii")
        except (idna.IDNAError, UnicodeError):
            return None
    domain = domain.lower()
    return domain if len(domain) <= 253 and _DOMAIN.fullmatch(domain) and not domain.rpartition(".")[2].isdigit() else None


@lru_cache(maxsize=5000, typed=True)
def _limit(stored: object) -> int:
    """Nothing may be sent when it cannot be read."""
    if isinstance(stored, int) and stored >= 0:
        return stored
    log.warning("a limit that cannot be read: nothing may be sent", limit=str(stored)[:SHOWN])
    return 0

"""What one credential may do: from which addresses it may log in, and how much it may send. `authd` enforces it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

from storage.models import Credential, Listed
from storage.refusals import LimitsContradict, NetworkInvalid, NetworkProblem, NumberInvalid

NETWORKS_MAX = 20
COUNT_MAX = 10_000_000  # messages or recipients in an hour or a day
TYPED_MAX = 4000  # characters of typed networks or domains that are looked at
COUNTS = ("messages_hour", "messages_day", "recipients_hour", "recipients_day")
_DIGITS = re.compile(r"[0-9]{1,12}")
_RANGE = re.compile(r"[0-9a-f.:]+-[0-9a-f.:]+", re.IGNORECASE)
_WITH_PORT = re.compile(r"[0-9.]+:\d+|\[.*\](:\d+)?")
MAPPED = IPv6Network("::ffff:0:0/96")  # RFC 4291, section 2.5.5.2: an IPv4 address in IPv6


@dataclass(frozen=True)
class Limits:
    """Empty or None: no limit."""

    allowed_from: tuple[str, ...] = ()
    """Networks as `clean_network` writes them."""
    messages_hour: int | None = None
    messages_day: int | None = None
    recipients_hour: int | None = None
    recipients_day: int | None = None

    @classmethod
    def of(cls, credential: Credential | Listed) -> "Limits":
        return cls(
            credential.allowed_from,
            credential.messages_hour,
            credential.messages_day,
            credential.recipients_hour,
            credential.recipients_day,
        )

    @property
    def columns(self) -> dict[str, Any]:
        """As a credential's row has them."""
        return {"allowed_from": self.allowed_from} | {name: getattr(self, name) for name in COUNTS}

    @property
    def any(self) -> bool:
        return self != Limits()


def check(limits: Limits) -> None:
    """Raises LimitsContradict."""
    for hour, day in (("messages_hour", "messages_day"), ("recipients_hour", "recipients_day")):
        an_hour, a_day = getattr(limits, hour), getattr(limits, day)
        if an_hour is not None and a_day is not None and an_hour > a_day:
            raise LimitsContradict(hour)


def words(limits: Limits) -> list[str]:
    """The limits in short, such as `from 192.0.2.0/24`, `100 messages/hour`."""
    said = ["from " + ",".join(limits.allowed_from)] if limits.allowed_from else []
    for name in COUNTS:
        count = getattr(limits, name)
        if count is not None:
            what, per = name.split("_")
            said.append(f"{count} {what}/{per}")
    return said


def clean_networks(text: str) -> tuple[str, ...]:
    """The networks that stand in a text, with blanks, commas or line ends between them, each once. Raises NetworkInvalid."""
    if len(text) > TYPED_MAX:
        raise NetworkInvalid(NetworkProblem.TOO_MANY)
    found = tuple(dict.fromkeys(clean_network(one) for one in split(text)))
    if len(found) > NETWORKS_MAX:
        raise NetworkInvalid(NetworkProblem.TOO_MANY)
    return found


def split(text: str) -> Iterable[str]:
    return filter(None, re.split(r"[\s,;]+", text))


def clean_network(text: str) -> str:
    """One address or network as it is kept: `192.0.2.7/32`, `2001:db8::/32`; IPv4 in IPv6 as IPv4.

    Raises:
        NetworkInvalid: with the problem, and what was probably meant where that is known.
    """
    address, slash, prefix = text.partition("/")
    if "%" in text:
        raise NetworkInvalid(NetworkProblem.ZONE, text)
    if _RANGE.fullmatch(text):
        raise NetworkInvalid(NetworkProblem.RANGE, text)
    try:
        single = ip_address(address)
    except ValueError:
        raise NetworkInvalid(_why_no_address(text), text) from None
    if slash and (not prefix.isascii() or not prefix.isdigit() or int(prefix) > single.max_prefixlen or str(int(prefix)) != prefix):
        raise NetworkInvalid(NetworkProblem.PREFIX, text)
    network = ip_network(f"{address}/{prefix or single.max_prefixlen}", strict=False)
    if isinstance(network, IPv6Network) and isinstance(single, IPv6Address) and network.overlaps(MAPPED):
        if not network.subnet_of(MAPPED):
            raise NetworkInvalid(NetworkProblem.ANYWHERE if network.prefixlen == 0 else NetworkProblem.PREFIX, text)
        single = IPv4Address(int(single) & 0xFFFFFFFF)
        network = IPv4Network((single, network.prefixlen - 96), strict=False)
    if network.prefixlen == 0 or single.is_unspecified:
        raise NetworkInvalid(NetworkProblem.ANYWHERE, text)
    if single.is_multicast or single == IPv4Address("255.255.255.255"):
        raise NetworkInvalid(NetworkProblem.NO_CLIENT, text)
    if single != network.network_address:
        raise NetworkInvalid(NetworkProblem.HOST_BITS, text, str(network))
    return str(network)


def _why_no_address(text: str) -> NetworkProblem:
    if _WITH_PORT.fullmatch(text):
        return NetworkProblem.PORT
    if "*" in text:
        return NetworkProblem.WILDCARD
    if re.fullmatch(r"(?=.*[a-z])(?=.*\.)[a-z0-9.-]+(/.*)?", text, re.IGNORECASE):
        return NetworkProblem.HOST_NAME
    return NetworkProblem.NO_ADDRESS


def clean_number(field: str, text: str | None, most: int, least: int = 1) -> int | None:
    """A whole number in ASCII digits; None for an empty text. Raises NumberInvalid."""
    given = (text or "").strip()
    if not given:
        return None
    if not _DIGITS.fullmatch(given) or not least <= int(given) <= most:
        raise NumberInvalid(field, least, most)
    return int(given)

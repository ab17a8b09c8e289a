"""Fairness between those who ask, counted by where they come from. Pure: time is handed in, in seconds of a monotonic clock."""

import ipaddress
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, TypeVar

NO_ADDRESS = "none"

Key = TypeVar("Key")
Value = TypeVar("Value")
Item = TypeVar("Item", bound=Hashable)


def address_of(text: str | None) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a mail server named; None for what is none. IPv4 written as IPv6 is IPv4, a zone (`%eth0`) counts for nothing."""
    try:
        address = ipaddress.ip_address((text or "").partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


@lru_cache(maxsize=20_000)
def prefix(text: str | None) -> str:
    """A name for the network that an address counts as: IPv4 /24, IPv6 /64; everything without an address is one."""
    address = address_of(text)
    if address is None:
        return NO_ADDRESS
    return f"{address.version}:{int(address) >> (8 if address.version == 4 else 64):x}"


class Bounded(OrderedDict[Key, Value], Generic[Key, Value]):
    """A mapping that forgets what was not touched for longest."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def keep(self, key: Key, value: Value) -> None:
        self[key] = value
        self.move_to_end(key)
        if len(self) > self._most:
            self.popitem(last=False)


class Allowance:
    """A token bucket for each key: `burst` at once, then `rate` a second.

    Args:
        most: keys that are remembered; one that was forgotten begins anew.
    """

    def __init__(self, burst: float, rate: float, most: int = 20_000) -> None:
        self._burst = burst
        self._rate = rate
        self._left: Bounded[str, tuple[float, float]] = Bounded(most)

    def take(self, key: str, now: float) -> bool:
        """Takes one, if there is one."""
        left, at = self._left.get(key, (self._burst, now))
        left = min(self._burst, left + (now - at) * self._rate)
        enough = left >= 1
        self._left.keep(key, (left - 1 if enough else left, now))
        return enough


@dataclass(slots=True)
class _Waiting:
    sure: bool
    lane: str
    until: float


class Line(Generic[Item]):
    """Who computes next: at most `at_once` do, the others wait in lanes that take turns, each in its own order.

    How many may wait has no bound, how long has. The sure ones (a tag of theirs fits, so that nobody guesses his way in among them)
    all come before the others.

    Args:
        patience: seconds after which somebody who still waits is told so.
    """

    def __init__(self, at_once: int, patience: float) -> None:
        self.computing = 0
        self._at_once = at_once
        self._patience = patience
        self._waiting: OrderedDict[Item, _Waiting] = OrderedDict()
        self._lanes: dict[bool, OrderedDict[str, OrderedDict[Item, None]]] = {True: OrderedDict(), False: OrderedDict()}

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def join(self, item: Item, lane: str, sure: bool, now: float) -> None:
        self._waiting[item] = _Waiting(sure, lane, now + self._patience)
        self._lanes[sure].setdefault(lane, OrderedDict())[item] = None

    def leave(self, item: Item) -> None:
        """Somebody waits no more; nothing happens to who does not wait."""
        waiting = self._waiting.pop(item, None)
        if waiting is not None:
            lanes = self._lanes[waiting.sure]
            del lanes[waiting.lane][item]
            if not lanes[waiting.lane]:
                del lanes[waiting.lane]

    def expired(self, now: float) -> list[Item]:
        """Takes out who has waited too long."""
        late = []
        for item, waiting in self._waiting.items():
            if waiting.until > now:
                break
            late.append(item)
        for item in late:
            self.leave(item)
        return late

    def next(self) -> Item | None:
        """Takes out the next one to compute, who must be `done` later; None when nobody waits or all places are taken."""
        lanes = self._lanes[True] or self._lanes[False]
        if self.computing >= self._at_once or not lanes:
            return None
        lane, items = next(iter(lanes.items()))
        item = next(iter(items))
        self.leave(item)
        if lane in lanes:
            lanes.move_to_end(lane)
        self.computing += 1
        return item

    def done(self) -> None:
        self.computing -= 1


class Reporter:
    """Which refusals get a log line: a few for each prefix and not too many in all; it counts the others."""

    def __init__(self, a_prefix: tuple[float, float] = (5, 0.1), in_all: tuple[float, float] = (100, 10)) -> None:
        self.left_out = 0
        self._by_prefix = Allowance(*a_prefix)
        self._all = Allowance(*in_all, most=1)

    def wanted(self, of: str, now: float) -> bool:
        if self._by_prefix.take(of, now) and self._all.take("", now):
            return True
        self.left_out += 1
        return False

    def take_left_out(self) -> int:
        """How many lines were left out since the last call."""
        count, self.left_out = self.left_out, 0
        return count

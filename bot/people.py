"""Who somebody is, which user groups they are in and which channels, as Slack tells it; remembered for a minute.

Slack's events reach one replica only, which writes their moment into the store. A request reads the moments of the person and the groups
that it is about, and then comes here: an answer counts only if whoever asked for it had read the same moment, or a later one, before the
question was sent. So no clocks are compared, and an answer that was asked for before an event and came after it does not count.

Slack: https://docs.slack.dev/reference/methods/users.info, https://docs.slack.dev/reference/methods/usergroups.users.list,
https://docs.slack.dev/reference/methods/users.conversations
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import Context
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from typing import Any, Generic, TypeVar

from bot.delivery import outside
from bot.slack import Away, Fields, Malformed, Ok, Refused, Slack, User
from storage.access import EMERGENCY, FRESH, Actor
from storage.refusals import Barred, RoleUnknown

ASK_LIMIT = 1.5  # seconds for one question: a modal must open, and its submission be answered, within Slack's 3
REMEMBERED_PEOPLE = 10_000
REMEMBERED_GROUPS = 500
REMEMBERED_MEMBERS = 1_000  # people whose channels are remembered

Monotonic = Callable[[], float]
Answer = TypeVar("Answer")
NOBODY = User(None, frozenset(), deleted=False, bot=False, guest=False, stranger=True)
NO_CHANGES: Mapping[str, datetime] = {}


class Presence(Enum):
    """Whether somebody is in a channel."""

    PRESENT = auto()
    ABSENT = auto()
    HIDDEN = auto()
    """The channel is private and the bot is not in it, so Slack does not tell."""
    UNKNOWN = auto()
    """Slack did not answer."""


class People:
    """Turns a Slack user id into an `Actor`.

    Args:
        home: the Slack team the bot is installed in; people of any other are barred, but for colleagues in the same Enterprise Grid.
        owners: the ids in BOT_OWNERS.
        allow_guests: whether a guest who was granted a role by id may use it.
        monotonic: seconds, for ages.
        limit: seconds for one question.
    """

    def __init__(
        self, slack: Slack, home: str, owners: Iterable[str], allow_guests: bool, monotonic: Monotonic, limit: float = ASK_LIMIT
    ) -> None:
        self._slack = slack
        self._home = home
        self._owners = frozenset(owners)
        self._allow_guests = allow_guests
        self._now = monotonic
        self._limit = limit
        self._accounts = _Memory(self._ask_account, monotonic, REMEMBERED_PEOPLE)
        self._members = _Memory(self._ask_members, monotonic, REMEMBERED_GROUPS)
        self._channels = _Memory(self._ask_channels, monotonic, REMEMBERED_MEMBERS)

    async def actor(
        self,
        user: str,
        team: str | None,
        channel: str | None,
        groups: Iterable[str] = (),
        changed: Mapping[str, datetime] = NO_CHANGES,
    ) -> Actor:
        """The person, with the age of what is known of their account and of their membership in each of these user groups.

        Args:
            team: their Slack team as the payload tells it.
            changed: when Slack last said that the user or a group changed, by id; read from the store before this is called.

        Raises:
            RoleUnknown: Slack cannot say who this is, and has not within the last hour or since the last change.
        """
        asked = list(dict.fromkeys(groups))
        account, memberships = await asyncio.gather(
            self._accounts.get(user, changed.get(user)),
            asyncio.gather(*(self._members.get(group, changed.get(group)) for group in asked)),
        )
        if account is None:
            raise RoleUnknown
        return self._described(user, team, channel, account, dict(zip(asked, memberships, strict=True)))

    def remembered(
        self, user: str, team: str | None, channel: str | None, groups: Iterable[str], changed: Mapping[str, datetime]
    ) -> Actor | None:
        """As `actor`, when nothing has to be asked; None when something must be. Also from a database thread."""
        account = self._accounts.fresh(user, changed.get(user))
        memberships = {group: self._members.fresh(group, changed.get(group)) for group in groups}
        if account is None or None in memberships.values():
            return None
        return self._described(user, team, channel, account, memberships)

    def _described(
        self,
        user: str,
        team: str | None,
        channel: str | None,
        account: "_Known[User]",
        memberships: Mapping[str, "_Known[frozenset[str]] | None"],
    ) -> Actor:
        age, owner = self._age(account), user in self._owners
        barred = self._barred(account.answer, team)
        if barred:
            elsewhere = barred is Barred.FOREIGN and team is not None
            return Actor(user, team if elsewhere else self._home, barred=barred, account_age=age)
        if account.answer.guest:
            return Actor(user, self._home, owner=owner, account_age=age)
        ages: dict[str, int] = {}
        unanswered: set[str] = set()
        for group, known in memberships.items():
            if known is None:
                unanswered.add(group)
            elif user in known.answer:
                ages[group] = self._age(known)
        return Actor(user, self._home, owner=owner, channel=channel, groups=ages, unanswered=frozenset(unanswered), account_age=age)

    async def in_channel(self, user: str, channel: str) -> Presence:
        """Whether they are in it now, or were within the last minute. That they are not is always asked anew."""
        known = await self._channels.get(user, None, still_good=lambda channels: channel in channels)
        if known is None or self._age(known) >= FRESH:
            return Presence.UNKNOWN
        if channel in known.answer:
            return Presence.PRESENT
        match await self._slack.channel(channel, self._limit):
            case Ok():
                return Presence.ABSENT
            case Refused("channel_not_found"):
                return Presence.HIDDEN
            case _:
                return Presence.UNKNOWN

    def lessens(self, user: object) -> bool:
        """Whether the account in a `user_change` event may do less than a member's: only then is its moment worth writing down.

        Most of these events tell a new status or picture.
        """
        try:
            account = User.read(Fields(user if isinstance(user, dict) else {}))
        except Malformed:
            return True
        return account.guest or self._barred(account, None) is not None

    def _age(self, known: "_Known[Any]") -> int:
        return int(self._now() - known.asked)

    def _barred(self, account: User, team: str | None) -> Barred | None:
        colleague = self._home in account.enterprise_teams
        at_home = account.team_id == self._home and team in (None, self._home)
        if account.stranger or not (at_home or colleague):
            return Barred.FOREIGN
        if account.deleted:
            return Barred.DEACTIVATED
        if account.bot:
            return Barred.BOT
        return Barred.GUEST if account.guest and not self._allow_guests else None

    async def _ask_account(self, user: str) -> User | None:
        match await self._slack.user(user, self._limit):
            case Ok(account):
                return account
            case Refused("user_not_found" | "user_not_visible"):
                return NOBODY
            case Refused() | Away():
                return None

    async def _ask_members(self, group: str) -> frozenset[str] | None:
        match await self._slack.group_members(group, self._limit):
            case Ok(members):
                return members
            case Refused("no_such_subteam"):
                return frozenset()
            case Refused() | Away():
                return None

    async def _ask_channels(self, user: str) -> frozenset[str] | None:
        match await self._slack.channels_of(user, self._limit):
            case Ok(channels):
                return channels
            case Refused("user_not_found"):
                return frozenset()
            case Refused() | Away():
                return None


@dataclass(frozen=True)
class _Known(Generic[Answer]):
    answer: Answer
    asked: float
    """By the monotonic clock, before the question was sent."""
    moment: datetime | None
    """The last change that was known then."""


def _covers(known: datetime | None, moment: datetime | None) -> bool:
    return moment is None or (known is not None and known >= moment)


class _Memory(Generic[Answer]):
    """Answers by key, at most `size`; one question for all who ask the same.

    Args:
        ask: puts the question; None when it was not answered.
    """

    def __init__(self, ask: Callable[[str], Awaitable[Answer | None]], monotonic: Monotonic, size: int) -> None:
        self._ask = ask
        self._now = monotonic
        self._size = size
        self._known: OrderedDict[str, _Known[Answer]] = OrderedDict()
        self._asking: dict[str, tuple[asyncio.Task[_Known[Answer] | None], datetime | None]] = {}

    async def get(
        self, key: str, moment: datetime | None, still_good: Callable[[Answer], bool] = lambda _answer: True
    ) -> _Known[Answer] | None:
        """What is known since `moment`: at most a minute old, or, when Slack does not answer, an hour. None when nothing is.

        `still_good`: whether a remembered answer will do.
        """
        known = self.fresh(key, moment)
        if known and still_good(known.answer):
            return known
        asking, asked_at = self._asking.get(key, (None, None))
        if asking is None or not _covers(asked_at, moment):
            # It is everybody's: it must not hold, nor wait for, the place of the delivery that happened to ask first.
            asking = asyncio.create_task(self._question(key, moment), context=Context())
            self._asking[key] = asking, moment
            asking.add_done_callback(lambda done: self._asked(key, done))
        async with outside():
            return await asyncio.shield(asking) or self._usable(key, moment)

    def fresh(self, key: str, moment: datetime | None) -> _Known[Answer] | None:
        """What is known since `moment` and at most a minute old."""
        known = self._usable(key, moment)
        return known if known and self._now() - known.asked < FRESH else None

    def _usable(self, key: str, moment: datetime | None) -> _Known[Answer] | None:
        known = self._known.get(key)
        return known if known and self._now() - known.asked < EMERGENCY and _covers(known.moment, moment) else None

    async def _question(self, key: str, moment: datetime | None) -> _Known[Answer] | None:
        asked = self._now()
        answer = await self._ask(key)
        if answer is None:
            return None
        known = _Known(answer, asked, moment)
        before = self._known.get(key)
        if before is None or _covers(moment, before.moment):
            self._known[key] = known
            self._known.move_to_end(key)
            if len(self._known) > self._size:
                self._known.popitem(last=False)
        return known

    def _asked(self, key: str, done: asyncio.Task[_Known[Answer] | None]) -> None:
        if self._asking.get(key, (None, None))[0] is done:
            del self._asking[key]

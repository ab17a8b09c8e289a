"""Who somebody is, and which user groups they are in, as Slack tells it; remembered for a short while.

Slack: https://docs.slack.dev/reference/methods/users.info, https://docs.slack.dev/reference/methods/usergroups.users.list
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import structlog
from aiohttp import ClientError
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient

from storage.access import EMERGENCY_MEMBERSHIP, FRESH_MEMBERSHIP, Actor
from storage.refusals import Barred, RoleUnknown

PERSON_LIFETIME = 600  # seconds that a person's account is taken as Slack described it
ASK_TIMEOUT = 2.0  # seconds for one question: the modal that waits for it must open within Slack's 3
REMEMBERED_PEOPLE = 10_000

log = structlog.get_logger(__name__)
Monotonic = Callable[[], float]
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class _Known(Generic[Answer]):
    answer: Answer
    at: float


@dataclass(frozen=True)
class _Account:
    barred: Barred | None
    guest: bool = False


class People:
    """Turns a Slack user id into an `Actor`.

    Args:
        home: the Slack team the bot is installed in; people of any other are barred.
        owners: the ids in BOT_OWNERS.
        allow_guests: whether a guest who was granted a role by id may use it.
        monotonic: seconds, for ages.
    """

    def __init__(self, client: AsyncWebClient, home: str, owners: Iterable[str], allow_guests: bool, monotonic: Monotonic) -> None:
        self._client = client
        self._home = home
        self._owners = frozenset(owners)
        self._allow_guests = allow_guests
        self._now = monotonic
        self._accounts: OrderedDict[str, _Known[_Account]] = OrderedDict()
        self._members: dict[str, _Known[frozenset[str]]] = {}
        self._asking: dict[str, asyncio.Lock] = {}

    async def actor(self, user: str, team: str | None, channel: str | None, groups: Iterable[str] = ()) -> Actor:
        """The person, with the age of what is known of their membership in each of these user groups.

        Raises:
            RoleUnknown: Slack cannot say who this is, and has not within the last hour.
        """
        if team is not None and team != self._home:
            return Actor(user, team, barred=Barred.FOREIGN)
        account = await self._account(user)
        if account.barred:
            return Actor(user, self._home, barred=account.barred)
        if account.guest:
            return Actor(user, self._home, owner=user in self._owners)
        ages: dict[str, int] = {}
        unanswered: set[str] = set()
        for group, known in zip(groups, await asyncio.gather(*(self._members_of(group) for group in groups)), strict=True):
            if known is None:
                unanswered.add(group)
            elif user in known.answer:
                ages[group] = int(self._now() - known.at)
        return Actor(user, self._home, owner=user in self._owners, channel=channel, groups=ages, unanswered=frozenset(unanswered))

    def forget_person(self, user: str) -> None:
        """Slack says that the account changed."""
        self._accounts.pop(user, None)

    def forget_groups(self) -> None:
        """Slack says that a group changed. Its event may list the members incompletely, so they are asked for anew."""
        self._members = {group: _Known(known.answer, known.at - FRESH_MEMBERSHIP) for group, known in self._members.items()}

    async def _account(self, user: str) -> _Account:
        known = self._accounts.get(user)
        if known and self._now() - known.at < PERSON_LIFETIME:
            return known.answer
        try:
            answer = await self._ask(self._client.users_info(user=user))
            account = self._read_account(answer["user"])
        except SlackApiError as error:
            if error.response["error"] in ("user_not_found", "user_not_visible"):
                account = _Account(Barred.FOREIGN)
            elif known and self._now() - known.at < EMERGENCY_MEMBERSHIP:
                return known.answer
            else:
                raise RoleUnknown from None
        except (ClientError, TimeoutError):
            if known and self._now() - known.at < EMERGENCY_MEMBERSHIP:
                return known.answer
            raise RoleUnknown from None
        self._accounts[user] = _Known(account, self._now())
        self._accounts.move_to_end(user)
        if len(self._accounts) > REMEMBERED_PEOPLE:
            self._accounts.popitem(last=False)
        return account

    def _read_account(self, user: dict[str, Any]) -> _Account:
        if user.get("team_id", self._home) != self._home or user.get("is_stranger"):
            return _Account(Barred.FOREIGN)
        if user.get("deleted"):
            return _Account(Barred.DEACTIVATED)
        if user.get("is_bot") or user.get("is_app_user"):
            return _Account(Barred.BOT)
        if user.get("is_restricted") or user.get("is_ultra_restricted"):
            return _Account(None if self._allow_guests else Barred.GUEST, guest=True)
        return _Account(None)

    async def _members_of(self, group: str) -> _Known[frozenset[str]] | None:
        async with self._asking.setdefault(group, asyncio.Lock()):
            known = self._members.get(group)
            if known and self._now() - known.at < FRESH_MEMBERSHIP:
                return known
            try:
                answer = await self._ask(self._client.usergroups_users_list(usergroup=group))
                members = frozenset(answer["users"])
            except SlackApiError as error:
                if error.response["error"] == "no_such_subteam":
                    members = frozenset()
                else:
                    log.warning("user group not answered", group=group, error=error.response["error"])
                    return self._still_usable(known)
            except (ClientError, TimeoutError):
                log.warning("user group not answered", group=group, error="no connection")
                return self._still_usable(known)
            self._members[group] = _Known(members, self._now())
            return self._members[group]

    def _still_usable(self, known: _Known[frozenset[str]] | None) -> _Known[frozenset[str]] | None:
        return known if known and self._now() - known.at < EMERGENCY_MEMBERSHIP else None

    async def _ask(self, question: Any) -> Any:
        async with asyncio.timeout(ASK_TIMEOUT):
            return await question

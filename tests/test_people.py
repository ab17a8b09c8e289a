"""Who somebody is: what Slack said, how long it counts, and what an event or an outage makes of it."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bot.people import People, Presence
from bot.slack import Slack
from storage.access import Actor
from storage.refusals import Barred, RoleUnknown
from tests.answers import Asked, Wire, raw, says, wire

HOME = "T0HOME"
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = NOON + timedelta(milliseconds=1)


class Team:
    """Slack's side: accounts, groups and channels, which answer when they are let."""

    def __init__(self, slack: Wire) -> None:
        self.slack = slack
        slack.answer = self._answer
        self.account: dict[str, Any] = {"team_id": HOME}
        self.members = ["U1"]
        self.groups: bytes | None = None
        self.channels = ["C1"]
        self.info = says(ok=True, channel={})
        self.away = False
        self.gate = asyncio.Event()
        self.gate.set()
        self._came = asyncio.Condition()

    async def _answer(self, asked: Asked) -> bytes | None:
        answers = {
            "users.info": says(ok=True, user=self.account),
            "usergroups.users.list": self.groups or says(ok=True, users=self.members),
            "users.conversations": says(ok=True, channels=[{"id": one} for one in self.channels]),
            "conversations.info": self.info,
        }
        answer, gate = raw(503) if self.away else answers[asked.method], self.gate
        async with self._came:
            self._came.notify_all()
        await gate.wait()
        return answer

    def asked(self, method: str) -> int:
        return len([one for one in self.slack.asked if one.method == method])

    async def until_asked(self, method: str, times: int) -> None:
        async with self._came:
            await self._came.wait_for(lambda: self.asked(method) >= times)


class Ages:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def no_nap(_seconds: float) -> None:
    pass


@pytest.fixture
async def team() -> AsyncIterator[Team]:
    async with wire() as made:
        yield Team(made)


@pytest.fixture
def ages() -> Ages:
    return Ages()


@pytest.fixture
async def people(team: Team, ages: Ages) -> AsyncIterator[People]:
    slack = Slack("xoxb-token", team.slack.api_url, no_nap)
    yield People(slack, HOME, ["UOWNER"], allow_guests=False, monotonic=ages, limit=30)
    await slack.close()


async def act(people: People, groups: tuple[str, ...] = ("S1",), **changed: datetime) -> Actor:
    return await people.actor("U1", HOME, "C1", groups, changed)


async def test_an_answer_counts_for_a_minute(people: People, team: Team, ages: Ages) -> None:
    assert await act(people) == Actor("U1", HOME, channel="C1", groups={"S1": 0})
    ages.now += 59
    team.members, team.account = [], {"team_id": HOME, "is_restricted": True}
    assert await act(people) == Actor("U1", HOME, channel="C1", groups={"S1": 59}, account_age=59)
    assert (team.asked("users.info"), team.asked("usergroups.users.list")) == (1, 1)
    ages.now += 1
    assert (await act(people)).barred is Barred.GUEST


async def test_after_an_event_only_an_answer_that_was_asked_for_after_it_counts(people: People, team: Team) -> None:
    assert (await act(people)).groups == {"S1": 0}
    team.members = []
    assert (await act(people, S1=NOON)).groups == {}
    team.account = {"team_id": HOME, "deleted": True}
    assert (await act(people, S1=NOON, U1=NOON)).barred is Barred.DEACTIVATED
    # Both are remembered as of noon: no more questions until the next event.
    asked = len(team.slack.asked)
    await act(people, S1=NOON, U1=NOON)
    assert len(team.slack.asked) == asked
    await act(people, S1=LATER, U1=NOON)
    assert team.asked("usergroups.users.list") == 3


async def test_what_is_remembered_is_what_would_not_be_asked_again(people: People, team: Team, ages: Ages) -> None:
    def remembered(*groups: str, **changed: datetime) -> Actor | None:
        return people.remembered("U1", HOME, "C1", groups, changed)

    assert remembered("S1") is None
    known = await act(people, S1=NOON, U1=NOON)
    asked = len(team.slack.asked)
    assert remembered("S1", S1=NOON, U1=NOON) == remembered("S1") == known
    assert remembered("S1", S1=LATER) is remembered("S1", U1=LATER) is remembered("S1", "S2") is None
    ages.now += 59
    assert remembered("S1") == await act(people)
    ages.now += 1
    assert remembered("S1") is remembered() is None
    assert len(team.slack.asked) == asked


async def test_an_answer_asked_for_before_an_event_and_arriving_after_it_is_not_fresh(people: People, team: Team) -> None:
    team.gate.clear()
    early = asyncio.create_task(act(people))
    await team.until_asked("usergroups.users.list", 1)
    team.members = []
    late = asyncio.create_task(act(people, S1=NOON))
    await team.until_asked("usergroups.users.list", 2)
    team.gate.set()
    assert (await early).groups == {"S1": 0}
    assert (await late).groups == {}
    assert (await act(people, S1=NOON)).groups == {}
    assert team.asked("usergroups.users.list") == 2


async def test_an_older_question_that_is_answered_last_does_not_replace_the_newer_answer(people: People, team: Team) -> None:
    team.gate.clear()
    early = asyncio.create_task(act(people))
    await team.until_asked("usergroups.users.list", 1)
    slow, team.gate = team.gate, asyncio.Event()
    team.gate.set()
    team.members = []  # the first answer has the old ones, and is held back by the old gate
    assert (await act(people, S1=NOON, U1=NOON)).groups == {}
    slow.set()
    assert (await early).groups == {"S1": 0}
    assert (await act(people, S1=NOON, U1=NOON)).groups == {}
    assert team.asked("usergroups.users.list") == 2


async def test_all_who_ask_the_same_share_one_question(people: People, team: Team) -> None:
    team.gate.clear()
    tasks = [asyncio.create_task(act(people)) for _ in range(50)]
    await team.until_asked("usergroups.users.list", 1)
    tasks[0].cancel()
    team.gate.set()
    made = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(made[0], asyncio.CancelledError)
    assert all(isinstance(one, Actor) and one.groups == {"S1": 0} for one in made[1:])
    assert (team.asked("users.info"), team.asked("usergroups.users.list")) == (1, 1)


async def test_while_slack_is_away_an_answer_carries_its_age_for_an_hour(people: People, team: Team, ages: Ages) -> None:
    await act(people)
    team.away = True
    ages.now += 3599
    assert await act(people) == Actor("U1", HOME, channel="C1", groups={"S1": 3599}, account_age=3599)
    ages.now += 1
    with pytest.raises(RoleUnknown):
        await act(people)


async def test_while_slack_is_away_a_group_never_asked_about_is_unanswered(people: People, team: Team) -> None:
    await act(people, ())
    team.away = True
    assert (await act(people)).unanswered == {"S1"}


async def test_while_slack_is_away_an_answer_from_before_an_event_counts_for_nothing(people: People, team: Team) -> None:
    await act(people)
    team.away = True
    made = await act(people, S1=NOON)
    assert not made.groups
    assert made.unanswered == {"S1"}
    with pytest.raises(RoleUnknown):
        await act(people, U1=NOON)


@pytest.mark.parametrize(
    ("account", "claimed", "barred"),
    [
        ({"team_id": HOME}, HOME, None),
        ({"team_id": HOME}, None, None),
        ({"team_id": HOME}, "T0OTHER", Barred.FOREIGN),
        ({"team_id": "T0OTHER"}, HOME, Barred.FOREIGN),
        ({"team_id": "T0OTHER"}, "T0OTHER", Barred.FOREIGN),
        ({}, HOME, Barred.FOREIGN),
        ({"team_id": HOME, "is_stranger": True}, HOME, Barred.FOREIGN),
        ({"team_id": "T0SISTER", "enterprise_user": {"teams": ["T0SISTER", HOME]}}, "T0SISTER", None),
        ({"team_id": "T0SISTER", "enterprise_user": {"teams": ["T0SISTER", HOME]}}, HOME, None),
        ({"enterprise_user": {"teams": [HOME]}}, HOME, None),
        ({"team_id": "T0SISTER", "enterprise_user": {"teams": ["T0SISTER"]}}, "T0SISTER", Barred.FOREIGN),
        ({"team_id": "T0SISTER", "enterprise_user": {"teams": [HOME]}, "is_restricted": True}, "T0SISTER", Barred.GUEST),
        ({"team_id": HOME, "deleted": True}, HOME, Barred.DEACTIVATED),
        ({"team_id": HOME, "is_bot": True}, HOME, Barred.BOT),
        ({"team_id": HOME, "is_ultra_restricted": True}, HOME, Barred.GUEST),
    ],
)
async def test_colleagues_and_others(
    people: People, team: Team, account: dict[str, Any], claimed: str | None, barred: Barred | None
) -> None:
    team.account = account
    made = await people.actor("U1", claimed, "C1")
    assert made.barred is barred
    assert barred is not None or made.team == HOME


@pytest.mark.parametrize(
    "account", [{"team_id": 7}, {"team_id": HOME, "deleted": "no"}, {"team_id": HOME, "enterprise_user": {"teams": 1}}]
)
async def test_an_account_that_cannot_be_read_is_nobodys(people: People, team: Team, account: dict[str, Any]) -> None:
    team.account = account
    with pytest.raises(RoleUnknown):
        await act(people)
    assert people.lessens(account)


async def test_who_left_a_channel_is_found_out_within_a_minute(people: People, team: Team, ages: Ages) -> None:
    assert await people.in_channel("U1", "C1") is Presence.PRESENT
    team.channels = []
    ages.now += 59
    assert await people.in_channel("U1", "C1") is Presence.PRESENT
    ages.now += 1
    assert await people.in_channel("U1", "C1") is Presence.ABSENT


async def test_who_joined_a_channel_need_not_wait(people: People, team: Team) -> None:
    assert await people.in_channel("U1", "C2") is Presence.ABSENT
    team.channels = ["C1", "C2"]
    assert await people.in_channel("U1", "C2") is Presence.PRESENT


async def test_a_private_channel_without_the_bot_is_hidden(people: People, team: Team) -> None:
    team.info = says(ok=False, error="channel_not_found")
    assert await people.in_channel("U1", "C2") is Presence.HIDDEN


async def test_while_slack_is_away_a_channel_is_known_for_a_minute(people: People, team: Team, ages: Ages) -> None:
    assert await people.in_channel("U1", "C1") is Presence.PRESENT
    team.away = True
    assert await people.in_channel("U1", "C1") is Presence.PRESENT
    ages.now += 60
    assert await people.in_channel("U1", "C1") is Presence.UNKNOWN


def test_only_an_event_that_takes_something_away_is_worth_its_moment() -> None:
    made: Any = None
    people = People(made, HOME, [], allow_guests=True, monotonic=Ages())
    assert not people.lessens({"team_id": HOME, "profile": {"status_text": "lunch"}})
    for less in ({"is_restricted": True}, {"deleted": True}, {"is_bot": True}, {"is_stranger": True}, {"team_id": "T0OTHER"}):
        assert people.lessens({"team_id": HOME, **less})
    assert people.lessens({})
    assert people.lessens(None)


async def test_a_guest_who_is_let_in_has_only_what_was_given_to_them(team: Team, ages: Ages) -> None:
    slack = Slack("xoxb-token", team.slack.api_url, no_nap)
    people = People(slack, HOME, [], allow_guests=True, monotonic=ages, limit=30)
    assert (await act(people)).groups == {"S1": 0}
    team.account = {"team_id": HOME, "is_restricted": True}
    ages.now += 61
    guest = await act(people)
    assert (guest.barred, dict(guest.groups), guest.channel) == (None, {}, None)
    await slack.close()


async def test_a_group_that_is_gone_has_no_members(people: People, team: Team) -> None:
    team.groups = says(ok=False, error="no_such_subteam")
    actor = await act(people)
    assert (dict(actor.groups), actor.unanswered) == ({}, frozenset())

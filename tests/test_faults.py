"""Every call of Slack times every kind of wrong answer: words and state agree in each. `make soak` tries all, this a few of them."""

import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import pytest

from bot.errands import LANES
from mailauth.verifier import Verifier
from sandbox.faults import WRONG_ANSWERS
from sandbox.people import Person
from storage import errands
from storage.database import Transaction
from storage.errands import Kind
from storage.passwords import Hasher
from tests import raw
from tests.oracle import FLOWS, Diary, Oracle
from tests.stage import Stage, stage
from tests.stores import sqlite_store

SEED = 12
IN_THE_SUITE = 12
ALL = 1_000_000
ASKS = ("users.info", "usergroups.users.list", "users.conversations", "conversations.info")
# Slack says ok and did nothing: nobody could know.
LIES = ("ok typed as text", "ok without its fields", "ok with fields of other types")
# They are waited for, a second or more.
SLOW = ("never", *(name for name in WRONG_ANSWERS if name.startswith("429") and name not in ("429", "429 with a huge Retry-After")))


@dataclass(frozen=True)
class Cell:
    """One call of Slack in a flow that goes wrong, alone or with all that follow it."""

    flow: str
    method: str
    passes: int
    kind: str
    done: bool
    for_good: bool

    def __str__(self) -> str:
        when = "after it was done" if self.done else "instead"
        often = "and ever after" if self.for_good else "once"
        return f"{self.flow}: {self.method} {self.passes}: {self.kind}, {when}, {often}"


@dataclass
class Trial:
    """A stage with somebody who does things, and who reads what came of them."""

    play: Stage
    oracle: Oracle
    diary: Diary
    number: int = 0

    @property
    def person(self) -> Person:
        return self.play.wanda

    async def drained(self) -> None:
        assert await self.play.bot.services.work.drain(200)

    async def prepare(self, flow: str) -> str:
        """The name of a new credential to do it with, and nothing that is known from before."""
        self.number += 1
        name = f"Relay {self.number}"
        self._closes_all()
        if flow != "create":
            password = await self.play.create(self.person, name)
            credential = await self.oracle.named(name)
            assert credential
            self.oracle.known[credential.username] = password
            await self.play.settled()
        for messages in self.play.slack.world.messages.values():
            messages.clear()
        self._closes_all()
        self.play.clock.passes(minutes=2)
        return name

    def _closes_all(self) -> None:
        world = self.play.slack.world
        for view in list(world.modals[self.person.id]):
            world.close(view)

    async def act(self, flow: str, name: str) -> bool:
        """The flow by hand, as far as it goes; whether it came to a submission."""
        person = self.person
        credential = await self.oracle.named(name)
        what = credential.username if credential and flow == "revoke" else name
        self.diary.begins()
        await person.types(self.play.mail, f"/smtp {flow} {what}")
        await self.drained()
        view = person.view
        if view is None or not view.content.get("submit"):
            return False
        if flow == "rotate":
            person.picks("Old password", "Stops at once")
        self.diary.begins()
        self.play.clock.passes(minutes=2)  # what was known of the person when the modal opened is asked again
        await person.submits()
        await self.drained()
        return True

    async def settle(self) -> None:
        """Slack answers again, and a minute passes."""
        known_troubles(self.play)
        self.play.slack.heals()
        for _ in range(2):
            await self.drained()
            self.play.clock.passes(seconds=29)
            self.play.bot.errands.wake()
            await self.play.settled()
        still = await self.play.db.read(errands.still_open)
        assert still.count == 0

    async def calls(self, flow: str) -> list[tuple[str, int]]:
        """The calls of Slack that the flow makes when all is well: the method, and how many of it come before."""
        name = await self.prepare(flow)
        start = len(self.play.slack.traffic)
        assert await self.act(flow, name)
        await self.settle()
        assert await self.oracle.judge(flow, name, self.diary) == "done"
        made = [one.what for one in list(self.play.slack.traffic)[start:] if one.way == "from app"]
        return [(method, made[:at].count(method)) for at, method in enumerate(made)]

    async def run(self, cell: Cell) -> None:
        """Raises AssertionError where words and state part ways."""
        name = await self.prepare(cell.flow)
        fault = replace(WRONG_ANSWERS[cell.kind], done=cell.done, passes=cell.passes, times=ALL if cell.for_good else 1)
        self.play.slack.fail(cell.method, fault)
        try:
            submitted = await self.act(cell.flow, name)
            await self.settle()
            if submitted:
                await self.oracle.judge(cell.flow, name, self.diary)
            else:
                assert self.diary.read, "silence"
        except AssertionError as error:
            raise AssertionError(f"{cell}\n{error}") from error


def known_troubles(play: Stage) -> None:
    """Forgets what was logged, if it is only that Slack or the database was in the way."""
    lines, known = play.logs.getvalue().splitlines(), ("SlackAway ", "Unavailable ", "OutcomeUnknown")
    strange = [one for one in lines if '"event": "unexpected failure"' in one and not json.loads(one)["error"].startswith(known)]
    assert not strange, strange
    play.logs.seek(0)
    play.logs.truncate()


@asynccontextmanager
async def trial(play: Stage) -> AsyncIterator[Trial]:
    hasher = Hasher(8, 1, 1)
    diary = Diary(play.wanda)
    async with diary.kept():
        yield Trial(play, Oracle(play.db, Verifier(play.db, hasher)), diary)
    hasher.close()


def cells(flow: str, calls: Iterable[tuple[str, int]], slow: bool) -> list[Cell]:
    found = []
    for method, passes in calls:
        for kind in WRONG_ANSWERS:
            for done in (False, True):
                if (kind in LIES and not done and method not in ASKS) or (kind in SLOW and not slow):
                    continue
                found += [Cell(flow, method, passes, kind, done, for_good) for for_good in (False, True)]
    return found


@pytest.mark.parametrize("flow", FLOWS)
async def test_words_and_state_agree_whatever_slack_answers(tmp_path: Path, flow: str) -> None:
    async with stage(sqlite_store(tmp_path / "bot.db"), "socket") as play, trial(play) as one:
        chosen = cells(flow, await one.calls(flow), slow=False)
        for cell in Random(f"{SEED} {flow}").sample(chosen, IN_THE_SUITE):
            await one.run(cell)


async def test_while_slack_is_away_few_of_all_that_is_owed_are_tried_and_all_are_told_soon_after(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    [relay] = await play.credentials()
    [at_once] = [number for lane, number in LANES.items() if Kind.FIRST_USE in lane]
    dm = play.slack.world.dm(play.wanda.id)

    def owe(tx: Transaction) -> None:
        for _ in range(3 * at_once):
            errands.add(tx, Kind.FIRST_USE, credential_id=relay.id, person=play.wanda.id)

    play.slack.fail("chat.postMessage", replace(WRONG_ANSWERS["hung up"], times=ALL))
    await play.db.note(owe)
    play.bot.errands.wake()
    await play.settled()
    assert await raw.one(play.db, "SELECT sum(tries) FROM errands WHERE kind = 'first_use'") == at_once
    play.slack.heals()
    play.clock.passes(seconds=errands.FIRST_WAIT.total_seconds())
    play.bot.errands.wake()
    await play.settled()
    assert len(play.wanda.messages(dm)) == 3 * at_once

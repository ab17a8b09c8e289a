"""The real process, killed at any commit and any call of Slack while people work, and stopped.

Afterwards one rule: no errand stays open for a minute while Slack answers, words and state agree, and no credential is active whose
password nobody saw. `make soak` does a thousand.
"""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import select, text

from mailauth.verifier import Verifier
from sandbox.people import CONNECTING, Person
from sandbox.slack import Fault
from sandbox.world import Channel
from storage import credentials, errands, passwords, workspaces
from storage.access import Actor
from storage.audit import Origin, Surface
from storage.credentials import rows
from storage.database import Transaction
from storage.models import CREDENTIALS, State, Workspace
from storage.passwords import Hasher
from tests.oracle import FLOWS, Diary, Oracle
from tests.postgres import free_port
from tests.stage import BY_TEST, Stage, stage
from tests.stores import sqlite_store
from tests.test_process import Process, process

SEED = 225
IN_THE_SUITE = 2
COMMITS = 24  # of all that goes on at the same time
CALLS = 24
PER_FLOW = 2
WHOLE = 3  # credentials of the workspace that is revoked


@dataclass(frozen=True)
class Kill:
    """Where the process ends: at a commit (`before`, `after`), or at a call of Slack, before it was done or after; or by SIGTERM then."""

    at: str
    number: int
    stopped: bool = False

    @classmethod
    def any(cls, chooser: Random) -> "Kill":
        at = chooser.choice(("before", "after", "not done", "done"))
        return cls(at, chooser.randint(1, COMMITS if at in ("before", "after") else CALLS), stopped=chooser.random() < 0.2)


@dataclass
class Doing:
    """What one person is about to submit."""

    person: Person
    flow: str
    name: str
    diary: Diary
    elsewhere: bool
    """It is shown in another channel than the one typed in."""


@dataclass
class Trials:
    """People who work while the bot is killed and started again."""

    play: Stage
    folder: Path
    oracle: Oracle
    swept: Diary
    """Of wanda, whose creation was left under way."""
    second: Channel
    """Another channel of the workspace, in which half of what is created is shown: its modal stays open meanwhile."""
    people: list[tuple[Person, Diary]] = field(default_factory=list)
    round: int = 0
    hasher: Hasher = field(default_factory=lambda: Hasher(8, 1, 1))

    @contextlib.asynccontextmanager
    async def bot(self, kill: Kill | None = None) -> AsyncIterator[Process]:
        """Counts commits from the start when `armed` is there already."""
        environment = dict(self.play.environment)
        if kill and kill.at in ("before", "after") and not kill.stopped:
            environment |= {"KILL_AT": f"{kill.at} {kill.number}", "KILL_ARMED": str(self.armed)}
        async with process(environment) as bot:
            yield bot

    @property
    def armed(self) -> Path:
        return self.folder / f"armed {self.round}"

    async def once(self, kill: Kill) -> None:
        """One kill with everybody at work, a restart, and the rule. Raises AssertionError."""
        self.round += 1
        self.play.clock.now = datetime.now(UTC)
        try:
            doing, whole = await self.prepare()
            async with self.bot(kill) as bot:
                await bot.says(200, "ready")
                await self.connected()
                await self.open(doing, whole)
                await self.end(bot, kill, doing)
            self.play.slack.heals()
            await self.judge(doing, whole)
        except AssertionError as error:
            raise AssertionError(f"{kill}\n{error}") from error

    async def connected(self) -> None:
        if self.play.environment["SLACK_APP_TOKEN"]:
            await self.play.slack.connected(60)

    async def prepare(self) -> tuple[list[Doing], Workspace]:
        slack = self.play.slack
        for messages in slack.world.messages.values():
            messages.clear()
        for person, diary in self.people:
            for view in list(slack.world.modals[person.id]):
                slack.world.close(view)
            diary.begins()
        doing = [
            Doing(
                person, FLOWS[at % len(FLOWS)], f"Relay {self.round} {at}", diary, FLOWS[at % len(FLOWS)] == "create" and at >= len(FLOWS)
            )
            for at, (person, diary) in enumerate(self.people[1:])
        ]
        for one in doing:
            if one.flow != "create":
                await self.make(one.name, self.play.mail.id)
        slug = f"whole{self.round}"
        whole = await self.play.db.change(workspaces.add, BY_TEST, slug, f"Whole {self.round}")
        await self.play.db.change(workspaces.map_channel, BY_TEST, slack.world.team.id, self.play.lobby.id, whole.id)
        for number in range(WHOLE):
            await self.make(f"{slug} {number}", self.play.lobby.id)
        # Left by an earlier crash: what the sweep ends at the start.
        orphan = Origin(Actor(self.play.wanda.id, slack.world.team.id), Surface.MODAL, "ref", self.play.mail.id)
        await self.play.db.change(credentials.create_pending, orphan, self.play.mail.id, f"Orphan {self.round}", f"orphan {self.round}")
        await self.play.db.note(six_minutes_pass)
        return doing, whole

    async def make(self, name: str, channel: str) -> None:
        db, hasher = self.play.db, self.hasher
        made, _ = await db.change(credentials.create_pending, BY_TEST, channel, name, f"made {name}")
        password = passwords.generate(made.id)
        await db.change(credentials.activate, BY_TEST, made.id, await hasher.hash(password), passwords.tag(password))
        self.oracle.known[made.username] = password

    async def open(self, doing: list[Doing], whole: Workspace) -> None:
        """Everybody opens what they will submit."""
        for one in doing:
            credential = await self.oracle.named(one.name)
            what = credential.username if credential and one.flow == "revoke" else one.name
            await one.person.types(self.play.mail, f"/smtp {one.flow} {what}")
            await self.form(one.person)
            if one.flow == "rotate":
                one.person.picks("Old password", "Stops at once")
            if one.elsewhere:
                one.person.picks("Channel", self.second)
        boss = self.people[0][0]
        await boss.types(self.play.lobby, f"/smtp revoke workspace:{whole.slug}")
        await self.form(boss)
        boss.picks("Do this", "Revoke all")
        boss.fills("Type its short name to confirm", whole.slug)
        for _, diary in self.people:
            diary.begins()

    async def form(self, person: Person) -> None:
        found = await self.play.slack.world.until(lambda: (person.view and person.view.content.get("submit")) or None, 60)
        assert found, person.screen()

    async def end(self, bot: Process, kill: Kill, doing: list[Doing]) -> None:
        """Everybody submits; the process ends somewhere in it, at the latest when nothing moves any more."""
        number = signal.SIGTERM if kill.stopped else signal.SIGKILL
        if kill.at in ("done", "not done") or kill.stopped:
            fault = Fault(passes=kill.number - 1, done=kill.at == "done", then=lambda: bot.signal(number))
            self.play.slack.fail("*", fault)
        self.armed.touch()
        people = [person for person, _ in self.people]
        submitting = {asyncio.create_task(person.submits()): person for person in people}
        ending = asyncio.create_task(bot.ends())
        await asyncio.wait({*submitting, ending}, return_when=asyncio.FIRST_COMPLETED)
        told = asyncio.create_task(self.play.slack.world.until(lambda: all(self.is_told(one) for one in doing) or None, 30))
        await asyncio.wait({told, ending}, return_when=asyncio.FIRST_COMPLETED)
        if not ending.done():
            bot.signal(number)
        code = await ending
        assert code == (0 if kill.stopped and code >= 0 else code), code
        told.cancel()
        for task, person in submitting.items():
            if not task.done():  # what Slack shows when an app does not answer
                task.cancel()
                if person.view:
                    person.view.busy, person.view.trouble = False, CONNECTING
                    self.play.slack.world.touch()

    def is_told(self, one: Doing) -> bool:
        view = one.person.view
        return view is not None and not view.content.get("submit") and "…" not in one.person.read(view)

    async def judge(self, doing: list[Doing], whole: Workspace) -> None:
        """Starts the bot again, after a pause, and holds words against state."""
        await self.play.db.note(six_minutes_pass)
        async with self.bot() as bot:
            await bot.says(200, "ready")
            async with asyncio.timeout(120):
                while await self.play.db.read(unfinished):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            bot.signal(signal.SIGTERM)
            assert await bot.ends() == 0
        for one in doing:
            await self.oracle.judge(one.flow, one.name, one.diary)
        for person, _ in self.people:
            view = person.view
            waits = view is not None and not view.trouble and "…" in person.read(view)
            assert view is None or not waits, f"left as it was:\n{person.read(view)}"
        orphan = await self.oracle.named(f"Orphan {self.round}")
        assert orphan
        assert orphan.state == State.DELETED
        assert self.swept.says(f"interrupted while creating the SMTP credential {orphan.name}")
        await self.judge_whole(whole)

    async def judge_whole(self, whole: Workspace) -> None:
        _, diary = self.people[0]
        now = await self.play.db.read(workspaces.by_id, whole.id)
        query = select(CREDENTIALS).where(CREDENTIALS.c.workspace_id == whole.id)
        states = {one.state for one in await self.play.db.read(rows, query)}
        said = "\n".join(diary.read)
        assert len(states) == 1, f"half of a workspace: {states}\n{said}"
        if now.suspended_at is None:
            assert states == {State.ACTIVE.value}
            assert diary.says(CONNECTING, "othing was changed"), said
            assert not diary.says(f"Revoked all {WHOLE} credentials of {whole.name}"), said
        else:
            assert states == {State.DELETED.value}, said
            assert now.credential_count == 0
            assert diary.says(f"Revoked all {WHOLE} credentials of {whole.name}"), said


def six_minutes_pass(tx: Transaction) -> None:
    """So that a sweep ends what was left under way, and leases are over."""
    run = tx.connection.execute
    run(text("UPDATE credentials SET created_at = created_at - 360000 WHERE state = 'pending'"))
    run(text("UPDATE credentials SET rotation_begun_at = rotation_begun_at - 360000 WHERE rotation_begun_at IS NOT NULL"))
    run(text("UPDATE errands SET lease = lease - 360000, due = due - 360000 WHERE done_at IS NULL"))


def unfinished(tx: Transaction) -> int:
    pending = "SELECT count(*) FROM credentials WHERE state = 'pending' OR rotation_begun_at IS NOT NULL"
    return errands.still_open(tx).count + int(tx.connection.execute(text(pending)).scalar() or 0)


@contextlib.asynccontextmanager
async def trials(url: str, mode: str, folder: Path) -> AsyncIterator[Trials]:
    more: dict[str, Any] = {"port": free_port()} if mode == "http" else {}
    async with stage(url, mode, start=False, **more) as play, contextlib.AsyncExitStack() as stack:
        people = [play.slack.add_person(f"person{number}") for number in range(PER_FLOW * len(FLOWS))]
        second = play.slack.add_channel("mail-two", *people)
        await play.db.change(workspaces.map_channel, BY_TEST, play.slack.world.team.id, second.id, play.acme.id)
        one = Trials(play, folder, Oracle(play.db, Verifier(play.db, Hasher(8, 1, 1))), Diary(play.wanda), second)
        await stack.enter_async_context(one.swept.kept())
        for person in people:
            play.mail.members.append(person.id)
            await play.grant(person)
        for person in (play.olga, *people):
            diary = Diary(person)
            await stack.enter_async_context(diary.kept())
            one.people.append((person, diary))
        yield one


@pytest.mark.timeout(240)
@pytest.mark.parametrize("where", ["sqlite-socket", "postgres-http"])
async def test_words_and_state_agree_after_kills(where: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    database, mode = where.split("-")
    url = sqlite_store(tmp_path / "bot.db") if database == "sqlite" else str(request.getfixturevalue("postgres_url"))
    chooser = Random(f"{SEED} {where}")
    async with trials(url, mode, tmp_path) as one:
        for _ in range(IN_THE_SUITE):
            await one.once(Kill.any(chooser))

"""What is said is so, whatever breaks: several replicas, a COMMIT whose answer is lost, a database that is locked, and kills."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from bot import sweep
from bot.run import Bot
from mailauth.verifier import Verifier
from sandbox.people import Person
from storage import credentials, errands, grants, workspaces
from storage.access import Actor, Role
from storage.audit import Origin, Surface
from storage.database import Database
from storage.errands import Kind
from storage.models import State
from storage.passwords import Hasher
from tests.cable import Wire
from tests.oracle import DONE, FLOWS, Diary, Oracle
from tests.stage import BY_TEST, PATIENT, Stage, settings, stage
from tests.stores import sqlite_store
from tests.test_faults import known_troubles, trial


# --- several replicas ---
class Replicas:
    """Several bots on one store and one Slack, which hands what happens to one of them, in turn."""

    def __init__(self, play: Stage, bots: list[Bot]) -> None:
        self.play = play
        self.bots = bots

    async def settled(self) -> None:
        for _ in range(2):
            for bot in self.bots:
                assert await bot.services.work.drain(100)
                bot.errands.wake()
                async with asyncio.timeout(120):
                    await bot.errands.idle()


@pytest.fixture(params=["sqlite-2", "postgres-3"])
async def replicas(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Replicas]:
    database, count = request.param.split("-")
    url = sqlite_store(tmp_path / "bot.db") if database == "sqlite" else str(request.getfixturevalue("postgres_url"))
    async with stage(url, "socket", start=False) as play, contextlib.AsyncExitStack() as stack:
        bots = []
        for _ in range(int(count)):
            bots.append(await stack.enter_async_context(a_bot(play)))
        assert await play.slack.world.until(lambda: len(play.slack._sockets) == int(count) or None, 60)
        yield Replicas(play, bots)


@contextlib.asynccontextmanager
async def a_bot(play: Stage, **changed: Any) -> AsyncIterator[Bot]:
    given = {name.lower(): value for name, value in play.environment.items()} | changed
    bot = Bot(settings(**given), play.clock, play.clock.seconds, ("127.0.0.1", 0), PATIENT)
    await bot.start()
    play.running.append(bot)
    try:
        yield bot
    finally:
        play.running.remove(bot)
        await bot.stop()


async def reads_on_each(replicas: Replicas, person: Person, text: str, says: str) -> None:
    """Types it as often as there are replicas, and reads the same on each."""
    for _ in replicas.bots:
        person.reloads()
        await person.types(replicas.play.mail, text)
        await person.sees(says, replicas.play.mail)


async def may_create_on_each(replicas: Replicas, person: Person) -> None:
    for _ in replicas.bots:
        await person.types(replicas.play.mail, "/smtp create Relay")
        await person.sees_modal("New SMTP credential")
        await person.closes()


async def test_who_is_removed_from_a_group_is_so_on_every_replica_from_the_next_request_on(replicas: Replicas) -> None:
    play = replicas.play
    await play.db.change(grants.grant, BY_TEST, play.slack.world.team.id, play.oncall.id, Role.WRITER, play.acme.id)
    await may_create_on_each(replicas, play.rex)
    await play.olga.changes_group(play.oncall, remove=(play.rex,))
    await replicas.settled()
    await reads_on_each(replicas, play.rex, "/smtp create Relay", "Creating needs the writer role")
    await play.olga.changes_group(play.oncall, add=(play.rex,))
    await replicas.settled()
    await may_create_on_each(replicas, play.rex)


async def test_who_becomes_a_guest_is_so_on_every_replica_from_the_next_request_on(replicas: Replicas) -> None:
    play = replicas.play
    await may_create_on_each(replicas, play.wanda)
    await play.olga.makes_guest(play.wanda)
    await replicas.settled()
    await reads_on_each(replicas, play.wanda, "/smtp create Relay", "Guests can't manage SMTP credentials")
    await play.olga.deactivates(play.adam)
    await replicas.settled()
    assert await play.passdb() == []


async def test_a_role_that_is_taken_is_taken_on_every_replica(replicas: Replicas) -> None:
    play = replicas.play
    await may_create_on_each(replicas, play.wanda)
    held = await play.db.read(grants.of_workspace, play.slack.world.team.id, play.acme)
    await play.db.change(grants.remove, BY_TEST, next(one.id for one in held if one.principal == play.wanda.id))
    await reads_on_each(replicas, play.wanda, "/smtp create Relay", "Creating needs the writer role")


async def test_sweepers_that_come_together_end_a_thing_once_and_tell_it_once(replicas: Replicas) -> None:
    play = replicas.play
    wanda = Origin(Actor(play.wanda.id, play.slack.world.team.id), Surface.MODAL, "ref", play.mail.id)
    for number in range(5):
        await play.db.change(credentials.create_pending, wanda, play.mail.id, f"Relay {number}", f"a view {number}")
    play.clock.passes(minutes=6)
    await asyncio.gather(*(sweep.once(bot.services) for bot in replicas.bots * 2))
    await replicas.settled()
    assert [one.state for one in await play.credentials()] == ["deleted"] * 5
    assert len(await play.events(action="discard")) == 5
    told = [play.wanda.read(one) for one in play.wanda.messages()]
    for number in range(5):
        assert sum(f"interrupted while creating the SMTP credential Relay {number}" in text for text in told) == 1


async def test_every_change_is_told_once(replicas: Replicas) -> None:
    play = replicas.play
    await play.db.change(workspaces.set_notices, BY_TEST, play.acme.id, True, True)
    people = [play.slack.add_person(f"person{number}") for number in range(6)]
    for person in people:
        play.mail.members.append(person.id)
        await play.grant(person)
    await asyncio.gather(*(play.create(person, f"Relay of {person.name}") for person in people))
    await replicas.settled()
    await asyncio.gather(*(deletes(play, person) for person in people))
    await replicas.settled()
    told = [play.mia.read(one) for one in play.mia.messages(play.mail)]
    for person in people:
        for verb in ("created", "deleted"):
            assert sum(f"@{person.name} {verb} the SMTP credential" in text for text in told) == 1, told
    still = await play.db.read(errands.still_open)
    assert still.count == 0


async def deletes(play: Stage, person: Person) -> None:
    await person.types(play.mail, f"/smtp delete Relay of {person.name}")
    await person.sees_modal("Delete credential?")
    await person.submits()
    await person.sees_modal("Credential deleted")


async def test_an_errand_is_taken_by_one(database_url: str) -> None:
    stores = [Database(database_url) for _ in range(3)]
    for number in range(60):
        await stores[0].note(errands.add, Kind.NOTICE, channel_id=f"C{number}")
    taken = await asyncio.gather(*(store.note(errands.take, 7, list(Kind)) for store in stores * 4))
    ids = [one.id for some in taken for one in some]
    assert len(ids) == len(set(ids)) == 60
    for store in stores:
        await store.close()


# --- the answer to COMMIT is lost ---
class Lossy:
    """A bot whose way to PostgreSQL can break at a COMMIT, and somebody who works with it."""

    def __init__(self, play: Stage, bot: Bot, wire: Wire, oracle: Oracle, diary: Diary) -> None:
        self.play, self.bot, self.wire, self.oracle, self.diary = play, bot, wire, oracle, diary

    async def settled(self) -> None:
        for _ in range(2):
            assert await self.bot.services.work.drain(100)
            self.play.clock.passes(seconds=29)
            self.bot.errands.wake()
            async with asyncio.timeout(120):
                await self.bot.errands.idle()
        assert (await self.play.db.read(errands.still_open)).count == 0
        known_troubles(self.play)


@pytest.fixture
async def lossy(postgres_url: str) -> AsyncIterator[Lossy]:
    url, wire = make_url(postgres_url), Wire()
    hasher = Hasher(8, 1, 1)
    async with (
        wire.between(url.host or "", url.port or 0),
        stage(postgres_url, "socket", start=False) as play,
        a_bot(play, database_url=url.set(host="127.0.0.1", port=wire.port).render_as_string(False)) as bot,
    ):
        await play.slack.connected()
        diary = Diary(play.wanda)
        async with diary.kept():
            yield Lossy(play, bot, wire, Oracle(play.db, Verifier(play.db, hasher)), diary)
    hasher.close()


@pytest.mark.parametrize("arrives", [True, False], ids=["it was committed", "it was not"])
@pytest.mark.parametrize(("flow", "before"), [("create", 0), ("create", 1), ("rotate", 0), ("rotate", 1), ("delete", 0), ("revoke", 0)])
async def test_a_lost_answer_to_commit_is_looked_up_and_said(lossy: Lossy, flow: str, before: int, arrives: bool) -> None:
    play, wanda = lossy.play, lossy.play.wanda
    if flow != "create":
        password = await play.create(wanda, "Relay")
        lossy.oracle.known[(await play.credentials())[0].username] = password
        await lossy.settled()
    what = (await play.credentials())[0].username if flow == "revoke" else "Relay"
    await wanda.types(play.mail, f"/smtp {flow} {what}")
    assert await lossy.bot.services.work.drain(100)
    if flow == "rotate":
        wanda.picks("Old password", "Stops at once")
    lossy.diary.begins()
    lossy.wire.lose_commit(arrives, before)
    await wanda.submits()
    await lossy.settled()
    play.clock.passes(minutes=6)
    await sweep.once(lossy.bot.services)
    await lossy.settled()
    became = await lossy.oracle.judge(flow, "Relay", lossy.diary)
    if before or flow in ("delete", "revoke"):
        assert became == ("done" if arrives else "not done")


@pytest.mark.parametrize("arrives", [True, False], ids=["it was committed", "it was not"])
@pytest.mark.parametrize("act", ["suspend", "resume", "grant"])
async def test_so_are_suspensions_and_roles(lossy: Lossy, act: str, arrives: bool) -> None:
    play = lossy.play
    await play.create(play.wanda, "Relay")
    if act == "resume":
        await play.wanda.types(play.mail, "/smtp suspend Relay")
        await play.wanda.sees_modal("Suspend")
        await play.wanda.submits()
        await lossy.settled()
        await play.wanda.closes()
    await lossy.settled()
    person = play.adam if act == "grant" else play.wanda
    await person.types(play.mail, "/smtp access" if act == "grant" else f"/smtp {act} Relay")
    assert await lossy.bot.services.work.drain(100)
    if act == "grant":
        person.picks("Person", play.mia)
        person.picks("Role", "writer")
    lossy.wire.lose_commit(arrives)
    await person.submits()
    await lossy.settled()
    told = person.screen()
    assert "I don't know yet whether that was done" in told
    assert ("a moment ago: it was done" in told) is arrives
    assert ("a moment ago: nothing was changed" in told) is not arrives
    [credential] = await play.credentials()
    held = await play.db.read(grants.of_workspace, play.slack.world.team.id, play.acme)
    is_so = {
        "suspend": credential.state == State.SUSPENDED,
        "resume": credential.state == State.ACTIVE,
        "grant": play.mia.id in [one.principal for one in held],
    }
    assert is_so[act] is arrives


# --- Slack applies what an acknowledgement says after what came later ---
@pytest.mark.parametrize("flow", [*FLOWS, "suspend"])
async def test_a_result_never_loses_against_its_own_acknowledgement(tmp_path: Path, flow: str) -> None:
    async with stage(sqlite_store(tmp_path / "bot.db"), "socket", late_acks=0.06) as play, trial(play) as one:
        name = await one.prepare(flow)
        assert await one.act(flow, name)
        await one.settle()
        if flow == "create":
            assert play.wanda.view is None, "the password is in the channel, and the acknowledgement has closed the modal"
            return
        assert play.wanda.view
        shown = play.wanda.read(play.wanda.view)
        assert any(phrase.format(name) in shown for phrase in (*DONE.get(flow, ()), "Suspended {} ")), shown
        assert "…" not in shown


# --- SQLite is locked by another process ---
async def test_while_sqlite_is_locked_a_submission_is_answered_and_nothing_is_half_done(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    hasher = Hasher(8, 1, 1)
    async with stage(sqlite_store(path), "socket") as play:
        oracle = Oracle(play.db, Verifier(play.db, hasher))
        password = await play.create(play.wanda, "Old")
        oracle.known[(await play.credentials())[0].username] = password
        await play.settled()
        flows = {play.adam: ("create", "New"), play.wanda: ("delete", "Old")}
        diaries = {person: Diary(person) for person in flows}
        async with contextlib.AsyncExitStack() as stack:
            for person, (flow, name) in flows.items():
                await stack.enter_async_context(diaries[person].kept())
                await person.types(play.mail, f"/smtp {flow} {name}")
                assert await play.bot.services.work.drain(100)
                diaries[person].begins()
            play.bot.services.limits = replace(PATIENT, acknowledge=0.3)
            with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                await asyncio.gather(*(person.submits() for person in flows))
                for person in flows:
                    await person.sees_modal("nothing was changed")
                other.execute("ROLLBACK")
            await play.settled()
            for person, (flow, name) in flows.items():
                assert await oracle.judge(flow, name, diaries[person]) in ("not done", "nothing")
        known_troubles(play)
    hasher.close()

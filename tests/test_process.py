"""The bot as a process: how it starts, what a signal does, and that work after acknowledgements keeps within its places."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.websockets import WebSocket

from bot.delivery import Work, acknowledging, delivered, first_delivery, outside, within
from bot.run import Bot, StartError
from sandbox.slack import Fault, Slack
from storage import seen
from storage.database import Database
from tests.postgres import free_port
from tests.stage import PATIENT, Stage, settings, stage
from tests.stores import sqlite_store


class SlowSlack(Slack):
    """Takes password messages and calls when the test says so."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gate = asyncio.Event()
        self.gate.set()
        self.slow = "response_url"
        self.held = 0

    async def _wait(self) -> None:
        if not self.gate.is_set():
            self.held += 1
            self.world.touch()
            await self.gate.wait()

    async def _response(self, request: Request) -> Response:
        if self.slow == "response_url":
            await self._wait()
        return await super()._response(request)

    async def _api(self, request: Request) -> Response:
        if self.slow == request.path_params["method"]:
            await self._wait()
        return await super()._api(request)


class Process:
    """A bot in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, metrics: int, client: aiohttp.ClientSession) -> None:
        self._process = process
        self._client = client
        self.metrics = metrics

    async def asked(self, path: str) -> tuple[int, str]:
        """The answer on the port for operators; 0 while nothing listens."""
        try:
            async with self._client.get(f"http://127.0.0.1:{self.metrics}{path}") as answer:
                return answer.status, await answer.text()
        except aiohttp.ClientError:
            return 0, ""

    async def says(self, status: int, text: str) -> None:
        """Waits until `/readyz` says this."""
        async with asyncio.timeout(120):
            while (said := await self.asked("/readyz"))[0] != status or text not in said[1]:
                assert self._process.returncode is None, said
                await asyncio.sleep(0.02)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    async def ends(self) -> int:
        return await asyncio.wait_for(self._process.wait(), 120)

    @property
    def ended(self) -> bool:
        return self._process.returncode is not None


@contextlib.asynccontextmanager
async def process(environment: dict[str, str], **limits: Any) -> AsyncIterator[Process]:
    metrics = free_port()
    given = {"stop": 60, "request": 60, "acknowledge": 60, "health_interval": 0, "longest_pause": 0.1, "metrics": metrics} | limits
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLACK_", "BOT_", "SMTP_", "DATABASE_"))}
    everything = kept | environment | {"LIMITS": json.dumps(given), "PYTHONPATH": str(Path(__file__).parent.parent)}
    started = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.killable", env=everything)
    async with aiohttp.ClientSession() as client:
        try:
            yield Process(started, metrics, client)
        finally:
            with contextlib.suppress(ProcessLookupError):
                started.kill()
            await started.wait()


@pytest.mark.parametrize("mode", ["socket", "http"])
async def test_a_stop_finishes_the_submissions_under_way(tmp_path: Path, mode: str) -> None:
    url = sqlite_store(tmp_path / "bot.db")
    async with stage(url, mode, kind=SlowSlack, start=False, port=free_port()) as play, process(play.environment) as bot:
        slack = play.slack
        assert isinstance(slack, SlowSlack)
        await bot.says(200, "ready")
        people = [slack.add_person(f"person{number}") for number in range(10)]
        for number, person in enumerate(people):
            play.mail.members.append(person.id)
            await play.grant(person)
            await person.types(play.mail, f"/smtp create Relay {number}")
            await person.sees_modal("New SMTP credential")
        slack.gate.clear()
        submits = [asyncio.create_task(person.submits()) for person in people]
        if mode == "socket":
            # All are sent, few are acknowledged.
            await slack.world.until(lambda: len(slack._awaited) == len(people) or None, 40)
        else:
            await asyncio.gather(*submits)
        bot.signal(signal.SIGTERM)
        await asyncio.gather(*submits)
        await slack.world.until(lambda: slack.held == len(people) or None, 40)
        await bot.says(503, "stopping")
        assert slack.held == len(people)
        slack.gate.set()
        assert await bot.ends() == 0
        assert len(await play.passdb()) == len(people)
        assert [person.name for person in people if person.view] == []


async def test_what_slack_sent_before_a_stop_is_taken_and_acknowledged(tmp_path: Path) -> None:
    async with stage(sqlite_store(tmp_path / "bot.db"), "socket", port=None) as play:
        body = {"command": "/smtp", "text": "help", "user_id": play.wanda.id, "channel_id": play.mail.id}
        sent = [asyncio.create_task(play.slack.deliver("slash_commands", body | {"trigger_id": f"{n}.1.a"})) for n in range(10)]
        await asyncio.sleep(0)  # all are written, none is read
        assert len(play.slack._awaited) == 10
        await asyncio.gather(play.bot.stop(), *sent)
        assert [one.result().trouble for one in sent] == [""] * 10


async def test_a_signal_ends_a_start_that_waits(tmp_path: Path) -> None:
    class NoWebSocket(Slack):
        async def _socket(self, connection: WebSocket) -> None:
            await connection.close()

    async with (
        stage(sqlite_store(tmp_path / "bot.db"), "socket", kind=NoWebSocket, start=False) as play,
        process(play.environment) as bot,
    ):
        await bot.says(503, "the Socket Mode connection to Slack is not open yet")
        assert await bot.asked("/healthz") == (200, "ok")
        bot.signal(signal.SIGTERM)
        assert await bot.ends() == 0


@pytest.mark.parametrize("away", ["slack", "database", "internal_error", "no api"])
async def test_a_start_waits_and_says_for_what(tmp_path: Path, away: str) -> None:
    async with stage(sqlite_store(tmp_path / "bot.db"), "socket", start=False) as play, contextlib.AsyncExitStack() as stack:
        given = {name.lower(): value for name, value in play.environment.items()}
        match away:
            case "slack":
                given["slack_api_url"] = f"http://127.0.0.1:{free_port()}/api/"
                says = "Slack does not answer (unreachable)"
            case "database":
                given["database_url"] = f"postgresql://bot@127.0.0.1:{free_port()}/none"
                says = "PostgreSQL does not answer there"
            case "internal_error":
                play.slack.fail("auth.test", Fault("internal_error", times=1_000_000))
                says = "Slack does not answer (internal_error)"
            case _:
                page = await stack.enter_async_context(await asyncio.start_server(proxy_page, "127.0.0.1", 0))
                given["slack_api_url"] = f"http://127.0.0.1:{page.sockets[0].getsockname()[1]}/api/"
                says = "Slack answers what is no answer of its API"
        bot = Bot(settings(**given), metrics=("127.0.0.1", 0), limits=replace(PATIENT, longest_pause=0.01))
        starting = asyncio.create_task(bot.start())
        client = await stack.enter_async_context(aiohttp.ClientSession())
        await asyncio.sleep(0)
        address = f"http://127.0.0.1:{bot.metrics_port}"
        async with asyncio.timeout(120):
            while says not in await (answer := await client.get(f"{address}/readyz")).text():
                assert answer.status == 503
                assert not starting.done()
        assert (await client.get(f"{address}/healthz")).status == 200
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting


async def proxy_page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A proxy's page, with status 200."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 13\r\nconnection: close\r\n\r\n<p>Log in</p>")
    writer.close()


async def test_what_was_away_at_the_start_is_used_once_it_is_there(tmp_path: Path) -> None:
    async with stage(sqlite_store(tmp_path / "bot.db"), "socket", start=False) as play:
        for method in ("auth.test", "apps.connections.open"):
            play.slack.fail(method, Fault("ratelimited", times=3))
        given = {name.lower(): value for name, value in play.environment.items()}
        bot = Bot(settings(**given), metrics=("127.0.0.1", 0), limits=replace(PATIENT, longest_pause=0.01))
        await bot.start()
        await play.slack.connected()
        await play.wanda.types(play.mail, "/smtp")
        await play.wanda.sees("This channel manages SMTP credentials")
        await bot.stop()


async def test_a_taken_port_ends_the_start(tmp_path: Path) -> None:
    async with stage(sqlite_store(tmp_path / "bot.db"), "socket", start=False) as play:
        taken = int(play.slack.url.rpartition(":")[2])
        given = {name.lower(): value for name, value in play.environment.items()}
        for metrics, port, names in (("0", str(taken), "HOST, PORT"), (str(taken), "0", "METRICS_LISTEN")):
            bot = Bot(settings(**(given | {"port": port})), metrics=("127.0.0.1", int(metrics)))
            with pytest.raises(StartError, match=names):
                await bot.start()


async def test_who_waits_for_slack_keeps_nobody_from_working(tmp_path: Path) -> None:
    limits = replace(PATIENT, places=1)
    async with stage(sqlite_store(tmp_path / "bot.db"), "socket", limits, SlowSlack) as play:
        slack = play.slack
        assert isinstance(slack, SlowSlack)
        slack.slow = "views.open"
        slack.gate.clear()
        await play.wanda.types(play.mail, "/smtp create Relay")
        await slack.world.until(lambda: slack.held or None, 40)
        await play.rita.types(play.mail, "/smtp list")
        await play.rita.sees("No SMTP credentials in Acme yet")
        slack.gate.set()
        await play.wanda.sees_modal("New SMTP credential")


async def test_many_who_need_the_same_answer_of_slack_do_not_wait_for_each_other(tmp_path: Path) -> None:
    limits = replace(PATIENT, places=1)
    async with stage(sqlite_store(tmp_path / "bot.db"), "socket", limits, SlowSlack) as play:
        slack = play.slack
        assert isinstance(slack, SlowSlack)
        slack.slow = "usergroups.users.list"
        slack.gate.clear()
        for person in (play.wanda, play.rita, play.rex):
            await person.types(play.mail, "/smtp list")
        await slack.world.until(lambda: [one.what for one in slack.traffic].count("users.info") == 3 or None, 40)
        slack.gate.set()
        for person in (play.wanda, play.rita, play.rex):
            await person.sees("No SMTP credentials in Acme yet", play.mail)


async def test_when_too_many_wait_the_next_one_reads_that_the_bot_is_busy(play: Stage) -> None:
    await play.wanda.types(play.mail, "/smtp create Relay")
    await play.wanda.sees_modal("New SMTP credential")
    play.bot.services.work = Work(waiting=0)
    await play.rita.types(play.mail, "/smtp list")
    await play.rita.sees("I'm busy with many requests right now")
    await play.wanda.submits()
    await play.wanda.sees_modal("I'm busy with many requests right now")
    await play.wanda.closes()
    play.bot.services.work = Work()
    await play.wanda.sees_modal("New SMTP credential")
    await play.wanda.submits()
    await play.settled()
    assert len(await play.credentials()) == 1


async def test_an_event_that_comes_while_too_many_wait_comes_again(tmp_path: Path) -> None:
    async with stage(sqlite_store(tmp_path / "bot.db"), "http") as play:
        opened = {"type": "app_home_opened", "user": play.wanda.id, "channel": play.slack.world.dm(play.wanda.id).id, "tab": "home"}
        body = json.dumps({"type": "event_callback", "team_id": play.slack.world.team.id, "event": opened})

        async def post() -> int:
            return (await play.slack.post(body, {"content-type": "application/json", **play.slack.sign(body)}))[0]

        play.bot.services.work = Work(waiting=0)
        assert await post() == 503
        play.bot.services.work = Work()
        play.clock.passes(seconds=1)
        assert await post() == 200
        await play.wanda.sees_home("SMTP")


async def test_places_are_few_and_those_who_come_back_go_first() -> None:
    work = Work(places=1)
    done: list[str] = []
    hangs = asyncio.Event()
    begun = asyncio.Event()

    async def first() -> None:
        done.append("first begins")
        async with outside():
            begun.set()
            await hangs.wait()
        done.append("first is back")

    async def second() -> None:
        hangs.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        done.append("second")

    async def third() -> None:
        done.append("third")

    for one in (first, second, third):
        work.begin(one())
    assert await work.drain(30)
    assert done == ["first begins", "second", "first is back", "third"]


async def test_nothing_is_begun_before_the_acknowledgement_went_out(db: Database) -> None:
    begun = asyncio.Event()
    work = Work()

    async def begin() -> None:
        begun.set()

    delivered(db, "one delivery")
    sent = acknowledging()
    work.begin(begin())
    assert await db.note_one(seen.first_time, "another")
    assert not begun.is_set()
    sent.set()
    assert await work.drain(120)
    assert begun.is_set()
    assert await first_delivery(), "a delivery that was asked about is not its own repetition"
    assert not await db.note_one(seen.first_time, "one delivery")


async def test_a_place_comes_back_from_who_fails_or_is_cancelled() -> None:
    work = Work(places=1)

    async def fails() -> None:
        async with outside():
            raise ConnectionError

    async def gives_up() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.01), outside():
                await asyncio.Event().wait()

    async def many() -> None:
        async def asks() -> None:
            async with outside():
                await asyncio.sleep(0)

        await asyncio.gather(asks(), asks(), asks())

    def quiet() -> list[Any]:
        return [fails(), gives_up(), many()]

    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
    for one in quiet() * 3:
        work.begin(one)
    assert await work.drain(30)
    ran = []

    async def last() -> None:
        ran.append(True)

    work.begin(last())
    assert await work.drain(30)
    assert ran


async def test_what_is_given_up_is_not_waited_for() -> None:
    stuck = asyncio.Event()

    async def deaf() -> None:
        while not stuck.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await stuck.wait()

    with pytest.raises(TimeoutError):
        await within(0.01, deaf())
    stuck.set()

"""The guard in front of Slack's requests, health, and starting with wrong settings."""

import asyncio
import contextlib
import json
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

import aiohttp
import psycopg
import pytest

from bot.app import build
from bot.run import Bot, StartError
from bot.server import Server, listen
from bot.web import Gate, Guard, for_slack
from sandbox.slack import Fault, Slack
from tests.cable import Wire
from tests.stage import MANIFEST, PATIENT, Stage, settings, stage
from tests.stores import sqlite_store

FORM = {"content-type": "application/x-www-form-urlencoded"}


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[Stage]:
    async with stage(sqlite_store(tmp_path / "bot.db"), "http") as made:
        yield made


def command(play: Stage, text: str = "help") -> str:
    return (
        f"command=%2Fsmtp&text={text}&user_id={play.wanda.id}&team_id={play.slack.world.team.id}&channel_id={play.mail.id}&trigger_id=1.1.a"
    )


async def test_what_slack_did_not_sign_is_refused(http: Stage) -> None:
    body = command(http)
    good = http.slack.sign(body)
    old = {**good, "x-slack-request-timestamp": str(int(http.clock.seconds()) - 301)}
    for wrong in (
        {},
        {"x-slack-request-timestamp": good["x-slack-request-timestamp"]},
        {**good, "x-slack-signature": "v0=" + "0" * 64},
        {**good, "x-slack-signature": "ÿ"},
        {**good, "x-slack-request-timestamp": "no number"},
        {**good, "x-slack-request-timestamp": "1e9"},
        {**good, "x-slack-request-timestamp": "9" * 400},
        old,
    ):
        status, _ = await http.slack.post(body, {**FORM, **wrong})
        assert status == 401, wrong
    assert (await http.slack.post(body[: len(body) // 2], {**FORM, **good}))[0] == 401
    assert (await http.slack.post(b"\xff\xfe", {**FORM, **good}))[0] == 401
    assert (await http.slack.post("x" * (1024 * 1024 + 1), {**FORM, **good}))[0] == 413
    assert http.wanda.id not in http.logs.getvalue()
    assert (await http.slack.post(body, {**FORM, **good}))[0] == 200


async def test_a_replayed_request_is_answered_and_does_nothing(http: Stage) -> None:
    await http.wanda.types(http.mail, "/smtp create Relay")
    view = await http.wanda.sees_modal("New SMTP credential")
    body = urlencode({"payload": json.dumps(http.wanda.submission(view))})
    headers = {**FORM, **http.slack.sign(body)}
    first = await http.slack.post(body, headers)
    assert first == (200, '{"response_action": "clear"}')
    assert await http.slack.post(body, headers) == (200, "")
    http.clock.passes(minutes=4)
    assert await http.slack.post(body, headers) == (200, "")
    await http.settled()
    assert len(await http.credentials()) == 1


async def test_a_body_that_slack_would_not_send_is_no_crash(http: Stage) -> None:
    for body in ("", "payload=", "payload=%7B", "payload=[]", "payload=null", "command=%2Fsmtp", "a" * 1000, command(http)[:40]):
        status, _ = await http.slack.post(body, {**FORM, **http.slack.sign(body)})
        assert status in (200, 400, 404), body
    status, _ = await http.slack.post("{", {"content-type": "application/json", **http.slack.sign("{")})
    assert status in (200, 400, 404)
    await http.wanda.types(http.mail, "/smtp")
    await http.wanda.sees("This channel manages SMTP credentials")


async def test_health_and_metrics(http: Stage) -> None:
    base = f"http://127.0.0.1:{http.bot.port}"
    async with aiohttp.ClientSession() as client:
        assert await (await client.get(f"{base}/healthz")).text() == "ok"
        assert await (await client.get(f"{base}/readyz")).text() == "ready"
        assert (await client.get(f"{base}/slack/events")).status == 405
        assert (await client.get(f"{base}/metrics")).status == 404
        operators = f"http://127.0.0.1:{http.bot.metrics_port}"
        assert "smtp_bot_requests_total" in await (await client.get(f"{operators}/metrics")).text()
        assert await (await client.get(f"{operators}/readyz")).text() == "ready"
        assert (await client.get(f"{operators}/slack/events")).status == 404


async def test_work_under_way_is_finished_before_the_bot_stops(http: Stage) -> None:
    await http.wanda.types(http.mail, "/smtp create Relay")
    await http.wanda.sees_modal("New SMTP credential")
    await http.wanda.submits()
    await http.bot.stop()
    assert len(await http.passdb()) == 1
    await http.wanda.sees(": Relay", http.mail)


async def test_who_sends_half_a_request_is_cut_and_keeps_nobody_out(tmp_path: Path) -> None:
    few = replace(PATIENT, connections=10)
    async with stage(sqlite_store(tmp_path / "bot.db"), "http", few) as http, contextlib.AsyncExitStack() as held:
        halves = [await connection(held, http.bot.port, b"POST /slack/events HTTP/1.1\r\nhost: x\r\n") for _ in range(30)]
        await http.wanda.types(http.mail, "/smtp")
        await http.wanda.sees("This channel manages SMTP credentials")
        assert await halves[0][0].read() == b""


async def test_a_request_that_takes_too_long_is_cut(tmp_path: Path) -> None:
    async with (
        stage(sqlite_store(tmp_path / "bot.db"), "http", replace(PATIENT, request=0.1)) as http,
        contextlib.AsyncExitStack() as held,
    ):
        head = b"POST /slack/events HTTP/1.1\r\nhost: x\r\n"
        signed = b"".join(f"{name}: {value}\r\n".encode() for name, value in http.slack.sign("never sent").items())
        for sent in (b"", head, head + signed + b"content-length: 10\r\n\r\nneve", b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nG"):
            reader, _ = await connection(held, http.bot.port, sent)
            assert (await reader.read()).startswith(b"HTTP/1.1 200" if b"GET" in sent else b"")


async def test_what_the_headers_show_is_refused_before_the_body_is_there(http: Stage) -> None:
    good = http.slack.sign("never sent")
    for status, change in (
        (401, {"x-slack-signature": "v0=" + "0" * 63}),
        (401, {"x-slack-signature": "v0=" + "G" * 64}),
        (401, {"x-slack-request-timestamp": "soon"}),
        (413, {"content-length": str(1024 * 1024 + 1)}),
    ):
        headers = {"host": "x", "content-length": "500000", **good, **change}
        async with contextlib.AsyncExitStack() as held:
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            reader, _ = await connection(held, http.bot.port, f"POST /slack/events HTTP/1.1\r\n{lines}\r\n".encode())
            assert (await reader.readline()).split()[1] == str(status).encode(), change


async def test_headers_without_end_are_cut(http: Stage) -> None:
    async with contextlib.AsyncExitStack() as held:
        reader, writer = await connection(held, http.bot.port, b"POST /slack/events HTTP/1.1\r\n")
        with contextlib.suppress(ConnectionError):
            for number in range(1000):
                writer.write(f"x-{number}: {'x' * 1000}\r\n".encode())
                await writer.drain()
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""


async def test_deeply_nested_json_that_is_signed_is_refused(http: Stage) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    form, text = FORM, {"content-type": "application/json"}
    for body, kind in ((urlencode({"payload": deep}), form), (f'{{"type": "event_callback", "event": {deep}}}', text), (deep, text)):
        assert (await http.slack.post(body, {**kind, **http.slack.sign(body)}))[0] == 400


async def test_while_the_signing_secret_is_rotated_both_count(http: Stage) -> None:
    app = http.slack.world.installed()
    gate = Gate()
    gate.guard = Guard(build(http.bot.services, app.bot_id, app.bot_user), http.db, ("another", app.signing_secret), http.clock.seconds)
    server = Server(for_slack(gate, http.bot._health.problem), listen("127.0.0.1", 0))
    app.request_url = f"http://127.0.0.1:{server.port}/slack/events"
    for secret, status in (("another", 200), (app.signing_secret, 200), ("a third", 401)):
        app.signing_secret = secret
        body = command(http)
        assert (await http.slack.post(body, {**FORM, **http.slack.sign(body)}))[0] == status
    await server.close()


async def test_the_first_command_asks_slack_nothing_before_its_acknowledgement(play: Stage) -> None:
    play.slack.fail("auth.test", Fault("internal_error", times=100))
    play.slack.traffic.clear()
    await play.wanda.types(play.mail, "/smtp help")
    first = next(exchange for exchange in play.slack.traffic)
    assert (first.way, first.what) == ("to app", "slash_commands")
    await play.wanda.sees("/smtp create")
    assert "auth.test" not in [exchange.what for exchange in play.slack.traffic]


async def test_a_repeated_envelope_draws_once(tmp_path: Path) -> None:
    async with stage(sqlite_store(tmp_path / "bot.db"), "socket") as play:
        url = play.slack.new_response_url(play.wanda.id, play.mail.id)
        payload = {key: value[0] for key, value in parse_qs(command(play)).items()} | {"response_url": url}
        acks = [await play.slack.deliver("slash_commands", payload) for _ in range(3)]
        assert [ack.trouble for ack in acks] == ["", "", ""]
        await play.settled()
        assert [exchange.what for exchange in play.slack.traffic if exchange.way == "from app"].count("response_url") == 1


@pytest.mark.parametrize("mode", ["socket", "http"])
async def test_while_the_database_hangs_a_submission_is_answered(postgres_url: str, mode: str) -> None:
    address = urlsplit(postgres_url)
    async with Wire().between("127.0.0.1", address.port or 0) as wire:
        url = urlunsplit(address._replace(netloc=f"bot@127.0.0.1:{wire.port}"))
        async with stage(url, mode, replace(PATIENT, acknowledge=0.3, health_patience=0.1)) as play:
            await play.wanda.types(play.mail, "/smtp create Relay")
            await play.wanda.sees_modal("New SMTP credential")
            wire.hang()
            await play.wanda.submits()
            assert "The database took too long, so nothing was changed." in play.wanda.screen()
            assert await play.bot._health.problem() == "the database does not answer"
            wire.heal()
            play.logs.truncate(0)


@pytest.mark.parametrize("trouble", ["locked", "replaced by another one", "read-only"])
async def test_readyz_says_why_nothing_can_be_written(trouble: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    file = tmp_path / "bot.db"
    url = str(request.getfixturevalue("postgres_url")) if trouble == "read-only" else sqlite_store(file)
    async with stage(url, "http") as play, aiohttp.ClientSession() as client, contextlib.AsyncExitStack() as undo:
        address = f"http://127.0.0.1:{play.bot.port}/readyz"
        assert (await client.get(address)).status == 200
        match trouble:
            case "locked":
                other = sqlite3.connect(file, isolation_level=None)
                undo.callback(other.close)
                other.execute("BEGIN IMMEDIATE")
            case "read-only":
                async with await psycopg.AsyncConnection.connect(url, autocommit=True) as admin:
                    name = urlsplit(url).path[1:]
                    await admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
                    undo.push_async_callback(make_writable, url, name)
                    await admin.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    )
            case _:
                (tmp_path / "other.db").write_bytes(file.read_bytes())
                (tmp_path / "other.db").replace(file)
        answer = await client.get(address)
        assert answer.status == 503
        assert trouble in await answer.text()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 4 MiB. Only root may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


async def test_a_full_disk_is_said_and_nothing_is_half_done(small_disk: Path) -> None:
    async with stage(sqlite_store(small_disk / "bot.db"), "http") as play, aiohttp.ClientSession() as client:
        address = f"http://127.0.0.1:{play.bot.port}/readyz"
        await play.wanda.types(play.mail, "/smtp create Relay")
        await play.wanda.sees_modal("New SMTP credential")
        filling = small_disk / "filling"
        with contextlib.suppress(OSError), filling.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        answer = await client.get(address)
        assert (answer.status, await answer.text()) == (503, "the database is full: nothing can be written where it is kept")
        await play.wanda.submits()
        await play.wanda.sees_modal(
            "The database's disk is full, so nothing was changed. An operator must make room first, for a shell too."
        )
        assert await play.credentials() == []
        filling.unlink()
        assert await (await client.get(address)).text() == "ready"
        play.logs.truncate(0)
        await play.wanda.closes()
        await play.create(play.wanda, "Relay")


async def make_writable(url: str, name: str) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as admin:
        await admin.execute("SET default_transaction_read_only = off")
        await admin.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")


async def test_a_connection_to_slack_that_hangs_is_replaced(tmp_path: Path) -> None:
    limits = replace(PATIENT, ping=0.2)
    async with (
        stage(sqlite_store(tmp_path / "bot.db"), "socket", limits, start=False) as play,
        Wire().between("127.0.0.1", urlsplit(play.slack.url).port or 0) as wire,
    ):
        play.slack.url = f"http://127.0.0.1:{wire.port}"  # where Slack says to connect
        await play.bot.start()
        await play.slack.connected()
        first = list(play.slack._sockets)
        wire.cut()
        assert await play.slack.world.until(lambda: set(play.slack._sockets) - set(first) or None, 30)
        play.slack._sockets[:] = [one for one in play.slack._sockets if one not in first]
        await play.wanda.types(play.mail, "/smtp")
        await play.wanda.sees("This channel manages SMTP credentials")
        play.slack._sockets += first
        await play.bot.stop()


async def connection(held: contextlib.AsyncExitStack, port: int | None, sent: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which this much was sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    held.callback(writer.close)
    writer.write(sent)
    await writer.drain()
    return reader, writer


async def test_a_socket_that_slack_closes_is_opened_again(tmp_path: Path) -> None:
    async with stage(sqlite_store(tmp_path / "bot.db"), "socket") as play:
        await play.slack.drop_sockets()
        await play.slack.world.until(lambda: None if play.slack._sockets else True, 5)
        await play.slack.connected(20)
        await play.wanda.types(play.mail, "/smtp")
        await play.wanda.sees("This channel manages SMTP credentials")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"slack_bot_token": "xoxb-wrong"}, "SLACK_BOT_TOKEN: Slack answered invalid_auth"),
        ({"slack_app_token": "xapp-wrong"}, "SLACK_APP_TOKEN: Slack answered invalid_auth"),
        ({"database_url": "sqlite:////no/such/folder/bot.db"}, "DATABASE_URL: the folder of the SQLite file is not there"),
    ],
)
async def test_a_wrong_setting_is_named_at_start(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    slack = Slack()
    app = slack.install(MANIFEST)
    async with slack.serve():
        given = {
            "slack_bot_token": app.bot_token,
            "slack_app_token": app.app_token,
            "slack_api_url": f"{slack.url}/api/",
            "database_url": f"sqlite:///{tmp_path / 'bot.db'}",
        }
        bot = Bot(settings(**(given | change)), metrics=("127.0.0.1", 0))
        with pytest.raises(StartError, match=says):
            await asyncio.wait_for(bot.start(), 120)


async def test_postgresql_on_an_old_schema_is_not_started_on(empty_postgres_url: str, tmp_path: Path) -> None:
    bot = Bot(settings(slack_bot_token="xoxb-1", slack_app_token="xapp-1", database_url=empty_postgres_url), metrics=("127.0.0.1", 0))
    with pytest.raises(StartError, match="smtp-bot db upgrade"):
        await bot.start()


async def test_many_who_wait_for_the_same_answer_of_slack_are_all_served(tmp_path: Path) -> None:
    async with stage(sqlite_store(tmp_path / "bot.db"), "http", replace(PATIENT, places=2)) as play:
        await asyncio.gather(*(play.rita.types(play.mail, "/smtp list") for _ in range(12)))
        await play.settled()
        assert len([one for one in play.rita.messages(play.mail) if "No SMTP credentials in Acme yet" in play.rita.read(one)]) == 12

"""The guard in front of Slack's requests, health, and starting with wrong settings."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import pytest

from bot.run import Bot, StartError
from sandbox.slack import Slack
from tests.stage import MANIFEST, Stage, settings, stage

FORM = {"content-type": "application/x-www-form-urlencoded"}


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[Stage]:
    async with stage(f"sqlite:///{tmp_path / 'bot.db'}", "http") as made:
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
    assert "Creating credential" in first[1]
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
        assert "smtp_bot_requests_total" in await (await client.get(f"{base}/metrics")).text()
        assert (await client.get(f"{base}/slack/events")).status == 405
        assert (await client.get(f"{base}/other")).status == 404


async def test_work_under_way_is_finished_before_the_bot_stops(http: Stage) -> None:
    await http.wanda.types(http.mail, "/smtp create Relay")
    await http.wanda.sees_modal("New SMTP credential")
    await http.wanda.submits()
    await http.bot.stop()
    assert len(await http.passdb()) == 1
    await http.wanda.sees(": Relay", http.mail)


async def test_a_socket_that_slack_closes_is_opened_again(tmp_path: Path) -> None:
    async with stage(f"sqlite:///{tmp_path / 'bot.db'}", "socket") as play:
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
        ({"slack_api_url": "http://127.0.0.1:9/"}, "SLACK_API_URL: Slack does not answer"),
        ({"database_url": "postgresql://bot@127.0.0.1:9/none"}, "DATABASE_URL: the database does not answer"),
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
        bot = Bot(settings(**(given | change)))
        with pytest.raises(StartError, match=says):
            await asyncio.wait_for(bot.start(), 30)


async def test_postgresql_on_an_old_schema_is_not_started_on(postgres_url: str, tmp_path: Path) -> None:
    bot = Bot(settings(slack_bot_token="xoxb-1", slack_app_token="xapp-1", database_url=postgres_url))
    with pytest.raises(StartError, match="smtp-bot db upgrade"):
        await bot.start()

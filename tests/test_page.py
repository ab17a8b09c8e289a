"""The demo's page in a real browser: the first minute, who sees what, and what a window sends that it should not."""

import asyncio
import json
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from playwright.async_api import Browser, WebSocketRoute, expect

from sandbox.demo import Demo, free_port
from tests import browser
from tests.browser import Window, window
from tests.conftest import need

SHOTS = Path(__file__).parent.parent / "build" / "screenshots"
SENT_AGAIN = 100


@pytest.fixture
async def made() -> AsyncIterator[Demo]:
    if browser.chromium() is None:
        need("Chromium (Debian: chromium)")
    async with browser.demo() as running:
        yield running


@pytest.fixture
async def chromium(made: Demo) -> AsyncIterator[Browser]:
    async with browser.browser() as opened:
        yield opened


async def shoot(shown: Window, name: str) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    await shown.page.screenshot(path=SHOTS / f"{name}.png")


async def create(shown: Window, name: str) -> tuple[str, str]:
    """By hand; the username and password as they are copied."""
    await shown.type(f"/smtp create {name}")
    dialog = shown.page.get_by_role("dialog", name="New SMTP credential")
    await expect(dialog.get_by_label("Name", exact=False).first).to_have_value(name)
    await dialog.get_by_role("button", name="Create").click()
    message = shown.page.locator("article.only", has_text=f": {name}").last
    await expect(message).to_contain_text("Only visible to you")
    copied = []
    for label in ("Username", "Password"):
        box = message.locator(".rich", has=shown.page.locator("b", has_text=re.compile(f"^{label}$"))).locator(".pre").first
        await box.get_by_role("button").click()
        copied.append(await shown.page.evaluate("navigator.clipboard.readText()"))
    return copied[0], copied[1]


async def send(shown: Window, username: str, password: str, says: str) -> None:
    await shown.page.fill("#mailuser", username)
    await shown.page.fill("#mailpass", password)
    mailed = shown.page.locator("#mailed")
    for _ in range(SENT_AGAIN):  # a password works a moment after it is shown
        await shown.button("Send a test mail")
        await expect(mailed).to_contain_text(re.compile("^[25]"))
        if says in await mailed.inner_text():
            break
    await expect(mailed).to_contain_text(says)


async def test_the_first_minute(made: Demo, chromium: Browser) -> None:
    wanda = await window(chromium, made, "wanda")
    mia = await window(chromium, made, "rita")
    username, password = await create(wanda, "Website relay")
    assert re.fullmatch(r"smtp-acme-[0-9a-z]{8}", username)
    await shoot(wanda, "created")
    await send(wanda, username, password, "250 Sent")
    await expect(wanda.page.locator("#logins li").first).to_contain_text("accepted")
    await create(wanda, "Printer")
    await wanda.page.locator("article.only", has_text=": Website relay").get_by_role("button", name="I've copied it, remove this").click()
    await expect(wanda.page.locator("article.only", has_text=": Website relay")).to_have_count(0)

    await wanda.type("/smtp list")
    table = wanda.page.locator("article.only", has_text="SMTP credentials in Acme (2)")
    await expect(table.locator(".section")).to_have_count(2)
    await expect(table.locator(".section").first).to_contain_text("Printer")
    await table.get_by_role("button", name="Oldest first").click()
    await expect(table.locator(".section").first).to_contain_text("Website relay")
    await shoot(wanda, "list")
    await table.locator(".section", has_text="Website relay").get_by_role("button", name="More for this row").click()
    await table.get_by_role("button", name="Delete…").first.click()
    dialog = wanda.page.get_by_role("dialog", name="Delete credential?")
    await expect(dialog).to_contain_text("stop sending mail right away")
    await shoot(wanda, "delete")
    await dialog.get_by_role("button", name="Delete", exact=True).click()
    await expect(wanda.page.get_by_role("dialog", name="Credential deleted")).to_be_visible()
    await wanda.page.keyboard.press("Escape")
    await send(wanda, username, password, "535")
    await expect(wanda.page.locator("#logins li").first).to_contain_text("refused")
    await expect(wanda.page.locator("#logins li").first).to_contain_text("127.0.0.1: deleted")
    await expect(wanda.page.locator("#logins li")).to_have_count(2)
    await expect(wanda.page.locator("#queue li")).to_have_count(1)
    await expect(wanda.page.locator("#queue")).to_contain_text(username)

    await expect(mia.page.locator("#messages")).to_contain_text("deleted the SMTP credential Website relay")
    seen = await mia.page.content() + "".join(mia.received) + json.dumps(await mia.context.storage_state())
    seen += await mia.page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])")
    assert username in seen
    assert password not in seen
    assert password not in json.dumps(await wanda.context.storage_state())
    assert wanda.problems + mia.problems == []


async def test_who_may_not_reads_why(made: Demo, chromium: Browser) -> None:
    rita = await window(chromium, made, "rita")
    await rita.type("/smtp create Relay")
    await expect(rita.page.locator("article.only").last).to_contain_text("Creating needs the writer role")
    await expect(rita.page.get_by_role("dialog")).to_have_count(0)
    await rita.page.get_by_role("button", name="# random").click()
    await rita.type("/smtp")
    await expect(rita.page.locator("article.only").last).to_contain_text("has no mail workspace")
    assert rita.problems == []


async def test_keyboard_errors_and_a_small_screen(made: Demo, chromium: Browser) -> None:
    wanda = await window(chromium, made, "wanda", viewport={"width": 375, "height": 760}, color_scheme="dark")
    await wanda.page.fill("#typed", "/smtp cr")
    await expect(wanda.page.get_by_role("option", name="/smtp create")).to_be_visible()
    await wanda.page.press("#typed", "Tab")
    await expect(wanda.page.locator("#typed")).to_have_value("/smtp create ")
    await wanda.page.press("#typed", "Enter")
    dialog = wanda.page.get_by_role("dialog", name="New SMTP credential")
    await expect(dialog.locator("input").first).to_be_focused()
    await wanda.page.keyboard.press("Enter")
    await expect(dialog.get_by_role("alert").first).to_contain_text("Please complete this required field.")
    await wanda.page.keyboard.type("smtp1" + "0" * 35)
    await wanda.page.keyboard.press("Enter")
    await expect(dialog.get_by_role("alert").first).to_contain_text("looks like a password")
    for _ in range(12):
        await wanda.page.keyboard.press("Tab")
        assert await dialog.evaluate("dialog => dialog.contains(document.activeElement)")
    await shoot(wanda, "small-dark")
    assert await wanda.page.evaluate("document.documentElement.scrollWidth") <= 375
    await wanda.page.keyboard.press("Escape")
    await expect(dialog).to_have_count(0)
    assert wanda.problems == []


async def test_the_guided_minute_ends_with_a_leak(made: Demo, chromium: Browser) -> None:
    """Six buttons: made and sent as wanda, posted, revoked from the message as rex, refused."""
    shown = await window(chromium, made, "wanda")
    guide = shown.page.locator("#guide")

    async def step(name: str) -> None:
        await guide.get_by_role("button", name=name).click()

    await step("1. Create a credential")
    await shown.page.get_by_role("dialog", name="New SMTP credential").get_by_role("button", name="Create").click()
    await expect(guide.locator(".primary")).to_have_text("2. Send a mail with it")
    await step("2. Send a mail with it")
    await expect(shown.page.locator("#mailed")).to_contain_text("250 Sent")
    await step("3. Leak it")
    await expect(shown.page.locator("article.only", has_text="You posted the password of")).to_be_visible()
    await step("4. Become rex, on call")
    await expect(guide.locator(".primary")).to_have_text("5. Revoke it from the message")
    await step("5. Revoke it from the message")
    dialog = shown.page.get_by_role("dialog", name="Revoke leaked credential")
    await dialog.get_by_role("button", name="Revoke", exact=True).click()
    await expect(guide.locator(".primary")).to_have_text("6. Send again: 535")
    await shown.page.keyboard.press("Escape")
    await step("6. Send again: 535")
    await expect(shown.page.locator("#mailed")).to_contain_text("535")
    await expect(guide).to_have_text("✓ That was it: created, sent, leaked, revoked, refused.")
    assert shown.problems == []


async def test_who_was_refused_asks_and_an_admin_gives_the_role(made: Demo, chromium: Browser) -> None:
    """Two people: each reads in their own window what the other did."""
    rita, adam = await window(chromium, made, "rita"), await window(chromium, made, "adam")
    await rita.type("/smtp create Relay")
    await rita.button("Ask for the writer role")
    await expect(rita.page.locator("article.only").last).to_contain_text("I asked @adam for the writer role in Acme")
    await adam.page.get_by_role("button", name="SMTP Credentials", exact=True).click()
    request = adam.page.locator("article", has_text="@rita")
    await expect(request).to_contain_text("What for: creating.")
    await shoot(adam, "asked-for-a-role")
    await request.get_by_role("button", name="Give writer").click()
    await expect(request).to_contain_text("@adam gave it")
    await expect(request.get_by_role("button", name="Give writer")).to_have_count(0)
    await expect(rita.page.locator("article.only").last).to_contain_text("@adam gave you the writer role in Acme")
    await create(rita, "Relay")
    assert rita.problems + adam.problems == []


async def test_an_alarm_settles_before_all_who_look_at_it(made: Demo, chromium: Browser) -> None:
    """Three people: wanda leaks, rex suspends, adam takes it back and revokes; nobody is left with a button that is too late."""
    wanda, rex, adam = [await window(chromium, made, name) for name in ("wanda", "rex", "adam")]
    _, password = await create(wanda, "Website relay")
    await wanda.type(f"our password is {password}")
    await expect(wanda.page.locator("article.only", has_text="You posted the password of Website relay")).to_be_visible()
    alarms = {one: one.page.locator("article", has_text="posted the password of").last for one in (rex, adam)}
    await expect(alarms[adam]).to_contain_text("It works now")
    await shoot(adam, "alarm")
    await alarms[rex].get_by_role("button", name="Suspend now").click()
    await expect(alarms[adam]).to_contain_text("Suspended by @rex")
    await expect(alarms[adam].get_by_role("button", name="Suspend now")).to_have_count(0)
    await alarms[adam].get_by_role("button", name="Undo").click()
    await adam.page.get_by_role("alertdialog").get_by_role("button", name="Resume").click()
    await expect(alarms[rex]).to_contain_text("It works now")
    await alarms[adam].get_by_role("button", name="Revoke…").click()
    dialog = adam.page.get_by_role("dialog", name="Revoke leaked credential")
    await dialog.get_by_role("button", name="Revoke", exact=True).click()
    await expect(adam.page.get_by_role("dialog", name="Revoked")).to_contain_text("Website relay")
    for one in (rex, adam):
        await expect(alarms[one]).to_contain_text("Revoked by @adam")
        await expect(alarms[one].get_by_role("button", name="Revoke…")).to_have_count(0)
    await shoot(rex, "alarm-settled")
    assert wanda.problems + rex.problems + adam.problems == []


async def test_the_board_is_each_persons_own(made: Demo, chromium: Browser) -> None:
    """In a channel without a mail workspace: who is on call revokes from there, who has no role reads who gives one."""
    wanda, rex = await window(chromium, made, "wanda"), await window(chromium, made, "rex")
    username, _ = await create(wanda, "Website relay")
    for one in (wanda, rex):
        await one.page.get_by_role("button", name="# random").click()
        await one.type("/smtp")
        await expect(one.page.locator("article.only").last).to_contain_text("Acme")
    board = rex.page.locator("article.only").last
    await expect(board).to_contain_text("responder")
    await expect(wanda.page.locator("article.only").last).to_contain_text("writer")
    await shoot(rex, "board")
    await board.get_by_role("button", name="Whose is this?").click()
    asked = rex.page.get_by_role("dialog")
    await asked.locator("textarea, input").first.fill(username)
    await asked.get_by_role("button", name="Look it up").click()
    await expect(rex.page.get_by_text("Website relay").last).to_be_visible()
    assert wanda.problems + rex.problems == []


async def test_a_reload_forgets_what_only_one_person_sees_where_the_box_says_so(made: Demo, chromium: Browser) -> None:
    wanda = await window(chromium, made, "wanda")
    messages = wanda.page.locator("article.only")
    await wanda.type("/smtp list")
    await expect(messages).to_have_count(1)
    await wanda.page.reload()
    await expect(wanda.page.locator("#typed")).to_be_focused()
    await expect(messages).to_have_count(0)
    await wanda.type("/smtp list")
    await expect(messages).to_have_count(1)
    await wanda.page.get_by_label("like Slack: forget on reload").uncheck()
    await wanda.page.reload()
    await expect(wanda.page.get_by_label("like Slack: forget on reload")).not_to_be_checked()
    await expect(messages).to_have_count(2)


async def test_back_and_reload_keep_the_channel_and_the_apps_message_is_read_only(made: Demo, chromium: Browser) -> None:
    wanda = await window(chromium, made, "wanda")
    page = wanda.page
    await expect(page.locator("#typed")).to_be_focused()
    await page.get_by_role("button", name="# random").click()
    await page.get_by_role("button", name="SMTP Credentials", exact=True).click()
    await expect(page.get_by_text("Only the app writes here.")).to_be_visible()
    await expect(page.locator("#typed")).to_be_hidden()
    await page.go_back()
    await expect(page.get_by_role("heading", name="#random")).to_be_visible()
    await expect(page.locator("#typed")).to_be_visible()
    await page.reload()
    await expect(page.get_by_role("heading", name="#random")).to_be_visible()
    await page.get_by_role("button", name="SMTP Credentials: Home").click()
    await page.reload()
    await expect(page.get_by_role("heading", name="SMTP Credentials Home")).to_be_visible()
    assert wanda.problems == []


async def test_what_was_typed_survives_being_offline(made: Demo, chromium: Browser) -> None:
    wanda = await window(chromium, made, "wanda")
    away = False
    routes: list[WebSocketRoute] = []

    async def route(socket: WebSocketRoute) -> None:
        if away:
            await socket.close()
        else:
            socket.connect_to_server()
            routes.append(socket)

    await wanda.page.route_web_socket("**/live*", route)
    await wanda.page.reload()
    await wanda.type("/smtp list")
    table = wanda.page.locator("article.only")
    await table.get_by_role("button", name="Create credential").wait_for()
    away = True
    await routes[0].close()
    await expect(wanda.page.locator("#notice")).to_contain_text("What you typed is kept.")
    await wanda.type("/smtp help")
    await expect(wanda.page.locator("#notice")).to_contain_text("Not sent")
    await expect(wanda.page.locator("#typed")).to_have_value("/smtp help")
    away = False
    await expect(wanda.page.locator("#notice")).to_be_empty()
    await expect(table).to_have_count(1)
    await wanda.page.press("#typed", "Enter")
    await expect(table).to_have_count(2)
    await expect(wanda.page.locator("#typed")).to_have_value("")


async def test_the_composer_has_the_focus_again_after_a_press(made: Demo, chromium: Browser) -> None:
    wanda = await window(chromium, made, "wanda")
    for name in ("Printer", "Relay"):
        await create(wanda, name)
    await wanda.type("/smtp list")
    table = wanda.page.locator("article.only", has_text="SMTP credentials in Acme")
    await table.get_by_role("button", name="Oldest first").click()
    await expect(table.locator(".section").first).to_contain_text("Printer")
    await expect(wanda.page.locator("#typed")).to_be_focused()


async def test_on_a_phone_fields_stack_and_a_new_password_is_on_the_screen(made: Demo, chromium: Browser) -> None:
    wanda = await window(chromium, made, "wanda", viewport={"width": 375, "height": 667})
    page = wanda.page
    await create(wanda, "Website relay")
    await wanda.type("/smtp create Printer")
    await page.get_by_role("dialog", name="New SMTP credential").get_by_role("button", name="Create").click()
    password = page.locator("article.only", has_text=": Printer").locator("pre", has_text=re.compile("^smtp1"))
    await expect(password).to_be_in_viewport(ratio=1)
    box = await password.bounding_box()
    assert box
    assert box["width"] > 200
    await shoot(wanda, "small-password")
    await wanda.type("/smtp list")
    row = page.locator("article.only", has_text="SMTP credentials in Acme (2)").locator(".section").first
    await row.wait_for()
    widths = await row.locator(".fields > div").evaluate_all("fields => fields.map((one) => one.getBoundingClientRect().width)")
    assert min(widths) > 200
    assert await page.evaluate("document.documentElement.scrollWidth") <= 375
    await shoot(wanda, "small-list")


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_axe_finds_no_barrier(made: Demo, chromium: Browser, theme: str) -> None:
    wanda = await window(chromium, made, "wanda", color_scheme=theme)
    await create(wanda, "Website relay")
    await send(wanda, "nobody", "nothing", "535")
    await wanda.page.locator("#logpane summary").click()
    await wanda.type("/smtp list")
    await wanda.page.locator("article.only", has_text="SMTP credentials in Acme").wait_for()
    await wanda.page.fill("#typed", "/smtp ")
    assert await wanda.barriers() == []
    await wanda.page.fill("#typed", "")
    await wanda.page.get_by_role("button", name="More for this row").last.click()
    assert await wanda.barriers() == []
    await wanda.page.get_by_role("button", name="Delete…").first.click()
    await wanda.page.get_by_role("dialog").wait_for()
    assert await wanda.barriers() == []
    await wanda.page.keyboard.press("Escape")
    await wanda.type("/smtp create")
    await wanda.page.get_by_role("dialog").wait_for()
    await wanda.page.keyboard.press("Enter")
    assert await wanda.barriers() == []
    await wanda.page.keyboard.press("Escape")
    await wanda.page.get_by_role("button", name="SMTP Credentials: Home").click()
    await wanda.page.locator("#messages .section").first.wait_for()
    assert await wanda.barriers() == []
    await wanda.page.set_viewport_size({"width": 375, "height": 667})
    assert await wanda.barriers() == []


async def test_dates_follow_their_format(made: Demo, chromium: Browser) -> None:
    wanda = await window(chromium, made, "wanda", timezone_id="America/New_York", locale="en-US")
    dated = """async ([at, format]) => {
        const { dated } = await import("/page/blocks.js");
        return dated(at, format, new Date("2026-11-25T12:00:00Z"));
    }"""
    at = 1795635672  # 2026-11-25 13:01:12 UTC
    table = {
        (at, "{date_num}"): "2026-11-25",
        (at, "{date_short_pretty} at {time}"): "today at 2:41 PM",
        (at - 86400, "{date_pretty}"): "yesterday",
        (at + 86400, "{date_long_pretty}"): "tomorrow",
        (at + 3 * 86400, "{date_short_pretty}"): "Nov 28, 2026",
        (at - 3 * 86400, "{date}"): "November 22nd",
        (at - 365 * 86400, "{date_long}"): "Tuesday, November 25th, 2025",
        (at, "{time_secs} {nothing}"): "2:41:12 PM {nothing}",
        (at - 86400 * 5, "{ago}"): "5 days ago",
    }
    for (seconds, form), said in table.items():
        assert await wanda.page.evaluate(dated, [seconds, form]) == said


async def test_what_it_cannot_draw_it_names(made: Demo, chromium: Browser) -> None:
    wanda = await window(chromium, made, "wanda")
    world = made.slack.world
    channel = next(one for one in world.channels.values() if one.name == "acme-mail")
    world.add_message(channel.id, world.installed().bot_user, "", [{"type": "video", "block_id": "v"}])
    await expect(wanda.page.locator(".cannot")).to_contain_text('This sandbox cannot draw "video".')
    menus = [{"type": kind, "action_id": kind} for kind in ("external_select", "timepicker", "datetimepicker", "users_select")]
    world.add_message(channel.id, world.installed().bot_user, "", [{"type": "actions", "block_id": "m", "elements": menus}])
    await expect(wanda.page.locator("article").last.locator("input, select")).to_have_count(5)
    await expect(wanda.page.locator(".cannot")).to_have_count(1)


async def test_what_a_window_should_not_send_is_refused_and_stops_nothing(made: Demo) -> None:
    people = {one.name: one for one in made.slack.people.values()}
    rita, wanda = people["rita"], people["wanda"]
    url = made.slack.url
    secret = next(one for one in made.slack.world.channels.values() if one.name == "acme-secret")
    hidden = made.slack.world.add_message(secret.id, wanda.id, "only for us")
    async with aiohttp.ClientSession() as client:
        for path, status in (("/nothing", 404), ("/page/../demo.py", 404), ("/page/%2e%2e%2fdemo.py", 404), ("/api/auth.test", 200)):
            async with client.get(url + path) as answer:
                assert answer.status == status, path
        async with client.get(url, headers={"host": "evil.example"}) as answer:
            assert answer.status == 421
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await client.ws_connect(f"{url}/live", headers={"origin": "http://evil.example"})
        async with client.ws_connect(f"{url}/live?person={rita.id}") as socket:
            first = await socket.receive_json(timeout=120)
            assert "only for us" not in json.dumps(first)
            wrong = [
                "no json", "[]", "{}", '{"do": 1}', '{"do": "fly"}', '{"do": "press"}',
                json.dumps({"do": "type", "channel": secret.id, "text": "hello"}),
                json.dumps({"do": "press", "channel": secret.id, "ts": hidden.ts, "block": "a", "action": "b"}),
                json.dumps({"do": "submit", "view": "V1", "values": []}),
            ]  # fmt: skip
            for text in wrong:
                await socket.send_str(text)
                async with asyncio.timeout(120):
                    while "error" not in await socket.receive_json():
                        pass
    assert [one.text for one in made.slack.world.messages[secret.id]] == ["only for us"]


def test_it_takes_the_next_free_port() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) > port
    assert free_port(0) == 0


def test_it_refuses_real_tokens(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SLACK_BOT_TOKEN=xoxb-real\n")
    code = str(Path(__file__).parent.parent)
    command = [sys.executable, "-m", "sandbox", "--port", "0"]
    run = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": code}, capture_output=True, text=True, timeout=150, check=False)
    assert run.returncode == 1
    assert "SLACK_BOT_TOKEN is set: this is only a sandbox" in run.stderr
    assert "xoxb-real" not in run.stderr

"""The demo and a real Chromium, driven through Playwright."""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from sandbox.demo import Demo

CHEAP = (8, 1, 1)
TIMEOUT_MS = 120_000
"""Ends what will never come; a busy machine is slow."""
expect.set_options(timeout=TIMEOUT_MS)


def chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextlib.asynccontextmanager
async def demo(argon2: tuple[int, int, int] = CHEAP) -> AsyncIterator[Demo]:
    """The whole demo on free ports."""
    started: asyncio.Future[Demo] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    with tempfile.TemporaryDirectory() as folder:
        running = asyncio.create_task(Demo(Path(folder), 0, 0, argon2).run(started.set_result, stop))
        try:
            waiting: set[asyncio.Future[Any]] = {running, started}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED, timeout=TIMEOUT_MS / 1000)
            if running.done():
                running.result()
            yield await asyncio.wait_for(started, 120)
        finally:
            stop.set()
            await running


@contextlib.asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield launched
        await launched.close()


class Window:
    """A browser window that acts as one person, with all that the server sent it."""

    def __init__(self, context: BrowserContext, page: Page) -> None:
        self.context, self.page = context, page
        self.received: list[str] = []
        page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: self.received.append(str(frame))))
        self.problems: list[str] = []
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", lambda message: self.problems.append(message.text) if message.type == "error" else None)

    async def type(self, text: str) -> None:
        await self.page.fill("#typed", text)
        await self.page.press("#typed", "Enter")

    async def barriers(self) -> list[str]:
        """What axe-core finds on the page as it is now that is serious or critical: the rule and where."""
        found = (await Axe().run(self.page)).response["violations"]
        return [f"{one['id']}: {node['target']}" for one in found if one["impact"] in ("serious", "critical") for node in one["nodes"]]

    async def button(self, name: str) -> None:
        await self.page.get_by_role("button", name=name, exact=True).last.click()


async def window(opened: Browser, made: Demo, person: str, **options: object) -> Window:
    """A new window acting as the person of this name."""
    context = await opened.new_context(**{"viewport": {"width": 1280, "height": 860}, **options})  # type: ignore[arg-type]
    await context.grant_permissions(["clipboard-read", "clipboard-write"], origin=made.slack.url)
    shown = Window(context, await context.new_page())
    shown.page.set_default_timeout(TIMEOUT_MS)
    user = next(one for one in made.slack.people.values() if one.name == person)
    await shown.page.goto(f"{made.slack.url}/?person={user.id}")
    await shown.page.get_by_role("heading", name="#acme-mail").wait_for()
    return shown

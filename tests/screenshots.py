"""`make screenshots`: the pictures in the README, taken of the demo as it is."""

import asyncio
from pathlib import Path

from tests import browser
from tests.browser import window
from tests.test_page import create

DOCS = Path(__file__).parent.parent / "docs"
SIZE = {"width": 1180, "height": 720}


async def take() -> None:
    DOCS.mkdir(exist_ok=True)
    async with browser.demo() as made, browser.browser() as opened:
        wanda = await window(opened, made, "wanda", viewport=SIZE)
        for name in ("Printer, 2nd floor", "Billing export", "Website relay"):
            username, password = await create(wanda, name)
        await wanda.page.screenshot(path=DOCS / "create.png")
        await wanda.page.fill("#mailuser", username)
        await wanda.page.fill("#mailpass", password)
        await wanda.button("Send a test mail")
        await wanda.page.locator("#logins li").first.wait_for()
        await wanda.page.fill("#mailpass", "")
        await wanda.type("/smtp list")
        await wanda.page.locator("article.only", has_text="Showing 1 to 3").wait_for()
        await wanda.page.screenshot(path=DOCS / "list.png")


if __name__ == "__main__":
    asyncio.run(take())

"""How fast the demo's page is, measured in the browser. Part of `make bench`; asserts nothing."""

import asyncio
import statistics
import time

from tests import browser
from tests.browser import window

CLICKS = 30
CLICK_UNTIL_DRAWN = """async (label) => {
  const button = [...document.querySelectorAll("article.only button")].filter((one) => one.textContent === label).at(-1);
  const before = document.querySelector("#messages");
  const started = performance.now();
  const drawn = new Promise((done) => new MutationObserver((_, observer) => { observer.disconnect(); done(); })
    .observe(before, { childList: true, subtree: true }));
  button.click();
  await drawn;
  await new Promise(requestAnimationFrame);
  return performance.now() - started;
}"""


async def run() -> None:
    started = time.perf_counter()
    async with browser.demo((19456, 2, 1)) as made:
        up = time.perf_counter()
        async with browser.browser() as opened:
            launched = time.perf_counter()
            wanda = await window(opened, made, "wanda")
            ready = time.perf_counter() - launched
            print(f"| Demo: start of the server; page ready after it | {up - started:.2f} s; {ready:.2f} s | | ≤ 1 s |")
            await wanda.type("/smtp list")
            await wanda.page.locator("article.only", has_text="No SMTP credentials").wait_for()
            await wanda.type("/smtp create Relay")
            await wanda.page.get_by_role("button", name="Create", exact=True).click()
            await wanda.page.locator("article.only", has_text=": Relay").wait_for()
            await wanda.type("/smtp list")
            await wanda.page.locator("article.only", has_text="Showing 1 to 1").wait_for()
            took = []
            for number in range(CLICKS):
                took.append(await wanda.page.evaluate(CLICK_UNTIL_DRAWN, "Newest first" if number % 2 else "Oldest first"))
            print(f"| Demo: a click until its result is drawn | median {statistics.median(took):.0f} ms | | ≤ 100 ms |")


def main() -> None:
    asyncio.run(run())


if __name__ == "__main__":
    main()

"""What the suite tries a few of, all of it: `make soak`. Minutes to hours; a seed is printed first and can be given.

python -m tests.soak [faults | kills | all] [--seed N] [--times N] [--processes N]
"""

import argparse
import asyncio
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from random import Random
from typing import Any

from tests import postgres
from tests.oracle import FLOWS
from tests.stage import stage
from tests.stores import postgres_store, sqlite_store
from tests.test_faults import Cell, cells, trial
from tests.test_kills import Kill, trials

PROCESSES = 6  # most of the time is spent waiting
CELLS_OF_A_STAGE = 40
KILLS = 1000
KILLS_OF_A_STAGE = 20


class Urls:
    """New databases, as many as are asked for."""

    def __init__(self, folder: str, server: str) -> None:
        self._folder = Path(folder)
        self._server = server
        self._made = 0

    def new(self, kind: str) -> str:
        self._made += 1
        if kind == "sqlite":
            return sqlite_store(self._folder / f"{self._made}.db")
        return postgres_store(self._server, f"soak_{self._made}")


async def every_cell(url: str) -> list[Cell]:
    async with stage(url, "socket") as play, trial(play) as one:
        return [cell for flow in FLOWS for cell in cells(flow, await one.calls(flow), slow=True)]


async def some_cells(url: str, mode: str, batch: Sequence[Cell]) -> list[str]:
    """Tries the cells one after the other; returns what went wrong."""
    wrong = []
    async with stage(url, mode) as play, trial(play) as one:
        for cell in batch:
            try:
                await one.run(cell)
            except Exception as error:
                wrong.append(f"{cell} ({mode}): {type(error).__name__} {error}")
    return wrong


async def some_kills(url: str, mode: str, batch: Sequence[Kill]) -> list[str]:
    """The same for kills."""
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        async with trials(url, mode, Path(folder)) as one:
            for kill in batch:
                try:
                    await one.once(kill)
                except Exception as error:
                    wrong.append(f"{kill} ({mode}): {type(error).__name__} {error}")
    return wrong


def in_a_process(function: Callable[..., Any], *args: Any) -> list[str]:
    found: list[str] = asyncio.run(function(*args))
    return found


class Soak:
    """What is begun in a pool of processes, on new databases of both kinds."""

    def __init__(self, pool: ProcessPoolExecutor, chooser: Random, urls: Urls) -> None:
        self._pool, self._chooser, self._urls = pool, chooser, urls
        self.begun: list[Future[list[str]]] = []

    def faults(self, times: int) -> None:
        every: list[Any] = self._pool.submit(in_a_process, every_cell, self._urls.new("sqlite")).result()
        self._chooser.shuffle(every)
        self._begin(some_cells, every[: times or None], CELLS_OF_A_STAGE)

    def kills(self, times: int) -> None:
        self._begin(some_kills, [Kill.any(self._chooser) for _ in range(times or KILLS)], KILLS_OF_A_STAGE)

    def _begin(self, function: Callable[..., Any], every: Sequence[Any], at_once: int) -> None:
        print(f"{len(every)} for {function.__name__}", flush=True)
        for at in range(0, len(every), at_once):
            database, mode = self._chooser.choice((("sqlite", "socket"), ("postgres", "http")))
            self.begun.append(self._pool.submit(in_a_process, function, self._urls.new(database), mode, every[at : at + at_once]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=("all", "faults", "kills"), default="all")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--times", type=int, default=0, help="cells and kills to try; 0: every cell, and a thousand kills")
    parser.add_argument("--processes", type=int, default=PROCESSES)
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    chooser = Random(given.seed)
    started = time.monotonic()
    count = 0
    with (
        tempfile.TemporaryDirectory() as folder,
        postgres.private_cluster() as server,
        ProcessPoolExecutor(given.processes) as pool,
    ):
        soak = Soak(pool, chooser, Urls(folder, server))
        if given.what != "kills":
            soak.faults(given.times)
        if given.what != "faults":
            soak.kills(given.times)
        for number, batch in enumerate(as_completed(soak.begun), 1):
            for wrong in batch.result():
                count += 1
                print(f"WRONG {wrong}", flush=True)
            print(f"{number} of {len(soak.begun)} batches, {count} wrong, {time.monotonic() - started:.0f} s", flush=True)
    sys.exit(1 if count else 0)


if __name__ == "__main__":
    main()

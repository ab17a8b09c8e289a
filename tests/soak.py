"""What the suite tries a few of, all of it: `make soak`. Minutes to hours; a seed is printed first and can be given.

python -m tests.soak [faults | all] [--seed N] [--times N] [--processes N]
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
from tests.test_faults import Cell, cells, trial

PROCESSES = 6  # most of the time is spent waiting
CELLS_OF_A_STAGE = 40


class Urls:
    """New databases, as many as are asked for."""

    def __init__(self, folder: str, server: str) -> None:
        self._folder = Path(folder)
        self._server = server
        self._made = 0

    def new(self, kind: str) -> str:
        self._made += 1
        if kind == "sqlite":
            return f"sqlite:///{self._folder / f'{self._made}.db'}"
        return postgres.new_database(self._server, f"soak_{self._made}")


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


def in_a_process(function: Callable[..., Any], *args: Any) -> list[str]:
    found: list[str] = asyncio.run(function(*args))
    return found


def faults(pool: ProcessPoolExecutor, chooser: Random, times: int, urls: Urls) -> list[Future[list[str]]]:
    every: list[Any] = pool.submit(in_a_process, every_cell, urls.new("sqlite")).result()
    chooser.shuffle(every)
    every = every[: times or None]
    begun = []
    for at in range(0, len(every), CELLS_OF_A_STAGE):
        database, mode = chooser.choice((("sqlite", "socket"), ("postgres", "http")))
        begun.append(pool.submit(in_a_process, some_cells, urls.new(database), mode, every[at : at + CELLS_OF_A_STAGE]))
    print(f"{len(every)} cells", flush=True)
    return begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=("all", "faults"), default="all")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--times", type=int, default=0, help="cells to try; 0: every cell")
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
        urls = Urls(folder, server)
        begun = faults(pool, chooser, given.times, urls)
        for number, batch in enumerate(as_completed(begun), 1):
            for wrong in batch.result():
                count += 1
                print(f"WRONG {wrong}", flush=True)
            print(f"{number} of {len(begun)} batches, {count} wrong, {time.monotonic() - started:.0f} s", flush=True)
    sys.exit(1 if count else 0)


if __name__ == "__main__":
    main()

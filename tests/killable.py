"""The bot as a process that ends itself, as SIGKILL does, right before or right after a commit; an entry for tests.

    KILL_AT="before 3" KILL_ARMED=FILE LIMITS=JSON python -m tests.killable

Commits count once FILE is there: the third kills here. Without KILL_AT nothing does.
"""

import json
import os
import signal
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import Engine, event

from bot import log, run
from bot.services import Limits
from bot.settings import load


class Commits:
    def __init__(self, when: str, number: int, armed: Path) -> None:
        self._when, self._left, self._armed = when, number, armed

    def passes(self, when: str) -> None:
        if when != self._when or not self._armed.exists():
            return
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def watch(commits: Commits) -> None:
    """Counts the commits of both drivers, whoever makes them."""

    def before(_connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        if statement == "COMMIT":
            commits.passes("before")

    def after(_connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        if statement == "COMMIT":
            commits.passes("after")

    event.listen(Engine, "before_cursor_execute", before)
    event.listen(Engine, "after_cursor_execute", after)
    commit = psycopg.Connection.commit

    def watched(connection: Any) -> None:
        commits.passes("before")
        commit(connection)
        commits.passes("after")

    psycopg.Connection.commit = watched  # type: ignore[method-assign, assignment]


def main() -> None:
    if at := os.environ.get("KILL_AT"):
        when, number = at.split()
        watch(Commits(when, int(number), Path(os.environ["KILL_ARMED"])))
    settings = load()
    log.configure(settings.log_level, settings.log_format)
    given = json.loads(os.environ["LIMITS"])
    run.main(settings, ("127.0.0.1", given.pop("metrics")), Limits(**given))


if __name__ == "__main__":
    main()

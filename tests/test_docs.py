"""The pages: each command line in them is run, or marked as not run, or as run by another test."""

import asyncio
import contextlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer._click.exceptions import MissingParameter

from bot.cli import cli
from bot.settings import FIELDS, PREFIXES, SECRETS
from storage.database import Database
from storage.journal import Journal
from storage.past import Past
from tests.stores import sqlite_store
from tests.test_cli import elsewhere, fill, smtp_bot

__all__ = ["elsewhere"]

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "deploy/README.md", *sorted(f"docs/{one.name}" for one in ROOT.glob("docs/*.md"))]
USERNAME = "smtp-acme-7k2m9x4q"
SERVER = "postgresql://bot@db.example.com/bot"
ENDS: dict[str, tuple[int, str]] = {
    "rotate": (2, "say --to-pipe"),
    "doctor": (1, "SLACK_BOT_TOKEN: missing"),
}
"""How those end that need a terminal or Slack: the status, and what they say."""
BLOCK = re.compile(r"(?P<mark><!-- (?:not run|run by tests/)[^>]*-->\n)?^ *```sh\n(?P<lines>.*?)^ *```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`(smtp-bot [^`]+)`")


def takes(line: str) -> None:
    """Raises when the command line is not one that `smtp-bot` takes. It is parsed, and not carried out."""
    words = [word.replace("…", "").partition("|")[0] for word in shlex.split(line, comments=True)[1:]]
    command = typer.main.get_command(cli)
    context = command.make_context("smtp-bot", words)
    while rest := [*getattr(context, "_protected_args", ()), *context.args]:
        group: Any = context.command
        if not hasattr(group, "resolve_command"):
            break
        name, command, rest = group.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)


def unmarked(page: str) -> Iterator[str]:
    """The lines that are to be run."""
    for block in BLOCK.finditer((ROOT / page).read_text()):
        if not block["mark"]:
            yield from filter(str.strip, block["lines"].splitlines())


@pytest.fixture
def store(tmp_path: Path) -> tuple[str, str]:
    """A store in the working directory and the username of a credential in it; a journal beside it has seen both."""
    url = sqlite_store(tmp_path / "smtp-bot.db")
    for words in (
        "workspace add acme", "channel map C0MAIL acme", "grant U0123ABCDEF writer acme", "grant U0123ABCDEF reader --all"
    ):  # fmt: skip
        assert smtp_bot(url, *words.split()).exit_code == 0
    [username] = asyncio.run(fill(url, "Relay"))

    async def follow() -> None:
        db = Database(url)
        past = Past(db, Journal(tmp_path / "smtp-bot.journal"), "bot", "one")
        await past.follow()
        past.close()
        await db.close()

    asyncio.run(follow())
    return url, username


@pytest.mark.parametrize("line", sorted({line for page in PAGES for line in unmarked(page) if line.startswith("smtp-bot ")}))
def test_every_line_that_is_not_marked_runs(line: str, store: tuple[str, str], request: pytest.FixtureRequest) -> None:
    url, username = store
    server = str(request.getfixturevalue("empty_postgres_url")) if SERVER in line else ""
    if server:
        assert smtp_bot(server, "db", "upgrade").exit_code == 0
    words = [word.replace(USERNAME, username).replace(SERVER, server) for word in shlex.split(line, comments=True)[1:]]
    status, says = ENDS.get(words[0], (0, ""))
    run = smtp_bot(url, *words, given=f"log-in of {username}")
    assert (run.exit_code, says in run.output) == (status, True), run.output


@pytest.mark.parametrize("page", PAGES)
def test_every_command_line_is_taken_or_marked(page: str) -> None:
    text = (ROOT / page).read_text()
    makefile = (ROOT / "Makefile").read_text()
    for line in unmarked(page):
        if line.startswith("make "):
            assert re.search(rf"^{line.split()[1]}:", makefile, re.MULTILINE), line
        else:
            assert line.startswith("smtp-bot "), f"{page}: mark the block with <!-- not run: why -->: {line}"
    for line in INLINE.findall(text):
        if not re.search(r"--(version|help|install-completion)", line):
            with contextlib.suppress(MissingParameter):  # a command is named there, without what it is given
                takes(line)


def test_a_wrong_line_is_noticed() -> None:
    with pytest.raises(Exception, match=r"No such (command|option)"):
        takes("smtp-bot list --nonsense")
    with pytest.raises(Exception, match="No such command"):
        takes("smtp-bot nonsense")


NAME = re.compile(rf"(?<![A-Z0-9_])(?:{'|'.join([*PREFIXES, 'LOG_'])})[A-Z0-9_]*[A-Z0-9](?![A-Za-z0-9_])")


def test_every_variable_that_is_named_is_a_setting() -> None:
    settings = set(FIELDS) | {f"{secret}_FILE" for secret in SECRETS}
    files = [ROOT / page for page in PAGES] + [one for one in (ROOT / "deploy").rglob("*") if one.is_file() and "scanners" not in one.parts]
    found = {(name, file.name) for file in files for name in NAME.findall(file.read_text(errors="replace"))}
    assert len(found) > 50
    assert {(name, file) for name, file in found if name not in settings} == set()

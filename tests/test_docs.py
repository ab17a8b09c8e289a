"""The pages: each command line in them is one that the program takes, or is marked as not run."""

import contextlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer._click.exceptions import MissingParameter

from bot.cli import cli

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/operating.md", "docs/security.md"]
BLOCK = re.compile(r"(?P<mark><!-- not run[^>]*-->\n)?^ *```sh\n(?P<lines>.*?)^ *```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`(smtp-bot [^`]+)`")


def takes(line: str) -> None:
    """Raises when the command line is not one that `smtp-bot` takes. It is parsed, and not carried out."""
    words = [word.replace("…", "") for word in shlex.split(line, comments=True)[1:]]
    command = typer.main.get_command(cli)
    context = command.make_context("smtp-bot", words)
    while rest := [*getattr(context, "_protected_args", ()), *context.args]:
        group: Any = context.command
        if not hasattr(group, "resolve_command"):
            break
        name, command, rest = group.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_line_is_taken_or_marked(page: str) -> None:
    text = (ROOT / page).read_text()
    makefile = (ROOT / "Makefile").read_text()
    for block in BLOCK.finditer(text):
        if block["mark"]:
            continue
        for line in filter(str.strip, block["lines"].splitlines()):
            if line.startswith("make "):
                assert re.search(rf"^{line.split()[1]}:", makefile, re.MULTILINE), line
            else:
                assert line.startswith("smtp-bot "), f"{page}: mark the block with <!-- not run: why -->: {line}"
                takes(line)
    for line in INLINE.findall(text):
        if not re.search(r"--(version|help|install-completion)", line):
            with contextlib.suppress(MissingParameter):  # a command is named there, without what it is given
                takes(line)


def test_a_wrong_line_is_noticed() -> None:
    with pytest.raises(Exception, match=r"No such (command|option)"):
        takes("smtp-bot list --nonsense")
    with pytest.raises(Exception, match="No such command"):
        takes("smtp-bot nonsense")

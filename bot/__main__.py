import os
import sys
from pathlib import Path

from bot.cli import cli


def main() -> None:
    # The database, its journal and whatever else is made hold hashes: nobody else's to read, whatever the caller's umask.
    os.umask(0o077)
    try:
        Path.home()
    except RuntimeError:
        # slack_sdk asks for the home of the account when it is imported; a container's uid may have none.
        os.environ["HOME"] = "/nonexistent"
    _open_streams()
    # What is no UTF-8 can neither be stored nor sent.
    sys.argv[1:] = [os.fsencode(one).decode(errors="replace") for one in sys.argv[1:]]
    try:
        try:
            cli(prog_name="smtp-bot")
        finally:
            sys.stdout.flush()
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"smtp-bot: {where}{error.strerror or type(error).__name__}", file=sys.stderr)
        # What is left of the output goes nowhere: Python would try to write it once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)


def _open_streams() -> None:
    """Standard input, output and errors are there, also for a caller who closed them, and take and give every text."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free is this one
            setattr(sys, name, os.fdopen(number, mode))
        getattr(sys, name).reconfigure(errors="replace")


if __name__ == "__main__":
    main()

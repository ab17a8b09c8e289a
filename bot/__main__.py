import os
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
    cli(prog_name="smtp-bot")


if __name__ == "__main__":
    main()

import os

from bot.cli import cli


def main() -> None:
    # The database, its journal and whatever else is made hold hashes: nobody else's to read, whatever the caller's umask.
    os.umask(0o077)
    cli(prog_name="smtp-bot")


if __name__ == "__main__":
    main()

from bot.cli import cli


def main() -> None:
    cli(prog_name="smtp-bot")


if __name__ == "__main__":
    main()

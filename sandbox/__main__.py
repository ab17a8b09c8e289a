"""`python -m sandbox`: the demo."""

import argparse

from sandbox.demo import MAIL_PORT, PORT, main

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m sandbox", description="Runs the bot in a Slack of its own on this machine; no account needed."
    )
    parser.add_argument("--port", type=int, default=PORT, help="where the page is; the next free one is taken (default: %(default)s)")
    parser.add_argument("--mail-port", type=int, default=MAIL_PORT, help="where the mail server listens (default: %(default)s)")
    given = parser.parse_args()
    main(given.port, given.mail_port)

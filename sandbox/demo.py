"""`make demo`: the whole product on one machine. Binds to loopback only, and refuses to start beside real Slack tokens."""


def main(port: int) -> None:
    raise SystemExit(f"The demo on port {port} is not built yet.")

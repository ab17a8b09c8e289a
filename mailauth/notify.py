"""systemd's notification protocol (sd_notify(3)): a datagram to the socket that NOTIFY_SOCKET names. Without one, nothing is sent."""

import os
import socket
import time


def notify(*words: str) -> None:
    """Sends assignments such as `READY=1`; a service manager that cannot be reached changes nothing for us."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)
            sender.sendto("\n".join(words).encode(), "\0" + address[1:] if address.startswith("@") else address)
    except OSError:
        return


def reloading() -> None:
    """A restart of the workers begins; `READY=1` ends it."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def watchdog_interval() -> float | None:
    """Seconds between two `WATCHDOG=1`: half of what systemd waits; None when it does not watch this process."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 2_000_000 if microseconds.isdigit() and int(microseconds) > 0 else None

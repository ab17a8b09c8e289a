"""A private PostgreSQL for the tests: its own cluster in a temporary folder, on a free loopback port, never one that happens to run."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg


def binaries() -> Path | None:
    """The folder with `initdb`; None when no PostgreSQL server is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path else None


def new_database(server: str, name: str) -> str:
    """The address of a new, empty database in the cluster."""
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"{server}/{name}"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def private_cluster() -> Iterator[str]:
    """Runs a cluster and gives its address without a database name. The server refuses root, so root hands it to another user."""
    user = None
    if os.geteuid() == 0:
        names = {entry.pw_name for entry in pwd.getpwall()}
        user = "postgres" if "postgres" in names else "nobody"
    home = Path(tempfile.mkdtemp(prefix="postgres-"))
    port = free_port()
    tools = binaries()
    assert tools is not None
    try:
        if user:
            shutil.chown(home, user)
        data = home / "data"
        initdb: list[str | Path] = [tools / "initdb", "-D", data, "-U", "bot", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]
        subprocess.run(initdb, user=user, check=True, capture_output=True, cwd=home, timeout=60)
        settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "off"}
        options = " ".join(f"-c {name}='{value}'" for name, value in settings.items())
        control: list[str | Path] = [tools / "pg_ctl", "-D", data, "-w", "-t", "30", "-l", home / "log"]
        subprocess.run([*control, "-o", options, "start"], user=user, check=True, capture_output=True, cwd=home, timeout=60)
        try:
            yield f"postgresql://bot@127.0.0.1:{port}"
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], user=user, check=True, capture_output=True, cwd=home, timeout=60)
    finally:
        shutil.rmtree(home, ignore_errors=True)

"""A private PostgreSQL for the tests: its own cluster in a temporary folder, on a free loopback port, never one that happens to run."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql
from sqlalchemy import make_url

IN_MEMORY = "/dev/shm"
ROOM = 4 * 1024**3  # bytes
STRICT = """
host all locked 127.0.0.1/32 scram-sha-256
hostnossl all encrypted 127.0.0.1/32 reject
"""
"""Rules for two roles that a test may make; everybody else is trusted."""


def binaries() -> Path | None:
    """The folder with `initdb`; None when no PostgreSQL server is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path else None


def new_database(server: str, name: str, template: str = "template1") -> str:
    """The address of a new database in the cluster: a copy of one that nobody is connected to, or an empty one."""
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    return f"{server}/{name}"


def drop_database(server: str, name: str) -> None:
    """Also when somebody is still connected to it, or it was never made."""
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _room(folder: str) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


@contextmanager
def private_cluster(**more: str) -> Iterator[str]:
    """Runs a cluster and gives its address without a database name. The server refuses root, so root hands it to another user.

    Args:
        more: settings of the server.
    """
    user = None
    if os.geteuid() == 0:
        names = {entry.pw_name for entry in pwd.getpwall()}
        user = "postgres" if "postgres" in names else "nobody"
    home = Path(tempfile.mkdtemp(prefix="postgres-", dir=IN_MEMORY if _room(IN_MEMORY) > ROOM else None))
    port = free_port()
    tools = binaries()
    assert tools is not None
    try:
        if user:
            shutil.chown(home, user)
        data = home / "data"
        initdb: list[str | Path] = [tools / "initdb", "-D", data, "-U", "bot", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]
        subprocess.run(initdb, user=user, check=True, capture_output=True, cwd=home, timeout=150)
        rules = data / "pg_hba.conf"
        rules.write_text(STRICT + rules.read_text())
        settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "off", **more}
        options = " ".join(f"-c {name}='{value}'" for name, value in settings.items())
        control: list[str | Path] = [tools / "pg_ctl", "-D", data, "-w", "-t", "30", "-l", home / "log"]
        subprocess.run([*control, "-o", options, "start"], user=user, check=True, capture_output=True, cwd=home, timeout=150)
        try:
            yield f"postgresql://bot@127.0.0.1:{port}"
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], user=user, check=True, capture_output=True, cwd=home, timeout=150)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def create_databases(admin: str, *names: str) -> None:
    """Makes databases. `admin`: the address of one that is there."""
    with psycopg.connect(admin, autocommit=True) as connection:
        for name in names:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))


def server_pid(admin: str) -> int:
    """The process that all others of the server descend from."""
    with psycopg.connect(admin) as connection:
        [data] = connection.execute("SHOW data_directory").fetchone() or [""]
    return int((Path(data) / "postmaster.pid").read_text().split()[0])


@contextmanager
def pooler(server: str) -> Iterator[str]:
    """Runs PgBouncer in transaction mode, with few connections, before a cluster; gives its address without a database name."""
    port = free_port()
    home = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
    settings = {
        "listen_addr": "127.0.0.1", "listen_port": port, "auth_type": "any", "pool_mode": "transaction", "default_pool_size": 3,
        "unix_socket_dir": "", "logfile": home / "log", "pidfile": home / "pid",
    }  # fmt: skip
    lines = [f"{name} = {value}" for name, value in settings.items()]
    databases = f"* = host=127.0.0.1 port={make_url(server).port} user=bot"
    (home / "ini").write_text("\n".join(["[databases]", databases, "[pgbouncer]", *lines]))
    (home / "ini").chmod(0o644)
    user = "nobody" if os.geteuid() == 0 else None
    if user:
        shutil.chown(home, user)
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin") or ""
    process = subprocess.Popen([program, "--quiet", str(home / "ini")], user=user, cwd=home, stderr=subprocess.DEVNULL)
    try:
        for _ in range(500):
            with socket.socket() as one:
                if one.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None:
                raise RuntimeError((home / "log").read_text())
            time.sleep(0.02)
        yield f"postgresql://bot@127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(home, ignore_errors=True)

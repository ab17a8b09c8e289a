"""Stores as the migrations leave them: made once in a run and copied, because making one takes longer than most tests."""

import asyncio
import functools
import secrets
import sqlite3
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg

from storage.database import Database
from tests import postgres

ANOTHER = "UPDATE facts SET value = '{}' WHERE key = 'store'"
TEMPLATE = "migrated"


def sqlite_store(path: Path) -> str:
    """The address of a new store in this file."""
    path.touch(mode=0o600)
    path.write_bytes(_migrated_file())
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(ANOTHER.format(secrets.token_hex(16)))
    connection.close()
    return f"sqlite:///{path}"


def postgres_store(server: str, name: str) -> str:
    """The address of a new store in a database of the cluster."""
    _migrate_template(server)
    address = postgres.new_database(server, name, TEMPLATE)
    with psycopg.connect(address) as connection:
        connection.execute(ANOTHER.format(secrets.token_hex(16)))
    return address


@functools.cache
def _migrated_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bot.db"
        _upgrade(f"sqlite:///{path}")
        return path.read_bytes()


@functools.cache
def _migrate_template(server: str) -> None:
    _upgrade(postgres.new_database(server, TEMPLATE))


def _upgrade(url: str) -> None:
    async def upgrade() -> None:
        db = Database(url)
        await db.upgrade()
        await db.close()

    with ThreadPoolExecutor(1) as thread:  # the caller's may have a running loop
        thread.submit(asyncio.run, upgrade()).result()

"""The connection to SQLite or PostgreSQL: reads, writes, and the schema's version."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, event, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

BUSY_TIMEOUT = 5.0  # seconds that a transaction waits for another's lock
STATEMENT_TIMEOUT = 10.0  # seconds
WRITER_LOCK = 0x534D5450  # PostgreSQL's advisory lock that only one writer holds
DEFAULT_URL = "sqlite+aiosqlite:///smtp-bot.db"

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    return datetime.now(UTC)


def parse_url(text_url: str) -> URL:
    """Reads `DATABASE_URL` and chooses the asynchronous driver.

    Raises:
        ValueError: it is not the address of an SQLite file or a PostgreSQL database. The message never repeats the address, which may
            hold a password.
    """
    try:
        url = make_url(text_url)
    except Exception:
        raise ValueError("it is not a database address") from None
    match url.get_backend_name():
        case "sqlite":
            if not url.database or url.database == ":memory:":
                raise ValueError("SQLite needs a file: sqlite:///smtp-bot.db")
            return url.set(drivername="sqlite+aiosqlite")
        case "postgresql" | "postgres":
            return url.set(drivername="postgresql+psycopg")
        case other:
            raise ValueError(f"{other} is not supported; use sqlite:///FILE or postgresql://USER@HOST/NAME")


class Schema(StrEnum):
    CURRENT = "current"
    EMPTY = "empty"
    OLD = "old"
    UNKNOWN = "unknown"
    """Made by a newer release than this one."""


class Database:
    """One store, shared by everything in this process.

    Args:
        url: see `parse_url`.
        clock: tells the time for all that is stored.
        pool_size: connections kept open.
    """

    def __init__(self, url: str, clock: Clock = utc_now, pool_size: int = 5) -> None:
        self.url = parse_url(url)
        self.clock = clock
        self.sqlite = self.url.get_backend_name() == "sqlite"
        self._engine = self._connect(pool_size)
        # What needs no durability (the memory of signatures) must not wait for the disk, nor for a connection.
        self._notes = self._connect(2, durable=False)
        self._writer = self._engine.execution_options(begin="IMMEDIATE")
        self._note_writer = self._notes.execution_options(begin="IMMEDIATE")
        # SQLite lets writers of one process wait by polling, in no order; here they stand in a queue.
        self._turn: AbstractAsyncContextManager[Any] = asyncio.Lock() if self.sqlite else nullcontext()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """A session that sees one moment of the store (SQLite) or each statement's (PostgreSQL)."""
        async with AsyncSession(self._engine, expire_on_commit=False) as session:
            yield session

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        """A write transaction; one at a time on either database, so that what was checked in it still holds when it commits.

        Used by `audit.attempt` alone: no audit, no change.
        """
        async with self._turn, AsyncSession(self._writer, expire_on_commit=False) as session, session.begin():
            if not self.sqlite:
                await session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": WRITER_LOCK})
            yield session

    @asynccontextmanager
    async def note(self) -> AsyncIterator[AsyncSession]:
        """A short write transaction for what needs no audit row and may be lost in a power failure."""
        async with self._turn, AsyncSession(self._note_writer, expire_on_commit=False) as session, session.begin():
            yield session

    async def autocommit(self) -> AsyncConnection:
        """A connection outside of any transaction, for who asks single questions often; each sees the store as it is then. Close it."""
        connection = await self._engine.connect()
        if self.sqlite:
            return await connection.execution_options(begin=None)
        return await connection.execution_options(isolation_level="AUTOCOMMIT")

    async def close(self) -> None:
        await self._engine.dispose()
        await self._notes.dispose()

    async def schema(self) -> Schema:
        """How the schema in the database stands to the one this release needs."""
        async with self._engine.connect() as connection:
            return await connection.run_sync(_schema)

    async def upgrade(self) -> None:
        """Brings the schema up to date; safe to call on a current one."""
        async with self._engine.connect() as connection:
            if not self.sqlite:
                await connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": WRITER_LOCK})
                await connection.commit()
            try:
                await connection.run_sync(_upgrade)
                await connection.commit()
            finally:
                if not self.sqlite:
                    await connection.rollback()
                    await connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": WRITER_LOCK})
                    await connection.commit()

    async def ping(self, timeout: float = 2.0) -> None:
        """Asks the database for an answer within `timeout` seconds; raises what went wrong."""
        async with asyncio.timeout(timeout), self._engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    def _connect(self, pool_size: int, durable: bool = True) -> AsyncEngine:
        options: dict[str, Any] = {"pool_size": pool_size, "max_overflow": 5, "pool_timeout": BUSY_TIMEOUT, "hide_parameters": True}
        if self.sqlite:
            engine = create_async_engine(self.url, connect_args={"timeout": BUSY_TIMEOUT}, **options)
            _prepare_sqlite(engine, "FULL" if durable else "NORMAL")
            return engine
        settings = {
            "statement_timeout": int(STATEMENT_TIMEOUT * 1000),
            "lock_timeout": int(BUSY_TIMEOUT * 1000),
            "synchronous_commit": "on" if durable else "off",
        }
        connect_args = {
            "options": " ".join(f"-c {name}={value}" for name, value in settings.items()),
            "connect_timeout": 5,
        }
        return create_async_engine(self.url, connect_args=connect_args, pool_pre_ping=True, **options)


def _prepare_sqlite(engine: AsyncEngine, synchronous: str) -> None:
    @event.listens_for(engine.sync_engine, "connect")
    def connect(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # the begin event below decides, not the driver
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", f"synchronous={synchronous}", "foreign_keys=ON", "cache_size=-16000"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "invalidate")
    def invalidate(connection: DBAPIConnection, _record: ConnectionPoolEntry, _error: BaseException | None) -> None:
        # A cancelled statement keeps its connection open after it was closed, and with it the write lock, until it is collected.
        with suppress(Exception):
            connection.rollback()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        kind = connection.get_execution_options().get("begin", "DEFERRED")
        if kind is not None:
            connection.exec_driver_sql(f"BEGIN {kind}")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def _schema(connection: Connection) -> Schema:
    current = MigrationContext.configure(connection).get_current_revision()
    scripts = ScriptDirectory.from_config(_config())
    if current is None:
        return Schema.EMPTY
    if current == scripts.get_current_head():
        return Schema.CURRENT
    known = {script.revision for script in scripts.walk_revisions()}
    return Schema.OLD if current in known else Schema.UNKNOWN


def _upgrade(connection: Connection) -> None:
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")

"""The connection to SQLite or PostgreSQL: reads, changes, notes, and the schema's version.

A storage function is plain code written against a `Transaction`. `Database` runs it whole, in one transaction on a database thread, so
that a caller on the event loop waits for one hop. A thread cannot be cancelled: a caller whose time is up goes on at once, and a look at
its `_Job` right before the commit keeps what it gave up from being committed.
"""

import asyncio
import contextlib
import os
import shlex
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from storage import connecting
from storage.connecting import NoDatabase, Unusable
from storage.refusals import Refusal
from storage.stale_wal import is_stale

BUSY_TIMEOUT = 5.0  # seconds that a transaction waits for another's lock
STATEMENT_TIMEOUT = 10.0  # seconds
READERS = 3  # threads; with one, a slow search would keep every list waiting
READ_TURN = 0.02  # seconds that a read of SQLite's waits for the one before; the usual one takes a tenth of it
WRITERS = 4  # threads on PostgreSQL; on SQLite only one can write
WRITER_LOCK = 0x534D5450  # PostgreSQL's advisory lock that only one writer holds
UPGRADE_LOCK = WRITER_LOCK + 1  # the one that only one upgrade holds
UPGRADE_PAUSE = 0.2  # seconds between two tries to get it
OLDEST_CODE = "oldest_code"  # the fact that says which code may work with this schema, by its own last migration

Clock = Callable[[], datetime]
P = ParamSpec("P")
T = TypeVar("T")


def utc_now() -> datetime:
    return datetime.now(UTC)


class Trouble(StrEnum):
    """Why the database did not do what it was asked."""

    AWAY = "away"
    """It does not answer, or the connection broke."""
    LOCKED = "locked"
    """Somebody else holds its lock."""
    FULL = "full"
    READ_ONLY = "read_only"
    FORBIDDEN = "forbidden"
    """The role may not do that there."""
    LATE = "late"
    """The caller's time was up."""
    REPLACED = "replaced"
    """The SQLite file is another one than the one that is open."""


class Unavailable(Exception):
    """The database did not do it: nothing was changed, for sure."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble)
        self.trouble = trouble


def cause(error: Exception) -> str:
    """A word for a log: what the database's trouble is, or the type of another error."""
    return error.trouble.value if isinstance(error, Unavailable) else type(error).__name__


class OutcomeUnknown(Exception):
    """The change may have been committed, or not: the answer to COMMIT was lost, or the caller's time was up while it was under way."""


class StaleWal(Unusable):
    """A backup was put in the place of an SQLite file whose `-wal` is still there. Nothing was opened; says what to do."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f"{path} is younger than {path}-wal and does not fit it, as after a restore, which opening both would undo. "
            f"Stop everything that uses it, remove {path}-wal and {path}-shm, and start again. If nothing was restored: touch {path}-wal"
        )


def parse_url(text_url: str) -> URL:
    """Reads `DATABASE_URL` and chooses the driver.

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
            # Of SQLite's own form only what opens a file on the disk: https://www.sqlite.org/uri.html
            wanted = {"uri": {"true"}, "mode": {"rw", "rwc"}} if url.database.startswith("file:") else {}
            if any(url.query[name] not in wanted.get(name, ()) for name in url.query) or (wanted and "uri" not in url.query):
                raise ValueError("SQLite takes a file and nothing after it: sqlite:///smtp-bot.db")
            return url.set(drivername="sqlite")
        case "postgresql" | "postgres":
            _check_ports(url)
            try:
                _options_given(url)
            except ValueError:
                raise ValueError("a quote in its options= is not closed") from None
            return url.set(drivername="postgresql+psycopg")
        case other:
            raise ValueError(f"{other} is not supported; use sqlite:///FILE or postgresql://USER@HOST/NAME")


def _check_ports(url: URL) -> None:
    given = url.query.get("port", "")
    ports = [str(url.port or ""), *(given if isinstance(given, tuple) else (given,))]
    for port in (one for several in ports for one in several.split(",") if one):
        if not (port.isascii() and port.isdecimal() and 0 < int(port) <= 65535):
            raise ValueError("its port is no number from 1 to 65535")


class Schema(StrEnum):
    CURRENT = "current"
    EMPTY = "empty"
    OLD = "old"
    NEWER_OK = "newer_ok"
    """Made by a newer release, which says that this one may still work with it."""
    UNKNOWN = "unknown"
    """Made by a newer release, with which this one must not work."""

    @property
    def serves(self) -> bool:
        """Whether this release may work with it as it is."""
        return self in (Schema.CURRENT, Schema.NEWER_OK)


class WouldLose(Exception):
    """A step back of the schema would lose data. `lost`: what, a line each."""

    def __init__(self, lost: list[str]) -> None:
        super().__init__(", ".join(lost))
        self.lost = lost


Progress = Callable[[str], None]


def _silent(_step: str) -> None:
    pass


class Transaction:
    """One transaction, as a storage function sees it.

    Attributes:
        now: the moment that everything in this transaction happens at.
        clock: tells the time of this process.
        denied: write the rows of what was refused in it, in a transaction of their own after the change was undone.
        attempted: something went through `audit.attempt`.
        owed: an errand was written down.
        ended: passwords that no longer work: their credential's id and the `journal.digest` of their hash.
    """

    def __init__(self, connection: Connection, clock: Clock, sqlite: bool) -> None:
        self.connection = connection
        self.clock = clock
        self.now = clock()
        self.sqlite = sqlite
        self.denied: list[Callable[[Transaction], None]] = []
        self.attempted = False
        self.owed = False
        self.ended: list[tuple[str, str]] = []


class _Job:
    """One function on its way through a database thread, and the caller who may give it up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._given_up = False
        self._committing = False

    def give_up(self) -> bool:
        """Nobody waits any more. True when nothing will be committed, False when that is no longer known."""
        with self._lock:
            self._given_up = True
            return not self._committing

    def check(self) -> None:
        """Raises Unavailable when nobody waits any more."""
        with self._lock:
            if self._given_up:
                raise Unavailable(Trouble.LATE)

    def commit(self) -> None:
        """From now on the outcome is the database's to tell. Raises Unavailable when nobody waits any more."""
        with self._lock:
            if self._given_up:
                raise Unavailable(Trouble.LATE)
            self._committing = True


@dataclass(frozen=True)
class _Lane:
    """Threads of their own with connections of their own, so that one kind of work never waits for another."""

    engine: Engine
    threads: ThreadPoolExecutor

    def close(self) -> None:
        self.threads.shutdown(wait=True, cancel_futures=True)
        self.engine.dispose()


class Database:
    """One store, shared by everything in this process.

    Args:
        url: see `parse_url`.
        clock: tells the time for all that is stored.
        readers: threads that read at once.
        read_turn: see READ_TURN.
        pooled: PgBouncer in transaction mode, or the like, stands before PostgreSQL: what holds for a session is said anew in each
            transaction, and nothing is prepared.
    """

    def __init__(
        self, url: str, clock: Clock = utc_now, readers: int = READERS, pooled: bool = False, read_turn: float = READ_TURN
    ) -> None:
        self.url = parse_url(url)
        self.clock = clock
        self.sqlite = self.url.get_backend_name() == "sqlite"
        self.owed: Callable[[], None] = lambda: None
        """Called on the event loop after a commit that left an errand."""
        self.changed: Callable[[], None] = lambda: None
        """Called on the event loop after each change's commit."""
        self.failed: Callable[[Trouble], None] = lambda _trouble: None
        """Called on a database thread when the database did not do what it was asked."""
        self.pooled = pooled and not self.sqlite
        self._reading = self._lane("read", readers)
        self._writing = self._lane("change", 1 if self.sqlite else WRITERS)
        # What needs no durability (the memory of signatures, heartbeats) must not wait for the disk, nor for a change.
        self._noting = self._lane("note", 1, durable=False)
        # SQLite lets writers wait for each other by polling, in no order; those of one process stand in a queue.
        self._turn = threading.Lock() if self.sqlite else contextlib.nullcontext()
        self._reading_now = threading.Lock()
        self._read_turn = read_turn
        self._path = connecting.sqlite_path(self.url) if self.sqlite else None
        self._file = _identity(self._path)

    async def read(self, function: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What the function returns, from one moment of the store (SQLite) or each statement's (PostgreSQL).

        Raises:
            Unavailable, Refusal of the function.
        """

        def work(job: _Job) -> T:
            try:
                with self._in_turn():
                    return once()
            except DBAPIError as error:
                # A connection that was broken meanwhile is found out by using it: reading again does no harm.
                if self.sqlite or not error.connection_invalidated:
                    raise
                job.check()
                return once()

        def once() -> T:
            with self._reading.engine.connect() as connection:
                return function(Transaction(connection, self.clock, self.sqlite), *args, **kwargs)

        return await self._run(self._reading, work)

    async def change(self, function: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a function that changes something, in a transaction that no other change overlaps.

        A `Refusal` undoes what the function changed; what it denied is written to the audit log before the refusal goes on.

        Raises:
            Unavailable: nothing was changed. OutcomeUnknown: it may have been; look. Refusal of the function.
        """

        def work(job: _Job) -> tuple[T, bool]:
            with self._writing.engine.connect() as connection:
                try:
                    with self._begun(connection, job) as transaction:
                        result = function(transaction, *args, **kwargs)
                        if not transaction.attempted:
                            raise RuntimeError(f"{function.__qualname__} changes without an audit row")
                except Refusal:
                    if transaction.denied:
                        with self._begun(connection, job) as writing:
                            for write_down in transaction.denied:
                                write_down(writing)
                    raise
            return result, transaction.owed

        result, owed = await self._run(self._writing, work)
        if (within := _within.get()) is not None:
            within.changed = True
        self.changed()
        if owed:
            self.owed()
        return result

    async def note(self, function: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a function that writes what needs no audit row and may be lost in a power failure. Raises Unavailable."""

        def work(job: _Job) -> T:
            with self._noting.engine.connect() as connection, self._begun(connection, job, alone=False) as transaction:
                return function(transaction, *args, **kwargs)

        return await self._run(self._noting, work)

    async def note_one(self, function: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`note` for a function of one statement: PostgreSQL commits it in the same exchange, also when nobody waits for it any more."""

        def work(job: _Job) -> T:
            job.check()
            with self._noting.engine.connect() as connection:
                connection.execution_options(isolation_level="AUTOCOMMIT")
                return function(Transaction(connection, self.clock, self.sqlite), *args, **kwargs)

        return await (self.note(function, *args, **kwargs) if self.sqlite or self.pooled else self._run(self._noting, work))

    async def look(self, function: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Reads after every change that was under way has ended: tells what became of one whose outcome is unknown. Raises Unavailable."""

        def work(job: _Job) -> T:
            with self._writing.engine.connect() as connection, self._begun(connection, job) as transaction:
                return function(transaction, *args, **kwargs)

        return await self._run(self._writing, work)

    @contextlib.contextmanager
    def _in_turn(self) -> Iterator[None]:
        """One read of SQLite's after the other, unless one takes long: they would only hand the interpreter's lock to and fro."""
        if not self.sqlite:
            yield
            return
        got = self._reading_now.acquire(timeout=self._read_turn)
        try:
            yield
        finally:
            if got:
                self._reading_now.release()

    @contextlib.contextmanager
    def _begun(self, connection: Connection, job: _Job, alone: bool = True) -> Iterator[Transaction]:
        """A write transaction, committed at the end unless an exception ends it or nobody waits any more.

        Args:
            alone: no other change runs at the same time.
        """
        with self._turn:
            job.check()
            connection.begin()
            if alone and not self.sqlite:
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITER_LOCK})")
            try:
                yield Transaction(connection, self.clock, self.sqlite)
                job.commit()
            except BaseException:
                self._roll_back(connection)
                raise
            try:
                connection.commit()
            except DBAPIError as error:
                self._roll_back(connection)
                # SQLite says for sure when it has not committed; over a network the answer may have been lost on its way.
                if self.sqlite or not error.connection_invalidated:
                    raise
                raise OutcomeUnknown from None

    def _roll_back(self, connection: Connection) -> None:
        with contextlib.suppress(DBAPIError):
            connection.rollback()

    async def _run(self, lane: _Lane, work: Callable[[_Job], T]) -> T:
        job = _Job()

        def run() -> T:
            job.check()
            if self._file is not None and _identity(self._path) != self._file:
                self.failed(Trouble.REPLACED)
                raise Unavailable(Trouble.REPLACED)
            try:
                return work(job)
            except SQLAlchemyError as error:
                trouble = _trouble(error)
                if trouble is None:
                    raise
                self.failed(trouble)
                raise Unavailable(trouble) from None

        future = asyncio.get_running_loop().run_in_executor(lane.threads, run)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            within = _within.get()
            if not job.give_up() and within is not None:
                within.doubtful = True
            future.cancel()
            future.add_done_callback(_retrieved)
            raise

    async def ping(self) -> None:
        """Tries a read and a write. Raises Unavailable with what is wrong."""
        await self.read(lambda tx: tx.connection.exec_driver_sql("SELECT 1").scalar())
        await self.note(_touch)

    async def follow(self) -> None:
        """Goes over to the SQLite file that has replaced the one that was open. Raises StaleWal."""
        for lane in (self._reading, self._writing, self._noting):
            lane.engine.dispose()
        self._check_wal()
        self._file = _identity(self._path)

    async def close(self) -> None:
        """Ends the threads, after what they are at."""
        for lane in (self._reading, self._writing, self._noting):
            await asyncio.to_thread(lane.close)

    async def schema(self, make: bool = True) -> Schema:
        """How the schema in the database stands to the one this release needs.

        Args:
            make: whether an SQLite file that is not there is made, empty.

        Raises:
            Unusable: the database cannot be used, and why.
        """
        return await asyncio.to_thread(self.on_own_connection, _schema, make)

    async def upgrade(self, progress: Progress = _silent) -> None:
        """Brings the schema up to date, each step in a transaction of its own; safe to call on a current one, and by several at once.

        Args:
            progress: told each step before it begins, and how far a long one is.

        Raises:
            Unusable: the database cannot be used, and why. The steps before stay.
        """

        def work(connection: Connection) -> None:
            # Who waits for a lock within a statement has a snapshot, for whose end an index that is made concurrently would wait.
            while not self.sqlite and not self.pooled and not _upgrade_lock(connection):
                time.sleep(UPGRADE_PAUSE)
            with _alembic:
                _upgrade(connection, progress, self.pooled)

        await asyncio.to_thread(self.on_own_connection, work)

    async def downgrade(self) -> tuple[str, str]:
        """Takes the last step of the schema back, and returns its number and the one that is the last now.

        Raises:
            WouldLose: nothing was changed. Unusable: the database cannot be used, and why.
        """

        def work(connection: Connection) -> tuple[str, str]:
            with _alembic:
                return _downgrade(connection)

        return await asyncio.to_thread(self.on_own_connection, work)

    def on_own_connection(self, function: Callable[[Connection], T], make: bool = True, isolated: bool = False) -> T:
        """Runs a function in the caller's thread, without the time limits of serving: a migration of a large store takes its time.

        The function commits what it wants to stay; on PostgreSQL no change overlaps its transactions.

        Args:
            make: whether an SQLite file that is not there is made, empty.
            isolated: it only reads, and all that it reads is from one moment.

        Raises:
            NoDatabase: the SQLite file is not there. Unusable: the database cannot be used, and why.
        """
        if self._path is not None:
            connecting.check_file(self._path)
            if not make and not self._path.exists():
                raise NoDatabase(f"there is no database at {self._path}. You are in {Path.cwd()}: go where it is, or set DATABASE_URL.")
            self._check_wal()
        engine = create_engine(self.url, hide_parameters=True, **self._options(None))
        if self.sqlite:
            _prepare_sqlite(engine, "FULL", begin="BEGIN" if isolated else "BEGIN IMMEDIATE")
        elif isolated:
            _begin_with(engine, ["SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY", *self._said_in_each_transaction(None)])
        else:
            _begin_with(engine, [f"SELECT pg_advisory_xact_lock({WRITER_LOCK})", *self._said_in_each_transaction(None)])
        try:
            with engine.connect() as connection:
                return function(connection)
        except SQLAlchemyError as error:
            raise connecting.why(error) from None
        finally:
            engine.dispose()
            if self.sqlite:
                self._file = _identity(self._path)
                _examined.add(self._file)

    def _check_wal(self) -> None:
        """Once a process, before it opens the file. Raises StaleWal."""
        identity = _identity(self._path)
        if self._path is None or identity is None or identity in _examined:
            return
        if is_stale(self._path):
            raise StaleWal(str(self._path))
        _examined.add(identity)

    def _lane(self, name: str, threads: int, durable: bool = True) -> _Lane:
        engine = create_engine(
            self.url,
            poolclass=QueuePool,
            pool_size=threads,
            max_overflow=0,
            hide_parameters=True,
            **({} if self.sqlite else {"pool_pre_ping": name != "read"}),
            **({"isolation_level": "AUTOCOMMIT"} if not self.sqlite and not self.pooled and name == "read" else {}),
            **self._options(durable),
        )
        if self.sqlite:
            _prepare_sqlite(engine, "FULL" if durable else "NORMAL", "BEGIN" if name == "read" else "BEGIN IMMEDIATE")
        elif self.pooled:
            _begin_with(engine, self._said_in_each_transaction(durable))
        return _Lane(engine, ThreadPoolExecutor(threads, thread_name_prefix=f"db-{name}"))

    def _options(self, durable: bool | None) -> dict[str, Any]:
        """The driver's options. `durable`: whether a commit waits for the disk; None for a connection without limits."""
        if self.sqlite:
            return {"connect_args": {"timeout": BUSY_TIMEOUT, "check_same_thread": False}}
        options = " ".join(f"-c {name}={value}" for name, value in self._session(durable).items())
        return {
            "connect_args": {
                # A pooler hands each transaction to another session: it takes no options, and what was prepared is elsewhere.
                **({"prepare_threshold": None} if self.pooled else {}),
                "options": "" if self.pooled else f"{_options(self.url)} {options}".strip(),
                "connect_timeout": 5,
                "keepalives_idle": 5,
                "keepalives_interval": 2,
                "keepalives_count": 3,
                "tcp_user_timeout": int(STATEMENT_TIMEOUT * 1000),
            }
        }

    def _session(self, durable: bool | None) -> dict[str, str]:
        """PostgreSQL's parameters for a session, or for each transaction behind a pooler."""
        if durable is None:
            return {"statement_timeout": "0", "lock_timeout": "0", "idle_in_transaction_session_timeout": "0"}
        return {
            "statement_timeout": str(int(STATEMENT_TIMEOUT * 1000)),
            "lock_timeout": str(int(BUSY_TIMEOUT * 1000)),
            "synchronous_commit": "on" if durable else "off",
        }

    def _said_in_each_transaction(self, durable: bool | None) -> list[str]:
        if not self.pooled:
            return []
        settings = _options_given(self.url) | self._session(durable)
        calls = [f"set_config({_quoted(name)}, {_quoted(value)}, true)" for name, value in settings.items()]
        return [f"SELECT {', '.join(calls)}"]


def _options(url: URL) -> str:
    given = url.query.get("options", "")
    return given if isinstance(given, str) else " ".join(given)


def _options_given(url: URL) -> dict[str, str]:
    """The parameters in `options=-csearch_path=mail -c work_mem=64MB --jit=off`. Raises ValueError when a quote is not closed."""
    found: dict[str, str] = {}
    words = iter(shlex.split(_options(url)))
    for word in words:
        text = next(words, "") if word == "-c" else word.removeprefix("--").removeprefix("-c")
        name, equals, value = text.partition("=")
        if equals:
            found[name] = value
    return found


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''").replace("%", "%%") + "'"


def _begin_with(engine: Engine, statements: list[str]) -> None:
    """Lets every transaction begin with these statements."""

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        for statement in statements:
            connection.exec_driver_sql(statement)


@dataclass
class Within:
    """What is known of the changes made within a time limit."""

    changed: bool = False
    """Something was committed."""
    doubtful: bool = False
    """The time was up during a commit."""


_within: ContextVar[Within | None] = ContextVar("within", default=None)


@contextlib.asynccontextmanager
async def time_limit(seconds: float) -> AsyncIterator[Within]:
    """Gives what runs inside so many seconds. What it yields says afterwards whether something was changed before a failure.

    Raises:
        Unavailable (LATE): what was under way was not committed. OutcomeUnknown: the time was up during a commit.
    """
    within = Within()
    before = _within.set(within)
    try:
        async with asyncio.timeout(seconds):
            yield within
    except TimeoutError:
        if within.doubtful:
            raise OutcomeUnknown from None
        raise Unavailable(Trouble.LATE) from None
    finally:
        _within.reset(before)


def _retrieved(future: "asyncio.Future[Any]") -> None:
    if not future.cancelled():
        future.exception()


_examined: set[tuple[int, int] | None] = set()


def _touch(tx: Transaction) -> None:
    tx.connection.exec_driver_sql("UPDATE audit_head SET id = id")


def _identity(path: Path | None) -> tuple[int, int] | None:
    """Device and inode of an SQLite file; None while it is not there."""
    if path is None:
        return None
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _trouble(error: SQLAlchemyError) -> Trouble | None:
    """The word for an error of the database's; None when it is one of ours."""
    if not isinstance(error, DBAPIError):
        return None
    code = getattr(error.orig, "sqlite_errorname", "") or getattr(error.orig, "sqlstate", "") or ""
    if code.startswith("SQLITE_"):
        for prefix, trouble in SQLITE_TROUBLES.items():
            if code.startswith(prefix):
                return trouble
        return None
    if error.connection_invalidated or (not code and isinstance(error, OperationalError | InterfaceError)):
        return Trouble.AWAY
    return next((trouble for prefix, trouble in POSTGRES_TROUBLES.items() if code.startswith(prefix)), None)


SQLITE_TROUBLES = {
    "SQLITE_BUSY": Trouble.LOCKED,
    "SQLITE_LOCKED": Trouble.LOCKED,
    "SQLITE_FULL": Trouble.FULL,
    "SQLITE_READONLY": Trouble.READ_ONLY,
    "SQLITE_IOERR": Trouble.AWAY,
    "SQLITE_CANTOPEN": Trouble.AWAY,
    "SQLITE_CORRUPT": Trouble.AWAY,
    "SQLITE_NOTADB": Trouble.AWAY,
}  # https://www.sqlite.org/rescode.html
POSTGRES_TROUBLES = {
    "08": Trouble.AWAY,
    "57P": Trouble.AWAY,
    "57014": Trouble.LATE,
    "55P03": Trouble.LOCKED,
    "53100": Trouble.FULL,
    "53": Trouble.AWAY,
    "25006": Trouble.READ_ONLY,
    "42501": Trouble.FORBIDDEN,
}  # https://www.postgresql.org/docs/current/errcodes-appendix.html


def _prepare_sqlite(engine: Engine, synchronous: str, begin: str) -> None:
    """`begin`: the statement that every transaction begins with."""

    @event.listens_for(engine, "connect")
    def connect(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", f"synchronous={synchronous}", "foreign_keys=ON", "cache_size=-16000"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    _begin_with(engine, [begin])


_alembic = threading.Lock()
"""Its `op` and `context` are one for the whole process."""


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


@cache
def _steps() -> list[str]:
    """This release's migrations, the last one first."""
    return [script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()]


def _schema(connection: Connection) -> Schema:
    current = MigrationContext.configure(connection).get_current_revision()
    if current is None:
        return Schema.EMPTY
    head, *before = _steps()
    if current == head:
        return Schema.CURRENT
    if current in before:
        return Schema.OLD
    if not inspect(connection).has_table("facts"):
        raise Unusable(f"another program keeps its tables there ({current}). Give the bot a database of its own.")
    oldest = connection.execute(text("SELECT value FROM facts WHERE key = :key"), {"key": OLDEST_CODE}).scalar()
    return Schema.NEWER_OK if oldest is not None and head >= oldest else Schema.UNKNOWN


def _upgrade_lock(connection: Connection) -> bool:
    """Whether this session has it now; it is given back when the connection is closed."""
    got = bool(connection.exec_driver_sql(f"SELECT pg_try_advisory_lock({UPGRADE_LOCK})").scalar())
    connection.commit()
    return got


def _upgrade(connection: Connection, progress: Progress, pooled: bool) -> None:
    config = _config()
    config.attributes["connection"] = connection
    config.attributes["progress"] = progress
    config.attributes["pooled"] = pooled
    scripts = ScriptDirectory.from_config(config)
    while True:
        current = MigrationContext.configure(connection).get_current_revision()
        if current is not None and current not in _steps():
            if _schema(connection) is Schema.UNKNOWN:
                raise Unusable("a newer release made the database, and this one must not run. Install that release.")
            break
        connection.rollback()  # so that alembic begins the transaction of the step
        step = next((one for one in scripts.walk_revisions() if one.down_revision == current), None)
        if step is None:
            break
        progress(f"{step.revision}  {(step.doc or '').splitlines()[0]}")
        command.upgrade(config, step.revision)
        connection.commit()


def _downgrade(connection: Connection) -> tuple[str, str]:
    config = _config()
    config.attributes["connection"] = connection
    scripts = ScriptDirectory.from_config(config)
    current = MigrationContext.configure(connection).get_current_revision()
    step = scripts.get_revision(current) if current in {one.revision for one in scripts.walk_revisions()} else None
    if step is None or current is None:
        raise Unusable("the database's last step is not one of this release's. Use the release that made it.")
    if lost := step.module.loses(connection):
        raise WouldLose(lost)
    connection.rollback()
    before = str(step.down_revision)
    command.downgrade(config, before)
    connection.commit()
    return current, before

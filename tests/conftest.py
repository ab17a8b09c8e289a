"""What every test stands on: the two databases, and the bot in a local Slack."""

import gc
import itertools
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NoReturn

import hypothesis
import pytest

from storage.database import Database
from tests import postgres, stores
from tests.stage import Stage, stage

# The same examples each time, however slow the machine is; `make soak` draws others.
hypothesis.settings.register_profile(
    "suite", deadline=None, derandomize=True, database=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile("soak", hypothesis.settings.get_profile("suite"), derandomize=False, max_examples=1000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))


def pytest_collection_finish() -> None:
    """Looks for garbage seldom, and not in what was imported nor in the tests themselves: that was a fifth of the suite's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def need(what: str) -> NoReturn:
    """Skips a test for a missing system package, or fails it where all must run (REQUIRE_ALL=1, as CI sets)."""
    if os.environ.get("REQUIRE_ALL") == "1":
        pytest.fail(f"{what} is not installed, and REQUIRE_ALL=1 allows no skip")
    pytest.skip(f"{what} is not installed")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The address of a private PostgreSQL."""
    if postgres.binaries() is None:
        need("PostgreSQL's server (Debian: postgresql)")
    # Of hundreds of databases that live for a second each, none needs a vacuum; looking after them takes a quarter of the machine.
    with postgres.private_cluster(autovacuum="off", full_page_writes="off", max_wal_size="128MB") as address:
        yield address


_names = (f"test_{number}" for number in itertools.count())


@pytest.fixture
def database_name(postgres_server: str) -> Iterator[str]:
    """For one database, which is gone after the test: removing hundreds of them at the end takes half a minute."""
    name = next(_names)
    yield name
    postgres.drop_database(postgres_server, name)


@pytest.fixture
def empty_postgres_url(postgres_server: str, database_name: str) -> str:
    """The address of a new, empty PostgreSQL database."""
    return postgres.new_database(postgres_server, database_name)


@pytest.fixture
def postgres_url(postgres_server: str, database_name: str) -> str:
    """The address of a new store on PostgreSQL."""
    return stores.postgres_store(postgres_server, database_name)


@pytest.fixture(params=["sqlite", "postgres"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a new, empty database, on SQLite and on PostgreSQL in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'bot.db'}"
    return str(request.getfixturevalue("empty_postgres_url"))


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a new store, on SQLite and on PostgreSQL in turn."""
    if request.param == "sqlite":
        return stores.sqlite_store(tmp_path / "bot.db")
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    """A new store."""
    database = Database(database_url)
    yield database
    await database.close()


@pytest.fixture(params=["sqlite-socket", "postgres-http"])
async def play(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stage]:
    """The bot in a local Slack: on SQLite over Socket Mode, and on PostgreSQL over signed HTTP."""
    database, mode = request.param.split("-")
    url = stores.sqlite_store(tmp_path / "bot.db") if database == "sqlite" else str(request.getfixturevalue("postgres_url"))
    async with stage(url, mode) as made:
        yield made

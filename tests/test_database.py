"""Databases as people have them: behind a pooler, not there, read-only, by half; and a store copied from one to another."""

import asyncio
import contextlib
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import select
from structlog.testing import capture_logs

from bot.run import NotYet, StartError, open_database
from mailauth.process import what_is_wrong
from mailauth.verifier import Answer, Verifier
from storage import audit, credentials, grants, listing, passwords, seen, workspaces
from storage.access import Actor, Role
from storage.audit import Origin, Surface
from storage.connecting import Unusable, check_file, file_system
from storage.copy import copy
from storage.database import Database, Transaction
from storage.models import CREDENTIALS, METADATA
from storage.passwords import Hasher
from tests import postgres, raw
from tests.conftest import need
from tests.stage import settings
from tests.test_cli import smtp_bot

OWNER = Origin(Actor("U0OWNER", "T0HOME", owner=True), Surface.MODAL, "ref", "C0MAIL")
NOBODY = 65534
HASH = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaA"


async def fill(db: Database) -> list[str]:
    """A workspace with a channel, roles and three credentials, one of them deleted; their ids."""
    acme = await db.change(workspaces.add, OWNER, "acme", "Acme")
    await db.change(workspaces.map_channel, OWNER, "T0HOME", "C0MAIL", acme.id)
    await db.change(grants.grant, OWNER, "T0HOME", "U0WANDA", Role.WRITER, acme.id)
    made = [await make(db, name) for name in ("Relay", "Printer", "Größe")]
    await db.change(credentials.delete, OWNER, made[0])
    return made


async def make(db: Database, name: str) -> str:
    credential, _ = await db.change(credentials.create_pending, OWNER, "C0MAIL", name, f"view {name}")
    await db.change(credentials.activate, OWNER, credential.id, HASH)
    return credential.id


# --- PgBouncer ---
@pytest.fixture
def pooled_url(postgres_server: str, empty_postgres_url: str) -> Iterator[str]:
    if shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        need("PgBouncer (Debian: pgbouncer)")
    with postgres.pooler(postgres_server) as address:
        yield f"{address}/{empty_postgres_url.rpartition('/')[2]}"


@pytest.fixture
async def pooled(pooled_url: str) -> AsyncIterator[Database]:
    db = Database(pooled_url, pooled=True)
    await db.upgrade()
    yield db
    await db.close()


async def test_all_goes_on_behind_pgbouncer_in_transaction_mode(pooled: Database, pooled_url: str) -> None:
    await fill(pooled)
    work: list[Any] = [make(pooled, f"Relay {number}") for number in range(12)]
    work += [pooled.note(seen.first_time, f"key {number}") for number in range(40)]
    work += [pooled.read(listing.by_username, f"smtp-acme-{number:08}") for number in range(40)]
    await asyncio.gather(*work)
    assert (await pooled.read(audit.verify)).broken is None
    assert len(await raw.sql(pooled, "SELECT username FROM smtp_passdb")) == 14
    with psycopg.connect(pooled_url, prepare_threshold=None) as other:
        assert other.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)
        assert other.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone() == (0,)


async def test_time_limits_hold_in_each_transaction_and_are_left_in_no_session(pooled: Database, pooled_url: str) -> None:
    def limit(tx: Transaction) -> str:
        return str(tx.connection.exec_driver_sql("SHOW statement_timeout").scalar())

    assert [await pooled.read(limit), await pooled.note(limit), await pooled.look(limit)] == ["10s"] * 3
    assert await asyncio.to_thread(pooled.on_own_connection, lambda one: one.exec_driver_sql("SHOW lock_timeout").scalar()) == "0"
    with psycopg.connect(pooled_url, prepare_threshold=None) as other:
        assert other.execute("SHOW statement_timeout").fetchone() == ("0",)
        assert other.execute("SHOW synchronous_commit").fetchone() == ("on",)


def test_a_pooler_that_was_not_told_of_has_a_sentence(pooled_url: str) -> None:
    run = smtp_bot(pooled_url, "list")
    assert "a pooler stands before the server. Set DATABASE_POOLER=transaction." in run.stderr
    assert smtp_bot(pooled_url, "db", "upgrade", DATABASE_POOLER="transaction").exit_code == 0
    assert smtp_bot(pooled_url, "workspace", "add", "acme", DATABASE_POOLER="transaction").exit_code == 0
    assert smtp_bot(pooled_url, "list", DATABASE_POOLER="transaction").exit_code == 0


@pytest.mark.parametrize("behind", ["none", "transaction"])
async def test_a_schema_of_its_own_is_kept(request: pytest.FixtureRequest, empty_postgres_url: str, behind: str) -> None:
    with psycopg.connect(empty_postgres_url, autocommit=True) as admin:
        admin.execute("CREATE SCHEMA mail")
        url = request.getfixturevalue("pooled_url") if behind == "transaction" else empty_postgres_url
        db = Database(f"{url}?options=-csearch_path%3Dmail", pooled=behind == "transaction")
        try:
            await db.upgrade()
            await fill(db)
            assert (await db.schema()).serves
            assert (await db.read(audit.verify)).broken is None
        finally:
            await db.close()
        assert admin.execute("SELECT DISTINCT schemaname FROM pg_tables WHERE tablename = 'credentials'").fetchall() == [("mail",)]


# --- what can be wrong ---
def says(url: str) -> dict[str, str]:
    """What each command says of the database."""
    return {"list": smtp_bot(url, "list").stderr, "doctor": smtp_bot(url, "doctor").stdout} | asyncio.run(_said_to_processes(url))


async def _said_to_processes(url: str) -> dict[str, str]:
    found = {}
    try:
        await (await open_database(settings(database_url=url))).close()
    except (StartError, NotYet) as error:
        found["run"] = str(error)
    db = Database(url)
    found["authd"] = await what_is_wrong(db) or ""
    await db.close()
    return found


def everybody_says(url: str, sentence: str) -> None:
    found = says(url)
    assert set(found) == {"list", "doctor", "run", "authd"}
    for command, said in found.items():
        assert f"DATABASE_URL: {sentence}" in said, command
        assert "hunter2" not in said, command


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("{closed}/x", "PostgreSQL does not answer there. Check that it runs"),
        ("{server}/nothing", "the server has no database of that name. Make it with createdb"),
        ("{nobody}/postgres", "the server does not accept this role and password."),
        ("{locked}/postgres", "the server does not accept this role and password."),
        ("{encrypted}/postgres", "the server takes only TLS connections. Add ?sslmode=require"),
        ("{server}/postgres?sslmode=require", "the server speaks no TLS, which sslmode demands."),
        ("{server}/postgres?hunter2=1", "PostgreSQL's driver does not know a parameter in it, or its value."),
        ("{server}/postgres?sslmode=hunter2", "PostgreSQL's driver does not know a parameter in it, or its value."),
        ("{server}/postgres?options=-chunter2%3D1", "PostgreSQL does not know a parameter in options=."),
    ],
)
def test_each_trouble_of_postgresql_has_its_sentence(postgres_server: str, place: str, sentence: str) -> None:
    host = postgres_server.rpartition("@")[2]
    with psycopg.connect(f"{postgres_server}/postgres", autocommit=True) as admin:
        for role in ("locked", "encrypted"):
            with contextlib.suppress(psycopg.errors.DuplicateObject):
                admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'right'".encode())
    closed = f"postgresql://bot@127.0.0.1:{postgres.free_port()}"
    roles = {role: f"postgresql://{role}:hunter2@{host}" for role in ("nobody", "locked", "encrypted")}
    everybody_says(place.format(server=postgres_server, closed=closed, **roles), sentence)


async def test_a_role_without_rights_has_its_sentence(empty_postgres_url: str) -> None:
    with psycopg.connect(empty_postgres_url, autocommit=True) as admin:
        with contextlib.suppress(psycopg.errors.DuplicateObject):
            admin.execute("CREATE ROLE weak LOGIN")
        run = await asyncio.to_thread(smtp_bot, empty_postgres_url.replace("bot@", "weak@"), "db", "upgrade")
        assert (run.exit_code, "the role may not do that there. Make it the owner" in run.stderr) == (1, True)


@pytest.fixture
def read_only_url(postgres_server: str, postgres_url: str) -> str:
    """A store that its role may only read."""
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        with contextlib.suppress(psycopg.errors.DuplicateObject):
            admin.execute("CREATE ROLE reader LOGIN")
        admin.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")
    return postgres_url.replace("bot@", "reader@")


async def test_a_role_that_may_only_read_is_told_so(read_only_url: str, postgres_url: str) -> None:
    db = Database(postgres_url)
    ids = await fill(db)
    [username] = await db.read(lambda tx: tx.connection.execute(select(CREDENTIALS.c.username).where(CREDENTIALS.c.id == ids[1])).scalars())
    await db.close()
    listed = await asyncio.to_thread(smtp_bot, read_only_url, "list")
    assert (listed.exit_code, username in listed.stdout) == (0, True)
    refused = await asyncio.to_thread(smtp_bot, read_only_url, "suspend", username)
    says = "DATABASE_URL: the database does not let its role do that: grant it what its owner may. Nothing was done.\n"
    assert (refused.exit_code, refused.stderr) == (1, says)
    said = (await asyncio.to_thread(smtp_bot, read_only_url, "doctor")).stdout
    assert "WRONG  DATABASE_URL: the database does not let its role do that" in said
    assert "No authd lives." in said
    reading = Database(read_only_url)
    verifier = Verifier(reading, Hasher(8, 1, 1))
    with capture_logs() as logged:
        assert (await verifier.check(username, passwords.generate(ids[1]), "192.0.2.1", "smtp")).answer is Answer.NO
        tried = asyncio.Semaphore(0)
        flushing = asyncio.create_task(verifier.keep_flushing(tried.release))
        for _ in range(2):
            await asyncio.wait_for(tried.acquire(), 100)
        flushing.cancel()
    await reading.close()
    assert [line["error"] for line in logged if line["event"].startswith("use not written down")] == ["forbidden"]


async def test_a_table_that_is_missing_is_named(database_url: str) -> None:
    db = Database(database_url)
    await fill(db)
    await raw.sql(db, "ALTER TABLE workspaces RENAME TO elsewhere")
    await db.close()
    for command in (("list",), ("workspace", "rename", "acme", "Acme 2"), ("doctor",)):
        said = await asyncio.to_thread(smtp_bot, database_url, *command)
        assert (said.exit_code, "DATABASE_URL: " in said.output, "workspaces" in said.output) == (1, True, True), command


async def test_tables_of_another_program_are_told_from_ours(empty_database_url: str) -> None:
    db = Database(empty_database_url)
    await raw.sql(db, "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
    await raw.sql(db, "INSERT INTO alembic_version VALUES ('ab12cd34')")
    await db.close()
    await asyncio.to_thread(everybody_says, empty_database_url, "another program keeps its tables there (ab12cd34).")
    upgrade = await asyncio.to_thread(smtp_bot, empty_database_url, "db", "upgrade")
    assert (upgrade.exit_code, "another program keeps its tables there" in upgrade.stderr) == (1, True)


async def test_each_trouble_of_an_sqlite_file_has_its_sentence(tmp_path: Path) -> None:
    db = Database(f"sqlite:///{tmp_path / 'whole.db'}")
    await db.upgrade()
    await fill(db)
    await db.close()
    whole = (tmp_path / "whole.db").read_bytes()
    (tmp_path / "half.db").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.db").write_text("hunter2 " * 1000)
    for name, sentence in {
        "nowhere/x.db": "the folder of the SQLite file is not there. Make it, or correct the path.",
        ".": "this is a folder, and SQLite needs a file.",
        "n" * 300: "the path of the SQLite file cannot be followed (File name too long). Correct it.",
        "half.db": "the SQLite file is damaged, or was copied by half. Stop everything that uses it and restore a backup.",
        "text.db": "the file is no SQLite database.",
    }.items():
        await asyncio.to_thread(everybody_says, f"sqlite:///{tmp_path / name}", sentence)


def test_what_this_account_may_not_write_has_its_sentence() -> None:
    folder = Path(tempfile.mkdtemp(prefix="read-only-"))
    try:
        assert smtp_bot(f"sqlite:///{folder / 'bot.db'}", "workspace", "add", "acme").exit_code == 0
        folder.chmod(0o755)
        for file in folder.iterdir():
            file.chmod(0o444)
        url = f"sqlite:///{folder / 'bot.db'}"
        assert all("this account may not write the SQLite file, or it is read-only." in said for said in said_to_nobody(url).values())
        for file in folder.iterdir():
            file.chmod(0o666)
        folder.chmod(0o555)
        assert all("the folder of the SQLite file is read-only for this account." in said for said in said_to_nobody(url).values())
        folder.chmod(0o600)
        assert all("this account may not enter the folder of the SQLite file." in said for said in said_to_nobody(url).values())
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


def said_to_nobody(url: str) -> dict[str, str]:
    """What each command says to an account without rights."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_as_nobody, args=(url, theirs))
    process.start()
    try:
        assert ours.poll(50)
        found: dict[str, str] = ours.recv()
    finally:
        process.join(10)
    assert set(found) == {"list", "doctor", "run", "authd"}
    return found


def _as_nobody(url: str, pipe: Pipe) -> None:
    os.chdir("/")
    if os.getuid() == 0:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    pipe.send(says(url))


def test_sqlite_on_a_network_file_system_is_refused(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    shared = tmp_path / "a b"
    shared.mkdir()
    place = str(tmp_path).replace(" ", "\\040")
    for kind in ("nfs4", "cifs", "fuse.sshfs", "9p"):
        mounts.write_text(f"/dev/sda / ext4 rw 0 0\nserver:/x {place}/a\\040b {kind} rw 0 0\nproc /proc proc rw 0 0\n")
        assert (file_system(shared, mounts), file_system(tmp_path, mounts)) == (kind, "ext4")
        with pytest.raises(Unusable, match="network file system, which breaks SQLite"):
            check_file(shared / "bot.db", mounts)
        check_file(tmp_path / "bot.db", mounts)


async def test_an_empty_database_says_what_to_run(tmp_path: Path, empty_postgres_url: str) -> None:
    (tmp_path / "bot.db").touch()
    for url in (f"sqlite:///{tmp_path / 'bot.db'}", empty_postgres_url):
        run = await asyncio.to_thread(smtp_bot, url, "list")
        assert (run.exit_code, run.stderr) == (1, "DATABASE_URL: the database is empty. Run: smtp-bot db upgrade\n")


# --- copies ---
async def everything(db: Database) -> dict[str, list[Any]]:
    def rows(tx: Transaction) -> dict[str, list[Any]]:
        return {one.name: list(tx.connection.execute(select(one).order_by(*one.primary_key))) for one in METADATA.sorted_tables}

    return await db.read(rows)


async def test_a_store_moves_to_postgresql_and_back(tmp_path: Path, empty_postgres_url: str) -> None:
    first, second, third = (
        Database(url) for url in (f"sqlite:///{tmp_path / 'one.db'}", empty_postgres_url, f"sqlite:///{tmp_path / 'two.db'}")
    )
    try:
        await first.upgrade()
        await fill(first)
        before = await everything(first)
        for source, target in ((first, second), (second, third)):
            run = await asyncio.to_thread(smtp_bot, "", "db", "copy", str(source.url.set(drivername=source.url.get_backend_name())),
                                          str(target.url.set(drivername=target.url.get_backend_name())))  # fmt: skip
            assert run.exit_code == 0, run.stderr
            assert "        3 credentials\n" in run.stdout
            assert await everything(target) == before
        for db in (second, third):
            await db.follow()
            zeta = await db.change(workspaces.add, OWNER, "zeta")
            await db.change(grants.grant, OWNER, "T0HOME", "U0NEW", Role.READER, zeta.id)
            await make(db, "Made in the copy")
            assert (await db.read(audit.verify)).broken is None
        with pytest.raises(Unusable, match="the target is not empty: it has rows in"):
            await copy(first, second)
    finally:
        for db in (first, second, third):
            await db.close()


async def test_a_row_that_the_other_database_does_not_take_is_named(tmp_path: Path, empty_database_url: str) -> None:
    source, target = Database(f"sqlite:///{tmp_path / 'from.db'}"), Database(empty_database_url)
    try:
        for db in (source, target):
            await db.upgrade()
        await fill(source)
        await raw.change_credentials(source, suspended_by="U0REX")
        await raw.sql(target, "CREATE UNIQUE INDEX narrow ON credentials (suspended_by)")
        before = await everything(target)
        with pytest.raises(Unusable, match=r"does not take a row of credentials: .* Nothing was copied"):
            await copy(source, target)
        assert await everything(target) == before
    finally:
        for db in (source, target):
            await db.close()


async def test_a_broken_chain_is_not_copied(db: Database, tmp_path: Path) -> None:
    await fill(db)
    await raw.allow_rewriting(db)
    await raw.sql(db, "UPDATE audit_events SET user_id = 'U0OTHER' WHERE id = 2")
    target = Database(f"sqlite:///{tmp_path / 'copy.db'}")
    try:
        await target.upgrade()
        before = await everything(target)
        with pytest.raises(Unusable, match="row 2 of the audit log is not what was written, so nothing was copied"):
            await copy(db, target)
        assert await everything(target) == before
    finally:
        await target.close()


def test_addresses_of_a_copy_are_checked(tmp_path: Path) -> None:
    good = f"sqlite:///{tmp_path / 'one.db'}"
    assert smtp_bot(good, "workspace", "add", "acme").exit_code == 0
    wrong = [("mysql://x", good, "FROM: mysql is not"), (good, "mysql://x", "TO: mysql is not"), (good, good, "not empty")]
    for source, target, said in wrong:
        run = smtp_bot("", "db", "copy", source, target)
        assert (run.exit_code, said in run.stderr) == (1, True), run.stderr

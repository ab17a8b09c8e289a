"""Upgrades of a store that is in use: what was in it stays, older code goes on where it may, and one step back loses nothing or stops."""

import asyncio
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, make_url, text

from bot.run import StartError, open_database
from mailauth.process import what_is_wrong
from storage import audit, listing, migrations, names, seen, workspaces
from storage.access import Actor
from storage.audit import Origin, Surface
from storage.database import Database, Schema, WouldLose
from storage.models import Workspace
from tests import raw
from tests.stage import settings
from tests.test_cli import smtp_bot

OWNER = Origin(Actor("U0OWNER", "T0HOME", owner=True), Surface.SHELL, "ref")
HASH = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaA"
STEPS = ["0002", "0003", "0004", "0005", "0006", "0007", "0008", "0009"]
HEAD, BEFORE = STEPS[-1], STEPS[-2]
LATER = 4_000_000_000_000
COLUMNS = "id, workspace_id, name, name_key, username, state, password_hash, password_tag, version, created_at, created_by"
STATES: dict[str, tuple[str, str, str, str | None, dict[str, Any]]] = {
    "aaaaaaaa": ("Website relay", "website relay", "pending", None, {}),
    "bbbbbbbb": ("Printer 2. OG", "printer 2. og", "active", HASH, {"expires_at": LATER, "remind_at": LATER, "last_used_at": 5}),
    "cccccccc": ("GROẞ", "gross", "suspended", HASH, {"suspended_at": 3, "suspended_by": "U0WANDA", "delete_at": LATER}),
    "dddddddd": ("Printer 2. OG", "printer 2. og", "deleted", None, {"deleted_at": 4, "deleted_by": "shell:root"}),
    "eeeeeeee": ("Rotated", "rotated", "active", HASH, {"previous_hash": HASH, "previous_until": LATER, "rotated_at": 2}),
    "ffffffff": ("Expired", "expired", "active", HASH, {"expires_at": 6}),
    "gggggggg": ("Device", "device", "active", HASH, {"password_tag": 77}),
    "hhhhhhhh": ("wide", "ｗｉｄｅ", "active", HASH, {}),
}
"""Rows of every state as the first release wrote them; the last one's key is made otherwise today."""


def filled(url: str) -> None:
    """A store of the first release, made by its own migration and by SQL."""
    db = Database(url)

    def work(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(next(iter(migrations.__path__))))
        config.attributes.update(connection=connection, progress=print, pooled=False)
        command.upgrade(config, "0001")
        connection.commit()
        values: dict[str, Any]
        insert = "INSERT INTO workspaces (id, slug, name, credential_count, notify_created, notify_deleted, created_at, created_by) VALUES "
        connection.execute(text(insert + "(1, 'acme', 'Acme', 6, true, false, 1, 'U0OLGA')"))
        connection.execute(text("INSERT INTO channel_mappings VALUES ('T0HOME', 'C0MAIL', 1, false, 1, 'U0OLGA')"))
        connection.execute(text("INSERT INTO role_grants VALUES (1, 'T0HOME', 'U0WANDA', 'writer', 1, 1, 'U0OLGA')"))
        for key, (name, name_key, state, phc, more) in STATES.items():
            values = {"id": key, "name": name, "key": name_key, "username": f"smtp-acme-{key}", "state": state, "hash": phc, **more}
            added = "".join(f", {column}" for column in more if column != "password_tag")
            given = "".join(f", :{column}" for column in more if column != "password_tag")
            values.setdefault("password_tag", None)
            row = f"(:id, 1, :name, :key, :username, :state, :hash, :password_tag, 1, 1, 'U0WANDA'{given})"
            connection.execute(text(f"INSERT INTO credentials ({COLUMNS}{added}) VALUES {row}"), values)
        connection.commit()

    db.on_own_connection(work)
    asyncio.run(db.close())


@pytest.fixture
def old_url(empty_database_url: str) -> str:
    filled(empty_database_url)
    return empty_database_url


def rows(url: str, query: str) -> list[Any]:
    async def read() -> list[Any]:
        db = Database(url)
        try:
            return await raw.sql(db, query)
        finally:
            await db.close()

    return asyncio.run(read())


def test_a_filled_store_is_upgraded_and_taken_back_by_one(old_url: str) -> None:
    upgraded = smtp_bot(old_url, "db", "upgrade")
    assert upgraded.exit_code == 0, upgraded.stderr
    assert [line.partition(" ")[0] for line in upgraded.stdout.splitlines()] == [*STEPS, "The"]
    before = rows(old_url, "SELECT * FROM credentials ORDER BY id")
    assert [row.id for row in before] == sorted(STATES)
    for row in before:
        name, _, state, phc, more = STATES[row.id]
        assert (row.name, row.state, row.password_hash, row.owner) == (name, state, phc, "U0WANDA")
        assert (row.name_key, row.name_skeleton) == (names.name_key(name), names.skeleton(name))
        assert all(getattr(row, column) == value for column, value in more.items())
        assert (row.device, row.first_used_at) == ("password_tag" in more, more.get("last_used_at"))
    usable = [("smtp-acme-bbbbbbbb",), ("smtp-acme-eeeeeeee",), ("smtp-acme-gggggggg",), ("smtp-acme-hhhhhhhh",)]
    assert rows(old_url, "SELECT username FROM smtp_passdb ORDER BY username") == usable
    assert rows(old_url, "SELECT username FROM smtp_passdb_previous") == [("smtp-acme-eeeeeeee",)]
    assert rows(old_url, "SELECT * FROM smtp_sender_logins") == []
    assert "unbroken" in smtp_bot(old_url, "audit", "verify").stdout
    assert smtp_bot(old_url, "revoke", "smtp-acme-bbbbbbbb").exit_code == 0
    back = smtp_bot(old_url, "db", "downgrade")
    assert back.stdout == f"Step {HEAD} is taken back; the last one is {BEFORE}. Start the release that has it as its last one.\n"
    assert len(rows(old_url, "SELECT * FROM credentials")) == len(STATES)
    assert smtp_bot(old_url, "db", "upgrade").exit_code == 0
    assert "unbroken" in smtp_bot(old_url, "audit", "verify").stdout


def test_a_step_back_that_would_lose_something_says_what_and_stops(old_url: str) -> None:
    assert smtp_bot(old_url, "db", "upgrade").exit_code == 0
    for _ in STEPS[1:]:
        assert smtp_bot(old_url, "db", "downgrade").exit_code == 0
    rows(old_url, "UPDATE workspaces SET suspended_at = 1, suspended_by = 'U0OLGA'")
    refused = smtp_bot(old_url, "db", "downgrade")
    assert refused.exit_code == 1
    for lost in ("1 suspended workspaces, whose credentials would log in again", "the store's id", "Restore a backup instead."):
        assert lost in refused.stderr
    assert rows(old_url, "SELECT version_num, suspended_at FROM alembic_version, workspaces") == [(STEPS[0], 1)]


def newer(url: str, oldest_code: str) -> None:
    """What a later release leaves behind."""
    rows(url, "UPDATE alembic_version SET version_num = '9999'")
    rows(url, f"UPDATE facts SET value = '{oldest_code}' WHERE key = 'oldest_code'")


def test_a_schema_of_a_later_release_lets_older_code_start_or_not(old_url: str) -> None:
    assert smtp_bot(old_url, "db", "upgrade").exit_code == 0

    async def starts() -> tuple[bool, str | None]:
        db = Database(old_url)
        try:
            wrong = await what_is_wrong(db)
            await (await open_database(settings(database_url=old_url))).close()
        except StartError:
            return False, wrong
        finally:
            await db.close()
        return True, wrong

    newer(old_url, HEAD)
    assert asyncio.run(starts()) == (True, None)
    assert smtp_bot(old_url, "revoke", "smtp-acme-bbbbbbbb").exit_code == 0
    assert "its schema is a newer release's, which lets this one go on" in smtp_bot(old_url, "doctor").stdout
    again = smtp_bot(old_url, "db", "upgrade")
    assert (again.exit_code, again.stdout) == (0, "A newer release's schema, which lets this one go on. Nothing to do.\n")
    newer(old_url, "9999")
    started, wrong = asyncio.run(starts())
    assert not started
    assert "made by a newer release" in (wrong or "")
    for refused in (smtp_bot(old_url, "list"), smtp_bot(old_url, "revoke", "smtp-acme-gggggggg"), smtp_bot(old_url, "db", "upgrade")):
        assert (refused.exit_code, "Install that release." in refused.stderr) == (1, True)
    assert "not one of this release's" in smtp_bot(old_url, "db", "downgrade").stderr


def test_every_migration_says_which_older_code_may_start_and_what_going_back_loses() -> None:
    config = Config()
    config.set_main_option("script_location", str(next(iter(migrations.__path__))))
    steps = list(ScriptDirectory.from_config(config).walk_revisions())
    assert steps[0].revision == HEAD
    known = [step.revision for step in steps]
    assert known == sorted(known, reverse=True)
    for step in steps:
        assert step.module.older_code_from in known
        assert step.module.older_code_from <= step.revision
        assert callable(step.module.loses)


async def test_a_running_release_goes_on_during_and_after_an_upgrade(empty_database_url: str) -> None:
    running, upgrading = Database(empty_database_url), Database(empty_database_url)
    try:
        await upgrading.upgrade()
        await upgrading.downgrade()
        upgraded = asyncio.create_task(upgrading.upgrade())
        number = 0
        while not upgraded.done():
            number += 1
            await running.change(workspaces.add, OWNER, f"slug{number}")
            await running.note(seen.first_time, f"key {number}")
            acme: Workspace = await running.read(workspaces.named, f"slug{number}")
            assert (await running.read(listing.page, acme, listing.Order.OLDEST)).total == 0
        await upgraded
        assert await running.schema() is Schema.CURRENT
        assert len(await running.read(workspaces.all_of_them)) == number
        assert (await running.read(audit.verify)).broken is None
        await asyncio.gather(running.upgrade(), upgrading.upgrade())
        assert await upgrading.downgrade() == (HEAD, BEFORE)
        await asyncio.gather(running.upgrade(), upgrading.upgrade())
        for _ in STEPS[1:]:
            await upgrading.downgrade()
        with pytest.raises(WouldLose):
            await upgrading.downgrade()
    finally:
        await running.close()
        await upgrading.close()


@pytest.fixture
def impatient_url(empty_postgres_url: str) -> Iterator[str]:
    """Of a role for which the server cancels whatever takes longer than a millisecond."""
    url = make_url(empty_postgres_url)
    with psycopg.connect(empty_postgres_url, autocommit=True) as admin:
        admin.execute("DROP ROLE IF EXISTS impatient")
        admin.execute("CREATE ROLE impatient LOGIN SUPERUSER")
        admin.execute("ALTER ROLE impatient SET statement_timeout = 1")
        yield url.set(drivername="postgresql", username="impatient").render_as_string()


def test_a_migration_has_no_time_limit(impatient_url: str) -> None:
    with psycopg.connect(impatient_url) as one, pytest.raises(psycopg.errors.QueryCanceled):
        one.execute("SELECT pg_sleep(1)")
    assert smtp_bot(impatient_url, "db", "upgrade").exit_code == 0


def test_mail_servers_may_read_after_an_upgrade_what_they_might_before(empty_postgres_url: str) -> None:
    filled(empty_postgres_url)
    role = f"Mail-{make_url(empty_postgres_url).database}"
    may = f"SELECT has_table_privilege('{role}', view, 'SELECT') FROM unnest(ARRAY['smtp_passdb', 'smtp_passdb_previous']) AS view"
    rows(empty_postgres_url, f'CREATE ROLE "{role}"')
    try:
        rows(empty_postgres_url, f'GRANT SELECT ON smtp_passdb TO "{role}"')
        before = rows(empty_postgres_url, may)
        assert smtp_bot(empty_postgres_url, "db", "upgrade").exit_code == 0
        assert rows(empty_postgres_url, may) == before == [(True,), (False,)]
    finally:
        rows(empty_postgres_url, f'DROP OWNED BY "{role}"')
        rows(empty_postgres_url, f'DROP ROLE "{role}"')


def test_an_index_that_was_broken_off_is_made_again(empty_postgres_url: str) -> None:
    assert smtp_bot(empty_postgres_url, "db", "upgrade").exit_code == 0
    for _ in STEPS[STEPS.index("0007") + 1 :]:
        assert smtp_bot(empty_postgres_url, "db", "downgrade").exit_code == 0
    with psycopg.connect(empty_postgres_url, autocommit=True) as admin:
        admin.execute("UPDATE alembic_version SET version_num = '0006'")
        admin.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'credentials_owner'::regclass")
        admin.execute("DROP INDEX audit_events_user")
        assert smtp_bot(empty_postgres_url, "db", "upgrade").exit_code == 0
        assert admin.execute("SELECT count(*) FROM pg_index WHERE NOT indisvalid").fetchone() == (0,)
        assert admin.execute("SELECT count(*) FROM pg_indexes WHERE indexname = 'audit_events_user'").fetchone() == (1,)

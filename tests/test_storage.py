"""The store alone: promises that hold whatever asks for them."""

import asyncio
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.exc import DBAPIError

from storage import audit, credentials, listing, seen, workspaces
from storage.access import Actor
from storage.audit import Origin, Surface
from storage.database import Database, Schema, Transaction
from storage.listing import Order
from storage.models import METADATA, Workspace
from storage.passwords import Hasher
from storage.refusals import AlreadyDeleted, NameTaken, NotAllowed, Refusal
from tests import raw

OWNER = Actor("U0OWNER", "T0HOME", owner=True)
STRANGER = Actor("U0STRANGER", "T0HOME")
CHANNEL = "C0MAIL"


def by(actor: Actor) -> Origin:
    return Origin(actor, Surface.MODAL, reference="ref1", channel=CHANNEL, source="V1")


@pytest.fixture
async def acme(db: Database) -> Workspace:
    workspace = await db.change(workspaces.add, by(OWNER), "acme", "Acme")
    await db.change(workspaces.map_channel, by(OWNER), "T0HOME", CHANNEL, workspace.id)
    return workspace


async def make(db: Database, name: str, key: str | None = None) -> str:
    credential, _ = await db.change(credentials.create_pending, by(OWNER), CHANNEL, name, key or f"view-{name}")
    hasher = Hasher(memory_kib=8, time_cost=1)
    await db.change(credentials.activate, by(OWNER), credential.id, await hasher.hash("secret"))
    return credential.id


async def passdb(db: Database) -> list[Any]:
    return await raw.sql(db, "SELECT username, password, workspace FROM smtp_passdb")


async def test_migrations_make_exactly_the_tables_of_the_models(db: Database) -> None:
    def is_compared(_item: object, name: str | None, *_more: object) -> bool:
        """The index of words is made differently on each database."""
        return not (name or "").startswith(("credential_words", "credentials_words"))

    def differences(tx: Transaction) -> list[Any]:
        opts = {"include_object": is_compared}
        return list(compare_metadata(MigrationContext.configure(tx.connection, opts=opts), METADATA))

    assert await db.schema() is Schema.CURRENT
    assert await db.read(differences) == []


async def test_only_an_active_credential_is_in_the_passdb(db: Database, acme: Workspace) -> None:
    credential, _ = await db.change(credentials.create_pending, by(OWNER), CHANNEL, "Printer", "view")
    assert await passdb(db) == []
    await db.change(credentials.activate, by(OWNER), credential.id, await Hasher(8, 1).hash("secret"))
    [(username, password, workspace)] = await passdb(db)
    assert (username, workspace) == (credential.username, "acme")
    assert password.startswith("{ARGON2ID}$argon2id$")
    await db.change(credentials.delete, by(OWNER), credential.id)
    assert await passdb(db) == []


async def test_two_people_creating_the_same_name_at_once_make_one(db: Database, acme: Workspace) -> None:
    results = await asyncio.gather(
        *(db.change(credentials.create_pending, by(OWNER), CHANNEL, name, f"view {name}") for name in ("Printer", "ｐrinter", "PRINTER")),
        return_exceptions=True,
    )
    assert sorted(type(result).__name__ for result in results) == ["NameTaken", "NameTaken", "tuple"]
    assert all(isinstance(result, tuple | NameTaken) for result in results)


async def test_exactly_one_of_many_deletes_wins(db: Database, acme: Workspace) -> None:
    credential_id = await make(db, "Printer")
    results = await asyncio.gather(*(db.change(credentials.delete, by(OWNER), credential_id) for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(result, tuple) for result in results) == 1
    assert sum(isinstance(result, AlreadyDeleted) for result in results) == 7


async def test_concurrent_writers_keep_one_audit_chain(db: Database, acme: Workspace) -> None:
    await asyncio.gather(*(make(db, f"Printer {number}") for number in range(10)))
    verdict = await db.read(audit.verify)
    assert verdict.broken is None
    assert verdict.rows == 2 + 20


async def test_a_denied_attempt_changes_nothing_and_is_in_the_audit_log(db: Database, acme: Workspace) -> None:
    credential_id = await make(db, "Printer")
    with pytest.raises(NotAllowed):
        await db.change(credentials.delete, by(STRANGER), credential_id, reason="because")
    assert len(await passdb(db)) == 1
    [row] = await db.read(audit.latest, acme, limit=1)
    assert (row.action, row.outcome, row.cause, row.user_id, row.credential_id, row.reason) == (
        "delete",
        "refused",
        "not_allowed",
        "U0STRANGER",
        credential_id,
        "because",
    )


async def test_the_audit_log_refuses_changes_and_verify_finds_forced_ones(db: Database, acme: Workspace) -> None:
    for number in range(5):
        await make(db, f"Printer {number}")
    for statement in ("UPDATE audit_events SET reason = 'x'", "DELETE FROM audit_events"):
        with pytest.raises(DBAPIError, match="append-only"):
            await raw.sql(db, statement)
    await raw.allow_rewriting(db)
    await raw.sql(db, "UPDATE audit_events SET user_id = 'U0OTHER' WHERE id = 7")
    assert (await db.read(audit.verify)).broken == 7


async def test_a_chain_cut_off_at_its_end_is_broken(db: Database, acme: Workspace) -> None:
    await make(db, "Printer")
    await raw.allow_rewriting(db)
    await raw.sql(db, "DELETE FROM audit_events WHERE id = 4")
    assert (await db.read(audit.verify)).broken == 4


@pytest.mark.parametrize("count", [0, 1, 10, 11, 20, 25])
async def test_pages_walk_every_credential_once_in_both_directions(db: Database, acme: Workspace, count: int) -> None:
    made = [await make(db, f"Relay {number}") for number in range(count)]
    for order, expected in ((Order.OLDEST, made), (Order.NEWEST, made[::-1])):
        acme_now = await db.read(workspaces.by_id, acme.id)
        page = await db.read(listing.page, acme_now, order)
        seen = [row.id for row in page.rows]
        while page.next:
            page = await db.read(listing.page, acme_now, order, place=page.next)
            assert page.first == len(seen) + 1
            seen += [row.id for row in page.rows]
        if order is Order.OLDEST:
            assert seen == expected
        assert sorted(seen) == sorted(expected)
        back = [row.id for row in page.rows]
        while page.previous:
            page = await db.read(listing.page, acme_now, order, place=page.previous)
            back = [row.id for row in page.rows] + back
        assert back == seen
        assert page.total == count


async def test_words_filter_by_part_of_a_name_or_username_and_percent_is_a_character(db: Database, acme: Workspace) -> None:
    for name in ("Website relay", "100% printer", "Warehouse relay"):
        await make(db, name)
    here = await db.read(workspaces.by_id, acme.id)

    async def names(words: str) -> set[str]:
        return {row.name for row in (await db.read(listing.page, here, Order.NEWEST, words)).rows}

    assert await names("RELAY") == {"Website relay", "Warehouse relay"}
    assert await names("relay web") == {"Website relay"}
    assert await names("0%") == {"100% printer"}
    assert await names("smtp-acme") == {"Website relay", "100% printer", "Warehouse relay"}
    assert await names("nothing") == set()


async def test_what_a_crash_left_pending_is_found_after_five_minutes(db: Database, acme: Workspace) -> None:
    credential, _ = await db.change(credentials.create_pending, by(OWNER), CHANNEL, "Printer", "view")
    assert await db.read(credentials.abandoned) == []
    now = db.clock
    db.clock = lambda: now() + credentials.PENDING_LIFETIME * 2
    assert [row.id for row in await db.read(credentials.abandoned)] == [credential.id]
    assert await db.change(credentials.discard, by(OWNER), credential.id, "left behind")
    assert not await db.change(credentials.discard, by(OWNER), credential.id, "left behind")
    with pytest.raises(Refusal):
        await db.change(credentials.activate, by(OWNER), credential.id, "$argon2id$x")


async def test_a_cancelled_write_keeps_nobody_waiting(db: Database) -> None:
    """Whatever its time-out interrupted, and although its error is still being looked at."""
    errors: list[BaseException] = []
    for number in range(150):
        interrupted = asyncio.create_task(db.note(seen.first_time, f"interrupted {number}"))
        for _ in range(number * 3):
            await asyncio.sleep(0)
        interrupted.cancel()
        errors += [one for one in await asyncio.gather(interrupted, return_exceptions=True) if isinstance(one, BaseException)]
        async with asyncio.timeout(120):
            await db.note(seen.first_time, f"next {number}")
    assert errors

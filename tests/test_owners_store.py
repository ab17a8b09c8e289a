"""Owners and notes in the store alone, with several replicas on it."""

import asyncio
import contextlib
from datetime import timedelta

import pytest

from storage import audit, credentials, grants, owners, posted, tidy
from storage.access import Actor, Role
from storage.audit import Origin, Surface, What
from storage.database import Database
from storage.logins import beat
from storage.models import Workspace
from storage.refusals import AlreadyDeleted, NotAllowed, OwnerGone, PrincipalInvalid
from tests import raw
from tests.test_storage import OWNER, STRANGER, acme, by, make

__all__ = ["acme"]
TEAM = "T0HOME"


async def replicas(url: str, stack: contextlib.AsyncExitStack) -> list[Database]:
    made = [Database(url) for _ in range(4)]
    for one in made:
        stack.push_async_callback(one.close)
    return made


async def test_an_owner_is_a_person_or_a_group_that_is_still_there(db: Database, acme: Workspace) -> None:
    credential_id = await make(db, "Relay")
    await db.change(grants.grant, by(OWNER), TEAM, "U0LEA", Role.READER, acme.id)
    await db.change(owners.left, by(OWNER), TEAM, "U0LEA")
    for wrong in ("", "shell:root", "C0MAIL", "u0mia", "U0MIA\n", "<@U0MIA>"):
        with pytest.raises(PrincipalInvalid):
            await db.change(owners.change, by(OWNER), credential_id, wrong)
    with pytest.raises(OwnerGone):
        await db.change(owners.change, by(OWNER), credential_id, "U0LEA")
    with pytest.raises(NotAllowed):
        await db.change(owners.change, by(STRANGER), credential_id, "U0MIA")
    for owner in ("U0MIA", "S0GROUP", "S0GROUP"):
        credential, _ = await db.change(owners.change, by(OWNER), credential_id, owner)
        assert credential.owner == (await db.read(credentials.get, credential_id))[0].owner == owner
    done = [one.subject for one in await db.read(audit.latest, None) if one.action == What.OWNER and one.outcome == "done"]
    assert done == ["S0GROUP", "U0MIA"]
    await db.change(credentials.delete, by(OWNER), credential_id)
    with pytest.raises(AlreadyDeleted):
        await db.change(owners.change, by(OWNER), credential_id, "U0MIA")


async def test_of_several_replicas_one_ends_the_roles_of_who_left(db: Database, acme: Workspace, database_url: str) -> None:
    await make(db, "Relay")
    await raw.change_credentials(db, owner="U0LEA")
    await db.change(grants.grant, by(OWNER), TEAM, "U0LEA", Role.ADMIN, None)
    await db.change(grants.grant, by(OWNER), TEAM, "U0LEA", Role.READER, acme.id)
    async with contextlib.AsyncExitStack() as stack:
        await asyncio.gather(*(one.change(owners.left, by(OWNER), TEAM, "U0LEA") for one in await replicas(database_url, stack)))
    rows = [
        (one.action, one.workspace_id, one.subject) for one in reversed(await db.read(audit.latest, None)) if "U0LEA" in (one.subject or "")
    ]
    assert rows[-4:] == [
        (What.UNGRANT, None, "U0LEA admin"),
        (What.UNGRANT, acme.id, "U0LEA reader"),
        (What.LEFT, acme.id, "U0LEA reader"),
        (What.LEFT, None, "U0LEA admin"),
    ]
    assert len(rows) == 6
    assert await raw.one(db, "SELECT count(*) FROM errands WHERE kind = 'left'") == 2
    assert (await db.read(audit.verify)).broken is None


async def test_who_had_nothing_leaves_no_trace(db: Database, acme: Workspace) -> None:
    before = await db.read(audit.head)
    await db.change(owners.left, by(OWNER), TEAM, "U0LEA")
    assert (await db.read(audit.head), await db.read(owners.is_gone, "U0LEA")) == (before, False)


async def test_of_several_replicas_one_owes_a_months_notes(db: Database, acme: Workspace, database_url: str) -> None:
    for name in ("Relay", "Printer", "Scanner"):
        await make(db, name)
    await raw.change_credentials(db, created_at=db.clock() - timedelta(days=91))
    await db.note(beat, "p1", "mx1:1", db.clock())
    await raw.sql(db, "UPDATE credentials SET owner = 'U0MIA' WHERE name = 'Relay'")
    await raw.sql(db, "UPDATE credentials SET owner = 'shell:root' WHERE name = 'Scanner'")
    await raw.sql(db, "INSERT INTO facts VALUES ('tidied', '2020-01 done')")
    async with contextlib.AsyncExitStack() as stack:
        await asyncio.gather(*(one.note(tidy.owe_notes, 90) for one in await replicas(database_url, stack)))
    owed = await raw.sql(db, "SELECT person, workspace_id FROM errands WHERE kind = 'tidy' ORDER BY person")
    assert [tuple(one) for one in owed] == [("U0MIA", None), ("U0OWNER", None)]
    assert await db.note(tidy.owe_notes, 90) == 0


async def test_notes_are_owed_to_a_bounded_number_of_owners_at_once_and_to_all_in_the_end(db: Database, acme: Workspace) -> None:
    for number in range(3):
        await make(db, f"App {number}")
    [(first,), *_] = await raw.sql(db, "SELECT id FROM credentials ORDER BY id")
    await raw.change_credentials(db, created_at=db.clock() - timedelta(days=91), owner="S0GROUP")
    await db.note(beat, "p1", "mx1:1", db.clock())
    for number in range(120):
        columns = "workspace_id, name, state, version, created_at, created_by"
        await raw.sql(
            db,
            f"INSERT INTO credentials (id, name_key, username, owner, {columns}) "
            f"SELECT 'x{number:07}', 'k{number}', 'u{number}', 'U0P{number:03}', {columns} FROM credentials WHERE id = '{first}'",
        )
    told = [await db.note(tidy.owe_notes, 90) for _ in range(4)]
    assert told == [50, 50, 21, 0]
    assert await raw.one(db, "SELECT count(DISTINCT person) FROM errands WHERE kind = 'tidy'") == 121


async def test_who_makes_themselves_the_owner_reads_nothing_of_it(db: Database, acme: Workspace) -> None:
    credential_id = await make(db, "Relay")
    owner = Origin(Actor("U0MIA", TEAM, owner=True), Surface.MODAL, "ref")
    await db.change(owners.change, owner, credential_id, "U0MIA")
    assert await raw.one(db, "SELECT count(*) FROM errands WHERE kind = 'owned'") == 0
    await db.change(owners.change, owner, credential_id, "U0LEA")
    assert await raw.sql(db, "SELECT person FROM errands WHERE kind = 'owned'") == [("U0LEA",)]


async def test_nobody_is_looked_after_who_has_left_already(db: Database, acme: Workspace) -> None:
    await make(db, "Relay")
    await raw.change_credentials(db, owner="U0LEA")
    assert await db.note(owners.to_look_at, TEAM) == ["U0LEA"]
    await db.change(owners.left, by(OWNER), TEAM, "U0LEA")
    assert await db.note(owners.to_look_at, TEAM) == []


async def test_what_has_expired_is_not_called_unused(db: Database, acme: Workspace) -> None:
    await make(db, "Relay")
    long_ago = db.clock() - timedelta(days=100)
    await raw.change_credentials(db, created_at=long_ago, expires_at=db.clock() + timedelta(days=1))
    [owner] = {one for (one,) in await raw.sql(db, "SELECT owner FROM credentials")}
    assert (await db.read(tidy.idle_of, owner, None, 90)).total == 1
    await raw.change_credentials(db, expires_at=db.clock() - timedelta(days=1))
    assert (await db.read(tidy.idle_of, owner, None, 90)).total == 0


async def test_a_message_about_what_was_deleted_is_kept_for_a_week(db: Database, acme: Workspace) -> None:
    credential_id = await make(db, "Relay")
    await db.note(posted.keep, posted.Posted.ALARM, "C1", "1.1", credential_id=credential_id, workspace_id=acme.id)
    await db.change(credentials.delete, by(OWNER), credential_id)
    for days, left in ((0, 1), (6, 1), (8, 0)):
        await raw.change_credentials(db, deleted_at=db.clock() - timedelta(days=days))
        await db.note(posted.forget_old)
        assert await raw.one(db, "SELECT count(*) FROM posted_messages") == left

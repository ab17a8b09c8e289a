"""The store alone: promises that hold whatever asks for them."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import insert, text
from sqlalchemy.exc import DBAPIError

from bot import notices, webhook
from storage import access, asking, audit, credentials, errands, grants, lifecycle, listing, policy, posted, replay, seen, workspaces
from storage.access import Action, Actor, Role
from storage.audit import Origin, Surface
from storage.database import READERS, Database, Schema, Transaction
from storage.journal import digest
from storage.limits import Limits
from storage.listing import Order
from storage.models import METADATA, REVIVED, Credential, Workspace
from storage.passwords import Choose, Hasher
from storage.refusals import AlreadyDeleted, Barred, NameTaken, NoSuchGrant, NotAllowed, ReasonRequired, Refusal, RotationEnded
from tests import raw
from tests.stage import Clock
from tests.stores import sqlite_store

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


def draws(characters: str) -> Choose:
    """Chance, as it was."""
    left = iter(characters)
    return lambda _alphabet: next(left)


async def test_an_id_that_is_taken_is_drawn_again(db: Database, acme: Workspace) -> None:
    first, second = draws("7k2m9x4q"), draws("7k2m9x4q" + "abcd1234")
    relay, _ = await db.change(credentials.create_pending, by(OWNER), CHANNEL, "Relay", "view1", choose=first)
    printer, _ = await db.change(credentials.create_pending, by(OWNER), CHANNEL, "Printer", "view2", choose=second)
    assert [relay.id, printer.id] == ["7k2m9x4q", "abcd1234"]


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


async def test_the_audit_log_tells_of_a_person_and_a_group_which_roles_they_were_given_and_lost(db: Database, acme: Workspace) -> None:
    for principal in ("U0RITA", "S0ONCALL"):
        granted = await db.change(grants.grant, by(OWNER), "T0HOME", principal, Role.READER, acme.id)
        await db.change(grants.remove, by(OWNER), granted.id)
        found = await db.read(audit.latest, acme, principal)
        assert [(row.action, row.subject) for row in found] == [
            (audit.What.UNGRANT, f"{principal} reader"),
            (audit.What.GRANT, f"{principal} reader"),
        ]


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


async def test_slow_searches_keep_no_list_waiting(db: Database) -> None:
    ended = threading.Event()
    slow = [asyncio.create_task(db.read(lambda _tx: ended.wait())) for _ in range(READERS - 1)]
    try:
        async with asyncio.timeout(120):
            for number in range(20):
                assert await db.read(lambda _tx, number=number: number) == number  # type: ignore[misc]
        assert not any(one.done() for one in slow)
    finally:
        ended.set()
    await asyncio.gather(*slow)


async def test_usual_reads_of_sqlite_follow_each_other(tmp_path: Path) -> None:
    """Beside each other they would mostly hand the interpreter's lock to and fro."""
    db = Database(sqlite_store(tmp_path / "bot.db"), read_turn=300)
    at_once, most = 0, 0

    def look(_tx: Transaction) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        time.sleep(0.005)
        at_once -= 1

    await asyncio.gather(*(db.read(look) for _ in range(12)))
    await db.close()
    assert most == 1


async def test_nobody_gives_or_takes_a_role_in_another_slack_team(db: Database, acme: Workspace) -> None:
    grant = await db.change(grants.grant, by(OWNER), "T0HOME", "U0MIA", Role.READER, acme.id)
    elsewhere = Origin(Actor("U0OWNER", "T0OTHER", owner=True), Surface.MODAL, "ref")
    with pytest.raises(NoSuchGrant):
        await db.change(grants.remove, elsewhere, grant.id)
    assert [one.principal for one in await db.read(grants.of_workspace, "T0HOME", acme)] == ["U0MIA"]


async def test_who_is_barred_has_no_role_anywhere(db: Database, acme: Workspace) -> None:
    await db.change(grants.grant, by(OWNER), "T0HOME", "U0MIA", Role.ADMIN, acme.id)
    member, guest = Actor("U0MIA", "T0HOME"), Actor("U0MIA", "T0HOME", barred=Barred.GUEST)
    assert [right.role for _, right in await db.read(access.roles, member, 10)] == [Role.ADMIN]
    assert [one.slug for one in await db.read(access.visible_workspaces, member, Action.CREATE, 10)] == ["acme"]
    assert await db.read(access.roles, guest, 10) == []
    assert await db.read(access.visible_workspaces, guest, Action.CREATE, 10) == []


async def test_of_many_admins_five_are_named(db: Database, acme: Workspace) -> None:
    for number in range(7):
        await db.change(grants.grant, by(OWNER), "T0HOME", f"U0ADMIN{number}", Role.ADMIN, acme.id)
    assert len(await db.read(access.helpers, "T0HOME", acme)) == 5


async def rotating(db: Database, key: str = "T0HOME:V1") -> str:
    credential_id = await make(db, "Printer")
    await raw.change_credentials(db, current_used_at=db.clock())
    await db.change(lifecycle.begin_rotation, by(OWNER), credential_id, CHANNEL, key, None)
    return credential_id


async def test_a_rotation_ends_only_with_its_own_key_and_while_the_credential_works(db: Database, acme: Workspace) -> None:
    credential_id = await rotating(db)

    async def finish(key: str, overlap: timedelta | None = None) -> Credential:
        return await db.change(lifecycle.finish_rotation, by(OWNER), credential_id, key, "$argon2id$new", None, overlap)

    with pytest.raises(RotationEnded):
        await finish("T0HOME:another")
    await db.change(lifecycle.suspend, by(OWNER), credential_id)
    await raw.change_credentials(db, rotation_begun_at=db.clock())
    with pytest.raises(RotationEnded):
        await finish("T0HOME:V1")
    await raw.change_credentials(db, state="active")
    done = await finish("T0HOME:V1", timedelta(hours=1))
    assert (done.password_hash, done.current_used_at, done.previous_used_at) == ("$argon2id$new", None, None)


async def test_an_old_password_goes_when_its_overlap_is_over_and_not_before(db: Database, acme: Workspace) -> None:
    credential_id = await rotating(db)
    await db.change(lifecycle.finish_rotation, by(OWNER), credential_id, "T0HOME:V1", "$argon2id$new", overlap=timedelta(hours=1))
    assert await db.change(lifecycle.forget_previous, by(OWNER), credential_id) is False
    assert (await db.read(credentials.get, credential_id))[0].previous_hash is not None
    await raw.change_credentials(db, previous_until=db.clock() - timedelta(seconds=1))
    assert await db.change(lifecycle.forget_previous, by(OWNER), credential_id) is True
    assert (await db.read(credentials.get, credential_id))[0].previous_hash is None


async def test_what_is_deleted_keeps_no_password_and_nothing_that_would_happen_to_it(db: Database, acme: Workspace) -> None:
    credential_id = await rotating(db)
    later = db.clock() + timedelta(days=1)
    kept = {"previous_hash": "$argon2id$old", "previous_until": later, "delete_at": later, "remind_at": db.clock()}
    await raw.change_credentials(db, **kept)
    assert [one.id for one in await db.read(lifecycle.due_reminders)] == [credential_id]
    row, _ = await db.change(credentials.delete, by(OWNER), credential_id)
    gone = (row.password_hash, row.previous_hash, row.previous_until, row.rotation_begun_at, row.delete_at, row.remind_at)
    assert gone == (None,) * 6
    await raw.change_credentials(db, remind_at=db.clock())
    assert await db.read(lifecycle.due_reminders) == []


async def test_a_workspace_counts_what_was_handed_over(db: Database, acme: Workspace) -> None:
    async def count() -> int:
        return (await db.read(workspaces.by_id, acme.id)).credential_count

    ids = [await make(db, f"Printer {number}") for number in range(3)]
    pending, _ = await db.change(credentials.create_pending, by(OWNER), CHANNEL, "Pending", "view")
    assert await count() == 3
    revoked = await db.change(credentials.revoke_each, by(OWNER), [pending.id, ids[0]])
    assert (len(revoked.done), await count()) == (2, 2)
    await db.change(credentials.delete, by(OWNER), ids[1])
    assert await count() == 1


async def test_an_errand_ends_once_and_is_kept_only_by_whoever_has_it(db: Database, acme: Workspace) -> None:
    await db.note(errands.add, errands.Kind.OUTCOME, person="U0MIA", ids=("ref",))
    errand = next(one for one in await db.note(errands.take, 5, list(errands.Kind)) if one.kind == "outcome")
    assert await db.note(errands.keep, errand) is True
    await raw.sql(db, "UPDATE errands SET lease = lease - 86400000")
    assert await db.note(errands.keep, errand) is False, "its lease is over: somebody else may have it"
    for outcome in ("told", "gone"):
        await db.note(errands.finish, errand.id, outcome)
    assert await raw.one(db, "SELECT outcome FROM errands WHERE kind = 'outcome'") == "told"


async def test_a_webhook_hears_of_a_revoked_workspace_once_and_not_of_each_credential(db: Database, acme: Workspace) -> None:
    for number in range(3):
        await make(db, f"Printer {number}")
    await db.change(policy.set_webhook, by(OWNER), acme.id, "https://hooks.example.com/x")
    await db.change(credentials.order_revocation, by(OWNER), acme.id)
    assert await db.change(credentials.delete_some, by(OWNER), acme.id) == 3
    assert await raw.one(db, "SELECT count(*) FROM errands WHERE kind = 'webhook'") == 1


async def test_what_was_given_up_is_not_committed_and_what_audits_nothing_is_undone(db: Database, acme: Workspace) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(tx: Transaction) -> None:
        workspaces.add(tx, by(OWNER), "slow")
        begun.set()
        go_on.wait(120)

    change = asyncio.create_task(db.change(slow))
    await asyncio.to_thread(begun.wait, 120)
    change.cancel()
    await asyncio.gather(change, return_exceptions=True)
    assert change.cancelled()
    go_on.set()
    slugs = "SELECT slug FROM workspaces"
    assert [row.slug for row in await db.look(lambda tx: tx.connection.execute(text(slugs)).all())] == ["acme"]

    def unaudited(tx: Transaction) -> None:
        tx.connection.execute(text("UPDATE workspaces SET slug = 'quiet'"))

    with pytest.raises(RuntimeError, match="changes without an audit row"):
        await db.change(unaudited)
    assert await raw.one(db, slugs) == "acme"


async def test_a_note_on_postgresql_waits_for_no_change(postgres_url: str) -> None:
    db = Database(postgres_url)
    begun, go_on = threading.Event(), threading.Event()

    def slow(tx: Transaction) -> None:
        workspaces.add(tx, by(OWNER), "slow")
        begun.set()
        assert go_on.wait(120), "the note waited for it"

    change = asyncio.create_task(db.change(slow))
    await asyncio.to_thread(begun.wait, 120)
    await db.note(seen.first_time, "heartbeat")
    go_on.set()
    await change
    await db.close()


async def test_paused_channels_hear_nothing_and_a_receiver_that_is_away_holds_only_its_own_workspace(db: Database, acme: Workspace) -> None:
    other = await db.change(workspaces.add, by(OWNER), "other")
    await db.change(workspaces.map_channel, by(OWNER), "T0HOME", "C0QUIET", acme.id)
    await raw.sql(db, "UPDATE channel_mappings SET paused = :yes WHERE channel_id = 'C0QUIET'", yes=True)
    await db.change(workspaces.suspend_all, by(OWNER), acme.id)
    told = await raw.sql(db, "SELECT channel_id FROM errands WHERE kind = 'notice'")
    assert [row.channel_id for row in told] == [CHANNEL]
    for workspace in (acme, acme, other):
        await db.note(errands.add, errands.Kind.WEBHOOK, workspace_id=workspace.id, event_id=1)
    hooks = [one for one in await db.note(errands.take, 20, list(errands.Kind)) if one.kind == "webhook"]
    await db.note(errands.hold, hooks[0], timedelta(hours=1))
    due = await raw.sql(db, "SELECT workspace_id, due FROM errands WHERE kind = 'webhook'")
    assert {row.workspace_id for row in due if row.due > min(one.due for one in due)} == {acme.id}
    assert sum(row.workspace_id == acme.id for row in due) == 2


async def test_of_very_many_channels_a_bounded_number_is_told(db: Database, acme: Workspace) -> None:
    for number in range(errands.CHANNELS_TOLD + 3):
        await db.change(workspaces.map_channel, by(OWNER), "T0HOME", f"C1MORE{number}", acme.id)
    await db.change(workspaces.suspend_all, by(OWNER), acme.id)
    assert await raw.one(db, "SELECT count(*) FROM errands WHERE kind = 'notice'") == errands.CHANNELS_TOLD


async def test_however_often_it_was_tried_it_is_due_again_within_half_a_minute(db: Database) -> None:
    clock = db.clock = Clock()
    await db.note(errands.add, errands.Kind.OUTCOME, person="U0MIA", ids=("ref",))
    for wait in (5, 10, 20, 30, 30, 30, 30):
        [errand] = await db.note(errands.take, 9, {errands.Kind.OUTCOME})
        await db.note(errands.postpone, errand, "away")
        clock.passes(seconds=wait - 1)
        assert not await db.note(errands.take, 9, {errands.Kind.OUTCOME})
        clock.passes(seconds=1)


ANEW: dict[str, Callable[[Database, Workspace, str], Awaitable[object]]] = {
    "expiry": lambda db, _, one: db.change(lifecycle.change_expiry, by(OWNER), one, db.clock() + timedelta(days=30)),
    "limits": lambda db, _, one: db.change(lifecycle.change_limits, by(OWNER), one, Limits(messages_hour=7)),
    "resume all": lambda db, acme, _: db.change(workspaces.resume_all, by(OWNER), acme.id),
    "new name": lambda db, acme, _: db.change(workspaces.rename, by(OWNER), acme.id, "Acme & Sons"),
    "role": lambda db, acme, _: db.change(grants.grant, by(OWNER), "T0HOME", "U0MIA", Role.WRITER, acme.id),
    "role everywhere": lambda db, *_: db.change(grants.grant, by(OWNER), "T0HOME", "U0MIA", Role.WRITER, None),
    "role taken away": lambda db, *_: db.change(grants.remove, by(OWNER), 1),
}


@pytest.mark.parametrize("change", ANEW)
async def test_messages_about_a_credential_are_drawn_anew_after(db: Database, acme: Workspace, change: str) -> None:
    credential = await make(db, "Relay")
    await db.note(posted.keep, posted.Posted.ALARM, "C0ALARM", "1.1", credential_id=credential, workspace_id=acme.id)
    if change == "resume all":
        await db.change(workspaces.suspend_all, by(OWNER), acme.id)
    if change == "role taken away":
        await db.change(grants.grant, by(OWNER), "T0HOME", "U0MIA", Role.WRITER, acme.id)
    await raw.sql(db, "DELETE FROM errands")
    await ANEW[change](db, acme, credential)
    assert "C0ALARM" in str(await raw.sql(db, "SELECT * FROM errands WHERE kind = 'settle'"))


async def test_a_role_in_all_workspaces_answers_a_request_too(db: Database, acme: Workspace) -> None:
    mia = Origin(Actor("U0MIA", "T0HOME"), Surface.BUTTON, "ref", CHANNEL)
    await db.change(asking.ask, mia, acme.id, Role.WRITER)
    request = await db.read(asking.asked, (await db.read(audit.head)).event)
    await db.note(asking.keep, request, "D0ADMIN", "9.9")
    await raw.sql(db, "DELETE FROM errands")
    await db.change(grants.grant, by(OWNER), "T0HOME", "U0MIA", Role.WRITER, None)
    told = await raw.sql(db, "SELECT person, channel_id, message_ts FROM errands WHERE kind = 'answer' ORDER BY id")
    assert told == [("U0MIA", CHANNEL, None), (None, "D0ADMIN", "9.9")]


async def test_a_request_that_has_reached_nobody_yet_is_answered_once(db: Database, acme: Workspace) -> None:
    mia = Origin(Actor("U0MIA", "T0HOME"), Surface.BUTTON, "ref", CHANNEL)
    await db.change(asking.ask, mia, acme.id, Role.WRITER)
    for role in (Role.WRITER, Role.RESPONDER):
        await db.change(grants.grant, by(OWNER), "T0HOME", "U0MIA", role, acme.id)
    [asked] = await db.note(errands.take, 9, {errands.Kind.ASK})
    await db.note(errands.finish, asked.id, "answered")
    await db.change(grants.grant, by(OWNER), "T0HOME", "U0MIA", Role.ADMIN, acme.id)
    assert await raw.sql(db, "SELECT person, channel_id FROM errands WHERE kind = 'answer'") == [("U0MIA", CHANNEL)]


async def test_two_orders_to_revoke_all_tell_each_who_ordered_and_the_channels_once(db: Database, acme: Workspace) -> None:
    await make(db, "Relay")
    for who in (OWNER, Actor("U0OTHER", "T0HOME", owner=True)):
        await db.change(credentials.order_revocation, by(who), acme.id)
    await db.change(credentials.delete_some, by(OWNER), acme.id)
    for errand in await db.note(errands.take, 9, {errands.Kind.REVOKE_ALL}):
        await db.note(errands.revoked_all, errand)
    told = await raw.sql(db, "SELECT kind, person, channel_id FROM errands WHERE done_at IS NULL AND kind <> 'settle' ORDER BY id")
    assert [row for row in told if row.kind == "revoked_all"] == [("revoked_all", OWNER.user, CHANNEL), ("revoked_all", "U0OTHER", CHANNEL)]
    assert [row for row in told if row.kind == "notice"] == [("notice", None, CHANNEL)]


async def test_an_errand_that_others_put_off_is_not_tried(db: Database, acme: Workspace) -> None:
    await raw.sql(db, "DELETE FROM errands")
    for _ in range(3):
        await db.note(errands.add, errands.Kind.WEBHOOK, workspace_id=acme.id, event_id=1)
    first, second, third = await db.note(errands.take, 9, {errands.Kind.WEBHOOK})
    assert await db.note(errands.keep, first)
    await db.note(errands.hold, first, timedelta(minutes=1))
    await db.note(errands.postpone, first, "timeout", timedelta(minutes=1))
    assert not await db.note(errands.keep, second)
    assert not await db.note(errands.keep, third)
    assert (await db.read(errands.still_open)).due == set()


async def test_an_errand_whose_lease_ran_out_is_nobodys_to_work_on(db: Database, acme: Workspace) -> None:
    await db.note(errands.add, errands.Kind.WEBHOOK, workspace_id=acme.id, event_id=1)
    [one] = await db.note(errands.take, 9, {errands.Kind.WEBHOOK})
    await raw.sql(db, "UPDATE errands SET lease = lease - 31000 WHERE id = :id", id=one.id)
    assert not await db.note(errands.keep, one)
    [again] = await db.note(errands.take, 9, {errands.Kind.WEBHOOK})
    assert await db.note(errands.keep, again)


async def test_what_is_revoked_again_after_a_restore_is_told(db: Database, acme: Workspace) -> None:
    ids = [await make(db, name) for name in ("Relay", "Printer", "Form", "Scanner")]
    await raw.sql(db, "UPDATE workspaces SET webhook_url = 'https://example.com', webhook_secret = 'x'")
    phc = (await raw.sql(db, "SELECT password_hash FROM credentials WHERE id = :id", id=ids[3]))[0][0]

    def revive(tx: Transaction) -> None:
        kinds = [("credential", ids[0], ids[0]), ("suspended", ids[1], ids[1]), ("suspended", ids[2], ids[2])]
        for kind, key, one in [*kinds, ("password", digest(phc), ids[3]), ("workspace", acme.slug, None)]:
            tx.connection.execute(insert(REVIVED).values(kind=kind, key=key, credential_id=one))

    await db.note(revive)
    await raw.sql(db, "DELETE FROM errands")
    done, _ = await replay.make_again(db, by(OWNER))
    assert len(done) == 5
    told = await raw.sql(db, "SELECT kind, event_id, last_event_id FROM errands ORDER BY id")
    assert [row.kind for row in told] == ["notice", "webhook"] * 4
    said = []
    for row in told[::2]:
        events = await db.read(audit.events, row.event_id, row.last_event_id)
        changed = await db.read(listing.by_usernames, [one.username for one in events if one.username])
        said.append((len(events), str(notices.about_change(events, changed, acme)), webhook.body(events, acme).decode()))
    words = [
        (1, "revoked again", "Relay", "credential.deleted"),
        (1, "suspended all SMTP credentials", acme.name, "workspace.suspended"),
        (2, "suspended again", "Form", "credential.suspended"),
        (1, "ended again an old password of", "Scanner", "credential.rotated"),
    ]
    for (count, drawn, body), (rows, *parts, word) in zip(said, words, strict=True):
        assert count == rows
        assert all(part in drawn for part in parts)
        assert f'"type":"{word}"' in body


async def test_every_stop_needs_its_reason_where_one_is_demanded(db: Database, acme: Workspace) -> None:
    await db.change(policy.change, by(OWNER), acme.id, policy.Policy(reason_required=True))
    for stop in (workspaces.suspend_all, credentials.order_revocation):
        for empty in (None, " "):
            with pytest.raises(ReasonRequired):
                await db.change(stop, by(OWNER), acme.id, empty)
        assert (await db.read(workspaces.by_id, acme.id)).suspended_at is None
    await db.change(workspaces.suspend_all, by(OWNER), acme.id, "a laptop was stolen")


async def test_how_long_somebody_waits_is_told_from_the_beginning_and_not_from_the_next_try(db: Database, acme: Workspace) -> None:
    await raw.sql(db, "DELETE FROM errands")
    for kind in (errands.Kind.OUTCOME, errands.Kind.WEBHOOK):
        await db.note(errands.add, kind, person="U0MIA", ids=("ref",), workspace_id=acme.id)
    await raw.sql(db, "UPDATE errands SET created_at = created_at - :ago", ago=3_600_000)
    for errand in await db.note(errands.take, 5, list(errands.Kind)):
        await db.note(errands.postpone, errand, "away", timedelta(minutes=30))
    open_ones = await db.read(errands.still_open)
    assert (open_ones.count, open_ones.due, open_ones.oldest >= 3600) == (2, frozenset(), True)
    await raw.sql(db, "DELETE FROM errands WHERE kind = 'outcome'")
    assert (await db.read(errands.still_open)).oldest == 0


async def test_messages_about_what_is_revoked_again_are_drawn_anew(db: Database, acme: Workspace) -> None:
    shell = Origin(Actor("shell:olga", "T0HOME", owner=True), Surface.SHELL, "ref")
    credential = await make(db, "Relay")
    await db.note(posted.keep, posted.Posted.ALARM, "C0ALARM", "1.1", credential_id=credential, workspace_id=acme.id)
    await raw.sql(db, "DELETE FROM errands")
    revived = {"kind": "credential", "key": credential, "credential_id": credential}
    await db.note(lambda tx: tx.connection.execute(insert(REVIVED).values(revived)))
    assert len((await replay.make_again(db, shell))[0]) == 1
    assert "C0ALARM" in str(await raw.sql(db, "SELECT * FROM errands WHERE kind = 'settle'"))

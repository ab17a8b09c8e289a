"""Searches, pages and look-ups: one rule on both databases, within bounds, and led by the indexes that are there for them."""

import asyncio
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from alembic import command
from sqlalchemy import Connection, event, insert, select

from bot import home, texts
from bot import listing as bot_listing
from bot.codec import InHome, InList
from storage import access, audit, database, errands, grants, listing, mail_servers, posted, tidy, workspaces
from storage.access import Action, Actor, Role
from storage.audit import What
from storage.database import Database, Transaction
from storage.listing import COUNTED, Order, Page, Place
from storage.models import CREDENTIALS, NEXT_NUMBER, Workspace
from storage.names import name_key, username
from storage.refusals import NoSuchCredential, NotAllowed
from tests import raw
from tests.test_storage import CHANNEL, OWNER, acme, by, make

__all__ = ["acme"]
MANY = listing.SCANNED + 1200  # so many that SQLite asks the index of words
ODD = ['quote\'d "name"', "star* NEAR(a b)", "per%cent_under\\score", "rocket 🚀🚀🚀 ship", "Straße Ｗide ﬁle", "AND OR NOT col:umn ^up"]


def credential_id(number: int) -> str:
    return f"{number:08}".translate(str.maketrans("0123456789", "bcdfghjkmn"))


def fill(tx: Transaction, workspace: Workspace, names: list[str], state: str = "active") -> None:
    """Live credentials of these names, past the rules of making one."""
    tx.attempted = True
    rows = []
    first = tx.connection.scalar(select(NEXT_NUMBER)) or 0
    for number, name in enumerate(names, start=int(first)):
        id_ = credential_id(number)
        called = {"name": name, "name_key": name_key(name), "username": username(workspace.slug, id_)}
        row = {"id": id_, "workspace_id": workspace.id, "state": state, "version": 1, "created_at": tx.now, "created_by": "U0OWNER"}
        rows.append(row | called | {"number": number})
    tx.connection.execute(insert(CREDENTIALS), rows)
    if state == "active":
        workspaces.save(tx, workspace, credential_count=workspace.credential_count + len(names))


async def filled(db: Database, workspace: Workspace, names: list[str]) -> Workspace:
    await db.note(fill, await db.read(workspaces.by_id, workspace.id), names)
    if not db.sqlite:
        await raw.sql(db, "ANALYZE")
    return await db.read(workspaces.by_id, workspace.id)


@pytest.fixture
async def large(db: Database, acme: Workspace) -> Workspace:
    """A workspace of which SQLite asks the index of words."""
    return await filled(db, acme, [*(f"Relay {number}" for number in range(MANY)), *ODD, "Lighthouse keeper"])


async def found(db: Database, workspace: Workspace, words: str) -> list[str]:
    page = await db.read(listing.page, workspace, Order.OLDEST, words, size=MANY)
    return [row.name for row in page.rows]


async def explained(db: Database, function: Callable[..., Any], *args: Any) -> str:
    """How the database goes about the statements of a read."""
    plans: list[str] = []

    def explain(tx: Transaction) -> None:
        asked: list[tuple[str, Any]] = []

        def note(_connection: Connection, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> None:
            asked.append((statement, parameters))

        event.listen(tx.connection, "before_cursor_execute", note)
        function(tx, *args)
        event.remove(tx.connection, "before_cursor_execute", note)
        for statement, parameters in asked:
            if not tx.sqlite:
                # The tables of a test are so small that reading all of them is often right.
                tx.connection.exec_driver_sql("SET enable_seqscan = off")
            rows = tx.connection.exec_driver_sql(f"EXPLAIN {'QUERY PLAN ' if tx.sqlite else ''}{statement}", parameters)
            plans.extend(str(row[-1]) for row in rows)
            if not tx.sqlite:
                tx.connection.exec_driver_sql("RESET enable_seqscan")

    await db.read(explain)
    return "\n".join(plans)


@pytest.mark.parametrize("count", [30, MANY])
async def test_a_word_matches_names_anywhere_usernames_from_the_start_and_ids_by_four(db: Database, acme: Workspace, count: int) -> None:
    here = await filled(db, acme, [*(f"Relay {number}" for number in range(count)), *ODD, "Jenkins 7", "Jenkins 8"])
    everything = await found(db, here, "")
    [id_] = await raw.sql(db, "SELECT id FROM credentials WHERE name = 'Jenkins 7'")
    jenkins = str(id_[0])
    for words, expected in {
        "jenkins": ["Jenkins 7", "Jenkins 8"],
        "JENKINS 7": ["Jenkins 7"],
        "kin 7 jenk kins": ["Jenkins 7"],
        "ki 8": ["Jenkins 8"],
        jenkins[-4:]: ["Jenkins 7"],
        f"smtp-acme-{jenkins}": ["Jenkins 7"],
        f"jenkins smtp-acme-{jenkins[:-1]}": ["Jenkins 7", "Jenkins 8"],
        jenkins[-3:]: [],
        f"acme-{jenkins}": [],
        "mtp-acme": [],
        f"smtp-zeta-{jenkins}": [],
        "smtp-acme": everything,
        "s smtp-acme-": everything,
    }.items():
        assert await found(db, here, words) == expected, words
    with pytest.raises(NoSuchCredential):
        await db.read(listing.find, here, jenkins[-3:])
    assert [one.name for one in await db.read(listing.find, here, "jenk 8")] == ["Jenkins 8"]
    assert [one.name for one in await db.read(listing.find, here, "jenk")] == ["Jenkins 8", "Jenkins 7"]


LETTERS = ["'d \"n", '"', "*", "NEAR(a", "%", "_", "\\", "🚀", "🚀🚀🚀", "STRASSE", "wide FILE", "col:umn", "^up", "-", "()", "AND", "zz"]
IMPOSSIBLE = ["x" * 4000, "ab " * 2000, "relay\0", "\ud83d", "qqqq", "relay \0", "％ﬁ" * 900]


async def test_what_means_something_to_a_database_is_only_letters(db: Database, large: Workspace) -> None:
    names = [*(f"Relay {number}" for number in range(MANY)), *ODD, "Lighthouse keeper"]
    for words in [*ODD, *LETTERS]:
        key = name_key(words).split()
        assert await found(db, large, words) == [name for name in names if all(word in name_key(name) for word in key)], words
    for words in IMPOSSIBLE:
        assert await found(db, large, words) == [], words
        with pytest.raises(NoSuchCredential):
            await db.read(listing.find, large, words)


async def test_matches_are_counted_up_to_a_bound(db: Database, large: Workspace) -> None:
    for words, total, uncounted, said in (
        ("", large.credential_count, False, f"{large.credential_count:,}"),
        ("lighthouse keeper", 1, False, "1"),
        ("relay", COUNTED, True, "more than 1,000"),
        ("re", COUNTED, True, "more than 1,000"),
    ):
        page = await db.read(listing.page, large, Order.NEWEST, words)
        assert (page.total, page.uncounted, texts.total(page)) == (total, uncounted, said), words


async def test_exactly_as_many_as_the_bound_are_counted(db: Database, acme: Workspace) -> None:
    here = await filled(db, acme, [f"Relay {number}" for number in range(COUNTED)])
    page = await db.read(listing.page, here, Order.NEWEST, "relay")
    assert (page.total, page.uncounted) == (COUNTED, False)
    here = await filled(db, here, ["One relay more"])
    page = await db.read(listing.page, here, Order.NEWEST, "relay")
    assert (page.total, page.uncounted) == (COUNTED, True)


async def test_pages_of_a_search_walk_every_match_once_and_back(db: Database, large: Workspace) -> None:
    for words in ("relay", "y 1", "lighthouse"):
        for order in Order:
            await walk(db, large, words, order)


async def walk(db: Database, large: Workspace, words: str, order: Order) -> None:
    page: Page = await db.read(listing.page, large, order, words, size=400)
    pages = [page]
    while page.next:
        page = await db.read(listing.page, large, order, words, page.next, 400)
        assert page.first == sum(len(one.rows) for one in pages) + 1
        pages.append(page)
    walked = [row.name for one in pages for row in one.rows]
    everything = await found(db, large, words)
    assert walked == (everything if order is Order.OLDEST else everything[::-1])
    for before in reversed(pages[:-1]):
        assert page.previous
        page = await db.read(listing.page, large, order, words, page.previous, 400)
        assert (page.rows, page.first) == (before.rows, before.first)
    assert page.previous is None


async def test_a_page_that_was_begun_at_somebody_elses_credential_begins_at_the_top(db: Database, acme: Workspace) -> None:
    here = await filled(db, acme, ["One", "Two"])
    for before in (True, False):
        page = await db.read(listing.page, here, Order.OLDEST, place=Place("zzzzzzzz", before, 7))
        assert ([row.name for row in page.rows], page.first, page.previous) == (["One", "Two"], 1, None)


async def test_a_deleted_or_pending_credential_and_one_of_another_workspace_is_not_found(db: Database, large: Workspace) -> None:
    zeta = await db.change(workspaces.add, by(OWNER), "zeta", "Zeta")
    await db.note(fill, zeta, ["Lighthouse in zeta"])
    for state in ("pending", "deleted"):
        await db.note(fill, large, [f"Lighthouse {state}"], state)
    assert await found(db, large, "lighthouse") == ["Lighthouse keeper"]
    zeta = await db.read(workspaces.by_id, zeta.id)
    assert await found(db, zeta, "lighthouse") == ["Lighthouse in zeta"]


async def test_a_search_in_all_workspaces_goes_by_the_rule_of_one_in_one(db: Database, large: Workspace) -> None:
    zeta = await db.change(workspaces.add, by(OWNER), "zeta", "Zeta")
    await db.note(fill, zeta, ["Lighthouse in zeta"])
    made = (await db.read(listing.anywhere, "lighthouse zeta", 10, []))[0]
    for words in ("LIGHTHOUSE zeta", made.username, made.username[:-2], made.id, made.id[2:6], f"house {made.id[4:]}"):
        assert made.id in [one.id for one in await db.read(listing.anywhere, words, 10, [])], words
    for words in (f"keeper {made.id[4:]}", f"lighthouse zeta {made.id[3:6]}", f"in zeta {made.username[1:]}"):
        assert made.id not in [one.id for one in await db.read(listing.anywhere, words, 10, [])], words
    assert [one.name for one in await db.read(listing.anywhere, "lighthouse", 10, [])] == ["Lighthouse in zeta", "Lighthouse keeper"]


async def test_one_that_was_just_made_is_found_and_stands_first(db: Database, large: Workspace) -> None:
    made = await make(db, "Brand new thing")
    here = await db.read(workspaces.by_id, large.id)
    assert await found(db, here, "brand thing") == ["Brand new thing"]
    page = await db.read(listing.page, here, Order.NEWEST)
    assert page.rows[0].id == made


@pytest.mark.parametrize("count", [30, MANY])
async def test_a_typo_names_what_was_meant(db: Database, acme: Workspace, count: int) -> None:
    here = await filled(db, acme, ["Lighthouse keeper", *(f"Relay {number}" for number in range(count))])
    for typed, meant in (("lighthuose keeper", "Lighthouse keeper"), ("LIGHTHOUSEKEEPER", "Lighthouse keeper"), ("xyzzy", None)):
        with pytest.raises(NoSuchCredential) as caught:
            await db.read(listing.find, here, typed)
        assert caught.value.closest == meant


async def test_searches_and_looks_use_the_indexes_made_for_them(db: Database, large: Workspace) -> None:
    async def uses(index: str, function: Callable[..., Any], *args: Any) -> None:
        plan = await explained(db, function, *args)
        assert index in plan, plan
        assert "SCAN credentials" not in plan, plan
        assert "Seq Scan on credentials" not in plan, plan

    person = Actor("U0PERSON", "T0HOME")
    await uses("credentials_live_name", listing.find, large, "Lighthouse keeper")
    await uses("(workspace_id=? AND number=?)" if db.sqlite else "credentials_words", listing.page, large, Order.NEWEST, "lighthouse")
    await uses("credentials_list", listing.page, large, Order.NEWEST)
    await uses("credentials_list", listing.page, large, Order.NEWEST, "relay")
    await uses("role_grants_", access.rights, person, large)
    await uses("role_grants_workspace", access.helpers, "T0HOME", large)
    await uses("role_grants_workspace", access.to_ask, "U0PERSON", "T0HOME", [large.id])
    await uses("role_grants_one", access.to_ask, "U0PERSON", "T0HOME", None)
    await uses("workspaces_name", access.visible_workspaces, OWNER, Action.LIST, 501)
    await uses("audit_events_workspace_user" if db.sqlite else "audit_events_", audit.latest, large, "U0PERSON")
    await uses("audit_events_username", audit.latest, large, "smtp-acme-12345678")
    await uses("audit_events_credential", audit.latest, large, "12345678")
    await uses("audit_events_subject", audit.latest, large, "C0CHANNEL")
    await uses("audit_events_workspace", audit.latest, large)
    await uses("credentials_deleted_name", listing.deleted, large, "Lighthouse keeper")
    await uses("credentials_owner", tidy.idle_of, "U0PERSON", large.id, 90)
    await uses("posted_messages_workspace", posted.about_workspace, large.id)
    await uses("errands_credential", errands._just_told, "12345678")
    await uses("audit_events_username", mail_servers.proof, "smtp-acme-12345678", What.DELETE)


async def test_a_list_and_a_tab_take_few_statements(db: Database, large: Workspace) -> None:
    def count(tx: Transaction, function: Callable[..., Any], *args: Any) -> int:
        asked: list[str] = []

        def note(_connection: Connection, _cursor: Any, statement: str, *_more: Any) -> None:
            if statement != "BEGIN":
                asked.append(statement)

        event.listen(tx.connection, "before_cursor_execute", note)
        function(tx, *args)
        event.remove(tx.connection, "before_cursor_execute", note)
        return len(asked)

    member = Actor("U0MEMBER", "T0HOME", channel=CHANNEL)
    assert await db.read(count, bot_listing.look, member, large.id, InList(order=Order.NEWEST)) == 5
    assert await db.read(count, bot_listing.look, OWNER, large.id, InList(order=Order.NEWEST)) == 4
    assert await db.read(count, home.look, OWNER, InHome(workspace=large.id), 90) == 7
    assert await db.read(count, access.to_ask, "U0MEMBER", "T0HOME", [large.id]) == 1
    assert await db.read(count, listing.find, large, "Lighthouse keeper") == 1


async def test_a_list_holds_no_hash(db: Database, acme: Workspace) -> None:
    await make(db, "Relay")
    here = await db.read(workspaces.by_id, acme.id)
    page = await db.read(listing.page, here, Order.NEWEST)
    assert "argon2" not in repr(page)


async def test_a_database_that_refuses_the_extension_searches_without_an_index(postgres_server: str) -> None:
    with psycopg.connect(f"{postgres_server}/postgres", autocommit=True) as connection:
        connection.execute("CREATE ROLE plain LOGIN")
        connection.execute("CREATE DATABASE plain")
    with psycopg.connect(f"{postgres_server}/plain", autocommit=True) as connection:
        connection.execute("GRANT CREATE ON SCHEMA public TO plain")  # but not on the database, so no extension
    db = Database(f"{postgres_server.replace('bot@', 'plain@')}/plain")
    try:
        await db.upgrade()
        assert await raw.one(db, "SELECT count(*) FROM pg_extension WHERE extname = 'pg_trgm'") == 0
        acme = await db.change(workspaces.add, by(OWNER), "acme", "Acme")
        here = await filled(db, acme, [f"Relay {number}" for number in range(MANY)])
        assert await found(db, here, "elay 3199") == ["Relay 3199"]
        with pytest.raises(NoSuchCredential) as caught:
            await db.read(listing.find, here, "Rleay 3199")
        assert caught.value.closest == "Relay 3199"
    finally:
        await db.close()


async def test_the_migration_counts_what_is_there_in_the_order_it_was_made(empty_database_url: str) -> None:
    db = Database(empty_database_url)

    def old(connection: Connection) -> None:
        config = database._config()
        config.attributes.update(connection=connection, progress=print, pooled=False)
        command.upgrade(config, "0002")
        connection.exec_driver_sql(
            "INSERT INTO workspaces (id, slug, name, credential_count, notify_created, notify_deleted, created_at, created_by)"
            " VALUES (1, 'acme', 'Acme', 5000, true, true, 1, 'U1')"
        )
        for number in range(5):
            connection.exec_driver_sql(
                "INSERT INTO credentials (id, workspace_id, name, name_key, username, state, version, created_at, created_by)"
                f" VALUES ('{credential_id(number)}', 1, 'Relay {number}', 'relay {number}', 'smtp-acme-{credential_id(number)}',"
                f" '{'deleted' if number == 3 else 'active'}', 1, {100 - number}, 'U1')"
            )
        connection.commit()

    try:
        await asyncio.to_thread(db.on_own_connection, old)
        await db.upgrade()
        here = await db.read(workspaces.by_id, 1)  # said to be large, so that the index of words is asked
        assert await found(db, here, "") == ["Relay 4", "Relay 2", "Relay 1", "Relay 0"]
        assert await found(db, here, "relay") == ["Relay 4", "Relay 2", "Relay 1", "Relay 0"]
        assert await found(db, here, "lay 2") == ["Relay 2"]
        await db.note(fill, here, ["Relay new"])
        assert (await found(db, here, "relay new"), (await found(db, here, ""))[-1]) == (["Relay new"], "Relay new")
    finally:
        await db.close()


async def test_who_administers_and_who_must_be_asked_about(db: Database, acme: Workspace) -> None:
    zeta = await db.change(workspaces.add, by(OWNER), "zeta", "Zeta")
    given = [
        ("S0ALL", Role.READER, None),
        ("S0HERE", Role.ADMIN, acme.id),
        ("S0THERE", Role.ADMIN, zeta.id),
        ("U0ADAM", Role.ADMIN, acme.id),
    ]
    for principal, role, where in [*given, ("W0WRITER", Role.WRITER, acme.id), ("U0ALL", Role.ADMIN, None)]:
        await db.change(grants.grant, by(OWNER), "T0HOME", principal, role, where)

    async def groups(where: list[int] | None) -> list[str]:
        return (await db.read(access.to_ask, "U0X", "T0HOME", where)).groups

    assert await groups([acme.id]) == ["S0ALL", "S0HERE"]
    assert await groups([]) == ["S0ALL"]
    assert await groups(None) == ["S0ALL", "S0HERE", "S0THERE"]
    assert await db.read(access.helpers, "T0HOME", acme) == ["S0HERE", "U0ADAM", "U0ALL"]
    assert await db.read(access.helpers, "T0HOME", None) == ["U0ALL"]
    assert await db.read(access.principals, "T0HOME", acme, Action.CREATE) == ["S0HERE", "U0ADAM", "U0ALL", "W0WRITER"]
    with pytest.raises(NotAllowed):
        await db.read(access.may, Actor("U0ADAM", "T0HOME"), Action.ADMINISTER, zeta)
    assert [one.slug for one in await db.read(access.visible_workspaces, Actor("U0ADAM", "T0HOME"), Action.LIST, 9)] == ["acme"]
    assert [one.slug for one in await db.read(access.visible_workspaces, Actor("U0ALL", "T0HOME"), Action.LIST, 9)] == ["acme", "zeta"]
    in_group = Actor("U0X", "T0HOME", groups={"S0THERE": 0})
    assert [one.slug for one in await db.read(access.visible_workspaces, in_group, Action.LIST, 9)] == ["zeta"]


async def test_home_shows_the_workspace_that_was_asked_for_only_to_those_who_may_see_it(db: Database, acme: Workspace) -> None:
    zeta = await db.change(workspaces.add, by(OWNER), "zeta", "Zeta")
    await db.change(grants.grant, by(OWNER), "T0HOME", "U0ADAM", Role.ADMIN, acme.id)
    for actor, wanted, shown in ((OWNER, zeta.id, "zeta"), (OWNER, 999, "acme"), (Actor("U0ADAM", "T0HOME"), zeta.id, "acme")):
        seen = await db.read(home.look, actor, InHome(workspace=wanted), 90)
        assert seen is not None
        assert seen.workspace.slug == shown
    assert await db.read(home.look, Actor("U0NOBODY", "T0HOME"), InHome(workspace=acme.id), 90) is None


async def test_the_audit_log_is_asked_in_the_column_that_the_word_fits(db: Database, acme: Workspace) -> None:
    made = await make(db, "Relay")
    await make(db, "Other")
    zeta = await db.change(workspaces.add, by(OWNER), "zeta", "Zeta")

    async def actions(workspace: Workspace | None, about: str | None, **more: Any) -> list[str]:
        return [one.action for one in await db.read(audit.latest, workspace, about, **more)]

    assert await actions(acme, made) == ["activate", "create"]
    assert await actions(acme, f"smtp-acme-{made}") == ["activate", "create"]
    assert await actions(None, f"smtp-acme-{made}", limit=1) == ["activate"]
    assert await actions(zeta, made) == []
    assert await actions(acme, CHANNEL) == ["channel.map"]
    assert await actions(None, "zeta") == ["workspace.add"]
    assert await actions(acme, OWNER.user) == ["activate", "create", "activate", "create", "channel.map", "workspace.add"]
    assert await actions(acme, OWNER.user, limit=2) == ["activate", "create"]
    assert await actions(zeta, OWNER.user) == ["workspace.add"]
    assert await actions(acme, OWNER.user, before=2) == ["workspace.add"]


async def test_verify_says_how_far_it_is(db: Database, acme: Workspace) -> None:
    await make(db, "Relay")
    told: list[tuple[int, int]] = []
    await db.read(audit.verify, progress=lambda done, of: told.append((done, of)))
    assert told[-1] == (4, 4)

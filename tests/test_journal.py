"""A store that goes back in time, and the journal that knows better: nothing that was revoked works again, and it is said."""

import asyncio
import contextlib
import fcntl
import itertools
import os
import resource
import shutil
import signal
import sqlite3
import stat
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import aiohttp
import psycopg
import pytest
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs

from mailauth.policy import PolicyRequest
from mailauth.verifier import Answer, Verifier
from storage import audit, credentials, lifecycle, passwords, replay, workspaces
from storage.access import Actor
from storage.audit import Origin, Surface
from storage.database import Database, StaleWal, Transaction
from storage.journal import Journal, Memory, State, digest
from storage.models import Credential
from storage.passwords import Hasher
from storage.past import Past
from storage.refusals import NotAllowed
from tests import raw
from tests.stage import Stage
from tests.test_authd import Client

BY = Origin(Actor("U0OWNER", "T0HOME", owner=True), Surface.MODAL, "ref", "C0MAIL", "V1")
STRANGER = Origin(Actor("U0OTHER", "T0HOME"), Surface.BUTTON, "ref", "D0")
ID = "7k2m9x4q"
STORE = "a" * 32
HASH = "b" * 64


_numbers = itertools.count(1)


# --- going back in time ---
async def back_up(db: Database, folder: Path) -> Callable[[], Awaitable[None]]:
    """Makes a backup of a store that goes on; what is returned restores it, under everything that runs."""
    if db.sqlite:
        path, kept = db.url.database or "", folder / f"{next(_numbers)}.db"
        _copy(path, str(kept))

        async def restore() -> None:
            await asyncio.to_thread(_copy, str(kept), path)

        return restore
    url = db.url.set(drivername="postgresql").render_as_string(hide_password=False)
    name = db.url.database or ""
    kept_name = f"{name}_backup{next(_numbers)}"
    server = url.rpartition("/")[0] + "/postgres"
    await asyncio.to_thread(_clone, server, name, kept_name, False)

    async def restore_postgres() -> None:
        await asyncio.to_thread(_clone, server, kept_name, name, True)

    return restore_postgres


def _copy(source: str, target: str) -> None:
    with contextlib.closing(sqlite3.connect(source)) as here, contextlib.closing(sqlite3.connect(target, timeout=20)) as there:
        here.backup(there)


def _clone(server: str, source: str, target: str, instead: bool) -> None:
    """PostgreSQL copies a database as a template, once nobody is connected to it."""
    with psycopg.connect(server, autocommit=True) as connection:
        if instead:
            connection.execute(f"DROP DATABASE {target} WITH (FORCE)")
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [source])
        while True:
            try:
                connection.execute(f"CREATE DATABASE {target} TEMPLATE {source}")
                return
            except psycopg.errors.ObjectInUse:
                connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [source])


@dataclass
class Made:
    id: str
    username: str
    password: str


@dataclass
class House:
    """A store, and an `authd` on a host of its own with its journal."""

    db: Database
    folder: Path
    hasher: Hasher = field(default_factory=lambda: Hasher(8, 1, 1))
    open: list[Verifier] = field(default_factory=list)

    def authd(self, host: str = "host1") -> Verifier:
        made = Verifier(self.db, self.hasher, journal=Journal(self.folder / f"{host}.journal"))
        self.open.append(made)
        return made

    async def make(self, name: str) -> Made:
        credential, _ = await self.db.change(credentials.create_pending, BY, "C0MAIL", name, f"view {name}")
        password = passwords.generate(credential.id)
        hashed = await self.hasher.hash(password)
        await self.db.change(credentials.activate, BY, credential.id, hashed, passwords.tag(password))
        return Made(credential.id, credential.username, password)

    async def rotate(self, made: Made, overlap: timedelta | None = None) -> Made:
        before, _ = await self.db.read(credentials.get, made.id)
        key = os.urandom(4).hex()
        await self.db.change(lifecycle.begin_rotation, BY, made.id, "C0MAIL", key, lifecycle.rotation_mark(before))
        password = passwords.generate(made.id)
        hashed = await self.hasher.hash(password)
        await self.db.change(lifecycle.finish_rotation, BY, made.id, key, hashed, passwords.tag(password), overlap)
        return Made(made.id, made.username, password)

    async def says(self, authd: Verifier, made: Made) -> str:
        return (await authd.check(made.username, made.password, None, "smtp")).answer.value

    async def get(self, made: Made) -> Credential:
        return (await self.db.read(credentials.get, made.id))[0]


@pytest.fixture
async def house(db: Database, tmp_path: Path) -> AsyncIterator[House]:
    for slug, channel in (("acme", "C0MAIL"), ("zeta", "C0ZETA")):
        workspace = await db.change(workspaces.add, BY, slug)
        await db.change(workspaces.map_channel, BY, "T0HOME", channel, workspace.id)
    folder = tmp_path / "hosts"
    folder.mkdir()
    made = House(db, folder)
    yield made
    for verifier in made.open:
        if verifier.past:
            verifier.past.close()
    made.hasher.close()


async def past_of(verifier: Verifier) -> Past:
    assert verifier.past
    await verifier.past.follow()
    return verifier.past


async def test_what_was_revoked_stays_refused_after_a_restore_with_everything_running(house: House, tmp_path: Path) -> None:
    backups = tmp_path / "backups"
    backups.mkdir()
    leaked, held, rotated, fine = [await house.make(name) for name in ("Leaked", "Held", "Rotated", "Fine")]
    authd = house.authd()
    for one in (leaked, held, rotated, fine):
        assert await house.says(authd, one) == "yes"
    restore = await back_up(house.db, backups)
    await house.db.change(credentials.delete, BY, leaked.id)
    await house.db.change(lifecycle.suspend, BY, held.id)
    renewed = await house.rotate(rotated)
    assert await house.says(authd, renewed) == "yes"
    past = await past_of(authd)
    await restore()
    # Nothing was looked at since: the very first log-in is refused.
    assert [await house.says(authd, one) for one in (leaked, held, rotated, renewed)] == ["no"] * 4
    assert await house.says(authd, fine) == "yes"
    later = await house.make("Made after the restore")
    assert await house.says(authd, later) == "yes"
    await past.follow()
    assert past.standing.count == 3
    assert past.remark is not None
    assert "the database went back in time" in past.remark
    assert b"421" in await authd.gate.decide(PolicyRequest(leaked.username, "MAIL"))
    assert (await house.db.read(audit.verify)).broken is None, "the chain alone says nothing of it"
    with pytest.raises(NotAllowed):
        await replay.make_again(house.db, STRANGER)
    done, settled = await replay.make_again(house.db, BY)
    assert sorted(line.partition(": ")[2] for line in done) == ["an old password ended; it needs a new one", "deleted", "suspended"]
    assert len(settled) == 1
    assert [(await house.get(one)).state for one in (leaked, held, rotated)] == ["deleted", "suspended", "active"]
    assert (await house.get(rotated)).password_hash is None
    replayed = [event for event in await house.db.read(audit.latest, None) if event.action == "store.replay" and event.outcome == "done"]
    assert {event.username for event in replayed} == {leaked.username, held.username, rotated.username, None}
    await past.follow()
    await past.follow()
    assert past.remark is None
    assert past.journal.memory.back is None
    await house.db.change(lifecycle.resume, BY, held.id)
    assert await house.says(authd, held) == "yes", "whoever resumes it decided anew"
    assert await house.says(authd, await house.rotate(rotated)) == "yes"
    assert await house.says(authd, rotated) == "no"


async def test_the_same_version_reached_again_revives_no_password(house: House, tmp_path: Path) -> None:
    backups = tmp_path / "backups"
    backups.mkdir()
    first = await house.make("Relay")
    authd = house.authd()
    restore = await back_up(house.db, backups)
    lost = await house.rotate(first)
    assert [await house.says(authd, one) for one in (first, lost)] == ["no", "yes"]
    version = (await house.get(first)).version
    await past_of(authd)
    await restore()
    present = await house.rotate(first)
    assert (await house.get(first)).version == version
    assert [await house.says(authd, one) for one in (first, lost, present)] == ["no", "no", "yes"]


async def test_a_password_whose_hash_was_renewed_is_known_by_both(house: House, tmp_path: Path) -> None:
    backups = tmp_path / "backups"
    backups.mkdir()
    first = await house.make("Relay")
    old_hash = (await house.get(first)).password_hash
    restore = await back_up(house.db, backups)
    house.hasher.close()
    house.hasher = Hasher(16, 1, 1)
    authd = house.authd()
    assert await house.says(authd, first) == "yes"
    await asyncio.gather(*authd._noting)
    assert (await house.get(first)).password_hash != old_hash
    await house.rotate(first)
    await past_of(authd)
    await restore()
    assert (await house.get(first)).password_hash == old_hash
    assert await house.says(authd, first) == "no"


async def test_an_overlap_that_ended_and_a_workspace_that_was_suspended_stay_so(house: House, tmp_path: Path) -> None:
    backups = tmp_path / "backups"
    backups.mkdir()
    first = await house.make("Relay")
    second = await house.rotate(first, timedelta(days=1))
    authd = house.authd()
    restore = await back_up(house.db, backups)
    await house.db.change(lifecycle.end_previous, BY, first.id)
    await past_of(authd)
    await restore()
    assert [await house.says(authd, one) for one in (first, second)] == ["no", "yes"]
    acme = (await house.get(first)).workspace_id
    await house.db.change(workspaces.suspend_all, BY, acme)
    past = await past_of(authd)
    assert await house.says(authd, second) == "no"
    await restore()
    assert await house.says(authd, second) == "no"
    await past.follow()
    await replay.make_again(house.db, BY)
    assert (await house.db.read(workspaces.by_id, acme)).suspended_at
    assert (await house.get(first)).previous_hash is None
    await house.db.change(workspaces.resume_all, BY, acme)
    await past.follow()
    await past.follow()
    assert [await house.says(authd, one) for one in (first, second)] == ["no", "yes"]


async def test_authd_started_after_the_restore_has_its_journal(house: House, tmp_path: Path) -> None:
    backups = tmp_path / "backups"
    backups.mkdir()
    leaked = await house.make("Leaked")
    before = house.authd()
    restore = await back_up(house.db, backups)
    await house.db.change(credentials.delete, BY, leaked.id)
    (await past_of(before)).close()
    await restore()
    assert await house.says(house.authd(), leaked) == "no"
    other = house.authd("host2")
    assert await house.says(other, leaked) == "yes", "another host, without a journal of its own"
    await house.db.change(credentials.delete, BY, leaked.id)
    assert await house.says(other, leaked) == "no"


async def test_a_file_put_in_the_place_of_the_open_one_is_held_against_the_journal(house: House, tmp_path: Path) -> None:
    if not house.db.sqlite:
        return
    path = house.db.url.database or ""
    leaked = await house.make("Leaked")
    authd = house.authd()
    _copy(path, str(tmp_path / "backup.db"))
    await house.db.change(credentials.delete, BY, leaked.id)
    past = await past_of(authd)
    os.replace(tmp_path / "backup.db", path)
    assert await house.says(authd, leaked) == Answer.LATER, "beside the -wal of the file before, it is not opened"
    for suffix in ("-wal", "-shm"):
        os.remove(path + suffix)
    assert await house.says(authd, leaked) == Answer.NO
    await past.follow()
    assert past.standing.count == 1


async def test_without_its_journal_it_says_that_it_cannot_know(house: House, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    backups = tmp_path / "backups"
    backups.mkdir()
    leaked = await house.make("Leaked")
    before = house.authd()
    restore = await back_up(house.db, backups)
    await house.db.change(credentials.delete, BY, leaked.id)
    past = await past_of(before)
    past.close()
    past.journal.path.unlink()
    await restore()
    fresh = house.authd()
    assert await house.says(fresh, leaked) == "yes"
    assert fresh.past
    with capture_logs() as said:
        await fresh.past.say()
    assert fresh.past.journal.began == (await house.db.read(audit.head)).event
    assert "whether the database was restored before that" in said[0]["event"]


async def test_a_store_that_goes_back_twice_is_noticed_twice(house: House, tmp_path: Path) -> None:
    backups = tmp_path / "backups"
    backups.mkdir()
    first, second = await house.make("First"), await house.make("Second")
    authd = house.authd()
    older = await back_up(house.db, backups)
    await house.db.change(credentials.delete, BY, first.id)
    newer = await back_up(house.db, backups)
    await house.db.change(credentials.delete, BY, second.id)
    past = await past_of(authd)
    await newer()
    assert [await house.says(authd, one) for one in (first, second)] == ["no", "no"]
    await past.follow()
    assert past.standing.count == 1
    await house.db.change(replay.announce, BY, ["U0OLGA"])
    await past.follow()
    await older()
    assert [await house.says(authd, one) for one in (first, second)] == ["no", "no"]
    await past.follow()
    assert past.standing.count == 2
    assert [one.told_at for one in past.standing.restores] == [None], "told anew"
    await replay.make_again(house.db, BY)
    assert [(await house.get(one)).state for one in (first, second)] == ["deleted", "deleted"]


async def test_a_store_that_went_back_and_grew_past_the_old_head_is_noticed(house: House, tmp_path: Path) -> None:
    backups = tmp_path / "backups"
    backups.mkdir()
    leaked = await house.make("Leaked")
    authd = house.authd()
    restore = await back_up(house.db, backups)
    await house.db.change(credentials.delete, BY, leaked.id)
    past = await past_of(authd)
    last = past.journal.memory.head
    await restore()
    deleted = await house.make("Deleted after the restore")
    await house.db.change(credentials.delete, BY, deleted.id)
    assert last
    assert (await past.follow()).event > last.event
    assert past.journal.memory.names(leaked.id, "acme")
    assert past.journal.memory.names(deleted.id, "acme")
    assert past.standing.count == 1


async def test_every_host_adds_what_its_journal_knows(house: House, tmp_path: Path) -> None:
    backups = tmp_path / "backups"
    backups.mkdir()
    first, second = await house.make("First"), await house.make("Second")
    one, two = house.authd("host1"), house.authd("host2")
    restore = await back_up(house.db, backups)
    await house.db.change(credentials.delete, BY, first.id)
    await past_of(one)
    await past_of(two)
    await house.db.change(credentials.delete, BY, second.id)
    await past_of(two)
    await restore()
    await past_of(one)
    assert (await past_of(two)).standing.count == 2
    assert await house.db.change(replay.announce, BY, ["U0OLGA"])
    assert not await house.db.change(replay.announce, BY, ["U0OLGA"]), "once"
    done, _ = await replay.make_again(house.db, BY)
    assert len(done) == 2
    for authd in (one, two):
        past = await past_of(authd)
        await past.follow()
        assert past.journal.memory.back is None


async def test_the_journal_goes_on_only_once_somebody_settled_it(house: House, tmp_path: Path) -> None:
    backups = tmp_path / "backups"
    backups.mkdir()
    leaked = await house.make("Leaked")
    authd = house.authd()
    restore = await back_up(house.db, backups)
    await house.db.change(credentials.delete, BY, leaked.id)
    await past_of(authd)
    await restore()
    past = await past_of(authd)
    await house.db.change(credentials.delete, BY, leaked.id)
    await past.follow()
    assert await replay.missing(house.db, past.journal.memory) == []
    assert past.journal.memory.back, "nothing that was revoked works again, but nobody has said so"
    await house.db.change(replay.settle, BY)
    await past.follow()
    assert past.journal.memory.back is None


async def test_a_clock_that_goes_back_changes_nothing(house: House, tmp_path: Path) -> None:
    backups = tmp_path / "backups"
    backups.mkdir()
    leaked = await house.make("Leaked")
    authd = house.authd()
    await past_of(authd)
    now = house.db.clock
    house.db.clock = lambda: now() - timedelta(days=400)
    await house.db.change(credentials.delete, BY, leaked.id)
    past = await past_of(authd)
    assert past.remark is None
    assert leaked.id in past.journal.memory.deleted


async def test_while_the_database_is_away_nobody_gets_in_by_the_journal(house: House) -> None:
    made = await house.make("Relay")
    await raw.sql(house.db, "ALTER TABLE facts RENAME TO away")
    assert await house.says(house.authd(), made) == Answer.LATER, "it does not know yet what must not work"
    await raw.sql(house.db, "ALTER TABLE away RENAME TO facts")


async def test_authd_as_killed_processes_keeps_its_journal_and_the_log_knows_it_too(house: House, tmp_path: Path) -> None:
    leaked, fine = await house.make("Leaked"), await house.make("Fine")
    restore = await back_up(house.db, tmp_path)
    journal, log = tmp_path / "journal", tmp_path / "log"
    environment = os.environ | {
        "DATABASE_URL": house.db.url.set(drivername=house.db.url.get_backend_name()).render_as_string(hide_password=False),
        "AUTHD_LISTEN": f"unix:{tmp_path / 'auth'}",
        "REVOKED_JOURNAL": str(journal),
        "LOG_FORMAT": "json",
        "PYTHONPATH": str(Path(__file__).parent.parent),
    }
    first = await started(environment, log, tmp_path)
    client = await asked(tmp_path)
    assert [await client.log_in(one.username, one.password) for one in (leaked, fine)] == ["OK", "OK"]
    await house.db.change(credentials.delete, BY, leaked.id)
    await asyncio.to_thread(appears, log, f"ended {leaked.id} ")
    os.killpg(first.pid, signal.SIGKILL)
    await first.wait()
    assert f"ended {leaked.id} " in journal.read_text(), "it is on the disk before it is in the log"
    await restore()
    second = await started(environment, log, tmp_path)
    try:
        client = await asked(tmp_path)
        assert [await client.log_in(one.username, one.password) for one in (leaked, fine)] == ["FAIL", "OK"]
    finally:
        os.killpg(second.pid, signal.SIGKILL)
        await second.wait()
    replaying = [sys.executable, "-m", "bot", "db", "replay", str(log)]
    shell = await asyncio.create_subprocess_exec(*replaying, env=environment, cwd=tmp_path, stdout=asyncio.subprocess.PIPE)
    said, _ = await asyncio.wait_for(shell.communicate(), 120)
    assert f"{leaked.username}: deleted" in said.decode()


async def started(environment: dict[str, str], log: Path, folder: Path) -> asyncio.subprocess.Process:
    """Two workers that share a journal, once they listen."""
    (folder / "auth").unlink(missing_ok=True)
    with log.open("ab") as written:
        before = written.tell()
        arguments = ("-m", "bot", "authd", "--workers", "2")
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, env=environment, cwd=folder, stderr=written, start_new_session=True
        )
    await asyncio.to_thread(appears, log, '"ready"', 2, before)
    return process


def appears(log: Path, what: str, count: int = 1, after: int = 0) -> None:
    """Waits until it stands there so often."""
    until = time.monotonic() + 40
    while log.read_bytes()[after:].decode().count(what) < count:
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.05)


async def asked(folder: Path) -> Client:
    client = Client(*await asyncio.open_unix_connection(str(folder / "auth")))
    await client.greet()
    return client


# --- the audit log, held against something outside ---
async def test_a_chain_rewritten_from_scratch_is_found_by_a_head_that_was_kept(house: House) -> None:
    await house.make("Relay")
    kept = await house.db.read(audit.head)
    await house.make("Printer")
    assert (await house.db.read(audit.verify, kept)).broken is None
    await raw.allow_rewriting(house.db)

    def rewrite(tx: Transaction) -> None:
        events = audit.events(tx, 1, 10_000)
        tx.connection.exec_driver_sql("DELETE FROM audit_events")
        tx.connection.exec_driver_sql(f"UPDATE audit_head SET last_event = 0, last_hash = '{audit.GENESIS}'")
        for event in events:
            row = {name: getattr(event, name) for name in ("outcome", "cause", "workspace_id", "credential_id", "username", "subject")}
            audit._append(tx, audit.What(event.action), BY, [row | {"role": None, "role_via": None, "role_age": None}], None)

    await house.db.note(rewrite)
    assert (await house.db.read(audit.verify)).broken is None
    assert (await house.db.read(audit.verify, kept)).broken == kept.event


async def test_insert_or_replace_does_not_pass_the_triggers(house: House) -> None:
    verb = "INSERT OR REPLACE INTO" if house.db.sqlite else "INSERT INTO"
    columns = "id, at, action, outcome, user_id, surface, reference, previous_hash, hash"
    row = "SELECT id, at, action, outcome, 'U0SOMEBODY', surface, reference, previous_hash, hash FROM audit_events WHERE id = 1"
    clause = "" if house.db.sqlite else " ON CONFLICT (id) DO UPDATE SET user_id = 'U0SOMEBODY'"
    with pytest.raises(DBAPIError, match="append-only"):
        await raw.sql(house.db, f"{verb} audit_events ({columns}) {row}{clause}")


# --- every denial has its row ---
DOORS = [
    ("gus", "/smtp", "open", "barred"),
    ("gus", "/smtp list", "list", "barred"),
    ("gus", "/smtp whois {other}", "whois", "barred"),
    ("gus", "/smtp revoke {other}", "delete", "barred"),
    ("gus", "/smtp delete {other}", "delete", "barred"),
    ("rita", "/smtp whois {other}", "whois", "no_such_credential"),
    ("rita", "/smtp revoke {other}", "delete", "not_allowed"),
    ("rita", "/smtp revoke smtp-zeta-00000000", "delete", "no_such_credential"),
    ("rita", "/smtp delete {other}", "delete", "not_allowed"),
    ("rita", "/smtp create Printer", "create", "not_allowed"),
    ("rita", "/smtp audit", "open", "not_allowed"),
]


async def test_every_denial_of_a_typed_command_has_its_row(play: Stage) -> None:
    other = (await _elsewhere(play)).username
    seen = 0
    for who, typed, action, cause in DOORS:
        person = {"gus": play.gus, "rita": play.rita}[who]
        await person.types(play.mail, typed.format(other=other))
        await play.settled()
        denied = (await play.events(outcome="refused"))[seen:]
        seen += len(denied)
        assert [(one.user_id, one.action, one.cause) for one in denied] == [(person.id, action, cause)], typed
        if "{other}" in typed and who == "rita":
            assert denied[0].username == other


async def test_a_guest_who_opens_the_home_tab_has_a_row(play: Stage) -> None:
    await play.gus.opens_home()
    await play.gus.sees_home("Guests can't manage SMTP credentials")
    assert [one.cause for one in await play.events(user_id=play.gus.id, outcome="refused")] == ["barred"]


async def _elsewhere(play: Stage) -> Credential:
    """A credential of the workspace where nobody but an owner has a role."""
    by = Origin(Actor("shell:test", play.slack.world.team.id, owner=True), Surface.SHELL, "test", play.other.id)
    made, _ = await play.db.change(credentials.create_pending, by, play.other.id, "Elsewhere", "view")
    return await play.db.change(credentials.activate, by, made.id, "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaA")


# --- the owners ---
async def test_the_owners_read_it_and_revoke_again(play: Stage, tmp_path: Path) -> None:
    await play.create(play.wanda, "Relay")
    await play.create(play.wanda, "Printer")
    relay = next(one for one in await play.credentials() if one.name == "Relay")
    assert play.bot.past
    await play.settled()
    folder = tmp_path / "backups"
    folder.mkdir()
    restore = await back_up(play.db, folder)
    await play.wanda.types(play.mail, f"/smtp delete {relay.username}")
    await play.wanda.sees_modal("Relay")
    await play.wanda.submits()
    await play.wanda.sees_modal("deleted")
    await play.settled()
    await play.bot.past.follow()
    await restore()
    assert len(await play.passdb()) == 2
    message = await play.olga.sees("The database went back in time")
    assert relay.username in play.olga.read(message)
    await play.bot.past.follow()
    async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{play.bot.metrics_port}/readyz") as ready:
        assert (ready.status, (await ready.text()).partition(",")[0]) == (200, "ready")
        assert "1 that were revoked are in it as if they worked" in await ready.text()
    async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{play.bot.metrics_port}/metrics") as metrics:
        assert "smtp_bot_store_went_back 1.0" in await metrics.text()
    await play.olga.presses("Revoke them again")
    await play.olga.sees(f"{relay.username}: deleted")
    assert len(await play.passdb()) == 1
    assert [one.username for one in await play.events(action="store.replay", user_id=play.olga.id, credential_id=relay.id)] == [
        relay.username
    ]
    assert len(await play.events(action="store.went_back")) == 1


# --- the file ---
def test_it_is_for_its_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        journal = Journal(tmp_path / "journal")
        journal.exchange(STORE, 0, [f"ended {ID} 1 -"])
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "journal").stat().st_mode) == 0o600
    assert (tmp_path / "journal").read_text() == f"smtp-bot-journal 1 {STORE} 0\nended {ID} 1 -\n"
    assert journal.state is State.KEPT
    journal.close()
    (tmp_path / "journal").chmod(0o644)
    Journal(tmp_path / "journal").exchange(STORE, 0)
    assert stat.S_IMODE((tmp_path / "journal").stat().st_mode) == 0o600


def names(path: Path, store: str = STORE) -> Journal:
    """The journal, as a process reads it that starts now."""
    journal = Journal(path, create=False)
    journal.exchange(store, 0)
    return journal


def test_processes_share_it(tmp_path: Path) -> None:
    one, two = Journal(tmp_path / "journal"), Journal(tmp_path / "journal")
    assert one.exchange(STORE, 0, [f"ended {ID} 1 -", "suspended abcdefgh 2", f"head 2 {HASH}"])
    assert two.exchange(STORE, 0, [f"ended {ID} 1 -"]) == [], "it is there already"
    assert two.exchange(STORE, 0, ["resumed abcdefgh 3", "stopped acme 4"]) == ["resumed abcdefgh 3", "stopped acme 4"]
    assert one.memory.names("abcdefgh", "zeta") is False or one.exchange(STORE, 0) == []
    assert (one.memory.suspended, set(one.memory.workspaces)) == ({}, {"acme"})
    assert (tmp_path / "journal").read_text().count(ID) == 1
    assert names(tmp_path / "journal").memory.names(ID, "zeta")


def test_half_a_line_and_half_a_file_are_read_for_what_is_left(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    Journal(path).exchange(STORE, 0, [f"ended {number:08d} {number} -" for number in range(100)])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    half = names(path)
    assert (half.state, 45 <= len(half.memory) <= 55) == (State.KEPT, True)
    half.exchange(STORE, 0, [f"ended {ID} 200 -"])
    again = names(path)
    assert (again.skipped, len(again.memory)) == (0, len(half.memory))
    path.write_bytes(path.read_bytes() + b"nonsense\n\xff\xfe\nended zzzzzzzz 300 -\n")
    assert (names(path).skipped, names(path).memory.names("zzzzzzzz", "acme")) == (2, True)


def test_a_file_that_is_cut_or_taken_away_under_a_process_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    journal.exchange(STORE, 0, [f"ended {ID} 1 -"])
    for size in (None, 0, len(FIRST_LINE)):
        if size is None:
            path.unlink()
        else:
            os.truncate(path, size)
        journal.exchange(STORE, 5, [])
        assert names(path).memory.names(ID, "acme")


FIRST_LINE = f"smtp-bot-journal 1 {STORE} 0\n"


@pytest.mark.parametrize(
    ("content", "state"),
    [
        (f"smtp-bot-journal 1 {'c' * 32} 0\nended {ID} 1 -\n", State.FOREIGN),
        ("something else\n", State.UNREADABLE),
        ("\0" * 4096, State.UNREADABLE),
    ],
    ids=["of another store", "text", "zeros"],
)
def test_what_is_no_journal_of_this_store_is_said_and_left_alone(tmp_path: Path, content: str, state: State) -> None:
    path = tmp_path / "journal"
    path.write_text(content)
    journal = Journal(path)
    journal.exchange(STORE, 0, ["ended abcdefgh 2 -"])
    assert (journal.state, bool(journal.problem), path.read_text()) == (state, True, content)
    assert (journal.memory.names(ID, "acme"), journal.memory.names("abcdefgh", "acme")) == (False, True)
    path.unlink()
    journal.exchange(STORE, 9)
    assert (journal.state, names(path).memory.names("abcdefgh", "acme")) == (State.KEPT, True)


def test_a_full_disk_is_said_and_what_was_not_written_counts_and_follows(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    journal.exchange(STORE, 0, [f"ended {ID} 1 -"])
    size = path.stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, limits[1]))
        journal.exchange(STORE, 0, ["ended abcdefgh 2 -"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert (journal.state, path.stat().st_size) == (State.FULL, size)
    assert journal.memory.names("abcdefgh", "acme")
    journal.exchange(STORE, 0)
    assert (journal.state, names(path).memory.names("abcdefgh", "acme")) == (State.KEPT, True)


def test_where_nothing_can_be_written_it_says_so_and_goes_on(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere" / "journal", tmp_path):
        journal = Journal(path)
        journal.exchange(STORE, 0, [f"ended {ID} 1 -"])
        assert (journal.state, bool(journal.problem), journal.memory.names(ID, "acme")) == (State.UNWRITABLE, True, True)
    (tmp_path / "target").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    journal = Journal(tmp_path / "link")
    journal.exchange(STORE, 0, [f"ended {ID} 1 -"])
    assert (journal.state, (tmp_path / "target").read_text()) == (State.UNWRITABLE, "")


def test_a_lock_that_another_process_keeps_is_waited_for_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal"
    journal = Journal(path, lock_wait=0.05)
    journal.exchange(STORE, 0)
    with path.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        journal.exchange(STORE, 0, [f"ended {ID} 1 -"])
        assert (journal.state, journal.memory.names(ID, "acme")) == (State.LOCKED, True)
    journal.exchange(STORE, 0)
    assert names(path).memory.names(ID, "acme")


def test_it_is_written_anew_and_stays_within_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal, other = Journal(path, most=50, spare=20), Journal(path, most=50, spare=20)
    for number in range(300):
        turn = journal if number % 2 else other
        turn.exchange(STORE, 0, [f"ended {number:08d} {number} -", f"head {number + 1} {HASH}"])
    assert len(path.read_text().splitlines()) < 200
    journal.exchange(STORE, 0)
    assert len(journal.memory) <= 50
    assert [journal.memory.names(one, "acme") for one in ("00000299", "00000001")] == [True, False]
    assert journal.memory.forgot > 200
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_entries_are_found_in_lines_of_a_log(tmp_path: Path) -> None:
    memory = Memory()
    hashed = digest("$argon2id$x")
    for line in (
        f'{{"entry": "ended {ID} 17 -", "event": "journal", "level": "info"}}',
        f"2026-11-26T01:12:00Z [info     ] journal  [storage.past] entry='ended abcdefgh 18 {hashed}'",
        f"suspended {ID}9 19",
        f"head 12 {HASH}0",
        "the credential was suspended yesterday at 12",
    ):
        memory.take(line)
    assert (memory.deleted, memory.passwords, memory.suspended, memory.head) == ({ID: 17}, {hashed: (18, "abcdefgh")}, {}, None)


# --- a restored SQLite file beside an old -wal ---
def crashed(folder: Path, rows: int, checkpointed: bool) -> Path:
    """An SQLite file whose process was killed: its -wal is left."""
    live, path = folder / "live.db", folder / "bot.db"
    connection = sqlite3.connect(live)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE t (x)")
    connection.commit()
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    connection.executemany("INSERT INTO t VALUES (?)", [(f"{number} {'x' * 100}",) for number in range(rows)])
    connection.commit()
    if checkpointed:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    for suffix in ("", "-wal", "-shm"):
        shutil.copyfile(f"{live}{suffix}", f"{path}{suffix}")
    connection.close()
    return path


@pytest.mark.parametrize("checkpointed", [False, True])
async def test_a_restored_file_beside_an_old_wal_is_refused(tmp_path: Path, checkpointed: bool) -> None:
    path = crashed(tmp_path, 500, checkpointed)
    with contextlib.closing(sqlite3.connect(tmp_path / "backup.db")) as backup:
        backup.execute("CREATE TABLE t (x)")
        backup.commit()
    shutil.copy2(tmp_path / "backup.db", path)
    before = path.read_bytes()
    db = Database(f"sqlite:///{path}")
    with pytest.raises(StaleWal, match="as after a restore"):
        await db.schema()
    await db.close()
    assert path.read_bytes() == before
    os.remove(f"{path}-wal")
    os.remove(f"{path}-shm")
    db = Database(f"sqlite:///{path}")
    await db.schema()
    await db.close()


@pytest.mark.parametrize("checkpointed", [False, True])
async def test_what_a_crash_left_is_opened_as_ever(tmp_path: Path, checkpointed: bool) -> None:
    path = crashed(tmp_path, 500, checkpointed)
    os.utime(f"{path}-wal")
    if checkpointed:  # the copying into the file was the last that happened
        os.utime(path)
    db = Database(f"sqlite:///{path}")
    await db.schema()
    await db.close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (500,)

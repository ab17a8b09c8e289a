"""`authd`, spoken to in its two protocols: never a stale yes, cheap noes, and nothing that a client sends breaks it."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import pytest
import structlog

from mailauth.http import check_token
from mailauth.ledger import MOST, Ledger
from mailauth.policy import PolicyReader, PolicyRequest, WhenAway
from mailauth.protocol import Conversation
from mailauth.server import CONNECTIONS, HANDSHAKE_TIMEOUT, PATIENCE, AuthdConfig, Server
from mailauth.sockets import ListenError, host_and_port, listen, networks
from mailauth.verifier import REFUSALS, REMEMBERED, Verifier
from storage import credentials, lifecycle, logins, passwords, workspaces
from storage.access import Actor
from storage.audit import Origin, Surface
from storage.database import Database
from storage.passwords import Hasher, Style
from tests import mail_fuzz, mail_servers, raw
from tests.stores import sqlite_store

BY = Origin(Actor("U0OWNER", "T0HOME", owner=True), Surface.MODAL, "ref", "C0MAIL", "V1")
CHEAP = (8, 1, 1)


class Made:
    """A credential with its password."""

    def __init__(self, id: str, username: str, password: str) -> None:
        self.id, self.username, self.password = id, username, password


async def make(db: Database, name: str = "Relay", style: Style = Style.STANDARD) -> Made:
    credential, _ = await db.change(credentials.create_pending, BY, "C0MAIL", name, f"view {name}")
    password = passwords.generate(credential.id, style)
    hasher = Hasher(*CHEAP)
    await db.change(credentials.activate, BY, credential.id, await hasher.hash(password), passwords.tag(password))
    hasher.close()
    return Made(credential.id, credential.username, password)


@pytest.fixture
async def store(db: Database) -> Database:
    acme = await db.change(workspaces.add, BY, "acme")
    await db.change(workspaces.map_channel, BY, "T0HOME", "C0MAIL", acme.id)
    return db


class Client:
    """A mail server that asks, as Postfix does (protocol 1.1) or newer ones (1.2)."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.number = 0

    async def greet(self, version: str = "1\t2") -> list[str]:
        greeting = []
        while (line := await self.line()) != "DONE":
            if not line:
                raise ConnectionResetError("hung up on before the greeting ended")
            greeting.append(line)
        self.writer.write(f"VERSION\t{version}\nCPID\t{os.getpid()}\n".encode())
        return greeting

    async def line(self) -> str:
        """The next line; empty when the connection was closed."""
        return (await asyncio.wait_for(self.reader.readline(), 120)).decode().removesuffix("\n")

    def ask(self, username: str, password: str, more: str = "secured\trip=192.0.2.7") -> int:
        self.number += 1
        response = b64encode(f"\0{username}\0{password}".encode()).decode()
        self.writer.write(f"AUTH\t{self.number}\tPLAIN\tservice=smtp\t{more}\tresp={response}\n".encode())
        return self.number

    async def log_in(self, username: str, password: str) -> str:
        """The first word of the answer; `closed` when there is none."""
        self.ask(username, password)
        return (await self.line()).split("\t")[0] or "closed"


class CountingHasher(Hasher):
    """Cheap, and counts what it verifies."""

    def __init__(self) -> None:
        super().__init__(*CHEAP)
        self.verified = 0

    async def verify(self, phc: str, password: str) -> bool:
        self.verified += 1
        return await super().verify(phc, password)


class Running:
    def __init__(self, server: Server, folder: Path, hasher: CountingHasher) -> None:
        self.server = server
        self.folder = folder
        self.hasher = hasher
        self.writers: list[asyncio.StreamWriter] = []

    async def connect(self, version: str = "1\t2") -> Client:
        client = Client(*await asyncio.open_unix_connection(str(self.folder / "auth")))
        self.writers.append(client.writer)
        await client.greet(version)
        return client

    async def policy(self, *requests: dict[str, str]) -> list[str]:
        reader, writer = await asyncio.open_unix_connection(str(self.folder / "policy"))
        for request in requests:
            writer.write("".join(f"{name}={value}\n" for name, value in request.items()).encode() + b"\n")
        answers = [(await asyncio.wait_for(reader.readuntil(b"\n\n"), 120)).decode().strip() for _ in requests]
        writer.close()
        return answers


@contextlib.asynccontextmanager
async def running(
    db: Database,
    folder: Path,
    limit: int = CONNECTIONS,
    handshake: float = 3600,
    patience: float = 3600,
    remembered: int = REMEMBERED,
    **config: object,
) -> AsyncIterator[Running]:
    hasher = CountingHasher()
    settings = AuthdConfig(database_url="", **config)  # type: ignore[arg-type]
    server = Server(settings, Verifier(db, hasher, remembered=remembered), limit, handshake=handshake, patience=patience)
    await server.start([listen(f"unix:{folder / 'auth'}", "AUTHD_LISTEN")], [listen(f"unix:{folder / 'policy'}", "POLICY_LISTEN")])
    made = Running(server, folder, hasher)
    try:
        yield made
    finally:
        for writer in made.writers:
            writer.close()
        await server.stop()
        hasher.close()


@pytest.fixture
async def authd(store: Database, tmp_path: Path) -> AsyncIterator[Running]:
    async with running(store, tmp_path) as made:
        yield made


async def test_plain_and_login_say_yes_and_no(store: Database, authd: Running) -> None:
    made = await make(store)
    printer = await make(store, "Printer", Style.DEVICE)
    client = await authd.connect()
    assert await client.log_in(made.username, made.password) == "OK"
    assert await client.log_in(made.username.upper(), made.password) == "OK"
    assert await client.log_in(printer.username, printer.password.upper().replace("0", "O")) == "OK"
    assert await client.log_in(printer.username, made.password) == "FAIL"
    assert await client.log_in(made.username, passwords.generate(made.id)) == "FAIL"
    assert await client.log_in(made.username, "password") == "FAIL"
    assert await client.log_in("somebody@example.com", made.password) == "FAIL"
    client.writer.write(b"AUTH\t77\tLOGIN\tservice=smtp\tsecured\n")
    assert await client.line() == "CONT\t77\t" + b64encode(b"Username:").decode()
    client.writer.write(b"CONT\t77\t" + b64encode(made.username.encode()) + b"\n")
    assert await client.line() == "CONT\t77\t" + b64encode(b"Password:").decode()
    client.writer.write(b"CONT\t77\t" + b64encode(made.password.encode()) + b"\n")
    assert await client.line() == f"OK\t77\tuser={made.username}"


async def test_pipelined_requests_and_several_connections_are_all_answered(store: Database, authd: Running) -> None:
    made = await make(store)
    clients = [await authd.connect() for _ in range(5)]
    for client in clients:
        for number in range(100):
            client.ask(made.username, made.password if number % 2 else "wrong")
    for client in clients:
        answers = [(await client.line()).split("\t")[:2] for _ in range(100)]
        assert sorted(int(number) for _, number in answers) == list(range(1, 101))
        assert [word for word, number in answers if (word == "OK") != (int(number) % 2 == 0)] == []


async def test_never_a_stale_yes(store: Database, authd: Running) -> None:
    made = await make(store)
    client = await authd.connect()
    for _ in range(3):
        assert await client.log_in(made.username, made.password) == "OK"
    for state, expected in (("suspended", "FAIL"), ("active", "OK"), ("pending", "FAIL"), ("active", "OK")):
        row = {"state": state, "password_hash": None} if state == "pending" else {"state": state}
        kept = await raw.one(store, "SELECT password_hash FROM credentials")
        await raw.change_credentials(store, **row)
        assert await client.log_in(made.username, made.password) == expected
        await raw.change_credentials(store, state="suspended", password_hash=kept)
    await raw.change_credentials(store, state="active", expires_at=store.clock() - timedelta(seconds=1))
    assert await client.log_in(made.username, made.password) == "FAIL"
    await raw.change_credentials(store, expires_at=None)
    assert await client.log_in(made.username, made.password) == "OK"
    await store.change(credentials.delete, BY, made.id)
    assert await client.log_in(made.username, made.password) == "FAIL"


async def test_the_password_before_a_rotation_works_until_its_time(store: Database, authd: Running) -> None:
    made = await make(store)
    client = await authd.connect()
    assert await client.log_in(made.username, made.password) == "OK"
    new = passwords.generate(made.id)
    hasher = Hasher(*CHEAP)
    old = await raw.one(store, "SELECT password_hash FROM credentials")
    tags = {"previous_tag": passwords.tag(made.password), "password_tag": passwords.tag(new)}
    values = {"previous_hash": old, "password_hash": await hasher.hash(new), "rotated_at": store.clock(), "version": 9, **tags}
    await raw.change_credentials(store, previous_until=store.clock() + timedelta(hours=1), **values)
    assert [await client.log_in(made.username, one) for one in (made.password, new, made.password)] == ["OK"] * 3
    await authd.server.verifier.flush()
    row, _ = await store.read(credentials.get, made.id)
    assert row.previous_used_at
    assert row.last_used_from == "192.0.2.7"
    await raw.change_credentials(store, previous_until=store.clock())
    assert [await client.log_in(made.username, one) for one in (made.password, new)] == ["FAIL", "OK"]
    hasher.close()


async def test_a_wrong_password_never_costs_an_argon2_computation(store: Database, authd: Running) -> None:
    made, printer = await make(store), await make(store, "Printer", Style.DEVICE)
    client = await authd.connect()
    wrong = ["x", made.password[:-1], made.password[:-1] + "é", "smtp1" + "0" * 35, passwords.generate("00000000")]
    wrong += [passwords.generate(made.id) for _ in range(50)]
    for password in wrong:
        client.ask(made.username, password, f"secured\trip=192.0.{len(password)}.7")
    client.ask("smtp-acme-00000000", passwords.generate("00000000"))
    client.ask(printer.username, another_device_password(printer.password))
    assert {(await client.line()).split("\t")[0] for _ in range(len(wrong) + 2)} == {"FAIL"}
    assert authd.hasher.verified == 0
    assert await client.log_in(made.username, made.password) == "OK"
    assert authd.hasher.verified == 1


def another_device_password(password: str) -> str:
    """One with another tag."""
    while True:
        other = passwords.generate("00000000", Style.DEVICE)
        if passwords.tag(other) != passwords.tag(password):
            return other


async def test_a_flood_of_wrong_ones_is_held_back_and_the_right_one_still_gets_in(store: Database, authd: Running) -> None:
    made = await make(store)
    attacker, owner = await authd.connect(), await authd.connect()
    flood = int(REFUSALS[0]) + 100
    for number in range(flood):
        attacker.ask(made.username, passwords.generate(made.id), f"secured\trip=2001:db8::{number:x}")
    for _ in range(int(REFUSALS[0])):
        assert await attacker.line() != ""
    owner.ask(made.username, made.password, "secured\trip=198.51.100.1")
    attacker.ask(made.username, made.password, "secured\trip=2001:db8::1")
    assert (await owner.line()).startswith("OK")
    answers = [(await attacker.line()).split("\t")[0] for _ in range(flood + 1 - int(REFUSALS[0]))]
    assert answers.index("OK") < len(answers) - 1, "a right one waits behind no refusal that is held back"
    assert answers.count("FAIL") == flood - int(REFUSALS[0])


async def test_a_row_without_a_tag_is_verified_and_gets_one(store: Database, authd: Running) -> None:
    made = await make(store)
    await raw.change_credentials(store, password_tag=None)
    client = await authd.connect()
    assert await client.log_in(made.username, passwords.generate(made.id)) == "FAIL"
    assert authd.hasher.verified == 1
    assert await client.log_in(made.username, made.password) == "OK"
    await asyncio.gather(*authd.server.verifier._noting)
    assert (await store.read(credentials.get, made.id))[0].password_tag == passwords.tag(made.password)
    verified = authd.hasher.verified
    assert await client.log_in(made.username, passwords.generate(made.id)) == "FAIL"
    assert authd.hasher.verified == verified


async def test_what_is_remembered_belongs_to_the_hash_and_not_to_a_version(store: Database, authd: Running) -> None:
    made = await make(store)
    client = await authd.connect()
    assert await client.log_in(made.username, made.password) == "OK"
    # As after a restore and another rotation: the same version, another password.
    other = await authd.hasher.hash("smtp1" + "0" * 35)
    await raw.change_credentials(store, password_hash=other)
    assert await client.log_in(made.username, made.password) == "FAIL"


@pytest.mark.parametrize(
    ("username", "password"),
    [
        ("{u}@example.com", "{p}"),
        ("ACME\\{u}", "{p}"),
        ("ACME\\{U}@example.com", "{p}"),
        (" {u}\t", "\t{p} "),
        ("{u}\r\n", "{p}\r\n"),
    ],
)
async def test_what_people_type_is_read_kindly(store: Database, authd: Running, username: str, password: str) -> None:
    made = await make(store)
    client = await authd.connect()
    typed = [text.format(u=made.username, U=made.username.upper(), p=made.password) for text in (username, password)]
    client.ask(*typed)
    assert await client.line() == f"OK\t1\tuser={made.username}"
    request = {"request": "smtpd_access_policy", "sasl_username": typed[0].strip()}
    await store.change(credentials.delete, BY, made.id)
    assert await authd.policy(request) == ["action=421 4.7.0 This SMTP credential no longer works"]


async def test_a_refusal_is_one_log_line_and_names_the_user_where_it_is_ours(store: Database, authd: Running) -> None:
    made = await make(store)
    client = await authd.connect()
    with structlog.testing.capture_logs() as lines:
        client.ask(made.username, "hunter2-secret")
        assert await client.line() == f"FAIL\t1\tuser={made.username}"
        client.ask(made.password, "hunter2-secret")
        assert await client.line() == "FAIL\t2"
        for _ in range(20):
            await client.log_in(made.username, passwords.generate(made.id))
    refused = [line for line in lines if line["event"] == "log-in refused"]
    assert len(refused) == 5
    first = {"username": made.username, "why": "not a password of ours", "address": "192.0.2.7", "service": "smtp"}
    assert first.items() <= refused[0].items()
    assert refused[1]["username"] is None
    assert "hunter2" not in str(lines)
    assert made.password not in str(lines)
    assert authd.server.verifier._reporter.left_out == 17


async def test_idle_connections_make_room_for_new_ones(store: Database, tmp_path: Path) -> None:
    made = await make(store)
    async with running(store, tmp_path, limit=4) as authd:
        silent = [await asyncio.open_unix_connection(str(tmp_path / "auth")) for _ in range(4)]
        client = await authd.connect()
        for _ in range(3):
            assert await client.log_in(made.username, made.password) == "OK"
        more = [await authd.connect() for _ in range(10)]
        assert await more[-1].log_in(made.username, made.password) == "OK"
        assert await client.line() == "", "the one that was silent for longest"
        for _, writer in silent:
            writer.close()


class GatedHasher(CountingHasher):
    """Verifies once the gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.began = asyncio.Event()

    async def verify(self, phc: str, password: str) -> bool:
        self.began.set()
        await self.gate.wait()
        return await super().verify(phc, password)


async def test_nothing_is_computed_for_who_hung_up(store: Database) -> None:
    made = await make(store)
    await raw.change_credentials(store, password_tag=None)
    hasher = GatedHasher()
    verifier = Verifier(store, hasher, at_once=1)
    asking = [asyncio.create_task(verifier.check(made.username, passwords.generate(made.id), None, "smtp")) for _ in range(20)]
    await hasher.began.wait()
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    hasher.gate.set()
    assert (await verifier.check(made.username, made.password, None, "smtp")).answer == "yes"
    assert hasher.verified == 2
    await asyncio.gather(*verifier._noting)
    hasher.close()


async def test_who_asks_the_same_at_once_shares_one_computation_also_when_one_hangs_up(store: Database) -> None:
    made = await make(store)
    hasher = GatedHasher()
    verifier = Verifier(store, hasher, at_once=1)
    asking = [asyncio.create_task(verifier.check(made.username, made.password, None, "smtp")) for _ in range(10)]
    await hasher.began.wait()
    asking[0].cancel()
    hasher.gate.set()
    results = await asyncio.gather(*asking[1:])
    assert {result.answer for result in results} == {"yes"}
    assert hasher.verified == 1
    hasher.close()


@pytest.mark.parametrize("turns", range(6))
async def test_who_connects_while_a_process_is_replaced_is_greeted(store: Database, tmp_path: Path, turns: int) -> None:
    """However many turns of the loop lie between the connection and the signal: the old one greets what it accepted."""
    hasher = CountingHasher()
    listener = listen(f"unix:{tmp_path / 'auth'}", "AUTHD_LISTEN")
    old, new = (Server(AuthdConfig(""), Verifier(store, hasher)) for _ in range(2))
    await old.start([listener.dup()])
    with socket.socket(socket.AF_UNIX) as connected:
        connected.connect(str(tmp_path / "auth"))
        for _ in range(turns):
            await asyncio.sleep(0)
        stopping = asyncio.create_task(old.stop(replaced=True))
        await asyncio.sleep(0)
        await new.start([listener])
        client = Client(*await asyncio.open_unix_connection(sock=connected.dup()))
        await client.greet()
        client.writer.close()
    await asyncio.wait_for(stopping, 120)
    await asyncio.wait_for(new.stop(), 120)
    hasher.close()


async def test_over_tcp_a_replaced_process_goes_on_until_its_clients_leave(store: Database) -> None:
    made = await make(store)
    hasher = CountingHasher()
    listener = listen("tcp:127.0.0.1:0", "AUTHD_LISTEN")
    server = Server(AuthdConfig(""), Verifier(store, hasher))
    address = listener.getsockname()
    await server.start([listener])
    client = Client(*await asyncio.open_connection(*address))
    await client.greet()
    assert await client.log_in(made.username, made.password) == "OK"
    stopping = asyncio.create_task(server.stop(replaced=True))
    await asyncio.sleep(0)
    assert await client.log_in(made.username, made.password) == "OK"
    client.writer.close()
    await asyncio.wait_for(stopping, 120)
    hasher.close()


def test_the_limit_of_connections_is_within_the_descriptors() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 1200)); from mailauth.server import connection_limit; "
        "print(connection_limit(), resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=150)
    assert said.stdout == "400 (1200, 1200)\n"


async def test_an_ended_connection_loses_nothing_that_was_sent(store: Database, tmp_path: Path) -> None:
    made = await make(store)
    async with running(store, tmp_path) as authd:
        clients = [await authd.connect() for _ in range(20)]
        for client in clients:
            for _ in range(5):
                client.ask(made.username, made.password)
        stopping = asyncio.create_task(authd.server.stop())
        for client in clients:
            assert [(await client.line()).split("\t")[0] for _ in range(6)] == ["OK"] * 5 + [""]
            with pytest.raises(BrokenPipeError):
                os.write(client.writer.get_extra_info("socket").fileno(), b"AUTH\n")
        await stopping


async def test_clear_text_is_refused_unless_it_is_allowed(store: Database, tmp_path: Path) -> None:
    made = await make(store)
    async with running(store, tmp_path) as authd:
        client = await authd.connect()
        client.ask(made.username, made.password, "rip=192.0.2.7")
        assert await client.line() == f"FAIL\t1\tuser={made.username}\treason=TLS is required"
    async with running(store, tmp_path, require_tls=False) as authd:
        client = await authd.connect()
        client.ask(made.username, made.password, "rip=192.0.2.7")
        assert (await client.line()).startswith("OK")


@pytest.mark.parametrize("version", ["1\t2", "1\t1"])
async def test_without_the_database_nobody_is_told_a_wrong_password(store: Database, tmp_path: Path, version: str) -> None:
    made = await make(store)
    async with running(store, tmp_path) as authd:
        client = await authd.connect(version)
        assert await client.log_in(made.username, made.password) == "OK"
        await raw.sql(store, "ALTER TABLE credentials RENAME TO away")
        client.ask(made.username, made.password)
        answer = await client.line()
        assert answer == ("FAIL\t2\ttemp\tcode=temp_fail" if version == "1\t2" else "")
        request = {"request": "smtpd_access_policy", "sasl_username": made.username}
        assert await authd.policy(request) == ["action=451 4.3.0 Cannot check the SMTP credential right now"]
        await raw.sql(store, "ALTER TABLE away RENAME TO credentials")
        client = await authd.connect(version)
        assert await client.log_in(made.username, made.password) == "OK"


async def test_an_open_session_ends_with_its_credential(store: Database, authd: Running) -> None:
    made = await make(store)
    ours = {"request": "smtpd_access_policy", "protocol_state": "MAIL", "sasl_username": made.username}
    others = [ours | {"sasl_username": name} for name in ("", "somebody@example.com", "smtp-acme-00000000")]
    assert await authd.policy(ours, *others) == ["action=DUNNO"] * 4
    await store.change(credentials.delete, BY, made.id)
    stop = "action=421 4.7.0 This SMTP credential no longer works"
    assert await authd.policy(ours, others[0], ours) == [stop, "action=DUNNO", stop]


async def test_a_setting_lets_mail_pass_while_the_database_is_away(store: Database, tmp_path: Path) -> None:
    made = await make(store)
    async with running(store, tmp_path, when_away=WhenAway.DUNNO) as authd:
        await raw.sql(store, "ALTER TABLE credentials RENAME TO away")
        request = {"request": "smtpd_access_policy", "sasl_username": made.username}
        assert await authd.policy(request) == ["action=DUNNO"]
        await raw.sql(store, "ALTER TABLE away RENAME TO credentials")


async def test_it_follows_a_replaced_sqlite_file(tmp_path: Path) -> None:
    async def filled(name: str) -> tuple[Database, Made]:
        db = Database(sqlite_store(tmp_path / name))
        acme = await db.change(workspaces.add, BY, "acme")
        await db.change(workspaces.map_channel, BY, "T0HOME", "C0MAIL", acme.id)
        return db, await make(db)

    db, made = await filled("bot.db")
    other, others = await filled("other.db")
    await other.close()
    async with running(db, tmp_path) as authd:
        client = await authd.connect()
        assert [await client.log_in(one.username, one.password) for one in (made, others)] == ["OK", "FAIL"]
        os.replace(tmp_path / "other.db", tmp_path / "bot.db")
        for leftover in ("bot.db-wal", "bot.db-shm"):
            (tmp_path / leftover).unlink(missing_ok=True)
        assert [await client.log_in(one.username, one.password) for one in (made, others)] == ["FAIL", "OK"]
        request = {"request": "smtpd_access_policy", "sasl_username": others.username, "client_address": "192.0.2.7"}
        assert await authd.policy(request) == ["action=DUNNO"]
        await authd.server.verifier.flush()
        assert await raw.one(db, "SELECT count FROM login_counts WHERE credential_id = :id", id=others.id) == 1
    await db.close()


async def test_use_and_heartbeat_are_written_down(store: Database, authd: Running) -> None:
    made = await make(store)
    client = await authd.connect()
    for _ in range(5):
        assert await client.log_in(made.username, made.password) == "OK"
    await authd.server.verifier.flush()
    row, _ = await store.read(credentials.get, made.id)
    assert (row.last_used_from, row.last_used_service) == ("192.0.2.7", "smtp")
    assert await raw.one(store, "SELECT sum(count) FROM login_counts") == 5
    [(seen, stopped)] = await raw.sql(
        store, "SELECT seen_event, stopped FROM mail_servers WHERE id = :id", id=authd.server.verifier.process
    )
    assert (seen, bool(stopped)) == (await raw.one(store, "SELECT last_event FROM audit_head"), False)
    assert row.version == 2


async def test_an_old_hash_is_renewed_at_a_log_in(store: Database, tmp_path: Path) -> None:
    made = await make(store)
    hasher = Hasher(memory_kib=16, time_cost=1)
    verifier = Verifier(store, hasher)
    assert (await verifier.check(made.username, made.password, None, "smtp")).answer == "yes"
    await asyncio.gather(*verifier._noting)
    assert "m=16," in str((await store.read(credentials.get, made.id))[0].password_hash)
    assert (await verifier.check(made.username, made.password, None, "smtp")).answer == "yes"
    hasher.close()


BROKEN = {
    "no handshake": b"AUTH\t1\tPLAIN\tservice=smtp\n",
    "another version": b"VERSION\t2\t0\nCPID\t1\n",
    "a long line": b"VERSION\t1\t1\nCPID\t1\nX" + b"x" * 70_000,
    "an unknown command": b"VERSION\t1\t1\nCPID\t1\nNOOP\n",
    "no service": b"VERSION\t1\t1\nCPID\t1\nAUTH\t1\tPLAIN\n",
}


@pytest.mark.parametrize("sent", BROKEN.values(), ids=BROKEN)
async def test_who_breaks_the_protocol_is_hung_up_on(authd: Running, sent: bytes) -> None:
    reader, writer = await asyncio.open_unix_connection(str(authd.folder / "auth"))
    writer.write(sent)
    with contextlib.suppress(ConnectionError):
        rest = await asyncio.wait_for(reader.read(), 120)
        assert b"\nOK" not in rest
    writer.close()


async def test_half_a_line_and_a_hang_up_leave_nothing_behind(store: Database, authd: Running) -> None:
    made = await make(store)
    for _ in range(20):
        client = await authd.connect()
        client.ask(made.username, made.password)
        client.writer.write(b"AUTH\t2\tPLA")
        client.writer.close()
    client = await authd.connect()
    assert await client.log_in(made.username, made.password) == "OK"
    await client.log_in(made.username, made.password)
    left = [one for one in authd.server.connections if not one.transport.is_closing()]
    assert len(left) == 1


# --- what one connection may take: the numbers stand here once more, so that nobody moves one unseen ---
def talking() -> Conversation:
    conversation = Conversation(1, 1, "0" * 32)
    conversation.receive(b"VERSION\t1\t2\nCPID\t1\n", 0.0)
    conversation.take()
    return conversation


def asks(number: int, username: bytes = b"somebody", password: bytes = b"secret") -> bytes:
    response = b64encode(b"\0" + username + b"\0" + password)
    return b"AUTH\t%d\tPLAIN\tservice=smtp\tresp=%b\n" % (number, response)


def test_64_requests_of_a_connection_are_answered_at_once_and_the_next_wait_unread() -> None:
    conversation = talking()
    logins = conversation.receive(b"".join(asks(number) for number in range(1, 101)), 0.0)
    assert (len(logins), conversation.full, conversation.receive(b"", 0.0)) == (64, True, [])
    conversation.refuse(logins[0])
    assert [one.id for one in conversation.receive(b"", 0.0)] == [65]


def test_of_a_thousand_requests_the_answer_may_be_held_back() -> None:
    conversation = talking()
    aside = []
    for number in range(1, 1002):
        [login] = conversation.receive(asks(number), 0.0)
        aside.append(conversation.set_aside(login))
    assert (aside.count(True), aside[-1]) == (1000, False)


def test_64_requests_wait_for_the_clients_next_response_for_five_minutes() -> None:
    conversation = talking()
    for number in range(1, 65):
        conversation.receive(b"AUTH\t%d\tPLAIN\tservice=smtp\n" % number, 0.0)
    assert conversation.take().count(b"CONT\t") == 64
    conversation.receive(b"AUTH\t65\tPLAIN\tservice=smtp\n", 300.0)
    assert conversation.take() == b"FAIL\t65\treason=Too many requests at once\n"
    response = b64encode(b"\0somebody\0secret")
    assert [one.id for one in conversation.receive(b"CONT\t1\t%b\n" % response, 300.0)] == [1]
    assert conversation.receive(b"CONT\t2\t%b\n" % response, 300.1) == []
    assert conversation.take() == b"FAIL\t2\treason=Authentication request timed out\n"
    for number in (66, 67, 68):
        conversation.receive(b"AUTH\t%d\tPLAIN\tservice=smtp\n" % number, 301.0)
    assert conversation.take().count(b"CONT\t") == 3, "those that took too long make room"


@pytest.mark.parametrize("which", ["username", "password"])
def test_a_username_and_a_password_have_at_most_255_bytes(which: str) -> None:
    conversation = talking()
    assert len(conversation.receive(asks(1, **{which: b"x" * 255}), 0.0)) == 1
    assert conversation.receive(asks(2, **{which: b"x" * 256}), 0.0) == []
    assert conversation.take() == b"FAIL\t2\treason=Invalid response\n"


def test_an_overlong_line_fails_alone_until_64_kib_of_it_were_skipped() -> None:
    conversation = talking()
    assert conversation.receive(b"AUTH\t1\tPLAIN\tservice=smtp\tresp=" + b"x" * 8192 + b"\n" + asks(2), 0.0)[0].id == 2
    assert conversation.take() == b"FAIL\t1\treason=Line too long\n"
    conversation.receive(b"AUTH\t3\tPLAIN\tservice=smtp\tresp=" + b"x" * 8192, 0.0)
    sent = 8192
    while conversation.closed is None:
        assert sent <= 65_536 + 10_240
        conversation.receive(b"x" * 1024, 0.0)
        sent += 1024
    assert (sent >= 65_536, conversation.closed) == (True, "line too long")


async def test_what_cannot_be_read_is_counted_and_said_like_every_refusal(store: Database, authd: Running) -> None:
    made = await make(store)
    name, password = made.username.encode(), made.password.encode()
    client = await authd.connect()
    sent = {
        b"\0%b\0" % name: made.username,
        b"\0%b\0\xff\xff" % name: made.username,
        b"\0%b\0%b" % (name, b"x" * 256): made.username,
        b"somebody\0%b\0%b" % (name, password): made.username,
        b"\0secret\0": None,
        b"\0\0" + password: None,
        b"": None,
    }
    with structlog.testing.capture_logs() as lines:
        for number, (response, user) in enumerate(sent.items(), 1):
            client.writer.write(b"AUTH\t%d\tPLAIN\tservice=smtp\trip=192.0.2.1\tresp=%b\n" % (number, b64encode(response) or b"="))
            named = f"\tuser={user}" if user else ""
            reason = "Invalid response" if response else "Invalid base64 data"
            assert await client.line() == f"FAIL\t{number}{named}\treason={reason}"
    refused = [(one["username"], one["why"], one["address"]) for one in lines if one["event"] == "log-in refused"]
    assert refused == [(user, "unreadable", "192.0.2.1") for user in sent.values()][: len(refused)]
    assert len(refused) == 5, "so many lines at once"
    for acts_for in (b"", name, name.upper() + b"@host"):
        response = b64encode(acts_for + b"\0%b\0%b" % (name, password))
        client.writer.write(b"AUTH\t99\tPLAIN\tservice=smtp\tsecured\tresp=%b\n" % response)
        assert await client.line() == f"OK\t99\tuser={made.username}"


async def test_a_wrong_password_asks_the_store_once_also_where_there_are_limits(store: Database) -> None:
    made = await make(store)
    await raw.change_credentials(store, messages_hour=10)
    [known] = (await store.read(logins.look_up, [made.username])).values()
    assert (known.limited, known.sums) == (True, {})
    [known] = (await store.read(logins.look_up_sending, [made.username])).values()
    assert known.sums == dict.fromkeys(logins.LIMITS, 0)


@pytest.mark.parametrize("when_away", WhenAway)
async def test_a_store_that_hangs_is_away_before_the_mail_server_gives_up(store: Database, tmp_path: Path, when_away: WhenAway) -> None:
    assert PATIENCE == 4.0
    made = await make(store)
    hangs = threading.Event()
    async with running(store, tmp_path, patience=0.1, when_away=when_away) as authd:
        held = [asyncio.create_task(store.read(lambda _tx: hangs.wait(120))) for _ in range(20)]
        try:
            [answer] = await authd.policy({"request": "smtpd_access_policy", "protocol_state": "MAIL", "sasl_username": made.username})
        finally:
            hangs.set()
        await asyncio.gather(*held, return_exceptions=True)
    assert answer == ("action=DUNNO" if when_away is WhenAway.DUNNO else "action=451 4.3.0 Cannot check the SMTP credential right now")


def test_a_policy_request_has_lines_of_8_kib_and_64_kib_in_all_and_64_wait() -> None:
    def reads(line: bytes, lines: int = 1) -> str | None:
        reader = PolicyReader()
        reader.receive(b"request=smtpd_access_policy\n" + line * lines)
        return reader.closed

    assert [reads(b"x=" + b"y" * (length - 2) + b"\n") for length in (8192, 8193)] == [None, "request too long"]
    assert reads(b"x" * 8194) == "line too long"
    kib = b"x=" + b"y" * 1021 + b"\n"
    assert [reads(kib, lines) for lines in (63, 64)] == [None, "request too long"]
    reader = PolicyReader()
    assert len(reader.receive(b"request=smtpd_access_policy\n\n" * 100)) == 64
    assert len(reader.receive(b"")) == 36


async def test_who_does_not_say_which_protocol_is_hung_up_on(store: Database, tmp_path: Path) -> None:
    assert HANDSHAKE_TIMEOUT == 30.0
    async with running(store, tmp_path, handshake=0.1):
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "auth"))
        writer.write(b"VERSION\t1\t2\n")
        assert (await asyncio.wait_for(reader.read(), 120)).endswith(b"DONE\n")
        writer.close()


async def test_of_the_right_passwords_the_newest_are_remembered(store: Database, tmp_path: Path) -> None:
    assert REMEMBERED == 50_000
    mades = [await make(store, f"App {number}") for number in range(3)]
    async with running(store, tmp_path, remembered=2) as authd:
        client = await authd.connect()
        computed = []
        for made in (*mades, *reversed(mades)):
            assert await client.log_in(made.username, made.password) == "OK"
            computed.append(authd.hasher.verified)
        assert computed == [1, 2, 3, 3, 3, 4]


async def test_a_ledger_counts_for_so_many_credentials_and_loses_none_of_those(store: Database) -> None:
    assert MOST == 100_000
    mades = [await make(store, f"App {number}") for number in range(3)]
    known = await store.read(logins.look_up, [one.username for one in mades])
    ledger = Ledger(store, most=2)
    for _ in range(2):
        for made in mades:
            ledger.logged_in(known[made.username], None, "smtp", previous=False)
            ledger.refused(known[made.username])
            ledger.sent(known[made.username], PolicyRequest(made.username, recipients=1, size=10))
    await ledger.write(wait=True)
    assert await raw.sql(store, "SELECT count, refused, messages FROM login_counts") == [(2, 2, 2)] * 2


async def test_nothing_is_counted_against_a_credential_that_was_never_handed_over(store: Database, authd: Running) -> None:
    pending, _ = await store.change(credentials.create_pending, BY, "C0MAIL", "Relay", "view")
    client = await authd.connect()
    assert await client.log_in(pending.username, passwords.generate(pending.id)) == "FAIL"
    made = await make(store, "Printer")
    await store.change(lifecycle.suspend, BY, made.id)
    assert await client.log_in(made.username, made.password) == "FAIL"
    await authd.server.verifier.flush()
    assert await raw.sql(store, "SELECT credential_id, refused FROM login_counts") == [(made.id, 1)]


def test_ten_thousand_generated_inputs_break_nothing() -> None:
    tried = mail_fuzz.run(10_000, seed=20261124)
    assert tried.with_log_in >= 1000


class Process:
    """`smtp-bot authd` as a process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said: list[str] = []

    @classmethod
    async def start(
        cls, folder: Path, database_url: str, workers: int = 1, handed: list[int] | None = None, settings: dict[str, str] | None = None
    ) -> "Process":
        """Args:
        handed: listening sockets for log-ins and policy, handed in as systemd does it.
        """
        environment = os.environ | {"DATABASE_URL": database_url, "LOG_FORMAT": "json", "PYTHONPATH": str(Path(__file__).parent.parent)}
        command = [sys.executable, "-m", "bot", "authd", "--workers", str(workers)]
        if handed is not None:
            environment |= {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "auth:policy"}
            become = (
                "import os, sys; handed = [os.dup(int(fd)) for fd in sys.argv[1:3]]; [os.dup2(fd, 3 + n) for n, fd in enumerate(handed)]; "
                "[os.set_inheritable(3 + n, True) for n in range(2)]; "
                "os.environ['LISTEN_PID'] = str(os.getpid()); os.execv(sys.argv[3], sys.argv[3:])"
            )
            command = [sys.executable, "-c", become, *map(str, handed), *command]
        cheap = {"ARGON2_MEMORY_KIB": "8", "ARGON2_TIME_COST": "1"}
        process = await asyncio.create_subprocess_exec(
            *command, env=environment | cheap | (settings or {}), cwd=folder, stderr=asyncio.subprocess.PIPE, pass_fds=handed or ()
        )
        return cls(process)

    async def says(self, event: str, times: int = 1) -> None:
        """Reads its log until this was said."""
        assert self.process.stderr
        while times:
            line = (await self.process.stderr.readline()).decode()
            assert line, f"it ended: {self.said}"
            self.said.append(line)
            times -= f'"{event}"' in line

    def children(self) -> list[int]:
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    async def stop(self) -> str:
        """Its log."""
        if self.process.returncode is None:
            self.process.terminate()
        _, said = await self.process.communicate()
        assert self.process.returncode == 0, said
        return "".join(self.said) + said.decode()


@contextlib.asynccontextmanager
async def ended(*processes: Process) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for one in processes:
            if one.process.returncode is None:
                one.process.kill()


@pytest.mark.parametrize("workers", [1, 2])
async def test_as_a_process_it_answers_and_stops_cleanly(database_url: str, tmp_path: Path, workers: int) -> None:
    db = Database(database_url)
    acme = await db.change(workspaces.add, BY, "acme")
    await db.change(workspaces.map_channel, BY, "T0HOME", "C0MAIL", acme.id)
    made = await make(db)
    authd = await Process.start(tmp_path, database_url, workers, settings={"AUTHD_LISTEN": f"unix:{tmp_path / 'auth'}"})
    async with ended(authd):
        await authd.says("ready", workers)
        clients = [Client(*await asyncio.open_unix_connection(str(tmp_path / "auth"))) for _ in range(4)]
        for client in clients:
            await client.greet()
            assert await client.log_in(made.username, made.password) == "OK"
        for client in clients:
            client.ask(made.username, made.password)
            await client.writer.drain()
        authd.process.terminate()
        for client in clients:
            assert (await client.line()).startswith("OK")
            assert await client.line() == ""
            client.writer.close()
        said = await authd.stop()
        assert "not written" not in said
        assert "failed" not in said
    assert await raw.one(db, "SELECT count(*) FROM mail_servers WHERE stopped") == workers
    assert await raw.one(db, "SELECT sum(count) FROM login_counts") >= 4
    await db.close()


async def test_it_starts_without_the_database_and_becomes_ready_by_itself(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'bot.db'}"
    sockets = [listen(f"unix:{tmp_path / name}", "AUTHD_LISTEN") for name in ("auth", "policy")]
    client = Client(*await asyncio.open_unix_connection(str(tmp_path / "auth")))  # waits, as in a restart, until somebody answers
    authd = await Process.start(tmp_path, url, handed=[one.fileno() for one in sockets])
    async with ended(authd):
        await authd.says('listening, and answering \\"later\\"')
        await client.greet()
        client.ask("smtp-acme-00000000", passwords.generate("00000000"))
        assert await client.line() == "FAIL\t1\ttemp\tcode=temp_fail"
        assert not (tmp_path / "bot.db").exists()
        db = Database(url)
        await db.upgrade()
        acme = await db.change(workspaces.add, BY, "acme")
        await db.change(workspaces.map_channel, BY, "T0HOME", "C0MAIL", acme.id)
        made = await make(db)
        await authd.says("ready")
        assert await client.log_in(made.username, made.password) == "OK"
        client.writer.close()
        await authd.stop()
        await db.close()
    assert {"auth", "policy"} <= set(os.listdir(tmp_path)), "what was handed in is not unlinked"
    for one in sockets:
        one.close()


@pytest.mark.timeout(180)
async def test_workers_are_started_again_and_replaced_and_systemd_is_told(tmp_path: Path) -> None:
    url = sqlite_store(tmp_path / "bot.db")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)

        words: asyncio.Queue[str] = asyncio.Queue()

        async def hear() -> None:
            # Always, as systemd does: the queue of a datagram socket holds ten of them, and then a word is lost.
            while True:
                for word in (await asyncio.get_running_loop().sock_recv(systemd, 4096)).decode().split("\n"):
                    words.put_nowait(word)

        async def told(word: str) -> None:
            while await words.get() != word:
                pass

        hearing = asyncio.create_task(hear())
        where = {"AUTHD_LISTEN": f"unix:{tmp_path / 'auth'}", "NOTIFY_SOCKET": str(tmp_path / "notify")}
        authd = await Process.start(tmp_path, url, settings=where | {"WATCHDOG_USEC": "200000"})
        async with ended(authd):
            for word in ("READY=1", "WATCHDOG=1", "WATCHDOG=1"):
                await told(word)
            await authd.says("ready")
            [child] = authd.children()
            os.kill(child, signal.SIGKILL)
            await authd.says("worker ended and is started again")
            await authd.says("ready")
            authd.process.send_signal(signal.SIGHUP)
            await told("RELOADING=1")
            await told("READY=1")
            client = Client(*await asyncio.open_unix_connection(str(tmp_path / "auth")))
            await client.greet()
            client.writer.close()
            assert "replaced the workers" in await authd.stop()
            await told("STOPPING=1")
            hearing.cancel()


WRONG_SETTINGS: dict[str, Callable[[], object]] = {
    "AUTHD_GROUP: there is no group nobody-has-this": lambda: listen("unix:wrong", "AUTHD_LISTEN", "nobody-has-this"),
    "AUTHD_PEERS: '10.0.0.0/33' is no network": lambda: networks(["10.0.0.0/33"], "AUTHD_PEERS"),
    "AUTHD_PEERS: '192.0.2.7/24' is no network": lambda: networks(["127.0.0.1", "192.0.2.7/24"], "AUTHD_PEERS"),
    "AUTHD_PEERS: 'mx1.example.com' is no network": lambda: networks(["mx1.example.com"], "AUTHD_PEERS"),
    "AUTHD_HTTP_TOKEN: at least 16 characters": lambda: check_token("short"),
    "AUTHD_HTTP_TOKEN: at least 16 characters, without blanks": lambda: check_token("long enough but with blanks"),
    "AUTHD_NGINX_SERVER: 'mail:25' is no address": lambda: host_and_port("mail:25", "AUTHD_NGINX_SERVER"),
    "AUTHD_NGINX_SERVER: '192.0.2.1:0' is no address": lambda: host_and_port("192.0.2.1:0", "AUTHD_NGINX_SERVER"),
    "AUTHD_LISTEN: use unix:PATH, tcp:HOST:PORT or tcp:PORT": lambda: listen("tcp:127.0.0.1:99999", "AUTHD_LISTEN"),
    "POLICY_LISTEN: cannot listen on tcp:192.0.2.1:1": lambda: listen("tcp:192.0.2.1:1", "POLICY_LISTEN"),
}


@pytest.mark.parametrize("says", WRONG_SETTINGS)
def test_a_wrong_setting_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ListenError, match=re.escape(says)):
        WRONG_SETTINGS[says]()
    assert list(tmp_path.iterdir()) == []


def test_a_socket_is_replaced_only_when_nobody_listens_on_it_and_is_for_its_group(tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 'auth'}"
    first = listen(address, "AUTHD_LISTEN", str(os.getgid()))
    assert stat.S_IMODE((tmp_path / "auth").stat().st_mode) == 0o660
    with pytest.raises(ListenError, match="somebody else listens there"):
        listen(address, "AUTHD_LISTEN")
    first.close()
    assert (tmp_path / "auth").exists()
    listen(address, "AUTHD_LISTEN").close()
    assert [one.name for one in tmp_path.iterdir()] == ["auth"]


async def test_only_peers_may_connect_over_tcp(store: Database) -> None:
    hasher = CountingHasher()
    listeners = [listen("tcp:127.0.0.1:0", "AUTHD_LISTEN") for _ in range(2)]
    for listener, peers, answered in zip(listeners, (["127.0.0.0/24"], ["192.0.2.0/24"]), (True, False), strict=True):
        server = Server(AuthdConfig("", peers=networks(peers, "AUTHD_PEERS")), Verifier(store, hasher))
        await server.start([listener])
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        with contextlib.suppress(ConnectionResetError):
            assert (await asyncio.wait_for(reader.readline(), 120) != b"") is answered
        writer.close()
        await server.stop()
    hasher.close()


class People:
    """People who log in and send, one after the other, until they are told to stop."""

    def __init__(self, port: int, username: str, password: str, many: int) -> None:
        self.outcomes: list[str] = []
        self._pair = (username, password)
        self._port = port
        self._enough = threading.Event()
        self._reached = threading.Event()
        self._wanted = 0
        self._threads = [threading.Thread(target=self._one) for _ in range(many)]
        for thread in self._threads:
            thread.start()

    def _one(self) -> None:
        while not self._enough.is_set():
            try:
                self.outcomes.append(str(mail_servers.log_in(self._port, *self._pair, send=True)))
            except Exception as error:
                self.outcomes.append(f"{type(error).__name__}: {error}")
            if len(self.outcomes) >= self._wanted:
                self._reached.set()

    async def do(self, more: int) -> None:
        """Until so many more sessions have ended."""
        self._wanted = len(self.outcomes) + more
        self._reached.clear()
        await asyncio.to_thread(self._reached.wait)

    async def stop(self) -> None:
        self._enough.set()
        for thread in self._threads:
            await asyncio.to_thread(thread.join)


@pytest.mark.timeout(180)
async def test_a_restart_is_not_noticed_by_postfix_under_load(tmp_path: Path) -> None:
    url = sqlite_store(tmp_path / "bot.db")
    db = Database(url)
    acme = await db.change(workspaces.add, BY, "acme")
    await db.change(workspaces.map_channel, BY, "T0HOME", "C0MAIL", acme.id)
    made = await make(db)
    with mail_servers.open_folder() as folder:
        sockets = [listen(f"unix:{folder / name}", "AUTHD_LISTEN", "postfix") for name in ("auth", "policy")]
        handed = [one.fileno() for one in sockets]
        first = await Process.start(tmp_path, url, handed=handed)
        changes = {"/run/smtp-bot/auth": str(folder / "auth"), "/run/smtp-bot/policy": str(folder / "policy")}
        async with ended(first):
            await first.says("ready")
            with mail_servers.postfix(folder, "submission-authd.cf", changes) as postfix:
                port = postfix.submission
                session = await asyncio.to_thread(mail_servers.Session, port)
                assert await asyncio.to_thread(session.log_in, made.username, made.password) == 235
                people = People(port, made.username, made.password, 4)
                try:
                    await people.do(10)
                    first.process.send_signal(signal.SIGHUP)
                    await first.says("replaced the workers")
                    await people.do(10)
                    second = await Process.start(tmp_path, url, handed=handed)
                    async with ended(second):
                        await second.says("ready")
                        await first.stop()
                        await people.do(10)
                        await people.stop()
                        await asyncio.to_thread(session.send)
                        session.smtp.close()
                        await second.stop()
                finally:
                    await people.stop()
            said = (folder / "postfix.log").read_text()
        for one in sockets:
            one.close()
    await db.close()
    assert set(people.outcomes) == {"235"}
    assert "throttling" not in said
    assert "fatal" not in said

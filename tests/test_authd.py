"""`authd`, spoken to in its two protocols: never a stale yes, cheap noes, and nothing that a client sends breaks it."""

import asyncio
import contextlib
import os
import signal
import sys
from base64 import b64encode
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from mailauth.policy import WhenAway
from mailauth.server import AuthdConfig, Server, listen
from mailauth.verifier import PER_USERNAME, Verifier
from storage import credentials, passwords, workspaces
from storage.access import Actor
from storage.audit import Origin, Surface
from storage.database import Database
from storage.passwords import Hasher, Style
from tests import mail_fuzz, raw

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
            greeting.append(line)
        self.writer.write(f"VERSION\t{version}\nCPID\t{os.getpid()}\n".encode())
        return greeting

    async def line(self) -> str:
        """The next line; empty when the connection was closed."""
        return (await asyncio.wait_for(self.reader.readline(), 10)).decode().removesuffix("\n")

    def ask(self, username: str, password: str, more: str = "secured\trip=192.0.2.7") -> int:
        self.number += 1
        response = b64encode(f"\0{username}\0{password}".encode()).decode()
        self.writer.write(f"AUTH\t{self.number}\tPLAIN\tservice=smtp\t{more}\tresp={response}\n".encode())
        return self.number

    async def log_in(self, username: str, password: str) -> str:
        """The first word of the answer; `closed` when there is none."""
        self.ask(username, password)
        return (await self.line()).split("\t")[0] or "closed"


class Running:
    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.folder = folder
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
        answers = [(await asyncio.wait_for(reader.readuntil(b"\n\n"), 10)).decode().strip() for _ in requests]
        writer.close()
        return answers


@contextlib.asynccontextmanager
async def running(db: Database, folder: Path, **config: object) -> AsyncIterator[Running]:
    hasher = Hasher(*CHEAP)
    settings = AuthdConfig(database_url="", auth="", **config)  # type: ignore[arg-type]
    server = Server(settings, Verifier(db, hasher))
    await server.start(listen(f"unix:{folder / 'auth'}", "AUTHD_LISTEN"), listen(f"unix:{folder / 'policy'}", "POLICY_LISTEN"))
    made = Running(server, folder)
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
    values = {"previous_hash": old, "password_hash": await hasher.hash(new), "rotated_at": store.clock(), "version": 9}
    await raw.change_credentials(store, previous_until=store.clock() + timedelta(hours=1), **values)
    assert [await client.log_in(made.username, one) for one in (made.password, new, made.password)] == ["OK"] * 3
    await authd.server.verifier.flush()
    row, _ = await store.read(credentials.get, made.id)
    assert row.previous_used_at
    assert row.last_used_from == "192.0.2.7"
    await raw.change_credentials(store, previous_until=store.clock())
    assert [await client.log_in(made.username, one) for one in (made.password, new)] == ["FAIL", "OK"]
    hasher.close()


async def test_what_is_not_in_our_format_costs_nothing(store: Database, authd: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await make(store)
    client = await authd.connect()
    database, computed = counting(authd, monkeypatch)
    for password in ("x", made.password[:-1], made.password[:-1] + "é", "smtp1" + "0" * 35, passwords.generate("00000000")):
        assert await client.log_in(made.username, password) == "FAIL"
    assert await client.log_in("smtp-acme-00000000", "x") == "FAIL"
    assert (database, computed) == ([], [])
    assert await client.log_in("smtp-acme-00000000", passwords.generate("00000000")) == "FAIL"
    assert await client.log_in(made.username, passwords.generate(made.id)) == "FAIL"
    assert (len(database), len(computed)) == (2, 2), "an unknown username and a wrong password take the same path"


def counting(authd: Running, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[str]]:
    """Writes down the look-ups and Argon2 computations, which are still made."""
    database: list[str] = []
    computed: list[str] = []
    verifier = authd.server.verifier
    look_up, verify = verifier._look_up, verifier._verify

    async def looking_up(username: str) -> object:
        database.append(username)
        return await look_up(username)

    async def verifying(phc: str, canonical: str) -> bool:
        computed.append(canonical)
        return await verify(phc, canonical)

    monkeypatch.setattr(verifier, "_look_up", looking_up)
    monkeypatch.setattr(verifier, "_verify", verifying)
    return database, computed


async def test_wrong_passwords_are_bounded_and_a_known_one_still_gets_in(store: Database, authd: Running) -> None:
    made = await make(store)
    client = await authd.connect()
    assert await client.log_in(made.username, made.password) == "OK"
    wrong = [passwords.generate(made.id) for _ in range(int(PER_USERNAME[0]) + 5)]
    for password in wrong:
        client.ask(made.username, password)
    answers = [await client.line() for _ in wrong]
    assert all(answer.startswith("FAIL") for answer in answers)
    for _ in range(3):
        client.ask(made.username, passwords.generate(made.id))
    assert ["temp_fail" in await client.line() for _ in range(3)] == [True] * 3
    assert await client.log_in(made.username, made.password) == "OK"
    assert await client.log_in(made.username, wrong[0]) == "FAIL", "a wrong one that is known costs nothing"


async def test_clear_text_is_refused_unless_it_is_allowed(store: Database, tmp_path: Path) -> None:
    made = await make(store)
    async with running(store, tmp_path) as authd:
        client = await authd.connect()
        client.ask(made.username, made.password, "rip=192.0.2.7")
        assert await client.line() == "FAIL\t1\treason=TLS is required"
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
    server = Server(AuthdConfig("", ""), Verifier(store, hasher))
    await server.verifier.start()
    assert (await server.verifier.check(made.username, made.password, None, "smtp"))[0] == "yes"
    await asyncio.gather(*server.verifier._renewing)
    assert "m=16," in str((await store.read(credentials.get, made.id))[0].password_hash)
    assert (await server.verifier.check(made.username, made.password, None, "smtp"))[0] == "yes"
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
        rest = await asyncio.wait_for(reader.read(), 10)
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


def test_ten_thousand_generated_inputs_break_nothing() -> None:
    mail_fuzz.run(10_000, seed=20261124)


@pytest.mark.parametrize("workers", [1, 2])
async def test_as_a_process_it_answers_and_stops_cleanly(database_url: str, tmp_path: Path, workers: int) -> None:
    db = Database(database_url)
    await db.upgrade()
    acme = await db.change(workspaces.add, BY, "acme")
    await db.change(workspaces.map_channel, BY, "T0HOME", "C0MAIL", acme.id)
    made = await make(db)
    environment = os.environ | {
        "DATABASE_URL": database_url,
        "AUTHD_LISTEN": f"unix:{tmp_path / 'auth'}",
        "LOG_FORMAT": "json",
        "PYTHONPATH": str(Path(__file__).parent.parent),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bot", "authd", "--workers", str(workers), env=environment, cwd=tmp_path, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr
    try:
        for _ in range(workers):
            while b'"ready"' not in (line := await asyncio.wait_for(process.stderr.readline(), 30)):
                assert line, "it ended"
        clients = [Client(*await asyncio.open_unix_connection(str(tmp_path / "auth"))) for _ in range(4)]
        for client in clients:
            await client.greet()
            assert await client.log_in(made.username, made.password) == "OK"
        for client in clients:
            client.ask(made.username, made.password)
            await client.writer.drain()
        process.send_signal(signal.SIGTERM)
        for client in clients:
            assert (await client.line()).startswith("OK") or await client.line() == ""
            client.writer.close()
        _, said = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == 0, said
        assert b"not written" not in said, said
        assert b"failed" not in said, said
    finally:
        if process.returncode is None:
            process.kill()
    assert await raw.one(db, "SELECT count(*) FROM mail_servers WHERE stopped") == workers
    assert await raw.one(db, "SELECT sum(count) FROM login_counts") >= 4
    await db.close()

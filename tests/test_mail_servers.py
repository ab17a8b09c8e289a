"""Real mail servers on the store that the bot writes: what it creates may log in, what it deletes is refused from then on."""

import asyncio
import base64
import contextlib
import os
import re
import shutil
import signal
import smtplib
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import select, text, update

from storage.models import Credential
from storage.passwords import Hasher, Style, generate
from tests import mail_servers
from tests.mail_servers import DEPLOY, Session, log_in
from tests.stage import Stage, stage


@pytest.fixture
def folder() -> Iterator[Path]:
    with mail_servers.open_folder() as made:
        yield made


async def make(play: Stage, name: str = "Relay") -> tuple[str, str]:
    """Created as a person does it; its username and password."""
    password = await play.create(play.wanda, name)
    return next(one.username for one in await play.credentials() if one.name == name), password


async def delete(play: Stage, name: str = "Relay") -> None:
    await play.wanda.types(play.mail, f"/smtp delete {name}")
    await play.wanda.sees_modal("Delete credential?")
    await play.wanda.submits()
    await play.wanda.sees_modal("Credential deleted")
    await play.wanda.closes()


def passdb_url(play: Stage) -> str:
    """For PostgreSQL the role of `deploy/postgresql/`, which reads the views alone."""
    if play.database_url.startswith("sqlite"):
        return play.database_url
    with psycopg.connect(play.database_url, autocommit=True) as connection:
        connection.execute("DROP OWNED BY smtp_passdb_reader" if _has_role(connection) else "SELECT 1")
        connection.execute("DROP ROLE IF EXISTS smtp_passdb_reader")
        connection.execute((DEPLOY / "postgresql" / "passdb-role.sql").read_text().encode())
    server, _, name = play.database_url.partition("@")[2].partition("/")
    reader = f"postgresql://smtp_passdb_reader@{server}/{name}"
    with psycopg.connect(reader) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("SELECT * FROM credentials")
    return reader


def _has_role(connection: psycopg.Connection[tuple[object, ...]]) -> bool:
    found = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = 'smtp_passdb_reader'").fetchone()
    return found is not None


@pytest.fixture(params=["2.3-sqlite", "2.3-postgres", "2.4-sqlite", "2.4-postgres"])
async def by_sql(request: pytest.FixtureRequest) -> AsyncIterator[tuple[str, Path, Stage]]:
    """Dovecot's version, a folder that it can read, and the bot with its SQLite file there, or on PostgreSQL."""
    version, database = request.param.split("-")
    with mail_servers.open_folder(mail_servers.dovecot_root(version)) as folder:
        url = f"sqlite:///{folder / 'bot.db'}" if database == "sqlite" else str(request.getfixturevalue("postgres_url"))
        async with stage(url, "socket") as play:
            yield version, folder, play


async def test_dovecot_and_postfix_by_sql(by_sql: tuple[str, Path, Stage]) -> None:
    version, folder, play = by_sql
    username, password = await make(play)
    other, others = await make(play, "Other")
    with (
        mail_servers.dovecot(folder, passdb_url(play), version=version) as socket,
        mail_servers.postfix(folder, "submission-dovecot.cf", {}, socket) as postfix,
    ):
        port = postfix.submission

        async def code(password: str, username: str = username) -> int:
            return await asyncio.to_thread(log_in, port, username, password)

        for mechanism in ("PLAIN", "LOGIN"):
            assert await asyncio.to_thread(log_in, port, username, password, mechanism, True) == 235
        assert await asyncio.to_thread(log_in, postfix.submissions, username, password, send=True, wrapped=True) == 235
        assert await asyncio.to_thread(log_in, port, f"{username.upper()}@Example.COM", password, send=True) == 235
        assert set(re.findall(r"sasl_username=(\S+)", postfix.log.read_text())) == {username}
        # Dovecot's penalty for the sixth mistake of an address is longer than Postfix waits.
        assert await asyncio.gather(*(code(generate(username[-8:])) for _ in range(6))) == [535] * 6
        assert await code(others, other) == 235
        assert await asyncio.to_thread(ask, socket, "smtp", username, password) == b"OK"
        assert await asyncio.to_thread(ask, socket, "imap", username, password) == b"FAIL"
        old = password
        password = generate(username[-8:], Style.DEVICE)
        await rotate(play, username, password)
        assert [await code(one) for one in (old, password)] == [235, 235]
        assert await code(hyphened(password)) == 535
        await overlap_ends(play, username)
        assert [await code(one) for one in (old, password)] == [535, 235]
        await delete(play)
        assert [await code(one) for one in (old, password)] == [535, 535]
        assert await code(others, other) == 235


def ask(path: Path, service: str, username: str, password: str) -> bytes:
    """The first word of the answer to a log-in for this protocol."""
    response = base64.b64encode(f"\0{username}\0{password}".encode()).decode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(path))
        connection.sendall(f"VERSION\t1\t1\nCPID\t{os.getpid()}\nAUTH\t1\tPLAIN\tservice={service}\tsecured\tresp={response}\n".encode())
        with connection.makefile("rb") as lines:
            return next(word for word, tab, rest in (line.partition(b"\t") for line in lines) if rest.startswith(b"1\t") and word != b"VERSION")


def hyphened(password: str) -> str:
    """A device password as people copy it from paper."""
    return "-".join(password.upper()[start : start + 5] for start in range(0, 20, 5))


async def rotate(play: Stage, username: str, password: str) -> None:
    """The store as a rotation with overlap leaves it."""
    hasher = Hasher(8, 1)
    async with play.db.note() as session:
        row = Credential.username == username
        old = (await session.execute(select(Credential.password_hash).where(row))).scalar_one()
        values = {"previous_hash": old, "password_hash": await hasher.hash(password), "version": 9}
        await session.execute(update(Credential).where(row).values(previous_until=play.clock() + timedelta(days=1), **values))
    hasher.close()


async def overlap_ends(play: Stage, username: str) -> None:
    async with play.db.note() as session:
        row = Credential.username == username
        await session.execute(update(Credential).where(row).values(previous_until=play.clock() - timedelta(days=1)))


@pytest.mark.parametrize("play", ["sqlite-socket", "postgres-http"], indirect=True)
async def test_sender_domains_by_sql(play: Stage, folder: Path) -> None:
    username, password = await make(play)
    url = passdb_url(play)
    await sender_domains(play, {username: "acme.example", "smtp-zeta-00000000": "zeta.example", "smtp-free-00000000": "*"})
    kind = "sqlite" if url.startswith("sqlite") else "pgsql"
    given = (DEPLOY / "postfix" / f"sender-logins-{kind}.cf").read_text()
    if kind == "sqlite":
        given = given.replace("/var/lib/smtp-bot/smtp-bot.db", url.removeprefix("sqlite:///"))
    else:
        address, _, name = url.partition("@")[2].partition("/")
        given = given.replace("127.0.0.1:5432", address).replace("dbname = smtp_bot", f"dbname = {name}")
    (folder / "senders.cf").write_text(given)
    (folder / "senders.cf").chmod(0o644)
    maps = f"-o {{ smtpd_sender_login_maps = proxy:{kind}:{folder}/senders.cf }}\n  -o "
    changes = {"-o smtpd_sender_restrictions=": f"{maps}smtpd_sender_restrictions=reject_authenticated_sender_login_mismatch"}
    with (
        mail_servers.dovecot(folder, url) as socket,
        mail_servers.postfix(folder, "submission-dovecot.cf", changes, socket) as postfix,
        await asyncio.to_thread(Session, postfix.submission) as session,
    ):
        assert await asyncio.to_thread(session.log_in, username, password) == 235
        for sender, code in (("a@acme.example", 250), ("boss@zeta.example", 553), ("boss@ACME.example", 250), ("a@nobody.example", 553)):
            assert (await asyncio.to_thread(session.smtp.mail, sender))[0] == code, sender
            await asyncio.to_thread(session.smtp.rset)


@contextlib.asynccontextmanager
async def authd(play: Stage, folder: Path) -> AsyncIterator[dict[str, str]]:
    """`smtp-bot authd` as a process; gives what to change in the files of `deploy/` to reach it."""
    auth, policy = folder / "auth", folder / "policy"
    environment = os.environ | {
        "DATABASE_URL": play.database_url,
        "AUTHD_LISTEN": f"unix:{auth}",
        "POLICY_LISTEN": f"unix:{policy}",
        "ARGON2_MEMORY_KIB": "8",
        "ARGON2_TIME_COST": "1",
        "LOG_FORMAT": "json",
        "PYTHONPATH": str(Path(__file__).parent.parent),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bot", "authd", env=environment, cwd=folder, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr
    try:
        while b'"ready"' not in (line := await asyncio.wait_for(process.stderr.readline(), 30)):
            assert line, "authd ended"
        yield {"/run/smtp-bot/auth": str(auth), "/run/smtp-bot/policy": str(policy)}
    finally:
        process.terminate()
        await asyncio.wait_for(process.communicate(), 30)


async def test_authd_and_postfix(play: Stage, folder: Path) -> None:
    username, password = await make(play)
    async with authd(play, folder) as changes:
        with mail_servers.postfix(folder, "submission-authd.cf", changes) as port:
            for mechanism in ("PLAIN", "LOGIN"):
                assert await asyncio.to_thread(log_in, port, username, password, mechanism, True) == 235
            assert await asyncio.to_thread(log_in, port, username, "wrong") == 535
            assert await asyncio.to_thread(log_in, port, username, generate(username[-8:])) == 535
            session = await asyncio.to_thread(Session, port)
            other = await asyncio.to_thread(Session, port)
            assert await asyncio.to_thread(session.log_in, username, password) == 235
            assert await asyncio.to_thread(other.log_in, username, password) == 235
            await asyncio.to_thread(session.send)
            assert (await asyncio.to_thread(other.smtp.mail, "app@example.com"))[0] == 250
            async with play.db.note() as database:
                await database.execute(text("ALTER TABLE credentials RENAME TO away"))
            assert await asyncio.to_thread(log_in, port, username, password) == 454
            async with play.db.note() as database:
                await database.execute(text("ALTER TABLE away RENAME TO credentials"))
            assert await asyncio.to_thread(log_in, port, username, password) == 235
            await delete(play)
            assert await asyncio.to_thread(log_in, port, username, password) == 535
            assert (await asyncio.to_thread(session.smtp.mail, "app@example.com"))[0] == 421
            assert (await asyncio.to_thread(other.smtp.rcpt, "you@example.net"))[0] == 421
            for one in (session, other):
                with pytest.raises(smtplib.SMTPServerDisconnected):
                    await asyncio.to_thread(one.smtp.noop)


async def test_authd_and_exim(play: Stage, folder: Path) -> None:
    username, password = await make(play)
    async with authd(play, folder):
        with mail_servers.exim(folder, folder / "auth") as port:
            for mechanism in ("PLAIN", "LOGIN"):
                assert await asyncio.to_thread(log_in, port, username, password, mechanism, True) == 235
            assert await asyncio.to_thread(log_in, port, username, generate(username[-8:])) == 535
            async with play.db.note() as database:
                await database.execute(text("ALTER TABLE credentials RENAME TO away"))
            assert await asyncio.to_thread(log_in, port, username, password) == 435
            async with play.db.note() as database:
                await database.execute(text("ALTER TABLE away RENAME TO credentials"))
            await delete(play)
            assert await asyncio.to_thread(log_in, port, username, password) == 535


async def test_last_used_is_shown_where_people_decide(play: Stage, folder: Path) -> None:
    username, password = await make(play)
    async with authd(play, folder) as changes:
        with mail_servers.postfix(folder, "submission-authd.cf", changes) as port:
            assert await asyncio.to_thread(log_in, port, username, password) == 235
    await play.rita.types(play.mail, "/smtp list")
    assert "from 127.0.0.1" in play.rita.read(await play.rita.sees("SMTP credentials in Acme"))
    await play.wanda.types(play.mail, "/smtp delete Relay")
    assert "from 127.0.0.1" in play.wanda.read(await play.wanda.sees_modal("Last used"))

"""Real mail servers on the store that the bot writes: what it creates may log in, what it deletes is refused from then on."""

import asyncio
import contextlib
import os
import smtplib
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from storage.passwords import Hasher, generate
from tests import mail_servers, raw
from tests.mail_servers import DEPLOY, Session, log_in
from tests.stage import Stage


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


async def test_dovecot_and_postfix_by_sql(play: Stage, folder: Path) -> None:
    username, password = await make(play)
    with (
        mail_servers.dovecot(folder, passdb_url(play)) as socket,
        mail_servers.postfix(folder, "submission-dovecot.cf", {}, socket) as port,
    ):
        for mechanism in ("PLAIN", "LOGIN"):
            assert await asyncio.to_thread(log_in, port, username, password, mechanism, True) == 235
        assert await asyncio.to_thread(log_in, port, username, generate(username[-8:])) == 535
        old = password
        password = generate(username[-8:])
        await rotate(play, password)
        for one in (old, password):
            assert await asyncio.to_thread(log_in, port, username, one) == 235
        await delete(play)
        for one in (old, password):
            assert await asyncio.to_thread(log_in, port, username, one) == 535


async def rotate(play: Stage, password: str) -> None:
    """The store as a rotation with overlap leaves it."""
    hasher = Hasher(8, 1)
    old = await raw.one(play.db, "SELECT password_hash FROM credentials")
    values = {"previous_hash": old, "password_hash": await hasher.hash(password), "version": 9}
    await raw.change_credentials(play.db, previous_until=play.clock() + timedelta(days=1), **values)
    hasher.close()


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
            await raw.sql(play.db, "ALTER TABLE credentials RENAME TO away")
            assert await asyncio.to_thread(log_in, port, username, password) == 454
            await raw.sql(play.db, "ALTER TABLE away RENAME TO credentials")
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
            await raw.sql(play.db, "ALTER TABLE credentials RENAME TO away")
            assert await asyncio.to_thread(log_in, port, username, password) == 435
            await raw.sql(play.db, "ALTER TABLE away RENAME TO credentials")
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

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
from sqlalchemy import select, update

from storage.models import CREDENTIALS, WORKSPACES
from storage.passwords import Hasher, Style, generate, tag
from tests import mail_servers, raw
from tests.mail_servers import DEPLOY, Session, log_in
from tests.stage import Stage, stage
from tests.stores import sqlite_store


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
    role, _, grant = (DEPLOY / "postgresql" / "passdb-role.sql").read_text().partition(";\n")
    with psycopg.connect(play.database_url, autocommit=True) as connection:
        with contextlib.suppress(psycopg.errors.DuplicateObject):
            connection.execute(role.encode())
        connection.execute(grant.encode())
    server, _, name = play.database_url.partition("@")[2].partition("/")
    reader = f"postgresql://smtp_passdb_reader@{server}/{name}"
    with psycopg.connect(reader) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("SELECT * FROM credentials")
    return reader


@pytest.fixture(params=["2.3-sqlite", "2.3-postgres", "2.4-sqlite", "2.4-postgres"])
async def by_sql(request: pytest.FixtureRequest) -> AsyncIterator[tuple[str, Path, Stage]]:
    """Dovecot's version, a folder that it can read, and the bot with its SQLite file there, or on PostgreSQL."""
    version, database = request.param.split("-")
    with mail_servers.open_folder(mail_servers.dovecot_root(version)) as folder:
        url = sqlite_store(folder / "bot.db") if database == "sqlite" else str(request.getfixturevalue("postgres_url"))
        async with stage(url, "socket") as play:
            yield version, folder, play


async def test_dovecot_and_postfix_by_sql(by_sql: tuple[str, Path, Stage]) -> None:
    version, folder, play = by_sql
    username, password = await make(play)
    other, others = await make(play, "Other")
    with (
        mail_servers.dovecot(folder, passdb_url(play), version=version) as auth,
        mail_servers.postfix(folder, "submission-dovecot.cf", {}, auth) as postfix,
    ):
        port = postfix.submission

        async def code(password: str, username: str = username) -> int:
            return await asyncio.to_thread(log_in, port, username, password)

        async def codes(*passwords: str) -> list[int]:
            return await asyncio.gather(*(code(one) for one in passwords))

        for mechanism in ("PLAIN", "LOGIN"):
            assert await asyncio.to_thread(log_in, port, username, password, mechanism, True) == 235
        assert await asyncio.to_thread(log_in, postfix.submissions, username, password, send=True, wrapped=True) == 235
        assert await asyncio.to_thread(log_in, port, f"{username.upper()}@Example.COM", password, send=True) == 235
        assert set(re.findall(r"sasl_username=(\S+)", postfix.log.read_text())) == {username}
        # Dovecot's penalty for an address doubles with each mistake; after the fourth Postfix would wait no longer, and say 454.
        assert [await code(generate(username[-8:])) for _ in range(4)] == [535] * 4
        assert await code(others, other) == 235
        assert await asyncio.to_thread(ask, auth, "smtp", username, password) == b"OK"
        assert await asyncio.to_thread(ask, auth, "imap", username, password) == b"FAIL"
        old = password
        password = generate(username[-8:], Style.DEVICE)
        await rotate(play, username, password)
        assert await codes(old, password, hyphened(password)) == [235, 235, 535]
        await overlap_ends(play, username)
        assert await codes(old, password) == [535, 235]
        await delete(play)
        assert await codes(old, password) == [535, 535]
        assert await code(others, other) == 235


def ask(path: Path, service: str, username: str, password: str) -> bytes:
    """The first word of the answer to a log-in for this protocol."""
    response = base64.b64encode(f"\0{username}\0{password}".encode()).decode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(path))
        connection.sendall(f"VERSION\t1\t1\nCPID\t{os.getpid()}\nAUTH\t1\tPLAIN\tservice={service}\tsecured\tresp={response}\n".encode())
        with connection.makefile("rb") as lines:
            return next(
                word for word, tab, rest in (line.partition(b"\t") for line in lines) if rest.startswith(b"1\t") and word != b"VERSION"
            )


def hyphened(password: str) -> str:
    """A device password as people copy it from paper."""
    return "-".join(password.upper()[start : start + 5] for start in range(0, 20, 5))


async def rotate(play: Stage, username: str, password: str) -> None:
    """The store as a rotation with overlap leaves it."""
    hasher = Hasher(8, 1)
    row = CREDENTIALS.c.username == username
    [(old,)] = await raw.sql(play.db, select(CREDENTIALS.c.password_hash).where(row))
    values = {"previous_hash": old, "password_hash": await hasher.hash(password), "version": 9}
    await raw.sql(play.db, update(CREDENTIALS).where(row).values(previous_until=play.clock() + timedelta(days=1), **values))
    hasher.close()


async def overlap_ends(play: Stage, username: str) -> None:
    row = CREDENTIALS.c.username == username
    await raw.sql(play.db, update(CREDENTIALS).where(row).values(previous_until=play.clock() - timedelta(days=1)))


@pytest.mark.parametrize("by_sql", ["2.3-sqlite", "2.3-postgres"], indirect=True)
async def test_sender_domains_by_sql(by_sql: tuple[str, Path, Stage]) -> None:
    _, folder, play = by_sql
    username, password = await make(play)
    zetas = await play.create(play.olga, "Zeta", play.other)
    zeta = next(one.username for one in await play.credentials() if one.name == "Zeta")
    url = passdb_url(play)
    await set_domains(play, "acme", "acme.example", "acme.org")
    sqlite = url.startswith("sqlite")
    given = (DEPLOY / "postfix" / f"sender-logins-{'sqlite' if sqlite else 'pgsql'}.cf").read_text()
    address, _, name = url.partition("@")[2].partition("/")
    changes = {"127.0.0.1:5432": address, "dbname = smtp_bot": f"dbname = {name}"}
    if sqlite:
        changes = {"/var/lib/smtp-bot/smtp-bot.db": url.removeprefix("sqlite:///")}
    (folder / "senders.cf").write_text(mail_servers.replaced(given, changes))
    for part in folder.glob("bot.db*"):
        shutil.chown(part, group="postfix")
        part.chmod(0o660)
    checked = {"-o smtpd_sender_restrictions=": "-o smtpd_sender_restrictions=reject_authenticated_sender_login_mismatch"}
    main = {"smtpd_sender_login_maps": f"proxy:{'sqlite' if sqlite else 'pgsql'}:{folder}/senders.cf"}
    with (
        mail_servers.dovecot(folder, url) as auth,
        mail_servers.postfix(folder, "submission-dovecot.cf", checked, auth, main) as postfix,
        Session(postfix.submission) as session,
        Session(postfix.submission) as other,
    ):
        assert await asyncio.to_thread(session.log_in, username, password) == 235
        assert await asyncio.to_thread(other.log_in, zeta, zetas) == 235

        async def code(one: Session, sender: str) -> int:
            await asyncio.to_thread(one.smtp.rset)
            await asyncio.to_thread(one.smtp.mail, sender)
            return (await asyncio.to_thread(one.smtp.rcpt, "you@example.net"))[0]

        assert [await code(session, sender) for sender in ("scanner@acme.example", "boss@ACME.org", "boss@zeta.example")] == [250, 250, 553]
        assert [await code(other, sender) for sender in ("boss@zeta.example", "somebody@anywhere.example")] == [250, 250]
        await set_domains(play, "zeta", "zeta.example")
        assert [await code(other, sender) for sender in ("boss@zeta.example", "boss@acme.example")] == [250, 553]


async def set_domains(play: Stage, slug: str, *domains: str) -> None:
    await raw.sql(play.db, update(WORKSPACES).where(WORKSPACES.c.slug == slug).values(domains=domains))


@contextlib.asynccontextmanager
async def authd(play: Stage, folder: Path, group: str = "postfix") -> AsyncIterator[tuple[dict[str, str], asyncio.subprocess.Process]]:
    """`smtp-bot authd` as a process; gives what to change in `deploy/`'s files to reach it. Its sockets are open to this group alone."""
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
        while b'"ready"' not in (line := await asyncio.wait_for(process.stderr.readline(), 120)):
            assert line, "authd ended"
        for made in (auth, policy):
            shutil.chown(made, group=group)
            made.chmod(0o660)
        yield {"/run/smtp-bot/auth": str(auth), "/run/smtp-bot/policy": str(policy)}, process
    finally:
        process.terminate()
        await asyncio.wait_for(process.communicate(), 120)


async def test_authd_and_postfix(play: Stage, folder: Path) -> None:
    username, password = await make(play)
    async with authd(play, folder) as (changes, _):
        with mail_servers.postfix(folder, "submission-authd.cf", changes) as postfix:
            port = postfix.submission
            for mechanism in ("PLAIN", "LOGIN"):
                assert await asyncio.to_thread(log_in, port, username, password, mechanism, True) == 235
            assert await asyncio.to_thread(log_in, postfix.submissions, username, password, send=True, wrapped=True) == 235
            assert await asyncio.to_thread(log_in, port, username, "wrong") == 535
            assert await asyncio.to_thread(log_in, port, username, generate(username[-8:])) == 535
            idle, mail, rcpt, data, bdat = sessions = await asyncio.gather(*(asyncio.to_thread(Session, port) for _ in range(5)))
            for session in sessions:
                assert await asyncio.to_thread(session.log_in, username, password) == 235
            await asyncio.to_thread(idle.send)
            for session in (mail, rcpt, data, bdat):
                assert (await asyncio.to_thread(session.smtp.mail, "app@example.com"))[0] == 250
            for session in (rcpt, data, bdat):
                assert (await asyncio.to_thread(session.smtp.rcpt, "you@example.net"))[0] == 250
            assert await asyncio.to_thread(data.says, "DATA") == 354
            assert await asyncio.to_thread(bdat.says, "BDAT 7\r\nHello") == 250
            await raw.sql(play.db, "ALTER TABLE credentials RENAME TO away")
            assert await asyncio.to_thread(log_in, port, username, password) == 454
            await raw.sql(play.db, "ALTER TABLE away RENAME TO credentials")
            assert await asyncio.to_thread(log_in, port, username, password) == 235
            await delete(play)
            assert await asyncio.to_thread(log_in, port, username, password) == 535
            assert (await asyncio.to_thread(idle.smtp.mail, "app@example.com"))[0] == 421
            assert (await asyncio.to_thread(mail.smtp.rcpt, "you@example.net"))[0] == 421
            assert await asyncio.to_thread(rcpt.says, "DATA") == 421
            assert await asyncio.to_thread(data.says, "Subject: test\r\n\r\nHello\r\n.") == 421
            assert await asyncio.to_thread(bdat.says, "BDAT 0 LAST") == 421
            for session in sessions:
                with pytest.raises(smtplib.SMTPServerDisconnected):
                    await asyncio.to_thread(session.smtp.noop)


async def test_what_postfix_may_send_for_a_credential_and_what_is_counted(play: Stage, folder: Path) -> None:
    username, password = await make(play)
    await set_domains(play, "acme", "acme.example")
    async with authd(play, folder) as (changes, _):
        with (
            mail_servers.postfix(folder, "submission-authd.cf", changes) as postfix,
            Session(postfix.submission) as session,
            Session(postfix.submission) as other,
        ):
            for one in (session, other):
                assert await asyncio.to_thread(one.log_in, username, password) == 235

            async def sends(sender: str, *recipients: str, one: Session = session) -> str:
                """The answer to it, from MAIL FROM to the end of data."""
                await asyncio.to_thread(one.smtp.rset)
                code, said = await asyncio.to_thread(one.smtp.mail, sender)
                for recipient in recipients:
                    if code == 250:
                        code, said = await asyncio.to_thread(one.smtp.rcpt, recipient)
                if code == 250:
                    try:
                        code, said = await asyncio.to_thread(one.smtp.data, "Subject: test\r\n\r\nHello\r\n")
                    except smtplib.SMTPDataError as error:
                        code, said = error.smtp_code, error.smtp_error  # type: ignore[assignment]
                return f"{code} {said.decode()}"

            foreign = await sends("boss@zeta.example", "you@example.net")
            assert foreign.startswith("553 5.7.1 <boss@zeta.example>: Sender address rejected: ")
            assert "may not send as zeta.example" in foreign
            assert (await sends("scanner@ACME.example", "you@example.net", "me@example.net")).startswith("250")
            assert (await sends("", "you@example.net")).startswith("250")
            await raw.sql(play.db, update(CREDENTIALS).values(recipients_hour=4))
            assert (await sends("a@acme.example", "a@example.net", "b@example.net")).startswith("450 4.7.1")
            assert (await sends("a@acme.example", "a@example.net", one=other)).startswith("250")
            assert "may send to 4 recipients an hour" in await sends("a@acme.example", "a@example.net")
            await raw.sql(play.db, update(CREDENTIALS).values(recipients_hour=None))
            # The password of these sessions is replaced, and its overlap ends.
            new = generate(username[-8:], Style.DEVICE)
            await rotate(play, username, new)
            await raw.sql(play.db, update(CREDENTIALS).values(previous_tag=tag(password), password_tag=tag(new)))
            assert (await sends("a@acme.example", "a@example.net")).startswith("250")
            await overlap_ends(play, username)
            assert (await sends("a@acme.example", "a@example.net")).startswith("421 4.7.0")
            with Session(postfix.submission) as fresh:
                assert await asyncio.to_thread(fresh.log_in, username, new) == 235
                assert (await sends("a@acme.example", "a@example.net", one=fresh)).startswith("250")
    assert await raw.sql(play.db, "SELECT sum(messages), sum(recipients) FROM login_counts") == [(5, 6)]
    play.clock.passes(minutes=1)  # the clock of the bot stood still meanwhile
    await play.settled()
    await play.rita.sees("has reached its limit of recipients an hour")


@pytest.mark.parametrize("file", ["submission-authd.cf", "submission-dovecot.cf"])
def test_both_services_of_a_file_have_the_same_options(file: str) -> None:
    first, second = (DEPLOY / "postfix" / file).read_text().split("\nsubmissions inet")
    options = [{line for line in part.splitlines() if line.startswith("  -o ")} for part in (first, second)]
    assert options[1] - options[0] == {"  -o syslog_name=postfix/submissions", "  -o smtpd_tls_wrappermode=yes"}
    assert options[0] - options[1] == {"  -o syslog_name=postfix/submission"}


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("play", ["sqlite-socket"], indirect=True)
async def test_an_authd_that_hangs_does_not_hold_mail(play: Stage, folder: Path) -> None:
    username, password = await make(play)
    async with authd(play, folder) as (changes, process):
        shorter = {"smtpd_policy_service_timeout=5s": "smtpd_policy_service_timeout=1s"}
        with mail_servers.postfix(folder, "submission-authd.cf", changes | shorter) as postfix, Session(postfix.submission) as session:
            assert await asyncio.to_thread(session.log_in, username, password) == 235
            workers = children(process.pid)
            for pid in workers:
                os.kill(pid, signal.SIGSTOP)
            try:
                # Without the two limits of the file Postfix waits for 100 s, and this session for 20.
                assert (await asyncio.to_thread(session.smtp.mail, "app@example.com"))[0] == 451
            finally:
                for pid in workers:
                    os.kill(pid, signal.SIGCONT)
            await asyncio.to_thread(session.send)


@pytest.mark.parametrize("play", ["sqlite-socket"], indirect=True)
async def test_authd_on_another_machine_behind_tls(play: Stage, folder: Path) -> None:
    username, password = await make(play)
    async with authd(play, folder):
        with mail_servers.tunnel(folder, folder / "auth", folder / "policy") as tunnel:
            remote = {"/run/smtp-bot/auth": f"inet:127.0.0.1:{tunnel.auth}", "unix:/run/smtp-bot/policy": f"inet:127.0.0.1:{tunnel.policy}"}
            with mail_servers.postfix(folder, "submission-authd.cf", remote) as postfix, Session(postfix.submission) as session:
                assert await asyncio.to_thread(session.log_in, username, password) == 235
                await asyncio.to_thread(session.send)
                await delete(play)
                assert (await asyncio.to_thread(session.smtp.mail, "app@example.com"))[0] == 421
            with socket.create_connection(("127.0.0.1", tunnel.outside), 20) as stranger:
                stranger.sendall(b"VERSION\t1\t1\n")
                with contextlib.suppress(ConnectionResetError):
                    assert b"VERSION" not in await asyncio.to_thread(stranger.recv, 100)


async def test_authd_and_exim(play: Stage, folder: Path) -> None:
    username, password = await make(play)
    async with authd(play, folder, group="Debian-exim"):
        with mail_servers.exim(folder, folder / "auth") as port:
            for mechanism in ("PLAIN", "LOGIN"):
                assert await asyncio.to_thread(log_in, port, username, password, mechanism, True) == 235
            assert await asyncio.to_thread(log_in, port, username, generate(username[-8:])) == 535
            await raw.sql(play.db, "ALTER TABLE credentials RENAME TO away")
            assert await asyncio.to_thread(log_in, port, username, password) == 435
            await raw.sql(play.db, "ALTER TABLE away RENAME TO credentials")
            await delete(play)
            assert await asyncio.to_thread(log_in, port, username, password) == 535


@pytest.mark.parametrize("play", ["sqlite-socket"], indirect=True)
async def test_authd_and_haraka(play: Stage, folder: Path) -> None:
    username, password = await make(play)
    async with authd(play, folder):
        with mail_servers.haraka(folder, folder / "auth", folder / "policy") as port:
            for mechanism in ("PLAIN", "LOGIN"):
                assert await asyncio.to_thread(log_in, port, username.upper(), password, mechanism, True) == 235
            stranger = await asyncio.to_thread(Session, port)
            assert await asyncio.to_thread(stranger.log_in, username, generate(username[-8:])) == 535
            idle, mail, rcpt, data = sessions = await asyncio.gather(*(asyncio.to_thread(Session, port) for _ in range(4)))
            for session in sessions:
                assert await asyncio.to_thread(session.log_in, username, password) == 235
            for session in (mail, rcpt, data):
                assert (await asyncio.to_thread(session.smtp.mail, "app@example.com"))[0] == 250
            for session in (rcpt, data):
                assert (await asyncio.to_thread(session.smtp.rcpt, "you@example.net"))[0] == 250
            assert await asyncio.to_thread(data.says, "DATA") == 354
            await raw.sql(play.db, "ALTER TABLE credentials RENAME TO away")
            assert await asyncio.to_thread(log_in, port, username, password) == 454
            assert (await asyncio.to_thread(idle.smtp.mail, "app@example.com"))[0] == 451
            await raw.sql(play.db, "ALTER TABLE away RENAME TO credentials")
            await delete(play)
            assert (await asyncio.to_thread(stranger.smtp.mail, "app@example.com"))[0] == 250, "it is nobody's session"
            assert await asyncio.to_thread(log_in, port, username, password) == 535
            assert (await asyncio.to_thread(idle.smtp.mail, "app@example.com"))[0] == 421
            assert (await asyncio.to_thread(mail.smtp.rcpt, "you@example.net"))[0] == 421
            assert await asyncio.to_thread(rcpt.says, "DATA") == 421
            assert await asyncio.to_thread(data.says, "Subject: test\r\n\r\nHello\r\n.") == 421
            for session in sessions:
                with pytest.raises(smtplib.SMTPServerDisconnected):
                    await asyncio.to_thread(session.smtp.noop)


async def test_last_used_is_shown_where_people_decide(play: Stage, folder: Path) -> None:
    """The address is the client's, not the proxy's that stands before Postfix."""
    username, password = await make(play)
    async with authd(play, folder) as (changes, _):
        proxied = changes | {"-o smtpd_tls_auth_only=yes": "-o smtpd_upstream_proxy_protocol=haproxy\n  -o smtpd_tls_auth_only=yes"}
        with (
            mail_servers.postfix(folder, "submission-authd.cf", proxied) as postfix,
            Session(postfix.submission, proxied_for="203.0.113.5") as session,
        ):
            assert await asyncio.to_thread(session.log_in, username, password) == 235
    await play.rita.types(play.mail, "/smtp list")
    assert "from 203.0.113.5" in play.rita.read(await play.rita.sees("SMTP credentials in Acme"))
    await play.wanda.types(play.mail, "/smtp delete Relay")
    assert "from 203.0.113.5" in play.wanda.read(await play.wanda.sees_modal("Last used"))

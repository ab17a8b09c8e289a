"""`smtp-bot doctor`: each thing that can be wrong has its finding with what to do about it."""

import asyncio
import contextlib
import json
import os
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session
from typer.testing import Result

from bot.doctor import Finding, examine
from sandbox.slack import Slack
from sandbox.world import App
from storage import grants, workspaces
from storage.access import Actor, Role
from storage.audit import Origin, Surface
from storage.database import Database
from storage.logins import beat
from tests import raw
from tests.stage import MANIFEST
from tests.stores import sqlite_store
from tests.test_cli import smtp_bot

SHELL = Origin(Actor("shell:test", "T0SANDBOX", owner=True), Surface.SHELL, "ref")
Doctor = Callable[..., Awaitable[Result]]


@pytest.fixture
async def slack() -> AsyncIterator[Slack]:
    made = Slack()
    async with made.serve():
        yield made


@pytest.fixture
def app(slack: Slack) -> App:
    return slack.install(MANIFEST)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return sqlite_store(tmp_path / "bot.db")


@pytest.fixture
def doctor(slack: Slack, app: App, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    monkeypatch.chdir(tmp_path)
    tokens = {"SLACK_BOT_TOKEN": app.bot_token, "SLACK_APP_TOKEN": app.app_token, "SLACK_API_URL": f"{slack.url}/api/"}

    async def look(*arguments: str, **change: str) -> Result:
        return await asyncio.to_thread(smtp_bot, change.pop("DATABASE_URL", url), "doctor", *arguments, **(tokens | change))

    return look


@pytest.fixture
async def db(url: str) -> AsyncIterator[Database]:
    os.umask(0o077)  # as `smtp-bot` does
    made = Database(url)
    await made.change(workspaces.add, SHELL, "acme")
    yield made
    await made.close()
    os.umask(0o022)


async def test_all_is_well(slack: Slack, doctor: Doctor, db: Database) -> None:
    olga = slack.add_person("olga")
    await db.note(beat, "p1", "mx1:7", db.clock())
    healthy = await doctor(BOT_OWNERS=olga.id)
    assert (healthy.exit_code, "WRONG" in healthy.stdout) == (0, False), healthy.stdout
    for part in ("Slack team Sandbox", "every scope", "Socket Mode connection", "schema up to date", "unbroken", "authd mx1:7 lives"):
        assert part in healthy.stdout
    assert "this clock and Slack's agree" in healthy.stdout
    assert "Slack knows every owner" in healthy.stdout
    deaf = await doctor(BOT_OWNERS=olga.id, LEAKS_SECRET="a-shared-secret-0123456789", PORT=None)
    assert (deaf.exit_code, "nothing listens for reports" in deaf.stdout) == (1, True), deaf.stdout
    heard = await doctor(BOT_OWNERS=olga.id, LEAKS_SECRET="a-shared-secret-0123456789", PORT="8099")
    assert "nothing listens for reports" not in heard.stdout


async def test_slack_and_the_database_are_told_apart(slack: Slack, app: App, doctor: Doctor, db: Database) -> None:
    app.scopes.remove("usergroups:read")
    sick = await doctor(SLACK_APP_TOKEN="xapp-other")
    assert sick.exit_code == 1
    assert "lacks the scopes usergroups:read. Paste manifest.yml again" in sick.stdout
    assert "SLACK_APP_TOKEN: Slack answered invalid_auth" in sick.stdout
    assert "BOT_OWNERS is empty" in sick.stdout
    assert "xapp-other" not in sick.stdout
    lost = await doctor(SLACK_BOT_TOKEN="xoxb-other", DATABASE_URL="postgresql://bot@127.0.0.1:9/none")
    assert "SLACK_BOT_TOKEN: Slack answered invalid_auth" in lost.stdout
    assert "PostgreSQL does not answer" in lost.stdout


async def test_who_left_and_what_is_gone(slack: Slack, doctor: Doctor, db: Database) -> None:
    olga, left = slack.add_person("olga"), slack.add_person("left", deleted=True)
    there, hidden = slack.add_channel("there"), slack.add_channel("hidden", with_bot=False)
    for channel in (there, hidden):
        workspace = await db.read(workspaces.named, "acme")
        await db.change(workspaces.map_channel, SHELL, "T0SANDBOX", channel.id, workspace.id)
    await db.change(workspaces.map_channel, SHELL, "T0SANDBOX", "C0GONE", workspace.id)
    for principal in (left.id, "S0GONE", "U0NOBODY"):
        await db.change(grants.grant, SHELL, "T0SANDBOX", principal, Role.WRITER, workspace.id)
    sick = await doctor("--json", BOT_OWNERS=f"{olga.id} U0OTHER")
    found = {one["what"]: one["fix"] for one in map(json.loads, sick.stdout.splitlines()) if one["level"] == "wrong"}
    assert sick.exit_code == 1
    assert f"With a role, {left.id} has left: the account is deactivated." in found
    assert "The owner U0OTHER is nobody in this Slack team." in found
    assert found["The user group S0GONE, which has a role, is gone or disabled."].startswith("smtp-bot ungrant S0GONE")
    assert found["The bot cannot see the channel C0GONE."].endswith("smtp-bot channel unmap C0GONE")
    assert f"The bot is not in the channel {hidden.id}." in found
    assert not any(olga.id in what or there.id in what for what in found)


async def test_a_broken_chain_a_damaged_file_and_open_files(tmp_path: Path, doctor: Doctor, db: Database) -> None:
    (tmp_path / "bot.db").chmod(0o644)  # before something is written: afterwards it looks like a restore
    await raw.allow_rewriting(db)
    await raw.sql(db, "UPDATE audit_events SET user_id = 'somebody'")
    sick = await doctor()
    assert "Row 1 of the audit log is not what was written. Keep a copy" in sick.stdout, sick.stdout
    assert f"may read {tmp_path / 'bot.db'}. Run: chmod o=" in sick.stdout


async def test_a_journal_that_can_never_be_made_is_wrong(tmp_path: Path, doctor: Doctor, db: Database) -> None:
    assert "note   REVOKED_JOURNAL:" in (await doctor()).stdout
    for place, says in {
        tmp_path / "nowhere" / "journal": "isn't there and can't be made by this account",
        tmp_path / ("n" * 300): "is not kept: unwritable (File name too long)",
    }.items():
        said = await doctor(REVOKED_JOURNAL=str(place))
        assert said.exit_code == 1
        assert any(line.startswith("WRONG  REVOKED_JOURNAL:") and says in line for line in said.stdout.splitlines()), said.stdout


async def test_one_part_that_fails_leaves_the_rest_of_the_report(doctor: Doctor, db: Database) -> None:
    await raw.sql(db, "DROP TABLE mail_servers")
    said = await doctor(AUTHD_LISTEN="tcp:a..b:1", SMTP_HOST="mail.invalid")
    assert said.exit_code == 1
    assert "WRONG  DATABASE_URL: SQLite does not do what it is asked (SQLITE_ERROR: no such table: mail_servers)." in said.stdout
    assert "WRONG  AUTHD_LISTEN: authd does not answer (UnicodeError)." in said.stdout
    assert "WRONG  No mail server answers at mail.invalid:587" in said.stdout
    assert "the app has every scope it needs" in said.stdout


async def test_authd_is_greeted(doctor: Doctor, db: Database) -> None:
    async def authd(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nSPID\t1\nCUID\t1\nCOOKIE\t00\nDONE\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(authd, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert "authd answers on AUTHD_LISTEN" in (await doctor(AUTHD_LISTEN=f"tcp:{port}")).stdout
    away = await doctor(AUTHD_LISTEN="unix:/nowhere/auth")
    assert "authd does not answer (FileNotFoundError). Is it running" in away.stdout


@pytest.fixture
def certificate(tmp_path: Path) -> ssl.SSLContext:
    """Of nobody's: clients refuse it."""
    key, made = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "30"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(made)], check=True, capture_output=True, timeout=150)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made, key)
    return context


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (AuthResult(success=False, handled=False), "refuses a wrong password"),
        (AuthResult(success=True), "accepts a password that is nobody's! Nobody checks log-ins there"),
        (AuthResult(success=False, handled=False, message="454 4.7.0 later"), "answers 454 to a wrong password instead of 535"),
    ],
)
async def test_a_wrong_password_is_tried_at_the_mail_server(doctor: Doctor, db: Database, answer: AuthResult, says: str) -> None:
    def authenticate(*_: Any) -> AuthResult:
        return answer

    async with await mail_server(authenticator=authenticate, auth_require_tls=False) as server:
        port = server.sockets[0].getsockname()[1]
        found = (await doctor(SMTP_HOST="127.0.0.1", SMTP_PORT=str(port), SMTP_TLS="none")).stdout
    assert f"127.0.0.1:{port} {says}" in found


async def test_a_mail_server_that_says_a_letter_now_and_then_holds_nobody(
    slack: Slack, app: App, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def drip(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"2")
                await writer.drain()
                await asyncio.sleep(0.05)

    monkeypatch.chdir(tmp_path)
    async with await asyncio.start_server(drip, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        given = {"SLACK_BOT_TOKEN": app.bot_token, "SLACK_APP_TOKEN": app.app_token, "SLACK_API_URL": f"{slack.url}/api/"}
        for name, value in (given | {"DATABASE_URL": url, "SMTP_HOST": "127.0.0.1", "SMTP_PORT": str(port), "SMTP_TLS": "none"}).items():
            monkeypatch.setenv(name, value)
        found: list[Finding] = []
        await examine(found.append, patience=8)
    assert any(one.what.startswith(f"No mail server answers at 127.0.0.1:{port} (") for one in found), found


async def test_the_certificate_is_looked_at(doctor: Doctor, db: Database, certificate: ssl.SSLContext) -> None:
    async with await mail_server(tls_context=certificate) as server:
        port = str(server.sockets[0].getsockname()[1])
        found = (await doctor(SMTP_HOST="localhost", SMTP_PORT=port)).stdout
        assert f"localhost:{port} has a certificate that clients refuse: self-signed certificate. Renew it" in found
    async with await mail_server() as server:
        port = str(server.sockets[0].getsockname()[1])
        assert "offers no STARTTLS" in (await doctor(SMTP_HOST="localhost", SMTP_PORT=port)).stdout
        assert "offers no log-in" in (await doctor(SMTP_HOST="localhost", SMTP_PORT=port, SMTP_TLS="none")).stdout
    assert "No mail server answers at localhost:9" in (await doctor(SMTP_HOST="localhost", SMTP_PORT="9")).stdout


class Anybody:
    async def handle_RCPT(self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]) -> str:
        return "250 ok"


async def mail_server(**options: Any) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: SMTP(Anybody(), loop=loop, **options), "127.0.0.1", 0)

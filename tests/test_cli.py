"""The command line, as an operator uses it: a process, its output and its exit status."""

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox.slack import Slack
from storage import credentials
from storage.access import Actor
from storage.audit import Origin, Surface
from storage.database import Database
from tests.stage import MANIFEST

FOLDER = Path(__file__).parent.parent


def environment(url: str, **more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLACK_", "BOT_", "SMTP_", "DATABASE_"))}
    return kept | {"DATABASE_URL": url, "SLACK_TEAM_ID": "T0SANDBOX", "PYTHONPATH": str(FOLDER), **more}


def smtp_bot(url: str, *arguments: str, tmp: Path, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bot", *arguments]
    return subprocess.run(command, env=environment(url, **more), cwd=tmp, capture_output=True, text=True, timeout=50, check=False)


async def fill(url: str, *names: str) -> list[str]:
    db = Database(url)
    by = Origin(Actor("U0WANDA", "T0SANDBOX", owner=True), Surface.MODAL, "ref", "C0MAIL")
    made = []
    for name in names:
        credential, _ = await credentials.create_pending(db, by, "C0MAIL", name, f"view {name}")
        await credentials.activate(db, by, credential.id, "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaA")
        made.append(credential.username)
    await db.close()
    return made


def test_on_the_day_slack_is_down(database_url: str, tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return smtp_bot(database_url, *arguments, tmp=tmp_path)

    if database_url.startswith("postgres"):
        old = run("list")
        assert (old.returncode, old.stderr) == (1, "DATABASE_URL: the database's schema is out of date. Run: smtp-bot db upgrade\n")
    assert run("db", "upgrade").stdout == "The database is up to date.\n"
    assert run("workspace", "add", "acme", "Acme Inc.").stdout == "Made the workspace acme (Acme Inc.).\n"
    again = run("workspace", "add", "acme")
    assert (again.returncode, again.stdout) == (1, "")
    assert "There already is a workspace" in again.stderr
    assert run("channel", "map", "C0MAIL", "acme").returncode == 0
    assert run("channel", "map", "#mail", "acme").returncode == 2
    assert run("grant", "U0WANDA", "writer", "acme").stdout == "U0WANDA is writer of acme.\n"
    assert run("grant", "wanda", "writer").returncode == 2
    assert run("grant", "U0WANDA", "king").returncode == 2
    first, second = asyncio.run(fill(database_url, "Relay", "Printer"))
    listed = [json.loads(line) for line in run("list", "acme", "--json").stdout.splitlines()]
    assert [(one["username"], one["name"], one["workspace"]) for one in listed] == [(first, "Relay", "acme"), (second, "Printer", "acme")]
    assert run("list", "nowhere").returncode == 1
    revoked = run("revoke", first, "smtp-acme-00000000", "--reason", "on a laptop that was stolen")
    assert revoked.returncode == 1
    assert f"{first}: revoked" in revoked.stdout
    assert "smtp-acme-00000000: No credential has that username." in revoked.stderr
    assert "already deleted by shell:" in run("revoke", first).stderr
    rows = [json.loads(line) for line in run("audit", "--json").stdout.splitlines()]
    deleted = next(row for row in rows if row["action"] == "delete" and row["outcome"] == "done")
    assert deleted["user_id"].startswith("shell:")
    assert deleted["reason"] == "on a laptop that was stolen"
    assert "unbroken" in run("audit", "verify").stdout


def test_the_first_broken_row_of_the_audit_log_is_named(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'bot.db'}"
    for slug in ("one", "two", "three"):
        assert smtp_bot(url, "workspace", "add", slug, tmp=tmp_path).returncode == 0
    with sqlite3.connect(tmp_path / "bot.db") as thief:
        thief.execute("DROP TRIGGER audit_events_no_update")
        thief.execute("UPDATE audit_events SET user_id = 'somebody' WHERE id = 2")
    verdict = smtp_bot(url, "audit", "verify", tmp=tmp_path)
    assert verdict.returncode == 1
    assert "Row 2 is not what was written" in verdict.stderr


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("BOT_OWNERS", "olga", "BOT_OWNERS: olga: not a Slack user id"),
        ("DATABASE_URL", "mysql://secret@x/y", "DATABASE_URL: mysql is not supported"),
        ("SLACK_BOT_TOKEN", "xapp-secret", "SLACK_BOT_TOKEN: it starts with xoxb-"),
        ("SMTP_PORT", "many", "SMTP_PORT: "),
        ("BOT_COMMAND", "smtp", "BOT_COMMAND: "),
    ],
)
def test_a_wrong_setting_is_named_and_not_repeated(tmp_path: Path, name: str, value: str, says: str) -> None:
    run = smtp_bot(f"sqlite:///{tmp_path / 'bot.db'}", "list", tmp=tmp_path, **{name: value})
    assert run.returncode == 1
    assert says in run.stderr
    assert "secret" not in run.stderr
    assert "Traceback" not in run.stderr


async def test_the_doctor_looks_at_everything(tmp_path: Path) -> None:
    slack = Slack()
    app = slack.install(MANIFEST)
    url = f"sqlite:///{tmp_path / 'bot.db'}"
    async with slack.serve():
        tokens = {"SLACK_BOT_TOKEN": app.bot_token, "SLACK_APP_TOKEN": app.app_token, "SLACK_API_URL": f"{slack.url}/api/"}

        async def doctor(**change: str) -> subprocess.CompletedProcess[str]:
            return await asyncio.to_thread(smtp_bot, url, "doctor", tmp=tmp_path, **(tokens | change))

        await asyncio.to_thread(smtp_bot, url, "workspace", "add", "acme", tmp=tmp_path)
        healthy = await doctor(BOT_OWNERS="U0OLGA", SMTP_HOST="mail.example.com")
        assert (healthy.returncode, "WRONG" in healthy.stdout) == (0, False), healthy.stdout
        for part in ("Slack team Sandbox", "every scope", "Socket Mode connection", "schema up to date", "unbroken"):
            assert part in healthy.stdout
        app.scopes.remove("usergroups:read")
        sick = await doctor(SLACK_APP_TOKEN="xapp-other")
        assert sick.returncode == 1
        assert "lacks the scopes usergroups:read. Paste manifest.yml again" in sick.stdout
        assert "SLACK_APP_TOKEN: Slack answered invalid_auth" in sick.stdout
        assert "BOT_OWNERS is empty" in sick.stdout
        assert "xapp-other" not in sick.stdout
        lost = await doctor(SLACK_BOT_TOKEN="xoxb-other", DATABASE_URL="postgresql://bot@127.0.0.1:9/none")
        assert "SLACK_BOT_TOKEN: Slack answered invalid_auth" in lost.stdout
        assert "PostgreSQL does not answer" in lost.stdout

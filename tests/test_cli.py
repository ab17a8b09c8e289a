"""The command line, as an operator uses it: a process, its output and its exit status."""

import asyncio
import contextlib
import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from bot.cli import cli
from storage import credentials, passwords, workspaces
from storage.access import Actor
from storage.audit import Origin, Surface
from storage.database import Database
from storage.journal import Journal
from storage.past import Past
from tests.stores import sqlite_store


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Away from whatever `.env` stands beside the code, and with the umask that `smtp-bot` sets itself."""
    monkeypatch.chdir(tmp_path)
    before = os.umask(0o077)
    yield
    os.umask(before)


def smtp_bot(url: str, *arguments: str, given: str | None = None, **more: str) -> Result:
    """Runs one command with only these settings. `given`: what it reads on standard input."""
    unset = {key: None for key in os.environ if key.startswith(("SLACK_", "BOT_", "SMTP_", "DATABASE_"))}
    return CliRunner().invoke(cli, arguments, env={**unset, "DATABASE_URL": url, "SLACK_TEAM_ID": "T0SANDBOX", **more}, input=given)


async def fill(url: str, *names: str) -> list[str]:
    db = Database(url)
    by = Origin(Actor("U0WANDA", "T0SANDBOX", owner=True), Surface.MODAL, "ref", "C0MAIL")
    made = []
    for name in names:
        credential, _ = await db.change(credentials.create_pending, by, "C0MAIL", name, f"view {name}")
        await db.change(credentials.activate, by, credential.id, "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaA")
        made.append(credential.username)
    await db.close()
    return made


def test_on_the_day_slack_is_down(empty_database_url: str) -> None:
    def run(*arguments: str) -> Result:
        return smtp_bot(empty_database_url, *arguments)

    if empty_database_url.startswith("postgres"):
        old = run("list")
        assert (old.exit_code, old.stderr) == (1, "DATABASE_URL: the database is empty. Run: smtp-bot db upgrade\n")
    upgraded = run("db", "upgrade").stdout.splitlines()
    assert [line[:4] for line in upgraded[:-1]] == [f"{step:04}" for step in range(1, len(upgraded))]
    assert upgraded[-1] == "The database is up to date."
    assert run("workspace", "add", "acme", "Acme Inc.").stdout == "Made the workspace acme (Acme Inc.).\n"
    again = run("workspace", "add", "acme")
    assert (again.exit_code, again.stdout) == (1, "")
    assert "There already is a workspace" in again.stderr
    assert run("channel", "map", "C0MAIL", "acme").exit_code == 0
    for absurd in ("#mail", "c0mail", "C", "CÄÖ", "C0MAIL ", "C" + "0" * 31):
        assert run("channel", "map", absurd, "acme").exit_code == 2
    assert run("grant", "U0WANDA", "writer", "acme").stdout == "U0WANDA is writer of acme.\n"
    assert run("grant", "wanda", "writer", "acme").exit_code == 2
    forgotten = run("grant", "U0WANDA", "admin")
    assert (forgotten.exit_code, "--all" in forgotten.stderr) == (2, True)
    assert run("grant", "U0WANDA", "king", "acme").exit_code == 2
    first, second = asyncio.run(fill(empty_database_url, "Relay", "Printer"))
    listed = [json.loads(line) for line in run("list", "acme", "--json").stdout.splitlines()]
    assert [(one["username"], one["name"], one["workspace"]) for one in listed] == [(first, "Relay", "acme"), (second, "Printer", "acme")]
    assert run("list", "nowhere").exit_code == 1
    revoked = run("revoke", first, "smtp-acme-00000000", "--reason", "on a laptop that was stolen")
    assert revoked.exit_code == 1
    assert f"{first}: revoked" in revoked.stdout
    assert "smtp-acme-00000000: No credential has that username." in revoked.stderr
    assert "already deleted by shell:" in run("revoke", first).stderr
    password = passwords.generate("abcdefgh")
    assert run("revoke", second, "--reason", f"found {password} in a log").exit_code == 0
    rows = [json.loads(line) for line in run("audit", "--json").stdout.splitlines()]
    deleted = next(row for row in rows if row["action"] == "delete" and row["outcome"] == "done")
    assert deleted["user_id"].startswith("shell:")
    assert [row["reason"] for row in rows if row["action"] == "delete" and row["outcome"] == "done"] == [
        "found [password] in a log",
        "on a laptop that was stolen",
    ]
    assert "unbroken" in run("audit", "verify").stdout


def test_the_first_broken_row_of_the_audit_log_is_named(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'bot.db'}"
    for slug in ("one", "two", "three"):
        assert smtp_bot(url, "workspace", "add", slug).exit_code == 0
    with sqlite3.connect(tmp_path / "bot.db") as thief:
        thief.execute("DROP TRIGGER audit_events_no_update")
        thief.execute("UPDATE audit_events SET user_id = 'somebody' WHERE id = 2")
    verdict = smtp_bot(url, "audit", "verify")
    assert verdict.exit_code == 1
    assert "Row 2 is not what was written" in verdict.stderr


def test_wrong_settings_are_named_and_not_repeated() -> None:
    wrong = {
        "BOT_OWNERS": ("olga", "not a Slack user id"),
        "DATABASE_URL": ("mysql://secret@x/y", "mysql is not supported"),
        "SMTP_PORT": ("many", "it is a whole number from 1 to 65535, such as 587"),
        "BOT_COMMAND": ("smtp", "such as /smtp"),
    }
    run = smtp_bot("", "list", **{name: value for name, (value, _) in wrong.items()})
    assert run.exit_code == 1
    for name, (_, says) in wrong.items():
        assert any(line.startswith(f"{name}: ") and says in line for line in run.stderr.splitlines()), run.stderr
    token = smtp_bot("", "list", SLACK_BOT_TOKEN="xapp-secret")
    assert "SLACK_BOT_TOKEN: it starts with xoxb-" in token.stderr
    assert "secret" not in run.output + token.output


def test_as_a_process_it_ends_with_the_exit_status(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'bot.db'}"
    code = Path(__file__).parent.parent
    assert smtp_bot(url, "workspace", "add", "acme").exit_code == 0
    for arguments, status in ((["list"], 0), (["list", "nowhere"], 1), (["grant"], 2)):
        environment = os.environ | {"DATABASE_URL": url, "PYTHONPATH": str(code)}
        run = subprocess.run([sys.executable, "-m", "bot", *arguments], env=environment, cwd=tmp_path, timeout=150, check=False)
        assert run.returncode == status


@pytest.fixture
def store(tmp_path: Path) -> tuple[str, list[str]]:
    """The address of a store with two credentials, and their usernames."""
    url = sqlite_store(tmp_path / "bot.db")
    for arguments in (("workspace", "add", "acme"), ("channel", "map", "C0MAIL", "acme")):
        assert smtp_bot(url, *arguments).exit_code == 0
    return url, asyncio.run(fill(url, "Relay", "=Printer"))


@pytest.mark.parametrize(
    "command",
    [
        "list", "revoke smtp-acme-00000000", "suspend smtp-acme-00000000", "resume smtp-acme-00000000", "whois smtp-acme-00000000",
        "rotate --to-pipe smtp-acme-00000000", "audit", "audit verify", "grant U0WANDA admin acme", "ungrant U0WANDA acme",
        "channel map C0MAIL acme", "channel unmap C0MAIL", "access review", "export --all", "workspace rename acme Acme",
        "workspace delete acme", "db copy sqlite:///nothing.db sqlite:///copy.db",
    ],
)  # fmt: skip
def test_a_command_in_the_wrong_folder_makes_no_database(tmp_path: Path, command: str) -> None:
    run = smtp_bot("sqlite:///smtp-bot.db", *command.split())
    assert run.exit_code == 1
    assert "there is no database at" in run.stderr
    assert str(tmp_path) in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_suspend_resume_and_revoke_take_what_people_have(store: tuple[str, list[str]]) -> None:
    url, (first, second) = store
    assert f"{first}: suspended (Relay, acme)" in smtp_bot(url, "suspend", f"{first},{second}").stdout
    again = smtp_bot(url, "suspend", first)
    assert (again.exit_code, "already suspended" in again.stderr) == (1, True)
    line = f"postfix/smtpd[7]: sasl_username={first}, {second.upper()};"
    resumed = CliRunner().invoke(cli, ["resume", "-", "--json"], input=line, env={"DATABASE_URL": url})
    assert [json.loads(row)["resumed"] for row in resumed.stdout.splitlines()] == [True, True]
    revoked = CliRunner().invoke(cli, ["revoke", "-"], input=f"{first}\n{second}\n", env={"DATABASE_URL": url})
    assert revoked.stdout.count("revoked") == 2
    unknown = smtp_bot(url, "revoke", "nonsense")
    assert (unknown.exit_code, unknown.stderr) == (1, "nonsense: No credential has that username.\n")


def test_rotate_prints_the_password_once_and_never_into_a_pipe_by_mistake(store: tuple[str, list[str]]) -> None:
    url, (first, _) = store
    refused = smtp_bot(url, "rotate", first)
    assert (refused.exit_code, refused.stdout) == (2, "")
    quick = {"ARGON2_MEMORY_KIB": "8", "ARGON2_TIME_COST": "1"}
    rotated = smtp_bot(url, "rotate", first, "--to-pipe", **quick)
    assert rotated.exit_code == 0, rotated.stderr
    password = rotated.stdout.strip()
    assert passwords.parse(password)
    assert password not in smtp_bot(url, "audit", "--json").stdout
    found = CliRunner().invoke(cli, ["whois", "-", "--json"], input=f"PASSWORD={password}", env={"DATABASE_URL": url})
    assert {key: json.loads(found.stdout)[key] for key in ("username", "password", "name")} == {
        "username": first,
        "password": "live",
        "name": "Relay",
    }
    assert password not in found.output
    with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as short:
        short.execute("UPDATE credentials SET device = 1")
        short.commit()
    assert len(smtp_bot(url, "rotate", first, "--to-pipe", **quick).stdout.strip()) == 20
    assert smtp_bot(url, "workspace", "policy", "acme", "--no-devices").exit_code == 0
    long = smtp_bot(url, "rotate", first, "--to-pipe", **quick)
    assert len(long.stdout.strip()) > 20
    assert passwords.parse(long.stdout.strip())
    assert "acme no longer allows short passwords" in long.stderr
    assert smtp_bot(url, "whois", "smtp-acme-00000000").exit_code == 1
    assert smtp_bot(url, "rotate", "smtp-acme-00000000", "--to-pipe").stdout == ""


def test_what_is_refused_is_not_listed_as_active(store: tuple[str, list[str]]) -> None:
    url, (first, second) = store

    def run(*arguments: str) -> list[str]:
        return smtp_bot(url, *arguments).stdout.splitlines()

    def stands() -> list[tuple[bool, bool]]:
        return [(one["expired"], one["workspace_suspended"]) for one in map(json.loads, run("list", "--json"))]

    assert stands() == [(False, False), (False, False)]
    with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as past:
        past.execute("UPDATE credentials SET expires_at = 1767312000000 WHERE username = ?", (first,))
        past.commit()
    rows = run("list")
    assert ["2026-01-02 expired" in row for row in rows if "smtp-" in row] == [True, False]
    assert stands() == [(True, False), (False, False)]
    assert run("suspend", first) == [f"{first}: suspended (Relay, acme)"]
    assert run("resume", first) == [f"{first}: resumed (Relay, acme), but it stays refused: expired"]
    with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as past:
        past.execute("UPDATE workspaces SET suspended_at = 1767312000000, suspended_by = 'U0ADAM'")
        past.commit()
    run("suspend", second)
    assert run("resume", second) == [f"{second}: resumed (=Printer, acme), but it stays refused: workspace suspended"]
    assert stands() == [(True, True), (False, True)]
    assert sum("workspace suspended" in row for row in run("list")) == 2
    assert any(row.split() == ["workspace_suspended", "yes"] for row in run("whois", second))
    quick = {"ARGON2_MEMORY_KIB": "8", "ARGON2_TIME_COST": "1"}
    rotated = smtp_bot(url, "rotate", second, "--to-pipe", **quick)
    assert rotated.stderr.startswith("It will work when that ends: workspace suspended.")
    given = CliRunner().invoke(cli, ["whois", "-"], input=rotated.stdout, env={"DATABASE_URL": url})
    assert "You gave its password: smtp-bot revoke" in given.stdout


def test_roles_channels_and_workspaces_come_and_go(store: tuple[str, list[str]]) -> None:
    url, _ = store

    def run(*arguments: str) -> str:
        done = smtp_bot(url, *arguments, BOT_OWNERS="U0OLGA")
        assert done.exit_code == 0, done.output
        return done.stdout

    run("grant", "U0WANDA", "writer", "acme")
    run("grant", "S0ONCALL", "responder", "--all")
    review = run("access", "review", "--csv").splitlines()
    assert review[0] == "workspace,role,principal,granted_at,granted_by,last_active_at"
    assert [row.split(",")[:3] for row in review[1:]] == [
        ["(all)", "owner", "U0OLGA"],
        ["(all)", "responder", "S0ONCALL"],
        ["acme", "writer", "U0WANDA"],
    ]
    assert "U0WANDA" in run("access", "review")
    assert run("ungrant", "S0ONCALL", "--all") == "S0ONCALL is no longer responder of all workspaces.\n"
    missed = smtp_bot(url, "ungrant", "U0WANDA", "--all")
    assert (missed.exit_code, missed.stderr) == (1, "There is no such role. It is writer of acme. Nothing changed.\n")
    missed = smtp_bot(url, "ungrant", "S0ONCALL", "--all")
    assert (missed.exit_code, missed.stderr) == (1, "That role was already removed. Nothing changed.\n")
    assert run("channel", "unmap", "C0MAIL") == "C0MAIL no longer manages acme.\n"
    assert smtp_bot(url, "channel", "unmap", "C0MAIL").exit_code == 1
    assert run("workspace", "rename", "acme", "Acme Inc.") == "acme is called Acme Inc..\n"
    kept = smtp_bot(url, "workspace", "delete", "acme")
    assert (kept.exit_code, "has or had credentials" in kept.stderr) == (1, True)
    run("workspace", "add", "typo")
    run("grant", "U0WANDA", "writer", "typo")
    assert "still has roles" in smtp_bot(url, "workspace", "delete", "typo").stderr
    run("ungrant", "U0WANDA", "typo")
    assert run("workspace", "delete", "typo") == "Removed the workspace typo.\n"
    assert "unbroken" in run("audit", "verify")


def test_an_export_holds_nothing_secret_and_no_formula(store: tuple[str, list[str]]) -> None:
    url, (first, second) = store
    assert smtp_bot(url, "export").exit_code == 2
    assert smtp_bot(url, "revoke", first).exit_code == 0
    rows = [json.loads(line) for line in smtp_bot(url, "export", "acme").stdout.splitlines()]
    assert {row["username"]: row["state"] for row in rows} == {first: "deleted", second: "active"}
    sheet = smtp_bot(url, "export", "--all", "--csv").stdout
    assert sheet.count("\n") == 3
    assert ",'=Printer," in sheet
    assert "argon2" not in sheet + str(rows)


def test_a_terminal_gets_headings_and_completion_is_there(store: tuple[str, list[str]]) -> None:
    url, (first, _) = store
    ours, theirs = os.openpty()
    environment = os.environ | {"DATABASE_URL": url, "PYTHONPATH": str(Path(__file__).parent.parent), "TERM": "xterm"}
    subprocess.run([sys.executable, "-m", "bot", "list"], env=environment, stdout=theirs, timeout=150, check=True)
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert "WORKSPACE" in shown
    assert first in shown
    assert "WORKSPACE" not in smtp_bot(url, "list").stdout
    asked = environment | {"_SMTP_BOT_COMPLETE": "source_bash"}
    script = subprocess.run([sys.executable, "-m", "bot"], env=asked, capture_output=True, text=True, timeout=150, check=False)
    assert "complete -o default -F" in script.stdout


def test_the_rules_of_a_workspace(database_url: str) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        result = smtp_bot(database_url, *arguments)
        return result.exit_code, result.stdout + result.stderr

    run("db", "upgrade")
    run("workspace", "add", "acme", "Acme Inc.")
    assert run("workspace", "domains", "acme") == (0, "any domain\n")
    assert run("workspace", "domains", "acme", "Example.com", "@bücher.example", "example.com") == (
        0,
        "example.com\nxn--bcher-kva.example\n",
    )
    assert run("workspace", "domains", "acme") == (0, "example.com\nxn--bcher-kva.example\n")
    assert run("workspace", "domains", "acme", "*.example.com") == (1, '"*.example.com" has a wildcard. Enter each domain by itself.\n')
    assert run("workspace", "domains", "acme", "example.com", "--any")[0] == 2
    assert run("workspace", "domains", "nope", "--any")[0] == 1
    assert run("workspace", "policy", "acme") == (0, "domains example.com,xn--bcher-kva.example\n")
    changed = run("workspace", "policy", "acme", "--longest-days", "90", "--most-live", "5", "--reason", "--no-devices")
    assert changed[1].splitlines()[1:] == ["at most 90 days", "at most 5 live", "a reason for every stop", "no device passwords"]
    assert run("workspace", "domains", "acme", "--any") == (0, "any domain\n")
    doctor = run("doctor")[1]
    rules = "at most 90 days; at most 5 live; a reason for every stop; no device passwords"
    assert f"ok     workspace acme has rules: {rules}\n" in doctor
    for wrong in ("-1", "3661", "ten"):
        assert run("workspace", "policy", "acme", "--longest-days", wrong)[0] == 2
    [username] = asyncio.run(fill_with(database_url))
    assert run("revoke", username) == (1, f"{username}: Say why: in Acme Inc. deleting and suspending need a reason. Add --reason WHY.\n")
    assert run("revoke", username, "--reason", "leaked")[0] == 0
    assert run("workspace", "policy", "acme", "--longest-days", "0", "--most-live", "0", "--no-reason", "--devices") == (0, "no rules\n")
    assert "has rules" not in run("doctor")[1]


async def fill_with(url: str) -> list[str]:
    """One credential that keeps to the rules."""
    db = Database(url)
    by = Origin(Actor("U0WANDA", "T0SANDBOX", owner=True), Surface.MODAL, "ref", "C0MAIL")
    acme = await db.read(workspaces.named, "acme")
    await db.change(workspaces.map_channel, by, "T0SANDBOX", "C0MAIL", acme.id)
    until = db.clock() + timedelta(days=30)
    credential, _ = await db.change(credentials.create_pending, by, "C0MAIL", "Relay", "view", until)
    await db.close()
    return [credential.username]


def test_a_head_that_was_kept_is_held_against_the_audit_log(tmp_path: Path) -> None:
    path = tmp_path / "bot.db"
    url = f"sqlite:///{path}"

    def run(*arguments: str) -> Result:
        return smtp_bot(url, *arguments)

    run("workspace", "add", "one")
    said = run("audit", "verify").stdout
    head = said.rpartition("Head: ")[2].strip()
    assert head.startswith("1:")
    assert json.loads(run("audit", "verify", "--json").stdout)["head"] == head
    shutil.copy(path, tmp_path / "backup.db")
    run("workspace", "add", "two")
    assert "1 rows, unbroken" in run("audit", "verify", "--since", head).stdout
    later = run("audit", "verify").stdout.rpartition("Head: ")[2].strip()
    shutil.copy(tmp_path / "backup.db", path)
    assert run("audit", "verify").exit_code == 0
    gone = run("audit", "verify", "--since", later)
    assert (gone.exit_code, "does not have that hash any more" in gone.stderr) == (1, True)
    for wrong in ("1", "one:two", f"{10**20}:{'0' * 64}", f"1:{'g' * 64}"):
        assert run("audit", "verify", "--since", wrong).exit_code == 2


def test_the_audit_log_is_exported_from_a_remembered_row_on(tmp_path: Path) -> None:
    path, state = tmp_path / "bot.db", tmp_path / "state"
    url = f"sqlite:///{path}"

    def export() -> list[str]:
        run = smtp_bot(url, "audit", "export", "--state", str(state))
        assert run.exit_code == 0, run.output
        return [json.loads(line)["subject"] for line in run.stdout.splitlines()]

    smtp_bot(url, "workspace", "add", "one")
    shutil.copy(path, tmp_path / "backup.db")
    smtp_bot(url, "workspace", "add", "two")
    assert export() == ["one", "two"]
    assert export() == []
    smtp_bot(url, "workspace", "add", "three")
    assert export() == ["three"]
    shutil.copy(tmp_path / "backup.db", path)
    back = smtp_bot(url, "audit", "export", "--state", str(state))
    assert (back.exit_code, back.stdout, "not the one that was exported" in back.stderr) == (1, "", True)
    state.write_text("nonsense")
    assert "NUMBER:HASH" in smtp_bot(url, "audit", "export", "--state", str(state)).stderr
    assert "can't be read" in smtp_bot(url, "audit", "export", "--state", str(tmp_path)).stderr


async def test_an_export_that_follows_ends_when_it_is_told_to(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'bot.db'}"
    await asyncio.to_thread(smtp_bot, url, "workspace", "add", "one")
    arguments = ("audit", "export", "--state", str(tmp_path / "state"), "--follow")
    environment = os.environ | {"DATABASE_URL": url, "PYTHONPATH": str(Path(__file__).parent.parent)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bot", *arguments, env=environment, cwd=tmp_path, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout
    try:
        assert json.loads(await asyncio.wait_for(process.stdout.readline(), 120))["subject"] == "one"
        await asyncio.to_thread(smtp_bot, url, "workspace", "add", "two")
        assert json.loads(await asyncio.wait_for(process.stdout.readline(), 120))["subject"] == "two"
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 120) == 0
    finally:
        if process.returncode is None:
            process.kill()


def test_what_a_reshortbrought_back_is_revoked_from_the_shell(tmp_path: Path) -> None:
    path, journal = tmp_path / "bot.db", tmp_path / "smtp-bot.journal"
    url = f"sqlite:///{path}"

    def run(*arguments: str, **more: str) -> Result:
        return smtp_bot(url, *arguments, **more)

    run("workspace", "add", "acme")
    run("channel", "map", "C0MAIL", "acme")
    first, second = asyncio.run(fill(url, "Relay", "Printer"))
    shutil.copy(path, tmp_path / "backup.db")
    lost = run("db", "replay")
    assert (lost.exit_code, "so what was revoked before a restore can't be known" in lost.stderr) == (1, True)
    asyncio.run(begin(url, journal))
    run("revoke", first)
    assert f"ended {first[-8:]} " in journal.read_text(), "the shell keeps it too"
    shutil.copy(tmp_path / "backup.db", path)
    sick = run("doctor", SLACK_BOT_TOKEN="xoxb-1-a")
    assert "WRONG  the database went back in time, from audit row" in sick.stdout
    assert "1 would be revoked again" in run("db", "replay", "--look").stdout
    assert f"{first}: deleted" in run("db", "replay").stdout
    assert "Nothing that is named there works" in run("db", "replay").stdout
    listed = [json.loads(line)["username"] for line in run("list", "--json").stdout.splitlines()]
    assert listed == [second]

    shutil.copy(tmp_path / "backup.db", path)
    journal.unlink()
    log = tmp_path / "log"
    log.write_text(f'nonsense\n{{"entry": "ended {first[-8:]} 9 -", "event": "journal", "level": "info"}}\n')
    assert f"{first}: deleted" in run("db", "replay", str(log)).stdout
    assert run("db", "replay", str(tmp_path / "backup.db")).exit_code == 1
    assert "can't be read" in run("db", "replay", str(tmp_path / "nowhere")).stderr


async def begin(url: str, journal: Path) -> None:
    """A bot that ran once."""
    db = Database(url)
    past = Past(db, Journal(journal), "bot")
    await past.follow()
    past.close()
    await db.close()


def test_all_are_revoked_whether_or_not_the_output_can_be_written(store: tuple[str, list[str]]) -> None:
    url, usernames = store
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "bot", "revoke", *usernames]
        environment = os.environ | {"DATABASE_URL": url, "PYTHONPATH": str(Path(__file__).parent.parent)}
        subprocess.run(command, env=environment, stdout=full, stderr=subprocess.DEVNULL, timeout=150, check=False)
    again = smtp_bot(url, "revoke", *usernames)
    assert again.stderr.count("already deleted") == len(usernames) == 2


def process(url: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    environment = os.environ | {"DATABASE_URL": url, "PYTHONPATH": str(Path(__file__).parent.parent), **options.pop("settings", {})}
    streams = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE) | options
    return subprocess.Popen([sys.executable, "-m", "bot", *arguments], env=environment, text=True, **streams)


def on_their_way(url: str) -> int:
    with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as store:
        found: int = store.execute("SELECT count(*) FROM credentials WHERE rotation_begun_at IS NOT NULL").fetchone()[0]
    return found


def test_a_rotation_that_is_interrupted_is_over(store: tuple[str, list[str]]) -> None:
    url, (first, _) = store
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    # The pipe is full: it waits with the password in its hand.
    rotating = process(url, "rotate", first, "--to-pipe", stdout=writing, settings={"ARGON2_MEMORY_KIB": "8", "ARGON2_TIME_COST": "1"})
    os.close(writing)
    try:
        while not on_their_way(url):
            assert rotating.poll() is None
        rotating.send_signal(signal.SIGINT)
        with open(reading) as pipe:
            printed = pipe.read().strip("x")
        _, said = rotating.communicate(timeout=150)
    finally:
        rotating.kill()
    assert rotating.returncode == 130
    assert (printed == "") is ("That password will not work: nothing changed." not in said)
    assert "Traceback" not in said
    assert on_their_way(url) == 0


def test_a_rotation_whose_password_cannot_be_hashed_is_over(store: tuple[str, list[str]]) -> None:
    url, (first, _) = store
    bound = 2 * 1024**3
    rotating = process(
        url,
        *("rotate", first, "--to-pipe"),
        settings={"ARGON2_MEMORY_KIB": "4194304"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (bound, bound)),
    )
    printed, said = rotating.communicate(timeout=150)
    assert (rotating.returncode, printed, said) == (1, "", "The password could not be made, so nothing changed.\n")
    assert on_their_way(url) == 0


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_a_stream_that_the_caller_closed_is_empty(store: tuple[str, list[str]], closed: int) -> None:
    url, (first, _) = store
    done = process(url, "whois", "-", first, preexec_fn=lambda: os.close(closed), stdin=None if closed == 0 else subprocess.DEVNULL)
    printed, said = done.communicate(timeout=150)
    assert (done.returncode, "Traceback" in said) == (0, False)
    assert (first in printed) is (closed != 1)
    assert ("the text: No credential has that username." in said) is (closed != 2)


def test_output_that_cannot_be_written_is_said(store: tuple[str, list[str]]) -> None:
    with Path("/dev/full").open("w") as full:
        listing = process(store[0], "list", stdout=full)
        _, said = listing.communicate(timeout=150)
    assert (listing.returncode, said) == (1, "smtp-bot: No space left on device\n")


def test_what_is_no_utf8_is_replaced(store: tuple[str, list[str]]) -> None:
    url, (first, second) = store
    renaming = process(url, "workspace", "rename", "acme", os.fsdecode(b"caf\xe9 Acme"))
    assert renaming.communicate(timeout=150) == ("acme is called caf\ufffd Acme.\n", "")
    revoking = subprocess.run(
        [sys.executable, "-m", "bot", "revoke", first, "-", "--reason", b"\xff stolen"],
        env=os.environ | {"DATABASE_URL": url, "PYTHONPATH": str(Path(__file__).parent.parent), "LC_ALL": "C.UTF-8"},
        input=b"Nov 26 caf\xe9 sasl_username=" + second.encode(),
        capture_output=True,
        timeout=150,
        check=False,
    )
    assert (revoking.returncode, revoking.stdout.count(b"revoked")) == (0, 2), revoking.stderr


@pytest.mark.parametrize("written", ["{}", " {} ", "{}@mail.example.com", "upper"])
def test_the_audit_log_takes_a_username_as_people_have_it(store: tuple[str, list[str]], written: str) -> None:
    url, (first, second) = store
    about = first.upper() if written == "upper" else written.format(first)
    found = [json.loads(line) for line in smtp_bot(url, "audit", "--json", "--about", about).stdout.splitlines()]
    assert {row["username"] for row in found} == {first}
    assert second not in str(found)


def test_the_audit_log_takes_a_mention_and_says_when_it_has_nothing(store: tuple[str, list[str]]) -> None:
    url, _ = store
    assert smtp_bot(url, "audit", "--about", "<@U0WANDA|wanda>").stdout == smtp_bot(url, "audit", "--about", "U0WANDA").stdout != ""
    assert "C0MAIL" in smtp_bot(url, "audit", "--about", "<#C0MAIL|mail>").stdout
    nothing = smtp_bot(url, "audit", "--about", "U0NOBODY")
    assert (nothing.exit_code, nothing.stdout, nothing.stderr) == (0, "", "The audit log has nothing about that.\n")


@pytest.mark.parametrize("given", ["²:" + "0" * 64, "1:" + "g" * 64, "1", ":" + "0" * 64, f"{10**18}:" + "0" * 64])
def test_a_head_that_is_none(store: tuple[str, list[str]], given: str) -> None:
    refused = smtp_bot(store[0], "audit", "verify", "--since", given)
    assert (refused.exit_code, "Invalid value for --since" in refused.stderr) == (2, True)


@pytest.mark.parametrize("port", ["-1", "65536", "many"])
def test_a_port_that_is_none(port: str) -> None:
    for option in ("--port", "--mail-port"):
        refused = smtp_bot("", "demo", option, port)
        assert (refused.exit_code, f"Invalid value for '{option}'" in refused.stderr) == (2, True)


def test_workers_whose_ports_do_not_fit_are_named(tmp_path: Path) -> None:
    at = {"AUTHD_LISTEN": f"unix:{tmp_path / 'auth'}", "AUTHD_HTTP": "tcp:65535"}
    refused = smtp_bot(sqlite_store(tmp_path / "bot.db"), "authd", "--workers", "2", **at)
    assert (refused.exit_code, "AUTHD_HTTP: 2 workers need 2 ports from 65535 on" in refused.stderr) == (1, True)

"""`smtp-bot`, for operators, and for the day Slack is down.

Exit status: 0, 1 (refused or failed), 2 (usage). What an operator does is in the audit log under `shell:NAME`.
"""

import asyncio
import contextlib
import json
import os
import pwd
import re
import socket
import sys
from collections.abc import Callable, Coroutine
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, NoReturn

import structlog
import typer

from bot import log, release
from bot.blocks import flat
from bot.settings import Settings, SettingsError, load
from bot.texts import TROUBLES, sentence
from storage import audit, credentials, grants, listing, replay, workspaces
from storage.access import Actor, Role
from storage.audit import Origin, Surface
from storage.database import Database, OutcomeUnknown, StaleWal, Unavailable
from storage.journal import Back, Journal, Mark, Memory
from storage.journal import State as JournalState
from storage.listing import Order
from storage.models import AuditEvent, Credential, Workspace
from storage.names import USERNAME
from storage.past import Past
from storage.refusals import NoSuchCredential, Refusal
from storage.typed import login_name

cli = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)
db_cli = typer.Typer(no_args_is_help=True, help="The database.")
workspace_cli = typer.Typer(no_args_is_help=True, help="Mail workspaces.")
channel_cli = typer.Typer(no_args_is_help=True, help="Channels and the workspaces they manage.")
queue_cli = typer.Typer(no_args_is_help=True, help="What credentials have queued in this host's Postfix, held back or let go. As root.")
audit_cli = typer.Typer(invoke_without_command=True, help="The audit log, newest first.")
cli.add_typer(db_cli, name="db")
cli.add_typer(workspace_cli, name="workspace")
cli.add_typer(channel_cli, name="channel")
cli.add_typer(audit_cli, name="audit")
cli.add_typer(queue_cli, name="queue")

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
ROWS = 500
LINE_MAX = 10_000  # characters of a log's line that are read
MOST_ROWS = 2**63 - 1
HASH = re.compile(r"[0-9a-f]{64}")
GENESIS_HEAD = audit.Head(0, audit.GENESIS)


class Shell:
    """The store, and the operator who asks."""

    def __init__(self, db: Database, team: str | None, past: Past) -> None:
        self.db = db
        self.past = past
        self.team = team
        self.origin = Origin(Actor(f"shell:{operator()}", team, owner=True), Surface.SHELL, reference=f"pid{os.getpid()}")

    def needs_team(self) -> str:
        if self.team is None:
            fail("Start the bot once so that it learns its Slack team, or set SLACK_TEAM_ID.")
        return self.team

    async def workspace(self, slug: str) -> Workspace:
        return await self.db.read(workspaces.named, slug)


def operator() -> str:
    """The name of the account that runs this, or of the one that became root by `sudo`; `uid1234` for one that has none."""
    uid = os.getuid()
    before_sudo = os.environ.get("SUDO_UID", "")
    if uid == 0 and before_sudo.isascii() and before_sudo.isdigit():
        uid = int(before_sudo)
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return f"uid{uid}"


def fail(message: str) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(1)


def settings() -> Settings:
    try:
        read = load()
    except SettingsError as error:
        fail(str(error))
    log.configure(read.log_level, read.log_format)
    for note in read.notes:
        structlog.get_logger(__name__).warning(note)
    return read


def with_store(work: Callable[[Shell], Coroutine[Any, Any, None]]) -> None:
    """Runs one command on the store; a refusal becomes a sentence and exit status 1."""
    from bot.run import StartError, open_database

    read = settings()

    async def run() -> None:
        db = await open_database(read)
        try:
            known = await db.read(workspaces.installation)
            past = Past(db, Journal(read.journal, create=False), "shell")  # the bot makes it, so that it is the bot's to write
            try:
                await work(Shell(db, known.team_id if known else read.slack_team_id, past))
            finally:
                with contextlib.suppress(Unavailable):
                    await past.follow()
                past.close()
        finally:
            await db.close()

    try:
        asyncio.run(run())
    except (StartError, SettingsError) as error:
        fail(str(error))
    except Refusal as refusal:
        fail(flat(sentence(refusal, read.bot_command)))
    except Unavailable as error:
        fail(TROUBLES[error.trouble])
    except OutcomeUnknown:
        fail("The database's answer was lost: it may have been done or not. Look before you try again: smtp-bot audit")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"smtp-bot {release()}")
        raise typer.Exit


@cli.callback()
def options(
    _version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Says which release this is.")] = False,
) -> None:
    pass


@cli.command()
def run() -> None:
    """Runs the bot."""
    from bot import run as running

    read = settings()
    try:
        running.main(read, read.metrics_address if "metrics_listen" in read.model_fields_set else None)
    except (running.StartError, SettingsError) as error:
        fail(str(error))


@cli.command()
def authd(workers: Annotated[int, typer.Option(min=1, max=64, help="Processes that share the sockets.")] = 1) -> None:
    """Answers mail servers: log-ins on AUTHD_LISTEN, open sessions on POLICY_LISTEN. SIGHUP replaces the workers one after the other."""
    from mailauth import process, server, sockets
    from mailauth.policy import WhenAway

    read = settings()
    try:
        process.run(
            server.AuthdConfig(
                database_url=read.database_url.get_secret_value(),
                auth=read.authd_listen,
                policy=read.policy_listen,
                http=read.authd_http,
                token=read.authd_http_token.get_secret_value() or None,
                nginx_server=sockets.host_and_port(read.authd_nginx_server, "AUTHD_NGINX_SERVER"),
                group=read.authd_group,
                peers=read.authd_peers or sockets.LOOPBACK,
                require_tls=read.authd_require_tls,
                when_away=WhenAway(read.policy_when_away),
                argon2=(read.argon2_memory_kib, read.argon2_time_cost, read.argon2_parallelism),
                workers=workers,
                journal=read.journal,
            )
        )
    except sockets.ListenError as error:
        fail(str(error))


@cli.command()
def demo(port: Annotated[int, typer.Option(help="Where the local Slack listens, on this machine only.")] = 8080) -> None:
    """Runs the bot in a Slack of its own on this machine; no account needed."""
    try:
        from sandbox import demo as sandbox_demo
    except ModuleNotFoundError as error:
        fail(f"The demo is not installed ({error.name} is missing). Install it: pip install 'smtp-credentials-bot[demo]'")
    sandbox_demo.main(port)


@cli.command()
def manifest() -> None:
    """Prints the manifest of the Slack app, to be pasted at api.slack.com/apps."""
    typer.echo((files("bot") / "manifest.yml").read_text(), nl=False)


@cli.command()
def doctor() -> None:
    """Checks every setting, the tokens, the scopes and the database, and says what to do about each that is wrong."""
    from bot import doctor as checks

    if not asyncio.run(checks.examine(typer.echo)):
        raise typer.Exit(1)


@db_cli.command("upgrade")
def db_upgrade() -> None:
    """Brings the database's schema up to date."""
    read = settings()

    async def work() -> None:
        db = Database(read.database_url.get_secret_value())
        try:
            await db.upgrade()
        finally:
            await db.close()

    try:
        asyncio.run(work())
    except StaleWal as error:
        fail(str(error))
    except Exception as error:
        fail(
            f"DATABASE_URL: the database was not brought up to date ({type(error).__name__}). Check that it runs and what you may do there."
        )
    typer.echo("The database is up to date.")


@db_cli.command("replay")
def db_replay(
    source: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="A journal, or a log; - reads standard input.", allow_dash=True),
    ] = None,
    look: Annotated[bool, typer.Option("--look", help="Only says what would be revoked again.")] = False,
) -> None:
    """Revokes again what was revoked before the database was restored: what the journal, or FILE, names and the database lets work."""

    async def work(shell: Shell) -> None:
        await shell.past.follow()
        memory = shell.past.journal.memory
        if source:
            memory = read_entries(source)
        elif shell.past.journal.state is not JournalState.KEPT:
            fail(
                f"The journal {shell.past.journal.path} is not kept ({shell.past.words}), so what was revoked before a restore can't be "
                "known from it. Name a journal of an authd, or a log: smtp-bot db replay FILE"
            )
        found = await replay.missing(shell.db, memory)
        if look:
            for one in found:
                typer.echo(f"{one.kind} {one.credential_id or one.key}")
            typer.echo(f"{len(found)} would be revoked again.")
            return
        if found:
            await shell.db.note(replay.post, found, memory.back or Back(memory.head or Mark(0, ""), 0), "shell")
        done, _ = await replay.make_again(shell.db, shell.origin)
        for line in done:
            typer.echo(line)
        typer.echo(f"{len(done)} revoked again." if done else "Nothing that is named there works.")

    with_store(work)


def read_entries(source: Path) -> Memory:
    """What the lines of a journal or a log name, wherever an entry stands in a line."""
    memory = Memory()
    try:
        lines = sys.stdin if str(source) == "-" else source.open(encoding="utf-8", errors="replace")
        with lines:
            found = sum(memory.take(line[:LINE_MAX]) is not None for line in lines)
    except OSError as error:
        fail(f"{source}: it can't be read ({error.strerror}).")
    if not found:
        fail(f"{source}: no line names anything that ended.")
    return memory


@workspace_cli.command("add")
def workspace_add(slug: str, name: Annotated[str | None, typer.Argument()] = None) -> None:
    """Makes a mail workspace."""

    async def work(shell: Shell) -> None:
        made = await shell.db.change(workspaces.add, shell.origin, slug, name)
        typer.echo(f"Made the workspace {made.slug} ({made.name}).")

    with_store(work)


@channel_cli.command("map")
def channel_map(channel: str, slug: str) -> None:
    """Connects a Slack channel (its id, C…) to a workspace."""
    if channel[:1] not in ("C", "G") or not channel.isalnum() or not channel.isupper():
        raise typer.BadParameter("a channel id looks like C0123ABCDEF (channel details, at the bottom)", param_hint="CHANNEL")

    async def work(shell: Shell) -> None:
        workspace = await shell.workspace(slug)
        await shell.db.change(workspaces.map_channel, shell.origin, shell.needs_team(), channel, workspace.id)
        typer.echo(f"{channel} now manages {workspace.slug}.")

    with_store(work)


@cli.command()
def grant(principal: str, role: Role, slug: Annotated[str | None, typer.Argument()] = None) -> None:
    """Gives a Slack user (U…) or user group (S…) a role in a workspace, or in all of them."""
    if not grants.PRINCIPAL.fullmatch(principal):
        raise typer.BadParameter("a Slack user id (U…) or user group id (S…)", param_hint="PRINCIPAL")

    async def work(shell: Shell) -> None:
        workspace = await shell.workspace(slug) if slug else None
        where = workspace.id if workspace else None
        await shell.db.change(grants.grant, shell.origin, shell.needs_team(), principal, role, where)
        typer.echo(f"{principal} is {role.value} of {slug or 'all workspaces'}.")

    with_store(work)


@cli.command("list")
def list_credentials(slug: Annotated[str | None, typer.Argument()] = None, as_json: Json = False) -> None:
    """Lists the live credentials, oldest first."""

    async def work(shell: Shell) -> None:
        chosen = [await shell.workspace(slug)] if slug else await shell.db.read(workspaces.all_of_them)
        for workspace in chosen:
            page = await shell.db.read(listing.page, workspace, Order.OLDEST, size=ROWS)
            while True:
                for row in page.rows:
                    typer.echo(json.dumps(_credential(row, workspace)) if as_json else _credential_line(row, workspace))
                if page.next is None:
                    break
                page = await shell.db.read(listing.page, workspace, Order.OLDEST, place=page.next, size=ROWS)

    with_store(work)


@cli.command()
def revoke(
    usernames: Annotated[list[str], typer.Argument(metavar="USERNAME...")],
    reason: Annotated[str | None, typer.Option(help="Kept in the audit log.")] = None,
    as_json: Json = False,
) -> None:
    """Deletes credentials at once, in whatever workspace they are."""

    async def work(shell: Shell) -> None:
        failed = False
        for username in dict.fromkeys(usernames):
            try:
                found = await shell.db.read(listing.by_username, username.strip().lower())
                if found is None:
                    raise NoSuchCredential(username)
                deleted, workspace = await shell.db.change(credentials.delete, shell.origin, found.id, reason)
            except Refusal as refusal:
                failed = True
                said = "No credential has that username." if isinstance(refusal, NoSuchCredential) else flat(sentence(refusal, "/smtp"))
                result = {"username": username, "revoked": False, "cause": refusal.cause}
                typer.echo(json.dumps(result) if as_json else f"{username}: {said}", err=not as_json)
            else:
                result = {"username": deleted.username, "revoked": True, "workspace": workspace.slug}
                typer.echo(json.dumps(result) if as_json else f"{deleted.username}: revoked ({deleted.name}, {workspace.slug})")
        if failed:
            raise typer.Exit(1)

    with_store(work)


@audit_cli.callback()
def audit_latest(
    context: typer.Context,
    about: Annotated[str | None, typer.Option(help="A username, a credential id or a Slack user id.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 50,
    as_json: Json = False,
) -> None:
    if context.invoked_subcommand:
        return

    async def work(shell: Shell) -> None:
        for event in await shell.db.read(audit.latest, None, about, limit=limit):
            typer.echo(json.dumps(_event(event)) if as_json else _event_line(event))

    with_store(work)


@audit_cli.command("verify")
def audit_verify(
    since: Annotated[str | None, typer.Option(metavar="NUMBER:HASH", help="A head that was kept elsewhere: begins after that row.")] = None,
    as_json: Json = False,
) -> None:
    """Follows the chain of hashes and names the first row that is not what was written.

    Keep the head that it prints somewhere else: who owns the database can rewrite all of it, and only a head that was kept shows that.
    """
    after = None
    if since is not None:
        number, _, hashed = since.partition(":")
        if not number.isdigit() or len(number) > 18 or not HASH.fullmatch(hashed):
            raise typer.BadParameter("a row's number and its hash, as verify and the log say them: 1234:9f86d0…", param_hint="--since")
        after = audit.Head(int(number), hashed)

    async def work(shell: Shell) -> None:
        verdict = await shell.db.read(audit.verify, after)
        head = f"{verdict.head.event}:{verdict.head.hash}" if verdict.head else None
        if as_json:
            typer.echo(json.dumps({"rows": verdict.rows, "broken": verdict.broken, "head": head}))
        elif verdict.broken is None:
            typer.echo(f"{verdict.rows} rows, unbroken. Head: {head}")
        if verdict.head and verdict.broken is None:
            structlog.get_logger(__name__).info("journal", entry=f"head {verdict.head.event} {verdict.head.hash}")
        if verdict.broken is not None and after and verdict.broken == after.event:
            fail(f"Row {after.event} does not have that hash any more: the database went back in time, or its audit log was rewritten.")
        if verdict.broken is not None:
            fail(f"Row {verdict.broken} is not what was written, or is missing. {verdict.rows} rows before it are unbroken.")

    with_store(work)


@audit_cli.command("export")
def audit_export(
    state: Annotated[Path, typer.Option(help="A file of yours that remembers the last row; made when it is not there.")],
    follow: Annotated[bool, typer.Option("--follow", help="Goes on with what comes, until it is ended.")] = False,
) -> None:
    """Writes the audit log as JSON lines, for a log collector: from the row on that the state file remembers."""

    async def work(shell: Shell) -> None:
        last = _read_state(state)
        while True:
            if await shell.db.read(audit.hash_of, last.event) != last.hash:
                fail(
                    f"Row {last.event} is not the one that was exported before: the database went back in time, or its audit log was "
                    f"rewritten. Keep {state}, find out, and go on with a new state file."
                )
            rows = await shell.db.read(audit.events, last.event + 1, MOST_ROWS)
            for event in rows:
                typer.echo(json.dumps(_event(event)))
            if rows:
                sys.stdout.flush()
                last = audit.Head(rows[-1].id, rows[-1].hash)
                _write_state(state, last)
            elif not follow:
                return
            else:
                await asyncio.sleep(1)

    with contextlib.suppress(KeyboardInterrupt):
        with_store(work)


# --- on a mail server's host ---
Usernames = Annotated[list[str], typer.Argument(metavar="USERNAME...")]
Configs = Annotated[
    list[str] | None,
    typer.Option("--config", "-c", metavar="FOLDER", help="Postfix's configuration folder, one or more. Else: all of its instances."),
]


@queue_cli.command("hold")
def queue_hold(usernames: Usernames, configs: Configs = None) -> None:
    """Holds back what they have queued: it is kept, and not delivered."""
    _in_queue("hold", usernames, configs, "on hold")


@queue_cli.command("release")
def queue_release(usernames: Usernames, configs: Configs = None) -> None:
    """Lets go what is on hold of theirs, whoever held it: it is delivered."""
    _in_queue("release", usernames, configs, "released")


@queue_cli.command("delete")
def queue_delete(usernames: Usernames, configs: Configs = None) -> None:
    """Deletes what they have queued, for ever."""
    _in_queue("delete", usernames, configs, "deleted")


@queue_cli.command("count")
def queue_count(usernames: Usernames, configs: Configs = None, as_json: Json = False) -> None:
    """Counts what they have queued. Changes nothing."""
    from mailauth.queue import QueueError, Queues

    log.configure("WARNING", "console")
    try:
        counts = Queues(configs or ()).count(_usernames(usernames))
    except QueueError as error:
        fail(str(error))
    for username, found in counts.items():
        result = {"username": username, "queued": found.queued, "on_hold": found.held}
        typer.echo(json.dumps(result) if as_json else f"{username}: {found.queued} queued, {found.held} of them on hold")


@queue_cli.command("serve")
def queue_serve(
    user: Annotated[str, typer.Option(help="The account that reads the store, as authd does; it has no other rights.")] = "smtp-bot",
    name: Annotated[str | None, typer.Option(help="What people read as this host's name. Else: the host's name.")] = None,
    configs: Configs = None,
) -> None:
    """Holds, releases and deletes as people order it in Slack; a service (`smtp-bot-queue.service`)."""
    from mailauth import queue

    read = settings()
    try:
        queue.serve(queue.QueueConfig(read.database_url.get_secret_value(), user, name or socket.gethostname(), configs or ()))
    except queue.QueueError as error:
        fail(str(error))


def _in_queue(act: str, typed: list[str], configs: list[str] | None, done: str) -> None:
    from mailauth.queue import QueueError, Queues
    from storage.queue import Act

    log.configure("WARNING", "console")
    usernames = _usernames(typed)
    try:
        for username, count in Queues(configs or ()).do(Act(act), usernames).items():
            typer.echo(f"{username}: {count} {done}")
    except QueueError as error:
        fail(str(error))


def _usernames(typed: list[str]) -> list[str]:
    read = [login_name(one) for one in typed]
    for one, text in zip(read, typed, strict=True):
        if not USERNAME.fullmatch(one):
            raise typer.BadParameter(f"{text[:40]!r} is no username of ours, such as smtp-acme-7k2m9x4q", param_hint="USERNAME")
    return list(dict.fromkeys(read))


def _read_state(path: Path) -> audit.Head:
    try:
        number, _, hashed = path.read_text("ascii").strip().partition(":")
    except FileNotFoundError:
        return GENESIS_HEAD
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{path}: it can't be read ({type(error).__name__}).")
    if not number.isdigit() or not HASH.fullmatch(hashed):
        fail(f"{path}: it is no state of an export; it holds NUMBER:HASH.")
    return audit.Head(int(number), hashed)


def _write_state(path: Path, head: audit.Head) -> None:
    """All of it or nothing, on the disk."""
    temporary = path.with_name(path.name + ".new")
    try:
        with temporary.open("w", encoding="ascii") as file:
            file.write(f"{head.event}:{head.hash}\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError as error:
        fail(f"{path}: it can't be written ({error.strerror}). The rows up to {head.event} were exported.")


def _credential(row: Credential, workspace: Workspace) -> dict[str, Any]:
    return {
        "workspace": workspace.slug,
        "name": row.name,
        "username": row.username,
        "state": row.state,
        "created_at": row.created_at.isoformat(),
        "created_by": row.created_by,
        "last_used_at": row.last_used_at.isoformat() if row.last_used_at else None,
        "last_used_from": row.last_used_from,
        "last_used_service": row.last_used_service,
        "expires_at": row.expires_at.isoformat() if row.expires_at else None,
    }


def _credential_line(row: Credential, workspace: Workspace) -> str:
    used = f"{row.last_used_at:%Y-%m-%d %H:%M}" if row.last_used_at else "never used"
    return f"{workspace.slug:<16} {row.username:<27} {row.created_at:%Y-%m-%d %H:%M}  {used:<16}  {row.name}"


def _event(event: AuditEvent) -> dict[str, Any]:
    values = {field: getattr(event, field) for field in (*audit.FIELDS, "hash")}
    return values | {"at": event.at.isoformat()}


def _event_line(event: AuditEvent) -> str:
    about = " ".join(part for part in (event.username, event.subject, event.cause, event.reason) if part)
    return f"{event.id:>8} {event.at:%Y-%m-%d %H:%M:%S} {event.user_id:<16} {event.action:<18} {event.outcome:<8} {about}"

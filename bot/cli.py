"""`smtp-bot`, for operators, and for the day Slack is down.

Exit status: 0, 1 (refused or failed), 2 (usage). What an operator does is in the audit log under `shell:NAME`.
"""

import asyncio
import contextlib
import csv
import json
import os
import pwd
import re
import socket
import sys
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, NoReturn

import structlog
import typer
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from bot import log, release
from bot.blocks import flat
from bot.settings import Settings, SettingsError, load
from bot.texts import sentence
from storage import audit, credentials, grants, leaks, lifecycle, listing, passwords, policy, replay, workspaces
from storage.access import PRINCIPAL, Actor, Role
from storage.audit import Origin, Surface
from storage.connecting import Unusable, why
from storage.copy import copy
from storage.database import Database, OutcomeUnknown, Schema, Transaction, Unavailable, WouldLose
from storage.journal import Back, Journal, Mark, Memory
from storage.journal import State as JournalState
from storage.leaks import Standing
from storage.listing import Order
from storage.models import CREDENTIALS, AuditEvent, Credential, Listed, State, Workspace
from storage.names import USERNAME
from storage.passwords import Hasher, Style
from storage.past import Past
from storage.policy import Policy
from storage.refusals import NoSuchCredential, NoSuchWorkspace, ReasonRequired, Refusal
from storage.typed import FOUND_MAX, TEXT_MAX, login_name, our_username
from storage.typed import read as read_typed

cli = typer.Typer(no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)
db_cli = typer.Typer(no_args_is_help=True, help="The database.")
workspace_cli = typer.Typer(no_args_is_help=True, help="Mail workspaces.")
channel_cli = typer.Typer(no_args_is_help=True, help="Channels and the workspaces they manage.")
queue_cli = typer.Typer(no_args_is_help=True, help="What credentials have queued in this host's Postfix, held back or let go. As root.")
audit_cli = typer.Typer(invoke_without_command=True, help="The audit log, newest first.")
access_cli = typer.Typer(no_args_is_help=True, help="Who has which role.")
cli.add_typer(db_cli, name="db")
cli.add_typer(workspace_cli, name="workspace")
cli.add_typer(channel_cli, name="channel")
cli.add_typer(audit_cli, name="audit")
cli.add_typer(access_cli, name="access")
cli.add_typer(queue_cli, name="queue")

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
Csv = Annotated[bool, typer.Option("--csv", help="Comma-separated, for a spreadsheet.")]
Reason = Annotated[str | None, typer.Option(help="Kept in the audit log.")]
Slug = Annotated[str | None, typer.Argument(help="A workspace.")]
All = Annotated[bool, typer.Option("--all", help="In all workspaces.")]
Texts = Annotated[list[str], typer.Argument(metavar="USERNAME...", help="Usernames, or text with some in it; - reads standard input.")]
ROWS = 500
SLUGS_NAMED = 10
LINE_MAX = 10_000  # characters of a log's line that are read
MOST_ROWS = 2**63 - 1
HASH = re.compile(r"[0-9a-f]{64}")
MENTION = re.compile(r"<[@#!](?:subteam\^)?([A-Z0-9]+)(?:\|[^>]*)?>")
CHANNEL = re.compile(r"[CG][A-Z0-9]{2,30}")
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
        """Raises NoSuchWorkspace, which names some that there are."""
        try:
            return await self.db.read(workspaces.named, slug)
        except NoSuchWorkspace as refusal:
            refusal.known = [one.slug for one in await self.db.read(workspaces.all_of_them)][:SLUGS_NAMED]
            raise


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


def heading(*columns: tuple[str, int]) -> None:
    """The titles of a table's columns with their widths; only for a person at a terminal."""
    if sys.stdout.isatty():
        typer.secho(" ".join(f"{title:<{width}}" for title, width in columns), bold=True)


def one_or_all(slug: str | None, everywhere: bool) -> None:
    """All workspaces must be asked for: a slug that was forgotten is a mistake."""
    if (slug is None) is not everywhere:
        raise typer.BadParameter("name one workspace, or say --all", param_hint="SLUG")


def text_of(given: Sequence[str]) -> list[str]:
    """The arguments, with what standard input holds in the place of `-`."""
    return [sys.stdin.read(TEXT_MAX + 1) if one == "-" else one for one in given]


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Comma-separated. What a spreadsheet would take for a formula begins with an apostrophe."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        cells = ["" if cell is None else cell.isoformat() if isinstance(cell, datetime) else str(cell) for cell in row]
        writer.writerow([f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t")) else cell for cell in cells])


def with_store(work: Callable[[Shell], Coroutine[Any, Any, None]], make: bool = False) -> None:
    """Runs one command on the store; a refusal becomes a sentence and exit status 1.

    Args:
        make: whether an SQLite file that is not there is made.
    """
    from bot.health import WORDS
    from bot.run import StartError, open_database

    read = settings()

    async def run() -> None:
        db = await open_database(read, make=make)
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
        fail(f"DATABASE_URL: {WORDS[error.trouble]}. Nothing was done.")
    except SQLAlchemyError as error:
        fail(f"DATABASE_URL: {why(error)}")
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
                pooled=read.database_pooler == "transaction",
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
                release=release(),
            )
        )
    except sockets.ListenError as error:
        fail(str(error))


@cli.command()
def demo(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where the local Slack listens, on this machine only.")] = 8080,
    mail_port: Annotated[int, typer.Option(min=0, max=65535, help="Where its mail server listens.")] = 2525,
) -> None:
    """Runs the bot in a Slack of its own on this machine; no account needed."""
    try:
        from sandbox import demo as sandbox_demo
    except ModuleNotFoundError as error:
        fail(f"The demo is not installed ({error.name} is missing). Install it: pip install 'smtp-credentials-bot[demo]'")
    sandbox_demo.main(port, mail_port)


@cli.command()
def manifest() -> None:
    """Prints the manifest of the Slack app, to be pasted at api.slack.com/apps."""
    typer.echo((files("bot") / "manifest.yml").read_text(), nl=False)


@cli.command()
def doctor(as_json: Json = False) -> None:
    """Checks settings, Slack, the database, mail and the clocks, and says what to do about each that is wrong."""
    from bot import doctor as checks

    log.configure("WARNING", "console")

    def tell(finding: checks.Finding) -> None:
        colour = {"wrong": typer.colors.RED, "note": typer.colors.YELLOW, "ok": typer.colors.GREEN}[finding.level]
        word = typer.style(f"{'WRONG' if finding.level == 'wrong' else finding.level:<6}", fg=colour)
        typer.echo(json.dumps(finding.__dict__) if as_json else f"{word} {finding.what}{' ' * bool(finding.fix)}{finding.fix}")

    if not asyncio.run(checks.examine(tell)):
        raise typer.Exit(1)


@db_cli.command("upgrade")
def db_upgrade() -> None:
    """Brings the database's schema up to date. An older release goes on beside it, unless the steps say otherwise."""

    async def work(db: Database) -> None:
        await db.upgrade(typer.echo)
        newer = await db.schema() is Schema.NEWER_OK
        typer.echo("A newer release's schema, which lets this one go on. Nothing to do." if newer else "The database is up to date.")

    _on_database(work)


@db_cli.command("downgrade")
def db_downgrade() -> None:
    """Takes the last step of the schema back, if nothing is lost by it."""

    async def work(db: Database) -> None:
        undone, now = await db.downgrade()
        typer.echo(f"Step {undone} is taken back; the last one is {now}. Start the release that has it as its last one.")

    _on_database(work)


@db_cli.command("copy")
def db_copy(
    source: Annotated[str, typer.Argument(metavar="FROM", help="An address as in DATABASE_URL. Stop what writes to it first.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="An empty one. A password belongs in ~/.pgpass: others see this line.")],
) -> None:
    """Copies a whole store, also from SQLite to PostgreSQL and back: all of it, or nothing."""

    async def work(db: Database) -> None:
        try:
            into = Database(target)
        except ValueError as error:
            fail(f"TO: {error}")
        try:
            schema = await db.schema(make=False)
            if not schema.serves:
                fail("FROM: its schema is not this release's. Run smtp-bot db upgrade there first.")
            await into.upgrade()
            for name, count in (await copy(db, into, typer.echo)).items():
                typer.echo(f"{count:>9} {name}")
            typer.echo("Copied, counted and verified. Set DATABASE_URL to the new one, and start.")
        finally:
            await into.close()

    _on_database(work, source)


def _on_database(work: Callable[[Database], Coroutine[Any, Any, None]], url: str | None = None) -> None:
    """Runs what is about the database itself: that of DATABASE_URL, or another."""
    read = settings()
    try:
        db = Database(url or read.database_url.get_secret_value(), pooled=url is None and read.database_pooler == "transaction")
    except ValueError as error:
        fail(f"FROM: {error}")

    async def run() -> None:
        try:
            await work(db)
        finally:
            await db.close()

    try:
        asyncio.run(run())
    except Unusable as error:
        fail(f"{'DATABASE_URL' if url is None else 'Not copied'}: {error}")
    except WouldLose as error:
        fail("Nothing was changed. Going back would lose:\n" + "\n".join(f"  {one}" for one in error.lost) + "\nRestore a backup instead.")


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

    with_store(work, make=True)


@workspace_cli.command("rename")
def workspace_rename(slug: str, name: str) -> None:
    """Changes the name that people read. The slug and the usernames stay."""

    async def work(shell: Shell) -> None:
        renamed = await shell.db.change(workspaces.rename, shell.origin, (await shell.workspace(slug)).id, name)
        typer.echo(f"{renamed.slug} is called {renamed.name}.")

    with_store(work)


@workspace_cli.command("delete")
def workspace_delete(slug: str) -> None:
    """Removes a workspace that has no credentials, channels or roles."""

    async def work(shell: Shell) -> None:
        removed = await shell.db.change(workspaces.remove, shell.origin, (await shell.workspace(slug)).id)
        typer.echo(f"Removed the workspace {removed.slug}.")

    with_store(work)


@workspace_cli.command("domains")
def workspace_domains(
    slug: str,
    domains: Annotated[list[str] | None, typer.Argument(metavar="[DOMAIN...]")] = None,
    any_sender: Annotated[bool, typer.Option("--any", help="No rule: mail from any domain.")] = False,
) -> None:
    """Says from which domains a workspace's credentials may send, or sets them: all of them at once."""
    if domains and any_sender:
        raise typer.BadParameter("either domains or --any", param_hint="--any")

    async def work(shell: Shell) -> None:
        workspace = await shell.workspace(slug)
        if domains or any_sender:
            rules = replace(Policy.of(workspace), domains=policy.unique_domains(domains or []))
            workspace = await shell.db.change(policy.change, shell.origin, workspace.id, rules)
        typer.echo("\n".join(workspace.domains) or "any domain")

    with_store(work)


@workspace_cli.command("policy")
def workspace_policy(
    slug: str,
    longest_days: Annotated[int | None, typer.Option(min=0, max=policy.DAYS_MAX, help="Longest life of a credential; 0: no limit.")] = None,
    most_live: Annotated[int | None, typer.Option(min=0, max=policy.LIVE_MAX, help="Most credentials at once; 0: no limit.")] = None,
    reason: Annotated[bool | None, typer.Option("--reason/--no-reason", help="Whether deleting and suspending need a reason.")] = None,
    devices: Annotated[bool | None, typer.Option("--devices/--no-devices", help="Whether short passwords may be made.")] = None,
) -> None:
    """Says which rules a workspace has, or changes those that are given."""
    given = {"longest_days": longest_days, "most_live": most_live, "reason_required": reason, "devices_allowed": devices}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    for name in ("longest_days", "most_live"):
        if changes.get(name) == 0:
            changes[name] = None

    async def work(shell: Shell) -> None:
        workspace = await shell.workspace(slug)
        if changes:
            rules = replace(Policy.of(workspace), **changes)
            workspace = await shell.db.change(policy.change, shell.origin, workspace.id, rules)
        typer.echo("\n".join(policy.words(Policy.of(workspace))) or "no rules")

    with_store(work)


@channel_cli.command("map")
def channel_map(channel: str, slug: str) -> None:
    """Connects a Slack channel (its id, C…) to a workspace."""
    _check_channel(channel)

    async def work(shell: Shell) -> None:
        workspace = await shell.workspace(slug)
        await shell.db.change(workspaces.map_channel, shell.origin, shell.needs_team(), channel, workspace.id)
        typer.echo(f"{channel} now manages {workspace.slug}.")

    with_store(work)


@channel_cli.command("unmap")
def channel_unmap(channel: str) -> None:
    """Takes the connection of a Slack channel (its id, C…) away."""
    _check_channel(channel)

    async def work(shell: Shell) -> None:
        workspace = await shell.db.change(workspaces.unmap_channel, shell.origin, shell.needs_team(), channel)
        typer.echo(f"{channel} no longer manages {workspace.slug}.")

    with_store(work)


def _check_channel(channel: str) -> None:
    if not CHANNEL.fullmatch(channel):
        raise typer.BadParameter("a channel id looks like C0123ABCDEF (channel details, at the bottom)", param_hint="CHANNEL")


@cli.command()
def grant(principal: str, role: Role, slug: Slug = None, everywhere: All = False) -> None:
    """Gives a Slack user (U…) or user group (S…) a role in a workspace, or in all of them."""
    _check_principal(principal)
    one_or_all(slug, everywhere)

    async def work(shell: Shell) -> None:
        where = (await shell.workspace(slug)).id if slug else None
        await shell.db.change(grants.grant, shell.origin, shell.needs_team(), principal, role, where)
        typer.echo(f"{principal} is {role.value} of {slug or 'all workspaces'}.")

    with_store(work)


@cli.command()
def ungrant(principal: str, slug: Slug = None, everywhere: All = False) -> None:
    """Takes the role away that a Slack user (U…) or user group (S…) was given in a workspace, or the one for all of them."""
    _check_principal(principal)
    one_or_all(slug, everywhere)

    async def work(shell: Shell) -> None:
        where = (await shell.workspace(slug)).id if slug else None
        held = await shell.db.read(grants.held, shell.needs_team(), principal, where)
        await shell.db.change(grants.remove, shell.origin, held.id)
        typer.echo(f"{principal} is no longer {held.role} of {slug or 'all workspaces'}.")

    with_store(work)


def _check_principal(principal: str) -> None:
    if not PRINCIPAL.fullmatch(principal):
        raise typer.BadParameter("a Slack user id (U…) or user group id (S…)", param_hint="PRINCIPAL")


@access_cli.command("review")
def access_review(as_csv: Csv = False) -> None:
    """Lists every role, who gave it and when, and when a person last did something; for a review of access."""

    async def work(shell: Shell) -> None:
        found = [
            (slug or "(all)", held.role, held.principal, held.granted_at, held.granted_by, last)
            for held, slug, last in await shell.db.read(grants.review)
        ]
        owners = [("(all)", "owner", owner, None, "BOT_OWNERS", None) for owner in sorted(settings().bot_owners)]
        if as_csv:
            table(("workspace", "role", "principal", "granted_at", "granted_by", "last_active_at"), [*owners, *found])
            return
        heading(("WORKSPACE", 16), ("ROLE", 10), ("WHO", 14), ("SINCE", 10), ("GIVEN BY", 16), ("LAST ACTIVE", 11))
        for slug, role, principal, since, by, last in [*owners, *found]:
            when = f"{since:%Y-%m-%d}" if since else ""
            typer.echo(f"{slug:<16} {role:<10} {principal:<14} {when:<10} {by:<16} {f'{last:%Y-%m-%d}' if last else '-'}")

    with_store(work)


@cli.command("list")
def list_credentials(slug: Annotated[str | None, typer.Argument()] = None, as_json: Json = False) -> None:
    """Lists the live credentials, oldest first."""

    async def work(shell: Shell) -> None:
        chosen = [await shell.workspace(slug)] if slug else await shell.db.read(workspaces.all_of_them)
        if not as_json:
            heading(("WORKSPACE", 16), ("USERNAME", 27), ("CREATED", 17), ("LAST USED", 16), ("EXPIRES", 10), ("STATE", 19), ("NAME", 4))
        now = shell.db.clock()
        for workspace in chosen:
            page = await shell.db.read(listing.page, workspace, Order.OLDEST, size=ROWS)
            while True:
                for row in page.rows:
                    typer.echo(json.dumps(_credential(row, workspace, now)) if as_json else _credential_line(row, workspace, now))
                if page.next is None:
                    break
                page = await shell.db.read(listing.page, workspace, Order.OLDEST, place=page.next, size=ROWS)

    with_store(work)


@cli.command()
def export(slug: Slug = None, everywhere: All = False, as_csv: Csv = False) -> None:
    """Writes down every credential, deleted ones too, without anything secret: JSON lines, or --csv."""
    one_or_all(slug, everywhere)

    async def work(shell: Shell) -> None:
        chosen = [await shell.workspace(slug)] if slug else await shell.db.read(workspaces.all_of_them)
        first = True
        for workspace in chosen:
            after = ""
            while some := await shell.db.read(_exported, workspace.id, after):
                after = some[-1].id
                rows = [_whole(one, workspace, shell.db.clock()) for one in some]
                if as_csv:
                    table(list(rows[0]) if first else [], [list(row.values()) for row in rows])
                else:
                    typer.echo("\n".join(json.dumps(row) for row in rows))
                first = False

    with_store(work)


def _exported(tx: Transaction, workspace_id: int, after: str) -> list[Credential]:
    query = select(CREDENTIALS).where(CREDENTIALS.c.workspace_id == workspace_id, CREDENTIALS.c.id > after)
    return credentials.rows(tx, query.order_by(CREDENTIALS.c.id).limit(ROWS))


@dataclass(frozen=True)
class Meant:
    """What an operator's text names: the credentials, with what a password of theirs is worth, and the words that name none."""

    found: list[tuple[Credential, Standing | None]]
    unknown: list[str]
    cut: bool
    """Some of the text was not looked at."""

    def say_cut(self) -> None:
        if self.cut:
            typer.echo(f"Not all was looked at: it is too long, or holds more than {FOUND_MAX}. Give the rest in another go.", err=True)


async def meant(shell: Shell, given: Sequence[str]) -> Meant:
    """The credentials whose username or password stands in the texts, each once."""
    found: dict[str, tuple[Credential, Standing | None]] = {}
    unknown, cut = [], False
    hasher = Hasher(threads=1)
    resolver = leaks.Resolver(shell.db, hasher)
    try:
        for text in text_of(given):
            said = read_typed(text)
            for username in said.usernames:
                credential = await shell.db.read(listing.by_username, username)
                if credential is None:
                    unknown.append(username)
                else:
                    found.setdefault(credential.id, (credential, None))
            for parsed in said.passwords:
                belongs = await resolver.resolve([parsed])
                if not belongs:
                    unknown.append("a password of nobody's")
                found |= {credential.id: (credential, standing) for credential, standing in belongs}
            cut = cut or said.cut
            if not said.usernames and not said.passwords:
                unknown.append(said.words[:40] if 0 < len(text) < 200 and "\n" not in text else "the text")
    finally:
        hasher.close()
    return Meant(list(found.values()), unknown, cut)


def each(
    given: Sequence[str], as_json: bool, done: str, change: Callable[[Transaction, Origin, str], tuple[Credential, Workspace]]
) -> None:
    """Does the same to every credential that is meant, each in a transaction of its own. Exit status 1 when one was not done.

    All is done before anything is printed: an output that nobody reads any more, or a full disk, must not keep one alive.
    """

    async def work(shell: Shell) -> None:
        named = await meant(shell, given)
        failed = bool(named.unknown) or named.cut
        lines: list[tuple[str, bool]] = []
        for one, _ in named.found:
            try:
                credential, workspace = await shell.db.change(change, shell.origin, one.id)
            except Refusal as refusal:
                failed = True
                result = {"username": one.username, done: False, "cause": refusal.cause}
                said = flat(sentence(refusal, "/smtp")) + (" Add --reason WHY." if isinstance(refusal, ReasonRequired) else "")
                lines.append((json.dumps(result) if as_json else f"{one.username}: {said}", True))
            except BaseException:
                for said, wrong in lines:
                    typer.echo(said, err=wrong and not as_json)
                raise
            else:
                result = {"username": credential.username, done: True, "workspace": workspace.slug}
                told = f"{credential.username}: {done} ({credential.name}, {workspace.slug})"
                if credential.state == State.ACTIVE and (stopped := lifecycle.stopped(credential, workspace, shell.db.clock())):
                    told += f", but it stays refused: {stopped}"
                lines.append((json.dumps(result) if as_json else told, False))
        named.say_cut()
        for word in named.unknown:
            result = {"username": word, done: False, "cause": NoSuchCredential.cause}
            typer.echo(json.dumps(result) if as_json else f"{word}: No credential has that username.", err=not as_json)
        for said, wrong in lines:
            typer.echo(said, err=wrong and not as_json)
        if failed:
            raise typer.Exit(1)

    with_store(work)


@cli.command()
def revoke(usernames: Texts, reason: Reason = None, as_json: Json = False) -> None:
    """Deletes credentials at once and for ever, in whatever workspace they are."""
    each(usernames, as_json, "revoked", lambda tx, origin, key: credentials.delete(tx, origin, key, reason, revoked=True))


@cli.command()
def suspend(usernames: Texts, reason: Reason = None, as_json: Json = False) -> None:
    """Lets credentials log in no more until they are resumed."""
    each(usernames, as_json, "suspended", lambda tx, origin, key: lifecycle.suspend(tx, origin, key, reason))


@cli.command()
def resume(usernames: Texts, as_json: Json = False) -> None:
    """Lets suspended credentials log in again, with the password they have."""
    each(usernames, as_json, "resumed", lifecycle.resume)


@cli.command()
def rotate(
    username: str,
    old_works: Annotated[int, typer.Option(metavar="HOURS", min=0, max=24 * 30, help="How long the old password goes on.")] = 24,
    to_pipe: Annotated[bool, typer.Option("--to-pipe", help="Print the password, and nothing else, where it is no terminal.")] = False,
) -> None:
    """Makes a new password for the same username, and prints it once. What leaked is revoked, not rotated."""
    if not sys.stdout.isatty() and not to_pipe:
        raise typer.BadParameter("the password would go into a file or a pipe; say --to-pipe if it is to", param_hint="--to-pipe")
    read = settings()

    async def work(shell: Shell) -> None:
        named = await meant(shell, [username])
        if len(named.found) != 1:
            raise NoSuchCredential(username)
        [(found, _)] = named.found
        one, workspace = await shell.db.read(credentials.get, found.id)
        key = f"{shell.origin.actor.user} {passwords.new_id()}"
        mark = lifecycle.rotation_mark(one)
        device = one.device and workspace.devices_allowed
        if one.device and not device:
            typer.echo(f"{workspace.name} no longer allows short passwords: this one is long.", err=True)
        password = passwords.generate(one.id, Style.DEVICE if device else Style.STANDARD)
        hasher = Hasher(read.argon2_memory_kib, read.argon2_time_cost, read.argon2_parallelism, threads=1)
        try:
            await shell.db.change(lifecycle.begin_rotation, shell.origin, one.id, None, key, mark, device)
            phc = await hasher.hash(password)
            typer.echo(password if to_pipe else f"New password of {one.username}, shown this once: {password}")
            sys.stdout.flush()
        except (Refusal, Unavailable):
            raise
        except BaseException as error:
            await shell.db.change(lifecycle.cancel_rotation, shell.origin, one.id, key, "not printed")
            if isinstance(error, OutcomeUnknown) or not isinstance(error, Exception):
                raise
            fail(f"The password could not be {'printed' if isinstance(error, OSError) else 'made'}, so nothing changed.")
        finally:
            hasher.close()
        until = timedelta(hours=old_works) if old_works else None
        try:
            await shell.db.change(lifecycle.finish_rotation, shell.origin, one.id, key, phc, passwords.tag(password), until, device)
        except Refusal:
            typer.echo("That password will not work: see below.", err=True)
            raise
        except BaseException:
            undone = None
            with contextlib.suppress(Unavailable, OutcomeUnknown):
                undone = await shell.db.change(lifecycle.cancel_rotation, shell.origin, one.id, key, "interrupted")
            look = f"Whether that password works is not known. Look: smtp-bot audit --about {one.username}"
            typer.echo("That password will not work: nothing changed." if undone else look, err=True)
            raise
        stopped = lifecycle.stopped(one, workspace, shell.db.clock())
        works = f"It will work when that ends: {stopped}." if stopped else "It works."
        typer.echo(f"{works} The old one {f'goes on for {old_works} hours' if until else 'no longer does'}.", err=True)

    with_store(work)


@cli.command()
def whois(
    text: Annotated[list[str], typer.Argument(help="A username, or a line of a log; - reads standard input, best for a password.")],
    as_json: Json = False,
) -> None:
    """Says whose a username or a password is, wherever it stands in the text."""

    async def work(shell: Shell) -> None:
        named = await meant(shell, text)
        known = {one.id: one for one in await shell.db.read(workspaces.all_of_them)}
        now = shell.db.clock()
        for credential, standing in named.found:
            workspace = known[credential.workspace_id]
            row = _whole(credential, workspace, now) | ({"password": standing.value} if standing else {})
            if as_json:
                typer.echo(json.dumps(row))
                continue
            typer.secho(credential.username, bold=True)
            for title, value in row.items():
                if value not in (None, False) and title != "username":
                    typer.echo(f"  {title:<19} {'yes' if value is True else value}")
            if standing in (Standing.LIVE, Standing.PREVIOUS):
                works = "" if lifecycle.stopped(credential, workspace, now) else ", which works"
                typer.secho(f"  You gave its password{works}: smtp-bot revoke {credential.username}", fg=typer.colors.RED)
        for word in named.unknown:
            typer.echo(f"{word}: No credential has that username.", err=True)
        named.say_cut()
        if named.cut or not named.found:
            raise typer.Exit(1)

    with_store(work)


@audit_cli.callback()
def audit_latest(
    context: typer.Context,
    about: Annotated[str | None, typer.Option(help="A username, a credential's id, a Slack user id, a channel's id or a slug.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 50,
    as_json: Json = False,
) -> None:
    if context.invoked_subcommand:
        return

    async def work(shell: Shell) -> None:
        if not as_json:
            heading(("EVENT", 8), ("WHEN (UTC)", 19), ("WHO", 16), ("WHAT", 18), ("OUTCOME", 8), ("ABOUT", 5))
        found = await shell.db.read(audit.latest, None, about and _subject(about), limit=limit)
        for event in found:
            typer.echo(json.dumps(_event(event)) if as_json else _event_line(event))
        if about and not found:
            typer.echo("The audit log has nothing about that.", err=True)

    with_store(work)


def _subject(text: str) -> str:
    """What the audit log knows it as: also of a username as a mail client has it, and of a mention copied from Slack."""
    mention = MENTION.fullmatch(text.strip())
    return our_username(text) or (mention[1] if mention else text.strip())


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
        if not re.fullmatch(r"[0-9]{1,18}", number) or not HASH.fullmatch(hashed):
            raise typer.BadParameter("a row's number and its hash, as verify and the log say them: 1234:9f86d0…", param_hint="--since")
        after = audit.Head(int(number), hashed)

    def progress(done: int, of: int) -> None:
        typer.echo(f"\r{done:,} of {of:,} rows", nl=done == of, err=True)

    async def work(shell: Shell) -> None:
        verdict = await shell.db.read(audit.verify, after, progress=progress if sys.stderr.isatty() else None)
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
    if not re.fullmatch(r"[0-9]{1,18}", number) or not HASH.fullmatch(hashed):
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


def _credential(row: Listed | Credential, workspace: Workspace, now: datetime) -> dict[str, Any]:
    return {
        "workspace": workspace.slug,
        "name": row.name,
        "username": row.username,
        "state": row.state,
        "created_at": row.created_at.isoformat(),
        "created_by": row.created_by,
        "owner": row.owner,
        "last_used_at": row.last_used_at.isoformat() if row.last_used_at else None,
        "last_used_from": row.last_used_from,
        "last_used_service": row.last_used_service,
        "expires_at": row.expires_at.isoformat() if row.expires_at else None,
        "expired": lifecycle.has_expired(row, now),
        "workspace_suspended": workspace.suspended_at is not None,
    }


def _whole(row: Credential, workspace: Workspace, now: datetime) -> dict[str, Any]:
    deleted_at = row.deleted_at.isoformat() if row.deleted_at else None
    return _credential(row, workspace, now) | {"device": row.device, "deleted_at": deleted_at, "deleted_by": row.deleted_by}


def _credential_line(row: Listed, workspace: Workspace, now: datetime) -> str:
    used = f"{row.last_used_at:%Y-%m-%d %H:%M}" if row.last_used_at else "never used"
    expires = f"{row.expires_at:%Y-%m-%d}" if row.expires_at else "never"
    stopped = lifecycle.stopped(row, workspace, now)
    state = typer.style(f"{stopped or row.state:<19}", fg=typer.colors.YELLOW if stopped else None)
    return f"{workspace.slug:<16} {row.username:<27} {row.created_at:%Y-%m-%d %H:%M}  {used:<16} {expires:<10} {state} {row.name}"


def _event(event: AuditEvent) -> dict[str, Any]:
    values = {field: getattr(event, field) for field in (*audit.FIELDS, "hash")}
    return values | {"at": event.at.isoformat()}


def _event_line(event: AuditEvent) -> str:
    about = " ".join(part for part in (event.username, event.subject, event.cause, event.reason) if part)
    return f"{event.id:>8} {event.at:%Y-%m-%d %H:%M:%S} {event.user_id:<16} {event.action:<18} {event.outcome:<8} {about}"

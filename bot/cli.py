"""`smtp-bot`, for operators, and for the day Slack is down.

Exit status: 0, 1 (refused or failed), 2 (usage). What an operator does is in the audit log under `shell:NAME`.
"""

import asyncio
import json
import os
import pwd
from collections.abc import Callable, Coroutine
from importlib.resources import files
from typing import Annotated, Any, NoReturn

import structlog
import typer

from bot import log, release
from bot.blocks import flat
from bot.settings import Settings, SettingsError, load
from bot.texts import TROUBLES, sentence
from storage import audit, credentials, grants, listing, workspaces
from storage.access import Actor, Role
from storage.audit import Origin, Surface
from storage.database import Database, OutcomeUnknown, Unavailable
from storage.listing import Order
from storage.models import AuditEvent, Credential, Workspace
from storage.refusals import NoSuchCredential, Refusal

cli = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__, pretty_exceptions_enable=False)
db_cli = typer.Typer(no_args_is_help=True, help="The database.")
workspace_cli = typer.Typer(no_args_is_help=True, help="Mail workspaces.")
channel_cli = typer.Typer(no_args_is_help=True, help="Channels and the workspaces they manage.")
audit_cli = typer.Typer(invoke_without_command=True, help="The audit log, newest first.")
cli.add_typer(db_cli, name="db")
cli.add_typer(workspace_cli, name="workspace")
cli.add_typer(channel_cli, name="channel")
cli.add_typer(audit_cli, name="audit")

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
ROWS = 500


class Shell:
    """The store, and the operator who asks."""

    def __init__(self, db: Database, team: str | None) -> None:
        self.db = db
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
            await work(Shell(db, known.team_id if known else read.slack_team_id))
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
    except Exception as error:
        fail(
            f"DATABASE_URL: the database was not brought up to date ({type(error).__name__}). Check that it runs and what you may do there."
        )
    typer.echo("The database is up to date.")


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
def audit_verify(as_json: Json = False) -> None:
    """Follows the chain of hashes and names the first row that is not what was written."""

    async def work(shell: Shell) -> None:
        verdict = await shell.db.read(audit.verify)
        if as_json:
            typer.echo(json.dumps({"rows": verdict.rows, "broken": verdict.broken}))
        elif verdict.broken is None:
            typer.echo(f"{verdict.rows} rows, unbroken.")
        if verdict.broken is not None:
            fail(f"Row {verdict.broken} is not what was written, or is missing. {verdict.rows} rows before it are unbroken.")

    with_store(work)


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

"""`smtp-bot doctor`: looks at everything the bot stands on, and says for each fault what to do.

The parts are looked at side by side, each in bounded time, and told in one order.
"""

import asyncio
import contextlib
import os
import smtplib
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

import aiohttp
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from bot.health import WORDS
from bot.settings import Settings, SettingsError, load
from bot.slack import Away, Ok, Refused, Slack
from storage import audit, connecting, mail_servers, passwords, policy, workspaces
from storage.connecting import NoDatabase, Unusable, sqlite_path
from storage.database import Database, Schema, Transaction, Unavailable
from storage.journal import Journal
from storage.journal import State as JournalState
from storage.logins import database_time
from storage.mail_servers import ALIVE
from storage.models import CHANNEL_MAPPINGS, MAIL_SERVERS, ROLE_GRANTS, ChannelMapping, MailServer, RoleGrant, Workspace, as_row
from storage.past import Past
from storage.policy import Policy

SCOPES = ("commands", "chat:write", "users:read", "channels:read", "groups:read", "usergroups:read")
LEAK_WATCH_SCOPES = ("channels:history", "groups:history")
VERIFIED = 10_000  # audit rows, the last ones
RULES_SHOWN = 300  # characters
LOOKED_UP = 100  # channels, people and workspaces, each
AT_ONCE = 5  # questions to Slack
PATIENCE = 20.0  # seconds for each part
SKEW_MAX = 5.0  # seconds
CERTIFICATE_DAYS = 14
REINSTALL = "Paste manifest.yml again under App Manifest, then reinstall the app."


@dataclass(frozen=True)
class Finding:
    """`fix` is empty where nothing is to be done."""

    level: Literal["ok", "note", "wrong"]
    what: str
    fix: str = ""


class Report:
    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def good(self, what: str) -> None:
        self.findings.append(Finding("ok", what))

    def note(self, what: str, fix: str = "") -> None:
        self.findings.append(Finding("note", what, fix))

    def bad(self, what: str, fix: str = "") -> None:
        self.findings.append(Finding("wrong", what, fix))


@dataclass(frozen=True)
class Known:
    """The parts of the store that other parts are compared with."""

    mappings: list[ChannelMapping]
    grants: list[RoleGrant]
    servers: list[MailServer]
    workspaces: list[Workspace]
    last_event: int
    now: datetime


async def examine(tell: Callable[[Finding], None], patience: float = PATIENCE) -> bool:
    """Looks at everything. No secret is repeated.

    Args:
        tell: is given each finding.
        patience: seconds for each part.

    Returns:
        Whether all is well.
    """
    report = Report()
    try:
        settings = load()
    except SettingsError as error:
        for problem in str(error).splitlines():
            tell(Finding("wrong", problem))
        return False
    _settings(settings, report)
    known: asyncio.Future[Known | None] = asyncio.get_running_loop().create_future()
    parts = (_database(settings, known, patience), _slack(settings, known), _authd(settings), _mail(settings, patience), _servers(known))
    found = await asyncio.gather(*(_bounded(part, patience) for part in parts))
    findings = [*report.findings, *(finding for part in found for finding in part.findings)]
    for finding in findings:
        tell(finding)
    return not any(finding.level == "wrong" for finding in findings)


async def _bounded(part: Callable[[Report], Awaitable[None]], patience: float) -> Report:
    """What a part found until its time was up."""
    report = Report()
    try:
        async with asyncio.timeout(patience):
            await part(report)
    except TimeoutError:
        report.bad(f"Not everything could be looked at in {patience:g} seconds.", "Something above or below does not answer.")
    except Exception as error:
        report.bad(f"The rest of this part could not be looked at ({type(error).__name__}).", "Send us this line.")
    return report


def _settings(settings: Settings, report: Report) -> None:
    report.good(f"settings read, mode {settings.mode}, command {settings.bot_command}")
    for note in settings.notes:
        report.note(note)
    for file in settings.exposed_files():
        report.bad(f"Every account of this machine may read {file}.", f"Run: chmod o= {file}")
    try:
        settings.check_slack()
    except SettingsError as error:
        for problem in str(error).splitlines():
            report.bad(problem)
    if not settings.bot_owners:
        report.note("BOT_OWNERS is empty: nobody can make workspaces from Slack.", "Set it to your own member id.")
    if (settings.leaks_secret.get_secret_value() or settings.leaks_github_keys) and not settings.listens:
        report.bad("LEAKS_SECRET or LEAKS_GITHUB_KEYS is set, but nothing listens for reports.", "Set PORT.")


# --- Slack ---
def _slack(settings: Settings, known: asyncio.Future[Known | None]) -> Callable[[Report], Awaitable[None]]:
    async def look(report: Report) -> None:
        slack = Slack(settings.slack_bot_token.get_secret_value(), settings.slack_api_url)
        try:
            if settings.slack_bot_token.get_secret_value() and await _bot_token(settings, slack, report):
                await _people_and_places(settings, slack, await asyncio.shield(known), report)
            app_token = settings.slack_app_token.get_secret_value()
            if settings.mode == "socket" and app_token:
                match await slack.open_socket(app_token):
                    case Ok():
                        report.good("SLACK_APP_TOKEN opens a Socket Mode connection")
                    case Refused(word):
                        report.bad(f"SLACK_APP_TOKEN: Slack answered {word}.", "Make one with connections:write under Basic Information.")
                    case Away(why, _):
                        report.bad(f"SLACK_API_URL: Slack does not answer ({why}).", "Check the network and the proxy.")
        finally:
            await slack.close()

    return look


async def _bot_token(settings: Settings, slack: Slack, report: Report) -> bool:
    """Whether Slack can be asked more with it."""
    match await slack.auth_test():
        case Ok(me):
            report.good(f"SLACK_BOT_TOKEN belongs to the Slack team {me.team} ({me.team_id})")
            wanted = SCOPES + (LEAK_WATCH_SCOPES if settings.bot_leak_watch else ())
            missing = [scope for scope in wanted if scope not in me.scopes]
            if missing:
                report.bad(f"The app lacks the scopes {', '.join(missing)}.", REINSTALL)
            else:
                report.good("the app has every scope it needs")
            await _clock(settings, report)
            return True
        case Refused(word):
            report.bad(f"SLACK_BOT_TOKEN: Slack answered {word}.", "Copy it again from OAuth & Permissions.")
        case Away(why, _):
            report.bad(f"SLACK_API_URL: Slack does not answer ({why}).", "Check the network and the proxy.")
    return False


async def _clock(settings: Settings, report: Report) -> None:
    """Compares with the Date of Slack's answer: a request whose signature is five minutes old is refused."""
    with contextlib.suppress(aiohttp.ClientError, ValueError, TypeError):
        async with (
            aiohttp.ClientSession(trust_env=True, timeout=aiohttp.ClientTimeout(5)) as http,
            http.get(f"{settings.slack_api_url}api.test") as answer,
        ):
            told = parsedate_to_datetime(answer.headers["Date"])
        _compare(report, "Slack's", (datetime.now(UTC) - told).total_seconds())
        return
    report.note("Slack's answer has no date to compare this clock with.")


def _compare(report: Report, whose: str, ahead: float) -> None:
    if abs(ahead) > SKEW_MAX:
        report.bad(f"This machine's clock is {ahead:+.0f} seconds off {whose}.", "Run chrony or systemd-timesyncd here and there.")
    else:
        report.good(f"this clock and {whose} agree")


async def _people_and_places(settings: Settings, slack: Slack, known: Known | None, report: Report) -> None:
    turn = asyncio.Semaphore(AT_ONCE)
    grants = known.grants if known else []
    people = sorted({one.principal for one in grants if not one.principal.startswith("S")})

    async def person(user: str, source: str, fix: str) -> None:
        async with turn:
            match await slack.user(user):
                case Ok(account) if account.deleted:
                    report.bad(f"{source} {user} has left: the account is deactivated.", fix)
                case Ok(account) if account.bot:
                    report.bad(f"{source} {user} is a bot, which may do nothing.", fix)
                case Ok(account) if account.guest and not settings.bot_allow_guests:
                    report.note(f"{source} {user} is a guest, whom BOT_ALLOW_GUESTS keeps out.", fix)
                case Refused("user_not_found" | "users_not_found" | "user_not_visible"):
                    report.bad(f"{source} {user} is nobody in this Slack team.", fix)

    async def place(mapping: ChannelMapping) -> None:
        fix = f"smtp-bot channel unmap {mapping.channel_id}"
        async with turn:
            match await slack.channel(mapping.channel_id):
                case Ok(channel) if channel.archived:
                    report.bad(f"The channel {mapping.channel_id} is archived.", fix)
                case Ok(channel) if not channel.has_bot:
                    report.bad(f"The bot is not in the channel {mapping.channel_id}.", "Type there: /invite @SMTP Credentials")
                case Refused("channel_not_found"):
                    invite = f"If it still is there, type in it /invite @SMTP Credentials, else {fix}"
                    report.bad(f"The bot cannot see the channel {mapping.channel_id}.", invite)

    owners = [person(one, "The owner", "Correct BOT_OWNERS.") for one in sorted(settings.bot_owners)]
    held = [person(one, "With a role,", f"smtp-bot ungrant {one} SLUG, or --all") for one in people[:LOOKED_UP]]
    places = [place(one) for one in (known.mappings if known else [])[:LOOKED_UP]]
    before = len(report.findings)
    await asyncio.gather(*owners, *held, *places)
    await _groups(slack, grants, report)
    if len(report.findings) == before:
        report.good("Slack knows every owner, everybody with a role, and each channel")
    if known and max(len(people), len(known.mappings)) > LOOKED_UP:
        report.note(f"Only the first {LOOKED_UP} people and channels were looked up.")


async def _groups(slack: Slack, grants: Iterable[RoleGrant], report: Report) -> None:
    wanted = sorted({one.principal for one in grants if one.principal.startswith("S")})
    if not wanted:
        return
    match await slack.groups():
        case Ok(groups):
            there = {one.id for one in groups}
            for group in wanted:
                if group not in there:
                    report.bad(
                        f"The user group {group}, which has a role, is gone or disabled.", f"smtp-bot ungrant {group} SLUG, or --all"
                    )
        case Refused(word):
            report.note(f"Slack does not list its user groups ({word}).")
        case Away(why, _):
            report.note(f"Slack does not list its user groups ({why}).")


# --- the database ---
def _database(settings: Settings, known: asyncio.Future[Known | None], patience: float) -> Callable[[Report], Awaitable[None]]:
    async def look(report: Report) -> None:
        db = Database(settings.database_url.get_secret_value(), pooled=settings.database_pooler == "transaction")
        kind = "SQLite" if db.sqlite else "PostgreSQL"
        try:
            schema = await db.schema(make=False)
            match schema:
                case Schema.CURRENT:
                    report.good(f"DATABASE_URL: {kind}, schema up to date")
                case Schema.NEWER_OK:
                    report.note(
                        f"DATABASE_URL: {kind}, its schema is a newer release's, which lets this one go on.", "Install that release."
                    )
                case Schema.UNKNOWN:
                    report.bad("DATABASE_URL: a newer release made the database, and this one must not run.", "Install that release.")
                case Schema.EMPTY | Schema.OLD if db.sqlite:
                    report.good(f"DATABASE_URL: {kind}, will be brought up to date by the next start")
                case _:
                    report.bad("DATABASE_URL: the schema is out of date.", "Run: smtp-bot db upgrade")
            if schema.serves:
                known.set_result(await _store(db, report))
                await _past(db, settings, report)
        except NoDatabase:
            file = sqlite_path(db.url)
            report.note(f"There is no database at {file} yet.", "smtp-bot run makes it; if you have one, go to its folder.")
        except (SQLAlchemyError, Unusable) as error:
            sentence, _, fix = str(connecting.why(error)).partition(". ")
            report.bad(f"DATABASE_URL: {sentence}.", fix)
        except Unavailable as error:
            _away(report, error)
        finally:
            if not known.done():
                known.set_result(None)
            async with asyncio.timeout(patience):
                await db.close()

    return look


def _away(report: Report, error: Unavailable) -> None:
    report.bad(f"DATABASE_URL: {WORDS[error.trouble]}.", "Check that it runs, who else holds it, and what its role or account may do.")


async def _store(db: Database, report: Report) -> Known:
    if db.sqlite:
        verdict = await db.read(lambda tx: tx.connection.exec_driver_sql("PRAGMA quick_check(1)").scalar())
        if verdict != "ok":
            report.bad("The SQLite file is damaged.", "Stop everything that uses it and restore a backup.")
    try:
        await db.ping()
    except Unavailable as error:
        _away(report, error)
    chain = await db.read(audit.verify, None, VERIFIED)
    if chain.broken is None:
        report.good(f"the audit log's last {chain.rows} rows are unbroken")
    else:
        keep = "Keep a copy of the database and find out who changed it."
        report.bad(f"Row {chain.broken} of the audit log is not what was written.", keep)
    known = await db.read(_known)
    if not db.sqlite:
        _compare(report, "the database's", (datetime.now(UTC) - known.now).total_seconds())
    if not known.workspaces:
        report.note("There is no mail workspace yet.", "In Slack: /smtp setup. Here: smtp-bot workspace add SLUG NAME")
    for workspace in known.workspaces[:LOOKED_UP]:
        suspended = ["suspended"] if workspace.suspended_at else []
        rules = suspended + policy.words(Policy.of(workspace)) + (["a webhook"] if workspace.webhook_url else [])
        if rules:
            report.good(f"workspace {workspace.slug} has rules: {'; '.join(rules)[:RULES_SHOWN]}")
    return known


def _known(tx: Transaction) -> Known:
    mappings = tx.connection.execute(select(CHANNEL_MAPPINGS).order_by(CHANNEL_MAPPINGS.c.channel_id).limit(LOOKED_UP + 1))
    living = select(MAIL_SERVERS).where(MAIL_SERVERS.c.stopped.is_(False)).order_by(MAIL_SERVERS.c.seen_at.desc()).limit(LOOKED_UP)
    return Known(
        [as_row(ChannelMapping, row) for row in mappings],
        [as_row(RoleGrant, row) for row in tx.connection.execute(select(ROLE_GRANTS).order_by(ROLE_GRANTS.c.id))],
        [as_row(MailServer, row) for row in tx.connection.execute(living)],
        workspaces.all_of_them(tx),
        audit.head(tx).event,
        database_time(tx),
    )


async def _past(db: Database, settings: Settings, report: Report) -> None:
    """Looks at the journal, and whether the database went back in time."""
    past = Past(db, Journal(settings.journal, create=False), "doctor")
    try:
        await past.follow()
        journal = past.journal
        match journal.state:
            case JournalState.KEPT:
                report.good(f"REVOKED_JOURNAL: {journal.path} is kept, and names {len(journal.memory)} that must never work again")
                if journal.began:
                    report.note(f"The journal began at audit row {journal.began}: whether the database was restored before, it can't know.")
                if journal.skipped:
                    report.note(f"{journal.skipped} lines of the journal can't be read, and were left out.")
            case JournalState.NONE if not os.access(journal.path.parent, os.W_OK | os.X_OK):
                where = f"REVOKED_JOURNAL: {journal.path} isn't there and can't be made by this account."
                report.bad(where, "Make its folder, give it to the account that runs the bot, or name another.")
            case JournalState.NONE:
                report.note(f"REVOKED_JOURNAL: {journal.path} isn't there, so a restore can't be noticed.", "A start makes it.")
            case _:
                report.bad(f"REVOKED_JOURNAL: {journal.path} is not kept: {past.words}.", "Move it away or name another place.")
        for server in await db.read(mail_servers.living):
            if server.journal and server.journal != JournalState.KEPT.value:
                report.bad(f"authd {server.name}: its journal: {server.journal}")
        if said := past.standing.sentence:
            report.bad(f"{said}.", "Press Revoke them again in the app's direct message, or run: smtp-bot db replay")
    finally:
        past.close()


# --- mail ---
def _servers(future: asyncio.Future[Known | None]) -> Callable[[Report], Awaitable[None]]:
    async def look(report: Report) -> None:
        known = await asyncio.shield(future)
        if known is None:
            return
        living = [one for one in known.servers if known.now - one.seen_at <= ALIVE]
        for one in living:
            behind = known.last_event - one.seen_event
            late = f", {behind} audit rows behind" if behind > 0 else ""
            report.good(f"authd {one.name} lives since {one.started_at:%Y-%m-%d %H:%M}{late}")
            if abs(one.clock_skew or 0) > SKEW_MAX * 1000:
                skew = f"The clock of authd {one.name} is {(one.clock_skew or 0) / 1000:+.0f} seconds off the database's."
                report.bad(skew, "Run chrony or systemd-timesyncd there.")
        for one in known.servers:
            if one not in living:
                report.note(f"authd {one.name} was last heard of at {one.seen_at:%Y-%m-%d %H:%M} and did not say that it stops.")
        if not living:
            report.note("No authd lives.", "Unless mail servers read the database themselves, start it: smtp-bot authd")

    return look


def _authd(settings: Settings) -> Callable[[Report], Awaitable[None]]:
    """Greets `authd` as Dovecot's clients do: https://doc.dovecot.org/2.3/developer_manual/design/auth_protocol/"""

    async def look(report: Report) -> None:
        if settings.authd_listen is None:
            return
        kind, _, where = settings.authd_listen.partition(":")
        host, _, port = where.rpartition(":")
        try:
            async with asyncio.timeout(5):
                if kind == "unix":
                    reader, writer = await asyncio.open_unix_connection(where)
                else:
                    reader, writer = await asyncio.open_connection(host.strip("[]") or "127.0.0.1", int(port))
                try:
                    greeting = await reader.readuntil(b"DONE\n")
                finally:
                    writer.close()
        except (OSError, UnicodeError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            fix = "Is it running (systemctl status smtp-bot-authd), and may this account and address connect (AUTHD_GROUP, AUTHD_PEERS)?"
            report.bad(f"AUTHD_LISTEN: authd does not answer ({type(error).__name__}).", fix)
            return
        if greeting.startswith(b"VERSION\t1\t") and b"\nMECH\tPLAIN" in greeting:
            report.good("authd answers on AUTHD_LISTEN")
        else:
            report.bad("AUTHD_LISTEN: something else answers there.", "Correct the address.")

    return look


def _mail(settings: Settings, patience: float) -> Callable[[Report], Awaitable[None]]:
    async def look(report: Report) -> None:
        if settings.smtp_host == "localhost" and "smtp_host" not in settings.model_fields_set:
            said = "SMTP_HOST is localhost: people read it in the message with their password."
            report.note(said, "Set your mail server's name.")
            return
        report.findings += await asyncio.to_thread(_log_in, settings, patience / 4)

    return look


def _log_in(settings: Settings, patience: float) -> list[Finding]:
    """Logs in with a password that is nobody's, at the server that people are told to enter. Takes at most `patience` seconds, twice."""
    report = Report()
    host, port, tls = settings.smtp_host, settings.smtp_port, settings.smtp_tls
    where = f"{host}:{port}"
    context = ssl.create_default_context()
    try:
        with (
            socket.create_connection((host, port), patience) as connection,
            _ended_after(patience, connection),
            contextlib.closing(_greeted(connection, host, port, tls, context, patience)) as server,
        ):
            if isinstance(server.sock, ssl.SSLSocket):
                _certificate(server.sock, where, report)
            name = f"smtp-doctor-{passwords.new_id()}"
            try:
                server.login(name, passwords.generate(name[-8:]))
            except smtplib.SMTPAuthenticationError as error:
                if error.smtp_code == 535:
                    report.good(f"{where} refuses a wrong password")
                else:
                    fix = "It does not reach authd or the database: look at its log."
                    report.bad(f"{where} answers {error.smtp_code} to a wrong password instead of 535.", fix)
            except smtplib.SMTPNotSupportedError:
                report.bad(
                    f"{where} offers no log-in.", "Turn on SASL for this port (deploy/README.md), or correct SMTP_PORT and SMTP_TLS."
                )
            else:
                report.bad(f"{where} accepts a password that is nobody's!", "Nobody checks log-ins there: look at its SASL settings now.")
    except ssl.SSLCertVerificationError as error:
        report.bad(
            f"{where} has a certificate that clients refuse: {error.verify_message}.", "Renew it, or set SMTP_HOST to a name that is in it."
        )
    except ssl.SSLError as error:
        report.bad(
            f"{where} does not speak TLS as SMTP_TLS says ({error.reason}).", "Correct SMTP_TLS or SMTP_PORT: 587 starttls, 465 tls."
        )
    except smtplib.SMTPNotSupportedError:
        report.bad(f"{where} offers no STARTTLS.", "Give it a certificate, or correct SMTP_TLS.")
    except (OSError, UnicodeError, smtplib.SMTPException) as error:
        report.bad(f"No mail server answers at {where} ({type(error).__name__}).", "Correct SMTP_HOST and SMTP_PORT, or start it.")
    return report.findings


@contextlib.contextmanager
def _ended_after(seconds: float, connection: socket.socket) -> Iterator[None]:
    """Hangs up then: a server that says a letter now and then never lets a read time out."""
    same = connection.dup()

    def hang_up() -> None:
        with contextlib.suppress(OSError):
            same.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, hang_up)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        same.close()


class _Client(smtplib.SMTP):
    """Speaks on a connection that is there."""

    def __init__(self, connection: socket.socket, host: str, port: int, patience: float) -> None:
        self._connection = connection
        super().__init__(host, port, timeout=patience)

    def _get_socket(self, _host: str, _port: int, _timeout: float) -> socket.socket:
        return self._connection


def _greeted(connection: socket.socket, host: str, port: int, tls: str, context: ssl.SSLContext, patience: float) -> smtplib.SMTP:
    if tls == "tls":
        return _Client(context.wrap_socket(connection, server_hostname=host), host, port, patience)
    server = _Client(connection, host, port, patience)
    try:
        if tls == "starttls":
            server.starttls(context=context)
    except BaseException:
        server.close()
        raise
    return server


def _certificate(connection: ssl.SSLSocket, where: str, report: Report) -> None:
    certificate = connection.getpeercert() or {}
    ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate["notAfter"])), UTC)
    if (ends - datetime.now(UTC)).days < CERTIFICATE_DAYS:
        report.bad(f"The certificate of {where} ends on {ends:%Y-%m-%d}.", "Renew it.")
    else:
        report.good(f"the certificate of {where} is good until {ends:%Y-%m-%d}")

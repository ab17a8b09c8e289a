"""`smtp-bot doctor`: looks at everything the bot stands on, and says for each fault what to do."""

from collections.abc import Callable

from bot.settings import Settings, SettingsError, load
from bot.slack import Away, Ok, Refused, Slack
from storage import audit, mail_servers, policy, workspaces
from storage.database import Database, Schema, StaleWal
from storage.journal import Journal, State
from storage.past import Past
from storage.policy import Policy

SCOPES = ("commands", "chat:write", "users:read", "channels:read", "groups:read", "usergroups:read")
LEAK_WATCH_SCOPES = ("channels:history", "groups:history")
VERIFIED = 10_000  # audit rows, the last ones
RULES_SHOWN = 300  # characters
REINSTALL = "Paste manifest.yml again under App Manifest, then reinstall the app."


class Report:
    def __init__(self, echo: Callable[[str], None]) -> None:
        self._echo = echo
        self.healthy = True

    def good(self, what: str) -> None:
        self._echo(f"ok     {what}")

    def note(self, what: str) -> None:
        self._echo(f"note   {what}")

    def bad(self, what: str) -> None:
        self.healthy = False
        self._echo(f"WRONG  {what}")


async def examine(echo: Callable[[str], None]) -> bool:
    """Whether all is well; every finding goes to `echo`, a line each. No secret is repeated."""
    report = Report(echo)
    try:
        settings = load()
    except SettingsError as error:
        for problem in str(error).splitlines():
            report.bad(problem)
        return False
    report.good(f"settings read, mode {settings.mode}, command {settings.bot_command}")
    for note in settings.notes:
        report.note(note)
    for file in settings.exposed_files():
        report.bad(f"Every account of this machine may read {file}. Run: chmod o= {file}")
    try:
        settings.check_slack()
    except SettingsError as error:
        for problem in str(error).splitlines():
            report.bad(problem)
    if not settings.bot_owners:
        report.note("BOT_OWNERS is empty: nobody can make workspaces from Slack. Set it to your own member id.")
    if settings.smtp_host == "localhost":
        report.note("SMTP_HOST is localhost: people read it in the message with their password. Set your mail server's name.")
    await _slack(settings, report)
    await _database(settings, report)
    return report.healthy


async def _slack(settings: Settings, report: Report) -> None:
    slack = Slack(settings.slack_bot_token.get_secret_value(), settings.slack_api_url)
    try:
        if settings.slack_bot_token.get_secret_value():
            await _bot_token(settings, slack, report)
        app_token = settings.slack_app_token.get_secret_value()
        if settings.mode == "socket" and app_token:
            match await slack.open_socket(app_token):
                case Ok():
                    report.good("SLACK_APP_TOKEN opens a Socket Mode connection")
                case Refused(word):
                    report.bad(f"SLACK_APP_TOKEN: Slack answered {word}. Make one with connections:write under Basic Information.")
                case Away(why, _):
                    report.bad(f"SLACK_API_URL: Slack does not answer ({why}).")
    finally:
        await slack.close()


async def _bot_token(settings: Settings, slack: Slack, report: Report) -> None:
    match await slack.auth_test():
        case Ok(me):
            report.good(f"SLACK_BOT_TOKEN belongs to the Slack team {me.team} ({me.team_id})")
            wanted = SCOPES + (LEAK_WATCH_SCOPES if settings.bot_leak_watch else ())
            missing = [scope for scope in wanted if scope not in me.scopes]
            if missing:
                report.bad(f"The app lacks the scopes {', '.join(missing)}. {REINSTALL}")
            else:
                report.good("the app has every scope it needs")
        case Refused(word):
            report.bad(f"SLACK_BOT_TOKEN: Slack answered {word}. Copy it again from OAuth & Permissions.")
        case Away(why, _):
            report.bad(f"SLACK_API_URL: Slack does not answer ({why}). Check the network and the proxy.")


async def _database(settings: Settings, report: Report) -> None:
    db = Database(settings.database_url.get_secret_value())
    kind = "SQLite" if db.sqlite else "PostgreSQL"
    try:
        schema = await db.schema()
        match schema:
            case Schema.CURRENT:
                report.good(f"DATABASE_URL: {kind}, schema up to date")
            case Schema.UNKNOWN:
                report.bad("DATABASE_URL: the database was made by a newer release. Install that release.")
            case Schema.EMPTY | Schema.OLD if db.sqlite:
                report.good(f"DATABASE_URL: {kind}, will be brought up to date by the next start")
            case _:
                report.bad("DATABASE_URL: the schema is out of date. Run: smtp-bot db upgrade")
        if schema is Schema.CURRENT:
            await _store(db, report)
            await _past(db, settings, report)
    except StaleWal as error:
        report.bad(str(error))
    except Exception as error:
        report.bad(f"DATABASE_URL: {kind} does not answer ({type(error).__name__}). Check that it runs and that you may log in.")
    finally:
        await db.close()


async def _store(db: Database, report: Report) -> None:
    verdict = await db.read(audit.verify, None, VERIFIED)
    if verdict.broken is None:
        report.good(f"the audit log's last {verdict.rows} rows are unbroken")
    else:
        report.bad(
            f"row {verdict.broken} of the audit log is not what was written. Keep a copy of the database and find out who changed it."
        )
    made = await db.read(workspaces.all_of_them)
    for workspace in made:
        rules = policy.words(Policy.of(workspace)) + (["a webhook"] if workspace.webhook_url else [])
        if rules:
            report.good(f"workspace {workspace.slug} has rules: {'; '.join(rules)[:RULES_SHOWN]}")
    if not made:
        report.note("There is no mail workspace yet. In Slack: /smtp setup. Here: smtp-bot workspace add SLUG NAME")


async def _past(db: Database, settings: Settings, report: Report) -> None:
    """The journal, and whether the database went back in time."""
    past = Past(db, Journal(settings.journal, create=False), "doctor")
    try:
        await past.follow()
        journal = past.journal
        match journal.state:
            case State.KEPT:
                report.good(f"REVOKED_JOURNAL: {journal.path} is kept, and names {len(journal.memory)} that must never work again")
                if journal.began:
                    report.note(f"The journal began at audit row {journal.began}: whether the database was restored before, it can't know.")
                if journal.skipped:
                    report.note(f"{journal.skipped} lines of the journal can't be read, and were left out.")
            case State.NONE:
                report.note(f"REVOKED_JOURNAL: {journal.path} isn't there, so a restore can't be noticed. A start makes it.")
            case _:
                report.bad(f"REVOKED_JOURNAL: {journal.path} is not kept: {past.words}. Move it away or name another place.")
        for server in await db.read(mail_servers.living):
            if server.journal and server.journal != State.KEPT.value:
                report.bad(f"authd {server.name}: its journal: {server.journal}")
        if said := past.standing.sentence:
            report.bad(f"{said}. Press Revoke them again in the app's direct message, or run: smtp-bot db replay")
    finally:
        past.close()

"""The settings, from the environment or `.env`, checked in one place.

`python -m bot.settings` prints the table of them that stands in the README.
"""

import os
import re
import types
from collections.abc import Callable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic.fields import FieldInfo

from bot.environment import ENV_FILE, Given, read
from storage.database import parse_url

USER_ID = re.compile(r"[UW][A-Z0-9]{2,30}")
GITHUB_KEYS = "https://api.github.com/meta/public_keys/secret_scanning"
SLACK_API_URL = "https://slack.com/api/"
DATABASE_URL = "sqlite:///smtp-bot.db"
JOURNAL = "smtp-bot.journal"
PREFIXES = ("SLACK_", "BOT_", "SMTP_", "DATABASE_", "ARGON2_", "AUTHD_", "POLICY_", "METRICS_", "REVOKED_", "LEAKS_")
EVERYBODYS = ("SLACK_", "SMTP_", "DATABASE_")
"""Those of them that other programs' variables begin with too."""
SHARED_SECRET_MIN = 16  # characters
NOT_TYPED = "it holds a character that none of these has (an example, or cut off?); copy it again"

_SLACK_TOKEN = re.compile(r"(?:xox[a-z]|xapp|xwfp)-", re.IGNORECASE)
_HOST = re.compile(r"[\w-]{1,63}(?:\.[\w-]{1,63})*\.?")
_TYPED_TOKEN = re.compile(r"[!-~]*")


class SettingsError(Exception):
    """Says, a line for each, which variables are wrong and what they should be. No value is repeated: it may be a secret."""


def _host(value: str) -> str:
    try:
        ip_address(value)
    except ValueError:
        if len(value) > 253 or not _HOST.fullmatch(value):
            raise ValueError("it is a host's name or address and nothing else, such as mail.example.com") from None
    return value


def _command(value: str) -> str:
    if not re.fullmatch(r"/[a-z0-9_-]{1,31}", value):
        raise ValueError("it is a slash and up to 31 small letters, digits, - or _, such as /smtp")
    return value


def _team(value: str) -> str:
    if not re.fullmatch(r"[TE][A-Z0-9]{2,30}", value):
        raise ValueError("it is a Slack team's id, such as T0123ABCDEF (in the address of Slack in a browser, after /client/)")
    return value


def _api_url(value: str) -> str:
    if not re.fullmatch(r"https?://[\w.:\[\]-]+(?:/[\w./-]*)?", value):
        raise ValueError(f"it is an address of a Slack API, such as {SLACK_API_URL}")
    return value if value.endswith("/") else value + "/"


def _is_tcp(value: str) -> bool:
    found = re.fullmatch(r"tcp:(?:[\w.:\[\]-]+:)?([0-9]{1,5})", value)
    return found is not None and int(found[1]) <= 65535


def _listen(value: str) -> str:
    if not re.fullmatch(r"unix:.+", value) and not _is_tcp(value):
        raise ValueError("use unix:PATH, tcp:HOST:PORT or tcp:PORT, such as tcp:127.0.0.1:12345")
    return value


def _listen_tcp(value: str) -> str:
    if not _is_tcp(value):
        raise ValueError("use tcp:HOST:PORT or tcp:PORT, such as tcp:127.0.0.1:12346")
    return value


def _address_and_port(value: str) -> str:
    host, _, port = value.rpartition(":")
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        port = ""
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) <= 65535:
        raise ValueError("it is an address and a port, such as 192.0.2.1:25")
    return value


def _metrics(value: str) -> str:
    host, _, port = value.removeprefix("tcp:").rpartition(":")
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535 or not re.fullmatch(r"[\w.:\[\]-]*", host):
        raise ValueError("it is a port of this machine, such as 9464, or an address and a port, such as 0.0.0.0:9464")
    return f"{host or '127.0.0.1'}:{port}"


def _group(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}", value):
        raise ValueError("it is a group of this machine, such as smtp-bot-auth")
    return value


def _split(value: object) -> object:
    return [part for part in re.split(r"[\s,;]+", value) if part] if isinstance(value, str) else value


def _owners(value: list[str] | frozenset[str]) -> frozenset[str]:
    for number, owner in enumerate(value, 1):
        if not USER_ID.fullmatch(owner):
            which = "it is" if len(value) == 1 else f"number {number} is"
            raise ValueError(f"{which} not a Slack user id, which looks like U0123ABCDEF (Slack profile, ⋮, Copy member ID)")
    return frozenset(value)


def _networks(value: object) -> object:
    if not isinstance(value, list):
        return value
    networks = []
    for number, part in enumerate(value, 1):
        try:
            networks.append(ip_network(part, strict=False))
        except ValueError:
            raise ValueError(f"number {number} is no network, which looks like 10.1.0.0/16 or 192.0.2.7") from None
    return tuple(networks)


def _database(value: SecretStr) -> SecretStr:
    parse_url(value.get_secret_value())
    return value


def _token(prefix: str, other: str) -> Callable[[SecretStr], SecretStr]:
    def check(value: SecretStr) -> SecretStr:
        text = value.get_secret_value()
        if text and not text.startswith(prefix):
            raise ValueError(f"it starts with {prefix}; this looks like another token" + (other if _SLACK_TOKEN.match(text) else ""))
        return value

    return check


def _typed(value: SecretStr) -> SecretStr:
    if not _TYPED_TOKEN.fullmatch(value.get_secret_value()):
        raise ValueError(NOT_TYPED)
    return value


def _signing_secrets(value: SecretStr) -> SecretStr:
    if any(_SLACK_TOKEN.match(one) for one in re.split(r"[\s,;]+", value.get_secret_value())):
        raise ValueError("this is a token; the signing secret is under Basic Information, 32 digits and letters a to f")
    if not value.get_secret_value().isascii():
        raise ValueError(NOT_TYPED)
    return value


def _long_enough(value: SecretStr) -> SecretStr:
    if 0 < len(value.get_secret_value()) < SHARED_SECRET_MIN:
        raise ValueError(f"it has at least {SHARED_SECRET_MIN} characters; make one with: openssl rand -hex 24")
    return value


def _lanes(value: int, others: ValidationInfo) -> int:
    needed = 8 * value  # KiB, RFC 9106, section 3.1
    if others.data.get("argon2_memory_kib", needed) < needed:
        raise ValueError(f"with so many ARGON2_MEMORY_KIB must be {needed} or more")
    return value


def _github_keys(text: str) -> str:
    if text and not re.fullmatch(r"https://[^\s@]+|http://127\.0\.0\.1:\d+/\S*", text):
        raise ValueError(f"it is an https address, such as {GITHUB_KEYS}")
    return text


Host = Annotated[str, AfterValidator(_host)]
Listen = Annotated[str, AfterValidator(_listen)]
SharedSecret = Annotated[SecretStr, AfterValidator(_typed), AfterValidator(_long_enough)]
Network = IPv4Network | IPv6Network


class Settings(BaseModel):
    """Every setting; a field's name in capitals is its variable's, its description the README's."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True, frozen=True, validate_default=False)

    slack_bot_token: Annotated[
        SecretStr, AfterValidator(_token("xoxb-", ". The xapp- one belongs in SLACK_APP_TOKEN")), AfterValidator(_typed)
    ] = Field(SecretStr(""), description="the bot's token, `xoxb-…`")
    slack_app_token: Annotated[
        SecretStr, AfterValidator(_token("xapp-", ". The xoxb- one belongs in SLACK_BOT_TOKEN")), AfterValidator(_typed)
    ] = Field(SecretStr(""), description="Socket Mode, `xapp-…`; nothing needs to reach the bot from outside")
    slack_signing_secret: Annotated[SecretStr, AfterValidator(_signing_secrets)] = Field(
        SecretStr(""),
        description="HTTP instead: Slack's request URL is `https://…/slack/events` (interactivity, events and the command). "
        "Several with blanks or commas between them while it is rotated",
    )
    slack_api_url: Annotated[str, AfterValidator(_api_url)] = Field(SLACK_API_URL, description="GovSlack: `https://slack-gov.com/api/`")
    slack_team_id: Annotated[str, AfterValidator(_team)] | None = Field(
        None, description="learned from Slack; only for the command line before the bot has first connected"
    )
    bot_mode: Literal["socket", "http"] | None = Field(None, description="`socket` or `http`; unset, what the tokens allow")
    bot_owners: Annotated[frozenset[str], BeforeValidator(_owners), BeforeValidator(_split)] = Field(
        frozenset(), description="Slack member ids who may do everything; the way in on the first day"
    )
    bot_command: Annotated[str, AfterValidator(_command)] = Field("/smtp", description="as in the manifest")
    bot_allow_guests: bool = Field(False, description="lets in guests who have a role of their own")
    bot_leak_watch: bool = Field(
        False,
        description="watch the channels the bot is in for live passwords; the manifest says which events and scopes to add for it",
    )
    bot_burst_warning: bool = Field(
        True, description="warn when one person deletes or creates many in a short time, or a credential sends ten times the usual"
    )
    bot_webhook_private: bool = Field(
        False, description="lets workspaces' webhooks go to addresses of this machine and of private networks"
    )
    bot_unused_days: int = Field(90, ge=1, le=3650, description="after so many days without a log-in the list says so")
    host: Host = Field(
        "0.0.0.0",  # noqa: S104  # Slack's requests come from outside
        description="where HTTP listens",
    )
    port: int | None = Field(None, ge=0, le=65535, description="its port; `3000` where Slack sends its requests by HTTP")
    metrics_listen: Annotated[str, AfterValidator(_metrics)] = Field(
        "127.0.0.1:9464", description="`PORT` (this machine only) or `HOST:PORT` of `/healthz`, `/readyz` and `/metrics` (Prometheus)"
    )
    database_url: Annotated[SecretStr, AfterValidator(_database)] = Field(
        SecretStr(DATABASE_URL), description="or `postgresql://user@host/name`"
    )
    database_pooler: Literal["none", "transaction"] = Field(
        "none", description="`transaction` behind PgBouncer in transaction mode, RDS Proxy and the like"
    )
    revoked_journal: Path | None = Field(
        None, description=f"what must never work again, kept outside the database; unset, `{JOURNAL}` beside the SQLite file or here"
    )
    smtp_host: Host = Field("localhost", description="the mail server that people are told to enter")
    smtp_port: int = Field(587, ge=1, le=65535, description="its port")
    smtp_tls: Literal["starttls", "tls", "none"] = Field("starttls", description="`starttls`, `tls` (from the start) or `none`")
    argon2_memory_kib: int = Field(19456, ge=8, le=4194304, description="Argon2id's memory in KiB; the three are OWASP's")
    argon2_time_cost: int = Field(2, ge=1, le=100, description="its passes; old hashes are renewed at their next log-in")
    argon2_parallelism: Annotated[int, AfterValidator(_lanes)] = Field(1, ge=1, le=64, description="its lanes")
    authd_listen: Listen | None = Field(
        None,
        description="`unix:PATH`, `tcp:HOST:PORT` or `tcp:PORT` (this machine only) where mail servers ask for log-ins. "
        "Whoever reaches it may try passwords",
    )
    authd_peers: Annotated[tuple[Network, ...], BeforeValidator(_networks), BeforeValidator(_split)] = Field(
        (), description="networks from which mail servers may ask over TCP, such as `10.1.0.0/16`; unset, from this machine only"
    )
    authd_group: Annotated[str, AfterValidator(_group)] | None = Field(
        None, description="the group that may use the Unix sockets, which are 0660; unset, our own"
    )
    authd_require_tls: bool = Field(True, description="refuse a password that came to the mail server in clear text")
    authd_http: Annotated[str, AfterValidator(_listen_tcp)] | None = Field(
        None, description="`tcp:HOST:PORT` or `tcp:PORT` of `authd`'s own `/healthz`, `/readyz`, `/metrics`, and of `POST /verify`"
    )
    authd_http_token: SharedSecret = Field(SecretStr(""), description="who asks `POST /verify` there sends it as a bearer token")
    authd_nginx_server: Annotated[str, AfterValidator(_address_and_port)] | None = Field(
        None, description="`HOST:PORT` of the mail server to which nginx passes a session that may log in"
    )
    policy_listen: Listen | None = Field(None, description="the same as `AUTHD_LISTEN` for Postfix's policy delegation: open sessions")
    policy_when_away: Literal["defer", "dunno"] = Field(
        "defer", description="while the database is away: `defer` (451) or `dunno` (let mail pass)"
    )
    leaks_secret: SharedSecret = Field(SecretStr(""), description="who reports leaked passwords to `POST /leaks` signs with it")
    leaks_github_keys: Annotated[str, AfterValidator(_github_keys)] = Field(
        "",
        description=f"where GitHub lists the keys that its secret scanning signs with; for partners: `{GITHUB_KEYS}`",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="`DEBUG`, `INFO`, `WARNING` or `ERROR`")
    log_format: Literal["console", "json"] = Field("console", description="`json` for a log collector")

    _notes: tuple[str, ...] = PrivateAttr(())

    @model_validator(mode="before")
    @classmethod
    def _any_case(cls, given: dict[str, Any]) -> dict[str, Any]:
        """`info` is as good as `INFO`."""
        for name, info in cls.model_fields.items():
            value = given.get(name)
            same = [word for word in _words(info) if isinstance(value, str) and word.casefold() == value.casefold()]
            if same:
                given = given | {name: same[0]}
        return given

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about what was found beside the settings: misspelt names, values that were ignored."""
        return self._notes

    @property
    def mode(self) -> Literal["socket", "http"]:
        """`BOT_MODE`, or what the tokens allow: Socket Mode when there is an app token."""
        return self.bot_mode or ("socket" if self.slack_app_token.get_secret_value() else "http")

    @property
    def listens(self) -> bool:
        """Whether anything outside reaches it over HTTP: Slack, or who reports leaked passwords."""
        return self.mode == "http" or self.port is not None

    @property
    def signing_secrets(self) -> tuple[str, ...]:
        """What a request may be signed with: one, or the old and the new while it is rotated."""
        return tuple(one for one in re.split(r"[\s,;]+", self.slack_signing_secret.get_secret_value()) if one)

    @property
    def metrics_address(self) -> tuple[str, int]:
        """Host and port of health and metrics; this machine only unless a host was given."""
        host, _, port = self.metrics_listen.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def journal(self) -> Path:
        """Where the journal of what must never work again is kept."""
        if self.revoked_journal:
            return self.revoked_journal
        url = parse_url(self.database_url.get_secret_value())
        return Path(url.database).with_name(JOURNAL) if url.get_backend_name() == "sqlite" and url.database else Path(JOURNAL)

    def check_slack(self) -> None:
        """Raises SettingsError when what `run` needs to talk to Slack is missing."""
        missing = []
        if not self.slack_bot_token.get_secret_value():
            missing.append("SLACK_BOT_TOKEN: missing. Slack app settings, OAuth & Permissions, Bot User OAuth Token (xoxb-…)")
        if self.mode == "socket" and not self.slack_app_token.get_secret_value():
            missing.append("SLACK_APP_TOKEN: missing. Slack app settings, Basic Information, App-Level Tokens, connections:write")
        if self.mode == "http" and not self.signing_secrets:
            missing.append("SLACK_SIGNING_SECRET: missing. Slack app settings, Basic Information, or set SLACK_APP_TOKEN for Socket Mode")
        if missing:
            raise SettingsError("\n".join(missing))

    def exposed_files(self, folder: Path | None = None) -> list[Path]:
        """Files with secrets or hashes in them, `.env` of `folder` among them, that accounts other than their owner and group may read."""
        url = parse_url(self.database_url.get_secret_value())
        files = [(folder or Path()) / ENV_FILE, self.journal]
        if url.get_backend_name() == "sqlite" and url.database:
            files += [Path(url.database + suffix) for suffix in ("", "-wal", "-shm")]
        return [file for file in files if _may_be_read_by_all(file)]


def _may_be_read_by_all(file: Path) -> bool:
    try:
        return file.is_file() and bool(file.stat().st_mode & 0o007)
    except OSError:  # what stands in the way is said where the file is used
        return False


FIELDS = {name.upper(): info for name, info in Settings.model_fields.items()}


def _types(annotation: Any) -> list[Any]:
    """The types that a field may have, without None."""
    if get_origin(annotation) in (Union, types.UnionType):
        return [one for part in get_args(annotation) for one in _types(part)]
    return [] if annotation is type(None) else [annotation]


def _words(info: FieldInfo) -> tuple[str, ...]:
    """The words that the field may have, or none when it is no choice."""
    return tuple(word for kind in _types(info.annotation) if get_origin(kind) is Literal for word in get_args(kind))


SECRETS = frozenset(name for name, info in FIELDS.items() if SecretStr in _types(info.annotation))
"""Variables that `NAME_FILE` can give too, as the path of a file that holds the value."""


def _wanted(info: FieldInfo) -> str:
    words = _words(info)
    if words:
        return f"it is {', '.join(words[:-1])} or {words[-1]}"
    if bool in _types(info.annotation):
        return "it is true or false"
    if int in _types(info.annotation):
        low = next(one.ge for one in info.metadata if hasattr(one, "ge"))
        high = next(one.le for one in info.metadata if hasattr(one, "le"))
        return f"it is a whole number from {low} to {high}" + ("" if info.default is None else f", such as {info.default}")
    return "it cannot be read"


def _misplaced(given: Given) -> None:
    """Refuses what no setting may hold: what cannot be seen, and a token in a place where it would be shown."""
    for name, value in sorted(given.values.items()):
        if any(not char.isprintable() and not (char.isspace() and name == "SLACK_SIGNING_SECRET") for char in value):
            given.problems.append(f"{name}: it holds a line break or another character that cannot be seen. Type it again.")
        elif (name not in SECRETS and _SLACK_TOKEN.search(value)) or (name == "DATABASE_URL" and _SLACK_TOKEN.match(value)):
            given.problems.append(f"{name}: this is a Slack token. It belongs in SLACK_BOT_TOKEN (xoxb-…) or SLACK_APP_TOKEN (xapp-…).")
        else:
            continue
        del given.values[name]


def load(environment: Mapping[str, str] | None = None, folder: Path | None = None) -> Settings:
    """Reads the settings: the environment first, then `.env` in `folder` (the working folder). Raises SettingsError."""
    try:
        here = Path.cwd()
    except OSError:
        raise SettingsError("The folder that you are in is not there any more, or this account may not enter it. Go to another.") from None
    given = Given(frozenset(FIELDS), SECRETS, PREFIXES, EVERYBODYS)
    read(given, os.environ if environment is None else environment, folder or here)
    _misplaced(given)
    try:
        settings = Settings.model_validate({name.lower(): value for name, value in given.values.items()})
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_input=False, include_context=False):
            name = str(problem["loc"][0]).upper()
            ours = problem["type"] == "value_error"
            given.problems.append(f"{name}: {problem['msg'].removeprefix('Value error, ') if ours else _wanted(FIELDS[name])}")
    if given.problems:
        raise SettingsError("\n".join([*given.problems, *given.notes]))
    settings._notes = tuple(given.notes)
    return settings


def table() -> str:
    """The README's table of the settings, in Markdown."""

    def shown(default: Any) -> str:
        value = default.get_secret_value() if isinstance(default, SecretStr) else default
        if isinstance(value, bool):
            return f"`{str(value).lower()}`"
        return "" if value is None or value in ("", (), frozenset()) else f"`{value}`"

    rows = (f"| `{name}` | {shown(info.default)} | {info.description} |" for name, info in FIELDS.items())
    return "\n".join(("| variable | default | |", "| --- | --- | --- |", *rows))


if __name__ == "__main__":
    print(table())

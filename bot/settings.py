"""The settings, from the environment or `.env`, checked in one place."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from storage.database import DEFAULT_URL, parse_url

USER_ID = re.compile(r"[UW][A-Z0-9]{2,30}")
SLACK_API_URL = "https://slack.com/api/"
JOURNAL = "smtp-bot.journal"


class SettingsError(Exception):
    """Says, a line for each, which variables are wrong and what they should be."""


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_file=".env", extra="ignore", hide_input_in_errors=True, env_ignore_empty=True)

    slack_bot_token: SecretStr = SecretStr("")
    slack_app_token: SecretStr = SecretStr("")
    slack_signing_secret: SecretStr = SecretStr("")
    slack_api_url: str = SLACK_API_URL
    slack_team_id: str | None = None
    bot_mode: Literal["socket", "http"] | None = None
    bot_owners: Annotated[frozenset[str], NoDecode] = frozenset()
    bot_command: str = Field(default="/smtp", pattern=r"^/[a-z0-9_-]{1,31}$")
    bot_allow_guests: bool = False
    bot_leak_watch: bool = False
    bot_unused_days: int = Field(default=90, ge=1, le=3650)
    host: str = "0.0.0.0"  # noqa: S104  # inside a container the door must be open; the deploy notes say how to narrow it
    port: int | None = Field(default=None, ge=0, le=65535)
    database_url: SecretStr = SecretStr(DEFAULT_URL)
    revoked_journal: Path | None = None
    smtp_host: str = "localhost"
    smtp_port: int = Field(default=587, ge=1, le=65535)
    smtp_tls: Literal["starttls", "tls", "none"] = "starttls"
    argon2_memory_kib: int = Field(default=19456, ge=8, le=4194304)
    argon2_time_cost: int = Field(default=2, ge=1, le=100)
    argon2_parallelism: int = Field(default=1, ge=1, le=64)
    authd_listen: str | None = None
    authd_http: str | None = None
    authd_require_tls: bool = True
    policy_listen: str | None = None
    policy_when_away: Literal["defer", "dunno"] = "defer"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["console", "json"] = "console"

    @field_validator("bot_owners", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return frozenset(re.split(r"[\s,]+", value.strip())) - {""} if isinstance(value, str) else value

    @field_validator("bot_owners")
    @classmethod
    def _user_ids(cls, value: frozenset[str]) -> frozenset[str]:
        wrong = sorted(owner for owner in value if not USER_ID.fullmatch(owner))
        if wrong:
            raise ValueError(f"{', '.join(wrong)}: not a Slack user id, which looks like U0123ABCDEF (Slack profile, Copy member ID)")
        return value

    @field_validator("slack_api_url")
    @classmethod
    def _ends_with_slash(cls, value: str) -> str:
        return value if value.endswith("/") else value + "/"

    @field_validator("database_url")
    @classmethod
    def _database(cls, value: SecretStr) -> SecretStr:
        parse_url(value.get_secret_value())
        return value

    @model_validator(mode="after")
    def _tokens_fit(self) -> "Settings":
        prefixes = (("SLACK_BOT_TOKEN", self.slack_bot_token, "xoxb-"), ("SLACK_APP_TOKEN", self.slack_app_token, "xapp-"))
        for name, token, prefix in prefixes:
            if token.get_secret_value() and not token.get_secret_value().startswith(prefix):
                raise ValueError(f"{name}: it starts with {prefix}; this looks like another token")
        return self

    @property
    def mode(self) -> Literal["socket", "http"]:
        """`BOT_MODE`, or what the tokens allow: Socket Mode when there is an app token."""
        return self.bot_mode or ("socket" if self.slack_app_token.get_secret_value() else "http")

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
        if self.mode == "http" and not self.slack_signing_secret.get_secret_value():
            missing.append("SLACK_SIGNING_SECRET: missing. Slack app settings, Basic Information, or set SLACK_APP_TOKEN for Socket Mode")
        if missing:
            raise SettingsError("\n".join(missing))


def load() -> Settings:
    """Reads the settings. Raises SettingsError."""
    try:
        return Settings()
    except ValidationError as error:
        lines = []
        for problem in error.errors(include_url=False, include_input=False, include_context=False):
            name = "_".join(str(part) for part in problem["loc"]).upper()
            message = problem["msg"].removeprefix("Value error, ")
            lines.append(f"{name}: {message}" if name else message)
        raise SettingsError("\n".join(lines)) from None

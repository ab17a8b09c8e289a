"""The tables, and their rows as frozen values. Migrations make the tables; a test keeps tables, rows and migrations in step."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Row,
    String,
    Table,
    Text,
    text,
)
from sqlalchemy.types import TypeDecorator

LIVE = "state IN ('active', 'suspended')"
NOT_DELETED = "state <> 'deleted'"
DELETED = "state = 'deleted'"
SUSPENDED = "state = 'suspended'"
EXPIRING = f"expires_at IS NOT NULL AND {LIVE}"
NEVER_USED = f"last_used_at IS NULL AND {LIVE}"
SPARSE = {
    f"credentials_{column}": column
    for column in ("password_tag", "previous_tag", "previous_until", "rotation_begun_at", "delete_at", "remind_at")
}
"""Indexes of the rows in which a column that is mostly empty is not."""


class UtcTime(TypeDecorator[datetime]):
    """A point in time, kept as whole milliseconds since the epoch: the same on both databases, and hashable in the audit chain."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        return None if value is None else milliseconds(value)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        return None if value is None else datetime.fromtimestamp(value / 1000, UTC)


class Words(TypeDecorator[tuple[str, ...]]):
    """Several words without blanks in them, such as domains, kept with a blank between."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: tuple[str, ...] | None, dialect: Dialect) -> str:
        return " ".join(value or ())

    def process_result_value(self, value: str | None, dialect: Dialect) -> tuple[str, ...]:
        return tuple((value or "").split())


def milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


class State(StrEnum):
    PENDING = "pending"
    """Made, its password not yet handed over; has no hash, cannot log in."""
    ACTIVE = "active"
    SUSPENDED = "suspended"
    DELETED = "deleted"
    """A tombstone: hash wiped, username never used again."""


METADATA = MetaData()
RowType = TypeVar("RowType")


def as_row(kind: Callable[..., RowType], row: Row[Any]) -> RowType:
    """The frozen value of a row that was selected with all columns of its table."""
    return kind(*row)


def _partial(condition: str) -> dict[str, Any]:
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


def _number(name: str, **options: Any) -> Column[int]:
    """A key that the database counts up."""
    return Column(name, BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True, **options)


@dataclass(frozen=True, slots=True)
class Installation:
    """The Slack team that the bot is installed in, as `auth.test` told it."""

    team_id: str
    team_name: str
    bot_user_id: str
    connected_at: datetime


INSTALLATIONS = Table(
    "installations",
    METADATA,
    Column("team_id", String(32), primary_key=True),
    Column("team_name", Text, nullable=False),
    Column("bot_user_id", String(32), nullable=False),
    Column("connected_at", UtcTime, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Workspace:
    """A mail tenant."""

    id: int
    slug: str
    name: str
    credential_count: int
    """Live credentials, kept by the functions that make and delete them: counting a million rows is too slow for a list."""
    notify_created: bool
    notify_deleted: bool
    created_at: datetime
    created_by: str
    suspended_at: datetime | None
    """While every log-in of the workspace is refused."""
    suspended_by: str | None
    domains: tuple[str, ...]
    """The sender domains; none: any sender."""
    longest_days: int | None
    """The longest life that a credential may be given; None: no limit, also for ever."""
    reason_required: bool
    devices_allowed: bool
    """Whether short passwords may be made."""
    most_live: int | None
    webhook_url: str | None
    webhook_secret: str | None


WORKSPACES = Table(
    "workspaces",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("slug", String(32), nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("credential_count", Integer, nullable=False),
    Column("notify_created", Boolean, nullable=False),
    Column("notify_deleted", Boolean, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("suspended_at", UtcTime),
    Column("suspended_by", Text),
    Column("domains", Words, nullable=False, server_default=""),
    Column("longest_days", Integer),
    Column("reason_required", Boolean, nullable=False, server_default=text("false")),
    Column("devices_allowed", Boolean, nullable=False, server_default=text("true")),
    Column("most_live", Integer),
    Column("webhook_url", Text),
    Column("webhook_secret", Text),
    Index("workspaces_name", "name", "id", "slug"),
)


@dataclass(frozen=True, slots=True)
class ChannelMapping:
    """Slack team + channel -> the one workspace it manages."""

    team_id: str
    channel_id: str
    workspace_id: int
    paused: bool
    """The channel is shared with another organization: no list and no create there."""
    mapped_at: datetime
    mapped_by: str


CHANNEL_MAPPINGS = Table(
    "channel_mappings",
    METADATA,
    Column("team_id", String(32), primary_key=True),
    Column("channel_id", String(32), primary_key=True),
    Column("workspace_id", ForeignKey("workspaces.id"), nullable=False, index=True),
    Column("paused", Boolean, nullable=False),
    Column("mapped_at", UtcTime, nullable=False),
    Column("mapped_by", Text, nullable=False),
)


@dataclass(frozen=True, slots=True)
class RoleGrant:
    """(principal, role, workspace)."""

    id: int
    team_id: str
    principal: str
    """A Slack user id (U…, W…) or user group id (S…)."""
    role: str
    workspace_id: int | None
    """None: all workspaces."""
    granted_at: datetime
    granted_by: str


ROLE_GRANTS = Table(
    "role_grants",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("team_id", String(32), nullable=False),
    Column("principal", String(32), nullable=False),
    Column("role", String(16), nullable=False),
    Column("workspace_id", ForeignKey("workspaces.id")),
    Column("granted_at", UtcTime, nullable=False),
    Column("granted_by", Text, nullable=False),
    Index("role_grants_one", "team_id", "principal", "workspace_id", unique=True),
    Index("role_grants_everywhere", "team_id", "principal", unique=True, **_partial("workspace_id IS NULL")),
    Index("role_grants_workspace", "workspace_id", "team_id", "role", "principal"),
)


@dataclass(frozen=True, slots=True)
class Credential:
    id: str
    workspace_id: int
    name: str
    name_key: str
    """NFKC + casefold of the name: what makes two names the same."""
    username: str
    state: str
    password_hash: str | None
    """Argon2id as a PHC string, only while the credential is active or suspended."""
    password_tag: int | None
    """`passwords.tag` of the password: refuses a wrong one without Argon2, and narrows a leaked device password down to a few."""
    rotated_at: datetime | None
    current_used_at: datetime | None
    """The last log-in with the present password since the rotation."""
    previous_hash: str | None
    """The password before the rotation, which works until `previous_until`."""
    previous_tag: int | None
    previous_until: datetime | None
    previous_used_at: datetime | None
    rotation_key: str | None
    """Slack team and view id of a rotation whose password is not yet handed over; kept after it for repeated submissions."""
    rotation_begun_at: datetime | None
    """While a rotation's password is on its way."""
    rotation_by: str | None
    rotation_in: str | None
    suspended_at: datetime | None
    suspended_by: str | None
    delete_at: datetime | None
    """When a suspended credential is deleted by itself."""
    remind_at: datetime | None
    """When the next reminder of its expiry is due."""
    version: int
    """Goes up with every change that matters for a log-in."""
    created_at: datetime
    created_by: str
    created_in: str | None
    """The channel where the password was shown."""
    request_key: str | None
    """Slack team and view id of the submission: a repeated one finds the first."""
    expires_at: datetime | None
    deleted_at: datetime | None
    deleted_by: str | None
    last_used_at: datetime | None
    last_used_from: str | None
    last_used_service: str | None
    device: bool
    """Its password is a short one."""
    name_skeleton: str | None
    """`names.skeleton` of the name: what makes two names look the same."""
    owner: str | None
    """The Slack user or user group that answers for it; at first its creator."""
    allowed_from: tuple[str, ...]
    """The networks (CIDR) that it may log in from; none: any."""
    messages_hour: int | None
    messages_day: int | None
    recipients_hour: int | None
    recipients_day: int | None
    first_used_at: datetime | None
    kept_at: datetime | None
    """When its owner last said that it is needed although nothing uses it."""
    warned_at: datetime | None
    """When it last sent more than it may or than usual; its channels were told when that began."""
    number: int
    """Counts up in the order of creation; lists are sorted by it, and the index of words knows the row by it."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A credential as far as a list shows it: never its hash. Its fields are columns of the same name."""

    id: str
    name: str
    username: str
    state: str
    suspended_at: datetime | None
    suspended_by: str | None
    delete_at: datetime | None
    previous_until: datetime | None
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    last_used_at: datetime | None
    last_used_from: str | None
    last_used_service: str | None
    owner: str | None
    allowed_from: tuple[str, ...]
    messages_hour: int | None
    messages_day: int | None
    recipients_hour: int | None
    recipients_day: int | None


NEXT_NUMBER = text("(SELECT coalesce(max(number), 0) + 1 FROM credentials WHERE number > 0)")
"""The `number` of a row that is being added; nothing else is added at the same time."""

CREDENTIALS = Table(
    "credentials",
    METADATA,
    Column("id", String(8), primary_key=True),
    Column("workspace_id", ForeignKey("workspaces.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("name_key", Text, nullable=False),
    Column("username", String(32), nullable=False, unique=True),
    Column("state", String(16), nullable=False),
    Column("password_hash", Text),
    Column("password_tag", Integer),
    Column("rotated_at", UtcTime),
    Column("current_used_at", UtcTime),
    Column("previous_hash", Text),
    Column("previous_tag", Integer),
    Column("previous_until", UtcTime),
    Column("previous_used_at", UtcTime),
    Column("rotation_key", Text, unique=True),
    Column("rotation_begun_at", UtcTime),
    Column("rotation_by", Text),
    Column("rotation_in", String(32)),
    Column("suspended_at", UtcTime),
    Column("suspended_by", Text),
    Column("delete_at", UtcTime),
    Column("remind_at", UtcTime),
    Column("version", Integer, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("created_in", String(32)),
    Column("request_key", Text, unique=True),
    Column("expires_at", UtcTime),
    Column("deleted_at", UtcTime),
    Column("deleted_by", Text),
    Column("last_used_at", UtcTime),
    Column("last_used_from", Text),
    Column("last_used_service", Text),
    Column("device", Boolean, nullable=False, server_default=text("false")),
    Column("name_skeleton", Text),
    Column("owner", Text),
    Column("allowed_from", Words, nullable=False, server_default=""),
    Column("messages_hour", Integer),
    Column("messages_day", Integer),
    Column("recipients_hour", Integer),
    Column("recipients_day", Integer),
    Column("first_used_at", UtcTime),
    Column("kept_at", UtcTime),
    Column("warned_at", UtcTime),
    Column("number", BigInteger, nullable=False, server_default=text("0")),
    # Partial, so that PostgreSQL never reads a list along it, which would lead through the rows of all other workspaces.
    Index("credentials_number", "number", unique=True, **_partial("number > 0")),
    Index("credentials_live_name", "workspace_id", "name_key", unique=True, **_partial(NOT_DELETED)),
    # Lists page along it; it holds all that a search by words reads, so that a search touches no table row.
    Index("credentials_list", "workspace_id", "number", "name_key", "id", **_partial(LIVE)),
    Index("credentials_deleted_name", "workspace_id", "name_key", **_partial(DELETED)),
    Index("credentials_pending", "created_at", **_partial("state = 'pending'")),
    Index("credentials_skeleton", "workspace_id", "name_skeleton", **_partial(NOT_DELETED)),
    Index("credentials_owner", "owner", **_partial(LIVE)),
    Index("credentials_suspended", "suspended_at", **_partial(SUSPENDED)),
    Index("credentials_expires_at", "expires_at", **_partial(EXPIRING)),
    Index("credentials_unused", "created_at", **_partial(NEVER_USED)),
    *(Index(name, column, **_partial(f"{column} IS NOT NULL")) for name, column in SPARSE.items()),
)

USAGE = Table(
    "login_counts",
    METADATA,
    Column("credential_id", String(8), primary_key=True),
    Column("slot", Integer, primary_key=True, index=True),
    Column("count", Integer, nullable=False),
    Column("messages", Integer, nullable=False, server_default=text("0")),
    Column("recipients", Integer, nullable=False, server_default=text("0")),
    Column("bytes", BigInteger, nullable=False, server_default=text("0")),
    Column("refused", Integer, nullable=False, server_default=text("0")),
)
"""What a credential did in one slot of five minutes (seconds since the epoch, divided by 300); kept for a day."""


@dataclass(frozen=True, slots=True)
class MailServer:
    """The heartbeat of one `authd` process: that it lives, and up to which audit row it has seen the store."""

    id: str
    name: str
    """Host and process id, for people."""
    started_at: datetime
    seen_at: datetime
    seen_event: int
    stopped: bool
    known_at: datetime | None
    """When it first saw the row `seen_event`."""
    clock_skew: int | None
    """Milliseconds that its clock is ahead of the database's."""
    release: str | None
    journal: str | None
    """How it keeps its journal, in words."""
    ends_sessions: bool
    """Mail servers can ask it whether an open session may go on."""


MAIL_SERVERS = Table(
    "mail_servers",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("name", Text, nullable=False),
    Column("started_at", UtcTime, nullable=False),
    Column("seen_at", UtcTime, nullable=False),
    Column("seen_event", BigInteger, nullable=False),
    Column("stopped", Boolean, nullable=False),
    Column("known_at", UtcTime),
    Column("clock_skew", Integer),
    Column("release", Text),
    Column("journal", Text),
    Column("ends_sessions", Boolean, nullable=False, server_default=text("false")),
)


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One attempt that changed something or was denied. Rows are only ever added; triggers refuse anything else."""

    id: int
    at: datetime
    action: str
    outcome: str
    cause: str | None
    team_id: str | None
    user_id: str
    role: str | None
    role_via: str | None
    role_age: int | None
    """Seconds since Slack said that the person is in the group `role_via`."""
    workspace_id: int | None
    credential_id: str | None
    username: str | None
    subject: str | None
    """What else it was about: the principal of a grant, the channel that was mapped, a slug."""
    channel_id: str | None
    surface: str
    source_id: str | None
    """View id or message ts that the attempt came from."""
    reason: str | None
    reference: str
    previous_hash: str
    hash: str


AUDIT_EVENTS = Table(
    "audit_events",
    METADATA,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("at", UtcTime, nullable=False),
    Column("action", String(32), nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("cause", String(64)),
    Column("team_id", String(32)),
    Column("user_id", Text, nullable=False),
    Column("role", String(16)),
    Column("role_via", String(32)),
    Column("role_age", Integer),
    Column("workspace_id", Integer),
    Column("credential_id", String(8)),
    Column("username", String(32)),
    Column("subject", Text),
    Column("channel_id", String(32)),
    Column("surface", String(16), nullable=False),
    Column("source_id", String(64)),
    Column("reason", Text),
    Column("reference", String(32), nullable=False),
    Column("previous_hash", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Index("audit_events_workspace", "workspace_id", "id"),
    Index("audit_events_username", "username", "id"),
    Index("audit_events_user", "user_id", "id"),
    Index("audit_events_credential", "credential_id", "id"),
    Index("audit_events_workspace_user", "workspace_id", "user_id", "id"),
    Index("audit_events_subject", "subject", "id", **_partial("subject IS NOT NULL")),
)

AUDIT_HEAD = Table(
    "audit_head",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("last_event", BigInteger, nullable=False),
    Column("last_hash", String(64), nullable=False),
)
"""The end of the chain, in one row: a chain cut off at its end does not reach it."""

SEEN = Table(
    "seen",
    METADATA,
    Column("key", String(80), primary_key=True),
    Column("at", UtcTime, nullable=False, index=True),
)
"""Request signatures and event ids of the last minutes, shared by all replicas."""

MOMENTS = Table(
    "moments",
    METADATA,
    Column("key", String(80), primary_key=True),
    Column("at", UtcTime, nullable=False),
)
"""When Slack last said that a user or a user group changed: answers asked for before count no more, on any replica."""


@dataclass(frozen=True, slots=True)
class Errand:
    """Something owed after a change: a message to somebody, an order that is not finished. Ids only; text is drawn when it is sent."""

    id: int
    kind: str
    event_id: int | None
    """The audit row of the change, or the first of several."""
    last_event_id: int | None
    credential_id: str | None
    workspace_id: int | None
    person: str | None
    channel_id: str | None
    message_ts: str | None
    ids: tuple[str, ...]
    created_at: datetime
    due: datetime
    tries: int
    lease: datetime | None
    """Until when whoever took it may work on it."""
    done_at: datetime | None
    outcome: str | None


ERRANDS = Table(
    "errands",
    METADATA,
    _number("id"),
    Column("kind", String(32), nullable=False),
    Column("event_id", BigInteger),
    Column("last_event_id", BigInteger),
    Column("credential_id", String(8)),
    Column("workspace_id", Integer),
    Column("person", Text),
    Column("channel_id", String(32)),
    Column("message_ts", String(32)),
    Column("ids", Words, nullable=False, server_default=""),
    Column("created_at", UtcTime, nullable=False),
    Column("due", UtcTime, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("lease", UtcTime),
    Column("done_at", UtcTime),
    Column("outcome", String(64)),
    Index("errands_open", "due", **_partial("done_at IS NULL")),
    Index("errands_credential", "credential_id"),
    Index("errands_done", "done_at", **_partial("done_at IS NOT NULL")),
)


@dataclass(frozen=True, slots=True)
class PostedMessage:
    """A message of ours that offers an act: what it is about, so that it can be drawn anew when that changes."""

    id: int
    kind: str
    channel_id: str
    ts: str
    credential_id: str | None
    workspace_id: int | None
    person: str | None
    """Who it is about or who asked: the author of a leak, the asker for a role."""
    source_channel: str | None
    source_ts: str | None
    """The message of somebody else that it speaks of, such as the one that holds a password."""
    ids: tuple[str, ...]
    created_at: datetime


POSTED_MESSAGES = Table(
    "posted_messages",
    METADATA,
    _number("id"),
    Column("kind", String(32), nullable=False),
    Column("channel_id", String(32), nullable=False),
    Column("ts", String(32), nullable=False),
    Column("credential_id", String(8), index=True),
    Column("workspace_id", Integer),
    Column("person", Text),
    Column("source_channel", String(32)),
    Column("source_ts", String(64)),
    Column("ids", Words, nullable=False, server_default=""),
    Column("created_at", UtcTime, nullable=False),
    Index("posted_messages_workspace", "workspace_id", "id"),
    Index("posted_messages_source", "source_channel", "source_ts"),
    Index("posted_messages_place", "channel_id", "ts"),
)


@dataclass(frozen=True, slots=True)
class QueueOrder:
    """What is to become of the mail that a credential has queued on the mail servers."""

    id: int
    username: str
    action: str
    """`hold`, `release`, `delete` or `count`."""
    ordered_at: datetime
    ordered_by: str
    workspace_id: int | None


QUEUE_ORDERS = Table(
    "queue_orders",
    METADATA,
    _number("id"),
    Column("username", String(32), nullable=False, index=True),
    Column("action", String(16), nullable=False),
    Column("ordered_at", UtcTime, nullable=False),
    Column("ordered_by", Text, nullable=False),
    Column("workspace_id", Integer),
)

QUEUE_ANSWERS = Table(
    "queue_answers",
    METADATA,
    Column("order_id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("host", String(255), primary_key=True),
    Column("count", Integer),
    Column("problem", Text),
    Column("at", UtcTime, nullable=False),
)
"""What each mail server's host did about an order."""

QUEUE_HOSTS = Table(
    "queue_hosts",
    METADATA,
    Column("host", String(255), primary_key=True),
    Column("seen_at", UtcTime, nullable=False),
)
"""The hosts whose queue service takes orders."""

FACTS = Table(
    "facts",
    METADATA,
    Column("key", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)
"""What is true of the store as a whole, such as its id, which tells the journals of two stores apart."""

DEPARTED = Table(
    "departed",
    METADATA,
    Column("person", String(32), primary_key=True),
    Column("team_id", String(32), nullable=False),
    Column("at", UtcTime, nullable=False),
)
"""Who has left the Slack team, of those who owned a credential or had a role."""
OLD_HASHES = Table(
    "old_hashes",
    METADATA,
    _number("id"),
    Column("credential_id", String(8), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("successor", String(64), index=True),
    Column("event_id", BigInteger, index=True),
)
"""Hashes that the store no longer holds, by their `journal.digest`: since which audit row their password no longer works (`event_id`), or
which hash of the same password took their place (`successor`)."""


@dataclass(frozen=True, slots=True)
class Restore:
    """The store was found to have gone back in time, as a restore of a backup makes it."""

    id: int
    lost_event: int
    """The last audit row that a journal had seen, with its hash."""
    lost_hash: str
    kept_event: int
    """The last audit row of the store when that was noticed."""
    noticed_at: datetime
    noticed_by: str
    told_at: datetime | None
    settled_at: datetime | None
    """When somebody had what was revoked revoked again."""


RESTORES = Table(
    "restores",
    METADATA,
    _number("id"),
    Column("lost_event", BigInteger, nullable=False),
    Column("lost_hash", String(64), nullable=False),
    Column("kept_event", BigInteger, nullable=False),
    Column("noticed_at", UtcTime, nullable=False),
    Column("noticed_by", Text, nullable=False),
    Column("told_at", UtcTime),
    Column("settled_at", UtcTime),
)


@dataclass(frozen=True, slots=True)
class Revived:
    """Something that a journal names and that works again in the store."""

    kind: str
    key: str
    """A credential's id, a workspace's slug, or the `journal.digest` of a hash."""
    credential_id: str | None


REVIVED = Table(
    "revived",
    METADATA,
    Column("kind", String(16), primary_key=True),
    Column("key", String(64), primary_key=True),
    Column("credential_id", String(8)),
)
LISTED = [CREDENTIALS.c[field.name] for field in dataclasses.fields(Listed)]

ROWS: dict[type, Table] = {
    Installation: INSTALLATIONS,
    Workspace: WORKSPACES,
    ChannelMapping: CHANNEL_MAPPINGS,
    RoleGrant: ROLE_GRANTS,
    Credential: CREDENTIALS,
    MailServer: MAIL_SERVERS,
    AuditEvent: AUDIT_EVENTS,
    Errand: ERRANDS,
    PostedMessage: POSTED_MESSAGES,
    QueueOrder: QUEUE_ORDERS,
    Restore: RESTORES,
    Revived: REVIVED,
}
for _kind, _table in ROWS.items():
    if [field.name for field in dataclasses.fields(_kind)] != [column.key for column in _table.columns]:
        raise TypeError(f"{_kind.__name__} is not a row of {_table.name}")

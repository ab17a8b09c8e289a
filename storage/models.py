"""The tables. Migrations make them; a test keeps both in step."""

from datetime import UTC, datetime
from enum import StrEnum

from sqlalchemy import BigInteger, Boolean, Dialect, ForeignKey, Index, Integer, String, Text, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

LIVE = "state IN ('active', 'suspended')"
NOT_DELETED = "state <> 'deleted'"
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


def milliseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


class State(StrEnum):
    PENDING = "pending"
    """Made, its password not yet handed over; has no hash, cannot log in."""
    ACTIVE = "active"
    SUSPENDED = "suspended"
    DELETED = "deleted"
    """A tombstone: hash wiped, username never used again."""


class Base(DeclarativeBase):
    pass


class Installation(Base):
    """The Slack team that the bot is installed in, as `auth.test` told it."""

    __tablename__ = "installations"
    team_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    team_name: Mapped[str] = mapped_column(Text)
    bot_user_id: Mapped[str] = mapped_column(String(32))
    connected_at: Mapped[datetime] = mapped_column(UtcTime)


class Workspace(Base):
    """A mail tenant."""

    __tablename__ = "workspaces"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    slug: Mapped[str] = mapped_column(String(32), unique=True)
    name: Mapped[str] = mapped_column(Text)
    credential_count: Mapped[int] = mapped_column(Integer, default=0)
    """Live credentials, kept by the functions that make and delete them: counting a million rows is too slow for a list."""
    notify_created: Mapped[bool] = mapped_column(Boolean, default=False)
    notify_deleted: Mapped[bool] = mapped_column(Boolean, default=True)
    created_at: Mapped[datetime] = mapped_column(UtcTime)
    created_by: Mapped[str] = mapped_column(Text)


class ChannelMapping(Base):
    """Slack team + channel -> the one workspace it manages."""

    __tablename__ = "channel_mappings"
    team_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    channel_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspaces.id"), index=True)
    paused: Mapped[bool] = mapped_column(Boolean, default=False)
    """The channel is shared with another organization: no list and no create there."""
    mapped_at: Mapped[datetime] = mapped_column(UtcTime)
    mapped_by: Mapped[str] = mapped_column(Text)


class RoleGrant(Base):
    """(principal, role, workspace); a NULL workspace means all of them."""

    __tablename__ = "role_grants"
    __table_args__ = (
        Index("role_grants_one", "team_id", "principal", "workspace_id", unique=True),
        Index(
            "role_grants_everywhere",
            "team_id",
            "principal",
            unique=True,
            sqlite_where=text("workspace_id IS NULL"),
            postgresql_where=text("workspace_id IS NULL"),
        ),
    )
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    team_id: Mapped[str] = mapped_column(String(32))
    principal: Mapped[str] = mapped_column(String(32))
    """A Slack user id (U…, W…) or user group id (S…)."""
    role: Mapped[str] = mapped_column(String(16))
    workspace_id: Mapped[int | None] = mapped_column(ForeignKey("workspaces.id"))
    granted_at: Mapped[datetime] = mapped_column(UtcTime)
    granted_by: Mapped[str] = mapped_column(Text)


class Credential(Base):
    __tablename__ = "credentials"
    __table_args__ = (
        Index(
            "credentials_live_name",
            "workspace_id",
            "name_key",
            unique=True,
            sqlite_where=text(NOT_DELETED),
            postgresql_where=text(NOT_DELETED),
        ),
        # Lists page along it; it holds all that a search by words reads, so that a search touches no table row.
        Index(
            "credentials_list",
            "workspace_id",
            "created_at",
            "id",
            "name_key",
            "username",
            sqlite_where=text(LIVE),
            postgresql_where=text(LIVE),
        ),
        Index(
            "credentials_pending",
            "created_at",
            sqlite_where=text("state = 'pending'"),
            postgresql_where=text("state = 'pending'"),
        ),
        *(
            Index(name, column, sqlite_where=text(f"{column} IS NOT NULL"), postgresql_where=text(f"{column} IS NOT NULL"))
            for name, column in SPARSE.items()
        ),
    )
    id: Mapped[str] = mapped_column(String(8), primary_key=True)
    workspace_id: Mapped[int] = mapped_column(ForeignKey("workspaces.id"))
    name: Mapped[str] = mapped_column(Text)
    name_key: Mapped[str] = mapped_column(Text)
    """NFKC + casefold of the name: what makes two names the same."""
    username: Mapped[str] = mapped_column(String(32), unique=True)
    state: Mapped[str] = mapped_column(String(16))
    password_hash: Mapped[str | None] = mapped_column(Text)
    """Argon2id as a PHC string, only while the credential is active or suspended."""
    password_tag: Mapped[int | None] = mapped_column(Integer)
    """`passwords.tag` of a device password, which names no credential: what narrows a leaked one down to a few."""
    rotated_at: Mapped[datetime | None] = mapped_column(UtcTime)
    current_used_at: Mapped[datetime | None] = mapped_column(UtcTime)
    """The last log-in with the present password since the rotation."""
    previous_hash: Mapped[str | None] = mapped_column(Text)
    """The password before the rotation, which works until `previous_until`."""
    previous_tag: Mapped[int | None] = mapped_column(Integer)
    previous_until: Mapped[datetime | None] = mapped_column(UtcTime)
    previous_used_at: Mapped[datetime | None] = mapped_column(UtcTime)
    rotation_key: Mapped[str | None] = mapped_column(Text, unique=True)
    """Slack team and view id of a rotation whose password is not yet handed over; kept after it for repeated submissions."""
    rotation_begun_at: Mapped[datetime | None] = mapped_column(UtcTime)
    """While a rotation's password is on its way."""
    rotation_by: Mapped[str | None] = mapped_column(Text)
    rotation_in: Mapped[str | None] = mapped_column(String(32))
    suspended_at: Mapped[datetime | None] = mapped_column(UtcTime)
    suspended_by: Mapped[str | None] = mapped_column(Text)
    delete_at: Mapped[datetime | None] = mapped_column(UtcTime)
    """When a suspended credential is deleted by itself."""
    remind_at: Mapped[datetime | None] = mapped_column(UtcTime)
    """When the next reminder of its expiry is due."""
    version: Mapped[int] = mapped_column(Integer, default=1)
    """Goes up with every change that matters for a log-in; what a mail server remembers is bound to it."""
    created_at: Mapped[datetime] = mapped_column(UtcTime)
    created_by: Mapped[str] = mapped_column(Text)
    created_in: Mapped[str | None] = mapped_column(String(32))
    """The channel where the password was shown."""
    request_key: Mapped[str | None] = mapped_column(Text, unique=True)
    """Slack team and view id of the submission: a repeated one finds the first."""
    expires_at: Mapped[datetime | None] = mapped_column(UtcTime)
    deleted_at: Mapped[datetime | None] = mapped_column(UtcTime)
    deleted_by: Mapped[str | None] = mapped_column(Text)
    last_used_at: Mapped[datetime | None] = mapped_column(UtcTime)
    last_used_from: Mapped[str | None] = mapped_column(Text)
    last_used_service: Mapped[str | None] = mapped_column(Text)


class LoginCount(Base):
    """How many log-ins a credential had in one slot of five minutes; kept for a day."""

    __tablename__ = "login_counts"
    credential_id: Mapped[str] = mapped_column(String(8), primary_key=True)
    slot: Mapped[int] = mapped_column(Integer, primary_key=True, index=True)
    """Seconds since the epoch, divided by 300."""
    count: Mapped[int] = mapped_column(Integer)


class MailServer(Base):
    """The heartbeat of one `authd` process: that it lives, and up to which audit row it has seen the store."""

    __tablename__ = "mail_servers"
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    """Host and process id, for people."""
    started_at: Mapped[datetime] = mapped_column(UtcTime)
    seen_at: Mapped[datetime] = mapped_column(UtcTime)
    seen_event: Mapped[int] = mapped_column(BigInteger)
    stopped: Mapped[bool] = mapped_column(Boolean, default=False)


class AuditEvent(Base):
    """One attempt that changed something or was denied. Rows are only ever added; triggers refuse anything else."""

    __tablename__ = "audit_events"
    __table_args__ = (
        Index("audit_events_workspace", "workspace_id", "id"),
        Index("audit_events_username", "username", "id"),
    )
    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False)
    at: Mapped[datetime] = mapped_column(UtcTime)
    action: Mapped[str] = mapped_column(String(32))
    outcome: Mapped[str] = mapped_column(String(16))
    cause: Mapped[str | None] = mapped_column(String(64))
    team_id: Mapped[str | None] = mapped_column(String(32))
    user_id: Mapped[str] = mapped_column(Text)
    role: Mapped[str | None] = mapped_column(String(16))
    role_via: Mapped[str | None] = mapped_column(String(32))
    role_age: Mapped[int | None] = mapped_column(Integer)
    """Seconds since Slack said that the person is in the group `role_via`."""
    workspace_id: Mapped[int | None] = mapped_column(Integer)
    credential_id: Mapped[str | None] = mapped_column(String(8))
    username: Mapped[str | None] = mapped_column(String(32))
    subject: Mapped[str | None] = mapped_column(Text)
    """What else it was about: the principal of a grant, the channel that was mapped, a slug."""
    channel_id: Mapped[str | None] = mapped_column(String(32))
    surface: Mapped[str] = mapped_column(String(16))
    source_id: Mapped[str | None] = mapped_column(String(64))
    """View id or message ts that the attempt came from."""
    reason: Mapped[str | None] = mapped_column(Text)
    reference: Mapped[str] = mapped_column(String(32))
    previous_hash: Mapped[str] = mapped_column(String(64))
    hash: Mapped[str] = mapped_column(String(64))


class AuditHead(Base):
    """The end of the chain, in one row: a chain cut off at its end does not reach it."""

    __tablename__ = "audit_head"
    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    last_event: Mapped[int] = mapped_column(BigInteger)
    last_hash: Mapped[str] = mapped_column(String(64))


class Seen(Base):
    """Request signatures and event ids of the last minutes, shared by all replicas."""

    __tablename__ = "seen"
    key: Mapped[str] = mapped_column(String(80), primary_key=True)
    at: Mapped[datetime] = mapped_column(UtcTime, index=True)

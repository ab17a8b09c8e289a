"""The first tables, the view for mail servers, and the triggers that keep the audit log append-only."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None
older_code_from = "0001"

NOW = {
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
    "postgresql": "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)",
}
PASSDB = """
CREATE VIEW smtp_passdb AS
SELECT c.username, '{{ARGON2ID}}' || c.password_hash AS password, w.slug AS workspace
FROM credentials c JOIN workspaces w ON w.id = c.workspace_id
WHERE c.state = 'active' AND c.password_hash IS NOT NULL AND (c.expires_at IS NULL OR c.expires_at > {now})
"""
PREVIOUS = """
CREATE VIEW smtp_passdb_previous AS
SELECT c.username, '{{ARGON2ID}}' || c.previous_hash AS password, w.slug AS workspace
FROM credentials c JOIN workspaces w ON w.id = c.workspace_id
WHERE c.state = 'active' AND c.previous_hash IS NOT NULL AND c.previous_until > {now}
  AND (c.expires_at IS NULL OR c.expires_at > {now})
"""
SPARSE = ("password_tag", "previous_tag", "previous_until", "rotation_begun_at", "delete_at", "remind_at")


def partial(condition: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def upgrade() -> None:
    dialect = op.get_bind().dialect.name
    op.create_table(
        "installations",
        sa.Column("team_id", sa.String(32), primary_key=True),
        sa.Column("team_name", sa.Text, nullable=False),
        sa.Column("bot_user_id", sa.String(32), nullable=False),
        sa.Column("connected_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "workspaces",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("slug", sa.String(32), nullable=False, unique=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("credential_count", sa.Integer, nullable=False),
        sa.Column("notify_created", sa.Boolean, nullable=False),
        sa.Column("notify_deleted", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
    )
    op.create_table(
        "channel_mappings",
        sa.Column("team_id", sa.String(32), primary_key=True),
        sa.Column("channel_id", sa.String(32), primary_key=True),
        sa.Column("workspace_id", sa.Integer, sa.ForeignKey("workspaces.id"), nullable=False, index=True),
        sa.Column("paused", sa.Boolean, nullable=False),
        sa.Column("mapped_at", sa.BigInteger, nullable=False),
        sa.Column("mapped_by", sa.Text, nullable=False),
    )
    op.create_table(
        "role_grants",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("team_id", sa.String(32), nullable=False),
        sa.Column("principal", sa.String(32), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("workspace_id", sa.Integer, sa.ForeignKey("workspaces.id")),
        sa.Column("granted_at", sa.BigInteger, nullable=False),
        sa.Column("granted_by", sa.Text, nullable=False),
    )
    op.create_index("role_grants_one", "role_grants", ["team_id", "principal", "workspace_id"], unique=True)
    op.create_index(
        "role_grants_everywhere",
        "role_grants",
        ["team_id", "principal"],
        unique=True,
        **partial("workspace_id IS NULL"),
    )
    op.create_table(
        "credentials",
        sa.Column("id", sa.String(8), primary_key=True),
        sa.Column("workspace_id", sa.Integer, sa.ForeignKey("workspaces.id"), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("name_key", sa.Text, nullable=False),
        sa.Column("username", sa.String(32), nullable=False, unique=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("password_hash", sa.Text),
        sa.Column("password_tag", sa.Integer),
        sa.Column("rotated_at", sa.BigInteger),
        sa.Column("current_used_at", sa.BigInteger),
        sa.Column("previous_hash", sa.Text),
        sa.Column("previous_tag", sa.Integer),
        sa.Column("previous_until", sa.BigInteger),
        sa.Column("previous_used_at", sa.BigInteger),
        sa.Column("rotation_key", sa.Text, unique=True),
        sa.Column("rotation_begun_at", sa.BigInteger),
        sa.Column("rotation_by", sa.Text),
        sa.Column("rotation_in", sa.String(32)),
        sa.Column("suspended_at", sa.BigInteger),
        sa.Column("suspended_by", sa.Text),
        sa.Column("delete_at", sa.BigInteger),
        sa.Column("remind_at", sa.BigInteger),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("created_in", sa.String(32)),
        sa.Column("request_key", sa.Text, unique=True),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("deleted_at", sa.BigInteger),
        sa.Column("deleted_by", sa.Text),
        sa.Column("last_used_at", sa.BigInteger),
        sa.Column("last_used_from", sa.Text),
        sa.Column("last_used_service", sa.Text),
        # The promises of the design, kept by the database too.
        sa.CheckConstraint("state <> 'pending' OR password_hash IS NULL", name="pending_has_no_hash"),
        sa.CheckConstraint("state <> 'deleted' OR password_hash IS NULL", name="deleted_has_no_hash"),
        sa.CheckConstraint("state <> 'deleted' OR previous_hash IS NULL", name="deleted_has_no_previous_hash"),
        sa.CheckConstraint("previous_hash IS NULL OR previous_until IS NOT NULL", name="previous_hash_ends"),
        sa.CheckConstraint("password_hash IS NULL OR password_hash LIKE '$argon2id$%'", name="hash_is_argon2id"),
    )
    op.create_index(
        "credentials_live_name",
        "credentials",
        ["workspace_id", "name_key"],
        unique=True,
        **partial("state <> 'deleted'"),
    )
    op.create_index(
        "credentials_list",
        "credentials",
        ["workspace_id", "created_at", "id", "name_key", "username"],
        **partial("state IN ('active', 'suspended')"),
    )
    op.create_index("credentials_pending", "credentials", ["created_at"], **partial("state = 'pending'"))
    for column in SPARSE:
        op.create_index(f"credentials_{column}", "credentials", [column], **partial(f"{column} IS NOT NULL"))
    op.create_table(
        "login_counts",
        sa.Column("credential_id", sa.String(8), primary_key=True),
        sa.Column("slot", sa.Integer, primary_key=True, index=True),
        sa.Column("count", sa.Integer, nullable=False),
    )
    op.create_table(
        "mail_servers",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("seen_at", sa.BigInteger, nullable=False),
        sa.Column("seen_event", sa.BigInteger, nullable=False),
        sa.Column("stopped", sa.Boolean, nullable=False),
    )
    op.create_table(
        "audit_events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("cause", sa.String(64)),
        sa.Column("team_id", sa.String(32)),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("role", sa.String(16)),
        sa.Column("role_via", sa.String(32)),
        sa.Column("role_age", sa.Integer),
        sa.Column("workspace_id", sa.Integer),
        sa.Column("credential_id", sa.String(8)),
        sa.Column("username", sa.String(32)),
        sa.Column("subject", sa.Text),
        sa.Column("channel_id", sa.String(32)),
        sa.Column("surface", sa.String(16), nullable=False),
        sa.Column("source_id", sa.String(64)),
        sa.Column("reason", sa.Text),
        sa.Column("reference", sa.String(32), nullable=False),
        sa.Column("previous_hash", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
    )
    op.create_index("audit_events_workspace", "audit_events", ["workspace_id", "id"])
    op.create_index("audit_events_username", "audit_events", ["username", "id"])
    op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("last_event", sa.BigInteger, nullable=False),
        sa.Column("last_hash", sa.String(64), nullable=False),
    )
    op.execute("INSERT INTO audit_head VALUES (1, 0, '" + "0" * 64 + "')")
    op.create_table(
        "seen",
        sa.Column("key", sa.String(80), primary_key=True),
        sa.Column("at", sa.BigInteger, nullable=False, index=True),
    )
    for view in (PASSDB, PREVIOUS):
        op.execute(view.format(now=NOW[dialect]))
    for statement in APPEND_ONLY[dialect]:
        op.execute(statement)


APPEND_ONLY = {
    "sqlite": [
        f"""CREATE TRIGGER audit_events_no_{verb.lower()} BEFORE {verb} ON audit_events
            BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"""
        for verb in ("UPDATE", "DELETE")
    ],
    "postgresql": [
        """CREATE FUNCTION audit_events_append_only() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN RAISE EXCEPTION 'the audit log is append-only'; END $$""",
        """CREATE TRIGGER audit_events_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_events
           FOR EACH STATEMENT EXECUTE FUNCTION audit_events_append_only()""",
    ],
}


def loses(_connection: sa.Connection) -> list[str]:
    return ["everything"]

"""Errands and messages that settle, workspaces that can be suspended, owners, limits, usage and the store's own facts."""

import secrets
from typing import Any

import sqlalchemy as sa
from alembic import op

from storage import names
from storage.migrations import views

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def partial(condition: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def words(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default="")


NEW_COLUMNS: dict[str, list[sa.Column[Any]]] = {
    "workspaces": [
        sa.Column("suspended_at", sa.BigInteger),
        sa.Column("suspended_by", sa.Text),
        words("domains"),
        sa.Column("longest_days", sa.Integer),
        sa.Column("reason_required", sa.Boolean, nullable=False, server_default=sa.text("false")),
        sa.Column("devices_allowed", sa.Boolean, nullable=False, server_default=sa.text("true")),
        sa.Column("most_live", sa.Integer),
        sa.Column("webhook_url", sa.Text),
        sa.Column("webhook_secret", sa.Text),
    ],
    "credentials": [
        sa.Column("device", sa.Boolean, nullable=False, server_default=sa.text("false")),
        sa.Column("name_skeleton", sa.Text),
        sa.Column("owner", sa.Text),
        words("allowed_from"),
        sa.Column("messages_hour", sa.Integer),
        sa.Column("messages_day", sa.Integer),
        sa.Column("recipients_hour", sa.Integer),
        sa.Column("recipients_day", sa.Integer),
        sa.Column("first_used_at", sa.BigInteger),
        sa.Column("kept_at", sa.BigInteger),
        sa.Column("warned_at", sa.BigInteger),
    ],
    "login_counts": [
        sa.Column("messages", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("recipients", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("bytes", sa.BigInteger, nullable=False, server_default=sa.text("0")),
    ],
    "mail_servers": [
        sa.Column("known_at", sa.BigInteger),
        sa.Column("clock_skew", sa.Integer),
        sa.Column("release", sa.Text),
    ],
}
NEW_INDEXES: list[tuple[str, str, list[str], dict[str, Any]]] = [
    ("role_grants_workspace", "role_grants", ["team_id", "workspace_id"], {}),
    ("credentials_skeleton", "credentials", ["workspace_id", "name_skeleton"], partial("state <> 'deleted'")),
    ("credentials_owner", "credentials", ["owner"], partial("state IN ('active', 'suspended')")),
    ("audit_events_user", "audit_events", ["user_id", "id"], {}),
    ("audit_events_credential", "audit_events", ["credential_id", "id"], {}),
]


def upgrade() -> None:
    connection = op.get_bind()
    dialect = connection.dialect.name
    for table, columns in NEW_COLUMNS.items():
        for column in columns:
            op.add_column(table, column)
    op.execute("UPDATE credentials SET owner = created_by, device = (password_tag IS NOT NULL), first_used_at = last_used_at")
    _fill_names(connection)
    for name, table, indexed, options in NEW_INDEXES:
        op.create_index(name, table, indexed, **options)
    op.create_table(
        "moments",
        sa.Column("key", sa.String(80), primary_key=True),
        sa.Column("at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "errands",
        sa.Column("id", NUMBER, primary_key=True, autoincrement=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("event_id", sa.BigInteger),
        sa.Column("last_event_id", sa.BigInteger),
        sa.Column("credential_id", sa.String(8)),
        sa.Column("workspace_id", sa.Integer),
        sa.Column("person", sa.Text),
        sa.Column("channel_id", sa.String(32)),
        sa.Column("message_ts", sa.String(32)),
        words("ids"),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("due", sa.BigInteger, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("lease", sa.BigInteger),
        sa.Column("done_at", sa.BigInteger),
        sa.Column("outcome", sa.String(64)),
    )
    op.create_index("errands_open", "errands", ["due"], **partial("done_at IS NULL"))
    op.create_index("errands_done", "errands", ["done_at"], **partial("done_at IS NOT NULL"))
    op.create_table(
        "posted_messages",
        sa.Column("id", NUMBER, primary_key=True, autoincrement=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("channel_id", sa.String(32), nullable=False),
        sa.Column("ts", sa.String(32), nullable=False),
        sa.Column("credential_id", sa.String(8), index=True),
        sa.Column("workspace_id", sa.Integer),
        sa.Column("person", sa.Text),
        sa.Column("source_channel", sa.String(32)),
        sa.Column("source_ts", sa.String(32)),
        words("ids"),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_index("posted_messages_source", "posted_messages", ["source_channel", "source_ts"])
    op.create_index("posted_messages_place", "posted_messages", ["channel_id", "ts"])
    op.create_table(
        "queue_orders",
        sa.Column("id", NUMBER, primary_key=True, autoincrement=True),
        sa.Column("username", sa.String(32), nullable=False, index=True),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("ordered_at", sa.BigInteger, nullable=False),
        sa.Column("ordered_by", sa.Text, nullable=False),
        sa.Column("workspace_id", sa.Integer),
    )
    op.create_table(
        "queue_answers",
        sa.Column("order_id", NUMBER, primary_key=True, autoincrement=False),
        sa.Column("host", sa.String(255), primary_key=True),
        sa.Column("count", sa.Integer),
        sa.Column("problem", sa.Text),
        sa.Column("at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "queue_hosts",
        sa.Column("host", sa.String(255), primary_key=True),
        sa.Column("seen_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "facts",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    connection.execute(sa.text("INSERT INTO facts VALUES ('store', :id)"), {"id": secrets.token_hex(16)})
    views.make(dialect)


def _fill_names(connection: sa.Connection) -> None:
    """Keys and skeletons of names, as they are made now. A live name whose new key another one has keeps its old key."""
    read = sa.text("SELECT id, name, name_key FROM credentials WHERE id > :after ORDER BY id LIMIT 5000")
    taken = sa.text(
        "SELECT 1 FROM credentials a JOIN credentials b ON a.workspace_id = b.workspace_id "
        "WHERE b.id = :id AND a.id <> :id AND a.name_key = :key AND a.state <> 'deleted'"
    )
    after = ""
    while rows := connection.execute(read, {"after": after}).all():
        after = rows[-1].id
        made = [{"id": row.id, "skeleton": names.skeleton(row.name)} for row in rows]
        connection.execute(sa.text("UPDATE credentials SET name_skeleton = :skeleton WHERE id = :id"), made)
        for row in rows:
            key = names.name_key(row.name)
            if key != row.name_key and connection.execute(taken, {"id": row.id, "key": key}).first() is None:
                connection.execute(sa.text("UPDATE credentials SET name_key = :key WHERE id = :id"), {"id": row.id, "key": key})


def downgrade() -> None:
    raise NotImplementedError("a restore of the backup from before the upgrade goes back")

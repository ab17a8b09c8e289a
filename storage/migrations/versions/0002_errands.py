"""Errands and messages that settle, workspaces that can be suspended, owners, limits, usage and the store's own facts."""

import secrets
from typing import Any

import sqlalchemy as sa
from alembic import context, op

from storage import names
from storage.migrations import views

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None
older_code_from = "0002"  # older code knows no suspended workspace, and no skeletons of names

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


def upgrade() -> None:
    connection = op.get_bind()
    dialect = connection.dialect.name
    for table, columns in NEW_COLUMNS.items():
        for column in columns:
            op.add_column(table, column)
    op.execute("UPDATE credentials SET owner = created_by, device = (password_tag IS NOT NULL), first_used_at = last_used_at")
    _fill_names(connection)
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
    progress = context.config.attributes["progress"]
    after, done = "", 0
    while rows := connection.execute(read, {"after": after}).all():
        after, done = rows[-1].id, done + len(rows)
        if done % 50_000 == 0:
            progress(f"      {done} names")
        made = [{"id": row.id, "skeleton": names.skeleton(row.name)} for row in rows]
        connection.execute(sa.text("UPDATE credentials SET name_skeleton = :skeleton WHERE id = :id"), made)
        for row in rows:
            key = names.name_key(row.name)
            if key != row.name_key and connection.execute(taken, {"id": row.id, "key": key}).first() is None:
                connection.execute(sa.text("UPDATE credentials SET name_key = :key WHERE id = :id"), {"id": row.id, "key": key})


LOST = {
    "errands that are not done": "SELECT count(*) FROM errands WHERE done_at IS NULL",
    "suspended workspaces, whose credentials would log in again": "SELECT count(*) FROM workspaces WHERE suspended_at IS NOT NULL",
    "workspaces with sender domains": "SELECT count(*) FROM workspaces WHERE domains <> ''",
    "credentials with an owner of their own": "SELECT count(*) FROM credentials WHERE owner <> created_by",
    "credentials with networks, limits or a kept mark": (
        "SELECT count(*) FROM credentials WHERE allowed_from <> '' OR messages_hour IS NOT NULL OR messages_day IS NOT NULL "
        "OR recipients_hour IS NOT NULL OR recipients_day IS NOT NULL OR kept_at IS NOT NULL"
    ),
    "messages in Slack that would never settle": "SELECT count(*) FROM posted_messages",
}


def loses(connection: sa.Connection) -> list[str]:
    counted = ((what, connection.exec_driver_sql(query).scalar() or 0) for what, query in LOST.items())
    return [
        *(f"{count} {what}" for what, count in counted if count),
        "the day of each credential's first log-in",
        "the store's id, by which its journal knows it",
    ]

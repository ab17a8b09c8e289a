"""Indexes for owners, similar names, the audit log and the metrics, made while others write."""

from contextlib import nullcontext
from typing import Any

import sqlalchemy as sa
from alembic import context, op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None
older_code_from = "0004"


def partial(condition: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


INDEXES: list[tuple[str, str, list[str], dict[str, Any]]] = [
    ("credentials_skeleton", "credentials", ["workspace_id", "name_skeleton"], partial("state <> 'deleted'")),
    ("credentials_owner", "credentials", ["owner"], partial("state IN ('active', 'suspended')")),
    ("credentials_suspended", "credentials", ["suspended_at"], partial("state = 'suspended'")),
    ("credentials_expires_at", "credentials", ["expires_at"], partial("expires_at IS NOT NULL AND state IN ('active', 'suspended')")),
    ("credentials_unused", "credentials", ["created_at"], partial("last_used_at IS NULL AND state IN ('active', 'suspended')")),
    ("audit_events_user", "audit_events", ["user_id", "id"], {}),
    ("audit_events_credential", "audit_events", ["credential_id", "id"], {}),
]


def upgrade() -> None:
    # PostgreSQL makes an index while others write only outside of a transaction; SQLite knows nothing of the kind, and behind a pooler
    # what the address says, such as search_path, holds in transactions only.
    concurrently = op.get_bind().dialect.name != "sqlite" and not context.config.attributes["pooled"]
    with op.get_context().autocommit_block() if concurrently else nullcontext():
        for name, table, columns, options in INDEXES:
            # One that was broken off stays behind, and is not used: https://www.postgresql.org/docs/current/sql-createindex.html
            op.drop_index(name, table, if_exists=True, postgresql_concurrently=concurrently)
            op.create_index(name, table, columns, postgresql_concurrently=concurrently, **options)


def loses(_connection: sa.Connection) -> list[str]:
    return []


def downgrade() -> None:
    for name, table, _, _ in INDEXES:
        op.drop_index(name, table)

"""Indexes for names of deleted credentials, for what was just told, and for messages about a workspace, made while others write.

And room for the mark of what a scanner found in `posted_messages.source_ts`."""

from contextlib import nullcontext
from typing import Any

import sqlalchemy as sa
from alembic import context, op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None
older_code_from = "0004"


def partial(condition: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


INDEXES: list[tuple[str, str, list[str], dict[str, Any]]] = [
    ("credentials_deleted_name", "credentials", ["workspace_id", "name_key"], partial("state = 'deleted'")),
    ("errands_credential", "errands", ["credential_id"], {}),
    ("posted_messages_workspace", "posted_messages", ["workspace_id", "id"], {}),
]


def upgrade() -> None:
    with op.batch_alter_table("posted_messages") as messages:
        messages.alter_column("source_ts", type_=sa.String(64))
    # As in step 0007.
    concurrently = op.get_bind().dialect.name != "sqlite" and not context.config.attributes["pooled"]
    with op.get_context().autocommit_block() if concurrently else nullcontext():
        for name, table, columns, options in INDEXES:
            op.drop_index(name, table, if_exists=True, postgresql_concurrently=concurrently)
            op.create_index(name, table, columns, postgresql_concurrently=concurrently, **options)


def loses(_connection: sa.Connection) -> list[str]:
    return []


def downgrade() -> None:
    for name, table, _, _ in INDEXES:
        op.drop_index(name, table)

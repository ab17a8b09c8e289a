"""What a journal needs to follow the store, what a restore brought back, and an audit log that no `INSERT OR REPLACE` rewrites."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None
older_code_from = "0002"

NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "old_hashes",
        sa.Column("id", NUMBER, primary_key=True, autoincrement=True),
        sa.Column("credential_id", sa.String(8), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("successor", sa.String(64), index=True),
        sa.Column("event_id", sa.BigInteger, index=True),
    )
    op.create_table(
        "restores",
        sa.Column("id", NUMBER, primary_key=True, autoincrement=True),
        sa.Column("lost_event", sa.BigInteger, nullable=False),
        sa.Column("lost_hash", sa.String(64), nullable=False),
        sa.Column("kept_event", sa.BigInteger, nullable=False),
        sa.Column("noticed_at", sa.BigInteger, nullable=False),
        sa.Column("noticed_by", sa.Text, nullable=False),
        sa.Column("told_at", sa.BigInteger),
        sa.Column("settled_at", sa.BigInteger),
    )
    op.create_table(
        "revived",
        sa.Column("kind", sa.String(16), primary_key=True),
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("credential_id", sa.String(8)),
    )
    op.add_column("mail_servers", sa.Column("journal", sa.Text))
    if op.get_bind().dialect.name == "sqlite":
        # REPLACE deletes without a delete trigger: https://www.sqlite.org/lang_conflict.html
        op.execute(
            """CREATE TRIGGER audit_events_no_replace BEFORE INSERT ON audit_events
               WHEN EXISTS (SELECT 1 FROM audit_events WHERE id = NEW.id)
               BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"""
        )


LOST = {
    "restores of the database that were noticed": "SELECT count(*) FROM restores",
    "things that a restore brought back and nobody revoked again": "SELECT count(*) FROM revived",
}


def loses(connection: sa.Connection) -> list[str]:
    counted = ((what, connection.exec_driver_sql(query).scalar() or 0) for what, query in LOST.items())
    return [f"{count} {what}" for what, count in counted if count]


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TRIGGER audit_events_no_replace")
    op.drop_column("mail_servers", "journal")
    for table in ("revived", "restores", "old_hashes"):
        op.drop_table(table)

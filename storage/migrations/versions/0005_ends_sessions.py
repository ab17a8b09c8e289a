"""Which processes can end an open session."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None
older_code_from = "0004"


def upgrade() -> None:
    op.add_column("mail_servers", sa.Column("ends_sessions", sa.Boolean, nullable=False, server_default=sa.text("false")))


def loses(_connection: sa.Connection) -> list[str]:
    return []


def downgrade() -> None:
    op.drop_column("mail_servers", "ends_sessions")

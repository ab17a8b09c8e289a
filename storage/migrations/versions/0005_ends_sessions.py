"""Which processes can end an open session."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("mail_servers", sa.Column("ends_sessions", sa.Boolean, nullable=False, server_default=sa.text("false")))


def downgrade() -> None:
    raise NotImplementedError("a restore of the backup from before the upgrade goes back")

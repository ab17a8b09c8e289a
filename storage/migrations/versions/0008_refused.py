"""How often a stopped credential was tried."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None
older_code_from = "0004"


def upgrade() -> None:
    op.add_column("login_counts", sa.Column("refused", sa.Integer, nullable=False, server_default=sa.text("0")))


def loses(_connection: sa.Connection) -> list[str]:
    return []  # counts that are kept for a day


def downgrade() -> None:
    op.drop_column("login_counts", "refused")

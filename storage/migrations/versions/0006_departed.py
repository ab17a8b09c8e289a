"""Who has left the Slack team."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None
older_code_from = "0004"


def upgrade() -> None:
    op.create_table(
        "departed",
        sa.Column("person", sa.String(32), primary_key=True),
        sa.Column("team_id", sa.String(32), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
    )


def loses(connection: sa.Connection) -> list[str]:
    count = connection.scalar(sa.text("SELECT count(*) FROM departed"))
    return [f"{count} people of whom it is known that they left"] if count else []


def downgrade() -> None:
    op.drop_table("departed")

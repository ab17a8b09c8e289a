"""Credentials counted in the order of creation, an index of the parts of their names and ids, and indexes for what is asked often."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None
older_code_from = "0004"  # older code does not count what it makes, and a search would not find it

LIVE = "state IN ('active', 'suspended')"


def partial(condition: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


ORDERED = """
UPDATE credentials SET number = ordered.number
FROM (SELECT id, row_number() OVER (ORDER BY created_at, id) AS number FROM credentials) AS ordered
WHERE ordered.id = credentials.id
"""
INDEXES: list[tuple[str, str, list[str], dict[str, Any]]] = [
    ("credentials_number", "credentials", ["number"], {"unique": True, **partial("number > 0")}),
    ("credentials_list", "credentials", ["workspace_id", "number", "name_key", "id"], partial(LIVE)),
    ("role_grants_workspace", "role_grants", ["workspace_id", "team_id", "role", "principal"], {}),
    ("workspaces_name", "workspaces", ["name", "id", "slug"], {}),
    ("audit_events_workspace_user", "audit_events", ["workspace_id", "user_id", "id"], {}),
    ("audit_events_subject", "audit_events", ["subject", "id"], partial("subject IS NOT NULL")),
]
# Names never change and rows are never removed, so the index only grows. It holds no text: what it finds is compared in the row.
# https://www.sqlite.org/fts5.html#the_trigram_tokenizer
SQLITE_WORDS = [
    """CREATE VIRTUAL TABLE credential_words USING
       fts5(name_key, id, content='', columnsize=0, detail='none', tokenize='trigram case_sensitive 1')""",
    """INSERT INTO credential_words (rowid, name_key, id)
       SELECT number, name_key, id FROM credentials WHERE state <> 'deleted' ORDER BY number""",
    """CREATE TRIGGER credentials_words AFTER INSERT ON credentials
       BEGIN INSERT INTO credential_words (rowid, name_key, id) VALUES (new.number, new.name_key, new.id); END""",
]
# Without a list of what was added last, which every search would have to walk through.
# https://www.postgresql.org/docs/current/pgtrgm.html
POSTGRES_WORDS = [
    "CREATE EXTENSION IF NOT EXISTS pg_trgm",
    f"""CREATE INDEX credentials_words ON credentials USING gin (name_key gin_trgm_ops, id gin_trgm_ops)
        WITH (fastupdate = off) WHERE {LIVE}""",
]


def upgrade() -> None:
    connection = op.get_bind()
    op.add_column("credentials", sa.Column("number", sa.BigInteger, nullable=False, server_default=sa.text("0")))
    op.execute(ORDERED)
    op.drop_index("credentials_list", "credentials")
    op.drop_index("role_grants_workspace", "role_grants", if_exists=True)
    for name, table, columns, options in INDEXES:
        op.create_index(name, table, columns, **options)
    if connection.dialect.name == "sqlite":
        if not connection.scalar(sa.text("SELECT count(*) FROM pragma_module_list WHERE name = 'fts5'")):
            raise RuntimeError("this SQLite was built without FTS5, which a search needs")
        for statement in SQLITE_WORDS:
            op.execute(statement)
        return
    try:
        with connection.begin_nested():
            for statement in POSTGRES_WORDS:
                op.execute(statement)
    except sa.exc.DBAPIError as error:
        # The extension is not there, or this role may not make it: a search reads all names of the workspace.
        if error.connection_invalidated:
            raise
    op.execute("ANALYZE credentials")  # without it the new indexes are not thought worth their while


def loses(_connection: sa.Connection) -> list[str]:
    return []


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TRIGGER credentials_words")
        op.execute("DROP TABLE credential_words")
    else:
        op.execute("DROP INDEX IF EXISTS credentials_words")
    for name, table, _, _ in INDEXES:
        op.drop_index(name, table)
    op.create_index("credentials_list", "credentials", ["workspace_id", "created_at", "id", "name_key", "username"], **partial(LIVE))
    op.drop_column("credentials", "number")

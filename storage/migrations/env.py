"""Runs the migrations on the connection that `Database.upgrade` hands in, and writes down which older code may still start.

Each migration says in `older_code_from` the last migration of the oldest code that may go on, and start, beside the schema that it makes.
"""

from collections.abc import Collection
from typing import Any

from alembic import context
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from storage.database import OLDEST_CODE
from storage.models import METADATA


def remember(*, ctx: MigrationContext, heads: Collection[Any], **_: Any) -> None:
    """Called in the transaction of each step, after it."""
    connection = ctx.connection
    if connection is None or not heads or not inspect(connection).has_table("facts"):
        return
    scripts = ScriptDirectory.from_config(context.config)
    applied = list(scripts.iterate_revisions(max(heads), "base"))
    oldest = max(step.module.older_code_from for step in applied)
    connection.execute(text("DELETE FROM facts WHERE key = :key"), {"key": OLDEST_CODE})
    connection.execute(text("INSERT INTO facts (key, value) VALUES (:key, :oldest)"), {"key": OLDEST_CODE, "oldest": oldest})


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    transaction_per_migration=True,
    on_version_apply=remember,  # type: ignore[arg-type]  # called by names
)
with context.begin_transaction():
    context.run_migrations()

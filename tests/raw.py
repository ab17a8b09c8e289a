"""Straight to the database, past every rule of the store: for what only a thief, a restore or a test does."""

from typing import Any

from sqlalchemy import Executable, text, update

from storage.database import Database, Transaction
from storage.models import CREDENTIALS


async def sql(db: Database, statement: str | Executable, **values: Any) -> list[Any]:
    """The rows of a query; of a change, nothing."""

    def run(tx: Transaction) -> list[Any]:
        result = tx.connection.execute(text(statement) if isinstance(statement, str) else statement, values)
        return list(result.all()) if result.returns_rows else []

    return await db.note(run)


async def one(db: Database, statement: str, **values: Any) -> Any:
    """The only value of a query."""
    [(value,)] = await sql(db, statement, **values)
    return value


async def change_credentials(db: Database, **values: Any) -> None:
    """Sets columns of every credential."""
    await sql(db, update(CREDENTIALS).values(**values))


async def allow_rewriting(db: Database) -> None:
    """Takes away what keeps the audit log append-only."""
    if db.sqlite:
        for trigger in ("update", "delete", "replace"):
            await sql(db, f"DROP TRIGGER audit_events_no_{trigger}")
    else:
        await sql(db, "ALTER TABLE audit_events DISABLE TRIGGER USER")

"""What was received in the last minutes, shared by all replicas: a request signature or an event id counts once."""

from datetime import timedelta

from sqlalchemy import delete
from sqlalchemy.dialects import postgresql, sqlite

from storage.database import Database
from storage.models import Seen

REMEMBERED = timedelta(minutes=10)


async def first_time(db: Database, key: str) -> bool:
    """Whether this key (at most 80 characters) is new; it no longer is from now on."""
    insert = sqlite.insert(Seen) if db.sqlite else postgresql.insert(Seen)
    async with db.note() as session:
        # RETURNING answers with the row only when it was inserted.
        added = await session.execute(insert.values(key=key, at=db.clock()).on_conflict_do_nothing().returning(Seen.key))
        return added.first() is not None


async def forget_old(db: Database) -> None:
    """Drops what is older than `REMEMBERED`; called by the sweep."""
    async with db.note() as session:
        await session.execute(delete(Seen).where(Seen.at < db.clock() - REMEMBERED))

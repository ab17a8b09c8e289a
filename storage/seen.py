"""What was received in the last minutes, shared by all replicas: a request signature or an event id counts once. And when Slack last said
that somebody, or a user group, changed."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite

from storage.database import Transaction
from storage.models import MOMENTS, SEEN

REMEMBERED = timedelta(minutes=10)
MOMENTS_KEPT = timedelta(days=1)


# RETURNING answers with the row only when it was inserted.
_ADD_SQLITE = sqlite.insert(SEEN).on_conflict_do_nothing().returning(SEEN.c.key)
_ADD_POSTGRESQL = postgresql.insert(SEEN).on_conflict_do_nothing().returning(SEEN.c.key)


def first_time(tx: Transaction, key: str) -> bool:
    """Whether this key (at most 80 characters) is new; it no longer is from now on. A note."""
    added = tx.connection.execute(_ADD_SQLITE if tx.sqlite else _ADD_POSTGRESQL, {"key": key, "at": tx.now})
    return added.first() is not None


def mark(tx: Transaction, key: str) -> None:
    """Slack says that the user or user group changed just now; what was asked about it before counts no more. A note.

    Moments of one key only grow, whatever the clocks of two replicas say.
    """
    insert = sqlite.insert(MOMENTS) if tx.sqlite else postgresql.insert(MOMENTS)
    before = tx.connection.scalar(select(MOMENTS.c.at).where(MOMENTS.c.key == key))
    moment = max(tx.now, before + timedelta(milliseconds=1)) if before else tx.now
    tx.connection.execute(insert.values(key=key, at=moment).on_conflict_do_update(index_elements=["key"], set_={"at": moment}))


def moments(tx: Transaction, keys: Iterable[str]) -> dict[str, datetime]:
    """When these users and user groups were last marked; those that never were are left out."""
    query = select(MOMENTS.c.key, MOMENTS.c.at).where(MOMENTS.c.key.in_(list(keys)))
    return {row.key: row.at for row in tx.connection.execute(query)}


def forget_old(tx: Transaction) -> None:
    """Drops what no longer matters; called by the sweep. A note."""
    tx.connection.execute(delete(SEEN).where(SEEN.c.at < tx.now - REMEMBERED))
    tx.connection.execute(delete(MOMENTS).where(MOMENTS.c.at < tx.now - MOMENTS_KEPT))

"""Numbers about the whole store, for metrics: from counters and small indexes, so that a million credentials cost no more than ten."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Select, func, select, text

from storage.database import Transaction
from storage.models import CREDENTIALS, EXPIRING, NEVER_USED, SUSPENDED, WORKSPACES, State

SOON = timedelta(days=7)
COUNTED = 10_000  # more are not counted one by one


@dataclass(frozen=True)
class Figures:
    states: Mapping[State, int]
    """Credentials by state, without the deleted ones."""
    expiring: int
    """Live credentials that expire within `SOON`, at most `COUNTED`."""
    never_used: int
    """Live credentials that are older than that and were never used, at most `COUNTED`."""


def figures(tx: Transaction, unused_after: timedelta) -> Figures:
    live = tx.connection.scalar(select(func.coalesce(func.sum(WORKSPACES.c.credential_count), 0))) or 0
    suspended = tx.connection.scalar(select(func.count(CREDENTIALS.c.suspended_at)).where(text(SUSPENDED))) or 0
    pending = tx.connection.scalar(select(func.count(CREDENTIALS.c.created_at)).where(text("state = 'pending'"))) or 0
    expires_at, created_at = CREDENTIALS.c.expires_at, CREDENTIALS.c.created_at
    soon = select(expires_at).where(text(EXPIRING), expires_at > tx.now, expires_at <= tx.now + SOON)
    unused = select(created_at).where(text(NEVER_USED), created_at < tx.now - unused_after)
    return Figures(
        states={State.ACTIVE: live - suspended, State.SUSPENDED: suspended, State.PENDING: pending},
        expiring=_counted(tx, soon),
        never_used=_counted(tx, unused),
    )


def _counted(tx: Transaction, query: Select[Any]) -> int:
    return tx.connection.scalar(select(func.count()).select_from(query.limit(COUNTED).subquery())) or 0

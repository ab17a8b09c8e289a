"""Numbers about the whole store, for metrics: from counters and small indexes, so that a million credentials cost no more than ten."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import func, select, text

from storage.database import Transaction
from storage.models import CREDENTIALS, EXPIRING, NEVER_USED, SUSPENDED, WORKSPACES, State

SOON = timedelta(days=7)
COUNTED = 100_000  # of those never used; more are not counted one by one


@dataclass(frozen=True)
class Figures:
    states: Mapping[State, int]
    """Credentials by state, without the deleted ones."""
    expiring: int
    """Live credentials that expire within `SOON`."""
    never_used: int
    """Live credentials that are older than that and were never used, at most `COUNTED`."""


def figures(tx: Transaction, unused_after: timedelta) -> Figures:
    live = tx.connection.scalar(select(func.coalesce(func.sum(WORKSPACES.c.credential_count), 0))) or 0
    suspended = tx.connection.scalar(select(func.count(CREDENTIALS.c.suspended_at)).where(text(SUSPENDED))) or 0
    pending = tx.connection.scalar(select(func.count(CREDENTIALS.c.created_at)).where(text("state = 'pending'"))) or 0
    soon = select(func.count(CREDENTIALS.c.expires_at)).where(
        text(EXPIRING), CREDENTIALS.c.expires_at > tx.now, CREDENTIALS.c.expires_at <= tx.now + SOON
    )
    unused = select(CREDENTIALS.c.created_at).where(text(NEVER_USED), CREDENTIALS.c.created_at < tx.now - unused_after).limit(COUNTED)
    return Figures(
        states={State.ACTIVE: live - suspended, State.SUSPENDED: suspended, State.PENDING: pending},
        expiring=tx.connection.scalar(soon) or 0,
        never_used=tx.connection.scalar(select(func.count()).select_from(unused.subquery())) or 0,
    )

"""Which mail server processes have seen a change: read from the heartbeats that `authd` keeps in the store."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select

from storage.audit import What
from storage.database import Transaction
from storage.logins import SLOT
from storage.models import AUDIT_EVENTS, MAIL_SERVERS, USAGE, MailServer, as_row

ALIVE = timedelta(seconds=15)


def reported(tx: Transaction) -> bool:
    """Whether a mail server process has ever reported to this store: only then is it known what was used."""
    return tx.connection.execute(select(MAIL_SERVERS.c.id).limit(1)).first() is not None


@dataclass(frozen=True)
class Proof:
    """The living processes that refuse a credential, and since when the first and the last of them do."""

    confirmed: int
    waiting: Sequence[str]
    """The names of those that have not read the store since."""
    first: datetime | None
    last: datetime | None

    @property
    def total(self) -> int:
        return self.confirmed + len(self.waiting)


def proof(tx: Transaction, username: str, what: What) -> Proof:
    """Whether the mail servers have seen the last change of this kind to the credential with this username."""
    change = select(func.max(AUDIT_EVENTS.c.id)).where(
        AUDIT_EVENTS.c.username == username, AUDIT_EVENTS.c.action == what.value, AUDIT_EVENTS.c.outcome == "done"
    )
    event = tx.connection.scalar(change) or 0
    servers = living(tx)
    seen = [one.seen_at for one in servers if one.seen_event >= event]
    waiting = [one.name for one in servers if one.seen_event < event]
    return Proof(len(seen), waiting, min(seen, default=None), max(seen, default=None))


def living(tx: Transaction) -> list[MailServer]:
    """The processes whose heartbeat goes on."""
    query = select(MAIL_SERVERS).where(MAIL_SERVERS.c.stopped.is_(False), MAIL_SERVERS.c.seen_at >= tx.now - ALIVE)
    return [as_row(MailServer, row) for row in tx.connection.execute(query.order_by(MAIL_SERVERS.c.name))]


@dataclass(frozen=True)
class Traffic:
    """Log-ins of one credential."""

    hour: int = 0
    day: int = 0


def traffic(tx: Transaction, credential_ids: Sequence[str]) -> dict[str, Traffic]:
    """The log-ins in the last hour and day, counted in slots of five minutes."""
    slot = int(tx.now.timestamp()) // SLOT
    counts: dict[str, Traffic] = {one: Traffic() for one in credential_ids}
    columns = (USAGE.c.credential_id, USAGE.c.slot, USAGE.c.count)
    query = select(*columns).where(USAGE.c.credential_id.in_(credential_ids), USAGE.c.slot > slot - 86400 // SLOT)
    for credential_id, at, count in tx.connection.execute(query):
        before = counts[credential_id]
        counts[credential_id] = Traffic(before.hour + (count if at > slot - 3600 // SLOT else 0), before.day + count)
    return counts

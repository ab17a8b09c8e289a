"""Which mail server processes have seen a change: read from the heartbeats that `authd` keeps in the store."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select

from storage.audit import What
from storage.database import Database
from storage.logins import SLOT
from storage.models import AuditEvent, LoginCount, MailServer

ALIVE = timedelta(seconds=15)


@dataclass(frozen=True)
class Proof:
    """Who of the living processes refuses a credential, and since when the first and the last of them."""

    confirmed: int
    waiting: Sequence[str]
    """The names of those that have not read the store since."""
    first: datetime | None
    last: datetime | None

    @property
    def total(self) -> int:
        return self.confirmed + len(self.waiting)


async def proof(db: Database, username: str, what: What) -> Proof:
    """Whether the mail servers have seen the last change of this kind to the credential with this username."""
    now = db.clock()
    change = select(func.max(AuditEvent.id)).where(AuditEvent.username == username, AuditEvent.action == what, AuditEvent.outcome == "done")
    living = select(MailServer).where(MailServer.stopped.is_(False), MailServer.seen_at >= now - ALIVE).order_by(MailServer.name)
    async with db.read() as session:
        event = (await session.scalars(change)).one() or 0
        servers = (await session.scalars(living)).all()
    seen = [one.seen_at for one in servers if one.seen_event >= event]
    waiting = [one.name for one in servers if one.seen_event < event]
    return Proof(len(seen), waiting, min(seen, default=None), max(seen, default=None))


@dataclass(frozen=True)
class Traffic:
    """Log-ins of one credential."""

    hour: int = 0
    day: int = 0


async def traffic(db: Database, credential_ids: Sequence[str]) -> dict[str, Traffic]:
    """The log-ins in the last hour and day, counted in slots of five minutes."""
    slot = int(db.clock().timestamp()) // SLOT
    counts: dict[str, Traffic] = {one: Traffic() for one in credential_ids}
    query = select(LoginCount).where(LoginCount.credential_id.in_(credential_ids), LoginCount.slot > slot - 86400 // SLOT)
    async with db.read() as session:
        for row in await session.scalars(query):
            before = counts[row.credential_id]
            recent = row.count if row.slot > slot - 3600 // SLOT else 0
            counts[row.credential_id] = Traffic(before.hour + recent, before.day + row.count)
    return counts

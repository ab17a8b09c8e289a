"""Which mail server processes have seen a change, and what credentials do there: read from what `authd` keeps in the store."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import bindparam, func, select

from storage import credentials
from storage.audit import What
from storage.database import Transaction
from storage.logins import DAY, HOUR, SLOT, database_time, slot_of
from storage.models import AUDIT_EVENTS, MAIL_SERVERS, USAGE, Listed, MailServer, as_row

ALIVE = timedelta(seconds=15)
SKEWED = 5000  # milliseconds that a clock may be off


@dataclass(frozen=True)
class Silent:
    """A process that neither lives nor said that it ends."""

    name: str
    since: datetime
    """When it was last heard of."""


_ANY = select(MAIL_SERVERS.c.id).limit(1)


def reported(tx: Transaction) -> bool:
    """Whether a mail server process has ever reported to this store: only then is it known what was used."""
    return tx.connection.execute(_ANY).first() is not None


@dataclass(frozen=True)
class Tries:
    """Log-ins that were refused."""

    count: int = 0
    at_least: bool = False


@dataclass(frozen=True)
class Proof:
    """The living processes that refuse a credential, and by when the first and the last of them knew of the change."""

    confirmed: int
    waiting: Sequence[str]
    """The names of those that have not read the store since."""
    first: datetime | None
    last: datetime | None
    silent: Sequence[Silent] = ()
    """They count in no sum."""
    skewed: Sequence[tuple[str, int]] = ()
    """The names of those whose clock is off, and by how many milliseconds it is ahead of the database's."""
    tried: Tries = Tries()
    """How often a log-in with it was refused since."""
    ends_sessions: bool = False
    """Each of the living can be asked whether an open session may go on."""

    @property
    def total(self) -> int:
        return self.confirmed + len(self.waiting)


_LAST_CHANGE = (
    select(AUDIT_EVENTS.c.id, AUDIT_EVENTS.c.at, AUDIT_EVENTS.c.credential_id)
    .where(AUDIT_EVENTS.c.username == bindparam("username"), AUDIT_EVENTS.c.action == bindparam("action"), AUDIT_EVENTS.c.outcome == "done")
    .order_by(AUDIT_EVENTS.c.id.desc())
    .limit(1)
)
_NOT_STOPPED = select(MAIL_SERVERS).where(MAIL_SERVERS.c.stopped.is_(False)).order_by(MAIL_SERVERS.c.name)
_REFUSED = select(func.sum(USAGE.c.refused)).where(USAGE.c.credential_id == bindparam("credential"), USAGE.c.slot >= bindparam("slot"))


def proof(tx: Transaction, username: str, what: What) -> Proof:
    """Whether the mail servers have seen the last change of this kind to the credential with this username.

    A process knows the number of the audit row that it saw last, and when it first saw that one: as other changes follow, the moment by
    which it knew of this one moves on with them.
    """
    last = tx.connection.execute(_LAST_CHANGE, {"username": username, "action": what.value}).first()
    event, tried = (last.id, _tried(tx, last.credential_id, last.id, last.at)) if last else (0, Tries())
    now = database_time(tx)
    servers = [as_row(MailServer, row) for row in tx.connection.execute(_NOT_STOPPED)]
    living = [one for one in servers if one.seen_at >= now - ALIVE]
    knew = [one.known_at or one.seen_at for one in living if one.seen_event >= event]
    return Proof(
        confirmed=len(knew),
        waiting=[one.name for one in living if one.seen_event < event],
        first=min(knew, default=None),
        last=max(knew, default=None),
        silent=[Silent(one.name, one.seen_at) for one in servers if one.seen_at < now - ALIVE and not _replaced(one, servers)],
        skewed=[(one.name, one.clock_skew) for one in living if abs(one.clock_skew or 0) > SKEWED and one.clock_skew],
        tried=tried,
        ends_sessions=bool(living) and all(one.ends_sessions for one in living),
    )


def _tried(tx: Transaction, credential_id: str, event: int, since: datetime) -> Tries:
    """How often it was tried since the audit row `event`.

    Tries are counted by slots. Those of the slot in which it happened count as well, unless it was stopped before: some may be older then.
    """

    def refused(slot: int) -> int:
        return int(tx.connection.scalar(_REFUSED, {"credential": credential_id, "slot": slot}) or 0)

    slot = slot_of(since)
    count = refused(slot)
    if not count or not _stopped_before(tx, credential_id, event, since):
        return Tries(count)
    return Tries(refused(slot + 1), at_least=True)


def _stopped_before(tx: Transaction, credential_id: str, event: int, since: datetime) -> bool:
    """Whether log-ins with it were refused already in the slot of `since`."""
    credential, workspace = credentials.get(tx, credential_id)
    columns = AUDIT_EVENTS.c
    suspended = select(columns.id).where(
        columns.credential_id == credential_id, columns.id < event, columns.action == What.SUSPEND.value, columns.outcome == "done",
        columns.at >= since - timedelta(seconds=SLOT),
    )  # fmt: skip
    stops = (credential.suspended_at, credential.expires_at, workspace.suspended_at)
    return any(one is not None and one < since for one in stops) or tx.connection.execute(suspended.limit(1)).first() is not None


def _replaced(server: MailServer, servers: Sequence[MailServer]) -> bool:
    """Whether another process was started on its host after it fell silent."""
    host = server.name.rpartition(":")[0]
    return any(one.name.rpartition(":")[0] == host and one.started_at > server.seen_at for one in servers)


def living(tx: Transaction) -> list[MailServer]:
    """The processes whose heartbeat goes on."""
    query = select(MAIL_SERVERS).where(MAIL_SERVERS.c.stopped.is_(False), MAIL_SERVERS.c.seen_at >= tx.now - ALIVE)
    return [as_row(MailServer, row) for row in tx.connection.execute(query.order_by(MAIL_SERVERS.c.name))]


@dataclass(frozen=True)
class Traffic:
    """What one credential did: log-ins, and messages where the mail servers tell of them."""

    reported: bool = True
    """Whether mail servers tell of log-ins at all."""
    hour: int = 0
    day: int = 0
    messages_hour: int = 0
    messages_day: int = 0
    recipients_hour: int = 0
    recipients_day: int = 0
    refused_hour: int = 0
    refused_day: int = 0
    """How often it was tried while it was stopped."""


_COUNTED = (USAGE.c.count, USAGE.c.messages, USAGE.c.recipients, USAGE.c.refused)
_LATELY = select(USAGE.c.credential_id, USAGE.c.slot, *_COUNTED).where(
    USAGE.c.credential_id.in_(bindparam("ids", expanding=True)), USAGE.c.slot > bindparam("after")
)


def traffic(tx: Transaction, credential_ids: Sequence[str]) -> dict[str, Traffic]:
    """In the last hour and day, counted in slots of five minutes."""
    return _counted(tx, credential_ids, reported(tx))


def traffic_of(tx: Transaction, listed: Sequence[Listed], told: bool) -> dict[str, Traffic]:
    """The same of the rows of a list, by id. Nothing is counted for those that did not log in for a day. `told`: what `reported` says."""
    used = [one.id for one in listed if one.last_used_at and one.last_used_at > tx.now - timedelta(days=1)]
    return dict.fromkeys((one.id for one in listed), Traffic(told)) | (_counted(tx, used, told) if used else {})


def _counted(tx: Transaction, credential_ids: Sequence[str], told: bool) -> dict[str, Traffic]:
    slot = slot_of(tx.now)
    sums = {one: [0] * 2 * len(_COUNTED) for one in credential_ids}
    for credential_id, at, *counts in tx.connection.execute(_LATELY, {"ids": list(credential_ids), "after": slot - DAY}):
        mine = sums[credential_id]
        for number, count in enumerate(counts):
            mine[2 * number] += count if at > slot - HOUR else 0
            mine[2 * number + 1] += count
    return {one: Traffic(told, *mine) for one, mine in sums.items()}

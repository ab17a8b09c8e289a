"""The needs of mail servers: looking credentials up, and writing down what was used and sent and which process has seen what.

Nothing here is audited: it changes nothing about who may log in.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, and_, bindparam, case, cast, delete, func, literal, or_, select, type_coerce, update
from sqlalchemy.dialects import postgresql, sqlite

from storage import errands
from storage.database import Transaction
from storage.errands import Kind
from storage.journal import digest
from storage.models import AUDIT_HEAD, CREDENTIALS, MAIL_SERVERS, OLD_HASHES, USAGE, WORKSPACES, State, UtcTime, milliseconds

SLOT = 300  # seconds of one slot of `login_counts`
HOUR, DAY = 3600 // SLOT, 86400 // SLOT  # slots; the one that is not over yet is the last of them
COUNTED = timedelta(hours=25)
HEARTBEATS_KEPT = timedelta(days=1)
BURST = 10  # times the usual in an hour
BURST_LEAST = 100  # recipients in an hour that are no burst whatever is usual
EPISODE = timedelta(hours=1)
"""So long it must have been quiet before the channels are told again that a credential sends too much."""
LIMITS = ("messages_hour", "messages_day", "recipients_hour", "recipients_day")
SKEW_MAX = 2**31 - 1  # milliseconds that are told apart: 24 days
DATABASE_TIME = type_coerce(cast(func.extract("epoch", func.clock_timestamp()) * 1000, BigInteger), UtcTime())
"""PostgreSQL's own clock."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A password's hash in the store."""

    phc: str
    tag: int | None
    previous: bool
    """It is the one from before a rotation."""


@dataclass(slots=True)
class Known:
    """A credential as a log-in and an open session see it. Made for each question, so not frozen: that takes three times as long."""

    id: str
    username: str
    state: str
    password_hash: str | None
    password_tag: int | None
    previous_hash: str | None
    previous_tag: int | None
    previous_until: datetime | None
    expires_at: datetime | None
    allowed_from: tuple[str, ...]
    """The networks that it may be used from; none for any."""
    messages_hour: int | None
    messages_day: int | None
    recipients_hour: int | None
    recipients_day: int | None
    workspace: str
    """Its slug."""
    domains: tuple[str, ...]
    """The workspace's sender domains; none for any."""
    workspace_suspended_at: datetime | None
    now: datetime
    """When it was so, by the clock of the database if it has one."""
    sums: Mapping[str, int] = field(default_factory=dict)
    """What was written down of each of `LIMITS`; of `look_up_sending`, where it has limits."""

    @property
    def limited(self) -> bool:
        counts = (self.messages_hour, self.messages_day, self.recipients_hour, self.recipients_day)
        return counts != (None, None, None, None)

    def stopped(self, now: datetime) -> str | None:
        """Why it may not log in, by whichever password; None when it may."""
        if self.state != State.ACTIVE:
            return self.state
        if self.expires_at is not None and self.expires_at <= now:
            return "expired"
        return None if self.workspace_suspended_at is None else "workspace suspended"

    def passwords(self, now: datetime) -> list[Stored]:
        """The ones that count now."""
        found = [Stored(self.password_hash, self.password_tag, False)] if self.password_hash else []
        if self.previous_hash and self.previous_until and self.previous_until > now:
            found.append(Stored(self.previous_hash, self.previous_tag, True))
        return found


@dataclass(slots=True)
class Use:
    """A credential's log-ins since the last time they were written down."""

    at: datetime
    remote: str | None
    service: str
    previous: bool
    """With the password from before the rotation."""
    count: int = 1


@dataclass(slots=True)
class Sent:
    """What a credential sent since the last time it was written down."""

    at: datetime
    messages: int = 0
    recipients: int = 0
    bytes: int = 0
    over: str | None = None
    """One of `LIMITS`, above which something was refused."""


@dataclass(slots=True)
class Tried:
    """Log-ins with a stopped credential since the last time they were written down."""

    at: datetime
    refused: int = 0


_COLUMNS = (
    CREDENTIALS.c.id,
    CREDENTIALS.c.username,
    CREDENTIALS.c.state,
    CREDENTIALS.c.password_hash,
    CREDENTIALS.c.password_tag,
    CREDENTIALS.c.previous_hash,
    CREDENTIALS.c.previous_tag,
    CREDENTIALS.c.previous_until,
    CREDENTIALS.c.expires_at,
    CREDENTIALS.c.allowed_from,
    CREDENTIALS.c.messages_hour,
    CREDENTIALS.c.messages_day,
    CREDENTIALS.c.recipients_hour,
    CREDENTIALS.c.recipients_day,
    WORKSPACES.c.slug,
    WORKSPACES.c.domains,
    WORKSPACES.c.suspended_at,
)


_QUERY = {
    in_file: select(*_COLUMNS, literal(None) if in_file else DATABASE_TIME)
    .join_from(CREDENTIALS, WORKSPACES)
    .where(CREDENTIALS.c.username.in_(bindparam("usernames", expanding=True)))
    for in_file in (True, False)
}


def look_up(tx: Transaction, usernames: Iterable[str]) -> dict[str, Known]:
    """The credentials of these usernames as they are in the store now, in one query; unknown ones are left out.

    Without `sums`: a log-in must not take longer where the credential has limits.
    """
    found = {}
    for row in tx.connection.execute(_QUERY[tx.sqlite], {"usernames": list(usernames)}):
        columns: list[Any] = list(row)
        columns[-1] = columns[-1] or tx.now
        found[row.username] = Known(*columns)
    return found


def look_up_sending(tx: Transaction, usernames: Iterable[str]) -> dict[str, Known]:
    """As `look_up`, with what those that have limits have sent."""
    found = look_up(tx, usernames)
    limited = {one.id: one for one in found.values() if one.limited}
    if limited:
        for credential_id, sums in sent(tx, list(limited), max(one.now for one in limited.values())).items():
            limited[credential_id].sums = sums
    return found


def sent(tx: Transaction, credential_ids: Sequence[str], now: datetime) -> dict[str, dict[str, int]]:
    """What was written down of each of `LIMITS`, for each of these credentials."""
    slot = slot_of(now)
    hour = USAGE.c.slot > slot - HOUR
    sums = [func.sum(one) for column in (USAGE.c.messages, USAGE.c.recipients) for one in (case((hour, column), else_=0), column)]
    query = select(USAGE.c.credential_id, *sums).where(USAGE.c.credential_id.in_(credential_ids), USAGE.c.slot > slot - DAY)
    found = dict.fromkeys(credential_ids, dict.fromkeys(LIMITS, 0))
    for credential_id, *counts in tx.connection.execute(query.group_by(USAGE.c.credential_id)):
        found[credential_id] = dict(zip(LIMITS, map(int, counts), strict=True))
    return found


def slot_of(moment: datetime) -> int:
    return int(moment.timestamp()) // SLOT


def record(
    tx: Transaction,
    uses: Mapping[str, Use],
    sent: Mapping[str, Sent] | None = None,
    tried: Mapping[str, Tried] | None = None,
    wait: bool = False,
) -> Collection[str]:
    """Writes down, by credential id, who logged in, what was sent and what was refused; owes the channels the news of who sends too much.
    A note.

    On PostgreSQL every row is locked first, in the order of the ids, so that two processes never wait for each other in a circle.

    Args:
        wait: for rows that somebody else changes just now; otherwise they are left out.

    Returns:
        The ids of those that were left out, to be tried again.
    """
    sent, tried = sent or {}, tried or {}
    ids = sorted(uses.keys() | sent.keys() | tried.keys())
    left_out: set[str] = set()
    if not tx.sqlite:
        rows = select(CREDENTIALS.c.id).where(CREDENTIALS.c.id.in_(ids)).order_by(CREDENTIALS.c.id)
        free = set(tx.connection.scalars(rows.with_for_update(key_share=True, skip_locked=not wait)))
        if len(free) < len(ids):
            left_out = set(tx.connection.scalars(rows)) - free
            ids = [one for one in ids if one in free]
    logged_in = [(key, uses[key]) for key in ids if key in uses]
    if logged_in:
        _record_uses(tx, logged_in)
    insert = sqlite.insert(USAGE) if tx.sqlite else postgresql.insert(USAGE)
    counts = ("count", "messages", "recipients", "bytes", "refused")
    adding = insert.on_conflict_do_update(
        index_elements=["credential_id", "slot"], set_={name: USAGE.c[name] + insert.excluded[name] for name in counts}
    )
    slots: dict[tuple[str, int], dict[str, Any]] = {}
    for key in ids:
        for one in (uses.get(key), sent.get(key), tried.get(key)):
            if one is not None:
                at = (key, slot_of(one.at))
                slot = slots.setdefault(at, {"credential_id": key, "slot": at[1], **dict.fromkeys(counts, 0)})
                for name in counts:
                    slot[name] += getattr(one, name, 0)
    if slots:
        tx.connection.execute(adding, list(slots.values()))
    sending = {key: sent[key] for key in ids if key in sent}
    if sending:
        _warn(tx, sending)
    return left_out


_AT = bindparam("at", type_=UtcTime())


def _record_uses(tx: Transaction, uses: Sequence[tuple[str, Use]]) -> None:
    changed = [{"key": key, "at": use.at, "remote": use.remote, "service": use.service} for key, use in uses]
    _note_first_uses(tx, dict(uses))
    later = or_(CREDENTIALS.c.last_used_at.is_(None), CREDENTIALS.c.last_used_at <= _AT)
    used: dict[str, Any] = {
        "last_used_at": _AT,
        "last_used_from": bindparam("remote"),
        "last_used_service": bindparam("service"),
    }
    tx.connection.execute(update(CREDENTIALS).where(CREDENTIALS.c.id == bindparam("key"), later).values(**used), changed)
    for previous, column in ((False, "current_used_at"), (True, "previous_used_at")):
        some = [{"key": key, "at": use.at} for key, use in uses if use.previous is previous]
        if some:
            query = update(CREDENTIALS).where(CREDENTIALS.c.id == bindparam("key"), CREDENTIALS.c.rotated_at.is_not(None))
            tx.connection.execute(query.values({column: _AT}), some)


def _warn(tx: Transaction, sent: Mapping[str, Sent]) -> None:
    """Owes the channels one message for each time that a credential begins to send more than it may, or ten times the usual."""
    over = {key: one.over for key, one in sent.items() if one.over}
    reasons = _bursts(tx, [key for key, one in sent.items() if one.messages], sent) | over
    for key, why in sorted(reasons.items()):
        at = sent[key].at
        columns = CREDENTIALS.c
        told = update(CREDENTIALS).where(columns.id == key).values(warned_at=at)
        quiet = or_(columns.warned_at.is_(None), columns.warned_at <= at - EPISODE)
        workspace = tx.connection.scalar(told.where(quiet).returning(columns.workspace_id))
        if workspace is not None:
            errands.warn_of_sending(tx, key, workspace, why)
        else:
            tx.connection.execute(told.where(columns.warned_at < at))


def _bursts(tx: Transaction, credential_ids: Sequence[str], sent: Mapping[str, Sent]) -> dict[str, str]:
    """Those that sent to ten times as many recipients in this hour as in the busiest hour of the day before, each with `BURST` or `AWAKE`.

    On its first day a credential has no usual.
    """
    if not credential_ids:
        return {}
    slot = slot_of(max(sent[key].at for key in credential_ids))
    columns = (USAGE.c.credential_id, func.sum(USAGE.c.recipients))
    lately = select(*columns).where(USAGE.c.credential_id.in_(credential_ids), USAGE.c.slot > slot - HOUR, USAGE.c.slot <= slot)
    many = lately.group_by(USAGE.c.credential_id).having(func.sum(USAGE.c.recipients) >= BURST_LEAST)
    now = {key: int(count) for key, count in tx.connection.execute(many)}
    if not now:
        return {}
    at = max(sent[key].at for key in now)
    old = select(CREDENTIALS.c.id).where(CREDENTIALS.c.id.in_(list(now)), CREDENTIALS.c.created_at <= at - timedelta(days=1))
    hours: dict[str, dict[int, int]] = {key: {} for key in now}
    before = select(USAGE.c.credential_id, USAGE.c.slot, USAGE.c.recipients).where(
        USAGE.c.credential_id.in_(list(now)), USAGE.c.slot > slot - HOUR - DAY, USAGE.c.slot <= slot - HOUR
    )
    for key, then, count in tx.connection.execute(before):
        hour = (slot - then) // HOUR
        hours[key][hour] = hours[key].get(hour, 0) + count
    usual = {key: max(some.values(), default=0) for key, some in hours.items()}
    bursts = {key: errands.BURST for key, count in now.items() if usual[key] and count >= BURST * usual[key]}
    return bursts | {key: errands.AWAKE for key in tx.connection.scalars(old) if not usual[key]}


def _note_first_uses(tx: Transaction, uses: Mapping[str, Use]) -> None:
    """Writes down when each logged in first, and owes its maker that news."""
    columns = CREDENTIALS.c
    unused = select(columns.id, columns.owner, columns.created_by).where(columns.id.in_(list(uses)), columns.first_used_at.is_(None))
    for row in tx.connection.execute(unused.order_by(columns.id)).all():
        use = uses[row.id]
        first = update(CREDENTIALS).where(columns.id == row.id, columns.first_used_at.is_(None)).values(first_used_at=use.at)
        maker = next((one for one in (row.owner, row.created_by) if one and one.startswith(("U", "W"))), None)
        if tx.connection.execute(first).rowcount and maker:
            errands.add(tx, Kind.FIRST_USE, credential_id=row.id, person=maker, ids=(use.remote,) if use.remote else ())


def note_verified(tx: Transaction, credential_id: str, phc: str, tag: int, new: str | None) -> None:
    """A password fitted this hash: the row gets its tag, and the hash made anew with the present parameters if there is one. A note."""
    current = update(CREDENTIALS).where(CREDENTIALS.c.id == credential_id, CREDENTIALS.c.password_hash == phc)
    found = tx.connection.execute(current.values(password_tag=tag, password_hash=new or phc)).rowcount
    if found and new:
        values = {"credential_id": credential_id, "digest": digest(phc), "successor": digest(new)}
        tx.connection.execute(OLD_HASHES.insert().values(**values))
    previous = update(CREDENTIALS).where(CREDENTIALS.c.id == credential_id, CREDENTIALS.c.previous_hash == phc)
    tx.connection.execute(previous.values(previous_tag=tag))


def beat(
    tx: Transaction,
    process: str,
    name: str,
    started_at: datetime,
    stopped: bool = False,
    release: str | None = None,
    ends_sessions: bool = False,
) -> timedelta:
    """Says that the process lives, and sees the store as it was after the audit row that it writes down. A note.

    Args:
        ends_sessions: it has a policy service, by which mail servers ask whether an open session may go on.

    Returns:
        How far its clock is ahead of the database's; SQLite has no other clock.
    """
    insert = sqlite.insert(MAIL_SERVERS) if tx.sqlite else postgresql.insert(MAIL_SERVERS)
    seen = tx.connection.scalar(select(AUDIT_HEAD.c.last_event))
    now = database_time(tx)
    skew = 0 if tx.sqlite else milliseconds(tx.clock()) - milliseconds(now)
    skew = max(-SKEW_MAX, min(skew, SKEW_MAX))
    fresh = {
        "seen_at": now,
        "seen_event": seen,
        "stopped": stopped,
        "known_at": now,
        "clock_skew": skew,
        "release": release,
        "ends_sessions": ends_sessions,
    }
    values = insert.values(id=process, name=name, started_at=started_at, **fresh)
    known_at = MAIL_SERVERS.c.known_at
    knew = and_(MAIL_SERVERS.c.seen_event == values.excluded.seen_event, known_at.is_not(None))
    again = fresh | {"known_at": case((knew, known_at), else_=values.excluded.known_at)}
    tx.connection.execute(values.on_conflict_do_update(index_elements=["id"], set_=again))
    return timedelta(milliseconds=skew)


def database_time(tx: Transaction) -> datetime:
    """Now, by PostgreSQL's own clock; SQLite has none but ours."""
    now: datetime | None = None if tx.sqlite else tx.connection.scalar(select(DATABASE_TIME))
    return now or tx.now


def say_journal(tx: Transaction, process: str, words: str) -> bool:
    """Writes beside the heartbeat how the process keeps its journal; False while there is no heartbeat. A note."""
    saying = update(MAIL_SERVERS).where(MAIL_SERVERS.c.id == process)
    return tx.connection.execute(saying.values(journal=words)).rowcount == 1


def forget_old(tx: Transaction) -> None:
    """Drops counts and heartbeats that nobody asks for any more. A note."""
    tx.connection.execute(delete(USAGE).where(USAGE.c.slot < int((tx.now - COUNTED).timestamp()) // SLOT))
    tx.connection.execute(delete(MAIL_SERVERS).where(MAIL_SERVERS.c.seen_at < tx.now - HEARTBEATS_KEPT))

"""Orders about what a credential has queued on the mail servers, and what each host's queue service answered.

An order is written in the transaction of the change that it belongs to. Each host takes those that it has not answered, in their order. A
host that never comes back keeps nobody waiting: it has not answered. One that comes back late still holds, which loses nothing; what it was
to release or delete more than `LATE` ago it leaves, because nobody may remember that order, and says so.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Select, Table, and_, delete, exists, insert, or_, select, text
from sqlalchemy.dialects import postgresql, sqlite

from storage import errands
from storage.access import Action
from storage.audit import Origin, What, attempt
from storage.credentials import rows
from storage.database import Transaction
from storage.models import CREDENTIALS, ERRANDS, LIVE, QUEUE_ANSWERS, QUEUE_HOSTS, QUEUE_ORDERS, QueueOrder, as_row
from storage.workspaces import by_id

ALIVE = timedelta(seconds=15)
KNOWN = timedelta(days=7)
"""So long a host that fell silent is still waited for by name."""
REPEATED = timedelta(minutes=1)
"""So long after a host's first answer it holds what was in flight then, and what open sessions still brought."""
LATE = timedelta(days=1)
KEPT = timedelta(days=30)
ORDERS_AT_ONCE = 200
HELD_AT_ONCE = 500  # credentials of a workspace
HOSTS_MAX = 100
PROBLEM_MAX = 200  # characters
SHOWN = "shown"
"""The outcome of an errand whose person saw the answers already."""


class Act(StrEnum):
    """What is to become of queued messages."""

    HOLD = "hold"
    RELEASE = "release"
    DELETE = "delete"
    COUNT = "count"


NEEDS: Mapping[Act, Action] = {
    Act.HOLD: Action.DELETE,
    Act.COUNT: Action.DELETE,
    Act.RELEASE: Action.ADMINISTER,
    Act.DELETE: Action.ADMINISTER,
}


def order(tx: Transaction, origin: Origin, act: Act, credential_ids: Sequence[str]) -> list[int]:
    """Orders it for these credentials on every host; returns the orders' numbers. Within a change, also within another's.

    Raises:
        NotAllowed: holding and counting takes who may delete, releasing and deleting an admin. RoleUnknown, PersonBarred, NoSuchWorkspace.
    """
    numbers: list[int] = []
    query = select(CREDENTIALS.c.workspace_id, CREDENTIALS.c.id).where(CREDENTIALS.c.id.in_(credential_ids))
    found = tx.connection.execute(query.order_by(CREDENTIALS.c.workspace_id, CREDENTIALS.c.id)).all()
    for workspace_id, here in itertools.groupby(found, key=lambda row: row.workspace_id):
        with attempt(tx, What.QUEUE, origin) as current:
            current.subject = act.value
            workspace = by_id(tx, workspace_id)
            current.allow(NEEDS[act], workspace)
            current.credentials = rows(tx, select(CREDENTIALS).where(CREDENTIALS.c.id.in_([row.id for row in here])))
            about = {"action": act.value, "ordered_at": tx.now, "ordered_by": origin.actor.user, "workspace_id": workspace_id}
            made = insert(QUEUE_ORDERS).returning(QUEUE_ORDERS.c.id)
            here_made = sorted(tx.connection.scalars(made, [about | {"username": one.username} for one in current.credentials]))
            current.orders = tuple(map(str, here_made))
            numbers += here_made
    return numbers


def hold_all(tx: Transaction, origin: Origin, workspace_id: int) -> list[int]:
    """Orders to hold what the workspace's credentials have queued: of those used last, at most `HELD_AT_ONCE`. Raises what `order` does."""
    columns = CREDENTIALS.c
    living = select(columns.id).where(columns.workspace_id == workspace_id, text(LIVE)).order_by(columns.last_used_at.desc().nulls_last())
    return order(tx, origin, Act.HOLD, tx.connection.scalars(living.limit(HELD_AT_ONCE)).all())


# --- a host's side ---
def beat(tx: Transaction, host: str) -> None:
    """The host takes orders. A note."""
    _put(tx, QUEUE_HOSTS, {"host": host}, {"seen_at": tx.now})


def waiting_for(tx: Transaction, host: str) -> list[QueueOrder]:
    """The orders that this host has not answered, the oldest first, and then those to hold that it repeats; at most `ORDERS_AT_ONCE`.

    Nothing is held again after a later order about the same username, such as to release it.
    """
    orders, answers = QUEUE_ORDERS.c, QUEUE_ANSWERS.c
    later = QUEUE_ORDERS.alias()
    overtaken = exists().where(later.c.username == orders.username, later.c.id > orders.id, later.c.action != Act.COUNT.value)
    repeats = and_(orders.action == Act.HOLD.value, answers.at > tx.now - REPEATED, ~overtaken)
    query = select(QUEUE_ORDERS).outerjoin(QUEUE_ANSWERS, and_(answers.order_id == orders.id, answers.host == host))
    query = query.where(orders.ordered_at > tx.now - KEPT, or_(answers.order_id.is_(None), repeats))
    query = query.order_by(answers.order_id.is_not(None), orders.id).limit(ORDERS_AT_ONCE)
    return [as_row(QueueOrder, row) for row in tx.connection.execute(query)]


def is_late(one: QueueOrder, now: datetime) -> bool:
    """Whether it is no longer carried out. Holding loses nothing, so it always is."""
    return one.action != Act.HOLD.value and one.ordered_at < now - LATE


def answer(tx: Transaction, host: str, orders: Sequence[QueueOrder], counts: Mapping[str, int], problem: str | None = None) -> None:
    """Writes down what the host did: how many messages by username, or what was in the way. A note; `at` stays that of the first answer."""
    for one in orders:
        said = {"count": None if problem else counts.get(one.username, 0), "problem": problem[:PROBLEM_MAX] if problem else None}
        _put(tx, QUEUE_ANSWERS, {"order_id": one.id, "host": host}, said, {"at": tx.now})


def _put(tx: Transaction, table: Table, key: dict[str, Any], values: dict[str, Any], first: dict[str, Any] | None = None) -> None:
    """Writes the row with this key. `first`: what stays as it was when the row is there already."""
    insert = sqlite.insert(table) if tx.sqlite else postgresql.insert(table)
    making = insert.values(**key, **values, **(first or {}))
    tx.connection.execute(making.on_conflict_do_update(index_elements=list(key), set_=values))


# --- what people read ---
@dataclass(frozen=True)
class Answered:
    """What one host did about some orders, all together."""

    host: str
    count: int
    problem: str | None = None


@dataclass(frozen=True)
class Standing:
    """How far some orders of one kind are."""

    act: Act
    answered: Sequence[Answered] = ()
    silent: Sequence[str] = ()
    """Hosts that have not answered all of them."""
    waiting: bool = False
    """One of the silent ones is alive, so it will answer soon."""
    ordered_at: datetime | None = None
    credential_ids: Sequence[str] = field(default=())

    @property
    def count(self) -> int:
        return sum(one.count for one in self.answered)


def standing(tx: Transaction, numbers: Sequence[int]) -> Standing | None:
    """How far these orders, of one kind, are; None when they are no longer kept."""
    columns = QUEUE_ORDERS.c
    orders = [as_row(QueueOrder, row) for row in tx.connection.execute(select(QUEUE_ORDERS).where(columns.id.in_(numbers)))]
    if not orders:
        return None
    seen = {row.host: row.seen_at for row in tx.connection.execute(_known_hosts(tx))}
    answers: dict[str, list[tuple[int | None, str | None]]] = {host: [] for host in seen}
    query = select(QUEUE_ANSWERS.c.host, QUEUE_ANSWERS.c.count, QUEUE_ANSWERS.c.problem)
    for host, count, problem in tx.connection.execute(query.where(QUEUE_ANSWERS.c.order_id.in_([one.id for one in orders]))):
        answers.setdefault(host, []).append((count, problem))
    silent = [host for host in sorted(answers) if len(answers[host]) < len(orders)]
    answered = []
    for host in sorted(answers):
        if host not in silent:
            problem = next((problem for _, problem in answers[host] if problem), None)
            answered.append(Answered(host, sum(count or 0 for count, _ in answers[host]), problem))
    ids = tx.connection.scalars(select(CREDENTIALS.c.id).where(CREDENTIALS.c.username.in_([one.username for one in orders])))
    waiting = any(seen[host] > tx.now - ALIVE for host in silent if host in seen)
    return Standing(Act(orders[0].action), answered, silent, waiting, orders[0].ordered_at, sorted(ids))


def hosts(tx: Transaction) -> bool:
    """Whether any host takes orders."""
    return tx.connection.execute(_known_hosts(tx).limit(1)).first() is not None


def _known_hosts(tx: Transaction) -> Select[tuple[str, datetime]]:
    columns = QUEUE_HOSTS.c
    return select(columns.host, columns.seen_at).where(columns.seen_at > tx.now - KNOWN).order_by(columns.host).limit(HOSTS_MAX)


def latest(tx: Transaction, username: str) -> Standing | None:
    """How far the last order about this username is."""
    columns = QUEUE_ORDERS.c
    number = tx.connection.scalar(select(columns.id).where(columns.username == username).order_by(columns.id.desc()).limit(1))
    return standing(tx, [number]) if number else None


def seen(tx: Transaction, numbers: Sequence[int]) -> None:
    """The person saw the answers, so nobody needs to tell them. A note."""
    mine = set(map(str, numbers))
    open_ones = select(ERRANDS.c.id, ERRANDS.c.ids).where(ERRANDS.c.done_at.is_(None), ERRANDS.c.kind == errands.Kind.QUEUE.value)
    for errand_id, ids in tx.connection.execute(open_ones).all():
        if ids and mine.issuperset(ids):
            errands.finish(tx, errand_id, SHOWN)


def forget_old(tx: Transaction) -> None:
    """Drops old orders with their answers; called by the sweep. A note."""
    old = select(QUEUE_ORDERS.c.id).where(QUEUE_ORDERS.c.ordered_at < tx.now - KEPT).scalar_subquery()
    tx.connection.execute(delete(QUEUE_ANSWERS).where(QUEUE_ANSWERS.c.order_id.in_(old)))
    tx.connection.execute(delete(QUEUE_ORDERS).where(QUEUE_ORDERS.c.ordered_at < tx.now - KEPT))
    tx.connection.execute(delete(QUEUE_HOSTS).where(QUEUE_HOSTS.c.seen_at < tx.now - KEPT))

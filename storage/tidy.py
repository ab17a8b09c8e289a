"""Credentials that nothing uses: finding them, telling their owners once a month, and keeping those that are needed all the same."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import ColumnElement, func, or_, select, text

from storage import errands
from storage.access import Action, Actor
from storage.audit import Origin, What, attempt
from storage.credentials import about, save
from storage.database import Transaction
from storage.errands import Kind
from storage.lifecycle import check_live
from storage.mail_servers import reported
from storage.models import CREDENTIALS, DEPARTED, LIVE, WORKSPACES, Credential, State, Workspace
from storage.owners import LISTED, fact, keep_fact
from storage.workspaces import by_id

OWNERS_AT_ONCE = 50  # told in one transaction
WORKSPACES_TOLD = 50  # of one user group's
EXPIRING = timedelta(days=30)
TIDIED = "tidied"
"""The fact that says which month's notes were begun, and up to which owner."""


class Only(StrEnum):
    """What a list is narrowed to."""

    UNUSED = "unused"
    EXPIRING = "expiring"
    MINE = "mine"
    GONE = "gone"
    """Their owner has left."""


def conditions(only: Only | None, actor: Actor, now: datetime, unused_days: int) -> list[ColumnElement[bool]]:
    columns = CREDENTIALS.c
    match only:
        case None:
            return []
        case Only.UNUSED:
            return unused(now, unused_days)
        case Only.EXPIRING:
            return [columns.expires_at <= now + EXPIRING]
        case Only.MINE:
            return [columns.owner.in_([actor.user, *sorted(actor.groups)])]
        case Only.GONE:
            return [columns.owner.in_(select(DEPARTED.c.person))]


def unused(now: datetime, days: int) -> list[ColumnElement[bool]]:
    """Those that work, and that nothing used for so many days, nor did anybody say in that time that they are needed."""
    columns, since = CREDENTIALS.c, now - timedelta(days=days)
    return [
        columns.state == State.ACTIVE.value,
        func.coalesce(columns.last_used_at, columns.created_at) <= since,
        or_(columns.kept_at.is_(None), columns.kept_at <= since),
        or_(columns.expires_at.is_(None), columns.expires_at > now),
    ]


def owe_notes(tx: Transaction, days: int) -> int:
    """Owes this month's notes to some owners who were not told yet; how many: none are left at 0. A note.

    Nothing is owed where no mail server reports what is used.
    """
    month = f"{tx.now:%Y-%m}"
    begun, _, after = fact(tx, TIDIED).partition(" ")
    if begun != month:
        after = ""
    if after == "done" or not reported(tx):
        return 0
    columns = CREDENTIALS.c
    idle = unused(tx.now, days)
    told = 0
    while told < OWNERS_AT_ONCE:
        # The index of owners holds what is live, so the query says so too.
        following = select(columns.owner).where(columns.owner > after, text(LIVE), *idle)
        owner = tx.connection.scalar(following.order_by(columns.owner).limit(1))
        if owner is None:
            after = "done"
            break
        after = owner
        told += 1
        if owner.startswith("S"):
            where = select(columns.workspace_id).where(columns.owner == owner, *idle).distinct().limit(WORKSPACES_TOLD)
            for workspace_id in sorted(tx.connection.scalars(where)):
                errands.add(tx, Kind.TIDY, person=owner, workspace_id=workspace_id)
        elif owner.startswith(("U", "W")):
            errands.add(tx, Kind.TIDY, person=owner)
    keep_fact(tx, TIDIED, f"{month} {after}")
    return told


@dataclass(frozen=True)
class Idle:
    """What an owner has that nothing uses."""

    rows: list[tuple[Credential, Workspace]]
    total: int


def idle_of(tx: Transaction, owner: str, workspace_id: int | None, days: int, limit: int = LISTED) -> Idle:
    """At most `limit` of them, those unused for longest first; in one workspace, or in all."""
    which = [CREDENTIALS.c.owner == owner, *unused(tx.now, days)]
    if workspace_id is not None:
        which.append(CREDENTIALS.c.workspace_id == workspace_id)
    since = func.coalesce(CREDENTIALS.c.last_used_at, CREDENTIALS.c.created_at)
    # The index of owners holds what is live, so the query says so too.
    query = select(CREDENTIALS, *WORKSPACES.c).join_from(CREDENTIALS, WORKSPACES).where(text(LIVE), *which)
    split = len(CREDENTIALS.c)
    found = [
        (Credential(*row[:split]), Workspace(*row[split:]))
        for row in tx.connection.execute(query.order_by(since, CREDENTIALS.c.id).limit(limit))
    ]
    total = len(found)
    if total == limit:
        total = tx.connection.scalar(select(func.count()).select_from(CREDENTIALS).where(text(LIVE), *which)) or 0
    return Idle(found, total)


def keep(tx: Transaction, origin: Origin, credential_id: str) -> tuple[Credential, Workspace]:
    """Somebody says that it is needed although nothing uses it: nobody is asked again for a while.

    Raises:
        NotAllowed, RoleUnknown, PersonBarred, NoSuchCredential, AlreadyDeleted.
    """
    with attempt(tx, What.KEEP, origin) as current:
        credential = about(current, credential_id)
        workspace = by_id(tx, credential.workspace_id)
        current.allow(Action.DELETE, workspace)
        check_live(credential)
        current.credential = credential = save(tx, credential, kept_at=tx.now)
    return credential, workspace

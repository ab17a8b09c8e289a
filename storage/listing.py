"""Reading credentials: by username, by what a person typed, and in pages."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, or_, select, text

from storage import names
from storage.credentials import already_deleted, rows
from storage.database import Transaction
from storage.models import CREDENTIALS, LIVE, NOT_DELETED, Credential, State, Workspace
from storage.refusals import NoSuchCredential

PAGE_ROWS = 10
SUGGEST_AMONG = 500


class Order(StrEnum):
    NEWEST = "newest"
    OLDEST = "oldest"


@dataclass(frozen=True)
class Place:
    """Where in a list a page begins: after this credential, or before it."""

    credential_id: str
    before: bool = False
    position: int = 0
    """How many rows stand before the page; only shown, never counted with."""


@dataclass(frozen=True)
class Page:
    rows: Sequence[Credential]
    total: int
    first: int
    """The position of the first row, from 1."""
    previous: Place | None
    next: Place | None


def by_username(tx: Transaction, username: str) -> Credential | None:
    """In whatever workspace, also deleted ones."""
    return next(iter(rows(tx, select(CREDENTIALS).where(CREDENTIALS.c.username == username))), None)


def by_usernames(tx: Transaction, usernames: Sequence[str]) -> list[Credential]:
    """Those that there are, also deleted ones, in the order of the usernames."""
    found = rows(tx, select(CREDENTIALS).where(CREDENTIALS.c.username.in_(usernames)))
    return sorted(found, key=lambda one: usernames.index(one.username))


def find(tx: Transaction, workspace: Workspace, target: str, limit: int = 10) -> list[Credential]:
    """The live credentials of the workspace that a typed name or username means: the one it names, or those that contain it.

    Raises:
        NoSuchCredential: with the closest name. AlreadyDeleted: it is the username of a deleted one of this workspace.
    """
    target = target.strip()
    key = names.name_key(target)
    live = select(CREDENTIALS).where(CREDENTIALS.c.workspace_id == workspace.id, text(LIVE))
    # The index of names holds what is not deleted, so the query says so too.
    found = rows(tx, live.where(CREDENTIALS.c.name_key == key, text(NOT_DELETED)))
    known = by_username(tx, target.lower())
    if known and known.workspace_id == workspace.id and known.state in (State.ACTIVE, State.SUSPENDED):
        found.append(known)
    if not found and key:
        found = rows(tx, live.where(_contains(key)).limit(limit))
    if found:
        return found
    if known and known.workspace_id == workspace.id and known.state == State.DELETED:
        raise already_deleted(known)
    some = select(CREDENTIALS.c.name).where(CREDENTIALS.c.workspace_id == workspace.id, text(LIVE))
    candidates = tx.connection.scalars(some.order_by(CREDENTIALS.c.created_at.desc()).limit(SUGGEST_AMONG)).all()
    closest = difflib.get_close_matches(target, candidates, n=1)
    raise NoSuchCredential(target, closest[0] if closest else None)


def is_named(credential: Credential, target: str) -> bool:
    """Whether the typed text is the credential's whole name or username, not only a part of it."""
    return names.name_key(target.strip()) == credential.name_key or target.strip().lower() == credential.username


def page(
    tx: Transaction,
    workspace: Workspace,
    order: Order,
    words: str = "",
    place: Place | None = None,
    size: int = PAGE_ROWS,
    only: Sequence[ColumnElement[bool]] = (),
) -> Page:
    """Some rows of the workspace's live credentials.

    Args:
        only: what else must be so of each row.
        words: each must stand in the name (in any case) or in the username.
        place: where the page begins; None, or a credential that is gone, begins at the top.
    """
    listed: list[ColumnElement[bool]] = [CREDENTIALS.c.workspace_id == workspace.id, text(LIVE)]  # type: ignore[list-item]
    listed += [_contains(names.name_key(word)) for word in words.split()]
    listed += only
    narrowed = bool(words or only)
    descending = order is Order.NEWEST
    anchor = _anchor(tx, workspace, place)
    if anchor is None:
        place = None
    backwards = place is not None and place.before
    query = select(CREDENTIALS).where(*listed)
    if anchor is not None:
        query = query.where(_beyond(anchor, descending != backwards))
    found = rows(tx, _sorted(query, descending != backwards).limit(size + 1))
    more = len(found) > size
    found = found[:size]
    if backwards:
        found.reverse()
        if not more and len(found) < size:
            return page(tx, workspace, order, words, size=size, only=only)
    total = workspace.credential_count
    if narrowed and place is None and not more:
        total = len(found)  # all that match are here: a second search would only count them
    elif narrowed:
        total = tx.connection.scalar(select(func.count()).select_from(CREDENTIALS).where(*listed)) or 0
    first = min(place.position, max(total - len(found), 0)) + 1 if place else 1
    if place and not backwards and not more:
        first = max(total - len(found), 0) + 1
    has_previous = more if backwards else place is not None
    has_next = True if backwards else more
    return Page(
        found,
        total,
        first,
        Place(found[0].id, before=True, position=max(first - 1 - size, 0)) if found and has_previous else None,
        Place(found[-1].id, position=first - 1 + len(found)) if found and has_next else None,
    )


def _anchor(tx: Transaction, workspace: Workspace, place: Place | None) -> Any:
    if place is None:
        return None
    columns = (CREDENTIALS.c.created_at, CREDENTIALS.c.id)
    query = select(*columns).where(CREDENTIALS.c.id == place.credential_id, CREDENTIALS.c.workspace_id == workspace.id)
    return tx.connection.execute(query).one_or_none()


def _contains(key: str) -> ColumnElement[bool]:
    return or_(CREDENTIALS.c.name_key.contains(key, autoescape=True), CREDENTIALS.c.username.contains(key, autoescape=True))


def _beyond(anchor: Any, descending: bool) -> ColumnElement[bool]:
    at, key = CREDENTIALS.c.created_at, CREDENTIALS.c.id
    if descending:
        return and_(at <= anchor.created_at, or_(at < anchor.created_at, key < anchor.id))
    return and_(at >= anchor.created_at, or_(at > anchor.created_at, key > anchor.id))


def _sorted(query: Select[Any], descending: bool) -> Select[Any]:
    columns = (CREDENTIALS.c.created_at, CREDENTIALS.c.id)
    return query.order_by(*(column.desc() for column in columns)) if descending else query.order_by(*columns)

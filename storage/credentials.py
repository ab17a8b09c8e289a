"""Credentials: made pending, activated when their password was handed over, listed, deleted.

Every change is one transaction with its audit row, and checks the actor's right inside it.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import ColumnElement, Select, and_, func, or_, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from storage import names, passwords
from storage.access import Action
from storage.audit import Attempt, Origin, What, attempt
from storage.database import Database
from storage.models import LIVE, NOT_DELETED, Credential, State, Workspace
from storage.refusals import (
    AlreadyDeleted,
    AlreadyRequested,
    NameTaken,
    NoLongerPending,
    NoSuchCredential,
    NotDue,
)
from storage.workspaces import by_id, of_channel

PAGE_ROWS = 10
PENDING_LIFETIME = timedelta(minutes=5)
REMIND_BEFORE = (timedelta(days=7), timedelta(days=1))
SWEEP_BATCH = 100
SUGGEST_AMONG = 500
DELETED_AT_ONCE = 500  # in one transaction, which others wait for


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


async def create_pending(
    db: Database, origin: Origin, channel: str, name: str, request_key: str, expires_at: datetime | None = None
) -> tuple[Credential, Workspace]:
    """The first step of section 5: a row without a hash, which cannot log in.

    Args:
        channel: its workspace gets the credential, and the password will be shown there.
        request_key: Slack team and view id; a second submission of the same modal is refused.

    Raises:
        NameInvalid, NameTaken, ChannelNotMapped, ChannelPaused, NotAllowed, RoleUnknown, PersonBarred, AlreadyRequested.
    """
    name = names.clean_name(name)
    async with attempt(db, What.CREATE, origin) as current:
        session = current.session
        workspace = await of_channel(session, origin.actor.team, channel)
        await current.allow(Action.CREATE, workspace)
        key = names.name_key(name)
        same_name = and_(Credential.workspace_id == workspace.id, Credential.name_key == key, text(NOT_DELETED))
        in_the_way = (
            await session.scalars(select(Credential.request_key).where(or_(Credential.request_key == request_key, same_name)))
        ).all()
        if in_the_way:
            raise AlreadyRequested if request_key in in_the_way else NameTaken(name, workspace.name)
        credential_id = passwords.new_id()
        credential = Credential(
            id=credential_id,
            workspace_id=workspace.id,
            name=name,
            name_key=key,
            username=names.username(workspace.slug, credential_id),
            state=State.PENDING,
            version=1,
            created_at=db.clock(),
            created_by=origin.actor.user,
            created_in=channel,
            request_key=request_key,
            expires_at=expires_at,
            remind_at=next_reminder(expires_at, db.clock()),
        )
        session.add(credential)
        current.credential = credential
    return credential, workspace


async def activate(db: Database, origin: Origin, credential_id: str, password_hash: str, tag: int | None = None) -> Credential:
    """The last step: the password was handed over.

    Args:
        tag: `passwords.tag` of the password.

    Raises:
        NoLongerPending: the credential was discarded meanwhile.
    """
    async with attempt(db, What.ACTIVATE, origin) as current:
        credential = await _about(current, credential_id)
        if credential.state != State.PENDING:
            raise NoLongerPending
        credential.state = State.ACTIVE
        credential.password_hash = password_hash
        credential.password_tag = tag
        credential.version += 1
        await _count(current, credential, +1)
    return credential


async def discard(db: Database, origin: Origin, credential_id: str, reason: str) -> bool:
    """Ends a pending credential whose password was not, or not surely, handed over. False when it is no longer pending."""
    try:
        async with attempt(db, What.DISCARD, origin, reason) as current:
            credential = await _about(current, credential_id)
            if credential.state != State.PENDING:
                raise NoLongerPending
            _end(credential, origin.actor.user, db.clock())
    except NoLongerPending:
        return False
    return True


async def abandoned(db: Database) -> Sequence[Credential]:
    """Pending credentials older than `PENDING_LIFETIME`: what a crash left behind."""
    query = select(Credential).where(text("state = 'pending'"), Credential.created_at < db.clock() - PENDING_LIFETIME)
    async with db.read() as session:
        return (await session.scalars(query.order_by(Credential.created_at).limit(SWEEP_BATCH))).all()


async def delete(db: Database, origin: Origin, credential_id: str, reason: str | None = None) -> tuple[Credential, Workspace]:
    """Deletes for ever: state, hash and audit row in one transaction; a mail server refuses the next log-in.

    Raises:
        NotAllowed, RoleUnknown, PersonBarred, NoSuchCredential, AlreadyDeleted (with who and when).
    """
    async with attempt(db, What.DELETE, origin, reason) as current:
        credential = await _about(current, credential_id)
        workspace = await by_id(current.session, credential.workspace_id)
        await current.allow(Action.DELETE, workspace)
        if credential.state == State.DELETED:
            raise already_deleted(credential)
        if credential.state != State.PENDING:
            await _count(current, credential, -1)
        _end(credential, origin.actor.user, db.clock())
    return credential, workspace


async def delete_some(db: Database, origin: Origin, workspace_id: int, reason: str | None = None) -> Sequence[Credential]:
    """Deletes up to `DELETED_AT_ONCE` of the workspace's live credentials, the oldest first; none are left when it returns none.

    Raises:
        NotAllowed (it takes an admin), RoleUnknown, PersonBarred, NoSuchWorkspace.
    """
    async with attempt(db, What.DELETE, origin, reason) as current:
        workspace = await by_id(current.session, workspace_id)
        await current.allow(Action.ADMINISTER, workspace)
        live = select(Credential).where(Credential.workspace_id == workspace.id, text(LIVE))
        gone = (await current.session.scalars(_sorted(live, descending=False).limit(DELETED_AT_ONCE))).all()
        for credential in gone:
            _end(credential, origin.actor.user, db.clock())
        workspace.credential_count -= len(gone)
        current.credentials = gone
        current.void = not gone
    return gone


async def overdue(db: Database) -> Sequence[Credential]:
    """Suspended credentials that nobody resumed in the time that was given for it."""
    query = select(Credential).where(Credential.delete_at <= db.clock(), Credential.state == State.SUSPENDED)
    async with db.read() as session:
        return (await session.scalars(query.order_by(Credential.delete_at).limit(SWEEP_BATCH))).all()


async def delete_overdue(db: Database, origin: Origin, credential_id: str) -> tuple[Credential, Workspace]:
    """Deletes an overdue one, as whoever suspended it decided. Raises NotDue when it was resumed or deleted meanwhile."""
    async with attempt(db, What.DELETE, origin, "suspended, and not resumed in time") as current:
        credential = await _about(current, credential_id)
        if credential.state != State.SUSPENDED or credential.delete_at is None or credential.delete_at > db.clock():
            raise NotDue
        await _count(current, credential, -1)
        _end(credential, origin.actor.user, db.clock())
        workspace = await by_id(current.session, credential.workspace_id)
    return credential, workspace


def next_reminder(expires_at: datetime | None, now: datetime) -> datetime | None:
    """When the next reminder of the expiry is due, if any is left."""
    days = [expires_at - before for before in REMIND_BEFORE] if expires_at else []
    return min((day for day in days if day > now), default=None)


def already_deleted(credential: Credential) -> AlreadyDeleted:
    if credential.deleted_by is None or credential.deleted_at is None:
        raise ValueError(f"{credential.username} is not deleted")
    return AlreadyDeleted(credential.name, credential.username, credential.deleted_by, credential.deleted_at)


async def get(session: AsyncSession, credential_id: str) -> tuple[Credential, Workspace]:
    """Raises NoSuchCredential."""
    credential = await session.get(Credential, credential_id)
    if credential is None:
        raise NoSuchCredential
    return credential, await by_id(session, credential.workspace_id)


async def by_username(session: AsyncSession, username: str) -> Credential | None:
    """In whatever workspace, also deleted ones."""
    return (await session.scalars(select(Credential).where(Credential.username == username))).one_or_none()


async def by_usernames(session: AsyncSession, usernames: Sequence[str]) -> Sequence[Credential]:
    """Those that there are, also deleted ones, in the order of the usernames."""
    found = (await session.scalars(select(Credential).where(Credential.username.in_(usernames)))).all()
    return sorted(found, key=lambda one: usernames.index(one.username))


async def find(session: AsyncSession, workspace: Workspace, target: str, limit: int = 10) -> list[Credential]:
    """The live credentials of the workspace that a typed name or username means: the one it names, or those that contain it.

    Raises:
        NoSuchCredential: with the closest name. AlreadyDeleted: it is the username of a deleted one of this workspace.
    """
    target = target.strip()
    key = names.name_key(target)
    live = select(Credential).where(Credential.workspace_id == workspace.id, text(LIVE))
    exact = live.where(or_(Credential.name_key == key, Credential.username == target.lower()))
    found = (await session.scalars(exact)).all()
    if not found and key:
        found = (await session.scalars(live.where(_contains(key)).limit(limit))).all()
    if found:
        return list(found)
    known = await by_username(session, target.lower())
    if known and known.workspace_id == workspace.id and known.state == State.DELETED:
        raise already_deleted(known)
    some = select(Credential.name).where(Credential.workspace_id == workspace.id, text(LIVE))
    some = some.order_by(Credential.created_at.desc()).limit(SUGGEST_AMONG)
    candidates = (await session.scalars(some)).all()
    closest = difflib.get_close_matches(target, candidates, n=1)
    raise NoSuchCredential(target, closest[0] if closest else None)


def is_named(credential: Credential, target: str) -> bool:
    """Whether the typed text is the credential's whole name or username, not only a part of it."""
    return names.name_key(target.strip()) == credential.name_key or target.strip().lower() == credential.username


async def page(
    session: AsyncSession, workspace: Workspace, order: Order, words: str = "", place: Place | None = None, size: int = PAGE_ROWS
) -> Page:
    """Some rows of the workspace's live credentials.

    Args:
        words: each must stand in the name (in any case) or in the username.
        place: where the page begins; None, or a credential that is gone, begins at the top.
    """
    listed: list[ColumnElement[bool]] = [Credential.workspace_id == workspace.id, text(LIVE)]  # type: ignore[list-item]
    listed += [_contains(names.name_key(word)) for word in words.split()]
    descending = order is Order.NEWEST
    anchor = await session.get(Credential, place.credential_id) if place else None
    if anchor is None or anchor.workspace_id != workspace.id:
        anchor = place = None
    backwards = place is not None and place.before
    query = select(Credential).where(*listed)
    if anchor is not None:
        query = query.where(_beyond(anchor, descending != backwards))
    query = _sorted(query, descending != backwards).limit(size + 1)
    rows = list((await session.scalars(query)).all())
    more = len(rows) > size
    rows = rows[:size]
    if backwards:
        rows.reverse()
        if not more and len(rows) < size:
            return await page(session, workspace, order, words, size=size)
    total = workspace.credential_count
    if words and place is None and not more:
        total = len(rows)  # all that match are here: a second search would only count them
    elif words:
        total = (await session.scalars(select(func.count()).select_from(Credential).where(*listed))).one()
    first = min(place.position, max(total - len(rows), 0)) + 1 if place else 1
    if place and not backwards and not more:
        first = max(total - len(rows), 0) + 1
    has_previous = more if backwards else place is not None
    has_next = True if backwards else more
    return Page(
        rows,
        total,
        first,
        Place(rows[0].id, before=True, position=max(first - 1 - size, 0)) if rows and has_previous else None,
        Place(rows[-1].id, position=first - 1 + len(rows)) if rows and has_next else None,
    )


def _contains(key: str) -> ColumnElement[bool]:
    return or_(Credential.name_key.contains(key, autoescape=True), Credential.username.contains(key, autoescape=True))


def _beyond(anchor: Credential, descending: bool) -> ColumnElement[bool]:
    at, key = Credential.created_at, Credential.id
    if descending:
        return and_(at <= anchor.created_at, or_(at < anchor.created_at, key < anchor.id))
    return and_(at >= anchor.created_at, or_(at > anchor.created_at, key > anchor.id))


def _sorted(query: Select[Credential], descending: bool) -> Select[Credential]:
    if descending:
        return query.order_by(Credential.created_at.desc(), Credential.id.desc())
    return query.order_by(Credential.created_at, Credential.id)


async def _about(current: Attempt, credential_id: str) -> Credential:
    credential = await current.session.get(Credential, credential_id)
    if credential is None:
        raise NoSuchCredential
    current.credential = credential
    current.workspace = await by_id(current.session, credential.workspace_id)
    return credential


async def _count(current: Attempt, credential: Credential, change: int) -> None:
    workspace = await by_id(current.session, credential.workspace_id)
    workspace.credential_count += change


def _end(credential: Credential, by: str, at: datetime) -> None:
    credential.state = State.DELETED
    credential.password_hash = credential.password_tag = None
    credential.previous_hash = credential.previous_tag = credential.previous_until = None
    credential.rotation_begun_at = credential.delete_at = credential.remind_at = None
    credential.version += 1
    credential.deleted_by = by
    credential.deleted_at = at

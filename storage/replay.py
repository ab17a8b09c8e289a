"""The store held against a journal: what ended in it, what works again after a restore, and revoking that again.

`storage/past.py` follows the store for one process. What any journal names and the store lets work is written into the store (`revived`),
so that one press revokes it, whichever host's journal it was that knew.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from storage import audit, credentials, workspaces
from storage.access import Action
from storage.audit import Again, Origin, What, attempt
from storage.credentials import rows
from storage.database import Database, Transaction
from storage.errands import Kind, add
from storage.journal import Back, Mark, Memory, digest
from storage.models import (
    AUDIT_EVENTS,
    CREDENTIALS,
    FACTS,
    OLD_HASHES,
    RESTORES,
    REVIVED,
    WORKSPACES,
    Credential,
    Restore,
    Revived,
    State,
    as_row,
)

BATCH = 500  # things looked at, or revoked again, in one transaction


class Revival(StrEnum):
    """What is alive again."""

    CREDENTIAL = "credential"
    PASSWORD = "password"  # noqa: S105
    SUSPENDED = "suspended"
    WORKSPACE = "workspace"


# --- what the store says ---
@dataclass(frozen=True)
class Look:
    store: str
    head: Mark
    same: bool
    """The row of the mark has still the mark's hash."""


def look(tx: Transaction, mark: Mark | None) -> Look:
    store = tx.connection.scalar(select(FACTS.c.value).where(FACTS.c.key == "store"))
    end = audit.head(tx)
    if mark is None or mark.event > end.event:
        same = mark is None
    else:
        same = (end.hash if mark.event == end.event else audit.hash_of(tx, mark.event)) == mark.hash
    return Look(store or "", Mark(end.event, end.hash), same)


@dataclass(frozen=True)
class News:
    """What the audit rows of a stretch are about, as the store says it now."""

    touched: dict[str, tuple[str, int]]
    """Credential id -> its state, and the last of the rows."""
    resumed: set[str]
    """Credential ids and slugs of those that somebody resumed in it."""
    passwords: list[tuple[str, str, int]]
    """Credential id, digest and row of each password that ended."""


def news(tx: Transaction, after: int, last: int) -> News:
    """Of the rows after `after` up to `last`."""
    events = AUDIT_EVENTS.c
    here = (events.id > after, events.id <= last, events.outcome == "done")
    about = select(events.credential_id, CREDENTIALS.c.state, func.max(events.id)).join_from(
        AUDIT_EVENTS, CREDENTIALS, CREDENTIALS.c.id == events.credential_id
    )
    touched = {
        key: (state, event) for key, state, event in tx.connection.execute(about.where(*here).group_by(events.credential_id, "state"))
    }
    resumed = set(tx.connection.scalars(select(events.credential_id).where(*here, events.action == What.RESUME.value)).all())
    slugs = select(WORKSPACES.c.slug).join_from(AUDIT_EVENTS, WORKSPACES, WORKSPACES.c.id == events.workspace_id)
    resumed |= set(tx.connection.scalars(slugs.where(*here, events.action == What.RESUME_ALL.value)).all())
    old = OLD_HASHES.c
    ended = select(old.credential_id, old.digest, old.event_id).where(old.event_id > after, old.event_id <= last)
    return News(touched, resumed, [(key, hashed, event) for key, hashed, event in tx.connection.execute(ended.order_by(old.event_id))])


def suspended_workspaces(tx: Transaction) -> set[str]:
    return set(tx.connection.scalars(select(WORKSPACES.c.slug).where(WORKSPACES.c.suspended_at.is_not(None))).all())


def alive(tx: Transaction, ids: Sequence[str], memory: Memory) -> list[Revived]:
    """Those of the credentials that the store says work, although the journal names them."""
    columns = CREDENTIALS.c
    found = []
    query = select(columns.id, columns.state, columns.password_hash, columns.previous_hash).where(columns.id.in_(ids))
    for key, state, *hashes in tx.connection.execute(query):
        if state == State.DELETED:
            continue
        if key in memory.deleted:
            found.append(Revived(Revival.CREDENTIAL.value, key, key))
            continue
        if key in memory.suspended and state == State.ACTIVE:
            found.append(Revived(Revival.SUSPENDED.value, key, key))
        digests = {digest(one) for one in hashes if one}
        found += [Revived(Revival.PASSWORD.value, one, key) for one in digests if one in memory.passwords]
    return found


def alive_workspaces(tx: Transaction, slugs: Iterable[str]) -> list[Revived]:
    query = select(WORKSPACES.c.slug).where(WORKSPACES.c.slug.in_(list(slugs)), WORKSPACES.c.suspended_at.is_(None))
    return [Revived(Revival.WORKSPACE.value, slug, None) for slug in tx.connection.scalars(query)]


async def missing(db: Database, memory: Memory) -> list[Revived]:
    """All that the journal names and the store says works."""
    ids = list(dict.fromkeys([*memory.deleted, *memory.suspended, *(key for _, key in memory.passwords.values())]))
    found = await db.read(alive_workspaces, list(memory.workspaces))
    for start in range(0, len(ids), BATCH):
        found += await db.read(alive, ids[start : start + BATCH], memory)
    return found


def open_restores(tx: Transaction) -> list[Restore]:
    """Those after which nobody had what was revoked revoked again; the first first."""
    return [
        as_row(Restore, row)
        for row in tx.connection.execute(select(RESTORES).where(RESTORES.c.settled_at.is_(None)).order_by(RESTORES.c.id))
    ]


@dataclass(frozen=True)
class Standing:
    """How the store stands to its past."""

    restores: list[Restore]
    count: int
    """Things that work again although they were revoked."""
    some: list[str]
    """Names of the first of them."""

    @property
    def sentence(self) -> str | None:
        """For operators; None when nothing is wrong."""
        if not self.restores:
            return None
        one = self.restores[-1]
        again = f"{self.count} that were revoked are in it as if they worked" if self.count else "nothing that was revoked came back"
        return f"the database went back in time, from audit row {one.lost_event} to {one.kept_event}, as a restore does it; {again}"


def standing(tx: Transaction, most: int = 20) -> Standing:
    restores = open_restores(tx)
    if not restores:
        return Standing([], 0, [])
    count = tx.connection.scalar(select(func.count()).select_from(REVIVED)) or 0
    named = select(REVIVED.c.kind, func.coalesce(CREDENTIALS.c.username, REVIVED.c.key)).join_from(
        REVIVED, CREDENTIALS, CREDENTIALS.c.id == REVIVED.c.credential_id, isouter=True
    )
    said = {Revival.PASSWORD: "an old password of ", Revival.WORKSPACE: "all of the workspace "}
    first = tx.connection.execute(named.order_by(REVIVED.c.kind, REVIVED.c.key).limit(most))
    some = [said.get(Revival(kind), "") + name for kind, name in first]
    return Standing(restores, count, some)


# --- what is written down, and made again ---
def post(tx: Transaction, found: Sequence[Revived], back: Back, by: str) -> None:
    """Writes down that the store went back, unless that is known already, and what works again. A note."""
    if not open_restores(tx):
        values = {"lost_event": back.lost.event, "lost_hash": back.lost.hash, "kept_event": back.kept}
        tx.connection.execute(insert(RESTORES).values(**values, noticed_at=tx.now, noticed_by=by))
    adding = (sqlite.insert(REVIVED) if tx.sqlite else postgresql.insert(REVIVED)).on_conflict_do_nothing()
    if found:
        given = [{"kind": one.kind, "key": one.key, "credential_id": one.credential_id} for one in found]
        tx.connection.execute(adding, given)


def announce(tx: Transaction, origin: Origin, owners: Iterable[str]) -> bool:
    """Owes the app's owners the news that the store went back; whether there was any. One of several processes does it."""
    with attempt(tx, What.WENT_BACK, origin) as current:
        untold = [one for one in open_restores(tx) if one.told_at is None]
        current.void = not untold
        if untold:
            current.subject = f"row {untold[-1].lost_event} to {untold[-1].kept_event}"
            tx.connection.execute(update(RESTORES).where(RESTORES.c.id.in_([one.id for one in untold])).values(told_at=tx.now))
            for owner in sorted(owners):
                add(tx, Kind.WENT_BACK, person=owner)
    return bool(untold)


def revoke_again(tx: Transaction, origin: Origin, limit: int = BATCH) -> list[str]:
    """Revokes what works again, up to `limit`, each with its audit row; says what. Empty when nothing is left.

    Raises:
        NotAllowed (it takes an owner of the app), RoleUnknown, PersonBarred.
    """
    with attempt(tx, What.REPLAY, origin) as current:
        current.allow(Action.MAKE_WORKSPACE, None)
        current.void = True
    found = [as_row(Revived, row) for row in tx.connection.execute(select(REVIVED).order_by(REVIVED.c.kind, REVIVED.c.key).limit(limit))]
    done: list[str] = []
    ids = [one.credential_id for one in found if one.credential_id]
    known = {one.id: one for one in rows(tx, select(CREDENTIALS).where(CREDENTIALS.c.id.in_(ids)))}
    deleted: dict[int, list[Credential]] = {}
    for one in found:
        credential = known.get(one.credential_id or "")
        if one.kind == Revival.CREDENTIAL and credential and credential.state != State.DELETED:
            deleted.setdefault(credential.workspace_id, []).append(credential)
    for workspace_id, living in deleted.items():
        with attempt(tx, What.REPLAY, origin) as current:
            current.subject = Again.DELETED.value
            credentials.delete_again(current, living, workspaces.by_id(tx, workspace_id))
            known |= {one.id: one for one in current.credentials}
        done += [f"{credential.username}: deleted" for credential in living]
    stopped = {"state": State.SUSPENDED.value, "suspended_at": tx.now, "suspended_by": origin.actor.user, "rotation_begun_at": None}
    suspended: dict[str, dict[str, Any]] = {}
    ended: dict[str, dict[str, Any]] = {}
    for one in found:
        credential = known.get(one.credential_id or "")
        if one.kind == Revival.WORKSPACE:
            done += _suspend_workspace(tx, origin, one.key)
        elif credential and credential.state in (State.ACTIVE, State.SUSPENDED):
            if one.kind == Revival.SUSPENDED and credential.state == State.ACTIVE:
                suspended[credential.id] = stopped
            if one.kind == Revival.PASSWORD and (changes := _without(credential, one.key)):
                ended[credential.id] = ended.get(credential.id, {}) | changes
    _change_each(tx, origin, Again.SUSPENDED, known, suspended)
    done += [f"{known[one].username}: suspended" for one in suspended]
    _change_each(tx, origin, Again.PASSWORD, known, ended)
    for key, changes in ended.items():
        needs = "; it needs a new one" if "password_hash" in changes else ""
        done.append(f"{known[key].username}: an old password ended{needs}")
    for one in found:
        tx.connection.execute(delete(REVIVED).where(REVIVED.c.kind == one.kind, REVIVED.c.key == one.key))
    return done if found else []


def _suspend_workspace(tx: Transaction, origin: Origin, slug: str) -> list[str]:
    workspace = workspaces.by_slug(tx, slug)
    if workspace is None or workspace.suspended_at is not None:
        return []
    with attempt(tx, What.REPLAY, origin) as current:
        current.subject = Again.ALL_SUSPENDED.value
        current.workspace = workspaces.save(tx, workspace, suspended_at=tx.now, suspended_by=origin.actor.user)
    return [f"workspace {slug}: suspended"]


def _change_each(tx: Transaction, origin: Origin, what: Again, known: dict[str, Credential], changes: dict[str, dict[str, Any]]) -> None:
    """By credential id; those of a workspace together, so that they are told of together. `known` has them as they are then."""
    here: dict[int, list[str]] = {}
    for key in changes:
        here.setdefault(known[key].workspace_id, []).append(key)
    for workspace_id, keys in here.items():
        with attempt(tx, What.REPLAY, origin) as current:
            current.workspace = workspaces.by_id(tx, workspace_id)
            current.subject = what.value
            for key in keys:
                known[key] = credentials.save(tx, known[key], **changes[key], version=known[key].version + 1)
            current.credentials = [known[key] for key in keys]


def _without(credential: Credential, hashed: str) -> dict[str, Any]:
    """What takes the password with this digest away from the credential."""
    changes: dict[str, Any] = {}
    if credential.previous_hash and digest(credential.previous_hash) == hashed:
        changes |= {"previous_hash": None, "previous_tag": None, "previous_until": None, "previous_used_at": None}
    if credential.password_hash and digest(credential.password_hash) == hashed:
        changes |= {"password_hash": None, "password_tag": None, "rotation_begun_at": None}
    return changes


def left(tx: Transaction) -> bool:
    """Whether anything is left to be revoked again."""
    return tx.connection.scalar(select(REVIVED.c.key).limit(1)) is not None


def settle(tx: Transaction, origin: Origin) -> list[Restore]:
    """Says that all is revoked again, which all journals then go on from. Returns what is settled by that.

    Raises:
        NotAllowed (it takes an owner of the app), RoleUnknown, PersonBarred.
    """
    with attempt(tx, What.REPLAY, origin) as current:
        current.allow(Action.MAKE_WORKSPACE, None)
        restores = open_restores(tx)
        current.void = not restores
        if restores:
            current.subject = f"settled row {restores[-1].lost_event} to {restores[-1].kept_event}"
            tx.connection.execute(update(RESTORES).where(RESTORES.c.settled_at.is_(None)).values(settled_at=tx.now))
    return restores


async def make_again(db: Database, origin: Origin) -> tuple[list[str], list[Restore]]:
    """Revokes all that works again. What was done, each in words, and the restores that are settled. Raises as `revoke_again`."""
    done: list[str] = []
    while True:
        done += await db.change(revoke_again, origin)
        if not await db.read(left):
            break
    return done, await db.change(settle, origin)

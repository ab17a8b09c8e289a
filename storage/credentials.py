"""Making and ending credentials. Reading them is `storage/listing.py`; what happens between is `storage/lifecycle.py`."""

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, insert, or_, select, text, update

from storage import errands, limits, names, passwords, policy
from storage.access import Action
from storage.audit import REVOKED, Attempt, Origin, What, attempt
from storage.database import Transaction
from storage.journal import digest
from storage.limits import Limits
from storage.models import (
    AUDIT_EVENTS,
    CREDENTIALS,
    LIVE,
    NEXT_NUMBER,
    NOT_DELETED,
    WORKSPACES,
    AuditEvent,
    Credential,
    State,
    Workspace,
    as_row,
)
from storage.refusals import (
    AlreadyDeleted,
    AlreadyRequested,
    NameTaken,
    NameTooSimilar,
    NoLongerPending,
    NoSuchCredential,
    NotAllowed,
    NotDue,
    Refusal,
)
from storage.workspaces import by_id, check_reason, of_channel
from storage.workspaces import save as save_workspace

PENDING_LIFETIME = timedelta(minutes=5)
REMIND_BEFORE = (timedelta(days=7), timedelta(days=1))
SWEEP_BATCH = 100
DELETED_AT_ONCE = 500  # in one transaction, which others wait for
DELETED = {
    "state": State.DELETED.value,
    "password_hash": None,
    "password_tag": None,
    "previous_hash": None,
    "previous_tag": None,
    "previous_until": None,
    "rotation_begun_at": None,
    "delete_at": None,
    "remind_at": None,
}


def create_pending(
    tx: Transaction,
    origin: Origin,
    channel: str,
    name: str,
    request_key: str,
    expires_at: datetime | None = None,
    device: bool = False,
    wanted: Limits | None = None,
    choose: passwords.Choose = secrets.choice,
) -> tuple[Credential, Workspace]:
    """Makes a row without a hash, which cannot log in: the first step of a creation.

    Args:
        channel: its workspace gets the credential, and the password will be shown there.
        request_key: Slack team and view id; a second submission of the same modal is refused.
        device: the password will be a short one.
        wanted: what it is limited to.
        choose: picks the characters of its id.

    Raises:
        NameInvalid, NameTaken, NameTooSimilar, ChannelNotMapped, ChannelPaused, NotAllowed, RoleUnknown, PersonBarred, AlreadyRequested,
        LifeTooLong, DeviceNotAllowed, TooManyLive, LimitsContradict.
    """
    name = names.clean_name(name)
    key = names.name_key(name)
    with attempt(tx, What.CREATE, origin) as current:
        workspace = of_channel(tx, origin.actor.team, channel)
        current.allow(Action.CREATE, workspace)
        columns = CREDENTIALS.c
        same_name = and_(columns.workspace_id == workspace.id, columns.name_key == key, text(NOT_DELETED))
        in_the_way = tx.connection.scalars(select(columns.request_key).where(or_(columns.request_key == request_key, same_name))).all()
        if in_the_way:
            raise AlreadyRequested if request_key in in_the_way else NameTaken(name, workspace.name)
        skeleton = names.skeleton(name)
        alike = select(columns.name).where(columns.workspace_id == workspace.id, columns.name_skeleton == skeleton, text(NOT_DELETED))
        other = tx.connection.scalar(alike.limit(1))
        if other is not None:
            raise NameTooSimilar(name, other, workspace.name)
        policy.check_life(workspace, expires_at, tx.now)
        policy.check_device(workspace, device)
        policy.check_room(tx, workspace)
        wanted = wanted or Limits()
        limits.check(wanted)
        current.subject = " ".join(limits.words(wanted)) or None
        credential_id = _unused_id(tx, choose)
        values = {
            "id": credential_id,
            "workspace_id": workspace.id,
            "name": name,
            "name_key": key,
            "name_skeleton": skeleton,
            "username": names.username(workspace.slug, credential_id),
            "state": State.PENDING.value,
            "version": 1,
            "created_at": tx.now,
            "created_by": origin.actor.user,
            "owner": origin.actor.user,
            "created_in": channel,
            "request_key": request_key,
            "expires_at": expires_at,
            "remind_at": next_reminder(expires_at, tx.now),
            "device": device,
            "number": NEXT_NUMBER,
            **wanted.columns,
        }
        row = tx.connection.execute(insert(CREDENTIALS).values(**values).returning(CREDENTIALS)).one()
        current.credential = credential = as_row(Credential, row)
    return credential, workspace


def _unused_id(tx: Transaction, choose: passwords.Choose) -> str:
    """A new id; one that is taken already (of a million benches one in two draws one) is drawn again."""
    while True:
        credential_id = passwords.new_id(choose)
        if tx.connection.scalar(select(CREDENTIALS.c.id).where(CREDENTIALS.c.id == credential_id)) is None:
            return credential_id


def activate(
    tx: Transaction, origin: Origin, credential_id: str, password_hash: str, tag: int | None = None, modal: str | None = None
) -> Credential:
    """Lets the credential log in: the last step, after the password was handed over.

    Args:
        tag: `passwords.tag` of the password.
        modal: the view that says that it is being created, and must not go on saying so.

    Raises:
        NoLongerPending: the credential was discarded meanwhile.
    """
    with attempt(tx, What.ACTIVATE, origin) as current:
        credential = about(current, credential_id)
        if credential.state != State.PENDING:
            raise NoLongerPending
        values = {"state": State.ACTIVE.value, "password_hash": password_hash, "password_tag": tag, "version": credential.version + 1}
        current.credential = credential = save(tx, credential, **values)
        _count(tx, credential.workspace_id, +1)
        if modal:
            errands.add(tx, errands.Kind.MODAL, credential_id=credential.id, ids=(modal,), after=errands.MODAL_AFTER)
    return credential


def discard(tx: Transaction, origin: Origin, credential_id: str, reason: str) -> Credential | None:
    """Ends a pending credential whose password was not, or not surely, handed over. None when it is no longer pending."""
    with attempt(tx, What.DISCARD, origin, reason) as current:
        credential = about(current, credential_id)
        current.void = credential.state != State.PENDING
        if current.void:
            return None
        current.credential = credential = _end(tx, credential, origin.actor.user)
    return credential


def abandoned(tx: Transaction) -> list[Credential]:
    """Pending credentials older than `PENDING_LIFETIME`: what a crash left behind."""
    query = select(CREDENTIALS).where(text("state = 'pending'"), CREDENTIALS.c.created_at < tx.now - PENDING_LIFETIME)
    return rows(tx, query.order_by(CREDENTIALS.c.created_at).limit(SWEEP_BATCH))


def delete(
    tx: Transaction, origin: Origin, credential_id: str, reason: str | None = None, revoked: bool = False
) -> tuple[Credential, Workspace]:
    """Deletes for ever: state, hash and audit row in one transaction; a mail server refuses the next log-in.

    Args:
        revoked: it was revoked, as what leaked is; told so wherever it is told.

    Raises:
        NotAllowed, RoleUnknown, PersonBarred, NoSuchCredential, AlreadyDeleted (with who and when), ReasonRequired.
    """
    with attempt(tx, What.DELETE, origin, reason) as current:
        current.subject = REVOKED if revoked else None
        credential = about(current, credential_id)
        workspace = by_id(tx, credential.workspace_id)
        current.allow(Action.DELETE, workspace)
        if credential.state == State.DELETED:
            raise already_deleted(credential)
        check_reason(workspace, reason)
        if credential.state != State.PENDING:
            _count(tx, workspace.id, -1)
        current.credential = credential = _end(tx, credential, origin.actor.user)
    return credential, workspace


@dataclass
class Revoked:
    """Several deletions in one transaction: what was deleted, in which workspaces, and what was in the way of each other."""

    done: list[tuple[Credential, Workspace]] = field(default_factory=list)
    refused: dict[str, Refusal] = field(default_factory=dict)
    """By credential id."""


def revoke_each(tx: Transaction, origin: Origin, credential_ids: Iterable[str], reason: str | None = None) -> Revoked:
    """Revokes those that can be deleted, all at once; the others stay as they are, each with its refusal and its audit row.

    Raises:
        PersonBarred, RoleUnknown, ReasonRequired: nothing was deleted.
    """
    ids = list(dict.fromkeys(credential_ids))
    known = {one.id: one for one in rows(tx, select(CREDENTIALS).where(CREDENTIALS.c.id.in_(ids)))}
    result = Revoked()
    result.refused = {one: NoSuchCredential() for one in ids if one not in known}
    by_workspace: dict[int, list[Credential]] = {}
    for credential in known.values():
        by_workspace.setdefault(credential.workspace_id, []).append(credential)
    for workspace_id, here in by_workspace.items():
        workspace = by_id(tx, workspace_id)
        with attempt(tx, What.DELETE, origin, reason) as current:
            current.subject = REVOKED
            current.credentials = here
            try:
                current.allow(Action.DELETE, workspace)
            except NotAllowed as refusal:
                result.refused |= {one.id: refusal for one in here}
                current.refuse(refusal)
                continue
            check_reason(workspace, reason)
            living = [one for one in here if one.state != State.DELETED]
            current.void = not living
            if living:
                _count(tx, workspace_id, -sum(one.state != State.PENDING for one in living))
                current.credentials = ended = _end_all(tx, living, origin.actor.user)
                result.done += [(one, workspace) for one in ended]
        for gone in (one for one in here if one.state == State.DELETED):
            with attempt(tx, What.DELETE, origin, reason) as current:
                current.subject = REVOKED
                current.workspace, current.credential = workspace, gone
                result.refused[gone.id] = already_deleted(gone)
                current.refuse(result.refused[gone.id])
    result.done.sort(key=lambda pair: ids.index(pair[0].id))
    return result


def order_revocation(tx: Transaction, origin: Origin, workspace_id: int, reason: str | None = None) -> Workspace:
    """Suspends the workspace and orders that all its credentials are deleted, which an errand does in batches.

    Raises:
        NotAllowed (it takes an admin), RoleUnknown, PersonBarred, NoSuchWorkspace, ReasonRequired.
    """
    with attempt(tx, What.REVOKE_ALL, origin, reason) as current:
        workspace = by_id(tx, workspace_id)
        current.allow(Action.ADMINISTER, workspace)
        check_reason(workspace, reason)
        current.subject = str(workspace.credential_count)
        if workspace.suspended_at is None:
            workspace = save_workspace(tx, workspace, suspended_at=tx.now, suspended_by=origin.actor.user)
        current.workspace = workspace
    return workspace


def delete_some(tx: Transaction, origin: Origin, workspace_id: int, reason: str | None = None) -> int:
    """Deletes up to `DELETED_AT_ONCE` of the workspace's live credentials, as an order says; returns how many: none are left at 0."""
    with attempt(tx, What.DELETE, origin, reason) as current:
        current.quiet = True
        current.subject = REVOKED
        workspace = by_id(tx, workspace_id)
        current.workspace = workspace
        live = select(CREDENTIALS).where(CREDENTIALS.c.workspace_id == workspace.id, text(LIVE))
        living = rows(tx, live.order_by(CREDENTIALS.c.number).limit(DELETED_AT_ONCE))
        current.void = not living
        if living:
            current.credentials = _end_all(tx, living, origin.actor.user)
            _count(tx, workspace.id, -len(living))
    return len(living)


def delete_again(current: Attempt, living: Sequence[Credential], workspace: Workspace) -> None:
    """Deletes what was deleted before a restore, within that attempt; all of one workspace."""
    current.workspace = workspace
    _count(current.tx, workspace.id, -sum(one.state != State.PENDING for one in living))
    current.credentials = _end_all(current.tx, living, current.origin.actor.user)


def overdue(tx: Transaction) -> list[Credential]:
    """Suspended credentials that nobody resumed in the time that was given for it."""
    query = select(CREDENTIALS).where(CREDENTIALS.c.delete_at <= tx.now, CREDENTIALS.c.state == State.SUSPENDED.value)
    return rows(tx, query.order_by(CREDENTIALS.c.delete_at).limit(SWEEP_BATCH))


def delete_overdue(tx: Transaction, origin: Origin, credential_id: str) -> Credential:
    """Deletes an overdue one, as whoever suspended it decided. Raises NotDue when it was resumed or deleted meanwhile."""
    with attempt(tx, What.DELETE, origin, "suspended, and not resumed in time") as current:
        credential = about(current, credential_id)
        if credential.state != State.SUSPENDED or credential.delete_at is None or credential.delete_at > tx.now:
            raise NotDue
        _count(tx, credential.workspace_id, -1)
        current.credential = credential = _end(tx, credential, origin.actor.user)
    return credential


def next_reminder(expires_at: datetime | None, now: datetime) -> datetime | None:
    """When the next reminder of the expiry is due, if any is left."""
    days = [expires_at - before for before in REMIND_BEFORE] if expires_at else []
    return min((day for day in days if day > now), default=None)


def already_deleted(credential: Credential) -> AlreadyDeleted:
    if credential.deleted_by is None or credential.deleted_at is None:
        raise ValueError(f"{credential.username} is not deleted")
    return AlreadyDeleted(credential.name, credential.username, credential.deleted_by, credential.deleted_at)


def get(tx: Transaction, credential_id: str) -> tuple[Credential, Workspace]:
    """Raises NoSuchCredential."""
    row = tx.connection.execute(
        select(CREDENTIALS, *WORKSPACES.c).join_from(CREDENTIALS, WORKSPACES).where(CREDENTIALS.c.id == credential_id)
    ).one_or_none()
    if row is None:
        raise NoSuchCredential
    split = len(CREDENTIALS.c)
    return Credential(*row[:split]), Workspace(*row[split:])


def wait_for(tx: Transaction, credential_id: str) -> None:
    """Waits until a change of the credential that is under way has ended, and keeps others waiting until this transaction has."""
    tx.connection.execute(select(CREDENTIALS.c.id).where(CREDENTIALS.c.id == credential_id).with_for_update(read=True))


@dataclass(frozen=True)
class Suspension:
    """That a credential was suspended, and what became of that."""

    event: AuditEvent
    credential: Credential
    workspace: Workspace
    last: AuditEvent | None
    """The last time that it was suspended, resumed or deleted since."""


def suspension(tx: Transaction, credential_id: str, event_id: int, wait: bool = False) -> Suspension:
    """`event_id`: of the audit row that says so. `wait`: as `wait_for`. Raises NoSuchCredential."""
    if wait:
        wait_for(tx, credential_id)
    credential, workspace = get(tx, credential_id)
    event = as_row(AuditEvent, tx.connection.execute(select(AUDIT_EVENTS).where(AUDIT_EVENTS.c.id == event_id)).one())
    return Suspension(event, credential, workspace, last_act(tx, credential_id, event_id))


def last_act(tx: Transaction, credential_id: str, since: int = 0) -> AuditEvent | None:
    """The last time that it was suspended, resumed or deleted after the audit row `since`."""
    columns = AUDIT_EVENTS.c
    acts = [What.SUSPEND.value, What.RESUME.value, What.DELETE.value]
    later = (columns.credential_id == credential_id, columns.id > since, columns.action.in_(acts), columns.outcome == "done")
    last = tx.connection.execute(select(AUDIT_EVENTS).where(*later).order_by(columns.id.desc()).limit(1)).first()
    return as_row(AuditEvent, last) if last else None


def workspaces_of(tx: Transaction, credential_ids: Sequence[str]) -> list[Workspace]:
    """Those that the credentials are in, each once."""
    here = select(CREDENTIALS.c.workspace_id).where(CREDENTIALS.c.id.in_(credential_ids))
    found = tx.connection.execute(select(WORKSPACES).where(WORKSPACES.c.id.in_(here)).order_by(WORKSPACES.c.id))
    return [as_row(Workspace, row) for row in found]


def rows(tx: Transaction, query: Any) -> list[Credential]:
    """The credentials that a query of all their columns finds."""
    return [as_row(Credential, row) for row in tx.connection.execute(query)]


def save(tx: Transaction, credential: Credential, **changes: Any) -> Credential:
    """Writes the changed columns; returns the row as it is then. Within an attempt only."""
    tx.connection.execute(update(CREDENTIALS).where(CREDENTIALS.c.id == credential.id).values(**changes))
    after = replace(credential, **changes)
    gone = {credential.password_hash, credential.previous_hash} - {after.password_hash, after.previous_hash}
    tx.ended += [(credential.id, digest(one)) for one in gone if one]
    return after


def about(current: Attempt, credential_id: str) -> Credential:
    """The credential that an attempt is about; its row says so, also when it is refused. Raises NoSuchCredential."""
    credential, workspace = get(current.tx, credential_id)
    current.credential, current.workspace = credential, workspace
    return credential


def _count(tx: Transaction, workspace_id: int, change: int) -> None:
    counting = update(WORKSPACES).where(WORKSPACES.c.id == workspace_id)
    tx.connection.execute(counting.values(credential_count=WORKSPACES.c.credential_count + change))


def _end(tx: Transaction, credential: Credential, by: str) -> Credential:
    return _end_all(tx, [credential], by)[0]


def _end_all(tx: Transaction, living: Sequence[Credential], by: str) -> list[Credential]:
    ids = [one.id for one in living]
    which: ColumnElement[bool] = CREDENTIALS.c.id == ids[0] if len(ids) == 1 else CREDENTIALS.c.id.in_(ids)
    values: dict[str, Any] = DELETED | {"deleted_by": by, "deleted_at": tx.now}
    tx.connection.execute(update(CREDENTIALS).where(which).values(version=CREDENTIALS.c.version + 1, **values))
    return [replace(one, version=one.version + 1, **values) for one in living]

"""What happens to a credential between its creation and its end: a new password, a suspension, another expiry.

A rotation is handed over like a creation: `begin_rotation` marks it as on its way, and nothing changes for log-ins until
`finish_rotation`, after the new password was handed over. What was not surely handed over is cancelled, and the old password goes on.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from storage.access import Action
from storage.audit import Attempt, Origin, What, attempt
from storage.credentials import PENDING_LIFETIME, SWEEP_BATCH, already_deleted, get, next_reminder
from storage.database import Database
from storage.models import LIVE, Credential, State, Workspace, milliseconds
from storage.refusals import (
    ChannelNotMapped,
    ExpiryInvalid,
    ExpiryProblem,
    HasExpired,
    IsSuspended,
    NoOldPassword,
    NoSuchCredential,
    NotDue,
    NotSuspended,
    RotatedMeanwhile,
    RotationEnded,
    RotationRepeated,
    RotationUnderWay,
)
from storage.workspaces import by_id, of_channel

EXPIRY_MAX = timedelta(days=3660)


def rotation_mark(credential: Credential) -> int | None:
    """Says which password is the present one: changes with every rotation."""
    return milliseconds(credential.rotated_at) if credential.rotated_at else None


def has_old_password(credential: Credential, now: datetime) -> bool:
    """Whether the password before the rotation still works."""
    return credential.previous_hash is not None and credential.previous_until is not None and credential.previous_until > now


def has_expired(credential: Credential, now: datetime) -> bool:
    return credential.expires_at is not None and credential.expires_at <= now


async def begin_rotation(
    db: Database, origin: Origin, credential_id: str, channel: str, key: str, mark: int | None
) -> tuple[Credential, Workspace]:
    """The first step: a new password is on its way; the present one goes on.

    Args:
        channel: one of the workspace's channels, where the password will be shown.
        key: Slack team and view id; a second submission of the same modal is refused.
        mark: `rotation_mark` when the modal was opened.

    Raises:
        NotAllowed, RoleUnknown, PersonBarred, NoSuchCredential, AlreadyDeleted, IsSuspended, HasExpired, RotationRepeated,
        RotationUnderWay, RotatedMeanwhile, ChannelNotMapped (also: to another workspace), ChannelPaused.
    """
    async with attempt(db, What.ROTATE, origin) as current:
        credential, workspace = await _allowed(current, credential_id, Action.CREATE)
        if (await current.session.scalars(select(Credential.id).where(Credential.rotation_key == key))).first():
            raise RotationRepeated
        may_rotate(credential, db.clock())
        if rotation_mark(credential) != mark and credential.rotated_at:
            raise RotatedMeanwhile(credential.name, credential.rotation_by or "", credential.rotated_at)
        if (await of_channel(current.session, origin.actor.team, channel)).id != workspace.id:
            raise ChannelNotMapped
        credential.rotation_key = key
        credential.rotation_begun_at = db.clock()
        credential.rotation_by = origin.actor.user
        credential.rotation_in = channel
    return credential, workspace


def may_rotate(credential: Credential, now: datetime) -> None:
    """Raises AlreadyDeleted, IsSuspended, HasExpired, RotationUnderWay."""
    check_live(credential)
    if credential.state == State.SUSPENDED:
        raise is_suspended(credential)
    if has_expired(credential, now) and credential.expires_at:
        raise HasExpired(credential.name, credential.expires_at)
    if credential.rotation_begun_at is not None:
        raise RotationUnderWay(credential.name, credential.rotation_by or "")


async def finish_rotation(
    db: Database,
    origin: Origin,
    credential_id: str,
    key: str,
    password_hash: str,
    tag: int | None = None,
    overlap: timedelta | None = None,
) -> Credential:
    """The last step: the new password was handed over. The old one goes on for the overlap, or stops now.

    Raises:
        RotationEnded: the credential was deleted or suspended, or the rotation cancelled meanwhile.
    """
    async with attempt(db, What.FINISH_ROTATION, origin) as current:
        credential, _ = await _about(current, credential_id)
        if not _on_its_way(credential, key):
            raise RotationEnded
        now = db.clock()
        current.subject = f"old password until {now + overlap:%Y-%m-%dT%H:%MZ}" if overlap else "old password stopped"
        credential.previous_hash = credential.password_hash if overlap else None
        credential.previous_tag = credential.password_tag if overlap else None
        credential.previous_until = now + overlap if overlap else None
        credential.password_hash = password_hash
        credential.password_tag = tag
        credential.current_used_at = credential.previous_used_at = None
        credential.rotated_at = now
        credential.rotation_begun_at = None
        credential.version += 1
    return credential


async def cancel_rotation(db: Database, origin: Origin, credential_id: str, key: str, reason: str) -> bool:
    """The new password was not, or not surely, handed over: nothing changes. False when the rotation is no longer on its way."""
    try:
        async with attempt(db, What.CANCEL_ROTATION, origin, reason) as current:
            credential, _ = await _about(current, credential_id)
            if not _on_its_way(credential, key):
                raise RotationEnded
            credential.rotation_begun_at = None
    except RotationEnded:
        return False
    return True


async def works_with(db: Database, credential_id: str, password_hash: str) -> bool:
    """Whether this is the present password: tells a commit whose answer was lost from one that did not happen."""
    async with db.read() as session:
        credential, _ = await get(session, credential_id)
    return credential.password_hash == password_hash


async def end_previous(db: Database, origin: Origin, credential_id: str) -> tuple[Credential, Workspace]:
    """Stops the password before the rotation now.

    Raises:
        NotAllowed, RoleUnknown, PersonBarred, NoSuchCredential, AlreadyDeleted, NoOldPassword.
    """
    async with attempt(db, What.END_PREVIOUS, origin) as current:
        credential, workspace = await _allowed(current, credential_id, Action.DELETE)
        check_live(credential)
        if not has_old_password(credential, db.clock()):
            raise NoOldPassword(credential.name)
        _forget_previous(credential)
    return credential, workspace


async def forget_previous(db: Database, origin: Origin, credential_id: str) -> bool:
    """Wipes an old password whose overlap is over; False when that is done already. Log-ins refuse it since its time."""
    try:
        async with attempt(db, What.END_PREVIOUS, origin, "its overlap is over") as current:
            credential, _ = await _about(current, credential_id)
            if credential.previous_until is None or credential.previous_until > db.clock():
                raise NotDue
            _forget_previous(credential)
    except NotDue:
        return False
    return True


async def suspend(
    db: Database, origin: Origin, credential_id: str, reason: str | None = None, delete_after: timedelta | None = None
) -> tuple[Credential, Workspace]:
    """Refused everywhere from the next log-in on, until it is resumed. A rotation on its way ends without effect.

    Args:
        delete_after: deleted by itself after this time, unless it is resumed.

    Raises:
        NotAllowed, RoleUnknown, PersonBarred, NoSuchCredential, AlreadyDeleted, IsSuspended.
    """
    async with attempt(db, What.SUSPEND, origin, reason) as current:
        credential, workspace = await _allowed(current, credential_id, Action.DELETE)
        check_live(credential)
        if credential.state == State.SUSPENDED:
            raise is_suspended(credential)
        now = db.clock()
        credential.state = State.SUSPENDED
        credential.suspended_at = now
        credential.suspended_by = origin.actor.user
        credential.delete_at = now + delete_after if delete_after else None
        credential.rotation_begun_at = None
        credential.version += 1
    return credential, workspace


async def resume(db: Database, origin: Origin, credential_id: str) -> tuple[Credential, Workspace]:
    """Works again with the same password, unless it expired meanwhile.

    Raises:
        NotAllowed, RoleUnknown, PersonBarred, NoSuchCredential, AlreadyDeleted, NotSuspended.
    """
    async with attempt(db, What.RESUME, origin) as current:
        credential, workspace = await _allowed(current, credential_id, Action.CREATE)
        check_live(credential)
        if credential.state != State.SUSPENDED:
            raise NotSuspended(credential.name)
        credential.state = State.ACTIVE
        credential.suspended_at = credential.suspended_by = credential.delete_at = None
        credential.version += 1
    return credential, workspace


async def change_expiry(db: Database, origin: Origin, credential_id: str, expires_at: datetime | None) -> tuple[Credential, Workspace]:
    """Lets the credential work until then; None: without an end.

    Raises:
        NotAllowed, RoleUnknown, PersonBarred, NoSuchCredential, AlreadyDeleted, ExpiryInvalid.
    """
    async with attempt(db, What.EXPIRY, origin) as current:
        credential, workspace = await _allowed(current, credential_id, Action.CREATE)
        check_live(credential)
        check_expiry(expires_at, db.clock())
        current.subject = f"until {expires_at:%Y-%m-%dT%H:%MZ}" if expires_at else "never expires"
        credential.expires_at = expires_at
        credential.remind_at = next_reminder(expires_at, db.clock())
        credential.version += 1
    return credential, workspace


def check_expiry(expires_at: datetime | None, now: datetime) -> None:
    """Raises ExpiryInvalid."""
    if expires_at and expires_at <= now:
        raise ExpiryInvalid(ExpiryProblem.PAST)
    if expires_at and expires_at > now + EXPIRY_MAX:
        raise ExpiryInvalid(ExpiryProblem.TOO_FAR)


async def remind(db: Database, origin: Origin, credential_id: str) -> tuple[Credential, Workspace]:
    """Takes a due reminder for this caller alone, who then tells people. Raises NotDue."""
    async with attempt(db, What.REMIND, origin) as current:
        credential, workspace = await _about(current, credential_id)
        now = db.clock()
        if credential.remind_at is None or credential.remind_at > now:
            raise NotDue
        credential.remind_at = next_reminder(credential.expires_at, now)
    return credential, workspace


async def abandoned_rotations(db: Database) -> Sequence[Credential]:
    """Rotations that a crash left on their way."""
    return await _some(db, Credential.rotation_begun_at < db.clock() - PENDING_LIFETIME)


async def ended_overlaps(db: Database) -> Sequence[Credential]:
    return await _some(db, Credential.previous_until <= db.clock())


async def due_reminders(db: Database) -> Sequence[Credential]:
    return await _some(db, Credential.remind_at <= db.clock(), text(LIVE))  # type: ignore[arg-type]


async def _some(db: Database, *which: ColumnElement[bool]) -> Sequence[Credential]:
    async with db.read() as session:
        return (await session.scalars(select(Credential).where(*which).limit(SWEEP_BATCH))).all()


def is_suspended(credential: Credential) -> IsSuspended:
    if credential.suspended_by is None or credential.suspended_at is None:
        raise ValueError(f"{credential.username} is not suspended")
    return IsSuspended(credential.name, credential.username, credential.suspended_by, credential.suspended_at)


async def _about(current: Attempt, credential_id: str) -> tuple[Credential, Workspace]:
    session: AsyncSession = current.session
    credential = await session.get(Credential, credential_id)
    if credential is None or credential.state == State.PENDING:
        raise NoSuchCredential
    current.credential = credential
    current.workspace = await by_id(session, credential.workspace_id)
    return credential, current.workspace


async def _allowed(current: Attempt, credential_id: str, action: Action) -> tuple[Credential, Workspace]:
    credential, workspace = await _about(current, credential_id)
    await current.allow(action, workspace)
    return credential, workspace


def check_live(credential: Credential) -> None:
    """Raises NoSuchCredential (also while its first password is on its way), AlreadyDeleted."""
    if credential.state == State.PENDING:
        raise NoSuchCredential
    if credential.state == State.DELETED:
        raise already_deleted(credential)


def _on_its_way(credential: Credential, key: str) -> bool:
    return credential.state == State.ACTIVE and credential.rotation_key == key and credential.rotation_begun_at is not None


def _forget_previous(credential: Credential) -> None:
    credential.previous_hash = credential.previous_tag = credential.previous_until = credential.previous_used_at = None
    credential.version += 1

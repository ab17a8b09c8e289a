"""What happens to a credential between its creation and its end: a new password, a suspension, another expiry.

A rotation is handed over like a creation: `begin_rotation` marks it as on its way, and nothing changes for log-ins until
`finish_rotation`, after the new password was handed over. What was not surely handed over is cancelled, and the old password goes on.
"""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, select, text

from storage import errands, limits, policy
from storage.access import Action
from storage.audit import Attempt, Origin, What, attempt
from storage.credentials import PENDING_LIFETIME, SWEEP_BATCH, about, already_deleted, get, next_reminder, rows, save
from storage.database import Transaction
from storage.limits import Limits
from storage.models import CREDENTIALS, LIVE, Credential, Listed, State, Workspace, milliseconds
from storage.refusals import (
    AlreadySuspended,
    ChannelNotMapped,
    ExpiryInvalid,
    ExpiryProblem,
    HasExpired,
    IsSuspended,
    NoOldPassword,
    NoSuchCredential,
    NotSuspended,
    RotatedMeanwhile,
    RotationEnded,
    RotationRepeated,
    RotationUnderWay,
)
from storage.workspaces import by_id, check_reason, of_channel

EXPIRY_MAX = timedelta(days=3660)


def rotation_mark(credential: Credential) -> int | None:
    """Says which password is the present one: changes with every rotation."""
    return milliseconds(credential.rotated_at) if credential.rotated_at else None


def has_old_password(credential: Credential | Listed, now: datetime) -> bool:
    """Whether the password before the rotation still works."""
    return credential.previous_until is not None and credential.previous_until > now


def has_expired(credential: Credential | Listed, now: datetime) -> bool:
    return credential.expires_at is not None and credential.expires_at <= now


def stopped(credential: Credential | Listed, workspace: Workspace, now: datetime) -> str | None:
    """Why mail servers refuse it, in a word or two for operators; None when they don't."""
    if credential.state != State.ACTIVE:
        return credential.state
    if workspace.suspended_at is not None:
        return "workspace suspended"
    return "expired" if has_expired(credential, now) else None


def begin_rotation(
    tx: Transaction, origin: Origin, credential_id: str, channel: str | None, key: str, mark: int | None, device: bool = False
) -> tuple[Credential, Workspace]:
    """The first step: a new password is on its way; the present one goes on.

    Args:
        channel: one of the workspace's channels, where the password will be shown; None: an operator's terminal.
        key: Slack team and view id; a second submission of the same modal is refused.
        mark: `rotation_mark` when the modal was opened.
        device: the new password will be a short one.

    Raises:
        NotAllowed, RoleUnknown, PersonBarred, NoSuchCredential, AlreadyDeleted, IsSuspended, HasExpired, RotationRepeated,
        RotationUnderWay, RotatedMeanwhile, ChannelNotMapped (also: to another workspace), ChannelPaused, DeviceNotAllowed.
    """
    with attempt(tx, What.ROTATE, origin) as current:
        credential, workspace = _allowed(current, credential_id, Action.CREATE)
        if tx.connection.scalar(select(CREDENTIALS.c.id).where(CREDENTIALS.c.rotation_key == key)) is not None:
            raise RotationRepeated
        may_rotate(credential, tx.now)
        if rotation_mark(credential) != mark and credential.rotated_at:
            raise RotatedMeanwhile(credential.name, credential.rotation_by or "", credential.rotated_at)
        if channel is not None and of_channel(tx, origin.actor.team, channel).id != workspace.id:
            raise ChannelNotMapped
        policy.check_device(workspace, device)
        begun = {"rotation_key": key, "rotation_begun_at": tx.now, "rotation_by": origin.actor.user, "rotation_in": channel}
        credential = save(tx, credential, **begun)
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


def finish_rotation(
    tx: Transaction,
    origin: Origin,
    credential_id: str,
    key: str,
    password_hash: str,
    tag: int | None = None,
    overlap: timedelta | None = None,
    device: bool = False,
    modal: str | None = None,
) -> Credential:
    """The last step: the new password was handed over. The old one goes on for the overlap, or stops now.

    Args:
        modal: the view that says that it is being made, and must not go on saying so.

    Raises:
        RotationEnded: the credential was deleted or suspended, or the rotation cancelled meanwhile.
    """
    with attempt(tx, What.FINISH_ROTATION, origin) as current:
        credential = _about(current, credential_id)
        if not _on_its_way(credential, key):
            raise RotationEnded
        until = tx.now + overlap if overlap else None
        current.subject = f"old password until {until:%Y-%m-%dT%H:%MZ}" if until else "old password stopped"
        current.credential = credential = save(
            tx,
            credential,
            previous_hash=credential.password_hash if until else None,
            previous_tag=credential.password_tag if until else None,
            previous_until=until,
            password_hash=password_hash,
            password_tag=tag,
            device=device,
            current_used_at=None,
            previous_used_at=None,
            rotated_at=tx.now,
            rotation_begun_at=None,
            version=credential.version + 1,
        )
        if modal:
            errands.add(tx, errands.Kind.MODAL, credential_id=credential.id, ids=(modal,), after=errands.MODAL_AFTER)
    return credential


def cancel_rotation(tx: Transaction, origin: Origin, credential_id: str, key: str, reason: str) -> bool:
    """Ends a rotation whose password was not, or not surely, handed over: nothing changes. False when it is no longer on its way."""
    with attempt(tx, What.CANCEL_ROTATION, origin, reason) as current:
        credential = _about(current, credential_id)
        current.void = not _on_its_way(credential, key)
        if not current.void:
            current.credential = save(tx, credential, rotation_begun_at=None)
    return not current.void


def works_with(tx: Transaction, credential_id: str, password_hash: str) -> bool:
    """Whether this is the present password: tells a commit whose answer was lost from one that did not happen."""
    credential, _ = get(tx, credential_id)
    return credential.password_hash == password_hash


def end_previous(tx: Transaction, origin: Origin, credential_id: str) -> tuple[Credential, Workspace]:
    """Stops the password before the rotation now.

    Raises:
        NotAllowed, RoleUnknown, PersonBarred, NoSuchCredential, AlreadyDeleted, NoOldPassword.
    """
    with attempt(tx, What.END_PREVIOUS, origin) as current:
        credential, workspace = _allowed(current, credential_id, Action.DELETE)
        check_live(credential)
        if not has_old_password(credential, tx.now):
            raise NoOldPassword(credential.name)
        current.credential = credential = _forget_previous(tx, credential)
    return credential, workspace


def forget_previous(tx: Transaction, origin: Origin, credential_id: str) -> bool:
    """Wipes an old password whose overlap is over; False when that is done already. Log-ins refuse it since its time."""
    with attempt(tx, What.END_PREVIOUS, origin, "its overlap is over") as current:
        credential = _about(current, credential_id)
        current.void = credential.previous_until is None or credential.previous_until > tx.now
        if not current.void:
            current.credential = _forget_previous(tx, credential)
    return not current.void


def suspend(
    tx: Transaction,
    origin: Origin,
    credential_id: str,
    reason: str | None = None,
    delete_after: timedelta | None = None,
    at_once: bool = False,
) -> tuple[Credential, Workspace]:
    """Refused everywhere from the next log-in on, until it is resumed. A rotation on its way ends without effect.

    Args:
        delete_after: deleted by itself after this time, unless it is resumed.
        at_once: with one press, where nobody can be asked for a reason.

    Raises:
        NotAllowed, RoleUnknown, PersonBarred, NoSuchCredential, AlreadyDeleted, AlreadySuspended, ReasonRequired.
    """
    with attempt(tx, What.SUSPEND, origin, reason) as current:
        credential, workspace = _allowed(current, credential_id, Action.DELETE)
        check_live(credential)
        if credential.state == State.SUSPENDED:
            raise already_suspended(credential)
        if not at_once:
            check_reason(workspace, reason)
        current.credential = credential = save(
            tx,
            credential,
            state=State.SUSPENDED.value,
            suspended_at=tx.now,
            suspended_by=origin.actor.user,
            delete_at=tx.now + delete_after if delete_after else None,
            rotation_begun_at=None,
            version=credential.version + 1,
        )
    return credential, workspace


def resume(tx: Transaction, origin: Origin, credential_id: str) -> tuple[Credential, Workspace]:
    """Works again with the same password, unless it expired meanwhile.

    Raises:
        NotAllowed, RoleUnknown, PersonBarred, NoSuchCredential, AlreadyDeleted, NotSuspended.
    """
    with attempt(tx, What.RESUME, origin) as current:
        credential, workspace = _allowed(current, credential_id, Action.CREATE)
        check_live(credential)
        if credential.state != State.SUSPENDED:
            raise NotSuspended(credential.name)
        working = {"state": State.ACTIVE.value, "suspended_at": None, "suspended_by": None, "delete_at": None}
        current.credential = credential = save(tx, credential, **working, version=credential.version + 1)
    return credential, workspace


def change_expiry(tx: Transaction, origin: Origin, credential_id: str, expires_at: datetime | None) -> tuple[Credential, Workspace]:
    """Lets the credential work until then; None: without an end.

    Raises:
        NotAllowed, RoleUnknown, PersonBarred, NoSuchCredential, AlreadyDeleted, ExpiryInvalid, LifeTooLong.
    """
    with attempt(tx, What.EXPIRY, origin) as current:
        credential, workspace = _allowed(current, credential_id, Action.CREATE)
        check_live(credential)
        check_expiry(expires_at, tx.now)
        policy.check_life(workspace, expires_at, tx.now)
        current.subject = f"until {expires_at:%Y-%m-%dT%H:%MZ}" if expires_at else "never expires"
        until = {"expires_at": expires_at, "remind_at": next_reminder(expires_at, tx.now)}
        current.credential = credential = save(tx, credential, **until, version=credential.version + 1)
    return credential, workspace


def change_limits(tx: Transaction, origin: Origin, credential_id: str, wanted: Limits) -> tuple[Credential, Workspace]:
    """Sets all of the credential's limits. They count from the next log-in or message on.

    Raises:
        NotAllowed, RoleUnknown, PersonBarred, NoSuchCredential, AlreadyDeleted, LimitsContradict.
    """
    with attempt(tx, What.LIMITS, origin) as current:
        credential, workspace = _allowed(current, credential_id, Action.CREATE)
        check_live(credential)
        limits.check(wanted)
        current.void = wanted == Limits.of(credential)
        current.subject = " ".join(limits.words(wanted)) or "none"
        if not current.void:
            current.credential = credential = save(tx, credential, **wanted.columns, version=credential.version + 1)
    return credential, workspace


def check_expiry(expires_at: datetime | None, now: datetime) -> None:
    """Raises ExpiryInvalid."""
    if expires_at and expires_at <= now:
        raise ExpiryInvalid(ExpiryProblem.PAST)
    if expires_at and expires_at > now + EXPIRY_MAX:
        raise ExpiryInvalid(ExpiryProblem.TOO_FAR)


def remind(tx: Transaction, origin: Origin, credential_id: str) -> None:
    """Owes people a reminder that is due, once. Does nothing when another replica was first."""
    with attempt(tx, What.REMIND, origin) as current:
        credential = _about(current, credential_id)
        current.void = credential.remind_at is None or credential.remind_at > tx.now
        if not current.void:
            current.credential = save(tx, credential, remind_at=next_reminder(credential.expires_at, tx.now))


def abandoned_rotations(tx: Transaction) -> list[Credential]:
    """Rotations that a crash left on their way."""
    return _some(tx, CREDENTIALS.c.rotation_begun_at < tx.now - PENDING_LIFETIME)


def ended_overlaps(tx: Transaction) -> list[Credential]:
    return _some(tx, CREDENTIALS.c.previous_until <= tx.now)


def due_reminders(tx: Transaction) -> list[Credential]:
    return _some(tx, CREDENTIALS.c.remind_at <= tx.now, text(LIVE))  # type: ignore[arg-type]


def _some(tx: Transaction, *which: ColumnElement[bool]) -> list[Credential]:
    return rows(tx, select(CREDENTIALS).where(*which).limit(SWEEP_BATCH))


def is_suspended(credential: Credential, refusal: type[IsSuspended] = IsSuspended) -> IsSuspended:
    if credential.suspended_by is None or credential.suspended_at is None:
        raise ValueError(f"{credential.username} is not suspended")
    return refusal(credential.name, credential.username, credential.suspended_by, credential.suspended_at)


def already_suspended(credential: Credential) -> IsSuspended:
    return is_suspended(credential, AlreadySuspended)


def _about(current: Attempt, credential_id: str) -> Credential:
    """`credentials.about`, of one whose first password was handed over. Raises NoSuchCredential."""
    credential = about(current, credential_id)
    if credential.state == State.PENDING:
        raise NoSuchCredential
    return credential


def _allowed(current: Attempt, credential_id: str, action: Action) -> tuple[Credential, Workspace]:
    credential = _about(current, credential_id)
    workspace = by_id(current.tx, credential.workspace_id)
    current.allow(action, workspace)
    return credential, workspace


def check_live(credential: Credential) -> None:
    """Raises NoSuchCredential (also while its first password is on its way), AlreadyDeleted."""
    if credential.state == State.PENDING:
        raise NoSuchCredential
    if credential.state == State.DELETED:
        raise already_deleted(credential)


def _on_its_way(credential: Credential, key: str) -> bool:
    return credential.state == State.ACTIVE and credential.rotation_key == key and credential.rotation_begun_at is not None


def _forget_previous(tx: Transaction, credential: Credential) -> Credential:
    wiped: dict[str, Any] = {"previous_hash": None, "previous_tag": None, "previous_until": None, "previous_used_at": None}
    return save(tx, credential, **wiped, version=credential.version + 1)

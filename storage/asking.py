"""Asking for a role: somebody who was refused asks, those who can give it read that, and one of them answers.

The request is an audit row (`What.ASK`), and so is the answer: the grant, however it was given, or `What.DECLINE`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, or_, select

from storage import audit, grants, workspaces
from storage.access import TABLE, Action, Role, rights
from storage.audit import Origin, What, attempt
from storage.database import Transaction
from storage.errands import Kind
from storage.models import AUDIT_EVENTS, ERRANDS, POSTED_MESSAGES, ROLE_GRANTS, AuditEvent, PostedMessage, Workspace, as_row
from storage.refusals import AlreadyAnswered, AlreadyAsked, AskedTooOften, HasRole, NoSuchRequest

KIND = "role_request"
ASKED_AT_MOST = 5  # requests of one person a day
WITHIN = timedelta(days=1)
SHOWN_MAX = 20  # messages about one request


@dataclass(frozen=True)
class Asked:
    """A request as it stands."""

    event: int
    person: str
    role: Role
    workspace: Workspace
    given: bool | None
    """None while nobody answered."""
    wanted: str | None = None
    """What they were refused."""
    by: str = ""
    at: datetime | None = None
    why: str | None = None
    """Why nothing could be given."""


def ask(tx: Transaction, origin: Origin, workspace_id: int, role: Role, wanted: str | None = None) -> Workspace:
    """Asks those who administer the workspace.

    Args:
        wanted: what they were refused.

    Raises:
        NoSuchWorkspace, HasRole, AlreadyAsked, AskedTooOften, PersonBarred.
    """
    with attempt(tx, What.ASK, origin, wanted) as current:
        person = origin.actor.user
        current.subject = f"{person} {role}"
        current.workspace = workspace = workspaces.by_id(tx, workspace_id)
        if any(TABLE[right.role] >= TABLE[role] for right in rights(tx, origin.actor, workspace)):
            raise HasRole(role.value, workspace.name)
        columns = AUDIT_EVENTS.c
        mine = (columns.user_id == person, columns.action == What.ASK.value, columns.outcome == "done", columns.at > tx.now - WITHIN)
        recent = [as_row(AuditEvent, row) for row in tx.connection.execute(select(AUDIT_EVENTS).where(*mine).limit(ASKED_AT_MOST + 1))]
        for event in recent:
            same = event.workspace_id == workspace.id and event.subject == current.subject
            if same and asked(tx, event.id).given is None:
                raise AlreadyAsked(event.at)
        if len(recent) >= ASKED_AT_MOST:
            raise AskedTooOften
    return workspace


def asked(tx: Transaction, event_id: int) -> Asked:
    """The request of this audit row. Raises NoSuchRequest, NoSuchWorkspace."""
    event = next(iter(audit.events(tx, event_id, event_id)), None)
    if event is None or event.action != What.ASK or event.outcome != "done" or event.workspace_id is None:
        raise NoSuchRequest
    person, _, role = (event.subject or "").partition(" ")
    workspace = workspaces.by_id(tx, event.workspace_id)
    columns = ROLE_GRANTS.c
    here = or_(columns.workspace_id == workspace.id, columns.workspace_id.is_(None))
    for grant in tx.connection.execute(select(ROLE_GRANTS).where(columns.team_id == event.team_id, columns.principal == person, here)):
        if TABLE[Role(grant.role)] >= TABLE[Role(role)]:
            return Asked(event.id, person, Role(role), workspace, True, event.reason, grant.granted_by, grant.granted_at)
    answers = AUDIT_EVENTS.c
    first = select(AUDIT_EVENTS).where(
        answers.workspace_id == workspace.id,
        answers.id > event.id,
        answers.action.in_([What.GRANT.value, What.DECLINE.value]),
        answers.outcome == "done",
        answers.subject == event.subject,
    )
    row = tx.connection.execute(first.order_by(answers.id).limit(1)).one_or_none()
    if row is None:
        return Asked(event.id, person, Role(role), workspace, None, event.reason)
    answer = as_row(AuditEvent, row)
    given = answer.action == What.GRANT
    return Asked(event.id, person, Role(role), workspace, given, event.reason, answer.user_id, answer.at, None if given else answer.reason)


def give(tx: Transaction, origin: Origin, event_id: int) -> Asked:
    """Gives what was asked for. Raises NoSuchRequest, AlreadyAnswered, NotAllowed, RoleUnknown, PersonBarred."""
    request = _unanswered(tx, What.GRANT, origin, event_id)
    grants.grant(tx, origin, origin.actor.team or "", request.person, request.role, request.workspace.id)
    return asked(tx, event_id)


def decline(tx: Transaction, origin: Origin, event_id: int, reason: str | None = None) -> Asked:
    """Raises NoSuchRequest, AlreadyAnswered, NotAllowed, RoleUnknown, PersonBarred."""
    request = _unanswered(tx, What.DECLINE, origin, event_id)
    with attempt(tx, What.DECLINE, origin, reason) as current:
        current.subject = f"{request.person} {request.role}"
        current.allow(Action.ADMINISTER, request.workspace)
    return asked(tx, event_id)


def _unanswered(tx: Transaction, what: What, origin: Origin, event_id: int) -> Asked:
    request = asked(tx, event_id)
    if request.given is not None:
        with attempt(tx, what, origin) as current:
            current.subject = f"{request.person} {request.role}"
            current.allow(Action.ADMINISTER, request.workspace)
            raise AlreadyAnswered(request.by, request.at or tx.now, request.given)
    return request


def answered(tx: Transaction, workspace_id: int | None, person: str) -> list[int]:
    """The numbers of this person's requests in the workspace (None: in all) that were answered, and that some message shows as open.

    Also those that are on their way to somebody.
    """
    columns, owed = POSTED_MESSAGES.c, ERRANDS.c
    which = [columns.kind == KIND, columns.person == person]
    on_its_way = [owed.kind == Kind.ASK.value, owed.done_at.is_(None), AUDIT_EVENTS.c.user_id == person]
    if workspace_id is not None:
        which.append(columns.workspace_id == workspace_id)
        on_its_way.append(owed.workspace_id == workspace_id)
    shown = [int(ids[0]) for ids in tx.connection.scalars(select(columns.ids).where(*which).limit(SHOWN_MAX))]
    coming = select(owed.event_id).join_from(ERRANDS, AUDIT_EVENTS, owed.event_id == AUDIT_EVENTS.c.id).where(*on_its_way)
    events = dict.fromkeys([*shown, *tx.connection.scalars(coming.limit(SHOWN_MAX))])
    return [one for one in events if asked(tx, one).given is not None]


# --- where it was shown ---
def keep(tx: Transaction, request: Asked, channel: str, ts: str) -> None:
    """Writes down where an admin reads it. A note."""
    values = {"kind": KIND, "channel_id": channel, "ts": ts, "workspace_id": request.workspace.id, "person": request.person}
    tx.connection.execute(POSTED_MESSAGES.insert().values(**values, ids=(str(request.event),), created_at=tx.now))


def shown(tx: Transaction, event_id: int) -> Sequence[PostedMessage]:
    columns = POSTED_MESSAGES.c
    query = select(POSTED_MESSAGES).where(columns.kind == KIND, columns.ids == (str(event_id),)).order_by(columns.id).limit(SHOWN_MAX)
    return [as_row(PostedMessage, row) for row in tx.connection.execute(query)]


def settled(tx: Transaction, channel: str, ts: str) -> None:
    """This message says the answer. A note."""
    columns = POSTED_MESSAGES.c
    tx.connection.execute(delete(POSTED_MESSAGES).where(columns.kind == KIND, columns.channel_id == channel, columns.ts == ts))

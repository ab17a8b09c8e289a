"""Who may do what. This module holds the table and answers `may`; nothing else decides, and the default is to deny."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, Select, or_, select

from storage.database import Transaction
from storage.models import CHANNEL_MAPPINGS, ROLE_GRANTS, WORKSPACES, Workspace, as_row
from storage.refusals import Barred, NotAllowed, PersonBarred, Refusal, RoleUnknown
from storage.seen import moments

FRESH = 60  # seconds that Slack's answer about a person or a user group counts for everything
EMERGENCY = 3600  # seconds that it counts for stopping a credential, when Slack cannot be asked anew
HELPERS_NAMED = 5


class Role(StrEnum):
    READER = "reader"
    RESPONDER = "responder"
    WRITER = "writer"
    ADMIN = "admin"


class Standing(StrEnum):
    """What a person is without any grant."""

    MEMBER = "member"
    """Of a channel that is mapped to the workspace."""
    OWNER = "owner"


class Action(StrEnum):
    LIST = "list"
    DELETE = "delete"
    """Suspend, delete, revoke: whatever stops a credential."""
    CREATE = "create"
    """Create, rotate, resume: whatever makes one work."""
    ADMINISTER = "administer"
    """Map channels, grant roles, read the audit log."""
    MAKE_WORKSPACE = "make workspaces"


TABLE: Mapping[Role | Standing, frozenset[Action]] = {
    Standing.MEMBER: frozenset({Action.LIST}),
    Role.READER: frozenset({Action.LIST}),
    Role.RESPONDER: frozenset({Action.LIST, Action.DELETE}),
    Role.WRITER: frozenset({Action.LIST, Action.DELETE, Action.CREATE}),
    Role.ADMIN: frozenset({Action.LIST, Action.DELETE, Action.CREATE, Action.ADMINISTER}),
    Standing.OWNER: frozenset(Action),
}
WEAKEST: Mapping[Action, Role] = {
    Action.LIST: Role.READER,
    Action.DELETE: Role.RESPONDER,
    Action.CREATE: Role.WRITER,
    Action.ADMINISTER: Role.ADMIN,
}
"""The role that allows an action and nothing more; what is missing here is the owners' alone."""
STRONGEST_FIRST = (Standing.OWNER, Role.ADMIN, Role.WRITER, Role.RESPONDER, Role.READER, Standing.MEMBER)


@dataclass(frozen=True)
class Actor:
    """A person as Slack and the settings describe them, or the operator of the command line."""

    user: str
    """A Slack user id, or `shell:NAME` for the operator."""
    team: str | None
    owner: bool = False
    barred: Barred | None = None
    channel: str | None = None
    """The channel they act in and are a member of."""
    groups: Mapping[str, int] = field(default_factory=dict)
    """The user groups they are known to be in, with the age of Slack's answer in seconds."""
    unanswered: frozenset[str] = frozenset()
    """User groups that Slack could not be asked about."""
    account_age: int = 0
    """Seconds since Slack was asked who this is."""


@dataclass(frozen=True)
class Right:
    """A role and how it came."""

    role: Role | Standing
    via: str
    """A Slack user or user group id, `settings` for an owner, the channel for its member."""
    age: int | None = None
    """Seconds since Slack named the members of the group `via`."""
    everywhere: bool = False


@dataclass(frozen=True, slots=True)
class Held:
    """A grant, as far as it decides something."""

    principal: str
    role: Role
    workspace_id: int | None


def rights(tx: Transaction, actor: Actor, workspace: Workspace | None) -> list[Right]:
    """All that gives the actor something in the workspace (None: in all workspaces), strongest first."""
    if actor.barred:
        return []
    found = [Right(Standing.OWNER, "settings", everywhere=True)] if actor.owner else []
    for grant in _grants(tx, actor.team, workspace, (actor.user, *actor.groups)):
        found.append(Right(grant.role, grant.principal, actor.groups.get(grant.principal), grant.workspace_id is None))
    if workspace is not None and actor.channel:
        mapping = select(CHANNEL_MAPPINGS.c.workspace_id, CHANNEL_MAPPINGS.c.paused).where(
            CHANNEL_MAPPINGS.c.team_id == actor.team, CHANNEL_MAPPINGS.c.channel_id == actor.channel
        )
        if tx.connection.execute(mapping).first() == (workspace.id, False):
            found.append(Right(Standing.MEMBER, actor.channel))
    return sorted(found, key=lambda right: STRONGEST_FIRST.index(right.role))


def allowed(held: Iterable[Right]) -> frozenset[Action]:
    """All that these rights allow together."""
    return frozenset[Action]().union(*(TABLE[right.role] for right in held))


def may(tx: Transaction, actor: Actor, action: Action, workspace: Workspace | None) -> Right:
    """The right by which the actor may do this in the workspace (None: in all of them).

    Raises:
        PersonBarred: nobody of their kind may do anything.
        RoleUnknown: a user group would decide, and Slack could not be asked recently enough.
        NotAllowed: with the people who can help.
    """
    try:
        return _may(tx, actor, action, workspace)
    except Refusal as refusal:
        refusal.workspace_id = workspace.id if workspace else None
        raise


def _may(tx: Transaction, actor: Actor, action: Action, workspace: Workspace | None) -> Right:
    if actor.barred:
        raise PersonBarred(actor.barred)
    longest = EMERGENCY if action is Action.DELETE else FRESH
    if actor.account_age > longest:
        raise RoleUnknown
    held = rights(tx, actor, workspace)
    outdated = set(actor.unanswered)
    for right in held:
        if action in TABLE[right.role]:
            if right.age is None or right.age <= longest:
                return right
            outdated.add(right.via)
    if any(action in TABLE[grant.role] for grant in _grants(tx, actor.team, workspace, outdated)):
        raise RoleUnknown
    raise NotAllowed(
        action, workspace.name if workspace else None, helpers(tx, actor.team, workspace), held[0].role.value if held else None
    )


@dataclass(frozen=True)
class ToAsk:
    """The user groups to ask Slack about, and when Slack last said that one of them, or the person, changed."""

    groups: list[str]
    changed: Mapping[str, datetime]


def to_ask(tx: Transaction, user: str, team: str, workspaces: Sequence[int] | None) -> ToAsk:
    """What must be asked about somebody before their rights in these workspaces (None: in all) are known."""
    groups = deciding_groups(tx, Actor(user, team), workspaces)
    return ToAsk(groups, moments(tx, [user, *groups]))


def deciding_groups(tx: Transaction, actor: Actor, workspaces: Sequence[int] | None = None) -> list[str]:
    """The user groups whose membership can give the actor a role (in these workspaces): those to ask Slack about."""
    query = select(ROLE_GRANTS.c.principal).where(
        ROLE_GRANTS.c.team_id == actor.team, ROLE_GRANTS.c.principal >= "S", ROLE_GRANTS.c.principal < "T"
    )
    if workspaces is not None:
        query = query.where(or_(ROLE_GRANTS.c.workspace_id.is_(None), ROLE_GRANTS.c.workspace_id.in_(workspaces)))
    return sorted(tx.connection.scalars(query.distinct()))


def helpers(tx: Transaction, team: str | None, workspace: Workspace | None) -> list[str]:
    """The users and user groups who administer the workspace, at most five; empty when only the owners do."""
    return sorted({grant.principal for grant in _grants(tx, team, workspace) if grant.role is Role.ADMIN})[:HELPERS_NAMED]


def principals(tx: Transaction, team: str, workspace: Workspace, action: Action) -> list[str]:
    """The users and user groups who may do this in the workspace by a grant, at most five, on-call ones first."""
    held = [one for one in _grants(tx, team, workspace) if action in TABLE[one.role]]
    held.sort(key=lambda one: (one.role is not Role.RESPONDER, not one.principal.startswith("S")))
    return list(dict.fromkeys(one.principal for one in held))[:HELPERS_NAMED]


def visible_workspaces(tx: Transaction, actor: Actor, action: Action, limit: int) -> list[Workspace]:
    """The workspaces in which the actor may do this by a grant or as an owner, by name, at most `limit`."""
    if actor.barred:
        return []
    query = select(WORKSPACES).order_by(WORKSPACES.c.name, WORKSPACES.c.id).limit(limit)
    return [as_row(Workspace, row) for row in tx.connection.execute(_visible(tx, actor, action, query))]


def roles(tx: Transaction, actor: Actor, limit: int) -> list[tuple[Workspace, Right]]:
    """The workspaces in which the actor has a role by a grant or as an owner, by name, at most `limit`, each with the strongest right."""
    if actor.barred:
        return []
    columns = ROLE_GRANTS.c
    mine = select(columns.principal, columns.role, columns.workspace_id).where(
        columns.team_id == actor.team, columns.principal.in_([actor.user, *actor.groups])
    )
    everywhere: list[Right] = [Right(Standing.OWNER, "settings", everywhere=True)] if actor.owner else []
    by_workspace: dict[int, list[Right]] = {}
    for principal, role, workspace_id in tx.connection.execute(mine):
        right = Right(Role(role), principal, actor.groups.get(principal), workspace_id is None)
        (everywhere if workspace_id is None else by_workspace.setdefault(workspace_id, [])).append(right)
    query = select(WORKSPACES).order_by(WORKSPACES.c.name, WORKSPACES.c.id).limit(limit)
    if not everywhere:
        query = query.where(WORKSPACES.c.id.in_(by_workspace))
    found = [as_row(Workspace, row) for row in tx.connection.execute(query)]
    return [(one, min([*everywhere, *by_workspace.get(one.id, ())], key=lambda it: STRONGEST_FIRST.index(it.role))) for one in found]


def _visible(tx: Transaction, actor: Actor, action: Action, query: Select[Any]) -> Select[Any]:
    if actor.owner:
        return query
    roles = [role.value for role in Role if action in TABLE[role]]
    grants = select(ROLE_GRANTS.c.workspace_id).where(
        ROLE_GRANTS.c.team_id == actor.team,
        ROLE_GRANTS.c.principal.in_([actor.user, *actor.groups]),
        ROLE_GRANTS.c.role.in_(roles),
    )
    granted = set(tx.connection.scalars(grants))
    return query if None in granted else query.where(WORKSPACES.c.id.in_(granted))


def _grants(tx: Transaction, team: str | None, workspace: Workspace | None, principals: Iterable[str] | None = None) -> list[Held]:
    """The grants that count in the workspace: of these principals, or of all, in the order they were given."""
    columns = ROLE_GRANTS.c
    which: list[ColumnElement[bool]] = [columns.team_id == team]
    if principals is not None:
        named = sorted(set(principals))
        if not named:
            return []
        which.append(columns.principal.in_(named))
    here: list[ColumnElement[bool]] = [columns.workspace_id.is_(None)]
    if workspace is not None:
        here.append(columns.workspace_id == workspace.id)
    query = select(columns.principal, columns.role, columns.workspace_id).where(*which, or_(*here)).order_by(columns.id)
    return [Held(row.principal, Role(row.role), row.workspace_id) for row in tx.connection.execute(query)]

"""Who may do what. This module holds the table and answers `may`; nothing else decides, and the default is to deny."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, Select, bindparam, func, literal, select, union, union_all

from storage.database import Transaction
from storage.models import CHANNEL_MAPPINGS, MOMENTS, ROLE_GRANTS, WORKSPACES, Workspace, as_row
from storage.refusals import Barred, NotAllowed, PersonBarred, Refusal, RoleUnknown

FRESH = 60  # seconds that Slack's answer about a person or a user group counts for everything
EMERGENCY = 3600  # seconds that it counts for stopping a credential, when Slack cannot be asked anew
HELPERS_NAMED = 5
PRINCIPAL = re.compile(r"[UWS][A-Z0-9]{2,30}")
"""A Slack user (U, W) or user group (S)."""


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


# Grants for all workspaces and those for one are looked up apart: of either, an index leads to just these rows.
_GRANTS = ROLE_GRANTS.c
_OF_TEAM = _GRANTS.team_id == bindparam("team")
_EVERYWHERE = _GRANTS.workspace_id.is_(None)
_HERE = _GRANTS.workspace_id == bindparam("workspace")


def _both(columns: Select[Any]) -> Any:
    return union_all(columns.where(_EVERYWHERE), columns.where(_HERE))


def _numbered(name: str, values: Sequence[Any]) -> dict[str, Any]:
    """Values for `_one_of`."""
    return {f"{name}{number}": value for number, value in enumerate(values)}


def _one_of(column: ColumnElement[Any], name: str, count: int) -> ColumnElement[bool]:
    """One of so many values. SQLAlchemy writes a list that may have any length anew each time, which costs more than the query."""
    return column.in_([bindparam(f"{name}{number}") for number in range(count)])


@lru_cache
def _of_principals(count: int) -> Any:
    columns = select(_GRANTS.id, _GRANTS.principal, _GRANTS.role, _GRANTS.workspace_id)
    return _both(columns.where(_OF_TEAM, _one_of(_GRANTS.principal, "principal", count)))


_OF_ROLES = _both(
    select(_GRANTS.principal, _GRANTS.role).where(_OF_TEAM, _GRANTS.role.in_(bindparam("roles", expanding=True))),
)
_MAPPING = select(CHANNEL_MAPPINGS.c.workspace_id, CHANNEL_MAPPINGS.c.paused).where(
    CHANNEL_MAPPINGS.c.team_id == bindparam("team"), CHANNEL_MAPPINGS.c.channel_id == bindparam("channel")
)


def rights(tx: Transaction, actor: Actor, workspace: Workspace | None) -> list[Right]:
    """All that gives the actor something in the workspace (None: in all workspaces), strongest first."""
    if actor.barred:
        return []
    return [*_given(tx, actor, workspace), *_as_member(tx, actor, workspace)]


def _given(tx: Transaction, actor: Actor, workspace: Workspace | None) -> list[Right]:
    found = [Right(Standing.OWNER, "settings", everywhere=True)] if actor.owner else []
    for grant in _grants(tx, actor.team, workspace, (actor.user, *actor.groups)):
        found.append(Right(grant.role, grant.principal, actor.groups.get(grant.principal), grant.workspace_id is None))
    return sorted(found, key=lambda right: STRONGEST_FIRST.index(right.role))


def _as_member(tx: Transaction, actor: Actor, workspace: Workspace | None) -> list[Right]:
    """What being in the channel gives; it is the weakest."""
    if workspace is None or not actor.channel:
        return []
    mapped = tx.connection.execute(_MAPPING, {"team": actor.team, "channel": actor.channel}).first()
    return [Right(Standing.MEMBER, actor.channel)] if mapped == (workspace.id, False) else []


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
    held: list[Right] = []
    outdated = set(actor.unanswered)
    for look in (_given, _as_member):
        held += (found := look(tx, actor, workspace))
        for right in found:
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


_GROUPS = select(_GRANTS.principal).where(_OF_TEAM, _GRANTS.principal >= "S", _GRANTS.principal < "T").distinct().subquery()
# Not as a range, which would lead through all groups of the team instead of to the grants of the workspaces.
_AS_GROUPS = select(_GRANTS.principal).where(_OF_TEAM, func.substr(_GRANTS.principal, 1, 1) == "S")


def _with_moments(groups: Any) -> Any:
    """The groups and, as the row without a group, the person; each with its moment."""
    person = select(literal(None), MOMENTS.c.at).where(MOMENTS.c.key == bindparam("user"))
    of_groups = select(groups.c.principal, MOMENTS.c.at).join_from(groups, MOMENTS, MOMENTS.c.key == groups.c.principal, isouter=True)
    return union_all(of_groups, person)


_TO_ASK = _with_moments(_GROUPS)


@lru_cache
def _to_ask_of(count: int) -> Any:
    """Of so many workspaces."""
    here = _AS_GROUPS.where(_one_of(_GRANTS.workspace_id, "workspace", count))
    return _with_moments(union(_AS_GROUPS.where(_EVERYWHERE), here).subquery())


def to_ask(tx: Transaction, user: str, team: str, workspaces: Sequence[int] | None) -> ToAsk:
    """What must be asked about somebody before their rights in these workspaces (None: in all) are known.

    The groups are those whose membership can give a role there.
    """
    values: dict[str, Any] = {"user": user, "team": team}
    if workspaces is None:
        found = tx.connection.execute(_TO_ASK, values).all()
    else:
        found = tx.connection.execute(_to_ask_of(len(workspaces)), values | _numbered("workspace", workspaces)).all()
    return ToAsk(sorted(group for group, _ in found if group), {group or user: at for group, at in found if at is not None})


def helpers(tx: Transaction, team: str | None, workspace: Workspace | None) -> list[str]:
    """The users and user groups who administer the workspace, at most five; empty when only the owners do."""
    return sorted({principal for principal, _ in _of_roles(tx, team, workspace, [Role.ADMIN])})[:HELPERS_NAMED]


def principals(tx: Transaction, team: str, workspace: Workspace, action: Action) -> list[str]:
    """The users and user groups who may do this in the workspace by a grant, at most five, on-call ones first."""
    held = _of_roles(tx, team, workspace, [role for role in Role if action in TABLE[role]])
    held.sort(key=lambda one: (one[1] != Role.RESPONDER, not one[0].startswith("S"), one[0]))
    return list(dict.fromkeys(principal for principal, _ in held))[:HELPERS_NAMED]


@dataclass(frozen=True, slots=True)
class Choice:
    """A workspace in a menu."""

    id: int
    slug: str
    name: str


_CHOICES = select(WORKSPACES.c.id, WORKSPACES.c.slug, WORKSPACES.c.name).order_by(WORKSPACES.c.name, WORKSPACES.c.id)


def visible_workspaces(tx: Transaction, actor: Actor, action: Action, limit: int) -> list[Choice]:
    """The workspaces in which the actor may do this by a grant or as an owner, by name, at most `limit`."""
    if actor.barred:
        return []
    query = _CHOICES.where(*within(tx, actor, action, WORKSPACES.c.id))
    return [Choice(*row) for row in tx.connection.execute(query.limit(limit))]


def within(tx: Transaction, actor: Actor, action: Action, workspace_id: ColumnElement[int]) -> list[ColumnElement[bool]]:
    """What is so of the ids of those workspaces; nothing when they are all."""
    if actor.owner:
        return []
    granted = (
        _GRANTS.team_id == actor.team,
        _GRANTS.principal.in_([actor.user, *actor.groups]),
        _GRANTS.role.in_([role.value for role in Role if action in TABLE[role]]),
    )
    if tx.connection.execute(select(_GRANTS.id).where(*granted, _EVERYWHERE).limit(1)).first() is not None:
        return []
    return [workspace_id.in_(select(_GRANTS.workspace_id).where(*granted))]


def _grants(tx: Transaction, team: str | None, workspace: Workspace | None, principals: Iterable[str]) -> list[Held]:
    """The grants of these principals that count in the workspace, in the order they were given."""
    named = sorted(set(principals))
    if not named:
        return []
    values = {"team": team, "workspace": workspace.id if workspace else None} | _numbered("principal", named)
    found = sorted(tx.connection.execute(_of_principals(len(named)), values).all())
    return [Held(principal, Role(role), workspace_id) for _, principal, role, workspace_id in found]


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


def _of_roles(tx: Transaction, team: str | None, workspace: Workspace | None, roles: Sequence[Role]) -> list[tuple[str, str]]:
    """Who has one of the roles in the workspace, and which."""
    values = {"team": team, "roles": [role.value for role in roles], "workspace": workspace.id if workspace else None}
    return [(principal, role) for principal, role in tx.connection.execute(_OF_ROLES, values)]

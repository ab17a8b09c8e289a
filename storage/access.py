"""Who may do what. This module holds the table and answers `may`; nothing else decides, and the default is to deny."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from storage.models import ChannelMapping, RoleGrant, Workspace
from storage.refusals import Barred, NotAllowed, PersonBarred, RoleUnknown

FRESH_MEMBERSHIP = 60  # seconds that Slack's answer about a user group counts for everything
EMERGENCY_MEMBERSHIP = 3600  # seconds that it counts for stopping a credential, when Slack cannot be asked anew
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
    """The channel they act in, and therefore are a member of."""
    groups: Mapping[str, int] = field(default_factory=dict)
    """The user groups they are known to be in, with the age of Slack's answer in seconds."""
    unanswered: frozenset[str] = frozenset()
    """User groups that Slack could not be asked about."""


@dataclass(frozen=True)
class Right:
    """A role and how it came."""

    role: Role | Standing
    via: str
    """A Slack user or user group id, `settings` for an owner, the channel for its member."""
    age: int | None = None
    """Seconds since Slack named the members of the group `via`."""
    everywhere: bool = False


async def rights(session: AsyncSession, actor: Actor, workspace: Workspace | None) -> list[Right]:
    """All that gives the actor something in the workspace (None: in all workspaces), strongest first."""
    if actor.barred:
        return []
    found = [Right(Standing.OWNER, "settings", everywhere=True)] if actor.owner else []
    for grant in await _grants(session, actor.team, workspace):
        if grant.principal == actor.user or grant.principal in actor.groups:
            everywhere = grant.workspace_id is None
            found.append(Right(Role(grant.role), grant.principal, actor.groups.get(grant.principal), everywhere))
    if workspace is not None and actor.channel:
        mapping = await session.get(ChannelMapping, (actor.team, actor.channel))
        if mapping and mapping.workspace_id == workspace.id and not mapping.paused:
            found.append(Right(Standing.MEMBER, actor.channel))
    return sorted(found, key=lambda right: STRONGEST_FIRST.index(right.role))


async def may(session: AsyncSession, actor: Actor, action: Action, workspace: Workspace | None) -> Right:
    """The right by which the actor may do this in the workspace (None: in all of them).

    Raises:
        PersonBarred: nobody of their kind may do anything.
        RoleUnknown: a user group would decide, and Slack could not be asked recently enough.
        NotAllowed: with the people who can help.
    """
    if actor.barred:
        raise PersonBarred(actor.barred)
    longest = EMERGENCY_MEMBERSHIP if action in (Action.DELETE, Action.LIST) else FRESH_MEMBERSHIP
    held = await rights(session, actor, workspace)
    outdated = set(actor.unanswered)
    for right in held:
        if action in TABLE[right.role]:
            if right.age is None or right.age <= longest:
                return right
            outdated.add(right.via)
    for grant in await _grants(session, actor.team, workspace):
        if grant.principal in outdated and action in TABLE[Role(grant.role)]:
            raise RoleUnknown
    may_list = any(Action.LIST in TABLE[right.role] for right in held)
    raise NotAllowed(action, workspace.name if workspace else None, await helpers(session, actor, workspace), may_list)


async def deciding_groups(session: AsyncSession, actor: Actor, workspaces: Sequence[int] | None = None) -> list[str]:
    """The user groups whose membership can give the actor a role (in these workspaces): those to ask Slack about."""
    query = select(RoleGrant.principal).where(RoleGrant.team_id == actor.team, RoleGrant.principal.like("S%"))
    if workspaces is not None:
        query = query.where(or_(RoleGrant.workspace_id.is_(None), RoleGrant.workspace_id.in_(workspaces)))
    return list((await session.scalars(query.distinct().order_by(RoleGrant.principal))).all())


async def helpers(session: AsyncSession, actor: Actor, workspace: Workspace | None) -> list[str]:
    """The users and user groups who administer the workspace, at most five; empty when only the owners do."""
    admins = [g.principal for g in await _grants(session, actor.team, workspace) if g.role == Role.ADMIN]
    return sorted(set(admins))[:HELPERS_NAMED]


async def principals(session: AsyncSession, team: str, workspace: Workspace, action: Action) -> list[str]:
    """The users and user groups who may do this in the workspace by a grant, at most five, on-call ones first."""
    held = [one for one in await _grants(session, team, workspace) if action in TABLE[Role(one.role)]]
    held.sort(key=lambda one: (one.role != Role.RESPONDER, not one.principal.startswith("S")))
    return list(dict.fromkeys(one.principal for one in held))[:HELPERS_NAMED]


async def visible_workspaces(session: AsyncSession, actor: Actor, action: Action) -> list[Workspace]:
    """The workspaces in which the actor may do this by a grant or as an owner, by name."""
    if actor.barred:
        return []
    query = select(Workspace).order_by(Workspace.name, Workspace.id)
    if not actor.owner:
        roles = [role for role in Role if action in TABLE[role]]
        grants = select(RoleGrant.workspace_id).where(
            RoleGrant.team_id == actor.team,
            RoleGrant.role.in_(roles),
            RoleGrant.principal.in_([actor.user, *actor.groups]),
        )
        granted = set((await session.scalars(grants)).all())
        if None not in granted:
            query = query.where(Workspace.id.in_(granted))
    return list((await session.scalars(query)).all())


async def _grants(session: AsyncSession, team: str | None, workspace: Workspace | None) -> list[RoleGrant]:
    here = or_(RoleGrant.workspace_id.is_(None), RoleGrant.workspace_id == (workspace.id if workspace else None))
    query = select(RoleGrant).where(RoleGrant.team_id == team, here).order_by(RoleGrant.id)
    return list((await session.scalars(query)).all())

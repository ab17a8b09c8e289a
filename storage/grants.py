"""Role grants: giving and taking them. What they allow is `storage/access.py`."""

import re
from collections.abc import Sequence

from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from storage.access import Action, Role
from storage.audit import Origin, What, attempt
from storage.database import Database
from storage.models import RoleGrant, Workspace
from storage.refusals import NoSuchGrant, PrincipalInvalid
from storage.workspaces import by_id

PRINCIPAL = re.compile(r"[UWS][A-Z0-9]{2,30}")  # a Slack user (U, W) or user group (S)


async def grant(db: Database, origin: Origin, team: str, principal: str, role: Role, workspace_id: int | None) -> RoleGrant:
    """Gives the principal the role in the workspace (None: in all of them), in place of the one it had there.

    Raises:
        PrincipalInvalid, NoSuchWorkspace, NotAllowed (a grant for all workspaces is the owners' to give).
    """
    if not PRINCIPAL.fullmatch(principal):
        raise PrincipalInvalid
    async with attempt(db, What.GRANT, origin) as current:
        current.subject = f"{principal} {role}"
        session = current.session
        if workspace_id is None:
            await current.allow(Action.MAKE_WORKSPACE, None)
        else:
            await current.allow(Action.ADMINISTER, await by_id(session, workspace_id))
        same = select(RoleGrant).where(RoleGrant.team_id == team, RoleGrant.principal == principal)
        here = RoleGrant.workspace_id.is_(None) if workspace_id is None else RoleGrant.workspace_id == workspace_id
        held = (await session.scalars(same.where(here))).one_or_none()
        if held is None:
            held = RoleGrant(team_id=team, principal=principal, workspace_id=workspace_id)
            session.add(held)
        held.role = role
        held.granted_at = db.clock()
        held.granted_by = origin.actor.user
    return held


async def remove(db: Database, origin: Origin, grant_id: int) -> RoleGrant:
    """Raises NoSuchGrant, NotAllowed."""
    async with attempt(db, What.UNGRANT, origin) as current:
        held = await current.session.get(RoleGrant, grant_id)
        if held is None or held.team_id != origin.actor.team:
            raise NoSuchGrant
        current.subject = f"{held.principal} {held.role}"
        if held.workspace_id is None:
            await current.allow(Action.MAKE_WORKSPACE, None)
        else:
            await current.allow(Action.ADMINISTER, await by_id(current.session, held.workspace_id))
        await current.session.delete(held)
    return held


async def of_workspace(session: AsyncSession, team: str, workspace: Workspace) -> Sequence[RoleGrant]:
    """The grants that count in the workspace, those for all workspaces among them, in the order they were given."""
    here = or_(RoleGrant.workspace_id == workspace.id, RoleGrant.workspace_id.is_(None))
    query = select(RoleGrant).where(RoleGrant.team_id == team, here)
    return (await session.scalars(query.order_by(RoleGrant.id))).all()

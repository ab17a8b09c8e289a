"""Role grants: giving and taking them. What they allow is `storage/access.py`."""

from datetime import datetime

from sqlalchemy import delete, func, insert, or_, select, update

from storage.access import PRINCIPAL, Action, Role
from storage.audit import Attempt, Origin, What, attempt
from storage.database import Transaction
from storage.models import AUDIT_EVENTS, ROLE_GRANTS, WORKSPACES, RoleGrant, Workspace, as_row
from storage.refusals import NoSuchGrant, PrincipalInvalid
from storage.workspaces import by_id

HELD_MAX = 20
"""Of the roles elsewhere, so many are named."""


def grant(tx: Transaction, origin: Origin, team: str, principal: str, role: Role, workspace_id: int | None) -> RoleGrant:
    """Gives the principal the role in the workspace (None: in all of them), in place of the one it had there.

    Raises:
        PrincipalInvalid, NoSuchWorkspace, NotAllowed (a grant for all workspaces is the owners' to give).
    """
    if not PRINCIPAL.fullmatch(principal):
        raise PrincipalInvalid
    with attempt(tx, What.GRANT, origin) as current:
        current.subject = f"{principal} {role}"
        _allow(tx, current, workspace_id)
        columns = ROLE_GRANTS.c
        here = columns.workspace_id.is_(None) if workspace_id is None else columns.workspace_id == workspace_id
        values = {"role": role.value, "granted_at": tx.now, "granted_by": origin.actor.user}
        same = (columns.team_id == team, columns.principal == principal, here)
        row = tx.connection.execute(update(ROLE_GRANTS).where(*same).values(**values).returning(ROLE_GRANTS)).one_or_none()
        if row is None:
            adding = insert(ROLE_GRANTS).values(team_id=team, principal=principal, workspace_id=workspace_id, **values)
            row = tx.connection.execute(adding.returning(ROLE_GRANTS)).one()
    return as_row(RoleGrant, row)


def remove(tx: Transaction, origin: Origin, grant_id: int) -> RoleGrant:
    """Raises NoSuchGrant, NotAllowed."""
    with attempt(tx, What.UNGRANT, origin) as current:
        row = tx.connection.execute(select(ROLE_GRANTS).where(ROLE_GRANTS.c.id == grant_id)).one_or_none()
        if row is None or row.team_id != origin.actor.team:
            raise NoSuchGrant
        held = as_row(RoleGrant, row)
        current.subject = f"{held.principal} {held.role}"
        _allow(tx, current, held.workspace_id)
        tx.connection.execute(delete(ROLE_GRANTS).where(ROLE_GRANTS.c.id == grant_id))
    return held


def _allow(tx: Transaction, current: Attempt, workspace_id: int | None) -> None:
    if workspace_id is None:
        current.allow(Action.MAKE_WORKSPACE, None)
    else:
        current.allow(Action.ADMINISTER, by_id(tx, workspace_id))


def of_workspace(tx: Transaction, team: str, workspace: Workspace) -> list[RoleGrant]:
    """The grants that count in the workspace, those for all workspaces among them, in the order they were given."""
    here = or_(ROLE_GRANTS.c.workspace_id == workspace.id, ROLE_GRANTS.c.workspace_id.is_(None))
    query = select(ROLE_GRANTS).where(ROLE_GRANTS.c.team_id == team, here).order_by(ROLE_GRANTS.c.id)
    return [as_row(RoleGrant, row) for row in tx.connection.execute(query)]


def held(tx: Transaction, team: str, principal: str, workspace_id: int | None) -> RoleGrant:
    """The principal's grant in the workspace itself (None: the one for all workspaces). Raises NoSuchGrant."""
    here = ROLE_GRANTS.c.workspace_id.is_(None) if workspace_id is None else ROLE_GRANTS.c.workspace_id == workspace_id
    query = select(ROLE_GRANTS).where(ROLE_GRANTS.c.team_id == team, ROLE_GRANTS.c.principal == principal, here)
    row = tx.connection.execute(query).one_or_none()
    if row is None:
        roles = select(ROLE_GRANTS.c.role, WORKSPACES.c.slug).join_from(ROLE_GRANTS, WORKSPACES, isouter=True)
        roles = roles.where(ROLE_GRANTS.c.team_id == team, ROLE_GRANTS.c.principal == principal).order_by(ROLE_GRANTS.c.id).limit(HELD_MAX)
        raise NoSuchGrant([f"{role} of {slug or 'all workspaces'}" for role, slug in tx.connection.execute(roles)])
    return as_row(RoleGrant, row)


def review(tx: Transaction) -> list[tuple[RoleGrant, str | None, datetime | None]]:
    """Every grant with the slug of its workspace (None: all) and when its person last did or tried something; those for all come first."""
    last = select(func.max(AUDIT_EVENTS.c.at)).where(AUDIT_EVENTS.c.user_id == ROLE_GRANTS.c.principal).scalar_subquery()
    query = select(ROLE_GRANTS, WORKSPACES.c.slug, last).join_from(ROLE_GRANTS, WORKSPACES, isouter=True)
    rows = tx.connection.execute(query.order_by(WORKSPACES.c.slug.nulls_first(), ROLE_GRANTS.c.role, ROLE_GRANTS.c.principal))
    return [(RoleGrant(*row[:-2]), row[-2], row[-1]) for row in rows]

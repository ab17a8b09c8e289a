"""Who answers for a credential, and what becomes of it when that person leaves."""

from sqlalchemy import delete, func, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

from storage.access import PRINCIPAL, Action
from storage.audit import Origin, What, attempt
from storage.credentials import about, rows, save
from storage.database import Transaction
from storage.lifecycle import check_live
from storage.models import CREDENTIALS, DEPARTED, FACTS, LIVE, ROLE_GRANTS, Credential, RoleGrant, Workspace, as_row
from storage.refusals import AlreadyOwned, OwnerGone, PrincipalInvalid
from storage.workspaces import by_id

ASKED_AT_ONCE = 5  # people whom the sweep asks Slack about
LISTED = 10  # credentials in one message
LOOKED_AT = "people_looked_at"
"""The fact that says up to whom the sweep has come."""


def change(tx: Transaction, origin: Origin, credential_id: str, owner: str, instead_of: str | None = None) -> tuple[Credential, Workspace]:
    """Lets another person or user group answer for the credential.

    Args:
        instead_of: whose it must still be.

    Raises:
        PrincipalInvalid, OwnerGone, AlreadyOwned, NotAllowed, RoleUnknown, PersonBarred, NoSuchCredential, AlreadyDeleted.
    """
    if not PRINCIPAL.fullmatch(owner):
        raise PrincipalInvalid
    with attempt(tx, What.OWNER, origin) as current:
        credential = about(current, credential_id)
        workspace = by_id(tx, credential.workspace_id)
        current.subject = owner
        current.allow(Action.CREATE, workspace)
        check_live(credential)
        if instead_of is not None and credential.owner != instead_of:
            raise AlreadyOwned(credential.name, credential.owner or credential.created_by)
        if is_gone(tx, owner):
            raise OwnerGone
        current.void = credential.owner == owner
        if not current.void:
            current.credential = credential = save(tx, credential, owner=owner)
    return credential, workspace


def is_gone(tx: Transaction, person: str) -> bool:
    return tx.connection.execute(select(DEPARTED.c.person).where(DEPARTED.c.person == person)).first() is not None


def left(tx: Transaction, origin: Origin, team: str, person: str) -> None:
    """Somebody is no longer in the Slack team: their roles end, and the admins of each workspace concerned are owed a message.

    Does nothing the second time, nor for somebody who owned nothing and had no role.
    """
    held = _held(tx, team, person)
    owned = select(CREDENTIALS.c.workspace_id).where(CREDENTIALS.c.owner == person, text(LIVE)).distinct()
    concerned: dict[int | None, str] = dict.fromkeys(sorted(tx.connection.scalars(owned)), "")
    with attempt(tx, What.LEFT, origin) as first:
        first.void = True
        insert = sqlite.insert(DEPARTED) if tx.sqlite else postgresql.insert(DEPARTED)
        leaving = insert.values(person=person, team_id=team, at=tx.now).on_conflict_do_nothing().returning(DEPARTED.c.person)
        if not (held or concerned) or tx.connection.execute(leaving).first() is None:
            return
    for grant in held:
        with attempt(tx, What.UNGRANT, origin, "left the Slack team") as current:
            current.subject = f"{person} {grant.role}"
            current.workspace = by_id(tx, grant.workspace_id) if grant.workspace_id else None
            tx.connection.execute(delete(ROLE_GRANTS).where(ROLE_GRANTS.c.id == grant.id))
        concerned[grant.workspace_id] = grant.role
    for workspace_id, role in concerned.items():
        with attempt(tx, What.LEFT, origin) as current:
            current.subject = f"{person} {role}".strip()
            current.workspace = by_id(tx, workspace_id) if workspace_id else None


def _held(tx: Transaction, team: str, person: str) -> list[RoleGrant]:
    query = select(ROLE_GRANTS).where(ROLE_GRANTS.c.team_id == team, ROLE_GRANTS.c.principal == person).order_by(ROLE_GRANTS.c.id)
    return [as_row(RoleGrant, row) for row in tx.connection.execute(query)]


def returned(tx: Transaction, person: str) -> None:
    """They are in the Slack team again, and may own credentials; their roles do not come back. A note."""
    tx.connection.execute(delete(DEPARTED).where(DEPARTED.c.person == person))


def owned_by(tx: Transaction, person: str, workspace_id: int, limit: int = LISTED) -> tuple[list[Credential], int]:
    """The live credentials of the workspace that somebody owns, the oldest first, at most `limit`; and how many there are."""
    mine = (CREDENTIALS.c.workspace_id == workspace_id, CREDENTIALS.c.owner == person, text(LIVE))
    found = rows(tx, select(CREDENTIALS).where(*mine).order_by(CREDENTIALS.c.created_at, CREDENTIALS.c.id).limit(limit))
    count = len(found) if len(found) < limit else tx.connection.scalar(select(func.count()).where(*mine)) or 0
    return found, count


def to_look_at(tx: Transaction, team: str) -> list[str]:
    """The next few people who own something or have a role, in turn: whether they are still there is to be asked. A note."""
    after = fact(tx, LOOKED_AT)
    found: list[str] = []
    while len(found) < ASKED_AT_ONCE:
        last = found[-1] if found else after
        owner = select(CREDENTIALS.c.owner).where(CREDENTIALS.c.owner > last, text(LIVE)).order_by(CREDENTIALS.c.owner).limit(1)
        holder = select(func.min(ROLE_GRANTS.c.principal)).where(ROLE_GRANTS.c.team_id == team, ROLE_GRANTS.c.principal > last)
        following = [one for one in (tx.connection.scalar(owner), tx.connection.scalar(holder)) if one]
        if not following:
            break
        found.append(min(following))
    keep_fact(tx, LOOKED_AT, found[-1] if len(found) == ASKED_AT_ONCE else "")
    return [one for one in found if one.startswith(("U", "W")) and not is_gone(tx, one)]


def fact(tx: Transaction, key: str) -> str:
    """What was kept under the key; empty when nothing was. Whoever else asks waits until this transaction has ended."""
    insert = sqlite.insert(FACTS) if tx.sqlite else postgresql.insert(FACTS)
    tx.connection.execute(insert.values(key=key, value="").on_conflict_do_nothing())
    value: str = tx.connection.scalars(select(FACTS.c.value).where(FACTS.c.key == key).with_for_update()).one()
    return value


def keep_fact(tx: Transaction, key: str, value: str) -> None:
    """After `fact`."""
    tx.connection.execute(update(FACTS).where(FACTS.c.key == key).values(value=value))

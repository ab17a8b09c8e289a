"""Workspaces and the Slack channels mapped to them."""

from sqlalchemy import Table, bindparam, delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from storage import errands, posted
from storage.access import Action
from storage.audit import Origin, What, attempt
from storage.database import Transaction
from storage.models import (
    CHANNEL_MAPPINGS,
    CREDENTIALS,
    INSTALLATIONS,
    ROLE_GRANTS,
    WORKSPACES,
    ChannelMapping,
    Installation,
    Workspace,
    as_row,
)
from storage.names import clean_name, clean_slug
from storage.refusals import (
    ChannelNotMapped,
    ChannelPaused,
    NoSuchWorkspace,
    NotSuspended,
    ReasonRequired,
    SlugTaken,
    WorkspaceNotEmpty,
    WorkspaceSuspended,
)

_IN_CHANNEL = (CHANNEL_MAPPINGS.c.team_id == bindparam("team"), CHANNEL_MAPPINGS.c.channel_id == bindparam("channel"))
_BY_ID = select(WORKSPACES).where(WORKSPACES.c.id == bindparam("workspace"))
_OF_CHANNEL = select(WORKSPACES, CHANNEL_MAPPINGS.c.paused).join_from(WORKSPACES, CHANNEL_MAPPINGS).where(*_IN_CHANNEL)


def add(tx: Transaction, origin: Origin, slug: str, name: str | None = None) -> Workspace:
    """Makes a workspace; its display name is the slug when none is given.

    Raises:
        SlugInvalid, NameInvalid, SlugTaken, NotAllowed.
    """
    slug = clean_slug(slug)
    name = clean_name(name or slug)
    with attempt(tx, What.MAKE_WORKSPACE, origin) as current:
        current.subject = slug
        current.allow(Action.MAKE_WORKSPACE, None)
        if by_slug(tx, slug):
            raise SlugTaken(slug)
        making = insert(WORKSPACES).values(
            slug=slug,
            name=name,
            credential_count=0,
            notify_created=False,
            notify_deleted=True,
            created_at=tx.now,
            created_by=origin.actor.user,
        )
        workspace = as_row(Workspace, tx.connection.execute(making.returning(WORKSPACES)).one())
        current.workspace = workspace
    return workspace


def rename(tx: Transaction, origin: Origin, workspace_id: int, name: str) -> Workspace:
    """Changes the display name; slug and usernames stay. Raises NameInvalid, NoSuchWorkspace, NotAllowed."""
    name = clean_name(name)
    with attempt(tx, What.CHANGE_WORKSPACE, origin) as current:
        current.subject = f"name {name}"
        workspace = by_id(tx, workspace_id)
        current.allow(Action.ADMINISTER, workspace)
        current.void = workspace.name == name
        current.workspace = workspace = save(tx, workspace, name=name)
    return workspace


def remove(tx: Transaction, origin: Origin, workspace_id: int) -> Workspace:
    """Removes a workspace that has nothing: no channel, no role, no credential, and no deleted one, whose username is never used again.

    Raises:
        NoSuchWorkspace, NotAllowed, WorkspaceNotEmpty.
    """
    with attempt(tx, What.REMOVE_WORKSPACE, origin) as current:
        workspace = by_id(tx, workspace_id)
        current.subject = workspace.slug
        current.allow(Action.MAKE_WORKSPACE, None)
        current.workspace = workspace
        has = [table.name for table in (CREDENTIALS, CHANNEL_MAPPINGS, ROLE_GRANTS) if _any(tx, table, workspace_id)]
        if has:
            raise WorkspaceNotEmpty(workspace.name, "credentials" in has, "channel_mappings" in has, "role_grants" in has)
        tx.connection.execute(delete(WORKSPACES).where(WORKSPACES.c.id == workspace_id))
    return workspace


def _any(tx: Transaction, table: Table, workspace_id: int) -> bool:
    return tx.connection.execute(select(table.c.workspace_id).where(table.c.workspace_id == workspace_id).limit(1)).first() is not None


def by_slug(tx: Transaction, slug: str) -> Workspace | None:
    row = tx.connection.execute(select(WORKSPACES).where(WORKSPACES.c.slug == slug)).one_or_none()
    return as_row(Workspace, row) if row else None


def named(tx: Transaction, slug: str) -> Workspace:
    """The workspace with this slug. Raises NoSuchWorkspace, which names those there are."""
    found = by_slug(tx, slug)
    if found is None:
        raise NoSuchWorkspace(slug)
    return found


def by_id(tx: Transaction, workspace_id: int) -> Workspace:
    """Raises NoSuchWorkspace."""
    row = tx.connection.execute(_BY_ID, {"workspace": workspace_id}).one_or_none()
    if row is None:
        raise NoSuchWorkspace
    return as_row(Workspace, row)


def all_of_them(tx: Transaction) -> list[Workspace]:
    return [as_row(Workspace, row) for row in tx.connection.execute(select(WORKSPACES).order_by(WORKSPACES.c.name, WORKSPACES.c.id))]


def save(tx: Transaction, workspace: Workspace, **changes: object) -> Workspace:
    """Writes the changed columns; returns the row as it is then. Within an attempt only."""
    changing = update(WORKSPACES).where(WORKSPACES.c.id == workspace.id).values(**changes)
    return as_row(Workspace, tx.connection.execute(changing.returning(WORKSPACES)).one())


def of_channel(tx: Transaction, team: str | None, channel: str | None) -> Workspace:
    """The workspace that the channel is mapped to.

    Raises:
        ChannelNotMapped, ChannelPaused.
    """
    if not team or not channel:
        raise ChannelNotMapped
    row = tx.connection.execute(_OF_CHANNEL, {"team": team, "channel": channel}).one_or_none()
    if row is None:
        raise ChannelNotMapped
    if row[-1]:
        raise ChannelPaused
    return Workspace(*row[:-1])


def mapping(tx: Transaction, team: str, channel: str) -> ChannelMapping | None:
    query = select(CHANNEL_MAPPINGS).where(CHANNEL_MAPPINGS.c.team_id == team, CHANNEL_MAPPINGS.c.channel_id == channel)
    row = tx.connection.execute(query).one_or_none()
    return as_row(ChannelMapping, row) if row else None


def mapped(tx: Transaction, team: str, channel: str) -> Workspace | None:
    """The workspace that the channel is mapped to, also while that is paused."""
    found = mapping(tx, team, channel)
    return by_id(tx, found.workspace_id) if found else None


def connected(tx: Transaction, workspace_id: int) -> bool:
    """Whether a channel is mapped to it that is not paused."""
    query = select(CHANNEL_MAPPINGS.c.channel_id).where(
        CHANNEL_MAPPINGS.c.workspace_id == workspace_id, CHANNEL_MAPPINGS.c.paused.is_(False)
    )
    return tx.connection.execute(query.limit(1)).first() is not None


def channels_of(tx: Transaction, workspace_id: int) -> list[ChannelMapping]:
    query = select(CHANNEL_MAPPINGS).where(CHANNEL_MAPPINGS.c.workspace_id == workspace_id)
    return [as_row(ChannelMapping, row) for row in tx.connection.execute(query.order_by(CHANNEL_MAPPINGS.c.channel_id))]


def map_channel(tx: Transaction, origin: Origin, team: str, channel: str, workspace_id: int) -> Workspace:
    """Maps the channel to the workspace, in place of what it was mapped to before.

    Whoever moves a channel away from another workspace needs to administer that one too.

    Raises:
        NoSuchWorkspace, NotAllowed.
    """
    with attempt(tx, What.MAP_CHANNEL, origin) as current:
        current.subject = channel
        workspace = by_id(tx, workspace_id)
        before = mapping(tx, team, channel)
        if before is not None and before.workspace_id != workspace.id:
            current.allow(Action.ADMINISTER, by_id(tx, before.workspace_id))
        current.allow(Action.ADMINISTER, workspace)
        current.void = before is not None and before.workspace_id == workspace.id and not before.paused
        if current.void:
            return workspace
        values = {"workspace_id": workspace.id, "paused": False, "mapped_at": tx.now, "mapped_by": origin.actor.user}
        if before is None:
            tx.connection.execute(insert(CHANNEL_MAPPINGS).values(team_id=team, channel_id=channel, **values))
        else:
            _change_mapping(tx, before, **values)
    return workspace


def unmap_channel(tx: Transaction, origin: Origin, team: str, channel: str) -> Workspace:
    """Raises ChannelNotMapped, NotAllowed."""
    with attempt(tx, What.UNMAP_CHANNEL, origin) as current:
        current.subject = channel
        before = mapping(tx, team, channel)
        if before is None:
            raise ChannelNotMapped
        workspace = by_id(tx, before.workspace_id)
        current.allow(Action.ADMINISTER, workspace)
        _drop_mapping(tx, before)
    return workspace


def set_notices(tx: Transaction, origin: Origin, workspace_id: int, created: bool, deleted: bool) -> Workspace:
    """Sets whether the mapped channels read that a credential was created, or deleted. Raises NoSuchWorkspace, NotAllowed."""
    with attempt(tx, What.NOTICES, origin) as current:
        workspace = by_id(tx, workspace_id)
        current.allow(Action.ADMINISTER, workspace)
        current.void = (workspace.notify_created, workspace.notify_deleted) == (created, deleted)
        return save(tx, workspace, notify_created=created, notify_deleted=deleted)


def check_reason(workspace: Workspace, reason: str | None) -> None:
    """Raises ReasonRequired."""
    if workspace.reason_required and not (reason or "").strip():
        raise ReasonRequired(workspace.name)


def suspend_all(tx: Transaction, origin: Origin, workspace_id: int, reason: str | None = None) -> Workspace:
    """Refuses every log-in of the workspace from now on, in one row, however many credentials it has.

    Raises:
        NoSuchWorkspace, NotAllowed (it takes an admin), RoleUnknown, PersonBarred, WorkspaceSuspended, ReasonRequired.
    """
    with attempt(tx, What.SUSPEND_ALL, origin, reason) as current:
        workspace = by_id(tx, workspace_id)
        current.allow(Action.ADMINISTER, workspace)
        if workspace.suspended_at is not None:
            raise WorkspaceSuspended(workspace.name, workspace.suspended_by or "", workspace.suspended_at)
        check_reason(workspace, reason)
        current.workspace = workspace = save(tx, workspace, suspended_at=tx.now, suspended_by=origin.actor.user)
    return workspace


def resume_all(tx: Transaction, origin: Origin, workspace_id: int) -> Workspace:
    """Lets the workspace's credentials log in again, as they could before. Raises NoSuchWorkspace, NotAllowed, NotSuspended."""
    with attempt(tx, What.RESUME_ALL, origin) as current:
        workspace = by_id(tx, workspace_id)
        current.allow(Action.ADMINISTER, workspace)
        if workspace.suspended_at is None:
            raise NotSuspended(workspace.name)
        current.workspace = workspace = save(tx, workspace, suspended_at=None, suspended_by=None)
    return workspace


def channel_gone(tx: Transaction, origin: Origin, team: str, channel: str) -> None:
    """Slack says that the channel was archived or deleted. Does nothing for a channel that is not mapped."""
    with attempt(tx, What.UNMAP_CHANNEL, origin) as current:
        current.subject = channel
        before = mapping(tx, team, channel)
        current.void = before is None
        if before is not None:
            current.workspace = by_id(tx, before.workspace_id)
            _drop_mapping(tx, before)


def channel_shared(tx: Transaction, origin: Origin, team: str, channel: str, shared: bool) -> None:
    """Slack says that the channel is now shared with another organization, or no longer."""
    with attempt(tx, What.PAUSE_CHANNEL if shared else What.RESUME_CHANNEL, origin) as current:
        current.subject = channel
        before = mapping(tx, team, channel)
        current.void = before is None or before.paused == shared
        if before is not None:
            current.workspace = by_id(tx, before.workspace_id)
            _change_mapping(tx, before, paused=shared)


def channel_renumbered(tx: Transaction, origin: Origin, team: str, old: str, new: str) -> None:
    """Slack gave the channel another id (https://docs.slack.dev/reference/events/channel_id_changed)."""
    with attempt(tx, What.MOVE_CHANNEL, origin) as current:
        current.subject = f"{old} {new}"
        posted.renumbered(tx, old, new)
        errands.renumbered(tx, old, new)
        before = mapping(tx, team, old)
        current.void = before is None
        if before is not None:
            current.workspace = by_id(tx, before.workspace_id)
            if mapping(tx, team, new) is None:
                _change_mapping(tx, before, channel_id=new)
            else:
                _drop_mapping(tx, before)


def _change_mapping(tx: Transaction, before: ChannelMapping, **values: object) -> None:
    where = (CHANNEL_MAPPINGS.c.team_id == before.team_id, CHANNEL_MAPPINGS.c.channel_id == before.channel_id)
    tx.connection.execute(update(CHANNEL_MAPPINGS).where(*where).values(**values))


def _drop_mapping(tx: Transaction, before: ChannelMapping) -> None:
    where = (CHANNEL_MAPPINGS.c.team_id == before.team_id, CHANNEL_MAPPINGS.c.channel_id == before.channel_id)
    tx.connection.execute(delete(CHANNEL_MAPPINGS).where(*where))


def remember_installation(tx: Transaction, team: str, team_name: str, bot_user: str) -> None:
    """Keeps what `auth.test` said, for the command line. A note."""
    adding = sqlite.insert(INSTALLATIONS) if tx.sqlite else postgresql.insert(INSTALLATIONS)
    values = {"team_name": team_name, "bot_user_id": bot_user, "connected_at": tx.now}
    adding = adding.values(team_id=team, **values).on_conflict_do_update(index_elements=["team_id"], set_=values)
    tx.connection.execute(adding)


def installation(tx: Transaction) -> Installation | None:
    """The Slack team that the bot was last connected to."""
    row = tx.connection.execute(select(INSTALLATIONS).order_by(INSTALLATIONS.c.connected_at.desc()).limit(1)).one_or_none()
    return as_row(Installation, row) if row else None

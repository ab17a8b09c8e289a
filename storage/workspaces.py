"""Workspaces and the Slack channels mapped to them."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from storage.access import Action
from storage.audit import Origin, What, attempt
from storage.database import Database
from storage.models import ChannelMapping, Installation, Workspace
from storage.names import clean_name, clean_slug
from storage.refusals import ChannelNotMapped, ChannelPaused, NoSuchWorkspace, SlugTaken


async def add(db: Database, origin: Origin, slug: str, name: str | None = None) -> Workspace:
    """Makes a workspace; its display name is the slug when none is given.

    Raises:
        SlugInvalid, NameInvalid, SlugTaken, NotAllowed.
    """
    slug = clean_slug(slug)
    name = clean_name(name or slug)
    async with attempt(db, What.MAKE_WORKSPACE, origin) as current:
        current.subject = slug
        await current.allow(Action.MAKE_WORKSPACE, None)
        if await by_slug(current.session, slug):
            raise SlugTaken(slug)
        workspace = Workspace(
            slug=slug,
            name=name,
            credential_count=0,
            notify_created=False,
            notify_deleted=True,
            created_at=db.clock(),
            created_by=origin.actor.user,
        )
        current.session.add(workspace)
        await current.session.flush()
        current.workspace = workspace
    return workspace


async def by_slug(session: AsyncSession, slug: str) -> Workspace | None:
    return (await session.scalars(select(Workspace).where(Workspace.slug == slug))).one_or_none()


async def by_id(session: AsyncSession, workspace_id: int) -> Workspace:
    """Raises NoSuchWorkspace."""
    workspace = await session.get(Workspace, workspace_id)
    if workspace is None:
        raise NoSuchWorkspace
    return workspace


async def all_of_them(session: AsyncSession) -> Sequence[Workspace]:
    return (await session.scalars(select(Workspace).order_by(Workspace.name, Workspace.id))).all()


async def of_channel(session: AsyncSession, team: str | None, channel: str | None) -> Workspace:
    """The workspace that the channel is mapped to.

    Raises:
        ChannelNotMapped, ChannelPaused.
    """
    mapping = await session.get(ChannelMapping, (team, channel)) if team and channel else None
    if mapping is None:
        raise ChannelNotMapped
    if mapping.paused:
        raise ChannelPaused
    return await by_id(session, mapping.workspace_id)


async def mapped(session: AsyncSession, team: str, channel: str) -> Workspace | None:
    """The workspace that the channel is mapped to, also while that is paused."""
    mapping = await session.get(ChannelMapping, (team, channel))
    return await by_id(session, mapping.workspace_id) if mapping else None


async def channels_of(session: AsyncSession, workspace: Workspace) -> Sequence[ChannelMapping]:
    query = select(ChannelMapping).where(ChannelMapping.workspace_id == workspace.id)
    return (await session.scalars(query.order_by(ChannelMapping.channel_id))).all()


async def map_channel(db: Database, origin: Origin, team: str, channel: str, workspace_id: int) -> Workspace:
    """Maps the channel to the workspace, in place of what it was mapped to before.

    Whoever moves a channel away from another workspace needs to administer that one too.

    Raises:
        NoSuchWorkspace, NotAllowed.
    """
    async with attempt(db, What.MAP_CHANNEL, origin) as current:
        current.subject = channel
        workspace = await by_id(current.session, workspace_id)
        mapping = await current.session.get(ChannelMapping, (team, channel))
        if mapping is not None and mapping.workspace_id != workspace.id:
            await current.allow(Action.ADMINISTER, await by_id(current.session, mapping.workspace_id))
        await current.allow(Action.ADMINISTER, workspace)
        if mapping is None:
            mapping = ChannelMapping(team_id=team, channel_id=channel)
            current.session.add(mapping)
        mapping.workspace_id = workspace.id
        mapping.paused = False
        mapping.mapped_at = db.clock()
        mapping.mapped_by = origin.actor.user
    return workspace


async def unmap_channel(db: Database, origin: Origin, team: str, channel: str) -> Workspace:
    """Raises ChannelNotMapped, NotAllowed."""
    async with attempt(db, What.UNMAP_CHANNEL, origin) as current:
        current.subject = channel
        mapping = await current.session.get(ChannelMapping, (team, channel))
        if mapping is None:
            raise ChannelNotMapped
        workspace = await by_id(current.session, mapping.workspace_id)
        await current.allow(Action.ADMINISTER, workspace)
        await current.session.delete(mapping)
    return workspace


async def set_notices(db: Database, origin: Origin, workspace_id: int, created: bool, deleted: bool) -> Workspace:
    """Whether the mapped channels read that a credential was created, or deleted. Raises NoSuchWorkspace, NotAllowed."""
    async with attempt(db, What.NOTICES, origin) as current:
        workspace = await by_id(current.session, workspace_id)
        await current.allow(Action.ADMINISTER, workspace)
        workspace.notify_created = created
        workspace.notify_deleted = deleted
    return workspace


async def channel_gone(db: Database, origin: Origin, team: str, channel: str) -> None:
    """Slack says that the channel was archived or deleted. Does nothing for a channel that is not mapped."""
    async with db.read() as session:
        if await session.get(ChannelMapping, (team, channel)) is None:
            return
    async with attempt(db, What.UNMAP_CHANNEL, origin) as current:
        current.subject = channel
        mapping = await current.session.get(ChannelMapping, (team, channel))
        current.void = mapping is None
        if mapping is not None:
            current.workspace = await current.session.get(Workspace, mapping.workspace_id)
            await current.session.delete(mapping)


async def channel_shared(db: Database, origin: Origin, team: str, channel: str, shared: bool) -> None:
    """Slack says that the channel is now shared with another organization, or no longer."""
    async with db.read() as session:
        mapping = await session.get(ChannelMapping, (team, channel))
        if mapping is None or mapping.paused == shared:
            return
    async with attempt(db, What.PAUSE_CHANNEL if shared else What.RESUME_CHANNEL, origin) as current:
        current.subject = channel
        mapping = await current.session.get(ChannelMapping, (team, channel))
        current.void = mapping is None or mapping.paused == shared
        if mapping is not None:
            current.workspace = await current.session.get(Workspace, mapping.workspace_id)
            mapping.paused = shared


async def channel_renumbered(db: Database, origin: Origin, team: str, old: str, new: str) -> None:
    """Slack gave the channel another id (https://docs.slack.dev/reference/events/channel_id_changed)."""
    async with db.read() as session:
        if await session.get(ChannelMapping, (team, old)) is None:
            return
    async with attempt(db, What.MOVE_CHANNEL, origin) as current:
        current.subject = f"{old} {new}"
        mapping = await current.session.get(ChannelMapping, (team, old))
        taken = await current.session.get(ChannelMapping, (team, new))
        current.void = mapping is None
        if mapping is not None:
            current.workspace = await current.session.get(Workspace, mapping.workspace_id)
            if taken is None:
                mapping.channel_id = new
            else:
                await current.session.delete(mapping)


async def remember_installation(db: Database, team: str, team_name: str, bot_user: str) -> None:
    """Keeps what `auth.test` said, for the command line."""
    async with db.note() as session:
        await session.merge(Installation(team_id=team, team_name=team_name, bot_user_id=bot_user, connected_at=db.clock()))


async def installation(session: AsyncSession) -> Installation | None:
    """The Slack team that the bot was last connected to."""
    query = select(Installation).order_by(Installation.connected_at.desc()).limit(1)
    return (await session.scalars(query)).one_or_none()

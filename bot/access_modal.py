"""Who has which role in a workspace: see, add, remove.

`/smtp access` opens the modal for the channel's workspace. Adding is its submission; removing is a button on each row, which asks first.
"""

from collections.abc import Sequence
from typing import Any

from slack_bolt.app.async_app import AsyncApp

from bot import blocks, texts
from bot.blocks import DIVIDER, OPTIONS_MAX, Block, bold, button, field, foot, line, modal, mrkdwn, option, principal_mrkdwn
from bot.codec import OnGrant, OnWorkspace
from bot.door import Answer, Door, Request, errors, update
from bot.slack import Ok
from storage import grants, workspaces
from storage.access import Action, Role
from storage.audit import What
from storage.models import RoleGrant, Workspace
from storage.refusals import NotAllowed

ACCESS = "grant_role"
REMOVE = "remove_grant"
ROWS_SHOWN = 40
CAN = {
    Role.READER: "sees the list",
    Role.RESPONDER: "sees the list and deletes, from anywhere",
    Role.WRITER: "sees the list, creates and deletes",
    Role.ADMIN: "everything, also roles and channels",
}


def register(app: AsyncApp, door: Door) -> None:
    app.view(ACCESS)(door.submission(submit))
    app.action(REMOVE)(door.work(remove))


async def open_modal(request: Request) -> None:
    """`/smtp access`. Raises ChannelNotMapped, NotAllowed and what else stands in the way."""
    services = request.services
    workspace = await services.db.read(workspaces.of_channel, services.team, request.in_channel())
    actor, _ = await request.allow(Action.ADMINISTER, workspace, What.GRANT)
    await request.open(await _view(request, workspace, actor.owner))


async def submit(request: Request) -> Answer:
    services = request.services
    token = OnWorkspace.decode(request.metadata)
    request.channel = token.channel
    given = blocks.values(request.view or {})
    chosen = [one for one in (given.get("person"), given.get("group")) if one]
    if len(chosen) != 1:
        return Answer(errors(person="Choose one person or one user group."))
    workspace = await services.db.read(workspaces.by_id, token.workspace)
    everywhere = "everywhere" in (given.get("everywhere") or [])
    actor = await request.actor(workspace)
    try:
        where = None if everywhere else workspace.id
        await services.db.change(grants.grant, request.origin(actor), services.team, chosen[0], Role(given["role"]), where)
    except NotAllowed as refusal:
        return Answer(errors(person=blocks.flat(texts.sentence(refusal, services.command))))
    return Answer(update(await _view(request, workspace, actor.owner)))


async def remove(request: Request) -> None:
    services = request.services
    grant_id = OnGrant.decode(request.value).grant
    token = OnWorkspace.decode(request.metadata)
    workspace = await services.db.read(workspaces.by_id, token.workspace)
    actor = await request.actor(workspace)
    await services.db.change(grants.remove, request.origin(actor), grant_id)
    await services.slack.update_view((request.view or {})["id"], await _view(request, workspace, actor.owner))


async def _view(request: Request, workspace: Workspace, owner: bool) -> dict[str, Any]:
    held = await request.services.db.read(grants.of_workspace, request.services.team, workspace)
    return access_view(workspace, held, await _user_groups(request), owner, request.channel)


async def _user_groups(request: Request) -> list[tuple[str, str]]:
    """(id, handle) of the Slack team's user groups; none where the plan has none or Slack does not answer."""
    match await request.services.slack.groups():
        case Ok(groups):
            return [(group.id, f"@{group.handle}") for group in groups][:OPTIONS_MAX]
    return []


def access_view(
    workspace: Workspace, held: Sequence[RoleGrant], groups: list[tuple[str, str]], owner: bool, channel: str | None
) -> dict[str, Any]:
    rows: list[Block] = [line("Roles in ", bold(workspace.name))]
    for one in held[:ROWS_SHOWN]:
        scope = " in all workspaces" if one.workspace_id is None else ""
        made: Block = {"type": "section", "text": mrkdwn(f"{principal_mrkdwn(one.principal)}  {one.role}{scope}")}
        if one.workspace_id is not None or owner:
            ask = blocks.confirm("Remove this role?", "It stops counting at once, also in windows that are open.", "Remove", "Keep it")
            made["accessory"] = button("Remove…", REMOVE, OnGrant(grant=one.id).encode(), confirm=ask)
        rows.append(made)
    if len(held) > ROWS_SHOWN:
        rows.append(foot(f"And {len(held) - ROWS_SHOWN} more."))
    if not held:
        rows.append(line("Nobody has a role yet. People in its channels can see the list."))
    roles = [option(role.value, role.value, can) for role, can in CAN.items()]
    rows += [DIVIDER, field("Person", "person", {"type": "users_select"}, optional=True)]
    if groups:
        options = [option(handle, group) for group, handle in groups]
        warning = "Anyone who can edit a user group can give themselves its role."
        rows.append(field("Or a user group", "group", {"type": "static_select", "options": options}, warning, optional=True))
    rows.append(field("Role", "role", {"type": "static_select", "options": roles}))
    if owner:
        box = {"type": "checkboxes", "options": [option("in all mail workspaces", "everywhere")]}
        rows.append(field("Where", "everywhere", box, optional=True))
    metadata = OnWorkspace(workspace=workspace.id, channel=channel).encode()
    return modal("Access", rows, ACCESS, submit="Add", metadata=metadata)

"""Who has which role in a workspace: see, add, remove.

`/smtp access` opens the modal for the channel's workspace, `/smtp access @oncall responder` with that filled in. Adding is its submission;
removing is a button on each row, which asks first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from slack_bolt.app.async_app import AsyncApp

from bot import blocks, texts
from bot.blocks import DIVIDER, OPTIONS_MAX, Block, bold, button, field, foot, line, modal, mrkdwn, option, plain, principal_mrkdwn
from bot.codec import OnGrant, OnWorkspace
from bot.door import Answer, Door, Request, errors, update
from bot.slack import Ok
from storage import grants, workspaces
from storage.access import Action, Role
from storage.audit import What
from storage.models import RoleGrant, Workspace
from storage.refusals import NotAllowed
from storage.typed import read

ACCESS = "grant_role"
OPEN_ACCESS = "open_access"
GROUP = "user_group"
REMOVE = "remove_grant"
ROWS_SHOWN = 40
CAN = {
    Role.READER: "sees the list",
    Role.RESPONDER: "sees the list, suspends and deletes, from anywhere",
    Role.WRITER: "also creates, rotates and resumes",
    Role.ADMIN: "everything, also roles and channels",
}


@dataclass(frozen=True)
class Filled:
    """What the modal begins with."""

    principal: str | None = None
    role: Role | None = None


NOTHING = Filled()


def register(app: AsyncApp, door: Door) -> None:
    app.view(ACCESS)(door.submission(submit))
    app.action(REMOVE)(door.work(remove))
    app.action(OPEN_ACCESS)(door.work(open_modal))
    app.options(GROUP)(door.suggest(suggest_groups))


async def typed(request: Request, rest: str) -> None:
    """`/smtp access [@person or @group] [role]`."""
    mentioned = next((one for one in read(request.text).mentions if one.startswith(("U", "W", "S"))), None)
    words = rest.lower().split()
    await open_modal(request, Filled(mentioned, next((role for role in Role if role.value in words), None)))


async def open_modal(request: Request, filled: Filled = NOTHING) -> None:
    """Raises ChannelNotMapped, NotAllowed and what else stands in the way."""
    services = request.services
    workspace = await services.db.read(workspaces.of_channel, services.team, request.in_channel())
    actor, _ = await request.allow(Action.ADMINISTER, workspace, What.GRANT)
    await request.open(await _view(request, workspace, actor.owner, filled=filled))


async def submit(request: Request) -> Answer:
    services = request.services
    token = OnWorkspace.decode(request.metadata)
    request.channel = token.channel
    step = token.step
    given = {block.removesuffix(f" {step}"): value for block, value in blocks.values(request.view or {}).items()}
    chosen = [one for one in (given.get("person"), given.get("group")) if one]
    if not chosen:
        return Answer(errors(**{f"person {step}": "Choose a person or a user group."}))
    if len(chosen) > 1:
        return Answer(errors(**{f"person {step}": "You chose a person and a group. Clear one of them."}))
    workspace = await services.db.read(workspaces.by_id, token.workspace)
    everywhere = "everywhere" in (given.get("everywhere") or [])
    actor = await request.actor(workspace)
    try:
        where = None if everywhere else workspace.id
        await services.db.change(grants.grant, request.origin(actor), services.team, chosen[0], Role(given["role"]), where)
    except NotAllowed as refusal:
        return Answer(errors(**{f"person {step}": texts.in_field(refusal, services.command)}))
    return Answer(update(await _view(request, workspace, actor.owner, step + 1)))


async def remove(request: Request) -> None:
    services = request.services
    grant_id = OnGrant.decode(request.value).grant
    token = OnWorkspace.decode(request.metadata)
    workspace = await services.db.read(workspaces.by_id, token.workspace)
    actor = await request.actor(workspace)
    await services.db.change(grants.remove, request.origin(actor), grant_id)
    request.channel = token.channel
    await services.slack.update_view((request.view or {})["id"], await _view(request, workspace, actor.owner, token.step))


async def _view(request: Request, workspace: Workspace, owner: bool, step: int = 0, filled: Filled = NOTHING) -> dict[str, Any]:
    held = await request.services.db.read(grants.of_workspace, request.services.team, workspace)
    return access_view(workspace, held, await user_groups(request), owner, request.channel, step, filled)


async def suggest_groups(request: Request) -> list[Block]:
    """For a Slack team with more user groups than a menu holds. Handles are everybody's to see."""
    typed = read(str(request.body.get("value") or "")).words.lower().removeprefix("@")
    return [option(handle, group) for group, handle in await user_groups(request) if typed in handle.lower()][:OPTIONS_MAX]


async def user_groups(request: Request) -> list[tuple[str, str]]:
    """(id, handle) of the Slack team's user groups; none where the plan has none or Slack does not answer."""
    match await request.services.slack.groups():
        case Ok(groups):
            return [(group.id, f"@{group.handle}") for group in groups]
    return []


def group_menu(options: list[Block]) -> dict[str, Any]:
    """With the action id `GROUP`: a menu of these, or, of more than fit into one, of those that match what is typed."""
    if len(options) > OPTIONS_MAX:
        return {"type": "external_select", "min_query_length": 0, "placeholder": plain("Part of its handle")}
    return {"type": "static_select", "options": options}


def access_view(
    workspace: Workspace,
    held: Sequence[RoleGrant],
    groups: list[tuple[str, str]],
    owner: bool,
    channel: str | None,
    step: int = 0,
    filled: Filled = NOTHING,
) -> dict[str, Any]:
    """Args: step: how many were added; Slack keeps what an input holds unless its block has another id."""
    rows: list[Block] = [line("Roles in ", bold(workspace.name))]
    for one in held[:ROWS_SHOWN]:
        scope = " in all workspaces" if one.workspace_id is None else ""
        made: Block = {"type": "section", "text": mrkdwn(f"{principal_mrkdwn(one.principal)}  {one.role}{scope}")}
        if one.workspace_id is not None or owner:
            ask = blocks.confirm("Remove this role?", "It stops counting at once, also in windows that are open.", "Remove", "Keep it")
            made["accessory"] = button("Remove…", REMOVE, OnGrant(grant=one.id).encode(), confirm=ask, says=f"Remove {one.role}")
        rows.append(made)
    if len(held) > ROWS_SHOWN:
        rows.append(foot(f"And {len(held) - ROWS_SHOWN} more."))
    if not held:
        rows.append(line("Nobody has a role yet. People in its channels can see the list."))
    roles = {role: option(role.value, role.value, can) for role, can in CAN.items()}
    person: dict[str, Any] = {"type": "users_select"}
    if filled.principal and not filled.principal.startswith("S"):
        person["initial_user"] = filled.principal
    rows += [DIVIDER, field("Person", f"person {step}", person, optional=True)]
    if groups:
        options = {group: option(handle, group) for group, handle in groups}
        menu = group_menu(list(options.values()))
        if filled.principal in options:
            menu["initial_option"] = options[filled.principal or ""]
        warning = "Anyone who can edit a user group can give themselves its role."
        rows.append(field("Or a user group", f"group {step}", menu, warning, optional=True, action_id=GROUP))
    role: dict[str, Any] = {"type": "static_select", "options": list(roles.values())}
    if filled.role:
        role["initial_option"] = roles[filled.role]
    rows.append(field("Role", f"role {step}", role))
    if owner:
        box = {"type": "checkboxes", "options": [option("in all mail workspaces", "everywhere")]}
        rows.append(field("Where", f"everywhere {step}", box, optional=True))
    metadata = OnWorkspace(workspace=workspace.id, channel=channel, step=step).encode()
    return modal("Access", rows, ACCESS, submit="Add", metadata=metadata)

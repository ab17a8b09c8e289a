"""Connecting a channel to a mail workspace.

`/smtp setup` opens the modal: choose a workspace, or, as an owner, make one; say which notes the channel gets; or disconnect. Before a
channel is mapped, Slack is asked about it: the bot must be in it, and no other organization.
"""

from typing import Any

from slack_bolt.app.async_app import AsyncApp
from slack_sdk.errors import SlackApiError

from bot import blocks, texts
from bot.blocks import OPTIONS_MAX, Block, actions, bold, button, code, field, foot, line, modal, option, plain, principal
from bot.codec import OnWorkspace
from bot.door import Answer, Door, Request, errors, notice, update
from bot.texts import ChannelShared
from storage import access, workspaces
from storage.access import Action, Actor
from storage.audit import What, record_refusal
from storage.models import Workspace
from storage.refusals import BotNotInChannel, NameInvalid, NotAChannel, NotAllowed, PersonBarred, SlugInvalid, SlugTaken

OPEN_SETUP = "open_setup"
SETUP = "connect_channel"
DISCONNECT = "disconnect_channel"


def register(app: AsyncApp, door: Door) -> None:
    app.action(OPEN_SETUP)(door.work(open_modal))
    app.view(SETUP)(door.submission(submit))
    app.action(DISCONNECT)(door.work(disconnect))


async def open_modal(request: Request) -> None:
    """`/smtp setup`. Raises NotAChannel, NotAllowed, BotNotInChannel, ChannelShared."""
    services, channel = request.services, request.in_channel()
    actor = await request.actor(everywhere=True)
    async with services.db.read() as session:
        current = await workspaces.mapped(session, services.team, channel)
        choices = await access.visible_workspaces(session, actor, Action.ADMINISTER)
    if not actor.owner and (not choices or (current and current.id not in [one.id for one in choices])):
        await _refuse(request, actor, current)
    await _check_channel(request, channel)
    await request.open(setup_modal(channel, current, choices, actor.owner))


async def submit(request: Request) -> Answer:
    services = request.services
    token = OnWorkspace.decode(request.metadata)
    channel = token.channel or ""
    request.channel = channel
    given = blocks.values(request.view or {})
    actor = await request.actor(everywhere=True)
    origin = request.origin(actor)
    try:
        await _check_channel(request, channel)
        slug, name = (given.get("slug") or "").strip(), (given.get("new_name") or "").strip()
        if slug or name:
            workspace = await workspaces.add(services.db, origin, slug, name)
        elif given.get("workspace"):
            async with services.db.read() as session:
                workspace = await workspaces.by_id(session, int(given["workspace"]))
        elif "workspace" in given:
            return Answer(errors(workspace="Choose a mail workspace, or name a new one below."))
        else:
            return Answer(errors(slug="Enter a short name for the new mail workspace."))
    except (SlugInvalid, SlugTaken) as refusal:
        return Answer(errors(slug=blocks.flat(texts.sentence(refusal, services.command))))
    except NameInvalid as refusal:
        return Answer(errors(new_name=blocks.flat(texts.sentence(refusal, services.command))))
    chosen = given.get("notices") or []
    await workspaces.map_channel(services.db, origin, services.team, channel, workspace.id)
    await workspaces.set_notices(services.db, origin, workspace.id, created="created" in chosen, deleted="deleted" in chosen)

    async def then() -> None:
        said = line(
            principal(request.user),
            " connected this channel to the mail workspace ",
            bold(workspace.name),
            ". Type ",
            code(services.command),
            " to manage its SMTP credentials.",
        )
        summary = "This channel now manages SMTP credentials."
        await services.client.chat_postMessage(channel=channel, text=summary, blocks=[said])

    text = line(blocks.channel(channel), " now manages ", bold(workspace.name), ".")
    more = line("Next: give people their roles with ", code(f"{services.command} access"), " there.")
    return Answer(update(notice([text, more], "Channel connected")), then)


async def disconnect(request: Request) -> None:
    token = OnWorkspace.decode(request.value)
    request.channel = token.channel
    actor = await request.actor(everywhere=True)
    workspace = await workspaces.unmap_channel(request.services.db, request.origin(actor), request.services.team, token.channel or "")
    await request.say([blocks.channel(token.channel or ""), " no longer manages ", bold(workspace.name), ". Its credentials keep working."])


async def _refuse(request: Request, actor: Actor, current: Workspace | None) -> None:
    refusal: NotAllowed | PersonBarred
    async with request.services.db.read() as session:
        helpers = await access.helpers(session, actor, current)
    refusal = NotAllowed(Action.ADMINISTER, current.name if current else None, helpers)
    if actor.barred:
        refusal = PersonBarred(actor.barred)
    await record_refusal(request.services.db, What.MAP_CHANNEL, request.origin(actor), refusal, current)
    raise refusal


async def _check_channel(request: Request, channel: str) -> None:
    """Asks Slack whether the channel can be mapped: https://docs.slack.dev/reference/methods/conversations.info."""
    try:
        answer = await request.services.client.conversations_info(channel=channel)
    except SlackApiError as error:
        if error.response["error"] in ("channel_not_found", "not_in_channel"):
            raise BotNotInChannel from None
        raise
    info: dict[str, Any] = answer["channel"]
    if info.get("is_im") or info.get("is_mpim"):
        raise NotAChannel
    if info.get("is_ext_shared") or info.get("is_pending_ext_shared"):
        raise ChannelShared
    if not info.get("is_member"):
        raise BotNotInChannel


def setup_modal(channel: str, current: Workspace | None, choices: list[Workspace], owner: bool) -> dict[str, Any]:
    rows: list[Block] = [line("Choose the mail workspace that ", blocks.channel(channel), " manages.")]
    if current:
        rows.append(line("It is connected to ", bold(current.name), ". Connecting it to another one doesn't move any credentials."))
    if choices:
        options = [option(f"{one.name} ({one.slug})", str(one.id)) for one in choices[:OPTIONS_MAX]]
        select: dict[str, Any] = {"type": "static_select", "options": options}
        selected = next((made for made, one in zip(options, choices, strict=False) if current and one.id == current.id), None)
        if selected:
            select["initial_option"] = selected
        rows.append(field("Mail workspace", "workspace", select, optional=owner))
    if owner:
        text = {"type": "plain_text_input"}
        slug = text | {"placeholder": plain("acme")}
        hint = "1 to 32 of a-z, 0-9 and hyphen. Usernames begin with it, and it can't be changed."
        rows.append(field("Short name of a new mail workspace", "slug", slug, hint, optional=bool(choices)))
        shown = text | {"placeholder": plain("Acme Inc.")}
        rows.append(field("Its display name", "new_name", shown, optional=True))
    created, deleted = option("a credential is created", "created"), option("a credential is deleted", "deleted")
    boxes: dict[str, Any] = {"type": "checkboxes", "options": [created, deleted]}
    noted = (current.notify_created, current.notify_deleted) if current else (False, True)
    initial = [made for made, wanted in zip((created, deleted), noted, strict=True) if wanted]
    if initial:
        boxes["initial_options"] = initial
    rows.append(field("Post a note in the workspace's channels when", "notices", boxes, optional=True))
    metadata = OnWorkspace(workspace=current.id if current else 0, channel=channel).encode()
    if current:
        ask = blocks.confirm(
            "Disconnect this channel?",
            f"This channel will no longer manage {current.name}. Its {current.credential_count} credentials keep working.",
            "Disconnect",
            "Keep it",
        )
        rows.append(actions(button("Disconnect…", DISCONNECT, metadata, style="danger", confirm=ask)))
    rows.append(foot("Everybody in a connected channel can see the list of its credentials."))
    return modal("Connect this channel", rows, SETUP, submit="Connect", close="Cancel", metadata=metadata)

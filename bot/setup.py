"""Connecting a channel to a mail workspace.

`/smtp setup` opens the modal: choose a workspace, or, as an owner, make one; say which notes the channel gets; or disconnect. Before a
channel is mapped, Slack is asked about it: the bot must be in it, and no other organization.
"""

from typing import Any

from slack_bolt.app.async_app import AsyncApp

from bot import blocks, texts
from bot.blocks import OPTIONS_MAX, Block, actions, bold, button, code, field, foot, line, modal, option, plain, principal
from bot.codec import OnWorkspace
from bot.door import EVERYWHERE, Answer, Door, Request, errors, notice, update
from bot.policy import OPEN_SETTINGS
from bot.slack import Away, Ok, Refused
from bot.texts import ChannelShared, SlackAway
from storage import access, workspaces
from storage.access import Action, Actor
from storage.audit import Origin, What
from storage.database import Transaction
from storage.models import Workspace
from storage.refusals import BotNotInChannel, NameInvalid, NotAChannel, NotAllowed, SlugInvalid, SlugTaken

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
    actor = await request.actor(EVERYWHERE)
    current, choices = await services.db.read(_choices, actor, services.team, channel)
    if not actor.owner and (not choices or (current and current.id not in [one.id for one in choices])):
        await _refuse(request, actor, current)
    await _check_channel(request, channel)
    await request.open(setup_modal(channel, current, choices, actor.owner))


def _choices(tx: Transaction, actor: Actor, team: str, channel: str) -> tuple[Workspace | None, list[Workspace]]:
    """The workspace that the channel is connected to, and those that the person may connect it to."""
    return workspaces.mapped(tx, team, channel), access.visible_workspaces(tx, actor, Action.ADMINISTER, OPTIONS_MAX)


async def submit(request: Request) -> Answer:
    services = request.services
    token = OnWorkspace.decode(request.metadata)
    channel = token.channel or ""
    request.channel = channel
    given = blocks.values(request.view or {})
    slug, name = (given.get("slug") or "").strip(), (given.get("new_name") or "").strip()
    chosen = given.get("workspace")
    if not (slug or name or chosen):
        if "workspace" in given:
            return Answer(errors(workspace="Choose a mail workspace, or name a new one below."))
        return Answer(errors(slug="Enter a short name for the new mail workspace."))
    noted = given.get("notices") or []
    origin = request.origin(await request.actor(EVERYWHERE))
    try:
        await _check_channel(request, channel)
        new = (slug, name) if slug or name else None
        wanted = ("created" in noted, "deleted" in noted)
        workspace = await services.db.change(_connect, origin, services.team, channel, new, int(chosen or 0), wanted)
    except (SlugInvalid, SlugTaken) as refusal:
        return Answer(errors(slug=blocks.flat(texts.sentence(refusal, services.command))))
    except NameInvalid as refusal:
        return Answer(errors(new_name=blocks.flat(texts.sentence(refusal, services.command))))

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
        await services.slack.post_message(channel, {"text": summary, "blocks": [said]})

    text = line(blocks.channel(channel), " now manages ", bold(workspace.name), ".")
    more = line("Next: give people their roles with ", code(f"{services.command} access"), " there.")
    return Answer(update(notice([text, more], "Channel connected")), then)


def _connect(
    tx: Transaction, origin: Origin, team: str, channel: str, new: tuple[str, str] | None, workspace_id: int, noted: tuple[bool, bool]
) -> Workspace:
    """All of it or nothing: a workspace is made only together with its channel."""
    workspace = workspaces.add(tx, origin, *new) if new else workspaces.by_id(tx, workspace_id)
    workspaces.map_channel(tx, origin, team, channel, workspace.id)
    return workspaces.set_notices(tx, origin, workspace.id, *noted)


async def disconnect(request: Request) -> None:
    token = OnWorkspace.decode(request.value)
    request.channel = token.channel
    services = request.services
    origin = request.origin(await request.actor(EVERYWHERE))
    workspace = await services.db.change(workspaces.unmap_channel, origin, services.team, token.channel or "")
    await request.say([blocks.channel(token.channel or ""), " no longer manages ", bold(workspace.name), ". Its credentials keep working."])


async def _refuse(request: Request, actor: Actor, current: Workspace | None) -> None:
    await request.read(What.MAP_CHANNEL, actor, access.may, actor, Action.ADMINISTER, current)
    raise NotAllowed(Action.ADMINISTER, None, [])


async def _check_channel(request: Request, channel: str) -> None:
    """Asks Slack whether the channel can be mapped: https://docs.slack.dev/reference/methods/conversations.info."""
    match await request.services.slack.channel(channel):
        case Ok(info):
            if info.direct:
                raise NotAChannel
            if info.shared:
                raise ChannelShared
            if not info.has_bot:
                raise BotNotInChannel
        case Refused("channel_not_found" | "not_in_channel"):
            raise BotNotInChannel
        case Refused(word):
            raise SlackAway(word)
        case Away(why, _):
            raise SlackAway(why)


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
        settings = [button("Workspace settings…", OPEN_SETTINGS, metadata)] if current in choices else []
        rows.append(actions(*settings, button("Disconnect…", DISCONNECT, metadata, style="danger", confirm=ask)))
    rows.append(foot("Everybody in a connected channel can see the list of its credentials."))
    return modal("Connect this channel", rows, SETUP, submit="Connect", close="Cancel", metadata=metadata)

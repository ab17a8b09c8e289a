"""Connecting a channel to a mail workspace.

Invited to a channel, the bot posts one message with **Connect this channel**; `/smtp setup` opens the same modal: choose a workspace, or,
as an owner, make one, whose short name is proposed from the channel's; say which notes the channel gets; or disconnect. Slack is asked
about the channel first: the bot must be in it, and no other organization. The message then says who connected it, and what comes next.
"""

import re
from typing import Any

from slack_bolt.app.async_app import AsyncApp

from bot import blocks, texts
from bot.access_modal import OPEN_ACCESS
from bot.blocks import OPTIONS_MAX, Block, Piece, actions, bold, button, code, field, foot, in_words, line, modal, option, plain, principal
from bot.codec import OnWorkspace
from bot.create import CREATE
from bot.door import CLEAR, EVERYWHERE, Answer, Door, Request, errors, notice, update
from bot.policy import OPEN_SETTINGS
from bot.services import Services
from bot.slack import Away, Channel, Ok, Refused
from bot.texts import ChannelShared, SlackAway
from storage import access, invitations, workspaces
from storage.access import Action, Actor, Choice
from storage.audit import Origin, What, record_refusal
from storage.database import Transaction
from storage.models import Workspace
from storage.refusals import BotNotInChannel, NameInvalid, NotAChannel, NotAllowed, SlugInvalid, SlugTaken
from storage.typed import read

OPEN_SETUP = "open_setup"
SETUP = "connect_channel"
DISCONNECT = "disconnect_channel"
WORKSPACE = "mail_workspace"
WORKSPACES_READ = 1000
SLUG_MAX = 32
NEW = option("A new one, named below", "new")


def register(app: AsyncApp, door: Door) -> None:
    app.action(OPEN_SETUP)(door.work(open_modal))
    app.view(SETUP)(door.submission(submit))
    app.action(DISCONNECT)(door.work(disconnect))
    app.options(WORKSPACE)(door.suggest(suggest_workspaces))


async def open_modal(request: Request) -> None:
    """`/smtp setup`. Raises NotAChannel, NotAllowed, BotNotInChannel, ChannelShared."""
    services, channel = request.services, request.in_channel()
    actor = await request.actor(EVERYWHERE)
    current, choices = await services.db.read(_choices, actor, services.team, channel)
    if not actor.owner and (not choices or (current and current.id not in [one.id for one in choices])):
        await _refuse(request, actor, current)
    info = await _check_channel(request, channel)
    await request.open(setup_modal(channel, current, choices, actor.owner, proposed(info.name or "")))


def _choices(tx: Transaction, actor: Actor, team: str, channel: str) -> tuple[Workspace | None, list[Choice]]:
    """The workspace that the channel is connected to, and those that the person may connect it to."""
    return workspaces.mapped(tx, team, channel), access.visible_workspaces(tx, actor, Action.ADMINISTER, WORKSPACES_READ)


async def suggest_workspaces(request: Request) -> list[Block]:
    """For somebody who administers more mail workspaces than a menu holds."""
    typed = read(str(request.body.get("value") or "")).words.lower()
    actor = await request.actor(EVERYWHERE)
    _, choices = await request.services.db.read(_choices, actor, request.services.team, "")
    found = [one for one in choices if typed in f"{one.name} ({one.slug})".lower()]
    made = [NEW] if actor.owner and not typed else []
    return [*made, *(_option(one) for one in found)][:OPTIONS_MAX]


def proposed(channel_name: str) -> str:
    """A short name for a new mail workspace, of a channel's name; empty when that has none of its characters."""
    slug = re.sub(r"[^a-z0-9]+", "-", channel_name.lower()).strip("-")
    return re.sub(r"^(?:smtp|mail)-|-(?:smtp|mail)$", "", slug)[:SLUG_MAX].strip("-")


async def submit(request: Request) -> Answer:
    services = request.services
    token = OnWorkspace.decode(request.metadata)
    channel = token.channel or ""
    request.channel = channel
    given = blocks.values(request.view or {})
    chosen = given.get("workspace")
    new: tuple[str, str] | None = None
    if chosen in (None, NEW["value"]):
        new = (given.get("slug") or "").strip(), (given.get("new_name") or "").strip()
        if not new[0] and "slug" in given:
            return Answer(errors(slug="Enter a short name for the new mail workspace."))
        if not new[0]:
            return Answer(errors(workspace="Choose a mail workspace."))
    noted = given.get("notices") or []
    origin = request.origin(await request.actor(EVERYWHERE))
    try:
        await _check_channel(request, channel)
        wanted = ("created" in noted, "deleted" in noted)
        before = await services.db.read(workspaces.mapping, services.team, channel)
        workspace = await services.db.change(_connect, origin, services.team, channel, new, 0 if new else int(chosen or 0), wanted)
    except (SlugInvalid, SlugTaken) as refusal:
        return Answer(errors(slug=texts.in_field(refusal, services.command)))
    except NameInvalid as refusal:
        return Answer(errors(new_name=texts.in_field(refusal, services.command)))

    if before is not None and before.workspace_id == workspace.id:
        return Answer(update(notice([line("Saved. ", blocks.channel(channel), " still manages ", bold(workspace.name), ".")], "Saved")))
    return Answer(CLEAR)  # the channel reads it, with what comes next


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
    if current is not None:
        await request.read(What.MAP_CHANNEL, actor, access.may, actor, Action.ADMINISTER, current)
    refusal = NotAllowed(Action.ADMINISTER, None, [])
    await request.services.db.change(record_refusal, What.MAP_CHANNEL, request.origin(actor), refusal)
    raise refusal


async def _check_channel(request: Request, channel: str) -> Channel:
    """Asks Slack whether the channel can be mapped: https://docs.slack.dev/reference/methods/conversations.info."""
    match await request.services.slack.channel(channel):
        case Ok(info):
            if info.direct:
                raise NotAChannel
            if info.shared:
                raise ChannelShared
            if not info.has_bot:
                raise BotNotInChannel
            return info
        case Refused("channel_not_found" | "not_in_channel"):
            raise BotNotInChannel
        case Refused(word):
            raise SlackAway(word)
        case Away(why, _):
            raise SlackAway(why)


# --- it speaks first ---
SHARED = "This channel is shared with another organization, so it can't manage SMTP credentials. Invite me to one that isn't."


async def invited(services: Services, event: dict[str, Any]) -> None:
    """Somebody joined a channel: when it was the bot itself, it says what it can do there, once."""
    known = await services.db.read(workspaces.installation)
    channel = str(event.get("channel") or "")
    if known is None or event.get("user") != known.bot_user_id:
        return
    if await services.db.read(workspaces.mapping, services.team, channel) is not None:
        return
    match await services.slack.channel(channel):
        case Ok(info) if info.shared:
            await services.slack.post_message(channel, in_words([line(SHARED)]))
            return
    match await services.slack.post_message(channel, in_words(hello())):
        case Ok(posted) if posted.ts:
            await services.db.note(invitations.keep, posted.channel, posted.ts)


def first_steps(command: str) -> list[Piece]:
    """How somebody gets a channel connected, for where nothing is yet."""
    return [
        "Type ",
        code("/invite @SMTP Credentials"),
        " in the channel that is to manage it, and press ",
        bold("Connect this channel"),
        " in my message there; or type ",
        code(f"{command} setup"),
        ". Passwords are shown in connected channels only.",
    ]


def hello() -> list[Block]:
    return [
        line(bold("I hand out SMTP credentials"), ": the usernames and passwords with which apps, printers and scripts send mail."),
        line("Connect this channel to a mail workspace, and its people can see what is in use and create what they need."),
        actions(button("Connect this channel", OPEN_SETUP, style="primary")),
        line("It takes an owner of this app, or an admin of the mail workspace."),
    ]


def connected(by: str, workspace: Workspace, command: str) -> list[Block]:
    """What the channel reads once it is connected."""
    made = button("Create the first credential", CREATE, style="primary")
    if workspace.credential_count:
        made = button("Create credential", CREATE, style="primary")
    return [
        line(principal(by), " connected this channel to the mail workspace ", bold(workspace.name), "."),
        line(
            "People here can see its credentials. Who may create, rotate and delete is a matter of roles. ", code(command), " tells yours."
        ),
        actions(made, button("Give roles", OPEN_ACCESS)),
    ]


def _option(workspace: Workspace | Choice) -> dict[str, Any]:
    return option(f"{workspace.name} ({workspace.slug})", str(workspace.id))


def setup_modal(channel: str, current: Workspace | None, choices: list[Choice], owner: bool, proposal: str = "") -> dict[str, Any]:
    rows: list[Block] = [line("Choose the mail workspace that ", blocks.channel(channel), " manages.")]
    if current:
        rows.append(line("It is connected to ", bold(current.name), ". Connecting it to another one doesn't move any credentials."))
    if choices:
        options = [*([NEW] if owner else []), *(_option(one) for one in choices)]
        select: dict[str, Any] = {"type": "static_select", "options": options}
        if len(options) > OPTIONS_MAX:
            select = {"type": "external_select", "min_query_length": 0, "placeholder": plain("Part of its name")}
        begins = _option(current) if current else NEW if owner else options[0] if len(options) == 1 else None
        if begins:
            select["initial_option"] = begins
        rows.append(field("Mail workspace", "workspace", select, action_id=WORKSPACE))
    if owner and not current:
        slug: dict[str, Any] = {"type": "plain_text_input", "placeholder": plain("acme")}
        if proposal:
            slug["initial_value"] = proposal
        hint = "1 to 32 of a-z, 0-9 and hyphen. Usernames begin with it, and it can't be changed."
        rows.append(field("Short name of a new mail workspace", "slug", slug, hint, optional=bool(choices)))
        shown = {"type": "plain_text_input", "placeholder": plain("Acme Inc.")}
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
        settings = [button("Workspace settings…", OPEN_SETTINGS, metadata)] if current.id in [one.id for one in choices] else []
        rows.append(actions(*settings, button("Disconnect…", DISCONNECT, metadata, style="danger", confirm=ask)))
    rows.append(foot("Everybody in a connected channel can see the list of its credentials."))
    return modal("Connect this channel", rows, SETUP, submit="Connect", close="Cancel", metadata=metadata)

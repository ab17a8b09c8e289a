"""Creating a credential.

`/smtp create`, a button or the list opens the modal; submitting it makes a pending credential; after the acknowledgement the password is
made and handed over (`new_password.py`); only then does the credential become active. Otherwise it is discarded, and an errand says so.
"""

import contextlib
from typing import Any

from slack_bolt.app.async_app import AsyncApp

from bot import blocks, expiry, limits, new_password, texts
from bot.blocks import Piece, bold, field, foot, line, modal, plain
from bot.codec import InChannel
from bot.door import CLEAR, EVERYWHERE, Answer, Door, Request, errors, notice, update
from bot.new_password import NewPassword, Outcome
from bot.texts import NotInChannel
from storage import access, credentials, lifecycle, workspaces
from storage.access import Action, Actor
from storage.audit import Origin, What
from storage.database import OutcomeUnknown, Transaction, Unavailable
from storage.models import Credential, Workspace
from storage.passwords import Style
from storage.refusals import (
    AlreadyRequested,
    BotNotInChannel,
    ChannelNotMapped,
    ChannelPaused,
    DeviceNotAllowed,
    ExpiryInvalid,
    LifeTooLong,
    NameInvalid,
    NameTaken,
    NameTooSimilar,
    NotAllowed,
    RoleUnknown,
    TooManyLive,
)

CREATE = "create_credential"
ANYWHERE = "create_anywhere"
PREFILL_MAX = 200  # characters of a typed name; too long a one is refused when it is submitted


def register(app: AsyncApp, door: Door) -> None:
    app.action(CREATE)(door.work(open_modal))
    app.shortcut(ANYWHERE)(door.work(open_anywhere))
    app.view(CREATE)(door.submission(submit))
    app.action(new_password.REMOVE_PASSWORD)(door.work(new_password.remove_message))


async def open_modal(request: Request, name: str = "") -> None:
    """Also called by `/smtp create [name]`."""
    workspace = await request.services.db.read(workspaces.of_channel, request.services.team, request.in_channel())
    await open_for(request, workspace, name)


async def open_anywhere(request: Request) -> None:
    """From the global shortcut, which knows no channel. Raises NotAllowed, PersonBarred, RoleUnknown, TriggerExpired, SlackAway."""
    actor = await request.actor(EVERYWHERE)
    workspace = await request.read(What.CREATE, actor, _first_workspace, actor)
    await request.open(create_modal(None, "", None, await new_password.usual_channel(request, workspace.id)))


def _first_workspace(tx: Transaction, actor: Actor) -> Workspace:
    """One that the person may create in. Raises NotAllowed, PersonBarred, RoleUnknown."""
    found = access.visible_workspaces(tx, actor, Action.CREATE, 1)
    workspace = workspaces.by_id(tx, found[0].id) if found else None
    access.may(tx, actor, Action.CREATE, workspace)
    if workspace is None:
        raise ChannelNotMapped
    return workspace


async def open_for(request: Request, workspace: Workspace, name: str = "", first_choice: str | None = None) -> None:
    """Opens the modal. `first_choice`: the channel that it begins with where there is no current one. Raises what `allow` and `open` do."""
    await request.allow(Action.CREATE, workspace, What.CREATE)
    await request.open(create_modal(workspace, name, request.channel, first_choice))


async def submit(request: Request) -> Answer:
    services = request.services
    opened_in = InChannel.decode(request.metadata).channel
    given = blocks.values(request.view or {})
    channel: str = given["channel"]
    device = new_password.chosen_style(given) is Style.DEVICE
    here = channel == opened_in
    request.channel = channel
    try:
        if not here:
            await new_password.check_member(request, channel)
        origin = request.origin(await request.actor(await services.db.read(workspaces.of_channel, services.team, channel)))
        key = f"{services.team}:{(request.view or {})['id']}"
        expires_at = expiry.chosen(given, services.db.clock())
        name = given.get("name") or ""
        wanted = limits.chosen(request)
        credential, workspace = await services.db.change(credentials.create_pending, origin, channel, name, key, expires_at, device, wanted)
    except DeviceNotAllowed as refusal:
        return Answer(errors(device=texts.in_field(refusal, services.command)))
    except (ExpiryInvalid, LifeTooLong) as refusal:
        return Answer(errors(**{expiry.field_of(refusal): texts.in_field(refusal, services.command)}))
    except (NameInvalid, NameTaken, NameTooSimilar, TooManyLive) as refusal:
        return Answer(errors(name=texts.in_field(refusal, services.command)))
    except ChannelNotMapped:
        return Answer(errors(channel="This channel isn't connected to a mail workspace. Choose another one."))
    except ChannelPaused:
        return Answer(errors(channel="That channel is shared with another organization. Choose one that isn't."))
    except BotNotInChannel:
        return Answer(errors(channel="Add me to that channel first: type /invite @SMTP Credentials there."))
    except (NotAllowed, RoleUnknown, NotInChannel) as refusal:
        return Answer(errors(channel=texts.in_field(refusal, services.command)))
    except AlreadyRequested as refusal:
        return Answer(update(notice([line(*texts.sentence(refusal, services.command))])))

    async def then() -> None:
        await deliver(request, origin, credential, workspace, given, here)

    return Answer(CLEAR if here else update(creating_view()), then)


async def deliver(
    request: Request, origin: Origin, credential: Credential, workspace: Workspace, given: dict[str, Any], closed: bool
) -> None:
    """Hands the password over and activates; or discards and tells.

    Args:
        given: what the modal held.
        closed: the modal is closed, because the password is shown in the channel before the person's eyes.
    """
    style, recipe = new_password.chosen_style(given), new_password.chosen_recipe(given)
    db, settings = request.services.db, request.services.settings
    channel = credential.created_in or ""
    modal = None if closed else (request.view or {})["id"]
    head = line("New SMTP credential for ", bold(workspace.name), ": ", bold(credential.name))
    summary = "Your new SMTP credential is ready. Open Slack to copy its password."
    remarks = texts.all_refused(workspace)
    new = NewPassword(
        credential,
        style,
        channel,
        new_password.response_url(request),
        message=lambda password: new_password.password_message(settings, credential, channel, password, head, summary, remarks, recipe),
        accept=lambda phc, tag: db.change(credentials.activate, origin, credential.id, phc, tag, modal),
        accepted=lambda phc: db.look(lifecycle.works_with, credential.id, phc),
    )
    outcome, cause = await new_password.give(request, new)
    if outcome is Outcome.DELIVERED:
        if not closed:
            await new_password.show_in_modal(request, credential, created_view(credential, workspace, channel))
        return
    surely = "not handed over" if outcome is Outcome.REFUSED else "not surely handed over"
    with contextlib.suppress(Unavailable, OutcomeUnknown):  # it is pending and cannot log in; the sweep discards it and tells
        await db.change(credentials.discard, origin, credential.id, f"{surely}: {cause}")
    if closed:
        return  # the errand that the discarding owes tells it in the channel
    await request.show_result(notice([line(*not_delivered(outcome is Outcome.UNCLEAR, cause, channel))], "Credential not created"))


def create_modal(workspace: Workspace | None, name: str, channel: str | None, first_choice: str | None = None) -> dict[str, Any]:
    name_input: dict[str, Any] = {"type": "plain_text_input", "placeholder": plain("Website relay"), "focus_on_load": True}
    if name:
        name_input["initial_value"] = name[:PREFILL_MAX]
    where = "The credential is made in this channel's mail workspace. Its password is shown there, only to you."
    return modal(
        "New SMTP credential",
        [
            *([line("A credential for ", bold(workspace.name), "."), *texts.all_refused(workspace)] if workspace else []),
            field("Name", "name", name_input, "Name the app or device that will use it, so your team can recognize it later."),
            new_password.channel_field(where, first_choice),
            *expiry.fields(expiry.NEVER, workspace.longest_days if workspace else None),
            new_password.recipe_field(),
            *([new_password.device_field()] if workspace is None or workspace.devices_allowed else []),
            limits.offer(),
            foot("You'll see the password once. Nobody can look it up later, so have your secret store ready."),
        ],
        CREATE,
        submit="Create",
        close="Cancel",
        metadata=InChannel(channel=channel).encode(),
    )


def creating_view() -> dict[str, Any]:
    text = "Creating your credential… You can close this window. The password will appear in the channel you chose."
    return notice([line(text)], "Creating credential")


def created_view(credential: Credential, workspace: Workspace, channel: str) -> dict[str, Any]:
    return notice(
        [
            line(bold(credential.name), " is ready in ", bold(workspace.name), "."),
            line(
                "The password is waiting for you in ",
                blocks.channel(channel),
                ". Only you can see it there, and only once. Copy it before you reload Slack.",
            ),
        ],
        "Credential created",
    )


def not_delivered(unclear: bool, cause: str, channel: str) -> list[Piece]:
    """`unclear`: the password may have been shown."""
    if unclear:
        return [
            "I couldn't make sure that your password message arrived, so I deleted the new credential. "
            "If you see a password, it won't work. Try again."
        ]
    said = "I couldn't send you the password, so I deleted the new credential. Nothing was left behind. "
    return [said, *new_password.what_to_do(cause, channel)]

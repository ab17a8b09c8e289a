"""Rotating: a new password for the same username.

`/smtp rotate X` or a row's menu opens the modal; submitting it hands a new password over as creating does. The old one works for the
chosen overlap; **End the old one now** stops it before. Where the new password may not have arrived, nothing changes. A leaked password
is not rotated but revoked, because the overlap would keep it alive; the modal says so first.
"""

import contextlib
from datetime import datetime, timedelta
from typing import Any

from slack_bolt.app.async_app import AsyncApp

from bot import blocks, new_password, revoke, texts
from bot.blocks import Block, Piece, actions, bold, button, code, field, foot, line, lines, modal, option, when
from bot.codec import OnCredential, OnRotation
from bot.door import Answer, Door, Request, errors, notice, update
from bot.impact import facts
from bot.new_password import NewPassword, Outcome
from bot.target import Purpose, allowed, pressed, register_picker, submitted
from bot.texts import NotInChannel
from storage import credentials, lifecycle, mail_servers
from storage.access import Action
from storage.audit import Origin, What
from storage.database import OutcomeUnknown, Unavailable
from storage.models import Credential, State, Workspace
from storage.passwords import Style
from storage.refusals import BotNotInChannel, ChannelNotMapped, ChannelPaused, DeviceNotAllowed, NoOldPassword, RotationEnded

OPEN_ROTATE = "open_rotate"
ROTATE = "rotate_password"
OPEN_END_OLD = "open_end_old"
END_OLD = "end_old_password"
OPEN_LEAKED = "revoke_leaked_one"
LEAKED = "Did the password leak? Then don't rotate: revoke the credential. Rotating can keep the old password alive."
OVERLAPS: dict[str, tuple[str, timedelta | None]] = {
    "none": ("Stops at once", None),
    "1h": ("Works for 1 more hour", timedelta(hours=1)),
    "24h": ("Works for 24 more hours", timedelta(hours=24)),
    "7d": ("Works for 7 more days", timedelta(days=7)),
}
USUAL = "24h"


def register(app: AsyncApp, door: Door) -> None:
    app.action(OPEN_ROTATE)(door.work(pressed(open_modal)))
    app.view(ROTATE)(door.submission(submit))
    app.action(OPEN_END_OLD)(door.work(pressed(open_end_old)))
    app.action(OPEN_LEAKED)(door.work(pressed(open_leaked)))
    app.view(END_OLD)(door.submission(submit_end_old))
    register_picker(app, door, ROTATING)


async def open_modal(request: Request, credential_id: str) -> None:
    """Raises what `may_rotate` does, NoSuchCredential, NotAllowed, RoleUnknown, PersonBarred, TriggerExpired."""
    credential, workspace = await allowed(request, credential_id, Action.CREATE, What.ROTATE)
    now = request.services.db.clock()
    lifecycle.may_rotate(credential, now)
    first_choice = await new_password.usual_channel(request, workspace.id)
    shown = facts(credential, workspace, await request.services.db.read(mail_servers.reported))
    await request.open(rotate_modal(credential, workspace, shown, request.channel, first_choice, now))


ROTATING = Purpose(Action.CREATE, What.ROTATE, open_modal, OPEN_ROTATE, "Rotate…", (State.ACTIVE,))


async def submit(request: Request) -> Answer:
    services = request.services
    token = OnRotation.decode(request.metadata)
    given = blocks.values(request.view or {})
    channel: str = given["channel"]
    words, overlap = OVERLAPS[given["overlap"]]
    request.channel = channel
    _, workspace = await services.db.read(credentials.get, token.credential)
    key = f"{services.team}:{(request.view or {})['id']}"
    try:
        if channel != token.channel:
            await new_password.check_member(request, channel)
        origin = request.origin(await request.actor(workspace))
        device = new_password.chosen_style(given) is Style.DEVICE
        begun = await services.db.change(lifecycle.begin_rotation, origin, token.credential, channel, key, token.mark, device)
    except DeviceNotAllowed as refusal:
        return Answer(errors(device=blocks.flat(texts.sentence(refusal, services.command))))
    except ChannelNotMapped:
        return Answer(errors(channel=f"Choose a channel that's connected to {workspace.name}."))
    except ChannelPaused:
        return Answer(errors(channel="That channel is shared with another organization. Choose one that isn't."))
    except BotNotInChannel:
        return Answer(errors(channel="Add me to that channel first: type /invite @SMTP Credentials there."))
    except NotInChannel as refusal:
        return Answer(errors(channel=texts.in_field(refusal, services.command)))
    credential, workspace = begun

    async def then() -> None:
        await deliver(request, origin, credential, workspace, given, overlap, words)

    return Answer(update(rotating_view()), then)


async def deliver(
    request: Request,
    origin: Origin,
    credential: Credential,
    workspace: Workspace,
    given: dict[str, Any],
    overlap: timedelta | None,
    words: str,
) -> None:
    """Hands the new password over and lets it count; or leaves the old one as it is and tells. `given`: what the modal held."""
    style, recipe = new_password.chosen_style(given), new_password.chosen_recipe(given)
    db, settings = request.services.db, request.services.settings
    channel, key = credential.rotation_in or "", credential.rotation_key or ""
    head = line("New password for ", bold(credential.name), " in ", bold(workspace.name))
    summary = "A new password is ready. Open Slack to copy it."
    remarks = [line(f"The old password: {words.lower()}."), *texts.all_refused(workspace)]
    new = NewPassword(
        credential,
        style,
        channel,
        new_password.response_url(request),
        message=lambda password: new_password.password_message(settings, credential, channel, password, head, summary, remarks, recipe),
        accept=lambda phc, tag: db.change(
            lifecycle.finish_rotation, origin, credential.id, key, phc, tag, overlap, style is Style.DEVICE, (request.view or {})["id"]
        ),
        accepted=lambda phc: db.look(lifecycle.works_with, credential.id, phc),
    )
    outcome, cause = await new_password.give(request, new)
    if outcome is Outcome.DELIVERED:
        rotated, _ = await db.read(credentials.get, credential.id)
        await new_password.show_in_modal(request, rotated, rotated_view(rotated, channel))
        return
    surely = "not handed over" if outcome is Outcome.REFUSED else "not surely handed over"
    with contextlib.suppress(Unavailable, OutcomeUnknown):  # nothing changed for log-ins; the sweep cancels it and tells
        await db.change(lifecycle.cancel_rotation, origin, credential.id, key, f"{surely}: {cause}")
    sentence = not_rotated(outcome is Outcome.UNCLEAR, cause, credential, channel)
    await request.show_result(notice([line(*sentence)], "Password not changed"))


async def open_end_old(request: Request, credential_id: str) -> None:
    """Raises NoSuchCredential, AlreadyDeleted, NoOldPassword, NotAllowed, RoleUnknown, PersonBarred, TriggerExpired."""
    credential, workspace = await allowed(request, credential_id, Action.DELETE, What.END_PREVIOUS)
    lifecycle.check_live(credential)
    if not lifecycle.has_old_password(credential, request.services.db.clock()):
        raise NoOldPassword(credential.name)
    await request.open(end_old_modal(credential, workspace, request.channel))


async def submit_end_old(request: Request) -> Answer:
    credential_id, origin = await submitted(request)
    credential, _ = await request.services.db.change(lifecycle.end_previous, origin, credential_id)
    said = line("The old password of ", bold(credential.name), " is refused from now on. The new one goes on as before.")
    return Answer(update(notice([said], "Old password ended")))


async def open_leaked(request: Request, credential_id: str) -> None:
    """Its password leaked: it is revoked instead. Raises NoSuchCredential, RoleUnknown, PersonBarred, TriggerExpired."""
    credential, _ = await request.services.db.read(credentials.get, credential_id)
    await request.open(revoke.revoke_modal(request, await revoke.look_up(request, [credential.username]), leaked=True))


def rotate_modal(
    credential: Credential, workspace: Workspace, shown: Block, channel: str | None, first_choice: str | None, now: datetime
) -> dict[str, Any]:
    leaked = button("It leaked: revoke it…", OPEN_LEAKED, OnCredential(credential=credential.id, channel=channel).encode(), style="danger")
    options = {value: option(label, value) for value, (label, _) in OVERLAPS.items()}
    overlap = {"type": "static_select", "options": list(options.values()), "initial_option": options[USUAL]}
    rows: list[Block] = [line(bold(LEAKED)), actions(leaked), shown, *texts.all_refused(workspace)]
    if lifecycle.has_old_password(credential, now) and credential.previous_until:
        rows.append(line("The password before still works until ", when(credential.previous_until), ". It stops when you rotate again."))
    if credential.device and not workspace.devices_allowed:
        rows.append(line("Its password is a short one, which ", bold(workspace.name), " no longer allows. The new one is long."))
    return modal(
        "Rotate password",
        [
            *rows,
            field("Old password", "overlap", overlap, "Enter the new password in every app before the old one stops."),
            new_password.channel_field("The new password is shown there, only to you.", first_choice),
            new_password.recipe_field(),
            *([new_password.device_field(ticked=credential.device)] if workspace.devices_allowed else []),
            foot("You'll see the new password once. Nobody can look it up later. The username stays the same."),
        ],
        ROTATE,
        submit="Rotate",
        close="Cancel",
        metadata=OnRotation(credential=credential.id, channel=channel, mark=lifecycle.rotation_mark(credential)).encode(),
    )


def rotating_view() -> dict[str, Any]:
    text = "Making the new password… You can close this window. It will appear in the channel you chose."
    return notice([line(text)], "Rotating password")


def rotated_view(credential: Credential, channel: str) -> dict[str, Any]:
    return notice(
        [
            line("The new password of ", bold(credential.name), " is waiting for you in ", blocks.channel(channel), "."),
            line("Only you can see it there, and only once. Copy it before you reload Slack."),
            line(*old_password(credential)),
        ],
        "Password rotated",
    )


def old_password(credential: Credential) -> list[Piece]:
    if credential.previous_until is None:
        return ["The old password no longer works."]
    return [
        "The old password works until ",
        when(credential.previous_until),
        ". To stop it before, choose ",
        bold("End the old one now…"),
        ".",
    ]


def end_old_modal(credential: Credential, workspace: Workspace, channel: str | None) -> dict[str, Any]:
    def used(at: datetime | None) -> Piece:
        return when(at) if at else "not since the rotation"

    rows = [
        lines(
            [bold("Name  "), credential.name],
            [bold("Username  "), code(credential.username)],
            [bold("Mail workspace  "), workspace.name],
            [bold("New password last used  "), used(credential.current_used_at)],
            [bold("Old password last used  "), used(credential.previous_used_at)],
        )
    ]
    if credential.current_used_at is None:
        rows.append(line(bold("The new password hasn't been used yet. Apps that only know the old one stop sending mail right away.")))
    return modal(
        "End the old password?",
        rows,
        END_OLD,
        submit="End it now",
        close="Keep it",
        metadata=OnCredential(credential=credential.id, channel=channel).encode(),
    )


def not_rotated(unclear: bool, cause: str, credential: Credential, channel: str) -> list[Piece]:
    """`unclear`: the new password may have been shown."""
    about: list[Piece] = [bold(credential.name), ": "]
    if cause == RotationEnded.cause:
        return [*about, *texts.sentence(RotationEnded(), "")]
    if unclear:
        return [
            *about,
            "I couldn't make sure that your password message arrived, so nothing changed. "
            "If you see a new password, it won't work; the old one still does. Try again.",
        ]
    said = "I couldn't send you the new password, so nothing changed. The old one still works. "
    return [*about, said, *new_password.what_to_do(cause, channel)]

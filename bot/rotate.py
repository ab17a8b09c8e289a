"""Rotating: a new password for the same username.

`/smtp rotate X` or a row's menu opens the modal; submitting it hands a new password over as creating does. The old one works for the
chosen overlap; **End the old one now** stops it before. Where the new password may not have arrived, nothing changes. A leaked password
is not rotated but deleted, because the overlap would keep it alive; the modal says so first.
"""

from datetime import datetime, timedelta
from typing import Any

import structlog
from slack_bolt.app.async_app import AsyncApp

from bot import blocks, create, notices, texts
from bot.blocks import Block, Piece, actions, bold, button, code, field, foot, line, lines, modal, option, when
from bot.codec import OnCredential, OnRotation
from bot.delete import OPEN_DELETE
from bot.door import Answer, Door, Request, errors, notice, update
from bot.handover import Outcome
from bot.impact import facts
from bot.services import Services
from bot.target import Purpose, allowed, pressed, submitted
from bot.texts import NotInChannel
from storage import credentials, lifecycle, passwords
from storage.access import Action
from storage.audit import Origin, What
from storage.models import Credential, Workspace
from storage.passwords import Style
from storage.refusals import BotNotInChannel, ChannelNotMapped, ChannelPaused, NoOldPassword, RotationEnded

OPEN_ROTATE = "open_rotate"
ROTATE = "rotate_password"
OPEN_END_OLD = "open_end_old"
END_OLD = "end_old_password"
LEAKED = "Did the password leak? Then don't rotate: delete the credential. Rotating can keep the old password alive."
OVERLAPS: dict[str, tuple[str, timedelta | None]] = {
    "none": ("Stops at once", None),
    "1h": ("Works for 1 more hour", timedelta(hours=1)),
    "24h": ("Works for 24 more hours", timedelta(hours=24)),
    "7d": ("Works for 7 more days", timedelta(days=7)),
}
USUAL = "24h"

log = structlog.get_logger(__name__)


def register(app: AsyncApp, door: Door) -> None:
    app.action(OPEN_ROTATE)(door.work(pressed(open_modal)))
    app.view(ROTATE)(door.submission(submit))
    app.action(OPEN_END_OLD)(door.work(pressed(open_end_old)))
    app.view(END_OLD)(door.submission(submit_end_old))


async def open_modal(request: Request, credential_id: str) -> None:
    """Raises what `may_rotate` does, NoSuchCredential, NotAllowed, RoleUnknown, PersonBarred, TriggerExpired."""
    credential, workspace = await allowed(request, credential_id, Action.CREATE, What.ROTATE)
    now = request.services.db.clock()
    lifecycle.may_rotate(credential, now)
    first_choice = await create.usual_channel(request, workspace)
    await request.open(rotate_modal(credential, workspace, request.channel, first_choice, now))


ROTATING = Purpose(Action.CREATE, What.ROTATE, open_modal, OPEN_ROTATE, "Rotate…")


async def submit(request: Request) -> Answer:
    services = request.services
    token = OnRotation.decode(request.metadata)
    given = blocks.values(request.view or {})
    channel: str = given["channel"]
    style = Style.DEVICE if "device" in (given.get("device") or []) else Style.STANDARD
    words, overlap = OVERLAPS[given["overlap"]]
    request.channel = channel
    async with services.db.read() as session:
        _, workspace = await credentials.get(session, token.credential)
    key = f"{services.team}:{(request.view or {})['id']}"
    try:
        if channel != token.channel:
            await create.check_member(request, channel)
        origin = request.origin(await request.actor(workspace))
        credential, workspace = await lifecycle.begin_rotation(services.db, origin, token.credential, channel, key, token.mark)
    except ChannelNotMapped:
        return Answer(errors(channel=f"Choose a channel that's connected to {workspace.name}."))
    except ChannelPaused:
        return Answer(errors(channel="That channel is shared with another organization. Choose one that isn't."))
    except BotNotInChannel:
        return Answer(errors(channel="Add me to that channel first: type /invite @SMTP Credentials there."))
    except NotInChannel as refusal:
        return Answer(errors(channel=blocks.flat(texts.sentence(refusal, services.command))))
    urls = request.body.get("response_urls") or [{}]

    async def then() -> None:
        await deliver(request, origin, credential, workspace, style, overlap, words, urls[0].get("response_url"))

    return Answer(update(rotating_view()), then)


async def deliver(
    request: Request,
    origin: Origin,
    credential: Credential,
    workspace: Workspace,
    style: Style,
    overlap: timedelta | None,
    words: str,
    response_url: str | None,
) -> None:
    """Hands the new password over and lets it count; or leaves the old one as it is and tells."""
    services = request.services
    channel, key = credential.rotation_in or "", credential.rotation_key or ""
    tried: list[str] = []

    async def accept(password_hash: str, tag: int | None) -> None:
        tried.append(password_hash)
        await lifecycle.finish_rotation(services.db, origin, credential.id, key, password_hash, tag, overlap)

    outcome, cause = await create.give(
        request,
        credential,
        style,
        channel,
        response_url,
        lambda password: create.password_message(
            services.settings,
            credential,
            channel,
            password,
            line("New password for ", bold(credential.name), " in ", bold(workspace.name)),
            [line(f"The old password: {words.lower()}.")],
            "A new SMTP password is ready. Open Slack to copy it.",
        ),
        accept,
    )
    if outcome is not Outcome.DELIVERED:
        cancelled = await lifecycle.cancel_rotation(services.db, origin, credential.id, key, f"not handed over: {cause}")
        if not cancelled and tried and await lifecycle.works_with(services.db, credential.id, tried[0]):
            outcome = Outcome.DELIVERED  # it was committed, only the answer was lost
    if outcome is Outcome.DELIVERED:
        request.changed = workspace
        async with services.db.read() as session:
            rotated, _ = await credentials.get(session, credential.id)
        await create.show_result(request, rotated_view(rotated, channel))
        await notices.rotated(services, rotated, workspace)
        return
    log.warning("password not handed over, rotation cancelled", cause=cause, outcome=outcome.value, reference=request.reference)
    sentence = not_rotated(outcome, cause, credential, channel)
    shown = await create.show_result(request, notice([line(*sentence)], "Password not changed"))
    told = await notices.tell(services, request.user, channel, [line(*sentence), foot(texts.ONLY_YOU)], response_url)
    if not (shown or told):
        log.error("could not tell that the password was not handed over", user=request.user, reference=request.reference)


async def open_end_old(request: Request, credential_id: str) -> None:
    """Raises NoSuchCredential, AlreadyDeleted, NoOldPassword, NotAllowed, RoleUnknown, PersonBarred, TriggerExpired."""
    credential, workspace = await allowed(request, credential_id, Action.DELETE, What.END_PREVIOUS)
    lifecycle.check_live(credential)
    if not lifecycle.has_old_password(credential, request.services.db.clock()):
        raise NoOldPassword(credential.name)
    await request.open(end_old_modal(credential, workspace, request.channel))


async def submit_end_old(request: Request) -> Answer:
    credential_id, origin = await submitted(request)
    credential, request.changed = await lifecycle.end_previous(request.services.db, origin, credential_id)
    said = line("The old password of ", bold(credential.name), " is refused from now on. The new one works.")
    return Answer(update(notice([said], "Old password ended")))


async def sweep(services: Services, by_sweep: Origin) -> None:
    """Ends what a crash left on its way, and tells its requester; wipes old passwords whose overlap is over."""
    for credential in await lifecycle.abandoned_rotations(services.db):
        # Of several replicas one cancels it, and that one tells.
        if await lifecycle.cancel_rotation(services.db, by_sweep, credential.id, credential.rotation_key or "", "left on its way"):
            said: list[Block] = [line(*interrupted(credential)), foot(texts.ONLY_YOU)]
            told = await notices.tell(services, credential.rotation_by or "", credential.rotation_in, said)
            log.warning("cancelled a rotation that was left on its way", username=credential.username, told=told)
    for credential in await lifecycle.ended_overlaps(services.db):
        await lifecycle.forget_previous(services.db, by_sweep, credential.id)


def rotate_modal(
    credential: Credential, workspace: Workspace, channel: str | None, first_choice: str | None, now: datetime
) -> dict[str, Any]:
    leaked = button("It leaked: delete it…", OPEN_DELETE, OnCredential(credential=credential.id, channel=channel).encode(), style="danger")
    options = {value: option(label, value) for value, (label, _) in OVERLAPS.items()}
    overlap = {"type": "static_select", "options": list(options.values()), "initial_option": options[USUAL]}
    short = option("Short password for a printer or another device", "device", "Some take no more than 20 characters.")
    device: dict[str, Any] = {"type": "checkboxes", "options": [short]}
    if credential.password_tag is not None and passwords.tagged_style(credential.password_tag) is Style.DEVICE:
        device["initial_options"] = [short]
    rows: list[Block] = [line(bold(LEAKED)), actions(leaked), facts(credential, workspace)]
    if lifecycle.has_old_password(credential, now) and credential.previous_until:
        rows.append(line("The password before still works until ", when(credential.previous_until), ". It stops when you rotate again."))
    return modal(
        "Rotate password",
        [
            *rows,
            field("Old password", "overlap", overlap, "Enter the new password in every app before the old one stops."),
            field("Channel", "channel", create.channel_select(first_choice), "The new password is shown there, only to you."),
            field("Device", "device", device, optional=True),
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
        return when(at) if at else "not since the rotation, as far as the mail servers told"

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


def not_rotated(outcome: Outcome, cause: str, credential: Credential, channel: str) -> list[Piece]:
    about: list[Piece] = [bold(credential.name), ": "]
    if cause == RotationEnded.cause:
        return [*about, *texts.sentence(RotationEnded(), "")]
    if outcome is Outcome.UNCLEAR:
        return [
            *about,
            "I couldn't make sure that your password message arrived, so nothing changed. "
            "If you see a new password, it won't work; the old one still does. Try again.",
        ]
    start: list[Piece] = [*about, "I couldn't send you the new password, so nothing changed. The old one still works. "]
    if cause in ("channel_not_found", "not_in_channel"):
        return [*start, "Add me to ", blocks.channel(channel), " with ", code("/invite @SMTP Credentials"), ", then try again."]
    if cause == "user_not_in_channel":
        return [*start, "Join ", blocks.channel(channel), ", then try again."]
    return [*start, "Try again in a minute."]


def interrupted(credential: Credential) -> list[Piece]:
    """For the sweep, which tells the requester about what a crash left behind."""
    return [
        "I was interrupted while rotating the password of ",
        bold(credential.name),
        ", so nothing changed. If you see a new password for it, it won't work; the old one still does. Rotate it again.",
    ]

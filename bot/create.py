"""Creating a credential.

`/smtp create`, a button or the list opens the modal; submitting it makes a pending credential; after the acknowledgement the password is
generated, hashed and handed over; only then does the credential become active. A password that may not have arrived is made worthless.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog
from aiohttp import ClientError
from slack_bolt.app.async_app import AsyncApp
from slack_sdk.errors import SlackApiError

from bot import blocks, expiry, handover, notices, texts
from bot.blocks import Block, Piece, bold, button, code, copyable, field, foot, line, modal, plain
from bot.codec import InChannel, OnCredential
from bot.delete import OPEN_DELETE
from bot.delivery import outside
from bot.door import Answer, Door, Request, describe, errors, notice, update
from bot.handover import Outcome
from bot.settings import Settings
from bot.texts import NotInChannel
from storage import credentials, passwords, workspaces
from storage.access import Action
from storage.audit import Origin, What
from storage.models import Credential, Workspace
from storage.passwords import Style
from storage.refusals import (
    AlreadyRequested,
    BotNotInChannel,
    ChannelNotMapped,
    ChannelPaused,
    ExpiryInvalid,
    NameInvalid,
    NameTaken,
    NotAllowed,
    Refusal,
    RoleUnknown,
)

CREATE = "create_credential"
REMOVE_PASSWORD = "remove_password_message"  # noqa: S105
PREFILL_MAX = 200  # characters of a typed name; too long a one is refused when it is submitted
MEMBER_PAGES = 5
MEMBERS_A_PAGE = 1000
CHANNELS_ASKED = 3
CHANNEL_TIMEOUT = 1.0  # seconds; the modal must open within Slack's 3

log = structlog.get_logger(__name__)


def register(app: AsyncApp, door: Door) -> None:
    app.action(CREATE)(door.work(open_modal))
    app.view(CREATE)(door.submission(submit))
    app.action(REMOVE_PASSWORD)(door.work(remove_password))


async def open_modal(request: Request, name: str = "") -> None:
    """Also called by `/smtp create [name]`."""
    async with request.services.db.read() as session:
        workspace = await workspaces.of_channel(session, request.services.team, request.in_channel())
    await open_for(request, workspace, name)


async def open_for(request: Request, workspace: Workspace, name: str = "", first_choice: str | None = None) -> None:
    """Opens the modal. `first_choice`: the channel that it begins with where there is no current one. Raises what `allow` and `open` do."""
    await request.allow(Action.CREATE, workspace, What.CREATE)
    await request.open(create_modal(workspace, name, request.channel, first_choice))


async def submit(request: Request) -> Answer:
    services = request.services
    opened_in = InChannel.decode(request.metadata).channel
    given = blocks.values(request.view or {})
    channel: str = given["channel"]
    style = Style.DEVICE if "device" in (given.get("device") or []) else Style.STANDARD
    request.channel = channel
    try:
        if channel != opened_in:
            await check_member(request, channel)
        async with services.db.read() as session:
            workspace = await workspaces.of_channel(session, services.team, channel)
        actor = await request.actor(workspace)
        key = f"{services.team}:{(request.view or {})['id']}"
        expires_at = expiry.chosen(given, services.db.clock())
        credential, workspace = await credentials.create_pending(
            services.db, request.origin(actor), channel, given.get("name") or "", key, expires_at
        )
    except ExpiryInvalid as refusal:
        return Answer(errors(**{expiry.field_of(refusal): blocks.flat(texts.sentence(refusal, services.command))}))
    except (NameInvalid, NameTaken) as refusal:
        return Answer(errors(name=blocks.flat(texts.sentence(refusal, services.command))))
    except ChannelNotMapped:
        return Answer(errors(channel="This channel isn't connected to a mail workspace. Choose another one."))
    except ChannelPaused:
        return Answer(errors(channel="That channel is shared with another organization. Choose one that isn't."))
    except BotNotInChannel:
        return Answer(errors(channel="Add me to that channel first: type /invite @SMTP Credentials there."))
    except NotAllowed as refusal:
        return Answer(errors(channel=f"You can't create credentials in {refusal.workspace}. Ask one of its admins."))
    except (RoleUnknown, NotInChannel) as refusal:
        return Answer(errors(channel=blocks.flat(texts.sentence(refusal, services.command))))
    except AlreadyRequested as refusal:
        return Answer(update(notice([line(*texts.sentence(refusal, services.command))])))
    urls = request.body.get("response_urls") or [{}]

    origin = request.origin(actor)

    async def then() -> None:
        await deliver(request, origin, credential, workspace, style, urls[0].get("response_url"))

    return Answer(update(creating_view()), then)


async def deliver(
    request: Request, origin: Origin, credential: Credential, workspace: Workspace, style: Style, response_url: str | None
) -> None:
    """Hands a new password over and activates; or discards and tells."""
    services = request.services
    channel = credential.created_in or ""

    async def accept(password_hash: str, tag: int | None) -> None:
        await credentials.activate(services.db, origin, credential.id, password_hash, tag)

    head = line("New SMTP credential for ", bold(workspace.name), ": ", bold(credential.name))
    outcome, cause = await give(
        request,
        credential,
        style,
        channel,
        response_url,
        lambda password: password_message(services.settings, credential, channel, password, head),
        accept,
    )
    if outcome is Outcome.DELIVERED:
        request.changed = workspace
        await show_result(request, created_view(credential, workspace, channel))
        await notices.created(services, credential, workspace)
        return
    await credentials.discard(services.db, origin, credential.id, f"not handed over: {cause}")
    log.warning("password not handed over, credential discarded", cause=cause, outcome=outcome.value, reference=request.reference)
    sentence = not_delivered(outcome, cause, channel)
    shown = await show_result(request, notice([line(*sentence)], "Credential not created"))
    told = await notices.tell(services, request.user, channel, [line(*sentence), foot(texts.ONLY_YOU)], response_url)
    if not (shown or told):
        log.error("could not tell that the password was not handed over", user=request.user, reference=request.reference)


async def give(
    request: Request,
    credential: Credential,
    style: Style,
    channel: str,
    response_url: str | None,
    message: Callable[[str], dict[str, Any]],
    accept: Callable[[str, int | None], Awaitable[None]],
) -> tuple[Outcome, str]:
    """Generates a password, hashes it, hands it over, and lets it count.

    Args:
        message: draws the message that shows the password.
        accept: stores the hash and `passwords.tag` in one transaction, after Slack took the message.

    Returns:
        DELIVERED only when both happened; otherwise whether the person may see a password, and why.
    """
    services = request.services
    outcome, cause = Outcome.REFUSED, "failed"
    try:
        password = passwords.generate(credential.id, style)
        password_hash = await services.hasher.hash(password)
        async with outside():
            outcome, cause = await handover.hand_over(services.careful_client, response_url, channel, request.user, message(password))
        if outcome is Outcome.DELIVERED:
            outcome = Outcome.UNCLEAR  # until `accept` is committed, a password that was shown does not work
            await accept(password_hash, passwords.tag(password))
            outcome = Outcome.DELIVERED
    except Refusal as refusal:
        cause = refusal.cause
    except Exception as error:
        cause = type(error).__name__
        log.error("handing over failed", error=describe(error), reference=request.reference)
    return outcome, cause


async def remove_password(request: Request) -> None:
    """Takes the message away; only a fresh response_url of a press in it can."""
    await notices.respond(request, {"delete_original": True})


async def check_member(request: Request, channel: str) -> None:
    """Whether the person is in the channel that they chose; its ephemeral message would be lost on anybody else.

    Raises:
        NotInChannel, BotNotInChannel.
    """
    client = request.services.client
    cursor = ""
    try:
        for _ in range(MEMBER_PAGES):
            answer = await client.conversations_members(channel=channel, limit=MEMBERS_A_PAGE, cursor=cursor)
            if request.user in answer["members"]:
                return
            cursor = (answer.get("response_metadata") or {}).get("next_cursor", "")
            if not cursor:
                break
    except SlackApiError as error:
        if error.response["error"] in ("channel_not_found", "not_in_channel"):
            raise BotNotInChannel from None
        raise
    raise NotInChannel


async def usual_channel(request: Request, workspace: Workspace) -> str | None:
    """The channel that a modal begins with: None for the current one, otherwise one of the workspace's that the person is in."""
    services = request.services
    async with services.db.read() as session:
        mappings = await workspaces.channels_of(session, workspace)
    channels = [one.channel_id for one in mappings if one.team_id == services.team and not one.paused]
    if request.channel in channels:
        return None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CHANNEL_TIMEOUT):
            for channel in channels[:CHANNELS_ASKED]:
                try:
                    await check_member(request, channel)
                except (NotInChannel, BotNotInChannel, SlackApiError, ClientError):
                    continue
                return channel
    return None


async def show_result(request: Request, view: dict[str, Any]) -> bool:
    try:
        await request.services.client.views_update(view_id=(request.view or {})["id"], view=view)
    except SlackApiError as error:
        log.info("modal already closed", error=error.response["error"])  # the person may have closed it: the message says the same
        return False
    return True


def create_modal(workspace: Workspace, name: str, channel: str | None, first_choice: str | None = None) -> dict[str, Any]:
    name_input: dict[str, Any] = {"type": "plain_text_input", "placeholder": plain("Website relay"), "focus_on_load": True}
    if name:
        name_input["initial_value"] = name[:PREFILL_MAX]
    device = blocks.option("Short password for a printer or another device", "device", "Some take no more than 20 characters.")
    return modal(
        "New SMTP credential",
        [
            line("A credential for ", bold(workspace.name), "."),
            field("Name", "name", name_input, "Name the app or device that will use it, so your team can recognize it later."),
            field(
                "Channel",
                "channel",
                channel_select(first_choice),
                "The credential is made in this channel's mail workspace. Its password is shown there, only to you.",
            ),
            *expiry.fields(expiry.NEVER),
            field("Device", "device", {"type": "checkboxes", "options": [device]}, optional=True),
            foot("You'll see the password once. Nobody can look it up later, so have your secret store ready."),
        ],
        CREATE,
        submit="Create",
        close="Cancel",
        metadata=InChannel(channel=channel).encode(),
    )


def channel_select(first_choice: str | None = None) -> dict[str, Any]:
    """Where the password will be shown. Its submission brings a fresh response_url."""
    begins = {"initial_conversation": first_choice} if first_choice else {"default_to_current_conversation": True}
    return {
        "type": "conversations_select",
        "response_url_enabled": True,
        "filter": {"include": ["public", "private"], "exclude_bot_users": True, "exclude_external_shared_channels": True},
        **begins,
    }


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


def password_message(
    settings: Settings,
    credential: Credential,
    channel: str,
    password: str,
    head: Block,
    remarks: Sequence[Block] = (),
    summary: str = "Your new SMTP credential is ready. Open Slack to copy its password.",
) -> dict[str, Any]:
    """The only message that ever holds a password; `text`, which notifications show, does not."""
    value = OnCredential(credential=credential.id, channel=channel).encode()
    return {
        "text": summary,
        "blocks": [
            head,
            copyable("Username", credential.username),
            copyable("Password", password),
            *how_to_enter(settings, credential.username),
            line("Copy the password to your app or secret store now. It's shown only once and can't be looked up later."),
            *remarks,
            blocks.actions(
                button("I've copied it, remove this", REMOVE_PASSWORD, value, style="primary"),
                button("Delete credential", OPEN_DELETE, value),
            ),
            foot(f"{texts.ONLY_YOU} It may disappear when you reload Slack."),
        ],
    }


def how_to_enter(settings: Settings, username: str) -> list[Block]:
    """What to type into an app or a device, and a line to try it with; it asks for the password instead of taking it."""
    host, port = settings.smtp_host, settings.smtp_port
    security = {"starttls": "STARTTLS", "tls": "TLS from the start (SMTPS)", "none": "none"}[settings.smtp_tls]
    option = {"starttls": " -tls", "tls": " -tlsc", "none": ""}[settings.smtp_tls]
    return [
        copyable("Server", host),
        copyable("Port", str(port)),
        line(bold("Encryption"), f"  {security}"),
        copyable(
            "Try it in a terminal (it asks for the password)", f"swaks -s {host} -p {port}{option} -a -au {username} -t you@example.com"
        ),
    ]


def not_delivered(outcome: Outcome, cause: str, channel: str) -> list[Piece]:
    if outcome is Outcome.UNCLEAR:
        return [
            "I couldn't make sure that your password message arrived, so I deleted the new credential. "
            "If you see a password, it won't work. Try again."
        ]
    start: list[Piece] = ["I couldn't send you the password, so I deleted the new credential. Nothing was left behind. "]
    if cause in ("channel_not_found", "not_in_channel"):
        return [*start, "Add me to ", blocks.channel(channel), " with ", code("/invite @SMTP Credentials"), ", then try again."]
    if cause == "user_not_in_channel":
        return [*start, "Join ", blocks.channel(channel), ", then try again."]
    return [*start, "Try again in a minute."]


def discard_text(credential: Credential) -> list[Piece]:
    """For the sweep, which tells the requester about what a crash left behind."""
    return [
        "I was interrupted while creating the SMTP credential ",
        bold(credential.name),
        ", so I deleted it. If you see a password for it, it won't work. Create it again.",
    ]

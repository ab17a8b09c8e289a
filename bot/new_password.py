"""A new password, from its making to the moment when it counts: for a new credential, and for a rotation.

It is generated, hashed, and shown to its requester alone; once Slack said ok, one transaction makes it count. A password that was not, or
not surely, shown is made worthless. The response_url of the submission is the first way; it works where the bot is no member.
`chat.postEphemeral` is the second.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import structlog
from prometheus_client import Counter

from bot import blocks
from bot.blocks import Block, Piece, actions, bold, button, code, copyable, flat_blocks, line, option
from bot.codec import OnCredential
from bot.delete import OPEN_DELETE
from bot.door import Request, describe
from bot.people import Presence
from bot.recipes import FIELDS, RECIPES, Account
from bot.settings import Settings
from bot.slack import Away, Ok, Ready, Refused, Reply, Slack
from bot.texts import NotInChannel
from storage import errands, passwords
from storage.database import OutcomeUnknown, Unavailable
from storage.models import Credential
from storage.passwords import Style
from storage.refusals import BotNotInChannel, Refusal, RoleUnknown
from storage.workspaces import channels_of

REMOVE_PASSWORD = "remove_password_message"  # noqa: S105
HAND_OVER_LIMIT = 10.0  # seconds for each way, with all its tries
CHANNELS_ASKED = 3
DEVICE = option("Short password for a printer or another device", "device", "Some take no more than 20 characters.")

log = structlog.get_logger(__name__)
handovers = Counter("smtp_bot_handovers_total", "Passwords handed over, or not", ["way", "outcome"])


class Outcome(StrEnum):
    DELIVERED = "delivered"
    """Slack said ok, and the password works."""
    REFUSED = "refused"
    """Slack surely showed nothing."""
    UNCLEAR = "unclear"
    """It may have been shown; it does not work."""


for _way in ("response_url", "chat.postEphemeral"):
    for _outcome in Outcome:
        handovers.labels(_way, _outcome)  # begins at 0: a rate sees the first burst only so


@dataclass(frozen=True)
class NewPassword:
    """A password on its way, and how it is to be shown and to be made to count."""

    credential: Credential
    style: Style
    channel: str
    response_url: str | None
    message: Callable[[str], dict[str, Any]]
    """Draws the message that shows the password."""
    accept: Callable[[str, int], Awaitable[object]]
    """Stores the hash and `passwords.tag` in one transaction."""
    accepted: Callable[[str], Awaitable[bool]]
    """Whether that hash counts, asked when `accept` did not say."""


async def give(request: Request, new: NewPassword) -> tuple[Outcome, str]:
    """Makes the password, shows it and lets it count; returns what became of it, and a word for why."""
    services = request.services
    outcome, cause = Outcome.REFUSED, "failed"
    try:
        password = passwords.generate(new.credential.id, new.style)
        hashing = asyncio.ensure_future(services.hasher.hash(password))
        message = new.message(password)
        outcome, cause = await hand_over(services.slack, new.response_url, new.channel, request.user, message, hashing)
        password_hash = await hashing
        if outcome is Outcome.DELIVERED:
            outcome = Outcome.UNCLEAR  # until it counts, a password that was shown does not work
            await _accept(new, password_hash, passwords.tag(password) or 0)
            outcome = Outcome.DELIVERED
    except Refusal as refusal:
        cause = refusal.cause
    except Unavailable as error:
        cause = f"database_{error.trouble}"
    except Exception as error:
        cause = type(error).__name__
        log.error("handing over failed", error=describe(error), reference=request.reference)
    if outcome is not Outcome.DELIVERED:
        log.warning("password not handed over", cause=cause, outcome=outcome.value, reference=request.reference)
    return outcome, cause


async def show_in_modal(request: Request, credential: Credential, view: dict[str, Any]) -> None:
    """Says in the modal that the password is there. Where this does not come to it, an errand does."""
    if await request.show_result(view):
        await request.services.db.note(errands.modal_is_told, credential.id)


async def _accept(new: NewPassword, password_hash: str, tag: int) -> None:
    """Raises what `accept` does; an unknown outcome is looked up."""
    try:
        await new.accept(password_hash, tag)
    except OutcomeUnknown:
        if not await new.accepted(password_hash):
            raise


async def hand_over(
    slack: Slack,
    response_url: str | None,
    channel: str,
    user: str,
    message: Mapping[str, Any],
    ready: Ready,
    limit: float = HAND_OVER_LIMIT,
) -> tuple[Outcome, str]:
    """Shows the message to `user` alone, in `channel`.

    Args:
        message: `text` and `blocks`.
        ready: sent when this is done; until then only the connection is opened.
        limit: seconds for each of the two ways.

    Returns:
        What became of it, and Slack's word for why.
    """
    outcome, cause = Outcome.REFUSED, "no_response_url"
    if response_url:
        body = {**message, "response_type": "ephemeral", "replace_original": False}
        outcome, cause = _became(await slack.respond(response_url, body, limit, ready))
        handovers.labels("response_url", outcome).inc()
    if outcome is Outcome.REFUSED:
        outcome, cause = _became(await slack.post_ephemeral(channel, user, message, limit, ready))
        handovers.labels("chat.postEphemeral", outcome).inc()
    return outcome, cause


def _became(reply: Reply[None]) -> tuple[Outcome, str]:
    match reply:
        case Ok():
            return Outcome.DELIVERED, "ok"
        case Refused(word):
            return Outcome.REFUSED, word
        case Away(why, unclear):
            return (Outcome.UNCLEAR if unclear else Outcome.REFUSED), why


async def remove_message(request: Request) -> None:
    """Takes the message with the password away; only a fresh response_url of a press in it can."""
    await request.respond({"delete_original": True})


# --- where it is shown ---
async def check_member(request: Request, channel: str) -> None:
    """Whether the person is in the channel that they chose; its ephemeral message would be lost on anybody else.

    Raises:
        NotInChannel, BotNotInChannel, RoleUnknown.
    """
    match await request.services.people.in_channel(request.user, channel):
        case Presence.ABSENT:
            raise NotInChannel
        case Presence.HIDDEN:
            raise BotNotInChannel
        case Presence.UNKNOWN:
            raise RoleUnknown


async def usual_channel(request: Request, workspace_id: int) -> str | None:
    """The channel that a modal begins with: None for the current one, otherwise one of the workspace's that the person is in."""
    services = request.services
    mappings = await services.db.read(channels_of, workspace_id)
    channels = [one.channel_id for one in mappings if one.team_id == services.team and not one.paused]
    if not channels or request.channel in channels:
        return None
    for channel in channels[:CHANNELS_ASKED]:
        if await services.people.in_channel(request.user, channel) is Presence.PRESENT:
            return channel
    return None


def channel_field(label_hint: str, first_choice: str | None) -> Block:
    """The input that says where the password is shown. Its submission brings a fresh response_url."""
    begins = {"initial_conversation": first_choice} if first_choice else {"default_to_current_conversation": True}
    element = {
        "type": "conversations_select",
        "response_url_enabled": True,
        "filter": {"include": ["public", "private"], "exclude_bot_users": True, "exclude_external_shared_channels": True},
        **begins,
    }
    return blocks.field("Channel", "channel", element, label_hint)


def device_field(ticked: bool = False) -> Block:
    boxes: dict[str, Any] = {"type": "checkboxes", "options": [DEVICE]}
    return blocks.field("Device", "device", boxes | ({"initial_options": [DEVICE]} if ticked else {}), optional=True)


def recipe_field() -> Block:
    options = [option("Fields", FIELDS), *(option(label, value) for value, (label, _) in RECIPES.items())]
    select = {"type": "static_select", "options": options, "initial_option": options[0]}
    return blocks.field("Show it as", "recipe", select, "One text to copy, for what will use it.")


def chosen_recipe(given: Mapping[str, Any]) -> str:
    chosen = given.get("recipe")
    return chosen if chosen in RECIPES else FIELDS


def chosen_style(given: Mapping[str, Any]) -> Style:
    return Style.DEVICE if "device" in (given.get("device") or []) else Style.STANDARD


def response_url(request: Request) -> str | None:
    """What the channel's input brought with the submission."""
    urls = request.body.get("response_urls") or [{}]
    return urls[0].get("response_url") or None


# --- what is shown ---
IN_ONE = "Whoever has the text below can send mail with it, so put it where only what uses it can read it, and nowhere else."


def password_message(
    settings: Settings,
    credential: Credential,
    channel: str,
    password: str,
    head: Block,
    summary: str,
    remarks: Sequence[Block] = (),
    recipe: str = FIELDS,
) -> dict[str, Any]:
    """The only message that ever holds a password; `text`, which notifications show, does not.

    `recipe`: fields to copy one by one, or a key of `RECIPES`: one text with everything.

    Desktop notifications take their text from blocks first: the password stands last, behind all that is long.
    """
    value = OnCredential(credential=credential.id, channel=channel).encode()
    fields = [*how_to_enter(settings, credential.username), copyable("Username", credential.username)]
    rows = [
        head,
        *(fields if recipe == FIELDS else [line(IN_ONE)]),
        line("Copy the password to your app or secret store now. It's shown only once and can't be looked up later."),
        *remarks,
        line(bold("Copy it before you reload Slack or switch device: it won't come back.")),
        actions(
            button("I've copied it, remove this", REMOVE_PASSWORD, value, style="primary"),
            button("Delete credential", OPEN_DELETE, value),
        ),
    ]
    secret = copyable("Password", password)
    if recipe in RECIPES:
        label, write = RECIPES[recipe]
        secret = copyable(label, write(Account(settings.smtp_host, settings.smtp_port, settings.smtp_tls, credential.username, password)))
    return {"text": f"{summary}\n{flat_blocks(rows)}", "blocks": [*rows, secret]}


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


def what_to_do(cause: str, channel: str) -> list[Piece]:
    """The step that makes the next try work, where Slack's word for the failure tells it."""
    if cause in ("channel_not_found", "not_in_channel"):
        return ["Add me to ", blocks.channel(channel), " with ", code("/invite @SMTP Credentials"), ", then try again."]
    if cause == "user_not_in_channel":
        return ["Join ", blocks.channel(channel), ", then try again."]
    return ["Try again in a minute."]

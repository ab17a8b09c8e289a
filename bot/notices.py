"""Messages that nobody asked for: to a channel when a credential came or went, to a person when something ended badly."""

from collections.abc import Sequence
from typing import Any

import structlog
from aiohttp import ClientError
from slack_sdk.errors import SlackApiError

from bot.blocks import Block, Piece, bold, code, line, lines, principal, when
from bot.door import Request, describe
from bot.services import Services
from storage import workspaces
from storage.models import Credential, Workspace

CHANNELS_MAX = 10
NAMED_MAX = 20  # credentials in one message

log = structlog.get_logger(__name__)


async def created(services: Services, credential: Credential, workspace: Workspace) -> None:
    if workspace.notify_created:
        row = line(principal(credential.created_by), " created ", *_named(credential, workspace))
        await post(services, workspace, "An SMTP credential was created.", [row])


async def deleted(services: Services, gone: Sequence[Credential], workspace: Workspace, reason: str | None) -> None:
    """One message, however many one person deleted at once."""
    if not workspace.notify_deleted:
        return
    by = principal(gone[0].deleted_by or "")
    if len(gone) == 1:
        rows = [line(by, " deleted ", *_named(gone[0], workspace))]
    else:
        rows = [line(by, f" deleted {len(gone)} SMTP credentials in ", bold(workspace.name), ":")]
        rows.append(lines(*([bold(one.name), " (", code(one.username), ")"] for one in gone[:NAMED_MAX])))
        if len(gone) > NAMED_MAX:
            rows.append(line(f"And {len(gone) - NAMED_MAX} more; the audit log has them all."))
    rows.append(
        line(
            f"Apps using {'it' if len(gone) == 1 else 'them'} can no longer send mail. Update the connected system before sending resumes."
        )
    )
    if reason:
        rows.append(line("Reason: ", reason))
    await post(services, workspace, "SMTP credentials were deleted.", rows)


async def rotated(services: Services, credential: Credential, workspace: Workspace) -> None:
    if workspace.notify_deleted:
        rows = [line(principal(credential.rotation_by or ""), " rotated the password of ", *_named(credential, workspace))]
        if credential.previous_until:
            rows.append(line("The old password works until ", when(credential.previous_until), ". Enter the new one before."))
        else:
            rows.append(line("The old password no longer works. Enter the new one before sending resumes."))
        await post(services, workspace, "The password of an SMTP credential was rotated.", rows)


async def suspended(services: Services, credential: Credential, workspace: Workspace, reason: str | None) -> None:
    if workspace.notify_deleted:
        rows = [
            line(principal(credential.suspended_by or ""), " suspended ", *_named(credential, workspace)),
            line("Apps using it can't send mail until a writer resumes it."),
        ]
        if credential.delete_at:
            rows.append(line("Unless somebody resumes it, it is deleted on ", when(credential.delete_at), "."))
        if reason:
            rows.append(line("Reason: ", reason))
        await post(services, workspace, "An SMTP credential was suspended.", rows)


async def resumed(services: Services, credential: Credential, workspace: Workspace, by: str) -> None:
    if workspace.notify_deleted:
        row = line(principal(by), " resumed ", *_named(credential, workspace), " It works again with the same password.")
        await post(services, workspace, "An SMTP credential was resumed.", [row])


async def deleted_by_itself(services: Services, credential: Credential, workspace: Workspace) -> None:
    """What was suspended and not resumed in time is gone; told whatever the setting, because nobody pressed anything now."""
    by = principal(credential.suspended_by or "")
    rows = [
        line("Deleted, because ", by, " suspended it and nobody resumed it in time: ", *_named(credential, workspace)),
        line("Apps using it can no longer send mail. Update the connected system before sending resumes."),
    ]
    await post(services, workspace, "A suspended SMTP credential was deleted.", rows)


async def remind(services: Services, credential: Credential, workspace: Workspace, blocks: list[Block]) -> None:
    """Of its expiry: its creator, and the workspace's channels."""
    await tell(services, credential.created_by, None, blocks)
    await post(services, workspace, "An SMTP credential is about to expire.", blocks)


def _named(credential: Credential, workspace: Workspace) -> list[Piece]:
    return ["the SMTP credential ", bold(credential.name), " (", code(credential.username), ") in ", bold(workspace.name), "."]


async def post(services: Services, workspace: Workspace, summary: str, blocks: list[Block]) -> None:
    """Posts to the workspace's channels. A channel the bot is not in does without; the audit log has it all."""
    async with services.db.read() as session:
        mappings = await workspaces.channels_of(session, workspace)
    for mapping in [mapping for mapping in mappings if not mapping.paused][:CHANNELS_MAX]:
        try:
            await services.client.chat_postMessage(
                channel=mapping.channel_id, text=summary, blocks=blocks, unfurl_links=False, unfurl_media=False
            )
        except (SlackApiError, ClientError, TimeoutError) as error:
            log.info("notice not posted", channel=mapping.channel_id, error=describe(error))


async def tell(services: Services, user: str, channel: str | None, blocks: list[Block], response_url: str | None = None) -> bool:
    """Tells one person something, by whatever way is left: the response_url, the channel, a direct message."""
    message = {"text": "About your SMTP credential: open Slack to read it.", "blocks": blocks}
    if response_url and await services.respond(response_url, message | {"response_type": "ephemeral", "replace_original": False}):
        return True
    for method, where in (("chat.postEphemeral", channel), ("chat.postMessage", user)):
        if not where:
            continue
        to = {"channel": where, "user": user} if method == "chat.postEphemeral" else {"channel": where}
        try:
            await services.client.api_call(method, json=message | to)
        except (SlackApiError, ClientError, TimeoutError) as error:
            log.info("could not tell", way=method, error=describe(error))
        else:
            return True
    return False


async def respond(request: Request, body: dict[str, Any]) -> None:
    """Posts to the response_url of what was pressed."""
    if request.response_url:
        await request.services.respond(request.response_url, {"response_type": "ephemeral", "replace_original": False} | body)

"""Deleting a credential.

`/smtp delete X`, a row's menu or the button under a new password opens the modal, which tells what will stop; submitting it deletes; the
requester and the mapped channels read what stopped working. Deleting twice tells the second person who was first.
"""

from typing import Any

from slack_bolt.app.async_app import AsyncApp

from bot import blocks, impact, notices
from bot.blocks import Block, bold, button, code, field, foot, line, modal, plain
from bot.codec import OnCredential
from bot.door import Answer, Door, Request, notice, update
from storage import credentials, workspaces
from storage.access import Action
from storage.audit import REASON_MAX, What
from storage.models import Credential, State
from storage.names import looks_like_password

OPEN_DELETE = "open_delete"
DELETE = "delete_credential"
WARNING = "Apps that use this credential stop sending mail right away. This can't be undone."


def register(app: AsyncApp, door: Door) -> None:
    app.action(OPEN_DELETE)(door.work(pressed))
    app.view(DELETE)(door.submission(submit))


async def pressed(request: Request) -> None:
    await open_modal(request, OnCredential.decode(request.value).credential)


async def open_modal(request: Request, credential_id: str) -> None:
    """Raises NoSuchCredential, AlreadyDeleted, NotAllowed, RoleUnknown, PersonBarred, TriggerExpired."""
    async with request.services.db.read() as session:
        credential, workspace = await credentials.get(session, credential_id)
    await request.allow(Action.DELETE, workspace, What.DELETE)
    if credential.state == State.DELETED:
        raise credentials.already_deleted(credential)
    await request.open(delete_modal(credential, await impact.of(request, credential, workspace), request.channel))


async def choose(request: Request, target: str) -> None:
    """`/smtp delete X`: the modal for the one that X names, or a list to choose from."""
    async with request.services.db.read() as session:
        workspace = await workspaces.of_channel(session, request.services.team, request.in_channel())
    await request.allow(Action.DELETE, workspace, What.DELETE)
    async with request.services.db.read() as session:
        found = await credentials.find(session, workspace, target)
    if len(found) == 1 and credentials.is_named(found[0], target):
        await request.open(delete_modal(found[0], await impact.of(request, found[0], workspace), request.channel))
    else:
        await request.show(choice(found, target, request.channel))


async def submit(request: Request) -> Answer:
    services = request.services
    token = OnCredential.decode(request.metadata)
    request.channel = token.channel
    reason = (blocks.values(request.view or {}).get("reason") or "").strip() or None
    if reason and looks_like_password(reason):
        return Answer({"response_action": "errors", "errors": {"reason": "This looks like a password. Leave it out of the reason."}})
    async with services.db.read() as session:
        credential, workspace = await credentials.get(session, token.credential)
    actor = await request.actor(workspace)
    credential, workspace = await credentials.delete(services.db, request.origin(actor), token.credential, reason)
    request.changed = workspace

    async def then() -> None:
        await notices.deleted(services, credential, workspace, reason)
        await impact.follow(request, credential, What.DELETE, lambda proof: deleted_view(credential, proof))

    return Answer(update(deleted_view(credential)), then)


def delete_modal(credential: Credential, facts: Block, channel: str | None) -> dict[str, Any]:
    reason = {"type": "plain_text_input", "max_length": REASON_MAX}
    return modal(
        "Delete credential?",
        [
            line(bold(WARNING)),
            facts,
            field("Reason", "reason", reason, "Kept in the audit log. Don't paste the password here.", optional=True),
        ],
        DELETE,
        submit="Delete",
        close="Keep it",
        metadata=OnCredential(credential=credential.id, channel=channel).encode(),
    )


def deleted_view(credential: Credential, proof: Block | None = None) -> dict[str, Any]:
    return notice(
        [
            line("Deleted ", bold(credential.name), " (", code(credential.username), ")."),
            line("If an app still used it, give that app a new credential before it sends again."),
            *([proof] if proof else []),
        ],
        "Credential deleted",
    )


def choice(found: list[Credential], target: str, channel: str | None) -> list[Block]:
    """More than one match, or one that only contains what was typed."""
    rows: list[Block] = [line(f'Nothing is called exactly "{target}". Choose the one to delete.')]
    if len(found) > 1:
        rows = [line(f'More than one credential matches "{target}". Choose the one to delete.')]
    for credential in found:
        value = OnCredential(credential=credential.id, channel=channel).encode()
        rows.append(
            {
                "type": "section",
                "text": plain(f"{credential.name}\n{credential.username}"),
                "accessory": button("Delete…", OPEN_DELETE, value),
            }
        )
    return [*rows, foot("Only you can see this.")]

"""Deleting a credential.

`/smtp delete X`, a row's menu or the button under a new password opens the modal, which tells what will stop; submitting it deletes; the
requester and the mapped channels read what stopped working. Deleting twice tells the second person who was first.
"""

from typing import Any

from slack_bolt.app.async_app import AsyncApp

from bot import impact
from bot.blocks import Block, bold, code, line, modal
from bot.codec import OnCredential
from bot.door import Answer, Door, Request, notice, update
from bot.reason import asked_for, given_reason, reason_field
from bot.target import Purpose, allowed, pressed, register_picker, submitted
from storage import credentials
from storage.access import Action
from storage.audit import What
from storage.models import Credential, State

OPEN_DELETE = "open_delete"
DELETE = "delete_credential"
WARNING = "Apps that use this credential stop sending mail right away. This can't be undone."


def register(app: AsyncApp, door: Door) -> None:
    app.action(OPEN_DELETE)(door.work(pressed(open_modal)))
    app.view(DELETE)(door.submission(submit))
    register_picker(app, door, DELETING)


async def open_modal(request: Request, credential_id: str) -> None:
    """Raises NoSuchCredential, AlreadyDeleted, NotAllowed, RoleUnknown, PersonBarred, TriggerExpired."""
    credential, workspace = await allowed(request, credential_id, Action.DELETE, What.DELETE)
    if credential.state == State.DELETED:
        raise credentials.already_deleted(credential)
    await request.open(delete_modal(credential, await impact.of(request, credential, workspace), request.channel))


DELETING = Purpose(Action.DELETE, What.DELETE, open_modal, OPEN_DELETE, "Delete…")


async def submit(request: Request) -> Answer:
    reason = given_reason(request)
    credential_id, origin = await submitted(request)
    with asked_for():
        credential, _ = await request.services.db.change(credentials.delete, origin, credential_id, reason)

    async def watch() -> None:
        await impact.follow(request, credential, What.DELETE, lambda proof: deleted_view(credential, proof))

    return Answer(update(deleted_view(credential)), watch=watch)


def delete_modal(credential: Credential, facts: Block, channel: str | None) -> dict[str, Any]:
    return modal(
        "Delete credential?",
        [line(bold(WARNING)), facts, reason_field()],
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

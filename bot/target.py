"""Which credential a typed name or username means.

A username is found in every workspace, from any channel or direct message; a name in the workspace of the channel. A username of a
workspace that the person may not see is answered like one that does not exist.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bot.blocks import Block, button, foot, line, plain
from bot.codec import OnCredential
from bot.door import Request
from storage import credentials, names, workspaces
from storage.access import Action
from storage.audit import What
from storage.models import Credential
from storage.refusals import NoSuchCredential, NotAllowed, PersonBarred


@dataclass(frozen=True)
class Purpose:
    """What is to be done with it, and what that needs."""

    action: Action
    what: What
    open_modal: Callable[[Request, str], Awaitable[None]]
    button: str
    """The action id of a button that does it."""
    label: str


async def choose(request: Request, target: str, purpose: Purpose) -> None:
    """Opens the modal for the one that is meant, or shows those to choose from. Raises what stands in the way."""
    if names.USERNAME.fullmatch(target.lower()):
        return await purpose.open_modal(request, await by_username(request, target.lower(), purpose))
    async with request.services.db.read() as session:
        workspace = await workspaces.of_channel(session, request.services.team, request.in_channel())
    await request.allow(purpose.action, workspace, purpose.what)
    async with request.services.db.read() as session:
        found = await credentials.find(session, workspace, target)
    if len(found) == 1 and credentials.is_named(found[0], target):
        return await purpose.open_modal(request, found[0].id)
    return await request.show(choice(found, target, request.channel, purpose))


async def by_username(request: Request, username: str, purpose: Purpose) -> str:
    """Its id. Raises NoSuchCredential, NotAllowed, RoleUnknown, PersonBarred."""
    async with request.services.db.read() as session:
        found = await credentials.by_username(session, username)
        workspace = await workspaces.by_id(session, found.workspace_id) if found else None
    if found is None:
        actor = await request.actor()
        raise PersonBarred(actor.barred) if actor.barred else NoSuchCredential(username)
    try:
        await request.allow(purpose.action, workspace, purpose.what)
    except NotAllowed as refusal:
        if not refusal.may_list:
            raise NoSuchCredential(username) from None
        raise
    return found.id


def choice(found: list[Credential], target: str, channel: str | None, purpose: Purpose) -> list[Block]:
    """More than one match, or one that only contains what was typed."""
    rows: list[Block] = [line(f'Nothing is called exactly "{target}". Choose the one you mean.')]
    if len(found) > 1:
        rows = [line(f'More than one credential matches "{target}". Choose the one you mean.')]
    for credential in found:
        value = OnCredential(credential=credential.id, channel=channel).encode()
        text = plain(f"{credential.name}\n{credential.username}")
        rows.append({"type": "section", "text": text, "accessory": button(purpose.label, purpose.button, value)})
    return [*rows, foot("Only you can see this.")]

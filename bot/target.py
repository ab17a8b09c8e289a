"""Which credential a person means, and whether they may do to it what they want.

A typed username is found in every workspace, from any channel or direct message; a name in the workspace of the channel. A username of a
workspace that the person may not see is answered like one that does not exist.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bot.blocks import Block, button, foot, line, plain
from bot.codec import OnCredential
from bot.door import Handler, Request
from storage import credentials, names, workspaces
from storage.access import Action
from storage.audit import Origin, What
from storage.models import Credential, Workspace
from storage.refusals import NoSuchCredential, NotAllowed, PersonBarred

TYPED_MAX = 100  # characters of a typed name or username that are looked at
OpenModal = Callable[[Request, str], Awaitable[None]]


@dataclass(frozen=True)
class Purpose:
    """What is to be done with it, and what that needs."""

    action: Action
    what: What
    open_modal: OpenModal
    button: str
    """The action id of a button that does it."""
    label: str


async def choose(request: Request, typed: str, purpose: Purpose) -> None:
    """Opens the modal for the one that is meant, or shows those to choose from. Raises what stands in the way."""
    target = typed[:TYPED_MAX]
    if names.USERNAME.fullmatch(target.lower()):
        return await purpose.open_modal(request, await _by_username(request, target.lower(), purpose))
    async with request.services.db.read() as session:
        workspace = await workspaces.of_channel(session, request.services.team, request.in_channel())
    await request.allow(purpose.action, workspace, purpose.what)
    async with request.services.db.read() as session:
        found = await credentials.find(session, workspace, target)
    if len(found) == 1 and credentials.is_named(found[0], target):
        return await purpose.open_modal(request, found[0].id)
    return await request.show(choice(found, target, request.channel, purpose))


async def _by_username(request: Request, username: str, purpose: Purpose) -> str:
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


def pressed(open_modal: OpenModal) -> Handler:
    """The handler of a button that carries a credential."""

    async def press(request: Request) -> None:
        await open_modal(request, OnCredential.decode(request.value).credential)

    return press


async def allowed(request: Request, credential_id: str, action: Action, what: What) -> tuple[Credential, Workspace]:
    """The credential that a modal is about to open for. Raises NoSuchCredential, NotAllowed, RoleUnknown, PersonBarred."""
    async with request.services.db.read() as session:
        credential, workspace = await credentials.get(session, credential_id)
    await request.allow(action, workspace, what)
    return credential, workspace


async def submitted(request: Request) -> tuple[str, Origin]:
    """The id of the credential that a modal is about, and who submitted it. Raises SurfaceOutdated, NoSuchCredential, RoleUnknown."""
    token = OnCredential.decode(request.metadata)
    request.channel = token.channel
    async with request.services.db.read() as session:
        _, workspace = await credentials.get(session, token.credential)
    return token.credential, request.origin(await request.actor(workspace))


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

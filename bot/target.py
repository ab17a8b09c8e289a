"""Which credential a person means, and whether they may do to it what they want.

A typed username is found in every workspace, from any channel or direct message; a name in the workspace of the channel. A username of a
workspace that the person may not see is answered like one that does not exist.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bot.blocks import Block, button, foot, line, plain
from bot.codec import OnCredential
from bot.door import EVERYWHERE, Handler, Request
from storage import access, credentials, listing, names, workspaces
from storage.access import Action, Actor
from storage.audit import Origin, What, record_refusal
from storage.database import Transaction
from storage.models import Credential, Workspace
from storage.refusals import NoSuchCredential, NotAllowed, PersonBarred, RoleUnknown

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
    db = request.services.db
    target = typed[:TYPED_MAX]
    if names.USERNAME.fullmatch(target.lower()):
        return await purpose.open_modal(request, await _by_username(request, target.lower(), purpose))
    workspace = await db.read(workspaces.of_channel, request.services.team, request.in_channel())
    await request.allow(purpose.action, workspace, purpose.what)
    found = await db.read(listing.find, workspace, target)
    if len(found) == 1 and listing.is_named(found[0], target):
        return await purpose.open_modal(request, found[0].id)
    await request.show(choice(found, target, request.channel, purpose))
    return None


async def _by_username(request: Request, username: str, purpose: Purpose) -> str:
    """Its id. Raises NoSuchCredential, NotAllowed, RoleUnknown, PersonBarred."""
    actor = await request.actor(EVERYWHERE)
    try:
        credential, _ = await request.services.db.read(_allowed, actor, purpose.action, username)
    except (NotAllowed, PersonBarred, RoleUnknown, NoSuchCredential) as refusal:
        await request.services.db.change(record_refusal, purpose.what, request.origin(actor), refusal, username)
        if isinstance(refusal, NotAllowed) and refusal.role is None:
            raise NoSuchCredential(username) from None
        raise
    return credential.id


def _allowed(tx: Transaction, actor: Actor, action: Action, username: str) -> tuple[Credential, Workspace]:
    if actor.barred:
        raise PersonBarred(actor.barred)
    found = listing.by_username(tx, username)
    if found is None:
        raise NoSuchCredential(username)
    workspace = workspaces.by_id(tx, found.workspace_id)
    access.may(tx, actor, action, workspace)
    return found, workspace


def pressed(open_modal: OpenModal) -> Handler:
    """The handler of a button that carries a credential."""

    async def press(request: Request) -> None:
        await open_modal(request, OnCredential.decode(request.value).credential)

    return press


async def allowed(request: Request, credential_id: str, action: Action, what: What) -> tuple[Credential, Workspace]:
    """The credential that a modal is about to open for. Raises NoSuchCredential, NotAllowed, RoleUnknown, PersonBarred."""
    credential, workspace = await request.services.db.read(credentials.get, credential_id)
    await request.allow(action, workspace, what)
    return credential, workspace


async def submitted(request: Request) -> tuple[str, Origin]:
    """The id of the credential that a modal is about, and who submitted it. Raises SurfaceOutdated, NoSuchCredential, RoleUnknown."""
    token = OnCredential.decode(request.metadata)
    request.channel = token.channel
    _, workspace = await request.services.db.read(credentials.get, token.credential)
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

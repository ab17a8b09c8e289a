"""Which credential a person means, and whether they may do to it what they want.

A typed username is found in every workspace, from any channel or direct message; a name in the workspace of the channel. A username of a
workspace that the person may not see is answered like one that does not exist.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from slack_bolt.app.async_app import AsyncApp

from bot.blocks import OPTIONS_MAX, Block, button, line, modal, option, plain
from bot.codec import InChannel, OnCredential
from bot.door import EVERYWHERE, Door, Handler, Request, SuggestHandler
from storage import access, credentials, listing, workspaces
from storage.access import Action, Actor
from storage.audit import Origin, What, record_refusal
from storage.database import Transaction
from storage.models import CREDENTIALS, Credential, Listed, State, Workspace
from storage.refusals import NoSuchCredential, NotAllowed, PersonBarred, RoleUnknown
from storage.typed import read

PICK = "pick_to_"
CHOICES_SHOWN = 20
WORKSPACES_SEARCHED = 300
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
    states: tuple[State, ...] = (State.ACTIVE, State.SUSPENDED)
    """Of what it can be done to: nothing else is offered."""


async def choose(request: Request, typed: str, purpose: Purpose) -> None:
    """Opens the modal for the one that is meant, or shows those to choose from. Raises what stands in the way."""
    db = request.services.db
    found_in = read(typed)
    if len(found_in.usernames) == 1:
        return await purpose.open_modal(request, await _by_username(request, found_in.usernames[0], purpose))
    target = found_in.words[:TYPED_MAX]
    workspace = await db.read(workspaces.of_channel, request.services.team, request.in_channel())
    await request.allow(purpose.action, workspace, purpose.what)
    found = await db.read(listing.find, workspace, target)
    if len(found) == 1 and listing.is_named(found[0], target):
        return await purpose.open_modal(request, found[0].id)
    said = f'More than one credential matches "{target}". Choose the one you mean.'
    if len(found) == 1:
        said = f'Nothing is called exactly "{target}". Did you mean this one?'
    await request.show([line(said), *choice(found, request.channel, purpose)])
    return None


async def choose_among(request: Request, usernames: list[str], purpose: Purpose) -> None:
    """Shows those of several typed usernames that this can be done to, to choose from. Raises NoSuchCredential, PersonBarred."""
    actor = await request.actor(EVERYWHERE)
    found = await request.read(purpose.what, actor, _allowed_of, actor, purpose, usernames)
    if not found:
        raise NoSuchCredential(usernames[0])
    await request.show([line("One at a time. Choose the one you mean."), *choice(found, request.channel, purpose)])


def _allowed_of(tx: Transaction, actor: Actor, purpose: Purpose, usernames: list[str]) -> list[Credential]:
    if actor.barred:
        raise PersonBarred(actor.barred)
    found = []
    for one in listing.by_usernames(tx, usernames[:CHOICES_SHOWN]):
        allowed = access.allowed(access.rights(tx, actor, workspaces.by_id(tx, one.workspace_id)))
        if purpose.action in allowed and one.state in purpose.states:
            found.append(one)
    return found


# --- without words: a search field ---
async def open_picker(request: Request, purpose: Purpose) -> None:
    """Opens the modal in which one is searched for; choosing opens the modal that does it. Raises NotAllowed, PersonBarred, RoleUnknown."""
    actor = await request.actor(EVERYWHERE)
    await request.read(purpose.what, actor, _searched, actor, purpose.action, request.services.team, request.channel)
    element = {
        "type": "external_select",
        "action_id": PICK + purpose.button,
        "placeholder": plain("Part of a name or username"),
        "min_query_length": 0,
    }
    label = purpose.label.rstrip("…")
    rows: list[Block] = [{"type": "section", "text": plain(f"{label} which credential?"), "accessory": element}]
    await request.open(modal(label, rows, metadata=InChannel(channel=request.channel).encode()))


def picker(purpose: Purpose) -> SuggestHandler:
    """The handler that offers credentials for what is typed into the picker of this purpose."""

    async def suggest(request: Request) -> list[Block]:
        channel = InChannel.decode(request.metadata).channel
        actor = await request.actor(EVERYWHERE)
        words = read(str(request.body.get("value") or "")).words
        found = await request.services.db.read(_offered, actor, purpose, request.services.team, channel, words)
        return [
            option(f"{one.name} ({one.username})", OnCredential(credential=one.id, channel=channel).encode()) for one in found[:OPTIONS_MAX]
        ]

    return suggest


async def picked(request: Request, purpose: Purpose) -> None:
    token = OnCredential.decode(request.value)
    request.channel = token.channel
    await purpose.open_modal(request, token.credential)


def register_picker(app: AsyncApp, door: Door, purpose: Purpose) -> None:
    async def press(request: Request) -> None:
        await picked(request, purpose)

    app.action(PICK + purpose.button)(door.work(press))
    app.options(PICK + purpose.button)(door.suggest(picker(purpose)))


def _searched(tx: Transaction, actor: Actor, action: Action, team: str, channel: str | None) -> list[Workspace]:
    """Where this person is looked for something to do it to: the channel's workspace, or else all in which they may.

    Raises NotAllowed, PersonBarred, RoleUnknown.
    """
    here = workspaces.mapped(tx, team, channel) if channel else None
    if here is not None:
        access.may(tx, actor, action, here)
        return [here]
    found = access.visible_workspaces(tx, actor, action, WORKSPACES_SEARCHED)
    if not found:
        access.may(tx, actor, action, None)
    return [workspaces.by_id(tx, one.id) for one in found]


def _offered(tx: Transaction, actor: Actor, purpose: Purpose, team: str, channel: str | None, words: str) -> list[Listed]:
    found: list[Listed] = []
    only = listing.in_state(purpose.states)
    searched = _searched(tx, actor, purpose.action, team, channel)
    if len(searched) == WORKSPACES_SEARCHED and words:
        # There may be more than can be gone through one by one.
        where = access.within(tx, actor, purpose.action, CREDENTIALS.c.workspace_id)
        return listing.anywhere(tx, words, OPTIONS_MAX, [*where, *only])
    for workspace in searched:
        found += listing.page(tx, workspace, listing.Order.NEWEST, words, size=OPTIONS_MAX - len(found), only=only).rows
        if len(found) >= OPTIONS_MAX:
            break
    return found


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
    return token.credential, await presser(request, token.credential)


async def presser(request: Request, credential_id: str) -> Origin:
    """Who acts, with the roles that matter for the credential. Raises NoSuchCredential, RoleUnknown."""
    _, workspace = await request.services.db.read(credentials.get, credential_id)
    return request.origin(await request.actor(workspace))


def choice(found: list[Credential], channel: str | None, purpose: Purpose) -> list[Block]:
    """A row with a button for each."""
    rows: list[Block] = []
    for credential in found:
        value = OnCredential(credential=credential.id, channel=channel).encode()
        text = plain(f"{credential.name}\n{credential.username}")
        pick = button(purpose.label, purpose.button, value, says=f"{purpose.label.rstrip('…')} {credential.name}")
        rows.append({"type": "section", "text": text, "accessory": pick})
    return rows

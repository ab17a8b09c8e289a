"""Asking for a role, where somebody was refused.

The refusal carries the button; pressing it owes each who can give the role a direct message with **Give …** and **No**. Who presses is
authorized then; the asker reads the answer, and every copy of the message says it.
"""

from slack_bolt.app.async_app import AsyncApp

from bot import texts
from bot.acts import ACTS
from bot.blocks import Block, Piece, actions, bold, button, line, people, principal, when
from bot.codec import OnAsk, OnEvent
from bot.door import Door, Request
from bot.services import Services
from storage import access, asking, workspaces
from storage.access import WEAKEST, Action
from storage.asking import Asked
from storage.audit import What
from storage.database import Transaction
from storage.models import Workspace
from storage.refusals import AlreadyAnswered, NotAllowed, Refusal

ASK = "ask_for_role"
GIVE = "give_asked_role"
DECLINE = "decline_asked_role"
UNUSABLE = "their account can't be used any more"


def register(app: AsyncApp, door: Door) -> None:
    app.action(ASK)(door.work(ask))
    app.action(GIVE)(door.work(give))
    app.action(DECLINE)(door.work(decline))
    door.offers = offers


def offers(request: Request, refusal: Refusal) -> list[Block]:
    """The button under a refusal that a role would have prevented."""
    if not isinstance(refusal, NotAllowed) or refusal.workspace_id is None or Action(refusal.action) not in WEAKEST:
        return []
    if not (refusal.helpers or request.services.owners):
        return []
    role = WEAKEST[Action(refusal.action)]
    what = What(refusal.what) if refusal.what else None
    token = OnAsk(workspace=refusal.workspace_id, role=role, what=what, channel=request.channel)
    return [actions(button(f"Ask for the {role.value} role", ASK, token.encode()))]


async def ask(request: Request) -> None:
    """Raises HasRole, AlreadyAsked, AskedTooOften, PersonBarred, RoleUnknown."""
    db = request.services.db
    token = OnAsk.decode(request.value)
    request.channel = request.channel or token.channel
    workspace = await db.read(workspaces.by_id, token.workspace)
    actor = await request.actor(workspace)
    reason = ACTS[token.what].doing.lower() if token.what and token.what not in (What.OPEN, What.LIST) else None
    await db.change(asking.ask, request.origin(actor), workspace.id, token.role, reason)
    who = await db.read(_who, request.services, workspace, request.user)
    said: list[Piece] = ["I asked ", *people(who), f" for the {token.role.value} role in ", bold(workspace.name)]
    said.append(". You'll read the answer here or in a direct message.")
    if request.view_type:
        await request.say(said)
    else:
        await request.show([line(*said)], replace=True)


def _who(tx: Transaction, services: Services, workspace: Workspace, asker: str) -> list[str]:
    """Who can give a role in the workspace: its admins, or else the owners."""
    admins = [one for one in access.helpers(tx, services.team, workspace) if one != asker]
    return admins or services.owners[: texts.OWNERS_NAMED]


async def give(request: Request) -> None:
    """Raises NoSuchRequest, NotAllowed, RoleUnknown, PersonBarred."""
    services = request.services
    event = OnEvent.decode(request.value).event
    asked = await services.db.read(asking.asked, event)
    origin = request.origin(await request.actor(asked.workspace))
    asker = await services.people.actor(asked.person, None, None)
    try:
        if asker.barred:
            asked = await services.db.change(asking.decline, origin, event, UNUSABLE)
        else:
            asked = await services.db.change(asking.give, origin, event)
    except AlreadyAnswered:
        asked = await services.db.read(asking.asked, event)
    await request.show(draw(asked), replace=True)


async def decline(request: Request) -> None:
    """Raises NoSuchRequest, NotAllowed, RoleUnknown, PersonBarred."""
    services = request.services
    event = OnEvent.decode(request.value).event
    asked = await services.db.read(asking.asked, event)
    origin = request.origin(await request.actor(asked.workspace))
    try:
        asked = await services.db.change(asking.decline, origin, event)
    except AlreadyAnswered:
        asked = await services.db.read(asking.asked, event)
    await request.show(draw(asked), replace=True)


def draw(asked: Asked) -> list[Block]:
    """What an admin reads of a request, and of what became of it."""
    role, verb = asked.role.value, "asks" if asked.given is None else "asked"
    rows = [line(principal(asked.person), f" {verb} for the ", bold(role), " role in ", bold(asked.workspace.name), ".")]
    if asked.wanted:
        rows.append(line(f"What for: {asked.wanted}."))
    if asked.given is None:
        value = OnEvent(event=asked.event).encode()
        return [*rows, actions(button(f"Give {role}", GIVE, value, style="primary"), button("No", DECLINE, value))]
    return [*rows, line(*_answer(asked))]


def answer(asked: Asked) -> list[Block]:
    """What the asker reads."""
    role, where = asked.role.value, bold(asked.workspace.name)
    if asked.given:
        return [line(principal(asked.by), f" gave you the {role} role in ", where, ". Try again what you were at.")]
    return [line(principal(asked.by), f" said no: you don't have the {role} role in ", where, ". Ask them why.")]


def _answer(asked: Asked) -> list[Piece]:
    at: list[Piece] = [" (", when(asked.at), ")"] if asked.at else []
    if asked.why:
        return [f"Nothing was given: {asked.why}", *at, "."]
    return [principal(asked.by), " gave it" if asked.given else " said no", *at, "."]

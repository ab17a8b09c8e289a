"""What a credential has queued on the mail servers: the box in the revoke modal, what they did about it, and the buttons of an admin.

The modal shows the answers as they come; who closed it is told by an errand when all have answered, or when one does not. Holding takes who
may revoke; an admin then releases what is on hold, or deletes it.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from slack_bolt.app.async_app import AsyncApp

from bot import blocks, impact
from bot.blocks import Block, Piece, actions, bold, button, code, confirm, line, option, people
from bot.codec import OnMany
from bot.delivery import outside
from bot.door import EVERYWHERE, Door, Request, notice
from bot.services import Services
from bot.slack import Ok
from storage import access, credentials, mail_servers, queue
from storage.access import Action, Actor
from storage.audit import What
from storage.database import Transaction
from storage.models import Credential
from storage.queue import Act, Standing
from storage.refusals import RoleUnknown

Show = Callable[[list[Block]], Awaitable[bool]]
HOLD = "queue_hold"
RELEASE = "queue_release"
DELETE = "queue_delete"
FOLLOWED = 45.0  # seconds that a modal shows answers as they come
WAITED = timedelta(minutes=5)
"""So long an errand waits for a host that is alive."""
NAMED = 5  # hosts of a kind
BOX = option("Hold what it has queued", "hold", "Mail servers keep it. An admin can release or delete it later.")
BOX_ALL = option("Hold what they have queued", "hold", f"Of the {queue.HELD_AT_ONCE} used last. An admin can release or delete it later.")
BUTTONS_MAX = 50  # credentials, as OnMany takes them
DID = {Act.HOLD: "held", Act.RELEASE: "released", Act.DELETE: "deleted", Act.COUNT: "queued"}
ORDERED = {Act.HOLD: "to hold it", Act.RELEASE: "to release it", Act.DELETE: "to delete it", Act.COUNT: "to count it"}


@dataclass(frozen=True)
class Drawn:
    """How far some orders are, with what the reader may do next."""

    standing: Standing | None
    admin: bool
    """Of each of their workspaces."""
    helpers: Sequence[str]
    """Who else is, where the reader is not."""


def register(app: AsyncApp, door: Door) -> None:
    app.action(HOLD)(door.work(hold))
    app.action(RELEASE)(door.work(release))
    app.action(DELETE)(door.work(delete))


def box(ticked: bool, choice: dict[str, Any] = BOX) -> Block:
    boxes: dict[str, Any] = {"type": "checkboxes", "options": [choice]}
    return blocks.field("Queued mail", "queue", boxes | ({"initial_options": [choice]} if ticked else {}), optional=True)


def is_ticked(request: Request) -> bool:
    return "hold" in (blocks.values(request.view or {}).get("queue") or [])


async def hold(request: Request) -> None:
    await _press(request, Act.HOLD)


async def release(request: Request) -> None:
    await _press(request, Act.RELEASE)


async def delete(request: Request) -> None:
    await _press(request, Act.DELETE)


async def _press(request: Request, act: Act) -> None:
    """Orders it. In a modal the answers follow there; a message says that they follow. Raises NotAllowed, RoleUnknown, PersonBarred."""
    token = OnMany.decode(request.value)
    services = request.services
    request.channel = token.channel or request.channel
    origin = request.origin(await request.actor(EVERYWHERE))
    numbers = await services.db.change(queue.order, origin, act, token.credentials)
    view = request.view
    if view is None or request.view_type != "modal":
        await request.show([line(f"Told the mail servers {ORDERED[act]}. I'll tell you here what they did.")])
        return

    async def show(rows: list[Block]) -> bool:
        return isinstance(await services.slack.update_view(view["id"], notice(rows, "Queued mail")), Ok)

    await follow(request, numbers, show)


async def follow(
    request: Request, numbers: Sequence[int], show: Callable[[list[Block]], Awaitable[bool]], gone: Credential | None = None
) -> None:
    """Shows the mail servers' answers as they come, for `FOLLOWED` seconds at most; when all have answered nobody else tells the person.

    Args:
        show: draws the rows; False when there is nothing to draw on any more.
        gone: a credential that was deleted with it: what refuses its log-ins is shown above.
    """
    db = request.services.db
    actor: Actor | None = None
    with contextlib.suppress(RoleUnknown):  # the order stands; only the buttons are missing then
        actor = await request.actor(EVERYWHERE)
    shown: list[Block] = []
    deadline = asyncio.get_running_loop().time() + FOLLOWED
    while True:
        proof = await db.read(mail_servers.proof, gone.username, What.DELETE) if gone else None
        drawn = await db.read(look, actor, numbers)
        rows = [*([line(*impact.proof_pieces(proof))] if proof else []), *draw(drawn)]
        if rows != shown:
            shown = rows
            if not await show(rows):
                return
        if not (drawn.standing and drawn.standing.waiting):
            await db.note(queue.seen, numbers)
            if not (proof and proof.waiting):
                return
        if asyncio.get_running_loop().time() > deadline:
            return
        async with outside():
            await asyncio.sleep(impact.INTERVAL)


async def actor_of(services: Services, person: str, workspace_id: int | None) -> Actor:
    """The person without a request of theirs. Raises RoleUnknown."""
    asked = await services.db.read(access.to_ask, person, services.team, [workspace_id] if workspace_id else [])
    return await services.people.actor(person, services.team, None, asked.groups, asked.changed)


def look(tx: Transaction, actor: Actor | None, numbers: Sequence[int]) -> Drawn:
    """`actor`: None for somebody whose roles are not known."""
    standing = queue.standing(tx, numbers)
    places = credentials.workspaces_of(tx, standing.credential_ids) if standing else []
    admin = actor is not None and all(Action.ADMINISTER in access.allowed(access.rights(tx, actor, one)) for one in places)
    helpers = [] if admin or not places else access.helpers(tx, actor.team if actor else None, places[0])
    return Drawn(standing, admin, helpers)


def draw(drawn: Drawn) -> list[Block]:
    standing = drawn.standing
    if standing is None or not (standing.answered or standing.silent):
        return [line("Queued mail: no mail server takes orders about its queue.")]
    rows = [line("Queued mail: ", *said(standing), ".")]
    if standing.act is Act.HOLD and not standing.waiting:
        rows.append(line("What still comes in within a minute of that is held as well."))
    if standing.act is not Act.HOLD or not standing.count:
        return rows
    if drawn.admin and len(standing.credential_ids) > BUTTONS_MAX:
        return [*rows, line("They are too many for buttons. On each mail server: ", code("smtp-bot queue release USERNAME"), ".")]
    if drawn.admin:
        return [*rows, actions(*buttons(standing.credential_ids))]
    if drawn.helpers:
        return [*rows, line("An admin can release or delete it: ", *people(drawn.helpers), ".")]
    return rows


def said(standing: Standing) -> list[Piece]:
    """What each host did: "37 held on mx1; nothing on mx2; mx3 has not answered"."""
    parts: list[list[Piece]] = [[f"{one.count:,} {DID[standing.act]} on ", bold(one.host)] for one in standing.answered if one.count]
    parts += _named("nothing on ", [one.host for one in standing.answered if not one.count and not one.problem], "")
    parts += [[bold(one.host), f" did nothing ({one.problem})"] for one in standing.answered if one.problem][:NAMED]
    silent = standing.silent
    parts += _named("", silent, f" {'has' if len(silent) == 1 else 'have'} not answered{' yet' if standing.waiting else ''}")
    pieces: list[Piece] = []
    for part in parts:
        pieces += ["; ", *part] if pieces else part
    return pieces


def _named(before: str, hosts: Sequence[str], after: str) -> list[list[Piece]]:
    if not hosts:
        return []
    more = f" and {len(hosts) - NAMED} more" if len(hosts) > NAMED else ""
    return [[before, bold(", ".join(hosts[:NAMED])), more, after]]


def buttons(credential_ids: Sequence[str], channel: str | None = None) -> list[Block]:
    """For an admin."""
    value = OnMany(credentials=list(credential_ids), channel=channel).encode()
    let_go = confirm("Release it?", "Mail servers deliver what is on hold.", "Release", "Keep it on hold", style=None)
    sure = confirm("Delete it?", "Mail servers delete what is queued. This can't be undone.", "Delete", "Keep it on hold")
    return [button("Release…", RELEASE, value, confirm=let_go), button("Delete…", DELETE, value, style="danger", confirm=sure)]


def hold_button(credential_id: str, channel: str | None) -> Block:
    """For whoever may stop the credential."""
    return button("Hold what it has queued", HOLD, OnMany(credentials=[credential_id], channel=channel).encode())


async def answers(services: Services, person: str, workspace_id: int | None, numbers: Sequence[int]) -> Drawn:
    """What an errand tells the person."""
    try:
        actor: Actor | None = await actor_of(services, person, workspace_id)
    except RoleUnknown:
        actor = None
    return await services.db.read(look, actor, numbers)

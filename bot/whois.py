"""Whose is this? `/smtp whois` takes a username, a password or a pasted line of a log or of an `.env` file.

What was pasted is stored and repeated nowhere.
"""

from datetime import datetime

from slack_bolt.app.async_app import AsyncApp

from bot import impact
from bot.blocks import DIVIDER, Block, actions, bold, button, field, foot, line, lines, modal, plain, values, when
from bot.codec import OnCredential
from bot.delete import OPEN_DELETE
from bot.door import EVERYWHERE, Answer, Door, Request, notice, update
from bot.leak import resolved
from bot.suspend import OPEN_RESUME, OPEN_SUSPEND
from storage import access, listing, mail_servers, workspaces
from storage.access import Action, Actor
from storage.audit import What, record_refusal
from storage.database import Transaction
from storage.leaks import Standing
from storage.models import Credential, State, Workspace
from storage.refusals import PersonBarred
from storage.typed import read

ASK = "ask_whose"
TITLE = "Whose is this?"
SHOWN = 8
PASTED_MAX = 3000  # docs.slack.dev: reference/block-kit/block-elements/plain-text-input-element
STATES = {
    State.ACTIVE: "active",
    State.SUSPENDED: "suspended: mail servers refuse it",
    State.DELETED: "deleted: mail servers refuse it for ever",
    State.PENDING: "being created",
}


def register(app: AsyncApp, door: Door) -> None:
    app.view(ASK)(door.submission(answer))


async def typed(request: Request, rest: str) -> None:
    """Raises PersonBarred, RoleUnknown."""
    if not rest:
        return await ask(request)
    await request.show(await _look(request, rest))
    return None


async def ask(request: Request) -> None:
    element = {"type": "plain_text_input", "multiline": True, "max_length": PASTED_MAX, "focus_on_load": True}
    element["placeholder"] = plain("smtp-acme-7k2m9x4q")
    hint = "What you paste is looked at once, and kept nowhere."
    rows = [field("A username, or a line of a log", "pasted", element, hint)]
    await request.open(modal(TITLE, rows, ASK, submit="Look it up", close="Cancel"))


async def answer(request: Request) -> Answer:
    return Answer(update(notice(await _look(request, str(values(request.view or {}).get("pasted") or "")), TITLE)))


async def _look(request: Request, rest: str) -> list[Block]:
    """What the person may know of what they pasted. Raises PersonBarred, RoleUnknown."""
    services = request.services
    actor = await request.actor(EVERYWHERE)
    if actor.barred:
        refusal = PersonBarred(actor.barred)
        await services.db.change(record_refusal, What.LOOK_UP, request.origin(actor), refusal)
        raise refusal
    found = read(rest)
    live: set[str] = set()
    asked = list(found.usernames)
    for credential, standing in await resolved(services, found):
        asked.append(credential.username)
        if standing is not Standing.DEAD:
            live.add(credential.id)
    rows: list[Block] = []
    visible, traffic = await services.db.read(_visible, actor, list(dict.fromkeys(asked)))
    for one, workspace, allowed in visible[:SHOWN]:
        rows += [DIVIDER] if rows else []
        rows += draw(one, workspace, allowed, traffic[one.id], services.db.clock(), services.settings.bot_unused_days, request.channel)
        if one.id in live:
            rows.insert(
                len(rows) - 1, line(bold("You pasted its password. It works now, so treat it as leaked and delete the credential."))
            )
    if not rows:
        said = "I couldn't find a credential of ours in that, or it is in a workspace that you can't see."
        if not (found.usernames or found.passwords):
            said = "I couldn't find an SMTP username or password of ours in that. Usernames look like smtp-acme-7k2m9x4q."
        rows.append(line(said))
    return rows


def _visible(
    tx: Transaction, actor: Actor, usernames: list[str]
) -> tuple[list[tuple[Credential, Workspace, frozenset[Action]]], dict[str, mail_servers.Traffic]]:
    """Those that the person may see, with what they may do, and how much each was used."""
    visible: list[tuple[Credential, Workspace, frozenset[Action]]] = []
    for one in listing.by_usernames(tx, usernames):
        workspace = workspaces.by_id(tx, one.workspace_id)
        allowed = access.allowed(access.rights(tx, actor, workspace))
        if Action.LIST in allowed:
            visible.append((one, workspace, allowed))
    return visible, mail_servers.traffic(tx, [one.id for one, _, _ in visible])


def draw(
    credential: Credential,
    workspace: Workspace,
    allowed: frozenset[Action],
    traffic: mail_servers.Traffic,
    now: datetime,
    unused_days: int,
    channel: str | None,
) -> list[Block]:
    """What is known of it, and what this person can do about it."""
    stops = impact.in_use(credential, traffic, now, unused_days) if credential.state != State.DELETED else None
    rows = [impact.facts(credential, workspace, stops)]
    states = [[bold("State  "), STATES[State(credential.state)]]]
    if credential.expires_at:
        states.append([bold("Expires  "), when(credential.expires_at)])
    if credential.previous_until and credential.previous_until > now:
        states.append([bold("Old password until  "), when(credential.previous_until)])
    rows.append(lines(*states))
    value = OnCredential(credential=credential.id, channel=channel).encode()
    offers = []
    if Action.DELETE in allowed and credential.state == State.ACTIVE:
        offers.append(button("Suspend…", OPEN_SUSPEND, value))
    if Action.CREATE in allowed and credential.state == State.SUSPENDED:
        offers.append(button("Resume…", OPEN_RESUME, value))
    if Action.DELETE in allowed and credential.state in (State.ACTIVE, State.SUSPENDED):
        offers.append(button("Delete…", OPEN_DELETE, value, style="danger"))
    return [*rows, actions(*offers)] if offers else [*rows, foot("You can look at it. Ask a responder or writer to stop it.")]

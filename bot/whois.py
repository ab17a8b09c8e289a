"""Whose is this? Of a username, a password, or a pasted line of a log or of an `.env` file.

`/smtp whois`, the shortcut of a message, and the global one, which asks. What was pasted is stored and repeated nowhere.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from slack_bolt.app.async_app import AsyncApp

from bot import alarm, blocks, impact, queue, suspend, texts
from bot.blocks import DIVIDER, Block, Piece, actions, bold, button, code, line, lines, modal, people, plain, principal, when
from bot.codec import InWhois, OnCredential
from bot.delete import OPEN_DELETE
from bot.door import EVERYWHERE, Answer, Door, Request, notice, update
from bot.leak import strings
from bot.slack import Ok
from storage import access, credentials, lifecycle, listing, mail_servers, workspaces
from storage import queue as queue_orders
from storage.access import Action, Actor
from storage.audit import Origin, What, record_refusal
from storage.database import Transaction
from storage.leaks import Standing
from storage.models import Credential, State, Workspace
from storage.queue import Act
from storage.refusals import NoSuchCredential, PersonBarred
from storage.typed import read

SHORTCUT = "whose_is_this"
ANYWHERE = "whose_is_this_anywhere"
ASK = "ask_whose"
SUSPEND = "whois_suspend"
UNDO = "whois_undo"
TITLE = "Whose is this?"
SHOWN = 8
DENIED = 50  # audit rows of one question
JUST_SUSPENDED = timedelta(hours=1)
"""So long a suspension can be taken back by one press; later a modal says first what that does."""
PASTED_MAX = 3000  # docs.slack.dev: reference/block-kit/block-elements/plain-text-input-element


def register(app: AsyncApp, door: Door) -> None:
    app.shortcut(SHORTCUT)(door.work(of_message))
    app.shortcut(ANYWHERE)(door.work(ask))
    app.view(ASK)(door.submission(answer))
    app.action(SUSPEND)(door.work(suspend_now))
    app.action(UNDO)(door.work(undo))


async def typed(request: Request, rest: str) -> None:
    """Raises PersonBarred, RoleUnknown."""
    if not rest:
        return await ask(request)
    await request.show(await _look(request, rest))
    return None


async def of_message(request: Request) -> None:
    """Opens at once, because a trigger lives three seconds; then looks."""
    opened = await request.open(notice([line("Looking for SMTP usernames and passwords of ours…")], TITLE))
    request.view = {"id": opened.id, "hash": opened.hash, "type": "modal"}
    rows = await _look(request, "\n".join(strings(request.body.get("message") or {})))
    if not isinstance(await request.services.slack.update_view(opened.id or "", notice(rows, TITLE)), Ok):
        await request.show(rows)


async def ask(request: Request) -> None:
    element = {"type": "plain_text_input", "multiline": True, "max_length": PASTED_MAX, "focus_on_load": True}
    element["placeholder"] = plain("smtp-acme-7k2m9x4q")
    hint = "What you paste is looked at once, and kept nowhere."
    rows = [blocks.field("A username, or a line of a log", "pasted", element, hint)]
    await request.open(modal(TITLE, rows, ASK, submit="Look it up", close="Cancel"))


async def answer(request: Request) -> Answer:
    return Answer(update(notice(await _look(request, str(blocks.values(request.view or {}).get("pasted") or "")), TITLE)))


async def suspend_now(request: Request) -> None:
    await _press(request, suspend.suspend_now)


async def undo(request: Request) -> None:
    await _press(request, suspend.undo)


async def _press(request: Request, act: Callable[[Request, str], Awaitable[None]]) -> None:
    """One press on one of them; then all are shown as they are."""
    token = InWhois.decode(request.value)
    request.channel = token.channel or request.channel
    refused: list[Block] = []
    try:
        await act(request, token.credential)
    except suspend.NOT_AS_SHOWN as refusal:
        refused = [line(*texts.sentence(refusal, request.services.command))]
    usernames = await request.services.db.read(_usernames, token.shown)
    rows = [*refused, *await _rows(request, usernames, set(token.pasted))]
    if request.view_type == "modal" and request.view:
        await request.services.slack.update_view(request.view["id"], notice(rows, TITLE))
    else:
        await request.show(rows, replace=True)


def _usernames(tx: Transaction, credential_ids: list[str]) -> list[str]:
    return [credentials.get(tx, one)[0].username for one in credential_ids]


async def _look(request: Request, text: str) -> list[Block]:
    """What the person may know of what they pasted. Raises PersonBarred, RoleUnknown."""
    found = read(text)
    asked, pasted = list(found.usernames), set()
    for credential, standing in await request.services.resolver.resolve(found.passwords):
        asked.append(credential.username)
        if standing is not Standing.DEAD:
            pasted.add(credential.id)
    rows = await _rows(request, list(dict.fromkeys(asked)), pasted)
    if rows:
        return rows
    if found.usernames or found.passwords:
        return [line("I couldn't find a credential of ours in that, or it is in a workspace that you can't see.")]
    return [line("I couldn't find an SMTP username or password of ours in that. Usernames look like smtp-acme-7k2m9x4q.")]


@dataclass(frozen=True)
class Known:
    """A credential that the person may see."""

    credential: Credential
    workspace: Workspace
    allowed: frozenset[Action]
    stoppers: list[str]
    """Who can suspend or delete it."""
    resumers: list[str]
    traffic: mail_servers.Traffic = field(default_factory=mail_servers.Traffic)
    holdable: bool = False
    """Some mail server takes orders about its queue."""
    queued: queue_orders.Standing | None = None
    """What became of the last order about its queued mail."""


async def _rows(request: Request, usernames: list[str], pasted: set[str]) -> list[Block]:
    services = request.services
    actor = await request.actor(EVERYWHERE)
    known = await request.read(What.LOOK_UP, actor, _known, actor, usernames)
    rows: list[Block] = []
    seen = {one.credential.username for one in known}
    if unseen := [username for username in usernames if username not in seen]:
        await services.db.change(_deny, request.origin(actor), unseen[:DENIED])
    more, known = len(known) - SHOWN, known[:SHOWN]
    shown = [one.credential.id for one in known]
    for one in known:
        rows += [DIVIDER] if rows else []
        token = InWhois(
            credential=one.credential.id, channel=request.channel, shown=shown, pasted=[each for each in shown if each in pasted]
        )
        rows += draw(one, token, services.db.clock(), services.settings.bot_unused_days)
    if rows and more > 0:
        rows.append(line(bold(f"And {more} more: ask for them by themselves.")))
    if rows and unseen:
        rows.append(line("Not found, or in a workspace that you can't see: ", *_names(unseen), "."))
    return rows


def _names(usernames: Sequence[str]) -> list[Piece]:
    pieces: list[Piece] = []
    for one in usernames[:SHOWN]:
        pieces += [", ", code(one)] if pieces else [code(one)]
    return [*pieces, f" and {len(usernames) - SHOWN} more"] if len(usernames) > SHOWN else pieces


def _deny(tx: Transaction, origin: Origin, usernames: list[str]) -> None:
    """Somebody asked for what is not there, or not theirs to see; who tries many is seen in the audit log."""
    for username in usernames:
        record_refusal(tx, What.LOOK_UP, origin, NoSuchCredential(), username)


def _known(tx: Transaction, actor: Actor, usernames: list[str]) -> list[Known]:
    """Those of them that the person may see. Raises PersonBarred."""
    if actor.barred:
        raise PersonBarred(actor.barred)
    found: list[Known] = []
    for one in listing.by_usernames(tx, usernames):
        workspace = workspaces.by_id(tx, one.workspace_id)
        allowed = access.allowed(access.rights(tx, actor, workspace))
        if Action.LIST in allowed:
            stoppers, resumers = (access.principals(tx, actor.team or "", workspace, action) for action in (Action.DELETE, Action.CREATE))
            traffic = mail_servers.traffic(tx, [one.id])[one.id]
            queued = (queue_orders.hosts(tx), queue_orders.latest(tx, one.username))
            found.append(Known(one, workspace, allowed, stoppers, resumers, traffic, *queued))
    return found


def draw(known: Known, token: InWhois, now: datetime, unused_days: int) -> list[Block]:
    """What is known of it, and what this person can do about it."""
    credential = known.credential
    stops = impact.in_use(credential, known.traffic, now, unused_days) if credential.state == State.ACTIVE else None
    rows = [impact.facts(credential, known.workspace, known.traffic.reported, stops)]
    states = [_state(known, now)]
    if credential.expires_at and credential.state != State.DELETED:
        states.append([bold("Expires  "), when(credential.expires_at)])
    if credential.previous_until and credential.previous_until > now:
        states.append([bold("Old password until  "), when(credential.previous_until)])
    stopped = credential.state in (State.SUSPENDED, State.DELETED)
    if stopped and (sent := impact.sent(credential, known.traffic)):
        states.append([bold("Sent  "), sent])
    if known.traffic.refused_day and credential.state != State.ACTIVE:
        states.append([bold("Tried again  "), f"{impact.times(known.traffic.refused_day)} in the last day, and refused"])
    rows.append(lines(*states))
    leaked = credential.id in token.pasted
    if leaked and credential.state == State.ACTIVE:
        refused = lifecycle.stopped(credential, known.workspace, now)
        rows.append(
            line(bold("You pasted its password" + (": treat it as leaked." if refused else ". It works now, so treat it as leaked.")))
        )
    if known.queued and (known.queued.answered or known.queued.silent):
        rows.append(line(bold("Queued mail  "), *queue.said(known.queued), "."))
    offers = _offers(known, token, leaked, now)
    if offers:
        rows.append(actions(*offers))
    return rows + _others(known)


def _state(known: Known, now: datetime) -> list[Piece]:
    credential = known.credential
    match State(credential.state):
        case State.DELETED if credential.deleted_at:
            by, at = principal(credential.deleted_by or ""), when(credential.deleted_at)
            return [bold("Deleted"), " by ", by, " (", at, "). It can't come back; nothing to do."]
        case State.SUSPENDED if credential.suspended_at:
            by, at = principal(credential.suspended_by or ""), when(credential.suspended_at)
            return [bold("Suspended"), " by ", by, " (", at, "): mail servers refuse it."]
        case State.PENDING:
            return [bold("State  "), "being created"]
        case _ if known.workspace.suspended_at:
            return [bold("State  "), "all credentials of this mail workspace are suspended"]
        case _ if lifecycle.has_expired(credential, now):
            return [bold("State  "), "expired: mail servers refuse it"]
    return [bold("State  "), "active"]


def _offers(known: Known, token: InWhois, leaked: bool, now: datetime) -> list[Block]:
    credential, allowed = known.credential, known.allowed
    value = OnCredential(credential=credential.id, channel=token.channel).encode()
    offers = []
    if Action.DELETE in allowed and credential.state == State.ACTIVE:
        offers.append(suspend.buttons(SUSPEND, UNDO, token.encode(), suspended=False))
    if Action.CREATE in allowed and credential.state == State.SUSPENDED and credential.suspended_at:
        just = credential.suspended_at > now - JUST_SUSPENDED
        undoing = suspend.buttons(SUSPEND, UNDO, token.encode(), suspended=True)
        offers.append(undoing if just else button("Resume…", suspend.OPEN_RESUME, value))
    if Action.DELETE in allowed and credential.state in (State.ACTIVE, State.SUSPENDED):
        label, action = ("Revoke…", alarm.OPEN_REVOKE) if leaked else ("Delete…", OPEN_DELETE)
        offers.append(button(label, action, value, style="danger"))
    held = known.queued is not None and known.queued.act is Act.HOLD
    if known.holdable and not held and Action.DELETE in allowed and credential.state in (State.DELETED, State.SUSPENDED):
        offers.append(queue.hold_button(credential.id, token.channel))
    if held and known.queued and known.queued.count and Action.ADMINISTER in allowed:
        offers += queue.buttons([credential.id], token.channel)
    return offers


def _others(known: Known) -> list[Block]:
    """Who can do what this person cannot."""
    state, allowed = known.credential.state, known.allowed
    if state == State.ACTIVE and Action.DELETE not in allowed and known.stoppers:
        return [line("To stop it, ask ", *people(known.stoppers), ".")]
    if state == State.SUSPENDED and Action.CREATE not in allowed and known.resumers:
        return [line("To resume it, ask ", *people(known.resumers), ".")]
    return []

"""The audit log of a workspace in words, read by its admins: `/smtp audit [username, person or name]`.

A button turns to older rows, another tells all that a row holds.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from slack_bolt.app.async_app import AsyncApp

from bot import acts
from bot.blocks import Block, Piece, actions, bold, button, channel, code, foot, line, lines, modal, plain, principal, utc, when
from bot.codec import InAudit, OnEvent
from bot.door import EVERYWHERE, Door, Request
from storage import access, audit, listing, workspaces
from storage.access import PRINCIPAL, Action, Actor
from storage.audit import REVOKED, What
from storage.database import Transaction
from storage.models import AuditEvent, Workspace
from storage.refusals import AlreadyDeleted, NoSuchCredential, NoSuchWorkspace
from storage.typed import read

OLDER = "older_audit"
DETAILS = "audit_details"
UNTIL = "audit_until"
ABOUT_MAX = 64


def register(app: AsyncApp, door: Door) -> None:
    app.action(OLDER)(door.work(turn))
    app.action(DETAILS)(door.work(details))
    app.action(UNTIL)(door.work(jump))


async def typed(request: Request, target: str) -> None:
    found = read(request.text)
    about = next(iter([*found.mentions, *found.usernames]), None)
    await show(request, about or target, None)


async def turn(request: Request) -> None:
    token = InAudit.decode(request.value)
    await show(request, token.about or "", token.before, replace=True)


async def jump(request: Request) -> None:
    """To the end of a day, in UTC."""
    token = InAudit.decode(request.action.get("block_id"))
    day = datetime.strptime(str(request.action.get("selected_date")), "%Y-%m-%d").replace(tzinfo=UTC)
    await show(request, token.about or "", None, replace=True, until=day + timedelta(days=1))


async def show(request: Request, target: str, before: int | None, replace: bool = False, until: datetime | None = None) -> None:
    db = request.services.db
    workspace = await db.read(workspaces.of_channel, request.services.team, request.in_channel())
    await request.allow(Action.ADMINISTER, workspace, What.OPEN)
    about: str | None = target[:ABOUT_MAX] or None
    if about and not PRINCIPAL.fullmatch(about):
        about = await db.read(_username_of, workspace, about)
    events, named = await db.read(_rows, workspace, about, before, until)
    await request.show(draw(workspace, events, about, named), replace)


def _username_of(tx: Transaction, workspace: Workspace, typed: str) -> str:
    """Of the credential that is meant, also of one that was deleted; else the text: a channel or a slug may stand in the log too."""
    try:
        return listing.find(tx, workspace, typed)[0].username
    except AlreadyDeleted:
        return typed
    except NoSuchCredential:
        gone = listing.deleted(tx, workspace, typed)
        return gone.username if gone else typed


def _rows(
    tx: Transaction, workspace: Workspace, about: str | None, before: int | None, until: datetime | None
) -> tuple[list[AuditEvent], dict[str, str]]:
    """A page of rows, and the names of the credentials in them, by username."""
    events = audit.latest(tx, workspace, about, before, until=until)
    found = listing.by_usernames(tx, [event.username for event in events if event.username])
    return events, {one.username: one.name for one in found}


async def details(request: Request) -> None:
    """All that one row holds. Raises NoSuchWorkspace, NotAllowed."""
    number = OnEvent.decode(request.value).event
    actor = await request.actor(EVERYWHERE)
    event, workspace = await request.read(What.OPEN, actor, _one, actor, number)
    await request.open(modal(f"Event {event.id}", told(event, workspace)))


def _one(tx: Transaction, actor: Actor, number: int) -> tuple[AuditEvent, Workspace]:
    event = next(iter(audit.events(tx, number, number)), None)
    if event is None or event.workspace_id is None:
        raise NoSuchWorkspace
    workspace = workspaces.by_id(tx, event.workspace_id)
    access.may(tx, actor, Action.ADMINISTER, workspace)
    return event, workspace


def draw(workspace: Workspace, events: Sequence[AuditEvent], about: str | None, named: dict[str, str]) -> list[Block]:
    """Args: named: the names of credentials by username."""
    subject: list[Piece] = [", about ", _about(about)] if about else []
    rows: list[Block] = [line(bold("Audit log"), " of ", bold(workspace.name), *subject, ", newest first")]
    for event in events:
        more = button("Details", DETAILS, OnEvent(event=event.id).encode(), says=f"Details of event {event.id}")
        rows += [line(*sentence(event, named)), actions(more)]
    if not events:
        nothing: list[Piece] = ["No events about ", _about(about), "."] if about else ["No events yet."]
        rows.append(line(*nothing))
    older = [button("Older", OLDER, InAudit(about=about, before=events[-1].id).encode())] if len(events) == audit.PAGE else []
    day = {"type": "datepicker", "action_id": UNTIL, "placeholder": plain("Up to a day")}
    rows.append(actions(*older, day) | {"block_id": InAudit(about=about).encode()})
    return [*rows, foot("An operator can check that nothing was changed: smtp-bot audit verify")]


def _about(about: str) -> Piece:
    return principal(about) if PRINCIPAL.fullmatch(about) else code(about)


def sentence(event: AuditEvent, named: dict[str, str]) -> list[Piece]:
    """What happened, in one sentence."""
    act = acts.act_of(event)
    done = event.outcome == "done"
    said: list[Piece] = [when(event.at), "  ", principal(event.user_id), " ", act.done if done else f"tried to {act.tried}"]
    if event.username:
        said += [" ", bold(named.get(event.username, event.username))]
    if event.subject in acts.LEAKS and event.action in (What.LEAK, What.REPORT, What.LEAK_GONE):
        said.append(acts.LEAKS[event.subject])
    elif event.subject and event.subject != REVOKED:
        said += [" ", *_subject(event.subject)]
    if not done:
        said.append(f": {acts.why(event.cause)}")
    if event.reason:
        said.append(f". Reason: {event.reason}")
    return said


def told(event: AuditEvent, workspace: Workspace) -> list[Block]:
    """Everything in the row, for whoever compares it with a log."""
    through: list[Piece] = [" through ", principal(event.role_via)] if event.role_via and event.role_via.startswith("S") else []
    age = f", as Slack said {event.role_age} seconds before" if event.role_age else ""
    rows: dict[str, list[Piece]] = {
        "When": [when(event.at), f" ({utc(event.at)})"],
        "Who": [principal(event.user_id)],
        "What": [code(event.action)],
        "Outcome": [event.outcome if event.outcome == "done" else f"{event.outcome}: {acts.why(event.cause)}"],
        "Mail workspace": [workspace.name],
        "Username": [code(event.username)] if event.username else [],
        "About": _subject(event.subject) if event.subject else [],
        "Role": [event.role, *through, age] if event.role else [],
        "Channel": [channel(event.channel_id)] if event.channel_id else [],
        "From": [event.surface],
        "Reason": [event.reason] if event.reason else [],
        "Number": [f"{event.id}"],
        "Reference": [code(event.reference)],
        "Hash": [code(event.hash)],
    }
    return [lines(*([bold(f"{name}  "), *pieces] for name, pieces in rows.items() if pieces))]


def _subject(subject: str) -> list[Piece]:
    """What else it was about: people, channels, words."""
    pieces: list[Piece] = []
    for word in subject.split(" "):
        one: Piece = word
        if PRINCIPAL.fullmatch(word):
            one = principal(word)
        elif re.fullmatch(r"[CDG][A-Z0-9]{4,30}", word):
            one = channel(word)
        pieces += [" ", one]
    return pieces[1:]

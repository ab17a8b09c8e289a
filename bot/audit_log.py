"""The audit log of a workspace, read by its admins: `/smtp audit [username or person]`, with a button for older rows."""

import contextlib
import re
from collections.abc import Sequence

from slack_bolt.app.async_app import AsyncApp

from bot import texts
from bot.blocks import Block, Piece, actions, bold, button, code, foot, line, principal, when
from bot.codec import InAudit
from bot.door import Door, Request
from storage import audit, listing, workspaces
from storage.access import Action
from storage.audit import What
from storage.models import AuditEvent, Workspace
from storage.refusals import AlreadyDeleted, NoSuchCredential

OLDER = "older_audit"
MENTION = re.compile(r"<@([UW][A-Z0-9]+)(?:\|[^>]*)?>|([UW][A-Z0-9]{6,})")


def register(app: AsyncApp, door: Door) -> None:
    app.action(OLDER)(door.work(turn))


async def typed(request: Request, target: str) -> None:
    await show(request, target, None)


async def turn(request: Request) -> None:
    token = InAudit.decode(request.value)
    await show(request, token.about or "", token.before, replace=True)


async def show(request: Request, target: str, before: int | None, replace: bool = False) -> None:
    db = request.services.db
    workspace = await db.read(workspaces.of_channel, request.services.team, request.in_channel())
    await request.allow(Action.ADMINISTER, workspace, What.OPEN)
    person = MENTION.fullmatch(target)
    about = (person.group(1) or person.group(2)) if person else target or None
    if about and not person and not about.startswith("smtp-"):
        # A channel, a slug or a deleted credential's id may stand in the log too.
        with contextlib.suppress(NoSuchCredential, AlreadyDeleted):
            about = (await db.read(listing.find, workspace, about))[0].username
    events = await db.read(audit.latest, workspace, about[:64] if about else None, before)
    await request.show(draw(workspace, events, about), "The audit log is ready.", replace)


def draw(workspace: Workspace, events: Sequence[AuditEvent], about: str | None) -> list[Block]:
    title: list[Piece] = ["Audit log of ", bold(workspace.name), *([", about ", code(about)] if about else []), ", newest first"]
    rows = [line(*title), *(line(*sentence(event)) for event in events)]
    if not events:
        rows.append(line("There is nothing."))
    if len(events) == audit.PAGE:
        rows.append(actions(button("Older", OLDER, InAudit(about=about, before=events[-1].id).encode())))
    return [*rows, foot(f"{texts.ONLY_YOU} An operator can check that nothing was changed: smtp-bot audit verify")]


def sentence(event: AuditEvent) -> list[Piece]:
    said: list[Piece] = [when(event.at), "  ", principal(event.user_id), " ", bold(event.action)]
    if event.outcome != "done":
        said.append(f" {event.outcome} ({event.cause})")
    if event.username:
        said += ["  ", code(event.username)]
    if event.subject:
        said += ["  ", *(_subject(word) for word in event.subject.split(" "))]
    if event.role:
        said.append(f"  as {event.role}")
    if event.role_via and event.role_via.startswith("S"):
        said += [" through ", principal(event.role_via)]
    if event.reason:
        said.append(f"  reason: {event.reason}")
    return [*said, f"  #{event.id} {event.reference}"]


def _subject(word: str) -> Piece:
    return principal(word) if re.fullmatch(r"[UWS][A-Z0-9]{4,}", word) else f" {word} "

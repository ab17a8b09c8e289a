"""An alarm: a password of ours stands in a message, and those who can stop it are told.

It is posted by an errand to the workspace's channels, and is brought up to date when something changes: reported again, suspended,
resumed, revoked, refused by the mail servers, its message deleted. Everybody in the channel sees its buttons; whether they may is asked
when they press.
"""

from datetime import datetime

from slack_bolt.app.async_app import AsyncApp

from bot import blocks, impact, revoke, suspend
from bot.blocks import Block, Piece, actions, bold, button, code, line, people, principal, when
from bot.codec import OnCredential
from bot.door import Door, Request
from storage.audit import Surface, What
from storage.leaks import Gone, Leak, Standing
from storage.lifecycle import has_expired
from storage.models import State

SUSPEND_NOW = "alarm_suspend"
UNDO = "alarm_undo"
OPEN_REVOKE = "alarm_revoke"
REPORTERS_NAMED = 5
SCANNER = "scanner"
"""Who noticed what was found outside of Slack, in the audit log."""


def register(app: AsyncApp, door: Door) -> None:
    app.action(SUSPEND_NOW)(door.work(suspend_now))
    app.action(UNDO)(door.work(undo))
    app.action(OPEN_REVOKE)(door.work(open_revoke))


async def suspend_now(request: Request) -> None:
    """The alarm itself shows what came of it."""
    try:
        await suspend.suspend_now(request, OnCredential.decode(request.value).credential)
    except suspend.NOT_AS_SHOWN:
        await request.draw_anew()
        raise


async def undo(request: Request) -> None:
    try:
        await suspend.undo(request, OnCredential.decode(request.value).credential)
    except suspend.NOT_AS_SHOWN:
        await request.draw_anew()
        raise


async def open_revoke(request: Request) -> None:
    """Opens the modal **Revoke leaked credential**."""
    try:
        await revoke.open_leaked(request, OnCredential.decode(request.value).credential)
    except suspend.NOT_AS_SHOWN:
        await request.draw_anew()
        raise


# --- what is shown ---
def draw(leak: Leak, link: str | None, now: datetime) -> list[Block]:
    """The alarm as it is now. `link`: of the message that leaked."""
    works = leak.works(now)
    rows = [line(*_what_happened(leak, link))]
    first = leak.events[0].user_id
    others = dict.fromkeys(one.user_id for one in leak.events[1:] if one.action == What.REPORT and one.user_id != first)
    if others:
        rows.append(line("Also reported by ", *people(list(others)[:REPORTERS_NAMED]), "."))
    if leak.events[-1].action == What.LEAK_GONE:
        how = "deleted" if leak.events[-1].subject == Gone.DELETED else "edited, and no longer holds it"
        rows.append(line(f"The message was {how} (", when(leak.events[-1].at), ")."))
    rows += [line(*said) for said in _standing(leak, now)]
    if leak.proof:
        rows.append(line(*impact.proof_pieces(leak.proof)))
    if works and leak.who:
        rows.append(line("Can stop it: ", *people(leak.who), "."))
    offers = _offers(leak, now)
    return [*rows, actions(*offers)] if offers else rows


def _what_happened(leak: Leak, link: str | None) -> list[Piece]:
    first, credential = leak.events[0], leak.credential
    message: Piece = {"type": "link", "url": link, "text": "a message"} if link else "a message"
    where: list[Piece] = [message, " in ", blocks.channel(leak.channel)] if leak.channel else [message]
    by: Piece = "An app" if first.user_id.startswith("B") else principal(first.user_id)
    which: list[Piece] = [bold(credential.name), " (", code(credential.username), ") of ", bold(leak.workspace.name)]
    if first.user_id == SCANNER:
        return ["A scanner found the password of ", *which, " outside of Slack", *([": ", code(first.reason)] if first.reason else []), "."]
    if first.action == What.LEAK:
        return [by, " posted the password of ", *which, ": ", *where, "."]
    holds = " that has the username of " if leak.standing is Standing.UNKNOWN else " that holds the password of "
    return [by, " reported ", *where, holds, *which, "."]


def _standing(leak: Leak, now: datetime) -> list[list[Piece]]:
    credential, last = leak.credential, leak.last
    if credential.state == State.DELETED:
        return [_ended(leak)]
    if credential.state == State.SUSPENDED and credential.suspended_at:
        by = principal(credential.suspended_by or "")
        return [[bold("Suspended"), " by ", by, " (", when(credential.suspended_at), "): mail servers refuse it."]]
    said: list[list[Piece]] = []
    if last is not None and last.action == What.RESUME:
        said.append([principal(last.user_id), " resumed it (", when(last.at), ")."])
    if leak.workspace.suspended_at is not None:
        return [*said, ["All credentials of ", bold(leak.workspace.name), " are suspended: mail servers refuse it."]]
    if has_expired(credential, now) and credential.expires_at:
        return [*said, ["It expired (", when(credential.expires_at), "): mail servers refuse it."]]
    until = leak.works_until(now)
    if until is None:
        if leak.standing is Standing.UNKNOWN:
            return [*said, ["It works now. I can't tell whether its password leaked."]]
        return [*said, [bold("It works now: treat it as leaked.")]]
    if until > now:
        return [*said, [bold("The password that leaked is the old one: it works until "), when(until), "."]]
    changed = last if last is not None and last.action in (What.FINISH_ROTATION, What.END_PREVIOUS) else None
    if changed is None or changed.surface == Surface.SWEEP:
        return [*said, ["The password that leaked was changed and no longer works."]]
    return [*said, [principal(changed.user_id), " ended the password that leaked (", when(changed.at), "): it no longer works."]]


def _ended(leak: Leak) -> list[Piece]:
    credential, last = leak.credential, leak.last
    at: list[Piece] = [" (", when(credential.deleted_at), ")"] if credential.deleted_at else []
    if last is not None and last.surface == Surface.SWEEP:
        return [bold("Deleted"), *at, ", because it was suspended and nobody resumed it. Nothing left to do."]
    return [bold("Revoked"), " by ", principal(credential.deleted_by or ""), *at, ". Nothing left to do."]


def _offers(leak: Leak, now: datetime) -> list[Block]:
    credential = leak.credential
    until = leak.works_until(now)
    if credential.state not in (State.ACTIVE, State.SUSPENDED) or (until is not None and until <= now):
        return []
    value = OnCredential(credential=credential.id).encode()
    stopping = suspend.buttons(SUSPEND_NOW, UNDO, value, suspended=credential.state == State.SUSPENDED)
    return [stopping, button("Revoke…", OPEN_REVOKE, value, style="danger")]


def warning(leak: Leak, now: datetime) -> list[Block]:
    """For the author of the message."""
    name = bold(leak.credential.name)
    if not leak.works(now):
        return [line("You posted the password of ", name, ". Delete your message, although it no longer works.")]
    told: list[Piece] = [*people(leak.who), " was told and can revoke it." if len(leak.who) == 1 else " were told and can revoke it."]
    if not leak.who:
        told = ["The owners of this app were told and can revoke it."]
    return [line("You posted the password of ", name, ". Delete your message. ", *told)]

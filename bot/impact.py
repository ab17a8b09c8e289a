"""What will stop, before somebody presses; and whether it has stopped, after."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from bot import limits
from bot.blocks import Block, Piece, bold, clock_time, code, line, lines, principal, when
from bot.delivery import outside
from bot.door import Request
from storage import mail_servers
from storage.audit import What
from storage.mail_servers import Proof, Traffic
from storage.models import Credential, State, Workspace

UNKNOWN = "I can't tell whether something uses it."
JUST_USED = timedelta(hours=1)
INTERVAL = 0.5  # seconds
NAMED = 5  # mail servers


async def of(request: Request, credential: Credential, workspace: Workspace) -> Block:
    """The facts of one credential, with what will stop."""
    services = request.services
    traffic = await services.db.read(mail_servers.traffic, [credential.id])
    stops = in_use(credential, traffic[credential.id], services.db.clock(), services.settings.bot_unused_days)
    return facts(credential, workspace, traffic[credential.id].reported, stops)


def facts(credential: Credential, workspace: Workspace, reported: bool, stops: str | None = None) -> Block:
    """What a person needs to recognize the credential and to judge what will stop.

    Args:
        reported: whether mail servers tell of log-ins at all.
        stops: `in_use`, which stands first.
    """
    owner, limited = credential.owner or credential.created_by, limits.brief(credential)
    rows: list[list[Piece]] = [
        *([[bold(stops)]] if stops else []),
        [bold("Name  "), credential.name],
        [bold("Username  "), code(credential.username)],
        [bold("Mail workspace  "), workspace.name],
        [bold("Created  "), when(credential.created_at), " by ", principal(credential.created_by)],
        *([[bold("Owner  "), principal(owner)]] if owner != credential.created_by else []),
        [bold("Last used  "), *_used(credential, reported)],
        *([[bold("Limits  "), limited]] if limited else []),
    ]
    return lines(*rows)


def _used(credential: Credential, reported: bool) -> list[Piece]:
    if credential.last_used_at is None:
        return ["never" if reported else "not reported by your mail server"]
    return [when(credential.last_used_at), f" from {credential.last_used_from or 'an unknown address'}"]


def in_use(credential: Credential, traffic: Traffic, now: datetime, unused_days: int) -> str:
    """One sentence: how much will stop."""
    if credential.state == State.SUSPENDED:
        return "It is suspended already: nothing is using it."
    last = credential.last_used_at
    if last is None and not traffic.reported:
        return UNKNOWN
    if last is None or last <= now - timedelta(days=unused_days):
        since = credential.created_at if last is None else last
        return f"Not used for {unused_days} days." if since <= now - timedelta(days=unused_days) else "Nothing has used it."
    counted = f"{number(traffic.hour, 'log-in')} in the last hour, {traffic.day} in the last day"
    if now - last < JUST_USED:
        minutes = max(int((now - last).total_seconds() // 60), 0)
        ago = "just now" if minutes == 0 else "a minute ago" if minutes == 1 else f"{minutes} minutes ago"
        counted += f", last {ago}"
    sending = sent(credential, traffic)
    return " ".join([f"In use: {counted}. Mail will stop.", *([f"It sent {sending}."] if sending else [])])


def sent(credential: Credential, traffic: Traffic) -> str | None:
    """Such as "412 messages to 390 recipients in the last hour, from 203.0.113.5"; None when it sent nothing for a day."""
    if not traffic.messages_day:
        return None
    an_hour = traffic.messages_hour > 0
    messages, recipients = (traffic.messages_hour, traffic.recipients_hour) if an_hour else (traffic.messages_day, traffic.recipients_day)
    told = f"{number(messages, 'message')} to {number(recipients, 'recipient')} in the last {'hour' if an_hour else 'day'}"
    return told + (f", from {credential.last_used_from}" if credential.last_used_from else "")


def times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def proof_remarks(proof: Proof) -> list[Piece]:
    """What else is to be known of the mail servers; empty when nothing is."""
    said: list[Piece] = []
    for one in proof.silent[:NAMED]:
        said += [f" {one.name} has not been heard of since ", clock_time(one.since), "."]
    if len(proof.silent) > NAMED:
        said.append(f" Nor have {len(proof.silent) - NAMED} more.")
    for name, milliseconds in proof.skewed[:NAMED]:
        said.append(f" The clock of {name} is {abs(milliseconds) // 1000} s {'ahead' if milliseconds > 0 else 'behind'}.")
    if proof.tried.count:
        least = "at least " if proof.tried.at_least else ""
        said.append(f" Since then it was tried {least}{times(proof.tried.count)}, and refused.")
    if not proof.ends_sessions:
        said.append(" Sessions that are open already go on until they end.")
    return said


def proof_pieces(proof: Proof) -> list[Piece]:
    """What the mail servers say about it."""
    return [*_confirmed(proof), *proof_remarks(proof)]


def _confirmed(proof: Proof) -> list[Piece]:
    if proof.total == 0 and proof.silent:
        return ["No mail server confirms it now."]
    if proof.total == 0:
        return ["Mail servers refuse it from the next log-in on."]
    servers = "mail server" if proof.total == 1 else "mail servers"
    if proof.waiting:
        named = ", ".join(proof.waiting[:NAMED])
        return [f"Stopped here, not yet confirmed by {len(proof.waiting)} of {proof.total} {servers}: {named}."]
    refuse = "refuses" if proof.total == 1 else "refuse"
    since: list[Piece] = [" since ", clock_time(proof.last)] if proof.last else []
    return [f"Confirmed: {proof.confirmed} of {proof.total} {servers} {refuse} it", *since, "."]


async def follow(request: Request, credential: Credential, what: What, view: Callable[[Block], dict[str, Any]]) -> None:
    """Keeps a result's modal up to date until every mail server process has confirmed it, within a limit."""
    services = request.services
    shown: list[Piece] = []
    deadline = asyncio.get_running_loop().time() + services.limits.followed
    while True:
        proof = await services.db.read(mail_servers.proof, credential.username, what)
        said = proof_pieces(proof)
        if said != shown:
            shown = said
            if not await request.show_result(view(line(*said))):
                return  # the person closed it
        if not proof.waiting or asyncio.get_running_loop().time() > deadline:
            return
        async with outside():
            await asyncio.sleep(INTERVAL)

"""What will stop, before somebody presses; and whether it has stopped, after."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from bot import limits
from bot.blocks import Block, Piece, bold, clock_time, code, line, lines, principal, when
from bot.door import Request
from storage import mail_servers
from storage.audit import What
from storage.mail_servers import Proof, Traffic
from storage.models import Credential, State, Workspace

JUST_USED = timedelta(hours=1)
FOLLOWED = 10.0  # seconds that a result waits for the mail servers
INTERVAL = 0.5  # seconds
NAMED = 5  # mail servers


async def of(request: Request, credential: Credential, workspace: Workspace) -> Block:
    """The facts of one credential, with what will stop."""
    services = request.services
    traffic = await services.db.read(mail_servers.traffic, [credential.id])
    return facts(credential, workspace, in_use(credential, traffic[credential.id], services.db.clock(), services.settings.bot_unused_days))


def facts(credential: Credential, workspace: Workspace, stops: str | None = None) -> Block:
    """What a person needs to recognize the credential and to judge what will stop (`in_use`)."""
    owner, limited = credential.owner or credential.created_by, limits.brief(credential)
    rows: list[list[Piece]] = [
        [bold("Name  "), credential.name],
        [bold("Username  "), code(credential.username)],
        [bold("Mail workspace  "), workspace.name],
        [bold("Created  "), when(credential.created_at), " by ", principal(credential.created_by)],
        *([[bold("Owner  "), principal(owner)]] if owner != credential.created_by else []),
        [bold("Last used  "), *_used(credential)],
        *([[bold("Limits  "), limited]] if limited else []),
    ]
    return lines(*rows, *([[bold("Impact  "), stops]] if stops else []))


def _used(credential: Credential) -> list[Piece]:
    if credential.last_used_at is None:
        return ["never, as far as the mail servers told"]
    return [when(credential.last_used_at), f" from {credential.last_used_from or 'an unknown address'}"]


def in_use(credential: Credential, traffic: Traffic, now: datetime, unused_days: int) -> str:
    """One sentence: how much will stop."""
    if credential.state == State.SUSPENDED:
        return "It is suspended already: nothing is using it."
    last = credential.last_used_at
    if last is None or last <= now - timedelta(days=unused_days):
        since = credential.created_at if last is None else last
        return f"Not used for {unused_days} days." if since <= now - timedelta(days=unused_days) else "Not used yet."
    counted = f"{traffic.hour} log-in{'' if traffic.hour == 1 else 's'} in the last hour, {traffic.day} in the last day."
    if now - last < JUST_USED:
        minutes = max(int((now - last).total_seconds() // 60), 0)
        ago = "just now" if minutes == 0 else "a minute ago" if minutes == 1 else f"{minutes} minutes ago"
        return f"Used {ago}: something will stop. {counted}"
    return counted


def proof_pieces(proof: Proof) -> list[Piece]:
    """What the mail servers say about it."""
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
    """Keeps a result's modal up to date until every mail server process has confirmed it, for `FOLLOWED` seconds at most."""
    services = request.services
    shown: list[Piece] = []
    deadline = asyncio.get_running_loop().time() + FOLLOWED
    while True:
        proof = await services.db.read(mail_servers.proof, credential.username, what)
        said = proof_pieces(proof)
        if said != shown:
            shown = said
            if not await request.show_result(view(line(*said))):
                return  # the person closed it
        if not proof.waiting or asyncio.get_running_loop().time() > deadline:
            return
        await asyncio.sleep(INTERVAL)

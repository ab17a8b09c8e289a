"""A password of ours in a message: the shortcut that finds and revokes it, and the watch that notices it by itself.

What the message says is looked at in memory, and neither logged nor stored nor repeated. Those who can revoke it are told by errands
(`alarm.py`), whoever uses the shortcut: somebody without a role reads the same answer whether or not it is one of ours.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import structlog
from slack_bolt.app.async_app import AsyncApp
from slack_bolt.response import BoltResponse

from bot import revoke, texts
from bot.blocks import line
from bot.door import EVERYWHERE, Door, Request, describe, later, notice
from bot.revoke import Targets
from bot.services import Services, new_reference
from bot.slack import Ok
from storage import leaks
from storage.access import Actor
from storage.audit import Origin, Surface, What
from storage.database import OutcomeUnknown, Unavailable
from storage.leaks import Gone, Resolver, Standing
from storage.models import Credential, State
from storage.passwords import Parsed
from storage.refusals import TooManyReports
from storage.typed import read

SHORTCUT = "revoke_leaked"
TITLE = "Revoke leaked credential"
WAITING_MAX = 100  # messages that the watch has not looked at
WAITING_EACH = 10  # of one author

log = structlog.get_logger(__name__)


def register(app: AsyncApp, door: Door, services: Services) -> None:
    app.shortcut(SHORTCUT)(door.work(used))
    if services.settings.bot_leak_watch:
        app.event("message")(Watch(services).heard)


# --- the shortcut ---
async def used(request: Request) -> None:
    """Opens at once, because a trigger lives three seconds; then looks."""
    opened = await request.open(notice([line("Looking for SMTP usernames and passwords of ours…")], TITLE))
    request.view = {"id": opened.id, "hash": opened.hash, "type": "modal"}
    found = read("\n".join(strings(request.body.get("message") or {})))
    if not found.usernames and not found.passwords:
        view = revoke.ask_modal("I couldn't find an SMTP username or password of ours in that message.", leaked=True)
    else:
        resolved = await request.services.resolver.resolve(found.passwords)
        view = await _view(request, found.usernames, resolved)
    if not isinstance(await request.services.slack.update_view(opened.id or "", view), Ok):
        await request.show(view["blocks"])


async def _view(request: Request, written: list[str], resolved: list[tuple[Credential, Standing]]) -> dict[str, Any]:
    """What the person can do about these usernames, and the credentials of these passwords; what they cannot is reported."""
    usernames = list(dict.fromkeys([*written, *(one.username for one, _ in resolved)]))
    targets = await revoke.look_up(request, usernames, What.LOOK_UP)
    # An old password alone is no reason to stop the credential that had it.
    changed = {one.id for one, standing in resolved if standing is Standing.DEAD and one.username not in written}
    more = []
    if any(one.id in changed for one, _ in targets.found + targets.refused):
        more.append(line("The password in that message was changed since, so it no longer works. Nothing left to do."))
    targets.found[:] = [one for one in targets.found if one[0].id not in changed]
    targets.refused[:] = [one for one in targets.refused if one[0].id not in changed]
    nothing_known = not (targets.found or targets.deleted or more)
    reported = False
    if targets.refused or targets.unknown or nothing_known:
        standings: dict[str, Standing] = {one.id: standing for one, standing in resolved if standing is not Standing.DEAD}
        try:
            await _report(request, targets, standings, changed)
        except TooManyReports as refusal:
            more.append(line(*texts.sentence(refusal, request.services.command)))
        else:
            reported = True
            if targets.refused:
                more.append(line("I've told the people who can revoke it. Please delete the message if it is yours."))
            if targets.unknown or (nothing_known and not targets.refused):
                more.append(line(revoke.REPORTED))
    return revoke.revoke_modal(request, targets, leaked=True, more=more, reported=reported)


async def _report(request: Request, targets: Targets, standings: dict[str, Standing], changed: set[str]) -> None:
    """Raises TooManyReports."""
    origin = request.origin(await request.actor(EVERYWHERE))
    origin = replace(origin, channel=request.channel, source=(request.body.get("message") or {}).get("ts"))
    alive = [one for one in [*(one for one, _ in targets.refused), *targets.hidden] if one.state in (State.ACTIVE, State.SUSPENDED)]
    reported = [one for one in alive if one.id not in changed]
    leaked = [(one.id, standings.get(one.id, Standing.UNKNOWN)) for one in reported]
    others: list[str | None] = [one for one in targets.unknown if one not in [known.username for known in reported]]
    await request.services.db.change(leaks.report, origin, leaked, others or ([] if leaked else [None]))


def strings(node: Any, depth: int = 0) -> Iterator[str]:
    """Every text in a message, its blocks and its attachments."""
    if isinstance(node, str):
        yield node
    elif depth < 20:
        for part in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            yield from strings(part, depth + 1)


# --- the watch ---
@dataclass(frozen=True)
class Heard:
    """A message that is to be looked at: who wrote it (of an app, its `B…`), where, and the passwords that may be ours."""

    author: str
    team: str
    channel: str
    ts: str
    passwords: list[Parsed]


class Watch:
    """Looks at messages one after the other, however many come, so that nothing else waits for its Argon2 (BOT_LEAK_WATCH)."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._resolver = Resolver(services.db, services.hasher)
        self._waiting: deque[Heard] = deque()
        self._authors: Counter[str] = Counter()
        self._looking = False

    async def heard(self, event: dict[str, Any], body: dict[str, Any]) -> BoltResponse | None:
        """The listener. What cannot be looked at now Slack sends again."""
        message = event.get("message") or event
        author, channel, ts = message.get("bot_id") or message.get("user"), event.get("channel"), message.get("ts")
        if is_ours(message, body.get("api_app_id")):
            return None
        if event.get("subtype") == "message_deleted" or message.get("subtype") == "tombstone":
            ts = event.get("deleted_ts") or ts
            if channel and ts:
                self._services.work.begin(self._gone(channel, ts, Gone.DELETED))
            return None
        if not (author and channel and ts):
            return None
        found = read("\n".join(strings(message))).passwords
        if not found:
            if event.get("subtype") == "message_changed":
                self._services.work.begin(self._gone(channel, ts, Gone.EDITED))
            return None
        if self._services.work.full or len(self._waiting) >= WAITING_MAX or self._authors[author] >= WAITING_EACH:
            log.warning("leak watch is behind", waiting=len(self._waiting))
            return later()
        self._services.work.begin(self._look(Heard(author, message.get("user_team") or self._services.team, channel, ts, found)))
        return None

    async def _look(self, heard: Heard) -> None:
        self._waiting.append(heard)
        self._authors[heard.author] += 1
        if self._looking:
            return
        self._looking = True
        try:
            while self._waiting:
                one = self._waiting.popleft()
                try:
                    await self._again_and_again(one)
                finally:
                    self._authors -= Counter([one.author])
        finally:
            self._looking = False

    async def _again_and_again(self, heard: Heard) -> None:
        """A database that is away for a while loses no leak."""
        for wait in self._services.limits.looked_up_after:
            await asyncio.sleep(wait)
            try:
                await self._notice(heard)
                return
            except (Unavailable, OutcomeUnknown) as error:
                log.warning("leak watch waits for the database", error=describe(error))
            except Exception as error:
                log.error("leak watch failed", error=describe(error))
                return
        log.error("leak watch gave a message up", channel=heard.channel)

    async def _notice(self, heard: Heard) -> None:
        origin = Origin(Actor(heard.author, heard.team), Surface.EVENT, new_reference(), heard.channel, heard.ts)
        resolved = await self._resolver.resolve(heard.passwords)
        for credential, standing in resolved:
            if standing is not Standing.DEAD:
                await self._services.db.change(leaks.notice, origin, credential.id, standing)
        await self._gone(heard.channel, heard.ts, Gone.EDITED, still=frozenset(credential.id for credential, _ in resolved))

    async def _gone(self, channel: str, ts: str, how: Gone, still: frozenset[str] = frozenset()) -> None:
        """The message holds none of the passwords that it held, but for `still`."""
        # Slack does not say who deleted it.
        origin = Origin(Actor("slack", self._services.team), Surface.EVENT, new_reference(), channel, ts)
        try:
            leaked = set(await self._services.db.read(leaks.leaked_in, channel, ts)) - still
            if leaked:
                await self._services.db.change(leaks.gone, origin, sorted(leaked), how)
        except Exception as error:
            log.error("leak watch failed", error=describe(error))


def is_ours(message: dict[str, Any], app: str | None) -> bool:
    """Whether our own app wrote it."""
    return app is not None and app in (message.get("app_id"), (message.get("bot_profile") or {}).get("app_id"))

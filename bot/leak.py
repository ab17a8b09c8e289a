"""A password of ours in a message: the shortcut that finds and revokes it, and the watch that notices it by itself.

What the message says is looked at in memory, and neither logged nor stored nor repeated.
"""

from collections.abc import Iterator
from typing import Any

import structlog
from slack_bolt.app.async_app import AsyncApp

from bot import blocks, revoke
from bot.blocks import Block, Piece, actions, bold, button, code, line, principal
from bot.codec import OnCredential
from bot.delete import OPEN_DELETE
from bot.door import Door, Request, describe, notice
from bot.services import Services, new_reference
from bot.slack import Ok
from storage import access, leaks, seen, workspaces
from storage.access import Action, Actor
from storage.audit import Origin, Surface, What, record
from storage.leaks import Standing
from storage.models import Credential, Workspace
from storage.typed import Typed, read

SHORTCUT = "revoke_leaked"
RESOLVED = 20  # passwords of one message that are looked up

log = structlog.get_logger(__name__)


def register(app: AsyncApp, door: Door, services: Services) -> None:
    app.shortcut(SHORTCUT)(door.work(used))
    if services.settings.bot_leak_watch:
        app.event("message")(watch(services))


async def used(request: Request) -> None:
    """Opens at once, because a trigger lives three seconds; then looks."""
    opened = await request.open(notice([line("Looking for SMTP usernames and passwords of ours…")], "Revoke leaked credential"))
    request.view = {"id": opened.id, "hash": opened.hash, "type": "modal"}
    found = read("\n".join(strings(request.body.get("message") or {})))
    usernames = list(found.usernames)
    dead = 0
    for credential, standing in await resolved(request.services, found):
        if standing is Standing.DEAD:
            dead += 1
        elif credential.username not in usernames:
            usernames.append(credential.username)
    if not usernames:
        said = "I couldn't find an SMTP username or password of ours in that message."
        if dead:
            said = "The password in that message no longer works, or never did. There is nothing to revoke."
        view = revoke.ask_modal(said, leaked=True)
    else:
        targets = await revoke.look_up(request, usernames)
        more = []
        if targets.refused and not targets.found:
            await report(request, targets.refused)
            more = [line("You can't revoke credentials yourself, so I've told the people who can. You don't need to do anything else.")]
        view = revoke.revoke_modal(request, targets, leaked=True, more=more)
    if not isinstance(await request.services.slack.update_view(opened.id or "", view), Ok):
        await request.show(view["blocks"])


def strings(node: Any, depth: int = 0) -> Iterator[str]:
    """Every text in a message, its blocks and its attachments."""
    if isinstance(node, str):
        yield node
    elif depth < 20:
        for part in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            yield from strings(part, depth + 1)


async def resolved(services: Services, found: Typed) -> list[tuple[Credential, Standing]]:
    """The credentials of the passwords that were found."""
    known = [await leaks.resolve(services.db, services.hasher, parsed) for parsed in found.passwords[:RESOLVED]]
    return [one for one in known if one]


async def report(request: Request, refused: list[tuple[Credential, Workspace]]) -> None:
    """Tells those who can revoke where the message is."""
    services = request.services
    where: list[Piece] = ["a message"]
    ts = (request.body.get("message") or {}).get("ts", "")
    match await services.slack.permalink(request.channel or "", ts):
        case Ok(link):
            where = [{"type": "link", "url": link, "text": "this message"}]
    for credential, workspace in refused:
        said: list[Piece] = [principal(request.user), " reported a leaked SMTP credential in ", *where, ": ", bold(credential.name)]
        await alarm(services, credential, workspace, [*said, " (", code(credential.username), ")."])


async def alarm(services: Services, credential: Credential, workspace: Workspace, said: list[Piece]) -> None:
    """A message with a button, to the workspace's channels, naming those who may press it."""
    who = await services.db.read(access.principals, services.team, workspace, Action.DELETE)
    value = OnCredential(credential=credential.id).encode()
    rows: list[Block] = [line(*said), actions(button("Revoke…", OPEN_DELETE, value, style="danger"))]
    if who:
        rows.insert(1, line("Can revoke it: ", *blocks.people(who)))
    message = {"text": "A leaked SMTP credential was reported.", "blocks": rows}
    for mapping in await services.db.read(workspaces.channels_of, workspace.id):
        if not mapping.paused:
            await services.slack.post_message(mapping.channel_id, message)


def watch(services: Services) -> Any:
    """The listener for messages, when BOT_LEAK_WATCH is on."""

    async def heard(event: dict[str, Any]) -> None:
        if event.get("bot_id") or event.get("subtype") in ("message_deleted", "bot_message"):
            return
        services.work.begin(noticed(services, event))

    return heard


async def noticed(services: Services, event: dict[str, Any]) -> None:
    """Tells the author and the responders about a live password in a message, or in what it was changed to."""
    message = event.get("message") or event
    author, channel = message.get("user"), event.get("channel")
    if not author or not channel or message.get("bot_id"):
        return
    try:
        found = read("\n".join(strings(message)))
        for credential, standing in await resolved(services, found):
            if standing is Standing.DEAD:
                continue
            workspace = await services.db.read(workspaces.by_id, credential.workspace_id)
            # Slack repeats events, and reports a message again when it unfurls a link in it.
            if not await services.db.note(seen.first_time, f"leak {credential.id} {channel} {message.get('ts')}"):
                continue
            origin = Origin(Actor(author, services.team), Surface.EVENT, new_reference(), channel, message.get("ts"))
            await services.db.change(record, What.LEAK, origin, workspace, credential)
            said: list[Piece] = [
                "Your message holds the password of the SMTP credential ",
                bold(credential.name),
                ". Delete the message. Those who can revoke it have been told.",
            ]
            warning = {"text": blocks.flat(said), "blocks": [line(*said)]}
            if not isinstance(await services.slack.post_ephemeral(channel, author, warning), Ok):
                await services.slack.post_message(author, warning)
            told: list[Piece] = [principal(author), " posted the password of ", bold(credential.name), " (", code(credential.username)]
            await alarm(services, credential, workspace, [*told, ") in ", blocks.channel(channel), ". Treat it as leaked."])
    except Exception as error:
        log.error("leak watch failed", error=describe(error))

"""Revoking by username, one or many, in whatever workspace they are, from any channel or direct message.

`/smtp revoke X Y Z` or the message shortcut (`leak.py`) opens one modal that shows each; submitting it deletes them one by one, and the
modal says of each what became of it.
"""

from dataclasses import dataclass, field
from typing import Any

import structlog
from slack_bolt.app.async_app import AsyncApp
from slack_sdk.errors import SlackApiError

from bot import blocks, impact, notices, texts
from bot.blocks import DIVIDER, Block, Piece, bold, code, foot, line, modal, plain
from bot.codec import OnMany, OnSlug
from bot.door import Answer, Door, InputInvalid, Request, describe, notice, update
from bot.reason import given_reason, reason_field
from storage import access, credentials, mail_servers, workspaces
from storage.access import Action, Actor
from storage.audit import What, record_refusal
from storage.models import Credential, State, Workspace
from storage.names import looks_like_password
from storage.refusals import NoSuchWorkspace, NotAllowed, PersonBarred, Refusal
from storage.typed import read

REVOKE = "revoke_credentials"
ASK = "ask_username"
WHOLE = "revoke_workspace"
WHOLE_PREFIX = "workspace:"
MOST = 50
EXAMPLE = "Enter a username, such as smtp-acme-7k2m9x4q."

log = structlog.get_logger(__name__)


@dataclass
class Targets:
    """What the usernames mean to this person."""

    found: list[tuple[Credential, Workspace]] = field(default_factory=list)
    deleted: list[Credential] = field(default_factory=list)
    refused: list[tuple[Credential, Workspace]] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    actor: Actor | None = None


def register(app: AsyncApp, door: Door) -> None:
    app.view(REVOKE)(door.submission(submit))
    app.view(ASK)(door.submission(submit_ask))
    app.view(WHOLE)(door.submission(submit_whole))


async def typed(request: Request, rest: str) -> None:
    """`/smtp revoke <username> [...]`, pasted in any form; `/smtp revoke workspace:SLUG` for a whole workspace."""
    if rest.startswith(WHOLE_PREFIX):
        return await open_whole(request, rest.removeprefix(WHOLE_PREFIX).strip())
    usernames = read(rest).usernames
    if not usernames:
        await request.open(ask_modal(EXAMPLE if rest else None))
        return None
    targets = await look_up(request, usernames)
    await request.open(revoke_modal(request, targets, await _traffic(request, targets)))
    return None


async def submit_ask(request: Request) -> Answer:
    text = str(blocks.values(request.view or {}).get("username") or "")
    if looks_like_password(text):
        raise InputInvalid("username", "Enter the username only, never the password.")
    usernames = read(text).usernames
    if not usernames:
        raise InputInvalid("username", EXAMPLE)
    targets = await look_up(request, usernames)
    return Answer(update(revoke_modal(request, targets, await _traffic(request, targets))))


async def look_up(request: Request, usernames: list[str]) -> Targets:
    """Finds each username, wherever it is. Where the person may not even list, it is unknown to them. Raises PersonBarred, RoleUnknown."""
    actor = await request.actor(everywhere=True)
    if actor.barred:
        await record_refusal(request.services.db, What.DELETE, request.origin(actor), PersonBarred(actor.barred), None)
        raise PersonBarred(actor.barred)
    targets = Targets(actor=actor)
    asked = list(dict.fromkeys(usernames))[:MOST]
    async with request.services.db.read() as session:
        known = {one.username: one for one in await credentials.by_usernames(session, asked)}
        allowed: dict[int, tuple[Workspace, bool | None]] = {}
        for username in asked:
            credential = known.get(username)
            if credential is None:
                targets.unknown.append(username)
                continue
            if credential.workspace_id not in allowed:
                workspace = await workspaces.by_id(session, credential.workspace_id)
                try:
                    await access.may(session, actor, Action.DELETE, workspace)
                    allowed[workspace.id] = workspace, True
                except NotAllowed as refusal:
                    allowed[workspace.id] = workspace, False if refusal.may_list else None
            workspace, may = allowed[credential.workspace_id]
            if may is None:
                targets.unknown.append(username)
            elif credential.state == State.DELETED:
                targets.deleted.append(credential)
            elif may:
                targets.found.append((credential, workspace))
            else:
                targets.refused.append((credential, workspace))
    for _, workspace in targets.refused:
        denied = NotAllowed(Action.DELETE, workspace.name, [])
        await record_refusal(request.services.db, What.DELETE, request.origin(actor), denied, workspace)
    return targets


async def _traffic(request: Request, targets: Targets) -> dict[str, mail_servers.Traffic]:
    return await mail_servers.traffic(request.services.db, [one.id for one, _ in targets.found])


async def submit(request: Request) -> Answer:
    token = OnMany.decode(request.metadata)
    request.channel = token.channel
    reason = given_reason(request)
    ids = list(dict.fromkeys(token.credentials))
    actor = await request.actor(everywhere=True)

    async def then() -> None:
        await revoke(request, actor, ids, reason or ("It leaked." if token.leaked else None), token.leaked)

    count = "the credential" if len(ids) == 1 else f"{len(ids)} credentials"
    return Answer(update(notice([line(f"Revoking {count}…")], "Revoking")), then)


async def revoke(request: Request, actor: Actor, ids: list[str], reason: str | None, leaked: bool) -> None:
    """Deletes each in a transaction of its own, and says of each what became of it."""
    services = request.services
    origin = request.origin(actor)
    done: list[tuple[Credential, Workspace]] = []
    rows: list[Block] = []
    for one in ids:
        try:
            credential, workspace = await credentials.delete(services.db, origin, one, reason)
        except Refusal as refusal:
            rows.append(line("Not revoked: ", *texts.sentence(refusal, services.command)))
        else:
            done.append((credential, workspace))
            request.changed = workspace
            rows.append(line("Revoked ", bold(credential.name), " (", code(credential.username), ") in ", bold(workspace.name), "."))
    said: list[Block] = [
        line(f"{len(done)} of {len(ids)} revoked. An app that still uses one needs a new credential before it sends again.")
    ]
    said = said if len(ids) > 1 else []
    after = [line("I can't delete the message it was in; ask its author or a Slack admin to.")] if leaked else []

    def view(proof: Block | None) -> dict[str, Any]:
        return notice([*said, *rows[:90], *after, *([proof] if proof else [])], "Revoked" if done else "Nothing revoked")

    await _show(request, view(None))
    for workspace_id in dict.fromkeys(workspace.id for _, workspace in done):
        here = [(credential, workspace) for credential, workspace in done if workspace.id == workspace_id]
        await notices.deleted(services, [credential for credential, _ in here], here[-1][1], reason)
    if done:
        await impact.follow(request, done[-1][0], What.DELETE, view)


async def _show(request: Request, view: dict[str, Any]) -> None:
    try:
        await request.services.client.views_update(view_id=(request.view or {})["id"], view=view)
    except SlackApiError as error:
        log.info("modal already closed", error=describe(error))
        await request.show(view["blocks"])


def revoke_modal(
    request: Request, targets: Targets, traffic: dict[str, mail_servers.Traffic], leaked: bool = False, more: list[Block] | None = None
) -> dict[str, Any]:
    """One modal for all of them; without one that can be revoked, it only says so."""
    services = request.services
    now = services.db.clock()
    rows: list[Block] = list(more or [])
    if targets.found:
        rows.append(line(bold("Apps that use them stop sending mail right away. This can't be undone.")))
    for credential, workspace in targets.found:
        stops = impact.in_use(credential, traffic[credential.id], now, services.settings.bot_unused_days)
        rows.append(impact.facts(credential, workspace, stops))
    rows += [line(*texts.sentence(credentials.already_deleted(one), services.command)) for one in targets.deleted]
    rows += [line("You can't revoke ", code(one.username), " in ", bold(place.name), ".") for one, place in targets.refused]
    if targets.unknown:
        pieces: list[Piece] = ["No credential that you can see is called "]
        for number, username in enumerate(targets.unknown):
            pieces += [", " if number else "", code(username)]
        rows.append(line(*pieces, "."))
    title = "Revoke leaked credential" if leaked else "Revoke credentials"
    if not targets.found:
        return notice(rows or [line("There is nothing to revoke.")], title)
    rows = [*rows[:95], reason_field()]
    metadata = OnMany(credentials=[one.id for one, _ in targets.found], channel=request.channel, leaked=leaked).encode()
    return modal(title, rows, REVOKE, submit="Revoke", close="Keep them", metadata=metadata)


def ask_modal(said: str | None, leaked: bool = False) -> dict[str, Any]:
    rows = [line(said), DIVIDER] if said else []
    element = {"type": "plain_text_input", "placeholder": plain("smtp-acme-7k2m9x4q"), "focus_on_load": True}
    rows.append(blocks.field("SMTP username", "username", element, "Enter the username only. Never paste the password."))
    return modal("Revoke leaked credential" if leaked else "Revoke credentials", rows, ASK, submit="Find it", close="Cancel")


# --- a whole workspace ---
async def open_whole(request: Request, slug: str) -> None:
    """For an owner or an admin of it. Raises NoSuchWorkspace, NotAllowed."""
    async with request.services.db.read() as session:
        workspace = await workspaces.by_slug(session, slug)
    if workspace is None:
        raise NoSuchWorkspace
    await request.allow(Action.ADMINISTER, workspace, What.DELETE)
    count = workspace.credential_count
    warning = (
        f"All {count} credentials of this mail workspace stop working. Everything that sends mail through it stops. This can't be undone."
    )
    typed_slug = {"type": "plain_text_input", "placeholder": plain(workspace.slug)}
    rows = [
        line(bold(warning)),
        line("Mail workspace  ", bold(workspace.name)),
        blocks.field("Type its short name to confirm", "slug", typed_slug, workspace.slug),
        reason_field(),
    ]
    metadata = OnSlug(slug=workspace.slug, channel=request.channel).encode()
    await request.open(modal("Revoke everything?", rows, WHOLE, submit="Revoke all", close="Keep them", metadata=metadata))


async def submit_whole(request: Request) -> Answer:
    services = request.services
    token = OnSlug.decode(request.metadata)
    request.channel = token.channel
    if (blocks.values(request.view or {}).get("slug") or "").strip() != token.slug:
        raise InputInvalid("slug", f"Type {token.slug} to confirm.")
    reason = given_reason(request)
    async with services.db.read() as session:
        workspace = await workspaces.by_slug(session, token.slug)
    if workspace is None:
        raise NoSuchWorkspace
    actor, _ = await request.allow(Action.ADMINISTER, workspace, What.DELETE)

    async def then() -> None:
        gone: list[Credential] = []
        while some := await credentials.delete_some(services.db, request.origin(actor), workspace.id, reason):
            gone += some
        request.changed = workspace

        def view(proof: Block | None) -> dict[str, Any]:
            return notice(
                [line(f"Revoked all {len(gone)} credentials of ", bold(workspace.name), "."), *([proof] if proof else [])], "Revoked"
            )

        await _show(request, view(None))
        if gone:
            await notices.deleted(services, gone, workspace, reason)
            await impact.follow(request, gone[-1], What.DELETE, view)

    said = [line("Revoking everything in ", bold(workspace.name), "…"), foot("This window says when it is done.")]
    return Answer(update(notice(said, "Revoking")), then)

"""Revoking by username, one or many, in whatever workspace they are, from any channel or direct message.

`/smtp revoke X Y Z` or the message shortcut (`leak.py`) opens one modal that shows each; submitting it deletes them in one transaction, and
the modal says of each what became of it. `workspace:SLUG` stops everything of a workspace: reversibly, or for ever.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from slack_bolt.app.async_app import AsyncApp

from bot import blocks, impact, queue, suspend, texts
from bot.blocks import DIVIDER, VIEW_BLOCKS_MAX, Block, Piece, actions, bold, code, line, modal, option, plain, principal, when
from bot.codec import OnCredential, OnMany, OnSlug
from bot.delivery import outside
from bot.door import EVERYWHERE, Answer, Door, InputInvalid, Request, notice, update
from bot.reason import asked_for, given_reason, reason_field
from bot.target import allowed
from storage import access, credentials, listing, mail_servers, workspaces
from storage import queue as queue_orders
from storage.access import Action, Actor
from storage.audit import Origin, What, record_refusal
from storage.credentials import Revoked
from storage.database import Transaction
from storage.mail_servers import Traffic
from storage.models import Credential, State, Workspace
from storage.names import looks_like_password
from storage.refusals import NoSuchCredential, NotAllowed, NotSuspended, PersonBarred, Refusal
from storage.typed import read

REVOKE = "revoke_credentials"
LEAK_SUSPEND = "leak_suspend"
LEAK_UNDO = "leak_undo"
ASK = "ask_username"
WHOLE = "revoke_workspace"
RESUME_WHOLE = "resume_workspace"
WHOLE_PREFIX = "workspace:"
MOST = 50
FEW = 20  # in one modal that leave room for buttons beside each
COUNTED_EVERY = 1.0  # seconds
SUSPEND_ALL = option("Suspend all", "suspend", "Reversible: they can be resumed with the same passwords.")
REVOKE_ALL = option("Revoke all", "revoke", "Deletes every one of them. This can't be undone.")
REPORTED = "If this is one of ours, the people who can revoke it now know. Please delete the message if it is yours."
EXAMPLE = "Enter a username, such as smtp-acme-7k2m9x4q."


@dataclass(frozen=True)
class Targets:
    """The credentials that typed usernames mean to this person, each in one of these lists."""

    found: list[tuple[Credential, Workspace]]
    deleted: list[Credential]
    refused: list[tuple[Credential, Workspace]]
    unknown: list[str]
    """Those that do not exist, or that the person may not know of."""
    traffic: dict[str, Traffic]
    hidden: list[Credential] = field(default_factory=list)
    """Of the unknown ones those that exist. Never shown."""
    resumable: set[str] = field(default_factory=set)
    """The ids of the found ones that the person may resume."""
    holdable: bool = False
    """Some mail server takes orders about its queue."""
    left_out: int = 0
    """So many more were asked for."""


def register(app: AsyncApp, door: Door) -> None:
    app.view(REVOKE)(door.submission(submit))
    app.action(LEAK_SUSPEND)(door.work(suspend_in_modal))
    app.action(LEAK_UNDO)(door.work(undo_in_modal))
    app.view(ASK)(door.submission(submit_ask))
    app.view(WHOLE)(door.submission(submit_whole))
    app.view(RESUME_WHOLE)(door.submission(submit_resume_all))


async def typed(request: Request, rest: str) -> None:
    """`/smtp revoke <username> [...]`, pasted in any form; `/smtp revoke workspace:SLUG` for a whole workspace."""
    if rest.startswith(WHOLE_PREFIX):
        return await open_whole(request, rest.removeprefix(WHOLE_PREFIX).strip())
    usernames = read(rest).usernames
    if not usernames:
        await request.open(ask_modal(EXAMPLE if rest else None))
        return None
    await request.open(revoke_modal(request, await look_up(request, usernames)))
    return None


async def submit_ask(request: Request) -> Answer:
    text = str(blocks.values(request.view or {}).get("username") or "")
    if looks_like_password(text):
        raise InputInvalid("username", "Enter the username only, never the password.")
    usernames = read(text).usernames
    if not usernames:
        raise InputInvalid("username", EXAMPLE)
    return Answer(update(revoke_modal(request, await look_up(request, usernames))))


async def look_up(request: Request, usernames: list[str], what: What = What.DELETE) -> Targets:
    """Finds each username, wherever it is. Where the person may not even list, it is unknown to them. Raises PersonBarred, RoleUnknown.

    Args:
        what: they tried, when they may not.
    """
    db = request.services.db
    actor = await request.actor(EVERYWHERE)
    asked = list(dict.fromkeys(usernames))
    targets, denials = await request.read(What.DELETE, actor, _targets, actor, asked[:MOST])
    targets = replace(targets, left_out=max(len(asked) - MOST, 0))
    for refusal, username in denials:
        await db.change(record_refusal, what, request.origin(actor), refusal, username)
    return targets


def _targets(tx: Transaction, actor: Actor, usernames: list[str]) -> tuple[Targets, list[tuple[Refusal, str]]]:
    """With what the person was denied, by username."""
    if actor.barred:
        raise PersonBarred(actor.barred)
    targets = Targets([], [], [], [], {}, holdable=queue_orders.hosts(tx))
    denials: list[tuple[Refusal, str]] = []
    known = {one.username: one for one in listing.by_usernames(tx, usernames)}
    places: dict[int, tuple[Workspace, NotAllowed | None]] = {}
    for username in usernames:
        credential = known.get(username)
        if credential is None:
            targets.unknown.append(username)
            denials.append((NoSuchCredential(), username))
            continue
        if credential.workspace_id not in places:
            workspace, denied = workspaces.by_id(tx, credential.workspace_id), None
            try:
                access.may(tx, actor, Action.DELETE, workspace)
            except NotAllowed as refusal:
                denied = refusal
            places[workspace.id] = workspace, denied
        workspace, denied = places[credential.workspace_id]
        if denied is not None:
            denials.append((denied, username))
        if denied is not None and denied.role is None:
            targets.unknown.append(username)
            targets.hidden.append(credential)
        elif credential.state == State.DELETED:
            targets.deleted.append(credential)
        elif denied is None:
            targets.found.append((credential, workspace))
            if Action.CREATE in access.allowed(access.rights(tx, actor, workspace)):
                targets.resumable.add(credential.id)
        else:
            targets.refused.append((credential, workspace))
    targets.traffic.update(mail_servers.traffic(tx, [one.id for one, _ in targets.found]))
    return targets, denials


async def open_leaked(request: Request, credential_id: str) -> None:
    """From an alarm. Raises NoSuchCredential, AlreadyDeleted, NotAllowed, RoleUnknown, PersonBarred, TriggerExpired."""
    credential, _ = await allowed(request, credential_id, Action.DELETE, What.DELETE)
    if credential.state == State.DELETED:
        raise credentials.already_deleted(credential)
    await request.open(revoke_modal(request, await look_up(request, [credential.username]), leaked=True))


async def suspend_in_modal(request: Request) -> None:
    await _press(request, suspend.suspend_now)


async def undo_in_modal(request: Request) -> None:
    await _press(request, suspend.undo)


async def _press(request: Request, act: Callable[[Request, str], Awaitable[None]]) -> None:
    """One press beside one of the credentials in the modal of a leak; then the modal shows them all as they are."""
    token = OnMany.decode(request.metadata)
    request.channel = token.channel
    with contextlib.suppress(*suspend.NOT_AS_SHOWN):
        await act(request, OnCredential.decode(request.value).credential)
    usernames = await request.services.db.read(_usernames, token.credentials)
    more = [line(REPORTED)] if token.reported else []
    view = revoke_modal(request, await look_up(request, usernames), token.leaked, more, token.reported)
    await request.services.slack.update_view((request.view or {})["id"], view)


def _usernames(tx: Transaction, credential_ids: list[str]) -> list[str]:
    return [credentials.get(tx, one)[0].username for one in credential_ids]


async def submit(request: Request) -> Answer:
    """Deletes all of them in one transaction, before anything is said."""
    token = OnMany.decode(request.metadata)
    request.channel = token.channel
    reason = given_reason(request) or ("It leaked." if token.leaked else None)
    origin = request.origin(await request.actor(EVERYWHERE))
    with asked_for():
        revoked, traffic, orders = await request.services.db.change(_revoke, origin, token.credentials, reason, queue.is_ticked(request))

    def view(*news: Block) -> dict[str, Any]:
        return revoked_view(revoked, traffic, token.leaked, request.services.command, news)

    async def show(news: list[Block]) -> bool:
        return await request.show_result(view(*news))

    async def watch() -> None:
        gone = revoked.done[-1][0]
        if orders:
            await queue.follow(request, orders, show, gone)
        else:
            await impact.follow(request, gone, What.DELETE, view)

    return Answer(update(view()), watch=watch if revoked.done else None)


def _revoke(
    tx: Transaction, origin: Origin, credential_ids: list[str], reason: str | None, hold: bool
) -> tuple[Revoked, dict[str, Traffic], list[int]]:
    """With what the revoked ones sent, and the orders to hold what they have queued."""
    revoked = credentials.revoke_each(tx, origin, credential_ids, reason)
    done = [one.id for one, _ in revoked.done]
    orders = queue_orders.order(tx, origin, queue_orders.Act.HOLD, done) if hold else []
    return revoked, mail_servers.traffic(tx, done), orders


def revoked_view(revoked: Revoked, traffic: Mapping[str, Traffic], leaked: bool, command: str, news: Sequence[Block]) -> dict[str, Any]:
    """Says of each what became of it. `traffic`: by credential id; `news`: what the mail servers say."""
    total = len(revoked.done) + len(revoked.refused)
    rows: list[Block] = []
    if total > 1:
        rows.append(
            line(f"{len(revoked.done)} of {total} revoked. An app that still uses one needs a new credential before it sends again.")
        )
    for credential, workspace in revoked.done:
        sent = impact.sent(credential, traffic[credential.id])
        said = [f" It sent {sent}."] if sent else []
        rows.append(line("Revoked ", bold(credential.name), " (", code(credential.username), ") in ", bold(workspace.name), ".", *said))
    rows += [line("Not revoked: ", *texts.sentence(refusal, command)) for refusal in revoked.refused.values()]
    after = [line("I can't delete the message it was in; ask its author or a Slack admin to.")] if leaked else []
    shown = [*rows[: VIEW_BLOCKS_MAX - len(after) - len(news)], *after, *news]
    return notice(shown, "Revoked" if revoked.done else "Nothing revoked")


def revoke_modal(
    request: Request, targets: Targets, leaked: bool = False, more: list[Block] | None = None, reported: bool = False
) -> dict[str, Any]:
    """One modal for all of them; without one that can be revoked, it only says so.

    Args:
        more: said first.
        reported: others in the message were reported to those who can revoke them, which is said again after a press.
    """
    services = request.services
    now = services.db.clock()
    rows: list[Block] = list(more or [])
    few = len(targets.found) <= FEW
    if targets.found:
        rows.append(line(bold("Apps that use them stop sending mail right away. This can't be undone.")))
    for number, (credential, workspace) in enumerate(targets.found):
        rows += [DIVIDER] if number and few else []
        stops = impact.in_use(credential, targets.traffic[credential.id], now, services.settings.bot_unused_days)
        rows.append(impact.facts(credential, workspace, targets.traffic[credential.id].reported, stops))
        rows += _one_press(credential, credential.id in targets.resumable) if leaked and few else []
    rows += [_already(one, leaked, services.command) for one in targets.deleted]
    rows += [line("You can't revoke ", code(one.username), " in ", bold(place.name), ".") for one, place in targets.refused]
    if targets.unknown and not leaked:
        pieces: list[Piece] = ["No credential that you can see is called "]
        for number, username in enumerate(targets.unknown):
            pieces += [", " if number else "", code(username)]
        rows.append(line(*pieces, "."))
    if targets.left_out:
        rows.insert(0, line(bold(f"{targets.left_out} more were not looked at. Do these first, then the rest in another go.")))
    title = "Revoke leaked credential" if leaked else "Revoke credentials"
    if not targets.found:
        return notice(rows or [line("There is nothing to revoke.")], title)
    fields = [*([queue.box(leaked)] if targets.holdable else []), reason_field()]
    rows = [*rows[: VIEW_BLOCKS_MAX - len(fields)], *fields]
    metadata = OnMany(credentials=[one.id for one, _ in targets.found], channel=request.channel, leaked=leaked, reported=reported).encode()
    return modal(title, rows, REVOKE, submit="Revoke", close="Keep them", metadata=metadata)


def _one_press(credential: Credential, resumable: bool) -> list[Block]:
    """Reversible beats certain at three in the morning."""
    value = OnCredential(credential=credential.id).encode()
    if credential.state == State.ACTIVE:
        return [actions(suspend.buttons(LEAK_SUSPEND, LEAK_UNDO, value, suspended=False))]
    if credential.state != State.SUSPENDED or credential.suspended_at is None:
        return []
    at = when(credential.suspended_at)
    said = line(bold("Suspended"), " by ", principal(credential.suspended_by or ""), " (", at, "): mail servers refuse it.")
    return [said, actions(suspend.buttons(LEAK_SUSPEND, LEAK_UNDO, value, suspended=True))] if resumable else [said]


def _already(credential: Credential, leaked: bool, command: str) -> Block:
    if not leaked:
        return line(*texts.sentence(credentials.already_deleted(credential), command))
    at: list[Piece] = [" (", when(credential.deleted_at), ")"] if credential.deleted_at else []
    return line(bold(credential.name), ": already revoked by ", principal(credential.deleted_by or ""), *at, ". Nothing left to do.")


def ask_modal(said: str | None, leaked: bool = False) -> dict[str, Any]:
    rows = [line(said), DIVIDER] if said else []
    element = {"type": "plain_text_input", "placeholder": plain("smtp-acme-7k2m9x4q"), "focus_on_load": True}
    rows.append(blocks.field("SMTP username", "username", element, "Enter the username only. Never paste the password."))
    return modal("Revoke leaked credential" if leaked else "Revoke credentials", rows, ASK, submit="Find it", close="Cancel")


# --- a whole workspace ---
async def open_whole(request: Request, slug: str) -> None:
    """For an owner or an admin of it. Raises NoSuchWorkspace, NotAllowed."""
    workspace = await request.services.db.read(workspaces.named, slug)
    await request.allow(Action.ADMINISTER, workspace, What.REVOKE_ALL)
    holdable = await request.services.db.read(queue_orders.hosts)
    count = workspace.credential_count
    warning = f"All {count:,} credentials of this mail workspace stop working. Everything that sends mail through it stops."
    typed_slug = {"type": "plain_text_input", "placeholder": plain(workspace.slug)}
    choice = {
        "type": "radio_buttons",
        "options": [SUSPEND_ALL, REVOKE_ALL] if workspace.suspended_at is None else [REVOKE_ALL],
        "initial_option": SUSPEND_ALL if workspace.suspended_at is None else REVOKE_ALL,
    }
    rows = [
        line(bold(warning)),
        line("Mail workspace  ", bold(workspace.name)),
        *([line("It is suspended now.")] if workspace.suspended_at else []),
        blocks.field("Do this", "do", choice),
        *([queue.box(ticked=True, choice=queue.BOX_ALL)] if holdable else []),
        blocks.field("Type its short name to confirm", "slug", typed_slug, workspace.slug),
        reason_field(),
    ]
    metadata = OnSlug(slug=workspace.slug, channel=request.channel).encode()
    await request.open(modal("Stop everything?", rows, WHOLE, submit="Stop all", close="Cancel", metadata=metadata))


async def submit_whole(request: Request) -> Answer:
    """Suspends the workspace in one row; deleting its credentials is an order that goes on by itself."""
    db = request.services.db
    token = OnSlug.decode(request.metadata)
    request.channel = token.channel
    given = blocks.values(request.view or {})
    if (given.get("slug") or "").strip() != token.slug:
        raise InputInvalid("slug", f"Type {token.slug} to confirm.")
    reason = given_reason(request)
    workspace = await db.read(workspaces.named, token.slug)
    origin = request.origin(await request.actor(workspace))
    count = workspace.credential_count
    stop = credentials.order_revocation if given.get("do") == REVOKE_ALL["value"] else workspaces.suspend_all
    with asked_for():
        workspace, orders = await db.change(_stop_all, stop, origin, workspace.id, reason, queue.is_ticked(request))

    async def counted() -> None:
        await follow_order(request, workspace, count)

    if stop is credentials.order_revocation:
        return Answer(update(ordered_view(workspace, 0, count)), watch=counted)

    def view(*news: Block) -> dict[str, Any]:
        return all_suspended_view(workspace, request.services.command, news)

    async def show(news: list[Block]) -> bool:
        return await request.show_result(view(*news))

    async def held() -> None:
        await queue.follow(request, orders, show)

    return Answer(update(view()), watch=held if orders else None)


def _stop_all(
    tx: Transaction, stop: Callable[..., Workspace], origin: Origin, workspace_id: int, reason: str | None, hold: bool
) -> tuple[Workspace, list[int]]:
    """With the orders to hold what its credentials have queued."""
    workspace = stop(tx, origin, workspace_id, reason)
    return workspace, queue_orders.hold_all(tx, origin, workspace_id) if hold else []


def all_suspended_view(workspace: Workspace, command: str, news: Sequence[Block] = ()) -> dict[str, Any]:
    """`news`: what the mail servers say of their queues."""
    said = [
        line("Suspended all credentials of ", bold(workspace.name), ": mail servers refuse each of them from the next log-in on."),
        line("To let them work again, type ", code(f"{command} resume workspace:{workspace.slug}"), "."),
    ]
    return notice([*said, *news], "Workspace suspended")


async def follow_order(request: Request, workspace: Workspace, count: int) -> None:
    """Counts in the modal while the order is worked off, as long as the person looks."""
    shown = 0
    while True:
        left = (await request.services.db.read(workspaces.by_id, workspace.id)).credential_count
        if count - left != shown or not left:
            shown = count - left
            if not await request.show_result(ordered_view(workspace, shown, count)) or not left:
                return
        async with outside():
            await asyncio.sleep(COUNTED_EVERY)


def ordered_view(workspace: Workspace, done: int, count: int) -> dict[str, Any]:
    if done >= count:
        return notice([line(f"Revoked all {count:,} credentials of ", bold(workspace.name), ".")], "Revoked")
    rows = [
        line(bold(workspace.name), " is suspended: mail servers refuse all its credentials from the next log-in on."),
        line(f"Revoking them: {done:,} of {count:,}. You can close this window; I'll tell you when it is done."),
    ]
    return notice(rows, "Revoking")


async def open_resume_all(request: Request, slug: str) -> None:
    """`/smtp resume workspace:SLUG`. Raises NoSuchWorkspace, NotAllowed, NotSuspended."""
    workspace = await request.services.db.read(workspaces.named, slug)
    await request.allow(Action.ADMINISTER, workspace, What.RESUME_ALL)
    if workspace.suspended_at is None:
        raise NotSuspended(workspace.name)
    rows = [
        line(bold(f"All {workspace.credential_count:,} credentials of this mail workspace work again, with the same passwords.")),
        line("Mail workspace  ", bold(workspace.name)),
        line(
            "Suspended by ",
            principal(workspace.suspended_by or ""),
            " (",
            when(workspace.suspended_at),
            "). Those suspended one by one stay so.",
        ),
    ]
    metadata = OnSlug(slug=workspace.slug, channel=request.channel).encode()
    await request.open(modal("Resume workspace?", rows, RESUME_WHOLE, submit="Resume all", close="Cancel", metadata=metadata))


async def submit_resume_all(request: Request) -> Answer:
    token = OnSlug.decode(request.metadata)
    request.channel = token.channel
    workspace = await request.services.db.read(workspaces.named, token.slug)
    origin = request.origin(await request.actor(workspace))
    workspace = await request.services.db.change(workspaces.resume_all, origin, workspace.id)
    return Answer(update(notice([line("The credentials of ", bold(workspace.name), " work again.")], "Workspace resumed")))

"""Who answers for a credential: **Owner…** in a row's menu, behind **More…**; and what admins read when an owner leaves the Slack team.

The message about somebody who left lists what they owned, each with **Take over**, **Give to…** and **Suspend**; it settles, and what has a
new owner is no longer in it.
"""

from collections.abc import Sequence
from typing import Any

from slack_bolt.app.async_app import AsyncApp

from bot import blocks, texts
from bot.access_modal import GROUP, group_menu, user_groups
from bot.blocks import Block, Piece, actions, bold, button, code, field, foot, line, modal, option, people, plain, principal
from bot.codec import OnOwner
from bot.door import Answer, Door, InputInvalid, Request, notice, update
from bot.slack import Away, Ok, Refused
from bot.target import allowed, presser
from storage import access, audit, lifecycle, owners, workspaces
from storage.access import Action
from storage.audit import What
from storage.database import Transaction
from storage.models import AuditEvent, Credential, State, Workspace
from storage.refusals import AlreadyDeleted, AlreadyOwned, IsSuspended, OwnerGone, RoleUnknown, SurfaceOutdated

OPEN_OWNER = "open_owner"
OWNER = "change_owner"
TAKE_OVER = "take_over"
GIVE_TO = "give_to"
SUSPEND_LEFT = "suspend_left"


def register(app: AsyncApp, door: Door) -> None:
    app.action(OPEN_OWNER)(door.work(pressed))
    app.action(GIVE_TO)(door.work(pressed))
    app.view(OWNER)(door.submission(submit))
    app.action(TAKE_OVER)(door.work(take_over))
    app.action(SUSPEND_LEFT)(door.work(suspend))


async def pressed(request: Request) -> None:
    token = OnOwner.decode(request.value)
    await open_for(request, token.model_copy(update={"channel": request.channel or token.channel}))


async def open_modal(request: Request, credential_id: str) -> None:
    """Raises NoSuchCredential, AlreadyDeleted, NotAllowed, RoleUnknown, PersonBarred, TriggerExpired."""
    await open_for(request, OnOwner(credential=credential_id, channel=request.channel))


async def open_for(request: Request, token: OnOwner) -> None:
    credential, workspace = await allowed(request, token.credential, Action.CREATE, What.OWNER)
    lifecycle.check_live(credential)
    await request.open(owner_modal(credential, workspace, await user_groups(request), token))


async def submit(request: Request) -> Answer:
    services = request.services
    token = OnOwner.decode(request.metadata)
    request.channel = token.channel
    given = blocks.values(request.view or {})
    chosen = [one for one in (given.get("person"), given.get("group")) if one]
    if len(chosen) != 1:
        both = "You chose a person and a group. Clear one of them."
        raise InputInvalid("person", both if chosen else "Choose a person or a user group.")
    origin = await presser(request, token.credential)
    try:
        await check_member(request, chosen[0])
        credential, _ = await services.db.change(owners.change, origin, token.credential, chosen[0])
    except (OwnerGone, RoleUnknown) as refusal:
        raise InputInvalid("person", blocks.flat(texts.sentence(refusal, services.command))) from None
    said = line(bold(credential.name), " belongs to ", principal(chosen[0]), " now. Reminders go there.")
    return Answer(update(notice([said], "Owner changed")))


async def check_member(request: Request, chosen: str) -> None:
    """Whether it is a person of this Slack team, or a user group. Raises OwnerGone, RoleUnknown (Slack does not say)."""
    if chosen.startswith("S"):
        return
    match await request.services.slack.user(chosen):
        case Ok(account):
            if account.deleted or account.bot or account.stranger:
                raise OwnerGone
        case Refused("user_not_found" | "user_not_visible"):
            raise OwnerGone
        case Refused() | Away():
            raise RoleUnknown


async def take_over(request: Request) -> None:
    token = OnOwner.decode(request.value)
    origin = await presser(request, token.credential)

    def change(tx: Transaction) -> tuple[Credential, Workspace]:
        return owners.change(tx, origin, token.credential, request.user, instead_of=gone_person(_told_of(tx, token.event or 0)))

    try:
        await request.services.db.change(change)
    except (AlreadyDeleted, AlreadyOwned):
        await request.draw_anew()
        raise


async def suspend(request: Request) -> None:
    token = OnOwner.decode(request.value)
    origin = await presser(request, token.credential)
    try:
        await request.services.db.change(lifecycle.suspend, origin, token.credential, "its owner left the Slack team")
    except (AlreadyDeleted, IsSuspended):
        await request.draw_anew()


def owner_modal(credential: Credential, workspace: Workspace, groups: list[tuple[str, str]], token: OnOwner) -> dict[str, Any]:
    owner = credential.owner or credential.created_by
    rows: list[Block] = [
        line(bold(credential.name), " (", code(credential.username), ") in ", bold(workspace.name), " belongs to ", principal(owner), "."),
        field("Person", "person", {"type": "users_select"}, "Reads reminders about it. Owning it gives no role.", optional=True),
    ]
    if groups:
        element = group_menu([option(handle, group) for group, handle in groups])
        hint = "It is mentioned in the workspace's channels instead."
        rows.append(field("Or a user group", "group", element, hint, optional=True, action_id=GROUP))
    return modal("Owner", rows, OWNER, submit="Save", close="Cancel", metadata=token.encode())


# --- what is said when somebody left ---
def look(tx: Transaction, event_id: int, team: str) -> tuple[AuditEvent, Workspace, list[Credential], int, list[str]] | None:
    """What `left_message` draws: the audit row, its workspace, some of what they own there, how much that is, and who can help.

    None for a role in all workspaces. Raises SurfaceOutdated, NoSuchWorkspace.
    """
    event = _told_of(tx, event_id)
    if event.workspace_id is None:
        return None
    workspace = workspaces.by_id(tx, event.workspace_id)
    owned, count = owners.owned_by(tx, gone_person(event), workspace.id)
    return event, workspace, owned, count, access.helpers(tx, team, workspace)


def _told_of(tx: Transaction, event_id: int) -> AuditEvent:
    event = next(iter(audit.events(tx, event_id, event_id)), None)
    if event is None or event.action != What.LEFT:
        raise SurfaceOutdated
    return event


def gone_person(event: AuditEvent) -> str:
    return (event.subject or "").partition(" ")[0]


def left_message(event: AuditEvent, workspace: Workspace, owned: Sequence[Credential], count: int, admins: Sequence[str]) -> list[Block]:
    """For the admins of a workspace."""
    person, _, role = (event.subject or "").partition(" ")
    said: list[Piece] = [principal(person), " left the Slack team."]
    if role:
        said.append(f" Their role ended: {role} in {workspace.name}.")
    rows = [line(*said)]
    if not owned:
        return [*rows, line("No credential in ", bold(workspace.name), " belongs to them any more.")]
    rows.append(line(f"These {count} credentials in " if count > 1 else "This credential in ", bold(workspace.name), " belonged to them."))
    for one in owned:
        rows += _row(one, OnOwner(credential=one.id, event=event.id))
    if count > len(owned):
        rows.append(foot(f"And {count - len(owned)} more in my Home tab, under Owner gone."))
    return [*rows, *([line("Can decide: ", *people(admins), ".")] if admins else [])]


def _row(credential: Credential, token: OnOwner) -> list[Block]:
    value = token.encode()
    suspended = credential.state == State.SUSPENDED
    offers = [button("Take over", TAKE_OVER, value), button("Give to…", GIVE_TO, value)]
    if not suspended:
        offers.append(button("Suspend", SUSPEND_LEFT, value))
    text = plain(f"{credential.name}{' (suspended)' if suspended else ''}\n{credential.username}")
    return [{"type": "section", "text": text}, actions(*offers)]


def gone_everywhere(event: AuditEvent) -> list[Block]:
    """For the app's owners, of somebody who had a role in all workspaces."""
    person, _, role = (event.subject or "").partition(" ")
    return [line(principal(person), f" left the Slack team. Their role in all mail workspaces ended: {role}.")]


def given(credential: Credential, workspace: Workspace, by: str, command: str) -> list[Block]:
    """For its new owner."""
    return [
        line(
            principal(by), " made you the owner of the SMTP credential ", bold(credential.name), " (", code(credential.username), ") in ",
            bold(workspace.name), ".",
        ),
        line("I'll tell you before it expires, and when nothing uses it. To see it: ", code(f"{command} whois {credential.username}")),
    ]  # fmt: skip

"""One credential in a list or in the Home tab: what stands there, and the menu of what can be done with it."""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from slack_bolt.app.async_app import AsyncApp

from bot import delete, expiry, impact, limits, owner, rotate, suspend
from bot.blocks import Block, actions, bold, button, code, line, modal, mrkdwn, option, plain, principal_mrkdwn, when_mrkdwn
from bot.codec import Does, InRow, OnCredential
from bot.door import Door, Request
from bot.services import ListMessage
from storage import credentials
from storage.access import TABLE, Action
from storage.audit import What
from storage.lifecycle import has_expired, has_old_password
from storage.mail_servers import Traffic
from storage.models import Credential, Listed, State
from storage.refusals import AlreadyDeleted, IsSuspended, NoSuchCredential, NotSuspended, SurfaceOutdated

ROW_MENU = "row_menu"
MENU_MAX = 5  # options of an overflow menu: docs.slack.dev, reference/block-kit/block-elements/overflow-menu-element
OPENS: dict[Does, Callable[[Request, str], Awaitable[None]]] = {
    Does.ROTATE: rotate.open_modal,
    Does.END_OLD: rotate.open_end_old,
    Does.SUSPEND: suspend.open_modal,
    Does.RESUME: suspend.open_resume,
    Does.EXTEND: expiry.open_modal,
    Does.DELETE: delete.open_modal,
}
STALE = (AlreadyDeleted, IsSuspended, NotSuspended, NoSuchCredential)
"""The row is no longer as it was drawn."""
BUTTONS = {Does.EXTEND: expiry.OPEN_EXTEND, Does.OWNER: owner.OPEN_OWNER, Does.LIMITS: limits.OPEN_LIMITS}


def register(app: AsyncApp, door: Door) -> None:
    async def act(request: Request) -> None:
        try:
            await chosen(request)
        except STALE:
            await door.list_anew(request)
            raise

    app.action(ROW_MENU)(door.work(act))


async def chosen(request: Request) -> None:
    credential_id = InRow.decode(request.block_id).credential
    if request.value == Does.MORE:
        await open_more(request, credential_id)
    elif request.value in OPENS:
        await OPENS[Does(request.value)](request, credential_id)
    else:
        raise SurfaceOutdated
    shown = list_of(request)
    if request.opened and shown is not None:
        request.services.lists.keep(request.opened, shown)


def list_of(request: Request) -> ListMessage | None:
    """The list in whose row this was chosen; None elsewhere."""
    if request.action.get("action_id") != ROW_MENU or not (request.response_url and request.channel):
        return None
    place = InRow.decode(request.block_id).place
    return ListMessage(request.response_url, request.channel, place) if place else None


async def open_more(request: Request, credential_id: str) -> None:
    """What is seldom done with it, each with a button that opens its own modal over this one. Raises NoSuchCredential, NotAllowed."""
    credential, workspace = await request.services.db.read(credentials.get, credential_id)
    _, right = await request.allow(Action.CREATE, workspace, What.OPEN)
    value = OnCredential(credential=credential.id, channel=request.channel).encode()
    now = request.services.db.clock()
    offers = [button(label, BUTTONS[does], value) for does, label in more(credential, TABLE[right.role], now).items()]
    about = line(bold(credential.name), " (", code(credential.username), ") in ", bold(workspace.name))
    await request.open(modal("More", [about, *([actions(*offers)] if offers else [])]))


def draw(credential: Listed, traffic: Traffic, allowed: frozenset[Action], now: datetime, unused_days: int, place: str) -> Block:
    """One row of a list.

    Args:
        allowed: what the reader may do.
        unused_days: without a log-in, after which it is marked.
        place: in the list, to draw it anew there.
    """
    created = f"Created {when_mrkdwn(credential.created_at)} by {principal_mrkdwn(credential.created_by)}"
    if credential.owner not in (None, credential.created_by):
        created += f", belongs to {principal_mrkdwn(credential.owner or '')}"
    says = [created, _used(credential, now, unused_days, traffic.reported), *_lately(traffic), *_states(credential, now)]
    name = credential.name
    if credential.state == State.SUSPENDED:
        name += " (suspended)"
    if has_expired(credential, now):
        name += " (expired)"
    made: Block = {
        "type": "section",
        "block_id": InRow(credential.id, place).encode(),
        "text": plain(name),
        "fields": [mrkdwn(f"`{credential.username}`"), mrkdwn("\n".join(says))],
    }
    offers = menu(credential, allowed, now)
    if offers:
        options = [_option(label, does) for does, label in offers.items()]
        made["accessory"] = {"type": "overflow", "action_id": ROW_MENU, "options": options}
    return made


@cache
def _option(label: str, does: Does) -> dict[str, Any]:
    return option(label, does.value)


def menu(credential: Listed | Credential, allowed: frozenset[Action], now: datetime) -> dict[Does, str]:
    """What the reader may do with it now; what does not fit into Slack's five options, or is seldom done, stands behind **More…**."""
    return _divided(credential, allowed, now)[0]


def more(credential: Listed | Credential, allowed: frozenset[Action], now: datetime) -> dict[Does, str]:
    """What stands behind **More…**."""
    return _divided(credential, allowed, now)[1]


def _divided(credential: Listed | Credential, allowed: frozenset[Action], now: datetime) -> tuple[dict[Does, str], dict[Does, str]]:
    """What stands in the menu, and what behind **More…**."""
    often = _often(credential, allowed, now)
    if Action.CREATE not in allowed or credential.state not in (State.ACTIVE, State.SUSPENDED):
        return often, {}
    squeezed = {Does.EXTEND: often.pop(Does.EXTEND)} if len(often) >= MENU_MAX else {}
    return {**often, Does.MORE: "More…"}, {**squeezed, Does.OWNER: "Owner…", Does.LIMITS: "Limits…"}


def _often(credential: Listed | Credential, allowed: frozenset[Action], now: datetime) -> dict[Does, str]:
    suspended = credential.state == State.SUSPENDED
    offers: dict[Does, str] = {}
    if Action.CREATE in allowed and not suspended and not has_expired(credential, now):
        offers[Does.ROTATE] = "Rotate password…"
    if Action.DELETE in allowed and has_old_password(credential, now):
        offers[Does.END_OLD] = "End the old one now…"
    if Action.CREATE in allowed and suspended:
        offers[Does.RESUME] = "Resume…"
    if Action.DELETE in allowed and not suspended:
        offers[Does.SUSPEND] = "Suspend…"
    if Action.CREATE in allowed:
        offers[Does.EXTEND] = "Extend…" if credential.expires_at else "Set expiry…"
    if Action.DELETE in allowed:
        offers[Does.DELETE] = "Delete…"
    return offers


def _used(credential: Listed, now: datetime, unused_days: int, reported: bool) -> str:
    if not reported and credential.last_used_at is None:
        return "Last use: not reported by your mail server"
    used = f"Last used {when_mrkdwn(credential.last_used_at)}" if credential.last_used_at else "Never used"
    if credential.last_used_from:
        used += f" from {credential.last_used_from}"
    if reported and (credential.last_used_at or credential.created_at) <= now - timedelta(days=unused_days):
        used = f"*Not used for {unused_days} days.* {used}"
    return used


def _lately(traffic: Traffic) -> list[str]:
    """What it did in the last day; nothing when it did nothing."""
    counted = [impact.number(traffic.day, "log-in")] if traffic.day else []
    counted += [impact.number(traffic.messages_day, "message")] if traffic.messages_day else []
    return [f"{', '.join(counted)} in the last day"] if counted else []


def _states(credential: Listed, now: datetime) -> list[str]:
    says = []
    if credential.state == State.SUSPENDED and credential.suspended_at:
        says.append(f"Suspended {when_mrkdwn(credential.suspended_at)} by {principal_mrkdwn(credential.suspended_by or '')}")
        if credential.delete_at:
            says.append(f"Will be deleted unless resumed by {when_mrkdwn(credential.delete_at)}")
    if credential.expires_at:
        says.append(f"{'Expired' if has_expired(credential, now) else 'Expires'} {when_mrkdwn(credential.expires_at)}")
    if has_old_password(credential, now) and credential.previous_until:
        says.append(f"Old password until {when_mrkdwn(credential.previous_until)}")
    if brief := limits.brief(credential):
        says.append(f"Limits: {brief}")
    return says

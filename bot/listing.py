"""The list of a workspace's credentials, for one person: pages, sorting, words to filter by, a menu on each row.

Every press asks the store anew; the button carries only how the list is sorted and where its page begins.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

from slack_bolt.app.async_app import AsyncApp

from bot import row, texts
from bot.blocks import (
    DIVIDER,
    Block,
    actions,
    bold,
    button,
    code,
    foot,
    header,
    in_words,
    line,
    people,
)
from bot.codec import WORDS_MAX, InList
from bot.create import CREATE
from bot.door import Door, Request
from storage import access, listing, mail_servers, workspaces
from storage.access import TABLE, Action, Actor, Right, ToAsk
from storage.audit import What
from storage.database import Transaction
from storage.listing import Order, Page
from storage.mail_servers import Traffic
from storage.models import Workspace
from storage.refusals import NotAllowed, PersonBarred, RoleUnknown
from storage.typed import read

SHOW = "show_list"
SORT = "sort_list"
TURN = "turn_page"
TURN_BACK = "turn_page_back"


def register(app: AsyncApp, door: Door) -> None:
    door.draw_list = draw_anew
    app.action(SHOW)(door.work(open_list))
    for action in (SORT, TURN, TURN_BACK):
        app.action(action)(door.work(turn))


async def open_list(request: Request) -> None:
    await show(request, InList(order=Order.NEWEST))


async def typed(request: Request, words: str) -> None:
    """`/smtp list [words] [newest|oldest]`."""
    split = words.split()
    order = Order.NEWEST
    if split and split[-1].lower() in list(Order):
        order = Order(split.pop().lower())
    await show(request, InList(order=order, words=wanted(" ".join(split))))


def wanted(text: str) -> str:
    """What a list is to be narrowed to: the one username in what was typed, or its words."""
    found = read(text)
    return (found.usernames[0] if len(found.usernames) == 1 else " ".join(found.words.split()))[:WORDS_MAX].strip()


async def turn(request: Request) -> None:
    await show(request, InList.decode(request.value), replace=True)


@dataclass(frozen=True)
class Shown:
    """A workspace's list as a person sees it."""

    workspace: Workspace
    right: Right
    page: Page
    admins: list[str]
    """Who can make the first credential."""
    traffic: Mapping[str, Traffic]
    """Of the page's credentials, by id."""


def look(tx: Transaction, actor: Actor, workspace_id: int, wanted: InList) -> Shown:
    """All that the list shows. Raises NotAllowed, PersonBarred, RoleUnknown."""
    return _look(tx, actor, workspaces.by_id(tx, workspace_id), wanted)


def _look(tx: Transaction, actor: Actor, workspace: Workspace, wanted: InList) -> Shown:
    right = access.may(tx, actor, Action.LIST, workspace)
    page = listing.page(tx, workspace, wanted.order, wanted.words, wanted.place)
    admins = access.helpers(tx, actor.team, workspace) if not page.total else []
    return Shown(workspace, right, page, admins, mail_servers.traffic_of(tx, page.rows, mail_servers.reported(tx)))


def _at_once(tx: Transaction, request: Request, channel: str, wanted: InList) -> Shown | tuple[Workspace, ToAsk]:
    """The list, when Slack has said lately what the person may see; else the channel's workspace, and what must be asked about the person.

    Raises ChannelNotMapped, ChannelPaused.
    """
    workspace = workspaces.of_channel(tx, request.services.team, channel)
    asked = access.to_ask(tx, request.user, request.services.team, [workspace.id])
    actor = request.remembered(asked)
    if actor is not None:
        with contextlib.suppress(NotAllowed, PersonBarred, RoleUnknown):
            return _look(tx, actor, workspace, wanted)
    return workspace, asked


async def show(request: Request, wanted: InList, replace: bool = False) -> None:
    await request.show(await _drawn(request, wanted), replace)


async def draw_anew(request: Request) -> None:
    """Draws the list of the press, or that the submitted modal was opened from, where that press can still be answered."""
    shown = row.list_of(request) or request.services.lists.find((request.view or {}).get("id", ""))
    if shown is None:
        return
    again = Request(request.services, {**request.body, "view": None, "channel_id": shown.channel, "response_url": shown.response_url})
    rows = await _drawn(again, InList.decode(shown.place))
    await again.respond({**in_words(rows), "replace_original": True})


async def _drawn(request: Request, wanted: InList) -> list[Block]:
    services = request.services
    shown = await services.db.read(_at_once, request, request.in_channel(), wanted)
    if not isinstance(shown, Shown):
        workspace, asked = shown
        actor = await request.actor(workspace, member=True, asked=asked)
        shown = await request.read(What.LIST, actor, look, actor, workspace.id, wanted)
    allowed, now, unused_days = TABLE[shown.right.role], services.db.clock(), services.settings.bot_unused_days
    place = wanted.encode()
    rows = [row.draw(one, shown.traffic[one.id], allowed, now, unused_days, place) for one in shown.page.rows]
    return draw(shown.workspace, shown.page, wanted, allowed, rows, services.command, shown.admins)


def draw(
    workspace: Workspace,
    page: Page,
    wanted: InList,
    allowed: frozenset[Action],
    drawn: list[Block],
    command: str,
    admins: list[str],
) -> list[Block]:
    """Args: allowed: what the reader may do; drawn: the page's rows; admins: who can make the first credential."""
    may_create = Action.CREATE in allowed
    create = [button("Create credential", CREATE, style="primary")] if may_create else []
    if not page.total and not wanted.words:
        rows: list[Block] = [line("No SMTP credentials in ", bold(workspace.name), " yet.")]
        if may_create:
            rows.append(actions(*create))
        elif admins:
            rows.append(line("Ask an admin to create one: ", *people(admins), "."))
        return rows
    if not page.total:
        return [line("Nothing in ", bold(workspace.name), f' matches "{wanted.words}". Try ', code(f"{command} list"), " to see them all.")]
    title = f"SMTP credentials in {workspace.name} ({texts.total(page)})"
    rows = [header(title[:150]), *texts.all_refused(workspace)]
    if wanted.words:
        rows.append(line(f'Those that match "{wanted.words}".'))
    rows += [*drawn, DIVIDER, actions(*_buttons(page, wanted), *create)]
    last = page.first + len(page.rows) - 1
    return [*rows, foot(f"Showing {page.first} to {last} of {texts.total(page)}.")]


def _buttons(page: Page, wanted: InList) -> list[Block]:
    other = Order.OLDEST if wanted.order is Order.NEWEST else Order.NEWEST
    label = "Oldest first" if other is Order.OLDEST else "Newest first"
    made = [button(label, SORT, InList(order=other, words=wanted.words).encode())]
    if page.previous:
        made.append(button("Previous", TURN_BACK, InList.at(wanted.order, wanted.words, page.previous).encode()))
    if page.next:
        made.append(button("Next", TURN, InList.at(wanted.order, wanted.words, page.next).encode()))
    return made

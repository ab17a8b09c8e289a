"""The Home tab: the dashboard of the workspaces that a person may see by a role.

Slack tells when it is opened; each press, and each request that came from it, draws it anew. The buttons, and the tab itself, carry which
workspace is shown and where in its list; all else is asked of the store each time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from slack_bolt.app.async_app import AsyncApp

from bot import create, row, texts
from bot import listing as listing_of
from bot.blocks import (
    DIVIDER,
    OPTIONS_MAX,
    Block,
    actions,
    bold,
    button,
    code,
    foot,
    header,
    line,
    lines,
    option,
    people,
    plain,
)
from bot.codec import WORDS_MAX, InHome, OnWorkspace
from bot.door import EVERYWHERE, Door, Request
from bot.new_password import usual_channel
from bot.setup import first_steps
from bot.slack import Ok, Refused
from storage import access, listing, mail_servers, tidy, workspaces
from storage.access import TABLE, Action, Actor, Choice, Right
from storage.audit import What
from storage.database import Transaction
from storage.listing import Order, Page
from storage.mail_servers import Traffic
from storage.models import Workspace
from storage.names import looks_like_password
from storage.refusals import NoSuchWorkspace, PersonBarred, RoleUnknown
from storage.tidy import Only

PICK = "home_workspace"
SEARCH = "home_search"
SORT = "home_sort"
TURN = "home_turn"
TURN_BACK = "home_turn_back"
CLEAR = "home_clear"
NARROW = "home_narrow"
FILTERS = {Only.UNUSED: "Unused", Only.EXPIRING: "Expiring", Only.MINE: "Mine", Only.GONE: "Owner gone"}
NOTHING = {
    Only.UNUSED: "Nothing here is unused.",
    Only.EXPIRING: "Nothing here expires within 30 days.",
    Only.MINE: "No credential here belongs to you.",
    Only.GONE: "Every credential here has an owner who is still there.",
}
CREATE_HERE = "home_create"
WORKSPACES_SHOWN = 500  # in a menu; the view must stay under Slack's 250 KB

log = structlog.get_logger(__name__)


def register(app: AsyncApp, door: Door) -> None:
    app.event("app_home_opened")(door.event(opened))
    for action in (PICK, SORT, TURN, TURN_BACK, CLEAR, *(f"{NARROW}_{only}" for only in Only)):
        app.action(action)(door.work(turn))
    app.action(SEARCH)(door.work(search))
    app.action(CREATE_HERE)(door.work(create_here))
    door.draw_home = refresh


async def opened(request: Request) -> None:
    if request.body["event"].get("tab") == "home":
        await show(request, request.home or InHome())


async def turn(request: Request) -> None:
    await show(request, InHome.decode(request.value))


async def search(request: Request) -> None:
    """A password that was pasted there is neither looked for nor kept."""
    before = request.home or InHome()
    words = listing_of.wanted(request.value)
    if looks_like_password(request.value):
        await show(request, InHome(workspace=before.workspace, order=before.order, only=before.only), searched_password=True)
    else:
        await show(request, InHome(workspace=before.workspace, order=before.order, only=before.only, words=words))


async def create_here(request: Request) -> None:
    workspace = await request.services.db.read(workspaces.by_id, OnWorkspace.decode(request.value).workspace)
    await create.open_for(request, workspace, first_choice=await usual_channel(request, workspace.id))


async def refresh(request: Request) -> None:
    """After a request that came from the tab, which stays where it was."""
    if request.home is not None:
        await publish(request, await view_for(request, request.home))


async def show(request: Request, wanted: InHome, searched_password: bool = False) -> None:
    await publish(request, await view_for(request, wanted, searched_password), (request.view or {}).get("hash"))


async def publish(request: Request, view: dict[str, Any], drawn_from: str | None = None) -> None:
    """`drawn_from`: the hash of the tab that was pressed in. When it was drawn anew meanwhile, what the person pressed still counts."""
    slack = request.services.slack
    reply = await slack.publish_view(request.user, view, drawn_from)
    if reply == Refused("hash_conflict"):
        reply = await slack.publish_view(request.user, view)
    if not isinstance(reply, Ok):
        log.warning("Home tab not drawn", why=reply.word if isinstance(reply, Refused) else reply.why, reference=request.reference)


@dataclass(frozen=True)
class Shown:
    """A workspace as the Home tab shows it."""

    visible: list[Choice]
    workspace: Workspace
    held: list[Right]
    admins: list[str]
    connected: bool
    page: Page
    reported: bool
    """Whether mail servers tell of log-ins."""
    traffic: Mapping[str, Traffic]
    """Of the page's credentials, by id."""


def look(tx: Transaction, actor: Actor, wanted: InHome, unused_days: int) -> Shown | None:
    """All that the tab shows; None for somebody who may see no workspace."""
    if actor.barred:
        raise PersonBarred(actor.barred)
    visible = access.visible_workspaces(tx, actor, Action.LIST, WORKSPACES_SHOWN + 1)
    if not visible:
        return None
    shown = _visible(tx, actor, wanted.workspace) if wanted.workspace is not None else None
    workspace = shown[0] if shown else workspaces.by_id(tx, visible[0].id)
    held = shown[1] if shown else access.rights(tx, actor, workspace)
    same = workspace.id == wanted.workspace
    only = tidy.conditions(wanted.only if same else None, actor, tx.now, unused_days)
    page = listing.page(tx, workspace, wanted.order, wanted.words if same else "", wanted.place if same else None, only=only)
    admins = access.helpers(tx, actor.team, workspace)
    told = mail_servers.reported(tx)
    traffic = mail_servers.traffic_of(tx, page.rows, told)
    return Shown(visible, workspace, held, admins, workspaces.connected(tx, workspace.id), page, told, traffic)


def _visible(tx: Transaction, actor: Actor, workspace_id: int) -> tuple[Workspace, list[Right]] | None:
    """The workspace with what the actor may do there; None when they may not see it, or it is gone."""
    try:
        workspace = workspaces.by_id(tx, workspace_id)
    except NoSuchWorkspace:
        return None
    held = access.rights(tx, actor, workspace)
    return (workspace, held) if Action.LIST in access.allowed(held) else None


async def view_for(request: Request, wanted: InHome, searched_password: bool = False) -> dict[str, Any]:
    """The tab for this person now. A workspace that they may not see, or no longer, is not shown."""
    services = request.services
    try:
        actor = await request.actor(EVERYWHERE)
        shown = await request.read(What.OPEN, actor, look, actor, wanted, services.settings.bot_unused_days)
    except (PersonBarred, RoleUnknown) as refusal:
        return home([line(*texts.sentence(refusal, services.command))], InHome())
    if shown is None:
        return home([*no_workspace(services.command, actor.owner, services.owners), *_unsure(bool(actor.unanswered))], InHome())
    workspace, page = shown.workspace, shown.page
    if workspace.id != wanted.workspace:
        wanted = InHome(workspace=workspace.id)
    right = shown.held[0]
    rows: list[Block] = [header("SMTP credentials"), top(shown.visible, workspace, right, shown.connected)]
    rows += texts.all_refused(workspace)
    if workspace.credential_count:
        rows += [search_field(workspace, wanted.words, searched_password), filters(wanted, shown.reported)]
    if searched_password:
        rows.append(line("That looks like an SMTP password, so I didn't search for it. If it's real, treat it as leaked and delete it."))
    rows += _unsure(bool(actor.unanswered))
    if not page.total:
        rows += nothing(workspace, wanted, right, shown.admins)
    else:
        allowed, unused_days = TABLE[right.role], services.settings.bot_unused_days
        rows += [row.draw(one, shown.traffic[one.id], allowed, services.db.clock(), unused_days, wanted.encode()) for one in page.rows]
        rows += bottom(page, wanted)
    rows += [DIVIDER, line(*texts.role_sentence(shown.held, workspace, shown.admins))]
    if not shown.connected:
        rows.append(line("No channel is connected to ", bold(workspace.name), ". ", *first_steps(services.command)))
    if Action.CREATE in TABLE[right.role]:
        rows.append(line(texts.GONE_PASSWORD))
    return home(rows, wanted)


def home(rows: list[Block], shown: InHome) -> dict[str, Any]:
    return {"type": "home", "callback_id": "home", "blocks": rows, "private_metadata": shown.encode()}


def top(visible: Sequence[Choice], shown: Workspace, right: Right, connected: bool) -> Block:
    """The choice of a workspace, and the button for a new credential."""
    offered = list(visible[:WORKSPACES_SHOWN])
    at = next((place for place, one in enumerate(offered) if one.id == shown.id), None)
    if at is None:
        at = len(offered) - 1
        offered[at] = Choice(shown.id, shown.slug, shown.name)
    options = [option(f"{one.name} ({one.slug})", InHome(workspace=one.id).encode()) for one in offered]
    menu: dict[str, Any] = {"type": "static_select", "action_id": PICK, "placeholder": plain("Mail workspace")}
    menu["initial_option"] = options[at]
    if len(options) <= OPTIONS_MAX:
        menu["options"] = options
    else:
        parts = [options[start : start + OPTIONS_MAX] for start in range(0, len(options), OPTIONS_MAX)]
        menu["option_groups"] = [{"label": plain(_group_label(part)), "options": part} for part in parts]
    buttons = []
    if connected and Action.CREATE in TABLE[right.role]:
        buttons.append(button("Create credential", CREATE_HERE, OnWorkspace(workspace=shown.id).encode(), style="primary"))
    return actions(menu, *buttons)


def _group_label(part: list[dict[str, Any]]) -> str:
    first, last = (one["text"]["text"][:30] for one in (part[0], part[-1]))
    return f"{first} – {last}"


def search_field(workspace: Workspace, words: str, cleared: bool) -> Block:
    element: dict[str, Any] = {
        "type": "plain_text_input",
        "action_id": SEARCH,
        "max_length": WORDS_MAX,
        "placeholder": plain("Part of a name or username, then Enter"),
        "dispatch_action_config": {"trigger_actions_on": ["on_enter_pressed"]},
    }
    if words:
        element["initial_value"] = words
    # Another block id, or Slack would keep what was typed before.
    block_id = f"search {workspace.id} {'cleared' if cleared else words}"
    return {"type": "input", "block_id": block_id, "dispatch_action": True, "label": plain("Search"), "element": element}


def filters(wanted: InHome, reported: bool) -> Block:
    """What the list can be narrowed to; pressed again, it shows all. Where use is not reported, nothing is known to be unused."""
    offered = [only for only in FILTERS if reported or only is not Only.UNUSED]
    made = []
    for only in offered:
        on = wanted.only is only
        value = InHome(workspace=wanted.workspace, order=wanted.order, words=wanted.words, only=None if on else only)
        made.append(button(FILTERS[only], f"{NARROW}_{only}", value.encode(), style="primary" if on else None))
    return actions(*made)


def bottom(page: Page, wanted: InHome) -> list[Block]:
    """How it is sorted, the pages, and where this one is."""
    top_of_list = InHome(workspace=wanted.workspace, words=wanted.words, order=wanted.order, only=wanted.only)
    other = Order.OLDEST if wanted.order is Order.NEWEST else Order.NEWEST
    label = "Oldest first" if other is Order.OLDEST else "Newest first"
    made = [button(label, SORT, top_of_list.model_copy(update={"order": other}).encode())]
    for name, action, place in (("Previous", TURN_BACK, page.previous), ("Next", TURN, page.next)):
        if place:
            at = {"credential": place.credential_id, "before": place.before, "position": place.position}
            value = top_of_list.model_copy(update=at)
            made.append(button(name, action, value.encode()))
    if wanted.words or wanted.only:
        made.append(show_all(wanted))
    last = page.first + len(page.rows) - 1
    return [actions(*made), foot(f"Showing {page.first} to {last} of {texts.total(page)}.")]


def show_all(wanted: InHome) -> dict[str, Any]:
    return button("Show all", CLEAR, InHome(workspace=wanted.workspace, order=wanted.order).encode())


def nothing(workspace: Workspace, wanted: InHome, right: Right, admins: list[str]) -> list[Block]:
    if wanted.words:
        return [line("Nothing in ", bold(workspace.name), f' matches "{wanted.words}".'), actions(show_all(wanted))]
    if wanted.only and workspace.credential_count:
        return [line(NOTHING[wanted.only]), actions(show_all(wanted))]
    rows = [
        line("No SMTP credentials in ", bold(workspace.name), " yet."),
        lines(
            ["A credential is a username and a password with which one app or device sends mail."],
            ["Make one for each: then you can stop one without stopping the others."],
            ["You see its password once, in the channel you choose. Copy it to the app right away."],
            ["When one leaks, delete it here: mail servers refuse it from the next log-in on."],
        ),
    ]
    if Action.CREATE not in TABLE[right.role] and admins:
        rows.append(line("Ask an admin to create one: ", *people(admins), "."))
    return rows


def no_workspace(command: str, owner: bool, owners: Sequence[str]) -> list[Block]:
    rows = [
        header("SMTP credentials"),
        line("Here you'll see the usernames and passwords with which your apps and devices send mail."),
    ]
    if owner:
        return [*rows, line("There is no mail workspace yet. ", *first_steps(command))]
    return [
        *rows,
        line("You have no role in any mail workspace yet, so there is nothing to show."),
        line("Go to a channel that is connected to one and type ", code(command), ". It tells your role there, and who can give you one."),
        *([line("Or ask ", *people(owners[: texts.OWNERS_NAMED]), ", who own this app.")] if owners else []),
    ]


def _unsure(unanswered: bool) -> list[Block]:
    said = "Slack didn't tell me all of your user groups, so something may be missing here. Open this tab again in a minute."
    return [line(said)] if unanswered else []

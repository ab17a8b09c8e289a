"""What one credential may do: **Limits…** in a row's menu, behind **More…**, and in the modal that creates one.

The row's modal shows what counts now; submitting it sets all of them. They count from the next log-in or message on.
"""

from typing import Any

from slack_bolt.app.async_app import AsyncApp

from bot import blocks, texts
from bot.blocks import Block, actions, bold, button, code, field, foot, line, lines, modal, plain
from bot.codec import OnCredential
from bot.door import Answer, Door, InputInvalid, Request, notice, update
from bot.target import allowed, pressed, submitted
from storage import lifecycle, limits
from storage.access import Action
from storage.audit import What
from storage.limits import COUNT_MAX, COUNTS, Limits
from storage.models import Credential, Listed, Workspace
from storage.refusals import LimitsContradict, NetworkInvalid, NumberInvalid, SurfaceOutdated

OPEN_LIMITS = "open_limits"
LIMITS = "change_limits"
ADD = "add_limits"
NETWORKS = "allowed_from"
NETWORKS_SHOWN = 3
LABELS = dict(
    zip(COUNTS, ("Messages an hour", "Messages a day", "Recipients an hour", "Recipients a day"), strict=True),
)


def register(app: AsyncApp, door: Door) -> None:
    app.action(OPEN_LIMITS)(door.work(pressed(open_modal)))
    app.action(ADD)(door.work(add))
    app.view(LIMITS)(door.submission(submit))


async def open_modal(request: Request, credential_id: str) -> None:
    """Raises NoSuchCredential, AlreadyDeleted, NotAllowed, RoleUnknown, PersonBarred, TriggerExpired."""
    credential, workspace = await allowed(request, credential_id, Action.CREATE, What.LIMITS)
    lifecycle.check_live(credential)
    await request.open(limits_modal(credential, workspace, request.channel))


async def submit(request: Request) -> Answer:
    credential_id, origin = await submitted(request)
    wanted = chosen(request)
    credential, _ = await request.services.db.change(lifecycle.change_limits, origin, credential_id, wanted)
    return Answer(update(changed_view(credential)))


async def add(request: Request) -> None:
    """Puts the inputs in the button's place. All else in the modal stays."""
    view = request.view or {}
    at = next((number for number, row in enumerate(view["blocks"]) if row["block_id"] == ADD), None)
    if at is None:
        raise SurfaceOutdated
    rows = [*view["blocks"][:at], *fields(Limits()), *view["blocks"][at + 1 :]]
    kept = ("type", "callback_id", "title", "submit", "close", "private_metadata")
    await request.services.slack.update_view(view["id"], {name: view[name] for name in kept} | {"blocks": rows}, view.get("hash"))


def offer() -> Block:
    """For a modal that creates a credential."""
    return actions(button("Limits…", ADD)) | {"block_id": ADD}


def chosen(request: Request) -> Limits:
    """What the inputs of the submitted modal hold; no limits where it has none. Raises InputInvalid."""
    given = blocks.values(request.view or {})
    try:
        counts = [limits.clean_number(name, given.get(name), COUNT_MAX) for name in COUNTS]
        wanted = Limits(limits.clean_networks(given.get(NETWORKS) or ""), *counts)
        limits.check(wanted)
    except (NetworkInvalid, NumberInvalid, LimitsContradict) as refusal:
        where = NETWORKS if isinstance(refusal, NetworkInvalid) else refusal.field
        raise InputInvalid(where, blocks.flat(texts.sentence(refusal, request.services.command))) from None
    return wanted


def fields(now: Limits) -> list[Block]:
    """The inputs that `chosen` reads."""
    networks: dict[str, Any] = {"type": "plain_text_input", "multiline": True, "placeholder": plain("192.0.2.0/24 2001:db8::/32")}
    if now.allowed_from:
        networks["initial_value"] = "\n".join(now.allowed_from)
    hint = "Addresses or networks, at most 20. A log-in from elsewhere, or without a known address, is refused. Empty: from anywhere."
    rows = [field("May log in from", NETWORKS, networks, hint, optional=True)]
    for name, label in LABELS.items():
        element: dict[str, Any] = {"type": "plain_text_input"}
        if getattr(now, name) is not None:
            element["initial_value"] = str(getattr(now, name))
        rows.append(field(label, name, element, optional=True))
    rows.append(foot("Mail servers that only read the database by SQL can't enforce these; authd does."))
    return rows


def limits_modal(credential: Credential, workspace: Workspace, channel: str | None) -> dict[str, Any]:
    about = line(bold(credential.name), " (", code(credential.username), ") in ", bold(workspace.name), ". Leave empty what has no limit.")
    rows = [about, *fields(Limits.of(credential))]
    metadata = OnCredential(credential=credential.id, channel=channel).encode()
    return modal("Limits", rows, LIMITS, submit="Save", close="Cancel", metadata=metadata)


def changed_view(credential: Credential) -> dict[str, Any]:
    now = Limits.of(credential)
    if not now.any:
        return notice([line(bold(credential.name), " has no limits.")], "Limits changed")
    return notice([line(bold(credential.name), " from now on:"), lines(*([one] for one in limits.words(now)))], "Limits changed")


def brief(credential: Credential | Listed) -> str:
    """The limits on one line; empty when there are none."""
    now = Limits.of(credential)
    if not now.any:
        return ""
    said = limits.words(Limits((), *(getattr(now, name) for name in COUNTS)))
    if now.allowed_from:
        more = len(now.allowed_from) - NETWORKS_SHOWN
        said.insert(0, "from " + ", ".join(now.allowed_from[:NETWORKS_SHOWN]) + (f" and {more} more" if more > 0 else ""))
    return ", ".join(said)

"""Until when a credential works.

The create modal has the fields. A week and a day before the end, its creator and the workspace's channels are reminded; whoever may create
extends it with **Extend…** in a row's menu. After that minute it is refused.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from slack_bolt.app.async_app import AsyncApp

from bot import blocks, texts
from bot.blocks import Block, Piece, bold, code, field, line, modal, option, when
from bot.codec import OnCredential
from bot.door import Answer, Door, InputInvalid, Request, errors, notice, update
from bot.target import allowed, pressed, submitted
from storage import lifecycle
from storage.access import Action
from storage.audit import What
from storage.models import Credential, State, Workspace
from storage.refusals import ExpiryInvalid, ExpiryProblem, LifeTooLong

OPEN_EXTEND = "open_extend"
EXTEND = "extend_credential"
EXPIRES = "expires"
LAST_DAY = "last_day"
NEVER = "never"
ON_A_DATE = "date"
DAYS = (7, 30, 90)
CHOICES = {NEVER: "Never", **{str(days): f"In {days} days" for days in DAYS}, ON_A_DATE: "On a date"}


def register(app: AsyncApp, door: Door) -> None:
    app.action(OPEN_EXTEND)(door.work(pressed(open_modal)))
    app.view(EXTEND)(door.submission(submit))
    app.action(EXPIRES)(door.work(show_day))


async def open_modal(request: Request, credential_id: str) -> None:
    """Raises NoSuchCredential, AlreadyDeleted, NotAllowed, RoleUnknown, PersonBarred, TriggerExpired."""
    credential, workspace = await allowed(request, credential_id, Action.CREATE, What.EXPIRY)
    lifecycle.check_live(credential)
    await request.open(extend_modal(credential, workspace, request.channel, request.services.db.clock()))


async def submit(request: Request) -> Answer:
    services = request.services
    credential_id, origin = await submitted(request)
    try:
        until = chosen(blocks.values(request.view or {}), services.db.clock())
        credential, workspace = await services.db.change(lifecycle.change_expiry, origin, credential_id, until)
    except (ExpiryInvalid, LifeTooLong) as refusal:
        return Answer(errors(**{field_of(refusal): texts.in_field(refusal, services.command)}))
    return Answer(update(extended_view(credential, workspace)))


def fields(initial: str | None = None, longest_days: int | None = None) -> list[Block]:
    """The inputs that `chosen` reads. `longest_days`: what the workspace allows."""
    too_long = [] if longest_days is None else [NEVER, *(str(days) for days in DAYS if days > longest_days)]
    options = {value: option(label, value) for value, label in CHOICES.items() if value not in too_long}
    if initial in too_long:
        initial = list(options)[-2] if len(options) > 1 else ON_A_DATE
    select: dict[str, Any] = {"type": "static_select", "options": list(options.values())}
    if initial:
        select["initial_option"] = options[initial]
    hint = "Log-ins are refused after that. You can extend it at any time."
    return [field("Expires", EXPIRES, select, hint, optional=initial is not None) | {"dispatch_action": True}]


def day_field() -> Block:
    return field("Last day", LAST_DAY, {"type": "datepicker"}, "It works until that day ends, in UTC.")


async def show_day(request: Request) -> None:
    """Asks for the day once "On a date" is chosen, and no longer when it isn't. All else in the modal stays."""
    view = request.view or {}
    rows = [row for row in view["blocks"] if row["block_id"] != LAST_DAY]
    if blocks.values(view).get(EXPIRES) == ON_A_DATE:
        at = next(number for number, row in enumerate(rows, 1) if row["block_id"] == EXPIRES)
        rows.insert(at, day_field())
    if len(rows) == len(view["blocks"]):
        return
    kept = ("type", "callback_id", "title", "submit", "close", "private_metadata")
    await request.services.slack.update_view(view["id"], {name: view[name] for name in kept} | {"blocks": rows}, view.get("hash"))


def chosen(given: dict[str, Any], now: datetime) -> datetime | None:
    """The moment that the fields name; None for never. Raises ExpiryInvalid."""
    choice, day = given.get(EXPIRES) or NEVER, given.get(LAST_DAY)
    if choice == ON_A_DATE and LAST_DAY not in given:
        raise InputInvalid(EXPIRES, "Choose the last day, too.")
    if choice == ON_A_DATE and not day:
        raise ExpiryInvalid(ExpiryProblem.NO_DATE)
    if choice != ON_A_DATE and day:
        raise ExpiryInvalid(ExpiryProblem.TWO_CHOICES)
    until = now + timedelta(days=int(choice)) if choice.isdigit() else None
    if day:
        until = datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC) + timedelta(days=1)
    lifecycle.check_expiry(until, now)
    return until


def field_of(refusal: ExpiryInvalid | LifeTooLong) -> str:
    """The input that the refusal is about."""
    return "expires" if isinstance(refusal, LifeTooLong) or refusal.problem is ExpiryProblem.TWO_CHOICES else "last_day"


def sentence(credential: Credential, now: datetime) -> list[Piece]:
    if credential.expires_at is None:
        return ["It never expires."]
    return ["It expired (" if lifecycle.has_expired(credential, now) else "It expires (", when(credential.expires_at), ")."]


def extend_modal(credential: Credential, workspace: Workspace, channel: str | None, now: datetime) -> dict[str, Any]:
    return modal(
        "Change expiry",
        [
            line(bold(credential.name), " (", code(credential.username), ") in ", bold(workspace.name), ". ", *sentence(credential, now)),
            *fields(longest_days=workspace.longest_days),
        ],
        EXTEND,
        submit="Save",
        close="Cancel",
        metadata=OnCredential(credential=credential.id, channel=channel).encode(),
    )


def extended_view(credential: Credential, workspace: Workspace) -> dict[str, Any]:
    until: list[Piece] = ["now expires (", when(credential.expires_at), ")"] if credential.expires_at else ["no longer expires"]
    rows = [line(bold(credential.name), " ", *until, ". Its password stays the same.")]
    if credential.state == State.SUSPENDED:
        rows.append(line("It is suspended, so it stays refused until somebody resumes it."))
    return notice([*rows, *texts.all_refused(workspace)], "Expiry changed")

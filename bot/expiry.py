"""Until when a credential works.

The create modal has the fields. A week and a day before the end, its creator and the workspace's channels are reminded; whoever may create
extends it with **Extend…** in a row's menu. After that minute it is refused.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from slack_bolt.app.async_app import AsyncApp

from bot import blocks, texts
from bot.blocks import Block, Piece, bold, code, field, foot, line, modal, option, when
from bot.codec import OnCredential
from bot.door import Answer, Door, Request, errors, notice, update
from bot.target import allowed, pressed, submitted
from storage import lifecycle
from storage.access import Action
from storage.audit import What
from storage.models import Credential, State, Workspace
from storage.refusals import ExpiryInvalid, ExpiryProblem, LifeTooLong

OPEN_EXTEND = "open_extend"
EXTEND = "extend_credential"
NEVER = "never"
ON_A_DATE = "date"
DAYS = (7, 30, 90)
CHOICES = {NEVER: "Never", **{str(days): f"In {days} days" for days in DAYS}, ON_A_DATE: "On a date"}


def register(app: AsyncApp, door: Door) -> None:
    app.action(OPEN_EXTEND)(door.work(pressed(open_modal)))
    app.view(EXTEND)(door.submission(submit))


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
        credential, _ = await services.db.change(lifecycle.change_expiry, origin, credential_id, until)
    except (ExpiryInvalid, LifeTooLong) as refusal:
        return Answer(errors(**{field_of(refusal): blocks.flat(texts.sentence(refusal, services.command))}))
    return Answer(update(extended_view(credential)))


def fields(initial: str | None = None, longest_days: int | None = None) -> list[Block]:
    """The inputs that `chosen` reads. `longest_days`: what the workspace allows."""
    too_long = [] if longest_days is None else [NEVER, *(str(days) for days in DAYS if days > longest_days)]
    options = {value: option(label, value) for value, label in CHOICES.items() if value not in too_long}
    if initial in too_long:
        initial = list(options)[-2] if len(options) > 1 else ON_A_DATE
    select: dict[str, Any] = {"type": "static_select", "options": list(options.values())}
    if initial:
        select["initial_option"] = options[initial]
    hint = "Only for “On a date”. It works until that day ends, in UTC."
    return [
        field("Expires", "expires", select, "Log-ins are refused after that. You can extend it at any time.", optional=initial is not None),
        field("Last day", "last_day", {"type": "datepicker"}, hint, optional=True),
    ]


def chosen(given: dict[str, Any], now: datetime) -> datetime | None:
    """The moment that the fields name; None for never. Raises ExpiryInvalid."""
    choice, day = given.get("expires") or NEVER, given.get("last_day")
    if choice == ON_A_DATE and not day:
        raise ExpiryInvalid(ExpiryProblem.NO_DATE)
    if choice.isdigit() and day:
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
    return ["It expired on " if lifecycle.has_expired(credential, now) else "It expires on ", when(credential.expires_at), "."]


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


def extended_view(credential: Credential) -> dict[str, Any]:
    until: list[Piece] = ["now works until ", when(credential.expires_at)] if credential.expires_at else ["no longer expires"]
    rows = [line(bold(credential.name), " ", *until, ". Its password stays the same.")]
    if credential.state == State.SUSPENDED:
        rows.append(line("It is suspended, so it stays refused until somebody resumes it."))
    return notice(rows, "Expiry changed")


def reminder(credential: Credential, workspace: Workspace, now: datetime, command: str) -> list[Block]:
    """For the creator and the workspace's channels."""
    if credential.expires_at is None:
        raise ValueError(f"{credential.username} does not expire")
    verb = " expired on " if lifecycle.has_expired(credential, now) else " expires on "
    about: list[Piece] = ["The SMTP credential ", bold(credential.name), " (", code(credential.username), ") in ", bold(workspace.name)]
    return [
        line(*about, verb, when(credential.expires_at), ". Apps that use it can't send mail after that."),
        line("Still needed? Choose ", bold("Extend…"), " in its row's menu: ", code(f"{command} list"), ", or in my Home tab."),
        foot("If it isn't needed any more, delete it there."),
    ]

"""Suspending, when you are not sure yet: mail servers refuse the credential until somebody resumes it.

**Suspend now** and **Undo** are one press each, without a modal: in an alarm (`alarm.py`), in `whois.py`, in the modal of a leak
(`revoke.py`).

`/smtp suspend X`, `/smtp resume X` or a row's menu opens the modal, which tells what will stop. A suspended credential can be left to
delete itself after a day or a week; whoever resumes it before calls that off.
"""

from datetime import datetime, timedelta
from typing import Any

from slack_bolt.app.async_app import AsyncApp

from bot import blocks, impact, texts
from bot.blocks import Block, Piece, bold, button, code, field, line, modal, option, principal, when
from bot.codec import OnCredential
from bot.door import Answer, Door, Request, notice, update
from bot.impact import facts
from bot.reason import asked_for, given_reason, reason_field
from bot.target import Purpose, allowed, pressed, presser, register_picker, submitted
from storage import lifecycle, mail_servers
from storage.access import Action
from storage.audit import What
from storage.models import Credential, State, Workspace
from storage.refusals import AlreadyDeleted, IsSuspended, NotSuspended

OPEN_SUSPEND = "open_suspend"
SUSPEND = "suspend_credential"
OPEN_RESUME = "open_resume"
RESUME = "resume_credential"
KEEP = "keep"
LATER: dict[str, tuple[str, timedelta | None]] = {
    KEEP: ("No, keep it suspended", None),
    "24h": ("In 24 hours, unless it's resumed", timedelta(hours=24)),
    "7d": ("In 7 days, unless it's resumed", timedelta(days=7)),
}


def register(app: AsyncApp, door: Door) -> None:
    app.action(OPEN_SUSPEND)(door.work(pressed(open_modal)))
    app.view(SUSPEND)(door.submission(submit))
    app.action(OPEN_RESUME)(door.work(pressed(open_resume)))
    app.view(RESUME)(door.submission(submit_resume))
    register_picker(app, door, SUSPENDING)
    register_picker(app, door, RESUMING)


async def open_modal(request: Request, credential_id: str) -> None:
    """Raises NoSuchCredential, AlreadyDeleted, IsSuspended, NotAllowed, RoleUnknown, PersonBarred, TriggerExpired."""
    credential, workspace = await allowed(request, credential_id, Action.DELETE, What.SUSPEND)
    lifecycle.check_live(credential)
    if credential.state == State.SUSPENDED:
        raise lifecycle.already_suspended(credential)
    await request.open(suspend_modal(credential, await impact.of(request, credential, workspace), request.channel))


async def submit(request: Request) -> Answer:
    reason = given_reason(request)
    _, delete_after = LATER[blocks.values(request.view or {}).get("later") or KEEP]
    credential_id, origin = await submitted(request)
    with asked_for():
        credential, _ = await request.services.db.change(lifecycle.suspend, origin, credential_id, reason, delete_after)

    async def watch() -> None:
        await impact.follow(request, credential, What.SUSPEND, lambda proof: suspended_view(credential, proof))

    return Answer(update(suspended_view(credential)), watch=watch)


async def open_resume(request: Request, credential_id: str) -> None:
    """Raises NoSuchCredential, AlreadyDeleted, NotSuspended, NotAllowed, RoleUnknown, PersonBarred, TriggerExpired."""
    credential, workspace = await allowed(request, credential_id, Action.CREATE, What.RESUME)
    lifecycle.check_live(credential)
    if credential.state != State.SUSPENDED:
        raise NotSuspended(credential.name)
    db = request.services.db
    shown = facts(credential, workspace, await db.read(mail_servers.reported))
    await request.open(resume_modal(credential, workspace, shown, request.channel, db.clock()))


async def submit_resume(request: Request) -> Answer:
    credential_id, origin = await submitted(request)
    credential, workspace = await request.services.db.change(lifecycle.resume, origin, credential_id)
    return Answer(update(resumed_view(credential, workspace, request.services.db.clock())))


# --- one press ---
NOT_AS_SHOWN = (AlreadyDeleted, IsSuspended, NotSuspended)
"""What the person pressed was no longer so: what they look at is drawn anew."""


async def suspend_now(request: Request, credential_id: str) -> None:
    """Raises NoSuchCredential, AlreadyDeleted, IsSuspended, NotAllowed, RoleUnknown, PersonBarred."""
    await request.services.db.change(lifecycle.suspend, await presser(request, credential_id), credential_id, at_once=True)


async def undo(request: Request, credential_id: str) -> None:
    """Takes what resuming takes. Raises NoSuchCredential, AlreadyDeleted, NotSuspended, NotAllowed, RoleUnknown, PersonBarred."""
    await request.services.db.change(lifecycle.resume, await presser(request, credential_id), credential_id)


def buttons(suspend: str, undo: str, value: str, suspended: bool) -> Block:
    """**Suspend now** or **Undo**, with the action id of the place that it stands in."""
    if not suspended:
        return button("Suspend now", suspend, value, style="primary")
    warning = "The same password works again. If it leaked, revoke it instead."
    sure = blocks.confirm("Let it work again?", warning, "Resume", "Cancel", style=None)
    return button("Undo", undo, value, confirm=sure)


SUSPENDING = Purpose(Action.DELETE, What.SUSPEND, open_modal, OPEN_SUSPEND, "Suspend…", (State.ACTIVE,))
RESUMING = Purpose(Action.CREATE, What.RESUME, open_resume, OPEN_RESUME, "Resume…", (State.SUSPENDED,))


def suspend_modal(credential: Credential, facts: Block, channel: str | None) -> dict[str, Any]:
    options = {value: option(label, value) for value, (label, _) in LATER.items()}
    later = {"type": "static_select", "options": list(options.values()), "initial_option": options[KEEP]}
    return modal(
        "Suspend credential?",
        [
            line(bold("Apps that use this credential stop sending mail right away, until somebody resumes it.")),
            facts,
            field("Delete it by itself", "later", later),
            reason_field(),
        ],
        SUSPEND,
        submit="Suspend",
        close="Cancel",
        metadata=OnCredential(credential=credential.id, channel=channel).encode(),
    )


def suspended_view(credential: Credential, proof: Block | None = None) -> dict[str, Any]:
    rows = [
        line("Suspended ", bold(credential.name), " (", code(credential.username), ")."),
        line("A writer can resume it, and then the same password works again."),
    ]
    if credential.delete_at:
        rows.append(line("It will be deleted unless somebody resumes it by ", when(credential.delete_at), "."))
    return notice([*rows, *([proof] if proof else [])], "Credential suspended")


def resume_modal(credential: Credential, workspace: Workspace, shown: Block, channel: str | None, now: datetime) -> dict[str, Any]:
    by: list[Piece] = [principal(credential.suspended_by or ""), " suspended it"]
    if credential.suspended_at:
        by += [" (", when(credential.suspended_at), ")"]
    rows = [
        line(bold("The same password works again. If it may have leaked, don't resume: delete the credential.")),
        shown,
        line(*by, "."),
        *texts.all_refused(workspace),
    ]
    if lifecycle.has_expired(credential, now) and credential.expires_at:
        rows.append(line("It expired (", when(credential.expires_at), "), so it stays refused until you also extend it."))
    return modal(
        "Resume credential?",
        rows,
        RESUME,
        submit="Resume",
        close="Cancel",
        metadata=OnCredential(credential=credential.id, channel=channel).encode(),
    )


def resumed_view(credential: Credential, workspace: Workspace, now: datetime) -> dict[str, Any]:
    said = line("Resumed ", bold(credential.name), " (", code(credential.username), "). Apps that use it can send mail again.")
    if lifecycle.has_expired(credential, now):
        said = line("Resumed ", bold(credential.name), ". It has expired, so it stays refused until you extend it.")
    elif workspace.suspended_at is not None:
        said = line("Resumed ", bold(credential.name), ", but not its mail workspace:")
    return notice([said, *texts.all_refused(workspace)], "Credential resumed")

"""What nothing uses: once a month its owner reads of it, and presses **Keep** or **Suspend** for each. The note settles."""

from slack_bolt.app.async_app import AsyncApp

from bot.blocks import Block, Piece, actions, bold, button, code, foot, line, people, principal, when
from bot.codec import OnCredential
from bot.door import Door, Request
from bot.target import presser
from storage import lifecycle, tidy
from storage.models import Credential, Workspace
from storage.refusals import AlreadyDeleted, IsSuspended
from storage.tidy import Idle

KEEP = "keep_unused"
SUSPEND = "suspend_unused"


def register(app: AsyncApp, door: Door) -> None:
    app.action(KEEP)(door.work(keep))
    app.action(SUSPEND)(door.work(suspend))


async def keep(request: Request) -> None:
    credential_id = OnCredential.decode(request.value).credential
    try:
        await request.services.db.change(tidy.keep, await presser(request, credential_id), credential_id)
    except AlreadyDeleted:
        await request.draw_anew()


async def suspend(request: Request) -> None:
    credential_id = OnCredential.decode(request.value).credential
    reason = f"not used for {request.services.settings.bot_unused_days} days"
    try:
        await request.services.db.change(lifecycle.suspend, await presser(request, credential_id), credential_id, reason)
    except (AlreadyDeleted, IsSuspended):
        await request.draw_anew()


def note(idle: Idle, owner: str, days: int, may: bool = True, admins: tuple[str, ...] = ()) -> list[Block]:
    """For the owner of unused credentials; for a user group, in a channel of the workspace.

    Args:
        may: whether the reader may keep and suspend them; otherwise `admins` can.
    """
    whose: list[Piece] = [principal(owner), " owns"] if owner.startswith("S") else ["You own"]
    if not idle.rows:
        return [line("Done: nothing of it is left unused.")]
    what = "an SMTP credential that nothing" if idle.total == 1 else f"{idle.total} SMTP credentials that nothing"
    rows = [line(*whose, f" {what} has used for {days} days. What isn't needed is safer suspended.")]
    for credential, workspace in idle.rows:
        rows.append(line(*_about(credential, workspace)))
        if may:
            value = OnCredential(credential=credential.id).encode()
            rows.append(actions(button("Keep", KEEP, value), button("Suspend", SUSPEND, value)))
    if not may and admins:
        rows.append(line("You have no role there that can suspend them. Ask ", *people(admins), "."))
    if idle.total > len(idle.rows):
        rows.append(foot(f"And {idle.total - len(idle.rows)} more in my Home tab, under Unused."))
    return rows


def _about(credential: Credential, workspace: Workspace) -> list[Piece]:
    used: list[Piece] = ["last used ", when(credential.last_used_at)] if credential.last_used_at else ["never used"]
    return [bold(credential.name), " (", code(credential.username), ") in ", bold(workspace.name), ": ", *used]

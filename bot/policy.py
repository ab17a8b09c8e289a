"""A workspace's own rules, and its webhook: **Workspace settings…** in `/smtp setup`, for admins.

A webhook's secret is shown once, to whoever set it, like a password; where that fails the webhook is taken away again.
"""

from typing import Any

from slack_bolt.app.async_app import AsyncApp

from bot import blocks, texts
from bot.blocks import actions, bold, button, code, copyable, field, foot, line, lines, modal, option, plain
from bot.codec import OnWorkspace
from bot.door import Answer, Door, InputInvalid, Request, notice, update
from bot.new_password import HAND_OVER_LIMIT, REMOVE_PASSWORD
from bot.slack import Ok
from bot.webhook import check_literal
from storage import policy, workspaces
from storage.access import Action
from storage.audit import Origin, What
from storage.database import Transaction
from storage.limits import clean_number
from storage.models import Workspace
from storage.policy import DAYS_MAX, LIVE_MAX, Policy
from storage.refusals import DomainInvalid, NumberInvalid, WebhookInvalid

OPEN_SETTINGS = "open_workspace_settings"
SETTINGS = "change_workspace_settings"
REASON = option("a reason must be given to delete or suspend", "reason")
DEVICES = option("short passwords for devices may be made", "devices")


def register(app: AsyncApp, door: Door) -> None:
    app.action(OPEN_SETTINGS)(door.work(open_modal))
    app.view(SETTINGS)(door.submission(submit))


async def open_modal(request: Request) -> None:
    """Raises NoSuchWorkspace, NotAllowed, RoleUnknown, PersonBarred, TriggerExpired."""
    token = OnWorkspace.decode(request.value)
    request.channel = token.channel
    workspace = await request.services.db.read(workspaces.by_id, token.workspace)
    await request.allow(Action.ADMINISTER, workspace, What.CHANGE_WORKSPACE)
    await request.open(settings_modal(workspace, token.channel))


async def submit(request: Request) -> Answer:
    services = request.services
    token = OnWorkspace.decode(request.metadata)
    request.channel = token.channel
    given = blocks.values(request.view or {})
    boxes = given.get("rules") or []
    workspace = await services.db.read(workspaces.by_id, token.workspace)
    origin = request.origin(await request.actor(workspace))
    try:
        wanted = Policy(
            policy.clean_domains(given.get("domains") or ""),
            clean_number("longest_days", given.get("longest_days"), DAYS_MAX),
            REASON["value"] in boxes,
            DEVICES["value"] in boxes,
            clean_number("most_live", given.get("most_live"), LIVE_MAX),
        )
        url = policy.clean_url(given["webhook"]) if (given.get("webhook") or "").strip() else None
        if url is not None:
            check_literal(url, services.settings.bot_webhook_private)
        workspace, secret = await services.db.change(_save, origin, workspace.id, wanted, url)
    except (DomainInvalid, NumberInvalid, WebhookInvalid) as refusal:
        where = "domains" if isinstance(refusal, DomainInvalid) else "webhook" if isinstance(refusal, WebhookInvalid) else refusal.field
        raise InputInvalid(where, blocks.flat(texts.sentence(refusal, services.command))) from None

    async def then() -> None:
        if secret is not None:
            await show_secret(request, origin, workspace, secret)

    return Answer(update(saved_view(workspace)), then if secret else None)


def _save(tx: Transaction, origin: Origin, workspace_id: int, wanted: Policy, url: str | None) -> tuple[Workspace, str | None]:
    """All of it or nothing; a secret only for another address than before."""
    workspace = policy.change(tx, origin, workspace_id, wanted)
    if url == workspace.webhook_url:
        return workspace, None
    return policy.set_webhook(tx, origin, workspace_id, url)


async def show_secret(request: Request, origin: Origin, workspace: Workspace, secret: str) -> None:
    """Shows it to the admin alone, or takes the webhook away."""
    services = request.services
    message = secret_message(workspace, secret)
    if not isinstance(await services.slack.post_ephemeral(request.channel or "", request.user, message, HAND_OVER_LIMIT), Ok):
        await services.db.change(policy.set_webhook, origin, workspace.id, None)
        said = "I couldn't show you the webhook's secret, so I removed the webhook. The other settings are saved. Try again."
        await request.show_result(notice([line(said)], "Webhook removed"))


def settings_modal(workspace: Workspace, channel: str | None) -> dict[str, Any]:
    text: dict[str, Any] = {"type": "plain_text_input"}

    def begins(value: object) -> dict[str, Any]:
        return {"initial_value": str(value)} if value else {}

    domains = text | {"multiline": True, "placeholder": plain("example.com")} | begins("\n".join(workspace.domains))
    boxes: dict[str, Any] = {"type": "checkboxes", "options": [REASON, DEVICES]}
    ticked = [box for box, is_so in ((REASON, workspace.reason_required), (DEVICES, workspace.devices_allowed)) if is_so]
    hint = "Reads what happens to the credentials, as signed JSON: ids and usernames, no secrets. A new address gets a new secret."
    rows = [
        line("Rules for the credentials of ", bold(workspace.name), ". Those that exist stay as they are."),
        field("Sender domains", "domains", domains, "Mail from another domain is refused. At most 50. Empty: any.", optional=True),
        field("Longest life, in days", "longest_days", text | begins(workspace.longest_days), "Empty: also for ever.", optional=True),
        field("Most credentials at once", "most_live", text | begins(workspace.most_live), "Empty: any number.", optional=True),
        field("Also", "rules", boxes | ({"initial_options": ticked} if ticked else {}), optional=True),
        field("Webhook", "webhook", text | {"placeholder": plain("https://…")} | begins(workspace.webhook_url), hint, optional=True),
    ]
    metadata = OnWorkspace(workspace=workspace.id, channel=channel).encode()
    return modal("Workspace settings", rows, SETTINGS, submit="Save", close="Cancel", metadata=metadata)


def saved_view(workspace: Workspace) -> dict[str, Any]:
    rules = policy.words(Policy.of(workspace))
    rows = [line("Saved for ", bold(workspace.name), ".")]
    rows.append(lines(*([one] for one in rules)) if rules else line("There are no rules: any sender, any life, any number."))
    if workspace.webhook_url:
        rows.append(line("Its webhook: ", code(workspace.webhook_url)))
    return notice(rows, "Settings saved")


def secret_message(workspace: Workspace, secret: str) -> dict[str, Any]:
    """The only message that ever holds it; `text`, which notifications show, does not."""
    return {
        "text": f"The secret of the webhook of {workspace.name} is ready. Open Slack to copy it.",
        "blocks": [
            line("The secret that signs what I send to the webhook of ", bold(workspace.name), ". It's shown only once."),
            actions(button("I've copied it, remove this", REMOVE_PASSWORD, style="primary")),
            copyable("Secret", secret),
            foot("To get another one, remove the webhook's address, save, and enter it again."),
        ],
    }

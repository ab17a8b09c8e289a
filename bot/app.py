"""The Bolt app: every listener, in one place."""

import re

import structlog
from slack_bolt.app.async_app import AsyncApp
from slack_bolt.authorization import AuthorizeResult
from slack_bolt.response import BoltResponse
from slack_sdk.web.async_client import AsyncWebClient

from bot import (
    access_modal,
    alarm,
    asking,
    audit_log,
    commands,
    create,
    delete,
    events,
    expiry,
    home,
    leak,
    limits,
    listing,
    owner,
    past,
    policy,
    queue,
    revoke,
    rotate,
    row,
    setup,
    suspend,
    tidy,
    whois,
)
from bot.door import Answer, Door, Request, describe
from bot.services import Services
from storage.refusals import SurfaceOutdated

log = structlog.get_logger(__name__)
ANYTHING = re.compile(".*")


def build(services: Services, bot_id: str, bot_user: str) -> AsyncApp:
    """Registers everything the bot answers to.

    The signature is checked by `web.py` before Bolt sees a request, and Socket Mode has none, so Bolt's own check is off: it would
    log the body of what it refuses. Bolt is told who the bot is, and holds no token: it would ask Slack before the first acknowledgement,
    and answer "please reinstall this app" to everybody while Slack is slow.

    Args:
        bot_id, bot_user: of `auth.test`; Bolt ignores what the bot itself did.
    """

    async def authorize(enterprise_id: str | None, team_id: str | None, user_id: str | None) -> AuthorizeResult:
        return AuthorizeResult(
            enterprise_id=enterprise_id,
            team_id=team_id,
            user_id=user_id,
            bot_id=bot_id,
            bot_user_id=bot_user,
            bot_token=services.settings.slack_bot_token.get_secret_value(),
        )

    app = AsyncApp(
        client=AsyncWebClient(base_url=services.settings.slack_api_url),
        authorize=authorize,
        process_before_response=True,
        request_verification_enabled=False,
    )
    register(app, services)
    app.error(failed)
    return app


def register(app: AsyncApp, services: Services) -> None:
    """Every listener; `manifest.yml` asks Slack for exactly what they listen to."""
    door = Door(services)
    commands.register(app, door, services)
    create.register(app, door)
    listing.register(app, door)
    row.register(app, door)
    rotate.register(app, door)
    suspend.register(app, door)
    expiry.register(app, door)
    owner.register(app, door)
    limits.register(app, door)
    tidy.register(app, door)
    delete.register(app, door)
    revoke.register(app, door)
    leak.register(app, door, services)
    alarm.register(app, door)
    whois.register(app, door)
    home.register(app, door)
    setup.register(app, door)
    policy.register(app, door)
    access_modal.register(app, door)
    audit_log.register(app, door)
    asking.register(app, door)
    past.register(app, door)
    queue.register(app, door)
    events.register(app, services)
    # Whatever is left is a button or a modal of an older release.
    app.action(ANYTHING)(door.work(outdated))
    app.view(ANYTHING)(door.submission(outdated_submission))


async def outdated(_request: Request) -> None:
    raise SurfaceOutdated


async def outdated_submission(_request: Request) -> Answer:
    raise SurfaceOutdated


async def failed(error: Exception) -> BoltResponse:
    """The last resort: what escaped the door is logged without its content and acknowledged, or Socket Mode would deliver it again."""
    log.error("unexpected failure outside the door", error=describe(error))
    return BoltResponse(status=200)

"""What the listeners work with, made once at start and handed to each `register`."""

import secrets
from dataclasses import dataclass, field
from typing import Any

import structlog
from aiohttp import ClientError, ClientSession
from slack_sdk.web.async_client import AsyncWebClient
from slack_sdk.web.async_slack_response import AsyncSlackResponse
from slack_sdk.webhook.async_client import AsyncWebhookClient

from bot.delivery import Work, outside
from bot.people import People
from bot.settings import Settings
from storage.database import Database
from storage.passwords import CROCKFORD, Hasher

ACKNOWLEDGE_TIMEOUT = 2.5  # seconds, inside Slack's 3

log = structlog.get_logger(__name__)


class Client(AsyncWebClient):
    """Slack's Web API. Whoever waits for its answer holds no place in `Work`."""

    async def api_call(self, *args: Any, **kwargs: Any) -> AsyncSlackResponse:
        async with outside():
            return await super().api_call(*args, **kwargs)


@dataclass
class Services:
    settings: Settings
    db: Database
    hasher: Hasher
    http: ClientSession
    """Connections to Slack that are kept open."""
    client: AsyncWebClient
    """With retries and kept connections, for whatever may be sent twice."""
    careful_client: AsyncWebClient
    """Without either, for the password: a connection that breaks leaves open whether it was shown."""
    people: People
    team: str
    """The Slack team the bot is installed in."""
    work: Work = field(default_factory=Work)
    acknowledge_timeout: float = ACKNOWLEDGE_TIMEOUT
    """Seconds that a submission's handler has; then the person reads that it failed."""

    @property
    def command(self) -> str:
        return self.settings.bot_command

    async def respond(self, response_url: str, body: dict[str, Any]) -> bool:
        """Posts to a response_url; whether Slack took it."""
        webhook = AsyncWebhookClient(response_url, session=self.http)
        try:
            async with outside():
                answer = await webhook.send_dict(body)
        except (ClientError, TimeoutError, OSError) as error:
            log.info("response_url did not answer", error=type(error).__name__)
            return False
        if answer.status_code != 200:
            log.warning("response_url refused", status=answer.status_code)
        return answer.status_code == 200


def new_reference() -> str:
    """An id for one request, that a person can read out and an admin can search the log for."""
    return "".join(secrets.choice(CROCKFORD) for _ in range(8))

"""Handing a password to its requester, and to nobody else, and knowing whether it arrived.

The response_url of the submission is the first way; it works where the bot is no member. `chat.postEphemeral` is the second.
Errors: https://docs.slack.dev/reference/methods/chat.postEphemeral
"""

import asyncio
from enum import StrEnum
from typing import Any

import structlog
from aiohttp import ClientConnectorError, ClientError
from prometheus_client import Counter
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient
from slack_sdk.webhook.async_client import AsyncWebhookClient

ATTEMPTS = 3
POST_TIMEOUT = 5  # seconds for one attempt
LONGEST_WAIT = 5.0  # seconds that Slack's Retry-After is followed
RETRYABLE = ("ratelimited", "service_unavailable", "request_timeout")
UNCLEAR = ("fatal_error", "internal_error")

log = structlog.get_logger(__name__)
handovers = Counter("smtp_bot_handovers_total", "Passwords handed over, or not", ["way", "outcome"])


class Outcome(StrEnum):
    DELIVERED = "delivered"
    """Slack accepted the message."""
    REFUSED = "refused"
    """Slack surely showed nothing."""
    UNCLEAR = "unclear"
    """It may have been shown."""


async def hand_over(
    client: AsyncWebClient, response_url: str | None, channel: str, user: str, message: dict[str, Any]
) -> tuple[Outcome, str]:
    """Shows the message to `user` alone, in `channel`.

    Args:
        client: one that does not retry by itself.
        message: `text` and `blocks`.

    Returns:
        What became of it, and Slack's word for why.
    """
    outcome, cause = Outcome.REFUSED, "no_response_url"
    if response_url:
        outcome, cause = await _by_response_url(response_url, message)
        handovers.labels("response_url", outcome).inc()
    if outcome is Outcome.REFUSED:
        log.info("response_url did not take the password message", cause=cause)
        outcome, cause = await _by_post_ephemeral(client, channel, user, message)
        handovers.labels("chat.postEphemeral", outcome).inc()
    return outcome, cause


async def _by_response_url(response_url: str, message: dict[str, Any]) -> tuple[Outcome, str]:
    webhook = AsyncWebhookClient(response_url, timeout=POST_TIMEOUT, retry_handlers=[])
    body = message | {"response_type": "ephemeral", "replace_original": False}
    cause = "unreachable"
    for attempt in range(ATTEMPTS):
        try:
            answer = await webhook.send_dict(body)
        except ClientConnectorError:
            await asyncio.sleep(2**attempt * 0.1)
            continue
        except (ClientError, TimeoutError, OSError) as error:
            return Outcome.UNCLEAR, type(error).__name__
        if answer.status_code == 200:
            # Slack answers "ok" in plain text; what says otherwise in JSON showed nothing.
            return (
                (Outcome.REFUSED, "not_ok") if answer.body.startswith("{") and '"ok":true' not in answer.body else (Outcome.DELIVERED, "ok")
            )
        if answer.status_code == 429:
            cause = "ratelimited"
            await asyncio.sleep(_wait(answer.headers))
            continue
        if answer.status_code >= 500:
            return Outcome.UNCLEAR, f"http_{answer.status_code}"
        return Outcome.REFUSED, f"http_{answer.status_code}"
    return Outcome.REFUSED, cause


async def _by_post_ephemeral(client: AsyncWebClient, channel: str, user: str, message: dict[str, Any]) -> tuple[Outcome, str]:
    cause = "unreachable"
    for attempt in range(ATTEMPTS):
        try:
            async with asyncio.timeout(POST_TIMEOUT):
                await client.chat_postEphemeral(channel=channel, user=user, **message)
        except SlackApiError as error:
            cause = str(error.response["error"])
            if cause in RETRYABLE:
                await asyncio.sleep(_wait(error.response.headers))
                continue
            unclear = cause in UNCLEAR or error.response.status_code >= 500
            return (Outcome.UNCLEAR if unclear else Outcome.REFUSED), cause
        except ClientConnectorError:
            await asyncio.sleep(2**attempt * 0.1)
            continue
        except (ClientError, TimeoutError, OSError) as error:
            return Outcome.UNCLEAR, type(error).__name__
        return Outcome.DELIVERED, "ok"
    return Outcome.REFUSED, cause


def _wait(headers: dict[str, Any]) -> float:
    """Slack's Retry-After in seconds, at most `LONGEST_WAIT`."""
    given = next((value for name, value in headers.items() if name.lower() == "retry-after"), "1")
    text = given[0] if isinstance(given, list) else str(given)
    return min(float(text) if text.isdigit() else 1.0, LONGEST_WAIT)

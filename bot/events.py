"""What Slack says happened meanwhile: channels that were archived, deleted, shared or renumbered, people and groups that changed.

Slack repeats an event that it thinks lost; each of these may be handled twice with the same result.
"""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog
from slack_bolt.app.async_app import AsyncApp
from slack_bolt.response import BoltResponse

from bot import setup
from bot.door import describe, later
from bot.services import Services, new_reference
from storage import owners, seen, workspaces
from storage.access import Actor
from storage.audit import Origin, Surface

log = structlog.get_logger(__name__)
GONE = ("channel_archive", "channel_deleted", "group_archive", "group_deleted")
GROUPS = ("subteam_created", "subteam_updated", "subteam_members_changed")


def register(app: AsyncApp, services: Services) -> None:
    async def gone(event: dict[str, Any]) -> None:
        await services.db.change(workspaces.channel_gone, by_slack(event), services.team, event["channel"])

    async def shared(event: dict[str, Any]) -> None:
        still = event["type"] == "channel_shared" or bool(event.get("is_ext_shared"))
        await services.db.change(workspaces.channel_shared, by_slack(event), services.team, event["channel"], still)

    async def renumbered(event: dict[str, Any]) -> None:
        old, new = event["old_channel_id"], event["new_channel_id"]
        await services.db.change(workspaces.channel_renumbered, by_slack(event), services.team, old, new)

    async def person(event: dict[str, Any]) -> None:
        user = event["user"]
        if services.people.lessens(user):
            await services.db.note(seen.mark, user["id"])
        if user.get("deleted"):
            await services.db.change(owners.left, by_slack({}), services.team, user["id"])
        elif await services.db.read(owners.is_gone, user["id"]):
            await services.db.note(owners.returned, user["id"])

    async def joined(event: dict[str, Any]) -> None:
        await setup.invited(services, event)

    async def groups(event: dict[str, Any]) -> None:
        # Its list of members may be incomplete, so they are asked for anew.
        await services.db.note(seen.mark, event.get("subteam_id") or event["subteam"]["id"])

    def listener(handle: Callable[[dict[str, Any]], Coroutine[Any, Any, None]]) -> Callable[..., Awaitable[BoltResponse | None]]:
        """Bolt acknowledges an event by itself when its listener returns nothing; the work comes after."""

        async def begin(event: dict[str, Any], body: dict[str, Any]) -> BoltResponse | None:
            if body.get("team_id") not in (None, services.team):
                return None
            if services.work.full:
                return later()
            services.work.begin(_logged(handle, event))
            return None

        return begin

    def by_slack(event: dict[str, Any]) -> Origin:
        actor = Actor(event.get("user") or event.get("actor_id") or "slack", services.team)
        return Origin(actor, Surface.EVENT, new_reference(), event.get("channel") or event.get("old_channel_id"))

    for names, handler in (
        (GONE, gone),
        (("channel_shared", "channel_unshared"), shared),
        (("channel_id_changed",), renumbered),
        (("user_change",), person),
        (("member_joined_channel",), joined),
        (GROUPS, groups),
    ):
        for name in names:
            app.event(name)(listener(handler))


async def _logged(handle: Callable[[dict[str, Any]], Coroutine[Any, Any, None]], event: dict[str, Any]) -> None:
    try:
        await handle(event)
    except Exception as error:
        log.error("event not followed", event_type=event["type"], error=describe(error))

"""The door: what Slack sends becomes a `Request`, a handler does the thing, and whatever goes wrong becomes a sentence for the person.

Every listener comes through here. `work` acknowledges at once and handles afterwards; `submission` handles a modal's submission within
Slack's 3 seconds, because its answer shows in the modal, and may leave something to do for afterwards.
https://docs.slack.dev/interactivity/handling-user-interaction
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from aiohttp import ClientError
from prometheus_client import Counter, Histogram
from slack_bolt.context.ack.async_ack import AsyncAck
from slack_bolt.response import BoltResponse
from slack_sdk.errors import SlackApiError

from bot import texts
from bot.blocks import Block, Piece, foot, line, modal
from bot.codec import FromHome, InHome
from bot.delivery import acknowledgement_sent, first_delivery, turned_away, within
from bot.services import Services, new_reference
from bot.texts import Busy, TriggerExpired
from storage import access, audit
from storage.access import Action, Actor, Right
from storage.audit import Origin, Surface, What
from storage.models import Workspace
from storage.refusals import NotAChannel, NotAllowed, PersonBarred, Refusal, RoleUnknown, SurfaceOutdated

HANDLE_TIMEOUT = 60.0  # seconds for all that follows an acknowledgement
LATE_TRIGGER = ("expired_trigger_id", "trigger_expired", "exchanged_trigger_id", "trigger_exchanged", "invalid_trigger_id")

log = structlog.get_logger(__name__)
handled = Counter("smtp_bot_requests_total", "Requests from Slack", ["surface", "outcome"])
took = Histogram("smtp_bot_request_seconds", "From the request's arrival to the end of its handling", ["surface"])


@dataclass(frozen=True)
class Answer:
    """What a submission's handler returns: Slack's acknowledgement, and what to do after it."""

    ack: dict[str, Any]
    then: Callable[[], Awaitable[None]] | None = None


class InputInvalid(Exception):
    """One input of a submitted modal holds what cannot be taken; the modal stays open and says so under it."""

    def __init__(self, block: str, said: str) -> None:
        super().__init__(block)
        self.block = block
        self.said = said


def update(view: dict[str, Any]) -> dict[str, Any]:
    """The acknowledgement that puts another view in the submitted one's place."""
    return {"response_action": "update", "view": view}


def errors(**by_block: str) -> dict[str, Any]:
    """The acknowledgement that shows an error under each named input."""
    return {"response_action": "errors", "errors": by_block}


class Request:
    """One thing a person did in Slack: who, where, on which record, and the ways to answer."""

    def __init__(self, services: Services, body: dict[str, Any]) -> None:
        self.services = services
        self.body = body
        self.reference = new_reference()
        user = body.get("user") or {}
        self.user: str = body.get("user_id") or user["id"]
        # Only the user's own team id shows that somebody comes from another organization; the context shows ours.
        self.user_team: str | None = user.get("team_id") or body.get("team_id") or (body.get("team") or {}).get("id")
        container = body.get("container") or {}
        self.channel: str | None = body.get("channel_id") or (body.get("channel") or {}).get("id") or container.get("channel_id") or None
        self.view: dict[str, Any] | None = body.get("view")
        self.action: dict[str, Any] = (body.get("actions") or [{}])[0]
        self.trigger_id: str = body.get("trigger_id", "")
        self.response_url: str | None = body.get("response_url") or None
        self.text: str = body.get("text", "") if "command" in body else ""
        self.changed: Workspace | None = None
        """Set by whoever changed something in this workspace: the person's Home tab is drawn anew."""
        self.refused = False
        if "command" in body:
            self.surface = Surface.COMMAND
        elif self.view_type == "home":
            self.surface = Surface.HOME
        else:
            self.surface = Surface.MODAL if body.get("type") == "view_submission" else Surface.BUTTON

    @property
    def value(self) -> str:
        """What the pressed button, or the chosen row of a menu, carries."""
        return str(self.action.get("value") or (self.action.get("selected_option") or {}).get("value") or "")

    @property
    def view_type(self) -> str:
        """`modal`, `home`, or nothing outside both."""
        return str((self.view or {}).get("type", ""))

    @property
    def metadata(self) -> str:
        """What the view carries; of a modal that was opened in Home, what it would carry elsewhere."""
        raw = str((self.view or {}).get("private_metadata", ""))
        try:
            return FromHome.decode(raw).inside
        except SurfaceOutdated:
            return raw

    @property
    def home(self) -> InHome | None:
        """How the Home tab is shown that this happened in, or that its modal was opened in."""
        raw = str((self.view or {}).get("private_metadata", ""))
        try:
            return InHome.decode(raw) if self.view_type == "home" else FromHome.decode(raw).home
        except SurfaceOutdated:
            return None

    def in_channel(self) -> str:
        """The channel this happens in. Raises NotAChannel in a direct message."""
        if self.channel is None or self.channel.startswith("D"):
            raise NotAChannel
        return self.channel

    def origin(self, actor: Actor) -> Origin:
        source = (self.view or {}).get("id") or (self.body.get("container") or {}).get("message_ts")
        return Origin(actor, self.surface, self.reference, self.channel, source)

    async def actor(self, workspace: Workspace | None = None, everywhere: bool = False) -> Actor:
        """The person, with the user groups that can matter in this workspace (or `everywhere`) looked up."""
        services = self.services
        nobody = Actor(self.user, services.team)
        async with services.db.read() as session:
            scope = None if everywhere else [workspace.id] if workspace else []
            groups = await access.deciding_groups(session, nobody, scope)
        return await services.people.actor(self.user, self.user_team, self.channel, groups)

    async def allow(self, action: Action, workspace: Workspace | None, what: What) -> tuple[Actor, Right]:
        """Whether the person may do this, asked before a surface opens. A denial is written down, then raised."""
        actor = await self.actor(workspace)
        try:
            async with self.services.db.read() as session:
                return actor, await access.may(session, actor, action, workspace)
        except (NotAllowed, PersonBarred, RoleUnknown) as refusal:
            await audit.record_refusal(self.services.db, what, self.origin(actor), refusal, workspace)
            raise

    async def open(self, view: dict[str, Any]) -> dict[str, Any]:
        """Opens the modal; over the open one when the person is in one. Returns the view as Slack made it. Raises TriggerExpired."""
        client = self.services.client
        opening = client.views_push if self.view_type == "modal" else client.views_open
        if self.home:
            view = view | {"private_metadata": FromHome(home=self.home, inside=view.get("private_metadata", "")).encode()}
        try:
            opened = await opening(trigger_id=self.trigger_id, view=view)
        except SlackApiError as error:
            if error.response["error"] in LATE_TRIGGER:
                raise TriggerExpired from None
            raise
        made: dict[str, Any] = opened["view"]
        return made

    async def show(self, blocks: list[Block], summary: str = texts.SUMMARY, replace: bool = False) -> None:
        """Shows blocks to this person alone: in answer to what they did, or in the channel when Slack gave no way to answer."""
        if self.response_url:
            body = {"text": summary, "blocks": blocks, "response_type": "ephemeral", "replace_original": replace}
            if await self.services.respond(self.response_url, body):
                return
        if self.channel:
            await self.services.client.chat_postEphemeral(channel=self.channel, user=self.user, text=summary, blocks=blocks)

    async def say(self, pieces: Sequence[Piece], *more: Block) -> None:
        """One sentence to this person alone: in the modal they are in, or as a message."""
        blocks = [line(*pieces), *more]
        if self.view and self.view_type == "modal":
            await self.services.client.views_update(view_id=self.view["id"], view=notice(blocks))
        elif self.view_type == "home":
            try:
                await self.open(notice(blocks))
            except (TriggerExpired, SlackApiError):
                await self.services.client.chat_postMessage(channel=self.user, text=texts.SUMMARY, blocks=blocks)
        else:
            await self.show([*blocks, foot(texts.ONLY_YOU)])


def notice(blocks: list[Block], title: str = "SMTP Credentials") -> dict[str, Any]:
    """A modal that only says something."""
    return modal(title, blocks)


Handler = Callable[[Request], Awaitable[None]]
SubmitHandler = Callable[[Request], Awaitable[Answer]]


class Door:
    def __init__(self, services: Services) -> None:
        self._services = services
        self.after_change: Callable[[Request, Workspace | None], Awaitable[None]] | None = None
        """What is done after a request that set `changed`, or that was refused in Home, which then shows what is no longer so."""

    def event(self, handler: Handler) -> Callable[..., Awaitable[BoltResponse | None]]:
        """A Bolt listener for an event that a person caused, with a view or without."""

        async def begin(event: dict[str, Any]) -> BoltResponse | None:
            if self._services.work.full:
                return later()
            body = {"user": {"id": event["user"]}, "view": event.get("view"), "event": event}
            self._services.work.begin(self._handle(handler, Request(self._services, body)))
            return None

        return begin

    def work(self, handler: Handler) -> Callable[..., Awaitable[None]]:
        """A Bolt listener that acknowledges and goes on with the handler afterwards."""

        async def acknowledge(ack: AsyncAck, body: dict[str, Any]) -> None:
            await ack()
            request, work = Request(self._services, body), self._services.work
            if work.full:
                work.turn_away(self._handle(_busy, request))
            else:
                work.begin(self._handle(handler, request))

        return acknowledge

    def submission(self, handler: SubmitHandler) -> Callable[..., Awaitable[None]]:
        """A Bolt listener for a modal's submission."""

        async def submit(ack: AsyncAck, body: dict[str, Any]) -> None:
            request = Request(self._services, body)
            started = time.monotonic()
            outcome = "done"
            try:
                if self._services.work.full:
                    raise Busy
                given = await within(self._services.acknowledge_timeout, _if_new(handler, request))
                if given is None:
                    await ack()
                    return
                answer = given
            except Busy as busy:
                outcome = "refused"
                # Over the modal instead of in its place: what was typed is still there for another try.
                answer = Answer({"response_action": "push", "view": notice([line(*texts.sentence(busy, self._services.command))])})
            except InputInvalid as invalid:
                outcome = "refused"
                answer = Answer(errors(**{invalid.block: invalid.said}))
            except Refusal as refusal:
                outcome = "refused"
                request.refused = True
                answer = Answer(update(notice([line(*texts.sentence(refusal, self._services.command))])))
            except Exception as error:
                outcome = "failed"
                _log_failure(error, request)
                answer = Answer(update(notice([line(*texts.unexpected(request.reference))])))
            handled.labels(request.surface, outcome).inc()
            took.labels(request.surface).observe(time.monotonic() - started)
            await ack(answer.ack)
            self._services.work.begin(self._refresh(request))
            if answer.then is not None:
                self._services.work.begin(self._afterwards(answer.then, request))

        return submit

    async def _afterwards(self, then: Callable[[], Awaitable[None]], request: Request) -> None:
        await acknowledgement_sent()
        await self._handle(lambda _request: then(), request)

    async def _handle(self, handler: Handler, request: Request) -> None:
        started = time.monotonic()
        outcome = "done"
        try:
            try:
                async with asyncio.timeout(HANDLE_TIMEOUT):
                    await handler(request)
            except Refusal as refusal:
                outcome = "refused"
                request.refused = True
                await request.say(texts.sentence(refusal, self._services.command))
            except Exception as error:
                outcome = "failed"
                _log_failure(error, request)
                await request.say(texts.unexpected(request.reference))
        except (SlackApiError, ClientError, TimeoutError) as error:
            log.error("could not tell the person", error=describe(error), reference=request.reference)
        finally:
            handled.labels(request.surface, outcome).inc()
            took.labels(request.surface).observe(time.monotonic() - started)
        await self._refresh(request)

    async def _refresh(self, request: Request) -> None:
        outdated = request.refused and request.home is not None
        changed, request.changed, request.refused = request.changed, None, False
        if self.after_change is None or (changed is None and not outdated):
            return
        try:
            await self.after_change(request, changed)
        except Exception as error:
            log.info("Home tab not drawn anew", error=describe(error), reference=request.reference)


def later() -> BoltResponse:
    """The answer to an event that cannot be worked on now: Slack sends it again."""
    turned_away.inc()
    return BoltResponse(status=503)


async def _busy(_request: Request) -> None:
    raise Busy


async def _if_new(handler: SubmitHandler, request: Request) -> Answer | None:
    return await handler(request) if await first_delivery() else None


def _log_failure(error: Exception, request: Request) -> None:
    log.error(
        "unexpected failure",
        reference=request.reference,
        surface=request.surface.value,
        error=describe(error),
        at=_where(error),
    )


def describe(error: Exception) -> str:
    """The failure without what it was about: Slack's error word, or the exception's type. Messages may quote what people typed."""
    if isinstance(error, SlackApiError):
        messages = (error.response.get("response_metadata") or {}).get("messages")
        return " ".join([str(error.response["error"]), *map(str, messages or [])])
    return type(error).__name__


def _where(error: Exception) -> str:
    """File, line and function of the innermost frames, without any values."""
    frames = []
    traceback = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        frames.append(f"{code.co_filename.rsplit('/', 2)[-1]}:{traceback.tb_lineno} {code.co_name}")
        traceback = traceback.tb_next
    return " < ".join(reversed(frames[-6:]))

"""The door: what Slack sends becomes a `Request`, a handler does the thing, and whatever goes wrong becomes a sentence for the person.

Every listener comes through here. `work` acknowledges at once and handles afterwards; `submission` handles a modal's submission within
Slack's 3 seconds, because its answer shows in the modal, and may leave something to do for afterwards.
https://docs.slack.dev/interactivity/handling-user-interaction
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar, get_args

import structlog
from prometheus_client import Counter, Histogram
from slack_bolt.context.ack.async_ack import AsyncAck
from slack_bolt.response import BoltResponse

from bot import texts
from bot.blocks import Block, Piece, in_words, line, modal
from bot.codec import FromHome, InHome
from bot.delivery import first_delivery, turned_away
from bot.people import Presence
from bot.services import Services, new_reference
from bot.slack import Away, Ok, Refused, View
from bot.texts import Busy, SlackAway, TriggerExpired
from storage import access, audit, errands, posted
from storage.access import Action, Actor, Right, ToAsk
from storage.audit import Origin, Surface, What
from storage.database import OutcomeUnknown, Transaction, Unavailable, Within, time_limit
from storage.errands import Kind
from storage.models import Workspace
from storage.refusals import NotAChannel, NotAllowed, PersonBarred, Refusal, RoleUnknown, SurfaceOutdated

LATE_TRIGGER = ("expired_trigger_id", "trigger_expired", "exchanged_trigger_id", "trigger_exchanged", "invalid_trigger_id")

EVERYWHERE: Literal["everywhere"] = "everywhere"
Scope = Workspace | Literal["everywhere"] | None
P = ParamSpec("P")
T = TypeVar("T")

log = structlog.get_logger(__name__)
Outcome = Literal["done", "refused", "failed"]
handled = Counter("smtp_bot_requests_total", "Requests from Slack", ["surface", "outcome"])
for _surface in (Surface.COMMAND, Surface.HOME, Surface.MODAL, Surface.BUTTON):
    for _outcome in get_args(Outcome):
        handled.labels(_surface, _outcome)  # begins at 0: a rate sees the first burst only so
took = Histogram("smtp_bot_request_seconds", "From the request's arrival to the end of its handling", ["surface"])


@dataclass(frozen=True)
class Answer:
    """What a submission's handler returns: Slack's acknowledgement, and what to do after it.

    Args:
        then: what is left to be done; the person is told when it fails.
        watch: keeps what the acknowledgement says up to date; when it fails, that stays as it is.
    """

    ack: dict[str, Any]
    then: Callable[[], Awaitable[None]] | None = None
    watch: Callable[[], Awaitable[None]] | None = None


class InputInvalid(Exception):
    """One input of a submitted modal holds what cannot be taken; the modal stays open and says so under it."""

    def __init__(self, block: str, said: str) -> None:
        super().__init__(block)
        self.block = block
        self.said = said


def update(view: dict[str, Any]) -> dict[str, Any]:
    """The acknowledgement that puts another view in the submitted one's place."""
    return {"response_action": "update", "view": view}


CLEAR: dict[str, Any] = {"response_action": "clear"}
"""The acknowledgement that closes the modal, and those under it."""


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
        self.opened: str | None = None
        """The modal that was opened for it."""
        self.changed = False
        """Something was committed for it."""
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
    def block_id(self) -> str:
        """Of the block that was pressed in."""
        return str(self.action.get("block_id") or "")

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

    async def draw_anew(self) -> None:
        """Owes that the message that was pressed in is drawn anew: it says something that is not so."""
        ts = (self.body.get("container") or {}).get("message_ts")

        def owe(tx: Transaction) -> None:
            message = posted.at(tx, self.channel or "", ts or "")
            errands.settle(tx, [message] if message else [])

        await self.services.db.note(owe)
        self.services.db.owed()

    def in_channel(self) -> str:
        """The channel this happens in. Raises NotAChannel in a direct message."""
        if self.channel is None or self.channel.startswith("D"):
            raise NotAChannel
        return self.channel

    def origin(self, actor: Actor) -> Origin:
        source = (self.view or {}).get("id") or (self.body.get("container") or {}).get("message_ts")
        return Origin(actor, self.surface, self.reference, self.channel, source)

    async def actor(self, scope: Scope = None, member: bool = False, asked: ToAsk | None = None) -> Actor:
        """The person, with the user groups that can matter in the scope looked up.

        Args:
            scope: one workspace, `EVERYWHERE`, or None for what is given in all workspaces.
            member: whether it matters that they are in the channel. A typed command shows that; for a press, Slack is asked.
            asked: what `access.to_ask` said of the scope in the transaction that found it.

        Raises:
            RoleUnknown.
        """
        services = self.services
        workspaces = None if scope is EVERYWHERE else [scope.id] if isinstance(scope, Workspace) else []
        if asked is None:
            asked = await services.db.read(access.to_ask, self.user, services.team, workspaces)
        channel = self.channel if self.surface is Surface.COMMAND else None
        if member and channel is None and self.channel:
            match await services.people.in_channel(self.user, self.channel):
                case Presence.PRESENT:
                    channel = self.channel
                case Presence.UNKNOWN:
                    raise RoleUnknown
        return await services.people.actor(self.user, self.user_team, channel, asked.groups, asked.changed)

    def remembered(self, asked: ToAsk) -> Actor | None:
        """The person who typed this, when nothing has to be asked of Slack for it; None otherwise. Also from a database thread."""
        if self.surface is not Surface.COMMAND:
            return None
        return self.services.people.remembered(self.user, self.user_team, self.channel, asked.groups, asked.changed)

    async def read(
        self, what: What, actor: Actor, function: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """What a storage function reads for this person before a surface opens. A denial is written down, then raised."""
        try:
            return await self.services.db.read(function, *args, **kwargs)
        except (NotAllowed, PersonBarred, RoleUnknown) as refusal:
            await self.services.db.change(audit.record_refusal, what, self.origin(actor), refusal)
            raise

    async def allow(self, action: Action, workspace: Workspace | None, what: What) -> tuple[Actor, Right]:
        """Whether the person may do this, asked before a surface opens. A denial is written down, then raised."""
        actor = await self.actor(workspace, member=action is Action.LIST)
        return actor, await self.read(what, actor, access.may, actor, action, workspace)

    async def open(self, view: dict[str, Any]) -> View:
        """Opens the modal; over the open one when the person is in one. Raises TriggerExpired, SlackAway."""
        if self.home:
            view = view | {"private_metadata": FromHome(home=self.home, inside=view.get("private_metadata", "")).encode()}
        match await self.services.slack.open_view(self.trigger_id, view, over=self.view_type == "modal"):
            case Ok(opened):
                self.opened = opened.id
                return opened
            case Refused(word) if word in LATE_TRIGGER:
                raise TriggerExpired
            case Refused(word, details):
                raise SlackAway(" ".join([word, *details]))
            case Away(why, _):
                raise SlackAway(why)

    async def respond(self, body: Mapping[str, Any]) -> bool:
        """Posts to the response_url of what was typed or pressed; whether Slack took it."""
        if not self.response_url:
            return False
        given = {"response_type": "ephemeral", "replace_original": False, **body}
        return isinstance(await self.services.slack.respond(self.response_url, given), Ok)

    async def show(self, blocks: list[Block], replace: bool = False) -> bool:
        """Shows blocks to this person alone: in answer to what they did, in the channel, or in a direct message. Whether one was taken."""
        message = in_words(blocks)
        if await self.respond(message | {"replace_original": replace}):
            return True
        slack = self.services.slack
        if self.channel and isinstance(await slack.post_ephemeral(self.channel, self.user, message), Ok):
            return True
        return isinstance(await slack.post_message(self.user, message), Ok)

    async def say(self, pieces: Sequence[Piece], *more: Block) -> bool:
        """One sentence to this person alone: in the modal they are in, or as a message. Whether it was taken."""
        blocks = [line(*pieces), *more]
        if self.view and self.view_type == "modal":
            if isinstance(await self.services.slack.update_view(self.view["id"], notice(blocks)), Ok):
                return True
        elif self.view_type == "home":
            with contextlib.suppress(TriggerExpired, SlackAway):
                await self.open(notice(blocks))
                return True
        return await self.show(blocks)

    async def show_result(self, view: dict[str, Any]) -> bool:
        """Shows in the submitted modal what came of it, over its acknowledgement; whether it is shown there."""
        modal = self.view or {}
        return await self.services.slack.show_result(modal["id"], view, modal.get("hash"))


def notice(blocks: list[Block], title: str = "SMTP Credentials") -> dict[str, Any]:
    """A modal that only says something."""
    return modal(title, blocks)


Handler = Callable[[Request], Awaitable[None]]
SubmitHandler = Callable[[Request], Awaitable[Answer]]
SuggestHandler = Callable[[Request], Awaitable[list[Block]]]
"""Returns the options for what is typed into a menu."""


class Door:
    def __init__(self, services: Services) -> None:
        self._services = services
        self.draw_home: Callable[[Request], Awaitable[None]] | None = None
        """Draws the Home tab anew after a request that came from it: it shows what was changed, and what is no longer so."""
        self.offers: Callable[[Request, Refusal], list[Block]] = lambda _request, _refusal: []
        """What somebody who was refused something can do about it."""
        self.draw_list: Callable[[Request], Awaitable[None]] | None = None
        """The same of the list that a submitted modal was opened from."""

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
            answer: Answer | None = None

            if self._services.work.full:
                # Over the modal instead of in its place: what was typed is still there for another try.
                said = line(*texts.sentence(Busy(), self._services.command))
                await ack({"response_action": "push", "view": notice([said])})
                return

            async def handle() -> None:
                nonlocal answer
                if await first_delivery():
                    answer = await handler(request)

            async def tell(pieces: Sequence[Piece], *more: Block) -> None:
                nonlocal answer
                answer = Answer(update(notice([line(*pieces), *more])))

            try:
                await self._try(request, handle, tell, self._services.limits.acknowledge)
            except InputInvalid as invalid:
                answer = Answer(errors(**{invalid.block: invalid.said}))
            if answer is None:
                await ack()
                return
            await ack(answer.ack)
            self._services.work.begin(self._afterwards(answer, request))

        return submit

    def suggest(self, handler: SuggestHandler) -> Callable[..., Awaitable[None]]:
        """A Bolt listener for what is typed into a menu that the app fills; where something is in the way, with nothing."""

        async def offer(ack: AsyncAck, body: dict[str, Any]) -> None:
            found: list[Block] = []
            request = Request(self._services, body)

            async def handle() -> None:
                found.extend(await handler(request))

            async def tell(_pieces: Sequence[Piece], *_more: Block) -> None:
                found.clear()

            await self._try(request, handle, tell, self._services.limits.acknowledge)
            await ack(options=found)

        return offer

    async def list_anew(self, request: Request) -> None:
        """Draws the list anew in which the person pressed something."""
        await self._draw(self.draw_list, request)

    async def _afterwards(self, answer: Answer, request: Request) -> None:
        await self._draw(self.draw_list, request)
        if (then := answer.then) is not None:
            await self._handle(lambda _request: then(), request)
        elif request.home is not None:
            await self._draw(self.draw_home, request)
        if answer.watch is not None:
            try:
                async with time_limit(self._services.limits.work):
                    await answer.watch()
            except Exception as error:
                log.info("a result is not kept up to date", error=describe(error), reference=request.reference)

    async def _handle(self, handler: Handler, request: Request) -> None:
        async def tell(pieces: Sequence[Piece], *more: Block) -> None:
            if not await request.say(pieces, *more):
                log.error("could not tell the person", reference=request.reference)

        refused = await self._try(request, lambda: handler(request), tell, self._services.limits.work)
        if request.home is not None and (refused or request.view_type == "modal"):
            await self._draw(self.draw_home, request)

    async def _try(
        self,
        request: Request,
        handle: Callable[[], Awaitable[None]],
        tell: Callable[..., Awaitable[None]],
        limit: float,
    ) -> bool:
        """Does it within the limit, and tells the person whatever is in the way; whether something was."""
        started = time.monotonic()
        outcome: Outcome = "done"
        within = Within()
        try:
            async with time_limit(limit) as within:
                await handle()
        except Refusal as refusal:
            outcome = "refused"
            sentence = texts.sentence(refusal, self._services.command, self._services.owners)
            await tell(sentence, *self.offers(request, refusal))
        except InputInvalid:
            outcome = "refused"
            raise
        except Exception as error:
            outcome = "failed"
            _log_failure(error, request)
            if (request.changed or within.changed) and isinstance(error, Unavailable | SlackAway):
                error = OutcomeUnknown()  # a part was done before: what became of it is looked up, not guessed
            await tell(texts.failure(error, request.reference))
            if isinstance(error, OutcomeUnknown):
                self._services.work.begin(self._look_later(request))
        finally:
            request.changed |= within.changed
            handled.labels(request.surface, outcome).inc()
            took.labels(request.surface).observe(time.monotonic() - started)
        return outcome != "done"

    async def _look_later(self, request: Request) -> None:
        """Owes the person what became of it, as soon as the database takes that down."""

        def owe(tx: Transaction) -> None:
            errands.add(tx, Kind.OUTCOME, person=request.user, channel_id=request.channel, ids=(request.reference,))

        for wait in self._services.limits.looked_up_after:
            await asyncio.sleep(wait)
            with contextlib.suppress(Unavailable):
                await self._services.db.note(owe)
                self._services.db.owed()
                return
        log.error("could not tell what became of a request", reference=request.reference)

    async def _draw(self, draw: Callable[[Request], Awaitable[None]] | None, request: Request) -> None:
        if draw is None:
            return
        try:
            await draw(request)
        except Exception as error:
            log.info("Home tab or list not drawn anew", error=describe(error), reference=request.reference)


def later() -> BoltResponse:
    """The answer to an event that cannot be worked on now: Slack sends it again."""
    turned_away.inc()
    return BoltResponse(status=503)


async def _busy(_request: Request) -> None:
    raise Busy


def _log_failure(error: Exception, request: Request) -> None:
    log.error(
        "unexpected failure",
        reference=request.reference,
        surface=request.surface.value,
        error=describe(error),
        at=_where(error),
    )


def describe(error: Exception) -> str:
    """The failure without what it was about: its word where it has one, or its type. Messages may quote what people typed."""
    if isinstance(error, SlackAway | Unavailable):
        return f"{type(error).__name__} {error}"
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

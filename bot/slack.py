"""The one way to Slack: whatever came over the wire, a call's reply is `Ok`, `Refused` or `Away`. Only cancellation is raised.

    match await slack.post_message(channel, message):
        case Ok(posted): ...
        case Refused(word): ...     # Slack said no, and nothing was done
        case Away(why, unclear): ...  # no usable answer; `unclear`: it may have been done

A proxy's page with status 200, JSON that is no object, an empty body, a broken connection: all of that is `Away`. What may be done twice is
tried again after those, everything else only when it surely was not done. Bodies are never logged.
Web API: https://docs.slack.dev/apis/web-api
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any, Generic, TypeVar
from urllib.parse import urlencode
from urllib.request import getproxies, proxy_bypass

import structlog
from aiohttp import (
    ClientConnectorError,
    ClientHttpProxyError,
    ClientSession,
    ClientTimeout,
    ConnectionTimeoutError,
    DummyCookieJar,
    TCPConnector,
)
from prometheus_client import Counter
from pydantic_core import PydanticSerializationError, to_json
from yarl import URL

from bot.delivery import outside

CALL_LIMIT = 10.0  # seconds for a call with all its tries, where the caller gives none
MODAL_LIMIT = 5.0  # seconds
OPEN_LIMIT = 3.0  # seconds that a trigger_id lives: docs.slack.dev/interactivity/handling-user-interaction
TRIES = 3
FIRST_WAIT = 0.1  # seconds before a second try; doubled for each further one
USUAL_RETRY = 1.0  # seconds, where Retry-After says nothing usable
LONGEST_RETRY = 5.0  # seconds; what asks for longer is not waited for
LOOKS = (0.5, 1.0, 2.0)  # seconds before a result is shown over an acknowledgement, and before each further look
CALLS_AT_ONCE = 100
BODY_MAX = 8 * 1024 * 1024
PAGES_MAX = 20
PAGE_SIZE = 999  # docs.slack.dev/reference/methods/users.conversations
HOOKS = "hooks.slack.com"

# What these words are about was not done: https://docs.slack.dev/reference/methods/chat.postMessage
LATER = ("ratelimited", "rate_limited", "service_unavailable", "request_timeout")
# "It's possible some aspect of the operation succeeded before the error was raised."
PERHAPS_DONE = ("fatal_error", "internal_error")
WORD = re.compile(r"[a-z][a-z0-9_.-]{0,79}", re.ASCII)
DETAILS_MAX = 5
DETAIL_MAX = 200  # characters

log = structlog.get_logger(__name__)
calls = Counter("smtp_bot_slack_calls_total", "Calls of Slack", ["method", "outcome"])
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Ready = asyncio.Future[Any]


@dataclass(frozen=True)
class Ok(Generic[T_co]):
    """Slack did it."""

    data: T_co


@dataclass(frozen=True)
class Refused:
    """Slack said no, and nothing was done."""

    word: str
    """Slack's word for why, such as `channel_not_found`."""
    details: tuple[str, ...] = ()
    """What of the arguments it did not like, as it says."""


@dataclass(frozen=True)
class Away:
    """There was no usable answer."""

    why: str
    """A word: `timeout`, `unreachable`, `ratelimited`, `http_502`, `not_slack`, `malformed`, an exception's name."""
    unclear: bool
    """It may have been done all the same."""


Reply = Ok[T] | Refused | Away


class Malformed(Exception):
    """An answer lacks what the caller needs of it, or has it in another type."""


class Fields:
    """A JSON object of an answer, read by the types that are expected. Each reader raises Malformed."""

    def __init__(self, data: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        self.data = data
        self.headers = headers or {}

    def text(self, name: str) -> str:
        """A text that is there and not empty."""
        return self.optional(name) or self._fail(name)

    def optional(self, name: str) -> str | None:
        """A text, or None where it is missing."""
        found = self.data.get(name)
        return found if found is None or isinstance(found, str) else self._fail(name)

    def flag(self, name: str) -> bool:
        """False where it is missing."""
        found = self.data.get(name)
        return found if isinstance(found, bool) else False if found is None else self._fail(name)

    def texts(self, name: str) -> list[str]:
        found = self.data.get(name)
        if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
            self._fail(name)
        return list(found or ())

    def inner(self, name: str) -> "Fields":
        found = self.data.get(name)
        return Fields(found) if isinstance(found, dict) else self._fail(name)

    def inners(self, name: str) -> list["Fields"]:
        found = self.data.get(name)
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            self._fail(name)
        return [Fields(one) for one in found or ()]

    def _fail(self, name: str) -> Any:
        raise Malformed(name)


@dataclass(frozen=True)
class Installation:
    team_id: str
    team: str
    bot_user: str
    bot_id: str
    scopes: frozenset[str]


@dataclass(frozen=True)
class User:
    """An account, as `users.info` or a `user_change` event describes it."""

    team_id: str | None
    enterprise_teams: frozenset[str]
    """The Slack teams of an Enterprise Grid that it belongs to."""
    deleted: bool
    bot: bool
    guest: bool
    stranger: bool

    @classmethod
    def read(cls, fields: Fields) -> "User":
        """Raises Malformed."""
        return cls(
            team_id=fields.optional("team_id"),
            enterprise_teams=frozenset(fields.inner("enterprise_user").texts("teams") if fields.data.get("enterprise_user") else ()),
            deleted=fields.flag("deleted"),
            bot=fields.flag("is_bot") or fields.flag("is_app_user"),
            guest=fields.flag("is_restricted") or fields.flag("is_ultra_restricted"),
            stranger=fields.flag("is_stranger"),
        )


@dataclass(frozen=True)
class UserGroup:
    id: str
    handle: str


@dataclass(frozen=True)
class Channel:
    direct: bool
    """A direct message, of two or of more."""
    shared: bool
    """With another organization, or about to be."""
    archived: bool
    has_bot: bool
    name: str | None = None


@dataclass(frozen=True)
class Posted:
    """Where a message is; `ts` is None where Slack said ok and no more."""

    channel: str
    ts: str | None


@dataclass(frozen=True)
class View:
    id: str | None
    hash: str | None

    @classmethod
    def read(cls, fields: Fields) -> "View":
        """Slack's ok counts whether or not it describes the view. Raises Malformed."""
        view = fields.inner("view") if fields.data.get("view") else Fields({})
        return cls(view.optional("id"), view.optional("hash"))


def judge(status: int, headers: Mapping[str, str], body: bytes, plain: bool = False) -> tuple[Reply[Fields], float | None]:
    """Tells what an HTTP answer means.

    Args:
        headers: by any case.
        plain: a response_url's answer, which says `ok`, or a word for why not, in plain text.

    Returns:
        The reply, and the seconds after which the call may be made again because it surely was not done; None when it may not.
    """
    if status == 429:
        return Away("ratelimited", unclear=False), _retry_after(headers)
    said: Any = None
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        text = body[:100].decode("ascii", "replace").strip()
        if plain and status == 200 and text == "ok":
            said = {"ok": True}
        elif plain and 400 <= status < 500 and WORD.fullmatch(text):
            said = {"ok": False, "error": text}
    if isinstance(said, dict) and said.get("ok") is True and status == 200:
        return Ok(Fields(said, headers)), None
    word = said.get("error") if isinstance(said, dict) and said.get("ok") is False else None
    if isinstance(word, str) and WORD.fullmatch(word) and status < 500:
        if word in LATER:
            return Away(word, unclear=False), _retry_after(headers)
        return (Away(word, unclear=True) if word in PERHAPS_DONE else Refused(word, _details(said))), None
    if status != 200:
        return Away(f"http_{status}", unclear=not 400 <= status < 500 or status == 408), None
    return Away("not_slack", unclear=True), None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    given = headers.get("Retry-After", "").strip()
    wait = float(given) if re.fullmatch(r"[0-9]{1,12}", given) else USUAL_RETRY
    return wait if wait <= LONGEST_RETRY else None


def _details(said: Mapping[str, Any]) -> tuple[str, ...]:
    metadata = said.get("response_metadata")
    messages = metadata.get("messages") if isinstance(metadata, dict) else None
    return tuple(str(one)[:DETAIL_MAX] for one in messages[:DETAILS_MAX]) if isinstance(messages, list) else ()


class Slack:
    """Slack's Web API and response_urls, for one installed app. Made inside the running loop.

    Args:
        token: the bot's.
        api_url: ends with a slash.
        sleep: waits that many seconds.
        looks: seconds before a result is shown over an acknowledgement, and before each further look; see `show_result`.
    """

    def __init__(
        self,
        token: str,
        api_url: str,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        looks: Sequence[float] = LOOKS,
    ) -> None:
        self._token = token
        self._api_url = api_url
        self._api = URL(api_url)
        self._sleep = sleep
        self._looks = looks
        self._slots = asyncio.Semaphore(CALLS_AT_ONCE)
        self._proxies: dict[URL, str | None] = {}
        self._kept = ClientSession(connector=TCPConnector(limit=0), cookie_jar=DummyCookieJar())
        # A kept connection that breaks leaves open whether the password was shown.
        self._fresh = ClientSession(connector=TCPConnector(limit=0, force_close=True), cookie_jar=DummyCookieJar())

    async def close(self) -> None:
        await self._kept.close()
        await self._fresh.close()

    # --- the app and its people ---
    async def auth_test(self) -> Reply[Installation]:
        def read(fields: Fields) -> Installation:
            scopes = fields.headers.get("x-oauth-scopes", "").replace(" ", "").split(",")
            return Installation(
                fields.text("team_id"), fields.text("team"), fields.text("user_id"), fields.text("bot_id"), frozenset(scopes) - {""}
            )

        return await self._ask("auth.test", {}, read)

    async def open_socket(self, app_token: str) -> Reply[str]:
        """The address of a new Socket Mode connection."""
        return await self._ask("apps.connections.open", {}, lambda fields: fields.text("url"), token=app_token)

    async def user(self, user: str, limit: float = CALL_LIMIT) -> Reply[User]:
        return await self._ask("users.info", {"user": user}, lambda fields: User.read(fields.inner("user")), limit)

    async def group_members(self, group: str, limit: float = CALL_LIMIT) -> Reply[frozenset[str]]:
        found = await self._pages("usergroups.users.list", {"usergroup": group}, lambda fields: fields.texts("users"), limit)
        return Ok(frozenset(found.data)) if isinstance(found, Ok) else found

    async def groups(self, limit: float = CALL_LIMIT) -> Reply[list[UserGroup]]:
        """The user groups in use. Refused with `plan_upgrade_required` on a plan that has none."""

        def read(fields: Fields) -> list[UserGroup]:
            return [UserGroup(one.text("id"), one.text("handle")) for one in fields.inners("usergroups")]

        return await self._pages("usergroups.list", {}, read, limit)

    async def channels_of(self, user: str, limit: float = CALL_LIMIT) -> Reply[frozenset[str]]:
        """The channels that the user is in: all public ones, and those private ones that the bot is in too."""
        asked = {"user": user, "types": "public_channel,private_channel", "limit": PAGE_SIZE}
        found = await self._pages("users.conversations", asked, lambda fields: [one.text("id") for one in fields.inners("channels")], limit)
        return Ok(frozenset(found.data)) if isinstance(found, Ok) else found

    async def channel(self, channel: str, limit: float = CALL_LIMIT) -> Reply[Channel]:
        """Refused with `channel_not_found` also for a private channel that the bot is not in."""

        def read(fields: Fields) -> Channel:
            found = fields.inner("channel")
            return Channel(
                direct=found.flag("is_im") or found.flag("is_mpim"),
                shared=found.flag("is_ext_shared") or found.flag("is_pending_ext_shared"),
                archived=found.flag("is_archived"),
                has_bot=found.flag("is_member"),
                name=found.optional("name"),
            )

        return await self._ask("conversations.info", {"channel": channel}, read, limit)

    async def permalink(self, channel: str, ts: str) -> Reply[str]:
        asked = {"channel": channel, "message_ts": ts}
        return await self._ask("chat.getPermalink", asked, lambda fields: fields.text("permalink"))

    # --- messages: `message` is `text` and `blocks` ---
    async def post_message(self, channel: str, message: Mapping[str, Any], limit: float = CALL_LIMIT) -> Reply[Posted]:
        """To a channel, or to a person by their user id. Slack may turn a user id into the direct message's channel."""

        def read(fields: Fields) -> Posted:
            return Posted(fields.optional("channel") or channel, fields.optional("ts"))

        asked = {"channel": channel, "unfurl_links": False, "unfurl_media": False, **message}
        return await self._tell("chat.postMessage", asked, read, limit)

    async def update_message(self, channel: str, ts: str, message: Mapping[str, Any], limit: float = CALL_LIMIT) -> Reply[None]:
        asked = {"channel": channel, "ts": ts, **message}
        return await self._tell("chat.update", asked, _nothing, limit, repeatable=True)

    async def post_ephemeral(
        self, channel: str, user: str, message: Mapping[str, Any], limit: float = CALL_LIMIT, ready: Ready | None = None
    ) -> Reply[None]:
        """Ok means that Slack accepted it, not that it was seen.

        Args:
            ready: for a password. The call has a connection of its own, which is opened at once; the message is sent when this is done.
        """
        asked = {"channel": channel, "user": user, **message}
        return await self._tell("chat.postEphemeral", asked, _nothing, limit, ready=ready)

    async def respond(
        self, response_url: str, body: Mapping[str, Any], limit: float = CALL_LIMIT, ready: Ready | None = None
    ) -> Reply[None]:
        """Posts to a response_url. Refused with `foreign_url` when it is not one of Slack's. `ready`: see `post_ephemeral`.

        https://docs.slack.dev/interactivity/handling-user-interaction#message_responses
        """
        if not self.is_slacks(response_url):
            log.warning("a response_url that is not Slack's was not used")
            return Refused("foreign_url")
        reply = await self._send("response_url", response_url, {}, _json(body), limit, plain=True, ready=ready)
        return Ok(None) if isinstance(reply, Ok) else reply

    def is_slacks(self, address: str) -> bool:
        """Whether it leads to Slack: to the API's host or its `hooks.`, or to hooks.slack.com; unencrypted only to a local Slack."""
        api = self._api
        try:
            url = URL(address)
            same = url.origin() == api.origin()
        except (ValueError, TypeError):
            return False
        if url.user is not None or url.password is not None:
            return False
        if url.scheme == "https":
            return same or (url.port == 443 and url.host in (api.host, f"hooks.{api.host}", HOOKS))
        return same and url.scheme == "http" and _loopback(api.host)

    # --- views ---
    async def open_view(self, trigger_id: str, view: Mapping[str, Any], over: bool = False) -> Reply[View]:
        """Opens a modal; `over` the one that is open. A trigger_id opens one modal, however often it is sent."""

        def read(fields: Fields) -> View:
            opened = fields.inner("view")
            return View(opened.text("id"), opened.optional("hash"))

        method = "views.push" if over else "views.open"
        return await self._tell(method, {"trigger_id": trigger_id, "view": view}, read, OPEN_LIMIT, repeatable=True)

    async def update_view(self, view_id: str, view: Mapping[str, Any], drawn_from: str | None = None) -> Reply[View]:
        """Puts another modal in its place. Refused with `not_found` when it was closed, with `hash_conflict` when it is not the one that
        has the hash `drawn_from`."""
        asked = {"view_id": view_id, "view": view, **({"hash": drawn_from} if drawn_from else {})}
        return await self._tell("views.update", asked, View.read, MODAL_LIMIT, repeatable=True)

    async def show_result(self, view_id: str, view: Mapping[str, Any], submitted: str | None) -> bool:
        """Shows what came of a submission in its modal, over the view that the submission was acknowledged with.

        Slack promises no order between the acknowledgement and this. So it waits, and carries the hash of the view that was submitted:
        `hash_conflict` says that the acknowledgement was applied, and then this goes over it; ok says that it was not yet, and then the
        modal is looked at again, a few times.

        Args:
            submitted: the hash of the submitted view.

        Returns:
            Whether it is shown. If not, say it another way.
        """
        drawn_from = submitted
        for wait in self._looks:
            await self._sleep(wait)
            match await self.update_view(view_id, view, drawn_from):
                case Ok(shown):
                    drawn_from = shown.hash
                case Refused("hash_conflict"):
                    return isinstance(await self.update_view(view_id, view), Ok)
                case _:
                    return False
        return True

    async def publish_view(self, user: str, view: Mapping[str, Any], drawn_from: str | None = None) -> Reply[View]:
        """Shows a Home tab. Refused with `hash_conflict` when another was published since the one that has the hash `drawn_from`."""
        asked = {"user_id": user, "view": view, **({"hash": drawn_from} if drawn_from else {})}
        return await self._tell("views.publish", asked, View.read, MODAL_LIMIT, repeatable=True)

    # --- how ---
    async def _ask(
        self, method: str, arguments: Mapping[str, Any], read: Callable[[Fields], T], limit: float = CALL_LIMIT, token: str = ""
    ) -> Reply[T]:
        """A question: it may be put twice. These methods take a form, not JSON."""
        headers = {"Authorization": f"Bearer {token or self._token}", "Content-Type": "application/x-www-form-urlencoded"}
        return _read(await self._send(method, self._api_url + method, headers, urlencode(arguments).encode(), limit, repeatable=True), read)

    async def _tell(
        self,
        method: str,
        arguments: Mapping[str, Any],
        read: Callable[[Fields], T],
        limit: float,
        repeatable: bool = False,
        ready: Ready | None = None,
    ) -> Reply[T]:
        headers = {"Authorization": f"Bearer {self._token}"}
        sent = self._send(method, self._api_url + method, headers, _json(arguments), limit, repeatable=repeatable, ready=ready)
        return _read(await sent, read)

    async def _pages(self, method: str, arguments: Mapping[str, Any], read: Callable[[Fields], list[T]], limit: float) -> Reply[list[T]]:
        """All pages of a list within the limit, or none."""

        def page(fields: Fields) -> tuple[list[T], str]:
            metadata = fields.inner("response_metadata") if fields.data.get("response_metadata") else Fields({})
            return read(fields), metadata.optional("next_cursor") or ""

        found: list[T] = []
        cursor = ""
        ends = asyncio.get_running_loop().time() + limit
        for _ in range(PAGES_MAX):
            remaining = ends - asyncio.get_running_loop().time()
            reply = await self._ask(method, {**arguments, **({"cursor": cursor} if cursor else {})}, page, remaining)
            if not isinstance(reply, Ok):
                return reply
            more, cursor = reply.data
            found += more
            if not cursor:
                return Ok(found)
        return Away("too_many_pages", unclear=False)

    async def _send(
        self,
        what: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes,
        limit: float,
        repeatable: bool = False,
        plain: bool = False,
        ready: Ready | None = None,
    ) -> Reply[Fields]:
        reply: Reply[Fields] = Away("busy", unclear=False)
        perhaps = False
        session = self._kept if ready is None else self._fresh
        address = URL(url)
        origin = address.origin()
        if origin not in self._proxies:
            self._proxies[origin] = proxy_for(origin)
        headers = {"Content-Type": "application/json; charset=utf-8", **headers}
        try:
            async with outside(), asyncio.timeout(limit), self._slots:
                for attempt in range(TRIES):
                    reply = Away("timeout", unclear=True)
                    reply, wait = await _exchange(session, address, self._proxies[origin], headers, body, plain, limit / 2, ready)
                    if isinstance(reply, Away) and reply.unclear:
                        perhaps = True
                        wait = 0.0 if repeatable else None
                    if wait is None or attempt == TRIES - 1:
                        break
                    await self._sleep(max(wait, FIRST_WAIT * 2**attempt))
        except TimeoutError:
            pass
        match reply:
            case Ok():
                calls.labels(what, "ok").inc()
            case Refused(word, details):
                calls.labels(what, "refused").inc()
                log.info("Slack refused", method=what, error=word, details=list(details))
            case Away(why, unclear):
                reply = replace(reply, unclear=unclear or perhaps)
                calls.labels(what, "away").inc()
                log.warning("Slack is away", method=what, error=why, unclear=reply.unclear)
        return reply


def _json(body: Mapping[str, Any]) -> bytes:
    try:
        return to_json(body)
    except PydanticSerializationError:
        return json.dumps(body).encode()  # half a surrogate pair, which somebody's text may hold, can only be written escaped


class _NotReady(Exception):
    """What the body waited for failed; none of it was sent."""


async def _exchange(
    session: ClientSession,
    url: URL,
    proxy: str | None,
    headers: Mapping[str, str],
    body: bytes,
    plain: bool,
    connect_limit: float,
    ready: Ready | None,
) -> tuple[Reply[Fields], float | None]:
    """One request. What it may wait for is its answer; to connect it has `connect_limit` seconds, because until then nothing was sent."""
    timeout = ClientTimeout(total=None, connect=connect_limit)
    failed = False

    async def when_ready() -> AsyncIterator[bytes]:
        nonlocal failed
        if ready is not None:
            try:
                await asyncio.shield(ready)
            except Exception:
                failed = True
                raise _NotReady from None
        yield body

    data: bytes | AsyncIterator[bytes] = body
    if ready is not None:
        data, headers = when_ready(), {**headers, "Content-Length": str(len(body))}
    try:
        async with session.post(url, proxy=proxy, data=data, headers=headers, allow_redirects=False, timeout=timeout) as answer:
            received = bytearray()
            async for chunk in answer.content.iter_any():
                received += chunk
                if len(received) > BODY_MAX:
                    return Away("too_large", unclear=True), None
            return judge(answer.status, answer.headers, bytes(received), plain)
    except ConnectionTimeoutError:
        return Away("unreachable", unclear=False), None
    except (ClientConnectorError, ClientHttpProxyError):
        return Away("unreachable", unclear=False), 0.0
    except Exception as error:
        if failed:
            return Away("not_ready", unclear=False), None
        # The client, its parsers and the network raise of many kinds; none of them says that nothing was done.
        return Away(type(error).__name__, unclear=True), None


def _read(reply: Reply[Fields], read: Callable[[Fields], T]) -> Reply[T]:
    if not isinstance(reply, Ok):
        return reply
    try:
        return Ok(read(reply.data))
    except Malformed as error:
        log.warning("Slack's answer lacks something", field=str(error))
        return Away("malformed", unclear=True)


def proxy_for(url: URL) -> str | None:
    """The proxy that HTTP_PROXY, HTTPS_PROXY and NO_PROXY name for it. aiohttp would look anew, and for a .netrc, at each request."""
    if proxy_bypass(url.authority):
        return None
    return getproxies().get({"ws": "http", "wss": "https"}.get(url.scheme, url.scheme))


def _nothing(_fields: Fields) -> None:
    return None


def _loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:
        return False

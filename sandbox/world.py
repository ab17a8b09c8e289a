"""Everything the sandbox's Slack knows, in memory: one team, its people, channels, messages and views, and its one installed app."""

import asyncio
import secrets
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from sandbox.inputs import Json, Values

SLACKBOT = "USLACKBOT"
Seen = TypeVar("Seen")


@dataclass(eq=False)
class Team:
    id: str
    name: str
    domain: str


@dataclass(eq=False)
class User:
    id: str
    name: str
    team_id: str
    real_name: str = ""
    display_name: str = ""
    tz: str = "UTC"
    is_bot: bool = False
    is_app_user: bool = False
    deleted: bool = False
    is_restricted: bool = False
    is_ultra_restricted: bool = False
    is_stranger: bool = False
    is_admin: bool = False
    is_owner: bool = False
    enterprise_id: str = ""
    """Of people in an Enterprise organization, with the teams they are in."""
    teams: list[str] = field(default_factory=list)


@dataclass(eq=False)
class Group:
    id: str
    handle: str
    name: str
    users: list[str]
    disabled: bool = False


@dataclass(eq=False)
class Channel:
    id: str
    name: str
    kind: Literal["public", "private", "im"]
    members: list[str]
    creator: str = ""
    created: int = 0
    archived: bool = False
    connected_teams: list[str] = field(default_factory=list)

    @property
    def is_ext_shared(self) -> bool:
        return bool(self.connected_teams)


@dataclass(eq=False)
class Message:
    ts: str
    channel: str
    user: str
    text: str
    blocks: list[Json] = field(default_factory=list)
    ephemeral_to: str | None = None
    thread_ts: str | None = None
    attachments: list[Json] = field(default_factory=list)
    more: Json = field(default_factory=dict)
    """What else its payloads say, such as the `bot_id` of another app's message."""
    edited: Json | None = None
    offered: dict[tuple[str, str], list[Json]] = field(default_factory=dict)
    state: defaultdict[str, Values] = field(default_factory=lambda: defaultdict(dict))


@dataclass(eq=False)
class View:
    id: str
    user: str
    type: Literal["modal", "home"]
    content: Json
    hash: str
    values: Values
    root: str
    previous: str | None = None
    channel: str | None = None
    errors: dict[str, str] = field(default_factory=dict)
    trouble: str = ""
    busy: bool = False
    offered: dict[tuple[str, str], list[Json]] = field(default_factory=dict)
    """Block id and action id of an `external_select` -> the options that the app offered last."""

    @property
    def blocks(self) -> list[Json]:
        blocks: list[Json] = self.content["blocks"]
        return blocks


@dataclass(eq=False)
class Trigger:
    """What lets the app open one modal for one person. `view` is the modal it was pulled in."""

    id: str
    user: str
    at: float
    channel: str | None
    view: str | None
    used: bool = False


@dataclass(eq=False)
class App:
    """The installed app, as its manifest describes it."""

    id: str
    name: str
    bot_id: str
    bot_user: str
    bot_token: str
    app_token: str
    signing_secret: str
    scopes: list[str]
    commands: dict[str, Json]
    shortcuts: list[Json]
    events: list[str]
    interactive: bool
    home_tab: bool
    messages_tab: bool
    read_only: bool
    """Whether people cannot type into their direct message with the app."""
    request_url: str | None
    revoked: bool = False


class World:
    """The state, and the clock by which things expire (`clock()` is in seconds since the epoch)."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.team = Team("T0SANDBOX", "Sandbox", "sandbox")
        self.users: dict[str, User] = {}
        self.groups: dict[str, Group] = {}
        self.channels: dict[str, Channel] = {}
        self.messages: defaultdict[str, list[Message]] = defaultdict(list)
        self.views: dict[str, View] = {}
        self.modals: defaultdict[str, list[View]] = defaultdict(list)
        self.homes: dict[str, View] = {}
        self.triggers: dict[str, Trigger] = {}
        self.app: App | None = None
        self._numbers: defaultdict[str, int] = defaultdict(int)
        self._last_ts = 0
        self._waiting: set[asyncio.Event] = set()
        self.add_user("slackbot", id=SLACKBOT, is_bot=True, real_name="Slackbot")

    # --- ids and time ---
    def new_id(self, kind: str) -> str:
        self._numbers[kind] += 1
        return f"{kind}0{self._numbers[kind]:05d}{secrets.token_hex(2).upper()}"

    def new_ts(self) -> str:
        """A message's timestamp: unique, and later than every other."""
        self._last_ts = max(self._last_ts + 100, int(self.clock() * 1_000_000))
        return f"{self._last_ts // 1_000_000}.{self._last_ts % 1_000_000:06d}"

    def new_hash(self) -> str:
        return f"{int(self.clock())}.{secrets.token_hex(4)}"

    # --- who waits for changes ---
    def touch(self) -> None:
        """Something that a person may see has changed."""
        for event in self._waiting:
            event.set()

    async def changed(self, timeout: float) -> None:
        """Returns after the next change, or after `timeout` seconds."""
        event = asyncio.Event()
        self._waiting.add(event)
        try:
            await asyncio.wait_for(event.wait(), timeout)
        except TimeoutError:
            pass
        finally:
            self._waiting.discard(event)

    async def until(self, look: Callable[[], Seen | None], timeout: float) -> Seen | None:
        """What `look` returns as soon as it is not None; None after `timeout` seconds."""
        event = asyncio.Event()
        self._waiting.add(event)
        try:
            async with asyncio.timeout(timeout):
                while (found := look()) is None:
                    await event.wait()
                    event.clear()
                return found
        except TimeoutError:
            return look()
        finally:
            self._waiting.discard(event)

    # --- making things ---
    def add_user(self, name: str, **given: Any) -> User:
        user = User(id=given.pop("id", None) or self.new_id("U"), name=name, team_id=given.pop("team_id", self.team.id), **given)
        user.real_name = user.real_name or name.title()
        user.is_stranger = user.is_stranger or user.team_id != self.team.id
        self.users[user.id] = user
        return user

    def add_channel(self, name: str, kind: Literal["public", "private", "im"], members: Iterable[str]) -> Channel:
        prefix = {"public": "C", "private": "C", "im": "D"}[kind]
        channel = Channel(self.new_id(prefix), name, kind, list(dict.fromkeys(members)), created=int(self.clock()))
        channel.creator = next(iter(channel.members), "")
        self.channels[channel.id] = channel
        return channel

    def installed(self) -> App:
        if self.app is None:
            raise RuntimeError("No app is installed: call install(manifest) first.")
        return self.app

    def dm(self, user_id: str) -> Channel:
        """The person's direct message with the bot, made when it is first needed."""
        return self.direct(user_id, self.installed().bot_user)

    def direct(self, first: str, second: str) -> Channel:
        """The direct message of two people, made when it is first needed. No app is in it."""
        for channel in self.channels.values():
            if channel.kind == "im" and set(channel.members) == {first, second}:
                return channel
        return self.add_channel("directmessage", "im", [first, second])

    def dm_is_read_only(self, channel: Channel) -> bool:
        return channel.kind == "im" and self.bot_is_in(channel) and self.installed().read_only

    def new_trigger(self, user: str, channel: str | None, view: str | None = None) -> str:
        now = self.clock()
        trigger = Trigger(f"{int(now * 1000)}.{secrets.randbelow(10**10)}.{secrets.token_hex(16)}", user, now, channel, view)
        self.triggers[trigger.id] = trigger
        return trigger.id

    # --- who sees what ---
    def bot_is_in(self, channel: Channel) -> bool:
        return self.installed().bot_user in channel.members

    def visible_messages(self, user_id: str, channel_id: str) -> list[Message]:
        """What the person sees in a channel now; nothing where they are not a member."""
        channel = self.channels.get(channel_id)
        if channel is None or user_id not in channel.members:
            return []
        return [one for one in self.messages[channel_id] if one.ephemeral_to in (None, user_id)]

    def find_message(self, channel_id: str, ts: str) -> Message | None:
        return next((one for one in self.messages.get(channel_id, []) if one.ts == ts), None)

    def add_message(self, channel: str, user: str, text: str, blocks: list[Json] | None = None, **more: Any) -> Message:
        message = Message(self.new_ts(), channel, user, text, blocks or [], **more)
        self.messages[channel].append(message)
        self.touch()
        return message

    def remove_message(self, message: Message) -> None:
        if message in self.messages[message.channel]:
            self.messages[message.channel].remove(message)
            self.touch()

    def notice(self, user: str, channel: str, text: str) -> Message:
        """Slackbot tells one person something in a channel."""
        return self.add_message(channel, SLACKBOT, text, ephemeral_to=user)

    # --- views ---
    def top(self, user: str) -> View | None:
        """The modal that the person has in front."""
        return self.modals[user][-1] if self.modals[user] else None

    def close(self, view: View) -> None:
        """Takes a modal away, with all that was pushed over it."""
        stack = self.modals[view.user]
        while view in stack:
            self.views.pop(stack.pop().id, None)
        self.touch()

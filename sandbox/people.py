"""What a person does in Slack's client, and what they see: type, fill, pick, tick, press, read. And other apps, which only post."""

import asyncio
import re
from collections.abc import Iterator
from typing import Any

from sandbox import escaping, inputs
from sandbox.api import (
    STACK_MAX,
    SUBTEAM_USERS_MAX,
    change_view,
    describe_group,
    describe_message,
    describe_user,
    describe_view,
    external_id_taken,
    make_view,
    message_changed,
    message_deleted,
    message_posted,
)  # fmt: skip
from sandbox.blockkit import check_offer, check_view
from sandbox.delivery import Ack, Delivery
from sandbox.drawing import text_of
from sandbox.inputs import Json
from sandbox.world import Channel, Group, Message, User, View

SEE_TIMEOUT = 10.0  # seconds that somebody looks for something before they give up
CONNECTING = "We had some trouble connecting. Try again?"
TROUBLE = "failed with the error"
QUERY_MIN = 3  # characters typed before an external_select asks, unless it says otherwise (docs.slack.dev: reference/block-kit)


class NotSeen(AssertionError):
    """A person looked for something and saw something else."""


class Person:
    """One person in front of their client. What they see is only what Slack would show them."""

    def __init__(self, slack: Delivery, user: User) -> None:
        self.slack = slack
        self.world = slack.world
        self.user = user
        self.id = user.id
        self.name = user.name

    # --- seeing ---
    def messages(self, channel: Channel | None = None) -> list[Message]:
        """The messages before their eyes, oldest first."""
        channels = [channel.id] if channel else list(self.world.channels)
        found = [message for one in channels for message in self.world.visible_messages(self.id, one)]
        return sorted(found, key=lambda message: message.ts)

    @property
    def view(self) -> View | None:
        """The modal in front."""
        return self.world.top(self.id)

    def read(self, shown: Message | View) -> str:
        """All text of a message or view; of a view also its title, errors and buttons."""
        if isinstance(shown, Message):
            return text_of(self.world, shown.blocks) or shown.text
        content = shown.content
        parts = [content[key]["text"] for key in ("title", "submit", "close") if content.get(key)]
        return "\n".join([*parts[:1], text_of(self.world, shown.blocks), *shown.errors.values(), shown.trouble, *parts[1:]])

    def screen(self) -> str:
        """Everything this person can see now."""
        views = list(self.world.modals[self.id]) + ([self.world.homes[self.id]] if self.id in self.world.homes else [])
        shown: list[Message | View] = [*self.messages(), *views]
        return "\n---\n".join(self.read(one) for one in shown)

    async def sees(self, text: str, channel: Channel | None = None) -> Message:
        """The newest message with this text, as soon as there is one. Raises NotSeen."""

        def look() -> Message | None:
            return next((one for one in reversed(self.messages(channel)) if text in self.read(one)), None)

        found = await self.world.until(look, SEE_TIMEOUT)
        if found is None:
            raise NotSeen(f"{self.name} does not see {text!r}, but:\n{self.screen()}")
        return found

    async def sees_modal(self, text: str) -> View:
        """The modal in front, as soon as it has this text. Raises NotSeen."""

        def look() -> View | None:
            return self.view if self.view and text in self.read(self.view) else None

        found = await self.world.until(look, SEE_TIMEOUT)
        if found is None:
            raise NotSeen(f"{self.name} sees no modal with {text!r}, but:\n{self.screen()}")
        return found

    async def sees_home(self, text: str) -> View:
        def look() -> View | None:
            home = self.world.homes.get(self.id)
            return home if home and text in self.read(home) else None

        found = await self.world.until(look, SEE_TIMEOUT)
        if found is None:
            raise NotSeen(f"{self.name} sees no Home tab with {text!r}, but:\n{self.screen()}")
        return found

    def reloads(self) -> None:
        """Their client starts anew; ephemeral messages are gone, as they may be in Slack."""
        for message in self.messages():
            if message.ephemeral_to == self.id:
                self.world.remove_message(message)

    # --- typing ---
    async def types(self, channel: Channel, text: str) -> None:
        """Types into a channel: a slash command goes to the app, all else is a message."""
        if self.world.dm_is_read_only(channel) or self.id not in channel.members:
            raise NotSeen(f"{self.name} has nothing to type into there")
        command = text.partition(" ")[0]
        app = self.world.installed()
        if not command.startswith("/"):
            await self.posts(channel, text)
            return
        if command not in app.commands or self.user.team_id != self.world.team.id:
            self.world.notice(self.id, channel.id, f"{command} is not a valid command.")
            return
        ack = await self.slack.deliver("slash_commands", self.command(channel, text))
        if ack.trouble:
            self.world.notice(self.id, channel.id, f"{command} {TROUBLE} {ack.trouble}")

    def command(self, channel: Channel, text: str) -> Json:
        """What Slack sends for a slash command that they typed."""
        command, _, rest = text.partition(" ")
        app = self.world.installed()
        return {
            "token": "verification-token-deprecated",
            "team_id": self.world.team.id,
            "team_domain": self.world.team.domain,
            "channel_id": channel.id,
            "channel_name": _channel_name(channel),
            "user_id": self.id,
            "user_name": self.name,
            "command": command,
            "text": self._typed(rest) if app.commands[command].get("should_escape") else rest,
            "api_app_id": app.id,
            "is_enterprise_install": "false",
            "response_url": self.slack.new_response_url(self.id, channel.id),
            "trigger_id": self.world.new_trigger(self.id, channel.id),
        }

    def _typed(self, text: str) -> str:
        return escaping.command_text(self.world, text) if self.slack.escape_typed else escaping.escape(text)

    async def posts(self, channel: Channel, text: str, blocks: list[Json] | None = None, thread: Message | None = None) -> Message:
        """An ordinary message, or one in the thread under another."""
        made = inputs.complete(escaping.message_blocks(self.world, text) if blocks is None else blocks)
        written = escaping.message_text(self.world, text)
        message = self.world.add_message(channel.id, self.id, written, made, thread_ts=thread.ts if thread else None)
        self.slack.happens(channel, message_posted(self.world, message))
        return message

    async def edits(self, message: Message, text: str) -> None:
        """Changes a message of their own."""
        self._own(message)
        before = describe_message(self.world, message)
        message.text = escaping.message_text(self.world, text)
        message.blocks = inputs.complete(escaping.message_blocks(self.world, text))
        message.edited = {"user": self.id, "ts": self.world.new_ts()}
        self.world.touch()
        self.slack.happens(self.world.channels[message.channel], message_changed(self.world, message, before))

    async def deletes(self, message: Message) -> None:
        """Deletes a message of their own."""
        self._own(message)
        self.world.remove_message(message)
        self.slack.happens(self.world.channels[message.channel], message_deleted(self.world, message))

    def _own(self, message: Message) -> None:
        if message.user != self.id or message not in self.messages():
            raise NotSeen(f"{self.name} cannot change that message")

    # --- in the team: each waits until the app has heard of it ---
    async def joins(self, channel: Channel, inviter: str = "") -> None:
        """Becomes a member of a channel."""
        await self._joined(channel, self.id, inviter)

    async def leaves(self, channel: Channel) -> None:
        channel.members.remove(self.id)
        self.world.touch()
        if self.world.bot_is_in(channel):
            await self.slack.event(self._membership("member_left_channel", channel, self.id))

    async def invites_app(self, channel: Channel) -> None:
        """Types `/invite` with the app's name."""
        await self._joined(channel, self.world.installed().bot_user, self.id)

    async def removes_app(self, channel: Channel) -> None:
        channel.members.remove(self.world.installed().bot_user)
        self.world.touch()
        kind = "channel_left" if channel.kind == "public" else "group_left"
        await self.slack.event({"type": kind, "channel": channel.id, "actor_id": self.id})

    async def _joined(self, channel: Channel, user: str, inviter: str) -> None:
        if user in channel.members:
            return
        channel.members.append(user)
        self.world.touch()
        event = self._membership("member_joined_channel", channel, user)
        if self.world.bot_is_in(channel):
            await self.slack.event(event | ({"inviter": inviter} if inviter else {}))

    def _membership(self, what: str, channel: Channel, user: str) -> Json:
        letter = "C" if channel.kind == "public" else "G"
        return {"type": what, "user": user, "channel": channel.id, "channel_type": letter, "team": self.world.team.id}

    async def deactivates(self, other: "Person") -> None:
        """Ends somebody's account, as an administrator of the team."""
        other.user.deleted = True
        for channel in self.world.channels.values():
            if channel.kind != "im" and other.id in channel.members:
                channel.members.remove(other.id)
        await self._changed(other.user)

    async def makes_guest(self, other: "Person", single_channel: bool = False) -> None:
        other.user.is_restricted, other.user.is_ultra_restricted = True, single_channel
        await self._changed(other.user)

    async def _changed(self, user: User) -> None:
        self.world.touch()
        await self.slack.event({"type": "user_change", "user": describe_user(user), "cache_ts": int(self.world.clock())})

    async def changes_group(self, group: Group, *, add: "tuple[Person, ...]" = (), remove: "tuple[Person, ...]" = ()) -> None:
        """Adds people to a user group and takes people out of it."""
        added = [one.id for one in add if one.id not in group.users]
        removed = [one.id for one in remove if one.id in group.users]
        group.users[:] = [one for one in group.users if one not in removed] + added
        delta: Json = {"type": "subteam_members_changed", "subteam_id": group.id, "team_id": self.world.team.id}
        for name, users in (("added", added), ("removed", removed)):
            delta |= {f"{name}_users": users, f"{name}_users_count": len(users)} if users else {}
        await self.slack.event(delta | {"date_update": int(self.world.clock())})
        await self._group_updated(group)

    async def disables_group(self, group: Group) -> None:
        group.disabled = True
        await self._group_updated(group)

    async def _group_updated(self, group: Group) -> None:
        users = {"users": group.users[:SUBTEAM_USERS_MAX], "user_count": len(group.users)}
        await self.slack.event({"type": "subteam_updated", "subteam": describe_group(self.world, group) | users})

    async def archives(self, channel: Channel) -> None:
        channel.archived = True
        self.world.touch()
        await self.slack.event({"type": f"{_old_name(channel)}_archive", "channel": channel.id, "user": self.id})

    async def shares(self, channel: Channel, team: str = "T0ELSEWHERE") -> None:
        """Shares a channel with another organization."""
        channel.connected_teams.append(team)
        await self.slack.event({"type": "channel_shared", "connected_team_id": team, "channel": channel.id})

    async def unshares(self, channel: Channel, team: str = "T0ELSEWHERE") -> None:
        channel.connected_teams.remove(team)
        gone = {"previously_connected_team_id": team, "is_ext_shared": channel.is_ext_shared}
        await self.slack.event({"type": "channel_unshared", "channel": channel.id} | gone)

    async def uninstalls_app(self) -> None:
        """Removes the app from the team: its tokens are void before it hears of it."""
        app = self.world.installed()
        app.revoked = True
        await asyncio.gather(
            self.slack.event({"type": "tokens_revoked", "tokens": {"oauth": [], "bot": [app.bot_user]}}),
            self.slack.event({"type": "app_uninstalled"}),
        )

    # --- filling in ---
    def _input(self, view: View, label: str) -> tuple[Json, Json]:
        for block, element in inputs.elements(view.blocks):
            if block["type"] == "input" and block["label"]["text"] == label:
                return block, element
        for block, element in inputs.elements(view.blocks):
            if (element.get("placeholder") or {}).get("text") == label or element.get("action_id") == label:
                return block, element
        raise NotSeen(f"{self.name} sees no input {label!r} in:\n{self.read(view)}")

    def _front(self) -> View:
        if self.view is None:
            raise NotSeen(f"{self.name} has no modal open, but:\n{self.screen()}")
        return self.view

    def fills(self, label: str, text: str) -> None:
        """Types into an input of the modal."""
        view = self._front()
        inputs.hold(view.values, *self._input(view, label), text or None)
        self.world.touch()

    def picks(self, label: str, choice: "str | int | Channel | Person | None") -> None:
        """Chooses in the modal: an option by its text, a channel, a person, a date, a time, or a moment in seconds."""
        view = self._front()
        block, element = self._at_rest(view, label)
        inputs.hold(view.values, block, element, self._choice(view, block, element, choice))
        self.world.touch()

    def ticks(self, label: str, *choices: str) -> None:
        """Leaves exactly these boxes ticked."""
        view = self._front()
        block, element = self._at_rest(view, label)
        inputs.hold(view.values, block, element, [self._option(view, block, element, choice) for choice in choices])
        self.world.touch()

    def _at_rest(self, view: View, label: str) -> tuple[Json, Json]:
        block, element = self._input(view, label)
        if block.get("dispatch_action"):
            raise NotSeen(f"{label!r} acts at once: use selects()")
        return block, element

    async def searches(self, label: str, text: str, where: Message | View | None = None) -> list[str]:
        """Types into an `external_select`; the texts that the app offers, which `picks` and `selects` can then choose from."""
        shown, block, element = self._menu(label, where)
        if element["type"] != "external_select":
            raise NotSeen(f"{self.name} cannot search in {label!r}")
        return [option["text"]["text"] for option in await self.is_offered(shown, block, element, text)]

    async def is_offered(self, shown: Message | View, block: Json, element: Json, text: str) -> list[Json]:
        """The options that the app has for what was typed into an `external_select`; none where it answers what Slack refuses."""
        key = (block["block_id"], element["action_id"])
        offered = shown.offered
        offered[key] = []
        if len(text) < element.get("min_query_length", QUERY_MIN):
            return []
        payload: Json = {"type": "block_suggestion", **self._everywhere(), "block_id": key[0], "action_id": key[1], "value": text}
        if isinstance(shown, View):
            payload |= {"container": {"type": "view", "view_id": shown.id}, "view": describe_view(self.world, shown)}
        else:
            about = self._in_message(shown)
            payload |= {name: about[name] for name in ("container", "channel", "message") if name in about}
        ack = await self.slack.deliver("interactive", payload)
        if ack.trouble or check_offer(ack.body):
            return []
        offered[key] = list(ack.body.get("options") or []) + [
            option for group in ack.body.get("option_groups") or [] for option in group["options"]
        ]
        self.world.touch()
        return offered[key]

    def _choice(self, shown: Message | View, block: Json, element: Json, choice: "str | int | Channel | Person | None") -> Any:
        if choice is None:
            return None
        kind = element["type"]
        if isinstance(choice, Person):
            if choice.user.deleted:
                raise NotSeen(f"{self.name} is not offered {choice.name}, whose account is deactivated")
            return choice.id
        if isinstance(choice, Channel):
            if not self._lets_through(element, choice):
                raise NotSeen(f"{self.name} is not offered #{choice.name} there")
            return choice.id
        if kind in ("static_select", "radio_buttons", "external_select"):
            return self._option(shown, block, element, str(choice))
        if kind == "timepicker" and not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", str(choice)):
            raise NotSeen(f"{self.name} can only choose a time such as 09:30")
        return choice

    def _lets_through(self, element: Json, channel: Channel) -> bool:
        """Whether a select offers the channel: one that they may see, and that its filter lets through."""
        wanted = element.get("filter") or {}
        kind = channel.kind if element["type"] == "conversations_select" else "public"
        return (
            (channel.kind == "public" or self.id in channel.members)
            and channel.kind == kind
            and channel.kind in wanted.get("include", [channel.kind])
            and not channel.archived
            and not (channel.is_ext_shared and wanted.get("exclude_external_shared_channels"))
        )

    def _option(self, shown: Message | View, block: Json, element: Json, text: str) -> Json:
        offered = inputs.options(element) + shown.offered.get((block["block_id"], element["action_id"]), [])
        for option in offered:
            if option["text"]["text"] == text:
                return option
        raise NotSeen(f"{self.name} is not offered {text!r}, but {[option['text']['text'] for option in offered]}")

    # --- pressing ---
    async def submits(self) -> None:
        """Presses the modal's submit button."""
        view = self._front()
        view.errors = inputs.client_errors(view.blocks, view.values)
        view.trouble = ""
        self.world.touch()
        if view.errors:
            return
        view.busy = True
        ack = await self.slack.deliver("interactive", self.submission(view))
        view.busy = False
        if self.slack.late_acks and ack.body:
            await asyncio.sleep(self.slack.late_acks)
        if view.id in self.world.views:
            self._after_submission(view, ack)
        self.world.touch()

    def submission(self, view: View) -> Json:
        urls = []
        for block, element in inputs.elements(view.blocks):
            if element.get("response_url_enabled") and (chosen := inputs.held(view.values, block, element)):
                url = self.slack.new_response_url(self.id, chosen)
                urls.append({"block_id": block["block_id"], "action_id": element["action_id"], "channel_id": chosen, "response_url": url})
        return {
            "type": "view_submission",
            **self._everywhere(),
            "trigger_id": self.world.new_trigger(self.id, view.channel, view.id),
            "view": describe_view(self.world, view),
            "response_urls": urls,
        }

    def _after_submission(self, view: View, ack: Ack) -> None:
        """https://docs.slack.dev/surfaces/modals#handling_submissions"""
        if ack.trouble or (ack.body and not isinstance(ack.body, dict)):
            view.trouble = CONNECTING
            return
        body: Json = ack.body or {}
        match body.get("response_action"):
            case None if not body:
                self.world.close(view)
            case "errors":
                known = {block["block_id"] for block in view.blocks if block["type"] == "input"}
                given = body.get("errors") or {}
                view.errors = {key: str(text) for key, text in given.items() if key in known}
                if not view.errors or set(given) - known:
                    view.trouble = CONNECTING
            case "update" | "push" as action:
                content = body.get("view")
                full = action == "push" and len(self.world.modals[self.id]) >= STACK_MAX
                faults = check_view(content, ("modal",))
                if faults or full or external_id_taken(self.world, content or {}, view if action == "update" else None):
                    view.trouble = CONNECTING
                elif action == "update":
                    change_view(self.world, view, content or {})
                else:
                    pushed = make_view(self.world, self.id, content or {}, view.channel, view)
                    self.world.views[pushed.id] = pushed
                    self.world.modals[self.id].append(pushed)
            case "clear":
                for one in list(self.world.modals[self.id]):
                    self.world.close(one)
            case _:
                view.trouble = CONNECTING

    async def closes(self) -> None:
        """Presses Esc in the modal."""
        view = self._front()
        self.world.close(view)
        if view.content.get("notify_on_close"):
            closed = {"type": "view_closed", **self._everywhere(), "view": describe_view(self.world, view), "is_cleared": False}
            await self.slack.deliver("interactive", closed)

    async def presses(self, label: str, where: Message | View | None = None, near: str | None = None) -> None:
        """Presses a button by its text (`near`: in the block with that text), and says yes where it asks to confirm."""
        shown, block, element = await self._finds("button", label, where, near)
        await self.acts(shown, block, element, {"value": element["value"]} if "value" in element else {})

    async def chooses(self, option: str, near: str, where: Message | View | None = None) -> None:
        """Chooses in the overflow menu of the block with the text `near`."""
        shown, block, element = await self._finds("overflow", option, where, near)
        await self.acts(shown, block, element, {"selected_option": self._option(shown, block, element, option)})

    async def selects(self, label: str, choice: "str | int | Channel | Person", where: Message | View | None = None) -> None:
        """Chooses in a menu that acts at once: one in no input block, or in one with `dispatch_action`."""
        shown, block, element = self._menu(label, where)
        if block["type"] == "input" and not block.get("dispatch_action"):
            raise NotSeen(f"{label!r} waits for the modal's button: use picks()")
        value = self._choice(shown, block, element, choice)
        inputs.hold(shown.values if isinstance(shown, View) else shown.state[self.id], block, element, value)
        await self.acts(shown, block, element, {inputs.HOLDS[element["type"]][0]: value})

    def _menu(self, label: str, where: Message | View | None) -> tuple[Message | View, Json, Json]:
        """What can be chosen in, by its label, placeholder or action id. Raises NotSeen."""
        for shown in self._shown(where):
            for block, element in inputs.elements(shown.blocks):
                names = [(element.get("placeholder") or {}).get("text"), element.get("action_id"), (block.get("label") or {}).get("text")]
                if label in names and element["type"] in inputs.HOLDS:
                    return shown, block, element
        raise NotSeen(f"{self.name} sees no menu {label!r}, but:\n{self.screen()}")

    async def enters(self, label: str, text: str, where: Message | View | None = None) -> None:
        """Types into an input that acts at once (`dispatch_action`) and presses Enter."""
        for shown in self._shown(where):
            for block, element in inputs.elements(shown.blocks):
                if block.get("dispatch_action") and block["label"]["text"] == label:
                    values = shown.values if isinstance(shown, View) else shown.state[self.id]
                    inputs.hold(values, block, element, text or None)
                    await self.acts(shown, block, element, {"value": text or None})
                    return
        raise NotSeen(f"{self.name} sees no input {label!r} that acts at once, but:\n{self.screen()}")

    def _shown(self, where: Message | View | None) -> Iterator[Message | View]:
        if where is not None:
            yield where
            return
        if self.view:
            yield self.view
            return
        yield from reversed(self.messages())
        if self.id in self.world.homes:
            yield self.world.homes[self.id]

    async def _finds(self, kind: str, text: str, where: Message | View | None, near: str | None) -> tuple[Message | View, Json, Json]:
        """The button or menu, as soon as it is there. Raises NotSeen."""

        def look() -> tuple[Message | View, Json, Json] | None:
            for shown in self._shown(where):
                for block, element in inputs.elements(shown.blocks):
                    if element["type"] != kind or (near and near not in text_of(self.world, [block])):
                        continue
                    texts = [element["text"]["text"]] if kind == "button" else [one["text"]["text"] for one in element["options"]]
                    if text in texts:
                        return shown, block, element
            return None

        found = await self.world.until(look, SEE_TIMEOUT)
        if found is None:
            raise NotSeen(f"{self.name} sees no {kind} {text!r}, but:\n{self.screen()}")
        return found

    async def acts(self, shown: Message | View, block: Json, element: Json, chosen: Json) -> None:
        """Sends the app what was pressed or chosen."""
        action = {
            "type": element["type"],
            "action_id": element["action_id"],
            "block_id": block["block_id"],
            "action_ts": self.world.new_ts(),
            **({"text": element["text"]} if "text" in element else {}),
            **chosen,
        }
        payload = {"type": "block_actions", **self._everywhere(), "actions": [action]}
        if isinstance(shown, View):
            payload |= {
                "container": {"type": "view", "view_id": shown.id},
                "trigger_id": self.world.new_trigger(self.id, shown.channel, shown.id if shown.type == "modal" else None),
                "view": describe_view(self.world, shown),
            }
        else:
            payload |= self._in_message(shown)
        ack = await self.slack.deliver("interactive", payload)
        if ack.trouble:
            if isinstance(shown, View):
                shown.trouble = CONNECTING
                self.world.touch()
            else:
                self.world.notice(self.id, shown.channel, f"This button {TROUBLE} {ack.trouble}")

    def _in_message(self, message: Message) -> Json:
        channel = self.world.channels[message.channel]
        return {
            "container": {
                "type": "message",
                "message_ts": message.ts,
                "channel_id": channel.id,
                "is_ephemeral": message.ephemeral_to is not None,
            },
            "channel": {"id": channel.id, "name": _channel_name(channel)},
            "trigger_id": self.world.new_trigger(self.id, channel.id),
            "response_url": self.slack.new_response_url(self.id, channel.id, message),
            "state": {"values": message.state[self.id]},
            **({} if message.ephemeral_to else {"message": describe_message(self.world, message)}),
        }

    async def uses_shortcut(self, name: str, message: Message | None = None) -> None:
        """Chooses a shortcut: one of a message, or without one a global one from the composer or the search.

        Slack offers none on ephemeral messages, nor to people of other teams.
        """
        kind = "message" if message else "global"
        shortcut = next((one for one in self.world.installed().shortcuts if one["name"] == name and one["type"] == kind), None)
        if shortcut is None or (message and message.ephemeral_to) or self.user.team_id != self.world.team.id:
            raise NotSeen(f"{self.name} is not offered the shortcut {name!r} there")
        payload: Json = {
            "type": "message_action" if message else "shortcut",
            **self._everywhere(),
            "callback_id": shortcut["callback_id"],
            "trigger_id": self.world.new_trigger(self.id, message.channel if message else None),
            "action_ts": self.world.new_ts(),
        }
        if message:
            channel = self.world.channels[message.channel]
            payload |= {
                "response_url": self.slack.new_response_url(self.id, channel.id),
                "message_ts": message.ts,
                "channel": {"id": channel.id, "name": _channel_name(channel)},
                "message": describe_message(self.world, message),
            }
        ack = await self.slack.deliver("interactive", payload)
        if ack.trouble:
            where = message.channel if message else self.world.dm(self.id).id
            self.world.notice(self.id, where, f"{name} {TROUBLE} {ack.trouble}")

    async def opens_home(self) -> None:
        home = self.world.homes.get(self.id)
        event: Json = {"type": "app_home_opened", "user": self.id, "channel": self.world.dm(self.id).id, "tab": "home"}
        if home:
            event["view"] = describe_view(self.world, home)
        await self.slack.event(event)

    def _everywhere(self) -> Json:
        world = self.world
        app = world.installed()
        return {
            "user": {"id": self.id, "username": self.name, "name": self.name, "team_id": self.user.team_id},
            "api_app_id": app.id,
            "token": "verification-token-deprecated",
            "team": {"id": world.team.id, "domain": world.team.domain},
            "enterprise": None,
            "is_enterprise_install": False,
        }


class OtherApp:
    """Another app of the team, such as a build server or an alarm."""

    def __init__(self, slack: Delivery, user: User, bot_id: str, app_id: str, webhook: bool) -> None:
        self.slack = slack
        self.user = user
        named = (
            {"username": user.real_name, "subtype": "bot_message"} if webhook else {"bot_profile": {"id": bot_id, "name": user.real_name}}
        )
        self._more = {"bot_id": bot_id, "app_id": app_id, **named}

    async def posts(self, channel: Channel, text: str, blocks: list[Json] | None = None, attachments: list[Json] | None = None) -> Message:
        """`text` as the app sends it; `attachments` as older alarms still do."""
        world = self.slack.world
        message = world.add_message(
            channel.id, self.user.id, text, inputs.complete(blocks or []), attachments=attachments or [], more=dict(self._more)
        )
        self.slack.happens(channel, message_posted(world, message))
        return message


def _channel_name(channel: Channel) -> str:
    return channel.name if channel.kind == "public" else {"private": "privategroup", "im": "directmessage"}[channel.kind]


def _old_name(channel: Channel) -> str:
    """Events still call a private channel a group."""
    return "channel" if channel.kind == "public" else "group"

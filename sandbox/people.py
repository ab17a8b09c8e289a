"""What a person does in Slack's client, and what they see: type, fill, pick, tick, press, read."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sandbox import inputs
from sandbox.api import change_view, describe_message, describe_view, make_view
from sandbox.blockkit import check_view
from sandbox.drawing import text_of
from sandbox.inputs import Json
from sandbox.world import Channel, Message, User, View

if TYPE_CHECKING:
    from sandbox.slack import Ack, Slack

SEE_TIMEOUT = 10.0  # seconds that somebody looks for something before they give up
CONNECTING = "We had some trouble connecting. Try again?"
TROUBLE = "failed with the error"


class NotSeen(AssertionError):
    """A person looked for something and saw something else."""


class Person:
    """One person in front of their client. What they see is only what Slack would show them."""

    def __init__(self, slack: "Slack", user: User) -> None:
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
        command, _, rest = text.partition(" ")
        app = self.world.installed()
        if not command.startswith("/"):
            await self.posts(channel, text)
            return
        if command not in app.commands or self.user.team_id != self.world.team.id:
            self.world.notice(self.id, channel.id, f"{command} is not a valid command.")
            return
        payload = {
            "token": "verification-token-deprecated",
            "team_id": self.world.team.id,
            "team_domain": self.world.team.domain,
            "channel_id": channel.id,
            "channel_name": channel.name if channel.kind == "public" else {"private": "privategroup", "im": "directmessage"}[channel.kind],
            "user_id": self.id,
            "user_name": self.name,
            "command": command,
            "text": rest.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
            if app.commands[command].get("should_escape")
            else rest,
            "api_app_id": app.id,
            "is_enterprise_install": "false",
            "response_url": self.slack.new_response_url(self.id, channel.id),
            "trigger_id": self.world.new_trigger(self.id, channel.id),
        }
        ack = await self.slack.deliver("slash_commands", payload)
        if ack.trouble:
            self.world.notice(self.id, channel.id, f"{command} {TROUBLE} {ack.trouble}")

    async def posts(self, channel: Channel, text: str, blocks: list[Json] | None = None) -> Message:
        """An ordinary message."""
        message = self.world.add_message(channel.id, self.id, text, inputs.complete(blocks or []))
        kind = {"public": "channel", "private": "group", "im": "im"}[channel.kind]
        event = describe_message(self.world, message) | {"channel": channel.id, "channel_type": kind}
        if self.world.bot_is_in(channel):
            self.slack.soon(self.slack.event(event))
        return message

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

    def picks(self, label: str, choice: "str | Channel | Person | None") -> None:
        """Chooses in a select of the modal: an option by its text, a channel, a person, or a date."""
        view = self._front()
        block, element = self._input(view, label)
        inputs.hold(view.values, block, element, self._choice(element, choice))
        self.world.touch()

    def ticks(self, label: str, *choices: str) -> None:
        """Leaves exactly these boxes ticked."""
        view = self._front()
        block, element = self._input(view, label)
        inputs.hold(view.values, block, element, [self._option(element, choice) for choice in choices])
        self.world.touch()

    def _choice(self, element: Json, choice: "str | Channel | Person | None") -> Any:
        if choice is None:
            return None
        if isinstance(choice, str):
            return self._option(element, choice) if "options" in element or "option_groups" in element else choice
        return choice.id

    def _option(self, element: Json, text: str) -> Json:
        offered: list[Json] = list(element.get("options", []))
        for group in element.get("option_groups", []):
            offered += group["options"]
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

    def _after_submission(self, view: View, ack: "Ack") -> None:
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
                if check_view(content, ("modal",)):
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
        await self.acts(shown, block, element, {"selected_option": self._option(element, option)})

    async def selects(self, label: str, choice: "str | Channel | Person", where: Message | View | None = None) -> None:
        """Chooses in a select that acts at once, one that stands in no input block."""
        for shown in self._shown(where):
            for block, element in inputs.elements(shown.blocks):
                held = (element.get("placeholder") or {}).get("text") == label or element.get("action_id") == label
                if held and element["type"] in inputs.HOLDS and block["type"] != "input":
                    value = self._choice(element, choice)
                    key = inputs.HOLDS[element["type"]][0]
                    values = shown.values if isinstance(shown, View) else shown.state[self.id]
                    inputs.hold(values, block, element, value)
                    await self.acts(shown, block, element, {key: value})
                    return
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
            "channel": {"id": channel.id, "name": channel.name if channel.kind == "public" else "privategroup"},
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
                "channel": {"id": channel.id, "name": channel.name if channel.kind == "public" else "privategroup"},
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

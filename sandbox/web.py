"""The sandbox's page: what one window sees, and what is done in it. Each acts as one person and is sent only what they may see."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from sandbox import inputs
from sandbox.inputs import Json
from sandbox.mail import MailServer, send_test_mail
from sandbox.people import NotSeen, Person
from sandbox.slack import Exchange, Slack
from sandbox.world import Channel, Message, View

FILES = {"": "index.html", "style.css": "style.css", "app.js": "app.js", "blocks.js": "blocks.js"}
FOLDER = Path(__file__).parent / "page"
LOG_SHOWN = 40
LOG_TEXT = 1500
MESSAGES_SHOWN = 100
MESSAGE_BYTES = 100_000
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class Page:
    """Serves the page for one Slack.

    Args:
        roles: what to call each person in the "act as" list, by their id.
        mask: blots out secrets in the log of the traffic.
    """

    def __init__(self, roles: dict[str, str], mask: Callable[[str], str]) -> None:
        self._roles = roles
        self._mask = mask
        self.slack: Slack
        self.mail: MailServer
        self.done: set[str] = set()
        """The steps of the first minute that were taken."""

    def routes(self) -> tuple[BaseRoute, ...]:
        return Route("/", self._file), Route("/page/{name}", self._file), WebSocketRoute("/live", self._live)

    def _foreign(self, host: str, origin: str | None) -> bool:
        """Whether another page or name leads here: a browser must not be turned against its own machine."""
        ours = self.slack.url.removeprefix("http://")
        local = {ours, ours.replace("127.0.0.1", "localhost")}
        return host not in local or (origin is not None and origin.removeprefix("http://") not in local)

    async def _file(self, request: Request) -> Response:
        name = FILES.get(request.path_params.get("name", ""))
        if self._foreign(request.headers.get("host", ""), None):
            return PlainTextResponse("Open it as http://127.0.0.1", 421)
        return FileResponse(FOLDER / name, headers=HEADERS) if name else PlainTextResponse("not found", 404)

    async def _live(self, socket: WebSocket) -> None:
        person = self.slack.people.get(socket.query_params.get("person", "")) or next(iter(self.slack.people.values()))
        if self._foreign(socket.headers.get("host", ""), socket.headers.get("origin")):
            await socket.close(4403)
            return
        await socket.accept()
        since = socket.query_params.get("since", "")
        if since == "now":
            since = self.slack.world.new_ts()
        telling = asyncio.create_task(self._tell(socket, person, since))
        try:
            while True:
                text = await socket.receive_text()
                if len(text) <= MESSAGE_BYTES:
                    self.slack.soon(self._act(socket, person, text))
        except (WebSocketDisconnect, RuntimeError, KeyError):
            pass
        finally:
            telling.cancel()

    async def _tell(self, socket: WebSocket, person: Person, since: str) -> None:
        """Sends the window what its person sees, now and after each change. Ephemeral messages from before `since` are forgotten."""
        before = ""
        while True:
            state = json.dumps(self.state(person, since))
            if state != before:
                await socket.send_text(state)
                before = state
            await self.slack.world.changed(30)
            await asyncio.sleep(0.01)  # several changes at once are drawn once

    # --- what is seen ---
    def state(self, person: Person, since: str = "") -> Json:
        world = self.slack.world
        app = world.installed()
        channels = [one for one in world.channels.values() if person.id in one.members]
        home = world.homes.get(person.id)
        return {
            "me": person.id,
            "since": since,
            "bot": {"user": app.bot_user, "name": app.name, "home": app.home_tab},
            "commands": [{"command": name, "hint": one.get("usage_hint", "")} for name, one in app.commands.items()],
            "shortcuts": [one["name"] for one in app.shortcuts if one["type"] == "message"],
            "globals": [one["name"] for one in app.shortcuts if one["type"] == "global"],
            "people": [{"id": key, "name": self.slack.people[key].name, "role": role} for key, role in self._roles.items()],
            "users": {user.id: user.name for user in world.users.values()},
            "groups": {group.id: group.handle for group in world.groups.values()},
            "channels": [
                {"id": one.id, "name": self._name(person, one), "kind": one.kind, "read_only": world.dm_is_read_only(one)}
                for one in channels
            ],
            "messages": {
                one.id: [self._message(m) for m in person.messages(one)[-MESSAGES_SHOWN:] if not m.ephemeral_to or m.ts > since]
                for one in channels
            },
            "modals": [self._view(view) for view in world.modals[person.id]],
            "home": self._view(home) if home else None,
            "mail": {
                "port": self.mail.port,
                "logins": [
                    {"at": one.at, "username": self._mask(one.username), "from": one.address, "ok": one.accepted, "why": one.why}
                    for one in self.mail.logins
                ],
                "taken": self.mail.taken,
                "queue": [
                    {"at": one.at, "username": one.username, "from": one.sender, "to": one.recipients, "subject": self._mask(one.subject)}
                    for one in self.mail.queue
                ],
            },
            "log": [self._exchange(one) for one in list(self.slack.traffic)[-LOG_SHOWN:]],
            "steps": sorted(self.done),
        }

    def _name(self, person: Person, channel: Channel) -> str:
        if channel.kind != "im":
            return channel.name
        others = [one for one in channel.members if one != person.id]
        other = self.slack.world.users[others[0]]
        return other.real_name if other.is_bot else other.name

    def _message(self, message: Message) -> Json:
        user = self.slack.world.users[message.user]
        shown = {"ts": message.ts, "user": user.id, "name": user.real_name if user.is_bot else user.name, "bot": user.is_bot}
        shown |= {"text": message.text, "blocks": message.blocks, "attachments": [one.get("text", "") for one in message.attachments]}
        return shown | {"ephemeral": message.ephemeral_to is not None, "edited": message.edited is not None}

    def _view(self, view: View) -> Json:
        content = {key: view.content.get(key) for key in ("title", "submit", "close")}
        shown = {"id": view.id, "hash": view.hash, "blocks": view.blocks, "values": view.values, "errors": view.errors}
        return content | shown | {"trouble": view.trouble, "busy": view.busy}

    def _exchange(self, one: Exchange) -> Json:
        return {"at": one.at, "way": one.way, "what": one.what, "status": one.status, "text": self._mask(one.sent)[:LOG_TEXT]}

    # --- what is done ---
    async def _act(self, socket: WebSocket, person: Person, text: str) -> None:
        try:
            asked = json.loads(text)
            said = await self._do(person, asked)
        except (ValueError, KeyError, TypeError, AttributeError, NotSeen) as error:
            said = {"error": str(error) if isinstance(error, NotSeen) else f"The sandbox did not understand that ({type(error).__name__})."}
        if said:
            await socket.send_text(json.dumps(said))

    async def _do(self, person: Person, asked: Any) -> Json | None:
        world = self.slack.world
        match asked["do"]:
            case "type":
                channel = world.channels[asked["channel"]]
                if person.id not in channel.members:
                    raise ValueError("not in that channel")
                await person.types(channel, str(asked["text"])[:4000])
            case "press":
                shown = self._shown(person, asked)
                if isinstance(shown, View):
                    self._hold(shown, asked.get("values") or {})
                block, element = self._element(shown.blocks, asked["block"], asked["action"])
                await person.acts(shown, block, element, self._chosen(shown, person, block, element, asked.get("value")))
            case "submit":
                view = self._view_of(person, asked["view"])
                self._hold(view, asked.get("values") or {})
                await person.submits()
            case "close":
                self._view_of(person, asked["view"])
                await person.closes()
            case "search":
                shown = self._shown(person, asked)
                block, element = self._element(shown.blocks, asked["block"], asked["action"])
                offered = await person.is_offered(shown, block, element, str(asked["text"])[:150])
                return {"offered": offered, "block": asked["block"], "text": asked["text"]}
            case "shortcut":
                await person.uses_shortcut(asked["name"], self._message_of(person, asked) if "ts" in asked else None)
            case "delete":
                await person.deletes(self._message_of(person, asked))
            case "home":
                await person.opens_home()
            case "mail":
                said = await asyncio.to_thread(send_test_mail, self.mail.port, str(asked["username"]), str(asked["password"]))
                return {"mailed": said}
            case _:
                raise ValueError("unknown")
        return None

    def _view_of(self, person: Person, view_id: str) -> View:
        view = person.view
        if view is None or view.id != view_id:
            raise ValueError("that modal is not in front")
        return view

    def _shown(self, person: Person, asked: Json) -> Message | View:
        if "view" in asked:
            home = self.slack.world.homes.get(person.id)
            return home if home and home.id == asked["view"] else self._view_of(person, asked["view"])
        return self._message_of(person, asked)

    def _message_of(self, person: Person, asked: Json) -> Message:
        message = self.slack.world.find_message(asked["channel"], asked["ts"])
        if message is None or message not in person.messages():
            raise ValueError("no such message")
        return message

    def _element(self, blocks: list[Json], block_id: str, action_id: str) -> tuple[Json, Json]:
        for block, element in inputs.elements(blocks):
            if (block["block_id"], element["action_id"]) == (block_id, action_id):
                return block, element
        raise ValueError("no such element")

    def _hold(self, view: View, values: Json) -> None:
        """What was entered in the window's inputs: block id -> what the element holds."""
        for block, element in inputs.elements(view.blocks):
            if block["type"] == "input" and block["block_id"] in values:
                inputs.hold(view.values, block, element, self._value(view, block, element, values[block["block_id"]]))

    def _chosen(self, shown: Message | View, person: Person, block: Json, element: Json, value: Any) -> Json:
        if element["type"] == "button":
            return {"value": element["value"]} if "value" in element else {}
        if element["type"] == "overflow":
            return {"selected_option": self._value(shown, block, element | {"type": "static_select"}, value)}
        held = self._value(shown, block, element, value)
        values = shown.values if isinstance(shown, View) else shown.state[person.id]
        inputs.hold(values, block, element, held)
        return {inputs.HOLDS[element["type"]][0]: held}

    def _value(self, shown: Message | View, block: Json, element: Json, value: Any) -> Any:
        """What the window sent, as Slack keeps it: an option by its value, all else as it is."""
        key = inputs.HOLDS[element["type"]][0]
        offered = inputs.options(element) + shown.offered.get((block["block_id"], element["action_id"]), [])
        if key == "selected_option":
            return next((one for one in offered if one["value"] == value), None)
        if key == "selected_options":
            return [one for one in offered if one["value"] in (value or [])]
        return value or None

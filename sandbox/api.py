"""Slack's Web API, as far as an app like ours calls it, with Slack's own errors.

Source of arguments and errors: https://docs.slack.dev/reference/methods
"""

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sandbox.blockkit import check_blocks, check_view, too_large
from sandbox.inputs import Json, complete, initial, kept
from sandbox.world import App, Channel, Message, User, View, World

if TYPE_CHECKING:
    from sandbox.slack import Slack

TRIGGER_LIFETIME = 3.0  # seconds
TEXT_MAX = 40_000
UPDATED_TEXT_MAX = 4_000
STACK_MAX = 3


class ApiError(Exception):
    """Slack says no: the error's word, and what stands beside it in the answer."""

    def __init__(self, error: str, messages: list[str] | None = None, **more: Any) -> None:
        super().__init__(error)
        self.answer: Json = {"ok": False, "error": error, **more}
        if messages:
            self.answer["response_metadata"] = {"messages": messages}


class Call:
    """One call of a method by the app."""

    def __init__(self, slack: "Slack", app: App, arguments: Mapping[str, Any]) -> None:
        self.slack = slack
        self.world: World = slack.world
        self.app = app
        self.arguments = arguments

    def get(self, name: str) -> str:
        value = self.arguments.get(name)
        return "" if value is None else str(value)

    def structure(self, name: str) -> Any:
        """An argument that is JSON, sent as such or as a string."""
        value = self.arguments.get(name)
        if isinstance(value, str):
            try:
                return json.loads(value)
            except ValueError:
                return value
        return value

    def needs(self, *scopes: str) -> None:
        if not set(scopes) & set(self.app.scopes):
            raise ApiError("missing_scope", needed=",".join(scopes), provided=",".join(self.app.scopes))

    def channel(self) -> Channel:
        """The channel as the app may know of it: private ones only when the bot is in them."""
        channel = self.world.channels.get(self.get("channel"))
        if channel is None or (channel.kind != "public" and not self.world.bot_is_in(channel)):
            raise ApiError("channel_not_found")
        return channel


def call(slack: "Slack", method: str, token: str, arguments: Mapping[str, Any]) -> Json:
    """The answer to one call. Raises ApiError."""
    app = slack.world.app
    handler = METHODS.get(method)
    if handler is None:
        raise ApiError("unknown_method", req_method=method)
    if not token:
        raise ApiError("not_authed")
    if app is None:
        raise ApiError("invalid_auth")
    expected = app.app_token if method == "apps.connections.open" else app.bot_token
    if token != expected:
        raise ApiError("not_allowed_token_type" if token in (app.app_token, app.bot_token) else "invalid_auth")
    if app.revoked:
        raise ApiError("token_revoked")
    return {"ok": True, **handler(Call(slack, app, arguments))}


def auth_test(call: Call) -> Json:
    team = call.world.team
    return {
        "url": f"https://{team.domain}.slack.com/",
        "team": team.name,
        "user": call.app.name,
        "team_id": team.id,
        "user_id": call.app.bot_user,
        "bot_id": call.app.bot_id,
        "is_enterprise_install": False,
    }


def apps_connections_open(call: Call) -> Json:
    return {"url": call.slack.new_socket_url()}


def users_info(call: Call) -> Json:
    call.needs("users:read")
    user = call.world.users.get(call.get("user"))
    if user is None:
        raise ApiError("user_not_found")
    return {"user": describe_user(user)}


def describe_user(user: User) -> Json:
    described: Json = {
        "id": user.id,
        "team_id": user.team_id,
        "name": user.name,
        "deleted": user.deleted,
        "real_name": user.real_name,
        "tz": user.tz,
        "is_bot": user.is_bot,
        "is_app_user": user.is_app_user,
        "profile": {"real_name": user.real_name, "display_name": user.display_name or user.name},
    }
    if user.is_stranger:
        return described | {"is_stranger": True}
    if user.deleted:
        return described
    names = ("is_admin", "is_owner", "is_restricted", "is_ultra_restricted")
    return described | {name: getattr(user, name) for name in names}


def conversations_info(call: Call) -> Json:
    call.needs("channels:read", "groups:read")
    channel = call.channel()
    return {
        "channel": {
            "id": channel.id,
            "name": channel.name,
            "is_channel": channel.kind == "public",
            "is_group": channel.kind == "private",
            "is_im": channel.kind == "im",
            "is_mpim": False,
            "is_private": channel.kind != "public",
            "is_archived": channel.archived,
            "is_shared": channel.is_ext_shared,
            "is_ext_shared": channel.is_ext_shared,
            "is_pending_ext_shared": False,
            "is_member": call.world.bot_is_in(channel),
            "creator": channel.creator,
            "created": channel.created,
            "context_team_id": call.world.team.id,
        }
    }


def conversations_members(call: Call) -> Json:
    call.needs("channels:read", "groups:read")
    members = call.channel().members
    limit = int(call.get("limit") or 100)
    start = int(call.get("cursor") or 0)
    following = str(start + limit) if start + limit < len(members) else ""
    return {"members": members[start : start + limit], "response_metadata": {"next_cursor": following}}


def users_conversations(call: Call) -> Json:
    call.needs("channels:read", "groups:read")
    user = call.get("user")
    channels = [
        one
        for one in call.world.channels.values()
        if user in one.members and (one.kind == "public" or (one.kind == "private" and call.world.bot_is_in(one)))
    ]
    limit = int(call.get("limit") or 100)
    start = int(call.get("cursor") or 0)
    following = str(start + limit) if start + limit < len(channels) else ""
    made = [{"id": one.id, "name": one.name, "is_private": one.kind == "private"} for one in channels[start : start + limit]]
    return {"channels": made, "response_metadata": {"next_cursor": following}}


def usergroups_list(call: Call) -> Json:
    call.needs("usergroups:read")
    groups = [group for group in call.world.groups.values() if not group.disabled]
    made = [{"id": one.id, "team_id": call.world.team.id, "handle": one.handle, "name": one.name, "is_usergroup": True} for one in groups]
    return {"usergroups": made}


def usergroups_users_list(call: Call) -> Json:
    call.needs("usergroups:read")
    group = call.world.groups.get(call.get("usergroup"))
    if group is None or group.disabled:
        raise ApiError("no_such_subteam")
    return {"users": list(group.users)}


def check_message(text: str, blocks: Any, most: int = TEXT_MAX) -> list[Json]:
    """The blocks of a message as Slack keeps them. Raises ApiError for what it would refuse."""
    if blocks:
        if not isinstance(blocks, list):
            raise ApiError("invalid_blocks_format")
        faults = check_blocks(blocks)
        if faults:
            raise ApiError("invalid_blocks", faults)
    elif not text:
        raise ApiError("no_text")
    if len(text) > most:
        raise ApiError("msg_too_long")
    return complete(blocks or [])


def chat_post_message(call: Call) -> Json:
    call.needs("chat:write")
    given = call.get("channel")
    if given in call.world.users:
        user = call.world.users[given]
        if user.is_bot or user.deleted:
            raise ApiError("channel_not_found")
        channel = call.world.dm(given)
    else:
        channel = call.channel()
    if channel.kind == "im" and not call.app.messages_tab:
        raise ApiError("messages_tab_disabled")
    if channel.archived:
        raise ApiError("is_archived")
    if not call.world.bot_is_in(channel):
        raise ApiError("not_in_channel")
    text = call.get("text")
    blocks = check_message(text, call.structure("blocks"))
    message = call.world.add_message(channel.id, call.app.bot_user, text, blocks, thread_ts=call.get("thread_ts") or None)
    return {"channel": channel.id, "ts": message.ts, "message": describe_message(call.world, message)}


def chat_post_ephemeral(call: Call) -> Json:
    call.needs("chat:write")
    channel = call.channel()
    user = call.get("user")
    if channel.archived:
        raise ApiError("is_archived")
    if not call.world.bot_is_in(channel):
        raise ApiError("not_in_channel")
    if user not in channel.members:
        raise ApiError("user_not_in_channel")
    text = call.get("text")
    blocks = check_message(text, call.structure("blocks"))
    message = call.world.add_message(channel.id, call.app.bot_user, text, blocks, ephemeral_to=user)
    return {"message_ts": message.ts}


def chat_update(call: Call) -> Json:
    """Without `blocks` the message keeps them, unless there is `text`: then it is nothing but the text."""
    call.needs("chat:write")
    channel = call.channel()
    message = call.world.find_message(channel.id, call.get("ts"))
    if message is None or message.ephemeral_to:
        raise ApiError("message_not_found")
    if message.user != call.app.bot_user:
        raise ApiError("cant_update_message")
    if channel.archived:
        raise ApiError("is_inactive")
    text, given = call.get("text"), call.structure("blocks")
    if given is None and not text:
        raise ApiError("no_text")
    message.text, message.blocks = text, check_message(text, given, UPDATED_TEXT_MAX)
    call.world.touch()
    return {"channel": channel.id, "ts": message.ts, "text": text, "message": describe_message(call.world, message)}


def chat_get_permalink(call: Call) -> Json:
    channel = call.channel()
    message = call.world.find_message(channel.id, call.get("message_ts"))
    if message is None or message.ephemeral_to:
        raise ApiError("message_not_found")
    return {
        "channel": channel.id,
        "permalink": f"https://{call.world.team.domain}.slack.com/archives/{channel.id}/p{message.ts.replace('.', '')}",
    }


def describe_message(world: World, message: Message) -> Json:
    app = world.installed()
    made: Json = {"type": "message", "ts": message.ts, "user": message.user, "text": message.text, "team": world.team.id}
    if message.user == app.bot_user:
        made |= {"bot_id": app.bot_id, "app_id": app.id}
    if message.blocks:
        made["blocks"] = message.blocks
    if message.thread_ts:
        made["thread_ts"] = message.thread_ts
    return made


def _view(call: Call, allowed: str) -> Json:
    view = call.structure("view")
    faults = check_view(view, (allowed,))
    if faults:
        raise ApiError("invalid_arguments", faults)
    if too_large(view):
        raise ApiError("view_too_large")
    checked: Json = view
    return checked


def make_view(world: World, user: str, content: Json, channel: str | None, below: View | None = None) -> View:
    """A view as Slack keeps it, over `below`."""
    content = content | {"blocks": complete(content["blocks"])}
    view_id = world.new_id("V")
    values = initial(content["blocks"], lambda _element: channel)
    view = View(view_id, user, content["type"], content, world.new_hash(), values, below.root if below else view_id)
    view.previous = below.id if below else None
    view.channel = channel
    return view


def change_view(world: World, view: View, content: Json) -> None:
    """Puts other content into a view; what was entered stays where the input is the same."""
    view.content = content | {"blocks": complete(content["blocks"])}
    view.values = kept(view.values, initial(view.blocks, lambda _element: view.channel))
    view.hash = world.new_hash()
    view.errors = {}
    world.touch()


def describe_view(world: World, view: View) -> Json:
    app = world.installed()
    content = view.content
    return {
        "id": view.id,
        "team_id": world.team.id,
        "type": view.type,
        "blocks": view.blocks,
        "private_metadata": content.get("private_metadata", ""),
        "callback_id": content.get("callback_id", ""),
        "state": {"values": view.values},
        "hash": view.hash,
        "title": content.get("title"),
        "clear_on_close": content.get("clear_on_close", False),
        "notify_on_close": content.get("notify_on_close", False),
        "close": content.get("close"),
        "submit": content.get("submit"),
        "previous_view_id": view.previous,
        "root_view_id": view.root,
        "app_id": app.id,
        "external_id": content.get("external_id", ""),
        "app_installed_team_id": world.team.id,
        "bot_id": app.bot_id,
    }


def _trigger(call: Call) -> Any:
    trigger = call.world.triggers.get(call.get("trigger_id"))
    if trigger is None:
        raise ApiError("invalid_trigger_id")
    if trigger.used:
        raise ApiError("exchanged_trigger_id")
    if call.world.clock() - trigger.at > TRIGGER_LIFETIME:
        raise ApiError("expired_trigger_id")
    return trigger


def _show(call: Call, view: View) -> Json:
    call.world.views[view.id] = view
    call.world.modals[view.user].append(view)
    call.world.touch()
    return {"view": describe_view(call.world, view)}


def _unused_external_id(call: Call, content: Json) -> None:
    taken = {view.content.get("external_id") for view in call.world.views.values()}
    if content.get("external_id") and content["external_id"] in taken:
        raise ApiError("duplicate_external_id")


def views_open(call: Call) -> Json:
    trigger = _trigger(call)
    content = _view(call, "modal")
    _unused_external_id(call, content)
    trigger.used = True
    for open_view in list(call.world.modals[trigger.user]):
        call.world.close(open_view)
    return _show(call, make_view(call.world, trigger.user, content, trigger.channel))


def views_push(call: Call) -> Json:
    trigger = _trigger(call)
    content = _view(call, "modal")
    _unused_external_id(call, content)
    stack = call.world.modals[trigger.user]
    if not stack or trigger.view not in call.world.views:
        raise ApiError("not_found")
    if len(stack) >= STACK_MAX:
        raise ApiError("push_limit_reached")
    trigger.used = True
    return _show(call, make_view(call.world, trigger.user, content, stack[-1].channel, stack[-1]))


def views_update(call: Call) -> Json:
    external = call.get("external_id")
    found = call.world.views.get(call.get("view_id"))
    if external:
        found = next((view for view in call.world.views.values() if view.content.get("external_id") == external), None)
    if found is None:
        raise ApiError("not_found")
    content = _view(call, found.type)
    if call.get("hash") and call.get("hash") != found.hash:
        raise ApiError("hash_conflict")
    change_view(call.world, found, content)
    return {"view": describe_view(call.world, found)}


def views_publish(call: Call) -> Json:
    user = call.world.users.get(call.get("user_id"))
    if user is None or user.is_bot:
        raise ApiError("invalid_arguments")
    if not call.app.home_tab:
        raise ApiError("not_enabled")
    content = _view(call, "home")
    home = call.world.homes.get(user.id)
    if home is None:
        home = make_view(call.world, user.id, content, None)
        call.world.homes[user.id] = call.world.views[home.id] = home
    elif call.get("hash") and call.get("hash") != home.hash:
        raise ApiError("hash_conflict")
    else:
        change_view(call.world, home, content)
    call.world.touch()
    return {"view": describe_view(call.world, home)}


METHODS: dict[str, Callable[[Call], Json]] = {
    "apps.connections.open": apps_connections_open,
    "auth.test": auth_test,
    "chat.getPermalink": chat_get_permalink,
    "chat.postEphemeral": chat_post_ephemeral,
    "chat.postMessage": chat_post_message,
    "chat.update": chat_update,
    "conversations.info": conversations_info,
    "conversations.members": conversations_members,
    "usergroups.list": usergroups_list,
    "usergroups.users.list": usergroups_users_list,
    "users.conversations": users_conversations,
    "users.info": users_info,
    "views.open": views_open,
    "views.publish": views_publish,
    "views.push": views_push,
    "views.update": views_update,
}

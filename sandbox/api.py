"""Slack's Web API, as far as an app like ours calls it, with Slack's own errors.

Source of arguments and errors: https://docs.slack.dev/reference/methods
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from sandbox.blockkit import check_blocks, check_view, too_large
from sandbox.delivery import Delivery
from sandbox.escaping import escape
from sandbox.inputs import Json, complete, initial, kept
from sandbox.world import App, Channel, Group, Message, User, View, World

TRIGGER_LIFETIME = 3.0  # seconds
TEXT_MAX = 40_000
UPDATED_TEXT_MAX = 4_000
STACK_MAX = 3
PAGE = 100
PAGE_MAX = 1000
CHANNEL_TYPES = {"public_channel": "public", "private_channel": "private", "im": "im", "mpim": "mpim"}
READ_SCOPES = {"public": "channels:read", "private": "groups:read", "im": "im:read", "mpim": "mpim:read"}
CHANNEL_LETTERS = {"public": "channel", "private": "group", "im": "im"}
SUBTEAM_USERS_MAX = 500  # docs.slack.dev: reference/events/subteam_updated
Item = TypeVar("Item")


class ApiError(Exception):
    """Slack says no: the error's word, and what stands beside it in the answer."""

    def __init__(self, error: str, messages: list[str] | None = None, **more: Any) -> None:
        super().__init__(error)
        self.answer: Json = {"ok": False, "error": error, **more}
        if messages:
            self.answer["response_metadata"] = {"messages": messages}


class Call:
    """One call of a method by the app."""

    def __init__(self, slack: Delivery, app: App, arguments: Mapping[str, Any]) -> None:
        self.slack = slack
        self.world: World = slack.world
        self.app = app
        self.arguments = arguments

    def get(self, name: str) -> str:
        value = self.arguments.get(name)
        return "" if value is None else str(value)

    def must(self, *names: str) -> None:
        """Raises ApiError where an argument is missing or empty."""
        missing = [f"[ERROR] missing required field: {name}" for name in names if not self.get(name)]
        if missing:
            raise ApiError("invalid_arguments", missing)

    def yes(self, name: str) -> bool:
        return self.get(name).lower() in ("true", "1")

    def page(self, items: list[Item], most: int = PAGE_MAX, usual: int = PAGE) -> tuple[list[Item], Json]:
        """One page by `cursor` and `limit`, and the metadata that names the next."""
        limit, cursor = self.get("limit"), self.get("cursor")
        if limit and (not limit.isdecimal() or not 0 <= int(limit) <= most):
            raise ApiError("invalid_limit")
        if cursor and not (cursor.startswith("next:") and cursor[5:].isdecimal() and int(cursor[5:]) < len(items)):
            raise ApiError("invalid_cursor")
        start = int(cursor[5:]) if cursor else 0
        end = start + (int(limit or 0) or usual)
        return items[start:end], {"next_cursor": f"next:{end}" if end < len(items) else ""}

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
        self.must("channel")
        channel = self.world.channels.get(self.get("channel"))
        if channel is None or (channel.kind != "public" and not self.world.bot_is_in(channel)):
            raise ApiError("channel_not_found")
        return channel


def call(slack: Delivery, method: str, token: str, arguments: Mapping[str, Any]) -> Json:
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
        raise ApiError("account_inactive" if token == app.bot_token else "token_revoked")
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
    call.must("user")
    user = call.world.users.get(call.get("user"))
    if user is None:
        raise ApiError("user_not_found")
    return {"user": describe_user(user)}


def users_list(call: Call) -> Json:
    call.needs("users:read")
    users = [user for user in call.world.users.values() if not user.is_stranger]
    shown, more = call.page(users, usual=len(users) or 1)
    return {"members": [describe_user(user) for user in shown], "response_metadata": more, "cache_ts": int(call.world.clock())}


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
    if user.enterprise_id:
        described["enterprise_user"] = {
            "id": user.id,
            "enterprise_id": user.enterprise_id,
            "enterprise_name": "Sandbox Inc",
            "is_admin": False,
            "is_owner": False,
            "teams": list(user.teams) or [user.team_id],
        }
    if user.is_stranger:
        return described | {"is_stranger": True}
    if user.deleted:
        return described
    names = ("is_admin", "is_owner", "is_restricted", "is_ultra_restricted")
    return described | {name: getattr(user, name) for name in names}


def _readable(call: Call) -> Channel:
    """The channel, where the app has the scope to read its kind."""
    call.needs(*READ_SCOPES.values())
    channel = call.channel()
    call.needs(READ_SCOPES[channel.kind])
    return channel


def conversations_info(call: Call) -> Json:
    return {"channel": describe_channel(call.world, _readable(call))}


def describe_channel(world: World, channel: Channel) -> Json:
    described: Json = {
        "id": channel.id,
        "is_im": channel.kind == "im",
        "is_mpim": False,
        "is_archived": channel.archived,
        "is_shared": channel.is_ext_shared,
        "is_ext_shared": channel.is_ext_shared,
        "created": channel.created,
        "context_team_id": world.team.id,
    }
    if channel.kind == "im":
        others = [one for one in channel.members if one != world.installed().bot_user]
        return described | {"user": others[0] if others else ""}
    return described | {
        "name": channel.name,
        "is_channel": channel.kind == "public",
        "is_group": channel.kind == "private",
        "is_private": channel.kind != "public",
        "is_pending_ext_shared": False,
        "is_member": world.bot_is_in(channel),
        "creator": channel.creator,
    }


def conversations_members(call: Call) -> Json:
    shown, more = call.page(_readable(call).members)
    return {"members": shown, "response_metadata": more}


def conversations_list(call: Call) -> Json:
    types = [one.strip() for one in (call.get("types") or "public_channel").split(",")]
    if not set(types) <= set(CHANNEL_TYPES):
        raise ApiError("invalid_types")
    kinds = {CHANNEL_TYPES[one] for one in types}
    for kind in sorted(kinds):
        call.needs(READ_SCOPES[kind])
    known = [
        channel
        for channel in call.world.channels.values()
        if channel.kind in kinds
        and (channel.kind == "public" or call.world.bot_is_in(channel))
        and not (channel.archived and call.yes("exclude_archived"))
    ]
    shown, more = call.page(known, 999)
    return {"channels": [describe_channel(call.world, channel) for channel in shown], "response_metadata": more}


def conversations_open(call: Call) -> Json:
    call.needs("im:write", "mpim:write", "channels:manage", "groups:write")
    if call.get("channel"):
        channel = call.channel()
        if channel.kind != "im":
            raise ApiError("method_not_supported_for_channel_type")
    else:
        wanted = [one for one in call.get("users").split(",") if one]
        if not wanted:
            raise ApiError("users_list_not_supplied")
        if len(wanted) > 1:
            raise ApiError("missing_scope", needed="mpim:write", provided=",".join(call.app.scopes))
        call.needs("im:write")
        user = call.world.users.get(wanted[0])
        if user is None:
            raise ApiError("user_not_found")
        if user.deleted or user.is_bot:
            raise ApiError("user_disabled" if user.deleted else "user_not_found")
        channel = call.world.dm(user.id)
    return {"channel": describe_channel(call.world, channel) if call.yes("return_im") else {"id": channel.id}}


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
    groups = [group for group in call.world.groups.values() if not group.disabled or call.yes("include_disabled")]
    made = [describe_group(call.world, group) for group in groups]
    for one, group in zip(made, groups, strict=True):
        if call.yes("include_count"):
            one["user_count"] = len(group.users)
        if call.yes("include_users"):
            one["users"] = list(group.users)
    return {"usergroups": made}


def describe_group(world: World, group: Group) -> Json:
    return {
        "id": group.id,
        "team_id": world.team.id,
        "is_usergroup": True,
        "is_subteam": True,
        "handle": group.handle,
        "name": group.name,
        "description": "",
        "is_external": False,
        "date_delete": int(world.clock()) if group.disabled else 0,
        "auto_type": None,
    }


def usergroups_users_list(call: Call) -> Json:
    call.needs("usergroups:read")
    call.must("usergroup")
    group = call.world.groups.get(call.get("usergroup"))
    if group is None or (group.disabled and not call.yes("include_disabled")):
        raise ApiError("no_such_subteam")
    return {"users": [one for one in group.users if not call.world.users[one].deleted]}


def team_info(call: Call) -> Json:
    call.needs("team:read")
    team = call.world.team
    if call.get("team") not in ("", team.id):
        raise ApiError("team_not_found")
    return {"team": {"id": team.id, "name": team.name, "domain": team.domain, "email_domain": "", "icon": {"image_default": True}}}


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
    call.must("channel")
    given = call.get("channel")
    if given in call.world.users:
        user = call.world.users[given]
        if user.is_bot or user.deleted:
            raise ApiError("channel_not_found")
        channel = call.world.dm(given)
    else:
        channel = call.channel()
    _may_post(call, channel)
    text = call.get("text")
    blocks = check_message(text, call.structure("blocks"))
    message = call.world.add_message(channel.id, call.app.bot_user, text, blocks, thread_ts=call.get("thread_ts") or None)
    call.slack.happens(channel, message_posted(call.world, message))
    return {"channel": channel.id, "ts": message.ts, "message": describe_message(call.world, message)}


def _may_post(call: Call, channel: Channel) -> None:
    if channel.kind == "im" and not call.app.messages_tab:
        raise ApiError("messages_tab_disabled")
    if channel.archived:
        raise ApiError("is_archived")
    if not call.world.bot_is_in(channel):
        raise ApiError("not_in_channel")


def chat_post_ephemeral(call: Call) -> Json:
    call.needs("chat:write")
    call.must("channel", "user")
    channel = call.channel()
    user = call.get("user")
    _may_post(call, channel)
    if user not in channel.members or call.world.users[user].deleted:
        raise ApiError("user_not_in_channel")
    text = call.get("text")
    blocks = check_message(text, call.structure("blocks"))
    message = call.world.add_message(channel.id, call.app.bot_user, text, blocks, ephemeral_to=user)
    return {"message_ts": message.ts}


def _own_message(call: Call, refused: str) -> tuple[Channel, Message]:
    """The app's own message that `channel` and `ts` name. An ephemeral one cannot be found again."""
    call.needs("chat:write")
    call.must("channel", "ts")
    channel = call.channel()
    message = call.world.find_message(channel.id, call.get("ts"))
    if message is None or message.ephemeral_to:
        raise ApiError("message_not_found")
    if message.user != call.app.bot_user:
        raise ApiError(refused)
    return channel, message


def chat_update(call: Call) -> Json:
    """Without `blocks` the message keeps them, unless there is `text`: then it is nothing but the text."""
    channel, message = _own_message(call, "cant_update_message")
    if channel.archived:
        raise ApiError("is_inactive")
    text, given = call.get("text"), call.structure("blocks")
    if given is None and not text:
        raise ApiError("no_text")
    before = describe_message(call.world, message)
    blocks = check_message(text, given, UPDATED_TEXT_MAX)
    message.text, message.blocks = text, blocks
    message.edited = {"user": call.app.bot_user, "ts": call.world.new_ts()}
    call.world.touch()
    call.slack.happens(channel, message_changed(call.world, message, before))
    return {"channel": channel.id, "ts": message.ts, "text": text, "message": describe_message(call.world, message)}


def chat_delete(call: Call) -> Json:
    channel, message = _own_message(call, "cant_delete_message")
    call.world.remove_message(message)
    call.slack.happens(channel, message_deleted(call.world, message))
    return {"channel": channel.id, "ts": message.ts}


def chat_get_permalink(call: Call) -> Json:
    call.must("channel", "message_ts")
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
        made["blocks"] = _told(message.blocks)
    if message.thread_ts:
        made["thread_ts"] = message.thread_ts
    if message.attachments:
        made["attachments"] = message.attachments
    if message.edited:
        made["edited"] = message.edited
    if message.more.get("subtype") == "bot_message":
        del made["user"]
    return made | message.more


def _told(node: Any) -> Any:
    """Blocks of a message as payloads bring them back: plain text is escaped there (slackapi/bolt-python#513)."""
    if isinstance(node, list):
        return [_told(part) for part in node]
    if not isinstance(node, dict):
        return node
    told = {name: _told(part) for name, part in node.items()}
    return told | {"text": escape(node["text"])} if node.get("type") == "plain_text" else told


def message_posted(world: World, message: Message) -> Json:
    """The event of a new message, https://docs.slack.dev/reference/events/message"""
    channel = world.channels[message.channel]
    return describe_message(world, message) | {"channel": channel.id, "channel_type": CHANNEL_LETTERS[channel.kind]}


def message_changed(world: World, message: Message, before: Json) -> Json:
    return _hidden(world, message, "message_changed") | {"message": describe_message(world, message), "previous_message": before}


def message_deleted(world: World, message: Message) -> Json:
    return _hidden(world, message, "message_deleted") | {"deleted_ts": message.ts, "previous_message": describe_message(world, message)}


def _hidden(world: World, message: Message, subtype: str) -> Json:
    channel = world.channels[message.channel]
    kind = CHANNEL_LETTERS[channel.kind]
    return {
        "type": "message", "subtype": subtype, "hidden": True, "channel": channel.id, "channel_type": kind, "ts": world.new_ts(),
    }  # fmt: skip


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
    if external_id_taken(call.world, content):
        raise ApiError("duplicate_external_id")


def external_id_taken(world: World, content: Json, but: View | None = None) -> bool:
    taken = {view.content.get("external_id") for view in world.views.values() if view is not but}
    return bool(content.get("external_id")) and content["external_id"] in taken


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
    view_id, external = call.get("view_id"), call.get("external_id")
    if not view_id and not external:
        raise ApiError("invalid_arguments", ["[ERROR] must provide one of: view_id, external_id"])
    found = call.world.views.get(view_id)
    if not view_id:
        found = next((view for view in call.world.views.values() if view.content.get("external_id") == external), None)
    if found is None:
        raise ApiError("not_found")
    content = _view(call, found.type)
    if external_id_taken(call.world, content, found):
        raise ApiError("duplicate_external_id")
    if call.get("hash") and call.get("hash") != found.hash:
        raise ApiError("hash_conflict")
    change_view(call.world, found, content)
    return {"view": describe_view(call.world, found)}


def views_publish(call: Call) -> Json:
    call.must("user_id", "view")
    user = call.world.users.get(call.get("user_id"))
    if user is None or user.is_bot or user.deleted:
        raise ApiError("invalid_arguments", ["[ERROR] invalid `user_id`"])
    if not call.app.home_tab:
        raise ApiError("not_enabled")
    content = _view(call, "home")
    home = call.world.homes.get(user.id)
    if external_id_taken(call.world, content, home):
        raise ApiError("duplicate_external_id")
    if call.get("hash") and (home is None or call.get("hash") != home.hash):
        raise ApiError("hash_conflict")
    if home is None:
        home = make_view(call.world, user.id, content, None)
        call.world.homes[user.id] = call.world.views[home.id] = home
    else:
        change_view(call.world, home, content)
    call.world.touch()
    return {"view": describe_view(call.world, home)}


METHODS: dict[str, Callable[[Call], Json]] = {
    "apps.connections.open": apps_connections_open,
    "auth.test": auth_test,
    "chat.delete": chat_delete,
    "chat.getPermalink": chat_get_permalink,
    "chat.postEphemeral": chat_post_ephemeral,
    "chat.postMessage": chat_post_message,
    "chat.update": chat_update,
    "conversations.info": conversations_info,
    "conversations.list": conversations_list,
    "conversations.members": conversations_members,
    "conversations.open": conversations_open,
    "team.info": team_info,
    "usergroups.list": usergroups_list,
    "usergroups.users.list": usergroups_users_list,
    "users.conversations": users_conversations,
    "users.info": users_info,
    "users.list": users_list,
    "views.open": views_open,
    "views.publish": views_publish,
    "views.push": views_push,
    "views.update": views_update,
}

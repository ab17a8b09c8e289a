"""`manifest.yml` and the code ask for the same things, both ways."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bot import app, doctor
from tests.stage import MANIFEST, Stage

BOT = Path(app.__file__).parent
# The scope that each Web API method needs: https://docs.slack.dev/reference/methods. Methods of no scope are left out.
SCOPE_OF = {
    "chat_postEphemeral": {"chat:write"},
    "chat_postMessage": {"chat:write"},
    "chat_update": {"chat:write"},
    "conversations_info": {"channels:read", "groups:read"},
    "usergroups_list": {"usergroups:read"},
    "usergroups_users_list": {"usergroups:read"},
    "users_conversations": {"channels:read", "groups:read"},
    "users_info": {"users:read"},
}
# Events without which a scope would let us hear nothing more: https://docs.slack.dev/reference/events
NO_SCOPE = {"auth_test", "apps_connections_open", "views_open", "views_push", "views_update", "views_publish", "chat_getPermalink"}


class Listeners:
    """Takes the place of Bolt's app and writes down what is listened to."""

    def __init__(self) -> None:
        self.heard: dict[str, set[str]] = {}

    def __getattr__(self, kind: str) -> Callable[[Any], Callable[[Any], None]]:
        def listen(name: Any) -> Callable[[Any], None]:
            self.heard.setdefault(kind, set()).add(name if isinstance(name, str) else str(getattr(name, "pattern", name)))
            return lambda _listener: None

        return listen


async def test_slack_sends_what_is_listened_to_and_nothing_else(play: Stage) -> None:
    listeners = Listeners()
    app.register(listeners, play.bot.services)  # type: ignore[arg-type]
    assert listeners.heard["command"] == {command["command"] for command in MANIFEST["features"]["slash_commands"]}
    assert listeners.heard["event"] == set(MANIFEST["settings"]["event_subscriptions"]["bot_events"])
    shortcuts = {one["callback_id"] for one in MANIFEST["features"].get("shortcuts", [])}
    assert listeners.heard.get("shortcut", set()) == shortcuts
    assert MANIFEST["settings"]["interactivity"]["is_enabled"]


def test_the_scopes_are_those_of_the_methods_that_are_called() -> None:
    code = (BOT / "slack.py").read_text()
    called = {one.replace(".", "_") for one in re.findall(r'"((?:chat|conversations|usergroups|users|views|auth|apps)\.[\w.]+)"', code)}
    assert called - set(SCOPE_OF) - NO_SCOPE == set()
    needed = {"commands"}.union(*(SCOPE_OF.get(method, set()) for method in called))
    assert set(MANIFEST["oauth_config"]["scopes"]["bot"]) == needed
    assert set(doctor.SCOPES) == needed


def test_it_keeps_slacks_limits() -> None:
    info, features = MANIFEST["display_information"], MANIFEST["features"]
    assert len(info["name"]) <= 35
    assert len(info["description"]) <= 140
    assert 175 <= len(info["long_description"]) <= 4000
    for command in features["slash_commands"]:
        assert command["should_escape"]
        assert len(command["description"]) <= 2000
        assert len(command["usage_hint"]) <= 1000
    for shortcut in features.get("shortcuts", []):
        assert len(shortcut["name"]) <= 24
        assert len(shortcut["description"]) <= 150
    assert MANIFEST["settings"]["org_deploy_enabled"] is False
    assert MANIFEST["settings"]["token_rotation_enabled"] is False

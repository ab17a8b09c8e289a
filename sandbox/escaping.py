"""Typed text as Slack sends it: links, mail addresses, people, user groups, channels, and `& < >`.

After a slash command with `should_escape`, and in messages (https://docs.slack.dev/messaging/formatting-message-text). What is typed into
a modal's input arrives as it was typed.
"""

import re
from collections.abc import Iterator

from sandbox.inputs import Json
from sandbox.world import World

_LABEL = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_TOP = r"(?:com|org|net|edu|gov|mil|int|info|biz|name|app|dev|cloud|page|shop|blog|online|site|store|tech|xyz|test|example|[a-z]{2})"
_HOST = rf"(?:{_LABEL}\.)+{_TOP}(?![\w-]|\.\w)"
_END = r"[^\s<>`\"'.,;:!?)\]]"
TOKEN = re.compile(
    rf"""
    (?P<fence>```.+?```)
    | (?P<code>`[^`\n]+`)
    | (?P<url>https?://[^\s<>`]*{_END})
    | (?P<mail>(?<![\w.+-])[\w.+-]*\w@{_HOST})
    | (?P<host>(?<![\w@./:-]){_HOST}(?::\d+)?(?:/(?:[^\s<>`]*{_END})?)?)
    | (?P<at>(?<![\w@])@[\w.-]*\w)
    | (?P<channel>(?<![\w#])\#[\w-]*\w)
    """,
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)
BROADCASTS = ("here", "channel", "everyone")


def escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def command_text(world: World, typed: str) -> str:
    """The `text` of a slash command."""
    return "".join(_written(kind, text, target, named=True) for kind, text, target in _parts(world, typed))


def message_text(world: World, typed: str) -> str:
    """The `text` of a message."""
    return "".join(_written(kind, text, target, named=False) for kind, text, target in _parts(world, typed))


def message_blocks(world: World, typed: str) -> list[Json]:
    """The `rich_text` block that Slack's client sends with a message."""
    elements: list[Json] = []
    section: list[Json] = []
    for kind, text, target in _parts(world, typed):
        if kind == "fence":
            elements += [{"type": "rich_text_section", "elements": section}] if section else []
            elements.append({"type": "rich_text_preformatted", "border": 0, "elements": [{"type": "text", "text": text[3:-3].strip("\n")}]})
            section = []
        else:
            section.append(_leaf(kind, text, target))
    if section:
        elements.append({"type": "rich_text_section", "elements": section})
    return [{"type": "rich_text", "elements": elements}] if elements else []


def _parts(world: World, typed: str) -> Iterator[tuple[str, str, str]]:
    """What stands there, as it was typed, and what it leads to."""
    before = 0
    for found in TOKEN.finditer(typed):
        kind, text = str(found.lastgroup), found[0]
        target = _target(world, kind, text)
        if not target:
            continue
        if typed[before : found.start()]:
            yield "text", typed[before : found.start()], ""
        before = found.end()
        kind = {"S": "group", "U": "person", "W": "person", "!": "broadcast"}[target[0]] if kind == "at" else kind
        yield kind, text, target
    if typed[before:]:
        yield "text", typed[before:], ""


def _target(world: World, kind: str, text: str) -> str:
    """A URL, an id, or the text itself; nothing where nobody is called so."""
    name = text[1:].lower()
    match kind:
        case "mail":
            return f"mailto:{text}"
        case "host":
            return f"http://{text}"
        case "channel":
            return next((one.id for one in world.channels.values() if one.kind != "im" and one.name == name), "")
        case "at":
            if name in BROADCASTS:
                return f"!{name}"
            people = (one.id for one in world.users.values() if name in (one.name.lower(), one.display_name.lower()))
            return next(people, "") or next((one.id for one in world.groups.values() if one.handle == name), "")
    return text


def _written(kind: str, text: str, target: str, named: bool) -> str:
    label = escape(text)
    match kind:
        case "url":
            return f"<{label}>"
        case "mail" | "host":
            return f"<{escape(target)}|{label}>"
        case "person":
            return f"<@{target}|{label[1:]}>" if named else f"<@{target}>"
        case "group":
            return f"<!subteam^{target}|{label}>" if named else f"<!subteam^{target}>"
        case "channel":
            return f"<#{target}|{label[1:]}>"
        case "broadcast":
            return f"<{target}>"
    return label


def _leaf(kind: str, text: str, target: str) -> Json:
    match kind:
        case "url":
            return {"type": "link", "url": text}
        case "mail" | "host":
            return {"type": "link", "url": target, "text": text}
        case "person":
            return {"type": "user", "user_id": target}
        case "group":
            return {"type": "usergroup", "usergroup_id": target}
        case "channel":
            return {"type": "channel", "channel_id": target}
        case "broadcast":
            return {"type": "broadcast", "range": target[1:]}
        case "code":
            return {"type": "text", "text": text[1:-1], "style": {"code": True}}
    return {"type": "text", "text": text}

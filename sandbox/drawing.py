"""What a person reads: blocks as plain text, with mentions, channels and dates as names and times."""

import html
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from sandbox.inputs import Json
from sandbox.world import World

MRKDWN = re.compile(r"<([^<>]+)>")


def text_of(world: World, blocks: list[Json]) -> str:
    """The blocks' visible text, a line for each part."""
    return "\n".join(line for block in blocks for line in _block(world, block) if line)


def _block(world: World, block: Json) -> Iterator[str]:
    match block["type"]:
        case "section":
            if "text" in block:
                yield plain(world, block["text"])
            for one in block.get("fields", []):
                yield plain(world, one)
            if "accessory" in block:
                yield from _element(block["accessory"])
        case "header" | "alert":
            yield plain(world, block["text"])
        case "context":
            for one in block["elements"]:
                yield plain(world, one) if "text" in one else one.get("alt_text", "")
        case "actions" | "context_actions":
            for one in block["elements"]:
                yield from _element(one)
        case "input":
            yield block["label"]["text"]
            yield from _element(block["element"])
            if "hint" in block:
                yield block["hint"]["text"]
        case "rich_text":
            yield rich(world, block)
        case "markdown":
            yield block["text"]


def _element(element: Json) -> Iterator[str]:
    if "text" in element:
        yield f"[{element['text']['text']}]"
    for option in element.get("options", []):
        yield option["text"]["text"]
        if "description" in option:
            yield option["description"]["text"]


def plain(world: World, given: Json) -> str:
    """A text object as it is read."""
    text: str = given["text"]
    if given["type"] == "plain_text":
        return text
    return html.unescape(MRKDWN.sub(lambda match: _mrkdwn(world, match[1]), text))


def _mrkdwn(world: World, inside: str) -> str:
    target, _, label = inside.partition("|")
    if target.startswith("@"):
        return person(world, target[1:])
    if target.startswith("#"):
        return channel(world, target[1:])
    if target.startswith("!subteam^"):
        return group(world, target.removeprefix("!subteam^"))
    if target.startswith("!date^"):
        return moment(int(target.split("^")[1]))
    return label or target


def person(world: World, user_id: str) -> str:
    return f"@{world.users[user_id].name}" if user_id in world.users else f"@{user_id}"


def group(world: World, group_id: str) -> str:
    return f"@{world.groups[group_id].handle}" if group_id in world.groups else f"@{group_id}"


def channel(world: World, channel_id: str) -> str:
    return f"#{world.channels[channel_id].name}" if channel_id in world.channels else f"#{channel_id}"


def moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def rich(world: World, node: Any) -> str:
    """A rich_text block, or a part of one, as it is read."""
    match node.get("type"):
        case "text":
            return str(node["text"])
        case "link":
            return str(node.get("text") or node["url"])
        case "user":
            return person(world, node["user_id"])
        case "usergroup":
            return group(world, node["usergroup_id"])
        case "channel":
            return channel(world, node["channel_id"])
        case "date":
            return moment(node["timestamp"])
        case "emoji":
            return f":{node['name']}:"
        case "broadcast":
            return f"@{node['range']}"
        case "rich_text_section":
            return "".join(rich(world, one) for one in node["elements"])
        case "rich_text_preformatted" | "rich_text_quote":
            return "\n" + "".join(rich(world, one) for one in node["elements"]) + "\n"
        case "rich_text" | "rich_text_list":
            return "".join(rich(world, one) for one in node["elements"])
    return ""

"""Block Kit as plain dicts. Names and other people's text go only into rich_text or plain_text, where nothing in them is formatting.

Limits: https://docs.slack.dev/reference/block-kit
"""

import itertools
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

VIEW_BLOCKS_MAX = 100  # docs.slack.dev: reference/views
OPTION_TEXT_MAX = 75
OPTIONS_MAX = 100
LABEL_MAX = 75  # docs.slack.dev: reference/block-kit/block-elements/button-element
TEXT_MAX = 4000  # docs.slack.dev: reference/methods/chat.postMessage, as advised

Block = dict[str, Any]
Piece = str | dict[str, Any]
"""A part of a line: a plain string, or what `bold`, `code`, `person`, `channel`, `when` return."""


def bold(text: str) -> Piece:
    return {"type": "text", "text": text, "style": {"bold": True}}


def code(text: str) -> Piece:
    return {"type": "text", "text": text, "style": {"code": True}}


def channel(channel_id: str) -> Piece:
    return {"type": "channel", "channel_id": channel_id}


def principal(slack_id: str) -> Piece:
    """A Slack user or user group as a mention; anybody else (`shell:NAME`) as text."""
    if slack_id.startswith("S"):
        return {"type": "usergroup", "usergroup_id": slack_id}
    if slack_id.startswith(("U", "W")):
        return {"type": "user", "user_id": slack_id}
    return slack_id


def people(slack_ids: Sequence[str]) -> list[Piece]:
    """Mentions with commas between them."""
    return list(itertools.chain.from_iterable((", ", principal(one)) for one in slack_ids))[1:]


def utc(moment: datetime) -> str:
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "minutes") + " UTC"


def when(moment: datetime) -> Piece:
    """A date in each reader's time zone; in UTC where it cannot be drawn."""
    stamp = int(moment.timestamp())
    return {"type": "date", "timestamp": stamp, "format": "{date_short_pretty} at {time}", "fallback": utc(moment)}


def clock_time(moment: datetime) -> Piece:
    """The time of day, to the second, in each reader's time zone."""
    stamp = int(moment.timestamp())
    return {"type": "date", "timestamp": stamp, "format": "{time_secs}", "fallback": moment.astimezone(UTC).strftime("%H:%M:%S UTC")}


def when_mrkdwn(moment: datetime) -> str:
    return f"<!date^{int(moment.timestamp())}^{{date_short_pretty}} at {{time}}|{utc(moment)}>"


def principal_mrkdwn(slack_id: str) -> str:
    """A mention inside mrkdwn; ids only, never a name."""
    if slack_id.startswith("S"):
        return f"<!subteam^{slack_id}>"
    return f"<@{slack_id}>" if slack_id.startswith(("U", "W")) else slack_id.replace("<", "").replace("&", "")


def line(*pieces: Piece) -> Block:
    return {"type": "rich_text", "elements": [{"type": "rich_text_section", "elements": _elements(pieces)}]}


def lines(*rows: Sequence[Piece]) -> Block:
    """Several lines in one block."""
    sections = []
    for number, row in enumerate(rows):
        end: list[Piece] = ["\n"] if number < len(rows) - 1 else []
        sections.append({"type": "rich_text_section", "elements": _elements([*row, *end])})
    return {"type": "rich_text", "elements": sections}


def copyable(label: str, text: str) -> Block:
    """A label over a text in a box of its own, which Slack lets people copy."""
    return {
        "type": "rich_text",
        "elements": [
            {"type": "rich_text_section", "elements": _elements([bold(label)])},
            {"type": "rich_text_preformatted", "elements": [{"type": "text", "text": text}]},
        ],
    }


def _elements(pieces: Iterable[Piece]) -> list[dict[str, Any]]:
    return [{"type": "text", "text": piece} if isinstance(piece, str) else piece for piece in pieces if piece != ""]


def flat(pieces: Iterable[Piece]) -> str:
    """The pieces as one plain string, for a modal's field error, where Slack draws no mentions."""
    return "".join(piece if isinstance(piece, str) else str(piece.get("text") or piece.get("fallback") or "") for piece in pieces)


def flat_blocks(rows: Iterable[Block]) -> str:
    """What blocks say, in plain words, escaped as a message's top-level text must be: mentions and channels stay mentions."""
    return "\n".join(filter(None, (_flat(row).strip() for row in rows)))


def in_words(rows: list[Block]) -> dict[str, Any]:
    """A message. Its top-level text is the message in words: screen readers and phones get nothing else."""
    return {"text": flat_blocks(rows)[:TEXT_MAX], "blocks": rows}


def escaped(text: str) -> str:
    """https://docs.slack.dev/messaging/formatting-message-text#escaping"""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _flat(node: Any) -> str:
    if isinstance(node, list):
        return "".join(_flat(one) for one in node)
    if not isinstance(node, dict):
        return ""
    match node.get("type"):
        case "text" | "plain_text":
            return escaped(node["text"])
        case "mrkdwn":
            return str(node["text"])
        case "user":
            return f"<@{node['user_id']}>"
        case "usergroup":
            return f"<!subteam^{node['usergroup_id']}>"
        case "channel":
            return f"<#{node['channel_id']}>"
        case "link":
            return f"<{node['url']}|{escaped(node.get('text') or node['url'])}>"
        case "date":
            return f"<!date^{node['timestamp']}^{node['format']}|{node['fallback']}>"
        case "rich_text" | "rich_text_section" | "rich_text_preformatted":
            return _flat(node["elements"])
        case "section":
            return " ".join(_flat(one) for one in [node.get("text"), *node.get("fields", [])] if one)
        case "header":
            return _flat(node["text"])
        case "context":
            return " ".join(_flat(one) for one in node["elements"])
    return ""


def plain(text: str) -> dict[str, Any]:
    return {"type": "plain_text", "text": text, "emoji": False}


def mrkdwn(text: str) -> dict[str, Any]:
    """For our own words, ids and dates only; never for a name."""
    return {"type": "mrkdwn", "text": text, "verbatim": True}


def header(text: str) -> Block:
    return {"type": "header", "text": plain(text)}


def foot(*texts: str) -> Block:
    return {"type": "context", "elements": [plain(text) for text in texts]}


DIVIDER: Block = {"type": "divider"}


def button(
    label: str,
    action: str,
    value: str | None = None,
    style: str | None = None,
    confirm: dict[str, Any] | None = None,
    says: str | None = None,
    url: str | None = None,
) -> dict[str, Any]:
    """`says`: what a screen reader reads, where several buttons have the same label."""
    made: dict[str, Any] = {"type": "button", "text": plain(label), "action_id": action}
    made.update({key: given for key, given in (("value", value), ("style", style), ("confirm", confirm), ("url", url)) if given})
    if says:
        made["accessibility_label"] = says[:LABEL_MAX]
    return made


def confirm(title: str, text: str, yes: str, no: str, style: str | None = "danger") -> dict[str, Any]:
    made = {"title": plain(title), "text": plain(text), "confirm": plain(yes), "deny": plain(no)}
    return made | ({"style": style} if style else {})


def actions(*elements: dict[str, Any]) -> Block:
    return {"type": "actions", "elements": list(elements)}


def option(label: str, value: str, description: str | None = None) -> dict[str, Any]:
    shown = label if len(label) <= OPTION_TEXT_MAX else label[: OPTION_TEXT_MAX - 1] + "…"
    return {"text": plain(shown), "value": value} | ({"description": plain(description)} if description else {})


def field(
    label: str, block_id: str, element: dict[str, Any], hint: str | None = None, optional: bool = False, action_id: str | None = None
) -> Block:
    """An input of a modal. Its value comes back under `block_id`; its element's action id is the same unless given."""
    made: Block = {"type": "input", "block_id": block_id, "label": plain(label), "element": element | {"action_id": action_id or block_id}}
    if hint:
        made["hint"] = plain(hint)
    return made | {"optional": optional}


def modal(
    title: str, blocks: list[Block], callback: str = "closed", submit: str | None = None, close: str = "Close", metadata: str = ""
) -> dict[str, Any]:
    """A modal view; with more blocks than Slack takes, the last ones are left out."""
    view: dict[str, Any] = {
        "type": "modal",
        "callback_id": callback,
        "title": plain(title),
        "close": plain(close),
        "blocks": blocks[:VIEW_BLOCKS_MAX],
        "private_metadata": metadata,
    }
    return view | ({"submit": plain(submit)} if submit else {})


def values(view: dict[str, Any]) -> dict[str, Any]:
    """What a submitted view's inputs hold, by block id: a string, a list of chosen values, or None for an empty one."""
    return {block: _value(next(iter(state.values()), {})) for block, state in view.get("state", {}).get("values", {}).items()}


def _value(state: dict[str, Any]) -> Any:
    match state.get("type"):
        case "plain_text_input":
            return state.get("value")
        case "static_select" | "external_select" | "radio_buttons":
            return (state.get("selected_option") or {}).get("value")
        case "checkboxes":
            return [chosen["value"] for chosen in state.get("selected_options", [])]
        case "conversations_select":
            return state.get("selected_conversation")
        case "users_select":
            return state.get("selected_user")
        case "datepicker":
            return state.get("selected_date")
    return None

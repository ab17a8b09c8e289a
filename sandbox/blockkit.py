"""Block Kit's rules as tables: what Slack takes in a message, a modal or a Home tab, and what it says about the rest.

Limits: https://docs.slack.dev/reference/block-kit and https://docs.slack.dev/reference/views. Faults are worded and pointed at as Slack
does in `response_metadata.messages`: `[ERROR] must be less than 25 characters [json-pointer:/view/title/text]`.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

Surface = Literal["message", "modal", "home"]
MESSAGE_BLOCKS_MAX = 50
VIEW_BLOCKS_MAX = 100
VIEW_BYTES_MAX = 250 * 1024
TABLE_CHARACTERS_MAX = 10_000
DATA_TABLE_CHARACTERS_MAX = 20_000


class Inspection:
    """One look at one message or view: where it will be shown, the faults found so far, and what must be unique in it."""

    def __init__(self, surface: Surface) -> None:
        self.surface = surface
        self.faults: list[str] = []
        self.block_ids: set[str] = set()
        self.focused = 0
        self.in_input = False

    def fault(self, text: str, at: str) -> None:
        self.faults.append(f"[ERROR] {text} [json-pointer:{at}]")


Check = Callable[[Inspection, Any, str], None]
Fields = Mapping[str, Check]


def string(most: int, least: int = 1, pattern: str = "") -> Check:
    def check(look: Inspection, value: Any, at: str) -> None:
        if not isinstance(value, str):
            look.fault("must provide a string", at)
        elif len(value) > most:
            look.fault(f"must be less than {most + 1} characters", at)
        elif len(value) < least:
            look.fault(f"must be more than {least - 1} characters", at)
        elif pattern and not re.fullmatch(pattern, value):
            look.fault("must match a valid pattern", at)

    return check


def flag(look: Inspection, value: Any, at: str) -> None:
    if not isinstance(value, bool):
        look.fault("must provide a boolean", at)


def whole(least: int, most: int) -> Check:
    def check(look: Inspection, value: Any, at: str) -> None:
        if not isinstance(value, int) or isinstance(value, bool):
            look.fault("must provide an integer", at)
        elif not least <= value <= most:
            look.fault(f"must be between {least} and {most}", at)

    return check


def number(look: Inspection, value: Any, at: str) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        look.fault("must provide a number", at)


def one_of(*allowed: str | int) -> Check:
    def check(look: Inspection, value: Any, at: str) -> None:
        if value not in allowed:
            look.fault(f"must be one of: {', '.join(map(str, allowed))}", at)

    return check


def many(item: Check, least: int, most: int) -> Check:
    def check(look: Inspection, value: Any, at: str) -> None:
        if not isinstance(value, list):
            look.fault("must provide an array", at)
            return
        if len(value) > most:
            look.fault(f"no more than {most} items allowed", at)
        elif len(value) < least:
            look.fault(f"no fewer than {least} items allowed", at)
        for position, part in enumerate(value):
            item(look, part, f"{at}/{position}")

    return check


def shape(needs: Fields, may: Fields | None = None, also: Check | None = None) -> Check:
    """An object with these fields and no others; `type` is looked at by whoever chose the shape."""
    known = {**(may or {}), **needs}

    def check(look: Inspection, value: Any, at: str) -> None:
        if not isinstance(value, dict):
            look.fault("must provide an object", at)
            return
        for name in needs:
            if name not in value:
                look.fault(f"missing required field: {name}", at)
        for name, part in value.items():
            if name in known:
                known[name](look, part, f"{at}/{name}")
            elif name != "type":
                look.fault(f"invalid additional property: {name}", at)
        if also:
            also(look, value, at)

    return check


def typed(table: Mapping[str, Check], allowed: Iterable[str] | None = None) -> Check:
    """An object whose `type` chooses its shape."""
    names = frozenset(table if allowed is None else allowed)

    def check(look: Inspection, value: Any, at: str) -> None:
        if not isinstance(value, dict):
            look.fault("must provide an object", at)
        elif "type" not in value:
            look.fault("missing required field: type", at)
        elif not isinstance(value["type"], str) or value["type"] not in names:
            look.fault(f"unsupported type: {value['type']}", f"{at}/type")
        else:
            table[value["type"]](look, value, at)

    return check


def plain(most: int) -> Check:
    return typed({"plain_text": shape({"text": string(most)}, {"emoji": flag})})


def words(most: int) -> Check:
    """Plain text or mrkdwn."""
    return typed(
        {
            "plain_text": shape({"text": string(most)}, {"emoji": flag}),
            "mrkdwn": shape({"text": string(most)}, {"verbatim": flag}),
        }
    )


def _unique_actions(look: Inspection, value: Any, at: str) -> None:
    elements = value.get("elements")
    ids = [part.get("action_id") for part in elements if isinstance(part, dict)] if isinstance(elements, list) else []
    for twice in sorted({one for one in ids if isinstance(one, str) and ids.count(one) > 1}):
        look.fault(f"`action_id` {twice} already exists", at)


def _focus(look: Inspection, value: Any, at: str) -> None:
    flag(look, value, at)
    look.focused += value is True
    if look.focused > 1:
        look.fault("only one element may have focus_on_load", at)


def _only_in_modal_input(look: Inspection, value: Any, at: str) -> None:
    flag(look, value, at)
    if value and not (look.surface == "modal" and look.in_input):
        look.fault("response_url_enabled is only allowed in an input block of a modal", at)


# --- composition objects ---
URL = string(3000, pattern=r"[a-zA-Z][a-zA-Z0-9+.-]*:\S+")
PLACEHOLDER = plain(150)
CONFIRM = shape({"title": plain(100), "text": words(300), "confirm": plain(30), "deny": plain(30)}, {"style": one_of("primary", "danger")})
OPTION = shape({"text": plain(75), "value": string(150)}, {"description": plain(75)})
CHOICE = shape({"text": words(75), "value": string(150)}, {"description": words(75)})
MENU_OPTION = shape({"text": plain(75), "value": string(150)}, {"description": plain(75), "url": URL})
OPTION_GROUP = shape({"label": plain(75), "options": many(OPTION, 1, 100)})
DISPATCH = shape({"trigger_actions_on": many(one_of("on_enter_pressed", "on_character_entered"), 1, 2)})
FILTER = shape(
    {},
    {"include": many(one_of("im", "mpim", "private", "public"), 1, 4), "exclude_external_shared_channels": flag, "exclude_bot_users": flag},
)
FILE = shape({}, {"url": URL, "id": string(255)})
USER = string(255, pattern=r"[UW][A-Z0-9]+")
CHANNEL = string(255, pattern=r"[CG][A-Z0-9]+")

# --- elements ---
BASE: dict[str, Check] = {"action_id": string(255)}
CONFIRMABLE = {**BASE, "confirm": CONFIRM}
PICKER = {**CONFIRMABLE, "focus_on_load": _focus}
SELECT = {**PICKER, "placeholder": PLACEHOLDER}
TYPED = {**BASE, "placeholder": PLACEHOLDER, "focus_on_load": _focus, "dispatch_action_config": DISPATCH}
MULTI = {**SELECT, "max_selected_items": whole(1, 100)}
DECIMAL = string(64, pattern=r"-?[0-9]+(\.[0-9]+)?")


def _options(look: Inspection, value: Any, at: str) -> None:
    if ("options" in value) == ("option_groups" in value):
        look.fault("must provide exactly one of: options, option_groups", at)
    _initial(look, value, at)


def _initial(look: Inspection, value: Any, at: str) -> None:
    offered = list(value.get("options") or [])
    for group in value.get("option_groups") or []:
        offered += group.get("options") or [] if isinstance(group, dict) else []
    values = [one.get("value") for one in offered if isinstance(one, dict)]
    if len(values) != len(set(map(str, values))):
        look.fault("option values must be unique", at)
    chosen = [value["initial_option"]] if "initial_option" in value else value.get("initial_options") or []
    if any(isinstance(one, dict) and one.get("value") not in values for one in chosen):
        look.fault("initial option must be one of the options", at)


def _lengths(look: Inspection, value: Any, at: str) -> None:
    least, most = value.get("min_length"), value.get("max_length")
    if isinstance(least, int) and isinstance(most, int) and least > most:
        look.fault("min_length must not be more than max_length", at)


def _one_source(look: Inspection, value: Any, at: str) -> None:
    if ("image_url" in value) == ("slack_file" in value):
        look.fault("must provide exactly one of: image_url, slack_file", at)


_CHOICES = {"options": many(OPTION, 1, 100), "option_groups": many(OPTION_GROUP, 1, 100)}
_FEEDBACK = shape({"text": plain(75), "value": string(2000)}, {"accessibility_label": string(75)})
ELEMENTS: dict[str, Check] = {
    "button": shape(
        {"text": plain(75)},
        {**CONFIRMABLE, "url": URL, "value": string(2000), "style": one_of("primary", "danger"), "accessibility_label": string(75)},
    ),
    "icon_button": shape(
        {"icon": one_of("trash"), "text": plain(75)},
        {**CONFIRMABLE, "value": string(2000), "accessibility_label": string(75), "visible_to_user_ids": many(USER, 0, 100)},
    ),
    "feedback_buttons": shape({"positive_button": _FEEDBACK, "negative_button": _FEEDBACK}, BASE),
    "overflow": shape({"options": many(MENU_OPTION, 1, 5)}, CONFIRMABLE, _initial),
    "checkboxes": shape({"options": many(CHOICE, 1, 10)}, {**PICKER, "initial_options": many(CHOICE, 1, 10)}, _initial),
    "radio_buttons": shape({"options": many(CHOICE, 1, 10)}, {**PICKER, "initial_option": CHOICE}, _initial),
    "datepicker": shape({}, {**SELECT, "initial_date": string(10, pattern=r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])")}),
    "timepicker": shape({}, {**SELECT, "initial_time": string(5, pattern=r"([01]\d|2[0-3]):[0-5]\d"), "timezone": string(100)}),
    "datetimepicker": shape({}, {**PICKER, "initial_date_time": whole(0, 9_999_999_999)}),
    "plain_text_input": shape(
        {},
        {**TYPED, "initial_value": string(3000, 0), "multiline": flag, "min_length": whole(0, 3000), "max_length": whole(1, 3000)},
        _lengths,
    ),
    "email_text_input": shape({}, {**TYPED, "initial_value": string(3000, 0)}),
    "url_text_input": shape({}, {**TYPED, "initial_value": string(3000, 0)}),
    "number_input": shape({"is_decimal_allowed": flag}, {**TYPED, "initial_value": DECIMAL, "min_value": DECIMAL, "max_value": DECIMAL}),
    "static_select": shape({}, {**SELECT, **_CHOICES, "initial_option": OPTION}, _options),
    "external_select": shape({}, {**SELECT, "initial_option": OPTION, "min_query_length": whole(0, 100)}),
    "users_select": shape({}, {**SELECT, "initial_user": USER}),
    "conversations_select": shape(
        {},
        {
            **SELECT,
            "initial_conversation": string(255),
            "default_to_current_conversation": flag,
            "response_url_enabled": _only_in_modal_input,
            "filter": FILTER,
        },
    ),
    "channels_select": shape({}, {**SELECT, "initial_channel": CHANNEL, "response_url_enabled": _only_in_modal_input}),
    "multi_static_select": shape({}, {**MULTI, **_CHOICES, "initial_options": many(OPTION, 1, 100)}, _options),
    "multi_external_select": shape({}, {**MULTI, "initial_options": many(OPTION, 1, 100), "min_query_length": whole(0, 100)}),
    "multi_users_select": shape({}, {**MULTI, "initial_users": many(USER, 1, 100)}),
    "multi_conversations_select": shape(
        {},
        {**MULTI, "initial_conversations": many(string(255), 1, 100), "default_to_current_conversation": flag, "filter": FILTER},
    ),
    "multi_channels_select": shape({}, {**MULTI, "initial_channels": many(CHANNEL, 1, 100)}),
    "file_input": shape({}, {**BASE, "filetypes": many(string(20), 1, 100), "max_files": whole(1, 10)}),
    "image": shape({"alt_text": string(2000)}, {"image_url": URL, "slack_file": FILE}, _one_source),
}
_SELECTS = frozenset(name for name in ELEMENTS if name.endswith("_select"))
_CHOOSERS = _SELECTS | {"checkboxes", "radio_buttons", "datepicker", "timepicker"}
IN_ACTIONS = _CHOOSERS | {"button", "overflow", "datetimepicker"}
IN_SECTION = _CHOOSERS | {"button", "overflow", "image"}
IN_INPUT = _CHOOSERS | {
    "datetimepicker", "plain_text_input", "email_text_input", "url_text_input", "number_input", "rich_text_input", "file_input",
}  # fmt: skip

# --- rich text ---
STYLE = shape({}, dict.fromkeys(("bold", "italic", "strike", "underline", "code", "highlight", "client_highlight", "unlink"), flag))
STYLED = {"style": STYLE}
LEAF = typed({
    "text": shape({"text": string(1_000_000)}, STYLED),
    "link": shape({"url": URL}, {**STYLED, "text": string(3000, 0), "unsafe": flag}),
    "user": shape({"user_id": USER}, STYLED),
    "usergroup": shape({"usergroup_id": string(255, pattern=r"S[A-Z0-9]+")}, STYLED),
    "channel": shape({"channel_id": string(255, pattern=r"[CGD][A-Z0-9]+")}, STYLED),
    "team": shape({"team_id": string(255, pattern=r"T[A-Z0-9]+")}, STYLED),
    "emoji": shape({"name": string(100)}, {**STYLED, "skin_tone": whole(1, 6), "unicode": string(100)}),
    "broadcast": shape({"range": one_of("here", "channel", "everyone")}, STYLED),
    "color": shape({"value": string(7, pattern=r"#?[0-9a-fA-F]{6}")}, STYLED),
    "date": shape(
        {"timestamp": whole(0, 99_999_999_999), "format": string(500)}, {**STYLED, "url": URL, "fallback": string(500)}
    ),
})  # fmt: skip
LEAVES = many(LEAF, 0, 10_000)
BORDER = one_of(0, 1)
_SECTION_SHAPE = shape({"elements": LEAVES})
RICH_PARTS = many(
    typed({
        "rich_text_section": _SECTION_SHAPE,
        "rich_text_list": shape(
            {"style": one_of("bullet", "ordered"), "elements": many(typed({"rich_text_section": _SECTION_SHAPE}), 1, 1000)},
            {"indent": whole(0, 8), "offset": whole(0, 100_000), "border": BORDER},
        ),
        "rich_text_preformatted": shape({"elements": LEAVES}, {"border": BORDER, "language": string(50)}),
        "rich_text_quote": shape({"elements": LEAVES}, {"border": BORDER}),
    }),
    0,
    1000,
)  # fmt: skip
RICH_TEXT = shape({"elements": RICH_PARTS})
ELEMENTS["rich_text_input"] = shape({"action_id": string(255)}, {**TYPED, "initial_value": typed({"rich_text": RICH_TEXT})})


# --- blocks ---
def _section(look: Inspection, value: Any, at: str) -> None:
    if "text" not in value and "fields" not in value:
        look.fault("must provide at least one of: text, fields", at)


def _as_input(check: Check) -> Check:
    def within(look: Inspection, value: Any, at: str) -> None:
        look.in_input = True
        check(look, value, at)
        look.in_input = False

    return within


def _characters(most: int) -> Check:
    def check(look: Inspection, value: Any, at: str) -> None:
        rows = value.get("rows")
        cells = [cell for row in rows if isinstance(row, list) for cell in row] if isinstance(rows, list) else []
        if sum(len(str(cell.get("text", ""))) for cell in cells if isinstance(cell, dict)) > most:
            look.fault(f"cells must hold no more than {most} characters in all", f"{at}/rows")

    return check


_CELL = {"raw_text": shape({"text": string(10_000, 0)}), "rich_text": RICH_TEXT}
_DATA_CELL = {**_CELL, "raw_text": shape({"text": string(20_000)}), "raw_number": shape({"value": number}, {"text": string(500)})}
_COLUMN = shape({}, {"align": one_of("left", "center", "right"), "is_wrapped": flag})
_BLOCK_SHAPES: dict[str, tuple[Check, tuple[Surface, ...]]] = {}


def _block_id(look: Inspection, value: Any, at: str) -> None:
    string(255)(look, value, at)
    if isinstance(value, str) and value in look.block_ids:
        look.fault(f"block_id {value} already exists", at)
    elif isinstance(value, str):
        look.block_ids.add(value)


def _block(name: str, needs: Fields, may: Fields | None = None, also: Check | None = None, on: str = "message modal home") -> None:
    surfaces: tuple[Surface, ...] = tuple(one for one in ("message", "modal", "home") if one in on.split())
    _BLOCK_SHAPES[name] = shape(needs, {**(may or {}), "block_id": _block_id}, also), surfaces


_block("actions", {"elements": many(typed(ELEMENTS, IN_ACTIONS), 1, 25)}, also=_unique_actions)
_block("alert", {"text": words(3000)}, {"level": one_of("default", "info", "warning", "error", "success")}, on="modal")
_block("context", {"elements": many(typed({
    "image": ELEMENTS["image"],
    "plain_text": shape({"text": string(3000)}, {"emoji": flag}),
    "mrkdwn": shape({"text": string(3000)}, {"verbatim": flag}),
}), 1, 10)})  # fmt: skip
_block(
    "context_actions", {"elements": many(typed(ELEMENTS, ("feedback_buttons", "icon_button")), 1, 5)}, also=_unique_actions, on="message"
)
_block("divider", {})
_block("header", {"text": plain(150)}, {"level": whole(1, 4)})
_block("image", {"alt_text": string(2000)}, {"image_url": URL, "slack_file": FILE, "title": plain(2000)}, _one_source)
_block(
    "input",
    {"label": plain(2000), "element": _as_input(typed(ELEMENTS, IN_INPUT))},
    {"hint": plain(2000), "optional": flag, "dispatch_action": flag},
)
_block("markdown", {"text": string(12_000)}, on="message")
_block("rich_text", {"elements": RICH_PARTS})
_block(
    "section",
    {},
    {"text": words(3000), "fields": many(words(2000), 1, 10), "accessory": typed(ELEMENTS, IN_SECTION), "expand": flag},
    _section,
)
_block(
    "table",
    {"rows": many(many(typed(_CELL), 1, 20), 1, 100)},
    {"column_settings": many(lambda look, value, at: None if value is None else _COLUMN(look, value, at), 0, 20)},
    _characters(TABLE_CHARACTERS_MAX),
    on="message home",
)
_block(
    "data_table",
    {"caption": string(2000), "rows": many(many(typed(_DATA_CELL), 1, 20), 2, 201)},
    {"page_size": whole(1, 100), "row_header_column_index": whole(0, 19)},
    _characters(DATA_TABLE_CHARACTERS_MAX),
    on="message home",
)


def _blocks(most: int) -> Check:
    def one(look: Inspection, value: Any, at: str) -> None:
        allowed = {name: check for name, (check, surfaces) in _BLOCK_SHAPES.items() if look.surface in surfaces}
        typed(allowed)(look, value, at)

    return many(one, 0, most)


_VIEW: dict[str, Check] = {
    "private_metadata": string(3000, 0), "callback_id": string(255, 0), "external_id": string(255, 0),
}  # fmt: skip


def _modal(look: Inspection, value: Any, at: str) -> None:
    blocks = value.get("blocks")
    if isinstance(blocks, list) and any(isinstance(one, dict) and one.get("type") == "input" for one in blocks) and "submit" not in value:
        look.fault("missing required field: submit", at)


VIEWS: dict[str, Check] = {
    "modal": shape(
        {"title": plain(24), "blocks": _blocks(VIEW_BLOCKS_MAX)},
        {**_VIEW, "submit": plain(24), "close": plain(24), "clear_on_close": flag, "notify_on_close": flag, "submit_disabled": flag},
        _modal,
    ),
    "home": shape({"blocks": _blocks(VIEW_BLOCKS_MAX)}, _VIEW),
}


def check_blocks(blocks: Any) -> list[str]:
    """The faults of a message's blocks; an empty list when Slack would take them."""
    look = Inspection("message")
    _blocks(MESSAGE_BLOCKS_MAX)(look, blocks, "/blocks")
    return look.faults


def check_view(view: Any, allowed: Iterable[str] = ("modal", "home")) -> list[str]:
    """The faults of a view."""
    look = Inspection("home" if isinstance(view, dict) and view.get("type") == "home" else "modal")
    typed(VIEWS, allowed)(look, view, "/view")
    return look.faults


OFFER = shape({}, {"options": many(OPTION, 0, 100), "option_groups": many(OPTION_GROUP, 0, 100)})


def check_offer(answer: Any) -> list[str]:
    """The faults of an answer to `block_suggestion`, https://docs.slack.dev/reference/interaction-payloads/block_suggestion-payload"""
    look = Inspection("modal")
    OFFER(look, answer, "")
    if isinstance(answer, dict) and ("options" in answer) == ("option_groups" in answer):
        look.fault("must provide exactly one of: options, option_groups", "")
    return look.faults


def too_large(view: Any) -> bool:
    return len(json.dumps(view, ensure_ascii=False).encode()) > VIEW_BYTES_MAX

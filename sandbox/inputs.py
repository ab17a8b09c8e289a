"""What people can press, choose and fill in: where it is in the blocks, what it holds, and what Slack's client checks before it sends."""

import copy
import json
import re
import secrets
from collections.abc import Callable, Iterator
from typing import Any

Json = dict[str, Any]
Values = dict[str, dict[str, Json]]
"""Block id -> action id -> what the element holds, as in a payload's `state.values`."""

HOLDS: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("plain_text_input", "email_text_input", "url_text_input", "number_input"), ("value", "initial_value")),
    **dict.fromkeys(("static_select", "external_select", "radio_buttons"), ("selected_option", "initial_option")),
    **dict.fromkeys(("multi_static_select", "multi_external_select", "checkboxes"), ("selected_options", "initial_options")),
    **{f"{one}s_select": (f"selected_{one}", f"initial_{one}") for one in ("user", "conversation", "channel")},
    **{f"multi_{one}s_select": (f"selected_{one}s", f"initial_{one}s") for one in ("user", "conversation", "channel")},
    "datepicker": ("selected_date", "initial_date"),
    "timepicker": ("selected_time", "initial_time"),
    "datetimepicker": ("selected_date_time", "initial_date_time"),
    "rich_text_input": ("rich_text_value", "initial_value"),
    "file_input": ("files", "initial_files"),
}
"""Element type -> (its key in `state.values`, the property that fills it at first)."""
REQUIRED = "Please complete this required field."


def elements(blocks: list[Json]) -> Iterator[tuple[Json, Json]]:
    """Each block with each of its interactive elements, from top to bottom."""
    for block in blocks:
        inside = [block["accessory"]] if "accessory" in block else []
        inside += [block["element"]] if block.get("type") == "input" else []
        inside += block["elements"] if block.get("type") in ("actions", "context_actions") else []
        for element in inside:
            if element.get("type") != "image":
                yield block, element


def complete(blocks: list[Json]) -> list[Json]:
    """The blocks as Slack gives them back: with the ids and defaults that were left out."""
    made: list[Json] = json.loads(json.dumps(blocks))
    for block in made:
        block.setdefault("block_id", secrets.token_hex(3))
        if block.get("type") == "input":
            block.setdefault("optional", False)
            block.setdefault("dispatch_action", False)
    for _, element in elements(made):
        element.setdefault("action_id", secrets.token_hex(3))
    _complete_texts(made)
    return made


def _complete_texts(node: Any) -> None:
    if isinstance(node, list):
        for part in node:
            _complete_texts(part)
    elif isinstance(node, dict):
        if node.get("type") == "plain_text":
            node.setdefault("emoji", True)
        elif node.get("type") == "mrkdwn":
            node.setdefault("verbatim", False)
        for part in node.values():
            _complete_texts(part)


def options(element: Json) -> list[Json]:
    """The options of a menu, also those in groups."""
    return list(element.get("options", [])) + [one for group in element.get("option_groups", []) for one in group["options"]]


def empty(element: Json) -> Any:
    key = HOLDS[element["type"]][0]
    return [] if key.endswith("s") and key != "rich_text_value" else None


def initial(blocks: list[Json], current: Callable[[Json], str | None]) -> Values:
    """What the elements hold when they are first shown. `current` names the conversation that a select defaults to, if it may."""
    held: Values = {}
    for block, element in elements(blocks):
        if element["type"] not in HOLDS:
            continue
        key, first = HOLDS[element["type"]]
        value = copy.deepcopy(element.get(first, empty(element)))
        if element.get("default_to_current_conversation") and (here := current(element)):
            value = [here] if key.endswith("s") else here
        held.setdefault(block["block_id"], {})[element["action_id"]] = {"type": element["type"], key: value}
    return held


def kept(before: Values, after: Values) -> Values:
    """`after`, with what people entered before wherever block id, action id and type are the same."""
    for block_id, actions in after.items():
        for action_id, value in actions.items():
            old = before.get(block_id, {}).get(action_id)
            if old and old["type"] == value["type"]:
                actions[action_id] = old
    return after


def held(values: Values, block: Json, element: Json) -> Any:
    """What one element holds now."""
    key = HOLDS[element["type"]][0]
    return values.get(block["block_id"], {}).get(element["action_id"], {}).get(key, empty(element))


def hold(values: Values, block: Json, element: Json, value: Any) -> None:
    key = HOLDS[element["type"]][0]
    values.setdefault(block["block_id"], {})[element["action_id"]] = {"type": element["type"], key: value}


def client_errors(blocks: list[Json], values: Values) -> dict[str, str]:
    """What Slack's client says under each input before it would send the modal; nothing is sent while there is one."""
    found = {}
    for block, element in elements(blocks):
        if block["type"] == "input":
            value = held(values, block, element)
            if value in (None, "", []):
                if not block.get("optional"):
                    found[block["block_id"]] = REQUIRED
            elif fault := _fault(element, value):
                found[block["block_id"]] = fault
    return found


def _fault(element: Json, value: Any) -> str:
    if isinstance(value, str) and element["type"] == "plain_text_input":
        least, most = element.get("min_length", 0), element.get("max_length", 3000)
        if len(value) < least:
            return f"Must be at least {least} characters long."
        if len(value) > most:
            return f"Must be at most {most} characters long."
    if element["type"] == "email_text_input" and not re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", value):
        return "Please enter a valid email address."
    if element["type"] == "url_text_input" and not re.fullmatch(r"https?://\S+", value):
        return "Please enter a valid URL."
    if element["type"] == "number_input":
        return _number_fault(element, value)
    if isinstance(value, list) and len(value) > element.get("max_selected_items", len(value)):
        return f"Choose at most {element['max_selected_items']}."
    return ""


def _number_fault(element: Json, value: str) -> str:
    if not re.fullmatch(r"-?\d+(\.\d+)?" if element["is_decimal_allowed"] else r"-?\d+", value):
        return "Please enter a valid number."
    if "min_value" in element and float(value) < float(element["min_value"]):
        return f"Must be {element['min_value']} or more."
    if "max_value" in element and float(value) > float(element["max_value"]):
        return f"Must be {element['max_value']} or less."
    return ""

"""The words: tables that must be whole, every text of the app in one file to be reviewed as words, and what a job takes of hands."""

import ast
import inspect
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from bot import access_modal, acts, commands, texts
from bot.blocks import flat
from sandbox.people import Person
from storage.access import STRONGEST_FIRST, TABLE, WEAKEST, Action, Role, Standing
from storage.audit import What
from storage.database import Trouble
from storage.refusals import Barred, ExpiryProblem, NameProblem, NotAllowed, Refusal, WorkspaceRule
from tests.stage import MANIFEST, Stage

HERE = Path(__file__).parent.parent
DOCUMENT = HERE / "docs" / "texts.md"
OPERATORS = (
    "cli", "delivery", "doctor", "environment", "health", "log", "people", "run", "server", "services", "settings", "slack", "socket_mode",
    "sweep", "web", "recipes", "__init__", "__main__",
)  # fmt: skip
"""Modules whose words only an operator reads, or an app."""
GONE = (
    "has an answer for you",
    "An admin can run",
    "I work in channels",
    "Ask an owner of this app",
    "You can see credentials",
    "but you can't",
    "the same for one or many",
    "Only you can see this",
    "It may disappear when you reload",
    "You can: ",
    "There is nothing.",
    "Choose one person or one user group",
    "Something went wrong on our side",
    "as far as the mail servers told",
    "Impact",
    "unless resumed\n",
    "It leaked: delete",
    "Not used yet",
    "read the store",
    "mail server processes",
    "You can look at it",
    "Those who can revoke it have been told",
    "BOT_OWNERS",
    "passdb",
)
"""What was said before, and is said better now."""
JOBS = {
    "Create a credential": (1, 3),
    "Revoke from the message that leaked it": (0, 2),
    "Whose is it?": (1, 0),
    "Give on-call its role": (1, 1),
    "First set-up, from the invitation to the first password": (1, 6),
}
"""What a job takes: typed lines, and clicks to its end (a box that is copied is one)."""


# --- tables ---
def samples(kind: type[Refusal]) -> Iterator[Refusal]:
    """The refusal with everything it can be about."""
    hints = get_type_hints(kind.__init__)
    parameters = [] if kind.__init__ is Refusal.__init__ else list(inspect.signature(kind).parameters)
    choices = [_sample(name, hints.get(name, str)) for name in parameters]
    longest = max((len(some) for some in choices), default=1)
    for number in range(longest):
        yield kind(*(some[number % len(some)] for some in choices))


def _sample(name: str, hint: Any) -> list[Any]:
    if isinstance(hint, type) and issubclass(hint, Enum):
        return list(hint)
    if hint is datetime:
        return [datetime(2026, 11, 25, 22, 37, tzinfo=UTC)]
    if hint is bool:
        return [True, False]
    if name == "action":
        return list(Action)
    if name == "role":
        return [role.value for role in STRONGEST_FIRST]
    if name == "helpers":
        return [["U0ADAM"], []]
    return [{"by": "U0REX", "slug": "acme", "username": "smtp-acme-7k2m9x4q", "closest": None}.get(name, "Relay")]


def refusals(kind: type[Refusal] = Refusal) -> list[type[Refusal]]:
    found = []
    for one in kind.__subclasses__():
        found += refusals(one) if one is WorkspaceRule else [one, *refusals(one)]
    return found


@pytest.mark.parametrize("kind", refusals(), ids=lambda kind: kind.__name__)
def test_every_refusal_says_what_happened(kind: type[Refusal]) -> None:
    for refusal in samples(kind):
        said = flat(texts.sentence(refusal, "/smtp", ["U0OLGA"]))
        assert len(said) > 10
        assert said.rstrip()[-1] in ".?", said
        assert texts.in_field(refusal, "/smtp")


def test_a_refusal_says_what_was_tried_what_it_takes_and_who_can_help() -> None:
    refusal = NotAllowed(Action.CREATE, "Acme", ["U0ADAM"], Role.RESPONDER)
    refusal.what = What.RESUME
    said = texts.sentence(refusal, "/smtp", ["U0OLGA"])
    assert flat(said) == "Resuming needs the writer role in Acme; you are a responder. Ask ."
    assert {"type": "user", "user_id": "U0ADAM"} in said
    refusal.helpers = []
    assert flat(texts.sentence(refusal, "/smtp", ["U0OLGA"])).endswith("Ask , who owns this app.")


@pytest.mark.parametrize(
    ("table", "keys"),
    [
        (acts.ACTS, What),
        (texts.BARRED, Barred),
        (texts.NAMES, NameProblem),
        (texts.EXPIRIES, ExpiryProblem),
        (texts.TROUBLES, Trouble),
        (texts.CAN | texts.ALSO, Action),
        (texts.HELD, [*Role, *Standing]),
        (TABLE, [*Role, *Standing]),
        (access_modal.CAN, Role),
        (dict.fromkeys(STRONGEST_FIRST), [*Role, *Standing]),
    ],
)
def test_a_table_has_a_line_for_everything(table: dict[Any, Any], keys: Any) -> None:
    assert set(table) == set(keys)


def test_the_weakest_role_allows_it_and_the_next_weaker_does_not() -> None:
    roles = [role for role in STRONGEST_FIRST if isinstance(role, Role)]
    for action, weakest in WEAKEST.items():
        assert [role for role in roles if action in TABLE[role]] == roles[: roles.index(weakest) + 1]
    assert set(Action) - set(WEAKEST) == {Action.MAKE_WORKSPACE}


def test_the_hint_and_the_readme_know_the_words() -> None:
    [command] = MANIFEST["features"]["slash_commands"]
    hinted = re.findall(r"[a-z]+", command["usage_hint"])
    assert set(hinted) <= set(commands.GRAMMAR)
    assert len(hinted) == 5
    readme = (HERE / "README.md").read_text()
    told = set(re.findall(r"/smtp ([a-z]+)", readme))
    assert told <= set(commands.GRAMMAR)


# --- every text ---
class Texts(ast.NodeVisitor):
    """The texts of a module in the order of its source, what is filled in in braces."""

    DRAWN = ("line", "say", "foot", "header", "plain", "button", "option", "field", "modal", "notice", "confirm", "copyable")
    UNREAD = re.compile(
        r"^(log\..*|Counter|Gauge|Histogram|\w+Error|compile|get_logger|Field|fullmatch|strptime|strftime|exec_driver_sql)$"
    )

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, text: str) -> None:
        text = " ".join(text.split())
        if text not in ("primary", "danger") and re.search(r"[A-Za-z]{2}", re.sub(r"\{[^}]*\}", "", text)) and text not in self.found:
            self.found.append(text)

    def visit_Call(self, node: ast.Call) -> None:
        name = ast.unparse(node.func)
        if self.UNREAD.match(name):
            return
        if name.rpartition(".")[2] in ("line", "say", "foot"):
            self.add("".join(said(one) for one in node.args))
            for one in [*node.args, *node.keywords]:
                if any(isinstance(inner, ast.Call) and ast.unparse(inner.func) in self.DRAWN for inner in ast.walk(one)):
                    self.visit(one)
            return
        if name.rpartition(".")[2] in self.DRAWN:
            for one in [*node.args[:1], *node.args[3:], *(word.value for word in node.keywords)]:
                if isinstance(one, ast.Constant | ast.JoinedStr) and isinstance(getattr(one, "value", ""), str):
                    self.add(said(one))
        self.generic_visit(node)

    def visit_List(self, node: ast.List) -> None:
        if any(isinstance(one, ast.Constant | ast.JoinedStr) and " " in said(one) for one in node.elts):
            self.add("".join(said(one) for one in node.elts))
        else:
            self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and " " in node.value.strip() and not node.value.startswith(("<!date", "{date")):
            self.add(node.value)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        if " " in said(node).strip():
            self.add(said(node))

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # a docstring
            self.generic_visit(node)


def said(node: ast.AST) -> str:
    """A piece of a text as it is read."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(said(one) for one in values)
        case ast.FormattedValue(value=ast.IfExp() as choice):
            return said(choice)
        case ast.FormattedValue(value=value):
            return f"{{{ast.unparse(value)}}}"
        case ast.IfExp(body=body, orelse=orelse):
            return "/".join(filter(None, (said(body), said(orelse))))
        case ast.Call(func=ast.Name(id=("bold" | "code") as style), args=[text, *_]):
            mark = "**" if style == "bold" else "`"
            return mark + said(text) + mark
        case ast.Call(func=ast.Name(id=("principal" | "people")), args=[who, *_]):
            return f"@{{{ast.unparse(who)}}}"
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return "".join(said(one) for one in parts)
        case ast.Starred(value=value):
            return said(value)
    return f"{{{ast.unparse(node)}}}"


def document() -> str:
    """`docs/texts.md` as the sources say it now."""
    rows = [
        "# Every text",
        "",
        "Made by `tests/test_texts.py` from the sources, so that words are reviewed as words. What is filled in stands in braces.",
        "",
        "| Job | Typed lines | Clicks |",
        "| --- | --- | --- |",
        *(f"| {job} | {lines} | {clicks} |" for job, (lines, clicks) in JOBS.items()),
    ]
    for path in sorted((HERE / "bot").glob("*.py")):
        if path.stem in OPERATORS:
            continue
        found = Texts()
        found.visit(ast.parse(path.read_text()))
        if found.found:
            rows += ["", f"## {path.stem}", "", *(f"- {text}" for text in found.found)]
    return "\n".join([*rows, ""])


def test_every_text_is_in_the_document_and_none_of_the_old_ones() -> None:
    made = document()
    written = DOCUMENT.read_text() if DOCUMENT.exists() else ""
    if made != written:
        DOCUMENT.write_text(made)
        pytest.fail("docs/texts.md was out of date and is written anew: review it, and commit it")
    assert not [old for old in GONE if old in made]


# --- what a job takes ---
class Hands:
    """Counts what somebody does."""

    def __init__(self, person: Person) -> None:
        self.person = person
        self.lines = 0
        self.clicks = 0

    def __getattr__(self, name: str) -> Any:
        if name in ("types", "invites_app"):
            self.lines += 1
        elif name in ("presses", "submits", "closes", "picks", "selects", "chooses", "ticks", "uses_shortcut"):
            self.clicks += 1
        return getattr(self.person, name)

    def copies(self) -> None:
        """The box with the password."""
        self.clicks += 1

    @property
    def took(self) -> tuple[int, int]:
        return self.lines, self.clicks


async def test_what_creating_takes(play: Stage) -> None:
    wanda = Hands(play.wanda)
    await wanda.types(play.mail, "/smtp create Website relay")
    await wanda.sees_modal("New SMTP credential")
    await wanda.submits()
    message = await wanda.sees(": Website relay\n", play.mail)
    wanda.copies()
    await wanda.presses("I've copied it, remove this", message)
    await play.settled()
    assert wanda.view is None
    assert len(await play.passdb()) == 1
    assert wanda.took == JOBS["Create a credential"]


async def test_what_revoking_and_asking_whose_take(play: Stage) -> None:
    password = await play.create(play.wanda, "Relay")
    [credential] = await play.credentials()
    rex = Hands(play.rex)
    await rex.types(play.lobby, f"/smtp whois sasl_username={credential.username}, refused")
    await rex.sees("Relay", play.lobby)
    assert rex.took == JOBS["Whose is it?"]
    rex = Hands(play.rex)
    await rex.uses_shortcut("Revoke leaked credential", await play.mia.posts(play.mail, f"oops {password}"))
    await rex.sees_modal("Relay")
    await rex.submits()
    await rex.sees_modal("Revoked Relay")
    assert rex.took == JOBS["Revoke from the message that leaked it"]


async def test_what_giving_on_call_its_role_takes(play: Stage) -> None:
    adam = Hands(play.adam)
    await adam.types(play.mail, "/smtp access @oncall writer")
    view = await adam.sees_modal("Roles in Acme")
    assert view.values["group 0"]["user_group"]["selected_option"]["text"]["text"] == "@oncall"
    await adam.submits()
    await adam.sees_modal("@oncall  writer")
    assert adam.took == JOBS["Give on-call its role"]
    play.adam.picks("Person", play.mia)
    play.adam.picks("Role", "reader")
    await play.adam.submits()
    await play.adam.sees_modal("@mia  reader")


async def test_what_the_first_set_up_takes(play: Stage) -> None:
    shop = play.slack.add_channel("shop", play.olga, with_bot=False)
    olga = Hands(play.olga)
    await olga.invites_app(shop)
    hello = await olga.sees("[Connect this channel]", shop)
    await olga.presses("Connect this channel", hello)
    await olga.sees_modal("Connect this channel")
    await olga.submits()
    await play.settled()
    await olga.presses("Create the first credential", hello)
    await olga.sees_modal("New SMTP credential")
    olga.fills("Name", "Checkout")
    await olga.submits()
    message = await olga.sees(": Checkout\n", shop)
    olga.copies()
    await olga.presses("I've copied it, remove this", message)
    await play.settled()
    assert len(await play.passdb()) == 1
    assert olga.took == JOBS["First set-up, from the invitation to the first password"]


# --- said to everybody ---
async def test_the_text_of_every_message_is_the_message_without_any_password(play: Stage) -> None:
    password = await play.create(play.wanda, "Relay & <co>")
    for text in ("/smtp", "/smtp list", "/smtp delete nothing", "/smtp whois smtp-acme-00000000", "/smtp audit", "/smtp create"):
        await play.rex.types(play.mail, text)
        await play.adam.types(play.mail, text)
    await play.settled()
    shown = [one for person in (play.wanda, play.rex, play.adam) for one in person.messages() if one.user != person.id]
    assert len(shown) > 10
    for message in shown:
        assert len(message.text) > 20, message.text
        assert password not in message.text
        words = re.findall(r"[A-Za-z]{4,}", " ".join(play.rex.read(message).splitlines()[:1]))
        assert not [word for word in words[:3] if word not in message.text], (message.text, words)
    assert any("Relay &amp; &lt;co&gt;" in one.text for one in shown)

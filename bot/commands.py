"""The words after `/smtp`: one table that dispatches, writes the help and guesses what an unknown word meant.

Typed words only open modals or show something; nothing is created or deleted by text alone.
"""

import difflib
import html
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from slack_bolt.app.async_app import AsyncApp

from bot import access_modal, audit_log, create, delete, listing, revoke, rotate, setup, suspend, texts, whois
from bot.blocks import Block, Piece, actions, bold, button, code, foot, line, lines, people, principal
from bot.codec import OnCredential
from bot.create import CREATE
from bot.delete import OPEN_DELETE
from bot.door import EVERYWHERE, Door, Handler, Request
from bot.listing import SHOW
from bot.services import Services
from bot.setup import OPEN_SETUP
from bot.target import Purpose, choose
from storage import access, credentials, passwords, workspaces
from storage.access import TABLE, Action, Actor, Right, Standing
from storage.audit import What
from storage.database import Transaction
from storage.models import State, Workspace
from storage.names import looks_like_password
from storage.refusals import ChannelNotMapped, ChannelPaused, NoSuchCredential, PersonBarred

WHOIS = "whois"
TEXT_MAX = 4000  # typed characters that are read: 50 usernames, or a line of a log
WORD_SHOWN = 40  # characters of an unknown word
QUOTES = "\"'“”„‟«»‹›‘’‚‛「」"


Run = Callable[[Request, str], Awaitable[None]]
"""With what stands after the word, without quotes around it."""


@dataclass(frozen=True)
class Word:
    run: Run
    arguments: str
    says: str
    needs: Action | None = None


def alone(handler: Handler) -> Run:
    """For the words that nothing stands after."""

    async def run(request: Request, _rest: str) -> None:
        await handler(request)

    return run


WHOLE_WORDS: dict[str, Run] = {"suspend": revoke.open_whole, "resume": revoke.open_resume_all}


def on_credential(word: str, purpose: Purpose) -> Run:
    """For the words that need a name or username."""

    async def run(request: Request, rest: str) -> None:
        if rest.startswith(revoke.WHOLE_PREFIX) and word in WHOLE_WORDS:
            return await WHOLE_WORDS[word](request, rest.removeprefix(revoke.WHOLE_PREFIX).strip())
        if rest:
            return await choose(request, rest, purpose)
        await request.say(["Which one? Type ", code(f"{request.services.command} {word} Website relay"), ", or choose it in the list."])
        return await listing.open_list(request)

    return run


GRAMMAR: dict[str, Word] = {
    "help": Word(alone(lambda request: show_menu(request)), "", "what you can do here, and your role"),
    "create": Word(create.open_modal, "Website relay", "make a credential; you'll see its password once", Action.CREATE),
    "list": Word(listing.typed, "", "newest first; add oldest, or part of a name", Action.LIST),
    "delete": Word(on_credential("delete", delete.DELETING), "Website relay", "delete it; I'll ask you to confirm", Action.DELETE),
    "revoke": Word(revoke.typed, "smtp-acme-7k2m9x4q …", "the same for one or many usernames, from anywhere", Action.DELETE),
    "rotate": Word(
        on_credential("rotate", rotate.ROTATING),
        "Website relay",
        "new password, same username; the old one works a while longer",
        Action.CREATE,
    ),
    "suspend": Word(on_credential("suspend", suspend.SUSPENDING), "Website relay", "stop it for now; it can be resumed", Action.DELETE),
    "resume": Word(on_credential("resume", suspend.RESUMING), "Website relay", "let a suspended one work again", Action.CREATE),
    WHOIS: Word(whois.typed, "smtp-acme-7k2m9x4q", "whose is this username, password or log line?", Action.LIST),
    "setup": Word(alone(setup.open_modal), "", "connect this channel to a mail workspace", Action.ADMINISTER),
    "access": Word(alone(access_modal.open_modal), "", "see, add and remove roles", Action.ADMINISTER),
    "audit": Word(audit_log.typed, "", "the latest events; add a username or @person", Action.ADMINISTER),
}


def register(app: AsyncApp, door: Door, services: Services) -> None:
    app.command(services.command)(door.work(dispatch))


async def dispatch(request: Request) -> None:
    text = html.unescape(request.text)[:TEXT_MAX].strip()
    word, rest = (*text.split(maxsplit=1), "", "")[:2]
    if looks_like_password(text) and word.lower() != WHOIS:
        return await refuse_password(request, text)
    known = GRAMMAR.get(word.lower() or "help")
    if known is None:
        return await show_menu(request, unknown=word[:WORD_SHOWN])
    return await known.run(request, unquote(rest))


def unquote(text: str) -> str:
    """The text without quotes around it, also typographic ones."""
    stripped = text.strip()
    if len(stripped) >= 2 and stripped[0] in QUOTES and stripped[-1] in QUOTES:
        return stripped[1:-1].strip()
    return stripped


async def refuse_password(request: Request, text: str) -> None:
    """A password typed into a command is not used and not repeated; whoever may delete its credential is offered that."""
    says: list[Piece] = ["That looks like an SMTP password, so I didn't use it. If it's real, treat it as leaked."]
    more: list[Block] = []
    found = next((parsed.credential_id for parsed in passwords.find(text) if parsed.credential_id), None)
    if found:
        actor = await request.actor(EVERYWHERE)
        if await request.services.db.read(_may_delete, actor, found):
            value = OnCredential(credential=found, channel=request.channel).encode()
            more.append(actions(button("Revoke it", OPEN_DELETE, value, style="danger")))
    if not more:
        says.append(" Ask an admin of its mail workspace to delete that credential.")
    await request.say(says, *more)


def _may_delete(tx: Transaction, actor: Actor, credential_id: str) -> bool:
    """Whether it is there and the person may delete it."""
    try:
        credential, workspace = credentials.get(tx, credential_id)
    except NoSuchCredential:
        return False
    return credential.state != State.DELETED and Action.DELETE in access.allowed(access.rights(tx, actor, workspace))


async def show_menu(request: Request, unknown: str | None = None) -> None:
    """What the person can do here, their role and how they have it."""
    services = request.services
    workspace: Workspace | None = None
    problem: list[Piece] | None = None
    try:
        workspace = await services.db.read(workspaces.of_channel, services.team, request.in_channel())
    except (ChannelNotMapped, ChannelPaused) as refusal:
        problem = texts.sentence(refusal, services.command)
    actor = await request.actor(workspace, member=True)
    held, admins = await request.read(What.OPEN, actor, _standing, actor, workspace)
    rows: list[Block] = []
    if unknown is not None:
        close = difflib.get_close_matches(unknown.lower(), GRAMMAR, n=1, cutoff=0.5)
        guess: list[Piece] = [" Did you mean ", bold(close[0]), "?"] if close else []
        rows.append(line(f'I don\'t know "{unknown}".', *guess))
    rows += menu(services, workspace, problem, held, admins)
    rows.append(foot(f"Slack team {services.team} · channel {request.channel} · you {request.user} · {texts.ONLY_YOU}"))
    await request.show(rows)


def _standing(tx: Transaction, actor: Actor, workspace: Workspace | None) -> tuple[list[Right], list[str]]:
    """What the person has in the workspace, and who administers it. Raises PersonBarred."""
    if actor.barred:
        raise PersonBarred(actor.barred)
    return access.rights(tx, actor, workspace), access.helpers(tx, actor.team, workspace) if workspace else []


def menu(services: Services, workspace: Workspace | None, problem: list[Piece] | None, held: list[Right], admins: list[str]) -> list[Block]:
    allowed = access.allowed(held)
    buttons = []
    rows: list[Block] = []
    if workspace:
        rows.append(line("This channel manages SMTP credentials in ", bold(workspace.name), ". What would you like to do?"))
        if Action.CREATE in allowed:
            buttons.append(button("Create credential", CREATE, style="primary"))
        if Action.LIST in allowed:
            buttons.append(button("Show credentials", SHOW))
    elif problem:
        rows.append(line(*problem))
    if Action.ADMINISTER in allowed:
        buttons.append(button("Set up this channel", OPEN_SETUP))
    if buttons:
        rows.append(actions(*buttons))
    shown = [(name, word) for name, word in GRAMMAR.items() if word.needs is None or word.needs in allowed]
    rows.append(lines(*([code(f"{services.command} {name} {word.arguments}".strip()), f"  {word.says}"] for name, word in shown)))
    if workspace:
        rows.append(line(*role_sentence(held, workspace, admins)))
    if Action.CREATE in allowed:
        rows.append(line(texts.GONE_PASSWORD))
    return rows


def role_sentence(held: list[Right], workspace: Workspace, admins: list[str]) -> list[Piece]:
    ask: list[Piece] = [" Ask one of its admins for more: ", *people(admins), "."] if admins else []
    if not held:
        return ["You have no role in ", bold(workspace.name), ".", *ask]
    right = held[0]
    can = ", ".join(action.value for action in Action if action in TABLE[right.role])
    how: list[Piece] = []
    if right.via.startswith("S"):
        how = [", through ", principal(right.via)]
    elif right.role is Standing.OWNER:
        how = [", as BOT_OWNERS says"]
    elif right.role is Standing.MEMBER:
        how = [", because you're in its channel"]
    article = "an" if right.role in ("admin", "owner") else "a"
    return [f"You're {article} ", bold(right.role), " of ", bold(workspace.name), *how, f". You can: {can}."]

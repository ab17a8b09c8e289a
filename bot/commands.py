"""The words after `/smtp`: one table that dispatches, writes the help and guesses what an unknown word meant.

Typed words only open modals or show something; nothing is created or deleted by text alone.
"""

from slack_bolt.app.async_app import AsyncApp

from bot import access_modal, audit_log, board, create, delete, listing, revoke, rotate, setup, suspend, whois
from bot.blocks import Block, Piece, actions, bold, button, code, line
from bot.board import Run, Word
from bot.codec import OnCredential, OnWord
from bot.door import EVERYWHERE, Door, Handler, Request
from bot.rotate import OPEN_LEAKED
from bot.services import Services
from bot.target import Purpose, choose, choose_among, open_picker
from storage import access, credentials
from storage.access import Action, Actor
from storage.database import Transaction
from storage.models import Credential, State
from storage.names import looks_like_password
from storage.refusals import ChannelNotMapped, NoSuchWorkspace, NotAChannel, SurfaceOutdated
from storage.typed import command, read

WHOIS = "whois"
SLUGS_NAMED = 10
REVOKED_SHOWN = 5


def alone(handler: Handler) -> Run:
    """For the words that nothing stands after."""

    async def run(request: Request, _rest: str) -> None:
        await handler(request)

    return run


async def help_(request: Request) -> None:
    await board.show(request, GRAMMAR)


async def revoke_(request: Request, rest: str) -> None:
    """Usernames count wherever they stand in what was pasted, also encoded, so it is read as it came."""
    if rest.startswith(revoke.WHOLE_PREFIX):
        return await whole(request, revoke.open_whole, rest)
    await revoke.typed(request, request.text if rest else "")
    return None


async def whois_(request: Request, rest: str) -> None:
    await whois.typed(request, request.text if rest else "")


async def whole(request: Request, run: Run, rest: str) -> None:
    """For `workspace:SLUG`. Whoever mistypes it reads the ones that they administer."""
    try:
        await run(request, rest.removeprefix(revoke.WHOLE_PREFIX).strip())
    except NoSuchWorkspace as refusal:
        actor = await request.actor(EVERYWHERE)
        found = await request.services.db.read(access.visible_workspaces, actor, Action.ADMINISTER, SLUGS_NAMED)
        refusal.known = [one.slug for one in found]
        raise


WHOLE_WORDS: dict[str, Run] = {"suspend": revoke.open_whole, "resume": revoke.open_resume_all}


def on_credential(word: str, purpose: Purpose) -> Run:
    """For the words that need a name or username."""

    async def run(request: Request, rest: str) -> None:
        if rest.startswith(revoke.WHOLE_PREFIX) and word in WHOLE_WORDS:
            return await whole(request, WHOLE_WORDS[word], rest)
        if not rest:
            return await open_picker(request, purpose)
        usernames = read(request.text).usernames
        if len(usernames) > 1 and word == "delete":
            return await revoke.typed(request, request.text)
        if len(usernames) > 1:
            return await choose_among(request, usernames, purpose)
        return await choose(request, usernames[0] if usernames else rest, purpose)

    return run


GRAMMAR: dict[str, Word] = {
    "help": Word(alone(help_), "", "what you can do here, and your role"),
    "create": Word(create.open_modal, "Website relay", "make a credential; you'll see its password once", Action.CREATE),
    "list": Word(listing.typed, "", "newest first; add oldest, or part of a name", Action.LIST),
    "delete": Word(on_credential("delete", delete.DELETING), "Website relay", "delete it; I'll ask you to confirm", Action.DELETE),
    "revoke": Word(revoke_, "smtp-… smtp-…", "stop leaked ones at once, in any channel", Action.DELETE, anywhere=True),
    "rotate": Word(
        on_credential("rotate", rotate.ROTATING),
        "Website relay",
        "new password, same username; the old one works a while longer",
        Action.CREATE,
    ),
    "suspend": Word(on_credential("suspend", suspend.SUSPENDING), "Website relay", "stop it for now; it can be resumed", Action.DELETE),
    "resume": Word(on_credential("resume", suspend.RESUMING), "Website relay", "let a suspended one work again", Action.CREATE),
    WHOIS: Word(whois_, "smtp-acme-7k2m9x4q", "whose is this username, password or log line?", Action.LIST, anywhere=True),
    "setup": Word(alone(setup.open_modal), "", "connect this channel to a mail workspace", Action.ADMINISTER),
    "access": Word(access_modal.typed, "", "see, give and take roles; add @person and a role", Action.ADMINISTER),
    "audit": Word(audit_log.typed, "", "who did what; add a username or @person", Action.ADMINISTER),
}


def register(app: AsyncApp, door: Door, services: Services) -> None:
    app.command(services.command)(door.work(dispatch))
    app.action(board.TYPED)(door.work(meant))
    app.action(board.WHOSE)(door.work(whois.ask))
    for action, listener in board.register(door).items():
        app.action(action)(listener)


async def dispatch(request: Request) -> None:
    word, rest = command(request.text, request.services.command)
    if word != WHOIS and (read(request.text).passwords or looks_like_password(f"{word} {rest}")):
        return await refuse_password(request)
    known = GRAMMAR.get(word or "help")
    if known is None:
        return await board.show(request, GRAMMAR, unknown=word)
    await _run(request, known, rest)
    return None


async def _run(request: Request, known: Word, rest: str) -> None:
    """Where no mail workspace is connected, a word that needs one shows what works there instead."""
    try:
        await known.run(request, rest)
    except (ChannelNotMapped, NotAChannel):
        await board.show(request, GRAMMAR, teaches=False)


async def meant(request: Request) -> None:
    """The button beside "Did you mean …?"."""
    known = GRAMMAR.get(OnWord.decode(request.value).word)
    if known is None:
        raise SurfaceOutdated
    await _run(request, known, "")


async def refuse_password(request: Request) -> None:
    """A password typed into a command is not used and not repeated; whoever may delete its credential is offered that."""
    says: list[Piece] = ["That looks like an SMTP password, so I didn't use it. If it's real, treat it as leaked."]
    more: list[Block] = []
    resolved = await request.services.resolver.resolve(read(request.text).passwords)
    actor = await request.actor(EVERYWHERE)
    theirs = await request.services.db.read(_to_revoke, actor, [one.id for one, _ in resolved])
    for one in theirs[:REVOKED_SHOWN]:
        if one.state == State.DELETED:
            more.append(line(bold(one.name), " was already deleted: nothing is left to do."))
        else:
            value = OnCredential(credential=one.id, channel=request.channel).encode()
            more.append(line(bold(one.name), " (", code(one.username), ")"))
            more.append(actions(button("Revoke it", OPEN_LEAKED, value, style="danger")))
    if not more:
        says.append(" Ask an admin of its mail workspace to revoke that credential.")
    await request.say(says, *more)


def _to_revoke(tx: Transaction, actor: Actor, credential_ids: list[str]) -> list[Credential]:
    """Those that the person may delete, or might have."""
    found = []
    for one in dict.fromkeys(credential_ids):
        credential, workspace = credentials.get(tx, one)
        if Action.DELETE in access.allowed(access.rights(tx, actor, workspace)):
            found.append(credential)
    return found

"""The person's board: what they can do, here and elsewhere, and who can give them more.

`/smtp` shows it in any channel and in the direct message. In a mail channel it is about that channel's mail workspace; elsewhere about
all of the person's.
"""

import difflib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from bot import revoke, texts
from bot.blocks import Block, Piece, actions, bold, button, channel, code, foot, line, lines, people, principal
from bot.codec import OnWord
from bot.create import CREATE
from bot.door import EVERYWHERE, Door, Request
from bot.listing import SHOW
from bot.services import Services
from bot.setup import OPEN_SETUP
from storage import access, workspaces
from storage.access import Action, Actor, Right
from storage.audit import What
from storage.database import Transaction
from storage.models import Workspace
from storage.refusals import ChannelNotMapped, ChannelPaused, NotAChannel, PersonBarred, Refusal

REVOKE_HERE = "board_revoke"
WHOSE = "board_whose"
OPEN_HOME = "board_home"
TYPED = "board_word"
ROLES_SHOWN = 10
ROLES_READ = 500
CHANNELS_SHOWN = 5
WORD_SHOWN = 40  # characters of an unknown word
OWNER = "You're an owner of this app: you may do everything in every mail workspace."

Run = Callable[[Request, str], Awaitable[None]]
"""With what stands after the word, as meant."""


@dataclass(frozen=True)
class Word:
    """A word after the slash command."""

    run: Run
    arguments: str
    says: str
    needs: Action | None = None
    anywhere: bool = False
    """It works on the person's other workspaces from any channel."""


@dataclass(frozen=True)
class Standing:
    """What a person has: in the channel's workspace, or else everywhere."""

    held: list[Right]
    admins: list[str]
    """Who administers the channel's workspace."""
    roles: list[tuple[Workspace, Right]]
    channels: list[str]
    """Some that are connected to those workspaces."""

    @property
    def here(self) -> frozenset[Action]:
        return access.allowed(self.held)

    @property
    def allowed(self) -> frozenset[Action]:
        """Here, and in each workspace in which they have a role."""
        return access.allowed([*self.held, *(right for _, right in self.roles)])


async def open_home(_request: Request) -> None:
    """Slack opens the tab by itself, from the button's address."""


def register(door: Door) -> dict[str, Callable[..., Awaitable[None]]]:
    """The board's own buttons, by action id."""
    return {REVOKE_HERE: door.work(ask_to_revoke), OPEN_HOME: door.work(open_home)}


async def ask_to_revoke(request: Request) -> None:
    await revoke.typed(request, "")


async def show(request: Request, words: Mapping[str, Word], unknown: str | None = None, teaches: bool = True) -> None:
    """Shows the board.

    Args:
        words: what can be typed.
        unknown: the word that was typed and means nothing.
        teaches: whether the words are explained, too.
    """
    services = request.services
    workspace: Workspace | None = None
    problem: Refusal | None = None
    try:
        workspace = await services.db.read(workspaces.of_channel, services.team, request.in_channel())
    except (ChannelNotMapped, ChannelPaused, NotAChannel) as refusal:
        problem = refusal
    actor = await request.actor(EVERYWHERE, member=workspace is not None)
    standing = await request.read(What.OPEN, actor, _standing, actor, workspace)
    rows: list[Block] = []
    if unknown is not None:
        rows += guess(unknown, words)
    if workspace:
        rows += here(workspace, standing)
    else:
        rows += elsewhere(services, problem, standing, str(request.body.get("api_app_id") or ""))
    may = {True: standing.allowed, False: standing.here if workspace else standing.allowed}
    shown = [(name, word) for name, word in words.items() if word.needs is None or word.needs in may[word.anywhere]]
    if not teaches:
        await request.show(rows)
        return
    rows.append(lines(*([code(f"{services.command} {name} {word.arguments}".strip()), f"  {word.says}"] for name, word in shown)))
    if workspace and Action.CREATE in standing.here:
        rows.append(line(texts.GONE_PASSWORD))
    rows.append(foot(f"For support: Slack team {services.team} · channel {request.channel} · you {request.user}"))
    await request.show(rows)


def _standing(tx: Transaction, actor: Actor, workspace: Workspace | None) -> Standing:
    """Raises PersonBarred."""
    if actor.barred:
        raise PersonBarred(actor.barred)
    roles = access.roles(tx, actor, ROLES_READ)
    if workspace is not None:
        return Standing(access.rights(tx, actor, workspace), access.helpers(tx, actor.team, workspace), roles, [])
    channels: list[str] = []
    for one, _ in roles[:CHANNELS_SHOWN]:
        channels += [mapped.channel_id for mapped in workspaces.channels_of(tx, one.id) if not mapped.paused]
    return Standing(access.rights(tx, actor, None), [], roles, channels[:CHANNELS_SHOWN])


def guess(unknown: str, words: Mapping[str, Word]) -> list[Block]:
    said: Piece = f'I don\'t know "{unknown[:WORD_SHOWN]}".'
    close = difflib.get_close_matches(unknown.lower(), words, n=1, cutoff=0.5)
    if not close:
        return [line(said)]
    meant = button(f"Yes, {close[0]}", TYPED, OnWord(word=close[0]).encode(), style="primary")
    return [line(said, " Did you mean ", bold(close[0]), "?"), actions(meant)]


def here(workspace: Workspace, standing: Standing) -> list[Block]:
    """In a mail channel."""
    allowed, buttons = standing.here, []
    if Action.CREATE in allowed:
        buttons.append(button("Create credential", CREATE, style="primary"))
    if Action.LIST in allowed:
        buttons.append(button("Show credentials", SHOW))
    buttons += anywhere(standing.allowed)
    if Action.ADMINISTER in allowed:
        buttons.append(button("Set up this channel", OPEN_SETUP))
    rows = [line("This channel manages SMTP credentials in ", bold(workspace.name), "."), *texts.all_refused(workspace)]
    rows += [actions(*buttons)] if buttons else []
    return [*rows, line(*texts.role_sentence(standing.held, workspace, standing.admins))]


def elsewhere(services: Services, problem: Refusal | None, standing: Standing, app: str) -> list[Block]:
    """Where no mail workspace is connected: what works all the same, by the rights of the person who reads."""
    allowed = standing.allowed
    admin, in_a_channel = Action.ADMINISTER in allowed, not isinstance(problem, NotAChannel)
    said: list[Piece] = []
    if isinstance(problem, ChannelPaused):
        said = [*texts.sentence(problem, services.command), " "]
    elif in_a_channel:
        said = ["This channel isn't connected to a mail workspace yet. " if admin else "This channel has no mail workspace. "]
    if standing.channels:
        said += ["Create and list work in a mail channel: ", *_channels(standing.channels), ". "]
    if not standing.roles and not allowed:
        return [line(*said, "You have no role in any mail workspace.", *no_role(services))]
    buttons = anywhere(allowed)
    if app:
        home = f"slack://app?team={services.team}&id={app}&tab=home"  # docs.slack.dev/interactivity/deep-linking
        buttons.append(button("Open Home", OPEN_HOME, url=home))
    if admin and in_a_channel and not isinstance(problem, ChannelPaused):
        buttons.append(button("Connect this channel", OPEN_SETUP, style="primary"))
    rows = [line(*said, "From here you can:")] if buttons else [line(*said)]
    return [*rows, *([actions(*buttons)] if buttons else []), *(roles(standing.roles) or everywhere(standing.held))]


def everywhere(held: Sequence[Right]) -> list[Block]:
    """What the person is in all mail workspaces, of which there are none yet."""
    if not held:
        return []
    if held[0].role is access.Standing.OWNER:
        return [line(OWNER)]
    return [line("You're ", texts.HELD[held[0].role], " in all mail workspaces.")]


def anywhere(allowed: frozenset[Action]) -> list[Block]:
    """The buttons for what needs no mail channel."""
    made = []
    if Action.DELETE in allowed:
        made.append(button("Revoke…", REVOKE_HERE))
    if Action.LIST in allowed:
        made.append(button("Whose is this?", WHOSE))
    return made


def roles(held: Sequence[tuple[Workspace, Right]]) -> list[Block]:
    """What the person is, in each mail workspace; of many, the first ones."""
    if not held:
        return []
    if all(right.role is access.Standing.OWNER for _, right in held):
        return [line(OWNER)]
    said: list[list[Piece]] = []
    for workspace, right in held[:ROLES_SHOWN]:
        how: list[Piece] = [", through ", principal(right.via)] if right.via.startswith("S") else []
        said.append(["You're ", texts.HELD[right.role], " in ", bold(workspace.name), *how, "."])
    if len(held) > ROLES_SHOWN:
        more = len(held) - ROLES_SHOWN
        said.append([f"And in {more if len(held) < ROLES_READ else f'more than {more}'} more; Home has them all."])
    return [lines(*said)]


def no_role(services: Services) -> list[Piece]:
    if not services.owners:
        return [" An admin of one can give you a role."]
    return [" Ask ", *people(services.owners[: texts.OWNERS_NAMED]), " for one."]


def _channels(ids: Sequence[str]) -> list[Piece]:
    pieces: list[Piece] = []
    for one in ids:
        pieces += [", ", channel(one)]
    return pieces[1:]

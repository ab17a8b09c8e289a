"""What the listeners work with, made once at start and handed to each `register`."""

import secrets
from dataclasses import dataclass, field
from ssl import SSLContext

from bot.delivery import PLACES, WAITING_MAX, Work
from bot.people import ASK_LIMIT, People
from bot.settings import Settings
from bot.slack import LOOKS, Slack
from bot.socket_mode import LAST_WORDS
from storage.database import Database
from storage.leaks import Resolver
from storage.passwords import CROCKFORD, Hasher


@dataclass(frozen=True)
class Limits:
    """How long and how many, all handed in. Seconds, unless said otherwise."""

    acknowledge: float = 2.5
    """Until a modal's submission is answered, inside Slack's 3."""
    question: float = ASK_LIMIT
    """For one question to Slack about a person, a user group or a channel."""
    work: float = 60.0
    """For all that follows an acknowledgement."""
    followed: float = 10.0
    """That a result in a modal is kept up to date as mail servers confirm it."""
    request: float = 5.0
    """For one HTTP request to be whole."""
    report_turn: float = 1.0
    """That a report of leaked passwords waits for those before it."""
    connections: int = 256
    places: int = PLACES
    waiting: int = WAITING_MAX
    stop: float = 25.0
    """That a shutdown waits for work under way."""
    last_words: float = LAST_WORDS
    """That it waits for what Slack has already sent over Socket Mode."""
    health_interval: float = 10.0
    """That an answer of the database is taken for."""
    health_patience: float = 2.0
    """That a question about health waits for the database."""
    ping: float = 10.0
    """Between two pings on the WebSocket."""
    first_pause: float = 0.5
    longest_pause: float = 30.0
    """Between two tries to reach Slack or the database."""
    looks: tuple[float, ...] = LOOKS
    """Before a result is shown over an acknowledgement, and before each further look."""
    looked_up_after: tuple[float, ...] = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
    """Between two tries to write down that somebody must be told an outcome that is not known yet."""


USUAL = Limits()


@dataclass(frozen=True)
class ListMessage:
    """A list that somebody has before them, where a press in it brought a way to draw it anew."""

    response_url: str = field(repr=False)
    channel: str
    place: str
    """How it is sorted and filtered, and where its page begins (`codec.InList`)."""


class Lists:
    """The lists that modals were opened from, by view id. A response_url is kept in memory only: where it is lost, the next press draws."""

    def __init__(self, most: int = 500) -> None:
        self._most = most
        self._kept: dict[str, ListMessage] = {}

    def keep(self, view_id: str, shown: ListMessage) -> None:
        self._kept[view_id] = shown
        while len(self._kept) > self._most:
            del self._kept[next(iter(self._kept))]

    def find(self, view_id: str) -> ListMessage | None:
        return self._kept.get(view_id)


@dataclass
class Services:
    settings: Settings
    db: Database
    hasher: Hasher
    slack: Slack
    people: People
    team: str
    """The Slack team the bot is installed in."""
    work: Work = field(default_factory=Work)
    limits: Limits = field(default_factory=Limits)
    trust: SSLContext | None = None
    """Whose certificates count for webhooks; None: those that the system trusts."""
    lists: Lists = field(default_factory=Lists)
    resolver: Resolver = field(init=False)
    """Whose passwords people paste."""

    def __post_init__(self) -> None:
        self.resolver = Resolver(self.db, self.hasher)

    @property
    def owners(self) -> list[str]:
        """The owners of the app, for those who need somebody to ask."""
        return sorted(self.settings.bot_owners)

    @property
    def command(self) -> str:
        return self.settings.bot_command


def new_reference() -> str:
    """An id for one request, that a person can read out and an admin can search the log for."""
    return "".join(CROCKFORD[byte % 32] for byte in secrets.token_bytes(8))

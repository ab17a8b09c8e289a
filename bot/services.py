"""What the listeners work with, made once at start and handed to each `register`."""

import secrets
from dataclasses import dataclass, field

from bot.delivery import PLACES, WAITING_MAX, Work
from bot.people import ASK_LIMIT, People
from bot.settings import Settings
from bot.slack import LOOKS, Slack
from bot.socket_mode import LAST_WORDS
from storage.database import Database
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
    request: float = 5.0
    """For one HTTP request to be whole."""
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

    @property
    def command(self) -> str:
        return self.settings.bot_command


def new_reference() -> str:
    """An id for one request, that a person can read out and an admin can search the log for."""
    return "".join(secrets.choice(CROCKFORD) for _ in range(8))

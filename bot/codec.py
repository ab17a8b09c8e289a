"""What travels through Slack in a button's `value`, a row's `block_id` and a view's `private_metadata`: record ids and a place in a list,
nothing else.

What comes back is read strictly and looked up again; whoever presses is authorized again.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from storage.access import Role
from storage.audit import What
from storage.listing import Order, Place
from storage.passwords import CROCKFORD
from storage.refusals import SurfaceOutdated
from storage.tidy import Only

WORDS_MAX = 100  # characters of what a list is filtered by
BLOCK_ID_MAX = 255  # docs.slack.dev: reference/block-kit/blocks
CREDENTIAL = rf"^[{CROCKFORD}]{{8}}$"
Channel = Field(default=None, pattern=r"^[CDG][A-Z0-9]{2,30}$")


class Token(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def encode(self) -> str:
        return self.model_dump_json(exclude_none=True)

    @classmethod
    def decode(cls, text: str | None) -> Self:
        """Raises SurfaceOutdated for anything that `encode` of this class did not write."""
        try:
            return cls.model_validate_json(text or "")
        except ValidationError:
            raise SurfaceOutdated from None


class InChannel(Token):
    """A modal, with the channel that it was opened in."""

    channel: str | None = Channel


class OnWord(Token):
    """A word of the slash command."""

    word: str = Field(pattern=r"^[a-z]{1,20}$")


class OnCredential(Token):
    """Something about one credential, with the channel that it was begun in."""

    credential: str = Field(pattern=CREDENTIAL)
    channel: str | None = Channel


class InWhois(OnCredential):
    """One of the credentials that an answer to "whose is this" shows; and all of them, to draw it anew."""

    shown: list[Annotated[str, Field(pattern=CREDENTIAL)]] = Field(min_length=1, max_length=20)
    pasted: list[Annotated[str, Field(pattern=CREDENTIAL)]] = Field(default=[], max_length=20)
    """Those whose password stood in what was asked about."""


class Does(StrEnum):
    """What a row's menu offers."""

    ROTATE = "rotate"
    END_OLD = "end_old"
    SUSPEND = "suspend"
    RESUME = "resume"
    EXTEND = "extend"
    DELETE = "delete"
    OWNER = "owner"
    LIMITS = "limits"
    MORE = "more"


@dataclass(frozen=True)
class InRow:
    """A row of a list: its block's id. An option of its menu carries only what it does."""

    credential: str
    place: str
    """How the list is shown, an `InList`."""

    def encode(self) -> str:
        return f"{self.credential} {self.place}"[:BLOCK_ID_MAX]

    @classmethod
    def decode(cls, text: str) -> Self:
        """Raises SurfaceOutdated."""
        credential, blank, place = text.partition(" ")
        if not blank or not re.fullmatch(CREDENTIAL, credential):
            raise SurfaceOutdated
        return cls(credential, place)


class OnOwner(OnCredential):
    """Whom a credential is given to. `event`: the audit row that says who left, when it is that message's."""

    event: int | None = None


class OnRotation(OnCredential):
    """The rotation modal, with the rotation before it: two people must not rotate one after the other without knowing."""

    mark: int | None = None


class OnMany(Token):
    """Several credentials at once; 50 ids fit into what Slack takes."""

    credentials: list[Annotated[str, Field(pattern=CREDENTIAL)]] = Field(min_length=1, max_length=50)
    channel: str | None = Channel
    leaked: bool = False
    reported: bool = False
    """Those who can revoke the others were told of them."""


class OnSlug(Token):
    """A whole workspace, by its short name."""

    slug: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")
    channel: str | None = Channel


class OnGrant(Token):
    grant: int


class OnAsk(Token):
    """A role that somebody may ask for, and what they were refused."""

    workspace: int
    role: Role
    what: What | None = None
    channel: str | None = Channel


class OnEvent(Token):
    """A row of the audit log."""

    event: int


class OnWorkspace(Token):
    workspace: int
    channel: str | None = Channel
    step: int = 0
    """How often the modal was submitted."""


class InList(Token):
    """A list as it is shown: how it is sorted and filtered, and where its page begins."""

    order: Order
    words: str = Field(default="", max_length=WORDS_MAX)
    credential: str | None = Field(default=None, pattern=CREDENTIAL)
    before: bool = False
    position: int = Field(default=0, ge=0)

    @property
    def place(self) -> Place | None:
        return Place(self.credential, self.before, self.position) if self.credential else None

    @classmethod
    def at(cls, order: Order, words: str, place: Place) -> Self:
        return cls(order=order, words=words, credential=place.credential_id, before=place.before, position=place.position)


class InHome(InList):
    """The Home tab as it is shown: of which workspace (None: the first that the person may see), and where in its list."""

    order: Order = Order.NEWEST
    workspace: int | None = None
    only: Only | None = None


class FromHome(Token):
    """What a modal that was opened in the Home tab carries around its own metadata: how the tab is shown, to draw it anew afterwards."""

    home: InHome
    inside: str


class InAudit(Token):
    """The audit log as it is shown: about whom or what, and older than which row."""

    about: str | None = Field(default=None, max_length=64)
    before: int | None = None

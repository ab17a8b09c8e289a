"""Why something was not done. One class for each cause that a person reads a sentence of its own about; `bot/texts.py` draws them.

`cause` is the word in the audit row. No refusal carries what a person typed further than back to that person.
"""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import ClassVar


class Refusal(Exception):
    cause: ClassVar[str] = "refused"


class Barred(StrEnum):
    """People who are denied outright, whatever the grants say."""

    FOREIGN = "foreign_team"
    GUEST = "guest"
    BOT = "bot"
    DEACTIVATED = "deactivated"


class PersonBarred(Refusal):
    cause = "barred"

    def __init__(self, barred: Barred) -> None:
        super().__init__(barred)
        self.barred = barred


class NotAllowed(Refusal):
    """The person lacks the right; `helpers` (Slack user and user group ids) can do it or grant it."""

    cause = "not_allowed"

    def __init__(self, action: str, workspace: str | None, helpers: Sequence[str], may_list: bool = False) -> None:
        super().__init__(action)
        self.action = action
        self.workspace = workspace
        self.helpers = helpers
        self.may_list = may_list


class RoleUnknown(Refusal):
    """Slack could not be asked who is in a user group, and the answer would decide."""

    cause = "role_unknown"


class ChannelNotMapped(Refusal):
    cause = "channel_not_mapped"


class ChannelPaused(Refusal):
    """The channel is shared with another organization."""

    cause = "channel_shared"


class NotAChannel(Refusal):
    """A direct message, which no workspace is mapped to."""

    cause = "not_a_channel"


class BotNotInChannel(Refusal):
    cause = "bot_not_in_channel"


class NameProblem(StrEnum):
    EMPTY = "empty"
    TOO_LONG = "too_long"
    CHARACTERS = "characters"
    PASSWORD = "password"  # noqa: S105  # the kind of problem, not a password


class NameInvalid(Refusal):
    cause = "name_invalid"

    def __init__(self, problem: NameProblem) -> None:
        super().__init__(problem)
        self.problem = problem


class NameTaken(Refusal):
    cause = "name_taken"

    def __init__(self, name: str, workspace: str) -> None:
        super().__init__()
        self.name = name
        self.workspace = workspace


class SlugInvalid(Refusal):
    cause = "slug_invalid"


class SlugTaken(Refusal):
    cause = "slug_taken"

    def __init__(self, slug: str) -> None:
        super().__init__(slug)
        self.slug = slug


class NoSuchWorkspace(Refusal):
    cause = "no_such_workspace"


class NoSuchCredential(Refusal):
    """Not in this workspace; the same answer when it exists in another one."""

    cause = "no_such_credential"

    def __init__(self, target: str = "", closest: str | None = None) -> None:
        super().__init__()
        self.target = target
        self.closest = closest


class AlreadyDeleted(Refusal):
    cause = "already_deleted"

    def __init__(self, name: str, username: str, by: str, at: datetime) -> None:
        super().__init__(username)
        self.name = name
        self.username = username
        self.by = by
        self.at = at


class AlreadyRequested(Refusal):
    """A second submission of the same modal."""

    cause = "already_requested"


class NoLongerPending(Refusal):
    """The credential was discarded before its password was handed over."""

    cause = "no_longer_pending"


class NoSuchGrant(Refusal):
    cause = "no_such_grant"


class PrincipalInvalid(Refusal):
    cause = "principal_invalid"


class SurfaceOutdated(Refusal):
    """A button or a modal that this release did not write: from before a deploy, or made by hand."""

    cause = "surface_outdated"

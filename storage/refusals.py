"""Why something was not done. One class for each cause that a person reads a sentence of its own about; `bot/texts.py` draws them.

`cause` is the word in the audit row. No refusal carries what a person typed further than back to that person.
"""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import ClassVar


class Refusal(Exception):
    cause: ClassVar[str] = "refused"
    workspace_id: int | None = None
    """The workspace that it is about, where one is known."""


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

    def __init__(self, action: str, workspace: str | None, helpers: Sequence[str], role: str | None = None) -> None:
        super().__init__(action)
        self.action = action
        self.workspace = workspace
        self.helpers = helpers
        self.role = role
        """The strongest that the person has there; whoever has one may list."""


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
    MARKS = "marks"
    USERNAME = "username"
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


class NameTooSimilar(Refusal):
    """Another credential of the workspace has a name that looks the same (`names.skeleton`)."""

    cause = "name_too_similar"

    def __init__(self, name: str, other: str, workspace: str) -> None:
        super().__init__()
        self.name = name
        self.other = other
        self.workspace = workspace


class SlugInvalid(Refusal):
    cause = "slug_invalid"


class SlugTaken(Refusal):
    cause = "slug_taken"

    def __init__(self, slug: str) -> None:
        super().__init__(slug)
        self.slug = slug


class WorkspaceNotEmpty(Refusal):
    cause = "workspace_not_empty"

    def __init__(self, name: str, credentials: bool, channels: bool, grants: bool) -> None:
        super().__init__(name)
        self.name = name
        self.credentials = credentials
        """It has some, if only deleted ones."""
        self.channels = channels
        self.grants = grants


class NoSuchWorkspace(Refusal):
    cause = "no_such_workspace"

    def __init__(self, slug: str = "") -> None:
        super().__init__()
        self.slug = slug
        """As it was typed; empty when it went away meanwhile."""


class WorkspaceSuspended(Refusal):
    """All log-ins of the workspace are refused already."""

    cause = "workspace_suspended"

    def __init__(self, name: str, by: str, at: datetime) -> None:
        super().__init__()
        self.name = name
        self.by = by
        self.at = at


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


class RotationRepeated(Refusal):
    """A second submission of the same rotation modal."""

    cause = "already_requested"


class RotationUnderWay(Refusal):
    """A new password is being handed over right now."""

    cause = "rotation_under_way"

    def __init__(self, name: str, by: str) -> None:
        super().__init__()
        self.name = name
        self.by = by


class RotatedMeanwhile(Refusal):
    """The password was changed after the modal had been opened."""

    cause = "rotated_meanwhile"

    def __init__(self, name: str, by: str, at: datetime) -> None:
        super().__init__()
        self.name = name
        self.by = by
        self.at = at


class RotationEnded(Refusal):
    """The credential was deleted or suspended, or its rotation swept, before the new password was handed over."""

    cause = "rotation_ended"


class NoOldPassword(Refusal):
    """The password before the rotation has already stopped."""

    cause = "no_old_password"

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


class IsSuspended(Refusal):
    cause = "suspended"

    def __init__(self, name: str, username: str, by: str, at: datetime) -> None:
        super().__init__(username)
        self.name = name
        self.username = username
        self.by = by
        self.at = at


class NotSuspended(Refusal):
    cause = "not_suspended"

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


class HasExpired(Refusal):
    cause = "expired"

    def __init__(self, name: str, at: datetime) -> None:
        super().__init__()
        self.name = name
        self.at = at


class ExpiryProblem(StrEnum):
    NO_DATE = "no_date"
    TWO_CHOICES = "two_choices"
    PAST = "past"
    TOO_FAR = "too_far"


class ExpiryInvalid(Refusal):
    cause = "expiry_invalid"

    def __init__(self, problem: ExpiryProblem) -> None:
        super().__init__(problem)
        self.problem = problem


class NotDue(Refusal):
    """What the sweep wanted to do was done or called off meanwhile."""

    cause = "not_due"


class NoSuchGrant(Refusal):
    cause = "no_such_grant"


class PrincipalInvalid(Refusal):
    cause = "principal_invalid"


class SurfaceOutdated(Refusal):
    """A button or a modal that this release did not write: from before a deploy, or made by hand."""

    cause = "surface_outdated"

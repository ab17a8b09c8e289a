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
    """The person lacks the right; `helpers` (Slack user and user group ids) can do it or grant it, or else the owners."""

    cause = "not_allowed"
    what: str | None = None
    """What was tried, as the audit row says it."""

    def __init__(self, action: str, workspace: str | None, helpers: Sequence[str], role: str | None = None) -> None:
        super().__init__(action)
        self.action = action
        self.workspace = workspace
        self.helpers = helpers
        self.role = role
        """The strongest that the person has there; whoever has one may list."""


class HasRole(Refusal):
    """They asked for a role that they have."""

    cause = "has_role"

    def __init__(self, role: str, workspace: str) -> None:
        super().__init__()
        self.role = role
        self.workspace = workspace


class AlreadyAsked(Refusal):
    """For the same role, and nobody has answered yet."""

    cause = "already_asked"

    def __init__(self, at: datetime) -> None:
        super().__init__()
        self.at = at


class AskedTooOften(Refusal):
    cause = "asked_too_often"


class AlreadyAnswered(Refusal):
    """Somebody else answered the request for a role."""

    cause = "already_answered"

    def __init__(self, by: str, at: datetime, given: bool) -> None:
        super().__init__()
        self.by = by
        self.at = at
        self.given = given


class NoSuchRequest(Refusal):
    """No request for a role has this number."""

    cause = "no_such_request"


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
        self.known: Sequence[str] = ()
        """Those that the person could have meant."""


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


class AlreadySuspended(IsSuspended):
    """It was to be suspended."""

    cause = "already_suspended"


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

    def __init__(self, held: Sequence[str] = ()) -> None:
        """held: the roles that the principal has elsewhere, each with its place: "reader of acme"."""
        super().__init__()
        self.held = held


class PrincipalInvalid(Refusal):
    cause = "principal_invalid"


class NumberInvalid(Refusal):
    """The field takes a whole number between two others."""

    cause = "number_invalid"

    def __init__(self, field: str, least: int, most: int) -> None:
        super().__init__(field)
        self.field = field
        self.least = least
        self.most = most


class NetworkProblem(StrEnum):
    NO_ADDRESS = "no_address"
    HOST_NAME = "host_name"
    HOST_BITS = "host_bits"
    PREFIX = "prefix"
    RANGE = "range"
    WILDCARD = "wildcard"
    PORT = "port"
    ZONE = "zone"
    ANYWHERE = "anywhere"
    NO_CLIENT = "no_client"
    TOO_MANY = "too_many"


class NetworkInvalid(Refusal):
    cause = "network_invalid"

    def __init__(self, problem: NetworkProblem, given: str = "", meant: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.given = given
        self.meant = meant
        """What was probably meant."""


class LimitsContradict(Refusal):
    """The limit of an hour is above that of a day."""

    cause = "limits_contradict"

    def __init__(self, field: str) -> None:
        super().__init__(field)
        self.field = field


class DomainProblem(StrEnum):
    NO_DOMAIN = "no_domain"
    ONE_LABEL = "one_label"
    WILDCARD = "wildcard"
    URL = "url"
    MAIL_ADDRESS = "mail_address"
    ADDRESS_LITERAL = "address_literal"
    TOO_MANY = "too_many"


class DomainInvalid(Refusal):
    cause = "domain_invalid"

    def __init__(self, problem: DomainProblem, given: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.given = given


class WebhookProblem(StrEnum):
    NO_URL = "no_url"
    NO_HTTPS = "no_https"
    USER_INFO = "user_info"
    PRIVATE = "private"


class WebhookInvalid(Refusal):
    cause = "webhook_invalid"

    def __init__(self, problem: WebhookProblem) -> None:
        super().__init__(problem)
        self.problem = problem


class WorkspaceRule(Refusal):
    """The workspace's settings forbid it."""

    def __init__(self, workspace: str) -> None:
        super().__init__()
        self.workspace = workspace


class LifeTooLong(WorkspaceRule):
    cause = "life_too_long"

    def __init__(self, workspace: str, days: int) -> None:
        super().__init__(workspace)
        self.days = days


class DeviceNotAllowed(WorkspaceRule):
    cause = "device_not_allowed"


class ReasonRequired(WorkspaceRule):
    cause = "reason_required"


class TooManyLive(WorkspaceRule):
    cause = "too_many_live"

    def __init__(self, workspace: str, most: int) -> None:
        super().__init__(workspace)
        self.most = most


class OwnerGone(Refusal):
    """Who is to own it has left the Slack team, or is no member of it."""

    cause = "owner_gone"


class AlreadyOwned(Refusal):
    """Somebody else was given it meanwhile."""

    cause = "already_owned"

    def __init__(self, name: str, by: str) -> None:
        super().__init__()
        self.name = name
        self.by = by


class TooManyReports(Refusal):
    """The person reported so many leaks in the last hour that this one was not passed on."""

    cause = "too_many_reports"

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most


class SurfaceOutdated(Refusal):
    """A button or a modal that this release did not write: from before a deploy, or made by hand."""

    cause = "surface_outdated"

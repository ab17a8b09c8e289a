"""Every refusal as a sentence: what happened, and what to do next. One case for each; the type checker and a test see to it."""

from collections.abc import Sequence

from bot.acts import ACTS
from bot.blocks import Block, Piece, bold, code, flat, line, people, principal, when
from storage.access import STRONGEST_FIRST, TABLE, WEAKEST, Action, Right, Role, Standing
from storage.audit import What
from storage.database import OutcomeUnknown, Trouble, Unavailable
from storage.listing import Page
from storage.models import Workspace
from storage.names import USERNAME
from storage.refusals import (
    AlreadyAnswered,
    AlreadyAsked,
    AlreadyDeleted,
    AlreadyOwned,
    AlreadyRequested,
    AlreadySuspended,
    AskedTooOften,
    Barred,
    BotNotInChannel,
    ChannelNotMapped,
    ChannelPaused,
    DeviceNotAllowed,
    DomainInvalid,
    DomainProblem,
    ExpiryInvalid,
    ExpiryProblem,
    HasExpired,
    HasRole,
    IsSuspended,
    LifeTooLong,
    LimitsContradict,
    NameInvalid,
    NameProblem,
    NameTaken,
    NameTooSimilar,
    NetworkInvalid,
    NetworkProblem,
    NoLongerPending,
    NoOldPassword,
    NoSuchCredential,
    NoSuchGrant,
    NoSuchRequest,
    NoSuchWorkspace,
    NotAChannel,
    NotAllowed,
    NotDue,
    NotSuspended,
    NumberInvalid,
    OwnerGone,
    PersonBarred,
    PrincipalInvalid,
    ReasonRequired,
    Refusal,
    RoleUnknown,
    RotatedMeanwhile,
    RotationEnded,
    RotationRepeated,
    RotationUnderWay,
    SlugInvalid,
    SlugTaken,
    SurfaceOutdated,
    TooManyLive,
    TooManyReports,
    WebhookInvalid,
    WebhookProblem,
    WorkspaceNotEmpty,
    WorkspaceSuspended,
)

OWNERS_NAMED = 5
GONE_PASSWORD = "Password gone before you copied it? Delete the credential and create a new one. Nobody can recover it."  # noqa: S105

BARRED = {
    Barred.FOREIGN: "This app only works for members of this Slack team. People from other organizations can't use it, "
    "even in shared channels.",
    Barred.GUEST: "Guests can't manage SMTP credentials. Ask a full member of your team.",
    Barred.BOT: "Bots can't manage SMTP credentials. Ask a person to do it.",
    Barred.DEACTIVATED: "This Slack account is deactivated, so it can't manage SMTP credentials. Ask an admin of your Slack team.",
}
NAMES = {
    NameProblem.EMPTY: "Enter a name.",
    NameProblem.TOO_LONG: "Use 64 characters or fewer.",
    NameProblem.CHARACTERS: "Use letters, numbers, spaces and common punctuation. No line breaks, invisible characters or joined emoji.",
    NameProblem.MARKS: "Too many accents on one letter. Use letters with four accents or fewer, each once.",
    NameProblem.USERNAME: "This looks like a username, which people could mistake it for. Enter a name instead.",
    NameProblem.PASSWORD: "This looks like a password. Enter a name instead.",
}
EXPIRIES = {
    ExpiryProblem.NO_DATE: "Choose a date.",
    ExpiryProblem.TWO_CHOICES: "You chose a date too. Choose “On a date”, or clear the date.",
    ExpiryProblem.PAST: "Choose a date in the future.",
    ExpiryProblem.TOO_FAR: "Choose a date within the next ten years, or Never.",
}
CAN = {
    Action.LIST: ("see",),
    Action.CREATE: ("create", "rotate", "resume"),
    Action.DELETE: ("suspend", "delete"),
}
"""What a role lets one do to credentials."""
ALSO = {
    Action.ADMINISTER: "connect channels, give roles and read the audit log",
    Action.MAKE_WORKSPACE: "make mail workspaces",
}
"""And beside them."""
NETWORKS = {
    NetworkProblem.NO_ADDRESS: "is no address. Addresses look like 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32.",
    NetworkProblem.HOST_NAME: "is a name. Enter addresses such as 192.0.2.7: names are not looked up.",
    NetworkProblem.HOST_BITS: "has an address before its /. Did you mean",
    NetworkProblem.PREFIX: "has no size that fits: after the / goes a number from 1 to 32, for IPv6 to 128.",
    NetworkProblem.RANGE: "is a range. Enter networks instead, such as 192.0.2.0/28.",
    NetworkProblem.WILDCARD: "has a wildcard. Enter a network instead, such as 192.0.2.0/24.",
    NetworkProblem.PORT: "has a port or brackets. Enter the address alone.",
    NetworkProblem.ZONE: "names an interface. Enter the address without what follows the %.",
    NetworkProblem.ANYWHERE: "means anywhere. Leave this empty for that.",
    NetworkProblem.NO_CLIENT: "is an address that nobody can log in from.",
    NetworkProblem.TOO_MANY: "Enter 20 addresses or networks, or fewer.",
}
DOMAINS = {
    DomainProblem.NO_DOMAIN: "is no domain. Domains look like example.com.",
    DomainProblem.ONE_LABEL: "has no dot. Enter the whole domain, such as example.com.",
    DomainProblem.WILDCARD: "has a wildcard. Enter each domain by itself.",
    DomainProblem.URL: "is a web address. Enter the domain alone, such as example.com.",
    DomainProblem.MAIL_ADDRESS: "is a mail address. Enter what stands after its @.",
    DomainProblem.ADDRESS_LITERAL: "is an IP address. Enter domains, such as example.com.",
    DomainProblem.TOO_MANY: "Enter 50 domains or fewer.",
}
WEBHOOKS = {
    WebhookProblem.NO_URL: "Enter a whole address, such as https://example.com/hook.",
    WebhookProblem.NO_HTTPS: "Enter an address that begins with https://.",
    WebhookProblem.USER_INFO: "Leave name and password out of the address: what I send is signed instead.",
    WebhookProblem.PRIVATE: "That address leads to this machine or a private network. An operator can allow those: BOT_WEBHOOK_PRIVATE.",
}
HELD: dict[Role | Standing, str] = {
    Standing.OWNER: "an owner of this app",
    Role.ADMIN: "an admin",
    Role.WRITER: "a writer",
    Role.RESPONDER: "a responder",
    Role.READER: "a reader",
    Standing.MEMBER: "only a member of its channel",
}
TROUBLES = {
    Trouble.AWAY: "The database doesn't answer, so nothing was changed. Try again in a minute; from a shell it won't work either.",
    Trouble.LATE: "The database took too long, so nothing was changed. Try again in a minute.",
    Trouble.LOCKED: "Something else holds the database, so nothing was changed. Try again in a minute.",
    Trouble.FULL: "The database's disk is full, so nothing was changed. An operator must make room first, for a shell too.",
    Trouble.READ_ONLY: "The database can't be written now, so nothing was changed. Tell an operator; from a shell it won't work either.",
    Trouble.FORBIDDEN: "The database doesn't let me do that, so nothing was changed. An operator must give my role its rights first.",
    Trouble.REPLACED: "The database's file was replaced while I was running, so nothing was changed. An operator must restart me.",
}


class SlackAway(Exception):
    """Slack did not do what was needed to go on; its word says why."""


class TriggerExpired(Refusal):
    """Slack's 3 seconds for opening a modal were over."""

    cause = "trigger_expired"


class Busy(Refusal):
    """Too much is under way; nothing was begun."""

    cause = "busy"


class ChannelShared(Refusal):
    """The channel cannot be mapped: another organization is in it."""

    cause = "channel_shared"


class NotInChannel(Refusal):
    """The person chose a channel that they are not in."""

    cause = "not_in_channel"


def sentence(refusal: Refusal, command: str, owners: Sequence[str] = ()) -> list[Piece]:
    """The refusal in words.

    Args:
        command: the slash command's name.
        owners: who to ask where a mail workspace has no admins.
    """
    match refusal:
        case PersonBarred():
            return [BARRED[refusal.barred]]
        case NotAllowed():
            return _not_allowed(refusal, owners)
        case HasRole():
            return [f"You have the {refusal.role} role in ", bold(refusal.workspace), " by now. Try again what you were at."]
        case AlreadyAsked():
            return ["You asked already (", when(refusal.at), "), and nobody has answered yet. Ask them directly if it's urgent."]
        case AskedTooOften():
            return ["You asked for several roles today. Wait until tomorrow, or ask an admin directly."]
        case AlreadyAnswered():
            did = "gave it" if refusal.given else "said no"
            return [principal(refusal.by), f" already {did} (", when(refusal.at), "). Nothing changed."]
        case NoSuchRequest():
            return ["That request is no longer there. Nothing changed."]
        case RoleUnknown():
            return ["I can't check your role right now, so I didn't change anything. Try again in a minute."]
        case ChannelNotMapped():
            return ["This channel isn't connected to a mail workspace. In one that is, this works: ", code(command), " tells you where."]
        case ChannelPaused() | ChannelShared():
            return [
                "This channel is shared with another organization, so I don't manage credentials here. "
                "Use a channel that only your Slack team can see."
            ]
        case NotAChannel():
            return [
                "Create and list work in a channel that is connected to a mail workspace. ",
                code(command),
                " tells what you can do here.",
            ]
        case BotNotInChannel():
            return ["Add me to this channel first, then try again: type ", code("/invite @SMTP Credentials"), " here."]
        case NotInChannel():
            return ["You're not in that channel. Join it, or choose one you're in."]
        case NameInvalid():
            return [NAMES[refusal.problem]]
        case NameTaken():
            return [f'"{refusal.name}" is already used in {refusal.workspace}. Choose another name, or delete the old one first.']
        case NameTooSimilar():
            return [f'"{refusal.name}" looks too similar to "{refusal.other}" in {refusal.workspace}. Choose another name.']
        case SlugInvalid():
            return ["Use 1 to 32 of a-z, 0-9 and hyphen, and start with a letter or a digit."]
        case SlugTaken():
            return [f'There already is a workspace "{refusal.slug}". Choose another short name.']
        case WorkspaceNotEmpty():
            if refusal.credentials:
                return [
                    bold(refusal.name),
                    " has or had credentials, and their usernames are never used again, so it stays. Rename it instead.",
                ]
            what = " and ".join([*(["channels"] if refusal.channels else []), *(["roles"] if refusal.grants else [])])
            return [bold(refusal.name), f" still has {what}. Remove them first."]
        case NoSuchWorkspace():
            if refusal.slug:
                known = f" You have: {', '.join(refusal.known)}." if refusal.known else ""
                return [f'There is no mail workspace "{refusal.slug}".{known}']
            return ["That mail workspace is no longer there, so nothing was changed.", *_ask((), owners)]
        case WorkspaceSuspended():
            by, at = principal(refusal.by), when(refusal.at)
            return [bold(refusal.name), " is already suspended by ", by, " (", at, "). Nothing changed."]
        case NoSuchCredential():
            return _not_found(refusal, command)
        case AlreadyDeleted():
            by, at = principal(refusal.by), when(refusal.at)
            return [bold(refusal.name), " (", code(refusal.username), ") was already deleted by ", by, " (", at, "). Nothing changed."]
        case AlreadyRequested():
            return ["This credential was already created. If you didn't get its password, delete it and create a new one."]
        case NoLongerPending():
            return ["That took too long, so the new credential was deleted. If you see a password, it won't work. Try again."]
        case RotationRepeated():
            return ["A new password was already made from this window. If you didn't get it, change the password again."]
        case RotationUnderWay():
            by = principal(refusal.by)
            return ["A new password for ", bold(refusal.name), " is already on its way to ", by, ". Nothing changed. Ask them for it."]
        case RotatedMeanwhile():
            by, at = principal(refusal.by), when(refusal.at)
            return [
                "The password of ",
                bold(refusal.name),
                " was changed meanwhile by ",
                by,
                " (",
                at,
                "). Nothing changed. Ask them for it, or change it again.",
            ]
        case RotationEnded():
            return ["That credential was deleted or suspended meanwhile. If you see a new password, it won't work."]
        case NoOldPassword():
            return ["The old password of ", bold(refusal.name), " has already stopped. Nothing changed."]
        case AlreadySuspended():
            by, at = principal(refusal.by), when(refusal.at)
            name, username = bold(refusal.name), code(refusal.username)
            return [name, " (", username, ") was already suspended, by ", by, " (", at, "). Nothing left to do."]
        case IsSuspended():
            by, at = principal(refusal.by), when(refusal.at)
            return [
                bold(refusal.name),
                " (",
                code(refusal.username),
                ") is suspended, by ",
                by,
                " (",
                at,
                "). Resume it first. Nothing changed.",
            ]
        case NotSuspended():
            return [bold(refusal.name), " isn't suspended. Nothing changed."]
        case HasExpired():
            return [bold(refusal.name), " has expired (", when(refusal.at), "). Extend it first. Nothing changed."]
        case ExpiryInvalid():
            return [EXPIRIES[refusal.problem]]
        case NotDue():
            return ["That was already done. Nothing changed."]
        case NoSuchGrant() if refusal.held:
            return [f"There is no such role. It is {', '.join(refusal.held)}. Nothing changed."]
        case NoSuchGrant():
            return ["That role was already removed. Nothing changed."]
        case PrincipalInvalid():
            return ["Choose a person or a user group of your Slack team."]
        case NetworkInvalid():
            said = NETWORKS[refusal.problem]
            meant = f" {refusal.meant}?" if refusal.meant else ""
            return [f'"{refusal.given[:60]}" {said}{meant}' if refusal.given else said]
        case DomainInvalid():
            said = DOMAINS[refusal.problem]
            return [f'"{refusal.given[:60]}" {said}' if refusal.given and refusal.problem is not DomainProblem.TOO_MANY else said]
        case NumberInvalid():
            return [f"Enter a whole number from {refusal.least} to {refusal.most}, in digits alone, or leave this empty."]
        case LimitsContradict():
            return ["An hour's limit can't be above the day's."]
        case WebhookInvalid():
            return [WEBHOOKS[refusal.problem]]
        case LifeTooLong():
            return [f"Credentials in {refusal.workspace} may live {refusal.days} days at most. Choose an earlier end."]
        case DeviceNotAllowed():
            return [f"Short passwords for devices are not allowed in {refusal.workspace}. An admin can change that."]
        case ReasonRequired():
            return [f"Say why: in {refusal.workspace} deleting and suspending need a reason."]
        case TooManyLive():
            return [f"{refusal.workspace} has {refusal.most} credentials, and may not have more. Delete one that isn't needed first."]
        case OwnerGone():
            return ["Choose somebody who is a member of your Slack team."]
        case AlreadyOwned():
            return [bold(refusal.name), " belongs to ", principal(refusal.by), " now. Nothing changed."]
        case TooManyReports():
            return [
                f"You reported {refusal.most} messages in the last hour, so nobody was told of this one. "
                "If it holds a password, tell an admin yourself, and delete the message if it is yours."
            ]
        case SurfaceOutdated():
            return ["This was made before I was updated, so I can't use it any more. Type ", code(command), " to start again."]
        case TriggerExpired():
            return ["That took too long to open. Try again."]
        case Busy():
            return ["I'm busy with many requests right now, so I did nothing. Try again in a minute."]
    raise TypeError(f"no sentence for {type(refusal).__name__}")


def _not_allowed(refusal: NotAllowed, owners: Sequence[str]) -> list[Piece]:
    action, doing = Action(refusal.action), ACTS[What(refusal.what)].doing if refusal.what else "That"
    ask = _ask(refusal.helpers, owners)
    if action not in WEAKEST or (refusal.workspace is None and not refusal.helpers):
        needed = f"the {WEAKEST[action].value} role in a mail workspace" if action in WEAKEST else "an owner of this app"
        return [f"{doing} takes {needed}.", *ask]
    where: list[Piece] = [" in ", bold(refusal.workspace)] if refusal.workspace else [" in all mail workspaces"]
    yours = f"you are {HELD[held(refusal.role)]}" if refusal.role else "you have no role there"
    return [f"{doing} needs the {WEAKEST[action].value} role", *where, f"; {yours}.", *ask]


def _ask(helpers: Sequence[str], owners: Sequence[str]) -> list[Piece]:
    if helpers:
        return [" Ask ", *people(helpers), "."]
    if owners:
        return [" Ask ", *people(owners[:OWNERS_NAMED]), f", who own{'s' if len(owners) == 1 else ''} this app."]
    return [" Ask whoever runs this app."]


def in_field(refusal: Refusal, command: str) -> str:
    """The refusal as plain text, for the error under a modal's input, where Slack draws no mentions."""
    if isinstance(refusal, NotAllowed):
        whom = f"an admin of {refusal.workspace}" if refusal.workspace else "an owner of this app"
        said = flat(_not_allowed(refusal, ())).partition(" Ask ")[0]
        return f"{said} Ask {whom}."
    return flat(sentence(refusal, command))


def held(role: str) -> Role | Standing:
    """The role or standing with this name."""
    return next(one for one in STRONGEST_FIRST if one.value == role)


def all_refused(workspace: Workspace) -> list[Block]:
    """What stands with whatever else says that a credential works: nothing, unless all of its mail workspace is suspended."""
    if workspace.suspended_at is None:
        return []
    by, at = principal(workspace.suspended_by or ""), when(workspace.suspended_at)
    return [
        line(
            bold(workspace.name),
            " is suspended, by ",
            by,
            " (",
            at,
            "). Mail servers refuse all its credentials until an admin resumes it.",
        )
    ]


def role_sentence(held: Sequence[Right], workspace: Workspace, admins: Sequence[str]) -> list[Piece]:
    """What a person is in the workspace, how they came to it, and what it lets them do."""
    ask: list[Piece] = [" Ask ", *people(admins), " for more."] if admins else []
    if not held:
        return ["You have no role in ", bold(workspace.name), ".", *ask]
    right = held[0]
    how: list[Piece] = [", through ", principal(right.via)] if right.via.startswith("S") else []
    allowed = TABLE[right.role]
    verbs = [verb for action, some in CAN.items() if action in allowed for verb in some]
    more = [words for action, words in ALSO.items() if action in allowed]
    what = f"{_and(verbs)} credentials" if len(verbs) > 1 else "see its credentials"
    can = f": you can {what}{', ' + _and(more) if more else ''}."
    return ["You're ", HELD[right.role], " in ", bold(workspace.name), *how, can, *(ask if Action.CREATE not in allowed else [])]


def _and(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def _not_found(refusal: NoSuchCredential, command: str) -> list[Piece]:
    look: list[Piece] = [" Check ", code(f"{command} list"), "."]
    if not refusal.target:
        return ["That credential isn't there any more. Nothing changed.", *look]
    if USERNAME.fullmatch(refusal.target.lower()):
        return ["I couldn't find ", code(refusal.target), " among the credentials that you can see. Check the username."]
    found: list[Piece] = [f'I couldn\'t find "{refusal.target}" in this workspace.']
    if refusal.closest:
        return [*found, " Did you mean ", bold(refusal.closest), "?"]
    return [*found, *look]


def failure(error: Exception, reference: str) -> list[Piece]:
    """For what is no refusal: the database's or Slack's trouble, or a fault of ours."""
    match error:
        case Unavailable():
            return [TROUBLES[error.trouble]]
        case OutcomeUnknown():
            return ["I don't know yet whether that was done; I'll tell you here in a minute."]
        case SlackAway():
            return ["Slack didn't answer as it should, so nothing was changed. Try again in a minute. Reference: ", code(reference)]
    return unexpected(reference)


def unexpected(reference: str) -> list[Piece]:
    return [
        "Something went wrong on my side. Check the list before you try again. "
        "If it keeps happening, share this reference with your admin: ",
        code(reference),
    ]


def total(page: Page) -> str:
    """How many rows there are of which the page shows some."""
    return f"more than {page.total:,}" if page.uncounted else f"{page.total:,}"

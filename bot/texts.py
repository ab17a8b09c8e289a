"""Every refusal as a sentence: what happened, and what to do next. One case for each; the type checker and a test see to it."""

from bot.blocks import Piece, bold, code, people, principal, when
from storage.access import Action
from storage.audit import What
from storage.database import OutcomeUnknown, Trouble, Unavailable
from storage.refusals import (
    AlreadyDeleted,
    AlreadyRequested,
    Barred,
    BotNotInChannel,
    ChannelNotMapped,
    ChannelPaused,
    ExpiryInvalid,
    ExpiryProblem,
    HasExpired,
    IsSuspended,
    NameInvalid,
    NameProblem,
    NameTaken,
    NameTooSimilar,
    NoLongerPending,
    NoOldPassword,
    NoSuchCredential,
    NoSuchGrant,
    NoSuchWorkspace,
    NotAChannel,
    NotAllowed,
    NotDue,
    NotSuspended,
    PersonBarred,
    PrincipalInvalid,
    Refusal,
    RoleUnknown,
    RotatedMeanwhile,
    RotationEnded,
    RotationRepeated,
    RotationUnderWay,
    SlugInvalid,
    SlugTaken,
    SurfaceOutdated,
    TooManyReports,
    WorkspaceSuspended,
)

ONLY_YOU = "Only you can see this."
GONE_PASSWORD = "Password gone before you copied it? Delete the credential and create a new one. Nobody can recover it."  # noqa: S105
SUMMARY = "SMTP Credentials has an answer for you."

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
    ExpiryProblem.TWO_CHOICES: "Choose either a number of days or a date.",
    ExpiryProblem.PAST: "Choose a date in the future.",
    ExpiryProblem.TOO_FAR: "Choose a date within the next ten years, or Never.",
}
DOING = {
    Action.LIST: "see credentials",
    Action.DELETE: "delete credentials",
    Action.CREATE: "create credentials",
    Action.ADMINISTER: "manage access, channels or the audit log",
    Action.MAKE_WORKSPACE: "do that for all workspaces",
}


DONE = {
    What.CREATE: "Made",
    What.ACTIVATE: "Made, and its password works",
    What.DELETE: "Deleted",
    What.ROTATE: "A new password was begun for",
    What.FINISH_ROTATION: "The new password works",
    What.END_PREVIOUS: "The old password was ended",
    What.SUSPEND: "Suspended",
    What.RESUME: "Resumed",
    What.SUSPEND_ALL: "The workspace was suspended",
    What.RESUME_ALL: "The workspace was resumed",
    What.REVOKE_ALL: "The workspace was suspended, and its credentials are being deleted",
    What.EXPIRY: "Its expiry was changed",
    What.GRANT: "The role was given",
    What.UNGRANT: "The role was taken away",
    What.MAP_CHANNEL: "The channel was connected",
    What.UNMAP_CHANNEL: "The channel was disconnected",
    What.MAKE_WORKSPACE: "The mail workspace was made",
    What.QUEUE: "The mail servers were told what to do with its queued mail",
}
TROUBLES = {
    Trouble.AWAY: "The database doesn't answer, so nothing was changed. Try again in a minute; from a shell it won't work either.",
    Trouble.LATE: "The database took too long, so nothing was changed. Try again in a minute.",
    Trouble.LOCKED: "Something else holds the database, so nothing was changed. Try again in a minute.",
    Trouble.FULL: "The database's disk is full, so nothing was changed. An operator must make room first, for a shell too.",
    Trouble.READ_ONLY: "The database can't be written now, so nothing was changed. Tell an operator; from a shell it won't work either.",
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


def sentence(refusal: Refusal, command: str) -> list[Piece]:
    """The refusal in words. `command` is the slash command's name."""
    match refusal:
        case PersonBarred():
            return [BARRED[refusal.barred]]
        case NotAllowed():
            return _not_allowed(refusal)
        case RoleUnknown():
            return ["I can't check your role right now, so I didn't change anything. Try again in a minute."]
        case ChannelNotMapped():
            return ["This channel isn't connected to a mail workspace yet. An admin can run ", code(f"{command} setup"), " here."]
        case ChannelPaused() | ChannelShared():
            return [
                "This channel is shared with another organization, so I don't manage credentials here. "
                "Use a channel that only your Slack team can see."
            ]
        case NotAChannel():
            return ["I work in channels, because each one is connected to a mail workspace. Try again in one."]
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
        case NoSuchWorkspace():
            if refusal.slug:
                return [f'There is no mail workspace "{refusal.slug}".']
            return ["That mail workspace is no longer there, so nothing was changed. Ask an owner of this app."]
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
                " on ",
                at,
                ". Nothing changed. Ask them for it, or change it again.",
            ]
        case RotationEnded():
            return ["That credential was deleted or suspended meanwhile. If you see a new password, it won't work."]
        case NoOldPassword():
            return ["The old password of ", bold(refusal.name), " has already stopped. Nothing changed."]
        case IsSuspended():
            by, at = principal(refusal.by), when(refusal.at)
            return [bold(refusal.name), " (", code(refusal.username), ") is suspended, by ", by, " (", at, "). Nothing changed."]
        case NotSuspended():
            return [bold(refusal.name), " isn't suspended. Nothing changed."]
        case HasExpired():
            return [bold(refusal.name), " expired on ", when(refusal.at), ". Extend it first. Nothing changed."]
        case ExpiryInvalid():
            return [EXPIRIES[refusal.problem]]
        case NotDue():
            return ["That was already done. Nothing changed."]
        case NoSuchGrant():
            return ["That role was already removed. Nothing changed."]
        case PrincipalInvalid():
            return ["Choose one person or one user group."]
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


def _not_allowed(refusal: NotAllowed) -> list[Piece]:
    doing = DOING[Action(refusal.action)]
    where: list[Piece] = [" in ", bold(refusal.workspace)] if refusal.workspace else []
    start: list[Piece] = ["You can see credentials", *where, ", but you can't ", doing, "."] if refusal.role and where else []
    start = start or ["You can't ", doing, *where, "."]
    if refusal.helpers:
        return [*start, " Ask one of its admins: ", *people(refusal.helpers), "."]
    return [*start, " Ask an owner of this app."]


def _not_found(refusal: NoSuchCredential, command: str) -> list[Piece]:
    look: list[Piece] = [" Check ", code(f"{command} list"), "."]
    if not refusal.target:
        return ["That credential isn't there any more. Nothing changed.", *look]
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
        "Something went wrong on our side. Check the list before you try again. "
        "If it keeps happening, share this reference with your admin: ",
        code(reference),
    ]

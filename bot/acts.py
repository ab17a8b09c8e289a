"""Every act in words: as a refusal names it, and as the audit log tells it."""

from typing import NamedTuple

from storage.audit import REVOKED, What
from storage.models import AuditEvent


class Act(NamedTuple):
    doing: str
    """Begins a sentence: "Resuming" needs the writer role."""
    done: str
    """After who did it: @rex "resumed"."""
    tried: str
    """After who was refused it: @rex tried to "resume"."""


ACTS: dict[What, Act] = {
    What.CREATE: Act("Creating", "began to create", "create"),
    What.ACTIVATE: Act("Creating", "created", "create"),
    What.DISCARD: Act("Discarding", "discarded, because its password was not surely shown,", "discard"),
    What.DELETE: Act("Deleting", "deleted", "delete"),
    What.ROTATE: Act("Rotating", "began to rotate the password of", "rotate the password of"),
    What.FINISH_ROTATION: Act("Rotating", "rotated the password of", "finish rotating the password of"),
    What.CANCEL_ROTATION: Act("Rotating", "called off the new password of", "call off the new password of"),
    What.END_PREVIOUS: Act("Ending the old password", "ended the old password of", "end the old password of"),
    What.SUSPEND: Act("Suspending", "suspended", "suspend"),
    What.RESUME: Act("Resuming", "resumed", "resume"),
    What.SUSPEND_ALL: Act("Suspending all", "suspended all credentials", "suspend all credentials"),
    What.RESUME_ALL: Act("Resuming all", "resumed all credentials", "resume all credentials"),
    What.REVOKE_ALL: Act("Revoking all", "revoked all credentials", "revoke all credentials"),
    What.EXPIRY: Act("Changing the expiry", "changed the expiry of", "change the expiry of"),
    What.REMIND: Act("Reminding", "reminded of the expiry of", "remind of the expiry of"),
    What.LEAK: Act("Reporting a leak", "posted the password of", "report the leak of"),
    What.REPORT: Act("Reporting a leak", "reported a leak of", "report a leak of"),
    What.LEAK_GONE: Act("Following a leak", "saw that a message no longer holds the password of", "follow the leak of"),
    What.LIST: Act("Seeing the list", "listed", "see the list"),
    What.OPEN: Act("Seeing that", "opened", "see more than they may"),
    What.LOOK_UP: Act("Looking up", "looked up", "look up"),
    What.MAKE_WORKSPACE: Act("Making a mail workspace", "made the mail workspace", "make the mail workspace"),
    What.CHANGE_WORKSPACE: Act("Changing a mail workspace", "changed the mail workspace", "change the mail workspace"),
    What.REMOVE_WORKSPACE: Act("Removing a mail workspace", "removed the mail workspace", "remove the mail workspace"),
    What.MAP_CHANNEL: Act("Connecting a channel", "connected", "connect"),
    What.UNMAP_CHANNEL: Act("Disconnecting a channel", "disconnected", "disconnect"),
    What.PAUSE_CHANNEL: Act("Pausing a channel", "shared with another organization", "share"),
    What.RESUME_CHANNEL: Act("Resuming a channel", "shared no more with another organization", "stop sharing"),
    What.MOVE_CHANNEL: Act("Following a channel", "gave a channel another id:", "give a channel another id:"),
    What.NOTICES: Act("Changing the channel notes", "changed which notes the channels get", "change which notes the channels get"),
    What.GRANT: Act("Giving roles", "gave a role:", "give a role:"),
    What.UNGRANT: Act("Taking roles away", "took a role away:", "take a role away:"),
    What.ASK: Act("Asking for a role", "asked for a role:", "ask for a role:"),
    What.DECLINE: Act("Declining a role", "declined a role:", "decline a role:"),
    What.LEFT: Act("Leaving", "left the Slack team", "leave the Slack team"),
    What.OWNER: Act("Changing the owner", "changed the owner of", "change the owner of"),
    What.LIMITS: Act("Changing limits", "changed the limits of", "change the limits of"),
    What.KEEP: Act("Keeping it", "said that it is still needed:", "keep"),
    What.QUEUE: Act("Ordering the mail queue", "gave an order about the queued mail of", "give an order about the queued mail of"),
    What.UNTOLD: Act("Telling", "could not be told something:", "tell"),
    What.WENT_BACK: Act("Watching the database", "found that the database went back in time", "watch the database"),
    What.REPLAY: Act("Revoking again", "revoked again after a restore:", "revoke again after a restore:"),
}
REVOKING = Act("Revoking", "revoked", "revoke")


def act_of(event: AuditEvent) -> Act:
    """The words for what an audit row tells."""
    return REVOKING if event.action == What.DELETE and event.subject == REVOKED else ACTS[What(event.action)]


LEAKS = {
    "live": " (it worked)",
    "previous": " (the old one, which still worked)",
    "dead": " (it no longer worked)",
    "unknown": " (only its username was in it)",
    "deleted": " (it was deleted)",
    "edited": " (it was edited)",
}
"""What the row of a leak says of it."""
CAUSES = {
    "not_allowed": "not allowed",
    "barred": "people of this kind may not",
    "role_unknown": "Slack didn't tell their role",
    "already_deleted": "it was already deleted",
    "already_suspended": "it was already suspended",
    "already_owned": "somebody else was given it",
    "no_such_credential": "there is none",
    "name_taken": "the name is taken",
    "name_too_similar": "the name is too similar to another",
    "channel_not_mapped": "the channel isn't connected",
    "channel_shared": "the channel is shared with another organization",
    "already_requested": "it was submitted twice",
    "no_longer_pending": "it took too long",
    "rotation_under_way": "a new password was already on its way",
    "rotated_meanwhile": "the password was changed meanwhile",
    "rotation_ended": "it was ended meanwhile",
    "no_old_password": "the old password had stopped",
    "suspended": "it is suspended",
    "not_suspended": "it isn't suspended",
    "expired": "it has expired",
    "workspace_suspended": "the mail workspace is suspended",
    "no_such_workspace": "there is no such mail workspace",
    "slug_taken": "the short name is taken",
    "no_such_grant": "the role was already removed",
    "not_due": "it was already done",
    "already_answered": "somebody had already answered",
    "already_asked": "they had already asked",
    "has_role": "they have it",
    "no_such_request": "there is no such request",
    "asked_too_often": "they asked too often",
}
"""Why an attempt was refused, by the word in its audit row; another word is shown as it is, with blanks."""


def why(cause: str | None) -> str:
    return CAUSES.get(cause or "", (cause or "refused").replace("_", " "))

"""Messages that nobody asked for, drawn when they are sent: to a channel about its credentials, to a person when something ended badly.

`bot/errands.py` sends them; each is a pure function of what the store says then.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from bot import impact
from bot.acts import ACTS, act_of
from bot.blocks import Block, Piece, actions, bold, button, code, foot, in_words, line, lines, principal, when
from bot.codec import OnCredential
from bot.new_password import what_to_do
from bot.suspend import OPEN_RESUME, OPEN_SUSPEND
from bot.texts import all_refused
from storage.audit import Again, Surface, What
from storage.credentials import Suspension
from storage.errands import AWAKE, BURST
from storage.lifecycle import has_expired
from storage.mail_servers import Traffic
from storage.models import AuditEvent, Credential, State, Workspace

NAMED_MAX = 20  # credentials in one message
LIMITS = {
    "messages_hour": "its limit of messages an hour",
    "messages_day": "its limit of messages a day",
    "recipients_hour": "its limit of recipients an hour",
    "recipients_day": "its limit of recipients a day",
}
UNUSUAL = {
    BURST: " sends ten times as much as usual.",
    AWAKE: " sends much, and sent nothing in the day before.",
}
AGAIN = {
    Again.DELETED: ("revoked again", "Apps using {} can no longer send mail."),
    Again.SUSPENDED: ("suspended again", "Apps using {0} can't send mail until a writer resumes {0}."),
    Again.PASSWORD: ("ended again an old password of", "An app that can't log in now needs a new password: rotate it."),
}
"""What was done, and what follows."""
UNFINISHED = (
    (What.CREATE, {What.ACTIVATE}, "No password was made. I'll delete the credential in a few minutes; create it again then."),
    (What.ROTATE, {What.FINISH_ROTATION}, "No new password was made; the old one still works. Rotate it again in a few minutes."),
)
"""What no password was made for because the outcome of its first step was not known: no password can come of it any more."""


def message(rows: list[Block], *feet: str) -> dict[str, Any]:
    return in_words([*rows, *(foot(one) for one in feet)])


def about_change(events: Sequence[AuditEvent], changed: Sequence[Credential], workspace: Workspace) -> list[Block] | None:
    """What a channel reads of a change; None when there is nothing left to tell."""
    event = events[0]
    by = principal(event.user_id)
    match What(event.action):
        case What.ACTIVATE:
            rows = [line(principal(changed[0].created_by), " created ", *_named(changed[0], workspace))]
        case What.DELETE if event.surface == Surface.SWEEP:
            suspended_by = principal(changed[0].suspended_by or "")
            rows = [
                line("Deleted, because ", suspended_by, " suspended it and nobody resumed it in time: ", *_named(changed[0], workspace)),
                line("Apps using it can no longer send mail. Update the connected system before sending resumes."),
            ]
        case What.DELETE:
            rows = _deleted(by, act_of(event).done, changed, workspace)
        case What.FINISH_ROTATION:
            rows = [line(principal(changed[0].rotation_by or event.user_id), " rotated the password of ", *_named(changed[0], workspace))]
            if changed[0].previous_until:
                rows.append(line("The old password works until ", when(changed[0].previous_until), ". Enter the new one before."))
            else:
                rows.append(line("The old password no longer works. Enter the new one before sending resumes."))
            rows += all_refused(workspace)
        case What.RESUME:
            rows = [line(by, " resumed ", *_named(changed[0], workspace), " ", *_works_again(changed[0], workspace, event.at))]
        case What.SUSPEND_ALL:
            rows = [
                line(by, " suspended all SMTP credentials in ", bold(workspace.name), "."),
                line("No app can send mail through it until an admin resumes it."),
            ]
        case What.RESUME_ALL:
            rows = [line(by, " resumed the SMTP credentials in ", bold(workspace.name), ". They work again with the same passwords.")]
            rows.append(line("Those that are suspended one by one, or have expired, stay refused."))
        case What.REVOKE_ALL:
            rows = [
                line(by, f" revoked all {event.subject} SMTP credentials in ", bold(workspace.name), "."),
                line("Apps using them can no longer send mail. Update the connected systems before sending resumes."),
            ]
        case What.REPLAY if event.subject == Again.ALL_SUSPENDED:
            rows = [
                line(by, " suspended all SMTP credentials in ", bold(workspace.name), " again: a restore of the database had undone it."),
                line("No app can send mail through it until an admin resumes it."),
            ]
        case What.REPLAY:
            rows = _again(by, Again(event.subject or ""), changed, workspace)
        case _:
            return None
    if event.reason and event.surface != Surface.SWEEP:
        rows.append(line("Reason: ", event.reason))
    return rows


def suspension(drawn: Suspension) -> list[Block]:
    """What a channel reads of a suspension, and of what became of it."""
    event, credential, last = drawn.event, drawn.credential, drawn.last
    rows = [line(principal(event.user_id), " suspended ", *_named(credential, drawn.workspace))]
    if event.reason:
        rows.append(line("Reason: ", event.reason))
    if last is not None:
        match What(last.action):
            case What.RESUME:
                return [*rows, line(*_by(last), ". ", *_works_again(credential, drawn.workspace, last.at))]
            case What.DELETE:
                return [*rows, line(*_by(last), ".")]
            case _:
                rows.append(line("It was resumed meanwhile; ", *_by(last, " again"), "."))
    rows.append(line("Apps using it can't send mail until a writer resumes it."))
    if credential.delete_at:
        rows.append(line("It will be deleted unless somebody resumes it by ", when(credential.delete_at), "."))
    return [*rows, actions(button("Resume…", OPEN_RESUME, OnCredential(credential=credential.id).encode()))]


def _works_again(credential: Credential, workspace: Workspace, now: datetime) -> list[Piece]:
    if workspace.suspended_at is not None:
        return ["All of ", bold(workspace.name), " is suspended, so mail servers refuse it until an admin resumes that."]
    if has_expired(credential, now):
        return ["It has expired, so mail servers refuse it until somebody extends it."]
    return ["It works again with the same password."]


def _by(last: AuditEvent, again: str = "") -> list[Piece]:
    """Such as "@rex suspended it (today at 3:12 PM)"."""
    at: list[Piece] = [" (", when(last.at), ")"]
    if last.action == What.DELETE and last.surface == Surface.SWEEP:
        return ["It was deleted, because nobody resumed it in time", *at]
    return [principal(last.user_id), f" {act_of(last).done} it{again}", *at]


def _deleted(by: Piece, done: str, gone: Sequence[Credential], workspace: Workspace) -> list[Block]:
    """One message, however many one person deleted at once. `done`: deleted, or revoked."""
    they = "it" if len(gone) == 1 else "them"
    told = line(f"Apps using {they} can no longer send mail. Update the connected system before sending resumes.")
    return [*_all_named([by, f" {done} "], gone, workspace), told]


def _again(by: Piece, what: Again, changed: Sequence[Credential], workspace: Workspace) -> list[Block]:
    """What a restore of the database had undone, and somebody did again."""
    done, then = AGAIN[what]
    rows = _all_named([by, f" {done} "], changed, workspace)
    return [*rows, line("A restore of the database had undone that. ", then.format("it" if len(changed) == 1 else "them"))]


def _all_named(begins: list[Piece], several: Sequence[Credential], workspace: Workspace) -> list[Block]:
    """A sentence about one, or about several with a list of them."""
    if len(several) == 1:
        return [line(*begins, *_named(several[0], workspace))]
    rows = [line(*begins, f"{len(several)} SMTP credentials in ", bold(workspace.name), ":")]
    rows.append(lines(*([bold(one.name), " (", code(one.username), ")"] for one in several[:NAMED_MAX])))
    if len(several) > NAMED_MAX:
        rows.append(line(f"And {len(several) - NAMED_MAX} more; the audit log has them all."))
    return rows


def discarded(credential: Credential, event: AuditEvent, channel: str) -> list[Block]:
    """For the requester of a credential whose password was not, or not surely, shown."""
    reason, _, cause = (event.reason or "").partition(": ")
    about: list[Piece] = ["The new SMTP credential ", bold(credential.name), ": "]
    if reason == "left pending":
        return [
            line(
                "I was interrupted while creating the SMTP credential ",
                bold(credential.name),
                ", so I deleted it. If you see a password for it, it won't work. Create it again.",
            )
        ]
    if reason == "not handed over":
        said = "I couldn't send you the password, so I deleted the new credential. Nothing was left behind. "
        return [line(*about, said, *what_to_do(cause, channel))]
    return [
        line(
            *about,
            "I couldn't make sure that your password message arrived, so I deleted the new credential. "
            "If you see a password, it won't work. Try again.",
        )
    ]


def not_rotated(credential: Credential, event: AuditEvent, channel: str) -> list[Block]:
    """For the requester of a rotation whose password was not, or not surely, shown."""
    reason, _, cause = (event.reason or "").partition(": ")
    if reason == "left on its way":
        return [
            line(
                "I was interrupted while rotating the password of ",
                bold(credential.name),
                ", so nothing changed. If you see a new password for it, it won't work; the old one still does. Rotate it again.",
            )
        ]
    about: list[Piece] = [bold(credential.name), ": "]
    if reason == "not handed over":
        said = "I couldn't send you the new password, so nothing changed. The old one still works. "
        return [line(*about, said, *what_to_do(cause, channel))]
    return [
        line(
            *about,
            "I couldn't make sure that your password message arrived, so nothing changed. "
            "If you see a new password, it won't work; the old one still does. Try again.",
        )
    ]


def outcome(done: Sequence[AuditEvent], named: dict[str, str]) -> list[Block]:
    """For whoever was told that the outcome was not known yet. `named`: the names of credentials, by id."""
    did = {event.action for event in done}
    if not done:
        return [line("About what I didn't know a moment ago: nothing was changed. Try again.")]
    for begun, ends, said in UNFINISHED:
        if begun in did and not did & ends:
            return [line("About what I didn't know a moment ago: it was begun and not finished. ", said)]
    rows = []
    for event in done[:NAMED_MAX]:
        about: list[Piece] = []
        if event.credential_id:
            about = [" ", bold(named.get(event.credential_id, "")), " (", code(event.username or ""), ")"]
        rows.append(line(f"You {ACTS[What(event.action)].done.rstrip(':')}", *about, "."))
    return [line("About what I didn't know a moment ago: it was done."), *rows]


def reminder(credential: Credential, workspace: Workspace, now: datetime, command: str) -> list[Block]:
    """For the owner of a credential that expires, and the workspace's channels."""
    if credential.expires_at is None:
        raise ValueError(f"{credential.username} does not expire")
    verb = " expired (" if has_expired(credential, now) else " expires ("
    about: list[Piece] = ["The SMTP credential ", bold(credential.name), " (", code(credential.username), ") in ", bold(workspace.name)]
    group = (credential.owner or "").startswith("S")
    return [
        *([line("For ", principal(credential.owner or ""), ", who own it:")] if group else []),
        line(*about, verb, when(credential.expires_at), "). Apps that use it can't send mail after that."),
        line("Still needed? Choose ", bold("Extend…"), " in its row's menu: ", code(f"{command} list"), ", or in my Home tab."),
        line("If it isn't needed any more, delete it there."),
    ]


def first_use(credential: Credential, remote: str | None) -> list[Block]:
    """For whoever made it. `remote`: the address that it logged in from, where the mail server told it."""
    whence: list[Piece] = [", from ", code(remote)] if remote else []
    at: list[Piece] = [" (", when(credential.first_used_at), ")"] if credential.first_used_at else []
    return [line(bold(credential.name), " logged in for the first time", *whence, *at, ".")]


def sends_much(
    credential: Credential, workspace: Workspace, traffic: Traffic, last: AuditEvent | None, why: str, channel: str
) -> list[Block]:
    """For the workspace's channels.

    Args:
        last: see `credentials.last_act`.
        why: the limit that was reached, or `BURST` or `AWAKE`.
    """
    about: list[Piece] = ["The SMTP credential ", bold(credential.name), " (", code(credential.username), ") in ", bold(workspace.name)]
    if why in UNUSUAL:
        rows = [line(*about, UNUSUAL[why])]
        then = "If nobody knows why, its password may have leaked: suspend it and find out."
    else:
        rows = [line(*about, " has reached ", LIMITS.get(why, "a limit"), f" ({getattr(credential, why, None) or 'changed since'}).")]
        then = "What is above it is put off, not lost, and goes on by itself. If nobody knows why it sends so much, suspend it."
    if (sending := impact.sent(credential, traffic)) is not None:
        rows.append(line(f"It sent {sending}."))
    value = OnCredential(credential=credential.id, channel=channel).encode()
    if last is None or credential.state == State.ACTIVE:
        return [*rows, line(then), actions(button("Suspend…", OPEN_SUSPEND, value))]
    rows.append(line(*_by(last), "."))
    if credential.state == State.SUSPENDED:
        rows += [line("It can't send until a writer resumes it."), actions(button("Resume…", OPEN_RESUME, value))]
    return rows


def queued(about: Sequence[Credential], said: list[Block]) -> list[Block]:
    """For whoever ordered something about queued mail. `said`: what the mail servers did."""
    named: list[Piece] = [f"{len(about)} SMTP credentials"]
    if len(about) == 1:
        named = [bold(about[0].name), " (", code(about[0].username), ")"]
    return [line("About ", *named, ":"), *said]


def revoked_all(workspace: Workspace, count: str) -> list[Block]:
    """For whoever ordered it."""
    return [
        line(f"Revoked all {count} credentials of ", bold(workspace.name), ". The workspace stays suspended until an admin resumes it.")
    ]


def _named(credential: Credential, workspace: Workspace) -> list[Piece]:
    return ["the SMTP credential ", bold(credential.name), " (", code(credential.username), ") in ", bold(workspace.name), "."]

"""A password leaks: who hears of it, what they can do with one press, and what the message says afterwards."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from sandbox.people import Person
from sandbox.world import Channel, Message
from storage import audit, credentials, errands, lifecycle, logins, passwords, posted, workspaces
from storage.access import Actor
from storage.audit import Origin, Surface
from storage.database import Database, Transaction
from storage.errands import Kind
from storage.leaks import COMPUTED, REPORTS_AN_HOUR, Resolver, Standing, leak, leaked_in, notice
from storage.logins import Use
from storage.models import Credential
from storage.passwords import Hasher
from tests import raw
from tests.stage import BY_TEST, Stage, stage
from tests.stores import sqlite_store
from tests.test_process import SlowSlack

SHORTCUT = "Revoke leaked credential"
WHOSE = "Whose is this?"
NEUTRAL = "If this is one of ours, the people who can revoke it now know. Please delete the message if it is yours."


@pytest.fixture(params=["sqlite-socket", "postgres-http"])
async def watched(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stage]:
    """The bot with BOT_LEAK_WATCH on, in a Slack that can be made to wait."""
    database, mode = request.param.split("-")
    url = sqlite_store(tmp_path / "bot.db") if database == "sqlite" else str(request.getfixturevalue("postgres_url"))
    async with stage(url, mode, kind=SlowSlack, bot_leak_watch=True) as play:
        app = play.slack.world.installed()
        app.events.append("message.channels")
        app.scopes.append("channels:history")
        yield play


async def alarm(play: Stage, text: str = "posted the password of Relay") -> Message:
    await play.settled()
    return await play.rex.sees(text, play.mail)


async def says(play: Stage, message: Message, *parts: str, without: tuple[str, ...] = ()) -> None:
    """What the message says once all is settled, also what the test changed past the bot."""
    play.bot.errands.wake()
    await play.settled()
    shown = play.rex.read(message)
    for part in parts:
        assert part in shown, shown
    for part in without:
        assert part not in shown, shown


async def leaked(play: Stage) -> tuple[str, Message, Message]:
    """A password that mia posted: the password, her message and the alarm."""
    password = await play.create(play.wanda, "Relay")
    message = await posts(play, play.mia, play.mail, f"our password is {password}")
    return password, message, await alarm(play)


async def posts(play: Stage, author: Person, channel: Channel, text: str) -> Message:
    """A message that the bot has heard of when this returns."""
    message = play.slack.world.add_message(channel.id, author.id, text)
    await play.slack.event({"type": "message", "channel": channel.id, "user": author.id, "ts": message.ts, "text": text})
    return message


async def event_of(play: Stage, original: Message, subtype: str, **more: Any) -> None:
    await play.slack.event({"type": "message", "subtype": subtype, "channel": original.channel, "ts": "1.2", **more})
    await play.settled()


def edited(message: Message, text: str) -> dict[str, Any]:
    return {"message": {"type": "message", "user": message.user, "ts": message.ts, "text": text}}


async def test_author_and_responders_read_it_once_and_the_password_nowhere(watched: Stage) -> None:
    play = watched
    password = await play.create(play.wanda, "Relay")
    before = len(play.slack.traffic)
    message = await posts(play, play.mia, play.mail, f"our password is {password}")
    warning = await play.mia.sees("You posted the password of Relay. Delete your message. @oncall, @adam, @wanda were told", play.mail)
    assert warning.ephemeral_to == play.mia.id
    told = await alarm(play)
    assert told.ephemeral_to is None
    await says(play, told, "@mia posted the password of Relay", "It works now", "Can stop it: @oncall", "[Suspend now]", "[Revoke…]")
    sent = [one.sent for one in list(play.slack.traffic)[before:] if one.way == "from app"]
    assert sent
    assert not [one for one in sent if password in one]
    assert password not in play.logs.getvalue()
    [event] = await play.events(action="leak.noticed")
    assert (event.user_id, event.channel_id, event.source_id) == (play.mia.id, play.mail.id, message.ts)
    await event_of(play, message, "message_changed", **edited(message, f"see {password}"))
    await posts(play, play.mia, play.mail, f"and this is none: {passwords.generate('00000000')}")
    await play.settled()
    assert len(await play.events(action="leak.noticed")) == 1
    assert len([one for one in play.rex.messages(play.mail) if "posted the password" in play.rex.read(one)]) == 1


async def test_suspend_now_and_undo_are_one_press_each_and_the_alarm_settles(watched: Stage) -> None:
    play = watched
    _, _, told = await leaked(play)
    await play.db.note(logins.beat, "one", "mx:one", play.clock())
    [username] = await play.passdb()
    await play.rex.presses("Suspend now", told)
    await says(play, told, "Suspended by @rex (", "not yet confirmed by 1 of 1 mail server: mx:one", "[Undo]", "[Revoke…]")
    await says(play, told, without=("[Suspend now]", "It works now", "Can stop it"))
    assert await play.passdb() == []
    assert play.rex.view is None
    await play.db.note(logins.beat, "one", "mx:one", play.clock())
    play.clock.passes(seconds=3)
    play.bot.errands.wake()
    await says(play, told, "Confirmed: 1 of 1 mail server refuses it since")
    await play.rex.presses("Undo", told)
    await play.rex.sees("Resuming needs the writer role in Acme; you are a responder. Ask @adam.")
    await play.wanda.presses("Undo", told)
    await says(play, told, "@wanda resumed it (", "It works now", "[Suspend now]", without=("[Undo]", "Confirmed"))
    assert await play.passdb() == [username]
    await play.rita.presses("Suspend now", told)
    await play.rita.sees("Suspending needs the responder role in Acme; you are a reader. Ask @adam.")
    assert await play.passdb() == [username]
    assert not [one for one in play.mia.messages(play.mail) if "suspended the SMTP" in play.mia.read(one)]
    denied = await play.events(outcome="refused")
    assert [(one.action, one.user_id) for one in denied] == [("resume", play.rex.id), ("suspend", play.rita.id)]


async def test_revoked_from_the_alarm_with_its_reason_and_no_button_left(watched: Stage) -> None:
    play = watched
    _, _, told = await leaked(play)
    await play.rex.presses("Revoke…", told)
    await play.rex.sees_modal(SHORTCUT)
    await play.rex.submits()
    await play.rex.sees_modal("Revoked Relay")
    await says(play, told, "Revoked by @rex (", "Nothing left to do", "Mail servers refuse it", without=("[", "It works now"))
    [event] = await play.events(action="delete")
    assert event.reason == "It leaked."


async def test_a_revoked_workspace_settles_it_with_who_did_it(watched: Stage) -> None:
    play = watched
    _, _, told = await leaked(play)
    await play.create(play.wanda, "Printer")
    for one in await play.credentials():
        await play.db.change(lifecycle.suspend, BY_TEST, one.id)
    suspension = await play.rex.sees("suspended the SMTP credential Printer", play.mail)
    await play.adam.types(play.lobby, "/smtp revoke workspace:acme")
    await play.adam.sees_modal("All 2 credentials")
    play.adam.picks("Do this", "Revoke all")
    play.adam.fills("Type its short name to confirm", "acme")
    await play.adam.submits()
    await play.adam.sees_modal("Revoked all 2 credentials of Acme")
    await says(play, told, "Revoked by @adam", without=("nobody resumed",))
    await says(play, suspension, "@adam revoked it (", without=("nobody resumed", "[Resume…]"))


async def test_a_deleted_or_edited_message_is_said_to_be(watched: Stage) -> None:
    play = watched
    password, message, told = await leaked(play)
    await event_of(play, message, "message_changed", **edited(message, "sorry"))
    await says(play, told, "The message was edited, and no longer holds it (", "[Suspend now]")
    await event_of(play, message, "message_changed", **edited(message, f"it is {password} again"))
    await says(play, told, without=("edited",))
    for _ in range(2):
        await event_of(play, message, "message_deleted", deleted_ts=message.ts)
    await says(play, told, "The message was deleted (", "[Suspend now]")
    assert [one.subject for one in await play.events(action="leak.gone")] == ["edited", "deleted"]
    await event_of(play, message, "message_deleted", deleted_ts="1.1")


async def test_a_message_edited_to_another_password_no_longer_holds_the_first(watched: Stage) -> None:
    _, message, told = await leaked(watched)
    other = await watched.create(watched.wanda, "Printer")
    await event_of(watched, message, "message_changed", **edited(message, f"no, it is {other}"))
    await says(watched, told, "The message was edited, and no longer holds it")
    await watched.rex.sees("posted the password of Printer", watched.mail)


async def test_of_many_leaked_passwords_none_is_left_out(watched: Stage) -> None:
    play = watched
    passwords_ = [await play.create(play.wanda, f"App {number}") for number in range(23)]
    await posts(play, play.mia, play.lobby, "\n".join(passwords_))
    await play.settled()
    assert len(await play.events(action="leak.noticed", outcome="done")) == 23


async def test_a_changed_password_settles_it_when_the_old_one_stops(watched: Stage) -> None:
    play = watched
    _, _, told = await leaked(play)
    play.clock.passes(minutes=1)
    await rotated(play, timedelta(hours=1))
    await says(play, told, "The password that leaked is the old one: it works until", "[Suspend now]")
    [credential] = await play.credentials()
    await play.db.change(lifecycle.end_previous, BY_TEST, credential.id)
    await says(play, told, "ended the password that leaked", "it no longer works", without=("[", "It works now"))


async def rotated(play: Stage, overlap: timedelta | None) -> None:
    [credential] = await play.credentials()
    mark = lifecycle.rotation_mark(credential)
    await play.db.change(lifecycle.begin_rotation, BY_TEST, credential.id, play.mail.id, "key", mark)
    await play.db.change(lifecycle.finish_rotation, BY_TEST, credential.id, "key", credential.password_hash or "", None, overlap)


async def test_apps_are_heard_and_our_own_is_not(watched: Stage) -> None:
    play = watched
    password = await play.create(play.wanda, "Relay")
    us = play.slack.world.installed()
    log = {"type": "message", "channel": play.lobby.id, "channel_type": "channel", "ts": "5.5", "bot_id": "B0BUILD", "text": ""}
    ours = log | {"bot_id": us.bot_id, "app_id": us.id, "text": password}
    await play.slack.event(ours)
    changed = {"type": "message", "subtype": "message_changed", "channel": play.lobby.id, "ts": "5.6", "message": ours}
    await play.slack.event(changed)
    await play.settled()
    assert not await play.events(action="leak.noticed")
    attachments = [{"fields": [{"title": "env", "value": f"SMTP_PASSWORD={password}"}]}]
    await play.slack.event(log | {"subtype": "bot_message", "app_id": "A0BUILD", "username": "<!channel>", "attachments": attachments})
    await says(play, await alarm(play, "An app posted the password of Relay"), "#lobby")
    assert not await raw.sql(play.db, "SELECT id FROM errands WHERE kind = 'warn'")
    assert [one.user_id for one in await play.events(action="leak.noticed")] == ["B0BUILD"]


async def test_a_message_of_ours_that_is_gone_and_an_archived_channel_end_the_errand(watched: Stage) -> None:
    play = watched
    _, _, told = await leaked(play)
    [credential] = await play.credentials()
    play.mail.archived = True
    await play.db.change(lifecycle.suspend, BY_TEST, credential.id)
    play.bot.errands.wake()
    await play.settled()
    play.mail.archived = False
    play.slack.world.remove_message(told)
    await play.db.change(lifecycle.resume, BY_TEST, credential.id)
    play.bot.errands.wake()
    await play.settled()
    outcomes = await raw.sql(play.db, "SELECT outcome FROM errands WHERE kind = 'settle' ORDER BY id")
    assert [outcome for (outcome,) in outcomes] == ["is_inactive", "message_not_found"]
    assert await raw.sql(play.db, "SELECT id FROM posted_messages") == []


async def test_many_presses_by_two_people_leave_a_true_message_and_store(watched: Stage) -> None:
    play = watched
    _, _, told = await leaked(play)
    [credential] = await play.credentials()
    value = f'{{"credential":"{credential.id}"}}'

    async def press(person: Person, number: int) -> None:
        action = ("alarm_suspend", "alarm_undo")[number % 2]
        button = {"type": "button", "action_id": action, "value": value, "text": {"type": "plain_text", "text": "x", "emoji": False}}
        await person.acts(told, {"block_id": "b"}, button, {"value": value})

    for start in range(0, 60, 10):
        await asyncio.gather(*(press((play.adam, play.wanda)[number // 2 % 2], number) for number in range(start, start + 10)))
    await play.settled()
    [credential] = await play.credentials()
    done = [one for one in await play.events(outcome="done") if one.action in ("suspend", "resume")]
    assert [one.action for one in done] == [("suspend", "resume")[number % 2] for number in range(len(done))]
    assert len(done) >= 2
    suspended = done[-1].action == "suspend"
    assert (credential.state == "suspended", await play.passdb() == []) == (suspended, suspended)
    who = {one.id: one.name for one in (play.adam, play.wanda)}[done[-1].user_id]
    await says(play, told, f"Suspended by @{who}" if suspended else f"@{who} resumed it", "[Undo]" if suspended else "[Suspend now]")
    assert (await play.db.read(audit.verify)).broken is None
    assert not [one for one in play.mia.messages(play.mail) if "the SMTP credential Relay" in play.mia.read(one)]
    assert len(await raw.sql(play.db, "SELECT id FROM errands WHERE kind = 'notice'")) == 0


async def test_without_a_channel_the_people_who_can_revoke_it_read_it_directly(watched: Stage) -> None:
    play = watched
    password = await play.create(play.wanda, "Relay")
    for channel in (play.mail, play.secret):
        await play.db.change(workspaces.unmap_channel, BY_TEST, play.slack.world.team.id, channel.id)
    await posts(play, play.mia, play.mail, password)
    await play.settled()
    for person in (play.rex, play.adam, play.wanda):
        told = await person.sees("@mia posted the password of Relay", play.slack.world.dm(person.id))
    await play.wanda.presses("Suspend now", told)
    await says(play, told, without=("[Suspend now]",))
    assert "Suspended by @wanda" in play.wanda.read(told)
    assert "posted the password" not in play.rita.screen()


# --- anybody can raise it ---
async def stranger(play: Stage, name: str = "nina") -> Person:
    made = play.slack.add_person(name)
    play.lobby.members.append(made.id)
    return made


async def test_somebody_without_a_role_reads_the_same_whether_or_not_it_is_ours(play: Stage) -> None:
    password = await play.create(play.wanda, "Relay")
    [username] = await play.passdb()
    nina = await stranger(play)
    shown = []
    for text in (f"oops {password}", f"user {username}", f"x {passwords.generate('00000000')}", "smtp-zeta-00000000"):
        message = await play.mia.posts(play.lobby, text)
        await nina.uses_shortcut(SHORTCUT, message)
        await nina.sees_modal("If this is one of ours")
        shown.append(nina.read(nina.view) if nina.view else "")
        await nina.closes()
    assert set(shown) == {shown[0]}
    assert NEUTRAL in shown[0]
    for hidden in ("Relay", "Acme", username):
        assert hidden not in shown[0]
    told = await alarm(play, "that holds the password of Relay")
    await says(play, told, "@nina reported a message in #lobby", "It works now", "[Suspend now]")
    await says(play, await alarm(play, "that has the username of Relay"), "I can't tell whether its password leaked")
    reports = await play.events(action="leak.report")
    assert [(one.outcome, one.subject) for one in reports] == [("done", "live"), ("done", "unknown"), ("refused", None), ("refused", None)]
    assert {one.user_id for one in await play.events(action="whois", outcome="refused")} == {nina.id}


async def test_a_second_reporter_is_added_and_a_third_alarm_is_not_posted(play: Stage) -> None:
    password = await play.create(play.wanda, "Relay")
    message = await play.mia.posts(play.lobby, f"oops {password}")
    for name in ("nina", "noah"):
        person = await stranger(play, name)
        await person.uses_shortcut(SHORTCUT, message)
        await person.sees_modal("If this is one of ours")
        await play.settled()
    await says(play, await alarm(play, "@nina reported a message"), "Also reported by @noah.")
    assert len([one for one in play.rex.messages(play.mail) if "reported a message" in play.rex.read(one)]) == 1


async def test_reports_are_bounded_for_each_person(play: Stage) -> None:
    password = await play.create(play.wanda, "Relay")
    nina, noah = await stranger(play), await stranger(play, "noah")
    for _ in range(REPORTS_AN_HOUR):
        await nina.uses_shortcut(SHORTCUT, await play.mia.posts(play.lobby, f"x {passwords.generate('00000000')}"))
        await nina.sees_modal("If this is one of ours")
        await nina.closes()
    message = await play.mia.posts(play.lobby, password)
    await nina.uses_shortcut(SHORTCUT, message)
    await nina.sees_modal("nobody was told of this one")
    await nina.closes()
    await play.settled()
    assert not await play.events(action="leak.report", outcome="done")
    play.clock.passes(hours=1, seconds=1)
    await nina.uses_shortcut(SHORTCUT, message)
    await nina.sees_modal("If this is one of ours")
    await noah.uses_shortcut(SHORTCUT, message)
    await noah.sees_modal("If this is one of ours")
    assert len(await play.events(action="leak.report", outcome="done")) == 2


async def test_a_reader_reports_what_they_cannot_revoke(play: Stage) -> None:
    password = await play.create(play.wanda, "Relay")
    await play.rita.uses_shortcut(SHORTCUT, await play.mia.posts(play.lobby, password))
    shown = play.rita.read(await play.rita.sees_modal("I've told the people who can revoke it"))
    assert "You can't revoke smtp-acme-" in shown
    await says(play, await alarm(play, "@rita reported a message"), "holds the password of Relay")


async def test_one_credential_raises_a_bounded_number_of_alarms_an_hour(watched: Stage) -> None:
    play = watched
    password = await play.create(play.wanda, "Relay")
    for number in range(errands.ALARMS_AN_HOUR + 3):
        await posts(play, play.mia, play.lobby, f"{number} {password}")
        await play.settled()
    assert len(await play.events(action="leak.noticed")) == errands.ALARMS_AN_HOUR + 3
    alarms = [one for one in play.rex.messages(play.mail) if "posted the password" in play.rex.read(one)]
    assert len(alarms) == errands.ALARMS_AN_HOUR
    play.clock.passes(hours=1, seconds=1)
    await posts(play, play.mia, play.lobby, f"an hour later {password}")
    await play.settled()
    assert len([one for one in play.rex.messages(play.mail) if "posted the password" in play.rex.read(one)]) == len(alarms) + 1


# --- one press elsewhere ---
async def test_the_modal_of_a_leak_offers_suspend_now_beside_revoke(play: Stage) -> None:
    password = await play.create(play.wanda, "Relay")
    message = await play.mia.posts(play.lobby, password)
    await play.wanda.uses_shortcut(SHORTCUT, message)
    await play.wanda.sees_modal("Relay")
    await play.wanda.presses("Suspend now")
    await play.wanda.sees_modal("Suspended by @wanda")
    assert await play.passdb() == []
    await play.wanda.presses("Undo")
    await play.wanda.sees_modal("[Suspend now]")
    assert len(await play.passdb()) == 1
    await play.wanda.presses("Suspend now")
    await play.wanda.sees_modal("Suspended by @wanda")
    await play.wanda.closes()
    await play.rex.uses_shortcut(SHORTCUT, message)
    shown = play.rex.read(await play.rex.sees_modal("Suspended by @wanda"))
    assert "[Undo]" not in shown
    await play.rex.submits()
    await play.rex.sees_modal("Revoked Relay")
    assert [one.reason for one in await play.events(action="delete")] == ["It leaked."]


async def test_what_was_reported_is_still_said_after_a_press(play: Stage) -> None:
    password = await play.create(play.wanda, "Relay")
    await play.db.change(workspaces.map_channel, BY_TEST, play.slack.world.team.id, play.lobby.id, play.zeta.id)
    message = await play.mia.posts(play.mail, f"{password} and smtp-zeta-00000000")
    await play.rex.uses_shortcut(SHORTCUT, message)
    await play.rex.sees_modal(NEUTRAL)
    await play.rex.presses("Suspend now")
    view = play.rex.read(await play.rex.sees_modal("Suspended by @rex"))
    assert NEUTRAL in view


async def test_whois_offers_one_press_and_says_who_ended_it(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    await play.create(play.wanda, "Printer")
    usernames = " ".join(await play.passdb())
    await play.wanda.types(play.lobby, f"/smtp whois {usernames}")
    await play.wanda.presses("Suspend now", await play.wanda.sees("Printer", play.lobby))
    shown = await play.wanda.sees("Suspended by @wanda", play.lobby)
    assert "[Suspend now]" in play.wanda.read(shown)
    assert "[Undo]" in play.wanda.read(shown)
    assert len([one for one in play.wanda.messages(play.lobby) if one.user == play.slack.world.installed().bot_user]) == 1
    await play.rex.types(play.lobby, f"/smtp whois {usernames}")
    assert "To resume it, ask @adam, @wanda." in play.rex.read(await play.rex.sees("Suspended by @wanda", play.lobby))
    await play.wanda.presses("Undo", shown)
    await play.settled()
    assert len(await play.passdb()) == 2
    first = (await play.credentials())[0]
    await play.db.change(credentials.delete, Origin(Actor(play.rex.id, BY_TEST.actor.team, owner=True), Surface.BUTTON, "r"), first.id)
    await play.rita.types(play.lobby, f"/smtp whois {first.username}")
    assert "[" not in play.rita.read(await play.rita.sees("Deleted by @rex (", play.lobby))
    await play.rita.types(play.lobby, f"/smtp whois {(await play.credentials())[1].username}")
    await play.rita.sees("To stop it, ask @oncall", play.lobby)


async def test_whose_is_this_as_a_shortcut_of_a_message_and_from_anywhere(play: Stage) -> None:
    password = await play.create(play.wanda, "Relay")
    [username] = await play.passdb()
    await play.rex.uses_shortcut(WHOSE, await play.mia.posts(play.lobby, f"env {password}"))
    await play.rex.sees_modal("You pasted its password")
    await play.rex.presses("Suspend now")
    await play.rex.sees_modal("Suspended by @rex")
    await play.rex.closes()
    await play.rex.uses_shortcut(WHOSE)
    await play.rex.sees_modal("What you paste is looked at once")
    play.rex.fills("A username, or a line of a log", f"Nov 25 smtpd: sasl_username={username}")
    await play.rex.submits()
    await play.rex.sees_modal("Suspended by @rex")
    await play.rex.closes()
    nina = await stranger(play)
    await nina.uses_shortcut(WHOSE, await play.mia.posts(play.lobby, username))
    await nina.sees_modal("or it is in a workspace that you can't see")
    await play.gus.uses_shortcut(WHOSE)
    await play.gus.sees_modal("What you paste")
    play.gus.fills("A username, or a line of a log", username)
    await play.gus.submits()
    await play.gus.sees_modal("Guests can't manage SMTP credentials")


async def test_a_credential_is_made_from_anywhere(play: Stage) -> None:
    await play.wanda.uses_shortcut("Create SMTP credential")
    await play.wanda.sees_modal("New SMTP credential")
    play.wanda.fills("Name", "Relay")
    play.wanda.picks("Channel", play.mail)
    await play.wanda.submits()
    await play.wanda.sees_modal("Credential created")
    assert len(await play.passdb()) == 1
    await play.rita.uses_shortcut("Create SMTP credential")
    await play.rita.sees("Creating takes the writer role in a mail workspace. Ask @olga")
    assert [one.user_id for one in await play.events(action="create", outcome="refused")] == [play.rita.id]


async def test_the_notice_of_a_suspension_settles_instead_of_being_followed_by_another(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    [credential] = await play.credentials()
    by_rex = Origin(Actor(play.rex.id, BY_TEST.actor.team, owner=True), Surface.BUTTON, "r")
    await play.db.change(lifecycle.suspend, by_rex, credential.id, "odd traffic")
    await play.settled()
    told = await play.mia.sees("@rex suspended the SMTP credential Relay", play.mail)
    await says(play, told, "Reason: odd traffic", "[Resume…]")
    await play.wanda.presses("Resume…", told)
    await play.wanda.sees_modal("Resume credential?")
    await play.wanda.submits()
    await says(play, told, "@wanda resumed it (", without=("[Resume…]",))
    await play.db.change(lifecycle.suspend, by_rex, credential.id)
    await says(play, told, "@rex suspended it again (", "[Resume…]")
    play.clock.passes(hours=2)
    await play.db.change(lifecycle.resume, BY_TEST, credential.id)
    play.bot.errands.wake()
    await play.mia.sees("resumed the SMTP credential Relay", play.mail)
    await says(play, told, "resumed it (", without=("[Resume…]",))


async def test_the_first_log_in_is_told_to_its_maker_once(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    [credential] = await play.credentials()
    dm = play.slack.world.dm(play.wanda.id)
    for minutes in (3, 2, 1):
        use = Use(play.clock() - timedelta(minutes=minutes), f"203.0.113.{minutes}", "smtp", previous=False)
        await play.db.note(logins.record, {credential.id: use})
    play.bot.errands.wake()
    await play.settled()
    await play.wanda.sees("Relay logged in for the first time, from 203.0.113.3 (", dm)
    assert len(play.wanda.messages(dm)) == 1
    assert (await play.credentials())[0].first_used_at == play.clock() - timedelta(minutes=3)


async def test_a_list_loses_the_row_that_was_deleted_from_it(play: Stage) -> None:
    for name in ("Relay", "Printer"):
        await play.create(play.wanda, name)
    await play.wanda.types(play.mail, "/smtp list oldest")
    shown = await play.wanda.sees("SMTP credentials in Acme (2)", play.mail)
    await play.wanda.chooses("Suspend…", near="Printer", where=shown)
    await play.wanda.sees_modal("Suspend credential?")
    await play.wanda.submits()
    shown = await play.wanda.sees("Printer (suspended)", play.mail)
    await play.wanda.closes()
    await play.wanda.chooses("Delete…", near="Printer", where=shown)
    await play.wanda.sees_modal("Delete credential?")
    await play.wanda.submits()
    drawn = play.wanda.read(await play.wanda.sees("SMTP credentials in Acme (1)", play.mail))
    assert "Printer" not in drawn
    assert "[Newest first]" in drawn
    assert len([one for one in play.wanda.messages(play.mail) if "SMTP credentials in Acme" in play.wanda.read(one)]) == 1


# --- the store alone ---
async def one_credential(db: Database) -> Credential:
    workspace = await db.change(workspaces.add, BY_TEST, "acme", "Acme")
    await db.change(workspaces.map_channel, BY_TEST, "T0SANDBOX", "C1", workspace.id)
    made, _ = await db.change(credentials.create_pending, BY_TEST, "C1", "Relay", "key")
    return await db.change(credentials.activate, BY_TEST, made.id, "$argon2id$x")


async def test_one_errand_waits_however_often_it_changes(db: Database) -> None:
    credential = await one_credential(db)
    await db.note(posted.keep, posted.Posted.ALARM, "C1", "1.1", credential_id=credential.id, workspace_id=credential.workspace_id)
    for _ in range(5):
        await db.change(lifecycle.suspend, BY_TEST, credential.id)
        await db.change(lifecycle.resume, BY_TEST, credential.id)
    settling = "SELECT lease, event_id FROM errands WHERE kind = 'settle' AND done_at IS NULL"
    [(lease, event)] = await raw.sql(db, settling)
    assert (lease, event) == (None, (await db.read(audit.head)).event)
    taken = await db.note(errands.take, 20, list(Kind))
    await db.change(lifecycle.suspend, BY_TEST, credential.id)
    # Whoever took the first may have read the store already.
    assert len(await raw.sql(db, settling)) == 2
    assert len([one for one in taken if one.kind == "settle"]) == 1


async def test_an_alarm_is_owed_to_each_channel_once_and_a_warning_to_a_person(db: Database) -> None:
    credential = await one_credential(db)
    await raw.sql(db, "DELETE FROM errands")
    origin = Origin(Actor("U0MIA", "T0SANDBOX"), Surface.EVENT, "r", "C9", "5.5")
    assert await db.change(notice, origin, credential.id, Standing.LIVE)
    assert not await db.change(notice, origin, credential.id, Standing.LIVE)
    owed = await raw.sql(db, "SELECT kind, channel_id, person FROM errands ORDER BY kind")
    assert owed == [("alarm", "C1", None), ("warn", "C9", "U0MIA")]


async def moves(play: Stage, channel: Channel, new: str) -> None:
    """Slack gives the channel another id, as when it begins to be shared."""
    world, old = play.slack.world, channel.id
    world.channels[new], world.messages[new] = world.channels.pop(old), world.messages.pop(old)
    channel.id = new
    for message in world.messages[new]:
        message.channel = new
    await play.slack.event({"type": "channel_id_changed", "old_channel_id": old, "new_channel_id": new})
    await play.settled()


async def test_an_alarm_follows_its_channel_to_a_new_id_and_another(watched: Stage) -> None:
    play = watched
    password, message, told = await leaked(play)
    await moves(play, play.mail, "C0SECOND")
    await moves(play, play.mail, "C0THIRD")
    await play.rex.presses("Suspend now", told)
    await says(play, told, "Suspended by @rex (", f"a message in #{play.mail.name}")
    [link] = str(told.blocks).split("'url': '")[1:]
    assert "C0THIRD" in link.partition("'")[0]
    await event_of(play, message, "message_changed", **edited(message, f"it is {password}, still"))
    assert len(await play.events(action="leak.noticed")) == 1
    await event_of(play, message, "message_deleted", deleted_ts=message.ts, previous_message={"text": f"our password is {password}"})
    await says(play, told, "The message was deleted (")


async def test_what_is_owed_in_a_channel_that_gets_a_new_id_is_told_there(db: Database) -> None:
    credential = await one_credential(db)
    await raw.sql(db, "DELETE FROM errands")
    origin = Origin(BY_TEST.actor, Surface.EVENT, "ref", "C1", "2.2")
    await db.change(notice, origin, credential.id, Standing.LIVE)
    await db.change(workspaces.channel_renumbered, BY_TEST, "T0SANDBOX", "C1", "C2")
    assert await raw.sql(db, "SELECT channel_id FROM errands WHERE done_at IS NULL AND kind = 'alarm'") == [("C2",)]
    await db.change(notice, replace(origin, channel="C2"), credential.id, Standing.LIVE)
    assert len(await raw.sql(db, "SELECT id FROM errands WHERE kind = 'alarm'")) == 1
    known = await db.read(leak, "T0SANDBOX", credential.id, "C1", "2.2")
    assert (known.channel, len(known.events)) == ("C2", 1)
    assert await db.read(leaked_in, "C2", "2.2") == {credential.id}


async def test_an_alarm_stops_saying_that_it_works_at_the_moment_of_expiry(watched: Stage) -> None:
    play = watched
    _, _, told = await leaked(play)
    [relay] = await play.credentials()
    for days in (30, 3):
        await play.db.change(lifecycle.change_expiry, BY_TEST, relay.id, play.clock() + timedelta(days=days))
        await says(play, told, "It works now")
    assert await raw.sql(play.db, "SELECT count(*) FROM errands WHERE done_at IS NULL") == [(1,)]
    play.clock.passes(days=3, seconds=-1)
    await says(play, told, "It works now")
    play.clock.passes(seconds=2)
    await says(play, told, "It expired (", without=("It works now", "Can stop it"))
    assert await raw.sql(play.db, "SELECT count(*) FROM errands WHERE done_at IS NULL") == [(0,)]


@contextlib.asynccontextmanager
async def on_its_way(play: Stage, method: str, calls: int) -> AsyncIterator[None]:
    """What is owed is drawn and sent in so many calls, which Slack takes when the block ends."""
    slack = play.slack
    assert isinstance(slack, SlowSlack)
    slack.slow, slack.held = method, 0
    slack.gate.clear()
    play.bot.errands.wake()
    await slack.world.until(lambda: slack.held == calls or None, 40)
    yield
    slack.gate.set()


async def test_an_alarm_that_is_untrue_when_slack_takes_it_is_drawn_anew(watched: Stage) -> None:
    play = watched
    await play.create(play.wanda, "Relay")
    [relay] = await play.credentials()
    by_scanner = Origin(Actor("scanner", play.slack.world.team.id), Surface.EVENT, "r")
    await play.db.change(notice, by_scanner, relay.id, Standing.LIVE)
    async with on_its_way(play, "chat.postMessage", calls=3):
        await play.db.change(lifecycle.suspend, BY_TEST, relay.id)
    await says(play, await alarm(play, "found the password of Relay"), "Suspended by", without=("It works now",))


async def test_the_notice_of_a_suspension_that_is_untrue_when_slack_takes_it_is_drawn_anew(watched: Stage) -> None:
    play = watched
    await play.create(play.wanda, "Relay")
    [relay] = await play.credentials()
    await play.db.change(lifecycle.suspend, BY_TEST, relay.id)
    async with on_its_way(play, "chat.postMessage", calls=3):
        await play.db.change(lifecycle.resume, BY_TEST, relay.id)
    await says(play, await alarm(play, "suspended the SMTP credential Relay"), "resumed it (", without=("[Resume…]",))


async def test_what_a_mail_server_confirms_while_an_alarm_is_drawn_anew_is_said(watched: Stage) -> None:
    play = watched
    _, _, told = await leaked(play)
    [relay] = await play.credentials()
    await play.db.note(logins.beat, "one", "mx:one", play.clock())
    await play.db.change(lifecycle.suspend, BY_TEST, relay.id)
    async with on_its_way(play, "chat.update", calls=1):
        await play.db.note(logins.beat, "one", "mx:one", play.clock())
    await says(play, told, "Confirmed: 1 of 1 mail server refuses it since", without=("not yet confirmed",))


async def test_a_change_of_many_draws_all_messages_about_them_anew(db: Database) -> None:
    first = await one_credential(db)
    ids = [first.id]
    for number in range(14):
        made, _ = await db.change(credentials.create_pending, BY_TEST, "C1", f"{'x' * number} thing", f"key{number}")
        ids.append((await db.change(credentials.activate, BY_TEST, made.id, "$argon2id$x")).id)

    def keep(tx: Transaction) -> None:
        for number, one in enumerate(ids):
            for channel in range(10):
                about: dict[str, Any] = {"credential_id": one, "workspace_id": first.workspace_id}
                posted.keep(tx, posted.Posted.ALARM, f"C{channel}", f"{number}.{channel}", **about)

    await db.note(keep)
    await raw.sql(db, "DELETE FROM errands")
    await db.change(credentials.revoke_each, BY_TEST, ids)
    await db.change(workspaces.suspend_all, BY_TEST, first.workspace_id)
    assert await raw.sql(db, "SELECT count(*) FROM errands WHERE kind = 'settle'") == [(150,)]


async def test_looking_whose_passwords_are_is_bounded_and_takes_turns(db: Database) -> None:
    await one_credential(db)
    real = Hasher(memory_kib=8, time_cost=1)

    class Counting:
        at_once = most = total = 0

        async def verify(self, phc: str, password: str) -> bool:
            self.at_once += 1
            self.total += 1
            self.most = max(self.most, self.at_once)
            found = await real.verify(phc, password)
            self.at_once -= 1
            return found

    device = [passwords.generate("", passwords.Style.DEVICE) for _ in range(25)]
    parsed = [one for one in map(passwords.parse, device) if one]
    columns = "id, workspace_id, name, name_key, username, state, password_hash, password_tag, version, created_at, created_by, device"
    for number in range(400):
        tag = passwords.tag(parsed[number % 25].canonical)
        values = f"'c{number:07d}', 1, 'n', 'n{number}', 'smtp-acme-{number:08d}', 'active', '$argon2id$x', {tag}, 1, 0, 'U1', true"
        await raw.sql(db, f"INSERT INTO credentials ({columns}) VALUES ({values})")
    counting: Any = Counting()
    resolver = Resolver(db, counting)
    await asyncio.gather(resolver.resolve(parsed), resolver.resolve(parsed))
    assert counting.most == 1
    assert COMPUTED - 2 <= counting.total / 2 <= COMPUTED
    real.close()

"""Rotating, as people do it: the new password and the old one, and all that can go wrong between them."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from bot import sweep
from sandbox.people import Person
from sandbox.slack import Fault
from storage import credentials, grants, lifecycle, policy, workspaces
from storage.access import Actor, Role
from storage.audit import Origin, Surface
from storage.database import OutcomeUnknown
from storage.models import Credential
from storage.policy import Policy
from storage.refusals import RotationEnded
from tests import raw
from tests.stage import BY_TEST, Stage, password_in
from tests.test_create import database_bytes


async def open_rotation(play: Stage, person: Person, name: str = "Relay") -> None:
    await person.types(play.mail, f"/smtp rotate {name}")
    await person.sees_modal("Rotate password")


async def rotate(play: Stage, person: Person, overlap: str = "Works for 24 more hours", name: str = "Relay") -> str:
    """The whole way by hand; returns the new password as the person reads it."""
    await open_rotation(play, person, name)
    person.picks("Old password", overlap)
    await person.submits()
    await person.sees_modal("Password rotated")
    await person.closes()
    await play.settled()
    return password_in(person, await person.sees(f"New password for {name} in Acme", play.mail)).canonical


async def fits(play: Stage, phc: str | None, password: str) -> bool:
    return await play.bot.services.hasher.verify(phc or "", password)


async def the_one(play: Stage) -> Credential:
    [credential] = await play.credentials()
    return credential


async def passdb(play: Stage, view: str = "smtp_passdb") -> list[Any]:
    return [password.removeprefix("{ARGON2ID}") for (password,) in await raw.sql(play.db, f"SELECT password FROM {view}")]


async def test_both_passwords_work_for_the_overlap_and_then_the_new_one(play: Stage) -> None:
    old = await play.create(play.wanda, "Relay")
    before = await the_one(play)
    new = await rotate(play, play.wanda)
    credential = await the_one(play)
    assert (credential.username, credential.state, credential.version) == (before.username, "active", before.version + 1)
    assert await fits(play, credential.password_hash, new)
    assert await fits(play, credential.previous_hash, old)
    assert credential.previous_until == play.clock() + timedelta(hours=24)
    assert await passdb(play) == [credential.password_hash]
    assert await passdb(play, "smtp_passdb_previous") == [credential.previous_hash]

    await play.rita.types(play.mail, "/smtp list")
    shown = play.rita.read(await play.rita.sees("SMTP credentials in Acme (1)"))
    assert f"Old password until {credential.previous_until:%Y-%m-%d %H:%M}" in shown
    notice = play.mia.read(await play.mia.sees("rotated the password of the SMTP credential Relay", play.mail))
    assert "The old password works until" in notice

    play.clock.passes(hours=23)
    await sweep.once(play.bot.services)
    assert (await the_one(play)).previous_hash
    play.clock.passes(hours=2)
    await asyncio.gather(sweep.once(play.bot.services), sweep.once(play.bot.services))
    credential = await the_one(play)
    assert (credential.previous_hash, credential.previous_tag, credential.previous_until) == (None, None, None)
    assert await fits(play, credential.password_hash, new)
    done = [event for event in await play.events(action="rotate.end_old") if event.outcome == "done"]
    assert [(event.user_id, event.surface) for event in done] == [("sweep", "sweep")]


async def test_the_new_password_is_shown_once_and_to_the_requester_alone(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    new = await rotate(play, play.wanda)
    message = await play.wanda.sees("New password for Relay", play.mail)
    assert message.ephemeral_to == play.wanda.id
    assert new not in message.text
    assert (await the_one(play)).username in play.wanda.read(message)
    others = (play.olga, play.adam, play.rita, play.rex, play.mia, play.gus)
    assert not [one.name for one in others if new in one.screen()]
    assert [one.what for one in play.slack.traffic if new in one.sent + one.answer] == ["response_url"]
    assert new not in play.logs.getvalue()
    assert new.encode() not in database_bytes(play.database_url)
    assert [(event.action, event.outcome, event.user_id) for event in await play.events()][-2:] == [
        ("rotate", "done", play.wanda.id),
        ("rotate.finish", "done", play.wanda.id),
    ]
    await play.wanda.presses("I've copied it, remove this", message)
    await play.settled()
    assert new not in play.wanda.screen()


async def test_without_an_overlap_the_old_password_stops_at_once(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    new = await rotate(play, play.wanda, "Stops at once")
    credential = await the_one(play)
    assert (credential.previous_hash, credential.previous_until) == (None, None)
    assert await fits(play, credential.password_hash, new)
    assert await passdb(play, "smtp_passdb_previous") == []
    await play.mia.sees("The old password no longer works", play.mail)


async def test_the_modal_says_first_that_a_leaked_password_is_revoked(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    await play.wanda.types(play.mail, "/smtp list")
    await play.wanda.chooses("Rotate password…", near="Relay")
    shown = play.wanda.read(await play.wanda.sees_modal("Rotate password"))
    assert shown.index("Did the password leak? Then don't rotate: revoke the credential.") < shown.index("Old password")
    await play.wanda.presses("It leaked: revoke it…")
    await play.wanda.sees_modal("Revoke leaked credential")
    await play.wanda.submits()
    await play.wanda.sees_modal("Revoked Relay")
    await play.wanda.closes()
    await play.wanda.submits()
    await play.wanda.sees_modal("was already deleted by @wanda")


async def test_the_old_one_is_ended_before_its_time(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    new = await rotate(play, play.wanda)
    for person in (play.rex, play.wanda):
        await person.types(play.mail, "/smtp list")
        await person.chooses("End the old one now…", near="Relay")
        view = await person.sees_modal("End the old password?")
        assert "The new password hasn't been used yet" in person.read(view)
    await play.rex.submits()
    await play.rex.sees_modal("Old password ended")
    await play.wanda.submits()
    await play.wanda.sees_modal("The old password of Relay has already stopped")
    credential = await the_one(play)
    assert credential.previous_hash is None
    assert await fits(play, credential.password_hash, new)
    events = [(event.user_id, event.outcome, event.cause) for event in await play.events(action="rotate.end_old")]
    assert events == [(play.rex.id, "done", None), (play.wanda.id, "refused", "no_old_password")]


async def test_rotating_again_stops_the_oldest_and_says_so(play: Stage) -> None:
    first = await play.create(play.wanda, "Relay")
    second = await rotate(play, play.wanda, "Works for 7 more days")
    play.clock.passes(minutes=1)
    await open_rotation(play, play.wanda)
    await play.wanda.sees_modal("It stops when you rotate again")
    await play.wanda.submits()
    await play.wanda.sees_modal("Password rotated")
    credential = await the_one(play)
    assert await fits(play, credential.previous_hash, second)
    assert not await fits(play, credential.previous_hash, first)


async def test_a_device_keeps_a_short_password(play: Stage) -> None:
    await play.wanda.types(play.mail, "/smtp create Relay")
    await play.wanda.sees_modal("New SMTP credential")
    play.wanda.ticks("Device", "Short password for a printer or another device")
    await play.wanda.submits()
    await play.settled()
    assert len(await rotate(play, play.wanda)) == 20
    credential = await the_one(play)
    assert None not in (credential.password_tag, credential.previous_tag)
    await play.db.change(policy.change, BY_TEST, credential.workspace_id, Policy(devices_allowed=False))
    await open_rotation(play, play.wanda)
    modal = play.wanda.screen()
    assert "no longer allows" in modal
    assert "Short password for a printer" not in modal
    await play.wanda.submits()
    await play.wanda.sees_modal("Password rotated")
    await play.wanda.closes()
    await play.settled()
    assert not (await the_one(play)).device


async def test_of_two_who_rotate_at_once_one_reads_who_was_first(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    people = (play.wanda, play.adam)
    for person in people:
        await open_rotation(play, person)
    await asyncio.gather(*(person.submits() for person in people))
    await play.settled()
    seen = {person.name: person.read(person.view) for person in people if person.view}
    winner = next(name for name, shown in seen.items() if "Password rotated" in shown)
    loser = next(shown for name, shown in seen.items() if name != winner)
    assert "Nothing changed." in loser
    assert f"@{winner}" in loser
    assert sum("New password for Relay" in person.screen() for person in people) == 1
    assert [event.outcome for event in await play.events(action="rotate")] == ["done", "refused"]


async def test_who_rotates_later_from_a_modal_opened_before_reads_who_was_first(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    await open_rotation(play, play.adam)
    new = await rotate(play, play.wanda)
    await play.adam.submits()
    await play.adam.sees_modal("was changed meanwhile by @wanda")
    assert await fits(play, (await the_one(play)).password_hash, new)


async def test_a_submission_that_is_delivered_twice_rotates_once(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    await open_rotation(play, play.wanda)
    view = await play.wanda.sees_modal("Rotate password")
    payloads = [play.wanda.submission(view) for _ in range(2)]
    answers = await asyncio.gather(*(play.slack.deliver("interactive", payload) for payload in payloads))
    await play.settled()
    assert sorted(answer.body["view"]["title"]["text"] for answer in answers) == ["Rotating password", "SMTP Credentials"]
    assert [event.outcome for event in await play.events(action="rotate.finish")] == ["done"]


async def rotate_and_fail(play: Stage) -> str:
    old = await play.create(play.wanda, "Relay")
    before = await the_one(play)
    play.slack.fail("response_url", Fault("used_url", status=404))
    await open_rotation(play, play.wanda)
    await play.wanda.submits()
    await play.wanda.sees_modal("Password not changed")
    await play.settled()
    after = await the_one(play)
    assert (after.password_hash, after.version, after.rotation_begun_at) == (before.password_hash, before.version, None)
    assert [event.action for event in await play.events()][-2:] == ["rotate", "rotate.cancel"]
    return old


async def test_a_password_that_nobody_took_changes_nothing(play: Stage) -> None:
    play.slack.fail("chat.postEphemeral", Fault("user_not_in_channel"))
    await rotate_and_fail(play)
    await play.wanda.sees("so nothing changed. The old one still works")
    await play.wanda.closes()
    await rotate(play, play.wanda)


async def test_when_it_is_unclear_whether_it_arrived_the_old_one_goes_on(play: Stage) -> None:
    play.slack.fail("chat.postEphemeral", Fault("fatal_error", done=True))
    old = await rotate_and_fail(play)
    shown = password_in(play.wanda, await play.wanda.sees("New password for Relay", play.mail)).canonical
    await play.wanda.sees("If you see a new password, it won't work", play.mail)
    credential = await the_one(play)
    assert await fits(play, credential.password_hash, old)
    assert not await fits(play, credential.password_hash, shown)


async def test_a_deletion_while_the_password_is_on_its_way_wins(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    credential = await the_one(play)
    by_wanda = Origin(Actor(play.wanda.id, play.slack.world.team.id), Surface.MODAL, "ref", play.mail.id)
    key = "T0:V0"
    await play.db.change(lifecycle.begin_rotation, by_wanda, credential.id, play.mail.id, key, None)
    await open_and_delete(play, play.rex)
    with pytest.raises(RotationEnded):
        await play.db.change(lifecycle.finish_rotation, by_wanda, credential.id, key, "$argon2id$x")
    assert await play.passdb() == []
    assert (await the_one(play)).password_hash is None


async def open_and_delete(play: Stage, person: Person) -> None:
    await person.types(play.mail, "/smtp delete Relay")
    await person.sees_modal("Delete credential?")
    await person.submits()
    await person.sees_modal("Credential deleted")


async def test_deleting_during_the_hand_over_tells_that_the_new_one_will_not_work(play: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    await play.create(play.wanda, "Relay")
    credential = await the_one(play)
    await open_rotation(play, play.wanda)
    hasher = play.bot.services.hasher
    real = hasher.hash

    async def slow(password: str) -> str:
        by_rex = Origin(Actor(play.rex.id, play.slack.world.team.id, owner=True), Surface.MODAL, "ref", play.mail.id)
        await play.db.change(credentials.delete, by_rex, credential.id)
        return await real(password)

    monkeypatch.setattr(hasher, "hash", slow)
    await play.wanda.submits()
    await play.wanda.sees_modal("If you see a new password, it won't work")
    await play.settled()
    assert await play.passdb() == []


async def test_what_a_crash_left_on_its_way_is_cancelled_and_its_requester_told(play: Stage) -> None:
    old = await play.create(play.wanda, "Relay")
    credential = await the_one(play)
    by_wanda = Origin(Actor(play.wanda.id, play.slack.world.team.id), Surface.MODAL, "ref", play.mail.id)
    await play.db.change(lifecycle.begin_rotation, by_wanda, credential.id, play.mail.id, "T0:V0", None)
    await sweep.once(play.bot.services)
    await play.adam.types(play.mail, "/smtp rotate Relay")
    await play.adam.sees("is already on its way to @wanda")
    play.clock.passes(minutes=6)
    await asyncio.gather(sweep.once(play.bot.services), sweep.once(play.bot.services))
    await play.wanda.sees("I was interrupted while rotating the password of Relay", play.mail)
    credential = await the_one(play)
    assert credential.rotation_begun_at is None
    assert await fits(play, credential.password_hash, old)
    await rotate(play, play.adam)


async def test_an_answer_lost_after_the_commit_counts_as_done(play: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    await play.create(play.wanda, "Relay")
    real = play.bot.services.db.change

    async def lost(function: Any, *given: Any) -> Any:
        result = await real(function, *given)
        if function is lifecycle.finish_rotation:
            raise OutcomeUnknown
        return result

    monkeypatch.setattr(play.bot.services.db, "change", lost)
    new = await rotate(play, play.wanda)
    assert await fits(play, (await the_one(play)).password_hash, new)


async def test_the_right_is_asked_at_the_door_and_at_the_submission(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    for person, says in (
        (play.rita, "Rotating needs the writer role"),
        (play.rex, "Rotating needs the writer role"),
        (play.gus, "Guests can't"),
    ):
        await person.types(play.mail, "/smtp rotate Relay")
        await person.sees(says, play.mail)
        assert person.view is None
    await open_rotation(play, play.wanda)
    held = await play.db.read(grants.of_workspace, play.slack.world.team.id, play.acme)
    [grant] = [one for one in held if one.principal == play.wanda.id]
    await play.db.change(grants.remove, BY_TEST, grant.id)
    await play.wanda.submits()
    await play.wanda.sees_modal("Rotating needs the writer role")
    assert {event.outcome for event in await play.events(action="rotate")} == {"refused"}
    assert (await the_one(play)).rotated_at is None


async def test_the_password_is_shown_only_in_a_channel_of_its_workspace(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    await open_rotation(play, play.wanda)
    for channel, says in ((play.other, "connected to Acme"), (play.lobby, "connected to Acme"), (play.secret, "Add me to that channel")):
        play.wanda.picks("Channel", channel)
        await play.wanda.submits()
        await play.wanda.sees_modal(says)
    assert (await the_one(play)).rotation_begun_at is None


async def test_a_username_is_found_from_anywhere_but_does_not_tell_of_other_workspaces(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    username = (await the_one(play)).username
    dm = play.slack.world.direct(play.wanda.id, play.mia.id)
    await play.wanda.types(dm, f"/smtp rotate {username}")
    view = await play.wanda.sees_modal("Rotate password")
    assert view.values["channel"]["channel"]["selected_conversation"] in (play.mail.id, play.quiet.id, play.secret.id)
    await play.db.change(grants.grant, BY_TEST, play.slack.world.team.id, play.mia.id, Role.WRITER, play.zeta.id)
    await play.mia.types(play.other, f"/smtp rotate {username}")
    await play.mia.sees("I couldn't find", play.other)
    await play.mia.types(play.other, "/smtp rotate smtp-acme-00000000")
    await play.mia.sees("I couldn't find smtp-acme-00000000", play.other)


async def test_a_part_of_a_name_offers_those_that_contain_it(play: Stage) -> None:
    await play.create(play.wanda, "Relay one")
    await play.create(play.wanda, "Relay two")
    await play.wanda.types(play.mail, "/smtp rotate “relay”")
    await play.wanda.presses("Rotate…", await play.wanda.sees("More than one credential matches"), near="Relay two")
    await play.wanda.sees_modal("Relay two")
    await play.wanda.closes()
    await play.wanda.types(play.mail, "/smtp rotate")
    await play.wanda.sees_modal("Rotate which credential?")
    assert len(await play.wanda.searches("Part of a name or username", "")) == 2
    [found] = await play.wanda.searches("Part of a name or username", "ONE")
    await play.wanda.selects("Part of a name or username", found)
    await play.wanda.sees_modal("Relay one")


async def test_a_paused_channel_shows_no_password(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    await open_rotation(play, play.wanda)
    await play.db.change(workspaces.channel_shared, BY_TEST, play.slack.world.team.id, play.mail.id, True)
    await play.wanda.submits()
    await play.wanda.sees_modal("shared with another organization")
    assert (await the_one(play)).rotation_begun_at is None

"""The minute a credential leaks: revoke by username, from a message, for a whole workspace; whose is this; and proof that it stopped."""

import asyncio
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from bot.door import Door, Request
from bot.texts import SlackAway
from mailauth.verifier import Verifier
from sandbox.people import NotSeen, Person
from storage import audit, credentials, errands, grants, lifecycle, logins, passwords, typed, workspaces
from storage.access import Actor, Role
from storage.database import Trouble, Unavailable
from storage.errands import Kind
from storage.logins import Sent, Use
from storage.models import Errand
from storage.passwords import Hasher
from tests.stage import BY_TEST, PATIENT, Stage, stage
from tests.stores import sqlite_store
from tests.test_faults import known_troubles
from tests.test_listing import fill

SHORTCUT = "Revoke leaked credential"


async def made(play: Stage, *names: str) -> dict[str, str]:
    """Credentials by name, with their usernames."""
    for name in names:
        await play.create(play.wanda, name)
    return {one.name: one.username for one in await play.credentials()}


@pytest.mark.parametrize("form", ["{} {}", "{},{}", "```{}\n{}```", "user={};user={} and {}"])
async def test_several_at_once_pasted_in_any_form_from_anywhere(play: Stage, form: str) -> None:
    usernames = list((await made(play, "Relay", "Printer")).values())
    dm = play.slack.world.direct(play.rex.id, play.mia.id)
    await play.rex.types(dm, "/smtp revoke " + form.format(*usernames, usernames[0]))
    view = await play.rex.sees_modal("Revoke credentials")
    for part in ("Relay", "Printer", *usernames, "@wanda", "Last used", "I can't tell whether something uses it.", "can't be undone"):
        assert part in play.rex.read(view)
    play.rex.fills("Reason", "laptop stolen")
    await play.rex.submits()
    await play.rex.sees_modal("2 of 2 revoked")
    await play.settled()
    assert await play.passdb() == []
    assert [(one.outcome, one.reason) for one in await play.events(action="delete")] == [("done", "laptop stolen")] * 2
    told = play.mia.read(await play.mia.sees("@rex revoked 2 SMTP credentials in Acme", play.mail))
    for part in ("Relay", "Printer", *usernames, "Reason: laptop stolen", "before sending resumes"):
        assert part in told


async def test_each_gets_its_own_answer(play: Stage) -> None:
    names = await made(play, "Relay", "Printer", "Form")
    await play.wanda.types(play.mail, "/smtp delete Form")
    await play.wanda.sees_modal("Delete credential?")
    await play.wanda.submits()
    await play.wanda.sees_modal("Credential deleted")
    await play.wanda.closes()
    await play.rex.types(
        play.lobby, f"/smtp revoke {names['Relay']} {names['Printer']} {names['Form']} smtp-acme-00000000 smtp-zeta-11111111"
    )
    view = await play.rex.sees_modal("Form (")
    assert "was already deleted by @wanda" in play.rex.read(view)
    assert "No credential that you can see is called smtp-acme-00000000, smtp-zeta-11111111." in play.rex.read(view)
    await play.wanda.types(play.mail, "/smtp delete Relay")
    await play.wanda.sees_modal("Delete credential?")
    await play.wanda.submits()
    await play.wanda.sees_modal("Credential deleted")
    await play.rex.submits()
    shown = play.rex.read(await play.rex.sees_modal("1 of 2 revoked"))
    assert "Revoked Printer" in shown
    assert "Not revoked: Relay" in shown


async def test_two_responders_at_once_both_read_the_truth(play: Stage) -> None:
    username = (await made(play, "Relay"))["Relay"]
    people = (play.rex, play.wanda)
    for person in people:
        await person.types(play.lobby, f"/smtp revoke {username}")
        await person.sees_modal("Revoke credentials")
    await asyncio.gather(*(person.submits() for person in people))
    await play.settled()
    texts = [person.read(person.view) for person in people if person.view]
    assert sorted("Revoked Relay" in text for text in texts) == [False, True]
    assert sum("already deleted by" in text for text in texts) == 1


async def test_who_may_not_list_there_learns_nothing(play: Stage) -> None:
    username = (await made(play, "Relay"))["Relay"]
    stranger = play.slack.add_person("nina")
    play.lobby.members.append(stranger.id)
    await stranger.types(play.lobby, f"/smtp revoke {username}")
    shown = stranger.read(await stranger.sees_modal("No credential that you can see"))
    assert "Relay" not in shown
    await play.rita.types(play.lobby, f"/smtp revoke {username}")
    await play.rita.sees_modal(f"You can't revoke {username} in Acme.")
    await play.gus.types(play.lobby, f"/smtp revoke {username}")
    await play.gus.sees("Guests can't manage SMTP credentials")
    assert len(await play.passdb()) == 1


async def test_without_a_username_it_asks(play: Stage) -> None:
    username = (await made(play, "Relay"))["Relay"]
    await play.rex.types(play.mail, "/smtp revoke")
    await play.rex.sees_modal("SMTP username")
    play.rex.fills("SMTP username", "nothing of ours")
    await play.rex.submits()
    await play.rex.sees_modal("Enter a username, such as")
    play.rex.fills("SMTP username", f"  {username.upper()} ")
    await play.rex.submits()
    await play.rex.sees_modal("Relay")


async def test_a_whole_workspace_by_typing_its_short_name(play: Stage) -> None:
    await made(play, "Relay", "Printer", "Form")
    await play.rex.types(play.mail, "/smtp revoke workspace:acme")
    await play.rex.sees("needs the")
    await play.adam.types(play.lobby, "/smtp revoke workspace:acme")
    await play.adam.sees_modal("All 3 credentials")
    play.adam.picks("Do this", "Revoke all")
    play.adam.fills("Type its short name to confirm", "zeta")
    await play.adam.submits()
    await play.adam.sees_modal("Type acme to confirm")
    play.adam.fills("Type its short name to confirm", "acme")
    play.adam.fills("Reason", "moving away")
    await play.adam.submits()
    await play.adam.sees_modal("Revoked all 3 credentials of Acme")
    await play.settled()
    assert await play.passdb() == []
    assert "Reason: moving away" in play.mia.read(await play.mia.sees("@adam revoked all 3 SMTP credentials in Acme", play.mail))
    deleted = await play.events(action="delete", outcome="done")
    assert sorted(str(one.username) for one in deleted) == sorted(one.username for one in await play.credentials())
    assert {one.user_id for one in deleted} == {play.adam.id}
    assert [one.role for one in await play.events(action="workspace.revoke", outcome="done")] == ["admin"]
    assert (await play.db.read(audit.verify)).broken is None
    await play.wanda.types(play.mail, "/smtp list")
    await play.wanda.sees("No SMTP credentials in Acme yet")


async def test_an_order_that_takes_many_batches_stays_with_who_works_it_off(play: Stage) -> None:
    await play.db.note(fill, play.acme, [f"App {number}" for number in range(2 * credentials.DELETED_AT_ONCE + 1)])
    db, taken = play.bot.services.db, list[Errand]()
    follow = db.changed

    def after_each_batch() -> None:
        """Much of a lease is over, and another replica looks for something to do."""
        play.clock.passes(seconds=errands.LEASE.total_seconds() * 2 / 3)
        with ThreadPoolExecutor(1) as thread:
            taken.extend(thread.submit(asyncio.run, play.db.note(errands.take, 9, {Kind.REVOKE_ALL})).result())
        follow()

    db.changed = after_each_batch
    await play.db.change(credentials.order_revocation, BY_TEST, play.acme.id)
    play.bot.errands.wake()
    await play.settled()
    assert {one.state for one in await play.credentials()} == {"deleted"}
    assert taken == []


async def test_fifty_in_one_submission(play: Stage) -> None:
    from tests.test_list_and_delete import fill

    await fill(play, 50)
    usernames = [one.username for one in await play.credentials()]
    await play.adam.types(play.lobby, "/smtp revoke " + "\n".join(usernames))
    await play.adam.sees_modal("App 49")
    await play.adam.submits()
    await play.adam.sees_modal("50 of 50 revoked")
    assert await play.passdb() == []


def quiet(play: Stage, password: str, before: int) -> None:
    """The bot has sent and written the password nowhere since."""
    sent = [one.sent for one in list(play.slack.traffic)[before:] if one.way == "from app"]
    assert sent
    assert not [one for one in sent if password in one]
    assert password not in play.logs.getvalue()


@pytest.mark.parametrize(
    "form",
    [
        "the password is {password}!",
        "smtp://{username}:{password}@mail",
        "AUTH PLAIN {plain}",
        "```SMTP_PASSWORD={password}```",
        "{username}",
    ],
)
async def test_the_shortcut_finds_what_leaked_and_revokes_it(play: Stage, form: str) -> None:
    password = await play.create(play.wanda, "Relay")
    [credential] = await play.credentials()
    plain = b64encode(f"\0{credential.username}\0{password}".encode()).decode()
    message = await play.mia.posts(play.mail, form.format(password=password, username=credential.username, plain=plain))
    before = len(play.slack.traffic)
    await play.rex.uses_shortcut(SHORTCUT, message)
    await play.rex.sees_modal("Relay")
    await play.rex.submits()
    await play.rex.sees_modal("I can't delete the message it was in")
    await play.settled()
    assert await play.passdb() == []
    quiet(play, password, before)
    [event] = await play.events(action="delete")
    assert event.reason == "It leaked."


async def test_a_device_password_is_found_without_its_username(play: Stage) -> None:
    await play.wanda.types(play.mail, "/smtp create Printer")
    await play.wanda.sees_modal("New SMTP credential")
    play.wanda.ticks("Device", "Short password for a printer or another device")
    await play.wanda.submits()
    await play.settled()
    [parsed] = list(passwords.find(play.wanda.read(await play.wanda.sees(": Printer", play.mail))))
    await play.create(play.wanda, "Relay")
    message = await play.mia.posts(play.mail, f"printer: {parsed.canonical.upper()}")
    await play.rex.uses_shortcut(SHORTCUT, message)
    shown = play.rex.read(await play.rex.sees_modal("Printer"))
    assert "Relay" not in shown


async def test_blocks_and_attachments_are_read_and_dead_passwords_named(play: Stage) -> None:
    password = await play.create(play.wanda, "Relay")
    quoted = [{"type": "rich_text", "elements": [{"type": "rich_text_quote", "elements": [{"type": "text", "text": password}]}]}]
    message = await play.mia.posts(play.mail, "see", quoted)
    await play.rex.uses_shortcut(SHORTCUT, message)
    await play.rex.sees_modal("Relay")
    await play.rex.submits()
    await play.rex.sees_modal("Revoked Relay")
    await play.rex.closes()
    await play.rex.uses_shortcut(SHORTCUT, message)
    await play.rex.sees_modal("Relay: already revoked by @rex (")
    await play.rex.closes()
    await play.rex.uses_shortcut(SHORTCUT, await play.mia.posts(play.mail, "nothing"))
    await play.rex.sees_modal("I couldn't find an SMTP username or password of ours")
    await play.rex.sees_modal("SMTP username")


async def test_a_message_that_is_gone_and_people_from_elsewhere(play: Stage) -> None:
    password = await play.create(play.wanda, "Relay")
    message = await play.mia.posts(play.mail, f"oops {password}")
    play.slack.world.remove_message(message)
    await play.rex.uses_shortcut(SHORTCUT, message)
    await play.rex.sees_modal("Relay")
    await play.gus.uses_shortcut(SHORTCUT, message)
    await play.gus.sees_modal("Guests can't manage SMTP credentials")
    stranger = play.slack.add_person("sam", team_id="T0ELSEWHERE")
    with pytest.raises(NotSeen):
        await stranger.uses_shortcut(SHORTCUT, message)


def test_a_long_message_of_look_alikes_is_read_in_bounded_work() -> None:
    real = passwords.generate("abcdefgh")
    likes = " ".join(f"smtp1{number:05d}" for number in range(3_300)) + " smt" * 1000 + "smtp-acme-" * 300
    found = typed.read(likes[:39_900] + " " + real)
    assert [one.canonical for one in found.passwords] == [real]
    assert len(typed.read(" ".join(passwords.generate("abcdefgh") for _ in range(900))).passwords) == typed.FOUND_MAX
    assert typed.read(b64encode(f"x {real}".encode()).decode()).passwords[0].canonical == real
    assert typed.read("smtp%2Dacme%2Dabcdefgh").usernames == ["smtp-acme-abcdefgh"]


async def test_whois_tells_whose_it_is_to_those_who_may_see_it(play: Stage) -> None:
    password = await play.create(play.wanda, "Relay")
    [credential] = await play.credentials()
    before = len(play.slack.traffic)
    dm = play.slack.world.direct(play.rex.id, play.mia.id)
    for asked in (credential.username, f"Nov 24 postfix/smtpd: sasl_username={credential.username.upper()}", f"SMTP_PASSWORD={password}"):
        await play.rex.types(dm, f"/smtp whois {asked}")
        shown = play.rex.read(await play.rex.sees("Mail workspace  Acme", dm))
        for part in ("Relay", credential.username, "@wanda", "active", "[Suspend now]", "[Revoke…]" if password in asked else "[Delete…]"):
            assert part in shown
        assert ("You pasted its password" in shown) == (password in asked)
        play.rex.reloads()
    quiet(play, password, before)
    nina = play.slack.add_person("nina")
    play.lobby.members.append(nina.id)
    await nina.types(play.lobby, f"/smtp whois {credential.username}")
    await nina.sees("or it is in a workspace that you can't see")
    await play.rita.types(play.lobby, f"/smtp whois {credential.username}")
    assert "[Delete…]" not in play.rita.read(await play.rita.sees("Relay", play.lobby))
    await play.rex.types(dm, f"/smtp whois {credential.username}")


async def test_the_modal_says_how_much_will_stop(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    [credential] = await play.credentials()
    use = Use(play.clock() - timedelta(minutes=2), "192.0.2.7", "smtp", previous=False, count=12)
    await play.db.note(logins.record, {credential.id: use})
    await play.db.note(logins.record, {credential.id: Use(play.clock() - timedelta(hours=3), None, "smtp", previous=False, count=30)})
    await play.rex.types(play.mail, "/smtp delete Relay")
    shown = play.rex.read(await play.rex.sees_modal("Delete credential?"))
    assert "In use: 12 log-ins in the last hour, 42 in the last day, last 2 minutes ago. Mail will stop." in shown
    assert "from 192.0.2.7" in shown
    await play.rex.closes()
    play.clock.passes(days=91)
    await play.rex.types(play.mail, "/smtp delete Relay")
    await play.rex.sees_modal("Not used for 90 days.")


async def test_after_a_revoke_it_says_what_it_sent_and_how_often_it_was_tried(play: Stage) -> None:
    password = await play.create(play.wanda, "Relay")
    [credential] = await play.credentials()
    await play.db.note(logins.record, {credential.id: Use(play.clock(), "203.0.113.5", "smtp", previous=False)})
    await play.db.note(logins.record, {}, {credential.id: Sent(play.clock(), 412, 390, 1000)})
    hasher = Hasher(8, 1, 1)
    verifier = Verifier(play.db, hasher)
    await verifier.flush()
    await play.rita.types(play.mail, "/smtp list")
    await play.rita.sees("1 log-in, 412 messages in the last day", play.mail)
    await play.rex.types(play.lobby, f"/smtp revoke {credential.username}")
    await play.rex.sees_modal("can't be undone")
    await play.rex.submits()
    shown = play.rex.read(await play.rex.sees_modal("Revoked Relay"))
    assert "It sent 412 messages to 390 recipients in the last hour, from 203.0.113.5." in shown
    for attempt in (password, passwords.generate(credential.id)):
        assert (await verifier.check(credential.username, attempt, "203.0.113.5", "smtp")).why == "deleted"
    await verifier.flush()
    await play.rex.sees_modal("Since then it was tried twice, and refused.")
    await play.rex.closes()
    await play.rex.types(play.lobby, f"/smtp whois {credential.username}")
    told = play.rex.read(await play.rex.sees("Deleted by @rex", play.lobby))
    assert "Sent  412 messages to 390 recipients in the last hour, from 203.0.113.5" in told
    assert "Tried again  twice in the last day, and refused" in told
    await play.mia.sees("@rex revoked the SMTP credential Relay", play.mail)
    await play.adam.types(play.mail, "/smtp audit")
    await play.adam.sees("@rex revoked Relay\n", play.mail)
    hasher.close()


async def test_the_result_waits_for_the_mail_servers_to_confirm(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    for process in ("one", "two"):
        await play.db.note(logins.beat, process, f"mx:{process}", play.clock())
    await play.db.note(logins.beat, "gone", "mx:gone", play.clock(), stopped=True)
    await play.rex.types(play.mail, "/smtp delete Relay")
    await play.rex.sees_modal("Delete credential?")
    await play.rex.submits()
    await play.rex.sees_modal("not yet confirmed by 2 of 2 mail servers: mx:one, mx:two")
    await play.db.note(logins.beat, "one", "mx:one", play.clock())
    await play.rex.sees_modal("not yet confirmed by 1 of 2 mail servers: mx:two")
    await play.db.note(logins.beat, "two", "mx:two", play.clock())
    await play.rex.sees_modal("Confirmed: 2 of 2 mail servers refuse it since")
    await play.rex.sees_modal("Sessions that are open already go on until they end.")


async def test_who_watches_a_result_holds_no_place(tmp_path: Path) -> None:
    async with stage(sqlite_store(tmp_path / "bot.db"), "socket", replace(PATIENT, followed=600)) as play:
        watching = (play.wanda, play.adam, play.rex, play.olga)
        assert play.bot.services.limits.places == len(watching)
        names = await made(play, "Relay", "Printer", "Form", "Scanner")
        await play.db.note(logins.beat, "one", "mx:one", play.clock())
        for person, name in zip(watching, names, strict=True):
            await person.types(play.mail, f"/smtp delete {names[name]}")
            await person.sees_modal(name)
        for person in watching:
            await person.submits()
            await person.sees_modal("not yet confirmed by 1 of 1 mail server")
        await play.rita.types(play.mail, "/smtp list")
        await play.rita.sees("SMTP credentials", play.mail)
        await play.db.note(logins.beat, "one", "mx:one", play.clock())
        for person in watching:
            await person.sees_modal("Confirmed: 1 of 1 mail server")


async def test_a_database_that_goes_away_while_a_result_is_watched_takes_nothing_back(tmp_path: Path) -> None:
    async with stage(sqlite_store(tmp_path / "bot.db"), "socket", replace(PATIENT, followed=600)) as play:
        await play.create(play.wanda, "Relay")
        await play.db.note(logins.beat, "one", "mx:one", play.clock())
        await play.wanda.types(play.mail, "/smtp delete Relay")
        await play.wanda.sees_modal("Delete credential?")
        await play.wanda.submits()
        await play.wanda.sees_modal("not yet confirmed by 1 of 1 mail server")
        (tmp_path / "bot.db").rename(tmp_path / "away.db")
        assert await play.bot.services.work.drain(100)
        (tmp_path / "away.db").rename(tmp_path / "bot.db")
        assert "can no longer" in play.wanda.screen()
        assert "nothing was changed" not in play.wanda.screen()


@pytest.mark.parametrize("then", [Unavailable(Trouble.AWAY), Unavailable(Trouble.LATE), SlackAway("internal_error")], ids=repr)
async def test_a_request_that_fails_after_it_changed_something_claims_nothing_and_looks(play: Stage, then: Exception) -> None:
    team = play.slack.world.team.id

    async def gives_a_role_and_fails(request: Request) -> None:
        origin = request.origin(Actor(play.wanda.id, team, owner=True))
        await request.services.db.change(grants.grant, origin, team, play.mia.id, Role.READER, play.acme.id)
        raise then

    async def ack() -> None:
        pass

    body = {"command": "/smtp", "user_id": play.wanda.id, "team_id": team, "channel_id": play.mail.id}
    await Door(play.bot.services).work(gives_a_role_and_fails)(ack, body)
    await play.wanda.sees("I don't know yet whether that was done", play.mail)
    await play.wanda.sees("it was done.\nYou gave a role", play.mail)
    assert "nothing was changed" not in "".join(play.wanda.read(one) for one in play.wanda.messages(play.mail))
    known_troubles(play)


async def test_a_new_responder_counts_within_seconds(play: Stage) -> None:
    username = (await made(play, "Relay"))["Relay"]
    crew = play.slack.add_group("crew", play.mia)
    await play.db.change(grants.grant, BY_TEST, play.slack.world.team.id, crew.id, Role.RESPONDER, play.acme.id)
    newcomer: Person = play.rita
    await newcomer.types(play.lobby, f"/smtp revoke {username}")
    await newcomer.sees_modal("You can't revoke")
    await newcomer.closes()
    crew.users.append(newcomer.id)
    await play.slack.event({"type": "subteam_updated", "subteam": {"id": crew.id}})
    await play.settled()
    await newcomer.types(play.lobby, f"/smtp revoke {username}")
    await newcomer.sees_modal("can't be undone")


async def test_more_than_a_modal_holds_are_said_to_be_left_out(play: Stage) -> None:
    await made(play, "Relay")
    [username] = [one.username for one in await play.credentials()]
    many = " ".join([username, *(f"smtp-acme-{number:08d}" for number in range(60))])
    await play.rex.types(play.mail, f"/smtp revoke {many}")
    assert "11 more were not looked at." in play.rex.read(await play.rex.sees_modal("Relay"))
    await play.rex.closes()
    await play.rex.types(play.mail, f"/smtp whois {username} smtp-acme-00000000")
    await play.rex.sees("Not found, or in a workspace that you can't see: smtp-acme-00000000.", play.mail)
    for number in range(9):
        await play.create(play.wanda, f"App {number}")
    await play.rex.types(play.mail, "/smtp whois " + " ".join(one.username for one in await play.credentials()))
    await play.rex.sees("And 2 more: ask for them by themselves.", play.mail)


@pytest.mark.parametrize(("word", "offered"), [("suspend", "Relay"), ("resume", "Printer"), ("rotate", "Relay")])
async def test_a_picker_offers_what_it_can_be_done_to(play: Stage, word: str, offered: str) -> None:
    await made(play, "Relay", "Printer")
    printer = next(one for one in await play.credentials() if one.name == "Printer")
    await play.db.change(lifecycle.suspend, BY_TEST, printer.id)
    await play.wanda.types(play.mail, f"/smtp {word}")
    await play.wanda.sees_modal("which credential?")
    found = await play.wanda.searches("Part of a name or username", "")
    assert [one.partition(" ")[0] for one in found] == [offered]


async def test_a_picker_finds_what_is_in_any_of_very_many_workspaces(play: Stage) -> None:
    for number in range(305):
        await play.db.change(workspaces.add, BY_TEST, f"w{number:03d}", f"A {number:03d}")
    await play.db.change(grants.grant, BY_TEST, play.slack.world.team.id, play.mia.id, Role.WRITER, None)
    await play.db.change(grants.grant, BY_TEST, play.slack.world.team.id, play.wanda.id, Role.WRITER, play.zeta.id)
    await play.create(play.wanda, "Zeta relay", play.other)
    await play.create(play.wanda, "Acme relay")
    [zeta] = [one for one in await play.credentials() if one.name == "Zeta relay"]
    for who, found in ((play.olga, ["Acme relay", "Zeta relay"]), (play.mia, ["Acme relay", "Zeta relay"]), (play.rex, ["Acme relay"])):
        await who.types(play.lobby, "/smtp delete")
        await who.sees_modal("which credential?")
        offered = await who.searches("Part of a name or username", "relay")
        assert sorted(one.partition(" (")[0] for one in offered) == found
        by_username = await who.searches("Part of a name or username", zeta.username[:14])
        assert [one.partition(" (")[0] for one in by_username] == (["Zeta relay"] if who is not play.rex else [])
        await who.closes()


async def test_last_use_that_nobody_reports_is_claimed_nowhere(play: Stage) -> None:
    await made(play, "Relay")
    [credential] = await play.credentials()
    for typed_ in ("/smtp rotate Relay", "/smtp delete Relay"):
        await play.wanda.types(play.mail, typed_)
        assert "Last used  not reported by your mail server" in play.wanda.read(await play.wanda.sees_modal("Last used"))
        await play.wanda.closes()
    await play.db.change(lifecycle.suspend, BY_TEST, credential.id)
    for typed_ in ("/smtp resume Relay", "/smtp delete Relay"):
        await play.wanda.types(play.mail, typed_)
        assert "Last used  not reported by your mail server" in play.wanda.read(await play.wanda.sees_modal("Last used"))
        await play.wanda.closes()
    await play.wanda.types(play.mail, f"/smtp whois {credential.username}")
    assert "Last used  not reported by your mail server" in play.wanda.read(await play.wanda.sees("Suspended by", play.mail))


async def test_a_list_whose_row_was_gone_when_it_was_pressed_is_drawn_anew(play: Stage) -> None:
    await made(play, "Relay", "Printer")
    await play.rex.types(play.mail, "/smtp list")
    shown = await play.rex.sees("SMTP credentials in Acme (2)", play.mail)
    relay = next(one for one in await play.credentials() if one.name == "Relay")
    await play.db.change(credentials.delete, BY_TEST, relay.id)
    await play.rex.chooses("Delete…", near="Relay", where=shown)
    await play.rex.sees("was already deleted", play.mail)
    drawn = play.rex.read(await play.rex.sees("SMTP credentials in Acme (1)", play.mail))
    assert "Relay" not in drawn

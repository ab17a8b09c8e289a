"""Who answers for a credential, what becomes of it when they leave, and what nothing uses."""

import asyncio
import copy
from datetime import timedelta

from bot import sweep
from sandbox.people import Person
from sandbox.slack import Fault
from storage import credentials, grants, lifecycle, owners, tidy, workspaces
from storage.access import Role
from storage.audit import What
from storage.errands import CHANNELS_TOLD
from storage.logins import beat
from tests import raw
from tests.stage import BY_TEST, Stage
from tests.test_home import goes_home


async def create(play: Stage, *made: tuple[Person, str]) -> None:
    """One after the other, a second apart."""
    for person, name in made:
        await play.create(person, name)
        play.clock.passes(seconds=1)


async def more(person: Person, play: Stage, name: str, what: str) -> None:
    """Opens what stands behind More… in a row of the list."""
    await person.types(play.mail, "/smtp list")
    await person.sees(name)
    await person.chooses("More…", near=name)
    await person.sees_modal("More")
    await person.presses(what)


async def leaves(play: Stage, person: Person, times: int = 1) -> None:
    """Their account is deactivated, and Slack tells the app."""
    person.user.deleted = True
    event = {"type": "user_change", "user": {"id": person.id, "team_id": play.slack.world.team.id, "deleted": True}}
    await asyncio.gather(*(play.slack.event(event) for _ in range(times)))
    await play.settled()


async def reported(play: Stage) -> None:
    """A mail server process reports to the store."""
    await play.db.note(beat, "p1", "mx1:1", play.clock())


def about(person: Person, play: Stage, text: str) -> list[str]:
    return [person.read(one) for one in person.messages() if text in person.read(one)]


async def test_a_credential_belongs_to_its_creator_until_a_writer_gives_it_to_somebody(play: Stage) -> None:
    wanda, mia = play.wanda, play.mia
    await play.create(wanda, "Relay")
    [credential] = await play.credentials()
    assert credential.owner == wanda.id
    await more(wanda, play, "Relay", "Owner…")
    await wanda.sees_modal("belongs to @wanda")
    await wanda.submits()
    assert "Choose a person or a user group." in wanda.read(await wanda.sees_modal("Owner"))
    wanda.picks("person", mia)
    wanda.picks("Or a user group", "@oncall")
    await wanda.submits()
    assert "You chose a person and a group." in wanda.read(await wanda.sees_modal("Owner"))
    wanda.picks("Or a user group", None)
    await wanda.submits()
    await wanda.sees_modal("belongs to @mia now")
    await play.settled()
    await mia.sees("@wanda made you the owner of the SMTP credential Relay")
    await play.rita.types(play.mail, "/smtp list")
    await play.rita.sees("belongs to @mia")
    await play.rita.types(play.mail, f"/smtp whois {credential.username}")
    assert "Owner  @mia" in play.rita.read(await play.rita.sees("Mail workspace  Acme"))
    [event] = await play.events(action=What.OWNER)
    assert (event.subject, event.username) == (mia.id, credential.username)


async def test_who_is_no_member_of_the_team_can_own_nothing(play: Stage) -> None:
    wanda = play.wanda
    stranger = play.slack.add_person("sam", team_id="T0ELSEWHERE", is_stranger=True)
    left = play.slack.add_person("lea")
    await play.create(wanda, "Relay")
    await more(wanda, play, "Relay", "Owner…")
    await wanda.sees_modal("belongs to @wanda")
    for chosen in (stranger, left):
        wanda.picks("person", chosen)
        left.user.deleted = chosen is left  # after she was chosen
        await wanda.submits()
        assert "Choose somebody who is a member of your Slack team." in wanda.read(await wanda.sees_modal("Owner"))
    play.slack.fail("users.info", Fault("internal_error", times=50))
    wanda.picks("person", play.mia)
    await wanda.submits()
    assert "I can't check" in wanda.read(await wanda.sees_modal("Owner"))
    assert [one.owner for one in await play.credentials()] == [wanda.id]


async def test_reminders_go_to_the_owner_and_to_a_group_in_the_channel(play: Stage) -> None:
    await create(play, (play.wanda, "Relay"), (play.wanda, "Printer"))
    relay, printer = await play.credentials()
    await play.db.change(owners.change, BY_TEST, relay.id, play.mia.id)
    await play.db.change(owners.change, BY_TEST, printer.id, play.oncall.id)
    now = play.clock()
    await raw.change_credentials(play.db, expires_at=now + timedelta(days=6), remind_at=now)
    await sweep.once(play.bot.services)
    await play.settled()
    dm = play.slack.world.dm(play.mia.id).id
    assert [one.channel for one in play.mia.messages() if "Relay" in play.mia.read(one) and " expires (" in play.mia.read(one)].count(
        dm
    ) == 1
    [group] = [one for one in about(play.rex, play, "Printer") if " expires (" in one]
    assert "For @oncall, who own it" in group


async def test_any_of_many_user_groups_can_be_the_owner(play: Stage) -> None:
    groups = [play.slack.add_group(f"group{number:03d}") for number in range(130)]
    await play.create(play.wanda, "Relay")
    await more(play.wanda, play, "Relay", "Owner…")
    await play.wanda.sees_modal("belongs to @wanda")
    assert await play.wanda.searches("Or a user group", "group12") == [f"@group12{number}" for number in range(10)]
    play.wanda.picks("Or a user group", "@group129")
    await play.wanda.submits()
    await play.wanda.sees_modal("belongs to @group129 now")
    assert [one.owner for one in await play.credentials()] == [groups[129].id]


async def test_when_somebody_leaves_their_roles_end_and_admins_read_what_they_owned_once(play: Stage) -> None:
    wanda, adam = play.wanda, play.adam
    await create(play, (wanda, "Relay"), (wanda, "Printer"), (wanda, "Scanner"))
    await play.db.change(grants.grant, BY_TEST, play.slack.world.team.id, wanda.id, Role.READER, play.zeta.id)
    await leaves(play, wanda, times=3)
    await sweep.look_after_owners(play.bot.services, BY_TEST)
    await play.settled()
    assert [one.subject for one in await play.events(action=What.UNGRANT)] == [f"{wanda.id} writer", f"{wanda.id} reader"]
    left = await play.events(action=What.LEFT)
    assert [(one.workspace_id, one.subject) for one in left] == [(play.acme.id, f"{wanda.id} writer"), (play.zeta.id, f"{wanda.id} reader")]
    told = about(adam, play, "@wanda left the Slack team.")
    assert len([one for one in told if "Acme" in one]) == 1
    assert len([one for one in told if "Zeta" in one]) == 1
    message = await adam.sees("These 3 credentials in Acme belonged to them.")
    assert "Can decide: @adam" in adam.read(message)

    await adam.presses("Take over", message, near="")
    await adam.sees("These 2 credentials in Acme")
    await adam.presses("Give to…", message)
    await adam.sees_modal("belongs to @wanda")
    adam.picks("person", play.mia)
    await adam.submits()
    await adam.sees_modal("belongs to @mia now")
    await adam.closes()
    await adam.sees("This credential in Acme belonged to them.")
    await adam.presses("Suspend", message)
    await adam.sees("Scanner (suspended)")
    await play.settled()
    assert [(one.name, one.owner, one.state) for one in await play.credentials()] == [
        ("Relay", adam.id, "active"),
        ("Printer", play.mia.id, "active"),
        ("Scanner", wanda.id, "suspended"),
    ]
    await adam.presses("Take over", message)
    await adam.sees("No credential in Acme belongs to them any more.")


async def test_the_message_about_who_left_settles_and_gives_nothing_away_twice(play: Stage) -> None:
    adam = play.adam
    await create(play, *((play.wanda, f"App {number}") for number in range(12)))
    await leaves(play, play.wanda)
    message = await adam.sees("These 12 credentials in Acme belonged to them.")
    stale = [copy.deepcopy(message)]
    ids = {one.name: one.id for one in await play.credentials()}
    await play.db.change(owners.change, BY_TEST, ids["App 0"], play.mia.id)
    await adam.sees("These 11 credentials in Acme belonged to them.")
    stale.append(copy.deepcopy(message))
    await play.db.change(credentials.delete, BY_TEST, ids["App 1"])
    text = adam.read(await adam.sees("These 10 credentials in Acme belonged to them."))
    assert ("App 0" in text, "App 1\n" in text) == (False, False)
    await play.db.change(lifecycle.suspend, BY_TEST, ids["App 11"])
    await adam.sees("App 11 (suspended)")  # what was not listed at first settles too

    for old, said in zip(stale, ("App 0 belongs to @mia now. Nothing changed.", "App 1 (smtp-"), strict=True):
        await adam.presses("Take over", old)
        await adam.sees(said)
    await play.settled()
    assert {one.name: one.owner for one in await play.credentials()}["App 0"] == play.mia.id
    assert [one.cause for one in await play.events(user_id=adam.id, action=What.OWNER)] == ["already_owned", "already_deleted"]


async def test_of_very_many_channels_that_take_nothing_a_bounded_number_is_tried_before_a_person(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    team = play.slack.world.team.id
    await play.db.change(workspaces.unmap_channel, BY_TEST, team, play.mail.id)
    for number in range(CHANNELS_TOLD):
        channel = play.slack.add_channel(f"closed{number}", private=True, with_bot=False)
        await play.db.change(workspaces.map_channel, BY_TEST, team, channel.id, play.acme.id)
    play.bot.errands.wake()
    await play.settled()
    before = len(play.slack.traffic)
    await leaves(play, play.wanda)
    await play.adam.sees("This credential in Acme belonged to them.", play.slack.world.dm(play.adam.id))
    assert [one.what for one in list(play.slack.traffic)[before:]].count("chat.postMessage") == CHANNELS_TOLD + 1


async def test_the_buttons_about_who_left_ask_for_a_role(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    await leaves(play, play.wanda)
    message = await play.rita.sees("This credential in Acme belonged to them.", play.mail)
    for label in ("Take over", "Give to…", "Suspend"):
        await play.rita.presses(label, message)
        await play.settled()
    [credential] = await play.credentials()
    assert (credential.owner, credential.state) == (play.wanda.id, "active")
    assert {(one.action, one.outcome) for one in await play.events(user_id=play.rita.id)} == {
        ("owner.change", "refused"),
        ("suspend", "refused"),
    }


async def test_the_sweep_finds_who_left_when_the_event_was_missed_a_few_at_a_time(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    leavers = [play.slack.add_person(f"p{number}") for number in range(12)]
    for one in leavers:
        await play.grant(one, Role.READER)
        one.user.deleted = True
    play.wanda.user.deleted = True
    for _ in range(4):
        asked = len([one for one in play.slack.traffic if one.what == "users.info"])
        await sweep.once(play.bot.services)
        assert len([one for one in play.slack.traffic if one.what == "users.info"]) - asked <= owners.ASKED_AT_ONCE
    await play.settled()
    gone = [one.subject.split(" ")[0] for one in await play.events(action=What.LEFT) if one.subject]
    assert sorted(gone) == sorted([play.wanda.id, *(one.id for one in leavers)])
    await play.adam.sees("@wanda left the Slack team.")


async def test_while_slack_is_away_the_sweep_asks_about_one_person_alone(play: Stage) -> None:
    for number in range(4):
        await play.grant(play.slack.add_person(f"p{number}"), Role.READER)
    play.slack.fail("users.info", Fault("internal_error", times=50))
    before = len(play.slack.traffic)
    await sweep.look_after_owners(play.bot.services, BY_TEST)
    asked = [one.sent for one in list(play.slack.traffic)[before:] if one.what == "users.info"]
    assert 1 <= len(set(asked)) <= 2, "the bot's own sweep may have begun as well"


async def test_who_comes_back_may_own_again_but_has_no_role(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    [credential] = await play.credentials()
    await leaves(play, play.wanda)
    assert await play.db.read(owners.is_gone, play.wanda.id)
    play.wanda.user.deleted = False
    await play.slack.event({"type": "user_change", "user": {"id": play.wanda.id, "team_id": play.slack.world.team.id}})
    await play.settled()
    assert not await play.db.read(owners.is_gone, play.wanda.id)
    await play.db.change(owners.change, BY_TEST, credential.id, play.mia.id)
    await play.db.change(owners.change, BY_TEST, credential.id, play.wanda.id)
    assert play.wanda.id not in [one.principal for one in await play.db.read(grants.of_workspace, play.slack.world.team.id, play.acme)]


async def test_home_shows_what_is_mine_expiring_unused_and_without_an_owner(play: Stage) -> None:
    await create(play, (play.wanda, "App wanda"), (play.wanda, "App old"), (play.adam, "App adam"), (play.wanda, "App soon"))
    await play.grant(play.mia)
    ids = {one.name: one.id for one in await play.credentials()}
    await play.db.change(owners.change, BY_TEST, ids["App wanda"], play.mia.id)
    now = play.clock()
    await raw.sql(
        play.db, f"UPDATE credentials SET expires_at = {int((now + timedelta(days=9)).timestamp() * 1000)} WHERE name = 'App soon'"
    )
    await raw.sql(
        play.db, f"UPDATE credentials SET created_at = {int((now - timedelta(days=91)).timestamp() * 1000)} WHERE name = 'App old'"
    )
    await leaves(play, play.mia)

    async def narrowed(label: str) -> list[str]:
        await play.adam.presses(label, await play.adam.sees_home("Showing 1 to 4 of 4."))
        text = play.adam.read(await play.adam.sees_home("Showing 1 to 1 of 1."))
        await play.adam.presses("Show all", play.slack.world.homes[play.adam.id])
        await play.adam.sees_home("Showing 1 to 4 of 4.")
        return [name for name in ids if f"{name}\n" in text]

    await goes_home(play.adam, "Showing 1 to 4 of 4.")
    assert await narrowed("Mine") == ["App adam"]
    assert await narrowed("Expiring") == ["App soon"]
    assert await narrowed("Owner gone") == ["App wanda"]
    assert "Unused" not in play.adam.read(play.slack.world.homes[play.adam.id])
    await reported(play)
    await play.adam.opens_home()
    await play.adam.sees_home("[Unused]")
    assert await narrowed("Unused") == ["App old"]


async def test_owners_read_monthly_what_nothing_uses_and_keep_or_suspend_it(play: Stage) -> None:
    wanda = play.wanda
    await create(play, (wanda, "Relay"), (wanda, "Printer"), (wanda, "Busy"))
    await reported(play)
    play.clock.passes(days=91)
    await raw.sql(play.db, f"UPDATE credentials SET last_used_at = {int(play.clock().timestamp() * 1000)} WHERE name = 'Busy'")
    await asyncio.gather(*(sweep.once(play.bot.services) for _ in range(3)))
    await play.settled()
    [note] = [one for one in wanda.messages() if "2 SMTP credentials that nothing has used for 90 days" in wanda.read(one)]
    assert "Busy" not in wanda.read(note)
    await wanda.presses("Keep", note)
    await wanda.sees("an SMTP credential that nothing has used")
    await wanda.presses("Suspend", note)
    await wanda.sees("Done: nothing of it is left unused.")
    await play.settled()
    assert [(one.name, one.state, one.kept_at is not None) for one in await play.credentials()] == [
        ("Relay", "active", True),
        ("Printer", "suspended", False),
        ("Busy", "active", False),
    ]
    assert [one.outcome for one in await play.events(action=What.KEEP)] == ["done"]
    for _ in range(2):  # next month: what was kept is not asked about again, nor what was suspended
        play.clock.passes(days=31)
        await raw.sql(play.db, f"UPDATE credentials SET last_used_at = {int(play.clock().timestamp() * 1000)} WHERE name = 'Busy'")
        await sweep.once(play.bot.services)
    await play.settled()
    assert len(about(wanda, play, "has used for 90 days")) == 0
    play.clock.passes(days=31)
    await sweep.once(play.bot.services)
    await play.settled()
    assert len(about(wanda, play, "an SMTP credential that nothing has used for 90 days")) == 1


async def test_the_note_about_what_nothing_uses_settles(play: Stage) -> None:
    wanda = play.wanda
    await create(play, (wanda, "Relay"), (wanda, "Printer"), (wanda, "Scanner"))
    await reported(play)
    play.clock.passes(days=91)
    await sweep.once(play.bot.services)
    await play.settled()
    ids = {one.name: one.id for one in await play.credentials()}
    await wanda.sees("3 SMTP credentials that nothing has used")
    await play.db.change(lifecycle.suspend, BY_TEST, ids["Relay"])
    await wanda.sees("2 SMTP credentials that nothing has used")
    await play.db.change(owners.change, BY_TEST, ids["Printer"], play.mia.id)
    await wanda.sees("an SMTP credential that nothing has used")
    await play.db.change(tidy.keep, BY_TEST, ids["Scanner"])
    await wanda.sees("Done: nothing of it is left unused.")


async def test_where_use_is_not_reported_nobody_is_asked(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    play.clock.passes(days=100)
    await sweep.once(play.bot.services)
    await play.settled()
    assert about(play.wanda, play, "has used for") == []
    await reported(play)
    await sweep.once(play.bot.services)
    await play.settled()
    assert len(about(play.wanda, play, "has used for")) == 1


async def test_a_note_lists_ten_and_says_how_many_more_and_a_group_reads_it_in_the_channel(play: Stage) -> None:
    await create(play, *((play.wanda, f"App {number}") for number in range(12)))
    await reported(play)
    await raw.change_credentials(play.db, owner=play.oncall.id, created_at=play.clock() - timedelta(days=91))
    await sweep.once(play.bot.services)
    await play.settled()
    note = await play.rex.sees("@oncall owns 12 SMTP credentials that nothing has used", play.mail)
    text = play.rex.read(note)
    assert text.count("never used") == owners.LISTED
    assert "And 2 more in my Home tab" in text
    await play.rex.presses("Keep", note)
    await play.rex.sees("@oncall owns 11 SMTP credentials")


async def test_an_owner_without_a_role_reads_who_can_suspend_it(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    await reported(play)
    await raw.change_credentials(play.db, owner=play.mia.id, created_at=play.clock() - timedelta(days=91))
    await sweep.once(play.bot.services)
    await play.settled()
    note = await play.mia.sees("You own an SMTP credential that nothing has used for 90 days")
    assert "Ask @adam." in play.mia.read(note)
    assert not [block for block in note.blocks if block["type"] == "actions"]

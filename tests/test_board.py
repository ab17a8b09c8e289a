"""The board, which depends on who reads it; the app that speaks first; and asking for a role."""

import asyncio

import pytest

from sandbox.people import Person
from sandbox.slack import Fault
from sandbox.world import Channel
from storage import asking, errands, grants, workspaces
from storage.access import Actor, Role
from storage.audit import Origin, Surface
from storage.refusals import AskedTooOften
from tests import raw
from tests.stage import BY_TEST, Stage, stage
from tests.test_process import SlowSlack


async def board(play: Stage, person: Person, where: Channel) -> str:
    await person.types(where, "/smtp")
    return person.read(await person.sees("For support:", where))


async def test_elsewhere_it_offers_what_the_reader_may_do_in_all_their_workspaces(play: Stage) -> None:
    for where in (play.lobby, play.slack.world.direct(play.rex.id, play.mia.id)):
        shown = await board(play, play.rex, where)
        for part in (
            "You're a responder in Acme, through @oncall.",
            "[Revoke…]",
            "[Whose is this?]",
            "[Open Home]",
            "#mail",
            "/smtp revoke",
        ):
            assert part in shown, part
        assert "Connect this channel" not in shown
        assert "/smtp create" not in shown
    shown = await board(play, play.adam, play.lobby)
    assert "[Connect this channel]" in shown
    assert "isn't connected to a mail workspace yet" in shown
    assert "[Connect this channel]" not in await board(play, play.adam, play.slack.world.direct(play.adam.id, play.mia.id))
    assert "[Revoke…]" not in await board(play, play.rita, play.lobby)


async def test_without_a_role_it_says_who_can_give_one(play: Stage) -> None:
    shown = await board(play, play.mia, play.lobby)
    assert "You have no role in any mail workspace. Ask @olga for one." in shown
    assert "Acme" not in shown
    assert "[" not in shown.replace("[/", "")
    await play.gus.types(play.lobby, "/smtp")
    await play.gus.sees("Guests can't manage SMTP credentials", play.lobby)


async def test_an_owner_before_the_first_workspace_connects_the_channel(play: Stage) -> None:
    for table in ("role_grants", "channel_mappings", "workspaces"):
        await raw.sql(play.db, f"DELETE FROM {table}")
    shown = await board(play, play.olga, play.lobby)
    assert "[Connect this channel]" in shown
    assert "You're an owner of this app: you may do everything in every mail workspace." in shown
    assert "Ask @olga" not in shown
    assert "Ask @olga for one." in await board(play, play.mia, play.lobby)
    await play.db.change(grants.grant, BY_TEST, play.slack.world.team.id, play.rita.id, Role.ADMIN, None)
    shown = await board(play, play.rita, play.lobby)
    assert ("[Connect this channel]" in shown, "an admin in all mail workspaces" in shown) == (True, True)


async def test_in_a_mail_channel_too_it_offers_what_works_in_other_workspaces(play: Stage) -> None:
    await play.db.change(grants.grant, BY_TEST, play.slack.world.team.id, play.mia.id, Role.RESPONDER, play.zeta.id)
    shown = await board(play, play.mia, play.mail)
    assert ("[Revoke…]" in shown, "[Whose is this?]" in shown, "/smtp revoke" in shown) == (True, True, True)
    assert ("[Create credential]" in shown, "/smtp delete" in shown, "/smtp create" in shown) == (False, False, False)


async def test_its_buttons_lead_to_the_act(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    [credential] = await play.credentials()
    await play.rex.types(play.lobby, "/smtp")
    shown = await play.rex.sees("[Revoke…]", play.lobby)
    await play.rex.presses("Revoke…", shown)
    await play.rex.sees_modal("SMTP username")
    play.rex.fills("SMTP username", f"sasl_username={credential.username}, refused")
    await play.rex.submits()
    await play.rex.sees_modal("Relay")
    await play.rex.closes()
    await play.rex.presses("Whose is this?", shown)
    await play.rex.sees_modal("A username, or a line of a log")
    play.rex.fills("A username, or a line of a log", f"`{credential.username}`")
    await play.rex.submits()
    await play.rex.sees_modal("Relay")


async def test_roles_in_three_hundred_workspaces_fit_on_it(play: Stage) -> None:
    team = play.slack.world.team.id

    def many(tx: object) -> None:
        for number in range(300):
            made = workspaces.add(tx, BY_TEST, f"w{number:03}", f"Workspace {number:03}")  # type: ignore[arg-type]
            grants.grant(tx, BY_TEST, team, play.mia.id, Role.READER if number else Role.ADMIN, made.id)  # type: ignore[arg-type]

    await play.db.change(many)
    shown = await board(play, play.mia, play.lobby)
    assert "You're an admin in Workspace 000." in shown
    assert "And in 290 more; Home has them all." in shown
    await play.mia.presses("Connect this channel", await play.mia.sees("For support:", play.lobby))
    await play.mia.sees_modal("Connect this channel")
    await play.mia.closes()
    await play.olga.types(play.lobby, "/smtp setup")
    await play.olga.sees_modal("Connect this channel")
    assert "Workspace 287 (w287)" in await play.olga.searches("Part of its name", "w287")
    play.olga.picks("Mail workspace", "Workspace 287 (w287)")
    await play.olga.submits()
    await play.settled()
    await play.mia.sees("connected this channel to the mail workspace Workspace 287", play.lobby)


async def test_an_unknown_word_has_a_button_for_what_was_probably_meant(play: Stage) -> None:
    await play.wanda.types(play.mail, "/smtp lsit")
    await play.wanda.presses("Yes, list", await play.wanda.sees("Did you mean list?"))
    await play.wanda.sees("No SMTP credentials in Acme yet.")


# --- it speaks first ---
async def test_an_owners_first_set_up_takes_one_typed_line_and_few_clicks(play: Stage) -> None:
    shop = play.slack.add_channel("shop-mail", play.olga, play.mia, with_bot=False)
    await play.olga.invites_app(shop)
    hello = await play.olga.sees("I hand out SMTP credentials", shop)
    assert "[Connect this channel]" in play.mia.read(hello)
    await play.mia.presses("Connect this channel", hello)
    await play.mia.sees("Connecting a channel takes the admin role in a mail workspace. Ask @olga, who owns this app.", shop)
    await play.olga.presses("Connect this channel", hello)
    view = await play.olga.sees_modal("Connect this channel")
    assert view.values["slug"]["slug"]["value"] == "shop"
    await play.olga.submits()
    await play.settled()
    assert "@olga connected this channel to the mail workspace shop" in play.mia.read(hello)
    assert "[Connect this channel]" not in play.mia.read(hello)
    await play.olga.presses("Create the first credential", hello)
    await play.olga.sees_modal("New SMTP credential")
    play.olga.fills("Name", "Checkout")
    await play.olga.submits()
    await play.olga.sees(": Checkout\n", shop)
    await play.olga.presses("Give roles", hello)
    await play.olga.sees_modal("Roles in shop")


async def test_it_speaks_once_and_only_of_itself(play: Stage) -> None:
    lounge = play.slack.add_channel("lounge", play.olga, with_bot=False)
    await play.olga.invites_app(lounge)
    await play.mia.joins(lounge)
    await play.settled()
    assert len([one for one in play.olga.messages(lounge) if "I hand out" in play.olga.read(one)]) == 1
    await play.slack.event({"type": "member_joined_channel", "user": play.slack.world.installed().bot_user, "channel": play.mail.id})
    await play.settled()
    assert not [one for one in play.olga.messages(play.mail) if "I hand out" in play.olga.read(one)]


async def test_a_channel_that_was_disconnected_is_offered_to_be_connected_again(play: Stage) -> None:
    lounge = play.slack.add_channel("lounge", play.olga, play.adam)
    connect = Origin(Actor(play.olga.id, play.slack.world.team.id, owner=True), Surface.MODAL, "ref", lounge.id)
    await play.db.change(workspaces.map_channel, connect, play.slack.world.team.id, lounge.id, play.acme.id)
    await play.olga.sees("[Create the first credential]", lounge)
    await play.db.change(workspaces.unmap_channel, connect, play.slack.world.team.id, lounge.id)
    await play.olga.sees("[Connect this channel]", lounge)
    assert "connected this channel" not in "".join(play.olga.read(one) for one in play.olga.messages(lounge))
    await play.db.change(workspaces.map_channel, connect, play.slack.world.team.id, lounge.id, play.zeta.id)
    await play.olga.sees("connected this channel to the mail workspace Zeta", lounge)
    assert len([one for one in play.olga.messages(lounge) if one.user != play.olga.id]) == 1


async def test_a_channel_that_a_shell_connects_settles_what_offered_it_and_announces_nothing(play: Stage) -> None:
    shop = play.slack.add_channel("shop-mail", play.olga, with_bot=False)
    await play.olga.invites_app(shop)
    hello = await play.olga.sees("[Connect this channel]", shop)
    shell = Origin(Actor("shell:root", play.slack.world.team.id, owner=True), Surface.SHELL, "ref")
    for channel in (shop, play.slack.add_channel("lounge", play.olga)):
        await play.db.change(workspaces.map_channel, shell, play.slack.world.team.id, channel.id, play.acme.id)
        play.bot.errands.wake()
        await play.settled()
        assert [one for one in play.olga.messages(channel) if one.user != play.olga.id] == ([hello] if channel is shop else [])
    assert "shell:root connected this channel to the mail workspace Acme" in play.olga.read(hello)
    await play.db.change(workspaces.unmap_channel, shell, play.slack.world.team.id, shop.id)
    play.bot.errands.wake()
    await play.settled()
    assert "[Connect this channel]" in play.olga.read(hello)


async def test_in_a_channel_that_is_shared_it_offers_nothing(play: Stage) -> None:
    lounge = play.slack.add_channel("lounge", play.olga, with_bot=False)
    lounge.connected_teams.append("T0ELSEWHERE")
    await play.olga.invites_app(lounge)
    await play.settled()
    shown = play.olga.read(await play.olga.sees("This channel is shared with another organization", lounge))
    assert "[Connect this channel]" not in shown


async def test_setup_announces_only_what_changed(play: Stage) -> None:
    await play.adam.types(play.mail, "/smtp setup")
    await play.adam.sees_modal("It is connected to Acme")
    play.adam.ticks("Post a note in the workspace's channels when", "a credential is created")
    await play.adam.submits()
    await play.adam.sees_modal("Saved. #mail still manages Acme")
    await play.settled()
    assert not [one for one in play.mia.messages(play.mail) if "connected this channel" in play.mia.read(one)]
    assert [one.action for one in await play.events(user_id=play.adam.id)] == ["workspace.notices"]


# --- asking for a role ---
async def refused(play: Stage, person: Person) -> None:
    await person.types(play.mail, "/smtp create Relay")
    await person.presses("Ask for the writer role", await person.sees("Creating needs the writer role in Acme", play.mail))


async def test_who_was_refused_asks_an_admin_and_reads_the_answer(play: Stage) -> None:
    await refused(play, play.rita)
    await play.rita.sees("I asked @adam for the writer role in Acme", play.mail)
    await play.settled()
    request = await play.adam.sees("@rita asks for the writer role in Acme.\nWhat for: creating.")
    assert play.slack.world.channels[request.channel].kind == "im"
    await play.adam.presses("Give writer", request)
    await play.settled()
    await play.rita.sees("@adam gave you the writer role in Acme", play.mail)
    assert "@adam gave it" in play.adam.read(request)
    assert "[Give writer]" not in play.adam.read(request)
    await play.rita.types(play.mail, "/smtp create Relay")
    await play.rita.sees_modal("New SMTP credential")
    assert [(one.action, one.subject) for one in await play.events() if one.action.startswith("access.") and one.surface != "shell"] == [
        ("access.ask", f"{play.rita.id} writer"),
        ("access.grant", f"{play.rita.id} writer"),
    ]


async def test_an_admin_says_no(play: Stage) -> None:
    await refused(play, play.mia)
    await play.settled()
    request = await play.adam.sees("@mia asks for the writer role in Acme.")
    await play.adam.presses("No", request)
    await play.settled()
    await play.mia.sees("@adam said no: you don't have the writer role in Acme", play.mail)
    assert "@adam said no" in play.adam.read(request)
    await refused(play, play.mia)
    await play.settled()
    assert len([one for one in play.adam.messages() if "asks for the writer role" in play.adam.read(one)]) == 1


async def test_of_two_admins_one_answers_and_both_read_it(play: Stage) -> None:
    await play.grant(play.wanda, Role.ADMIN)
    await refused(play, play.mia)
    await play.settled()
    admins = (play.adam, play.wanda)
    requests = {one.name: await one.sees("@mia asks for the writer role in Acme.") for one in admins}
    await asyncio.gather(
        play.adam.presses("Give writer", requests["adam"]),
        play.wanda.presses("No", requests["wanda"]),
    )
    await play.settled()
    texts = {one.read(requests[one.name]).partition("\n")[2] for one in admins}
    assert len(texts) == 1, texts
    assert "[" not in texts.pop()
    done = [
        one.outcome
        for one in await play.events()
        if one.action in ("access.grant", "access.decline") and one.subject == f"{play.mia.id} writer"
    ]
    assert sorted(done) == ["done", "refused"]


async def test_a_role_that_came_another_way_settles_the_request(play: Stage) -> None:
    await refused(play, play.mia)
    await play.settled()
    request = await play.adam.sees("@mia asks for the writer role in Acme.")
    await play.grant(play.mia, Role.ADMIN)
    play.bot.errands.wake()
    await play.settled()
    assert "gave it" in play.adam.read(request)
    await play.mia.sees("gave you the writer role in Acme", play.mail)


async def test_a_request_that_is_answered_while_it_is_sent_says_so_and_its_asker_reads_it(database_url: str) -> None:
    async with stage(database_url, "socket", kind=SlowSlack) as play:
        slack = play.slack
        assert isinstance(slack, SlowSlack)
        slack.slow = "chat.postMessage"
        slack.gate.clear()
        await refused(play, play.mia)
        await slack.world.until(lambda: slack.held or None, 40)
        await play.grant(play.mia)
        slack.gate.set()
        await play.settled()
        request = play.adam.read(await play.adam.sees("@mia asked for the writer role in Acme."))
        assert ("gave it" in request, "[Give writer]" in request) == (True, False)
        await play.mia.sees("gave you the writer role in Acme", play.mail)


async def test_who_left_while_their_request_was_open_gets_nothing(play: Stage) -> None:
    await refused(play, play.mia)
    await play.settled()
    request = await play.adam.sees("@mia asks for the writer role in Acme.")
    play.mia.user.deleted = True
    await play.slack.event({"type": "user_change", "user": {"id": play.mia.id, "deleted": True}})
    await play.settled()
    play.clock.passes(minutes=2)
    await play.adam.presses("Give writer", request)
    await play.settled()
    assert "Nothing was given: their account can't be used any more" in play.adam.read(request)
    held = await play.db.read(grants.of_workspace, play.slack.world.team.id, play.acme)
    assert play.mia.id not in [one.principal for one in held]


async def test_an_admin_who_is_none_any_more_gives_nothing(play: Stage) -> None:
    await refused(play, play.mia)
    await play.settled()
    request = await play.adam.sees("@mia asks for the writer role in Acme.")
    await play.grant(play.adam, Role.READER)
    await play.adam.presses("Give writer", request)
    await play.adam.sees("Giving roles needs the admin role in Acme; you are a reader")
    held = await play.db.read(grants.of_workspace, play.slack.world.team.id, play.acme)
    assert play.mia.id not in [one.principal for one in held]


async def test_asking_is_bounded(play: Stage) -> None:
    mia = Origin(Actor(play.mia.id, play.slack.world.team.id), Surface.BUTTON, "ref", play.mail.id)
    await refused(play, play.mia)
    await play.settled()
    await refused(play, play.mia)
    await play.mia.sees("You asked already", play.mail)
    for role in (Role.READER, Role.RESPONDER, Role.ADMIN):
        await play.db.change(asking.ask, mia, play.acme.id, role)
    await play.db.change(asking.ask, mia, play.zeta.id, Role.READER)
    with pytest.raises(AskedTooOften):
        await play.db.change(asking.ask, mia, play.zeta.id, Role.WRITER)
    play.bot.errands.wake()
    await play.settled()
    assert (await play.db.read(errands.still_open)).count == 0


async def test_where_a_workspace_has_no_admin_the_owners_are_asked(play: Stage) -> None:
    await play.mia.types(play.other, "/smtp create Relay")
    await play.mia.presses("Ask for the writer role", await play.mia.sees("Ask @olga, who owns this app.", play.other))
    await play.settled()
    request = await play.olga.sees("@mia asks for the writer role in Zeta.")
    play.slack.fail("chat.update", Fault("internal_error"))
    await play.olga.presses("Give writer", request)
    await play.settled()
    await play.mia.sees("@olga gave you the writer role in Zeta", play.other)

"""The Home tab, as people use it: what they may see of it, and that it shows what is."""

import asyncio
import json

from bot.codec import InHome
from sandbox.people import Person
from sandbox.slack import Fault
from sandbox.world import View
from storage import credentials, grants, workspaces
from storage.access import Role
from tests.stage import BY_TEST, Stage, password_in
from tests.test_list_and_delete import fill


async def goes_home(person: Person, text: str) -> View:
    await person.opens_home()
    return await person.sees_home(text)


def names(person: Person, view: View) -> list[str]:
    return [line for line in person.read(view).splitlines() if line.startswith("App ")]


async def test_the_empty_tab_teaches_and_the_first_credential_appears_in_it(play: Stage) -> None:
    wanda = play.wanda
    view = await goes_home(wanda, "No SMTP credentials in Acme yet.")
    assert "You see its password once" in wanda.read(view)
    assert "You're a writer in Acme" in wanda.read(view)
    await wanda.presses("Create credential", view)
    modal = await wanda.sees_modal("New SMTP credential")
    assert modal.values["channel"]["channel"]["selected_conversation"] in (play.mail.id, play.quiet.id)
    wanda.fills("Name", "Relay")
    wanda.picks("Channel", play.mail)
    await wanda.submits()
    await wanda.sees_modal("Credential created")
    await wanda.closes()
    home = await wanda.sees_home("Showing 1 to 1 of 1.")
    assert "Relay" in wanda.read(home)
    password = password_in(wanda, await wanda.sees(": Relay", play.mail)).canonical
    assert password not in wanda.read(home)
    assert [one.what for one in play.slack.traffic if password in one.sent + one.answer] == ["response_url"]


async def test_who_has_no_role_reads_how_to_get_one(play: Stage) -> None:
    for person in (play.mia, play.rita):
        await person.opens_home()
    assert "Acme" not in play.mia.read(await play.mia.sees_home("You have no role in any mail workspace yet"))
    rita = play.rita.read(await play.rita.sees_home("Ask an admin to create one: @adam"))
    assert "Create credential" not in rita
    await play.gus.opens_home()
    assert "Acme" not in play.gus.read(await play.gus.sees_home("Guests can't manage SMTP credentials"))


async def test_people_of_other_organizations_and_the_deactivated_see_nothing(play: Stage) -> None:
    stranger = play.slack.add_person("sam", team_id="T0ELSEWHERE")
    await play.db.change(grants.grant, BY_TEST, play.slack.world.team.id, stranger.id, Role.ADMIN, play.acme.id)
    await goes_home(stranger, "only works for members of this Slack team")
    assert "Acme" not in stranger.screen()


async def test_pages_order_and_search_stay_through_a_change(play: Stage) -> None:
    await fill(play, 25)
    wanda = play.wanda
    await goes_home(wanda, "Showing 1 to 10 of 25.")
    await wanda.presses("Next")
    view = await wanda.sees_home("Showing 11 to 20 of 25.")
    assert names(wanda, view) == [f"App {n:02}" for n in range(14, 4, -1)]
    await wanda.presses("Oldest first")
    view = await wanda.sees_home("Newest first")
    assert names(wanda, view) == [f"App {n:02}" for n in range(10)]
    await wanda.enters("Search", " app  2 ")
    view = await wanda.sees_home("Show all")
    matching = [one.name for one in await play.credentials() if "2" in one.name]
    assert names(wanda, view) == matching[:10]
    assert view.content["private_metadata"] == InHome.decode(view.content["private_metadata"]).encode()

    await wanda.chooses("Delete…", near="App 02")
    await wanda.sees_modal("Delete credential?")
    await wanda.submits()
    await wanda.sees_modal("Credential deleted")
    await wanda.closes()
    await play.settled()
    assert names(wanda, play.slack.world.homes[wanda.id]) == [name for name in matching if name != "App 02"][:10]
    await wanda.opens_home()
    await play.settled()
    assert InHome.decode(play.slack.world.homes[wanda.id].content["private_metadata"]).words == "app 2"
    await wanda.presses("Show all")
    view = await wanda.sees_home("Showing 1 to 10 of 24.")
    assert names(wanda, view)[0] == "App 00"
    await wanda.enters("Search", "nowhere")
    await wanda.sees_home('Nothing in Acme matches "nowhere"')


async def test_a_change_made_elsewhere_is_shown_when_the_tab_is_opened_and_costs_no_drawing_before(play: Stage) -> None:
    await goes_home(play.wanda, "No SMTP credentials in Acme yet.")
    await play.create(play.wanda, "Relay")
    await play.settled()
    assert [one.what for one in play.slack.traffic].count("views.publish") == 1
    await goes_home(play.wanda, "Showing 1 to 1 of 1.")
    await play.wanda.types(play.mail, "/smtp suspend Relay")
    await play.wanda.sees_modal("Suspend credential?")
    await play.wanda.submits()
    await play.wanda.closes()
    await goes_home(play.wanda, "Relay (suspended)")


async def test_rotating_extending_and_suspending_from_the_tab(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    wanda = play.wanda
    await goes_home(wanda, "Relay")
    await wanda.chooses("Rotate password…", near="Relay")
    await wanda.sees_modal("Rotate password")
    wanda.picks("Channel", play.mail)
    await wanda.submits()
    await wanda.sees_modal("Password rotated")
    await wanda.closes()
    await wanda.sees_home("Old password until")
    await wanda.chooses("More…", near="Relay", where=play.slack.world.homes[wanda.id])
    await wanda.sees_modal("More")
    await wanda.presses("Set expiry…")
    await wanda.sees_modal("Change expiry")
    await wanda.selects("expires", "In 30 days")
    await wanda.submits()
    await wanda.sees_home("Expires")
    await wanda.closes()
    await wanda.closes()
    await wanda.chooses("Suspend…", near="Relay", where=play.slack.world.homes[wanda.id])
    await wanda.sees_modal("Suspend credential?")
    await wanda.submits()
    home = await wanda.sees_home("Relay (suspended)")
    assert "Resume…" in json.dumps(home.content, ensure_ascii=False)
    assert {event.surface for event in await play.events(action="suspend")} == {"modal"}


async def test_a_workspace_is_picked_among_those_that_the_person_may_see(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    await goes_home(play.olga, "Showing 1 to 1 of 1.")
    await play.olga.selects("Mail workspace", "Zeta (zeta)")
    await play.olga.sees_home("No SMTP credentials in Zeta yet.")
    await play.olga.selects("Mail workspace", "Acme (acme)")
    home = await play.olga.sees_home("Relay")

    zeta = InHome(workspace=play.zeta.id).encode()
    await goes_home(play.wanda, "Relay")
    view = play.slack.world.homes[play.wanda.id]
    for block in view.content["blocks"]:
        for element in block.get("elements", []):
            if element.get("action_id") == "home_sort":
                element["value"] = zeta
    await play.wanda.presses("Oldest first", view)
    await play.settled()
    assert "Zeta" not in play.wanda.read(play.slack.world.homes[play.wanda.id])
    assert "Zeta (zeta)" in json.dumps(home.content)


async def test_a_role_taken_away_empties_the_tab_and_stops_its_menu(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    await goes_home(play.wanda, "Relay")
    held = await play.db.read(grants.of_workspace, play.slack.world.team.id, play.acme)
    [grant] = [one for one in held if one.principal == play.wanda.id]
    await play.db.change(grants.remove, BY_TEST, grant.id)
    await play.wanda.chooses("Delete…", near="Relay")
    await play.wanda.sees_modal("Deleting needs the responder role")
    await play.wanda.sees_home("You have no role in any mail workspace yet")
    assert [event.cause for event in await play.events(action="delete")] == ["not_allowed"]
    assert len(await play.passdb()) == 1


async def test_what_was_deleted_meanwhile_says_so_and_goes_away(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    await goes_home(play.wanda, "Relay")
    [credential] = await play.credentials()
    await play.db.change(credentials.delete, BY_TEST, credential.id)
    await play.wanda.chooses("Delete…", near="Relay")
    await play.wanda.sees_modal("was already deleted")
    await play.wanda.sees_home("No SMTP credentials in Acme yet.")


async def test_a_press_in_an_outdated_tab_still_counts(play: Stage) -> None:
    await fill(play, 11)
    wanda = play.wanda
    view = await goes_home(wanda, "Showing 1 to 10 of 11.")
    play.slack.fail("views.publish", Fault("hash_conflict"))
    await wanda.presses("Next", view)
    await play.settled()
    assert "Showing 11 to 11 of 11." in wanda.read(view)
    assert "unexpected" not in play.logs.getvalue()
    sent = [json.loads(one.sent) for one in play.slack.traffic if one.what == "views.publish"]
    assert [bool(one.get("hash")) for one in sent] == [False, True, False]


async def test_a_password_in_the_search_is_neither_kept_nor_repeated(play: Stage) -> None:
    password = await play.create(play.wanda, "Relay")
    await goes_home(play.wanda, "Relay")
    await play.wanda.enters("Search", password)
    home = await play.wanda.sees_home("That looks like an SMTP password")
    assert password not in json.dumps(home.content) + json.dumps(home.values)
    assert password not in play.logs.getvalue()
    assert not [one for one in play.slack.traffic if one.way == "from app" and one.what != "response_url" and password in one.sent]


async def test_while_slack_cannot_tell_the_groups_the_tab_says_that_something_may_be_missing(play: Stage) -> None:
    play.slack.fail("usergroups.users.list", Fault("internal_error", times=10))
    await goes_home(play.rex, "Slack didn't tell me all of your user groups")
    assert "Acme" not in play.rex.screen()


async def test_a_workspace_without_a_channel_says_how_to_connect_one(play: Stage) -> None:
    made = await play.db.change(workspaces.add, BY_TEST, "new", "New")
    await goes_home(play.olga, "Acme")
    await play.olga.selects("Mail workspace", "New (new)")
    home = await play.olga.sees_home("No channel is connected to New")
    assert "Create credential" not in play.olga.read(home)
    assert made.id == InHome.decode(home.content["private_metadata"]).workspace


async def test_many_workspaces_fit_in_the_menu(play: Stage) -> None:
    for number in range(130):
        await play.db.change(workspaces.add, BY_TEST, f"w{number:03}", f"Workspace {number:03} " + "x" * 40)
    await goes_home(play.olga, "Acme")
    await play.olga.selects("Mail workspace", f"Workspace 129 {'x' * 40} (w129)")
    await play.olga.sees_home("No SMTP credentials in Workspace 129")


async def test_two_presses_at_once_leave_a_whole_tab(play: Stage) -> None:
    await fill(play, 25)
    view = await goes_home(play.wanda, "Showing 1 to 10 of 25.")
    await asyncio.gather(play.wanda.presses("Next", view), play.wanda.presses("Oldest first", view))
    await play.settled()
    shown = play.wanda.read(play.slack.world.homes[play.wanda.id])
    assert shown.count("Showing") == 1

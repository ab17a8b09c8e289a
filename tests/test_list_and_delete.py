"""Listing and deleting: pages, order, words; what will stop, who was first, and what mail servers read afterwards."""

import asyncio
import json

import pytest

from sandbox.people import Person
from sandbox.world import Message
from storage import credentials, grants
from storage.access import Actor, Role
from storage.audit import Origin, Surface
from tests.stage import BY_TEST, Stage


async def fill(play: Stage, count: int) -> None:
    """Active credentials in Acme, a minute apart, without the way through Slack."""
    by = Origin(Actor(play.wanda.id, play.slack.world.team.id, owner=True), Surface.MODAL, "ref", play.mail.id)
    for number in range(count):
        play.clock.passes(minutes=1)
        made, _ = await play.db.change(credentials.create_pending, by, play.mail.id, f"App {number:02}", f"view {number}")
        await play.db.change(credentials.activate, by, made.id, "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaA")


def names(person: Person, message: Message) -> list[str]:
    return [line for line in person.read(message).splitlines() if line.startswith("App ")]


async def test_the_list_pages_both_ways_and_sorts_both_ways(play: Stage) -> None:
    await fill(play, 25)
    rita = play.rita
    await rita.types(play.mail, "/smtp list")
    shown = await rita.sees("Showing 1 to 10 of 25", play.mail)
    assert names(rita, shown) == [f"App {n:02}" for n in range(24, 14, -1)]
    await rita.presses("Next", shown)
    await rita.sees("Showing 11 to 20 of 25")
    await rita.presses("Next", shown)
    await rita.sees("Showing 21 to 25 of 25")
    assert names(rita, shown) == [f"App {n:02}" for n in range(4, -1, -1)]
    await rita.presses("Previous", shown)
    await rita.sees("Showing 11 to 20 of 25")
    assert names(rita, shown) == [f"App {n:02}" for n in range(14, 4, -1)]
    await rita.presses("Oldest first", shown)
    await rita.sees("App 00")
    assert names(rita, shown) == [f"App {n:02}" for n in range(10)]
    assert [message for message in rita.messages() if message is not shown] == []
    assert shown.ephemeral_to == rita.id


async def test_who_has_left_the_channel_turns_no_page_of_its_list(play: Stage) -> None:
    await fill(play, 12)
    await play.mia.types(play.mail, "/smtp list")
    shown = await play.mia.sees("Showing 1 to 10 of 12", play.mail)
    await play.mia.leaves(play.mail)
    await play.mia.presses("Next", shown)
    await play.settled()
    assert "Showing 1 to 10 of 12" in play.mia.read(shown)
    assert [event.outcome for event in await play.events(action="list", user_id=play.mia.id)] == ["refused"]


async def test_words_filter_and_order_is_typed_last(play: Stage) -> None:
    await fill(play, 12)
    await play.rita.types(play.mail, "/smtp list app 1 oldest")
    shown = await play.rita.sees('Those that match "app 1"')
    matching = [one.name for one in await play.credentials() if "1" in one.name]
    assert names(play.rita, shown) == matching[:10]
    await play.rita.types(play.mail, "/smtp LIST 100%")
    await play.rita.sees('Nothing in Acme matches "100%"')


async def test_an_empty_list_teaches(play: Stage) -> None:
    await play.wanda.types(play.mail, "/smtp list")
    await play.wanda.presses("Create credential", await play.wanda.sees("No SMTP credentials in Acme yet."))
    await play.wanda.sees_modal("New SMTP credential")
    await play.rita.types(play.mail, "/smtp list")
    await play.rita.sees("Ask an admin to create one: @adam")


async def test_who_sees_which_list(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    await play.mia.types(play.mail, "/smtp list")
    shown = play.mia.read(await play.mia.sees("SMTP credentials in Acme (1)"))
    assert "Delete…" not in shown
    await play.mia.types(play.lobby, "/smtp list")
    await play.mia.sees("This channel has no mail workspace", play.lobby)
    await play.gus.types(play.mail, "/smtp list")
    await play.gus.sees("Guests can't manage SMTP credentials")


async def test_deleting_tells_what_stops_and_stops_it(play: Stage) -> None:
    await play.create(play.wanda, "Website relay")
    [credential] = await play.credentials()
    await play.rex.types(play.mail, "/smtp list")
    await play.rex.chooses("Delete…", near="Website relay")
    view = await play.rex.sees_modal("Delete credential?")
    shown = play.rex.read(view)
    for part in ("stop sending mail right away", "can't be undone", "Website relay", credential.username, "Acme", "@wanda", "Last used"):
        assert part in shown
    play.rex.fills("Reason", "left in a public repository")
    await play.rex.submits()
    await play.rex.sees_modal("Credential deleted")
    await play.settled()
    assert await play.passdb() == []
    [gone] = await play.credentials()
    assert (gone.state, gone.password_hash, gone.deleted_by) == ("deleted", None, play.rex.id)
    notice = await play.mia.sees("deleted the SMTP credential Website relay", play.mail)
    assert "Update the connected system before sending resumes" in play.mia.read(notice)
    assert "Reason: left in a public repository" in play.mia.read(notice)
    assert notice.ephemeral_to is None
    [event] = await play.events(action="delete")
    assert (event.outcome, event.user_id, event.role, event.role_via) == ("done", play.rex.id, "responder", play.oncall.id)
    assert event.reason == "left in a public repository"
    await play.rita.types(play.mail, "/smtp list")
    await play.rita.sees("No SMTP credentials in Acme yet.")


async def test_of_two_who_delete_at_once_the_second_reads_who_was_first(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    people = (play.wanda, play.adam)
    for person in people:
        await person.types(play.mail, "/smtp delete relay")
        await person.sees_modal("Delete credential?")
    await asyncio.gather(*(person.submits() for person in people))
    await play.settled()
    seen = [person.read(person.view) for person in people if person.view]
    winner = next(person for person, text in zip(people, seen, strict=True) if "Credential deleted" in text)
    loser = next(text for text in seen if "Credential deleted" not in text)
    assert f"was already deleted by @{winner.name}" in loser
    assert [event.outcome for event in await play.events(action="delete")] == ["done", "refused"]


@pytest.mark.parametrize("typed", ["Website relay", '"website RELAY"', "“Website relay”", "{username}", "{USERNAME}"])
async def test_delete_takes_a_name_or_a_username(play: Stage, typed: str) -> None:
    await play.create(play.wanda, "Website relay")
    [credential] = await play.credentials()
    target = typed.replace("{username}", credential.username).replace("{USERNAME}", credential.username.upper())
    await play.wanda.types(play.mail, f"/smtp delete {target}")
    await play.wanda.sees_modal("Website relay")
    assert await play.passdb() == [credential.username]


async def test_delete_offers_what_was_probably_meant(play: Stage) -> None:
    for name in ("Website relay", "Website form", "Printer"):
        await play.create(play.wanda, name)
    await play.wanda.types(play.mail, "/smtp delete website")
    message = await play.wanda.sees('More than one credential matches "website"')
    await play.wanda.presses("Delete…", message, near="Website form")
    await play.wanda.sees_modal("Website form")
    await play.wanda.closes()
    await play.wanda.types(play.mail, "/smtp delete Pritner")
    await play.wanda.sees("Did you mean Printer?")
    await play.wanda.types(play.other, "/smtp delete Printer")
    await play.wanda.sees(
        "Deleting needs the responder role in Zeta; you are only a member of its channel. Ask @olga, who owns this app.", play.other
    )


async def test_a_name_of_another_workspace_is_not_revealed(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    [credential] = await play.credentials()
    await play.db.change(grants.grant, BY_TEST, play.slack.world.team.id, play.mia.id, Role.WRITER, play.zeta.id)
    says = {
        credential.username: f"I couldn't find {credential.username} among the credentials that you can see. Check the username.",
        "Relay": 'I couldn\'t find "Relay" in this workspace',
    }
    for target, said in says.items():
        await play.mia.types(play.other, f"/smtp delete {target}")
        assert "Acme" not in play.mia.read(await play.mia.sees(said, play.other))


async def test_a_username_is_found_from_any_channel_by_who_may_delete_it(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    [credential] = await play.credentials()
    await play.rex.types(play.lobby, f"/smtp delete “{credential.username.upper()}”")
    assert "Mail workspace  Acme" in play.rex.read(await play.rex.sees_modal("Delete credential?"))
    await play.rex.submits()
    await play.rex.sees_modal("Credential deleted")
    assert await play.passdb() == []


async def test_someone_elses_delete_modal_is_authorized_again(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    await play.wanda.types(play.mail, "/smtp delete Relay")
    view = await play.wanda.sees_modal("Delete credential?")
    submission = play.wanda.submission(view) | {"user": {"id": play.rita.id, "name": "rita", "team_id": play.slack.world.team.id}}
    answer = await play.slack.deliver("interactive", submission)
    assert "needs the responder role" in json.dumps(answer.body)
    assert len(await play.passdb()) == 1
    assert [(event.outcome, event.user_id) for event in await play.events(action="delete")] == [("refused", play.rita.id)]


async def test_a_row_menu_of_somebody_who_lost_their_role_does_nothing(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    await play.wanda.types(play.mail, "/smtp list")
    await play.wanda.sees("SMTP credentials in Acme")
    held = await play.db.read(grants.of_workspace, play.slack.world.team.id, play.acme)
    await play.db.change(grants.remove, BY_TEST, next(one.id for one in held if one.principal == play.wanda.id))
    await play.wanda.chooses("Delete…", near="Relay")
    await play.wanda.sees("Deleting needs the responder role in Acme; you have no role there. Ask @adam.")
    assert len(await play.passdb()) == 1


@pytest.mark.parametrize("value", ['{"credential":"%s","does":"delete"}', "explode", "DELETE", ""])
async def test_a_row_menu_of_an_older_release_says_so(play: Stage, value: str) -> None:
    await play.create(play.wanda, "Relay")
    [credential] = await play.credentials()
    await play.wanda.types(play.mail, "/smtp list")
    shown = await play.wanda.sees("SMTP credentials in Acme")
    block = next(one for one in shown.blocks if "accessory" in one)
    given = value.replace("%s", credential.id)
    option = {"text": {"type": "plain_text", "text": "Delete…", "emoji": False}, "value": given}
    await play.wanda.acts(shown, block, block["accessory"], {"selected_option": option})
    await play.wanda.sees("This was made before I was updated")
    assert len(await play.passdb()) == 1


async def test_a_name_that_was_deleted_can_be_used_again_and_a_username_never(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    await play.wanda.presses("Delete credential", await play.wanda.sees(": Relay"))
    await play.wanda.sees_modal("Delete credential?")
    await play.wanda.submits()
    await play.wanda.sees_modal("Credential deleted")
    await play.wanda.closes()
    await play.create(play.wanda, "Relay")
    first, second = sorted(await play.credentials(), key=lambda one: one.state != "deleted")
    assert first.username != second.username
    assert await play.passdb() == [second.username]
    await play.wanda.types(play.mail, f"/smtp delete {first.username}")
    await play.wanda.sees("was already deleted by @wanda")


async def test_a_reason_that_looks_like_a_password_is_not_kept(play: Stage) -> None:
    password = await play.create(play.wanda, "Relay")
    await play.wanda.types(play.mail, "/smtp delete Relay")
    await play.wanda.sees_modal("Delete credential?")
    play.wanda.fills("Reason", f"it was {password}")
    await play.wanda.submits()
    await play.wanda.sees_modal("This looks like a password")
    assert len(await play.passdb()) == 1
    assert password not in play.logs.getvalue()

"""Creating, as people do it: the one-time password, and all that can go wrong on its way."""

import asyncio
import json
from pathlib import Path
from typing import Any

import psycopg
import pytest

from bot import sweep
from bot.blocks import bold, flat_blocks, line
from bot.new_password import password_message
from bot.recipes import FIELDS, RECIPES
from sandbox.people import Person
from sandbox.slack import Fault
from storage import credentials, grants, workspaces
from storage.access import Actor, Role
from storage.audit import Origin, Surface
from tests.stage import BY_TEST, Stage, password_in, settings


def database_bytes(url: str) -> bytes:
    """All that the database holds, as bytes that a thief would read."""
    if url.startswith("sqlite"):
        path = Path(url.removeprefix("sqlite:///"))
        return b"".join(one.read_bytes() for one in path.parent.glob(path.name + "*"))
    with psycopg.connect(url) as connection:
        tables = [name for (name,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
        rows = [str(row) for table in tables for row in connection.execute(f'SELECT * FROM "{table}"')]
    return "\n".join(rows).encode()


async def test_the_password_is_shown_once_and_to_the_requester_alone(play: Stage) -> None:
    wanda, mail = play.wanda, play.mail
    await wanda.types(mail, "/smtp create Website relay")
    modal = await wanda.sees_modal("New SMTP credential")
    assert modal.values["name"]["name"]["value"] == "Website relay"
    await wanda.submits()
    await play.settled()
    message = await wanda.sees("New SMTP credential for Acme: Website relay", mail)
    await play.settled()

    shown = wanda.read(message)
    password = password_in(wanda, message).canonical
    [credential] = await play.credentials()
    assert (credential.name, credential.state, credential.created_by) == ("Website relay", "active", wanda.id)
    for part in (credential.username, "mail.example.com", "587", "STARTTLS", "only once"):
        assert part in shown
    assert message.ephemeral_to == wanda.id
    assert password not in message.text
    assert await play.passdb() == [credential.username]
    assert await play.bot.services.hasher.verify(credential.password_hash or "", password)

    others = (play.olga, play.adam, play.rita, play.rex, play.mia, play.gus)
    assert not [one.name for one in others if password in one.screen()]
    assert [one.what for one in play.slack.traffic if password in one.sent + one.answer] == ["response_url"]
    assert password not in play.logs.getvalue()
    assert credential.username.encode() in database_bytes(play.database_url)
    assert password.encode() not in database_bytes(play.database_url)
    assert [event.action for event in await play.events(credential_id=credential.id)] == ["create", "activate"]

    assert wanda.view is None
    await wanda.presses("I've copied it, remove this", message)
    await play.settled()
    assert password not in wanda.screen()


async def test_a_device_password_is_short_and_typed_without_shift(play: Stage) -> None:
    await play.wanda.types(play.mail, "/smtp create Printer")
    await play.wanda.sees_modal("New SMTP credential")
    play.wanda.ticks("Device", "Short password for a printer or another device")
    await play.wanda.submits()
    await play.settled()
    password = password_in(play.wanda, await play.wanda.sees(": Printer", play.mail)).canonical
    assert len(password) == 20
    assert password == password.lower()


@pytest.mark.parametrize("where", ["secret", "quiet"])
async def test_it_works_where_the_bot_is_no_member(play: Stage, where: str) -> None:
    await play.create(play.wanda, "Relay", getattr(play, where))
    assert len(await play.passdb()) == 1


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("x" * 65, "64 characters"),
        ("   ", "Enter a name."),
        ("tab\there", "invisible characters"),
        ("line\nbreak", "invisible characters"),
        ("rtl \u202emark", "invisible characters"),
        ("zero\u200bwidth", "invisible characters"),
        ("smtp1abcdefgh" + "A" * 27, "looks like a password"),
    ],
)
async def test_a_name_that_cannot_be_used_is_refused_in_the_modal(play: Stage, name: str, says: str) -> None:
    await play.wanda.types(play.mail, "/smtp create")
    await play.wanda.sees_modal("New SMTP credential")
    play.wanda.fills("Name", name)
    await play.wanda.submits()
    view = await play.wanda.sees_modal("New SMTP credential")
    assert says in view.errors["name"]
    assert await play.credentials() == []


NAMES = [
    "<!channel>",
    "<@U012345>",
    "&lt;b&gt; &amp;",
    "'; DROP TABLE credentials; --",
    '"quoted"',
    "*bold* `code` :tada:",
    "Café ☕ 打印机",
    "ⅷ",
]


async def test_names_are_shown_as_they_were_typed(play: Stage) -> None:
    for name in NAMES:
        await play.wanda.types(play.mail, "/smtp create")
        await play.wanda.sees_modal("New SMTP credential")
        play.wanda.fills("Name", name)
        await play.wanda.submits()
        await play.settled()
    await play.wanda.types(play.mail, "/smtp list")
    shown = play.wanda.read(await play.wanda.sees("SMTP credentials in Acme"))
    assert [name for name in NAMES if name not in shown] == []
    for exchange in play.slack.traffic:
        if exchange.way == "from app" and "blocks" in exchange.sent:
            assert not [text for text in mrkdwn_texts(exchange.sent) if "channel>" in text or "DROP" in text or "tada" in text]


def mrkdwn_texts(sent: str) -> list[str]:
    try:
        root = json.loads(sent)
    except ValueError:
        return []
    found: list[str] = []

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if node.get("type") == "mrkdwn":
                found.append(node["text"])
            for part in node.values():
                walk(part)
        elif isinstance(node, list):
            for part in node:
                walk(part)

    walk(root)
    return found


async def test_of_two_who_create_the_same_name_at_once_one_reads_why_not(play: Stage) -> None:
    people = (play.wanda, play.adam)
    for person, name in zip(people, ("Relay", "ＲELAY"), strict=True):
        await person.types(play.mail, f"/smtp create {name}")
        await person.sees_modal("New SMTP credential")
    await asyncio.gather(*(person.submits() for person in people))
    await play.settled()
    refused = [person for person in people if person.view and person.view.errors]
    assert len(refused) == 1
    assert refused[0].view
    assert "is already used in Acme" in refused[0].view.errors["name"]
    assert len(await play.passdb()) == 1


async def test_a_submission_that_is_delivered_twice_makes_one(play: Stage) -> None:
    await play.wanda.types(play.mail, "/smtp create Relay")
    view = await play.wanda.sees_modal("New SMTP credential")
    payloads = [play.wanda.submission(view) for _ in range(2)]
    answers = await asyncio.gather(*(play.slack.deliver("interactive", payload) for payload in payloads))
    await play.settled()
    assert sorted(answer.body["response_action"] for answer in answers) == ["clear", "update"]
    assert len(await play.credentials()) == 1
    assert [one.what for one in play.slack.traffic].count("response_url") == 1


async def test_where_the_response_url_is_refused_the_channel_serves(play: Stage) -> None:
    play.slack.fail("response_url", Fault("expired_url", status=404))
    await play.create(play.wanda, "Relay")
    assert "chat.postEphemeral" in [one.what for one in play.slack.traffic]
    assert len(await play.passdb()) == 1


async def submit_and_fail(play: Stage, person: Person) -> None:
    await person.types(play.mail, "/smtp create Relay")
    await person.sees_modal("New SMTP credential")
    await person.submits()
    await play.settled()
    assert person.view is None
    assert await play.passdb() == []
    [credential] = await play.credentials()
    assert (credential.state, credential.password_hash) == ("deleted", None)
    actions = [(event.action, event.outcome) for event in await play.events(credential_id=credential.id)]
    assert actions[-1] == ("discard", "done")


async def test_a_password_that_nobody_took_is_discarded_and_its_requester_told(play: Stage) -> None:
    play.slack.fail("response_url", Fault("used_url", status=404))
    play.slack.fail("chat.postEphemeral", Fault("user_not_in_channel"))
    await submit_and_fail(play, play.wanda)
    await play.wanda.sees("I couldn't send you the password, so I deleted the new credential. Nothing was left behind.")


@pytest.mark.parametrize(
    "fault",
    [Fault("broken", status=500, done=True), Fault("broken", status=502), Fault("gone", done=True, hang_up=True)],
    ids=["error after it was shown", "gateway error", "connection broken after it was shown"],
)
async def test_when_it_is_unclear_whether_it_arrived_the_password_is_made_worthless(play: Stage, fault: Fault) -> None:
    play.slack.fail("response_url", fault)
    await submit_and_fail(play, play.wanda)
    await play.wanda.sees("If you see a password, it won't work", play.mail)


async def test_a_fatal_error_of_the_second_way_is_unclear_too(play: Stage) -> None:
    play.slack.fail("response_url", Fault("used_url", status=404))
    play.slack.fail("chat.postEphemeral", Fault("fatal_error", done=True))
    await submit_and_fail(play, play.wanda)
    await play.wanda.sees("If you see a password, it won't work", play.mail)


async def test_slack_asking_to_wait_is_followed(play: Stage) -> None:
    play.slack.fail("response_url", Fault("ratelimited", status=429, headers={"retry-after": "0"}))
    await play.create(play.wanda, "Relay")
    assert len(await play.passdb()) == 1


async def test_what_a_crash_left_pending_is_swept_and_its_requester_told(play: Stage) -> None:
    wanda = Origin(Actor(play.wanda.id, play.slack.world.team.id), Surface.MODAL, "ref", play.mail.id)
    await play.db.change(credentials.create_pending, wanda, play.mail.id, "Relay", "a view")
    await sweep.once(play.bot.services)
    assert [one.state for one in await play.credentials()] == ["pending"]
    play.clock.passes(minutes=6)
    await asyncio.gather(sweep.once(play.bot.services), sweep.once(play.bot.services))
    assert [one.state for one in await play.credentials()] == ["deleted"]
    await play.wanda.sees("I was interrupted while creating the SMTP credential Relay", play.mail)
    assert play.wanda.screen().count("I was interrupted") == 1
    assert [event.outcome for event in await play.events(action="discard")].count("done") == 1


async def test_the_modal_of_what_a_crash_interrupted_does_not_wait_for_ever(play: Stage) -> None:
    await play.wanda.types(play.mail, "/smtp create Relay")
    modal = await play.wanda.sees_modal("New SMTP credential")
    team = play.slack.world.team.id
    wanda = Origin(Actor(play.wanda.id, team), Surface.MODAL, "ref", play.mail.id)
    await play.db.change(credentials.create_pending, wanda, play.mail.id, "Relay", f"{team}:{modal.id}")
    play.clock.passes(minutes=6)
    await sweep.once(play.bot.services)
    await play.wanda.sees_modal("I was interrupted while creating the SMTP credential Relay")


async def test_a_modal_says_that_the_password_is_there_though_its_process_died_before(play: Stage) -> None:
    await play.wanda.types(play.mail, "/smtp create Relay")
    modal = await play.wanda.sees_modal("New SMTP credential")
    wanda = Origin(Actor(play.wanda.id, play.slack.world.team.id), Surface.MODAL, "ref", play.mail.id)
    made, _ = await play.db.change(credentials.create_pending, wanda, play.mail.id, "Relay", "key")
    await play.db.change(credentials.activate, wanda, made.id, "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaA", modal=modal.id)
    assert play.wanda.view == modal, "the process that shows the password has the first word"
    play.clock.passes(seconds=26)
    await play.wanda.sees_modal("Relay is ready in Acme")


async def test_a_role_that_is_removed_while_the_modal_is_open_stops_it(play: Stage) -> None:
    await play.wanda.types(play.mail, "/smtp create Relay")
    await play.wanda.sees_modal("New SMTP credential")
    held = await play.db.read(grants.of_workspace, play.slack.world.team.id, play.acme)
    [grant] = [one for one in held if one.principal == play.wanda.id]
    await play.db.change(grants.remove, BY_TEST, grant.id)
    await play.wanda.submits()
    view = await play.wanda.sees_modal("Creating needs the writer role in Acme")
    assert "channel" in view.errors
    assert await play.credentials() == []
    assert [event.cause for event in await play.events(action="create")] == ["not_allowed"]


async def test_a_channel_that_is_remapped_while_the_modal_is_open_is_asked_anew(play: Stage) -> None:
    await play.wanda.types(play.mail, "/smtp create Relay")
    await play.wanda.sees_modal("New SMTP credential")
    await play.db.change(workspaces.map_channel, BY_TEST, play.slack.world.team.id, play.mail.id, play.zeta.id)
    await play.wanda.submits()
    await play.wanda.sees_modal("Creating needs the writer role in Zeta")
    await play.db.change(workspaces.unmap_channel, BY_TEST, play.slack.world.team.id, play.mail.id)
    await play.wanda.submits()
    await play.wanda.sees_modal("This channel isn't connected to a mail workspace")
    assert await play.credentials() == []


async def test_another_channel_is_used_only_by_its_members(play: Stage) -> None:
    team = play.slack.world.team.id
    club = play.slack.add_channel("club", play.adam)
    await play.db.change(workspaces.map_channel, BY_TEST, team, club.id, play.acme.id)
    await play.wanda.types(play.mail, "/smtp create Relay")
    await play.wanda.sees_modal("New SMTP credential")
    play.wanda.picks("Channel", club)
    await play.wanda.submits()
    await play.wanda.sees_modal("You're not in that channel")
    play.wanda.picks("Channel", play.secret)
    await play.wanda.submits()
    await play.wanda.sees_modal("Add me to that channel first")
    play.wanda.picks("Channel", play.lobby)
    await play.wanda.submits()
    await play.wanda.sees_modal("This channel isn't connected")
    assert await play.credentials() == []


async def test_a_channel_that_became_shared_takes_no_credentials(play: Stage) -> None:
    await play.wanda.types(play.mail, "/smtp create Relay")
    await play.wanda.sees_modal("New SMTP credential")
    play.mail.connected_teams.append("T0ELSEWHERE")
    await play.slack.event({"type": "channel_shared", "channel": play.mail.id, "connected_team_id": "T0ELSEWHERE"})
    await play.settled()
    await play.wanda.submits()
    await play.wanda.sees_modal("shared with another organization")
    await play.wanda.closes()
    await play.wanda.types(play.mail, "/smtp list")
    await play.wanda.sees("This channel is shared with another organization", play.mail)
    assert await play.credentials() == []


@pytest.mark.parametrize(
    ("who", "says"),
    [
        ("rita", "Creating needs the writer role in Acme; you are"),
        ("mia", "Creating needs the writer role in Acme; you are"),
        ("rex", "you are a responder"),
        ("gus", "Guests can't"),
    ],
)
async def test_who_may_not_create_reads_who_can_help(play: Stage, who: str, says: str) -> None:
    person: Person = getattr(play, who)
    await person.types(play.mail, "/smtp create Relay")
    message = await person.sees(says, play.mail)
    if who != "gus":
        assert "@adam" in person.read(message)
    assert person.view is None
    [event] = await play.events(action="create")
    assert (event.outcome, event.user_id) == ("refused", person.id)


async def test_people_of_other_organizations_are_denied_at_every_button(play: Stage) -> None:
    stranger = play.slack.add_person("sam", team_id="T0ELSEWHERE")
    play.mail.members.append(stranger.id)
    await play.wanda.types(play.mail, "/smtp create Relay")
    view = await play.wanda.sees_modal("New SMTP credential")
    theirs = {"user": {"id": stranger.id, "name": "sam", "team_id": "T0ELSEWHERE"}}
    answer = await play.slack.deliver("interactive", play.wanda.submission(view) | theirs)
    assert "only works for members of this Slack team" in str(answer.body)
    await play.db.change(grants.grant, BY_TEST, play.slack.world.team.id, stranger.id, Role.ADMIN, play.acme.id)
    answer = await play.slack.deliver("interactive", play.wanda.submission(view) | theirs)
    assert "only works for members of this Slack team" in str(answer.body)
    assert await play.credentials() == []
    assert {event.cause for event in await play.events(action="create")} == {"barred"}


async def test_an_unmapped_channel_and_a_direct_message_say_what_to_do(play: Stage) -> None:
    await play.wanda.types(play.lobby, "/smtp create Relay")
    await play.wanda.sees("This channel has no mail workspace. Create and list work in a mail channel: #mail", play.lobby)
    dm = play.slack.world.direct(play.wanda.id, play.mia.id)
    await play.wanda.types(dm, "/smtp create Relay")
    await play.wanda.sees("Create and list work in a mail channel", dm)


async def test_while_slack_cannot_tell_who_is_in_a_group_nothing_is_created(play: Stage) -> None:
    crew = play.slack.add_group("crew", play.mia)
    await play.db.change(grants.grant, BY_TEST, play.slack.world.team.id, crew.id, Role.WRITER, play.acme.id)
    play.slack.fail("usergroups.users.list", Fault("internal_error", times=10))
    await play.mia.types(play.mail, "/smtp create Relay")
    await play.mia.sees("I can't check your role right now", play.mail)
    assert [event.cause for event in await play.events(action="create")] == ["role_unknown"]


async def test_a_late_trigger_says_so(play: Stage) -> None:
    play.slack.fail("views.open", Fault("expired_trigger_id"))
    await play.wanda.types(play.mail, "/smtp create Relay")
    await play.wanda.sees("That took too long to open. Try again.", play.mail)


@pytest.mark.parametrize("recipe", [FIELDS, *RECIPES])
async def test_a_password_stands_behind_what_a_notification_shows(play: Stage, recipe: str) -> None:
    password = await play.create(play.wanda, "B")
    [credential] = await play.credentials()
    short = settings(smtp_host="m.io", smtp_port=25, smtp_tls="none")
    head = line("New SMTP credential for ", bold("A"), ": ", bold("B"))
    message = password_message(short, credential, play.mail.id, password, head, "Ready.", (), recipe)
    shown = flat_blocks(message["blocks"])
    assert shown.index(password) > 300
    assert password not in message["text"]

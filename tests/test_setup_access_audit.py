"""Connecting channels, giving roles, reading the audit log; and the events by which Slack says that something changed."""

import asyncio
import json

from sandbox.slack import Fault
from storage import audit, credentials, grants, workspaces
from storage.access import Role
from tests.stage import BY_TEST, Stage


async def test_an_owner_makes_a_workspace_and_connects_the_channel(play: Stage) -> None:
    await play.olga.types(play.lobby, "/smtp setup")
    view = await play.olga.sees_modal("Connect this channel")
    play.olga.fills("Short name of a new mail workspace", "Bad Name")
    await play.olga.submits()
    assert "Use 1 to 32 of a-z" in (await play.olga.sees_modal("Use 1 to 32")).errors["slug"]
    play.olga.fills("Short name of a new mail workspace", "lobby-mail")
    play.olga.fills("Its display name", "Lobby <mail>")
    await play.olga.submits()
    await play.settled()
    assert play.olga.view is None
    notice = await play.mia.sees("@olga connected this channel to the mail workspace Lobby <mail>", play.lobby)
    assert notice.ephemeral_to is None
    await play.create(play.olga, "Relay", play.lobby)
    [username] = await play.passdb()
    assert username.startswith("smtp-lobby-mail-")
    assert view.type == "modal"


async def test_an_admin_connects_and_disconnects_only_their_own(play: Stage) -> None:
    await play.adam.types(play.lobby, "/smtp setup")
    view = await play.adam.sees_modal("Connect this channel")
    assert "Zeta" not in play.adam.read(view)
    play.adam.picks("Mail workspace", "Acme (acme)")
    await play.adam.submits()
    await play.settled()
    assert play.adam.view is None
    await play.adam.types(play.other, "/smtp setup")
    await play.adam.sees("Connecting a channel needs the admin role in Zeta; you are only a member of its channel", play.other)
    await play.adam.types(play.lobby, "/smtp setup")
    await play.adam.sees_modal("It is connected to Acme")
    await play.adam.presses("Disconnect…")
    await play.adam.sees_modal("no longer manages Acme. Its credentials keep working")
    await play.adam.closes()
    await play.adam.types(play.lobby, "/smtp list")
    await play.adam.sees("This channel isn't connected", play.lobby)


async def test_a_channel_must_have_the_bot_and_nobody_from_elsewhere(play: Stage) -> None:
    hall = play.slack.add_channel("hall", play.olga, with_bot=False)
    await play.olga.types(hall, "/smtp setup")
    await play.olga.sees("Add me to this channel first", hall)
    bridge = play.slack.add_channel("bridge", play.olga)
    bridge.connected_teams.append("T0ELSEWHERE")
    await play.olga.types(bridge, "/smtp setup")
    await play.olga.sees("This channel is shared with another organization", bridge)
    await play.wanda.types(play.lobby, "/smtp setup")
    await play.wanda.sees("Connecting a channel takes the admin role in a mail workspace. Ask @olga, who owns this app.", play.lobby)


async def test_roles_are_given_and_taken_in_the_modal(play: Stage) -> None:
    await play.adam.types(play.mail, "/smtp access")
    await play.adam.sees_modal("Roles in Acme")
    play.adam.picks("Person", play.mia)
    play.adam.picks("Role", "writer")
    await play.adam.submits()
    await play.adam.sees_modal("@mia  writer")
    play.adam.picks("Or a user group", "@oncall")
    play.adam.picks("Role", "admin")
    await play.adam.submits()
    await play.adam.sees_modal("@oncall  admin")
    await play.mia.types(play.mail, "/smtp create Relay")
    await play.mia.sees_modal("New SMTP credential")
    await play.adam.presses("Remove…", near="@mia")
    await play.settled()
    await play.mia.submits()
    await play.mia.sees_modal("Creating needs the writer role in Acme; you have no role there. Ask an admin of Acme")
    await play.wanda.types(play.mail, "/smtp access")
    await play.wanda.sees("Giving roles needs the admin role in Acme; you are a writer. Ask @oncall, @adam")
    done = [(event.action, event.subject) for event in await play.events(user_id=play.adam.id, outcome="done")]
    assert [action for action, _ in done] == ["access.grant", "access.grant", "access.remove"]


async def test_a_group_counts_at_once_when_slack_says_that_it_changed(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    await play.rex.types(play.mail, "/smtp delete Relay")
    await play.rex.sees_modal("Delete credential?")
    await play.mia.types(play.mail, "/smtp delete Relay")
    await play.mia.sees("Deleting needs the responder role")
    play.oncall.users[:] = [play.mia.id]
    event = {"type": "subteam_members_changed", "subteam_id": play.oncall.id, "added_users": [play.mia.id], "removed_users": [play.rex.id]}
    await play.slack.event(event)
    await play.settled()
    await play.rex.submits()
    await play.rex.sees_modal("Deleting needs the responder role")
    await play.mia.types(play.mail, "/smtp delete Relay")
    await play.mia.sees_modal("Delete credential?")


async def test_an_alarm_works_on_a_known_membership_while_slack_is_away(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    await play.rex.types(play.mail, "/smtp delete Relay")
    await play.rex.sees_modal("Delete credential?")
    play.clock.passes(minutes=30)
    play.slack.fail("usergroups.users.list", Fault("internal_error", times=50))
    play.slack.fail("users.info", Fault("internal_error", times=50))
    await play.rex.submits()
    await play.rex.sees_modal("Credential deleted")
    await play.settled()
    [event] = await play.events(action="delete")
    assert (event.role_via, event.role_age) == (play.oncall.id, 1800)


async def test_an_hour_later_it_does_not(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    await play.rex.types(play.mail, "/smtp delete Relay")
    await play.rex.sees_modal("Delete credential?")
    play.clock.passes(minutes=61)
    play.slack.fail("usergroups.users.list", Fault("internal_error", times=50))
    await play.rex.submits()
    await play.rex.sees_modal("I can't check your role right now")
    assert len(await play.passdb()) == 1


async def test_channels_are_followed(play: Stage) -> None:
    team = play.slack.world.team.id

    async def mapped() -> dict[str, bool]:
        return {one.channel_id: one.paused for one in await play.db.read(workspaces.channels_of, play.acme.id)}

    event = {"type": "channel_id_changed", "old_channel_id": play.mail.id, "new_channel_id": "C0NEW"}
    await asyncio.gather(play.slack.event(event), play.slack.event(event))
    await play.settled()
    assert "C0NEW" in await mapped()
    assert play.mail.id not in await mapped()
    for event in (
        {"type": "channel_archive", "channel": "C0NEW", "user": play.adam.id},
        {"type": "group_deleted", "channel": play.secret.id},
        {"type": "channel_shared", "channel": play.quiet.id, "connected_team_id": "T0X"},
    ):
        await play.slack.event(event)
        await play.settled()
    assert await mapped() == {play.quiet.id: True}
    await play.slack.event({"type": "channel_unshared", "channel": play.quiet.id, "is_ext_shared": False})
    await play.settled()
    assert await mapped() == {play.quiet.id: False}
    actions = [event.action for event in await play.events(surface="event")]
    assert actions == ["channel.move", "channel.unmap", "channel.unmap", "channel.pause", "channel.resume"]
    assert {event.team_id for event in await play.events(surface="event")} == {team}


async def test_an_event_that_is_not_acknowledged_comes_again_and_counts_once(play: Stage) -> None:
    event = {"type": "channel_archive", "channel": play.mail.id, "user": play.adam.id}
    await asyncio.gather(*(play.slack.event(event) for _ in range(3)))
    await play.settled()
    assert len([one for one in await play.events(action="channel.unmap") if one.workspace_id]) == 1


async def test_a_deactivated_account_and_a_guest_are_denied_from_slacks_event_on(play: Stage) -> None:
    await play.wanda.types(play.mail, "/smtp create Relay")
    await play.wanda.sees_modal("New SMTP credential")
    play.wanda.user.deleted = True
    await play.slack.event({"type": "user_change", "user": {"id": play.wanda.id}})
    await play.settled()
    await play.wanda.submits()
    await play.wanda.sees_modal("This Slack account is deactivated")
    assert await play.credentials() == []


async def test_the_audit_log_is_read_by_admins(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    [credential] = await play.credentials()
    await play.rita.types(play.mail, "/smtp create x")
    await play.rita.sees("Creating needs the writer role in Acme; you are a reader. Ask @adam.")
    await play.adam.types(play.mail, "/smtp audit")
    shown = play.adam.read(await play.adam.sees("Audit log of Acme, newest first"))
    assert "@wanda created Relay" in shown
    assert "@rita tried to create: not allowed" in shown
    await play.adam.types(play.mail, f"/smtp audit {credential.username}")
    shown = play.adam.read(await play.adam.sees(f"about {credential.username}"))
    assert "@rita" not in shown
    await play.adam.types(play.mail, "/smtp audit @rita")
    await play.adam.sees("about @rita")
    await play.wanda.types(play.mail, "/smtp audit")
    await play.wanda.sees("Seeing that needs the admin role in Acme; you are a writer. Ask @adam.")
    for number in range(20):
        await play.db.change(grants.grant, BY_TEST, play.slack.world.team.id, f"U0MANY{number:02}", Role.READER, play.acme.id)
    await play.adam.types(play.mail, "/smtp audit")
    newest = await play.adam.sees("U0MANY19")
    await play.adam.presses("Older", newest)
    await play.settled()
    assert "U0MANY04" in play.adam.read(newest)
    verdict = await play.db.read(audit.verify)
    assert verdict.broken is None
    assert verdict.rows > 25


async def test_the_audit_log_knows_names_of_deleted_ones_and_says_leaks_in_words(play: Stage) -> None:
    password = await play.create(play.wanda, "Website relay")
    [credential] = await play.credentials()
    message = await play.mia.posts(play.mail, f"oops {password}")
    await play.rita.uses_shortcut("Revoke leaked credential", message)
    await play.rita.sees_modal("I've told the people who can revoke it.")
    await play.db.change(credentials.delete, BY_TEST, credential.id)
    await play.adam.types(play.mail, "/smtp audit website relay")
    shown = play.adam.read(await play.adam.sees(f"about {credential.username}", play.mail))
    assert "shell:test deleted Website relay" in shown
    assert "@rita reported a leak of Website relay (it worked)" in shown
    assert "@rita tried to delete" not in shown


async def test_the_audit_log_holds_no_ways_into_slack(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    rows = json.dumps([str(event) for event in await play.events()])
    secrets = [*play.slack.world.triggers, *play.slack._response_urls]
    assert len(secrets) >= 3
    assert not [one for one in secrets if one in rows or one in play.logs.getvalue()]

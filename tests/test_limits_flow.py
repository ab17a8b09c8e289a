"""Limits of a credential and settings of a workspace, as people set them in Slack and operators in the shell."""

from sandbox.people import Person
from sandbox.slack import Fault
from storage import grants, workspaces
from storage.audit import What
from storage.limits import Limits
from storage.models import Workspace
from storage.policy import Policy
from tests.stage import BY_TEST, Stage
from tests.test_owners import more


async def opens_settings(person: Person, play: Stage) -> None:
    await person.types(play.mail, "/smtp setup")
    await person.sees_modal("It is connected to Acme")
    await person.presses("Workspace settings…")
    await person.sees_modal("Rules for the credentials of Acme")


async def acme(play: Stage) -> Workspace:
    return await play.db.read(workspaces.by_id, play.acme.id)


async def test_a_credential_is_limited_from_its_creation_on(play: Stage) -> None:
    wanda = play.wanda
    await wanda.types(play.mail, "/smtp create Relay")
    view = await wanda.sees_modal("New SMTP credential")
    assert "May log in from" not in wanda.read(view)
    await wanda.selects("expires", "In 30 days")
    await wanda.presses("Limits…")
    await wanda.sees_modal("May log in from")
    wanda.fills("allowed_from", "192.0.2.7/24")
    await wanda.submits()
    view = await wanda.sees_modal("New SMTP credential")
    assert set(view.errors) == {"allowed_from"}
    wanda.fills("allowed_from", "192.0.2.0/24")
    wanda.fills("messages_hour", "20")
    wanda.fills("messages_day", "10")
    await wanda.submits()
    assert set((await wanda.sees_modal("New SMTP credential")).errors) == {"messages_hour"}
    assert await play.credentials() == []
    wanda.fills("messages_day", "100")
    await wanda.submits()
    await wanda.sees(": Relay\n")
    await play.settled()
    [credential] = await play.credentials()
    assert Limits.of(credential) == Limits(("192.0.2.0/24",), 20, 100)
    assert credential.expires_at is not None, "what was chosen before stays"
    assert [one.subject for one in await play.events(action=What.CREATE)] == ["from 192.0.2.0/24 20 messages/hour 100 messages/day"]


async def test_a_writer_limits_a_credential_and_everybody_sees_it(play: Stage) -> None:
    wanda = play.wanda
    await play.create(wanda, "Relay")
    await more(wanda, play, "Relay", "Limits…")
    await wanda.sees_modal("Leave empty what has no limit")
    wanda.fills("allowed_from", "192.0.2.7/24")
    await wanda.submits()
    assert '"192.0.2.7/24" has an address before its /. Did you mean 192.0.2.0/24?' in wanda.read(await wanda.sees_modal("Limits"))
    wanda.fills("allowed_from", "192.0.2.0/24 ::ffff:198.51.100.7\n2001:db8::/32, 203.0.113.0/24")
    wanda.fills("messages_hour", "1,000")
    await wanda.submits()
    assert "Enter a whole number from 1 to 10000000" in wanda.read(await wanda.sees_modal("Limits"))
    wanda.fills("messages_hour", "200")
    wanda.fills("messages_day", "100")
    await wanda.submits()
    assert "An hour's limit can't be above the day's." in wanda.read(await wanda.sees_modal("Limits"))
    wanda.fills("messages_day", "1000")
    await wanda.submits()
    await wanda.sees_modal("Limits changed")
    [credential] = await play.credentials()
    assert Limits.of(credential) == Limits(("192.0.2.0/24", "198.51.100.7/32", "2001:db8::/32", "203.0.113.0/24"), 200, 1000)
    brief = "from 192.0.2.0/24, 198.51.100.7/32, 2001:db8::/32 and 1 more, 200 messages/hour, 1000 messages/day"
    for typed in ("/smtp list", f"/smtp whois {credential.username}"):
        await play.rita.types(play.mail, typed)
        await play.rita.sees(brief)
    assert len(await play.events(action=What.LIMITS, outcome="done")) == 1
    await wanda.closes()
    await wanda.closes()
    await more(wanda, play, "Relay", "Limits…")
    view = await wanda.sees_modal("Leave empty what has no limit")
    assert view.values["messages_hour"]["messages_hour"]["value"] == "200"
    for name in ("allowed_from", "messages_hour", "messages_day"):
        wanda.fills(name, "")
    await wanda.submits()
    await wanda.sees_modal("Relay has no limits.")


async def test_who_may_not_create_is_offered_no_limits(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    await play.rex.types(play.mail, "/smtp list")
    shown = await play.rex.sees("Relay")
    offered = [option["text"]["text"] for block in shown.blocks for option in block.get("accessory", {}).get("options", [])]
    assert offered == ["Suspend…", "Delete…"]


async def test_an_admin_sets_rules_which_then_stand_in_the_modals(play: Stage) -> None:
    adam, wanda = play.adam, play.wanda
    await play.create(wanda, "Old")
    await opens_settings(adam, play)
    adam.fills("domains", "bob@example.com")
    await adam.submits()
    assert '"bob@example.com" is a mail address. Enter what stands after its @.' in adam.read(await adam.sees_modal("Rules for"))
    adam.fills("domains", "Example.com\nbücher.example")
    adam.fills("longest_days", "0")
    await adam.submits()
    assert "Enter a whole number from 1 to 3660" in adam.read(await adam.sees_modal("Rules for"))
    adam.fills("longest_days", "30")
    adam.fills("most_live", "2")
    adam.ticks("rules", "a reason must be given to delete or suspend")
    await adam.submits()
    await adam.sees_modal("domains example.com,xn--bcher-kva.example")
    assert Policy.of(await acme(play)) == Policy(("example.com", "xn--bcher-kva.example"), 30, True, False, 2)

    await wanda.types(play.mail, "/smtp create New")
    view = await wanda.sees_modal("New SMTP credential")
    assert "device" not in view.values
    assert view.values["expires"]["expires"]["selected_option"]["value"] == "30"
    await wanda.selects("Expires", "On a date")
    await wanda.sees_modal("Last day")
    wanda.picks("Last day", "2099-01-01")
    await wanda.submits()
    await wanda.sees_modal("Choose a date within the next ten years")
    wanda.picks("Last day", f"{play.clock().year + 1}-12-31")
    await wanda.submits()
    await wanda.sees_modal("Credentials in Acme may live 30 days at most.")
    await wanda.selects("Expires", "In 7 days")
    await play.settled()
    await wanda.submits()
    await wanda.sees(": New\n", play.mail)
    await wanda.types(play.mail, "/smtp create Newer")
    await wanda.sees_modal("New SMTP credential")
    await wanda.submits()
    await wanda.sees_modal("Acme has 2 credentials, and may not have more.")
    await wanda.closes()

    for word, title in (("suspend", "Suspend credential?"), ("delete", "Delete credential?")):
        await wanda.types(play.mail, f"/smtp {word} Old")
        await wanda.sees_modal(title)
        await wanda.submits()
        await wanda.sees_modal("Say why: in Acme deleting and suspending need a reason.")
        wanda.fills("Reason", "no longer needed")
        await wanda.submits()
        await wanda.sees_modal("Credential ")
        await wanda.closes()
    assert next(one.state for one in await play.credentials() if one.name == "Old") == "deleted"


async def test_the_settings_are_an_admins(play: Stage) -> None:
    team = play.slack.world.team.id
    await opens_settings(play.adam, play)
    [held] = [one for one in await play.db.read(grants.of_workspace, team, play.acme) if one.principal == play.adam.id]
    await play.db.change(grants.remove, BY_TEST, held.id)
    play.adam.fills("domains", "example.com")
    await play.adam.submits()
    await play.adam.sees_modal("Changing a mail workspace needs the admin role")
    assert (await acme(play)).domains == ()


async def test_a_webhooks_secret_is_shown_once_to_the_admin_alone(play: Stage) -> None:
    adam = play.adam
    await opens_settings(adam, play)
    for wrong, said in (
        ("http://example.com", "Enter an address that begins with https://."),
        ("https://127.0.0.1/hook", "That address leads to this machine or a private network."),
        ("https://localhost/hook", "That address leads to this machine or a private network."),
    ):
        adam.fills("webhook", wrong)
        await adam.submits()
        assert said in adam.read(await adam.sees_modal("Rules for"))
    adam.fills("webhook", "https://hooks.example.com/abc")
    await adam.submits()
    await adam.sees_modal("Its webhook: https://hooks.example.com/abc")
    await play.settled()
    workspace = await acme(play)
    assert workspace.webhook_secret
    message = await adam.sees("The secret that signs what I send", play.mail)
    assert message.ephemeral_to == adam.id
    assert workspace.webhook_secret in adam.read(message)
    assert workspace.webhook_secret not in message.text + play.logs.getvalue() + repr(await play.events())
    await adam.presses("I've copied it, remove this", message)
    await play.settled()
    assert workspace.webhook_secret not in adam.screen()


async def test_a_webhook_whose_secret_could_not_be_shown_is_taken_away(play: Stage) -> None:
    await opens_settings(play.adam, play)
    play.adam.fills("webhook", "https://hooks.example.com/abc")
    play.slack.fail("chat.postEphemeral", Fault("internal_error", times=50))
    await play.adam.submits()
    await play.adam.sees_modal("so I removed the webhook")
    assert (await acme(play)).webhook_url is None

"""Stopping a credential reversibly, and until when one works."""

import asyncio
from datetime import timedelta

import pytest

from bot import sweep
from storage import credentials, lifecycle, workspaces
from storage.database import Transaction
from tests import raw
from tests.raw import mail_server_reports
from tests.stage import BY_TEST, Stage


async def suspend(play: Stage, later: str | None = None) -> None:
    await play.rex.types(play.mail, "/smtp suspend Relay")
    await play.rex.sees_modal("Suspend credential?")
    if later:
        play.rex.picks("Delete it by itself", later)
    play.rex.fills("Reason", "odd traffic")
    await play.rex.submits()
    await play.rex.sees_modal("Credential suspended")
    await play.rex.closes()
    await play.settled()


async def test_suspended_is_refused_and_resumed_works_again_with_the_same_password(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    [username] = await play.passdb()
    before = (await play.credentials())[0].password_hash
    await suspend(play)
    assert await play.passdb() == []
    await play.mia.sees("@rex suspended the SMTP credential Relay", play.mail)
    await play.rita.types(play.mail, "/smtp list")
    await play.rita.sees("Relay (suspended)")
    await play.rex.types(play.mail, f"/smtp resume {username}")
    await play.rex.sees("needs the writer role in Acme")
    await play.wanda.types(play.mail, f"/smtp resume {username}")
    await play.wanda.sees_modal("@rex suspended it")
    await play.wanda.submits()
    await play.wanda.sees_modal("Credential resumed")
    assert await play.passdb() == [username]
    [credential] = await play.credentials()
    assert credential.password_hash == before
    assert [(one.action, one.reason) for one in await play.events(credential_id=credential.id)][2:] == [
        ("suspend", "odd traffic"),
        ("resume", None),
    ]


async def test_nothing_is_said_to_work_while_its_whole_mail_workspace_is_suspended(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    await suspend(play)
    [credential] = await play.credentials()
    await play.db.change(workspaces.suspend_all, BY_TEST, credential.workspace_id)
    refused = "Acme is suspended, by "
    await play.wanda.types(play.mail, "/smtp")
    await play.wanda.sees(refused)
    await play.wanda.types(play.mail, "/smtp list")
    assert refused in play.wanda.read(await play.wanda.sees("SMTP credentials in Acme (1)"))
    await play.wanda.opens_home()
    await play.wanda.sees_home(refused)
    await play.wanda.types(play.mail, "/smtp resume Relay")
    await play.wanda.sees_modal(refused)
    await play.wanda.submits()
    await play.wanda.sees_modal("Resumed Relay, but not its mail workspace:")
    assert "can send mail again" not in play.wanda.screen()
    await play.wanda.closes()
    await play.settled()
    await play.mia.sees("All of Acme is suspended, so mail servers refuse it", play.mail)
    assert "works again" not in play.mia.screen()
    await play.wanda.types(play.mail, f"/smtp rotate {credential.username}")
    await play.wanda.sees_modal(refused)
    await play.wanda.submits()
    await play.wanda.sees_modal("Password rotated")
    await play.wanda.closes()
    await play.settled()
    assert refused in play.wanda.read(await play.wanda.sees("New password for Relay"))
    assert refused in play.mia.read(await play.mia.sees("rotated the password of the SMTP credential Relay", play.mail))
    await play.wanda.types(play.mail, "/smtp list")
    await play.wanda.sees("SMTP credentials in Acme (1)")
    await play.wanda.chooses("Set expiry…", near="Relay")
    await play.wanda.sees_modal("It never expires.")
    await play.wanda.selects("expires", "In 90 days")
    await play.wanda.submits()
    await play.wanda.sees_modal("Relay now expires (")
    assert refused in play.wanda.screen()
    await play.wanda.closes()
    await play.create(play.wanda, "Printer")
    assert refused in play.wanda.read(await play.wanda.sees("New SMTP credential for Acme: Printer"))
    assert await play.passdb() == []


async def test_what_has_expired_is_not_said_to_work_again(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    await suspend(play)
    await raw.change_credentials(play.db, expires_at=play.clock() - timedelta(days=1))
    await play.wanda.types(play.mail, "/smtp resume Relay")
    await play.wanda.sees_modal("stays refused until you also extend it")
    await play.wanda.submits()
    await play.wanda.sees_modal("stays refused until you extend it")
    await play.wanda.closes()
    await play.settled()
    await play.mia.sees("It has expired, so mail servers refuse it until somebody extends it", play.mail)
    assert "works again" not in play.mia.screen()
    [username] = [one.username for one in await play.credentials()]
    await play.wanda.types(play.mail, f"/smtp whois {username}")
    await play.wanda.sees("expired: mail servers refuse it")


async def test_what_nobody_resumes_deletes_itself_once(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    await suspend(play, "In 24 hours, unless it's resumed")
    play.clock.passes(hours=23)
    await sweep.once(play.bot.services)
    assert [one.state for one in await play.credentials()] == ["suspended"]
    play.clock.passes(hours=2)
    await asyncio.gather(*(sweep.once(play.bot.services) for _ in range(3)))
    await play.settled()
    [credential] = await play.credentials()
    assert (credential.state, credential.password_hash) == ("deleted", None)
    notices = [one for one in play.mia.messages(play.mail) if "Deleted, because " in play.mia.read(one)]
    assert len(notices) == 1
    await play.mia.sees("It was deleted, because nobody resumed it in time (", play.mail)


async def test_what_deletes_itself_is_told_although_deletions_are_not(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    await play.create(play.wanda, "Printer")
    ids = {one.name: one.id for one in await play.credentials()}
    await play.db.change(workspaces.set_notices, BY_TEST, play.acme.id, created=False, deleted=False)
    await play.db.change(lifecycle.suspend, BY_TEST, ids["Relay"], delete_after=timedelta(hours=24))
    await play.db.change(credentials.delete, BY_TEST, ids["Printer"])
    play.clock.passes(hours=25)
    await sweep.once(play.bot.services)
    await play.settled()
    [told] = [play.mia.read(one) for one in play.mia.messages(play.mail) if "SMTP credential" in play.mia.read(one)]
    assert "nobody resumed it in time: the SMTP credential Relay" in told


async def test_resuming_calls_the_deletion_off(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    await suspend(play, "In 7 days, unless it's resumed")
    await play.wanda.types(play.mail, "/smtp resume Relay")
    await play.wanda.sees_modal("Resume credential?")
    await play.wanda.submits()
    await play.wanda.sees_modal("Credential resumed")
    play.clock.passes(days=8)
    await sweep.once(play.bot.services)
    assert [one.state for one in await play.credentials()] == ["active"]


async def test_who_suspends_twice_reads_who_was_first(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    await suspend(play)
    await play.wanda.types(play.mail, "/smtp suspend Relay")
    await play.wanda.sees("was already suspended, by @rex")
    assert "Resume it first" not in play.wanda.screen()
    await play.rita.types(play.mail, "/smtp suspend Relay")
    await play.rita.sees("Suspending needs the responder role")


async def create_until(play: Stage, expires: str, day: str | None = None) -> None:
    await play.wanda.types(play.mail, "/smtp create Relay")
    await play.wanda.sees_modal("New SMTP credential")
    await play.wanda.selects("expires", expires)
    if expires == "On a date":
        await play.wanda.sees_modal("Last day")
    if day:
        play.wanda.picks("Last day", day)
    await play.wanda.submits()


async def test_an_expiry_is_shown_reminded_of_and_extended(play: Stage) -> None:
    await create_until(play, "In 30 days")
    await play.settled()
    [credential] = await play.credentials()
    assert credential.expires_at == play.clock() + timedelta(days=30)
    await play.rita.types(play.mail, "/smtp list")
    await play.rita.sees("Expires ")
    for days, reminders in ((22, 0), (1.5, 1), (0, 1), (6, 2), (0, 2)):
        play.clock.passes(days=days)
        await asyncio.gather(*(sweep.once(play.bot.services) for _ in range(2)))
        await play.settled()
        said = [one for one in play.mia.messages(play.mail) if "Relay" in play.mia.read(one) and "expires (" in play.mia.read(one)]
        assert len(said) == reminders
    await play.wanda.sees("expires (", play.slack.world.dm(play.wanda.id))
    await play.wanda.types(play.mail, "/smtp list")
    await play.wanda.chooses("Extend…", near="Relay")
    await play.wanda.sees_modal("It expires (")
    await play.wanda.selects("expires", "In 90 days")
    await play.wanda.submits()
    await play.wanda.sees_modal("Expiry changed")
    [credential] = await play.credentials()
    assert credential.expires_at == play.clock() + timedelta(days=90)


@pytest.mark.parametrize("then", ["deleted", "without an end"])
async def test_what_no_longer_expires_is_not_reminded_of(play: Stage, then: str) -> None:
    await create_until(play, "In 7 days")
    await play.settled()
    [credential] = await play.credentials()
    play.clock.passes(days=6.5)

    def reminded_too_late(tx: Transaction) -> None:
        lifecycle.remind(tx, BY_TEST, credential.id)
        if then == "deleted":
            credentials.delete(tx, BY_TEST, credential.id)
        else:
            lifecycle.change_expiry(tx, BY_TEST, credential.id, None)

    await play.db.change(reminded_too_late)
    play.bot.errands.wake()
    await play.settled()
    outcomes = await raw.sql(play.db, "SELECT DISTINCT outcome FROM errands WHERE kind = 'remind'")
    assert [outcome for (outcome,) in outcomes] == ["no longer due"]
    assert "expires (" not in play.mia.screen() + play.wanda.screen()


async def test_after_that_minute_it_is_refused(play: Stage) -> None:
    await create_until(play, "In 7 days")
    await play.settled()
    assert len(await play.passdb()) == 1
    await raw.change_credentials(play.db, expires_at=play.clock() - timedelta(minutes=1))
    assert await play.passdb() == []
    await play.rita.types(play.mail, "/smtp list")
    await play.rita.sees("Relay (expired)")


@pytest.mark.parametrize(
    ("expires", "day"),
    [("On a date", None), ("On a date", "2001-01-01"), ("On a date", "2099-01-01")],
)
async def test_an_expiry_that_makes_no_sense_is_refused_in_the_modal(play: Stage, expires: str, day: str | None) -> None:
    await create_until(play, expires, day)
    view = await play.wanda.sees_modal("New SMTP credential")
    assert view.errors, play.wanda.read(view)
    assert set(view.errors) <= {"expires", "last_day"}
    assert await play.credentials() == []


async def test_what_nobody_used_for_long_is_marked(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    play.clock.passes(days=91)
    await mail_server_reports(play.db)
    await play.rita.types(play.mail, "/smtp list")
    await play.rita.sees("Not used for 90 days.")


async def test_where_no_mail_server_reports_nothing_is_claimed(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    play.clock.passes(days=91)
    await play.rex.types(play.mail, "/smtp list")
    shown = await play.rex.sees("Last use: not reported by your mail server")
    assert "Not used" not in play.rex.read(shown)
    await play.rex.opens_home()
    assert "Not used" not in play.rex.read(await play.rex.sees_home("Last use: not reported by your mail server"))
    await play.rex.chooses("Delete…", near="Relay", where=shown)
    modal = play.rex.read(await play.rex.sees_modal("I can't tell whether something uses it."))
    assert "Last used  not reported by your mail server" in modal


async def test_the_day_is_asked_for_only_on_a_date(play: Stage) -> None:
    wanda = play.wanda
    await wanda.types(play.mail, "/smtp create")
    view = await wanda.sees_modal("New SMTP credential")
    assert "Last day" not in wanda.read(view)
    wanda.fills("Name", "Relay")
    await wanda.selects("expires", "On a date")
    await wanda.sees_modal("Last day")
    wanda.picks("Last day", (play.clock() + timedelta(days=3)).strftime("%Y-%m-%d"))
    await wanda.selects("expires", "Never")
    await play.settled()
    assert "Last day" not in wanda.read(view)
    await wanda.submits()
    await play.settled()
    [credential] = await play.credentials()
    assert (credential.name, credential.expires_at) == ("Relay", None)

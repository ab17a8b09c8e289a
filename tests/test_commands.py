"""The words after the command, the menu, and what is typed by mistake."""

import asyncio

import pytest

from storage import credentials
from tests.stage import BY_TEST, Stage, password_in


@pytest.mark.parametrize("typed", ["/smtp", "/smtp help", "/smtp HELP"])
async def test_the_menu_says_what_can_be_done_here_and_why(play: Stage, typed: str) -> None:
    await play.wanda.types(play.mail, typed)
    shown = play.wanda.read(await play.wanda.sees("This channel manages SMTP credentials in Acme"))
    for part in (
        "[Create credential]",
        "[Show credentials]",
        "[Whose is this?]",
        "You're a writer in Acme: you can see, create, rotate",
        "/smtp create",
        play.mail.id,
        play.wanda.id,
    ):
        assert part in shown
    assert "/smtp access" not in shown
    await play.rex.types(play.mail, typed)
    await play.rex.sees("You're a responder in Acme, through @oncall: you can see, suspend and delete credentials")
    await play.olga.types(play.lobby, typed)
    await play.olga.sees("[Connect this channel]", play.lobby)


async def test_an_unknown_word_gets_a_guess(play: Stage) -> None:
    await play.wanda.types(play.mail, "/smtp lsit everything")
    shown = play.wanda.read(await play.wanda.sees('I don\'t know "lsit". Did you mean list?'))
    assert "/smtp list" in shown
    await play.wanda.types(play.mail, "/smtp <!channel> " + "x" * 5000)
    await play.wanda.sees('I don\'t know "<!channel>".')


@pytest.mark.parametrize("word", ["create", "list", "delete", "revoke", "rotate", "suspend", "resume", "whois", "audit"])
async def test_a_text_of_any_length_gets_an_answer(play: Stage, word: str) -> None:
    await play.create(play.wanda, "Relay")
    await play.adam.types(play.mail, f"/smtp {word} " + "x" * 5000)
    await play.settled()
    if play.adam.view:
        await play.adam.closes()
    else:
        answer = {"list": "Nothing in Acme matches", "whois": "I couldn't find", "audit": "No events about"}
        await play.adam.sees(answer.get(word, "I couldn't find \"xxx"), play.mail)


async def test_a_password_typed_into_a_command_is_not_used_and_not_repeated(play: Stage) -> None:
    password = await play.create(play.wanda, "Relay")
    before = len(play.slack.traffic)
    await play.wanda.types(play.mail, f"/smtp delete {password}")
    message = await play.wanda.sees("That looks like an SMTP password, so I didn't use it", play.mail)
    await play.wanda.presses("Revoke it", message)
    await play.wanda.sees_modal("Relay")
    await play.wanda.closes()
    await play.rita.types(play.mail, f"/smtp create {password}")
    shown = play.rita.read(await play.rita.sees("treat it as leaked"))
    assert "Revoke it" not in shown
    sent = [one for one in list(play.slack.traffic)[before:] if one.way == "from app"]
    assert sent
    assert not [one.what for one in sent if password in one.sent]
    assert password not in play.logs.getvalue()
    assert [event for event in await play.events() if password in str(event)] == []


async def test_a_device_password_too_is_offered_for_revoking_and_what_was_revoked_is_said(play: Stage) -> None:
    await play.wanda.types(play.mail, "/smtp create Printer")
    await play.wanda.sees_modal("New SMTP credential")
    play.wanda.ticks("Device", "Short password for a printer or another device")
    await play.wanda.submits()
    password = password_in(play.wanda, await play.wanda.sees(": Printer\n", play.mail)).canonical
    await play.settled()
    other = await play.create(play.wanda, "Relay")
    await play.adam.types(play.mail, f"/smtp revoke {password} {other}")
    message = await play.adam.sees("That looks like an SMTP password, so I didn't use it", play.mail)
    text = play.adam.read(message)
    assert ("Printer (smtp-" in text, "Relay (smtp-" in text, text.count("[Revoke it]")) == (True, True, 2)
    for one in await play.credentials():
        await play.db.change(credentials.delete, BY_TEST, one.id)
    await play.adam.types(play.mail, f"/smtp whose {other}")
    text = play.adam.read(await play.adam.sees("Relay was already deleted: nothing is left to do.", play.mail))
    assert ("Revoke it" in text, "Ask an admin" in text) == (False, False)
    await play.mia.types(play.mail, f"/smtp whose {other}")
    assert "Relay" not in play.mia.read(await play.mia.sees("Ask an admin of its mail workspace", play.mail))


async def test_the_command_works_in_a_direct_message_only_to_say_where(play: Stage) -> None:
    dm = play.slack.world.direct(play.wanda.id, play.mia.id)
    await play.wanda.types(dm, "/smtp list")
    await play.wanda.sees("Create and list work in a mail channel: #mail", dm)


async def test_many_who_wait_for_the_same_answer_of_slacks_keep_nobody_from_working(play: Stage) -> None:
    await asyncio.gather(*(play.rex.types(play.mail, "/smtp list") for _ in range(12)))
    await play.settled()
    assert len([one for one in play.rex.messages(play.mail) if "No SMTP credentials" in play.rex.read(one)]) == 12

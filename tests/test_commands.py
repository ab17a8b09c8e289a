"""The words after the command, the menu, and what is typed by mistake."""

import pytest

from tests.stage import Stage


@pytest.mark.parametrize("typed", ["/smtp", "/smtp help", "/smtp HELP"])
async def test_the_menu_says_what_can_be_done_here_and_why(play: Stage, typed: str) -> None:
    await play.wanda.types(play.mail, typed)
    shown = play.wanda.read(await play.wanda.sees("This channel manages SMTP credentials in Acme"))
    for part in ("[Create credential]", "[Show credentials]", "You're a writer of Acme", "/smtp create", play.mail.id, play.wanda.id):
        assert part in shown
    assert "/smtp access" not in shown
    await play.rex.types(play.mail, typed)
    await play.rex.sees("You're a responder of Acme, through @oncall")
    await play.olga.types(play.lobby, typed)
    await play.olga.sees("[Set up this channel]", play.lobby)


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
        answer = {"list": "Nothing in Acme matches", "whois": "I couldn't find", "audit": "There is nothing"}
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


async def test_the_command_works_in_a_direct_message_only_to_say_where(play: Stage) -> None:
    dm = play.slack.world.direct(play.wanda.id, play.mia.id)
    await play.wanda.types(dm, "/smtp list")
    await play.wanda.sees("I work in channels", dm)

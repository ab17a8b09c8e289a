"""Creating, as people do it: the one-time password, and all that can go wrong on its way."""

from tests.stage import Stage, password_in


async def test_the_password_is_shown_once_and_to_the_requester_alone(play: Stage) -> None:
    wanda, mail = play.wanda, play.mail
    await wanda.types(mail, "/smtp create Website relay")
    modal = await wanda.sees_modal("New SMTP credential")
    assert modal.values["name"]["name"]["value"] == "Website relay"
    await wanda.submits()
    await wanda.sees_modal("Credential created")
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

    await wanda.closes()
    await wanda.presses("I've copied it, remove this", message)
    await wanda.slack.world.until(lambda: password not in wanda.screen() or None, 5)
    assert password not in wanda.screen()

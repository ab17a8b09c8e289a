"""What people type is understood at every door: the forms that people reported as trouble elsewhere, each tried on each of them."""

import asyncio
import base64
import shlex

import pytest
from typer.testing import CliRunner

from bot.cli import cli
from storage.typed import read
from tests.stage import Stage

NAME = "shop.example.com"
FORMS = {
    "no-break space": "\u00a0 {u}",
    "blanks": "   {u}  ",
    "capitals": "{U}",
    "typographic quotes": "“{u}”",
    "single quotes": "‘{u}’",
    "code": "`{u}`",
    "fence": "```{u}```",
    "bold": "*{u}*",
    "italic": "_{u}_",
    "strike": "~{u}~",
    "full stop": "{u}.",
    "comma": "{u},",
    "brackets": "<{u}>",
    "mail address": "{u}@mail.example.com",
    "zero-width blank": "\u200b{u}",
    "no-break hyphens": "{u_hyphens}",
    "dashes": "{u_dashes}",
    "sasl_username": "sasl_username={u}",
    "escaped line end": "refused\\n{u}\\n",
    "colour": "user=\u001b[1;32m{u}\u001b[0m refused",
    "percent-encoding": "smtp%3A%2F%2F{u}%40mail.example.com",
    "base64": "{b64}",
    "base64 of base64": "{b64b64}",
}
"""How a username is typed or pasted. Slack does to it what it does: links, escapes and all."""


def form(name: str, username: str) -> str:
    encoded = base64.b64encode(f"\0{username}\0".encode()).decode()
    return (
        FORMS[name]
        .replace("{u_hyphens}", username.replace("-", "\u2011"))
        .replace("{u_dashes}", username.replace("-", "\u2013"))
        .replace("{b64b64}", base64.b64encode(f"auth:{encoded}".encode()).decode())
        .replace("{b64}", encoded)
        .replace("{u}", username)
        .replace("{U}", username.upper())
    )


@pytest.mark.parametrize("word", ["delete", "revoke", "rotate", "suspend", "whois", "list", "audit"])
async def test_every_word_finds_a_username_in_every_form(play: Stage, word: str) -> None:
    await play.create(play.adam, NAME)
    [credential] = await play.credentials()
    where = play.mail if word in ("list", "audit") else play.lobby
    for name in FORMS:
        await play.adam.types(where, f"/smtp {word} {form(name, credential.username)}")
        if word in ("whois", "list", "audit"):
            shown = await play.adam.sees(credential.username if word == "whois" else NAME, where)
            play.slack.world.remove_message(shown)
        else:
            await play.adam.sees_modal(NAME)
            await play.adam.closes()


async def test_every_field_finds_a_username_in_every_form(play: Stage) -> None:
    await play.create(play.adam, NAME)
    [credential] = await play.credentials()
    adam = play.adam
    await adam.opens_home()
    for name in FORMS:
        text = form(name, credential.username)
        await adam.types(play.lobby, "/smtp revoke")
        await adam.sees_modal("SMTP username")
        adam.fills("SMTP username", text)
        await adam.submits()
        await adam.sees_modal(NAME)
        await adam.closes()
        await adam.types(play.lobby, "/smtp whois")
        await adam.sees_modal("A username, or a line of a log")
        adam.fills("A username, or a line of a log", text)
        await adam.submits()
        await adam.sees_modal(NAME)
        await adam.closes()
        await adam.enters("Search", text, play.slack.world.homes[adam.id])
        await play.settled()
        assert NAME in adam.read(play.slack.world.homes[adam.id]), name


@pytest.mark.parametrize("typed", ["{n}", "“{n}”", "‘{n}’", "`{n}`", "*{n}*", '"{n}"', "  {n}  "])
async def test_a_website_as_a_name_is_made_and_found(play: Stage, typed: str) -> None:
    text = typed.replace("{n}", NAME)
    await play.wanda.types(play.mail, f"/smtp create {text}")
    view = await play.wanda.sees_modal("New SMTP credential")
    assert view.values["name"]["name"]["value"] == NAME
    await play.wanda.submits()
    await play.settled()
    await play.wanda.types(play.mail, f"/smtp delete {text}")
    await play.wanda.sees_modal("Delete credential?")
    await play.wanda.closes()
    await play.wanda.types(play.mail, f"/smtp list {text}")
    await play.wanda.sees("Showing 1 to 1 of 1.")


async def test_other_odd_forms(play: Stage) -> None:
    password = await play.create(play.wanda, "R&D <lab>")
    [credential] = await play.credentials()
    wanda = play.wanda
    for text in (f"/smtp delete {credential.username}", f"Delete\n{credential.username}", "delete R&D <lab>"):
        await wanda.types(play.mail, f"/smtp {text}")
        await wanda.sees_modal("Delete credential?")
        await wanda.closes()
    await wanda.types(play.mail, f"/smtp revoke `{credential.username}`, *{credential.username}*")
    assert wanda.read(await wanda.sees_modal("R&D <lab>")).count(credential.username) == 1
    await wanda.closes()
    for text in (f"delete `{password}`", password, f"create “{password}”"):
        before = len(play.slack.traffic)
        await wanda.types(play.mail, f"/smtp {text}")
        await wanda.presses("Revoke it", await wanda.sees("That looks like an SMTP password, so I didn't use it", play.mail))
        await wanda.sees_modal("R&D <lab>")
        await wanda.closes()
        assert not [one for one in list(play.slack.traffic)[before:] if one.way == "from app" and password in one.sent]


async def test_several_usernames_are_revoked_together_or_chosen_from(play: Stage) -> None:
    for name in ("One", "Two"):
        await play.create(play.wanda, name)
    both = ", ".join(one.username for one in await play.credentials())
    await play.wanda.types(play.lobby, f"/smtp delete {both}")
    await play.wanda.sees_modal("Revoke credentials")
    await play.wanda.closes()
    await play.wanda.types(play.lobby, f"/smtp suspend {both}")
    await play.wanda.presses("Suspend…", await play.wanda.sees("One at a time."), near="Two")
    await play.wanda.sees_modal("Two")


@pytest.mark.parametrize("name", FORMS)
def test_the_shell_reads_the_same(name: str) -> None:
    username = "smtp-acme-7k2m9x4q"
    text = form(name, username)
    assert read(" ".join(shlex.split(shlex.quote(text)))).usernames == [username]


async def test_the_shell_takes_a_list_and_standard_input(play: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("One", "Two", "Three"):
        await play.create(play.wanda, name)
    one, two, three = (each.username for each in await play.credentials())
    for key, value in play.environment.items():
        monkeypatch.setenv(key, value)

    def run() -> list[int]:
        runner = CliRunner()
        shown = runner.invoke(cli, ["revoke", f"{one}, {two}"])
        piped = runner.invoke(cli, ["revoke", "-"], input=f"AUTH failed for <{three}>\n")
        nothing = runner.invoke(cli, ["revoke", "printer"])
        return [shown.exit_code, piped.exit_code, nothing.exit_code]

    assert await asyncio.to_thread(run) == [0, 0, 1]
    assert await play.passdb() == []

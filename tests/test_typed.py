"""People's text: what Slack, keyboards, terminals, logs and files make of it, and what was meant.

`{u}` stands for a username of ours, `{U}` for it in capitals, `{pw}` for a password, `{dev}` for a device password, `{b64:…}` for base64 of
what follows, `{b64url:…}` and `{b16:…}` for base64url and for base64 of UTF-16.
"""

import re
from base64 import b64encode, urlsafe_b64encode
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import names, passwords, typed
from storage.passwords import Style

CHOOSE = Random(14).choice
USERNAME = "smtp-acme-7k2m9x4q"
PASSWORD = passwords.generate("7k2m9x4q", choose=CHOOSE)
DEVICE = next(one for one in iter(lambda: passwords.generate("7k2m9x4q", Style.DEVICE, CHOOSE), None) if one and {"0", "1"} <= set(one[3:]))
GROUPS = [DEVICE[at : at + 4] for at in range(0, 20, 4)]


def made(text: str) -> str:
    """The text with its placeholders filled in, the innermost first."""
    for placeholder, value in (("{u}", USERNAME), ("{U}", USERNAME.upper()), ("{pw}", PASSWORD), ("{dev}", DEVICE)):
        text = text.replace(placeholder, value)
    inner = re.compile(r"\{(b64url|b64|b16):((?:[^{}]|\{(?!b64|b16)[^{}]*\})*)\}")
    while match := inner.search(text):
        kind, content = match.groups()
        encode = urlsafe_b64encode if kind == "b64url" else b64encode
        text = text[: match.start()] + encode(content.encode("utf-16-le" if kind == "b16" else "utf-8")).decode() + text[match.end() :]
    return text


FINDS_USERNAME = [
    "{u}",
    "{U}",
    "\u00a0{u}\u202f",
    "  {u}  ",
    "Delete\n{u}",
    "`{u}`",
    "```{u}```",
    "```\n{u}\n```",
    "*{u}*",
    "_{u}_",
    "~{u}~",
    "*_~{u}~_*",
    "**{u}**",
    "__{u}__",
    "{u}.",
    "{u}, please",
    "{u}!?",
    "`{u}`, *{u}*",
    "({u})",
    "[{u}]",
    "{{u}}",
    "<{u}>",
    "&lt;{u}&gt;",
    "<mailto:{u}@mail.example.com|{u}@mail.example.com>",
    "<mailto:{u}@mail.example.com>",
    "<http://{u}|{u}>",
    "<http://{u}>",
    "“{u}”",
    "„{u}“",
    "«{u}»",
    "「{u}」",
    "“`{u}`”",
    "{u}@mail.example.com",
    "ACME\\{u}",
    "{u}’s password",
    "-{u}",
    "• {u}",
    "&gt; {u}",
    "user={u};",
    "sip:{u}:5060",
    "smtp\u2013acme\u20137k2m9x4q",
    "smtp\u2011acme\u20117k2m9x4q",
    "smtp\u2212acme\u20127k2m9x4q",
    "smtp\u2014acme\u20147k2m9x4q",
    "{u}\u2014refused",
    "refused\u2014{u}",
    "smtp\uff0dacme\ufe637k2m9x4q",
    "ｓｍｔｐ－ａｃｍｅ－７ｋ２ｍ９ｘ４ｑ",
    "smtp-\u200bacme-\u200b7k2m9x4q",
    "\ufeff{u}\u2060",
    "smtp-ac\u00adme-7k2m9x4q",
    "s\u034fmtp-acme-7k2m\ufe0f9x4q",
    "\u202a{u}\u202c",
    r"AUTH failed\n{u}\n",
    r"AUTH failed\r\n{u}\t535",
    r"AUTH failed\\n{u}",
    r'{"log":"AUTH failed\n{u}\n","stream":"stderr"}',
    r'{"a":"{\"user\":\"{u}\"}"}',
    r"smtp\u002dacme\u002d7k2m9x4q",
    r"smtp\x2dacme\x2d7k2m9x4q",
    r"smtp\-acme\-7k2m9x4q",
    r"\u003c{u}\u003e",
    r"\x1b[1;32m{u}\x1b[0m",
    r"\033[31m{u}\033[0m",
    r"\u001b[1;32m{u}\u001b[0m",
    r"\e[1m{u}\e[0m",
    "\x1b[1;32m{u}\x1b[0m",
    "535\x1b[0m{u}\x1b[K",
    "smtp-\x1b[01;31macme\x1b[m-7k2m9x4q",
    "user=[1;32m{u}[0m refused",
    "[38;5;196m{u}[39m",
    "^[[1m{u}^[[0m",
    "AUTH failed#012{u}#033[0m",
    "smtp%2Dacme%2D7k2m9x4q",
    "next=%2Fwhois%3Fq%3D{u}%26x",
    "smtp%252Dacme%252D7k2m9x4q",
    "user=3D{u}".replace("=3D", "=3D=\n"),
    "smtp=2Dacme=2D7k2m9x4q",
    "smtp-acme=\r\n-7k2m9x4q",
    "smtp&#45;acme&#x2d;7k2m9x4q",
    "&quot;{u}&quot;",
    "SMTP_USERNAME: {b64:{u}}",
    "334 VXNlcm5hbWU6 {b64:{u}} 334 UGFzc3dvcmQ6",
    "AUTH PLAIN {b64:\0{u}\0secret}",
    "AUTH PLAIN {b64:{u}\0{u}\0secret}",
    "{b64url:???{u}???}",
    "{b64:{b64:{u}}}",
    "{b64:{b64:{b64:{u}}}}",
    'auth: {b64:{"auths":{"m":{"auth":"{b64:{u}:secret}"}}}}',
    r"\n{b64:{u}}",
    "path/{b64:{u}}",
    "-EncodedCommand {b16:send {u}}",
    "smtp://{u}:secret@mail.example.com:587/?authentication=plain",
    "[mail.example.com]:587 {u}:secret",
    "postfix/smtpd[4711]: warning: unknown[198.51.100.7]: SASL LOGIN authentication failed: (reason unavailable), sasl_username={u}",
    "dovecot: auth: sql({u},198.51.100.7): Password mismatch",
    "auth: Info: conn unix:/run/dovecot/auth (pid=1,uid=0): auth({u},198.51.100.7,sasl:plain): Password mismatch",
    "535 Incorrect authentication data (set_id={u})",
    "P=esmtpsa X=TLS1.3 A=smtp_bot_plain:{u} S=512",
    '{"MESSAGE":"warning: SASL PLAIN authentication failed, sasl_username={u}","_PID":"4711"}',
    "<https://logs.example.com/?q={u}|logs.example.com/?q={u}>",
    "<@U0ABC123> {u} <!here>",
    '<span class="hl">{u}</span>',
    "- user: '{u}'",
]


@pytest.mark.parametrize("text", FINDS_USERNAME, ids=range(len(FINDS_USERNAME)))
def test_a_username_is_found_in_whatever_it_was_wrapped(text: str) -> None:
    assert typed.read(made(text)).usernames == [USERNAME]


def test_base64_in_lines_is_read_across_them() -> None:
    for before in range(40, 60):
        lines = b64encode(f"{'x' * before} {USERNAME} {PASSWORD}".encode()).decode()
        for end in ("\n", "\r\n", "\n    "):
            found = typed.read("data: |\n    " + end.join(lines[at : at + 76] for at in range(0, len(lines), 76)))
            assert found.usernames == [USERNAME]
            assert [one.canonical for one in found.passwords] == [PASSWORD]


NO_USERNAME = ["x{u}", "{u}x", "{u}-old", "old-{u}", "smtp-acme", "smtp-acme-7k2m9xlo", "smtp--7k2m9x4q1", "smtp acme 7k2m9x4q"]


@pytest.mark.parametrize("text", NO_USERNAME)
def test_what_only_contains_the_letters_of_a_username_is_none(text: str) -> None:
    assert typed.read(made(text)).usernames == []


FINDS_PASSWORD = [
    "`{pw}`",
    "<http://{pw}|{pw}>",
    "{pw}.",
    "({pw}),",
    "“{pw}”",
    "{pw}\r\n",
    "\t{pw}\n\n",
    'MAIL_USERNAME="{u}" MAIL_PASSWORD="{pw}"',
    "SMTP_URL=smtp://{u}:{pw}@mail.example.com:587/",
    "[mail.example.com]:587 {u}:{pw}",
    r"spring.mail.username={u}\nspring.mail.password={pw}",
    " ~> AUTH PLAIN {b64:\0{u}\0{pw}}",
    "334 VXNlcm5hbWU6 {b64:{u}} 334 UGFzc3dvcmQ6 {b64:{pw}}",
    "auth: {b64:{'auths':{'m':{'auth':'{b64:{u}:{pw}}'}}}}",
    "Authorization: Basic {b64:{u}:{pw}}",
    "{b64url:???{pw}}",
    "\0{u}\0{pw}",
    r"\0{u}\0{pw}",
    r"\x00{u}\x00{pw}",
    "%00{u}%00{pw}",
    "{u}\x1f{pw}",
    "password=\x1b[32m{pw}\x1b[0m",
    "password=[32m{pw}[0m",
    "smtp1\u200b" + PASSWORD[5:],
    PASSWORD[:20] + "=\r\n" + PASSWORD[20:],
    "".join(f"%{ord(char):02X}" for char in PASSWORD),
    "".join(f"\\u{ord(char):04x}" for char in PASSWORD),
    "+".join(["pass", "{pw}", "word"]),
]


@pytest.mark.parametrize("text", FINDS_PASSWORD, ids=range(len(FINDS_PASSWORD)))
def test_a_password_is_found_in_whatever_it_was_wrapped(text: str) -> None:
    found = typed.read(made(text))
    assert [one.canonical for one in found.passwords] == [PASSWORD]
    assert PASSWORD not in repr(found.passwords)


FINDS_DEVICE = [
    "{dev}",
    "Password: {dev}.",
    "pin {dev}\r\n",
    DEVICE.upper(),
    DEVICE.replace("0", "o").replace("1", "l"),
    DEVICE.upper().replace("0", "O").replace("1", "I"),
    " ".join(GROUPS),
    "-".join(GROUPS),
    "The sticker says " + " ".join(GROUPS).upper() + ", is it ours?",
    "(" + "-".join(GROUPS) + ")",
    "SMTP: " + " - ".join(GROUPS) + " (hall)",
    "\u2013".join(GROUPS),
    "\u00a0".join(GROUPS),
    "\n".join(GROUPS),
    "\\n".join(["", "-".join(GROUPS)]),
    " ".join([DEVICE[:5], DEVICE[5:10], DEVICE[10:15], DEVICE[15:]]),
    " ".join(DEVICE),
    "{b64:" + " ".join(GROUPS) + "}",
    "*" + " ".join(GROUPS) + "*",
    "smt smt smt " + DEVICE,
    "smtp smt " + " ".join(GROUPS),
]


@pytest.mark.parametrize("text", FINDS_DEVICE, ids=range(len(FINDS_DEVICE)))
def test_a_device_password_is_found_as_it_stands_on_a_sticker(text: str) -> None:
    assert [one.canonical for one in typed.read(made(text)).passwords] == [DEVICE]


def test_a_mistyped_password_is_none() -> None:
    for wrong in (PASSWORD[:-1], DEVICE[:-1], DEVICE + "0", DEVICE[:-1] + ("1" if DEVICE[-1] != "1" else "2")):
        assert typed.read(f"is it {wrong} ?").passwords == []


def test_several_are_found_each_once_those_that_stand_there_plainly_first() -> None:
    text = made("{b64:smtp-hidden-00000001} *smtp-b-00000002*, `smtp-a-00000003` smtp-b-00000002 {pw} {dev} {pw}")
    found = typed.read(text)
    assert found.usernames == ["smtp-b-00000002", "smtp-a-00000003", "smtp-hidden-00000001"]
    assert [one.canonical for one in found.passwords] == [PASSWORD, DEVICE]


NAMES = [
    "shop.example.com",
    "R&D <lab>",
    "snake_case_name",
    "a*b",
    "~tilde",
    "100% printer",
    r"C:\temp",
    "Ünïcode naïve",
    "O'Brien",
    "Bob's printer's tray",
    "印刷機 3階",
    "サーバー",
    "Drucker 3. OG",
    "2*3*4",
    "5* hotel",
    "_private",
    "a_b_c_",
    "x ~ y",
    "back`tick",
    "a=3D",
    "%2D",
    "[1;32m",
    r"\n",
    "&copy;",
    "a  b",
    "#1 relay",
    "@home",
    "<lab>",
    "a < b > c",
    "Relay (old)",
    "Relay.",
    "5'11\" door",
    "'t Hooft",
    "aGVsbG8gd29ybGQgaGVsbG8=",
    "*.example.com",
    "-",
    "e\u0301".replace("e\u0301", "é"),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_comes_through_as_it_was_typed(name: str) -> None:
    assert typed.read(name).words == name


MEANT = [
    ("<http://shop.example.com|shop.example.com>", "shop.example.com"),
    ("<https://shop.example.com/a|shop.example.com/a> relay", "shop.example.com/a relay"),
    ("<https://shop.example.com>", "https://shop.example.com"),
    ("<mailto:bob@example.com|bob@example.com>", "bob@example.com"),
    ("<mailto:bob@example.com>", "bob@example.com"),
    ("<tel:+4930123456|030 123456>", "030 123456"),
    ("<@U0ABC123|bob> <@W0ABC123>", "@bob @W0ABC123"),
    ("<#C0ABC123|general>", "#general"),
    ("<!subteam^S0ABC123|@oncall> responder", "@oncall responder"),
    ("<!here> <!channel>", "@here @channel"),
    ("<!date^1392734382^{date}|18 Feb 2014>", "18 Feb 2014"),
    ("R&amp;D &lt;lab&gt;", "R&D <lab>"),
    ("&amp;lt;", "&lt;"),
    ("*<http://shop.example.com|shop.example.com>*", "shop.example.com"),
    ("“<http://shop.example.com|shop.example.com>”", "shop.example.com"),
    ("`shop.example.com`", "shop.example.com"),
    ("```\nshop.example.com\n```", "shop.example.com"),
    ("*bold* and _italic_ and ~gone~", "bold and italic and gone"),
    ("*a _b* c_", "a b c"),
    ("`snake_case_name`", "snake_case_name"),
    ("*a\nb*", "*a\nb*"),
    ("‘shop.example.com’", "shop.example.com"),
    ("„Website relay“", "Website relay"),
    ("»Website relay«", "Website relay"),
    ("『印刷機』", "印刷機"),
    ("‘Bob’s printer’", "Bob's printer"),
    ("“a” and “b”", '"a" and "b"'),
    ("O’Brien", "O'Brien"),
    ("web\u2011relay\u2013two", "web-relay-two"),
    ("Website\u00a0relay\u3000two", "Website relay two"),
    ("Web\u200bsite\ufeff", "Website"),
    ("\u202eabc", "abc"),
    ("a\x00b\x07c\td", "abc d"),
    ("\x1b[1;32mWebsite\x1b[0m relay", "Website relay"),
    ("a\r\nb\rc\u2028d", "a\nb\nc\nd"),
    ("\ud800x", "\ufffdx"),
    ("", ""),
    ("“”", ""),
    ("**", "**"),
    ("****x****", "****x****"),
]


@pytest.mark.parametrize(("text", "words"), MEANT)
def test_the_words_are_what_a_person_would_say(text: str, words: str) -> None:
    assert typed.read(text).words == words


def test_people_channels_and_groups_are_known_by_their_ids() -> None:
    text = "<@U0ABC123|bob> <!subteam^S0ABC123|@oncall> <#C0ABC123|x> <@U0ABC123> <!here> <http://x.example|x>"
    assert typed.read(text).mentions == ["U0ABC123", "S0ABC123", "C0ABC123"]


COMMANDS = [
    ("", ("", "")),
    ("  ", ("", "")),
    ("delete", ("delete", "")),
    ("DELETE {u}", ("delete", "{u}")),
    ("Delete\n{u}", ("delete", "{u}")),
    ("\u00a0delete\u00a0{u}", ("delete", "{u}")),
    ("/smtp delete {u}", ("delete", "{u}")),
    ("/SMTP /smtp smtp delete  {u} ", ("delete", "{u}")),
    ("/smtp", ("", "")),
    ("`delete {u}`", ("delete", "{u}")),
    ("*delete* {u}", ("delete", "{u}")),
    ("“delete {u}”", ("delete", "{u}")),
    ("delete: {u}", ("delete", "{u}")),
    ("delete “shop.example.com”", ("delete", "shop.example.com")),
    ("delete ‘Bob’s printer’", ("delete", "Bob's printer")),
    ('delete "a" "b"', ("delete", '"a" "b"')),
    ("list <http://shop.example.com|shop.example.com>", ("list", "shop.example.com")),
    ("create R&amp;D &lt;lab&gt;", ("create", "R&D <lab>")),
    ("create Web  relay\nx", ("create", "Web  relay\nx")),
    ("revoke `{u}`, *{u}*", ("revoke", "{u}, {u}")),
    ("?", ("", "")),
    ("créer x", ("créer", "x")),
]


@pytest.mark.parametrize(("text", "meant"), COMMANDS)
def test_the_first_word_of_a_command_and_the_rest(text: str, meant: tuple[str, str]) -> None:
    assert typed.command(made(text), "/smtp") == (made(meant[0]), made(meant[1]))


def test_a_command_of_another_name_is_known_by_that_name() -> None:
    assert typed.command("/mail-keys delete x", "/mail-keys") == ("delete", "x")
    assert typed.command("/smtp delete x", "/mail-keys") == ("/smtp", "delete x")


LOGINS = ["{u}", "{U}", " {u}\t", "{u}\r\n", "{u}@mail.example.com", "{u}@a@b", "ACME\\{u}", "acme.local\\{U}@mail", "\u00a0{u} @mail "]


@pytest.mark.parametrize("text", LOGINS)
def test_a_mail_client_may_write_its_username_in_any_of_its_forms(text: str) -> None:
    assert typed.login_name(made(text)) == USERNAME


@pytest.mark.parametrize("text", ["{pw}", " {pw} ", "\t{pw}\r\n", "{pw}\n", "\u00a0{pw}"])
def test_blanks_and_line_ends_around_a_password_do_not_count(text: str) -> None:
    assert typed.login_password(made(text)) == PASSWORD


def test_what_is_no_login_stays_none() -> None:
    assert [typed.login_name(text) for text in ("", "@", "\\", "a\\@b")] == ["", "", "", ""]
    assert typed.login_password("a b") == "a b"


WRAPPERS = ["*{}*", "_{}_", "~{}~", "`{}`", "“{}”", "‘{}’", "«{}»", "<http://x.example|{}>", '"{}"']
AROUND = ["{}", "\u00a0{}\u200b", " {}\n", "```{}```", "```\n{}\n```", "*`{}`*"]
PLAIN_NAMES = ["shop.example.com", "Website relay", "snake_case_name", "Ünïcode naïve", "O'Brien", "100% printer", USERNAME]


@given(
    name=st.sampled_from(PLAIN_NAMES),
    wrappers=st.lists(st.sampled_from(WRAPPERS), max_size=4, unique=True),
    around=st.sampled_from(AROUND),
)
def test_wrappers_come_off_in_any_nesting(name: str, wrappers: list[str], around: str) -> None:
    text = name
    for wrapper in wrappers:
        text = wrapper.format(text)
    text = text if "`" in text and "`" in around else around.format(text)
    found = typed.read(text)
    assert found.words == name
    assert typed.read(found.words).words == found.words
    assert found.usernames == ([USERNAME] if name == USERNAME else [])


PIECES = [
    *"*_~`<>|%=-'\"“ am7\n\0\u200b\u2013\u2014\u0301\ud800\U0010ffff",
    *["```", "&amp;", "&lt;", "<@U1|", "U0ABC", "<http://", "\\", "\\u00", "\\x", "#0", "%2", "=\r\n", "\x1b[", "\x1b]", "[1;3"],
    *["smt", "smtp-", "smtp1", "QUFB" * 6, USERNAME, PASSWORD, DEVICE, b64encode(USERNAME.encode()).decode()],
]


@given(st.one_of(st.text(max_size=300), st.lists(st.sampled_from(PIECES), max_size=80).map("".join)))
def test_any_text_is_read_and_nothing_is_found_twice(text: str) -> None:
    found = typed.read(text)
    assert len(set(found.usernames)) == len(found.usernames)
    assert all(names.USERNAME.fullmatch(one) for one in found.usernames)
    assert len({one.canonical for one in found.passwords}) == len(found.passwords)
    assert len(found.words) <= len(text)
    assert not names.INVISIBLE.search(found.words)
    found.words.encode()
    word, rest = typed.command(text, "/smtp")
    assert len(word) + len(rest) <= len(text)
    assert typed.unquote(rest) == rest
    assert typed.login_name(text) == typed.login_name(typed.login_name(text))


HOSTILE = {
    "base64": "QUFB",
    "base64 of letters": "YWFhYWFhYWFhYWFh",
    "escapes": "\\\\",
    "percents": "%25",
    "entities": "&amp;amp;",
    "open references": "<http:",
    "marks": "*a _b ",
    "colours": "\x1b]",
    "likenesses": "smt smtp1 smtp-a-",
    "quotes": "'\"«‹",
    "a long number": "&#" + "9" * 5000,
    "runs": "QUFBQUFBQUFBQUFBQUFBQUFB.",
}


@pytest.mark.parametrize("piece", HOSTILE.values(), ids=HOSTILE.keys())
def test_the_work_for_a_text_is_bounded(piece: str) -> None:
    text = (piece * typed.TEXT_MAX)[: typed.TEXT_MAX]
    assert sum(len(part) for part in typed.readings(text)) <= 2 * typed.READ_MAX
    assert typed.read(text + "\n" + USERNAME).usernames == []
    many = " ".join(f"smtp-a-{number:08d} <@U{number}>" for number in range(2000))
    assert len(typed.read(many).usernames) == len(typed.read(many).mentions) == typed.FOUND_MAX

"""People's text: what they type, paste and log in with, turned into what they meant.

Slack rewrites what is typed (https://docs.slack.dev/messaging/formatting-message-text), keyboards set quotes and dashes, terminals add
colours, logs and files add escapes and encodings. `read` undoes that twice: the words as a person would say them, and the usernames and
passwords of ours wherever they stand, also encoded. No input makes it raise, and its work grows with the text's length only, up to
TEXT_MAX characters.
"""

import binascii
import html
import re
from base64 import b64decode
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from storage import names, passwords
from storage.passwords import Parsed

TEXT_MAX = 100_000  # characters looked at: more than Slack takes in a message
READ_MAX = 10 * TEXT_MAX  # characters of all decodings of one text
DEPTH = 4  # encodings within encodings that are undone
BASE64_MAX = 200  # runs that are decoded
QUOTES_MAX = 8  # kinds of quotes around quotes
FOUND_MAX = 500  # usernames, passwords and mentions, each

_USERNAME = re.compile(rf"(?<![a-z0-9])(?<![a-z0-9]-){names.USERNAME.pattern}(?!-*[a-z0-9])")

_REFERENCE = re.compile(
    r"<(?:[@#](?P<id>[A-Z0-9]+)|!(?P<special>[^<>|]*)|(?P<link>[a-z][a-z0-9+.-]{0,30}:[^<>|\s]*))(?:\|(?P<label>[^<>]*))?>"
)
_SUBTEAM = re.compile(r"subteam\^([A-Z0-9]+)")
_SLACK_ENTITY = re.compile("&(?:amp|lt|gt);")
_ENTITY = re.compile("&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z]{2,31});?")
_MARK = re.compile(r"`+|\*+|_+|~+")
_MARK_MAX = 3  # `***` and ``` are the longest

_COLOUR = re.compile(r"\x1b\[[0-9;:?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")
_BARE_COLOUR = re.compile(r"(?:\^\[)?\[[0-9;]{1,20}m")  # Slack and many a viewer drop the escape character before it
_ESCAPE = re.compile(
    r"\\(?:u\{(?P<braced>[0-9a-fA-F]{1,6})\}|u(?P<u>[0-9a-fA-F]{4})|x(?P<x>[0-9a-fA-F]{2})|(?P<o>[0-3][0-7]{2})|(?P<c>[abefnrtv0]|[^\w\s]))"
    r"|#(?P<syslog>0[0-3][0-7])"  # rsyslog: parser.escapeControlCharactersOnReceive
)
_LETTERS = {"a": "\a", "b": "\b", "e": "\x1b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "0": "\0"}
_PERCENT = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_QUOTED_PRINTABLE = re.compile(r"=(?:([0-9A-F]{2})|[ \t]{0,9}\r?\n)")  # RFC 2045, section 6.7: capitals only
_WRAPPED = re.compile(r"(?<=[A-Za-z0-9+/]{60})[ \t]{0,9}\r?\n[ \t]{0,9}(?=[A-Za-z0-9+/])")  # RFC 2045, section 6.8: lines of 76
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{20,}")
_TEXT_BYTES = bytes([0, 9, 10, 13, 27, *range(32, 127)])

_QUOTES = {'"': '"', "'": "'", "«": "»", "»": "«", "‹": "›", "›": "‹", "「": "」", "『": "』"}
_BLANK = re.compile(r"[^\S\n]|[\u2800\x85]")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_EM = re.compile("[\u2014\u2015\u2e3a\u2e3b]")


@dataclass
class Typed:
    """A person's text, understood."""

    words: str = field(repr=False)
    """The text as meant: Slack's references, its escapes and formatting undone, invisible characters gone, quotes, dashes and blanks those
    of a plain keyboard, without quotes or blanks around."""
    usernames: list[str] = field(default_factory=list)
    """Each once, those that stand there plainly first, then those in encodings."""
    passwords: list[Parsed] = field(default_factory=list)
    """With a right checksum; in the order of `usernames`."""
    mentions: list[str] = field(default_factory=list)
    """Slack's ids of the people, channels and user groups that it refers to."""
    cut: bool = False
    """It was too long, or held more than `FOUND_MAX`: some of it was not looked at."""


def read(text: str) -> Typed:
    """What a person meant by a text from Slack, a form, a terminal or a file."""
    whole, text = text, text[:TEXT_MAX]
    usernames: dict[str, None] = {}
    found: dict[str, Parsed] = {}
    cut = len(whole) > TEXT_MAX
    for part in readings(text):
        for match in _USERNAME.finditer(part.lower()):
            cut = cut or (len(usernames) >= FOUND_MAX and match[0] not in usernames)
            if len(usernames) < FOUND_MAX:
                usernames[match[0]] = None
        for parsed in passwords.find(part):
            if len(found) >= FOUND_MAX:
                cut = cut or parsed.canonical not in found
                break
            found.setdefault(parsed.canonical, parsed)
    return Typed(_plain(text), list(usernames), list(found.values()), _mentions(text), cut)


def command(text: str, name: str) -> tuple[str, str]:
    """The first word typed after a slash command, in lower case, and the rest as meant, each "" when there is none.

    Args:
        name: of the slash command, such as `/smtp`; typed again before the word it does not count.
    """
    repeated = re.compile(rf"(?:/?{re.escape(name.removeprefix('/'))}(?!\S)\s*)*", re.IGNORECASE)
    word, rest = (*repeated.sub("", _plain(text[:TEXT_MAX]), count=1).split(maxsplit=1), "", "")[:2]
    return word.lower().strip(":,.;!?"), unquote(rest)


def unquote(text: str, most: int = QUOTES_MAX) -> str:
    """The text without blanks around it, and without the quotes, plain or typographic, that stand around all of it; `most`: nested."""
    text = text.strip()
    for left in range(most, 0, -1):
        ends = text[:1] + _QUOTES.get(text[:1], "")
        within = text.strip(ends)
        if len(text) < 2 or _QUOTES.get(text[0]) != text[-1]:
            break
        if _quoted(within, ends):
            inside = unquote(within, left - 1)
            return text if inside == within or _quoted(inside, ends) else inside
        layers = min(len(text) - len(text.lstrip(ends)), len(text) - len(text.rstrip(ends)))
        text = text[layers:-layers].strip() if within else ""
    return text


def login_name(text: str) -> str:
    """The username that a mail client means: in lower case, without `@host`, `DOMAIN\\` and blanks, tabs and line ends around."""
    return text.partition("@")[0].rpartition("\\")[2].strip().lower()


def our_username(text: str) -> str | None:
    """`login_name`, if it has the form of our usernames."""
    name = login_name(text)
    return name if names.USERNAME.fullmatch(name) else None


def login_password(text: str) -> str:
    """The password that a mail client means: without blanks, tabs and line ends around; ours hold none."""
    return text.strip()


def readings(text: str) -> Iterator[str]:
    """The text as it stands, then what it becomes by undoing escapes, percent-encoding, quoted-printable and base64, again and again.

    At most READ_MAX characters in all, DEPTH encodings deep.
    """
    waiting = deque([(text, 0)])
    left, runs = READ_MAX, BASE64_MAX
    while waiting:
        part, depth = waiting.popleft()
        left -= len(part)
        if left < 0:
            return
        yield from _spellings(part)
        if depth == DEPTH:
            continue
        decoded = _decoded(part)
        if decoded != part:
            waiting.append((decoded, depth + 1))
        for match in _BASE64.finditer(_WRAPPED.sub("", part)):
            if not runs:
                break
            runs -= 1
            waiting.extend((one, depth + 1) for one in _from_base64(match[0]))


# --- the words ---
def _plain(text: str) -> str:
    text = _REFERENCE.sub(_referred, text)
    text = _SLACK_ENTITY.sub(lambda match: html.unescape(match[0]), text)
    text = _visible(_COLOUR.sub("", text))
    return unquote(_unformatted(text.translate(names.TYPOGRAPHY)))


def _referred(match: re.Match[str]) -> str:
    label, special, link = match["label"], match["special"], match["link"]
    if link is not None:
        return label or re.sub("^(?:mailto|tel):", "", link)
    if special is not None:
        return label or "@" + special.partition("^")[0]
    sign = match[0][1]
    return sign + (label or match["id"]).removeprefix(sign)


def _mentions(text: str) -> list[str]:
    found: dict[str, None] = {}
    for match in _REFERENCE.finditer(text):
        group = _SUBTEAM.match(match["special"] or "")
        one = match["id"] or (group[1] if group else "")
        if one and len(found) < FOUND_MAX:
            found[one] = None
    return list(found)


def _visible(text: str) -> str:
    """Without characters that nobody sees, every blank a plain one, every line end a line feed."""
    text = names.INVISIBLE.sub("", text.replace("\r\n", "\n").replace("\r", "\n").replace("\u2028", "\n").replace("\u2029", "\n"))
    text = _BLANK.sub(" ", text)
    return _CONTROL.sub("", _SURROGATE.sub("\ufffd", text))


def _unformatted(text: str) -> str:
    """Without pairs of `*`, `_`, `~` and backticks around words. A mark within a word, or alone, is the person's own."""
    opened: dict[str, list[int]] = {}
    cut: list[tuple[int, int]] = []
    line, looked = -1, 0
    for match in _MARK.finditer(text):
        mark, start, end = match[0], match.start(), match.end()
        before, after = text[start - 1 : start], text[end : end + 1]
        fence = mark == "```"
        opens = not before.isalnum() and bool(after) and (fence or not after.isspace())
        closes = bool(before) and (fence or not before.isspace()) and not after.isalnum()
        stack = opened.setdefault(mark, [])
        line = max(line, text.rfind("\n", looked, start))
        looked = end
        if stack and stack[-1] < line and not fence:
            stack.clear()
        if len(mark) > _MARK_MAX:
            continue
        if closes and stack and stack[-1] + len(mark) < start:
            at = stack.pop()
            cut += [(at, at + len(mark)), (start, end)]
        elif opens:
            stack.append(start)
    parts: list[str] = []
    kept = 0
    for start, end in sorted(cut):
        parts.append(text[kept:start])
        kept = end
    return "".join([*parts, text[kept:]])


def _quoted(text: str, quotes: str) -> bool:
    """Whether one of the quotes stands in it as a quote, not as an apostrophe."""
    return any(char in quotes and not (text[at - 1 : at].isalnum() and text[at + 1 : at + 2].isalnum()) for at, char in enumerate(text))


# --- what it may hide ---
def _spellings(text: str) -> Iterator[str]:
    """The text with plain hyphens and blanks and without invisible characters; a control character parts words, a long dash may."""
    text = _CONTROL.sub(" ", _BARE_COLOUR.sub(" ", _COLOUR.sub(" ", text)))
    yield _visible(text).translate(names.TYPOGRAPHY).translate(_FULL_WIDTH)
    if _EM.search(text):
        yield _visible(_EM.sub(" ", text)).translate(names.TYPOGRAPHY).translate(_FULL_WIDTH)


def _decoded(text: str) -> str:
    text = _ESCAPE.sub(_unescaped, _ENTITY.sub(lambda match: html.unescape(match[0]), text))
    text = _BARE_COLOUR.sub("", _COLOUR.sub("", text))
    text = _PERCENT.sub(lambda match: unquote_to_bytes(match[0]).decode("utf-8", "replace"), text)
    return _QUOTED_PRINTABLE.sub(lambda match: chr(int(match[1], 16)) if match[1] else "", text)


def _unescaped(match: re.Match[str]) -> str:
    if match["c"]:
        return _LETTERS.get(match["c"], match["c"])
    code = int(match["braced"] or match["u"] or match["x"] or "0", 16) or int(match["o"] or match["syslog"] or "0", 8)
    return chr(code) if code < 0x110000 else "\ufffd"


def _from_base64(run: str) -> Iterator[str]:
    """The texts that a run of base64 or base64url decodes to; a path or a letter that stands right before it shifts where it begins."""
    run = run.replace("-", "+").replace("_", "/")
    for shift in range(4):
        piece = run[shift:]
        if len(piece) % 4 == 1:
            piece = piece[:-1]
        try:
            data = b64decode(piece + "=" * (-len(piece) % 4))
        except (binascii.Error, ValueError):
            continue
        strange = len(data.translate(None, _TEXT_BYTES))
        if strange * 4 > len(data):
            continue
        if data[1::2].count(0) * 4 > len(data):  # UTF-16, as PowerShell writes it
            data = data.replace(b"\0", b"")
        yield data.decode("utf-8", "replace")

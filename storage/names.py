"""Names of credentials, slugs of workspaces, and the usernames made of them."""

import re
import unicodedata

from disarm import skeleton_key

from storage import passwords
from storage.refusals import NameInvalid, NameProblem, SlugInvalid

NAME_MAX = 64
SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
USERNAME_SLUG_MAX = 12
USERNAME = re.compile(rf"smtp-[a-z0-9-]{{1,{USERNAME_SLUG_MAX}}}-[{passwords.CROCKFORD}]{{{passwords.ID_LENGTH}}}")
_USERNAME_WITHIN = re.compile(rf"(?<![a-z0-9]){USERNAME.pattern}(?![a-z0-9])")

# Unicode 17.0, DerivedCoreProperties.txt: Default_Ignorable_Code_Point, the characters that are drawn as nothing.
INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff"
    "\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
# General categories that are no part of a name (controls, formats, private use, surrogates, unassigned, line and paragraph separators), and
# the Braille letter that is drawn as a blank.
_HIDDEN = {"Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp"}
_BLANK = "\u2800"
# An emoji keyboard writes a selector behind a symbol, or between a digit and its key; without it the symbol is the same one.
_EMOJI_STYLE = re.compile(
    "(?<=[\u00a9\u00ae\u203c\u2049\u2122\u2139\u2190-\u2bff\u3030\u303d\u3297\u3299\U0001f000-\U0001faff])[\ufe0e\ufe0f]|\ufe0f(?=\u20e3)"
)
# UTS 39, section 5.4: no more than four nonspacing marks in a row, and none of them twice.
MARKS_MAX = 4
# What keyboards and word processors write for a hyphen and for straight quotes.
TYPOGRAPHY = str.maketrans(
    dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2043\u2212\u02d7\u2e3a\u2e3b\ufe58\ufe63\uff0d", "-")
    | dict.fromkeys("\u2018\u2019\u201a\u201b", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f", '"')
)


def clean_name(text: str) -> str:
    """The name as it is kept: trimmed, NFC, without the selectors that only choose how an emoji is drawn.

    Raises:
        NameInvalid: empty, over 64 characters, with characters that cannot be seen, with more marks on a letter than any language
            writes, or shaped like a password or a username of ours.
    """
    if len(text.strip()) > 4 * NAME_MAX:  # NFC makes at most four characters one
        raise NameInvalid(NameProblem.TOO_LONG)
    name = _EMOJI_STYLE.sub("", unicodedata.normalize("NFC", text)).strip()
    if not name:
        raise NameInvalid(NameProblem.EMPTY)
    if len(name) > NAME_MAX:
        raise NameInvalid(NameProblem.TOO_LONG)
    if INVISIBLE.search(name) or any(unicodedata.category(c) in _HIDDEN or c == _BLANK for c in name):
        raise NameInvalid(NameProblem.CHARACTERS)
    if _piles_marks(name):
        raise NameInvalid(NameProblem.MARKS)
    if looks_like_password(name):
        raise NameInvalid(NameProblem.PASSWORD)
    if looks_like_username(name):
        raise NameInvalid(NameProblem.USERNAME)
    return name


def name_key(name: str) -> str:
    """Two names are the same when their keys are: whatever their case, their width, and the typography of their quotes and dashes."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()).translate(TYPOGRAPHY)


def skeleton(name: str) -> str:
    """Two names that people take for each other have the same one: UTS 39, section 4, with Unicode's confusables.txt, in any case.

    For comparing only, never for showing. It may change with the version of `disarm` (`disarm.KEY_SCHEMA_VERSION` says when it did).

    Args:
        name: as `clean_name` returned it.
    """
    return skeleton_key(name, digit_policy="tr39").replace("m", "rn")  # a row of confusables.txt that disarm leaves out


def looks_like_password(text: str) -> bool:
    """Whether one of our passwords stands in it, or something so close to one that it may be a mistyped one."""
    return next(passwords.find(text), None) is not None or passwords.mask(text) != text or passwords.parse(text) is not None


def looks_like_username(name: str) -> bool:
    """Whether one of our usernames stands in a name, also in capitals, with typographic dashes, or in letters that look the same."""
    return _USERNAME_WITHIN.search(skeleton_key(name)) is not None


def _piles_marks(name: str) -> bool:
    """Whether a mark stands on nothing, twice on the same letter, or among more than MARKS_MAX."""
    marks: list[str] | None = None
    for char in unicodedata.normalize("NFD", name):
        if unicodedata.category(char) not in ("Mn", "Me"):
            marks = []
        elif marks is None or char in marks or len(marks) == MARKS_MAX:
            return True
        else:
            marks.append(char)
    return False


def clean_slug(text: str) -> str:
    """Raises SlugInvalid unless it is 1 to 32 of a-z, 0-9 and hyphen, not starting with a hyphen."""
    slug = text.strip()
    if not SLUG.fullmatch(slug):
        raise SlugInvalid
    return slug


def username(slug: str, credential_id: str) -> str:
    """`smtp-<slug, at most 12 characters>-<id>`: at most 26 of [a-z0-9-] (OpenSMTPD fails above 31, some devices above 32)."""
    return f"smtp-{slug[:USERNAME_SLUG_MAX].rstrip('-')}-{credential_id}"

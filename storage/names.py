"""Names of credentials, slugs of workspaces, and the usernames made of them."""

import re
import unicodedata

from storage import passwords
from storage.refusals import NameInvalid, NameProblem, SlugInvalid

NAME_MAX = 64
SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
USERNAME_SLUG_MAX = 12
USERNAME = re.compile(rf"smtp-[a-z0-9-]{{1,{USERNAME_SLUG_MAX}}}-[{passwords.CROCKFORD}]{{{passwords.ID_LENGTH}}}")

# Characters that people cannot see, or that turn text around: Unicode's general categories, and letters drawn as blanks.
_HIDDEN = {"Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp"}
_BLANKS = {"\u115f", "\u1160", "\u2800", "\u3164", "\uffa0"}


def clean_name(text: str) -> str:
    """The name as it is kept: trimmed, NFC.

    Raises:
        NameInvalid: empty, over 64 characters, with control, bidirectional or zero-width characters, or shaped like a password.
    """
    name = unicodedata.normalize("NFC", text).strip()
    if not name:
        raise NameInvalid(NameProblem.EMPTY)
    if len(name) > NAME_MAX:
        raise NameInvalid(NameProblem.TOO_LONG)
    if any(unicodedata.category(c) in _HIDDEN or c in _BLANKS for c in name):
        raise NameInvalid(NameProblem.CHARACTERS)
    if looks_like_password(name):
        raise NameInvalid(NameProblem.PASSWORD)
    return name


def name_key(name: str) -> str:
    """Two names are the same when their keys are."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def looks_like_password(text: str) -> bool:
    """Whether one of our passwords stands in it, or something so close to one that it may be a mistyped one."""
    return next(passwords.find(text), None) is not None or passwords.mask(text) != text or passwords.parse(text) is not None


def clean_slug(text: str) -> str:
    """Raises SlugInvalid unless it is 1 to 32 of a-z, 0-9 and hyphen, not starting with a hyphen."""
    slug = text.strip()
    if not SLUG.fullmatch(slug):
        raise SlugInvalid
    return slug


def username(slug: str, credential_id: str) -> str:
    """`smtp-<slug, at most 12 characters>-<id>`: at most 26 of [a-z0-9-] (OpenSMTPD fails above 31, some devices above 32)."""
    return f"smtp-{slug[:USERNAME_SLUG_MAX].rstrip('-')}-{credential_id}"

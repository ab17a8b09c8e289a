"""One-time passwords: their two textual formats, finding them in text, and their Argon2id hashes.

Standard: ``smtp1`` + credential id (8) + 21 random base62 characters (125 bits) + CRC-32 over all before it as 6 base62 characters.
Device:   ``smt`` + 13 random Crockford base32 characters (65 bits) + the low 20 bits of CRC-32 as 4 Crockford characters.
The checksum is no secret: it saves an Argon2 computation on everything that cannot be a password of ours.
"""

import asyncio
import hashlib
import os
import re
import secrets
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ID_LENGTH = 8
STANDARD_LENGTH = 40
DEVICE_LENGTH = 20
DEVICE_TAG_MAX = 0xFFFF

_STANDARD = re.compile(rf"smtp1[{CROCKFORD}]{{8}}[{BASE62}]{{27}}")
_DEVICE = re.compile(rf"smt[{CROCKFORD}]{{17}}")
_SEPARATOR = r"[ \t\r\n-]{0,3}"  # between the groups of a device password that is copied from a sticker
_FIND = re.compile(
    rf"(?=(?P<standard>{_STANDARD.pattern}))"
    rf"|(?<![0-9A-Za-z])(?=(?P<device>[sS]{_SEPARATOR}[mM]{_SEPARATOR}[tT](?:{_SEPARATOR}[0-9A-Za-z]){{17}})(?![0-9A-Za-z]))"
)
_MISREAD = str.maketrans({"o": "0", "i": "1", "l": "1", " ": None, "-": None})

Choose = Callable[[str], str]
"""Picks one character of an alphabet, like `secrets.choice`."""


class Style(StrEnum):
    STANDARD = "standard"
    DEVICE = "device"


@dataclass(frozen=True)
class Parsed:
    """A string in one of our formats with a right checksum. Whether it is a live password is another question."""

    style: Style
    canonical: str
    """What was hashed: the text itself, or a device password in lower case without separators and misread letters."""
    credential_id: str | None
    """The credential that a standard password names; a device password is too short to name one."""

    def __repr__(self) -> str:
        return f"Parsed(style={self.style}, credential_id={self.credential_id})"


def new_id(choose: Choose = secrets.choice) -> str:
    """A credential id: 8 random Crockford base32 characters, lower case."""
    return "".join(choose(CROCKFORD) for _ in range(ID_LENGTH))


def generate(credential_id: str, style: Style = Style.STANDARD, choose: Choose = secrets.choice) -> str:
    """A new password for the credential; the only moment at which it exists in clear text."""
    if style is Style.DEVICE:
        body = "smt" + "".join(choose(CROCKFORD) for _ in range(13))
        return body + _device_checksum(body)
    body = "smtp1" + credential_id + "".join(choose(BASE62) for _ in range(21))
    return body + _standard_checksum(body)


def parse(text: str) -> Parsed | None:
    """Reads a password as it was typed or sent.

    Returns None for what is not in our format or fails its checksum. Device passwords are read tolerantly: case, spaces, hyphens,
    o for 0, i and l for 1.
    """
    if len(text) == STANDARD_LENGTH and _STANDARD.fullmatch(text):
        if _standard_checksum(text[:-6]) == text[-6:]:
            return Parsed(Style.STANDARD, text, text[5:13])
        return None
    if len(text) > 2 * DEVICE_LENGTH:
        return None
    typed = text.lower().translate(_MISREAD)
    if _DEVICE.fullmatch(typed) and _device_checksum(typed[:-4]) == typed[-4:]:
        return Parsed(Style.DEVICE, typed, None)
    return None


def tag(canonical: str) -> int:
    """A few bits of a password's SHA-256, which refuse a wrong one without Argon2 and find the few rows that a leaked one may belong to.

    Standard: 32 bits, as a signed number (what an INTEGER column holds) outside of the device ones' range; 93 of 125 random bits
    stay behind Argon2id. Device: 16 bits, 0 to 65535; 49 of 65 stay.
    """
    digest = hashlib.sha256(canonical.encode("ascii")).digest()
    if len(canonical) == DEVICE_LENGTH:
        return int.from_bytes(digest[:2])
    bits = int.from_bytes(digest[:4], signed=True)
    return ~bits if 0 <= bits <= DEVICE_TAG_MAX else bits


def tagged_style(password_tag: int) -> Style:
    """The format of the password that has this tag."""
    return Style.DEVICE if 0 <= password_tag <= DEVICE_TAG_MAX else Style.STANDARD


def find(text: str) -> Iterator[Parsed]:
    """Every password of ours that stands in a longer text, each once, in order; a device password also in groups, as on a sticker."""
    seen: set[str] = set()
    for match in _FIND.finditer(text):
        parsed = parse(match["standard"] or re.sub(r"[\s-]", "", match["device"]))
        if parsed and parsed.canonical not in seen:
            seen.add(parsed.canonical)
            yield parsed


def mask(text: str) -> str:
    """The text with everything that has the shape of a password of ours, or of its hash, blotted out. For logs."""
    return re.sub(rf"smtp1[{BASE62}]{{20,}}|(?i:smt[{CROCKFORD}]{{17}})|\$argon2id?\$[^\s\"']+", "[password]", text)


def _standard_checksum(body: str) -> str:
    value = zlib.crc32(body.encode("ascii"))
    digits = ""
    for _ in range(6):
        value, digit = divmod(value, 62)
        digits = BASE62[digit] + digits
    return digits


def _device_checksum(body: str) -> str:
    value = zlib.crc32(body.encode("ascii")) & 0xFFFFF
    return "".join(CROCKFORD[(value >> shift) & 31] for shift in (15, 10, 5, 0))


class Hasher:
    """Argon2id in a bounded thread pool (argon2-cffi releases the GIL), so that the event loop goes on meanwhile.

    Args:
        memory_kib, time_cost, parallelism: Argon2id's m (KiB), t, p. Defaults are OWASP's (Password Storage Cheat Sheet).
        threads: computations at once; defaults to the number of cores.
    """

    def __init__(self, memory_kib: int = 19456, time_cost: int = 2, parallelism: int = 1, threads: int | None = None) -> None:
        self._argon2 = PasswordHasher(time_cost=time_cost, memory_cost=memory_kib, parallelism=parallelism)
        self._pool = ThreadPoolExecutor(max_workers=threads or os.cpu_count() or 1, thread_name_prefix="argon2")

    async def hash(self, password: str) -> str:
        """The PHC string of the password (canonical form), salted anew at each call."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._argon2.hash, password)

    async def verify(self, phc: str, password: str) -> bool:
        """Whether the password (canonical form) belongs to the PHC string. A string that is no PHC string verifies nothing."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self.verify_now, phc, password)

    def verify_now(self, phc: str, password: str) -> bool:
        """`verify`, in the caller's thread."""
        try:
            return self._argon2.verify(phc, password)
        except (VerificationError, InvalidHashError):
            return False

    def needs_rehash(self, phc: str) -> bool:
        """Whether the hash was made with other parameters than these."""
        return self._argon2.check_needs_rehash(phc)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

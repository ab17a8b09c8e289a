"""Finding usernames and passwords of ours in what people paste, and the credentials that they belong to.

A standard password names its credential, so one Argon2 computation tells whether it is live. A device password is too short for that: 16
bits of its SHA-256 stand in the store (`passwords.tag`) and leave a few candidates, which Argon2 decides between. A thief of the store
gains little by them: a standard password has 125 random bits behind Argon2id, and a device password still 49.
"""

import binascii
import re
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import unquote

from sqlalchemy import ColumnElement, and_, or_, select

from storage import names, passwords
from storage.credentials import rows
from storage.database import Database, Transaction
from storage.models import CREDENTIALS, Credential, State
from storage.passwords import Hasher, Parsed

TEXT_MAX = 100_000  # characters looked at: more than Slack takes in a message
BASE64_MAX = 200  # runs that are decoded
FOUND_MAX = 50  # usernames and passwords, each
CANDIDATES = 64  # credentials with the same tag that Argon2 decides between
_USERNAME = re.compile(rf"(?<![a-z0-9-]){names.USERNAME.pattern}(?![a-z0-9-])")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{20,4096}={0,2}")


@dataclass
class Found:
    """In the order in which they stand there, each once."""

    usernames: list[str] = field(default_factory=list)
    passwords: list[Parsed] = field(default_factory=list)


class Standing(StrEnum):
    """What a password is worth now."""

    LIVE = "live"
    PREVIOUS = "previous"
    """It works until the overlap of a rotation ends."""
    DEAD = "dead"
    """It was one once, or it never was."""


def find(text: str) -> Found:
    """Every username and password of ours in a text: as it stands there, percent-encoded, or in base64 as in AUTH PLAIN."""
    found = Found()
    text = text[:TEXT_MAX]
    for part in _readings(text):
        for match in _USERNAME.finditer(part.lower()):
            if match[0] not in found.usernames and len(found.usernames) < FOUND_MAX:
                found.usernames.append(match[0])
        for parsed in passwords.find(part):
            if len(found.passwords) >= FOUND_MAX:
                break
            if parsed.canonical not in [one.canonical for one in found.passwords]:
                found.passwords.append(parsed)
    return found


def _readings(text: str) -> Iterator[str]:
    yield text
    if "%" in text:
        yield unquote(text, errors="replace")
    for number, match in enumerate(_BASE64.finditer(text)):
        if number >= BASE64_MAX:
            return
        run = match[0].replace("-", "+").replace("_", "/").rstrip("=")
        try:
            yield b64decode(run + "=" * (-len(run) % 4), validate=True).decode("utf-8", "replace").replace("\0", " ")
        except (binascii.Error, ValueError):
            continue


def candidates(tx: Transaction, parsed: Parsed) -> list[Credential]:
    """The credentials that a password may belong to: the one that it names, or the few with its tag."""
    if parsed.credential_id:
        which: ColumnElement[bool] = CREDENTIALS.c.id == parsed.credential_id
    else:
        tag = passwords.tag(parsed.canonical)
        which = and_(CREDENTIALS.c.device, or_(CREDENTIALS.c.password_tag == tag, CREDENTIALS.c.previous_tag == tag))
    return rows(tx, select(CREDENTIALS).where(which).limit(CANDIDATES))


async def resolve(db: Database, hasher: Hasher, parsed: Parsed) -> tuple[Credential, Standing] | None:
    """The credential that a password belongs to, and what it is worth; None when it is nobody's."""
    possible = await db.read(candidates, parsed)
    now = db.clock()
    for credential in possible:
        if credential.password_hash and await hasher.verify(credential.password_hash, parsed.canonical):
            return credential, Standing.LIVE if credential.state == State.ACTIVE else Standing.DEAD
        if credential.previous_hash and await hasher.verify(credential.previous_hash, parsed.canonical):
            works = credential.state == State.ACTIVE and credential.previous_until and credential.previous_until > now
            return credential, Standing.PREVIOUS if works else Standing.DEAD
    return (possible[0], Standing.DEAD) if parsed.credential_id and possible else None

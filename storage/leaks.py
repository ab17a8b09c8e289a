"""Finding the credential that a password belongs to.

A standard password names its credential, so one Argon2 computation tells whether it is live. A device password is too short for that: 16
bits of its SHA-256 stand in the store (`passwords.tag`) and leave a few candidates, which Argon2 decides between. A thief of the store
gains little by them: a standard password has 125 random bits behind Argon2id, and a device password still 49.
"""

from enum import StrEnum

from sqlalchemy import or_, select

from storage import passwords
from storage.database import Database
from storage.models import Credential, State
from storage.passwords import Hasher, Parsed

CANDIDATES = 64  # credentials with the same tag that Argon2 decides between


class Standing(StrEnum):
    """What a password is worth now."""

    LIVE = "live"
    PREVIOUS = "previous"
    """It works until the overlap of a rotation ends."""
    DEAD = "dead"
    """It was one once, or it never was."""


async def resolve(db: Database, hasher: Hasher, parsed: Parsed) -> tuple[Credential, Standing] | None:
    """The credential that a password belongs to, and what it is worth; None when it is nobody's."""
    async with db.read() as session:
        if parsed.credential_id:
            credential = await session.get(Credential, parsed.credential_id)
            candidates = [credential] if credential else []
        else:
            tag = passwords.tag(parsed.canonical)
            query = select(Credential).where(or_(Credential.password_tag == tag, Credential.previous_tag == tag)).limit(CANDIDATES)
            candidates = list((await session.scalars(query)).all())
    now = db.clock()
    for credential in candidates:
        if credential.password_hash and await hasher.verify(credential.password_hash, parsed.canonical):
            return credential, Standing.LIVE if credential.state == State.ACTIVE else Standing.DEAD
        if credential.previous_hash and await hasher.verify(credential.previous_hash, parsed.canonical):
            works = credential.state == State.ACTIVE and credential.previous_until and credential.previous_until > now
            return credential, Standing.PREVIOUS if works else Standing.DEAD
    return (candidates[0], Standing.DEAD) if parsed.credential_id and candidates else None

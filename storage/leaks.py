"""Finding the credential that a password belongs to.

A standard password names its credential, so one Argon2 computation tells whether it is live. A device password is too short for that: 16
bits of its SHA-256 stand in the store (`passwords.tag`) and leave a few candidates, which Argon2 decides between. A thief of the store
gains little by them: a standard password has 125 random bits behind Argon2id, and a device password still 49.
"""

from enum import StrEnum

from sqlalchemy import ColumnElement, and_, or_, select

from storage import passwords
from storage.audit import Origin, What, attempt
from storage.credentials import about, rows
from storage.database import Database, Transaction
from storage.models import AUDIT_EVENTS, CREDENTIALS, Credential, State
from storage.passwords import Hasher, Parsed

CANDIDATES = 64  # credentials with the same tag that Argon2 decides between


class Standing(StrEnum):
    """What a password is worth now."""

    LIVE = "live"
    PREVIOUS = "previous"
    """It works until the overlap of a rotation ends."""
    DEAD = "dead"
    """It was one once, or it never was."""


def candidates(tx: Transaction, parsed: Parsed) -> list[Credential]:
    """The credentials that a password may belong to: the one that it names, or the few with its tag."""
    if parsed.credential_id:
        which: ColumnElement[bool] = CREDENTIALS.c.id == parsed.credential_id
    else:
        tag = passwords.tag(parsed.canonical)
        which = and_(CREDENTIALS.c.device, or_(CREDENTIALS.c.password_tag == tag, CREDENTIALS.c.previous_tag == tag))
    return rows(tx, select(CREDENTIALS).where(which).limit(CANDIDATES))


def found(tx: Transaction, origin: Origin, credential_id: str) -> bool:
    """Writes down that a password that works was found in the place that is the origin's source. False when that was known already.

    Raises NoSuchCredential.
    """
    with attempt(tx, What.LEAK, origin) as current:
        credential = about(current, credential_id)
        columns = AUDIT_EVENTS.c
        before = select(columns.id).where(
            columns.credential_id == credential.id,
            columns.action == What.LEAK.value,
            columns.outcome == "done",
            columns.source_id == origin.source,
        )
        current.void = tx.connection.execute(before.limit(1)).first() is not None
    return not current.void


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

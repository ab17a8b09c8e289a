"""Held against each other: what people read about a credential, and what is so."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from sqlalchemy import select

from mailauth.verifier import Answer, Verifier
from sandbox.people import CONNECTING, TROUBLE, Person
from storage.credentials import rows
from storage.database import Database
from storage.models import CREDENTIALS, Credential, State
from storage.passwords import find

FLOWS = ("create", "rotate", "delete", "revoke")
FOR_EVER = 1e6  # seconds
DONE = {
    "create": ("{} is ready in ", " created the SMTP credential {} "),
    "rotate": ("The new password of {} is waiting", " rotated the password of the SMTP credential {} "),
    "delete": ("Deleted {} ", " deleted the SMTP credential {} "),
    "revoke": ("Revoked {} ", " revoked the SMTP credential {} "),
}
"""Flow -> what says that it was done."""
NOT_DONE = (
    "t work",
    "othing changed",
    "othing was changed",
    "Nothing was left behind",
    "No password was made",
    "No new password was made",
    "didn't change anything",
    "I did nothing",
)
"""What says that it was not."""
NOT_KNOWN = (CONNECTING, TROUBLE, "Something went wrong on our side", "I'll tell you here in a minute")


class Diary:
    """All that a person had before their eyes since `begins`."""

    def __init__(self, person: Person) -> None:
        self._person = person
        self._seen: set[tuple[str, str]] = set()
        self.read: list[str] = []

    @contextlib.asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Writes down whatever they see while the block runs."""
        keeping = asyncio.create_task(self._person.world.until(self._look, FOR_EVER))
        try:
            yield
        finally:
            keeping.cancel()
            self._look()

    def begins(self) -> None:
        """What was there until now is not about what comes."""
        self._look()
        self.read.clear()

    def _look(self) -> None:
        person = self._person
        shown = [(one.ts, person.read(one)) for one in person.messages()]
        shown += [(one.id, person.read(one)) for one in person.world.modals[person.id]]
        for place, text in shown:
            if (place, text) not in self._seen:
                self._seen.add((place, text))
                self.read.append(text)

    def passwords(self, username: str) -> list[str]:
        """Those that were shown with this username."""
        return [one.canonical for text in self.read if username in text for one in find(text)]

    def says(self, *phrases: str) -> bool:
        return any(phrase in text for phrase in phrases for text in self.read)


@dataclass
class Oracle:
    """Asks the store, and the mail servers' gate, what is so."""

    db: Database
    verifier: Verifier
    known: dict[str, str] = field(default_factory=dict)
    """Username -> the password that somebody holds."""

    async def works(self, username: str, password: str) -> bool:
        result = await self.verifier.check(username, password, None, "smtp")
        assert result.answer is not Answer.LATER, result
        return result.answer is Answer.YES

    async def named(self, name: str) -> Credential | None:
        query = select(CREDENTIALS).where(CREDENTIALS.c.name == name).order_by(CREDENTIALS.c.created_at.desc()).limit(1)
        return next(iter(await self.db.read(rows, query)), None)

    async def judge(self, flow: str, name: str, diary: Diary) -> str:
        """What became of it. Raises AssertionError where words and state part ways, or nothing was said."""
        done = diary.says("a moment ago: it was done", *(phrase.format(name) for phrase in DONE[flow]))
        not_done = diary.says(*NOT_DONE)
        credential = await self.named(name)
        said = f"{flow} of {name}, {credential and credential.state}; read:\n" + "\n---\n".join(diary.read)
        assert not (done and not_done), f"both: {said}"
        told = done or not_done or diary.says(*NOT_KNOWN)
        if credential is None:
            assert told, f"silence: {said}"
            assert flow == "create", said
            assert not done, f"said to be done: {said}"
            return "nothing"
        assert credential.state != State.PENDING, said
        assert credential.rotation_begun_at is None, said
        shown = diary.passwords(credential.username)
        held = self.known.get(credential.username)
        new_works = any([await self.works(credential.username, one) for one in shown])
        held_works = held is not None and await self.works(credential.username, held)
        if flow == "create":
            became = credential.state == State.ACTIVE
            assert new_works is became, f"active with a password that nobody saw, or the other way round: {said}"
        elif flow == "rotate":
            became = new_works
            assert credential.state == State.ACTIVE, said
            assert new_works or held_works, f"no password is left that somebody knows: {said}"
        else:
            became = credential.state == State.DELETED
            assert held_works is not became, said
        assert told or new_works, f"silence: {said}"  # a password that works, shown, says enough
        assert not_done or new_works or not shown, f"a password was shown that does not work: {said}"
        if new_works:
            self.known[credential.username] = shown[-1]
        assert not (done and not became), f"said to be done: {said}"
        assert not (not_done and became), f"said not to be done: {said}"
        return "done" if became else "not done"

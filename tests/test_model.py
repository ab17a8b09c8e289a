"""A model of the store: whatever many do at the same time, it stays as if they had done it one after the other."""

import asyncio
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select, text

from storage import audit, credentials, lifecycle, workspaces
from storage.access import Actor
from storage.audit import Origin, Surface
from storage.credentials import rows
from storage.database import Database
from storage.models import CREDENTIALS, Credential, State
from storage.refusals import Refusal
from tests.stores import sqlite_store

BY = Origin(Actor("U0OWNER", "T0HOME", owner=True), Surface.MODAL, "ref", "C0MAIL", "V1")
HASH = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA"
LIVING = (State.ACTIVE.value, State.SUSPENDED.value)
ENDS = {"delete": State.DELETED, "discard": State.DELETED}
ACTS = ("create", "activate", "discard", "delete", "suspend", "resume", "rotate", "finish", "cancel")
AT_ONCE = st.lists(st.tuples(st.sampled_from(ACTS), st.integers(0, 1)), min_size=3, max_size=8)


class Store:
    def __init__(self, db: Database) -> None:
        self.db = db
        self.tried = 0
        self.done: Counter[tuple[str, str]] = Counter()
        """How often an act was done to a credential."""

    async def all(self) -> list[Credential]:
        return await self.db.read(rows, select(CREDENTIALS))

    async def act(self, act: str, name: int) -> None:
        """Does it to the newest credential of that name, or is refused."""
        self.tried += 1
        key = f"T:V{self.tried}"
        found = [one for one in await self.all() if one.name == f"Relay {name}"]
        target = max(found, key=lambda one: (one.state != State.DELETED, one.id), default=None)
        if act != "create" and target is None:
            return
        one = target.id if target else ""
        change: dict[str, tuple[Any, ...]] = {
            "create": (credentials.create_pending, BY, "C0MAIL", f"Relay {name}", key),
            "activate": (credentials.activate, BY, one, HASH, 1),
            "discard": (credentials.discard, BY, one, "not handed over"),
            "delete": (credentials.delete, BY, one),
            "suspend": (lifecycle.suspend, BY, one),
            "resume": (lifecycle.resume, BY, one),
            "rotate": (lifecycle.begin_rotation, BY, one, "C0MAIL", key, lifecycle.rotation_mark(target) if target else None),
            "finish": (lifecycle.finish_rotation, BY, one, (target.rotation_key if target else "") or "", HASH, 2),
            "cancel": (lifecycle.cancel_rotation, BY, one, (target.rotation_key if target else "") or "", "not handed over"),
        }
        try:
            result = await self.db.change(*change[act])
        except Refusal:
            return
        if result:
            self.done[act, one] += 1

    async def check(self) -> None:
        everything = await self.all()
        names = Counter(one.name for one in everything if one.state != State.DELETED)
        assert max(names.values(), default=0) <= 1, names
        for one in everything:
            ended = sum(self.done[act, one.id] for act in ENDS)
            assert ended == (one.state == State.DELETED), "ended once, and by one"
            assert self.done["activate", one.id] <= 1
            assert (one.password_hash is not None) == (one.state in LIVING)
            if one.rotation_begun_at is not None:
                assert one.state == State.ACTIVE, "on its way only while it works"
        acme = await self.db.read(workspaces.named, "acme")
        assert acme.credential_count == sum(one.state in LIVING for one in everything)
        shown = await self.db.read(lambda tx: set(tx.connection.scalars(text("SELECT username FROM smtp_passdb"))))
        assert shown == {one.username for one in everything if one.state == State.ACTIVE}
        assert (await self.db.read(audit.verify)).broken is None


@given(st.lists(AT_ONCE, min_size=8, max_size=20))
@settings(max_examples=10)
def test_whatever_many_do_at_once_is_as_if_one_after_the_other(batches: list[list[tuple[str, int]]]) -> None:
    async def run(path: Path) -> None:
        db = Database(sqlite_store(path))
        acme = await db.change(workspaces.add, BY, "acme")
        await db.change(workspaces.map_channel, BY, "T0HOME", "C0MAIL", acme.id)
        store = Store(db)
        for batch in batches:
            await asyncio.gather(*(store.act(*one) for one in batch))
            await store.check()
        await db.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder) / "bot.db"))

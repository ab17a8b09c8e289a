"""Fills a store and prints, for each query, the CPU of this process, the time it took and its statements.

`python -m tests.bench_store 200000 [sqlite postgres]`: credentials, and as many audit rows. A private PostgreSQL and a temporary folder.
"""

import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import event, insert

from bot import home, listing
from bot.codec import InHome, InList
from storage import access, audit, mail_servers
from storage import listing as store_listing
from storage.access import Action, Actor
from storage.audit import What
from storage.database import Database, Transaction
from storage.listing import Order, Place
from storage.models import AUDIT_EVENTS, AUDIT_HEAD, CHANNEL_MAPPINGS, CREDENTIALS, ROLE_GRANTS, WORKSPACES, Workspace
from storage.names import name_key
from storage.passwords import CROCKFORD
from storage.refusals import NoSuchCredential, NotAllowed
from storage.workspaces import by_id
from tests.postgres import private_cluster

TEAM, OWNER, PERSON = "T0HOME", "U0OWNER", "U0PERSON"
WORKSPACES_MADE, GRANTS_MADE, BATCH, ROUNDS = 10_000, 12_000, 5_000, 15
KINDS = ("Website relay", "Printer", "Scanner", "Warehouse relay", "Jenkins", "Monitoring", "Invoice mailer", "Newsletter")


def credential_id(number: int) -> str:
    """Spread like random ones."""
    scattered = (number * 0x9E3779B97F) % 2**40
    return "".join(CROCKFORD[scattered >> shift & 31] for shift in range(35, -5, -5))


def name(number: int, count: int) -> str:
    rare = " lighthouse" if number % (count // 3) == 7 else ""
    return f"{KINDS[number % len(KINDS)]} {number}{rare}"


def fill(tx: Transaction, count: int) -> None:
    """One workspace that holds all, with `count` credentials and audit rows, and many others that hold none."""
    execute, start = tx.connection.execute, tx.now - timedelta(days=400)
    tx.attempted = True
    base = {"notify_created": False, "notify_deleted": True, "created_at": start, "created_by": OWNER}
    made = [
        {"id": one, "slug": f"tenant-{one}", "name": f"Tenant {one}", "credential_count": count if one == 1 else 0, **base}
        for one in range(1, WORKSPACES_MADE + 1)
    ]
    execute(insert(WORKSPACES), made)
    mapped = {"workspace_id": 1, "paused": False, "mapped_at": start, "mapped_by": OWNER}
    execute(insert(CHANNEL_MAPPINGS).values(team_id=TEAM, channel_id="C0MAIL", **mapped))
    given = {"team_id": TEAM, "granted_at": start, "granted_by": OWNER}
    grants = [
        {"principal": f"S{one % 97:08}" if one % 2 else f"U{one:08}", "role": "writer", "workspace_id": one % WORKSPACES_MADE + 1, **given}
        for one in range(GRANTS_MADE)
    ]
    execute(insert(ROLE_GRANTS), [*grants, {"principal": PERSON, "role": "admin", "workspace_id": 1, **given}])
    numbered = "number" in CREDENTIALS.c
    last_hash = audit.GENESIS
    for batch in _batched(count):
        rows, events = [], []
        for one in batch:
            id_, at, called = credential_id(one), start + timedelta(seconds=one), name(one, count)
            row = {"id": id_, "workspace_id": 1, "name": called, "name_key": name_key(called), "username": f"smtp-tenant-1-{id_}"}
            row |= {"state": "active", "version": 2, "password_hash": "$argon2id$" + "x" * 87, "created_at": at, "created_by": OWNER}
            rows.append(row | ({"number": one + 1} if numbered else {}))
            log: dict[str, Any] = dict.fromkeys(audit.FIELDS)
            log |= {"id": one + 1, "at": at, "action": "create", "outcome": "done", "team_id": TEAM, "surface": "modal", "reference": "r"}
            log |= {"user_id": PERSON if one % (count // 5) == 3 else f"U{one % 500:08}", "workspace_id": 1, "credential_id": id_}
            log |= {"username": row["username"], "previous_hash": last_hash}
            last_hash = log["hash"] = audit._fingerprint(log)
            events.append(log)
        execute(insert(CREDENTIALS), rows)
        execute(insert(AUDIT_EVENTS), events)
    execute(AUDIT_HEAD.update().values(last_event=count, last_hash=last_hash))


def _batched(count: int) -> Iterator[range]:
    for first in range(0, count, BATCH):
        yield range(first, min(first + BATCH, count))


def queries(workspace: Workspace, count: int) -> dict[str, Callable[[Transaction], Any]]:
    owner, person, stranger = Actor(OWNER, TEAM, owner=True), Actor(PERSON, TEAM), Actor("U0STRANGER", TEAM)
    member = Actor("U0STRANGER", TEAM, channel="C0MAIL")
    id_ = credential_id(count // 2)
    middle = Place(id_, position=count // 2)

    def find(target: str) -> Callable[[Transaction], Any]:
        def run(tx: Transaction) -> Any:
            with contextlib.suppress(NoSuchCredential):
                return store_listing.find(tx, workspace, target)

        return run

    def listed(words: str, place: Place | None = None, order: Order = Order.NEWEST) -> Callable[[Transaction], Any]:
        return lambda tx: store_listing.page(tx, workspace, order, words, place)

    def refused(tx: Transaction) -> None:
        with contextlib.suppress(NotAllowed):
            access.may(tx, stranger, Action.LIST, workspace)

    exact = name(count // 2, count)
    typo = exact.replace("e", "", 1) if "e" in exact else exact[::-1]
    return {
        "a name typed exactly": find(exact),
        "a username typed exactly": find(f"smtp-tenant-1-{id_}"),
        'a typo ("did you mean")': find(typo),
        "nonsense": find("qqqqqq xkcd"),
        "a word that three match": listed("lighthouse"),
        "four characters of an id": listed(id_[2:6]),
        "the start of a username": listed(f"smtp-tenant-1-{id_[:4]}"),
        "a word and a digit": listed("jenkins 7"),
        "digits that few match": listed(str(count // 2)[:5]),
        "digits that one in a hundred match": listed("123"),
        "a common word": listed("relay"),
        "two letters": listed("zq"),
        "a page": listed(""),
        "a page in the middle": listed("", middle),
        "a list, drawn": lambda tx: listing.look(tx, member, 1, InList(order=Order.NEWEST)),
        "the rights of a person": lambda tx: access.rights(tx, person, workspace),
        "may, refused with helpers": refused,
        "groups to ask about, of one workspace": lambda tx: access.to_ask(tx, PERSON, TEAM, [1]),
        "groups to ask about, of all": lambda tx: access.to_ask(tx, PERSON, TEAM, None),
        "Home of an owner": lambda tx: home.look(tx, owner, InHome(), 90),
        "Home of an owner, one shown": lambda tx: home.look(tx, owner, InHome(workspace=1), 90),
        "Home of a person": lambda tx: home.look(tx, person, InHome(), 90),
        "audit of a workspace": lambda tx: audit.latest(tx, workspace),
        "audit WHO, a person": lambda tx: audit.latest(tx, workspace, PERSON),
        "audit WHO, a username": lambda tx: audit.latest(tx, workspace, f"smtp-tenant-1-{id_}"),
        "audit WHO, an id": lambda tx: audit.latest(tx, workspace, id_),
        "audit WHO, a channel": lambda tx: audit.latest(tx, workspace, "C0NOTHING"),
        "proof of a revoke": lambda tx: mail_servers.proof(tx, f"smtp-tenant-1-{id_}", What.CREATE),
        "audit verify, the last 10,000": lambda tx: audit.verify(tx, last=10_000),
    }


async def measure(url: str, count: int) -> None:
    db = Database(url)
    print(f"\n{'SQLite' if db.sqlite else 'PostgreSQL'}, {count:,} credentials", flush=True)
    await db.upgrade()
    started = time.monotonic()
    await asyncio.to_thread(db.on_own_connection, lambda connection: _filled(db, connection, count))
    print(f"filled in {time.monotonic() - started:.0f} s", flush=True)
    statements = 0

    def counted(*_args: object) -> None:
        nonlocal statements
        statements += 1

    event.listen(db._reading.engine, "before_cursor_execute", counted)
    workspace = await db.read(by_id, 1)
    for label, query in queries(workspace, count).items():

        def alone(tx: Transaction, query: Callable[[Transaction], Any] = query) -> float:
            """Seconds of CPU of the question itself, on the database thread."""
            tx.connection.begin()
            used = time.thread_time()
            query(tx)
            return time.thread_time() - used

        await db.read(alone)
        before, own, cpu, wall = statements, [], [], []
        for _ in range(ROUNDS):
            at, used = time.perf_counter(), time.process_time()
            own.append(await db.read(alone) * 1000)
            wall.append((time.perf_counter() - at) * 1000)
            cpu.append((time.process_time() - used) * 1000)
        # BEGIN on SQLite is a statement too.
        ran = (statements - before) / ROUNDS - (1 if db.sqlite else 0)
        told = f"{statistics.median(own):9.3f} CPU ms, with all around it {statistics.median(cpu):9.3f}; {min(wall):9.3f} ms at best"
        print(f"{label:40} {told} {ran:5.1f} statements", flush=True)
    await db.close()


def _filled(db: Database, connection: Any, count: int) -> None:
    with connection.begin():
        fill(Transaction(connection, db.clock, db.sqlite), count)
    if not db.sqlite:
        with connection.begin():
            connection.exec_driver_sql("ANALYZE")


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200_000
    which = sys.argv[2:] or ["sqlite", "postgres"]
    if "sqlite" in which:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(measure(f"sqlite:///{Path(folder) / 'bench.db'}", count))
    if "postgres" in which:
        with private_cluster() as address:
            asyncio.run(measure(f"{address}/postgres", count))


if __name__ == "__main__":
    main()

"""`make bench`: what people wait for and what it costs, beside two bare Bolt apps on the same server, in one run.

Everything is measured until the work is done, batch by batch in turns, so that a machine that slows down slows all of them; a row says the
median of the batches' ratios and their spread. `--beside FOLDER` adds the bot of another checkout. Asserts nothing.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

import aiohttp
from sqlalchemy import Connection, Engine, event, insert, update

from bot.slack import calls
from sandbox.people import Person
from sandbox.slack import Slack
from sandbox.world import Channel
from storage import credentials, grants, names, passwords, workspaces
from storage.access import Actor, Role
from storage.audit import Origin, Surface
from storage.database import Database, Transaction
from storage.models import CREDENTIALS, WORKSPACES, State, Workspace
from storage.passwords import Hasher
from tests import postgres
from tests.postgres import free_port
from tests.stage import BY_TEST, MANIFEST, stage

ROUNDS = 8
BATCH = 25
CLIENTS = (1, 16, 64)
PAUSE = 0.02  # seconds before the next command of somebody who reads what the last one showed
TICK = 1 / os.sysconf("SC_CLK_TCK")  # seconds
NAMES = ("bench", "flows", "beside")
FORM = {"content-type": "application/x-www-form-urlencoded"}


def cpu_of(pid: int) -> float:
    """Seconds of CPU that a process's threads have had, to the nanosecond where the kernel keeps count: proc(5)."""
    try:
        return sum(int(one.read_text().split()[0]) for one in Path(f"/proc/{pid}/task").glob("*/schedstat")) / 1e9
    except (OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) * TICK


def cpu_below(pid: int) -> float:
    """Seconds of CPU of a process and of those it started, also ended ones: a whole PostgreSQL."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    total = sum(int(one) for one in fields[11:15]) * TICK
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):
            total += cpu_below(int(child))
    return total


def pss_of(pid: int) -> float:
    """MiB, pages that several processes share divided among them."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(rollup.split("Pss:")[1].split()[0]) / 1024


@dataclass
class Target:
    """A process that answers Slack's requests."""

    name: str
    process: "subprocess.Popen[bytes]"
    port: int
    start_seconds: float = 0.0

    @property
    def pid(self) -> int:
        return self.process.pid

    async def ready(self, client: aiohttp.ClientSession) -> None:
        started = time.monotonic()
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with client.get(f"http://127.0.0.1:{self.port}/readyz") as answer:
                    if answer.status == 200:
                        self.start_seconds = time.monotonic() - started
                        return
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended with {self.process.returncode}")
            await asyncio.sleep(0.01)


@dataclass
class Taken:
    """One batch of one target."""

    acknowledged: list[float] = field(default_factory=list)
    seconds: float = 0.0
    cpu: float = 0.0
    database: float = 0.0
    count: int = 0


class Bench:
    def __init__(
        self, slack: Slack, client: aiohttp.ClientSession, people: list[Person], channel: Channel, postgres_pid: int | None
    ) -> None:
        self.slack = slack
        self.client = client
        self.people = people
        self.channel = channel
        self.postgres_pid = postgres_pid
        self.number = 0

    @contextlib.contextmanager
    def measured(self, target: Target) -> Iterator[Taken]:
        taken = Taken()
        cpu, database = cpu_of(target.pid), cpu_below(self.postgres_pid) if self.postgres_pid else 0.0
        started = time.perf_counter()
        yield taken
        taken.seconds = time.perf_counter() - started
        taken.cpu = cpu_of(target.pid) - cpu
        taken.database = (cpu_below(self.postgres_pid) if self.postgres_pid else 0.0) - database

    async def type(self, target: Target, person: Person, text: str) -> float:
        """Types a command; seconds until its acknowledgement."""
        world = self.slack.world
        body = urlencode(
            {
                "token": "x",
                "team_id": world.team.id,
                "channel_id": self.channel.id,
                "user_id": person.id,
                "command": "/smtp",
                "text": text,
                "response_url": self.slack.new_response_url(person.id, self.channel.id),
                "trigger_id": world.new_trigger(person.id, self.channel.id),
            }
        )
        headers = FORM | self.slack.sign(body)
        started = time.perf_counter()
        async with self.client.post(f"http://127.0.0.1:{target.port}/slack/events", data=body, headers=headers) as answer:
            await answer.read()
            if answer.status != 200:
                raise RuntimeError(f"{target.name} answered {answer.status}")
        return time.perf_counter() - started

    async def lists(
        self, target: Target, clients: int, count: int, text: str = "list", drawn: bool = True, pause: float | None = None
    ) -> Taken:
        """So many tables for so many clients at once, until the last is drawn.

        Args:
            pause: each is typed so many seconds after the one before was drawn, or acknowledged where nothing is drawn.
        """
        messages = self.slack.world.messages[self.channel.id]
        messages.clear()
        left = iter(range(count))
        with self.measured(target) as taken:
            taken.count = count

            async def client(person: Person) -> None:
                for number in left:
                    taken.acknowledged.append(await self.type(target, person, text))
                    if pause is not None:
                        if drawn:
                            await self.drawn(target, number + 1)
                        await asyncio.sleep(pause)

            await asyncio.gather(*(client(self.people[number % len(self.people)]) for number in range(clients)))
            if drawn:
                await self.drawn(target, count)
        messages.clear()
        return taken

    async def drawn(self, target: Target, count: int) -> None:
        messages = self.slack.world.messages[self.channel.id]
        if not await self.slack.world.until(lambda: len(messages) >= count or None, 120):
            raise RuntimeError(f"{target.name}: {len(messages)} of {count} were drawn")

    async def creates(self, target: Target, clients: int, count: int) -> Taken:
        """From the typed command to the password in Slack and the modal that says so; acknowledged: the submissions."""
        self.slack.world.installed().request_url = f"http://127.0.0.1:{target.port}/slack/events"
        messages = self.slack.world.messages[self.channel.id]
        messages.clear()
        left = iter(range(count))
        with self.measured(target) as taken:
            taken.count = count

            async def client(person: Person) -> None:
                for _ in left:
                    self.number += 1
                    await person.types(self.channel, f"/smtp create Bench {self.number}")
                    await person.sees_modal("New SMTP credential")
                    started = time.perf_counter()
                    await person.submits()
                    taken.acknowledged.append(time.perf_counter() - started)
                    with contextlib.suppress(Exception):
                        await person.closes()

            await asyncio.gather(*(client(person) for person in self.people[:clients]))
            if not await self.slack.world.until(lambda: len(messages) >= count or None, 120):
                raise RuntimeError(f"{target.name}: {len(messages)} of {count} passwords arrived")
        messages.clear()
        return taken


def percentile(values: Sequence[float], part: float) -> float:
    return sorted(values)[int(part * (len(values) - 1))]


def spread(values: Sequence[float], digits: int = 2) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def row(what: str, measured: str, goal: str = "") -> None:
    print(f"| {what} | {measured} | {goal} |", flush=True)


async def in_turns(targets: Sequence[Target], one: Callable[[Target], Awaitable[Taken]], rounds: int = ROUNDS) -> dict[str, list[Taken]]:
    """Batches of all targets in turns; the first round warms up and does not count."""
    taken: dict[str, list[Taken]] = {target.name: [] for target in targets}
    for number in range(rounds + 1):
        for target in targets:
            batch = await one(target)
            if number:
                taken[target.name].append(batch)
    return taken


def ratios(first: list[Taken], second: list[Taken], of: Callable[[Taken], float]) -> list[float]:
    return [of(a) / max(of(b), 1e-9) for a, b in zip(first, second, strict=True)]


async def report(bench: Bench, ours: list[Target], plain: Target, early: Target, on: str) -> None:
    """`ours`: this bot first, then another checkout's where one was asked for."""
    bot = ours[0]
    everybody = [*ours, plain, early]
    acks = await in_turns(everybody, lambda target: bench.lists(target, 1, BATCH, drawn=target in ours, pause=PAUSE))
    close = await in_turns([bot, plain, early], lambda target: bench.lists(target, 1, BATCH, drawn=target in ours, pause=0))
    costs = await in_turns([*ours, early], lambda target: bench.lists(target, 1, BATCH, drawn=target in ours))

    def median_ack(batch: Taken) -> float:
        return statistics.median(batch.acknowledged)

    row(
        f"Acknowledging `/smtp list`, {PAUSE * 1000:.0f} ms after the last was drawn, in times of a bare Bolt that acknowledges early",
        spread(ratios(acks[bot.name], acks[early.name], median_ack)),
        "≤ 1.5",
    )
    row("How many times faster than the app of Bolt's README", spread(ratios(acks[plain.name], acks[bot.name], median_ack), 1), "≥ 5")
    beside = spread(ratios(close[bot.name], close[early.name], median_ack))
    faster = spread(ratios(close[plain.name], close[bot.name], median_ack), 1)
    row("The same two, at the moment when it was drawn", f"{beside}; {faster} times faster")

    def cpu(batch: Taken) -> float:
        return batch.cpu / batch.count

    for target in ours:
        row(
            f"CPU of a drawn list, in times of that bare Bolt's acknowledgement: {target.name}",
            spread(ratios(costs[target.name], costs[early.name], cpu), 1),
            "≤ 8" if on == "SQLite" else "≤ 9",
        )
    if on != "SQLite":
        for target in ours:
            own = [batch.database / batch.count * 1000 for batch in costs[target.name]]
            row(f"PostgreSQL's own CPU for a drawn list, ms: {target.name}", spread(own), "≤ 1")
    for clients in CLIENTS[1:]:
        drawn = await in_turns(ours, lambda target, clients=clients: bench.lists(target, clients, BATCH * 8), rounds=3)  # type: ignore[misc]
        for target in ours:
            rates = [batch.count / batch.seconds for batch in drawn[target.name]]
            waits = [one for batch in drawn[target.name] for one in batch.acknowledged]
            told = f"{spread(rates, 0)}; acknowledged: median {statistics.median(waits) * 1000:.0f} ms"
            told += f", 99th percentile {percentile(waits, 0.99) / statistics.median(waits):.1f} times that"
            row(f"Tables drawn a second, {clients} clients: {target.name}", told, "≥ 150; ≤ 5 times" if clients == 16 else "")
    await report_creates(bench, ours, on)
    for target in (*ours, early):
        row(f"Memory (PSS), MiB: {target.name}", f"{pss_of(target.pid):.0f}")


async def report_creates(bench: Bench, ours: list[Target], on: str) -> None:
    hasher = Hasher(threads=1)

    async def argon2() -> float:
        """Seconds of CPU of one computation."""
        started = time.process_time()
        for _ in range(10):
            await hasher.hash(passwords.generate(passwords.new_id()))
        return (time.process_time() - started) / 10

    beyond: dict[str, list[float]] = {target.name: [] for target in ours}
    database: dict[str, list[float]] = {target.name: [] for target in ours}
    for number in range(5):
        for target in ours:
            unit = await argon2()
            batch = await bench.creates(target, 1, 10)
            if number:
                beyond[target.name].append(batch.cpu / batch.count / unit - 1)
                database[target.name].append(batch.database / batch.count * 1000)
    for target in ours:
        row(f"CPU of a create beyond its Argon2 hash, in Argon2 computations: {target.name}", spread(beyond[target.name]), "≤ 1.0")
        if on != "SQLite":
            row(f"PostgreSQL's own CPU for a create, ms: {target.name}", spread(database[target.name], 1))
    taken = await in_turns(ours, lambda target: bench.creates(target, 16, 64), rounds=3)
    for target in ours:
        waits = [one for batch in taken[target.name] for one in batch.acknowledged]
        told = f"median {statistics.median(waits) * 1000:.0f} ms, 99th percentile {percentile(waits, 0.99) * 1000:.0f} ms"
        row(f"A submission's acknowledgement, 16 clients: {target.name}", told, "≤ 250 ms" if on == "SQLite" else "≤ 400 ms")
    hasher.close()


async def report_replica(bench: Bench, one: Target, two: Target) -> None:
    """Tables drawn a second by two replicas on one PostgreSQL, against one of them alone."""

    async def both() -> float:
        messages = bench.slack.world.messages[bench.channel.id]
        messages.clear()
        count = BATCH * 8
        left = iter(range(count))
        started = time.perf_counter()

        async def client(number: int) -> None:
            for _ in left:
                await bench.type((one, two)[number % 2], bench.people[number], "list")

        await asyncio.gather(*(client(number) for number in range(16)))
        await bench.slack.world.until(lambda: len(messages) >= count or None, 120)
        return count / (time.perf_counter() - started)

    gains = []
    for _ in range(4):
        alone = await bench.lists(one, 16, BATCH * 8)
        gains.append(await both() / (alone.count / alone.seconds))
    row("Tables drawn a second by two replicas, in times of one alone", spread(gains), "≥ 1.5")


async def report_socket(bench: Bench, by_http: Target, by_socket: Target) -> None:
    """The same list by both of Slack's ways."""
    app, messages = bench.slack.world.installed(), bench.slack.world.messages[bench.channel.id]

    async def one(target: Target) -> Taken:
        app.request_url = f"http://127.0.0.1:{target.port}/slack/events" if target is by_http else None
        with bench.measured(target) as taken:
            taken.count = BATCH
            messages.clear()
            for number in range(BATCH):
                started = time.perf_counter()
                await bench.people[0].types(bench.channel, "/smtp list")
                taken.acknowledged.append(time.perf_counter() - started)
                await bench.drawn(target, number + 1)
        return taken

    taken = await in_turns([by_http, by_socket], one)
    costs = ratios(taken[by_socket.name], taken[by_http.name], lambda batch: batch.cpu)
    acks = ratios(taken[by_socket.name], taken[by_http.name], lambda batch: statistics.median(batch.acknowledged))
    row("A list over Socket Mode, in times of over HTTP", f"CPU {spread(costs)}, acknowledged {spread(acks)}")


async def report_flows(url: str) -> None:
    """Statements and calls of Slack of what people do, from the command until nothing is under way or owed: the fewest of a few times."""
    statements = 0

    def counted(_connection: Connection, _cursor: object, statement: str, *_more: object) -> None:
        nonlocal statements
        statements += not statement.startswith(("BEGIN", "COMMIT", "ROLLBACK"))

    def called() -> int:
        return int(sum(one.value for metric in calls.collect() for one in metric.samples if one.name.endswith("_total")))

    async def submits(person: Person, text: str) -> None:
        await person.types(play.mail, text)
        await person.sees_modal("")
        await person.submits()
        await play.settled()
        with contextlib.suppress(Exception):
            await person.closes()

    def on_relay(person: Person, word: str, then: str = "") -> Callable[[], Awaitable[None]]:
        return lambda: submits(person, f"/smtp {word} Relay{then}")

    empty = Database(url)
    await empty.upgrade()
    await empty.close()
    async with stage(url, "http") as play:
        wanda = play.wanda
        flows: dict[str, Callable[[], Awaitable[None]]] = {
            "create": on_relay(wanda, "create"),
            "list": lambda: wanda.types(play.mail, "/smtp list"),
            "rotate": on_relay(wanda, "rotate"),
            "suspend": on_relay(wanda, "suspend"),
            "resume": on_relay(wanda, "resume"),
            "delete": on_relay(wanda, "delete"),
        }
        found: dict[str, list[tuple[int, int]]] = {name: [] for name in flows}
        event.listen(Engine, "before_cursor_execute", counted)
        for _ in range(5):
            for name, flow in flows.items():
                await play.settled()
                before = statements, called()
                await flow()
                await play.settled()
                found[name].append((statements - before[0], called() - before[1]))
        event.remove(Engine, "before_cursor_execute", counted)
    told = (f"{name} {min(one for one, _ in taken)} and {min(one for _, one in taken)}" for name, taken in found.items())
    row("Statements and calls of Slack, in all", ", ".join(told))


async def report_panic(db: Database, workspace: Workspace) -> None:
    """All credentials of a workspace at once: refused in one row, deleted in batches."""
    count = (await db.read(workspaces.by_id, workspace.id)).credential_count
    by = Origin(Actor("shell:bench", "T0SANDBOX", owner=True), Surface.SHELL, reference="bench")
    started = time.perf_counter()
    await db.change(credentials.order_revocation, by, workspace.id)
    suspended = time.perf_counter() - started
    while await db.change(credentials.delete_some, by, workspace.id):
        pass
    seconds = time.perf_counter() - started
    row(f"All of a workspace's {count:,} revoked", f"refused after {suspended * 1000:.0f} ms; deleted after {seconds:.1f} s")


def fill(tx: Transaction, workspace: Workspace, count: int) -> None:
    """Active credentials; three names hold the word `needle`."""
    needles = set(random.Random(1).sample(range(count), min(3, count)))
    ids: set[str] = set()
    while len(ids) < count:
        ids.add(passwords.new_id())
    rows = []
    for number, credential_id in enumerate(sorted(ids)):
        name = f"App {number} {'needle ' if number in needles else ''}of {workspace.slug}"
        rows.append(
            {
                "id": credential_id,
                "workspace_id": workspace.id,
                "name": name,
                "name_key": names.name_key(name),
                "name_skeleton": names.skeleton(name),
                "username": names.username(workspace.slug, credential_id),
                "state": State.ACTIVE.value,
                "password_hash": "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaA",
                "version": 2,
                "created_at": tx.now.fromtimestamp(1_700_000_000 + number, tx.now.tzinfo),
                "created_by": "U0BENCH",
                "owner": "U0BENCH",
                "number": workspace.id * 10_000_000 + number,
            }
        )
    for start in range(0, count, 20_000):
        tx.connection.execute(insert(CREDENTIALS), rows[start : start + 20_000])
    tx.connection.execute(update(WORKSPACES).where(WORKSPACES.c.id == workspace.id).values(credential_count=count))


def python_of(folder: Path) -> str:
    """The Python of a checkout: what it needs may be other packages than ours."""
    own = folder / ".venv" / "bin" / "python"
    return str(own) if own.exists() else sys.executable


def spawn(command: list[str], folder: Path, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([python_of(folder), *command], env=os.environ | environment, stderr=subprocess.DEVNULL, cwd=folder)


@contextlib.asynccontextmanager
async def running(
    slack: Slack, client: aiohttp.ClientSession, url: str, others: dict[str, tuple[Path, str]], replicas: int
) -> AsyncIterator[tuple[list[Target], Target, Target, Callable[[], Awaitable[Target]]]]:
    """This bot's replicas and those of the others, the two bare Bolts, and what starts this bot in Socket Mode.

    Args:
        others: bots of other checkouts by name, each with its folder and its own database.
    """
    app = slack.world.installed()
    targets: list[Target] = []

    async def start(name: str, command: list[str], folder: Path, port: int, database: str, mode: str = "http") -> Target:
        environment = {
            "SLACK_BOT_TOKEN": app.bot_token,
            "SLACK_APP_TOKEN": app.app_token if mode == "socket" else "",
            "SLACK_SIGNING_SECRET": app.signing_secret,
            "SLACK_API_URL": f"{slack.url}/api/",
            "DATABASE_URL": database,
            "BOT_MODE": mode,
            "BOT_OWNERS": "",
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "METRICS_LISTEN": "127.0.0.1:0",
            "LOG_LEVEL": "WARNING",
            "PYTHONPATH": str(folder),
        }
        process = spawn(command, folder, environment)
        target = Target(name, process, port)
        targets.append(target)
        await asyncio.wait_for(target.ready(client), 60)
        return target

    async def by_socket() -> Target:
        target = await start("this bot by Socket Mode", ["-m", "bot", "run"], here, free_port(), url, "socket")
        await slack.connected()
        return target

    here = Path(__file__).parent.parent
    bare = [app.bot_token, app.signing_secret, f"{slack.url}/api/"]
    try:
        ours = [await start("this bot", ["-m", "bot", "run"], here, free_port(), url) for _ in range(replicas)]
        for name, (folder, database) in others.items():
            ours.append(await start(name, ["-m", "bot", "run"], folder, free_port(), database))
        port = free_port()
        plain = await start("Bolt as its README", ["-m", "tests.bench_bolt", str(port), "plain", *bare], here, port, url)
        port = free_port()
        early = await start("Bolt early", ["-m", "tests.bench_bolt", str(port), "early", *bare], here, port, url)
        yield ours, plain, early, by_socket
    finally:
        for target in targets:
            target.process.terminate()
        for target in targets:
            target.process.wait(30)


async def run(where: str, size: int, postgres_pid: int | None, beside: Path | None) -> None:
    """`where`: the address of a folder, or of a PostgreSQL in which the databases of `NAMES` are."""
    url, flows_url, beside_url = (f"{where}/{name}" for name in NAMES)
    slack = Slack(ack_timeout=30, escape_typed=False)
    slack.install(MANIFEST)
    people = [slack.add_person(f"bench{number}") for number in range(max(CLIENTS))]
    channel = slack.add_channel("mail", *people)
    team = slack.world.team.id
    db = Database(url)
    await db.upgrade()
    workspace = await db.change(workspaces.add, BY_TEST, "bench")
    await db.change(workspaces.map_channel, BY_TEST, team, channel.id, workspace.id)
    for person in people:
        await db.change(grants.grant, BY_TEST, team, person.id, Role.WRITER, workspace.id)
    await db.note(fill, workspace, size)
    big = await db.change(workspaces.add, BY_TEST, "big")
    await db.note(fill, big, size)
    on = "SQLite" if db.sqlite else "PostgreSQL"
    others = {}
    if beside is not None:
        # The other checkout's own tools make its database: its schema may be another.
        script = SETUP.format(team=team, channel=channel.id, people=json.dumps([one.id for one in people]), count=min(size, 1000))
        environment = os.environ | {"DATABASE_URL": beside_url, "PYTHONPATH": str(beside)}
        await asyncio.to_thread(subprocess.run, [python_of(beside), "-c", script], env=environment, cwd=beside, check=True, timeout=300)
        others["the other checkout"] = (beside, beside_url)
    print(f"\nOn {os.cpu_count()} cores, Python {sys.version.split()[0]}, {on}, {size:,} credentials; everything on the same machine.\n")
    row("What", "Median (lowest to highest)", "Goal")
    row("---", "---", "---")
    async with (
        slack.serve(),
        aiohttp.ClientSession() as client,
        running(slack, client, url, others, 1 if db.sqlite else 2) as (ours, plain, early, by_socket),
    ):
        bench = Bench(slack, client, people, channel, postgres_pid)
        await report(bench, [ours[0], *ours[1 if db.sqlite else 2 :]], plain, early, on)
        if not db.sqlite:
            await report_replica(bench, ours[0], ours[1])
        await report_socket(bench, ours[0], await by_socket())
        await report_panic(db, big)
    await db.close()
    await report_flows(flows_url)


SETUP = """
import asyncio, os
from storage import grants, workspaces
from storage.access import Actor, Role
from storage.audit import Origin, Surface
from storage.database import Database

async def main():
    by = Origin(Actor("shell:bench", "{team}", owner=True), Surface.SHELL, reference="bench")
    db = Database(os.environ["DATABASE_URL"])
    await db.upgrade()
    new = hasattr(db, "change")
    call = (lambda f, *a: db.change(f, *a)) if new else (lambda f, *a: f(db, *a))
    workspace = await call(workspaces.add, by, "bench")
    await call(workspaces.map_channel, by, "{team}", "{channel}", workspace.id)
    for person in {people}:
        await call(grants.grant, by, "{team}", person, Role.WRITER, workspace.id)
    from storage import credentials
    for number in range(20):
        made = await call(credentials.create_pending, by, "{channel}", f"App {{number}}", f"view {{number}}")
        await call(credentials.activate, by, made[0].id, "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaA")
    await db.close()

asyncio.run(main())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=100_000, help="credentials in a workspace")
    parser.add_argument("--beside", type=Path, help="the folder of another checkout, to compare with")
    parser.add_argument("--only", choices=("sqlite", "postgres"))
    given = parser.parse_args()
    if given.only != "postgres":
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(run(f"sqlite:///{folder}", given.size, None, given.beside))
    if given.only != "sqlite":
        if postgres.binaries() is None:
            print("\nPostgreSQL's server is not installed, so it is left out.")
            return
        with postgres.private_cluster() as address:
            admin = f"{address}/postgres"
            postgres.create_databases(admin, *NAMES)
            asyncio.run(run(address, given.size, postgres.server_pid(admin), given.beside))


if __name__ == "__main__":
    main()

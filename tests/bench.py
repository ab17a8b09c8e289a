"""`make bench`: how fast the bot is, beside two bare Bolt apps on the same server, in one run. Prints a Markdown table; asserts nothing."""

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
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
from sqlalchemy import insert, update

from bot.codec import InList
from bot.listing import TURN
from sandbox.people import Person
from sandbox.slack import Slack
from sandbox.world import Channel
from storage import grants, names, passwords, workspaces
from storage.access import Role
from storage.credentials import Order, Place
from storage.database import Database
from storage.models import Credential, State, Workspace
from storage.passwords import Hasher
from tests.postgres import free_port
from tests.stage import BY_TEST, MANIFEST

SIZES = (10, 1_000, 100_000, 1_000_000)
ROUNDS = 150
CLIENTS = 16
FORM = {"content-type": "application/x-www-form-urlencoded"}


class Target:
    """A process that answers Slack's requests."""

    def __init__(self, name: str, command: list[str], environment: dict[str, str], port: int) -> None:
        self.name = name
        self.url = f"http://127.0.0.1:{port}"
        self._started = time.monotonic()
        self._process = subprocess.Popen(command, env=os.environ | environment, stderr=subprocess.DEVNULL)
        self.start_seconds = 0.0

    async def ready(self, client: aiohttp.ClientSession) -> None:
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with client.get(f"{self.url}/readyz") as answer:
                    if answer.status == 200:
                        self.start_seconds = time.monotonic() - self._started
                        return
            if self._process.poll() is not None:
                raise RuntimeError(f"{self.name} ended with {self._process.returncode}")
            await asyncio.sleep(0.01)

    def memory_mib(self) -> float:
        """Resident memory: Linux's /proc."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)


class Bench:
    def __init__(self, slack: Slack, client: aiohttp.ClientSession, person: Person) -> None:
        self.slack = slack
        self.client = client
        self.person = person

    def command(self, text: str, channel: Channel) -> dict[str, str]:
        world = self.slack.world
        return {
            "token": "x",
            "team_id": world.team.id,
            "channel_id": channel.id,
            "user_id": self.person.id,
            "command": "/smtp",
            "text": text,
            "response_url": self.slack.new_response_url(self.person.id, channel.id),
            "trigger_id": world.new_trigger(self.person.id, channel.id),
        }

    async def post(self, target: Target, body: str) -> float:
        """Seconds until the acknowledgement."""
        headers = FORM | self.slack.sign(body)
        started = time.perf_counter()
        async with self.client.post(f"{target.url}/slack/events", data=body, headers=headers) as answer:
            await answer.read()
            if answer.status != 200:
                raise RuntimeError(f"{target.name} answered {answer.status}")
        return time.perf_counter() - started

    async def drawn(self, target: Target, body: str, channel: Channel) -> tuple[float, float]:
        """Seconds until the acknowledgement, and until the answer was drawn in Slack."""
        messages = self.slack.world.messages[channel.id]
        messages.clear()
        started = time.perf_counter()
        acknowledged = await self.post(target, body)
        if not await self.slack.world.until(lambda: messages or None, 30):
            raise RuntimeError("nothing was drawn")
        return acknowledged, time.perf_counter() - started

    def turn(self, channel: Channel, wanted: InList) -> str:
        """A press on the list's Next button."""
        world = self.slack.world
        payload = {
            "type": "block_actions",
            "user": {"id": self.person.id, "team_id": world.team.id},
            "team": {"id": world.team.id},
            "container": {"type": "message", "channel_id": channel.id, "message_ts": "1.1"},
            "channel": {"id": channel.id},
            "trigger_id": world.new_trigger(self.person.id, channel.id),
            "response_url": self.slack.new_response_url(self.person.id, channel.id),
            "actions": [{"type": "button", "action_id": TURN, "block_id": "b", "value": wanted.encode()}],
        }
        return urlencode({"payload": json.dumps(payload)})


async def fill(db: Database, workspace: Workspace, count: int) -> Place:
    """Active credentials; three names hold the word `needle`. Returns where the last page (newest first) begins."""
    now = db.clock()
    needles = set(random.Random(1).sample(range(count), 3))
    ids: set[str] = set()
    while len(ids) < count:
        ids.add(passwords.new_id())
    rows: list[dict[str, Any]] = []
    for number, credential_id in enumerate(sorted(ids)):
        name = f"App {number} {'needle ' if number in needles else ''}of {workspace.slug}"
        rows.append(
            {
                "id": credential_id,
                "workspace_id": workspace.id,
                "name": name,
                "name_key": names.name_key(name),
                "username": names.username(workspace.slug, credential_id),
                "state": State.ACTIVE,
                "password_hash": "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaA",
                "version": 2,
                "created_at": now.fromtimestamp(1_700_000_000 + number, now.tzinfo),
                "created_by": "U0BENCH",
            }
        )
    async with db.note() as session:
        for start in range(0, count, 20_000):
            await session.execute(insert(Credential), rows[start : start + 20_000])
        await session.execute(update(Workspace).where(Workspace.id == workspace.id).values(credential_count=count))
    return Place(rows[min(9, count - 1)]["id"], position=max(count - 10, 0))


def milliseconds(values: list[float]) -> str:
    return f"{statistics.median(values) * 1000:.2f} ms"


def percentile(values: list[float], part: float) -> float:
    return sorted(values)[int(part * (len(values) - 1))]


def row(what: str, measured: str, ratio: str = "", goal: str = "") -> None:
    print(f"| {what} | {measured} | {ratio} | {goal} |", flush=True)


async def acknowledgements(bench: Bench, ours: Target, plain: Target, early: Target, channels: dict[int, Channel]) -> None:
    for size, channel in channels.items():
        taken: dict[str, list[float]] = {target.name: [] for target in (ours, plain, early)}
        for _ in range(ROUNDS):
            for target in (plain, early):
                taken[target.name].append(await bench.post(target, urlencode(bench.command("list", channel))))
            acknowledged, _ = await bench.drawn(ours, urlencode(bench.command("list", channel)), channel)
            taken[ours.name].append(acknowledged)
        medians = {name: statistics.median(values) for name, values in taken.items()}
        told = ", ".join(f"{name} {milliseconds(values)}" for name, values in taken.items())
        ratio = f"{medians[plain.name] / medians[ours.name]:.1f}x faster; {medians[ours.name] / medians[early.name]:.2f}x of early"
        row(f"Acknowledge `/smtp list`, {size:,} credentials", told, ratio, "≥ 5x; ≤ 2x")


async def pages(bench: Bench, ours: Target, channels: dict[int, Channel], last: dict[int, Place]) -> None:
    rounds = 60

    async def measure(make: Callable[[Channel, int], str]) -> dict[int, list[float]]:
        taken: dict[int, list[float]] = {1_000: [], 1_000_000: []}
        for _ in range(rounds):
            for size in taken:
                if size in channels:
                    taken[size].append((await bench.drawn(ours, make(channels[size], size), channels[size]))[1])
        return taken

    cases: dict[str, Callable[[Channel, int], str]] = {
        "first page": lambda channel, _size: urlencode(bench.command("list", channel)),
        "last page": lambda channel, size: bench.turn(channel, InList.at(Order.NEWEST, "", last[size])),
    }
    for name, make in cases.items():
        taken = await measure(make)
        if taken[1_000_000]:
            ratio = statistics.median(taken[1_000_000]) / statistics.median(taken[1_000])
            told = f"1,000: {milliseconds(taken[1_000])}, 1,000,000: {milliseconds(taken[1_000_000])}"
            row(f"Typed until drawn, {name}", told, f"{ratio:.2f}x", "≤ 1.2x")
    for size in channels:
        words = [(await bench.drawn(ours, urlencode(bench.command("list needle", channels[size])), channels[size]))[1] for _ in range(10)]
        row(f"Typed until drawn, a word that 3 of {size:,} match", milliseconds(words), "", "100 ms")


async def throughput(bench: Bench, targets: list[Target], channel: Channel) -> None:
    told, rates = [], {}
    for target in targets:
        taken: list[float] = []

        async def client(target: Target = target, taken: list[float] = taken) -> None:
            for _ in range(60):
                taken.append(await bench.post(target, urlencode(bench.command("list", channel))))

        started = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(CLIENTS)))
        rates[target.name] = len(taken) / (time.perf_counter() - started)
        told.append(f"{target.name} {rates[target.name]:.0f}/s (p99 {percentile(taken, 0.99) * 1000:.0f} ms)")
        await asyncio.sleep(1)
    first = rates[targets[0].name]
    ratio = "; ".join(f"{first / rate:.2f}x of {name}" for name, rate in list(rates.items())[1:])
    row(f"Commands a second, {CLIENTS} clients", ", ".join(told), ratio)


async def creates(bench: Bench, ours: Target, channel: Channel, count: int) -> None:
    """Modal submissions until the password stands in Slack and the modal says so, against hashing alone."""
    cores = os.cpu_count() or 1
    hasher = Hasher()

    async def hash_alone() -> float:
        started = time.perf_counter()
        await asyncio.gather(*(hasher.hash(passwords.generate(passwords.new_id())) for _ in range(count)))
        return count / (time.perf_counter() - started)

    async def one(number: int, gate: asyncio.Semaphore) -> None:
        async with gate:
            person = Person(bench.slack, bench.slack.world.add_user(f"maker{number}"))
            bench.slack.world.users[person.id] = bench.slack.world.users[bench.person.id]
            view_id = bench.slack.world.new_id("V")
            payload = {
                "type": "view_submission",
                "user": {"id": bench.person.id, "team_id": bench.slack.world.team.id},
                "team": {"id": bench.slack.world.team.id},
                "view": {
                    "id": view_id,
                    "type": "modal",
                    "callback_id": "create_credential",
                    "private_metadata": json.dumps({"channel": channel.id}),
                    "state": {
                        "values": {
                            "name": {"name": {"type": "plain_text_input", "value": f"Bench {view_id}"}},
                            "channel": {"channel": {"type": "conversations_select", "selected_conversation": channel.id}},
                        }
                    },
                },
                "response_urls": [{"response_url": bench.slack.new_response_url(bench.person.id, channel.id)}],
            }
            await bench.post(ours, urlencode({"payload": json.dumps(payload)}))

    alone = await hash_alone()
    messages = bench.slack.world.messages[channel.id]
    messages.clear()
    gate = asyncio.Semaphore(8 * cores)
    started = time.perf_counter()
    await asyncio.gather(*(one(number, gate) for number in range(count)))
    if not await bench.slack.world.until(lambda: True if len(messages) >= count else None, 120):
        raise RuntimeError("not every password arrived")
    rate = count / (time.perf_counter() - started)
    hasher.close()
    row("Creates a second, end to end", f"{rate:.0f}/s, Argon2 alone {alone:.0f}/s", f"{rate / alone:.2f}x", "≥ 0.8x")


@contextlib.asynccontextmanager
async def running(slack: Slack, client: aiohttp.ClientSession, url: str, owner: str) -> AsyncIterator[tuple[Target, Target, Target]]:
    app = slack.world.installed()
    ports = [free_port() for _ in range(3)]
    environment = {
        "SLACK_BOT_TOKEN": app.bot_token,
        "SLACK_APP_TOKEN": "",
        "SLACK_SIGNING_SECRET": app.signing_secret,
        "SLACK_API_URL": f"{slack.url}/api/",
        "DATABASE_URL": url,
        "BOT_MODE": "http",
        "BOT_OWNERS": owner,
        "HOST": "127.0.0.1",
        "PORT": str(ports[0]),
        "LOG_LEVEL": "WARNING",
    }
    bare = [app.bot_token, app.signing_secret, f"{slack.url}/api/"]
    targets: list[Target] = []
    try:
        for name, command, port in (
            ("ours", ["-m", "bot", "run"], ports[0]),
            ("Bolt as its README", ["-m", "tests.bench_bolt", str(ports[1]), "plain", *bare], ports[1]),
            ("Bolt early", ["-m", "tests.bench_bolt", str(ports[2]), "early", *bare], ports[2]),
        ):
            target = Target(name, [sys.executable, *command], environment, port)
            targets.append(target)
            await asyncio.wait_for(target.ready(client), 60)
        yield targets[0], targets[1], targets[2]
    finally:
        for target in targets:
            target.stop()


async def run(url: str, sizes: tuple[int, ...]) -> None:
    slack = Slack(ack_timeout=30)
    slack.install(MANIFEST)
    person = slack.add_person("bench")
    db = Database(url)
    await db.upgrade()
    channels: dict[int, Channel] = {}
    last: dict[int, Place] = {}
    for size in sizes:
        workspace = await db.change(workspaces.add, BY_TEST, f"w{size}")
        channels[size] = slack.add_channel(f"mail-{size}", person)
        await db.change(workspaces.map_channel, BY_TEST, slack.world.team.id, channels[size].id, workspace.id)
        await db.change(grants.grant, BY_TEST, slack.world.team.id, person.id, Role.WRITER, workspace.id)
        last[size] = await fill(db, workspace, size)
    await db.close()
    kind = "SQLite" if db.sqlite else "PostgreSQL"
    print(f"\nOn {os.cpu_count()} cores, Python {sys.version.split()[0]}, {kind}; everything, also the local Slack, on the same machine.\n")
    row("What", "Measured", "Ratio", "Goal")
    row("---", "---", "---", "---")
    async with slack.serve(), aiohttp.ClientSession() as client, running(slack, client, url, person.id) as (ours, plain, early):
        bench = Bench(slack, client, person)
        for target in (ours, plain, early):
            for _ in range(20):
                await bench.post(target, urlencode(bench.command("help", channels[sizes[0]])))
        memory = f"{ours.memory_mib():.0f} MiB, bare Bolt {plain.memory_mib():.0f} MiB"
        row("Memory, idle", memory, f"{ours.memory_mib() / plain.memory_mib():.2f}x", "≤ 1.6x")
        seconds = f"{ours.start_seconds:.2f} s, bare Bolt {plain.start_seconds:.2f} s"
        row("Start until ready", seconds, f"+{ours.start_seconds - plain.start_seconds:.2f} s", "≤ +2 s")
        steps: list[Callable[[], Awaitable[None]]] = [
            lambda: acknowledgements(bench, ours, plain, early, channels),
            lambda: pages(bench, ours, channels, last),
            lambda: throughput(bench, [ours, plain, early], channels[sizes[0]]),
            lambda: creates(bench, ours, channels[sizes[0]], 200),
        ]
        for step in steps:
            await step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="leave out the million")
    parser.add_argument("--database", help="an empty database's address; default: a new SQLite file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = arguments.database or f"sqlite:///{folder}/bench.db"
        asyncio.run(run(url, SIZES[:2] if arguments.quick else SIZES))


if __name__ == "__main__":
    main()

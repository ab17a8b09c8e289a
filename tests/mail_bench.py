"""How fast log-ins are answered: `authd` beside Dovecot's own auth service, one load client for all, the same store and Argon2 parameters.

Part of `make bench`. Prints Markdown rows; asserts nothing.
"""

import asyncio
import contextlib
import itertools
import os
import statistics
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from storage import credentials, lifecycle, passwords, policy, workspaces
from storage.access import Actor
from storage.audit import Origin, Surface
from storage.database import Database
from storage.limits import Limits
from storage.passwords import Hasher
from tests import mail_servers
from tests.bench import cpu_of

BY = Origin(Actor("shell:bench", "T0SANDBOX", owner=True), Surface.SHELL, "bench", "C0BENCH")
CONNECTIONS = 32
SECONDS = 3.0
FIRSTS = 120
DELETES = 100
FLOOD = 150  # connections that guess
ROUNDS = 3
EVERYBODY = 400
MESSAGES = 1600  # of a batch that the policy is asked about
STATES = ("MAIL", "RCPT", "DATA", "END-OF-MESSAGE")
RATE = 1000  # log-ins a second under which a credential is deleted


@dataclass
class Outcome:
    seconds: float = 0.0
    took: list[float] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    """`OK`, `FAIL`, `later` and `closed`."""

    @property
    def yes(self) -> int:
        return self.answers["OK"]

    @property
    def unanswered(self) -> int:
        return self.answers["later"] + self.answers["closed"]

    @property
    def rate(self) -> float:
        return len(self.took) / self.seconds

    def __str__(self) -> str:
        p99 = sorted(self.took)[int(0.99 * (len(self.took) - 1))]
        return f"{self.rate:.0f}/s (median {statistics.median(self.took) * 1000:.2f} ms, p99 {p99 * 1000:.1f} ms)"


class Load:
    """One connection to an authentication service; one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._number = 0

    @classmethod
    async def connect(cls, path: Path, number: int) -> "Load":
        made = cls(*await asyncio.open_unix_connection(str(path)))
        made._writer.write(f"VERSION\t1\t2\nCPID\t{os.getpid() + number}\n".encode())
        while await made._reader.readline() != b"DONE\n":
            pass
        return made

    async def log_in(self, username: str, password: str, remote: str | None = "192.0.2.1") -> str:
        """`OK`, `FAIL`, `later` or `closed`."""
        self._number += 1
        response = b64encode(f"\0{username}\0{password}".encode())
        address = f"rip={remote}\t".encode() if remote else b""
        self._writer.write(b"AUTH\t%d\tPLAIN\tservice=smtp\tsecured\t%bresp=%b\n" % (self._number, address, response))
        line = await asyncio.wait_for(self._reader.readline(), 120)
        if b"temp_fail" in line:
            return "later"
        return line.split(b"\t")[0].decode() or "closed"

    def close(self) -> None:
        self._writer.close()


@contextlib.asynccontextmanager
async def loads(path: Path, count: int = CONNECTIONS) -> AsyncIterator[list[Load]]:
    made = [await Load.connect(path, number) for number in range(count)]
    yield made
    for one in made:
        one.close()


Addresses = Callable[[], str | None]


def one_address() -> str:
    return "192.0.2.1"


async def measure(
    path: Path,
    pairs: Iterable[tuple[str, str]],
    seconds: float = SECONDS,
    addresses: Addresses = one_address,
    connections: int = CONNECTIONS,
) -> Outcome:
    """Log-ins from every connection, until the pairs or the seconds are over."""
    outcome = Outcome()
    source = iter(pairs)
    started = time.perf_counter()

    async def one(load: Load) -> None:
        for username, password in source:
            before = time.perf_counter()
            if before - started > seconds:
                return
            answer = await load.log_in(username, password, addresses())
            outcome.answers[answer] += 1
            outcome.took.append(time.perf_counter() - before)
            if answer == "closed":
                return

    async with loads(path, connections) as made:
        await asyncio.gather(*(one(load) for load in made))
    outcome.seconds = time.perf_counter() - started
    return outcome


def forever(pair: tuple[str, str]) -> Iterator[tuple[str, str]]:
    while True:
        yield pair


def random_ones(pair: tuple[str, str]) -> Iterator[tuple[str, str]]:
    while True:
        yield pair[0], os.urandom(15).hex()


def well_formed(pair: tuple[str, str]) -> Iterator[tuple[str, str]]:
    while True:
        yield pair[0], passwords.generate(pair[0][-8:])


class Store:
    def __init__(self, url: str) -> None:
        self.url = url
        self.db = Database(url)
        self._hasher = Hasher()
        self._made = 0

    async def prepare(self) -> None:
        await self.db.upgrade()
        acme = await self.db.change(workspaces.add, BY, "acme")
        await self.db.change(workspaces.map_channel, BY, "T0SANDBOX", "C0BENCH", acme.id)

    async def make(self, count: int) -> list[tuple[str, str, str]]:
        """(username, password, id) of new credentials."""

        async def one(number: int) -> tuple[str, str, str]:
            made, _ = await self.db.change(credentials.create_pending, BY, "C0BENCH", f"App {number}", f"view {number}")
            password = passwords.generate(made.id)
            await self.db.change(credentials.activate, BY, made.id, await self._hasher.hash(password), passwords.tag(password))
            return made.username, password, made.id

        first, self._made = self._made, self._made + count
        return [await one(number) for number in range(first, self._made)]

    async def domains(self, names: str) -> None:
        """The sender domains of the workspace."""
        await self.db.change(policy.change, BY, 1, policy.Policy(tuple(names.split())))

    async def bare_verifications(self, count: int) -> float:
        """Argon2 verifications a second on all cores, with nothing around them."""
        phc = await self._hasher.hash("x")
        started = time.perf_counter()
        await asyncio.gather(*(self._hasher.verify(phc, "x") for _ in range(count)))
        return count / (time.perf_counter() - started)


def policy_of(path: Path) -> Path:
    """The socket of the policy beside that of log-ins."""
    return path.with_suffix(".policy")


@contextlib.contextmanager
def authd(folder: Path, url: str, workers: int) -> Iterator[tuple[Path, int]]:
    """A running `smtp-bot authd`: its socket and process id."""
    path = folder / f"authd{workers}"
    sockets = {"AUTHD_LISTEN": f"unix:{path}", "POLICY_LISTEN": f"unix:{policy_of(path)}"}
    environment = os.environ | sockets | {"DATABASE_URL": url, "LOG_LEVEL": "INFO"}
    code = str(Path(__file__).parent.parent)
    command = [sys.executable, "-m", "bot", "authd", "--workers", str(workers)]
    process = subprocess.Popen(command, env=environment | {"PYTHONPATH": code}, cwd=folder, stderr=subprocess.PIPE)
    try:
        assert process.stderr
        while b"ready" not in (line := process.stderr.readline()):
            assert line, "authd ended"
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield path, process.pid
    finally:
        process.terminate()
        process.wait(30)


def cpu_of_workers(pid: int) -> float:
    """Seconds of CPU that the processes which answer have had."""
    return sum(cpu_of(int(child)) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def memory_mib(pid: int) -> float:
    """Resident memory of a process and its children."""
    total = 0.0
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError, IndexError):
            text = status.read_text()
            parent = int(text.split("PPid:")[1].split()[0])
            if int(status.parent.name) == pid or parent == pid:
                total += int(text.split("VmRSS:")[1].split()[0]) / 1024
    return total


async def after_delete(store: Store, path: Path, asks: bool) -> int:
    """Log-ins, and messages of open sessions at the end of data, accepted of 20 each that were begun after the deletion was committed.

    Args:
        asks: there is a policy that can be asked.
    """
    [(username, password, credential_id)] = await store.make(1)
    await measure(path, [(username, password)] * 20)
    await store.db.change(credentials.delete, BY, credential_id)
    accepted = (await measure(path, [(username, password)] * 20)).yes
    return accepted + (await messages(policy_of(path), username, 20) if asks else 0)


async def messages(path: Path, username: str, count: int, session: int = 0) -> int:
    """Asks about so many messages, each at MAIL, RCPT, DATA and its end, one after the other; how many were let pass at their end."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    passed = 0
    for number in range(count):
        for state in STATES:
            writer.write(
                f"request=smtpd_access_policy\nprotocol_state={state}\nsasl_username={username}\nsender=app@acme.example\n"
                f"client_address=192.0.2.1\nclient_port={40000 + session}\ninstance={username}.{number}\n"
                "recipient_count=1\nsize=1000\n\n".encode()
            )
            answer = await asyncio.wait_for(reader.readuntil(b"\n\n"), 120)
        passed += answer == b"action=DUNNO\n\n"
    writer.close()
    return passed


async def sessions(store: Store, path: Path, pid: int) -> None:
    """CPU of a question about an open session, without and with domains and limits, in turns."""
    [(plain, _, _), (limited, _, credential_id)] = await store.make(2)
    wanted = Limits(("192.0.2.0/24",), 10_000_000, 10_000_000, 10_000_000, 10_000_000)
    await store.db.change(lifecycle.change_limits, BY, credential_id, wanted)
    took: dict[str, list[float]] = {plain: [], limited: []}
    for _ in range(2 * ROUNDS):
        for username, some in took.items():
            await store.domains("acme.example" if username == limited else "")
            before = cpu_of_workers(pid)
            await asyncio.gather(*(messages(policy_of(path), username, MESSAGES // CONNECTIONS, number) for number in range(CONNECTIONS)))
            some.append((cpu_of_workers(pid) - before) / MESSAGES / len(STATES) * 1e6)
    ratio = statistics.median(b / a for a, b in zip(*took.values(), strict=True))
    told = f"{statistics.median(took[plain]):.0f} µs of CPU; {statistics.median(took[limited]):.0f} µs with domains, limits and counts"
    row(
        f"A question about an open session, {CONNECTIONS} at once",
        told,
        f"{ratio:.2f}x",
        "≤ 99 µs, 1.3x of what it took before there were limits",
    )


async def delete_under_load(store: Store, path: Path) -> tuple[list[float], int]:
    """Seconds from the commit of a deletion to the first refused log-in, and how many were accepted that began after the commit."""
    waits: list[float] = []
    stale = 0
    for username, password, credential_id in await store.make(DELETES):
        committed: list[float] = []
        refused: list[float] = []
        late: list[bool] = []

        async def one(
            load: Load,
            number: int,
            pair: tuple[str, str] = (username, password),
            committed: list[float] = committed,
            refused: list[float] = refused,
            late: list[bool] = late,
        ) -> None:
            await asyncio.sleep(number / RATE)
            while not refused:
                begun = time.perf_counter()
                yes = await load.log_in(*pair) == "OK"
                if not yes and not refused:
                    refused.append(time.perf_counter())
                if yes and committed and begun > committed[0]:
                    late.append(True)
                await asyncio.sleep(max(0.0, CONNECTIONS / RATE - (time.perf_counter() - begun)))

        async with loads(path) as made:
            await made[0].log_in(username, password)
            running = [asyncio.create_task(one(load, number)) for number, load in enumerate(made)]
            await asyncio.sleep(0.1)
            await store.db.change(credentials.delete, BY, credential_id)
            committed.append(time.perf_counter())
            await asyncio.gather(*running)
        waits.append(max(0.0, refused[0] - committed[0]))
        stale += len(late)
    return waits, stale


def row(what: str, measured: str, ratio: str = "", goal: str = "") -> None:
    print(f"| {what} | {measured} | {ratio} | {goal} |", flush=True)


async def run(folder: Path) -> None:
    store = Store(f"sqlite:///{folder / 'mail.db'}")
    await store.prepare()
    bare = await store.bare_verifications(100)
    repeated: dict[str, float] = {}
    for name, workers, cache in (
        ("Dovecot, no cache", 0, None),
        ("Dovecot, auth_cache_size=10M", 0, "10M"),
        ("authd, 1 worker", 1, None),
        ("authd, 2 workers", 2, None),
    ):
        with contextlib.ExitStack() as stack:
            if workers:
                path, pid = stack.enter_context(authd(folder, store.url, workers))
            else:
                home = Path(stack.enter_context(mail_servers.open_folder()))
                path = stack.enter_context(mail_servers.dovecot(home, store.url, cache))
                pid = 0
            firsts = await store.make(FIRSTS)
            first = await measure(path, [(username, password) for username, password, _ in firsts], 60)
            pair = firsts[0][:2]
            before = cpu_of_workers(pid) if pid else 0.0
            again = await measure(path, forever(pair))
            cpu = f" ({(cpu_of_workers(pid) - before) / len(again.took) * 1e6:.0f} µs of CPU)" if pid else ""
            noise = await measure(path, random_ones(pair))
            stale = await after_delete(store, path, asks=bool(workers))
            repeated[name] = again.rate
            memory = f", {memory_mib(pid):.0f} MiB" if pid else ""
            ratio = f"first: {first.rate / bare:.2f}x of bare Argon2 ({bare:.0f}/s)"
            goal = ""
            if workers:
                ratio += f"; repeated: {again.rate / repeated['Dovecot, no cache']:.0f}x Dovecot"
                goal = "first ≥ 0.9x; repeated ≥ 50x; 0 stale"
            told = f"first {first}; repeated {again}{cpu}; random {noise}; accepted after delete: {stale}{memory}"
            row(f"Log-ins, {name}", told, ratio, goal)
            if workers == 1:
                await flood(store, path)
                waits, late = await delete_under_load(store, path)
                await sessions(store, path, pid)
                p99 = sorted(waits)[int(0.99 * (len(waits) - 1))]
                told = f"median {statistics.median(waits) * 1000:.1f} ms, 99 of 100 within {p99 * 1000:.1f} ms, accepted: {late}"
                row(f"From the commit of a deletion to the first refused log-in, {RATE}/s", told, "", "99 of 100 within 15 ms, 0 accepted")
    await everybody_at_once(store, folder)
    await store.db.close()


async def flood(store: Store, path: Path) -> None:
    """First log-ins, one after the other, alone and beside guesses, in turns; then how fast guesses alone are refused."""
    numbers = itertools.count()
    of_10_000 = [f"{10 + number % 100}.{number // 100}.{number % 7}.{number % 251}" for number in range(10_000)]
    floods: dict[str, Addresses] = {
        "one /64": lambda: f"2001:db8::{next(numbers) % 0xFFFF:x}",
        "10,000 addresses": lambda: of_10_000[next(numbers) % 10_000],
        "no address": lambda: None,
    }
    for name, addresses in floods.items():
        alone, beside = Outcome(), Outcome()
        refused = Counter[str]()
        for _ in range(ROUNDS):
            await firsts(store, path, alone)
            [victim] = await store.make(1)
            flooding = asyncio.create_task(measure(path, well_formed(victim[:2]), 1.5, addresses, FLOOD))
            await asyncio.sleep(0.3)
            await firsts(store, path, beside, victim)
            refused += (await flooding).answers
        ratio = statistics.median(beside.took) / statistics.median(alone.took)
        told = f"alone {times(alone.took)}, beside {times(beside.took)}; not OK: {len(beside.took) - beside.yes}; guesses: {dict(refused)}"
        row(f"A first log-in beside {FLOOD} connections that guess, {name}", told, f"{ratio:.1f}x", "≤ 1.5x, 0 failures")
    [victim] = await store.make(1)
    bare = await store.bare_verifications(50)
    wide = await measure(path, well_formed(victim[:2]), 2, floods["10,000 addresses"], FLOOD)
    row("Guesses refused", str(wide), f"{wide.rate / bare:.0f}x of Argon2 ({bare:.0f}/s)", "≥ 50x")


async def firsts(store: Store, path: Path, outcome: Outcome, *more: tuple[str, str, str]) -> None:
    """First log-ins, one after the other."""
    for username, password, _ in [*more, *await store.make(6)]:
        part = await measure(path, [(username, password)], 60, lambda: "198.51.100.1", 1)
        outcome.took += part.took
        outcome.answers += part.answers


async def everybody_at_once(store: Store, folder: Path) -> None:
    """After a restart nothing is remembered."""
    made = [pair[:2] for pair in await store.make(EVERYBODY)]
    with authd(folder, store.url, 1) as (path, _):
        outcome = await measure(path, made, 120, connections=EVERYBODY)
    row(f"{EVERYBODY} right log-ins at once after a restart", f"{outcome}; {dict(outcome.answers)}", "", "all OK")


def times(took: list[float]) -> str:
    return f"{statistics.median(took) * 1000:.1f} ms (longest {max(took) * 1000:.0f})"


def main() -> None:
    with mail_servers.open_folder() as folder:
        asyncio.run(run(folder))


if __name__ == "__main__":
    main()

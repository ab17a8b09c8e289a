"""What credentials have queued in Postfix, and the service that holds, releases and deletes it as the store orders.

The usernames stand in the queue files' envelopes, which `postcat` prints; `postsuper` does the rest, and is for root alone. So the service
is two processes. The one that is root knows neither store nor network: it reads lines such as `hold smtp-acme-7k2m9x4q` from the other,
checks each, and does nothing else. The other takes orders from the store and has no rights.

Sources: postcat(1), postsuper(1), QSHAPE_README (the queue's folders), postconf(5) (hash_queue_names, multi_instance_directories).
"""

import asyncio
import contextlib
import itertools
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import structlog

from mailauth.notify import notify
from mailauth.process import existing, what_is_wrong
from storage import queue
from storage.database import Database, Unavailable
from storage.models import QueueOrder
from storage.names import USERNAME
from storage.queue import Act
from storage.typed import login_name

QUEUE_ID = re.compile(r"[0-9A-Za-z]{1,64}")
QUEUES = ("incoming", "active", "deferred", "hold")  # maildrop holds nothing that came by a log-in
DEPTH = 17  # hash_queue_depth is 16 at most
BATCH = 500  # messages that one postcat reads
LINE_MAX = 16 * 1024  # bytes; Postfix's line_length_limit is 2048
COMMAND_LIMIT = 120.0  # seconds for one command of Postfix
SEARCH_LIMIT = 300.0  # seconds for one look at the whole queue
REMEMBERED = 90.0  # seconds that a message's username is known without looking again; queue ids may be used anew
REMEMBERED_MAX = 500_000  # messages
PASSES = 5
USERNAMES_MAX = queue.ORDERS_AT_ONCE
EVERY = 1.0  # seconds between two looks for orders
AGAIN = 5.0  # seconds between two times that the same is held
CHILD = "SMTP_BOT_QUEUE_CHILD"  # set for the process that takes orders
LATE_WORDS = "it was away for over a day, so it did nothing"
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
_DONE = re.compile(rb"postsuper: ([0-9A-Za-z]+): (?:placed on hold|released from hold|removed)\s*")

log = structlog.get_logger(__name__)


class QueueError(Exception):
    """Why Postfix's queue cannot be read or changed, and what to do about it."""


@dataclass(frozen=True)
class Instance:
    """One Postfix: where its main.cf and its queue are."""

    config: str
    folder: Path


@dataclass(frozen=True)
class Counted:
    queued: int = 0
    """With those on hold."""
    held: int = 0


@dataclass
class Queues:
    """The queues of this host.

    Args:
        configs: configuration folders of Postfix; none: the usual one, and those of its further instances.
        search_limit: seconds for one look at all messages.
    """

    configs: Sequence[str] = ()
    search_limit: float = SEARCH_LIMIT
    monotonic: Callable[[], float] = time.monotonic
    _known: dict[str, dict[str, str]] = field(default_factory=dict)
    """By configuration folder, of messages looked at lately the username, "" for none of ours, by queue id."""
    _since: float = -REMEMBERED

    def do(self, act: Act, usernames: Sequence[str]) -> dict[str, int]:
        """How many messages it was done to, by username; of those to hold, how many are on hold now. Raises QueueError."""
        match act:
            case Act.COUNT:
                return {username: counted.queued for username, counted in self.count(usernames).items()}
            case Act.HOLD:
                return self._each(usernames, self._hold)
            case Act.RELEASE:
                return self._each(usernames, self._release)
            case Act.DELETE:
                return self._each(usernames, self._delete)

    def count(self, usernames: Sequence[str]) -> dict[str, Counted]:
        """Changes nothing. Raises QueueError."""
        counts = dict.fromkeys(usernames, Counted())
        for instance in self.instances():
            listed = listing(instance)
            for queue_id, username in self._find(instance, listed, usernames).items():
                before = counts[username]
                counts[username] = Counted(before.queued + 1, before.held + (listed[queue_id] == "hold"))
        return counts

    def instances(self) -> list[Instance]:
        """Raises QueueError: Postfix is not here, or its configuration cannot be read."""
        configs = list(self.configs)
        if not configs:
            [usual, more] = _settings((), "config_directory", "multi_instance_directories")
            configs = [usual, *more.replace(",", " ").split()]
        return [Instance(config, Path(*_settings(("-c", config), "queue_directory"))) for config in configs]

    def _each(self, usernames: Sequence[str], act: Callable[[Instance, Sequence[str]], Iterable[str]]) -> dict[str, int]:
        counts = dict.fromkeys(usernames, 0)
        for instance in self.instances():
            for username in act(instance, usernames):
                counts[username] += 1
        return counts

    def _hold(self, instance: Instance, usernames: Sequence[str]) -> list[str]:
        """The username of each message that is on hold then. Looks until nothing new comes up: messages move meanwhile."""
        for _ in range(PASSES):
            listed = listing(instance)
            found = self._find(instance, listed, usernames)
            moving = [one for one in found if listed[one] != "hold"]
            if not moving:
                break
            held = self._change(instance, "-h", moving)
            # An id may have been used anew since its message was looked at; on hold it is not.
            theirs = self._find(instance, held, usernames)
            self._change(instance, "-H", [one for one in held if one not in theirs])
            log.info("held", messages=len(theirs), config=instance.config)
        listed = {one: where for one, where in listing(instance).items() if where == "hold"}
        return list(self._find(instance, listed, usernames).values())

    def _release(self, instance: Instance, usernames: Sequence[str]) -> list[str]:
        found = self._find(instance, (one for one, where in listing(instance).items() if where == "hold"), usernames)
        done = self._change(instance, "-H", found)
        log.info("released", messages=len(done), config=instance.config)
        return [found[one] for one in done if one in found]

    def _delete(self, instance: Instance, usernames: Sequence[str]) -> list[str]:
        """Only what is on hold and was looked at there: its id cannot have become another message's."""
        self._hold(instance, usernames)
        self._known.clear()
        found = self._find(instance, (one for one, where in listing(instance).items() if where == "hold"), usernames)
        done = self._change(instance, "-d", found, "hold")
        log.info("deleted", messages=len(done), config=instance.config)
        return [found[one] for one in done if one in found]

    def _find(self, instance: Instance, ids: Iterable[str], usernames: Iterable[str]) -> dict[str, str]:
        """Of these messages those that came by one of the usernames, with it. Those that vanish meanwhile are left out."""
        wanted, now = set(usernames), self.monotonic()
        if now - self._since >= REMEMBERED:
            self._known, self._since = {}, now
        known = self._known.setdefault(instance.config, {})
        # What would be acted on is looked at anew each time.
        unknown = [one for one in ids if one not in known or known[one] in wanted]
        found: dict[str, str] = {}
        for one, username in read_usernames(instance, unknown, self.search_limit):
            if len(known) < REMEMBERED_MAX:
                known[one] = sys.intern(username)
            if username in wanted:
                found[one] = username
        return found

    def _change(self, instance: Instance, option: str, ids: Iterable[str], *where: str) -> list[str]:
        """Has `postsuper` do it to these messages; returns those that it was done to. Raises QueueError."""
        given = [one for one in ids if QUEUE_ID.fullmatch(one)]
        if not given:
            return []
        command = [program("postsuper"), "-c", instance.config, option, "-", *where]
        try:
            text = "".join(f"{one}\n" for one in given).encode()
            done = subprocess.run(command, input=text, capture_output=True, env=ENVIRONMENT, timeout=self.search_limit, check=False)  # noqa: S603
        except subprocess.TimeoutExpired:
            raise QueueError(f"postsuper took over {self.search_limit:.0f} seconds") from None
        if done.returncode != 0:
            raise QueueError(_last_line(done.stderr) or f"postsuper ended with {done.returncode}")
        return [match[1].decode() for line in done.stderr.splitlines() if (match := _DONE.fullmatch(line))]


def listing(instance: Instance) -> dict[str, str]:
    """The queue ids, with the queue that each is in. Raises QueueError."""
    found: dict[str, str] = {}

    def read(folder: Path | str, queue_name: str, depth: int) -> None:
        with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                if len(entry.name) == 1 and depth < DEPTH and entry.is_dir(follow_symlinks=False):
                    read(entry.path, queue_name, depth + 1)
                elif QUEUE_ID.fullmatch(entry.name):
                    found[entry.name] = queue_name

    try:
        for name in QUEUES:
            read(instance.folder / name, name, 0)
    except OSError as error:
        raise QueueError(f"{instance.folder}: it can't be read ({error.strerror}). Run it as root.") from None
    return found


def read_usernames(instance: Instance, ids: Sequence[str], limit: float) -> Iterator[tuple[str, str]]:
    """The queue id and the username, as the credential has it, of each message; "" where it is none of our form.

    One `postcat` reads many messages and ends at the first that is not there, or that is still being written: the next goes on after it.
    Raises QueueError: it takes longer than `limit` seconds.
    """
    waiting = [one for one in ids if QUEUE_ID.fullmatch(one)]
    until = time.monotonic() + limit
    command = [program("postcat"), "-c", instance.config, "-e", "-q"]
    while waiting:
        if time.monotonic() > until:
            raise QueueError(f"reading the queue took over {limit:.0f} seconds, with {len(waiting)} messages left")
        batch, ended, current = waiting[:BATCH], 0, ""
        with _printing([*command, *batch], min(COMMAND_LIMIT, limit)) as process:
            username = ""
            for line in _lines(process.stdout):
                if line.startswith(b"*** ENVELOPE RECORDS "):
                    current, username = line.split(b" ")[3].rpartition(b"/")[2].decode("ascii", "replace"), ""
                elif line.startswith(b"named_attribute: sasl_username="):
                    said = login_name(line.partition(b"=")[2].decode("ascii", "replace"))
                    username = said if USERNAME.fullmatch(said) else ""
                elif line.startswith(b"*** MESSAGE FILE END "):
                    yield current, username
                    ended += 1
        if process.returncode == 0:
            waiting = waiting[len(batch) :]
        else:
            there = listing(instance)
            waiting = [one for one in waiting[ended + 1 :] if one in there]


@contextlib.contextmanager
def _printing(command: list[str], limit: float) -> Iterator["subprocess.Popen[bytes]"]:
    """A command whose output is read; killed after so many seconds."""
    silent = subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=silent, stdout=subprocess.PIPE, stderr=silent, env=ENVIRONMENT)  # noqa: S603
    timer = threading.Timer(limit, process.kill)
    timer.daemon = True
    timer.start()
    try:
        yield process
    finally:
        if process.stdout:
            process.stdout.close()
        process.wait()
        timer.cancel()


def _lines(output: IO[bytes] | None) -> Iterator[bytes]:
    """Lines, of each its first LINE_MAX bytes."""
    whole = True
    while output and (line := output.readline(LINE_MAX)):
        if whole:
            yield line
        whole = line.endswith(b"\n")


def _settings(where: Sequence[str], *names: str) -> list[str]:
    """Settings of main.cf. Raises QueueError."""
    try:
        asked = [program("postconf"), *where, "-x", "-h", *names]
        read = subprocess.run(asked, capture_output=True, env=ENVIRONMENT, timeout=COMMAND_LIMIT, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise QueueError("postconf does not end") from None
    values = read.stdout.decode(errors="replace").split("\n")[:-1]
    if read.returncode != 0 or len(values) != len(names):
        raise QueueError(_last_line(read.stderr) or "postconf says nothing")
    return values


def program(name: str) -> str:
    """Raises QueueError."""
    found = shutil.which(name, path=ENVIRONMENT["PATH"])
    if found is None:
        raise QueueError(f"Postfix's {name} is not here. This runs on the mail server's host.")
    return found


def _last_line(said: bytes) -> str:
    return (said.decode(errors="replace").strip().splitlines() or [""])[-1][: queue.PROBLEM_MAX]


# --- the service ---
@dataclass(frozen=True)
class QueueConfig:
    """
    Args:
        user: the account that takes orders from the store.
        host: what people read as this host's name.
        configs: as `Queues` has it.
        every: seconds between two looks for orders. again: between two times that the same is held.
    """

    database_url: str
    user: str
    host: str
    configs: Sequence[str] = ()
    every: float = EVERY
    again: float = AGAIN


def serve(config: QueueConfig) -> None:
    """Works until it is ended, or the process that takes the orders ends. Raises QueueError."""
    if CHILD in os.environ:
        asyncio.run(Orders(config, Asking(sys.stdin.buffer, sys.stdout.buffer)).run())
        return
    if os.geteuid() != 0:
        raise QueueError("Run it as root: postsuper takes nobody else.")
    try:
        account = pwd.getpwnam(config.user)
    except KeyError:
        raise QueueError(f"There is no account {config.user}. Name the one that authd runs as: --user") from None
    queues = Queues(config.configs)
    instances = queues.instances()
    pipe = subprocess.PIPE
    child = subprocess.Popen(  # noqa: S603  # this program again
        (sys.executable, *sys.orig_argv[1:]),
        stdin=pipe,
        stdout=pipe,
        user=account.pw_uid,
        group=account.pw_gid,
        extra_groups=[],
        env={**os.environ, CHILD: "1"},
    )
    assert child.stdin
    assert child.stdout
    log.info("taking orders", host=config.host, user=config.user, queues=[str(one.folder) for one in instances])
    notify("READY=1")
    with contextlib.suppress(BrokenPipeError):
        while line := child.stdout.readline(LINE_MAX):
            notify("WATCHDOG=1")
            if line != b"alive\n":
                child.stdin.write(carry_out(queues, line))
                child.stdin.flush()
    child.stdin.close()
    raise QueueError(f"The process that takes orders ended ({child.wait()}).")


def carry_out(queues: Queues, line: bytes) -> bytes:
    """What is answered to one line of the process without rights. Raises QueueError when it is none that it may send."""
    act, *usernames = line.decode("ascii", "replace").split() or [""]
    known = act in {one.value for one in Act}
    if not known or not 0 < len(usernames) <= USERNAMES_MAX or not all(USERNAME.fullmatch(one) for one in usernames):
        raise QueueError("The process that takes orders asked for what is none.")
    try:
        return json.dumps({"counts": queues.do(Act(act), usernames)}).encode() + b"\n"
    except QueueError as error:
        log.error("not done", act=act, why=str(error))
        return json.dumps({"problem": str(error)}).encode() + b"\n"


class Asking:
    """The way to the process that is root."""

    def __init__(self, answers: IO[bytes], questions: IO[bytes]) -> None:
        self._answers, self._questions = answers, questions

    def alive(self) -> None:
        """Raises EOFError, BrokenPipeError: it is gone."""
        self._questions.write(b"alive\n")
        self._questions.flush()

    def __call__(self, act: str, usernames: Sequence[str]) -> tuple[Mapping[str, int], str | None]:
        """How many messages by username, and what was in the way. Blocks. Raises EOFError, BrokenPipeError."""
        self._questions.write(f"{act} {' '.join(usernames)}\n".encode())
        self._questions.flush()
        line = self._answers.readline()
        if not line:
            raise EOFError
        said = json.loads(line)
        return said.get("counts") or {}, said.get("problem")


class Orders:
    """Takes orders from the store, and answers them."""

    def __init__(self, config: QueueConfig, ask: Asking) -> None:
        self._config = config
        self._ask = ask
        self._db = Database(existing(config.database_url))
        self._held: dict[int, float] = {}
        """When orders to hold were carried out last."""
        self._wrong: str | None = "starting"

    async def run(self) -> None:
        """Until the process that is root is gone."""
        with contextlib.suppress(EOFError, BrokenPipeError):
            while True:
                self._ask.alive()
                self._say(await self._once())
                await asyncio.sleep(self._config.every)
        os._exit(0)  # a thread may hang in a call of a database

    def _say(self, wrong: str | None) -> None:
        """Once for each reason."""
        if wrong != self._wrong:
            self._wrong = wrong
            if wrong:
                log.warning("waiting", why=wrong)
            else:
                log.info("ready", host=self._config.host)

    async def _once(self) -> str | None:
        """Why the store cannot be asked; None when all went well."""
        try:
            await self._db.note(queue.beat, self._config.host)
            await self.work_off(await self._db.read(queue.waiting_for, self._config.host))
        except Unavailable:
            return await what_is_wrong(self._db) or "the database is away"
        except (EOFError, BrokenPipeError):
            raise
        except Exception as error:
            return await what_is_wrong(self._db) or type(error).__name__
        return None

    async def work_off(self, orders: Sequence[QueueOrder]) -> None:
        """Orders of one kind that follow each other at once: one look at the queue for all of them."""
        now = time.monotonic()
        self._held = {number: at for number, at in self._held.items() if now - at < self._config.again}
        due = [one for one in orders if one.id not in self._held]
        for (act, late), alike in itertools.groupby(due, lambda one: (one.action, queue.is_late(one, self._db.clock()))):
            group = list(alike)
            counts: Mapping[str, int] = {}
            problem: str | None = LATE_WORDS
            if not late:
                counts, problem = await asyncio.to_thread(self._ask, act, list(dict.fromkeys(one.username for one in group)))
            await self._db.note(queue.answer, self._config.host, group, counts, problem)
            if act == Act.HOLD:
                self._held |= dict.fromkeys((one.id for one in group), time.monotonic())

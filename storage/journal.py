"""What must never work again, and how far the store had come: kept in a file outside the store, which a restore does not touch.

One line an entry, in plain words; anybody may read it with `less`, and the same words stand in the log:

    smtp-bot-journal 1 STORE EVENT          whose it is, and at which audit row it began
    head EVENT HASH                         the end of the audit log, as last seen
    ended ID EVENT -                        the credential was deleted
    ended ID EVENT SHA256                   a password of it was: the SHA-256 of its stored hash
    suspended ID EVENT, resumed ID EVENT    until it is resumed
    stopped SLUG EVENT, started SLUG EVENT  a whole workspace, likewise
    back EVENT HASH EVENT                   the store was found to have gone back: from which row, to which
    forward EVENT                           nothing that is named here is alive in the store any more
    forgot COUNT EVENT                      the oldest entries made room for newer ones, up to that row

The processes of one host may share a journal: each takes the file's lock to write, and first reads what the others wrote.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

ENTRIES = 100_000  # what a journal names at most; about 25 MB of memory
SPARE_LINES = 10_000  # that are no longer needed, before the file is written anew
LOCK_WAIT = 2.0  # seconds for another process's lock
LOCK_TRY = 0.02  # seconds between two tries
FORMAT = "smtp-bot-journal 1"
HEADER = re.compile(rf"{FORMAT} ([0-9a-f]{{32}}) (\d+)")
ENTRY = re.compile(
    r"\b(?:(?P<head>head) (?P<head_event>\d+) (?P<head_hash>[0-9a-f]{64})"
    r"|(?P<ended>ended) (?P<ended_id>[0-9a-z]{8}) (?P<ended_event>\d+) (?P<digest>-|[0-9a-f]{64})"
    r"|(?P<change>suspended|resumed) (?P<id>[0-9a-z]{8}) (?P<event>\d+)"
    r"|(?P<all>stopped|started) (?P<slug>[a-z0-9][a-z0-9-]{0,31}) (?P<all_event>\d+)"
    r"|(?P<back>back) (?P<lost_event>\d+) (?P<lost_hash>[0-9a-f]{64}) (?P<kept_event>\d+)"
    r"|(?P<forward>forward) (?P<forward_event>\d+)"
    r"|(?P<forgot>forgot) (?P<count>\d+) (?P<forgot_event>\d+))(?![0-9a-z])"
)


class State(StrEnum):
    """How the journal is kept."""

    KEPT = "kept"
    NONE = "none"
    """There is none, and none is to be made."""
    FOREIGN = "of another store"
    UNREADABLE = "unreadable"
    UNWRITABLE = "unwritable"
    FULL = "disk full"
    LOCKED = "locked"


@dataclass(frozen=True)
class Mark:
    """A row of the audit log: its number and its hash."""

    event: int
    hash: str


@dataclass(frozen=True)
class Back:
    """The store went back: from the row `lost`, to its row number `kept`."""

    lost: Mark
    kept: int


def digest(password_hash: str) -> str:
    """Names a stored hash without being one: SHA-256, in hex."""
    return hashlib.sha256(password_hash.encode()).hexdigest()


class Memory:
    """What the entries say, taken together.

    Args:
        most: passwords and credentials that it names; the oldest make room.
    """

    def __init__(self, most: int = ENTRIES) -> None:
        self._most = most
        self.head: Mark | None = None
        self.back: Back | None = None
        self.deleted: dict[str, int] = {}
        """Credential id -> the audit row of its end."""
        self.passwords: dict[str, tuple[int, str]] = {}
        """`digest` -> the audit row of the password's end, and the credential's id."""
        self.suspended: dict[str, int] = {}
        self.workspaces: dict[str, int] = {}
        self.forgot = 0
        """How many were dropped to make room."""
        self.forgot_event = 0

    def __len__(self) -> int:
        return len(self.deleted) + len(self.passwords) + len(self.suspended) + len(self.workspaces)

    def names(self, credential_id: str, workspace: str, password_hash: str | None = None) -> bool:
        """Whether this must not work: the credential, its workspace (a slug) or the password with this stored hash."""
        if credential_id in self.deleted or credential_id in self.suspended or workspace in self.workspaces:
            return True
        return password_hash is not None and bool(self.passwords) and digest(password_hash) in self.passwords

    def take(self, line: str) -> str | None:
        """Takes the entry in a line, wherever it stands in it. The entry, if it was news."""
        found = ENTRY.search(line)
        if found is None:
            return None
        news = self._take(found)
        if len(self.deleted) + len(self.passwords) > self._most:
            self._make_room()
        return found.group() if news else None

    def _take(self, found: re.Match[str]) -> bool:
        get = found.groupdict()
        if get["head"]:
            mark = Mark(int(get["head_event"]), get["head_hash"])
            news = self.head is None or mark.event > self.head.event
            self.head = mark if news else self.head
            return news
        if get["ended"]:
            event, credential_id = int(get["ended_event"]), get["ended_id"]
            if get["digest"] == "-":
                news = credential_id not in self.deleted
                self.deleted.setdefault(credential_id, event)
                self.suspended.pop(credential_id, None)
                return news
            news = get["digest"] not in self.passwords
            self.passwords.setdefault(get["digest"], (event, credential_id))
            return news
        if get["change"]:
            return _switch(self.suspended, get["id"], int(get["event"]), get["change"] == "suspended")
        if get["all"]:
            return _switch(self.workspaces, get["slug"], int(get["all_event"]), get["all"] == "stopped")
        if get["back"]:
            self.back = Back(Mark(int(get["lost_event"]), get["lost_hash"]), int(get["kept_event"]))
            self.head = None
            return True
        if get["forward"]:
            news, self.back = self.back is not None, None
            return news
        self.forgot, self.forgot_event = int(get["count"]), int(get["forgot_event"])
        return True

    def _make_room(self) -> None:
        """Drops a tenth, the oldest."""
        oldest = sorted([(event, key) for key, event in self.deleted.items()] + [(one[0], key) for key, one in self.passwords.items()])
        for event, key in oldest[: max(self._most // 10, 1)]:
            if self.deleted.pop(key, None) is None:
                self.passwords.pop(key, None)
            self.forgot += 1
            self.forgot_event = max(self.forgot_event, event)

    def lines(self) -> Iterator[str]:
        """The fewest entries that say the same."""
        if self.forgot:
            yield f"forgot {self.forgot} {self.forgot_event}"
        for credential_id, event in self.deleted.items():
            yield f"ended {credential_id} {event} -"
        for key, (event, credential_id) in self.passwords.items():
            yield f"ended {credential_id} {event} {key}"
        for credential_id, event in self.suspended.items():
            yield f"suspended {credential_id} {event}"
        for slug, event in self.workspaces.items():
            yield f"stopped {slug} {event}"
        if self.back:
            yield f"back {self.back.lost.event} {self.back.lost.hash} {self.back.kept}"
        if self.head:
            yield f"head {self.head.event} {self.head.hash}"


def _switch(where: dict[str, int], key: str, event: int, on: bool) -> bool:
    if on == (key in where):
        return False
    if on:
        where[key] = event
    else:
        del where[key]
    return True


class Journal:
    """One journal file, and what it says.

    Nothing here raises: what is wrong with the file is in `state` and `problem`, and what could not be written stays in memory, counts,
    and is tried again with the next entry.

    Args:
        path: where it is kept.
        create: makes the file when there is none.
        most, spare: bounds, of entries and of lines in the file that say nothing any more.
        lock_wait: seconds that another process's lock is waited for.
    """

    def __init__(
        self, path: Path, create: bool = True, most: int = ENTRIES, spare: int = SPARE_LINES, lock_wait: float = LOCK_WAIT
    ) -> None:
        self.path = path
        self.state = State.NONE
        self.problem = ""
        """What the system says is wrong, when it says so."""
        self.began: int | None = None
        """At which audit row this journal began; what a restore before that brought back cannot be known."""
        self.fresh = False
        """It was made by this process."""
        self.skipped = 0
        """Lines that could not be read."""
        self._create = create
        self._most = most
        self._spare = spare
        self._lock_wait = lock_wait
        self._store = ""
        self._file: int | None = None
        self._writable = False
        self._read_to = 0
        self._lines = 0
        self._unwritten: list[str] = []
        self.memory = Memory(most)

    def exchange(self, store: str, event: int, entries: Sequence[str] = ()) -> list[str]:
        """Reads what other processes wrote, and writes the entries that are news. Waits for the disk and for the lock.

        Args:
            store: the store's id (`facts`), and `event`: its last audit row, for a journal that begins now.

        Returns:
            Those of the entries that were news.
        """
        if store != self._store:
            self.close()
            self._store, self.memory, self._unwritten, self._read_to = store, Memory(self._most), [], 0
        news: list[str] | None = None
        try:
            with self._locked(event) as usable:
                if usable:
                    self._read()
                news = self._take(entries)
                if usable and self._writable:
                    self._write()
                    self.state, self.problem = State.KEPT, ""
        except BlockingIOError:
            self._failed(State.LOCKED, "another process holds its lock")
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            self._failed(State.FULL if full else State.UNWRITABLE, error.strerror or type(error).__name__)
        if news is None:
            news = self._take(entries)
        if len(self._unwritten) > 2 * self._most:
            self._unwritten = list(self.memory.lines())
        return news

    def _take(self, entries: Sequence[str]) -> list[str]:
        news = [one for one in map(self.memory.take, entries) if one]
        self._unwritten += news
        return news

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _failed(self, state: State, problem: str) -> None:
        self.state, self.problem = state, problem

    @contextlib.contextmanager
    def _locked(self, event: int) -> Iterator[bool]:
        """The file of now, locked; whether it is a journal of this store. Raises OSError."""
        while True:
            if self._file is None and not self._open():
                yield False
                return
            file = self._opened
            _lock(file, self._lock_wait)
            try:
                if _is_at(file, self.path):
                    yield self._is_ours(event)
                    return
            finally:
                if self._file is not None:
                    fcntl.flock(file, fcntl.LOCK_UN)
            self.close()  # another process wrote it anew, or somebody took it away

    @property
    def _opened(self) -> int:
        if self._file is None:
            raise RuntimeError("the journal is not open")
        return self._file

    def _open(self) -> bool:
        flags = os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._writable = True
        try:
            self._file = os.open(self.path, os.O_RDWR | flags)
        except FileNotFoundError:
            if not self._create:
                self._failed(State.NONE, "")
                return False
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | flags, 0o600)
            _sync_folder(self.path)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            self._file = os.open(self.path, os.O_RDONLY | flags)
            self._writable = False
            self._failed(State.UNWRITABLE, error.strerror or "")
        found = os.fstat(self._file)
        if not stat.S_ISREG(found.st_mode):
            self.close()
            raise OSError(errno.EINVAL, "it is no file")
        if self._writable and stat.S_IMODE(found.st_mode) != 0o600:
            os.fchmod(self._file, 0o600)
        self._read_to = self._lines = self.skipped = 0
        return True

    def _is_ours(self, event: int) -> bool:
        """Reads the first line, once; a file that is empty or became shorter gets what is known."""
        file = self._opened
        size = os.fstat(file).st_size
        if 0 < self._read_to <= size:
            return True
        if size == 0 and self._writable:
            _append(file, f"{FORMAT} {self._store} {event}\n".encode())
            self.fresh = True
        if size < self._read_to or size == 0:
            self._unwritten = list(self.memory.lines())
        first = os.pread(file, 200, 0)
        header = HEADER.fullmatch(first.partition(b"\n")[0].decode("ascii", "replace"))
        if header is not None and header.group(1) == self._store:
            self.began = int(header.group(2))
            self._read_to = first.index(b"\n") + 1
            self._lines = 0
            return True
        if header is None:
            self._failed(State.UNREADABLE, "it does not begin as a journal does")
        else:
            self._failed(State.FOREIGN, f"it is of the store {header.group(1)[:8]}, and this is {self._store[:8]}")
        self.close()
        return False

    def _read(self) -> None:
        """Takes the whole lines that were added. Half a line at the end is what a crash left: it is cut off."""
        file = self._opened
        rest = b""
        while chunk := os.pread(file, 1 << 20, self._read_to + len(rest)):
            whole, newline, tail = (rest + chunk).rpartition(b"\n")
            for line in whole.split(b"\n") if newline else ():
                text = line.decode("ascii", "replace")
                if ENTRY.fullmatch(text):
                    self.memory.take(text)
                else:
                    self.skipped += 1
                self._lines += 1
            self._read_to += len(whole) + len(newline)
            rest = tail
        if rest and self._writable:
            os.ftruncate(file, self._read_to)
        for entry in self._unwritten:
            self.memory.take(entry)

    def _write(self) -> None:
        file = self._opened
        if self._unwritten:
            data = "".join(f"{line}\n" for line in self._unwritten).encode("ascii")
            _append(file, data)
            self._read_to += len(data)
            self._lines += len(self._unwritten)
            self._unwritten = []
        if self._lines > 2 * len(self.memory) + self._spare:
            self._write_anew()

    def _write_anew(self) -> None:
        """Puts a file with only what is needed in this one's place, at once for everybody."""
        temporary = self.path.with_name(self.path.name + ".new")
        temporary.unlink(missing_ok=True)
        made = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.fchmod(made, 0o600)
            _append(made, "".join(f"{line}\n" for line in (f"{FORMAT} {self._store} {self.began}", *self.memory.lines())).encode("ascii"))
        finally:
            os.close(made)
        temporary.rename(self.path)
        _sync_folder(self.path)


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _lock(file: int, wait: float) -> None:
    """Raises BlockingIOError when another process keeps it for too long."""
    until = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > until:
                raise
            time.sleep(LOCK_TRY)


def _append(file: int, data: bytes) -> None:
    """All of it, on the disk, or nothing. Raises OSError."""
    before = os.fstat(file).st_size
    try:
        written = 0
        while written < len(data):
            written += os.write(file, data[written:])
        os.fsync(file)
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(file, before)
        raise


def _sync_folder(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

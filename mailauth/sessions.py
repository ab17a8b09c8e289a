"""Which password an open session logged in with, so that it ends when that password does.

A mail server says at a log-in from which address, and when it asks about the session from which address and port. So a session belongs to
the last log-in of its username from its address before its first question. One table of fixed size, in memory that all workers of a
parent share, holds both; what was not touched for longest is forgotten first, and a session that nothing is known of goes on.
"""

import mmap
import os
from hashlib import blake2b
from struct import Struct

SETS = 16_384  # of WAYS entries each: 1.3 MiB
WAYS = 4
LOGIN_KEPT = 12 * 3600  # seconds
SESSION_KEPT = 900  # seconds without a question; Postfix ends a session that is silent for 300 (smtpd_timeout)
ENTRY = "QiII"  # digest of the key, tag, seconds, check
_SET = Struct(f"<{ENTRY * WAYS}")
_ENTRY = Struct(f"<{ENTRY}")
SIZE = SETS * _SET.size


def shared_memory() -> int:
    """A descriptor of memory for `Sessions` that processes can share."""
    fd = os.memfd_create("smtp-bot-sessions")
    os.ftruncate(fd, SIZE)
    return fd


class Sessions:
    """Args: fd: of `shared_memory`; without one the table is this process's own."""

    def __init__(self, fd: int | None = None) -> None:
        self._memory = mmap.mmap(-1 if fd is None else fd, SIZE)

    def logged_in(self, username: str, address: str | None, tag: int, now: float) -> None:
        """With the password that has this `passwords.tag`. `now`: seconds of the monotonic clock, which processes share."""
        self._put(_key(username, address or ""), tag, now)

    def tag(self, username: str, address: str, port: str, now: float) -> int | None:
        """The tag of the password that the session was opened with; None when nobody knows."""
        key = _key(username, address, port) if port else 0
        tag = self._get(key, SESSION_KEPT, now) if port else None
        if tag is None:
            tag = self._get(_key(username, address), LOGIN_KEPT, now)
        if tag is not None and port:
            self._put(key, tag, now)
        return tag

    def ended(self, username: str, address: str, port: str) -> None:
        """The next session from this port is another one."""
        key = _key(username, address, port)
        place = _at(key)
        digests = _SET.unpack_from(self._memory, place)[0::4]
        if key in digests:
            _ENTRY.pack_into(self._memory, place + digests.index(key) * _ENTRY.size, 0, 0, 0, 0)

    def _get(self, key: int, kept: float, now: float) -> int | None:
        entries = _SET.unpack_from(self._memory, _at(key))
        for start in range(0, 4 * WAYS, 4):
            if entries[start] == key:
                _, tag, at, check = entries[start : start + 4]
                # Another process may be writing there just now: what is half written fits no check.
                return tag if check == _check(key, tag, at) and now - at <= kept else None
        return None

    def _put(self, key: int, tag: int, now: float) -> None:
        place = _at(key)
        entries = _SET.unpack_from(self._memory, place)
        digests, times = entries[0::4], entries[2::4]
        way = digests.index(key) if key in digests else times.index(min(times))
        at = max(int(now), 0)
        _ENTRY.pack_into(self._memory, place + way * _ENTRY.size, key, tag, at, _check(key, tag, at))

    def close(self) -> None:
        self._memory.close()


def _key(username: str, address: str, port: str = "") -> int:
    """Never 0, which an empty entry has."""
    return int.from_bytes(blake2b(f"{username} {address} {port}".encode(errors="replace"), digest_size=8).digest()) or 1


def _at(key: int) -> int:
    return key % SETS * _SET.size


def _check(key: int, tag: int, at: int) -> int:
    return (key ^ key >> 32 ^ tag ^ at * 0x9E3779B1) & 0xFFFFFFFF

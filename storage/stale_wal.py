"""A backup in the place of an SQLite file, beside the `-wal` of the file before: SQLite would write the old pages over it.

SQLite ties the two together by nothing but their names. What gives it away: in life, `bot.db` is written only from the `-wal`, so what the
`-shm` says was copied there must be there, and if nothing was, the `-wal` is the younger of the two.
https://www.sqlite.org/walformat.html
"""

import struct
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

WAL_HEADER = 32
FRAME_HEADER = 24
WAL_MAGIC = (0x377F0682, 0x377F0683)
BACKFILLED_AT = 96  # in the -shm: nBackfill; nBackfillAttempted 32 bytes later
DURING_A_COPY = 5.0  # seconds that a file may be younger than its -wal when a crash ended the copying


def is_stale(path: Path) -> bool:
    """Whether the `-wal` beside the SQLite file belongs to a file that was there before.

    Opens both files, which takes away the locks that this process has on them: call it before SQLite opens them. Raises OSError.
    """
    wal_path = path.with_name(path.name + "-wal")
    try:
        main, wal = path.stat(), wal_path.stat()
    except FileNotFoundError:
        return False
    # Changed, not modified: a copy or a move may keep the time of its contents.
    younger = (main.st_ctime_ns - wal.st_mtime_ns) / 1e9
    if wal.st_size <= WAL_HEADER or younger <= 0:
        return False
    copied, tried = _copied(path.with_name(path.name + "-shm"))
    if tried > copied and younger < DURING_A_COPY:
        return False
    with wal_path.open("rb") as frames, path.open("rb") as pages:
        return _differs(frames, pages, copied)


def _copied(path: Path) -> tuple[int, int]:
    """How many frames were copied into the file, and how many were being copied."""
    try:
        with path.open("rb") as shm:
            head = shm.read(BACKFILLED_AT + 36)
    except FileNotFoundError:
        return 0, 0
    if len(head) < BACKFILLED_AT + 36:
        return 0, 0
    [copied] = struct.unpack_from("=I", head, BACKFILLED_AT)
    [tried] = struct.unpack_from("=I", head, BACKFILLED_AT + 32)
    return copied, tried


def _differs(wal: BinaryIO, main: BinaryIO, copied: int) -> bool:
    """Whether the file has other pages than were copied there; nothing copied: than the `-wal` has."""
    header = wal.read(WAL_HEADER)
    magic, _, size = struct.unpack_from(">III", header)
    salts = header[16:24]
    if magic not in WAL_MAGIC or size < 512:
        return False
    versions: dict[int, list[tuple[int, bytes]]] = {}
    """Of each page: the number of each frame that has it, and the page's digest."""
    committed = number = 0
    while len(frame := wal.read(FRAME_HEADER + size)) == FRAME_HEADER + size and frame[8:16] == salts:
        number += 1
        page, pages_in_file = struct.unpack_from(">II", frame)
        versions.setdefault(page, []).append((number, blake2b(frame[FRAME_HEADER:]).digest()))
        if pages_in_file:
            committed = number
    last = min(copied, committed) or committed
    for page, found in versions.items():
        due = max((one for one, _ in found if one <= last), default=0)
        if not due:
            continue
        main.seek((page - 1) * size)
        here = blake2b(main.read(size)).digest()
        if here not in [digest for one, digest in found if one >= due]:
            return True
    return False

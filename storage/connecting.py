"""Why a database cannot be used, and what to do, in a sentence for operators; none repeats the address, which may hold a password."""

import os
import re
from pathlib import Path
from urllib.parse import unquote

from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

MOUNTS = Path("/proc/mounts")
SAID_MAX = 200  # characters of what a database says
NETWORK = re.compile(
    r"nfs4?|cifs|smb3|smbfs|ncpfs|afs|9p|ceph|lustre|gpfs|beegfs|glusterfs|davfs|coda|gfs2?|ocfs2|orangefs"
    r"|fuse\.(?:sshfs|glusterfs|ceph.*|s3fs|goofys|rclone|davfs.*|gcsfuse|mount-s3|blobfuse2?|juicefs|moosefs|seaweedfs|curlftpfs)"
)
"""Types of file systems that other machines share: SQLite's WAL needs memory that all its processes share (https://www.sqlite.org/wal.html)."""


class Unusable(Exception):
    """The database cannot be used; the text is the sentence.

    Attributes:
        passes: it may be different in a moment, without anybody touching settings or files.
    """

    def __init__(self, why: str, passes: bool = False) -> None:
        super().__init__(why)
        self.passes = passes


class NoDatabase(Unusable):
    """There is no SQLite file, and none was to be made."""


def sqlite_path(url: URL) -> Path:
    """The file of an SQLite address, also of one like `file:/path?mode=rw`."""
    name = url.database or ""
    return Path(unquote(name.removeprefix("file:")) if name.startswith("file:") else name).absolute()


def file_system(path: Path, mounts: Path = MOUNTS) -> str:
    """The type of the file system that a folder is on, such as `ext4`; "" where the system does not tell."""
    try:
        lines = [line.split() for line in mounts.read_text(errors="replace").splitlines()]
    except OSError:
        return ""
    real = path.resolve()
    found, kind = "", ""
    for _, place, type_, *_ in (line for line in lines if len(line) > 2):
        folder = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), place)  # a blank stands there as \040
        if real.is_relative_to(folder) and len(folder) >= len(found):
            found, kind = folder, type_
    return kind


def check_file(file: Path, mounts: Path = MOUNTS) -> None:
    """Raises Unusable when SQLite could not keep a store in this file."""
    try:
        _check_file(file, mounts)
    except PermissionError:
        raise Unusable("this account may not enter the folder of the SQLite file. Run as the account that owns it, or chmod it.") from None
    except OSError as error:
        raise Unusable(f"the path of the SQLite file cannot be followed ({error.strerror}). Correct it.") from None


def _check_file(file: Path, mounts: Path) -> None:
    folder = file.parent
    if not folder.is_dir():
        raise Unusable("the folder of the SQLite file is not there. Make it, or correct the path.")
    if file.is_dir():
        raise Unusable("this is a folder, and SQLite needs a file. Add a name, such as smtp-bot.db.")
    if NETWORK.fullmatch(file_system(folder, mounts)):
        raise Unusable("the SQLite file is on a network file system, which breaks SQLite. Put it on a local disk, or use PostgreSQL.")
    if file.exists() and not os.access(file, os.R_OK | os.W_OK):
        raise Unusable("this account may not write the SQLite file, or it is read-only. Run as the account that owns it, or chown it.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise Unusable("the folder of the SQLite file is read-only for this account. SQLite writes beside its file: chown or remount it.")


SQLITE = {
    "SQLITE_NOTADB": ("the file is no SQLite database. Correct the path, or restore a backup.", False),
    "SQLITE_CORRUPT": ("the SQLite file is damaged, or was copied by half. Stop everything that uses it and restore a backup.", False),
    "SQLITE_CANTOPEN": ("the SQLite file is not there or cannot be opened. Check the path and who may read it.", True),
    "SQLITE_READONLY": ("the SQLite file cannot be written. Check its owner, and whether its disk is read-only.", True),
    "SQLITE_FULL": ("the disk of the SQLite file is full. Make room.", True),
    "SQLITE_BUSY": ("somebody else holds the SQLite file's lock. Find out who has it open: fuser FILE", True),
    "SQLITE_LOCKED": ("somebody else holds the SQLite file's lock. Find out who has it open: fuser FILE", True),
    "SQLITE_IOERR": ("the disk of the SQLite file fails. Look at the system's log.", True),
}  # https://www.sqlite.org/rescode.html
SQLSTATES = {
    "3D000": ("the server has no database of that name. Make it with createdb, or correct the name.", True),
    "28": ("the server does not accept this role and password. Correct them, or make the role with createuser.", True),
    "42501": ("the role may not do that there. Make it the owner of the database, or grant it CREATE and USAGE on the schema.", True),
    "3F000": ("the schema in search_path is not there. Make it with CREATE SCHEMA, or correct options=.", True),
    "42704": ("PostgreSQL does not know a parameter in options=. Correct the address.", False),
    "22023": ("PostgreSQL does not accept a value in options=. Correct the address.", False),
    "25006": ("the server is read-only: a standby, or its disk is full. Take the primary's address.", True),
    "53300": ("the server has no connection left. Raise max_connections, or put PgBouncer before it.", True),
    "53100": ("the server's disk is full. Make room.", True),
    "57P03": ("the server is starting or stopping. Wait.", True),
    "57014": ("the server cancelled it: it took too long. Look at what else the server does.", True),
    "55P03": ("somebody else holds a lock there. Look at pg_stat_activity.", True),
}  # https://www.postgresql.org/docs/current/errcodes-appendix.html
# What fails before there is a session has no code: libpq and the server say it in words, in English unless lc_messages is another.
WORDS = (
    (r"database \S+ does not exist|no such database", "3D000"),
    (r"role \S+ does not exist|no such user", "28"),
    (r"password authentication failed|no password supplied|SASL authentication failed|auth failed", "28"),
    (r"too many connections|too many clients|no more connections allowed|remaining connection slots", "53300"),
    (r"is starting up|is shutting down", "57P03"),
    (r"unrecognized configuration parameter", "42704"),
    (r"invalid value for parameter", "22023"),
)
PHRASES = (
    (
        r"unsupported startup parameter",
        Unusable("a pooler stands before the server. Set DATABASE_POOLER=transaction."),
    ),
    (
        r"invalid (?:connection option|URI query parameter|\w+ value)",
        Unusable("PostgreSQL's driver does not know a parameter in it, or its value. Correct what stands after the question mark."),
    ),
    (
        r"pg_hba\.conf (?:entry|rejects).*(?:no encryption|SSL off)|SSL required|TLS required",
        Unusable("the server takes only TLS connections. Add ?sslmode=require, or better verify-full with sslrootcert.", passes=True),
    ),
    (
        r"pg_hba\.conf",
        Unusable("the server's pg_hba.conf lets this role in from nowhere or not from this machine. Add a line there.", passes=True),
    ),
    (
        r"does not support SSL|SSL was required|server refused TLS",
        Unusable("the server speaks no TLS, which sslmode demands. Turn on ssl there, or take sslmode out.", passes=True),
    ),
    (
        r"certificate",
        Unusable("the server's certificate is not one that sslrootcert vouches for. Check sslrootcert and the host's name.", passes=True),
    ),
    (
        r"could not translate host name|[Nn]ame or service not known|failed to resolve host|name resolution",
        Unusable("the server's name is not known here. Correct it, or check DNS.", passes=True),
    ),
    (
        r"Connection refused|No such file or directory|timeout|timed out|No route to host|is unreachable|closed the connection",
        Unusable("PostgreSQL does not answer there. Check that it runs, its host and port, and the firewall.", passes=True),
    ),
)


def why(error: Exception) -> Unusable:
    """The sentence for what the driver raised."""
    if isinstance(error, Unusable):
        return error
    original = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(original, "sqlite_errorname", None)
    if code:
        return next((Unusable(*said) for prefix, said in SQLITE.items() if code.startswith(prefix)), _strange(error, "SQLite"))
    words = str(original)
    state = getattr(original, "sqlstate", None) or next((state for pattern, state in WORDS if re.search(pattern, words)), None)
    if state:
        for prefix, said in SQLSTATES.items():
            if state.startswith(prefix) and not (prefix == "28" and "pg_hba" in words):
                return Unusable(*said)
    for pattern, unusable in PHRASES:
        if re.search(pattern, words, re.DOTALL):
            return Unusable(str(unusable), unusable.passes)
    return _strange(error, "the database")


def _strange(error: Exception, what: str) -> Unusable:
    original = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(original, "sqlite_errorname", None) or getattr(original, "sqlstate", None)
    # Within a session the first line names tables and columns, no values and no address.
    said = f"{code}: {str(original).partition(chr(10))[0][:SAID_MAX]}" if code else type(original).__name__
    return Unusable(f"{what} does not do what it is asked ({said}). Look at its log.", passes=True)

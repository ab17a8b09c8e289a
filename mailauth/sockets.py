"""The sockets that mail servers connect to: handed in by systemd (sd_listen_fds(3)), or opened here; and who may connect over TCP.

A Unix socket is never unlinked: between two processes Postfix would find none, and stop accepting for 40 seconds. One that nobody
listens on any more is replaced by renaming, without a moment in which there is none.
"""

import contextlib
import grp
import ipaddress
import os
import socket
import stat
from collections.abc import Iterable

from mailauth.fair import address_of

AUTH, POLICY, HTTP = "auth", "policy", "http"
FIRST_FD = 3  # SD_LISTEN_FDS_START
MODE = 0o660

Networks = tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
LOOPBACK: Networks = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1/128"))


class ListenError(Exception):
    """Why `authd` cannot listen, naming the variable."""


def listen(address: str, variable: str, group: str | None = None) -> socket.socket:
    """A listening socket at `unix:PATH`, `tcp:HOST:PORT` or `tcp:PORT`, which is on this machine only.

    Args:
        group: whom a Unix socket belongs to; it and our own user may connect (mode 0660).

    Raises:
        ListenError
    """
    kind, _, where = address.partition(":")
    try:
        if kind == "unix" and where:
            return _listen_unix(where, group)
        host, _, port = where.rpartition(":")
        if kind != "tcp" or not port.isdigit() or int(port) > 65535:
            raise ListenError(f"{variable}: use unix:PATH, tcp:HOST:PORT or tcp:PORT")
        host = host.strip("[]") or "127.0.0.1"
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, int(port)))
    except (OSError, OverflowError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else None
        raise ListenError(f"{variable}: cannot listen on {address} ({why or error}).") from None
    listener.listen(socket.SOMAXCONN)
    return listener


def _listen_unix(path: str, group: str | None) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise OSError(0, "something that is no socket is in the way")
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(ConnectionRefusedError):
            probe.connect(path)
            raise OSError(0, "somebody else listens there")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    fresh = f"{path}.{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(fresh)
    listener.bind(fresh)
    try:
        if group is not None:
            os.chown(fresh, -1, _group_id(group))
        os.chmod(fresh, MODE)
        listener.listen(socket.SOMAXCONN)
        os.rename(fresh, path)
    except BaseException:
        os.unlink(fresh)
        raise
    return listener


def _group_id(group: str) -> int:
    try:
        return int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise ListenError(f"AUTHD_GROUP: there is no group {group}") from None


def handed_in(addresses: dict[str, str | None]) -> dict[str, list[socket.socket]]:
    """The sockets that systemd opened for this process, by what they are for. They are named `auth`, `policy` or `http`
    (FileDescriptorName=), or found at the address that is set for one of these.

    Args:
        addresses: where each is set to listen.

    Raises:
        ListenError: a socket that is none of them, or no listening stream.
    """
    found: dict[str, list[socket.socket]] = {}
    if os.environ.pop("LISTEN_PID", None) != str(os.getpid()):
        return found
    count = int(os.environ.pop("LISTEN_FDS", "0"))
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    for number in range(count):
        handed = socket.socket(fileno=FIRST_FD + number)
        if handed.type != socket.SOCK_STREAM or not handed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ListenError(f"LISTEN_FDS: socket {number + 1} is no listening stream. Use ListenStream= with Accept=no.")
        handed.set_inheritable(False)
        name = names[number] if number < len(names) else ""
        if name not in (AUTH, POLICY, HTTP):
            where = _address(handed)
            name = next((kind for kind, address in addresses.items() if address == where), "")
        if not name:
            raise ListenError(f"LISTEN_FDNAMES: socket {number + 1} needs FileDescriptorName=auth, policy or http in its .socket file.")
        found.setdefault(name, []).append(handed)
    return found


def _address(handed: socket.socket) -> str:
    name = handed.getsockname()
    if handed.family == socket.AF_UNIX:
        return f"unix:{name}"
    host, port = name[:2]
    return f"tcp:[{host}]:{port}" if ":" in host else f"tcp:{host}:{port}"


def networks(cidrs: Iterable[str], variable: str) -> Networks:
    """Reads `192.0.2.0/24` and the like. Raises ListenError."""
    read = []
    for cidr in cidrs:
        try:
            read.append(ipaddress.ip_network(cidr))
        except ValueError:
            raise ListenError(f"{variable}: {cidr!r} is no network. It looks like 192.0.2.0/24, 192.0.2.7 or 2001:db8::/32") from None
    return tuple(read)


def host_and_port(text: str | None, variable: str) -> tuple[str, int] | None:
    """Reads `192.0.2.1:25`; None for nothing. Raises ListenError."""
    if not text:
        return None
    host, _, port = text.rpartition(":")
    address = address_of(host.strip("[]"))
    if address is None or not port.isdigit() or not 0 < int(port) <= 65535:
        raise ListenError(f"{variable}: {text!r} is no address and port. It looks like 192.0.2.1:25")
    return str(address), int(port)


def within(text: str | None, allowed: Networks) -> bool:
    """Whether an address is in one of the networks; what is no address is in none."""
    address = address_of(text)
    return address is not None and any(address in network for network in allowed)

"""Dovecot's authentication protocol, the server's side, without any input or output of its own.

Sources: Dovecot's Design/AuthProtocol (version 1.2), and what its three clients really do: Postfix's xsasl_dovecot_server.c sends
VERSION 1.1, Exim's auths/dovecot.c VERSION 1.0, Dovecot's own login processes 1.2 and later.

A `Conversation` is fed what one connection sent and hands out complete log-in requests; it collects what is to be sent back.
Whatever a client sends, it keeps no more than one chunk and `MAX_OPEN` requests, and no text of a client's reaches an exception.
"""

import binascii
import re
from base64 import b64encode
from dataclasses import dataclass, field

from storage.typed import login_name, our_username

MAX_LINE = 8192  # bytes, without the line feed; what the protocol "expects to fit"
MAX_SKIPPED = 65536  # bytes of an overlong line that are skipped before the connection is given up
MAX_OPEN = 64  # requests of one connection that are being answered; the next wait unread
MAX_ASIDE = 1000  # requests of one connection whose answer is held back
MAX_WAITING = 64  # requests of one connection that wait for the client's next response
WAIT = 300.0  # seconds that a client may take for it: as long as Postfix gives its own (smtpd_timeout)
MAX_FIELD = 255  # characters of a username or password
MAJOR, MINOR = 1, 2
FIRST_MINOR_WITH_CODES = 2

_ADDRESS = re.compile(rb"[0-9A-Fa-f:.]{2,45}(%[0-9A-Za-z._-]{1,16})?")
_SERVICE = re.compile(rb"[A-Za-z0-9_-]{1,32}")
_BEGINNING = re.compile(rb"(?:AUTH|CONT)\t([0-9]{1,10})\t")
_USERNAME_PROMPT, _PASSWORD_PROMPT = b64encode(b"Username:"), b64encode(b"Password:")


@dataclass(slots=True, eq=False)
class Login:
    """One log-in that wants an answer."""

    id: int
    username: str
    password: str = field(repr=False)
    service: str
    """The protocol that the person speaks to the mail server, such as `smtp`."""
    remote: str | None
    local: str | None
    secured: bool
    """The mail server says that the password came over TLS (or never left the machine)."""
    cancelled: bool = False
    """Nobody waits for the answer any more."""


@dataclass(frozen=True, slots=True)
class Unread:
    """A log-in that failed because what the client sent cannot be a username with a password."""

    username: str | None
    """One of ours, if it can be read: people type passwords into that field."""
    service: str
    remote: str | None


@dataclass(slots=True)
class _Begun:
    """A request that waits for the client's next response."""

    mechanism: bytes
    service: str
    remote: str | None
    local: str | None
    secured: bool
    since: float
    username: bytes | None = None


class Conversation:
    """One connection.

    Args:
        pid: the server's process id, for the greeting.
        connection_id: a number that no other connection of this process has.
        cookie: 32 hexadecimal digits.
    """

    def __init__(self, pid: int, connection_id: int, cookie: str) -> None:
        self.closed: str | None = None
        """Why the connection is to be closed, once `take` was sent; None while it goes on. Holds no text of the client's."""
        self.ready = False
        """The client finished its handshake."""
        self.minor = 0
        self._greeted = False
        self._buffer = bytearray()
        self._skipping: int | None = None
        self._skipped = 0
        self._begun: dict[int, _Begun] = {}
        self._open: dict[int, Login] = {}
        self._aside: dict[int, Login] = {}
        self._unread: list[Unread] = []
        self._out = bytearray(
            b"VERSION\t%d\t%d\nMECH\tPLAIN\tplaintext\nMECH\tLOGIN\tplaintext\nSPID\t%d\nCUID\t%d\nCOOKIE\t%b\nDONE\n"
            % (MAJOR, MINOR, pid, connection_id, cookie.encode("ascii"))
        )

    @property
    def full(self) -> bool:
        """No more requests are read until some are answered."""
        return len(self._open) >= MAX_OPEN

    @property
    def between(self) -> bool:
        """The client waits for nothing but answers: it did its handshake and began no request that it has yet to complete."""
        return self.ready and not self._begun

    @property
    def answering(self) -> int:
        return len(self._open) + len(self._aside)

    def take(self) -> bytes:
        """What is to be sent to the client now."""
        out = bytes(self._out)
        self._out.clear()
        return out

    def unread(self) -> list[Unread]:
        """What failed unread since the last time, to be reported."""
        unread, self._unread = self._unread, []
        return unread

    def receive(self, data: bytes | memoryview, now: float) -> list[Login]:
        """Reads what the client sent; call it with nothing once a `full` conversation was answered.

        Args:
            now: seconds of a monotonic clock.
        """
        logins: list[Login] = []
        buffer = self._buffer
        buffer += data
        start = 0
        while self.closed is None and not self.full:
            end = buffer.find(b"\n", start)
            if end < 0:
                break
            line = bytes(memoryview(buffer)[start:end])
            start = end + 1
            login = self._line(line.removesuffix(b"\r"), now)
            if login is not None:
                logins.append(login)
        del buffer[:start]
        if self.closed is not None:
            buffer.clear()
        elif len(buffer) > MAX_LINE and buffer.find(b"\n", 0, MAX_LINE + 2) < 0:
            self._skip()
        return logins

    def hang_up(self) -> None:
        """The client is gone: nobody waits for what is still being answered."""
        self.closed = self.closed or "the client hung up"
        for login in (*self._open.values(), *self._aside.values()):
            login.cancelled = True
        self._open.clear()
        self._aside.clear()
        self._begun.clear()
        self._buffer.clear()

    def set_aside(self, login: Login) -> bool:
        """Its answer comes late: it no longer counts for `full`. False when it is cancelled, or too many are aside."""
        if login.cancelled or self._open.get(login.id) is not login or len(self._aside) >= MAX_ASIDE:
            return False
        self._aside[login.id] = self._open.pop(login.id)
        return True

    def grant(self, login: Login, username: str) -> None:
        if self._answered(login):
            self._out += b"OK\t%d\tuser=%b\n" % (login.id, username.encode("ascii"))

    def refuse(self, login: Login, username: str | None = None) -> None:
        """No. `username` is repeated for the mail server's log, and must be one of ours: people type passwords into that field."""
        if self._answered(login):
            user = b"\tuser=" + username.encode("ascii") if username else b""
            self._out += b"FAIL\t%d%b\n" % (login.id, user)

    def refuse_plaintext(self, login: Login, username: str | None) -> None:
        """`username`: as in `refuse`."""
        if self._answered(login):
            self._fail(login.id, b"TLS is required", username)

    def fail_temporarily(self, login: Login) -> None:
        """Neither yes nor no can be said now.

        Postfix (to 3.7 at least) and Exim take every FAIL for a wrong password, whatever its code, and only a lost connection for a
        temporary failure; so that is what they get. Who speaks 1.2 knows the code.
        """
        if not self._answered(login):
            return
        if self.minor >= FIRST_MINOR_WITH_CODES:
            self._out += b"FAIL\t%d\ttemp\tcode=temp_fail\n" % login.id
        else:
            self.closed = self.closed or "temporary failure"

    def _answered(self, login: Login) -> bool:
        for requests in (self._open, self._aside):
            if not login.cancelled and requests.get(login.id) is login:
                del requests[login.id]
                return True
        return False

    def _line(self, line: bytes, now: float) -> Login | None:
        if self._skipping is not None:
            request, self._skipping, self._skipped = self._skipping, None, 0
            self._fail(request, b"Line too long")
            return None
        if len(line) > MAX_LINE:
            request_id = self._overlong(line)
            if request_id is not None:
                self._fail(request_id, b"Line too long")
            return None
        command, _, rest = line.partition(b"\t")
        if not self.ready:
            self._handshake(command, rest)
            return None
        match command:
            case b"AUTH":
                return self._auth(rest, now)
            case b"CONT":
                return self._cont(rest, now)
            case b"CANCEL":
                self._cancel(rest)
            case _:
                self.closed = "unknown command"
        return None

    def _handshake(self, command: bytes, rest: bytes) -> None:
        """VERSION comes first, CPID ends it; Dovecot closes on anything else."""
        if command == b"VERSION" and not self._greeted:
            major, _, minor = rest.partition(b"\t")
            if major != b"%d" % MAJOR or _number(minor) is None:
                self.closed = "another protocol version"
                return
            self.minor = _number(minor) or 0
            self._greeted = True
        elif command == b"CPID" and self._greeted and _number(rest):
            self.ready = True
        else:
            self.closed = "unknown handshake"

    def _auth(self, rest: bytes, now: float) -> Login | None:
        number, _, rest = rest.partition(b"\t")
        request_id = _number(number)
        if request_id is None:
            self.closed = "broken request id"
            return None
        if self._answers(request_id) or request_id in self._begun:
            self.closed = "request id in use"
            return None
        mechanism, _, rest = rest.partition(b"\t")
        service: bytes | None = None
        remote = local = response = None
        secured = False
        # resp= is the last: what follows it is ignored, so that a client's base64 can smuggle nothing in.
        for parameter in rest.split(b"\t"):
            name, _, value = parameter.partition(b"=")
            match name:
                case b"service":
                    service = value
                case b"rip":
                    remote = _address(value)
                case b"lip":
                    local = _address(value)
                case b"secured":
                    secured = True
                case b"resp":
                    response = value
                    break
        if not service:
            self.closed = "request without a service"
            return None
        mechanism = mechanism.upper()
        if mechanism not in (b"PLAIN", b"LOGIN"):
            self._fail(request_id, b"Unsupported authentication mechanism")
            return None
        word = service.decode("ascii").lower() if _SERVICE.fullmatch(service) else "unknown"
        begun = _Begun(mechanism, word, remote, local, secured, now)
        if response:
            return self._respond(request_id, begun, response, now)
        self._ask(request_id, begun, b"" if mechanism == b"PLAIN" else _USERNAME_PROMPT, now)
        return None

    def _cont(self, rest: bytes, now: float) -> Login | None:
        number, _, response = rest.partition(b"\t")
        request_id = _number(number)
        if request_id is None or self._answers(request_id):
            self.closed = "unexpected continuation"
            return None
        begun = self._begun.pop(request_id, None)
        if begun is None or now - begun.since > WAIT:
            self._fail(request_id, b"Authentication request timed out")
            return None
        return self._respond(request_id, begun, response, now)

    def _cancel(self, rest: bytes) -> None:
        request_id = _number(rest)
        if request_id is None:
            self.closed = "broken request id"
            return
        self._begun.pop(request_id, None)
        login = self._open.pop(request_id, None) or self._aside.pop(request_id, None)
        if login is not None:
            login.cancelled = True

    def _respond(self, request_id: int, begun: _Begun, response: bytes, now: float) -> Login | None:
        """The client's next response: asks on, fails, or makes the request complete."""
        try:
            data = binascii.a2b_base64(response, strict_mode=True)
        except binascii.Error:
            self._fail_unread(request_id, begun, begun.username, b"Invalid base64 data")
            return None
        if begun.mechanism == b"LOGIN" and begun.username is None:
            begun.username = data
            self._ask(request_id, begun, _PASSWORD_PROMPT, now)
            return None
        pair = _plain(data) if begun.mechanism == b"PLAIN" else _pair(begun.username or b"", data)
        if pair is None:
            named = begun.username if begun.mechanism == b"LOGIN" else b"".join(data.split(b"\0")[1:2])
            self._fail_unread(request_id, begun, named, b"Invalid response")
            return None
        login = Login(request_id, *pair, begun.service, begun.remote, begun.local, begun.secured)
        self._open[request_id] = login
        return login

    def _answers(self, request_id: int) -> bool:
        return request_id in self._open or request_id in self._aside

    def _ask(self, request_id: int, begun: _Begun, challenge: bytes, now: float) -> None:
        if len(self._begun) >= MAX_WAITING:
            for old in [key for key, other in self._begun.items() if now - other.since > WAIT]:
                del self._begun[old]
        if len(self._begun) >= MAX_WAITING:
            self._fail(request_id, b"Too many requests at once")
            return
        begun.since = now
        self._begun[request_id] = begun
        self._out += b"CONT\t%d\t%b\n" % (request_id, challenge)

    def _fail(self, request_id: int, reason: bytes, username: str | None = None) -> None:
        user = b"\tuser=" + username.encode("ascii") if username else b""
        self._out += b"FAIL\t%d%b\treason=%b\n" % (request_id, user, reason)

    def _fail_unread(self, request_id: int, begun: _Begun, named: bytes | None, reason: bytes) -> None:
        username = our_username((named or b"")[:MAX_FIELD].decode(errors="replace"))
        self._unread.append(Unread(username, begun.service, begun.remote))
        self._fail(request_id, reason, username)

    def _skip(self) -> None:
        """The line in the buffer is overlong already: its request fails when the line ends."""
        if self._skipping is None:
            request_id = self._overlong(bytes(self._buffer[:MAX_LINE]))
            if request_id is None:
                self._buffer.clear()
                return
            self._skipping = request_id
        self._skipped += len(self._buffer)
        self._buffer.clear()
        if self._skipped > MAX_SKIPPED:
            self.closed = "line too long"

    def _overlong(self, line: bytes) -> int | None:
        """The id of the request that an overlong line belongs to.

        Postfix passes on responses up to 12 KiB. Hanging up on them would cost its next, innocent client a 454, so they fail alone.
        """
        match = _BEGINNING.match(line)
        request_id = _number(match[1]) if match else None
        if not self.ready or request_id is None or self._answers(request_id):
            self.closed = "line too long"
            return None
        self._begun.pop(request_id, None)
        return request_id


def _number(text: bytes) -> int | None:
    """An unsigned number of 32 bits."""
    if not text.isdigit() or len(text) > 10:
        return None
    value = int(text)
    return value if value < 2**32 else None


def _address(text: bytes) -> str | None:
    return text.decode("ascii") if _ADDRESS.fullmatch(text) else None


def _plain(data: bytes) -> tuple[str, str] | None:
    """RFC 4616: authorization identity, NUL, username, NUL, password. Nobody may act for somebody else."""
    parts = data.split(b"\0")
    if len(parts) != 3:
        return None
    pair = _pair(parts[1], parts[2])
    acts_for = parts[0].decode(errors="replace")
    return pair if pair and (not acts_for or login_name(acts_for) == login_name(pair[0])) else None


def _pair(username: bytes, password: bytes) -> tuple[str, str] | None:
    if not 0 < len(username) <= MAX_FIELD or not 0 < len(password) <= MAX_FIELD:
        return None
    if b"\0" in username or b"\0" in password:
        return None
    try:
        return username.decode(), password.decode()
    except UnicodeDecodeError:
        return None

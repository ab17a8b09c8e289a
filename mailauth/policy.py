"""Postfix's policy delegation protocol (SMTPD_POLICY_README): ends the open sessions of credentials that no longer work.

A request is `name=value` lines and an empty line; the answer is `action=...` and an empty line. A `PolicyReader` is fed what one
connection sent and hands out the requests; it keeps no more than `MAX_REQUEST` bytes of one.
"""

from dataclasses import dataclass
from enum import StrEnum

MAX_LINE = 8192  # bytes
MAX_REQUEST = 65536  # bytes
MAX_QUEUED = 64  # requests of one connection that wait for an answer; the next wait unread


class WhenAway(StrEnum):
    """What the policy service answers while the database cannot be asked."""

    DEFER = "defer"
    DUNNO = "dunno"


@dataclass(frozen=True, slots=True)
class PolicyRequest:
    username: str
    """Who logged in; empty when nobody did."""
    state: str
    """The SMTP command that is being decided, such as `MAIL`."""


DUNNO = b"action=DUNNO\n\n"
STOP = b"action=421 4.7.0 This SMTP credential no longer works\n\n"
LATER = b"action=451 4.3.0 Cannot check the SMTP credential right now\n\n"


class PolicyReader:
    """The requests of one connection."""

    def __init__(self) -> None:
        self.closed: str | None = None
        """Why the connection is to be closed; None while it goes on. Holds no text of the client's."""
        self._buffer = bytearray()
        self._size = 0
        self._request: dict[bytes, bytes] = {}

    @property
    def between(self) -> bool:
        """No request is half received."""
        return not self._buffer and not self._size

    def receive(self, data: bytes | memoryview, room: int = MAX_QUEUED) -> list[PolicyRequest]:
        """Reads at most `room` requests; call it with nothing when there is room again."""
        requests: list[PolicyRequest] = []
        buffer = self._buffer
        buffer += data
        start = 0
        while self.closed is None and len(requests) < room:
            end = buffer.find(b"\n", start)
            if end < 0:
                break
            request = self._line(bytes(memoryview(buffer)[start:end]))
            start = end + 1
            if request is not None:
                requests.append(request)
        del buffer[:start]
        if len(buffer) > MAX_LINE and buffer.find(b"\n", 0, MAX_LINE + 1) < 0:
            self.closed = self.closed or "line too long"
        if self.closed:
            buffer.clear()
        return requests

    def _line(self, line: bytes) -> PolicyRequest | None:
        self._size += len(line) + 1
        if len(line) > MAX_LINE or self._size > MAX_REQUEST:
            self.closed = "request too long"
            return None
        line = line.removesuffix(b"\r")
        if line:
            name, equals, value = line.partition(b"=")
            if not equals:
                self.closed = "a line that is no attribute"
            elif name in (b"request", b"protocol_state", b"sasl_username"):
                self._request[name] = value
            return None
        request, self._request, self._size = self._request, {}, 0
        if request.get(b"request") != b"smtpd_access_policy":
            self.closed = "not a policy request"
            return None
        return PolicyRequest(_text(request.get(b"sasl_username", b"")), _text(request.get(b"protocol_state", b"")))


def _text(value: bytes) -> str:
    """What is not UTF-8 becomes a text that no username equals."""
    return value.decode("utf-8", "replace")

"""A mail server on your own machine: it asks for a log-in, writes down how that went, and sends what it takes nowhere."""

import asyncio
import base64
import binascii
import smtplib
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email import message_from_bytes
from email.policy import default
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

LOGINS_KEPT = 200
MESSAGES_KEPT = 50
HEADER_KEPT = 200  # characters of a sender, recipient or subject
SEND_TIMEOUT = 20.0  # seconds

Verify = Callable[[str, str, str], Awaitable[tuple[bool, str]]]
"""Username, password and address -> whether they may log in, and why (not)."""


@dataclass(frozen=True)
class LogIn:
    at: float
    username: str
    address: str
    accepted: bool
    why: str


@dataclass(frozen=True)
class Queued:
    """A message that the server took."""

    at: float
    username: str
    sender: str
    recipients: str
    subject: str


class MailServer:
    """Listens on loopback. `changed` is called after each log-in and each message."""

    def __init__(self, verify: Verify, clock: Callable[[], float], changed: Callable[[], None]) -> None:
        self._verify = verify
        self._clock = clock
        self._changed = changed
        self._server: asyncio.Server | None = None
        self.logins: deque[LogIn] = deque(maxlen=LOGINS_KEPT)
        self.queue: deque[Queued] = deque(maxlen=MESSAGES_KEPT)
        self.taken = 0
        self.port = 0

    async def start(self, port: int) -> None:
        """Raises OSError when the port is taken."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connection, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]

    def _connection(self) -> SMTP:
        return _Smtp(self, hostname="sandbox", auth_required=True, auth_require_tls=False, timeout=60)

    async def handle_DATA(self, _server: SMTP, session: Session, envelope: Envelope) -> str:  # aiosmtpd's name
        self.taken += 1
        content = envelope.content if isinstance(envelope.content, bytes) else str(envelope.content or "").encode()
        subject = str(message_from_bytes(content, policy=default).get("subject", ""))
        who = session.auth_data.login.decode("utf-8", "replace") if isinstance(session.auth_data, LoginPassword) else ""
        kept = (who, envelope.mail_from or "", ", ".join(envelope.rcpt_tos), subject)
        self.queue.append(Queued(self._clock(), *(one[:HEADER_KEPT] for one in kept)))
        self._changed()
        return "250 2.0.0 Accepted. This is a sandbox: the message goes nowhere"

    async def log_in(self, username: str, password: str, address: str, again: bool) -> bool:
        """`again`: the same client tries what was just refused, by its next mechanism; it is asked for, and not written down twice."""
        accepted, why = await self._verify(username, password, address)
        if accepted or not again:
            self.logins.append(LogIn(self._clock(), username[:64], address, accepted, why))
        self._changed()
        return accepted

    async def stop(self) -> None:
        if self._server:
            self._server.close()


class _Smtp(SMTP):
    """aiosmtpd asks its authenticator without waiting; ours waits for the store."""

    def __init__(self, mail: MailServer, **options: Any) -> None:
        super().__init__(mail, **options)
        self._mail = mail
        self._refused: tuple[bytes, bytes] | None = None

    async def _answer(self, login: bytes, password: bytes) -> AuthResult:
        peer = self.session.peer if self.session else None
        address = peer[0] if isinstance(peer, tuple) else "127.0.0.1"
        username = login.decode("utf-8", "replace")
        again = self._refused == (login, password)
        accepted = await self._mail.log_in(username, password.decode("utf-8", "replace"), address, again)
        self._refused = None if accepted else (login, password)
        return AuthResult(success=accepted, handled=False, auth_data=LoginPassword(login, b""))

    async def auth_PLAIN(self, _server: SMTP, args: list[str]) -> AuthResult:  # aiosmtpd's name
        response = await self.challenge_auth("") if len(args) == 1 else self._decoded(args[1])
        parts = response.split(b"\0") if isinstance(response, bytes) else []
        if len(parts) != 3:
            await self.push("501 5.5.2 Can't decode base64")
            return AuthResult(success=False, handled=True)
        return await self._answer(parts[1], parts[2])

    async def auth_LOGIN(self, _server: SMTP, args: list[str]) -> AuthResult:  # aiosmtpd's name
        login = await self.challenge_auth("Username:") if len(args) == 1 else self._decoded(args[1])
        password = await self.challenge_auth("Password:") if isinstance(login, bytes) else None
        if not isinstance(login, bytes) or not isinstance(password, bytes):
            return AuthResult(success=False, handled=True)
        return await self._answer(login, password)

    def _decoded(self, text: str) -> bytes:
        try:
            return base64.b64decode(text, validate=True)
        except binascii.Error:
            return b""


def send_test_mail(port: int, username: str, password: str) -> str:
    """Logs in and sends a message, as an app would; what the server said. Blocks: call it in a thread."""
    try:
        with smtplib.SMTP("127.0.0.1", port, timeout=SEND_TIMEOUT) as smtp:
            smtp.login(username, password)
            smtp.sendmail("app@example.com", ["you@example.com"], "Subject: test\r\n\r\nHello from the sandbox.\r\n")
    except smtplib.SMTPResponseException as error:
        said = error.smtp_error.decode(errors="replace") if isinstance(error.smtp_error, bytes) else error.smtp_error
        return f"{error.smtp_code} {said}"
    except (OSError, smtplib.SMTPException, ValueError) as error:
        return f"Not sent: {type(error).__name__}"
    return "250 Sent"

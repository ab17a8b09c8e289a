"""A workspace's webhook, received by a real server with TLS; and reports of leaked passwords from outside."""

import asyncio
import contextlib
import hashlib
import hmac
import json
import os
import shutil
import sqlite3
import ssl
import subprocess
from base64 import b64encode
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bot import sweep, webhook
from bot.webhook import check_literal, is_public
from sandbox.world import Message
from storage import credentials, passwords, policy, workspaces
from storage.audit import What
from storage.policy import Policy
from storage.refusals import WebhookInvalid
from tests import raw
from tests.answers import Wire, says, wire
from tests.answers import raw as raw_answer
from tests.conftest import need
from tests.stage import BY_TEST, PATIENT, Stage, stage
from tests.stores import sqlite_store

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@dataclass
class Receiver:
    """An HTTPS server on loopback that answers what it is told to."""

    port: int = 0
    trust: ssl.SSLContext = field(default_factory=lambda: ssl.create_default_context())
    answers: list[bytes] = field(default_factory=list)
    """In order; the last one stays. Empty bytes: none at all."""
    heads: list[dict[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}/hook"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append({name.lower(): value for name, _, value in (line.partition(": ") for line in head.split("\r\n")[1:])})
            self.bodies.append(await reader.readexactly(int(self.heads[-1]["content-length"])))
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            if answer:
                writer.write(answer)
                await writer.drain()
            await reader.read()
        writer.close()


def status(code: int, *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {code} X", "Content-Length: 0", *headers, "", ""]).encode()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, made = folder / "key.pem", folder / "cert.pem"
    asked = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=hook -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(["openssl", *asked.split(), "-keyout", str(key), "-out", str(made)], check=True, capture_output=True)
    return key, made


@pytest.fixture
async def receiver(certificate: tuple[Path, Path]) -> AsyncIterator[Receiver]:
    key, made = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made, key)
    receiving = Receiver(answers=[status(204)])
    receiving.trust.load_verify_locations(made)
    server = await asyncio.start_server(receiving.serve, "127.0.0.1", 0, ssl=context)
    receiving.port = server.sockets[0].getsockname()[1]
    yield receiving
    server.close()


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "255.255.255.255", "224.0.0.1",
     "198.18.0.1", "192.0.2.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fd00::1", "ff02::1", "2001:db8::1", "::ffff:127.0.0.1",
     "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe"],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)
    literal = f"[{address}]" if ":" in address else address
    if "%" not in address:
        with pytest.raises(WebhookInvalid):
            check_literal(f"https://{literal}/hook", private=False)
        check_literal(f"https://{literal}/hook", private=True)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_addresses_that_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "localhost.", "a.localhost", "2130706433", "0x7f.1", "127.1", "0x7f000001"])
def test_names_of_this_machine_and_other_forms_of_addresses(host: str) -> None:
    with pytest.raises(WebhookInvalid):
        check_literal(f"https://{host}/hook", private=False)


async def test_a_delivery_is_signed(receiver: Receiver) -> None:
    sent = await webhook.send(receiver.url, "whsec_x", b'{"a":1}', "7", NOON, private=True, trust=receiver.trust)
    assert (sent.taken, sent.word) == (True, "told")
    [head], [body] = receiver.heads, receiver.bodies
    expected = hmac.new(b"whsec_x", b"1772366400." + b'{"a":1}', hashlib.sha256).hexdigest()
    assert (body, head["x-smtp-bot-timestamp"], head["x-smtp-bot-delivery"]) == (b'{"a":1}', "1772366400", "7")
    assert head["x-smtp-bot-signature"] == f"v1={expected}"


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (status(500), "status_500"),
        (status(302, "Location: https://127.0.0.1/elsewhere"), "status_302"),
        (status(410), "status_410"),
        (b"HTTP/1.1 204 X\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", "ClientResponseError"),
        (b"no http\r\n\r\n", "ClientResponseError"),
    ],
)
async def test_whatever_else_is_answered_is_no_yes(receiver: Receiver, answer: bytes, word: str) -> None:
    receiver.answers = [answer]
    sent = await webhook.send(receiver.url, "s", b"{}", "7", NOON, private=True, trust=receiver.trust)
    assert (sent.taken, sent.word, sent.hopeless) == (False, word, word == "status_410")
    assert len(receiver.bodies) == 1


async def test_an_answer_that_never_ends_is_not_read_and_one_that_never_comes_is_not_waited_for(receiver: Receiver) -> None:
    receiver.answers = [b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n" + b"x" * 1000]
    assert (await webhook.send(receiver.url, "s", b"{}", "7", NOON, private=True, trust=receiver.trust)).taken
    receiver.answers = [b""]
    short = aiohttp.ClientTimeout(total=0.2)
    sent = await webhook.send(receiver.url, "s", b"{}", "7", NOON, private=True, trust=receiver.trust, limit=short)
    assert (sent.taken, sent.word) == (False, "timeout")


async def test_a_certificate_that_nobody_vouches_for_is_not_spoken_to(receiver: Receiver) -> None:
    sent = await webhook.send(receiver.url, "s", b"{}", "7", NOON, private=True)
    assert (sent.taken, sent.word, receiver.bodies) == (False, "ClientConnectorCertificateError", [])


async def test_a_name_that_leads_inside_is_refused_whatever_it_is_called(receiver: Receiver) -> None:
    resolver = webhook.PublicOnly()
    with pytest.raises(webhook.NotPublic):
        await resolver.resolve("127.1", receiver.port)
    await resolver.close()
    assert (await webhook.send(receiver.url, "s", b"{}", "7", NOON, trust=receiver.trust)).word == "private_address"
    assert receiver.bodies == []


@contextlib.asynccontextmanager
async def hooked(tmp_path: Path, receiver: Receiver) -> AsyncIterator[tuple[Stage, str]]:
    """A stage whose workspace acme has a webhook; and the webhook's secret."""
    async with stage(sqlite_store(tmp_path / "bot.db"), "socket", bot_webhook_private=True) as play:
        play.bot.services.trust = receiver.trust
        _, secret = await play.db.change(policy.set_webhook, BY_TEST, play.acme.id, receiver.url)
        yield play, str(secret)


async def test_what_happens_is_told_without_secrets(tmp_path: Path, receiver: Receiver) -> None:
    async with hooked(tmp_path, receiver) as (play, secret):
        password = await play.create(play.wanda, "Relay <!channel>")
        [credential] = await play.credentials()
        now = play.clock()
        await raw.change_credentials(play.db, expires_at=now + timedelta(days=6), remind_at=now)
        await sweep.once(play.bot.services)
        for word, title in (("suspend", "Suspend credential?"), ("resume", "Resume credential?"), ("delete", "Delete credential?")):
            await play.wanda.types(play.mail, f"/smtp {word} {credential.username}")
            await play.wanda.sees_modal(title)
            await play.wanda.submits()
            await play.wanda.closes()
            await play.settled()
        told = [json.loads(body) for body in receiver.bodies]
        types = ["credential.created", "credential.expiring", "credential.suspended", "credential.resumed", "credential.deleted"]
        assert [one["type"] for one in told] == types
        await raw.sql(play.db, "DELETE FROM errands")
        for number in range(10):
            await play.create(play.wanda, f"Printer {number}")
        assert len({head["x-smtp-bot-delivery"] for head in receiver.heads}) == len(types) + 10, "also once errands are forgotten"
        assert told[0] == {
            "id": told[0]["id"],
            "type": "credential.created",
            "at": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "by": play.wanda.id,
            "workspace": "acme",
            "credentials": [{"id": credential.id, "username": credential.username}],
            "more": 0,
        }
        sent = b"".join(receiver.bodies).decode()
        assert not any(text in sent for text in (password, secret, "Relay", "argon2"))
        for head, body in zip(receiver.heads, receiver.bodies, strict=True):
            assert head["x-smtp-bot-signature"] == webhook.sign(secret, head["x-smtp-bot-timestamp"], body)


async def test_what_was_not_taken_is_tried_again_for_a_day_and_then_given_up(tmp_path: Path, receiver: Receiver) -> None:
    async with hooked(tmp_path, receiver) as (play, _):
        receiver.answers = [status(500), status(503), status(204)]
        await play.create(play.wanda, "Relay")
        for tries, seconds in ((1, 11), (2, 21), (3, 41)):
            await play.settled()
            assert len(receiver.bodies) == tries
            play.clock.passes(seconds=seconds)
            play.bot.errands.wake()
        await play.settled()
        assert len(set(receiver.bodies)) == 1
        assert len({one["x-smtp-bot-delivery"] for one in receiver.heads}) == 1
        receiver.answers = [status(500)]
        await play.create(play.wanda, "Printer")
        await play.settled()
        play.clock.passes(days=1, seconds=1)
        play.bot.errands.wake()
        await play.settled()
        [untold] = await play.events(action=What.UNTOLD)
        assert untold.subject == "webhook status_500"


async def test_receivers_that_hang_keep_no_notice_waiting(tmp_path: Path, receiver: Receiver) -> None:
    async with hooked(tmp_path, receiver) as (play, _):
        receiver.answers = [b""]
        await play.create(play.wanda, "Relay")
        for number in range(60):
            workspace = await play.db.change(workspaces.add, BY_TEST, f"w{number}", f"W{number}")
            await play.db.change(policy.set_webhook, BY_TEST, workspace.id, receiver.url)
            await play.db.change(workspaces.suspend_all, BY_TEST, workspace.id)
        [relay] = await play.credentials()
        await play.db.change(credentials.delete, BY_TEST, relay.id)
        await play.mia.sees("deleted the SMTP credential Relay", play.mail)
        tried = await raw.sql(play.db, "SELECT count(*) FROM errands WHERE kind = 'webhook' AND tries = 0 AND done_at IS NULL")
        assert tried[0][0] > 0, "all receivers had been waited for"
        await raw.sql(play.db, "UPDATE errands SET done_at = 1 WHERE kind = 'webhook'")


# --- reports of leaked passwords ---
SECRET = "reported-by-the-scanner"  # of these tests


async def report(play: Stage, given: Any, **headers: str) -> tuple[int, str]:
    """Posts it, signed; `headers` replace ours, `_` standing for `-`."""
    body = given if isinstance(given, bytes) else json.dumps(given).encode()
    timestamp = str(int(play.clock.seconds()))
    signature = "v1=" + hmac.new(SECRET.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    sent = {"x-leaks-timestamp": timestamp, "x-leaks-signature": signature} | {name.replace("_", "-"): one for name, one in headers.items()}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://127.0.0.1:{play.bot.port}/leaks", data=body, headers=sent) as answer,
    ):
        return answer.status, await answer.text()


def alarms(play: Stage) -> list[Message]:
    return [one for one in play.rex.messages(play.mail) if "A scanner found the password of Relay" in play.rex.read(one)]


async def test_a_report_that_would_wait_for_others_is_asked_to_come_again(tmp_path: Path) -> None:
    url = sqlite_store(tmp_path / "bot.db")
    async with stage(url, "http", replace(PATIENT, report_turn=0.0), leaks_secret=SECRET) as play:
        found = [{"token": await play.create(play.wanda, "Relay"), "url": "https://pastebin.example/1"}]
        with contextlib.closing(sqlite3.connect(tmp_path / "bot.db")) as other:
            other.execute("BEGIN IMMEDIATE")
            both = [asyncio.create_task(report(play, found)) for _ in range(2)]
            [turned_away], [held] = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            other.rollback()
        assert turned_away.result() == (503, "other reports are looked up; report it again")
        assert (await held)[0] == 200
        assert (await report(play, found))[0] == 200


@pytest.mark.parametrize("mode", ["socket", "http"])
async def test_a_password_that_a_scanner_found_raises_the_alarm_once_for_each_place(database_url: str, mode: str) -> None:
    async with stage(database_url, mode, leaks_secret=SECRET) as play:
        password = await play.create(play.wanda, "Relay")
        url = f"https://github.com/acme/app/blob/1/{password}/.env"
        other = passwords.generate("00000000", passwords.Style.STANDARD)
        given: list[dict[str, Any]] = [
            {"token": password, "type": "smtp_bot", "url": url, "source": "content"},
            {"token": other, "type": "smtp_bot", "url": url, "source": "content"},
            {"token": "nothing of ours", "type": 7},
            {"token": "x" * 10_000, "type": "smtp_bot"},
            {"token": f" SMTP_PASSWORD={password}\n", "type": "half a pair \ud800", "url": url},
        ]
        code, answer = await report(play, given)
        assert code == 200
        assert json.loads(answer) == [
            {
                "token_hash": b64encode(hashlib.sha256(one["token"].encode()).digest()).decode(),
                "token_type": one["type"].replace("\ud800", "?") if isinstance(one["type"], str) else "",
                "label": "true_positive" if password in one["token"] else "false_positive",
            }
            for one in given
        ]
        await play.settled()
        [alarm] = alarms(play)
        assert password not in play.rex.read(alarm)
        assert "https://github.com/acme/app/blob/1/[password]/.env" in play.rex.read(alarm)
        assert "Revoke…" in play.rex.read(alarm)
        await report(play, given)
        await play.settled()
        assert len(alarms(play)) == 1
        await report(play, [{"token": password, "url": "https://pastebin.example/1"}])
        await play.settled()
        assert len(alarms(play)) == 2
        assert len(await play.events(action=What.LEAK)) == 2
        assert password not in play.logs.getvalue() + repr(await play.events())
        await play.db.change(policy.change, BY_TEST, play.acme.id, Policy(reason_required=True))
        assert "It works now" in play.rex.read(alarm)
        await play.rex.presses("Suspend now", alarm)
        await play.settled()
        assert [one.state for one in await play.credentials()] == ["suspended"], "stopping comes before saying why"
        for one in alarms(play):
            assert "Suspended by @rex" in play.rex.read(one)
            assert "It works now" not in play.rex.read(one)
        await play.wanda.types(play.mail, "/smtp delete Relay")
        await play.wanda.sees_modal("Delete credential?")
        play.wanda.fills("Reason", "leaked")
        await play.wanda.submits()
        await play.settled()
        code, answer = await report(play, [{"token": password, "url": "https://pastebin.example/2"}])
        assert json.loads(answer)[0]["label"] == "true_positive"
        assert len(alarms(play)) == 2


async def test_the_command_of_the_documentation_reports(tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        need("curl")
    written = (Path(__file__).parent.parent / "docs" / "webhook.md").read_text()
    command = written.partition("```sh\n")[2].partition("```")[0].replace("https://bot.example.com", "$BOT").replace("NOW=$(date +%s)", "")
    async with stage(sqlite_store(tmp_path / "bot.db"), "http", leaks_secret=SECRET) as play:
        given = {"BOT": f"http://127.0.0.1:{play.bot.port}", "LEAKS_SECRET": SECRET, "NOW": str(int(play.clock.seconds()))}
        process = await asyncio.create_subprocess_exec("sh", "-c", command, env=os.environ | given, stdout=asyncio.subprocess.PIPE)
        answer, _ = await process.communicate()
    assert json.loads(answer)[0]["label"] == "false_positive"


async def test_reports_that_are_wrong_are_refused(tmp_path: Path) -> None:
    async with stage(sqlite_store(tmp_path / "bot.db"), "http", leaks_secret=SECRET) as play:
        now = int(play.clock.seconds())
        for headers in (
            {"x_leaks_signature": ""},
            {"x_leaks_signature": "v1=" + "0" * 64},
            {"x_leaks_signature": "v0=" + "0" * 64},
            {"x_leaks_timestamp": ""},
            {"x_leaks_timestamp": str(now - 301)},
            {"x_leaks_timestamp": str(now + 301)},
            {"x_leaks_timestamp": str(now + 1)},
            {"x_leaks_timestamp": "9" * 400},
        ):
            assert (await report(play, [], **headers))[0] == 401, headers
        code, said = await report(play, [], x_leaks_signature="", github_public_key_signature="MEUC")
        assert (code, said) == (401, "GitHub's own signature is not taken here: set LEAKS_GITHUB_KEYS")
        deep = b"[" * 30_000 + b"]" * 30_000
        wrong: Any
        for wrong in (b"", b"{", b"\xff", {}, "text", None, [1], [{"type": "x"}], [{"token": 7}], deep):
            assert (await report(play, wrong))[0] == 400, wrong
        assert (await report(play, [{"token": "x"}] * 101))[0] == 413
        assert (await report(play, b"x" * 70_000))[0] == 413
        assert await report(play, []) == (200, "[]")


class Partner:
    """GitHub's secret scanning, with keys that it lists."""

    def __init__(self, play: Stage, listing: Wire) -> None:
        self.play, self.listing = play, listing
        self.listed: dict[str, ec.EllipticCurvePrivateKey] = {}

    def lists(self, key: ec.EllipticCurvePrivateKey) -> str:
        """Its identifier."""
        pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        identifier = hashlib.sha256(pem).hexdigest()
        self.listed[identifier] = key
        keys = [
            {"key_identifier": name, "key": one.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()}
            for name, one in self.listed.items()
        ]
        self.listing.script = [says(public_keys=keys)]
        return identifier

    async def reports(
        self, given: Any, identifier: str, key: ec.EllipticCurvePrivateKey | None = None, sent: bytes | None = None
    ) -> tuple[int, str]:
        """Signs it with the key of this identifier or another one, and sends it, or something else in its place."""
        body = json.dumps(given).encode()
        signature = b64encode((key or self.listed[identifier]).sign(body, ec.ECDSA(SHA256()))).decode()
        return await self.posts(sent or body, identifier, signature)

    async def posts(self, body: bytes, identifier: str, signature: str) -> tuple[int, str]:
        headers = {"Github-Public-Key-Identifier": identifier, "Github-Public-Key-Signature": signature}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"http://127.0.0.1:{self.play.bot.port}/leaks", data=body, headers=headers) as answer,
        ):
            return answer.status, await answer.text()


async def test_github_reports_with_its_own_signature(tmp_path: Path) -> None:
    async with wire() as listing, stage(sqlite_store(tmp_path / "bot.db"), "http", leaks_github_keys=f"{listing.url}/keys") as play:
        github = Partner(play, listing)
        password = await play.create(play.wanda, "Relay")
        key = github.lists(ec.generate_private_key(ec.SECP256R1()))
        other_curve = github.lists(ec.generate_private_key(ec.SECP384R1()))
        found = [{"token": password, "type": "smtp_bot", "url": "https://github.com/acme/app/blob/1/.env", "source": "content"}]
        for _ in range(2):  # nothing in the signature says when it was made
            code, answer = await github.reports(found, key)
            assert (code, json.loads(answer)[0]["label"]) == (200, "true_positive")
            await play.settled()
            assert len(alarms(play)) == 1
        refused = (401, "signature does not fit")
        assert await github.reports(found, key, sent=b"[]") == refused
        assert await github.reports(found, key, ec.generate_private_key(ec.SECP256R1())) == refused
        assert await github.reports(found, other_curve) == refused
        assert await github.reports(found, "0" * 64, ec.generate_private_key(ec.SECP256R1())) == refused
        for identifier, signature in ((key, "?" * 96), (key, ""), ("../x", "A" * 96), (key, "A" * 96), (key, "A" * 4000)):
            code, _ = await github.posts(b"[]", identifier, signature)
            assert code == 401, (identifier, signature)
        assert len(listing.asked) == 1, "the list is read once a minute, whoever asks with which key"
        assert await report(play, found) == (401, "only GitHub's own signature is taken here: set LEAKS_SECRET")
        play.clock.passes(seconds=61)
        fresh = github.lists(ec.generate_private_key(ec.SECP256R1()))
        assert (await github.reports(found, fresh))[0] == 200
        for wrong in (raw_answer(500, "no"), raw_answer(200, "<html>"), says(public_keys=[{"key_identifier": "x", "key": "no PEM"}]), None):
            play.clock.passes(seconds=61)
            listing.script = [wrong]
            assert (await github.reports(found, "1" * 64, github.listed[key]))[0] == 503
            assert (await github.reports(found, fresh))[0] == 200


async def test_without_a_secret_nothing_takes_reports(tmp_path: Path) -> None:
    async with stage(sqlite_store(tmp_path / "bot.db"), "http") as play:
        assert (await report(play, []))[0] == 404

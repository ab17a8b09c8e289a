"""`AUTHD_HTTP`: log-ins for whatever speaks HTTP, behind a token."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientSession

from mailauth.http import CONNECTIONS, REQUEST_TIMEOUT, Door, HttpServer
from mailauth.server import AuthdConfig
from mailauth.sockets import listen
from mailauth.verifier import Verifier
from storage import passwords
from storage.database import Database
from tests import raw
from tests.test_authd import CountingHasher, Made, make, store

__all__ = ["store"]
TOKEN = "0123456789abcdef-token"


class Asker:
    """Somebody who knows the token, unless they send another."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    async def post(self, body: object, path: str = "/verify", **headers: str) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with ClientSession() as session, session.post(self.url + path, data=data, headers=_with_token(headers)) as answer:
            return answer.status, await answer.json()

    async def get(self, path: str, **headers: str) -> tuple[int, dict[str, str]]:
        async with ClientSession() as session, session.get(self.url + path, headers=_with_token(headers)) as answer:
            return answer.status, {name: value for name, value in answer.headers.items() if name.startswith("auth-")}


def _with_token(headers: dict[str, str]) -> dict[str, str]:
    return {"Authorization": f"Bearer {TOKEN}"} | {name.replace("_", "-"): value for name, value in headers.items()}


@contextlib.asynccontextmanager
async def serving(db: Database, token: str | None = TOKEN, require_tls: bool = True, patience: float = 5.0) -> AsyncIterator[Asker]:
    hasher = CountingHasher()
    config = AuthdConfig("", token=token, nginx_server=("127.0.0.1", 2525), require_tls=require_tls)

    async def not_ready() -> str | None:
        return "the database is away"

    verifier = Verifier(db, hasher)
    server = HttpServer(Door(config, verifier, not_ready, patience))
    listener = listen("tcp:0", "AUTHD_HTTP")
    running = asyncio.create_task(server.serve([listener]))
    yield Asker(listener.getsockname()[1])
    server.should_exit = True
    await running
    hasher.close()


@pytest.fixture
async def asker(store: Database) -> AsyncIterator[Asker]:
    async with serving(store) as made:
        yield made


@pytest.fixture
async def made(store: Database) -> Made:
    return await make(store)


async def test_verify_says_yes_no_and_later(store: Database, asker: Asker, made: Made) -> None:
    right = {"username": f"{made.username}@example.com", "password": f" {made.password}\n", "remote": "192.0.2.1", "service": "imap"}
    assert await asker.post(right) == (200, {"ok": True, "username": made.username, "workspace": "acme"})
    assert await asker.post(right | {"password": passwords.generate(made.id)}) == (403, {"ok": False})
    assert await asker.post({"username": "somebody", "password": "x"}) == (403, {"ok": False})
    assert await asker.post(right | {"username": "x" * 300}) == (403, {"ok": False})
    await raw.sql(store, "ALTER TABLE credentials RENAME TO away")
    assert await asker.post(right) == (503, {"ok": False, "error": "later"})
    await raw.sql(store, "ALTER TABLE away RENAME TO credentials")


WRONG_BODIES = {
    "no JSON": (b"{", 400),
    "deep": (b"[" * 4000, 400),
    "a list": (b"[]", 400),
    "not UTF-8": (b'{"username": "\xff"}', 400),
    "no password": ({"username": "u"}, 400),
    "a number": ({"username": "u", "password": 1}, 400),
    "a wrong address": ({"username": "u", "password": "p", "remote": []}, 400),
    "too long": (b"x" * 4097, 413),
    "as long as it may be": (b"x" * 4096, 400),
}


async def test_a_wrong_body_is_a_clear_error(asker: Asker) -> None:
    for what, (body, status) in WRONG_BODIES.items():
        answered, said = await asker.post(body)
        assert (answered, said["ok"]) == (status, False), what
        assert said["error"], what


async def test_nobody_asks_without_the_token_nor_in_the_address(store: Database, asker: Asker, made: Made) -> None:
    right = {"username": made.username, "password": made.password}
    for authorization in ("", "Bearer", "Bearer x", f"Basic {TOKEN}", f"Bearer {TOKEN}é", f"Bearer {TOKEN[:-1]}"):
        assert (await asker.post(right, Authorization=authorization))[0] == 401
        assert (await asker.get("/auth", Authorization=authorization))[0] == 401
    assert (await asker.post(right, "/verify?x=1"))[0] == 400
    assert (await asker.get("/verify"))[0] == 405
    async with serving(store, token=None) as without:
        assert (await without.post(right))[0] == 404
        assert (await without.get("/auth"))[0] == 404


async def test_nginx_is_told_in_headers(store: Database, asker: Asker, made: Made) -> None:
    right = {"Auth_Method": "plain", "Auth_User": f"{made.username}%20", "Auth_Pass": made.password, "Client_IP": "192.0.2.9"}
    yes = {"auth-status": "OK", "auth-user": made.username, "auth-server": "127.0.0.1", "auth-port": "2525"}
    assert await asker.get("/auth", Auth_SSL="on", **right) == (200, yes)
    no = {"auth-status": "Invalid login or password", "auth-error-code": "535 5.7.8", "auth-wait": "3"}
    assert await asker.get("/auth", Auth_SSL="on", **right | {"Auth_Pass": passwords.generate(made.id)}) == (200, no)
    assert (await asker.get("/auth", **right))[1]["auth-status"] == "TLS is required"
    assert (await asker.get("/auth", Auth_SSL="on", **right | {"Auth_Method": "cram-md5"}))[1]["auth-error-code"] == "504 5.5.4"
    async with serving(store, require_tls=False) as lenient:
        assert (await lenient.get("/auth", **right))[1]["auth-status"] == "OK"
    await raw.sql(store, "ALTER TABLE credentials RENAME TO away")
    assert (await asker.get("/auth", Auth_SSL="on", **right))[1]["auth-error-code"] == "454 4.7.0"
    await raw.sql(store, "ALTER TABLE away RENAME TO credentials")


async def test_health_needs_no_token(asker: Asker) -> None:
    async with ClientSession() as session:
        async with session.get(f"{asker.url}/healthz") as answer:
            assert (answer.status, await answer.text()) == (200, "ok")
        async with session.get(f"{asker.url}/readyz") as answer:
            assert (answer.status, await answer.text()) == (503, "the database is away")
        async with session.get(f"{asker.url}/metrics") as answer:
            assert "smtp_authd_answers_total" in await answer.text()


async def test_who_asks_half_of_something_is_hung_up_on(store: Database) -> None:
    async with serving(store, patience=0.1) as asker:
        for half in (b"", b"POST /verify HTTP/1.1\r\nHost: x\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", asker.port)
            writer.write(half)
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.wait_for(reader.read(), 120) == b""
            writer.close()


async def test_who_sends_half_a_body_is_told_and_hung_up_on(store: Database) -> None:
    assert REQUEST_TIMEOUT == 5.0
    async with serving(store, patience=0.1) as asker:
        reader, writer = await asyncio.open_connection("127.0.0.1", asker.port)
        head = f"POST /verify HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 100\r\n\r\n"
        writer.write(head.encode() + b'{"username"')
        assert (await asyncio.wait_for(reader.readline(), 120)).startswith(b"HTTP/1.1 408 ")
        with contextlib.suppress(ConnectionResetError):
            await asyncio.wait_for(reader.read(), 120)
        writer.close()


async def test_half_requests_take_no_places_from_whole_ones_nor_more_than_there_are(store: Database) -> None:
    async with serving(store, patience=3600) as asker:
        held = []
        for _ in range(CONNECTIONS + 10):
            reader, writer = await asyncio.open_connection("127.0.0.1", asker.port)
            writer.write(b"POST /verify HTTP/1.1\r\n")
            held.append((reader, writer))
        assert (await asker.get("/auth", Auth_User="x", Auth_Pass="y", Auth_SSL="on"))[0] == 200
        for reader, _ in held[:11]:
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.wait_for(reader.read(), 120) == b""
        assert not any(reader.at_eof() for reader, _ in held[11:])
        for _, writer in held:
            writer.close()

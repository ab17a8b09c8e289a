"""What `authd` answers about open sessions: who may send as whom, from where, how much; and what it writes down of it."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import structlog
from sqlalchemy import update

from bot import impact
from bot.blocks import flat
from mailauth.ledger import Ledger
from mailauth.policy import DUNNO, PolicyReader
from mailauth.sessions import SIZE, Sessions, shared_memory
from mailauth.verifier import Verifier
from storage import credentials, lifecycle, logins, mail_servers, passwords
from storage.access import Actor
from storage.audit import Origin, Surface, What
from storage.database import Database, utc_now
from storage.errands import BURST
from storage.logins import Sent, Tried, Use
from storage.models import CREDENTIALS, WORKSPACES
from storage.passwords import Hasher
from tests import raw
from tests.stage import BY_TEST, Stage
from tests.test_authd import BY, CHEAP, CountingHasher, Made, Running, authd, make, store

__all__ = ["authd", "store"]
ACME = ("acme.example", "münchen.example")


def asks(made: Made, state: str = "MAIL", sender: str | None = "app@acme.example", **more: str | int) -> dict[str, str]:
    request = {"request": "smtpd_access_policy", "protocol_state": state, "sasl_username": made.username}
    request |= {"client_address": "192.0.2.7", "client_port": "40001", **{name: str(value) for name, value in more.items()}}
    return request if sender is None else request | {"sender": sender}


def message(made: Made, instance: str, recipients: int = 1, **more: str | int) -> dict[str, str]:
    return asks(made, "END-OF-MESSAGE", **({"instance": instance, "recipient_count": recipients, "size": 1000} | more))  # type: ignore[arg-type]


async def set_domains(db: Database, *domains: str) -> None:
    await raw.sql(db, update(WORKSPACES).values(domains=domains))


async def answers(authd: Running, *requests: dict[str, str]) -> list[str]:
    """Without `action=`."""
    return [one.removeprefix("action=") for one in await authd.policy(*requests)]


SENDERS = {
    "app@acme.example": True,
    "app@ACME.Example": True,
    "app@acme.example.": True,
    "": True,
    "boss@münchen.example": True,
    "boss@xn--mnchen-3ya.example": True,
    "boss@MÜNCHEN.example": True,
    '"a@b"@acme.example': True,
    "boss@zeta.example": False,
    "boss@mail.acme.example": False,
    "boss@acme.example.zeta.example": False,
    "boss@notacme.example": False,
    "boss@[192.0.2.1]": False,
    "boss@[IPv6:2001:db8::1]": False,
    "app@acme.example@zeta.example": False,
    '"boss@acme.example"': False,
    "boss": False,
    "boss@": False,
    "boss@example": False,
    "boss@аcme.example": False,  # a Cyrillic letter
    "boss@acme.example\udce9": False,
}


@pytest.mark.parametrize("sender", SENDERS)
async def test_only_the_workspaces_domains_may_send(store: Database, authd: Running, sender: str) -> None:
    made = await make(store)
    await set_domains(store, *ACME)
    for state in ("MAIL", "RCPT", "DATA", "END-OF-MESSAGE"):
        request = asks(made, state, sender.encode(errors="surrogateescape").decode(errors="replace"))
        [answer] = await answers(authd, request)
        assert (answer == "DUNNO") is SENDERS[sender], answer
        if not SENDERS[sender]:
            assert answer.startswith("553 5.7.1 This SMTP credential may not send as ")


async def test_a_refusal_names_the_domain_and_is_one_log_line(store: Database, authd: Running) -> None:
    made = await make(store)
    await set_domains(store, *ACME)
    with structlog.testing.capture_logs() as lines:
        [answer] = await answers(authd, asks(made, sender="boss@Zürich.example"))
    assert answer == "553 5.7.1 This SMTP credential may not send as xn--zrich-kva.example"
    [line] = lines
    assert {
        "event": "sending refused",
        "username": made.username,
        "why": "sender not allowed",
        "address": "192.0.2.7",
    }.items() <= line.items()
    await set_domains(store)
    assert await answers(authd, asks(made, sender="boss@anywhere.example")) == ["DUNNO"]
    others = asks(made, sender="boss@zeta.example") | {"sasl_username": "somebody@example.com"}
    await set_domains(store, *ACME)
    assert await answers(authd, others, asks(made, sender=None)) == ["DUNNO", "DUNNO"]


BROKEN_DOMAINS = [
    "*.acme.example",
    "@acme.example",
    "acme",
    ".",
    "acme..example",
    "[192.0.2.1]",
    "a/b.example",
    "-a.example",
    "x" * 300,
]


@pytest.mark.parametrize("domain", BROKEN_DOMAINS)
async def test_a_domain_that_cannot_be_read_lets_nobody_send(store: Database, authd: Running, domain: str) -> None:
    made = await make(store)
    await set_domains(store, domain)
    given = [asks(made, sender=f"boss@{domain}"), asks(made, sender="boss@acme.example"), asks(made, sender="")]
    answered = await answers(authd, *given)
    assert [one[:3] for one in answered] == ["553", "553", "DUN"]
    await set_domains(store, domain, "acme.example")
    assert (await answers(authd, given[1])) == ["DUNNO"]


NETWORKS: dict[str, list[str]] = {
    "192.0.2.0/24": ["192.0.2.7", "::ffff:192.0.2.7"],
    "::ffff:192.0.2.0/120": ["192.0.2.7", "::ffff:192.0.2.7"],
    "192.0.2.7": ["192.0.2.7", "::ffff:192.0.2.7"],
    "2001:db8::/32": ["2001:db8::1", "2001:db8::1%eth0"],
    "192.0.2.0/33": [],
    "192.0.2.7/24": [],
    "192.0.2.0/-1": [],
    "192.0.2": [],
    "0/0": [],
    "printer.example": [],
    "192.0.2.0/24,198.51.100.0/24": [],
    "3221225991": [],
    "*": [],
}
ADDRESSES = ["192.0.2.7", "::ffff:192.0.2.7", "198.51.100.7", "2001:db8::1", "2001:db8::1%eth0", "", "unknown"]


@pytest.mark.parametrize("network", NETWORKS)
async def test_addresses_are_held_at_log_in_before_anything_remembered_and_in_the_session(
    store: Database, authd: Running, network: str
) -> None:
    made = await make(store)
    client = await authd.connect()
    assert await client.log_in(made.username, made.password) == "OK"
    await raw.change_credentials(store, allowed_from=(network,))
    for address in ADDRESSES:
        client.ask(made.username, made.password, f"secured\trip={address}" if address else "secured")
        allowed = address in NETWORKS[network]
        assert (await client.line()).split("\t")[0] == ("OK" if allowed else "FAIL"), address
        [answer] = await answers(authd, asks(made, client_address=address))
        named = address or "an unknown address"
        assert answer == ("DUNNO" if allowed else f"421 4.7.0 This SMTP credential may not be used from {named}")


async def test_what_it_sent_is_written_down_each_message_once(store: Database, authd: Running) -> None:
    made = await make(store)
    sent = [message(made, "a", 3), message(made, "a", 3), message(made, "b"), message(made, "c", client_port=40002)]
    assert await answers(authd, asks(made), asks(made, "RCPT"), asks(made, "DATA", recipient_count=3), *sent) == ["DUNNO"] * 7
    await authd.server.verifier.flush()
    assert await raw.sql(store, "SELECT sum(count), sum(messages), sum(recipients), sum(bytes) FROM login_counts") == [(0, 3, 5, 3000)]
    assert await answers(authd, message(made, "", 2), message(made, "", 2)) == ["DUNNO"] * 2
    await authd.server.verifier.flush()
    traffic = (await store.read(mail_servers.traffic, [made.id]))[made.id]
    assert (traffic.messages_hour, traffic.recipients_hour, traffic.messages_day, traffic.hour) == (5, 9, 5, 0)


LIMITS = {
    "messages_hour": "This SMTP credential may send 5 messages an hour. Try again later",
    "messages_day": "This SMTP credential may send 5 messages a day. Try again later",
    "recipients_hour": "This SMTP credential may send to 5 recipients an hour. Try again later",
    "recipients_day": "This SMTP credential may send to 5 recipients a day. Try again later",
}


@pytest.mark.parametrize("limit", LIMITS)
async def test_a_limit_holds_exactly_and_ends_by_itself(store: Database, authd: Running, limit: str) -> None:
    made = await make(store)
    await raw.change_credentials(store, **{limit: 5})
    verifier = authd.server.verifier
    for number in range(5):
        assert await answers(authd, asks(made), message(made, str(number))) == ["DUNNO", "DUNNO"]
        if number % 2:
            await verifier.flush()
    refused = [f"450 4.7.1 {LIMITS[limit]}"]
    for state in ("MAIL", "RCPT", "DATA", "END-OF-MESSAGE"):
        assert await answers(authd, asks(made, state, instance="another")) == refused
    assert await answers(authd, message(made, "4")) == ["DUNNO"], "asked again about what was counted already"
    await verifier.flush()
    assert await raw.one(store, "SELECT sum(messages) FROM login_counts") == 5
    await raw.sql(store, "UPDATE login_counts SET slot = slot - :passed", passed=12 if limit.endswith("hour") else 288)
    assert await answers(authd, asks(made), message(made, "later")) == ["DUNNO", "DUNNO"]


async def test_a_message_with_too_many_recipients_is_put_off_at_data(store: Database, authd: Running) -> None:
    made = await make(store)
    await raw.change_credentials(store, recipients_hour=5)
    counts = [asks(made, "DATA", recipient_count=count) for count in (5, 6)]
    assert [one[:5] for one in await answers(authd, *counts)] == ["DUNNO", "554 5"]
    assert [one[:5] for one in await answers(authd, message(made, "a", 6), message(made, "b", 3), message(made, "c", 3))] == [
        "554 5", "DUNNO", "450 4",
    ]  # fmt: skip


async def test_a_message_that_no_later_try_could_send_is_refused_for_good(store: Database, authd: Running) -> None:
    made = await make(store)
    await raw.change_credentials(store, recipients_day=50)
    [data] = await answers(authd, asks(made, "DATA", recipient_count=60))
    assert data == "554 5.5.3 This SMTP credential may send to 50 recipients a day, and this message alone has 60"
    assert await answers(authd, asks(made, "DATA", recipient_count=50)) == ["DUNNO"]


async def test_of_many_at_once_no_more_than_the_limit_pass(store: Database, authd: Running) -> None:
    made = await make(store)
    await raw.change_credentials(store, messages_hour=50)

    async def one(number: int) -> list[str]:
        return await answers(authd, *(message(made, f"{number}.{which}", client_port=number) for which in range(10)))

    async def flushing() -> None:
        for _ in range(20):
            await authd.server.verifier.flush()

    *answered, _ = await asyncio.gather(*(one(number) for number in range(10)), flushing())
    assert sum(answer == "DUNNO" for some in answered or [] for answer in some or []) == 50
    await authd.server.verifier.flush()
    assert await raw.one(store, "SELECT sum(messages) FROM login_counts") == 50


async def test_what_other_processes_wrote_down_counts(store: Database, authd: Running) -> None:
    made = await make(store)
    await raw.change_credentials(store, messages_hour=3)
    other = Verifier(store, authd.hasher)
    for number in range(2):
        await other.gate.decide(request_of(message(made, f"other {number}")))
    await other.flush()
    assert [one[:3] for one in await answers(authd, message(made, "a"), message(made, "b"))] == ["DUN", "450"]


async def test_of_many_processes_together_no_more_than_the_limit_pass(store: Database, authd: Running) -> None:
    made = await make(store)
    await raw.change_credentials(store, messages_hour=10, recipients_day=100)
    processes = [Verifier(store, authd.hasher) for _ in range(4)]

    async def sends(one: Verifier, number: int) -> bool:
        answer: bytes = await one.gate.decide(request_of(message(made, f"{number}", client_port=number, recipients=3)))
        return answer == DUNNO

    passed = [await sends(one, number * 4 + which) for number in range(10) for which, one in enumerate(processes)]
    assert 8 <= sum(passed) <= 10
    for one in processes:
        await one.flush()
    assert await raw.sql(store, "SELECT sum(messages), sum(recipients) FROM login_counts") == [(sum(passed), 3 * sum(passed))]
    await raw.sql(store, "DELETE FROM login_counts")
    at_once = await asyncio.gather(*(sends(one, 100 + number * 4 + which) for number in range(10) for which, one in enumerate(processes)))
    assert sum(at_once) <= 10
    for one in processes:
        await one.flush()
    assert await raw.one(store, "SELECT sum(messages) FROM login_counts") == sum(at_once)


def request_of(given: dict[str, str]) -> Any:
    [request] = PolicyReader().receive("".join(f"{name}={value}\n" for name, value in given.items()).encode() + b"\n")
    return request


@pytest.mark.parametrize("stored", ["-1", "'many'", "0", "1.5", "''", "x'00'", "'Infinity'"])
@pytest.mark.parametrize("limit", LIMITS)
async def test_a_limit_that_cannot_be_read_lets_nothing_pass(store: Database, authd: Running, limit: str, stored: str) -> None:
    if not store.sqlite:
        stored = "-1"  # the others are no integers there
    made = await make(store)
    await raw.sql(store, f"UPDATE credentials SET {limit} = {stored}")
    [answer] = await answers(authd, message(made, "a"))
    assert answer.startswith("450 4.7.1 ")
    await raw.sql(store, f"UPDATE credentials SET {limit} = NULL")
    assert await answers(authd, message(made, "b")) == ["DUNNO"]


BROKEN = {"recipient_count": "-5", "size": "many", "instance": "\t", "client_port": "x" * 200, "protocol_state": "é"}


async def test_numbers_of_every_wrong_form_count_as_one_message(store: Database, authd: Running) -> None:
    made = await make(store)
    requests = [message(made, f"i{number}") | {name: value} for number, (name, value) in enumerate(BROKEN.items())]
    huge = message(made, "huge") | {"recipient_count": "9" * 4000, "size": "٣"}
    assert await answers(authd, *requests, huge) == ["DUNNO"] * 6
    await authd.server.verifier.flush()


async def test_counts_are_kept_while_the_database_is_away(store: Database, authd: Running) -> None:
    made = await make(store)
    assert await answers(authd, message(made, "a"), message(made, "b")) == ["DUNNO"] * 2
    await raw.sql(store, "ALTER TABLE login_counts RENAME TO away")
    with pytest.raises(Exception, match="login_counts"):
        await authd.server.verifier.flush()
    await raw.sql(store, "ALTER TABLE away RENAME TO login_counts")
    assert await answers(authd, message(made, "c")) == ["DUNNO"]
    await authd.server.verifier.flush()
    assert await raw.one(store, "SELECT sum(messages) FROM login_counts") == 3


async def test_two_processes_that_write_the_same_rows_lose_nothing(store: Database, database_url: str) -> None:
    mades = [await make(store, f"App {number}") for number in range(20)]
    others = [Database(database_url) for _ in range(2)]

    async def write(db: Database, order: int) -> None:
        ledger, hasher = Ledger(db), CountingHasher()
        known = await db.read(logins.look_up, [one.username for one in mades])
        for _ in range(10):
            for made in mades[::order]:
                ledger.logged_in(known[made.username], None, "smtp", previous=False)
                ledger.sent(known[made.username], request_of(message(made, "x")))
            await ledger.write()
        await ledger.write(wait=True)
        hasher.close()

    await asyncio.gather(write(others[0], 1), write(others[1], -1))
    assert await raw.sql(store, "SELECT sum(count), sum(messages) FROM login_counts") == [(400, 400)]
    for db in others:
        await db.close()


# --- a session and its password ---
async def rotate(db: Database, made: Made) -> str:
    new = passwords.generate(made.id)
    hasher = Hasher(*CHEAP)
    old = await raw.one(db, "SELECT password_hash FROM credentials")
    tags = {"previous_tag": passwords.tag(made.password), "password_tag": passwords.tag(new)}
    values = {"previous_hash": old, "password_hash": await hasher.hash(new), "rotated_at": db.clock(), **tags}
    await raw.change_credentials(db, previous_until=db.clock() + timedelta(hours=1), **values)
    hasher.close()
    return new


async def test_a_session_of_the_old_password_ends_with_it(store: Database, authd: Running) -> None:
    made = await make(store)
    client = await authd.connect()
    assert await client.log_in(made.username, made.password) == "OK"
    assert await answers(authd, asks(made)) == ["DUNNO"]
    new = await rotate(store, made)
    assert await answers(authd, asks(made)) == ["DUNNO"], "while the overlap lasts"
    assert await client.log_in(made.username, new) == "OK"
    assert await answers(authd, asks(made, client_port=40002)) == ["DUNNO"], "a session of the new password, from the same address"
    await raw.change_credentials(store, previous_until=store.clock() - timedelta(seconds=1))
    ended = "421 4.7.0 The password of this session no longer works"
    requests = [asks(made, client_port=40002), asks(made), asks(made, client_port=40003), asks(made, client_address="198.51.100.9")]
    assert await answers(authd, *requests) == ["DUNNO", ended, "DUNNO", "DUNNO"]


async def test_ending_the_old_password_now_ends_its_sessions(store: Database, authd: Running) -> None:
    made = await make(store)
    await rotate(store, made)
    client = await authd.connect()
    assert await client.log_in(made.username, made.password) == "OK"
    assert await answers(authd, asks(made)) == ["DUNNO"]
    await raw.change_credentials(store, previous_hash=None, previous_tag=None, previous_until=None)
    assert [one[:3] for one in await answers(authd, message(made, "a"), asks(made, client_port=40009))] == ["421", "421"]


def test_workers_share_what_they_know_of_sessions_and_forget_the_oldest() -> None:
    fd = shared_memory()
    one, two = Sessions(fd), Sessions(fd)
    for tag in (-(2**31), -1, 0, 65535, 2**31 - 1):
        one.logged_in("smtp-acme-00000000", "192.0.2.7", tag, 100.0)
        assert two.tag("smtp-acme-00000000", "192.0.2.7", str(tag), 101.0) == tag
    assert two.tag("smtp-acme-00000000", "192.0.2.8", "1", 101.0) is None
    for number in range(200_000):
        two.logged_in(f"smtp-acme-{number}", "192.0.2.7", 1, 200.0 + number / 1000)
    assert one.tag("smtp-acme-199999", "192.0.2.7", "1", 500.0) == 1
    assert one.tag("smtp-acme-00000000", "192.0.2.7", "65535", 500.0) is None
    assert one.tag("smtp-acme-199999", "192.0.2.7", "1", 60_000.0) is None
    assert len(one._memory) == SIZE < 2 * 1024 * 1024


# --- time and processes ---
async def test_a_slow_clock_lets_no_expired_one_in(database_url: str, store: Database, authd: Running) -> None:
    made = await make(store)
    slow = Database(database_url, lambda: utc_now() - timedelta(hours=1))
    await raw.change_credentials(store, expires_at=utc_now() - timedelta(minutes=1))
    verifier = Verifier(slow, authd.hasher)
    answered = (await verifier.check(made.username, made.password, None, "smtp")).answer
    assert answered == ("yes" if store.sqlite else "no"), "SQLite has no clock of its own"
    await verifier.flush()
    proof = await store.read(mail_servers.proof, made.username, What.ACTIVATE)
    named = [(name, round(ahead / 60_000)) for name, ahead in proof.skewed]
    assert named == ([] if store.sqlite else [(verifier.name, -60)])
    await slow.close()


async def test_since_is_when_a_process_first_knew_and_a_silent_one_is_named(store: Database) -> None:
    made = await make(store)
    start = store.clock() - timedelta(hours=1)
    beats = [("one", "mx1:1"), ("two", "mx2:2"), ("gone", "mx3:3"), ("replaced", "mx1:0")]
    for process, name in beats:
        await store.note(logins.beat, process, name, start, release="1.0", ends_sessions=True)
    await store.change(credentials.delete, BY, made.id)

    async def proof() -> mail_servers.Proof:
        return await store.read(mail_servers.proof, made.username, What.DELETE)

    assert (await proof()).waiting == ["mx1:0", "mx1:1", "mx2:2", "mx3:3"]
    for process, name in beats[:2]:
        await store.note(logins.beat, process, name, start, ends_sessions=True)
    first = (await proof()).last
    ago = "UPDATE mail_servers SET known_at = known_at - 60000, seen_at = seen_at - 2000"
    await raw.sql(store, ago)
    for process, name in beats[:2]:
        await store.note(logins.beat, process, name, start, ends_sessions=True)
    assert first is not None
    assert (await proof()).last == first - timedelta(minutes=1), "the moment stays although the heart goes on"
    await raw.sql(store, "UPDATE mail_servers SET seen_at = seen_at - 60000 WHERE id IN ('gone', 'replaced')")
    await raw.sql(store, "UPDATE mail_servers SET started_at = seen_at - 1000 WHERE id = 'one'")
    now = await proof()
    assert (now.confirmed, now.waiting, [one.name for one in now.silent], now.ends_sessions) == (2, [], ["mx3:3"], True)
    await store.note(logins.beat, "exim", "mx4:4", start)
    assert (await proof()).ends_sessions is False
    assert await raw.one(store, "SELECT release FROM mail_servers WHERE id = 'gone'") == "1.0"


async def test_the_first_log_in_is_kept(store: Database) -> None:
    made = await make(store)
    first = store.clock() - timedelta(days=3)
    for at in (first, store.clock()):
        await store.note(logins.record, {made.id: Use(at, None, "smtp", previous=False)})
    row, _ = await store.read(credentials.get, made.id)
    assert row.first_used_at is not None
    assert abs(row.first_used_at - first) < timedelta(milliseconds=1)


# --- what the channel reads ---
async def note_sent(play: Stage, messages: int, recipients: int, **more: Any) -> None:
    [credential] = await play.credentials()
    await play.db.note(logins.record, {}, {credential.id: Sent(play.clock(), messages, recipients, 1000, **more)})
    await play.settled()


async def test_the_channel_is_told_once_of_each_time_above_a_limit_and_can_suspend(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    await raw.change_credentials(play.db, messages_hour=10, last_used_from="203.0.113.5")
    for _ in range(3):
        await note_sent(play, 4, 5, over="messages_hour")
        play.clock.passes(minutes=50)
    told = await play.rex.sees("has reached its limit of messages an hour (10)")
    assert "4 messages to 5 recipients in the last hour, from 203.0.113.5" in play.rex.read(told)
    assert await raw.one(play.db, "SELECT count(*) FROM errands WHERE kind = 'limit'") == 3, "one for each channel of the workspace"
    await play.rex.presses("Suspend…", told)
    await play.rex.sees_modal("Suspend credential?")
    await play.rex.closes()
    play.clock.passes(minutes=61)
    await note_sent(play, 1, 1, over="messages_hour")
    assert await raw.one(play.db, "SELECT count(*) FROM errands WHERE kind = 'limit'") == 6


async def test_the_warning_settles(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    await raw.change_credentials(play.db, messages_hour=10)
    await note_sent(play, 11, 11, over="messages_hour")
    await play.rex.sees("has reached its limit of messages an hour (10)")
    [credential] = await play.credentials()

    async def says(what: str, buttons: list[str]) -> None:
        text = play.rex.read(await play.rex.sees(what))
        assert [one for one in ("[Suspend…]", "[Resume…]") if one in text] == buttons

    rex = Origin(Actor(play.rex.id, play.slack.world.team.id, groups={play.oncall.id: 0}), Surface.COMMAND, "ref")
    await says("If nobody knows why it sends so much, suspend it.", ["[Suspend…]"])
    await play.db.change(lifecycle.suspend, rex, credential.id)
    await says(
        "has reached its limit of messages an hour (10).\nIt sent 11 messages to 11 recipients in the last hour.\n@rex suspended it (",
        ["[Resume…]"],
    )
    await play.db.change(lifecycle.resume, BY_TEST, credential.id)
    await says("If nobody knows why it sends so much, suspend it.", ["[Suspend…]"])
    await play.db.change(credentials.delete, rex, credential.id)
    await says("in the last hour.\n@rex deleted it (", [])


async def test_ten_times_the_usual_in_an_hour_is_told(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    for _ in range(3):
        await note_sent(play, 20, 20)
        play.clock.passes(hours=2)
    await note_sent(play, 150, 199)
    assert await raw.one(play.db, "SELECT count(*) FROM errands WHERE kind = 'limit'") == 0
    await note_sent(play, 1, 1)
    await note_sent(play, 100, 100)
    await play.rita.sees("sends ten times as much as usual")
    [ids] = {ids for (ids,) in await raw.sql(play.db, "SELECT ids FROM errands WHERE kind = 'limit'")}
    assert ids == BURST
    await play.rita.types(play.mail, "/smtp whois " + (await play.credentials())[0].username)
    await raw.sql(play.db, update(CREDENTIALS).values(last_used_at=play.clock()))
    await play.rita.types(play.mail, "/smtp whois " + (await play.credentials())[0].username)
    await play.rita.sees("It sent 251 messages to 300 recipients in the last hour")


async def test_what_has_no_usual_is_not_said_to_send_more_than_that(play: Stage) -> None:
    await play.create(play.wanda, "Relay")
    await note_sent(play, 1, 500)
    assert await raw.one(play.db, "SELECT count(*) FROM errands WHERE kind = 'limit'") == 0, "its first day"
    play.clock.passes(hours=50)
    await note_sent(play, 1, 99)
    assert await raw.one(play.db, "SELECT count(*) FROM errands WHERE kind = 'limit'") == 0
    await note_sent(play, 1, 1)
    told = play.rita.read(await play.rita.sees("sends much, and sent nothing in the day before."))
    assert "It sent 2 messages to 100 recipients in the last hour" in told


NOON = datetime(2026, 11, 26, 12, 1, tzinfo=UTC)


@pytest.fixture
async def at_noon(database_url: str, store: Database) -> AsyncIterator[Database]:
    """The same store, where the clock stands still."""
    db = Database(database_url, lambda: NOON)
    yield db
    await db.close()


async def test_since_then_counts_nothing_from_before(at_noon: Database) -> None:
    made = await make(at_noon)

    async def tried(what: What) -> mail_servers.Tries:
        return (await at_noon.read(mail_servers.proof, made.username, what)).tried

    async def tries(count: int, at: datetime) -> None:
        await at_noon.note(logins.record, {}, {}, {made.id: Tried(at, count)})

    await at_noon.change(lifecycle.suspend, BY, made.id)
    assert await tried(What.SUSPEND) == mail_servers.Tries()
    await tries(40, NOON)
    assert await tried(What.SUSPEND) == mail_servers.Tries(40)
    await raw.change_credentials(at_noon, suspended_at=NOON - timedelta(seconds=1))
    await at_noon.change(credentials.delete, BY, made.id)
    assert await tried(What.DELETE) == mail_servers.Tries(0, at_least=True)
    await tries(3, NOON + timedelta(seconds=logins.SLOT))
    assert await tried(What.DELETE) == mail_servers.Tries(3, at_least=True)


async def test_tries_between_a_suspension_and_its_end_are_no_later_ones(at_noon: Database) -> None:
    made = await make(at_noon)
    await at_noon.change(lifecycle.suspend, BY, made.id)
    await at_noon.note(logins.record, {}, {}, {made.id: Tried(NOON, 40)})
    await at_noon.change(lifecycle.resume, BY, made.id)
    await at_noon.change(credentials.delete, BY, made.id)
    assert (await at_noon.read(mail_servers.proof, made.username, What.DELETE)).tried == mail_servers.Tries(0, at_least=True)


SILENT = mail_servers.Silent("mx1:3102", datetime(2026, 11, 26, 22, 43, 10, tzinfo=UTC))
AT = SILENT.since
OPEN = "Sessions that are open already go on until they end."
PROOFS = {
    "Confirmed: 2 of 2 mail servers refuse it since 22:43:10 UTC.": mail_servers.Proof(2, [], AT, AT, ends_sessions=True),
    "Confirmed: 2 of 2 mail servers refuse it since 22:43:10 UTC. mx1:3102 has not been heard of since 22:43:10 UTC.": mail_servers.Proof(
        2, [], AT, AT, [SILENT], ends_sessions=True
    ),
    "Confirmed: 1 of 1 mail server refuses it since 22:43:10 UTC. The clock of mx2:7 is 61 s behind.": mail_servers.Proof(
        1, [], AT, AT, skewed=[("mx2:7", -61_500)], ends_sessions=True
    ),
    f"Confirmed: 1 of 1 mail server refuses it since 22:43:10 UTC. {OPEN}": mail_servers.Proof(1, [], AT, AT),
    "Confirmed: 1 of 1 mail server refuses it since 22:43:10 UTC. Since then it was tried once, and refused.": mail_servers.Proof(
        1, [], AT, AT, tried=mail_servers.Tries(1), ends_sessions=True
    ),
    f"Confirmed: 1 of 1 mail server refuses it since 22:43:10 UTC. Since then it was tried 41 times, and refused. {OPEN}": (
        mail_servers.Proof(1, [], AT, AT, tried=mail_servers.Tries(41))
    ),
    f"Confirmed: 1 of 1 mail server refuses it since 22:43:10 UTC. Since then it was tried at least 3 times, and refused. {OPEN}": (
        mail_servers.Proof(1, [], AT, AT, tried=mail_servers.Tries(3, at_least=True))
    ),
    f"Mail servers refuse it from the next log-in on. {OPEN}": mail_servers.Proof(0, [], None, None),
    f"No mail server confirms it now. mx1:3102 has not been heard of since 22:43:10 UTC. {OPEN}": mail_servers.Proof(
        0, [], None, None, [SILENT]
    ),
}


@pytest.mark.parametrize("sentence", PROOFS)
def test_the_proof_says_what_it_knows(sentence: str) -> None:
    assert flat(impact.proof_pieces(PROOFS[sentence])) == sentence

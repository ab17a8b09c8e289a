"""What a leaked credential has queued: held, released, deleted and counted in the real Postfix, by hand and as people order it in Slack."""

import asyncio
import contextlib
import json
import os
import smtplib
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from bot.cli import cli
from mailauth import queue as postfix_queue
from mailauth.queue import Instance, QueueError, Queues, carry_out, listing, read_usernames
from storage import audit, credentials, queue
from storage.access import Actor
from storage.audit import Origin, Surface
from storage.queue import Act
from storage.refusals import NotAllowed
from tests import mail_servers, raw
from tests.conftest import need
from tests.mail_servers import Session
from tests.stage import BY_TEST, Stage, stage
from tests.stores import sqlite_store
from tests.test_mail_servers import authd, make

LEAKED, OTHER = "smtp-acme-abcd1234", "smtp-acme-wxyz5678"
STOPPED = {"defer_transports": "discard"}
AS_SAID = {
    "-o smtpd_sasl_auth_enable=yes": "-o smtpd_sasl_auth_enable=no\n  -o smtpd_authorized_xclient_hosts=127.0.0.1",
    "-o smtpd_tls_security_level=encrypt": "-o smtpd_tls_security_level=may",
    "permit_sasl_authenticated,reject": "permit_mynetworks,reject",
}
"""Without passwords: who sends is whoever XCLIENT says (XCLIENT_README)."""
LIMIT = 120  # seconds


@dataclass
class Mx:
    """A Postfix whose delivery is stopped."""

    port: int
    instance: Instance

    @property
    def queues(self) -> Queues:
        return Queues([self.instance.config])

    def sends(self, username: str, messages: int = 1) -> None:
        with smtplib.SMTP("127.0.0.1", self.port, timeout=LIMIT) as client:
            client.ehlo()
            client.docmd("XCLIENT", f"LOGIN={username}")
            client.ehlo()
            for _ in range(messages):
                client.sendmail("app@example.com", ["you@example.net"], "Subject: test\r\n\r\nHello\r\n")

    def where(self) -> dict[str, int]:
        """How many messages are in which queue, once none is on its way."""
        deadline = time.monotonic() + LIMIT
        while True:
            found = list(listing(self.instance).values())
            if not {"incoming", "active"} & set(found) or time.monotonic() > deadline:
                return {name: found.count(name) for name in dict.fromkeys(sorted(found))}
            time.sleep(0.02)

    def usernames(self, which: str) -> list[str]:
        """Who sent what is in this queue."""
        ids = [one for one, name in listing(self.instance).items() if name == which]
        return sorted(username for _, username in read_usernames(self.instance, ids, LIMIT))


@contextlib.contextmanager
def stopped(folder: Path, **main: str) -> Iterator[Mx]:
    settings = STOPPED | {"mynetworks": "127.0.0.0/8", **main}
    with mail_servers.postfix(folder, "submission-dovecot.cf", AS_SAID, more=settings) as running:
        yield Mx(running.submission, Instance(str(folder / "postfix"), folder / "queue"))


@pytest.fixture
def folder() -> Iterator[Path]:
    with mail_servers.open_folder() as made:
        yield made


@pytest.fixture
def mx(folder: Path) -> Iterator[Mx]:
    with stopped(folder) as made:
        yield made


def copies(mx: Mx, number: int) -> list[str]:
    """So many further messages like one that is there."""
    [first] = [path for path in (mx.instance.folder / "deferred").rglob("*") if path.is_file()][:1]
    content, owner = first.read_bytes(), first.stat()
    made = []
    for count in range(number):
        path = first.with_name(f"{first.parent.name}C0FFEE{count:05X}")
        path.write_bytes(content)
        path.chmod(0o700)
        os.chown(path, owner.st_uid, owner.st_gid)
        made.append(path.name)
    return made


def shell(mx: Mx, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["queue", *arguments, "-c", mx.instance.config])


def test_the_shell_holds_releases_deletes_and_counts(mx: Mx) -> None:
    mx.sends(LEAKED, 2)
    mx.sends(f"{LEAKED.upper()}@example.com")
    mx.sends(OTHER)
    assert mx.where() == {"deferred": 4}
    assert shell(mx, "count", LEAKED).stdout == f"{LEAKED}: 3 queued, 0 of them on hold\n"
    assert mx.where() == {"deferred": 4}
    assert shell(mx, "hold", f" {LEAKED.upper()}@example.com", OTHER.replace("w", "v")).stdout == (
        f"{LEAKED}: 3 on hold\n{OTHER.replace('w', 'v')}: 0 on hold\n"
    )
    assert mx.where() == {"deferred": 1, "hold": 3}
    assert mx.usernames("deferred") == [OTHER]
    assert shell(mx, "hold", LEAKED).stdout == f"{LEAKED}: 3 on hold\n"
    assert json.loads(shell(mx, "count", LEAKED, "--json").stdout) == {"username": LEAKED, "queued": 3, "on_hold": 3}
    assert shell(mx, "release", LEAKED, OTHER).stdout == f"{LEAKED}: 3 released\n{OTHER}: 0 released\n"
    assert mx.where() == {"deferred": 4}
    assert shell(mx, "delete", LEAKED).stdout == f"{LEAKED}: 3 deleted\n"
    assert mx.where() == {"deferred": 1}
    assert mx.usernames("deferred") == [OTHER]


@pytest.mark.parametrize("wrong", ["nobody", "smtp-acme-abcd1234 ALL", "ALL", "-d", "../smtp-acme-abcd1234", "", "smtp-acme-abcd123;id"])
def test_only_usernames_of_our_form(wrong: str, tmp_path: Path) -> None:
    run = CliRunner().invoke(cli, ["queue", "hold", "-c", str(tmp_path), "--", wrong])
    assert (run.exit_code, "no username of ours" in run.stderr) == (2, True)


def test_without_postfix_or_its_configuration_it_says_so(tmp_path: Path) -> None:
    run = CliRunner().invoke(cli, ["queue", "count", LEAKED, "-c", str(tmp_path / "none")])
    assert run.exit_code == 1
    assert "main.cf" in run.stderr


def test_all_instances_of_the_host(folder: Path) -> None:
    for name in ("one", "two"):
        (folder / name).mkdir(mode=0o755)
    with stopped(folder / "one") as one, stopped(folder / "two") as two:
        for mx in (one, two):
            mx.sends(LEAKED, 2)
        both = Queues([one.instance.config, two.instance.config])
        assert both.do(Act.HOLD, [LEAKED]) == {LEAKED: 4}
        assert (one.where(), two.where()) == ({"hold": 2}, {"hold": 2})


def test_messages_that_vanish_while_they_are_read_are_left_out(mx: Mx) -> None:
    """Also at the batch's edges, and one that is only half written."""
    mx.sends(LEAKED)
    assert mx.where() == {"deferred": 1}
    made = copies(mx, 1200)
    path = next((mx.instance.folder / "deferred").rglob(made[7]))
    path.write_bytes(path.read_bytes()[:100])
    (mx.instance.folder / "deferred" / "not-a-queue-id").write_text("")
    reading = read_usernames(mx.instance, made, LIMIT)
    gone = {made[number] for number in (1, 2, 400, 499, 500, 501, 998, 1000, 1199)}
    found = [next(reading)]
    for one in gone:
        next((mx.instance.folder / "deferred").rglob(one)).unlink()
    found += reading
    read = {one for one, _ in found}
    assert read | gone | {made[7]} == set(made)
    assert made[7] not in read
    assert len(found) == len(read)
    assert {username for _, username in found} == {LEAKED}
    assert mx.queues.do(Act.HOLD, [LEAKED])[LEAKED] == 1200 - len(gone) - 1 + 1


def test_a_message_that_took_over_the_id_meanwhile_is_let_go_again(mx: Mx) -> None:
    mx.sends(LEAKED)
    assert mx.where() == {"deferred": 1}

    def now() -> float:
        for path in (mx.instance.folder / "hold").iterdir():
            path.write_bytes(path.read_bytes().replace(LEAKED.encode(), OTHER.encode()))
        return 0.0

    assert Queues([mx.instance.config], monotonic=now).do(Act.DELETE, [LEAKED]) == {LEAKED: 0}
    assert mx.where() == {"deferred": 1}
    assert mx.usernames("deferred") == [OTHER]


def test_what_is_remembered_saves_looking_and_not_for_long(mx: Mx) -> None:
    mx.sends(OTHER)
    mx.where()
    now = 1000.0
    queues = Queues([mx.instance.config], monotonic=lambda: now)
    assert queues.do(Act.HOLD, [LEAKED]) == {LEAKED: 0}
    [path] = [one for one in (mx.instance.folder / "deferred").rglob("*") if one.is_file()]
    path.write_bytes(path.read_bytes().replace(OTHER.encode(), LEAKED.encode()))
    assert queues.do(Act.HOLD, [LEAKED]) == {LEAKED: 0}
    now += postfix_queue.REMEMBERED
    assert queues.do(Act.HOLD, [LEAKED]) == {LEAKED: 1}


def test_a_search_that_takes_too_long_ends(mx: Mx) -> None:
    mx.sends(LEAKED)
    mx.where()
    copies(mx, 600)
    with pytest.raises(QueueError, match="over 0 seconds"):
        Queues([mx.instance.config], search_limit=0.0).do(Act.COUNT, [LEAKED])


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"hold",
        b"hold ALL",
        b"flush smtp-acme-abcd1234",
        b"hold smtp-acme-abcd1234 -",
        b"delete " + b"smtp-acme-abcd1234 " * 201,
        b"\xff",
    ],
)
def test_root_does_nothing_but_what_it_may_be_asked_for(line: bytes) -> None:
    with pytest.raises(QueueError):
        carry_out(Queues(["/nowhere"]), line)
    assert b"problem" in carry_out(Queues(["/nowhere"]), b"count smtp-acme-abcd1234\n")


# --- orders ---
HOST = "mx1"


async def ordered(play: Stage, act: Act, *ids: str) -> list[int]:
    return await play.db.change(queue.order, BY_TEST, act, ids)


async def waits(play: Stage, host: str = HOST) -> list[str]:
    return [one.action for one in await play.db.read(queue.waiting_for, host)]


async def answers(play: Stage, host: str, count: int = 0, problem: str | None = None, numbers: Sequence[int] | None = None) -> None:
    """The host is alive and answers all that it has not answered, or these."""
    await play.db.note(queue.beat, host)
    orders = await play.db.read(queue.waiting_for, host)
    chosen = [one for one in orders if numbers is None or one.id in numbers]
    await play.db.note(queue.answer, host, chosen, {one.username: count for one in chosen}, problem)


async def outcomes(play: Stage) -> list[str | None]:
    """Of the errands that tell what mail servers did."""
    return [outcome for (outcome,) in await raw.sql(play.db, "SELECT outcome FROM errands WHERE kind = 'queue' ORDER BY id")]


async def until(look: Callable[[], Awaitable[object]], expected: object) -> None:
    """Until it is so."""
    async with asyncio.timeout(LIMIT):
        while (found := await look()) != expected:
            print(found)
            await asyncio.sleep(0.05)


async def id_of(play: Stage, name: str = "Relay") -> str:
    return next(one.id for one in await play.credentials() if one.name == name)


async def test_a_host_holds_for_a_minute_after_its_answer_and_not_against_a_later_order(play: Stage) -> None:
    await make(play)
    relay = await id_of(play)
    await ordered(play, Act.HOLD, relay)
    assert await waits(play) == ["hold"]
    play.clock.passes(minutes=10)
    await answers(play, HOST, 3)
    play.clock.passes(seconds=59)
    assert await waits(play) == ["hold"]
    assert await waits(play, "mx2") == ["hold"]
    await answers(play, HOST, 5)
    play.clock.passes(seconds=2)
    assert await waits(play) == []
    [other] = await ordered(play, Act.HOLD, relay)
    await answers(play, HOST, 5)
    assert await waits(play) == ["hold"]
    await ordered(play, Act.COUNT, relay)
    assert await waits(play) == ["count", "hold"]
    await ordered(play, Act.RELEASE, relay)
    assert await waits(play) == ["count", "release"]
    standing = await play.db.read(queue.standing, [other])
    assert standing
    assert [(one.host, one.count) for one in standing.answered] == [(HOST, 5)]


async def test_what_is_held_again_keeps_no_newer_order_waiting(play: Stage) -> None:
    await make(play)
    relay = await id_of(play)
    for _ in range(queue.ORDERS_AT_ONCE):
        await ordered(play, Act.COUNT, relay)
    await answers(play, HOST)
    await raw.sql(play.db, "UPDATE queue_orders SET action = 'hold', username = username || id")
    await ordered(play, Act.RELEASE, relay)
    waiting = await waits(play)
    assert (waiting[0], len(waiting), set(waiting[1:])) == ("release", queue.ORDERS_AT_ONCE, {"hold"})


@pytest.mark.parametrize("choice", ["Suspend all", "Revoke all"])
async def test_what_a_whole_workspace_has_queued_is_held(play: Stage, choice: str) -> None:
    for name in ("Relay", "Printer", "Form"):
        await play.create(play.wanda, name)
    await play.create(play.wanda, "Gone")
    await play.db.change(credentials.delete, BY_TEST, await id_of(play, "Gone"))
    await play.db.note(queue.beat, HOST)
    await play.adam.types(play.mail, "/smtp revoke workspace:acme")
    await play.adam.sees_modal("Hold what they have queued")
    play.adam.picks("Do this", choice)
    play.adam.fills("Type its short name to confirm", "acme")
    await play.adam.submits()
    if choice == "Suspend all":
        await play.adam.sees_modal("mx1 has not answered yet")
    assert await waits(play) == ["hold"] * 3
    await answers(play, HOST, 2)
    if choice == "Suspend all":
        await play.adam.sees_modal("Queued mail: 6 held on mx1.")
        await play.adam.presses("Release…")
        await until(lambda: waits(play), ["release"] * 3)
        await answers(play, HOST, 2)
        await play.adam.sees_modal("6 released on mx1")
    else:
        await play.adam.sees_modal("Revoked all 3 credentials of Acme")
        await play.settled()
        play.clock.passes(seconds=66)
        await play.adam.sees("About 3 SMTP credentials:")
        await play.adam.sees("Queued mail: 6 held on mx1.")
    assert len(await play.events(action="queue.order", outcome="done")) == (6 if choice == "Suspend all" else 3)


async def test_what_a_host_that_comes_back_late_still_does(play: Stage) -> None:
    await make(play)
    relay = await id_of(play)
    for act in (Act.HOLD, Act.RELEASE, Act.DELETE, Act.COUNT):
        await ordered(play, act, relay)

    async def late() -> list[str]:
        return [one.action for one in await play.db.read(queue.waiting_for, HOST) if queue.is_late(one, play.clock())]

    play.clock.passes(hours=24)
    assert await late() == []
    play.clock.passes(seconds=1)
    assert await late() == ["release", "delete", "count"]
    assert len(await waits(play)) == 4
    play.clock.passes(days=29)
    assert await waits(play) == []
    await play.db.note(queue.forget_old)
    assert await raw.one(play.db, "SELECT count(*) FROM queue_orders") == 0


async def test_an_order_is_in_the_audit_log_and_takes_who_may(play: Stage) -> None:
    await make(play)
    relay = await id_of(play)
    await play.db.note(queue.beat, HOST)
    await ordered(play, Act.HOLD, relay)
    await answers(play, HOST, 2)
    await play.rex.types(play.lobby, f"/smtp revoke {(await play.credentials())[0].username}")
    await play.rex.sees_modal("Hold what it has queued")
    play.rex.ticks("Queued mail", "Hold what it has queued")
    await play.rex.submits()
    await answers(play, HOST, 2)
    shown = play.rex.read(await play.rex.sees_modal("2 held on mx1"))
    assert "An admin can release or delete it: @adam" in shown
    assert "[Release…]" not in shown
    assert [(one.user_id, one.subject, one.outcome) for one in await play.events(action="queue.order")] == [
        ("shell:test", "hold", "done"),
        (play.rex.id, "hold", "done"),
    ]
    assert (await play.db.read(audit.verify)).broken is None


async def test_releasing_and_deleting_takes_an_admin(play: Stage) -> None:
    await make(play)
    relay = await id_of(play)
    rex = Origin(Actor(play.rex.id, play.slack.world.team.id, groups={play.oncall.id: 0}), Surface.BUTTON, "ref")
    for act in (Act.RELEASE, Act.DELETE):
        with pytest.raises(NotAllowed):
            await play.db.change(queue.order, rex, act, [relay])
    assert await play.db.change(queue.order, rex, Act.HOLD, [relay])
    assert [(one.subject, one.outcome) for one in await play.events(action="queue.order")] == [
        ("release", "refused"),
        ("delete", "refused"),
        ("hold", "done"),
    ]
    assert await waits(play) == ["hold"]


async def revoke(play: Stage, *usernames: str) -> None:
    """As leaked, by rex."""
    message = await play.mia.posts(play.mail, " ".join(usernames))
    await play.rex.uses_shortcut("Revoke leaked credential", message)
    await play.rex.sees_modal("Hold what it has queued")
    await play.rex.submits()


async def test_the_result_says_what_each_mail_server_did(play: Stage) -> None:
    username, _ = await make(play)
    for host in ("mx1", "mx2", "mx3", "mx4"):
        await play.db.note(queue.beat, host)
    await revoke(play, username)
    await play.rex.sees_modal("mx1, mx2, mx3, mx4 have not answered yet")
    await answers(play, "mx1", 37)
    await play.rex.sees_modal("Queued mail: 37 held on mx1; mx2, mx3, mx4 have not answered yet.")
    await answers(play, "mx2")
    await answers(play, "mx4", problem="postsuper ended with 1")
    await play.rex.sees_modal("37 held on mx1; nothing on mx2; mx4 did nothing (postsuper ended with 1); mx3 has not answered yet.")
    play.clock.passes(seconds=16)
    await play.rex.sees_modal("mx3 has not answered.")
    await play.settled()
    play.clock.passes(minutes=2)
    await play.settled()
    assert await outcomes(play) == ["shown"]


async def test_who_closed_the_modal_is_told_once(play: Stage) -> None:
    username, _ = await make(play)
    await play.db.note(queue.beat, "mx1")
    await revoke(play, username)
    await play.rex.sees_modal("mx1 has not answered yet")
    await play.rex.closes()
    await answers(play, "mx1", 4)
    await play.settled()
    play.clock.passes(seconds=66)
    told = play.rex.read(await play.rex.sees("About Relay"))
    assert f"({username})" in told
    assert "Queued mail: 4 held on mx1." in told
    await until(lambda: outcomes(play), ["told"])
    play.clock.passes(hours=1)
    play.rex.reloads()
    await play.settled()
    assert await outcomes(play) == ["told"]


async def test_an_admin_releases_or_deletes_what_is_held(play: Stage) -> None:
    username, _ = await make(play)
    await play.db.note(queue.beat, "mx1")
    await revoke(play, username)
    await answers(play, "mx1", 4)
    await play.rex.sees_modal("4 held on mx1")
    await play.adam.types(play.mail, f"/smtp whois {username}")
    shown = await play.adam.sees("4 held on mx1", play.mail)
    await play.adam.presses("Release…", shown)
    await play.adam.sees("Told the mail servers to release it", play.mail)
    [number] = [one.id for one in await play.db.read(queue.waiting_for, "mx1") if one.action == "release"]
    await answers(play, "mx1", 4, numbers=[number])
    play.clock.passes(seconds=66)
    await play.adam.sees("4 released on mx1")
    await play.rex.types(play.mail, f"/smtp whois {username}")
    shown = await play.rex.sees("4 released on mx1", play.mail)
    assert "[Delete…]" not in play.rex.read(shown)
    assert "[Hold what it has queued]" in play.rex.read(shown)


@pytest.mark.parametrize("play", ["sqlite-socket"], indirect=True)
async def test_without_a_host_that_takes_orders_nothing_is_offered(play: Stage) -> None:
    username, _ = await make(play)
    await play.rex.types(play.lobby, f"/smtp revoke {username}")
    assert "Queued mail" not in play.rex.read(await play.rex.sees_modal("Revoke credentials"))


# --- the service ---
def interpreter(user: str) -> tuple[str, str]:
    """A Python that this account can run, with where it finds our code and what that needs: ours may be in a home folder."""
    where = ":".join([str(Path(__file__).parent.parent), *(path for path in sys.path if path.endswith("site-packages"))])
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        with contextlib.suppress(OSError):
            trying = [python, "-c", "import bot.cli, mailauth.queue"]
            if subprocess.run(trying, user=user, env={"PYTHONPATH": where}, cwd="/", capture_output=True, check=False).returncode == 0:
                return python, where
    return need(f"a Python that {user} can run")


@contextlib.asynccontextmanager
async def service(play: Stage, mx: Mx, user: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`smtp-bot queue serve` as a process, with the rights that its unit leaves it."""
    environment = os.environ | {"DATABASE_URL": play.database_url, "LOG_FORMAT": "json"}
    rights = "-all,+dac_read_search,+setuid,+setgid"
    confined = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}", "--no-new-privs"]
    python, environment["PYTHONPATH"] = interpreter(user)
    command = [*confined, python, "-m", "bot", "queue", "serve", "--user", user, "--name", "mx1", "-c", mx.instance.config]
    process = await asyncio.create_subprocess_exec(*command, env=environment, cwd="/", stderr=asyncio.subprocess.PIPE)
    assert process.stderr
    try:
        while b'"ready"' not in (line := await asyncio.wait_for(process.stderr.readline(), LIMIT)):
            print(line.decode())  # pytest shows it when a test fails
            assert line, "it ended"
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await asyncio.wait_for(process.communicate(), LIMIT)


def children(pid: int) -> list[tuple[int, int, str]]:
    """Of each child: its number, whom it runs as, and its capabilities."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            fields = dict(line.split(":\t", 1) for line in Path(f"/proc/{child}/status").read_text().splitlines())
            found.append((int(child), int(fields["Uid"].split()[1]), fields["CapEff"]))
    return found


@pytest.fixture(params=["sqlite", "postgres"])
async def shared(request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[Stage]:
    """The bot, with a store that the account of the queue service reaches."""
    url = sqlite_store(folder / "bot.db") if request.param == "sqlite" else str(request.getfixturevalue("postgres_url"))
    async with stage(url, "socket") as play:
        for name in ("", "bot.db", "bot.db-wal", "bot.db-shm") if play.db.sqlite else ():
            (folder / name).chmod(0o777)
        yield play


async def test_what_leaked_is_held_in_a_real_postfix(shared: Stage, folder: Path) -> None:
    """With log-ins, the service in the rights of its unit, a revoke in Slack, and an admin who releases."""
    play = shared
    username, password = await make(play)
    other, others = await make(play, "Other")
    async with authd(play, folder) as (changes, _):
        with mail_servers.postfix(folder, "submission-authd.cf", changes, more=STOPPED) as running:
            mx = Mx(running.submission, Instance(str(folder / "postfix"), folder / "queue"))
            for name, secret, messages in ((username, password, 3), (other, others, 1)):
                with Session(running.submission) as session:
                    assert await asyncio.to_thread(session.log_in, name, secret) == 235
                    for _ in range(messages):
                        await asyncio.to_thread(session.send)
            assert await asyncio.to_thread(mx.where) == {"deferred": 4}
            async with service(play, mx, "nobody") as process:
                [(_, uid, capabilities)] = children(process.pid)
                assert (uid, int(capabilities, 16)) == (65534, 0)
                await revoke(play, username)
                await play.rex.sees_modal("3 held on mx1")
                assert await asyncio.to_thread(mx.where) == {"deferred": 1, "hold": 3}
                assert await asyncio.to_thread(mx.usernames, "deferred") == [other]
                await play.adam.types(play.mail, f"/smtp whois {username}")
                await play.adam.presses("Release…", await play.adam.sees("3 held on mx1", play.mail))
                await play.settled()
                await until(lambda: waits(play), [])
                assert await asyncio.to_thread(mx.where) == {"deferred": 4}
                await play.adam.types(play.mail, f"/smtp whois {username}")
                await play.adam.sees("3 released on mx1", play.mail)


def lives(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.parametrize("play", ["sqlite-socket"], indirect=True)
async def test_the_service_ends_with_either_of_its_processes(play: Stage, mx: Mx) -> None:
    async with service(play, mx, "root") as process:
        [(child, *_)] = children(process.pid)
        os.kill(child, 9)
        assert await asyncio.wait_for(process.wait(), LIMIT) == 1
    async with service(play, mx, "root") as process:
        [(child, *_)] = children(process.pid)
        process.kill()
        await process.wait()
        await until(lambda: asyncio.to_thread(lives, child), False)

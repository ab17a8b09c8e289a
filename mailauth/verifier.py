"""Whether a username and a password may log in now.

Every answer reads the credential's row after the question came, so that what was deleted, rotated out, suspended or has expired is refused
from the next log-in on, on every replica. The row's tag refuses a wrong password in the time of that look-up, whether the username exists
or not. Only the Argon2 computation of a right one is remembered, bound to the hash that it fitted.
"""

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b

import structlog
from prometheus_client import Counter, Gauge, Histogram

from mailauth.fair import Allowance, Bounded, Line, Reporter, prefix
from mailauth.gate import Gate, allowed_from
from mailauth.ledger import Ledger
from mailauth.lookup import LookUps
from mailauth.sessions import Sessions
from storage import logins, passwords
from storage.database import Database, cause
from storage.journal import Journal
from storage.logins import Known, Stored
from storage.models import State
from storage.passwords import Hasher, Parsed
from storage.past import Past
from storage.typed import login_password, our_username

REMEMBERED = 50_000  # verified passwords; about 150 bytes each
PATIENCE = 60.0  # seconds that a log-in waits for its Argon2 computation; Postfix hangs up after 10, and then nothing is computed
REFUSALS = (100.0, 10.0)  # at once, and a second, that a prefix is given without delay
HELD_BACK = 1.0  # seconds that further ones are held back
ALL_REFUSALS = (200.0, 500.0)  # at once, and a second, that are given without delay in all
PAUSE = 0.1  # seconds that further ones are held back while right passwords are computed, and for `RECENT` seconds after
RECENT = 1.0
FLUSH = 1.0  # seconds between two flushes of what was used, and between two heartbeats
FLUSH_TIMEOUT = 10.0  # seconds
REPORT = 10.0  # seconds between two log lines about refusals that had none
TIDY = 300.0  # seconds between two clean-ups

log = structlog.get_logger(__name__)
answers = Counter("smtp_authd_answers_total", "Log-ins answered", ["answer", "why"])
took = Histogram("smtp_authd_seconds", "From a log-in's arrival to its answer", buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3))
waiting = Gauge("smtp_authd_argon2_waiting", "Argon2 computations that wait or run")
heartbeat_age = Gauge("smtp_authd_heartbeat_age_seconds", "Since this process last wrote into the store that it lives")
clock_skew = Gauge("smtp_authd_clock_skew_seconds", "How far this machine's clock is ahead of the database's")


class Answer(StrEnum):
    YES = "yes"
    NO = "no"
    LATER = "later"
    """Neither can be said now."""


@dataclass(frozen=True, slots=True)
class Result:
    answer: Answer
    why: str
    """A word or two for the log; not for whoever asks."""
    username: str | None
    """As the store spells it; None for what does not look like one of ours, which may be a password typed into the wrong field."""
    workspace: str | None = None
    """The slug, with a yes."""
    wait: float = 0.0
    """Seconds for which the answer is to be held back, because many refusals went out: to this prefix, or in all."""


@dataclass(slots=True)
class _Computation:
    """One for all who ask the same at once."""

    task: asyncio.Task[bool | None]
    asking: int = 0


class Verifier:
    """Answers log-ins, and writes down what was used. Its `gate` answers what is asked about the sessions that they open.

    Args:
        monotonic: seconds.
        at_once: Argon2 computations; by default the number of cores.
        journal: of what must never work again, whatever the store says.
        sessions: shared with other workers; by default its own.
        release: of this program, for the heartbeat.
        remembered: right passwords that are known again without Argon2.
    """

    def __init__(
        self,
        db: Database,
        hasher: Hasher,
        monotonic: Callable[[], float] = time.monotonic,
        at_once: int = os.cpu_count() or 1,
        journal: Journal | None = None,
        sessions: Sessions | None = None,
        release: str | None = None,
        remembered: int = REMEMBERED,
    ) -> None:
        self._db = db
        self._hasher = hasher
        self._now = monotonic
        self._look_up = LookUps(db, logins.look_up)
        self._look_up_sending = LookUps(db, logins.look_up_sending)
        self._key = secrets.token_bytes(32)
        self._right: Bounded[bytes, None] = Bounded(remembered)
        self._line: Line[asyncio.Future[bool]] = Line(at_once, PATIENCE)
        self._computed = -RECENT
        """When somebody's right password was last computed, or waited for it."""
        self._computations: dict[bytes, _Computation] = {}
        self._refusals = Allowance(*REFUSALS)
        self._all_refusals = Allowance(*ALL_REFUSALS, most=1)
        self._reporter = Reporter()
        self._reported = 0.0
        self._ledger = Ledger(db)
        self._sessions = sessions or Sessions()
        self.gate = Gate(self._known_sending, self._ledger, self._sessions, self._reporter, monotonic)
        self.ends_sessions = False
        """Mail servers can ask the gate."""
        self._release = release
        self._noting: set[asyncio.Task[None]] = set()
        self.process = secrets.token_hex(16)
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self.started_at = db.clock()
        self.past = Past(db, journal, f"authd {self.name}", self.process) if journal else None
        self._beaten = monotonic()
        heartbeat_age.set_function(lambda: self._now() - self._beaten)

    async def check(self, username: str, password: str, remote: str | None, service: str) -> Result:
        """Never raises what the database raises: that is "later".

        Args:
            username, password: as they were typed.
            remote: the address of whoever logs in, as the mail server names it.
            service: the protocol, such as `smtp`.
        """
        started = self._now()
        name = our_username(username)
        of = prefix(remote)
        workspace = wrong = None
        try:
            answer, why, known = await self._decide(name, login_password(password), remote, of, service)
            workspace = known.workspace if known and answer is Answer.YES else None
        except Exception as error:
            answer, why, wrong = Answer.LATER, "database", cause(error)
        took.observe(self._now() - started)
        self.report(answer, why, name, remote, service, wrong)
        wait = self._hold_back(of) if answer is Answer.NO else 0.0
        return Result(answer, why, name, workspace, wait)

    def report(self, answer: Answer, why: str, username: str | None, remote: str | None, service: str, error: str | None = None) -> None:
        """Counts the answer, and says in a line of the log what was not granted, so many for each address prefix.

        Args:
            username: one of ours, or None.
            error: what was in the way.
        """
        answers.labels(answer, why.replace("'", "").replace(" ", "_")).inc()
        if answer is not Answer.YES and self._reporter.wanted(prefix(remote), self._now()):
            facts = {"username": username, "why": why, "address": remote, "service": service} | ({"error": error} if error else {})
            log.info("log-in refused" if answer is Answer.NO else "log-in not answered", **facts)

    def _hold_back(self, of: str) -> float:
        """Seconds that a refusal waits, so that a flood of them leaves room for those who may log in."""
        now = self._now()
        if not self._refusals.take(of, now):
            return HELD_BACK
        within_limit = self._all_refusals.take("", now)
        return 0.0 if within_limit or now - self._computed > RECENT else PAUSE

    async def _decide(self, name: str | None, password: str, remote: str | None, of: str, service: str) -> tuple[Answer, str, Known | None]:
        parsed = passwords.parse(password)
        if name is None:
            return Answer.NO, "not a username of ours", None
        if parsed is None:
            return Answer.NO, "not a password of ours", None
        if parsed.credential_id not in (None, name[-passwords.ID_LENGTH :]):
            return Answer.NO, "another credential's password", None
        known = await self._known(name)
        if known is None:
            return Answer.NO, "unknown username", None
        stopped = known.stopped(known.now)
        if stopped:
            if known.state != State.PENDING:
                self._ledger.refused(known)
            return Answer.NO, stopped, known
        tag = passwords.tag(parsed.canonical)
        fitting = [stored for stored in known.passwords(known.now) if stored.tag in (None, tag)]
        if not fitting:
            return Answer.NO, "wrong password", known
        if not allowed_from(known, remote):
            return Answer.NO, "address not allowed", known
        for stored in fitting:
            if self._digest(stored.phc, parsed.canonical) in self._right:
                self._used(known, tag, remote, service, stored.previous)
                return Answer.YES, "remembered", known
        for stored in fitting:
            fits = await self._compute(stored, parsed.canonical, of)
            if fits is None:
                return Answer.LATER, "too busy", known
            if fits:
                return await self._right_password(name, parsed, stored, remote, service)
        return Answer.NO, "wrong password", known

    async def _known(self, name: str) -> Known | None:
        """The credential as the store has it now, without what the journal says must not work."""
        return await self._not_ended(await self._look_up(name))

    async def _known_sending(self, name: str) -> Known | None:
        """With what it has sent, if it has limits."""
        return await self._not_ended(await self._look_up_sending(name))

    async def _not_ended(self, known: Known | None) -> Known | None:
        return await self.past.without_ended(known) if known and self.past else known

    async def _right_password(
        self, name: str, parsed: Parsed, stored: Stored, remote: str | None, service: str
    ) -> tuple[Answer, str, Known | None]:
        """The password fits the row as it was before the computation; whether it still works is asked once more."""
        known = await self._known(name)
        stopped = known.stopped(known.now) if known else "deleted"
        if known is None or stopped:
            return Answer.NO, stopped or "", known
        if stored.phc not in [other.phc for other in known.passwords(known.now)] or not allowed_from(known, remote):
            return Answer.NO, "changed meanwhile", known
        self._right.keep(self._digest(stored.phc, parsed.canonical), None)
        self._used(known, passwords.tag(parsed.canonical), remote, service, stored.previous)
        if stored.tag is None or (not stored.previous and self._hasher.needs_rehash(stored.phc)):
            task = asyncio.create_task(self._note(known.id, stored, parsed.canonical))
            self._noting.add(task)
            task.add_done_callback(self._noting.discard)
        return Answer.YES, "password", known

    async def _note(self, credential_id: str, stored: Stored, canonical: str) -> None:
        """Gives the row its tag, and its hash the present parameters."""
        try:
            outdated = not stored.previous and self._hasher.needs_rehash(stored.phc)
            new = await self._hasher.hash(canonical) if outdated else None
            await self._db.note(logins.note_verified, credential_id, stored.phc, passwords.tag(canonical), new)
        except Exception as error:
            log.warning("hash not renewed", error=cause(error))

    def _digest(self, phc: str, canonical: str) -> bytes:
        """A keyed digest of the password, bound to the hash that it fitted; worth nothing without this process's key."""
        return blake2b(f"{phc}:{canonical}".encode(), key=self._key, digest_size=24).digest()

    # --- Argon2, in turns ---
    async def _compute(self, stored: Stored, canonical: str, of: str) -> bool | None:
        """Whether the password fits; None when the turn did not come in time. Given up when all who ask are gone."""
        key = self._digest(stored.phc, canonical)
        computation = self._computations.get(key)
        if computation is None:
            task = asyncio.create_task(self._compute_in_turn(stored, canonical, of))
            computation = self._computations[key] = _Computation(task)
        computation.asking += 1
        try:
            return await asyncio.shield(computation.task)
        finally:
            computation.asking -= 1
            if computation.task.done() or not computation.asking:
                computation.task.cancel()
                if self._computations.get(key) is computation:
                    del self._computations[key]

    async def _compute_in_turn(self, stored: Stored, canonical: str, of: str) -> bool | None:
        turn = asyncio.get_running_loop().create_future()
        self._line.join(turn, of, stored.tag is not None, self._now())
        self._computed = self._now()
        self._go_on()
        try:
            if not await turn:
                return None
        except asyncio.CancelledError:
            self._line.leave(turn)
            if turn.done() and not turn.cancelled() and turn.result():
                self._finished()
            raise
        computing = asyncio.ensure_future(self._hasher.verify(stored.phc, canonical))
        computing.add_done_callback(lambda _: self._finished())  # not before the thread is free again, whoever hung up
        return await asyncio.shield(computing)

    def _finished(self) -> None:
        self._computed = self._now()
        self._line.done()
        self._go_on()

    def _go_on(self) -> None:
        for late in self._line.expired(self._now()):
            if not late.done():
                late.set_result(False)
        while (turn := self._line.next()) is not None:
            if turn.done():
                self._line.done()
            else:
                turn.set_result(True)
        waiting.set(len(self._line) + self._line.computing)

    # --- writing down ---
    def _used(self, known: Known, tag: int, remote: str | None, service: str, previous: bool) -> None:
        self._ledger.logged_in(known, remote, service, previous)
        self._sessions.logged_in(known.username, remote, tag, self._now())

    async def flush(self, stopped: bool = False) -> None:
        """Writes down what was used since the last time, and that this process lives: the one also when the other fails."""
        failed: Exception | None = None
        try:
            await self._ledger.write(wait=stopped)
        except Exception as error:
            failed = error
        skew = await self._db.note(logins.beat, self.process, self.name, self.started_at, stopped, self._release, self.ends_sessions)
        self._beaten = self._now()
        clock_skew.set(skew.total_seconds())
        if failed:
            raise failed

    async def keep_flushing(self, alive: Callable[[], None] = lambda: None) -> None:
        """Flushes and tidies for ever, whatever the database does.

        Args:
            alive: called each time that the database answered or said that it cannot, and not while it is silent.
        """
        tidied = -TIDY
        failing: str | None = None
        while True:
            wrong = None
            try:
                async with asyncio.timeout(FLUSH_TIMEOUT):
                    await self.flush()
                    if self._now() - tidied >= TIDY:
                        tidied = self._now()
                        await self._db.note(logins.forget_old)
            except TimeoutError:
                wrong = "the database is silent"
            except Exception as error:
                wrong = cause(error)
                alive()
            else:
                alive()
            if wrong and wrong != failing:
                log.warning("use not written down, tried again every second", error=wrong)
            elif failing and not wrong:
                log.info("use is written down again")
            failing = wrong
            self._report()
            await asyncio.sleep(FLUSH)

    def _report(self) -> None:
        if self._now() - self._reported >= REPORT and (count := self._reporter.take_left_out()):
            self._reported = self._now()
            log.info("refused log-ins without a line of their own", count=count)

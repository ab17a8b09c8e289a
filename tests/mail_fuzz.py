"""Generated input for the two protocol readers: `python -m tests.mail_fuzz --inputs 1000000`.

Every input is a connection's worth of bytes, well-formed or nearly so, half of it then damaged, cut into chunks anywhere. Required of
every one: no exception, bounded memory, every handed-out request bounded, every answer well-formed, and no OK that nobody granted.
Required of all: a tenth of them get as far as a complete log-in.
"""

import argparse
import random
import re
import time
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass

from mailauth import policy, protocol

ANSWER = re.compile(
    rb"FAIL\t\d{1,10}((\tuser=smtp-[a-z0-9-]+)?(\treason=[ -~]+)?|\ttemp\tcode=temp_fail)"
    rb"|CONT\t\d{1,10}\t[A-Za-z0-9+/=]*|OK\t\d{1,10}\tuser=granted"
)
WORDS = [b"AUTH", b"CONT", b"CANCEL", b"VERSION", b"CPID", b"MECH", b"OK", b"FAIL", b"QUIT", b"", b"auth", b"A" * 9000, b"\xff\xfe"]
IDS = [b"1", b"2", b"3", b"0", b"-1", b"4294967295", b"4294967296", b"99999999999999999999", b"1x", b"", b"\xd9\xa1", b" 1"]
MECHANISMS = [b"PLAIN", b"LOGIN", b"plain", b"CRAM-MD5", b"", b"PLAIN\0"]
PAIRS = [
    b"\0user\0password",
    b"a\0user\0password",
    b"user\0password",
    b"\0\0",
    b"\0user\0",
    b"\0user\0pass\0word",
    b"\0\xff\0\xfe",
    b"user",
    b"",
]
PARAMETERS = [
    b"service=smtp",
    b"service=",
    b"rip=127.0.0.1",
    b"rip=x y",
    b"lip=::1",
    b"secured",
    b"nologin",
    b"unknown=1",
    b"=",
    b"resp",
    b"",
]
ATTRIBUTES = [
    b"request=smtpd_access_policy", b"request=other", b"protocol_state=MAIL", b"protocol_state=RCPT", b"sasl_username=smtp-acme-00000000",
    b"sasl_username=", b"sasl_username=\xff", b"sender=a@b", b"no attribute", b"=", b"a=" + b"b" * 9000, b"", b"",
]  # fmt: skip


@dataclass
class Tried:
    inputs: int = 0
    with_log_in: int = 0
    """Those in which at least one log-in was complete."""


def auth_input(chance: random.Random) -> bytes:
    if chance.random() < 0.5:
        lines = [b"VERSION\t1\t%d" % chance.randrange(4), b"CPID\t%d" % chance.randrange(1, 5)]
        lines += [line for number in range(chance.randrange(1, 6)) for line in _log_in(chance, number)]
        lines += [_auth_line(chance) for _ in range(chance.randrange(2))]
        data = b"\n".join(lines) + b"\n"
        return _damage(chance, data) if chance.random() < 0.5 else data
    lines = [b"VERSION\t1\t%d" % chance.randrange(4), b"CPID\t%d" % chance.randrange(5)] if chance.random() < 0.9 else []
    lines += [_auth_line(chance) for _ in range(chance.randrange(1, 8))]
    return _damage(chance, b"\n".join(lines) + chance.choice([b"\n", b"\n", b"\r\n", b""]))


def _log_in(chance: random.Random, number: int) -> list[bytes]:
    """The lines of a log-in that is complete, in one of the ways in which clients do it; some are cancelled."""
    pick = chance.choice
    username, password = (pick([b"user", b"smtp-acme-00000000", b"a@b", b"D\\u ", chance.randbytes(3).hex().encode()]) for _ in range(2))
    parameters = [pick(PARAMETERS[2:]) for _ in range(chance.randrange(3))]
    begin = b"\t".join([b"AUTH", b"%d" % number, mechanism := pick([b"PLAIN", b"LOGIN", b"plain"]), b"service=smtp", *parameters])
    if mechanism == b"LOGIN":
        lines = [begin, *(b"CONT\t%d\t%b" % (number, b64encode(part)) for part in (username, password))]
    else:
        response = b64encode(b"%b\0%b\0%b" % (pick([b"", username]), username, password))
        lines = [begin + b"\tresp=" + response] if chance.random() < 0.7 else [begin, b"CONT\t%d\t%b" % (number, response)]
    return lines + ([b"CANCEL\t%d" % number] if chance.random() < 0.1 else [])


def policy_input(chance: random.Random) -> bytes:
    lines = [chance.choice(ATTRIBUTES) for _ in range(chance.randrange(1, 12))]
    return _damage(chance, b"\n".join([ATTRIBUTES[0], *lines, b"", b""]))


def _auth_line(chance: random.Random) -> bytes:
    pick = chance.choice
    response = (
        b64encode(pick(PAIRS)) if chance.random() < 0.8 else pick([b"=", b"====", b"AAA", b"\xff", b"A" * 12000, b"A" * 90000, b"dXNlcg=="])
    )
    kind = chance.random()
    if kind < 0.5:
        parameters = [pick(PARAMETERS) for _ in range(chance.randrange(4))]
        tail = [b"resp=" + response] if chance.random() < 0.7 else []
        service = [b"service=smtp"] if chance.random() < 0.9 else []
        request_id = b"%d" % chance.randrange(6) if chance.random() < 0.8 else pick(IDS)
        return b"\t".join(
            [b"AUTH", request_id, pick(MECHANISMS[:2] if chance.random() < 0.8 else MECHANISMS), *service, *parameters, *tail]
        )
    if kind < 0.75:
        return b"\t".join([b"CONT", b"%d" % chance.randrange(6), response])
    if kind < 0.85:
        return b"CANCEL\t" + pick(IDS)
    return b"\t".join(pick([*WORDS, *IDS]) for _ in range(chance.randrange(1, 5)))


def _damage(chance: random.Random, data: bytes) -> bytes:
    if chance.random() < 0.5 or not data:
        return data
    damaged = bytearray(data)
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(damaged) + 1)
        kind = chance.randrange(4)
        if kind == 0:
            damaged[at : at + 1] = bytes([chance.choice([0, 1, 9, 10, 13, 61, 127, 255, chance.randrange(256)])])
        elif kind == 1:
            del damaged[at : at + chance.randrange(1, 20)]
        elif kind == 2:
            damaged[at:at] = chance.randbytes(chance.randrange(1, 30))
        else:
            damaged[at:at] = damaged[max(0, at - 40) : at]
    return bytes(damaged)


def _chunks(chance: random.Random, data: bytes) -> list[bytes]:
    if chance.random() < 0.3:
        return [data]
    cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.randrange(1, 6)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def check_auth(chance: random.Random, tried: Tried) -> None:
    """One connection to the authentication reader."""
    conversation = protocol.Conversation(pid=7, connection_id=1, cookie="0" * 32)
    greeting = conversation.take()
    assert greeting.startswith(b"VERSION\t1\t2\nMECH\t")
    assert greeting.endswith(b"DONE\n")
    granted, sent, now = 0, bytearray(), 0.0
    open_logins: list[protocol.Login] = []
    largest = 0
    complete = False
    for chunk in _chunks(chance, auth_input(chance)):
        largest = max(largest, len(chunk))
        now += chance.choice([0.0, 0.1, 400.0])
        logins = conversation.receive(chunk, now)
        complete = complete or bool(logins)
        open_logins += logins
        assert len(conversation._buffer) <= protocol.MAX_LINE + largest + 1
        assert conversation.answering <= protocol.MAX_OPEN + protocol.MAX_ASIDE
        assert len(conversation._begun) <= protocol.MAX_WAITING
        while open_logins and chance.random() < 0.6:
            login = open_logins.pop(chance.randrange(len(open_logins)))
            assert 0 < len(login.username) <= protocol.MAX_FIELD
            assert 0 < len(login.password) <= protocol.MAX_FIELD
            assert "\0" not in login.username + login.password
            if len(login.password) >= 8:  # a shorter one may stand there by chance
                assert login.password not in repr(login).replace(repr(login.username), "")
            if chance.random() < 0.2:
                conversation.set_aside(login)
            answer = chance.randrange(4)
            if answer == 0:
                granted += 1
                conversation.grant(login, "granted")
            elif answer == 1:
                conversation.refuse(login, chance.choice([None, "smtp-acme-00000000"]))
            elif answer == 2:
                conversation.refuse_plaintext(login, None)
            else:
                conversation.fail_temporarily(login)
        sent += conversation.take()
    conversation.hang_up()
    assert conversation.answering == 0
    tried.with_log_in += complete
    oks = 0
    for line in bytes(sent).split(b"\n")[:-1]:
        assert ANSWER.fullmatch(line), line
        oks += line.startswith(b"OK")
    assert oks <= granted


def check_policy(chance: random.Random, _tried: Tried) -> None:
    """One connection to the policy reader."""
    reader = policy.PolicyReader()
    for chunk in _chunks(chance, policy_input(chance)):
        for request in reader.receive(chunk):
            assert len(request.username) <= policy.MAX_LINE
        while reader.closed is None and reader.receive(b""):
            pass
        assert len(reader._buffer) <= policy.MAX_LINE + len(chunk)
        assert reader._size <= policy.MAX_REQUEST
    assert reader.closed is None or not reader._buffer


CHECKS: list[Callable[[random.Random, Tried], None]] = [check_auth, check_auth, check_auth, check_policy]


def run(inputs: int, seed: int) -> Tried:
    """Raises AssertionError, or what a reader raised, with the seed of the input that did it."""
    tried = Tried()
    for number in range(inputs):
        key = f"{seed}-{number}"
        tried.inputs += 1
        try:
            CHECKS[number % len(CHECKS)](random.Random(key), tried)
        except Exception as error:
            raise AssertionError(f"input {key} broke the reader: {type(error).__name__}: {error}") from error
    return tried


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    started = time.monotonic()
    tried = run(arguments.inputs, arguments.seed)
    reached = f"{tried.with_log_in} with a complete log-in"
    print(f"{tried.inputs} generated inputs ({reached}) in {time.monotonic() - started:.0f} s: no crash, no unbounded memory, no OK")
    if tried.with_log_in < tried.inputs / 10:
        raise SystemExit("fewer than a tenth got as far as a complete log-in")


if __name__ == "__main__":
    main()

"""Who computes next, and who is told so late: by the network that they come from."""

import random

import pytest

from mailauth.fair import Allowance, Line, Reporter, prefix


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.254", True),
        ("192.0.2.1", "192.0.3.1", False),
        ("2001:db8::1", "2001:db8::ffff:1:2:3", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:192.0.2.9", "192.0.2.1", True),
        ("::ffff:c000:209", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        (None, "", True),
        (None, "x", True),
        (None, "192.0.2.1", False),
        (None, "1.2.3.4.5", True),
        ("192.0.2.1/24", None, True),
    ],
)
def test_addresses_count_as_networks(one: str | None, other: str | None, same: bool) -> None:
    assert (prefix(one) == prefix(other)) is same


def test_lanes_take_turns_whatever_their_length() -> None:
    line: Line[str] = Line(at_once=1, patience=60)
    for number in range(1000):
        line.join(f"flood {number}", "flood", True, 0.0)
    for name in ("anna", "bert"):
        line.join(name, name, True, 1.0)
    order = []
    while (item := line.next()) is not None:
        order.append(item)
        line.done()
    assert order[:4] == ["flood 0", "anna", "bert", "flood 1"]
    assert len(order) == 1002


def test_the_sure_ones_come_first() -> None:
    line: Line[str] = Line(at_once=1, patience=60)
    for number in range(100):
        line.join(f"guess {number}", f"network {number}", False, 0.0)
    line.join("sure", "network 1", True, 1.0)
    assert line.next() == "sure"


def test_no_more_than_so_many_compute_at_once() -> None:
    line: Line[int] = Line(at_once=2, patience=60)
    for number in range(3):
        line.join(number, "lane", True, 0.0)
    assert [line.next(), line.next(), line.next()] == [0, 1, None]
    line.done()
    assert line.next() == 2


def test_time_in_the_line_is_bounded_and_not_their_number() -> None:
    line: Line[int] = Line(at_once=1, patience=60)
    for number in range(100_000):
        line.join(number, f"lane {number % 10}", True, float(number >= 50_000))
    assert line.expired(59.9) == []
    assert line.expired(60.0) == list(range(50_000))
    line.leave(70_000)
    line.leave(70_000)
    assert len(line.expired(61.0)) == 49_999
    assert (len(line), line.next()) == (0, None)


def test_a_line_forgets_nobody_and_serves_nobody_twice() -> None:
    chance = random.Random(7)
    line: Line[int] = Line(at_once=3, patience=5)
    waiting: set[int] = set()
    computing = 0
    for step in range(20_000):
        match chance.randrange(5):
            case 0 | 1:
                line.join(step, str(chance.randrange(20)), chance.random() < 0.5, step / 100)
                waiting.add(step)
            case 2:
                if (item := line.next()) is not None:
                    waiting.remove(item)
                    computing += 1
            case 3 if computing:
                line.done()
                computing -= 1
            case _:
                if waiting and chance.random() < 0.2:
                    gone = chance.choice(sorted(waiting))
                    line.leave(gone)
                    waiting.remove(gone)
                waiting.difference_update(line.expired(step / 100))
        assert len(line) == len(waiting)
        assert line.computing == computing <= 3


def test_an_allowance_fills_up_again_and_forgets_the_oldest() -> None:
    allowance = Allowance(burst=2, rate=0.5, most=2)
    assert [allowance.take("a", now) for now in (0.0, 0.0, 0.0, 1.0, 2.0, 2.0)] == [True, True, False, False, True, False]
    allowance.take("b", 2.0)
    allowance.take("c", 2.0)
    assert allowance.take("a", 2.0)


def test_log_lines_are_bounded_by_network_and_in_all_and_the_rest_is_counted() -> None:
    reporter = Reporter(a_prefix=(2, 0.1), in_all=(5, 1))
    assert [reporter.wanted("a", 0.0) for _ in range(4)] == [True, True, False, False]
    assert sum(reporter.wanted(str(number), 0.0) for number in range(100)) == 3
    assert reporter.take_left_out() == 99
    assert reporter.take_left_out() == 0

"""The one way to Slack: whatever is on the wire, a call ends with ok, refused or away."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from multidict import CIMultiDict
from structlog.testing import capture_logs
from yarl import URL

from bot.new_password import Outcome, hand_over
from bot.slack import LONGEST_RETRY, TRIES, Away, Ok, Posted, Refused, Reply, Slack, View, judge, proxy_for
from tests.answers import Asked, Wire, raw, says, wire

PASSWORD = "smtp1-the-password"
MESSAGE = {"text": "Your password is ready.", "blocks": [{"type": "section", "text": PASSWORD}]}
VIEW = {"type": "modal", "blocks": []}
PAGE = "<html><body>Sign in to the network</body></html>"


class Naps:
    """A sleep that takes no time and remembers how long it was."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)


def done() -> asyncio.Future[None]:
    """Nothing has to be waited for."""
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    ready.set_result(None)
    return ready


@pytest.fixture
async def slack() -> AsyncIterator[Wire]:
    async with wire() as made:
        yield made


@pytest.fixture
def naps() -> Naps:
    return Naps()


@pytest.fixture
async def bot(slack: Wire, naps: Naps) -> AsyncIterator[Slack]:
    made = Slack("xoxb-token", slack.api_url, naps)
    yield made
    await made.close()


# --- through a proxy ---
async def test_a_call_goes_through_the_proxy_that_the_environment_names(slack: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", slack.url.replace("http://", "http://me:secret@"))
    slack.script = [says(ok=True, channel="C1", ts="1.1")]
    through = Slack("xoxb-token", "http://slack.example/api/")
    try:
        assert isinstance(await through.post_message("C1", MESSAGE), Ok)
    finally:
        await through.close()
    assert [one.path for one in slack.asked] == ["http://slack.example/api/chat.postMessage"]
    assert slack.asked[0].headers["proxy-authorization"] == "Basic bWU6c2VjcmV0"
    assert slack.asked[0].headers["authorization"] == "Bearer xoxb-token"


@pytest.mark.parametrize(
    ("address", "no_proxy", "proxy"),
    [
        ("https://slack.com", "", "http://secure:2"),
        ("https://slack.com", "example.com, slack.com", None),
        ("https://hooks.slack.com", "slack.com", None),
        ("https://slack.com", "127.0.0.1", "http://secure:2"),
        ("http://127.0.0.1:8080", "127.0.0.1", None),
        ("http://slack.example", "", "http://plain:1"),
        ("wss://wss-primary.slack.com", "", "http://secure:2"),
        ("wss://wss-primary.slack.com", "*", None),
        ("ws://slack.example", "", "http://plain:1"),
    ],
)
def test_the_environment_names_a_proxy_and_what_needs_none(
    address: str, no_proxy: str, proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("http_proxy", "http://plain:1"), ("https_proxy", "http://secure:2"), ("no_proxy", no_proxy)):
        monkeypatch.setenv(name, value)
    assert proxy_for(URL(address)) == proxy


# --- every kind of wrong answer ---
UNCLEAR, REFUSED, DELIVERED = Outcome.UNCLEAR, Outcome.REFUSED, Outcome.DELIVERED
WRONG: dict[str, tuple[bytes | None, Outcome]] = {
    "a proxy's page": (raw(200, PAGE, "text/html"), UNCLEAR),
    "a proxy's page typed as JSON": (raw(200, PAGE), UNCLEAR),
    "empty": (raw(200, ""), UNCLEAR),
    "no content": (raw(204, ""), UNCLEAR),
    "null": (raw(200, "null"), UNCLEAR),
    "a list": (raw(200, "[]"), UNCLEAR),
    "a list with ok": (raw(200, '[{"ok":true}]'), UNCLEAR),
    "a number": (raw(200, "1"), UNCLEAR),
    "a string": (raw(200, '"ok"'), UNCLEAR),
    "an empty object": (raw(200, "{}"), UNCLEAR),
    "ok as text": (raw(200, '{"ok":"true"}'), UNCLEAR),
    "ok as number": (raw(200, '{"ok":1}'), UNCLEAR),
    "ok in a page": (raw(200, '<p>"ok":true</p>', "text/html"), UNCLEAR),
    "not ok without a word": (raw(200, '{"ok":false}'), UNCLEAR),
    "not ok with a sentence": (raw(200, '{"ok":false,"error":"Something broke"}'), UNCLEAR),
    "not ok with a list": (raw(200, '{"ok":false,"error":["used_url"]}'), UNCLEAR),
    "broken JSON": (raw(200, '{"ok":true'), UNCLEAR),
    "deep JSON": (raw(200, "[" * 100_000), UNCLEAR),
    "no UTF-8": (raw(200, b'{"ok":\xff\xfe}'), UNCLEAR),
    "a body that breaks off": (raw(200, "ok", Connection="close").replace(b"Length: 2", b"Length: 9"), UNCLEAR),
    "a lie about compression": (raw(200, '{"ok":true}', Content_Encoding="gzip"), UNCLEAR),
    "no HTTP": (b"220 mail.example.com ESMTP\r\n", UNCLEAR),
    "a cut header": (b"HTTP/1.1 200 OK\r\nContent-", UNCLEAR),
    "hung up": (None, UNCLEAR),
    "ok with status 201": (raw(201, '{"ok":true}'), UNCLEAR),
    "ok with status 500": (raw(500, '{"ok":true}'), UNCLEAR),
    "ok in plain text with status 500": (raw(500, "ok", "text/plain"), UNCLEAR),
    "a redirect": (raw(302, "", Location="/elsewhere"), UNCLEAR),
    "500": (raw(500, "oops", "text/plain"), UNCLEAR),
    "502": (raw(502, PAGE, "text/html"), UNCLEAR),
    "503 with a word": (says(503, ok=False, error="service_unavailable"), UNCLEAR),
    "500 with a word": (says(500, ok=False, error="not_in_channel"), UNCLEAR),
    "408": (raw(408, ""), UNCLEAR),
    "fatal_error": (says(ok=False, error="fatal_error"), UNCLEAR),
    "internal_error": (says(ok=False, error="internal_error"), UNCLEAR),
    "403 of a proxy": (raw(403, PAGE, "text/html"), REFUSED),
    "used_url": (says(404, ok=False, error="used_url"), REFUSED),
    "expired_url": (says(404, ok=False, error="expired_url"), REFUSED),
    "no_team in plain text": (raw(404, "no_team", "text/plain"), REFUSED),
    "channel_not_found": (says(ok=False, error="channel_not_found"), REFUSED),
    "rate limited": (says(429, ok=False, error="ratelimited"), REFUSED),
    "rate limited with ok": (raw(429, '{"ok":true}', retry_after="1"), REFUSED),
    "rate limited in words": (says(ok=False, error="ratelimited"), REFUSED),
    "unavailable": (says(ok=False, error="service_unavailable"), REFUSED),
}
each_wrong = pytest.mark.parametrize(("answer", "became"), WRONG.values(), ids=WRONG.keys())


@each_wrong
async def test_by_the_response_url_a_wrong_answer_is_never_delivered(
    slack: Wire, bot: Slack, answer: bytes | None, became: Outcome
) -> None:
    """Where Slack surely showed nothing, the second way is taken; where it may have, it is not."""

    async def answers(asked: Asked) -> bytes | None:
        return answer if asked.path == "/response" else says(ok=False, error="not_in_channel")

    slack.answer = answers
    outcome, _ = await hand_over(bot, f"{slack.url}/response", "C1", "U1", MESSAGE, done())
    assert outcome is became
    assert ("chat.postEphemeral" in [one.method for one in slack.asked]) is (became is REFUSED)


@each_wrong
async def test_by_post_ephemeral_a_wrong_answer_is_never_delivered(slack: Wire, bot: Slack, answer: bytes | None, became: Outcome) -> None:
    slack.script = [answer]
    outcome, _ = await hand_over(bot, None, "C1", "U1", MESSAGE, done())
    assert outcome is became
    # What may have been shown is not sent again.
    assert became is REFUSED or len(slack.asked) == 1


@pytest.mark.parametrize(
    "answer", [raw(200, "ok", "text/plain"), raw(200, "ok\n", "text/html"), says(ok=True), raw(200, '{"ok":true}', "text/plain")]
)
async def test_handed_over_means_that_slack_said_ok(slack: Wire, bot: Slack, answer: bytes) -> None:
    slack.script = [answer]
    assert await hand_over(bot, f"{slack.url}/response", "C1", "U1", MESSAGE, done()) == (DELIVERED, "ok")
    [asked] = slack.asked
    assert asked.arguments == {**MESSAGE, "response_type": "ephemeral", "replace_original": False}


async def test_by_post_ephemeral_only_json_says_ok(slack: Wire, bot: Slack) -> None:
    slack.script = [raw(200, "ok", "text/plain")]
    assert (await hand_over(bot, None, "C1", "U1", MESSAGE, done()))[0] is UNCLEAR
    slack.script = [says(ok=True)]
    assert await hand_over(bot, None, "C1", "U1", MESSAGE, done()) == (DELIVERED, "ok")


async def test_the_second_way_follows_a_refusal_of_the_first(slack: Wire, bot: Slack) -> None:
    slack.script = [says(404, ok=False, error="used_url"), says(ok=True)]
    assert await hand_over(bot, f"{slack.url}/response", "C1", "U1", MESSAGE, done()) == (DELIVERED, "ok")
    assert [one.path for one in slack.asked] == ["/response", "/api/chat.postEphemeral"]


async def test_a_rate_limit_is_waited_for_and_the_password_handed_over(slack: Wire, bot: Slack, naps: Naps) -> None:
    slack.script = [raw(429, "", retry_after="3"), raw(200, "ok")]
    assert await hand_over(bot, f"{slack.url}/response", "C1", "U1", MESSAGE, done()) == (DELIVERED, "ok")
    assert naps.taken == [3.0]


async def test_a_hand_over_that_takes_too_long_is_unclear(slack: Wire, bot: Slack) -> None:
    slack.answer = never
    assert await hand_over(bot, f"{slack.url}/response", "C1", "U1", MESSAGE, done(), limit=0.2) == (UNCLEAR, "timeout")
    assert len(slack.asked) == 1


CALLS: dict[str, Callable[[Slack, str], Awaitable[Reply[Any]]]] = {
    "auth_test": lambda bot, _: bot.auth_test(),
    "open_socket": lambda bot, _: bot.open_socket("xapp-token"),
    "user": lambda bot, _: bot.user("U1"),
    "group_members": lambda bot, _: bot.group_members("S1"),
    "groups": lambda bot, _: bot.groups(),
    "channels_of": lambda bot, _: bot.channels_of("U1"),
    "channel": lambda bot, _: bot.channel("C1"),
    "permalink": lambda bot, _: bot.permalink("C1", "1.2"),
    "post_message": lambda bot, _: bot.post_message("C1", MESSAGE),
    "update_message": lambda bot, _: bot.update_message("C1", "1.2", MESSAGE),
    "post_ephemeral": lambda bot, _: bot.post_ephemeral("C1", "U1", MESSAGE),
    "respond": lambda bot, url: bot.respond(f"{url}/response", MESSAGE),
    "open_view": lambda bot, _: bot.open_view("1.2.3", VIEW),
    "push_view": lambda bot, _: bot.open_view("1.2.3", VIEW, over=True),
    "update_view": lambda bot, _: bot.update_view("V1", VIEW, "hash"),
    "publish_view": lambda bot, _: bot.publish_view("U1", VIEW),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
async def test_every_call_ends_with_a_reply_whatever_the_answer(
    slack: Wire, bot: Slack, call: Callable[[Slack, str], Awaitable[Any]]
) -> None:
    for name, (answer, became) in WRONG.items():
        slack.script = [answer]
        with capture_logs() as logged:
            reply = await call(bot, slack.url)
        assert isinstance(reply, Refused | Away), name
        assert (isinstance(reply, Away) and reply.unclear) is (became is UNCLEAR), name
        assert PASSWORD not in str(logged)
        assert "Sign in" not in str(logged)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
async def test_ok_without_what_is_needed_is_malformed_and_of_the_wrong_type_too(
    slack: Wire, bot: Slack, call: Callable[[Slack, str], Awaitable[Any]]
) -> None:
    names = ("team_id", "team", "user_id", "url", "user", "users", "usergroups", "channels", "channel", "permalink", "ts", "view")
    for wrong in ({}, dict.fromkeys(names, 1), {name: [1] for name in names}, {"response_metadata": "x", "users": [], "usergroups": []}):
        slack.script = [says(ok=True, **wrong)]
        assert await call(bot, slack.url) in (
            Away("malformed", unclear=True),
            Ok(None),
            Ok(View(None, None)),
            Ok(Posted("C1", None)),
        )


@given(
    status=some.integers(100, 599),
    body=some.one_of(
        some.binary(max_size=60),
        some.recursive(
            some.one_of(some.none(), some.booleans(), some.integers(), some.sampled_from(["ok", "used_url", "fatal_error", "ratelimited"])),
            lambda inner: some.one_of(
                some.lists(inner, max_size=3),
                some.dictionaries(some.sampled_from(["ok", "error", "response_metadata", "messages"]), inner, max_size=4),
            ),
            max_leaves=6,
        ).map(lambda made: json.dumps(made).encode()),
    ),
    after=some.one_of(some.none(), some.text(max_size=20), some.integers().map(str)),
    plain=some.booleans(),
)
def test_an_answer_is_ok_only_when_slack_said_so(status: int, body: bytes, after: str | None, plain: bool) -> None:
    reply, again = judge(status, CIMultiDict({"retry-after": after} if after is not None else {}), body, plain)
    assert isinstance(reply, Ok | Refused | Away)
    if isinstance(reply, Ok):
        assert status == 200
        assert json.loads(body)["ok"] is True if body.strip() != b"ok" else plain
    if again is not None:
        assert isinstance(reply, Away)
        assert not reply.unclear
        assert 0 <= again <= LONGEST_RETRY


# --- tries and limits ---
@pytest.mark.parametrize(
    ("after", "waits"),
    [
        ("2", [2.0, 2.0]),
        ("0", [0.1, 0.2]),
        (None, [1.0, 1.0]),
        ("-5", [1.0, 1.0]),
        ("soon", [1.0, 1.0]),
        ("Wed, 21 Oct 2026 07:28:00 GMT", [1.0, 1.0]),
        ("1e9", [1.0, 1.0]),
        ("\xb2", [1.0, 1.0]),
        ("86400", []),
        ("9" * 400, [1.0, 1.0]),
    ],
)
async def test_a_rate_limit_is_followed_within_bounds(slack: Wire, bot: Slack, naps: Naps, after: str | None, waits: list[float]) -> None:
    headers = {} if after is None else {"retry_after": after}
    slack.script = [raw(429, "", **headers)]
    assert await bot.post_message("C1", MESSAGE) == Away("ratelimited", unclear=False)
    assert naps.taken == waits
    assert len(slack.asked) == len(waits) + 1


async def test_whatever_a_text_holds_arrives(slack: Wire, bot: Slack) -> None:
    text = "Ünïcode 🚀 \u2028 <&> \0 half a pair: \ud800"
    slack.script = [says(ok=True, ts="1.1")]
    assert isinstance(await bot.post_message("C1", {"text": text}), Ok)
    assert json.loads(slack.asked[0].body)["text"] == text


async def test_a_message_is_not_posted_twice_and_a_question_is_put_again(slack: Wire, bot: Slack) -> None:
    slack.script = [None, says(ok=True, ts="1.2", channel="C1")]
    reply = await bot.post_message("C1", MESSAGE)
    assert isinstance(reply, Away)
    assert reply.unclear
    assert len(slack.asked) == 1
    slack.script = [None, raw(502, PAGE), says(ok=True, users=["U1"])]
    assert await bot.group_members("S1") == Ok(frozenset({"U1"}))


async def test_a_modal_is_asked_for_again_on_another_connection(slack: Wire, bot: Slack) -> None:
    slack.script = [None, says(ok=True, view={"id": "V1", "hash": "1.a"})]
    assert await bot.open_view("1.2.x", VIEW) == Ok(View("V1", "1.a"))
    assert [one.arguments for one in slack.asked] == [{"trigger_id": "1.2.x", "view": VIEW}] * 2


async def test_what_was_perhaps_done_stays_unclear_when_a_later_try_surely_was_not(slack: Wire, bot: Slack) -> None:
    slack.script = [None, raw(403, PAGE)]
    assert await bot.update_view("V1", VIEW) == Away("http_403", unclear=True)


async def test_nobody_listens(naps: Naps) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        bot = Slack("xoxb-token", f"http://127.0.0.1:{unused.getsockname()[1]}/api/", naps)
        try:
            assert await bot.post_message("C1", MESSAGE) == Away("unreachable", unclear=False)
            assert len(naps.taken) == TRIES - 1
            assert await hand_over(bot, None, "C1", "U1", MESSAGE, done()) == (REFUSED, "unreachable")
        finally:
            await bot.close()


async def test_nobody_takes_the_connection() -> None:
    """Nothing was sent, so nothing is unclear."""
    with socket.socket() as full, contextlib.ExitStack() as waiting:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        bot = Slack("xoxb-token", f"http://127.0.0.1:{full.getsockname()[1]}/api/")
        try:
            assert await bot.post_message("C1", MESSAGE, limit=1) == Away("unreachable", unclear=False)
        finally:
            await bot.close()


async def never(_asked: Asked) -> bytes | None:
    await asyncio.Event().wait()
    return None


async def test_a_call_ends_with_its_limit(slack: Wire, bot: Slack) -> None:
    slack.answer = never
    assert await bot.user("U1", limit=0.1) == Away("timeout", unclear=True)


async def test_the_limit_passed_while_waiting_to_try_again_leaves_nothing_unclear(slack: Wire) -> None:
    waits = asyncio.Event()

    async def forever(_seconds: float) -> None:
        waits.set()
        await asyncio.Event().wait()

    bot = Slack("xoxb-token", slack.api_url, forever)
    limit, reply = 0.1, None
    while not waits.is_set():  # a slow machine may need longer until it waits
        slack.script = [raw(429, "", retry_after="2")]
        reply = await bot.post_message("C1", MESSAGE, limit=limit)
        limit *= 2
    assert reply == Away("ratelimited", unclear=False)
    await bot.close()


async def test_cancellation_passes(slack: Wire, bot: Slack) -> None:
    asked = asyncio.Event()

    async def answers(_asked: Asked) -> bytes | None:
        asked.set()
        return await never(_asked)

    slack.answer = answers
    task = asyncio.create_task(bot.user("U1"))
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_password_goes_over_connections_of_its_own_and_the_rest_over_kept_ones(slack: Wire, bot: Slack) -> None:
    slack.script = [says(ok=True)]
    for _ in range(3):
        await bot.post_ephemeral("C1", "U1", MESSAGE)
    assert len({one.connection for one in slack.asked}) == 1
    for _ in range(3):
        await hand_over(bot, f"{slack.url}/response", "C1", "U1", MESSAGE, done())
        await hand_over(bot, None, "C1", "U1", MESSAGE, done())
    assert len({one.connection for one in slack.asked}) == 1 + 6


async def test_too_large_an_answer_is_not_read_to_its_end(slack: Wire, bot: Slack) -> None:
    slack.script = [raw(200, b" " * (8 * 1024 * 1024 + 1))]
    assert await bot.post_message("C1", MESSAGE) == Away("too_large", unclear=True)


async def test_lists_are_followed_to_their_end(slack: Wire, bot: Slack) -> None:
    first = says(ok=True, channels=[{"id": "C1"}], response_metadata={"next_cursor": "two"})
    slack.script = [first, says(ok=True, channels=[], response_metadata={"next_cursor": "three"}), says(ok=True, channels=[{"id": "C3"}])]
    assert await bot.channels_of("U1") == Ok(frozenset({"C1", "C3"}))
    assert [one.arguments.get("cursor") for one in slack.asked] == [None, "two", "three"]
    slack.script = [first]
    assert await bot.channels_of("U1") == Away("too_many_pages", unclear=False)
    slack.script = [first, says(ok=False, error="invalid_cursor")]
    assert await bot.channels_of("U1") == Refused("invalid_cursor")


async def test_what_slack_does_not_like_is_said(slack: Wire, bot: Slack) -> None:
    slack.script = [says(ok=False, error="invalid_arguments", response_metadata={"messages": ["[ERROR] missing required field: title"]})]
    assert await bot.open_view("1.2.3", VIEW) == Refused("invalid_arguments", ("[ERROR] missing required field: title",))


@pytest.mark.parametrize(
    ("api_url", "address", "taken"),
    [
        ("https://slack.com/api/", "https://hooks.slack.com/actions/T1/2/3", True),
        ("https://slack.com/api/", "https://slack.com/x", True),
        ("https://slack-gov.com/api/", "https://hooks.slack-gov.com/x", True),
        ("https://slack.com/api/", "http://hooks.slack.com/x", False),
        ("https://slack.com/api/", "https://hooks.slack.com:8443/x", False),
        ("https://slack.com/api/", "https://hooks.slack.com.evil.example/x", False),
        ("https://slack.com/api/", "https://evil.example/hooks.slack.com", False),
        ("https://slack.com/api/", "https://hooks.slack.com@evil.example/x", False),
        ("https://slack.com/api/", "https://me:you@hooks.slack.com/x", False),
        ("https://slack.com/api/", "https://evilslack.com/x", False),
        ("https://slack.com/api/", "http://127.0.0.1/x", False),
        ("https://slack.com/api/", "file:///etc/passwd", False),
        ("https://slack.com/api/", "//hooks.slack.com/x", False),
        ("https://slack.com/api/", "", False),
        ("https://slack.com/api/", "https://[::1", False),
        ("https://slack.com/api/", "https://hooks.slack.com:99999/x", False),
        ("http://127.0.0.1:8000/api/", "http://127.0.0.1:8000/response/x", True),
        ("http://127.0.0.1:8000/api/", "http://127.0.0.1:8001/response/x", False),
        ("http://127.0.0.1:8000/api/", "http:///response/x", False),
        ("http://localhost:8000/api/", "http://localhost:8000/response/x", True),
        ("http://slack.internal/api/", "http://slack.internal/x", False),
    ],
)
async def test_it_posts_only_to_slack(api_url: str, address: str, taken: bool) -> None:
    bot = Slack("xoxb-token", api_url)
    try:
        assert bot.is_slacks(address) is taken
        if not taken:
            assert await bot.respond(address, MESSAGE) == Refused("foreign_url")
    finally:
        await bot.close()


# --- a result and its acknowledgement ---
class Modal:
    """Slack's side of one modal: what is shown, and an acknowledgement that is applied when that many updates came before it."""

    def __init__(self, acknowledged_after: int) -> None:
        self.shown, self.hash, self.updates, self.after = "form", "h0", 0, acknowledged_after
        self._acknowledge()

    async def __call__(self, asked: Asked) -> bytes | None:
        given = asked.arguments
        if given.get("hash", self.hash) != self.hash:
            return says(ok=False, error="hash_conflict")
        self.updates += 1
        self.shown, self.hash = given["view"]["callback_id"], f"h{self.updates}"
        answer = says(ok=True, view={"id": "V1", "hash": self.hash})
        self._acknowledge()
        return answer

    def _acknowledge(self) -> None:
        if self.updates == self.after:
            self.shown, self.hash = "acknowledgement", "acknowledged"


RESULT = {"type": "modal", "callback_id": "result"}


@pytest.mark.parametrize("acknowledged_after", [0, 1, 2])
@pytest.mark.parametrize("submitted", ["h0", None])
async def test_a_result_never_loses_against_its_acknowledgement(
    slack: Wire, bot: Slack, naps: Naps, acknowledged_after: int, submitted: str | None
) -> None:
    slack.answer = modal = Modal(acknowledged_after)
    assert await bot.show_result("V1", RESULT, submitted)
    assert modal.shown == "result"
    assert naps.taken[0] == 0.5


async def test_where_the_acknowledgement_was_applied_the_result_needs_one_look(slack: Wire, bot: Slack, naps: Naps) -> None:
    slack.answer = Modal(0)
    assert await bot.show_result("V1", RESULT, "h0")
    assert naps.taken == [0.5]
    assert len(slack.asked) == 2


@each_wrong
async def test_a_result_that_was_not_shown_says_so(slack: Wire, bot: Slack, answer: bytes | None, became: Outcome) -> None:
    slack.script = [answer]
    assert await bot.show_result("V1", RESULT, "h0") is False
    slack.script = [says(ok=False, error="hash_conflict"), answer]
    assert await bot.show_result("V1", RESULT, "h0") is False


async def test_a_modal_that_was_closed_is_not_shown(slack: Wire, bot: Slack) -> None:
    slack.script = [says(ok=False, error="not_found")]
    assert await bot.show_result("V1", RESULT, "h0") is False


async def test_the_connection_is_opened_while_the_hash_is_computed_and_the_password_waits_for_it(bot: Slack, slack: Wire) -> None:
    slack.script = [raw(body="ok", kind="text/plain")]
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    handing = asyncio.create_task(hand_over(bot, f"{slack.url}/response", "C1", "U1", MESSAGE, ready))
    await slack.opened.wait()
    assert slack.asked == []
    ready.set_result(None)
    assert await handing == (DELIVERED, "ok")
    assert [json.loads(one.body)["text"] for one in slack.asked] == [MESSAGE["text"]]


async def test_without_its_hash_a_password_is_not_shown(bot: Slack, slack: Wire) -> None:
    slack.script = [raw(body="ok", kind="text/plain")]
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    ready.set_exception(MemoryError())
    assert await hand_over(bot, f"{slack.url}/response", "C1", "U1", MESSAGE, ready) == (REFUSED, "not_ready")
    assert slack.asked == []

"""Wrong answers of Slack, of the proxies before it, and of the network between."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Fault:
    """What a Web API method or a `response_url` answers instead of doing its work, or after it (`done`): then the app cannot know.

    Args:
        error: the word of an answer `{"ok": false}`; the text of a `response_url`'s.
        body: the whole body instead, whatever it is.
        content_type: of the body; by default Slack's own.
        times: how many calls go wrong.
        passes: how many calls go well before.
        hang_up: closes the connection without an answer.
        cut: closes it in the middle of the body.
        silent: answers when `Slack.answers()` is called, or when the sandbox ends.
        then: called just before the answer, such as to kill the app.
    """

    error: str = "internal_error"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1
    done: bool = False
    hang_up: bool = False
    cut: bool = False
    silent: bool = False
    body: str | bytes | None = None
    content_type: str = ""
    passes: int = 0
    then: Callable[[], None] | None = None


HTML = "text/html; charset=utf-8"
PAGE = "<!DOCTYPE html><html><head><title>Sign in to continue</title></head><body><h1>Welcome to the Wi-Fi</h1></body></html>"


def _limited(**headers: str) -> Fault:
    return Fault("ratelimited", status=429, headers={"retry-after": headers["after"]} if headers else {})


WRONG_ANSWERS: dict[str, Fault] = {
    "a page with 200": Fault(body=PAGE, content_type=HTML),
    "a page with 200 that says it is JSON": Fault(body=PAGE, content_type="application/json"),
    "JSON typed as text": Fault(body='{"ok": false, "error": "internal_error"}', content_type="text/plain"),
    "ok typed as text": Fault(body='{"ok": true}', content_type="text/plain"),
    "ok without its fields": Fault(body='{"ok": true}', content_type="application/json"),
    "ok with fields of other types": Fault(
        body='{"ok": true, "view": [], "user": "U1", "channel": null, "users": {}, "ts": 1, "members": null, "usergroups": "x"}',
        content_type="application/json",
    ),
    "ok that is no boolean": Fault(body='{"ok": "yes"}', content_type="application/json"),
    "null": Fault(body="null", content_type="application/json"),
    "an empty list": Fault(body="[]", content_type="application/json"),
    "a string": Fault(body='"ok"', content_type="application/json"),
    "a number": Fault(body="1", content_type="application/json"),
    "nothing": Fault(body="", content_type="application/json"),
    "nothing with 204": Fault(body="", status=204, content_type="text/plain"),
    "broken JSON": Fault(body='{"ok": tru', content_type="application/json"),
    "bytes that are no text": Fault(body=b"\xff\xfe\x00\x9f", content_type="application/json; charset=utf-8"),
    "refused": Fault("internal_error"),
    "refused with a word that nobody knows": Fault("a_word_of_tomorrow"),
    "refused without a word": Fault(body='{"ok": false}', content_type="application/json"),
    "refused with a word that is no text": Fault(body='{"ok": false, "error": {"code": 7}}', content_type="application/json"),
    "fatal_error": Fault("fatal_error"),
    "account_inactive": Fault("account_inactive"),
    "429": _limited(after="0"),
    "429 with a fraction": _limited(after="0.01"),
    "429 without Retry-After": _limited(),
    "429 with an empty Retry-After": _limited(after=""),
    "429 with a negative Retry-After": _limited(after="-5"),
    "429 with a huge Retry-After": _limited(after="99999999999"),
    "429 with a date": _limited(after="Wed, 25 Nov 2099 22:37:31 GMT"),
    "429 with a text": _limited(after="soon"),
    "429 with a page": Fault(body=PAGE, status=429, content_type=HTML),
    "403 with a page": Fault(body=PAGE, status=403, content_type=HTML),
    "404 with a page": Fault(body=PAGE, status=404, content_type=HTML),
    "500": Fault("internal_error", status=500),
    "502 with a page": Fault(body=PAGE, status=502, content_type=HTML),
    "503 with a page": Fault(body=PAGE, status=503, content_type=HTML, headers={"retry-after": "3600"}),
    "504 with nothing": Fault(body="", status=504, content_type="text/plain"),
    "a redirect to a page": Fault(body="", status=302, headers={"location": "/wifi"}, content_type=HTML),
    "hung up": Fault(hang_up=True),
    "cut in the middle": Fault(cut=True, body='{"ok": true, "view": {"id": "V1"}}', content_type="application/json"),
    "never": Fault(silent=True),
}
"""Name -> a ready-made fault; `Slack.fail` takes a copy, and `dataclasses.replace(fault, done=True)` makes one after the work was done."""

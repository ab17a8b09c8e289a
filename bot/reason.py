"""The reason that somebody gives for stopping a credential: for the audit log and the channel notices, so it holds no password."""

import contextlib
from collections.abc import Iterator

from bot import blocks, texts
from bot.blocks import Block, field
from bot.door import InputInvalid, Request
from storage.audit import REASON_MAX
from storage.names import looks_like_password
from storage.refusals import ReasonRequired

REASON = "reason"


def reason_field() -> Block:
    element = {"type": "plain_text_input", "max_length": REASON_MAX}
    return field("Reason", REASON, element, "Kept in the audit log. Don't paste the password here.", optional=True)


def given_reason(request: Request) -> str | None:
    """Raises InputInvalid."""
    reason = (blocks.values(request.view or {}).get(REASON) or "").strip() or None
    if reason and looks_like_password(reason):
        raise InputInvalid(REASON, "This looks like a password. Leave it out of the reason.")
    return reason


@contextlib.contextmanager
def asked_for() -> Iterator[None]:
    """Says under the modal's input that the workspace demands a reason. Raises InputInvalid."""
    try:
        yield
    except ReasonRequired as refusal:
        raise InputInvalid(REASON, blocks.flat(texts.sentence(refusal, ""))) from None

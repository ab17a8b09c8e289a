"""Messages of ours that offer an act: where each stands and what it is about, so that it is drawn anew when that changes.

`keep` writes one down once Slack took it; `errands.owe` owes a redraw (`Kind.SETTLE`) of each that a change is about.
"""

from collections.abc import Sequence
from datetime import timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from storage.database import Transaction
from storage.models import CREDENTIALS, FACTS, POSTED_MESSAGES, PostedMessage, State, as_row

CHANNEL = "channel "
"""What the facts about a channel's ids are kept under, before the id."""
KEPT = timedelta(days=400)
KEPT_AFTER_DELETION = timedelta(days=7)
MOST = 100  # messages about one credential that are drawn anew
LOOKED_AT = 500  # credentials in one statement
MOST_IN_ALL = 1000  # messages about a workspace, or about all of them


class Posted(StrEnum):
    ALARM = "alarm"
    """A password that leaked, or is said to have; to a channel, or to one person."""
    SUSPENDED = "suspended"
    """A channel reads that a credential was suspended."""
    SENDS_MUCH = "sends_much"
    """A channel reads that a credential reached a limit, or sends more than usual."""
    LEFT = "left"
    """Admins read what somebody owned who left the Slack team."""
    IDLE = "idle"
    """An owner reads what nothing uses."""


def keep(
    tx: Transaction,
    kind: Posted,
    channel: str,
    ts: str,
    *,
    credential_id: str,
    workspace_id: int | None,
    person: str | None = None,
    source: tuple[str | None, str | None] = (None, None),
    ids: tuple[str, ...] = (),
) -> None:
    """Writes down that the message stands there. A note.

    Args:
        credential_id: what it is about; a message about several is written down once for each.
        person: who left, or whose it is.
        source: channel and ts of the message that it speaks of; of what was found outside of Slack only a mark.
    """
    values = {"kind": kind.value, "channel_id": channel, "ts": ts, "credential_id": credential_id, "workspace_id": workspace_id}
    more = {"person": person, "source_channel": source[0], "source_ts": source[1], "ids": ids, "created_at": tx.now}
    tx.connection.execute(POSTED_MESSAGES.insert().values(**values, **more))


def keep_all(tx: Transaction, message: PostedMessage, about: Sequence[str]) -> None:
    """A message about several credentials speaks of these now. A note."""
    columns = POSTED_MESSAGES.c
    place = (columns.channel_id == message.channel_id, columns.ts == message.ts)
    known = set(tx.connection.scalars(select(columns.credential_id).where(*place)))
    same: dict[str, Any] = {"workspace_id": message.workspace_id, "person": message.person, "ids": message.ids}
    for one in about:
        if one not in known:
            keep(tx, Posted(message.kind), message.channel_id, message.ts, credential_id=one, **same)


def about(tx: Transaction, credential_ids: Sequence[str]) -> list[PostedMessage]:
    """The messages about these credentials, the newest `MOST` of each."""
    return _some(tx, MOST * len(credential_ids), POSTED_MESSAGES.c.credential_id.in_(credential_ids))


def about_workspace(tx: Transaction, workspace_id: int | None) -> list[PostedMessage]:
    """The newest messages about credentials of the workspace (None: of all)."""
    here = [POSTED_MESSAGES.c.workspace_id == workspace_id] if workspace_id is not None else []
    return _some(tx, MOST_IN_ALL, POSTED_MESSAGES.c.credential_id.is_not(None), *here)


def about_source(tx: Transaction, channel: str, ts: str) -> list[PostedMessage]:
    """Those that speak of this message."""
    return _some(tx, MOST, POSTED_MESSAGES.c.source_channel == channel, POSTED_MESSAGES.c.source_ts == ts)


def at(tx: Transaction, channel: str, ts: str) -> PostedMessage | None:
    found = _some(tx, 1, POSTED_MESSAGES.c.channel_id == channel, POSTED_MESSAGES.c.ts == ts)
    return found[0] if found else None


def _some(tx: Transaction, most: int, *which: ColumnElement[bool]) -> list[PostedMessage]:
    query = select(POSTED_MESSAGES).where(*which).order_by(POSTED_MESSAGES.c.id.desc()).limit(most)
    return [as_row(PostedMessage, row) for row in tx.connection.execute(query)]


def forget(tx: Transaction, message: PostedMessage) -> None:
    """It is gone. A note."""
    place = (POSTED_MESSAGES.c.channel_id == message.channel_id, POSTED_MESSAGES.c.ts == message.ts)
    tx.connection.execute(delete(POSTED_MESSAGES).where(*place))


def renumbered(tx: Transaction, old: str, new: str) -> None:
    """Slack gave a channel another id. Audit rows keep the old one, so that is kept beside the new one."""
    known = [*(one for one in ids_of(tx, old) if one != new), new]
    adding = sqlite.insert(FACTS) if tx.sqlite else postgresql.insert(FACTS)
    adding = adding.on_conflict_do_update(index_elements=["key"], set_={"value": adding.excluded.value})
    tx.connection.execute(adding, [{"key": f"{CHANNEL}{one}", "value": " ".join(known)} for one in known])
    for column in (POSTED_MESSAGES.c.channel_id, POSTED_MESSAGES.c.source_channel):
        tx.connection.execute(update(POSTED_MESSAGES).where(column == old).values({column: new}))


def ids_of(tx: Transaction, channel: str) -> list[str]:
    """Every id that Slack has given the channel, the one that it has now last."""
    known = tx.connection.scalar(select(FACTS.c.value).where(FACTS.c.key == f"{CHANNEL}{channel}"))
    return known.split() if known else [channel]


def in_channel(tx: Transaction, column: ColumnElement[str], channel: str | None) -> ColumnElement[bool]:
    """Whether the column of a row that is never rewritten names this channel, by whichever of its ids."""
    return column.is_(None) if channel is None else column.in_(ids_of(tx, channel))


def forget_old(tx: Transaction) -> None:
    """Drops those that nothing will happen to any more; called by the sweep. A note."""
    about = select(POSTED_MESSAGES.c.credential_id).where(POSTED_MESSAGES.c.credential_id.is_not(None)).distinct()
    columns, known = CREDENTIALS.c, tx.connection.scalars(about).all()
    for start in range(0, len(known), LOOKED_AT):
        ended = (columns.state == State.DELETED.value, columns.deleted_at < tx.now - KEPT_AFTER_DELETION)
        gone = tx.connection.scalars(select(columns.id).where(columns.id.in_(known[start : start + LOOKED_AT]), *ended)).all()
        tx.connection.execute(delete(POSTED_MESSAGES).where(POSTED_MESSAGES.c.credential_id.in_(gone)))
    tx.connection.execute(delete(POSTED_MESSAGES).where(POSTED_MESSAGES.c.created_at < tx.now - KEPT))

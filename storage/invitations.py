"""The messages in which the bot offers to be connected to a channel: where they stand, so that they settle when that is done, or undone."""

from sqlalchemy import select

from storage.database import Transaction
from storage.models import POSTED_MESSAGES, PostedMessage, as_row

KIND = "invitation"


def keep(tx: Transaction, channel: str, ts: str) -> None:
    """A note."""
    values = {"kind": KIND, "channel_id": channel, "ts": ts, "ids": (), "created_at": tx.now}
    tx.connection.execute(POSTED_MESSAGES.insert().values(**values))


def of_channel(tx: Transaction, channel: str) -> list[PostedMessage]:
    columns = POSTED_MESSAGES.c
    query = select(POSTED_MESSAGES).where(columns.channel_id == channel, columns.kind == KIND).order_by(columns.id.desc()).limit(10)
    return [as_row(PostedMessage, row) for row in tx.connection.execute(query)]

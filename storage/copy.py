"""Copying a whole store into an empty one, also from SQLite to PostgreSQL and back: all of it, or nothing."""

import asyncio
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Table, delete, func, insert, select, text
from sqlalchemy.exc import DataError, IntegrityError

from storage import audit
from storage.connecting import Unusable
from storage.database import Database, Progress, Transaction
from storage.models import AUDIT_HEAD, FACTS, METADATA

BATCH = 5000  # rows
SEEDED = (AUDIT_HEAD, FACTS)
"""A new schema has rows in these."""


async def copy(source: Database, target: Database, progress: Progress = lambda _: None) -> dict[str, int]:
    """Copies every row, compares the counts, verifies the audit chain of the copy, and only then commits.

    Both have the schema of this release. What is written to the source after this began is not in the copy.

    Returns:
        The number of rows of each table.

    Raises:
        Unusable: a database cannot be used, the target is not empty, or the copy is not what was copied; the target is as it was.
    """

    def work(writing: Connection) -> dict[str, int]:
        def read(reading: Connection) -> dict[str, int]:
            return _all(reading, writing, target, progress)

        counts = source.on_own_connection(read, make=False, isolated=True)
        writing.commit()
        return counts

    return await asyncio.to_thread(target.on_own_connection, work, make=False)


def _all(reading: Connection, writing: Connection, target: Database, progress: Progress) -> dict[str, int]:
    for table in METADATA.sorted_tables:
        if table not in SEEDED and writing.execute(select(table).limit(1)).first() is not None:
            raise Unusable(f"the target is not empty: it has rows in {table.name}. Copy into a new database.")
    for table in SEEDED:
        writing.execute(delete(table))
    counts = {}
    for table in METADATA.sorted_tables:
        counts[table.name] = 0
        for rows in _batches(reading, table):
            try:
                writing.execute(insert(table), rows)
            except (DataError, IntegrityError) as error:
                raise Unusable(
                    f"the target does not take a row of {table.name}: {error.orig}. Nothing was copied.".replace("\n", " ")
                ) from None
            counts[table.name] += len(rows)
            if counts[table.name] % (10 * BATCH) == 0:
                progress(f"{table.name}: {counts[table.name]}")
        if not target.sqlite:
            _go_on_counting(writing, table)
        if counts[table.name] != writing.scalar(select(func.count()).select_from(table)):
            raise Unusable(f"not every row of {table.name} arrived. Nothing was copied.")
    progress("verifying the audit log")
    verdict = audit.verify(Transaction(writing, target.clock, target.sqlite))
    if verdict.broken is not None:
        raise Unusable(f"row {verdict.broken} of the audit log is not what was written, so nothing was copied: smtp-bot audit verify")
    return counts


def _batches(reading: Connection, table: Table) -> Iterator[list[dict[str, Any]]]:
    """The rows in the order of their key, a batch at a time."""
    key = list(table.primary_key.columns)
    query = select(table).order_by(*key).execution_options(stream_results=True, yield_per=BATCH)
    for some in reading.execute(query).partitions():
        yield [dict(row._mapping) for row in some]


def _go_on_counting(writing: Connection, table: Table) -> None:
    """Lets PostgreSQL count a table's keys up from the last one that was copied."""
    for column in table.primary_key.columns:
        sequence = writing.scalar(text("SELECT pg_get_serial_sequence(:table, :column)"), {"table": table.name, "column": column.name})
        last = writing.scalar(select(func.max(column))) if sequence else None
        if last is not None:
            writing.execute(text("SELECT setval(CAST(:sequence AS regclass), :last)"), {"sequence": sequence, "last": last})

"""Once a minute, and at start: ends what a crash left under way, does what is due, forgets what is old."""

import asyncio
import contextlib

import structlog

from bot.door import describe
from bot.services import Services, new_reference
from storage import credentials, errands, lifecycle, posted, queue, seen
from storage.access import Actor
from storage.audit import Origin, Surface
from storage.refusals import NotDue

INTERVAL = 60  # seconds

log = structlog.get_logger(__name__)


async def forever(services: Services) -> None:
    while True:
        try:
            await once(services)
        except Exception as error:
            log.error("sweep failed", error=describe(error))
        await asyncio.sleep(INTERVAL)


async def once(services: Services) -> None:
    """Of several replicas one does each thing; what people must be told of it is an errand."""
    db = services.db
    by_sweep = Origin(Actor("sweep", services.team), Surface.SWEEP, new_reference())
    for credential in await db.read(credentials.abandoned):
        if await db.change(credentials.discard, by_sweep, credential.id, "left pending"):
            log.warning("discarded a credential that was left pending", username=credential.username, reference=by_sweep.reference)
    for credential in await db.read(lifecycle.abandoned_rotations):
        if await db.change(lifecycle.cancel_rotation, by_sweep, credential.id, credential.rotation_key or "", "left on its way"):
            log.warning("cancelled a rotation that was left on its way", username=credential.username, reference=by_sweep.reference)
    for credential in await db.read(lifecycle.ended_overlaps):
        await db.change(lifecycle.forget_previous, by_sweep, credential.id)
    for credential in await db.read(credentials.overdue):
        with contextlib.suppress(NotDue):
            await db.change(credentials.delete_overdue, by_sweep, credential.id)
            log.info("deleted a suspended credential that nobody resumed", username=credential.username)
    for credential in await db.read(lifecycle.due_reminders):
        await db.change(lifecycle.remind, by_sweep, credential.id)
    await db.note(seen.forget_old)
    await db.note(errands.forget_old)
    await db.note(posted.forget_old)
    await db.note(queue.forget_old)

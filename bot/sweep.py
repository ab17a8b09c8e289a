"""Once a minute, and at start: ends what a crash left under way, does what is due, forgets what is old."""

import asyncio
import contextlib
import time
from datetime import timedelta

import structlog
from prometheus_client import Gauge

from bot.door import describe
from bot.services import Services, new_reference
from bot.slack import Away, Ok
from storage import audit, credentials, errands, lifecycle, owners, posted, queue, seen, tidy
from storage.access import Actor
from storage.audit import Head, Origin, Surface
from storage.figures import figures
from storage.refusals import NotDue

INTERVAL = 60  # seconds
VERIFIED_AT_START = 10_000  # audit rows, the last ones

log = structlog.get_logger(__name__)
last_sweep = Gauge("smtp_bot_last_sweep_timestamp_seconds", "When the last sweep that went well ended")
verified = Gauge("smtp_bot_chain_verified_event", "The audit row up to which the chain of hashes was followed")
by_state = Gauge("smtp_bot_credentials", "Credentials that are not deleted", ["state"])
expiring = Gauge("smtp_bot_credentials_expiring", "Live credentials that expire within a week")
never_used = Gauge("smtp_bot_credentials_never_used", "Live credentials older than BOT_UNUSED_DAYS that nothing ever logged in with")


async def forever(services: Services) -> None:
    followed: Head | None = None
    while True:
        try:
            await once(services)
            followed = await measure(services, followed)
            last_sweep.set(time.time())
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
    await look_after_owners(services, by_sweep)
    if await db.note(tidy.owe_notes, services.settings.bot_unused_days):
        db.owed()
    await db.note(seen.forget_old)
    await db.note(errands.forget_old)
    await db.note(posted.forget_old)
    await db.note(queue.forget_old)


async def look_after_owners(services: Services, by_sweep: Origin) -> None:
    """Asks Slack about a few people who own something or have a role: the event that says that somebody left may have been missed."""
    for person in await services.db.note(owners.to_look_at, services.team):
        match await services.slack.user(person):
            case Ok(account) if account.deleted:
                await services.db.change(owners.left, by_sweep, services.team, person)
            case Away():
                return


async def measure(services: Services, followed: Head | None) -> Head | None:
    """Sets the metrics of the store, and follows the audit chain from where it was followed to before.

    Returns:
        Where the chain was followed to now; a row that is not what was written keeps it from going on.
    """
    now = await services.db.read(figures, timedelta(days=services.settings.bot_unused_days))
    for state, count in now.states.items():
        by_state.labels(state.value).set(count)
    expiring.set(now.expiring)
    never_used.set(now.never_used)
    verdict = await services.db.read(audit.verify, followed, None if followed else VERIFIED_AT_START)
    if verdict.broken is not None or verdict.head is None:
        log.error("the audit log is not what was written: smtp-bot audit verify", row=verdict.broken)
        return followed
    verified.set(verdict.head.event)
    return verdict.head

"""Once a minute, and at start: ends what a crash left under way and tells its requester, does what is due, forgets old signatures."""

import asyncio

import structlog

from bot import expiry, notices, rotate, suspend, texts
from bot.blocks import foot, line
from bot.create import discard_text
from bot.door import describe
from bot.services import Services, new_reference
from storage import credentials, seen
from storage.access import Actor
from storage.audit import Origin, Surface

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
    for credential in await credentials.abandoned(services.db):
        reference = new_reference()
        origin = Origin(Actor("sweep", services.team), Surface.SWEEP, reference, credential.created_in)
        # Of several replicas one discards it, and that one tells.
        if await credentials.discard(services.db, origin, credential.id, "left pending"):
            said = [line(*discard_text(credential)), foot(texts.ONLY_YOU)]
            told = await notices.tell(services, credential.created_by, credential.created_in, said)
            log.warning("discarded a credential that was left pending", username=credential.username, told=told, reference=reference)
    by_sweep = Origin(Actor("sweep", services.team), Surface.SWEEP, new_reference())
    await rotate.sweep(services, by_sweep)
    await suspend.sweep(services, by_sweep)
    await expiry.sweep(services, by_sweep)
    await seen.forget_old(services.db)

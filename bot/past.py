"""A database that went back in time, as a restore of a backup makes it.

Every bot and `authd` process holds the store against a journal (`storage/past.py`). Once one finds that the store went back, the app's
owners read it in a direct message, with what works again although it was revoked; **Revoke them again** makes those revocations anew.
"""

import asyncio

import structlog
from slack_bolt.app.async_app import AsyncApp

from bot.blocks import Block, actions, button, code, foot, line, lines
from bot.door import EVERYWHERE, Door, Request, describe
from bot.services import Services, new_reference
from storage import replay
from storage.access import Actor
from storage.audit import Origin, Surface
from storage.database import Unavailable
from storage.past import EVERY
from storage.replay import Standing

REVOKE_AGAIN = "revoke_again"
SHOWN = 20

log = structlog.get_logger(__name__)


def register(app: AsyncApp, door: Door) -> None:
    app.action(REVOKE_AGAIN)(door.work(revoke_again))


async def watch(services: Services, every: float = EVERY) -> None:
    """Owes the owners the news, whichever process noticed; for ever."""
    while True:
        try:
            standing = await services.db.read(replay.standing, 0)
            if any(one.told_at is None for one in standing.restores):
                by_watch = Origin(Actor("journal", services.team), Surface.SWEEP, new_reference())
                await services.db.change(replay.announce, by_watch, services.settings.bot_owners)
        except Unavailable:
            pass  # it is looked again in a second
        except Exception as error:
            log.error("cannot watch the store's past", error=describe(error))
        await asyncio.sleep(every)


async def revoke_again(request: Request) -> None:
    """The press. Raises NotAllowed (it takes an owner of the app), RoleUnknown, PersonBarred."""
    origin = request.origin(await request.actor(EVERYWHERE))
    done, settled = await replay.make_again(request.services.db, origin)
    await request.show(done_blocks(done, bool(settled)), "What was revoked before is revoked again.", replace=True)


def went_back(standing: Standing) -> list[Block]:
    """For an owner of the app."""
    one = standing.restores[-1]
    rows = [
        line(
            f"The database went back in time: its audit log ended at row {one.lost_event}, and now at row {one.kept_event}. "
            "Somebody restored a backup, or a standby took over."
        )
    ]
    if not standing.count:
        return [
            *rows,
            line("Nothing that was revoked since came back. What people did since the backup is gone."),
            actions(button("Go on from here", REVOKE_AGAIN)),
        ]
    shown = [[code(name)] for name in standing.some[:SHOWN]]
    more = [[f"and {standing.count - len(shown)} more"]] if standing.count > len(shown) else []
    return [
        *rows,
        line(f"{standing.count} of what was revoked since works again in it:"),
        lines(*shown, *more),
        line("Mail servers that ask authd refuse them. Others don't, until you revoke them again."),
        actions(button("Revoke them again", REVOKE_AGAIN, style="danger")),
        foot("What else people did since the backup is gone: new credentials, new passwords, roles."),
    ]


def done_blocks(done: list[str], settled: bool) -> list[Block]:
    if not done:
        said = "Nothing was left to revoke." if settled else "That was already done. Nothing changed."
        return [line(said)]
    shown = [[one] for one in done[:SHOWN]]
    more = [[f"and {len(done) - SHOWN} more; the audit log has them all"]] if len(done) > SHOWN else []
    return [line(f"Revoked again, {len(done)} in all:"), lines(*shown, *more)]

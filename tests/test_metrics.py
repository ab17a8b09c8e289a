"""What the metrics say of the store and of the connection to Slack."""

from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from bot import sweep
from storage import audit
from storage.database import Unavailable
from tests import raw
from tests.stage import Stage, stage
from tests.stores import sqlite_store


def value(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


async def test_the_sweep_counts_the_store_and_follows_the_chain(play: Stage) -> None:
    for name in ("Relay", "Printer"):
        await play.create(play.wanda, name)
    followed = await sweep.measure(play.bot.services, None)
    assert followed == await play.db.read(audit.head)
    assert value("smtp_bot_slack_connected") == 1
    assert (value("smtp_bot_credentials", state="active"), value("smtp_bot_credentials", state="suspended")) == (2, 0)
    assert (value("smtp_bot_credentials_never_used"), value("smtp_bot_credentials_expiring")) == (0, 0)
    assert followed is not None
    assert value("smtp_bot_chain_verified_event") == followed.event
    in_a_day = round(play.clock.seconds() * 1000) + 86_400_000
    await raw.sql(play.db, f"UPDATE credentials SET expires_at = {in_a_day} WHERE name = 'Relay'")
    await play.create(play.wanda, "Third")
    play.clock.passes(hours=1)
    assert (await sweep.measure(play.bot.services, followed)) == await play.db.read(audit.head)
    assert value("smtp_bot_credentials_expiring") == 1
    play.clock.passes(days=91)
    now = await sweep.measure(play.bot.services, followed)
    assert value("smtp_bot_credentials_never_used") == 3
    await raw.allow_rewriting(play.db)
    last = (await play.db.read(audit.head)).event
    await raw.sql(play.db, f"UPDATE audit_events SET user_id = 'U0OTHER' WHERE id = {last}")
    assert await sweep.measure(play.bot.services, followed) == followed
    assert now is not None
    assert value("smtp_bot_chain_verified_event") == now.event


async def test_what_the_database_did_not_do_is_counted(tmp_path: Path) -> None:
    async with stage(sqlite_store(tmp_path / "bot.db"), "socket") as play:
        before = value("smtp_bot_database_errors_total", trouble="replaced") or 0.0
        (tmp_path / "bot.db").rename(tmp_path / "elsewhere.db")
        with pytest.raises(Unavailable):
            await play.bot.services.db.ping()
        assert (value("smtp_bot_database_errors_total", trouble="replaced") or 0.0) > before
        (tmp_path / "elsewhere.db").rename(tmp_path / "bot.db")

"""What the metrics say of the store and of the connection to Slack."""

import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from bot import sweep
from bot.new_password import Outcome
from bot.run import NotYet, open_database
from bot.settings import load
from storage import audit
from storage.database import Trouble, Unavailable
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


ALERTED = {
    "smtp_bot_database_errors_total": {f'trouble="{trouble}"' for trouble in Trouble},
    "smtp_bot_handovers_total": {f'outcome="{outcome}"' for outcome in Outcome},
    "smtp_bot_http_refused_total": {'why="signature"', 'why="age"', 'why="too_large"'},
    "smtp_bot_requests_total": {'outcome="failed"'},
}


def test_what_an_alert_counts_begins_at_0() -> None:
    """Prometheus takes the first value that it sees of a series as where it begins: what is missing until then is not counted."""
    show = "import sys; from prometheus_client import generate_latest; import bot.run; sys.stdout.buffer.write(generate_latest())"
    shown = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, timeout=150, check=True).stdout.splitlines()
    for name, labels in ALERTED.items():
        series = [row for row in shown if row.startswith(f"{name}{{") and row.endswith(" 0.0")]
        assert {label for label in labels if not any(label in row for row in series)} == set()


async def test_a_database_that_is_away_at_the_start_is_counted() -> None:
    before = value("smtp_bot_database_errors_total", trouble="away") or 0.0
    with pytest.raises(NotYet):
        await open_database(load({"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}))
    assert value("smtp_bot_database_errors_total", trouble="away") == before + 1

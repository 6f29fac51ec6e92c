"""What dead processes left behind, and what must be left alone."""

from __future__ import annotations

import asyncio
import logging

import pytest

from plateau_sse.intake.janitor import Janitor
from plateau_sse.store.figures.leftovers import Leftovers
from plateau_sse.store.figures.stats import Stats
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import connect
from plateau_sse.store.runs import events, ids
from plateau_sse.store.runs.external import External
from plateau_sse.store.runs.streams import Streams
from tests.store import counters


def test_it_sweeps_what_nobody_uses_and_nothing_else(
    streams_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def scenario() -> None:
        redis = connect(streams_url, "test")
        try:
            streams = Streams(redis, alive_s=60, record_s=600)
            external, stats = External(redis, idle_s=60), Stats(redis)
            run_id, gone = ids.new_run_id(), ids.new_run_id()
            await streams.create(run_id, agent="a", owner="o", token="t", request=b"{}")
            await streams.claim(run_id, 1, "external", events.started(run_id, "a", 1))
            for watched in (run_id, gone):
                assert await external.admit(watched, 10)
            janitor = Janitor(Leftovers(redis), stats)
            assert await janitor.sweep() == 1
            assert await redis.zrange(keys.EXTERNAL, 0, -1) == [run_id.encode()]
            # It was this one's turn: another worker has nothing to do.
            assert await janitor.sweep() == 0
            totals = await counters(stats)
            assert totals["swept_entries"] == 1
            await stats.flush()
            assert await counters(stats) == totals
        finally:
            await redis.aclose()

    asyncio.run(scenario())
    assert "swept 1 entries without a run" in caplog.text

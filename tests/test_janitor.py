"""What dead processes left behind, and what must be left alone."""

from __future__ import annotations

import asyncio
import logging

import pytest

from plateau_sse.intake.janitor import Janitor
from plateau_sse.store.figures import leftovers
from plateau_sse.store.figures.leftovers import Leftovers
from plateau_sse.store.figures.stats import Stats
from plateau_sse.store.queue.queue import Queue
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import connect
from plateau_sse.store.runs import events, ids
from plateau_sse.store.runs.external import External
from plateau_sse.store.runs.streams import Streams


def test_it_sweeps_what_nobody_uses_and_nothing_else(
    streams_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(leftovers, "CONSUMER_DEAD_S", -1)
    caplog.set_level(logging.INFO)

    async def scenario() -> None:
        redis = connect(streams_url, "test")
        try:
            streams, queue = Streams(redis, alive_s=60, record_s=600), Queue(redis)
            external, stats = External(redis, idle_s=60), Stats(redis)
            await queue.open()
            run_id, gone = ids.new_run_id(), ids.new_run_id()
            await streams.create(run_id, agent="a", owner="o", token="t", request=b"{}")
            await streams.claim(run_id, 1, "external", events.started(run_id, "a", 1))
            for watched in (run_id, gone):
                assert await external.admit(watched, 10)
            # One runner that has gone, one that died with a run in its hands.
            await queue.take_over("gone", 1)
            await queue.take_over("died", 1)
            assert await queue.enqueue(run_id, "a", 10) == "ok"
            assert await queue.take("died", 1, 100)
            janitor = Janitor(Leftovers(redis), stats)
            assert await janitor.sweep() == 2
            consumers = await redis.xinfo_consumers(keys.QUEUE, keys.GROUP)
            assert [consumer["name"] for consumer in consumers] == [b"died"]
            assert await redis.zrange(keys.EXTERNAL, 0, -1) == [run_id.encode()]
            # It was this one's turn: another worker has nothing to do.
            assert await janitor.sweep() == 0
            totals = await stats.totals()
            assert (totals["swept_consumers"], totals["swept_entries"]) == (1, 1)
            await stats.flush()
            assert await stats.totals() == totals
        finally:
            await redis.aclose()

    asyncio.run(scenario())
    assert "swept 1 dead consumers, 1 entries without a run" in caplog.text

"""Which death of a runner counts as a try of a run, and which does not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from plateau_sse.runner.beat import Before
from plateau_sse.runner.claiming import Claims
from plateau_sse.runner.handing_back import hand_back_blocking
from plateau_sse.runner.marks import Inside
from plateau_sse.store.figures.stats import Stats
from plateau_sse.store.queue.queue import Leases, Ticket
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import connect, connect_blocking
from plateau_sse.store.runs.appending import BlockingStreams
from plateau_sse.store.runs.streams import Streams
from tests.faults import own_redis
from tests.queues import LATE_MS, age, held
from tests.store import claim, on_streams, queued, until
from tests.test_runner import Scene, on_scene

CULPRIT = Inside("another", "notes")


def on_claims(
    url: str, scenario: Callable[[Streams, Any, Callable[..., Claims]], Awaitable[None]]
) -> None:
    """Its last argument makes the claims of a runner by its name and the one before."""

    async def opened(streams: Streams, redis: Any) -> None:
        def claims(name: str, before: Before | None, most: int = 2) -> Claims:
            return Claims(name, before, streams, Stats(redis), most, life_s=600)

        await scenario(streams, redis, claims)

    on_streams(url, opened)


async def tries_of(redis: Any, run_id: str) -> int:
    return int(await redis.hget(keys.run(run_id).record, "tries"))


def test_what_ran_beside_one_that_held_up_all_is_spared_once(streams_url: str) -> None:
    """Or a culprit whose mark nobody sees would be begun for ever, and others lost for it."""

    async def scenario(streams: Streams, redis: Any, claims: Callable[..., Claims]) -> None:
        run_id = await queued(streams)
        await claim(streams, run_id, 1, "r1")
        tries = []
        for number in range(1, 4):
            before = Before(f"r{number}", (CULPRIT,), 3.0, is_sure=True)
            ticket = Ticket(run_id, "notes", retaken=True)
            if await claims(f"r{number + 1}", before).claim(ticket) is not None:
                tries.append(await tries_of(redis, run_id))
        assert tries == [1, 2]
        record = await streams.record(run_id)
        assert record is not None and record.status == "failed"

    on_claims(streams_url, scenario)


def test_a_store_that_hangs_at_a_claim_costs_no_attempt(tmp_path: Path) -> None:
    """A claim that was given up is done when it thaws, and whoever has one attempt has none."""

    async def scenario(url: str, paused: Callable[[], AbstractContextManager[None]]) -> None:
        redis = connect(url, "test", timeout_s=0.2)
        streams = Streams(redis, alive_s=60, record_s=60)
        run_id = await queued(streams)
        claims = Claims("r1", None, streams, Stats(redis), 1, life_s=600)
        with paused():
            claiming = asyncio.create_task(claims.claim(Ticket(run_id, "notes", retaken=False)))
            await asyncio.wait({claiming}, timeout=2)
        claimed = await claiming
        assert claimed is not None and claimed.attempt == 1
        assert await tries_of(redis, run_id) == 1
        await redis.aclose()

    with own_redis(tmp_path) as server:
        asyncio.run(scenario(server.url, server.paused))


def test_what_was_handed_back_is_spared_anew(streams_url: str) -> None:
    """Its runner has lived beside it."""

    async def scenario(streams: Streams, redis: Any, claims: Callable[..., Claims]) -> None:
        run_id = await queued(streams)
        await claim(streams, run_id, 1, "r1")
        ticket, tries = Ticket(run_id, "notes", retaken=True), []
        for number in range(1, 4):
            before = Before(f"r{number}", (CULPRIT,), 3.0, is_sure=True)
            claimed = await claims(f"r{number + 1}", before).claim(ticket)
            assert claimed is not None
            await streams.hand_back(run_id, claimed)
            assert await claims(f"r{number + 1}", None).claim(ticket) is not None
            tries.append(await tries_of(redis, run_id))
        assert tries == [1, 1, 1]

    on_claims(streams_url, scenario)


@pytest.mark.parametrize("is_sure", [True, False])
def test_who_holds_up_its_runner_may_do_so_once_more(streams_url: str, is_sure: bool) -> None:
    """A first import may take as long, and another may be taken for who does. Not as often as
    others may die."""

    async def scenario(streams: Streams, redis: Any, claims: Callable[..., Claims]) -> None:
        run_id = await queued(streams)
        await claim(streams, run_id, 1, "r1")
        ticket = Ticket(run_id, "notes", retaken=True)
        for number in (1, 2):
            before = Before(f"r{number}", (Inside(run_id, "notes"),), 3.0, is_sure)
            claimed = await claims(f"r{number + 1}", before, 5).claim(ticket)
            assert (claimed is None) == (is_sure and number == 2)
        # What it held up was a try of its own each time.
        assert await tries_of(redis, run_id) == (2 if is_sure else 3)
        record = await streams.record(run_id)
        assert record is not None
        if not is_sure:
            assert record.status == "running"
            return
        assert record.status == "failed" and record.error is not None
        assert record.error["code"] == "timeout"
        assert "agent notes" in record.error["message"]

    on_claims(streams_url, scenario)


def test_who_holds_up_its_runner_in_its_last_attempt_is_named(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any, claims: Callable[..., Claims]) -> None:
        run_id = await queued(streams)
        await claim(streams, run_id, 1, "r1")
        before = Before("r1", (Inside(run_id, "notes"),), 3.0, is_sure=True)
        ticket = Ticket(run_id, "notes", retaken=True)
        assert await claims("r2", before, 1).claim(ticket) is None
        record = await streams.record(run_id)
        assert record is not None and record.error is not None
        assert record.error["code"] == "timeout"
        assert "agent notes" in record.error["message"]

    on_claims(streams_url, scenario)


def test_a_claim_that_nobody_heard_of_is_handed_back_from_a_thread_too(
    streams_url: str,
) -> None:
    """Whose loop is blocked hears no answer."""

    async def scenario(streams: Streams, redis: Any) -> None:
        ours, others = await queued(streams), await queued(streams)
        await claim(streams, ours, 1, "r1")
        await claim(streams, others, 1, "r2")
        blocking: Any = connect_blocking(streams_url, "test")
        with blocking:
            hand_back_blocking(
                "r1",
                ["notes"],
                {ours: None, others: None},
                Leases(blocking),
                BlockingStreams(blocking, record_s=60),
            )
        assert [await tries_of(redis, run_id) for run_id in (ours, others)] == [0, 1]

    on_streams(streams_url, scenario)


def test_a_claim_that_is_on_its_way_when_its_runner_stops_costs_no_attempt(
    streams_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim_at_once = Streams.claim
    claimed: list[str] = []

    async def claim_slowly(self: Streams, run_id: str, *args: Any, **more: Any) -> Any:
        done = await claim_at_once(self, run_id, *args, **more)
        claimed.append(run_id)
        if len(claimed) == 1:
            # The store has done it, and is heard when its runner has to leave.
            (task,) = (it for it in asyncio.all_tasks() if it.get_name() == run_id)

            async def leaving() -> bool:
                return task.cancelling() > 0

            await until(leaving, "the runner leaves")
        return done

    monkeypatch.setattr(Streams, "claim", claim_slowly)

    async def scenario(scene: Scene) -> None:
        scene.gate.opened.set()
        async with scene.runner("r1"):
            run_id = await scene.enqueue()

            async def is_claimed() -> bool:
                return claimed == [run_id]

            await until(is_claimed, "it is claimed")
        assert scene.gate.calls == []
        async with scene.runner("r2"):
            told = await scene.status_is(run_id, "completed")
            assert told.record.output == "ab"
            await scene.nothing_is_left()

    on_scene(streams_url, scenario, max_attempts=1)


def test_a_claim_that_is_not_done_when_its_runner_has_left_is_not_done_later(
    streams_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind the back of who has the run by then, it would be theirs no more."""
    claim_at_once = Streams.claim
    asked: list[str] = []

    async def claim_late(self: Streams, run_id: str, *args: Any, **more: Any) -> Any:
        asked.append(run_id)
        if len(asked) > 1:
            return await claim_at_once(self, run_id, *args, **more)
        (task,) = (it for it in asyncio.all_tasks() if it.get_name() == run_id)

        async def leaving() -> bool:
            return task.cancelling() > 0

        async def send() -> Any:
            await until(leaving, "the runner leaves")
            # As slow as the store is then.
            await asyncio.sleep(0.3)
            return await claim_at_once(self, run_id, *args, **more)

        # What is sent is done, whoever waits for it.
        return await asyncio.shield(asyncio.create_task(send()))

    monkeypatch.setattr(Streams, "claim", claim_late)

    async def scenario(scene: Scene) -> None:
        scene.gate.opened.set()
        async with scene.runner("r1"):
            run_id = await scene.enqueue()

            async def is_asked() -> bool:
                return asked == [run_id]

            await until(is_asked, "it is claimed")
        async with scene.runner("r2"):
            told = await scene.status_is(run_id, "completed")
            assert told.record.output == "ab"
            await scene.nothing_is_left()

    on_scene(streams_url, scenario, max_attempts=1)


def test_a_claim_is_attended_to_also_where_its_runner_is_told_twice_to_stop(
    streams_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(streams: Streams, redis: Any, claims: Callable[..., Claims]) -> None:
        begun, ended = asyncio.Event(), asyncio.Event()

        async def never(*_: Any, **__: Any) -> Any:
            begun.set()
            try:
                await asyncio.sleep(1000)
            finally:
                ended.set()

        monkeypatch.setattr(Streams, "begin", never)
        run_id = await queued(streams)
        ticket = Ticket(run_id, "notes", retaken=False)
        claiming = asyncio.create_task(claims("r1", None).claim(ticket))
        await begun.wait()
        for _ in range(2):
            claiming.cancel()
            await asyncio.wait({claiming}, timeout=0.05)
        with pytest.raises(asyncio.CancelledError):
            await claiming
        # Nobody begins it any more behind the back of who has the run by then.
        assert ended.is_set()

    on_claims(streams_url, scenario)


@pytest.mark.parametrize("step", ["claim", "end"])
def test_who_is_fenced_at_a_claim_leaves_the_run_its_place(
    streams_url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    step: str,
) -> None:
    """Another attempt may have been begun and left in between: without a place nobody would
    ever end the run."""
    look = Streams.claimant
    between: list[str] = []

    async def look_too_early(self: Streams, run_id: str) -> Any:
        found = await look(self, run_id)
        if not between:
            between.append(run_id)
            await claim(self, run_id, 2, "another")
        return found

    monkeypatch.setattr(Streams, "claimant", look_too_early)

    async def scenario(scene: Scene) -> None:
        scene.gate.opened.set()
        (run_id,) = await scene.lost_runs(1)
        async with scene.runner("r1"):

            async def is_left() -> bool:
                return bool(between) and f"run {run_id}: " in caplog.text

            await until(is_left, "its runner has looked")
            assert run_id in await held(scene.redis)
            # Nobody renews it.
            await age(scene.redis, run_id, LATE_MS)
            await scene.status_is(run_id, "completed" if step == "claim" else "failed")
            await scene.nothing_is_left()

    on_scene(streams_url, scenario, max_attempts=3 if step == "claim" else 1)

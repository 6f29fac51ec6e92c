"""The runner and a real queue: what it takes, what it leaves, what it never does twice."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from plateau_sse.agents import Run, Yielded
from plateau_sse.runner import process
from plateau_sse.runner.runner import Runner
from plateau_sse.settings import Settings
from plateau_sse.store.queue import queue
from plateau_sse.store.queue.announcements import Announcements
from plateau_sse.store.queue.job import Job
from plateau_sse.store.queue.line import line_of
from plateau_sse.store.queue.queue import Queue, Ticket
from plateau_sse.store.redis import keys
from plateau_sse.store.runs.streams import Streams
from tests.executions import Told, told_of
from tests.queues import LATE_MS, age, held, idle_ms, sign_of_life, take, waiting
from tests.store import claim, full, on_streams, queued, text_of, texts, until

REQUEST = Job(messages=[{"role": "user", "content": "Why?"}]).encode()


@dataclass
class Gate:
    """Holds every agent after its first piece until `opened`, and counts them."""

    opened: asyncio.Event = field(default_factory=asyncio.Event)
    inside: int = 0
    peak: int = 0
    calls: list[str] = field(default_factory=list)


GATES: dict[str, Gate] = {}


async def notes(run: Run) -> AsyncIterator[Yielded]:
    gate = GATES["now"]
    gate.calls.append(run.id)
    gate.inside += 1
    gate.peak = max(gate.peak, gate.inside)
    try:
        yield "a"
        await gate.opened.wait()
        yield "b"
    finally:
        gate.inside -= 1


@dataclass
class Scene:
    streams: Streams
    queue: Queue
    redis: Any
    gate: Gate
    settings: Settings

    @asynccontextmanager
    async def runner(self, name: str = "r1") -> AsyncIterator[None]:
        """A runner that is told to stop at the end, as its process would be."""
        serving = asyncio.create_task(process._serve(self.settings, name))
        try:

            async def there() -> bool:
                depth = await self.queue.depth()
                assert not serving.done(), serving
                return depth.runners > 0

            await until(there, "the runner is there")
            yield
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            await serving

    async def enqueue(self, run_id: str = "") -> str:
        run_id = run_id or await queued(self.streams, REQUEST)
        assert await self.queue.enqueue(run_id, "notes", "ann", 100) == "ok"
        return run_id

    async def lost_runs(self, count: int) -> list[str]:
        """Runs whose runner has died in the middle of their first attempt."""
        await sign_of_life(self.queue, "dead")
        runs = [await self.enqueue() for _ in range(count)]
        assert len(await take(self.queue, "dead", count)) == count
        for run_id in runs:
            await claim(self.streams, run_id, 1, "dead")
            await self.streams.append(run_id, 1, texts("half"))
            await age(self.redis, run_id, LATE_MS)
        return runs

    async def status_is(self, run_id: str, status: str) -> Told:
        async def reached() -> bool:
            record = await self.streams.record(run_id)
            return record is not None and record.status == status

        await until(reached, f"the run is {status}")
        return await told_of(self.streams, self.redis, run_id)

    async def says(self, run_id: str, text: str) -> None:
        async def said() -> bool:
            return await text_of(self.redis, run_id) == text

        await until(said, f"the run has said {text!r}")

    async def nothing_is_left(self) -> None:
        async def empty() -> bool:
            return (await self.queue.depth())[:2] == (0, 0)

        await until(empty, "the queue is empty")


def on_scene(url: str, scenario: Callable[[Scene], Awaitable[None]], **settings: Any) -> None:
    values = {"runner_concurrency": 4, "graceful_timeout_s": 3} | settings

    async def opened(streams: Streams, redis: Any) -> None:
        GATES["now"] = Gate()
        agents = (("notes", "tests.test_runner:notes"),)
        chosen = Settings(redis_url=url, agents=agents, **values)
        scene = Scene(streams, Queue(redis), redis, GATES["now"], chosen)
        await scenario(scene)

    on_streams(url, opened)


def test_a_run_is_executed_and_leaves_the_queue(streams_url: str) -> None:
    async def scenario(scene: Scene) -> None:
        scene.gate.opened.set()
        async with scene.runner():
            assert "notes" in await Announcements(scene.redis).versions()
            told = await scene.status_is(await scene.enqueue(), "completed")
            assert told.record.output == "ab"
            await scene.nothing_is_left()

    on_scene(streams_url, scenario)


def test_what_has_just_left_the_queue_is_not_taken_for_taken_over(
    streams_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Leases are renewed before the runner hears that it is rid of the run."""
    real_done, real_lost = Queue.done, Runner._lease_lost
    told: set[str] = set()

    def lost(self: Runner, run_id: str) -> None:
        real_lost(self, run_id)
        # Behind what that has asked of the loop.
        self._loop.call_soon_threadsafe(told.add, run_id)

    async def done(self: Queue, ticket: Ticket, runner: str) -> None:
        await real_done(self, ticket, runner)

        async def is_told() -> bool:
            return ticket.run_id in told

        await until(is_told, "who renews has found it gone")

    monkeypatch.setattr("plateau_sse.runner.lease.RENEW_S", 0.02)
    monkeypatch.setattr(Queue, "done", done)
    monkeypatch.setattr(Runner, "_lease_lost", lost)

    async def scenario(scene: Scene) -> None:
        async with scene.runner():
            run_id = await scene.enqueue()
            scene.gate.opened.set()
            await scene.status_is(run_id, "completed")
            await scene.nothing_is_left()

    on_scene(streams_url, scenario)
    assert "has taken over" not in caplog.text


def test_a_run_that_is_enqueued_twice_is_executed_once(streams_url: str) -> None:
    """Who got no answer asks again, at whatever time."""

    async def scenario(scene: Scene) -> None:
        async with scene.runner():
            run_id = await scene.enqueue()
            await scene.enqueue(run_id)
            await scene.says(run_id, "a")
            await scene.enqueue(run_id)
            scene.gate.opened.set()
            told = await scene.status_is(run_id, "completed")
            await scene.nothing_is_left()
            await scene.enqueue(run_id)
            await scene.nothing_is_left()
            assert scene.gate.calls == [run_id]
            assert told.types.count("run.completed") == 1 and told.text == "ab"

    on_scene(streams_url, scenario)


def test_lost_runs_are_taken_over_and_wait_for_a_place(streams_url: str) -> None:
    async def scenario(scene: Scene) -> None:
        lost = await scene.lost_runs(3)
        async with scene.runner():

            async def at_work() -> bool:
                return scene.gate.inside == 1

            await until(at_work, "one run is taken over")
            seen = -1

            async def looked_again() -> bool:
                nonlocal seen
                before, seen = seen, await idle_ms(scene.redis, "r1")
                return seen < before

            # It shows that it lives. The others have begun again, too, and wait for a place.
            await until(looked_again, "the runner gives a sign of life")
            assert {lease.runner for lease in (await held(scene.redis)).values()} == {"r1"}
            assert scene.gate.inside == 1
            scene.gate.opened.set()
            for run_id in lost:
                told = await scene.status_is(run_id, "completed")
                assert told.types[2] == "run.started" and told.record.output == "ab"
                assert told.events[2]["attempt"] == told.record.attempt == 2
            assert scene.gate.peak == 1
            await scene.nothing_is_left()

    on_scene(streams_url, scenario, runner_concurrency=1)


def test_a_run_whose_runners_die_ends_after_its_last_attempt(streams_url: str) -> None:
    async def scenario(scene: Scene) -> None:
        (run_id,) = await scene.lost_runs(1)
        async with scene.runner():
            told = await scene.status_is(run_id, "failed")
            assert (told.last["code"], told.last["retryable"]) == ("runner_lost", True)
            assert scene.gate.calls == []
            await scene.nothing_is_left()

    on_scene(streams_url, scenario, max_attempts=1)


def test_who_comes_back_under_the_same_name_goes_on_at_once(streams_url: str) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.runner("r1"):
            run_id = await scene.enqueue()
            await scene.says(run_id, "a")
        # Its grace was over: handed back, without an end.
        told = await told_of(scene.streams, scene.redis, run_id)
        assert told.record.status == "running" and scene.gate.inside == 0
        scene.gate.opened.set()
        async with scene.runner("r1"):
            told = await scene.status_is(run_id, "completed")
            assert told.record.attempt == 2 and told.record.output == "ab"
            await scene.nothing_is_left()

    on_scene(streams_url, scenario)


def test_what_is_handed_back_is_taken_at_once_by_whatever_name(streams_url: str) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.runner("r1"):
            run_id = await scene.enqueue()
            await scene.says(run_id, "a")
        scene.gate.opened.set()
        handed_back_at = time.monotonic()
        async with scene.runner("r2"):
            await scene.status_is(run_id, "completed")
            # Its lease would have had four seconds left at least.
            assert time.monotonic() - handed_back_at < 3
            await scene.nothing_is_left()

    on_scene(streams_url, scenario)


def test_what_was_on_its_way_to_a_runner_that_stops_is_handed_back_too(
    streams_url: str,
) -> None:
    """A place that was delivered while it stopped listening: it does not know of it."""

    async def scenario(scene: Scene) -> None:
        run_id = await queued(scene.streams, REQUEST)
        async with scene.runner("r1"):
            version = (await Announcements(scene.redis).versions())["notes"]
            # Of another agent, which it would not take: it is given it.
            other = await queued(scene.streams, REQUEST)
            assert await scene.queue.enqueue(other, "other@1", "ann", 100) == "ok"
            assert len(await take(scene.queue, "r1", 1, ["other@1"])) == 1
            async with scene.redis.pipeline(transaction=True) as pipe:
                place = (await scene.redis.hget(keys.QUEUE.places, other)).decode()
                ends = await scene.redis.zscore(keys.QUEUE.held, other)
                ours = place.replace("other@1", line_of("notes", version))
                pipe.hset(keys.QUEUE.places, run_id, ours)
                pipe.zadd(keys.QUEUE.held, {run_id: ends})
                await pipe.execute()
            await scene.queue.done(Ticket(other, "other@1", False), "r1")
        assert await held(scene.redis) == {} and await waiting(scene.redis) == [run_id]
        scene.gate.opened.set()
        async with scene.runner("r2"):
            await scene.status_is(run_id, "completed")
            await scene.nothing_is_left()

    on_scene(streams_url, scenario)


def test_stopping_runners_costs_no_attempt_however_often(streams_url: str) -> None:
    async def scenario(scene: Scene) -> None:
        run_id = ""
        for deploy in range(3):
            async with scene.runner(f"r{deploy}"):
                run_id = run_id or await scene.enqueue()

                async def at_work(count: int = deploy + 1) -> bool:
                    return len(scene.gate.calls) == count

                await until(at_work, "the run is on")
                await scene.says(run_id, "a")
        scene.gate.opened.set()
        async with scene.runner("last"):
            told = await scene.status_is(run_id, "completed")
            assert told.record.output == "ab" and told.record.attempt == 4
            assert scene.gate.calls == [run_id] * 4
            await scene.nothing_is_left()

    on_scene(streams_url, scenario, max_attempts=2)


def test_a_wish_to_cancel_reaches_the_agent(streams_url: str) -> None:
    async def scenario(scene: Scene) -> None:
        async with scene.runner():
            run_id = await scene.enqueue()
            await scene.says(run_id, "a")
            assert await scene.streams.ask_to_cancel(run_id, "asked") == "running"
            told = await scene.status_is(run_id, "cancelled")
            assert told.last["reason"] == "asked" and scene.gate.inside == 0
            await scene.nothing_is_left()

    on_scene(streams_url, scenario)


def test_a_run_that_the_store_has_half_forgotten_gets_another_attempt(
    streams_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "LEASE_S", 0.3)

    async def scenario(scene: Scene) -> None:
        async with scene.runner():
            run_id = await scene.enqueue()
            await scene.says(run_id, "a")
            # More is gone than its writer still has.
            await scene.redis.hset(keys.run(run_id).record, "seq", 0)
            scene.gate.opened.set()
            told = await scene.status_is(run_id, "completed")
            assert told.record.attempt == 2 and told.record.output == "ab"
            await scene.nothing_is_left()

    on_scene(streams_url, scenario)


def test_a_full_store_is_worked_off(streams_url: str) -> None:
    async def scenario(scene: Scene) -> None:
        scene.gate.opened.set()
        await sign_of_life(scene.queue, "starter")
        runs = [await scene.enqueue() for _ in range(5)]
        with full(streams_url):
            async with scene.runner():
                for run_id in runs:
                    await scene.status_is(run_id, "completed")
                await scene.nothing_is_left()
        for name in (keys.AGENTS, keys.ANNOUNCED):
            await scene.redis.expire(name, 60)

    on_scene(streams_url, scenario)


def test_a_store_that_was_emptied_is_served_again(streams_url: str) -> None:
    async def scenario(scene: Scene) -> None:
        scene.gate.opened.set()
        async with scene.runner():
            await scene.redis.flushall()

            async def known_again() -> bool:
                return (await scene.queue.depth()).runners == 1

            await until(known_again, "the runner makes itself known")
            await scene.status_is(await scene.enqueue(), "completed")

    on_scene(streams_url, scenario)

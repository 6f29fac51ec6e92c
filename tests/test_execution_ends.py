"""How an attempt ends before its agent does: too late, stopped, handed back, or refused."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from plateau_sse.agents import Run, Yielded
from plateau_sse.errors import StoreError
from plateau_sse.runner import driving
from plateau_sse.runner.writer import Refused
from plateau_sse.store.redis import keys
from plateau_sse.store.runs import events
from plateau_sse.store.runs.streams import Streams
from tests.executions import Told, execution_of, told_of
from tests.store import (
    claim,
    done,
    everything,
    forget,
    on_streams,
    text_of,
    texts,
    until,
)


class Endless:
    """An agent that says "a" and then waits for ever; `closed` once it was let go."""

    def __init__(self) -> None:
        self.closed = threading.Event()
        self.go_on = threading.Event()

    async def asynchronous(self, run: Run) -> AsyncIterator[Yielded]:
        try:
            yield "a"
            await asyncio.get_running_loop().create_future()
        finally:
            self.closed.set()

    def plain(self, run: Run) -> Iterator[Yielded]:
        try:
            yield "a"
            assert self.go_on.wait(20)
            yield "b"
            raise AssertionError("nobody asked for more")
        finally:
            self.closed.set()


async def first_piece(redis: Any, run_id: str) -> None:
    async def there() -> bool:
        return await text_of(redis, run_id) == "a"

    await until(there, "the first piece is in the stream")


@pytest.mark.parametrize("kind", ["asynchronous", "plain"])
def test_an_attempt_has_a_deadline(streams_url: str, kind: str) -> None:
    endless = Endless()

    async def scenario(streams: Streams, redis: Any) -> Told:
        agent = getattr(endless, kind)
        async with execution_of(streams, agent, timeout_s=0.1) as execution:
            await execution.run()
            # A thread is left to finish its step; then its generator is closed.
            endless.go_on.set()

            async def closed() -> bool:
                return endless.closed.is_set()

            await until(closed, "the generator is closed")
            return await told_of(streams, redis, execution.run_id)

    told = on_streams(streams_url, scenario)
    assert (told.text, told.record.status) == ("a", "failed")
    assert (told.last["code"], told.last["retryable"]) == ("timeout", True)
    assert "0.1 s" in told.last["message"]


def test_an_attempt_has_no_more_time_than_its_run_has_left(streams_url: str) -> None:
    endless = Endless()

    async def scenario(streams: Streams, redis: Any) -> Told:
        agent = endless.asynchronous
        async with execution_of(streams, agent, age_s=59, life_s=60) as execution:
            before = execution.is_decided
            await execution.run()
            # By now it needs no place among those that are executed.
            assert (before, execution.is_decided) == (False, True)
            return await told_of(streams, redis, execution.run_id)

    told = on_streams(streams_url, scenario)
    assert (told.text, told.record.status) == ("a", "failed")
    assert (told.last["code"], told.last["retryable"]) == ("timeout", True)
    assert "60 s" in told.last["message"]


@pytest.mark.parametrize("kind", ["asynchronous", "plain"])
def test_who_is_stopped_ends_as_cancelled(streams_url: str, kind: str) -> None:
    endless = Endless()

    async def scenario(streams: Streams, redis: Any) -> Told:
        async with execution_of(streams, getattr(endless, kind)) as execution:
            running = asyncio.create_task(execution.run())
            await first_piece(redis, execution.run_id)
            execution.stop("asked")
            execution.stop("asked")
            await running
            endless.go_on.set()

            async def closed() -> bool:
                return endless.closed.is_set()

            await until(closed, "the generator is closed")
            execution.stop("too late")
            return await told_of(streams, redis, execution.run_id)

    told = on_streams(streams_url, scenario)
    assert (told.text, told.record.status) == ("a", "cancelled")
    assert told.last == {"type": "run.cancelled", "reason": "asked"}


def test_a_run_cancelled_before_it_begins_never_calls_its_agent(streams_url: str) -> None:
    def agent(run: Run) -> Iterator[Yielded]:
        raise AssertionError("called")

    async def scenario(streams: Streams, redis: Any) -> Told:
        async with execution_of(streams, agent) as execution:
            execution.stop("asked")
            await execution.run()
            return await told_of(streams, redis, execution.run_id)

    assert on_streams(streams_url, scenario).types == ["run.started", "run.cancelled"]


@pytest.mark.parametrize("error", [RuntimeError("interrupted"), KeyError("x")])
def test_an_agent_that_breaks_because_it_is_stopped_is_cancelled(
    streams_url: str, error: Exception
) -> None:
    async def agent(run: Run) -> AsyncIterator[Yielded]:
        yield "a"
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            raise error from None

    async def scenario(streams: Streams, redis: Any) -> Told:
        async with execution_of(streams, agent) as execution:
            running = asyncio.create_task(execution.run())
            await first_piece(redis, execution.run_id)
            execution.stop("asked")
            await running
            return await told_of(streams, redis, execution.run_id)

    assert on_streams(streams_url, scenario).record.status == "cancelled"


@pytest.mark.parametrize("kind", ["asynchronous", "plain"])
def test_what_is_handed_back_has_no_end_and_goes_to_another_attempt(
    streams_url: str, kind: str
) -> None:
    endless = Endless()

    async def scenario(streams: Streams, redis: Any) -> None:
        async with execution_of(streams, getattr(endless, kind)) as execution:
            run_id = execution.run_id
            running = asyncio.create_task(execution.run())
            await first_piece(redis, run_id)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            before = await everything(redis, run_id)
            endless.go_on.set()
            told = await told_of(streams, redis, run_id)
            assert told.record.status == "running"
            assert told.types == ["run.started", "message.delta"]
        assert endless.closed.is_set() or kind == "plain"
        assert await everything(redis, run_id) == before
        await claim(streams, run_id, 2, "r2")
        await streams.finish(run_id, 2, [*texts("whole"), done()], first_seq=2)
        told = await told_of(streams, redis, run_id)
        assert told.record.output == "whole"
        assert told.types[2:] == ["run.started", "message.delta", "run.completed"]

    on_streams(streams_url, scenario)


@pytest.mark.parametrize("code", ["fenced", "ended", "gone"])
def test_an_agent_whose_run_is_no_longer_ours_is_stopped(streams_url: str, code: str) -> None:
    closed: list[bool] = []

    async def agent(run: Run) -> AsyncIterator[Yielded]:
        try:
            yield "a"
            while True:
                yield "z"
                await asyncio.sleep(0.001)
        finally:
            closed.append(True)

    async def scenario(streams: Streams, redis: Any) -> None:
        async with execution_of(streams, agent) as execution:
            run_id = execution.run_id
            running = asyncio.create_task(execution.run())

            async def begun() -> bool:
                return (await text_of(redis, run_id)).startswith("az")

            await until(begun, "the agent is on")
            if code == "fenced":
                await claim(streams, run_id, 2, "r2")
            elif code == "ended":
                lost = events.failed("runner_lost", "", retryable=True)
                await streams.end(run_id, 1, lost)
            else:
                await forget(redis, run_id)
            before = await everything(redis, run_id)
            with pytest.raises(Refused) as caught:
                await running
            assert caught.value.code == code and closed == [True]
            assert await everything(redis, run_id) == before

    on_streams(streams_url, scenario)


def test_a_store_that_fails_is_not_the_agents_failure(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        async def agent(run: Run) -> AsyncIterator[Yielded]:
            key = keys.run(run.id)
            await redis.rpush(key.text, "not a string")
            await redis.expire(key.text, 60)
            while True:
                yield "z"
                await asyncio.sleep(0.001)

        async with execution_of(streams, agent) as execution:
            with pytest.raises(StoreError):
                await execution.run()
            record = await redis.hgetall(keys.run(execution.run_id).record)
            assert record[b"state"] == b"running" and b"end" not in record

    on_streams(streams_url, scenario)


@pytest.mark.parametrize("held_up_at", ["an await", "a yield"])
def test_who_is_cancelled_cleans_up_undisturbed(streams_url: str, held_up_at: str) -> None:
    """However often it is asked for: the runner looks for wishes twice a second."""
    cleaned, entered = [], asyncio.Event()

    async def agent(run: Run) -> AsyncIterator[Yielded]:
        try:
            yield "a"
            if held_up_at == "an await":
                await asyncio.get_running_loop().create_future()
            while True:
                yield "b"
        finally:
            entered.set()
            for _ in range(20):
                await asyncio.sleep(0.01)
            cleaned.append(True)

    async def scenario(streams: Streams, redis: Any) -> Told:
        async with execution_of(streams, agent) as execution:
            running = asyncio.create_task(execution.run())

            async def begun() -> bool:
                return (await text_of(redis, execution.run_id)).startswith("a")

            await until(begun, "the agent is on")
            execution.stop("asked")
            await entered.wait()
            while not running.done():
                execution.stop("asked")
                await asyncio.sleep(0.005)
            return await told_of(streams, redis, execution.run_id)

    told = on_streams(streams_url, scenario)
    assert told.record.status == "cancelled" and cleaned == [True]


def test_who_does_not_stop_is_told_again_after_a_grace_and_then_left_behind(
    streams_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(driving, "STOP_GRACE_S", 0.2)
    monkeypatch.setattr(driving, "STOP_AGAIN_S", 0.02)
    told_at: list[float] = []
    enough = asyncio.Event()

    async def agent(run: Run) -> AsyncIterator[Yielded]:
        yield "a"
        while not enough.is_set():
            try:
                await enough.wait()
            except asyncio.CancelledError:
                told_at.append(asyncio.get_running_loop().time())

    async def scenario(streams: Streams, redis: Any) -> Told:
        async with execution_of(streams, agent) as execution:
            running = asyncio.create_task(execution.run())
            await first_piece(redis, execution.run_id)
            execution.stop("asked")
            await running
            enough.set()
            return await told_of(streams, redis, execution.run_id)

    assert on_streams(streams_url, scenario).record.status == "cancelled"
    first, second, *more = told_at
    assert second - first >= 0.2 and len(more) < 10
    assert "does not stop" in caplog.text


@pytest.mark.parametrize("shape", ["itself", "within it"])
def test_who_is_closed_at_a_yield_lets_go_of_its_model_within_a_second(
    streams_url: str, shape: str
) -> None:
    """Nothing more of it is taken; what it does last would read all that the model says."""
    let_go: list[float] = []

    async def model() -> AsyncIterator[str]:
        try:
            yield "x" * 300_000
        finally:
            began = asyncio.get_running_loop().time()
            try:
                await asyncio.sleep(15)
            finally:
                let_go.append(asyncio.get_running_loop().time() - began)

    async def around(run: Run) -> AsyncIterator[Yielded]:
        async for piece in model():
            yield piece

    def itself(run: Run) -> AsyncIterator[Yielded]:
        return model()

    async def scenario(streams: Streams, redis: Any) -> Told:
        driving.bound_closing(asyncio.get_running_loop())
        async with execution_of(streams, itself if shape == "itself" else around) as execution:
            await execution.run()

            async def gone() -> bool:
                return bool(let_go)

            await until(gone, "it is let go of", timeout_s=5)
            return await told_of(streams, redis, execution.run_id)

    told = on_streams(streams_url, scenario)
    assert told.last["code"] == "output_too_large"
    assert let_go[0] < 2

"""What becomes of what an agent remembers when its run ends, one way or the other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

from plateau_sse.agents import MEMORY_BYTES, Run, Yielded
from plateau_sse.runner.writer import Refused
from plateau_sse.store.answers.cache import Cache
from plateau_sse.store.conversations.conversations import Conversations, place_of
from plateau_sse.store.redis.connections import connect
from plateau_sse.store.redis.fullness import Fullness
from plateau_sse.store.runs import events
from plateau_sse.store.runs.streams import Streams
from tests.executions import LIMITS, VERSION, Told, execution_of, memories_of, told_of
from tests.store import on_streams

PLACE = place_of("ann", "", "c1")


async def counts(run: Run) -> AsyncIterator[Yielded]:
    assert run.memory is not None
    yield f"{run.memory.value.decode() or 'nothing'} {run.memory.revision}"
    run.memory.keep(run.memory.value + b"x")


async def keeps_and_fails(run: Run) -> AsyncIterator[Yielded]:
    assert run.memory is not None
    run.memory.keep(b"never")
    yield "text"
    raise ValueError("no")


async def keeps_too_much(run: Run) -> AsyncIterator[Yielded]:
    assert run.memory is not None
    yield "text"
    run.memory.keep(b"x" * (MEMORY_BYTES + 1))


async def run_of(streams: Streams, redis: Any, agent: Any, **how: Any) -> Told:
    how = {"memory": PLACE, "asked_ms": 1, "redis": redis, **how}
    async with execution_of(streams, agent, **how) as execution:
        await execution.run()
        return await told_of(streams, redis, execution.run_id)


async def remembered(redis: Any) -> bytes:
    conversations = Conversations(redis, LIMITS, Fullness(redis, 64 * 1024**2).bound)
    return (await memories_of(redis, conversations).read(PLACE, "notes", "r"))[0]


def test_what_was_kept_by_a_run_that_another_has_ended_is_not_remembered(
    streams_url: str,
) -> None:
    """Cancelled, or given up, while its memory was kept, and its end was on its way."""

    async def scenario(streams: Streams, redis: Any) -> None:
        assert (await run_of(streams, redis, counts)).text == "nothing 0"
        how: dict[str, Any] = {"memory": PLACE, "asked_ms": 1, "redis": redis}
        for last in (
            events.cancelled("client"),
            events.failed("runner_lost", "Its runner died.", retryable=True),
        ):
            async with execution_of(streams, counts, **how) as execution:
                finish = execution._writer.finish
                ended = partial(streams.end, execution.run_id, 1, last)

                async def too_late(*args: Any, **more: Any) -> Any:
                    await ended()  # noqa: B023
                    return await finish(*args, **more)  # noqa: B023

                execution._writer.finish = too_late  # type: ignore[method-assign]
                with pytest.raises(Refused, match="ended"):
                    await execution.run()
            assert await remembered(redis) == b"x"
        assert (await run_of(streams, redis, counts)).text == "x 5"

    on_streams(streams_url, scenario)


def test_it_is_written_with_the_end_of_a_run_that_completes(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        told = [(await run_of(streams, redis, counts)).text for _ in range(3)]
        assert told == ["nothing 0", "x 1", "xx 2"]
        for agent, code in (
            (keeps_and_fails, "agent_error"),
            (keeps_too_much, "memory_too_large"),
        ):
            assert (await run_of(streams, redis, agent)).last["code"] == code
            assert await remembered(redis) == b"xxx"

    on_streams(streams_url, scenario)


def test_another_attempt_begins_where_the_first_one_did(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        await run_of(streams, redis, counts)
        how: dict[str, Any] = {"memory": PLACE, "asked_ms": 1, "redis": redis}
        async with execution_of(streams, counts, attempt=2, **how) as execution:
            # As far as this had come the attempt before.
            memories = execution._keeper._memories
            keep = partial(memories.keep, revision=1, asked_ms=1)
            await keep(PLACE, "notes", execution.run_id, b"by the first")
            await execution.run()
            assert (await told_of(streams, redis, execution.run_id)).text == "x 1"
        assert await remembered(redis) == b"xx"

    on_streams(streams_url, scenario)


def test_who_finds_that_another_has_written_fails(streams_url: str) -> None:
    async def scenario(streams: Streams, redis: Any) -> None:
        async def meanwhile(run: Run) -> AsyncIterator[Yielded]:
            assert run.memory is not None
            run.memory.keep(b"mine")
            await run_of(streams, redis, counts)
            yield "text"

        told = await run_of(streams, redis, meanwhile)
        assert (told.last["code"], told.last["retryable"]) == ("memory_conflict", True)
        assert await remembered(redis) == b"x"

    on_streams(streams_url, scenario)


def test_what_follows_from_it_is_not_cached(streams_url: str, cache_url: str) -> None:
    async def silent(run: Run) -> AsyncIterator[Yielded]:
        yield "text"

    async def scenario(streams: Streams, redis: Any) -> None:
        client: Any = connect(cache_url, "test")
        answers = Cache(client, ttl_s=60, max_bytes=10 * 1024**2)
        how: dict[str, Any] = {"answers": answers, "version": VERSION}
        try:
            # Nothing was remembered, nothing is.
            await run_of(streams, redis, silent, cache_key="k1", **how)
            assert await answers.get("k1") is not None
            await run_of(streams, redis, counts, cache_key="k2", **how)
            assert await answers.get("k2") is None
            await run_of(streams, redis, silent, cache_key="k3", **how)
            assert await answers.get("k3") is None
        finally:
            await client.aclose()

    on_streams(streams_url, scenario)

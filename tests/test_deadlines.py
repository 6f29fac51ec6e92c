"""Deadlines around commands: one that comes while a command is sent holds as any other."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
import uvloop

from plateau_sse.store.redis.connections import connect

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.mark.parametrize("loop", LOOPS)
def test_a_cancellation_holds_wherever_in_a_command_it_comes(
    streams_url: str, loop: str
) -> None:
    """In each turn of the loop that a command takes, from the first to the last."""

    async def turns(redis: Any, after: int) -> str:
        task = asyncio.create_task(redis.ping())
        for _ in range(after):
            await asyncio.sleep(0)
        if task.done():
            return "done"
        task.cancel()
        await asyncio.wait({task})
        return "cancelled" if task.cancelled() else "swallowed"

    async def scenario() -> None:
        redis: Any = connect(streams_url, "test", connections=1)
        try:
            ends = []
            for after in itertools.count():
                # Connected, and none of it is on the way.
                await redis.ping()
                ends.append(await turns(redis, after))
                if ends[-1] == "done":
                    break
            assert len(ends) > 3 and set(ends[:-1]) == {"cancelled"}, ends
        finally:
            await redis.aclose()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(asyncio.wait_for(scenario(), 30))


def test_a_deadline_that_is_over_ends_a_loop_of_commands(streams_url: str) -> None:
    """As `Prefer: wait=0` reads a run until it has ended."""

    async def reads_for_ever(redis: Any) -> None:
        async with asyncio.timeout(0):
            while True:
                await redis.ping()

    async def scenario() -> None:
        redis: Any = connect(streams_url, "test", connections=1)
        try:
            for _ in range(200):
                await redis.ping()
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(reads_for_ever(redis), 1)
        finally:
            await redis.aclose()

    asyncio.run(asyncio.wait_for(scenario(), 60))

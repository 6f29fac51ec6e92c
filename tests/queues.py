"""The queue as tests use it: opened for one scenario, and leases of any age.

Invariant: a test makes a lease old, it does not wait for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from plateau_sse.store.queue.queue import LEASE_S, Queue, Ticket
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import connect

LIMIT = 1000
LATE_MS = int(LEASE_S * 1000) + 1
# Well within a lease, whatever the machine is busy with.
FRESH_MS = 1000


def on_queue(url: str, scenario: Callable[[Queue, Any], Awaitable[None]]) -> None:
    async def opened() -> None:
        redis, looking = connect(url, "test"), connect(url, "test-looking", connections=2)
        try:
            await scenario(Queue(redis), looking)
        finally:
            await looking.aclose()
            await redis.aclose()

    asyncio.run(opened())


async def enqueue(queue: Queue, count: int, start: int = 0) -> list[str]:
    """Numbered runs; a runner by the name of `starter` is there to let them in."""
    await queue.open()
    await queue.take_over("starter", 0)
    names = [f"run-{i}" for i in range(start, start + count)]
    for name in names:
        assert await queue.enqueue(name, "notes", LIMIT) == "ok"
    return names


async def idle_ms(redis: Any, runner: str) -> int:
    """Milliseconds since the runner was last heard of."""
    for consumer in await redis.xinfo_consumers(keys.QUEUE, keys.GROUP):
        if consumer["name"] == runner.encode():
            return int(consumer["idle"])
    raise AssertionError(f"the group does not know {runner}")


async def age(redis: Any, runner: str, ticket: Ticket, age_ms: int) -> None:
    """Make the lease of a runner's run that old."""
    await redis.xclaim(
        keys.QUEUE, keys.GROUP, runner, 0, [ticket.entry], idle=age_ms, justid=True
    )


async def pending(redis: Any) -> dict[str, tuple[str, int, int]]:
    """Of every entry that is claimed: runner, age of the lease in ms, deliveries."""
    rows = await redis.xpending_range(keys.QUEUE, keys.GROUP, "-", "+", 1000)
    return {
        row["message_id"].decode(): (
            row["consumer"].decode(),
            row["time_since_delivered"],
            row["times_delivered"],
        )
        for row in rows
    }


def names(tickets: list[Ticket]) -> list[str]:
    return [ticket.run_id for ticket in tickets]

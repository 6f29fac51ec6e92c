"""The queue as tests use it: opened for one scenario, and leases of any age.

Invariant: a test makes a lease old, it does not wait for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from plateau_sse.store.queue.queue import LEASE_S, Queue, Ticket
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import connect
from tests.store import admin_url

LIMIT = 1000
LEASE_MS = int(LEASE_S * 1000)
LATE_MS = LEASE_MS + 1
# Well within a lease, whatever the machine is busy with.
FRESH_MS = 1000


class Lease(NamedTuple):
    """Of a run that is held: by whom, and milliseconds since it was renewed."""

    runner: str
    age_ms: int


def on_queue(
    url: str, scenario: Callable[[Queue, Any], Awaitable[None]], *, shared: bool = False
) -> None:
    """`shared`: there may be several owners."""

    async def opened() -> None:
        redis, looking = connect(url, "test"), connect(admin_url(url), "looking", connections=2)
        try:
            await scenario(Queue(redis, is_shared=lambda: shared), looking)
        finally:
            await looking.aclose()
            await redis.aclose()

    asyncio.run(opened())


async def sign_of_life(queue: Queue, runner: str) -> None:
    await queue.take(runner, (), 0)


async def enqueue(queue: Queue, count: int, start: int = 0, owner: str = "ann") -> list[str]:
    """Numbered runs; a runner by the name of `starter` is there to let them in."""
    await sign_of_life(queue, "starter")
    names = [f"run-{i}" for i in range(start, start + count)]
    for name in names:
        assert await queue.enqueue(name, "notes", owner, LIMIT) == "ok"
    return names


async def take(
    queue: Queue,
    runner: str,
    most: int,
    agents: Sequence[str] = ("notes",),
    places: Mapping[str, int] | None = None,
) -> list[Ticket]:
    return (await queue.take(runner, agents, most, places=places)).tickets


async def idle_ms(redis: Any, runner: str) -> int:
    """Milliseconds since the runner was last heard of."""
    looked: float | None = await redis.zscore(keys.QUEUE.runners, runner)
    assert looked is not None, f"nobody knows {runner}"
    return await now_ms(redis) - int(looked)


async def now_ms(redis: Any) -> int:
    seconds, micros = await redis.time()
    return int(seconds * 1000 + micros // 1000)


async def age(redis: Any, run_id: str, age_ms: int) -> None:
    """Make the lease of a run that is held that old."""
    ends = await now_ms(redis) + LEASE_MS - age_ms
    assert await redis.zadd(keys.QUEUE.held, {run_id: ends}, xx=True, ch=True) == 1


async def let_wait(redis: Any, run_id: str, age_ms: int) -> None:
    """Make a run that waits have waited for so long."""
    began = await now_ms(redis) - age_ms
    assert await redis.zadd(keys.QUEUE.since, {run_id: began}, xx=True, ch=True) == 1
    await redis.zadd(keys.QUEUE.back, {run_id: began}, xx=True)


async def held(redis: Any) -> dict[str, Lease]:
    """Every run that is held."""
    now, found = await now_ms(redis), {}
    for run, ends in await redis.zrange(keys.QUEUE.held, 0, -1, withscores=True):
        _, runner, _ = (await redis.hget(keys.QUEUE.places, run)).decode().split(" ", 2)
        found[run.decode()] = Lease(runner, now + LEASE_MS - int(ends))
    return found


async def waiting(redis: Any) -> list[str]:
    """Every run that waits, since when it does."""
    return [run.decode() for run in await redis.zrange(keys.QUEUE.since, 0, -1)]


def names(tickets: Sequence[Ticket]) -> list[str]:
    return [ticket.run_id for ticket in tickets]

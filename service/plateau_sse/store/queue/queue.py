"""The queue of runs: one stream with one consumer group.

Invariant: an entry stays pending, under its runner's name, until its run has ended; the time
since its last renewal is the age of the lease. Entries are deleted when they are acknowledged,
so the length of the stream is the number of runs that wait or execute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, Literal, NamedTuple

from redis import Redis as BlockingRedis
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import store_errors
from plateau_sse.store.redis.pulse import Pulse

LEASE_S = 6.0
RENEW_S = 2.0
# Twice a lease: a living runner would have taken the run over by then.
ABANDONED_S = 12.0
# A silence that leaves a renewal its time: half a lease.
PAUSE_S = 3.0
# A runner looks for lost runs, and so gives a sign of life, at least once a second.
RUNNER_DEAD_S = 6.0
# After every entry there may be, and not the last id of all, which stands for `>`.
_BEYOND = "18446744073709551615-0"
AGENTS_LIFE_S = 86_400
LOOKS_AT_ONCE = 100

_ENQUEUE = files("plateau_sse.store.queue").joinpath("enqueue.lua").read_text()
_RENEW = files("plateau_sse.store.queue").joinpath("renew.lua").read_text()

Enqueued = Literal["ok", "full", "no_runner"]


class Ticket(NamedTuple):
    """A place in the queue: its entry's id, the run it stands for, and that run's agent."""

    entry: str
    run_id: str
    agent: str


class Depth(NamedTuple):
    """Runs that wait, runs that execute, and the living runners; and how long, by the server's
    clock, the first in line has waited."""

    waiting: int
    running: int
    runners: int
    oldest_s: float = 0.0


class Queue:
    """What web workers and runners do with the queue."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis
        self._enqueue = redis.register_script(_ENQUEUE)
        self._late = Pulse(pause_s=PAUSE_S, grace_s=LEASE_S)
        # Who has just begun to look does not know how long the store was away.
        self._abandoned = Pulse(pause_s=2 * PAUSE_S, grace_s=LEASE_S, wary=True)

    async def open(self) -> None:
        """Create the group; harmless where it exists."""
        with store_errors():
            try:
                await self._redis.xgroup_create(keys.QUEUE, keys.GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise

    async def enqueue(self, run_id: str, agent: str, limit: int) -> Enqueued:
        """Put a run into the queue, unless `limit` wait already or no runner is alive."""
        args: list[str | int] = [keys.GROUP, run_id, agent, limit, int(RUNNER_DEAD_S * 1000)]
        with store_errors():
            try:
                code: bytes = await self._enqueue([keys.QUEUE], args)
            except ResponseError as error:
                # No group: no runner has ever been here, or the store was emptied.
                if "NOGROUP" not in str(error) and "no such key" not in str(error):
                    raise
                return "no_runner"
        return code.decode()  # type: ignore[return-value]

    async def take(self, runner: str, count: int, block_ms: int) -> list[Ticket]:
        """Up to `count` new runs, waiting for the first at most `block_ms`."""
        with store_errors():
            reply = await self._redis.xreadgroup(
                keys.GROUP, runner, {keys.QUEUE: ">"}, count=count, block=block_ms
            )
        return _tickets(reply[0][1]) if reply else []

    async def mine(self, runner: str) -> list[Ticket]:
        """What a predecessor of the same name had taken and not finished."""
        with store_errors():
            reply = await self._redis.xreadgroup(
                keys.GROUP, runner, {keys.QUEUE: "0"}, count=1000
            )
        return _tickets(reply[0][1]) if reply else []

    async def take_over(self, runner: str, count: int) -> list[Ticket]:
        """Up to `count` runs whose lease has run out; a sign of life even where that is 0."""
        lease_ms = int(LEASE_S * 1000)
        with store_errors():
            async with self._redis.pipeline(transaction=False) as pipe:
                # Reading what is pending makes the consumer known and its idle time 0. On
                # Redis 7.0 neither XAUTOCLAIM nor a read that finds nothing new does.
                pipe.xreadgroup(keys.GROUP, runner, {keys.QUEUE: _BEYOND}, count=1)
                # Looks at all that is pending; XAUTOCLAIM only at the ten times `count` first.
                pipe.xpending_range(
                    keys.QUEUE, keys.GROUP, "-", "+", max(1, count), idle=lease_ms
                )
                _, late = await pipe.execute()
            if not (self._late.heard() and late and count > 0):
                return []
            # Whoever comes second finds them renewed, and gets nothing.
            entries = await self._redis.xclaim(
                keys.QUEUE, keys.GROUP, runner, lease_ms, [row["message_id"] for row in late]
            )
        return _tickets(entries)

    async def abandoned(self) -> list[Ticket]:
        """Claimed runs whose lease nobody has renewed for `ABANDONED_S`, where no runner is
        left: a living one takes them over, after a pause of the store a little later."""
        with store_errors():
            rows = await self._pending(ABANDONED_S)
        if not (self._abandoned.heard() and rows) or (await self.depth()).runners:
            return []
        with store_errors():
            async with self._redis.pipeline(transaction=False) as pipe:
                for row in rows:
                    pipe.xrange(keys.QUEUE, row["message_id"], row["message_id"])
                found = await pipe.execute()
        return _tickets([entry for entries in found for entry in entries])

    async def _pending(self, idle_s: float) -> list[dict[str, Any]]:
        try:
            rows: list[dict[str, Any]] = await self._redis.xpending_range(
                keys.QUEUE, keys.GROUP, "-", "+", LOOKS_AT_ONCE, idle=int(idle_s * 1000)
            )
        except ResponseError as error:
            if "NOGROUP" not in str(error) and "no such key" not in str(error):
                raise
            return []
        return rows

    async def overdue(self, age_s: float) -> list[Ticket]:
        """Entries that nobody has taken for `age_s`, by the server's clock."""
        with store_errors():
            try:
                groups = await self._redis.xinfo_groups(keys.QUEUE)
            except ResponseError as error:
                if "no such key" not in str(error):
                    raise
                return []
            taken = next((group["last-delivered-id"] for group in groups), b"0")
            seconds, _ = await self._redis.time()
            entries = await self._redis.xrange(
                keys.QUEUE,
                b"(" + taken,
                int((seconds - age_s) * 1000),
                count=LOOKS_AT_ONCE,
            )
        return _tickets(entries)

    async def done(self, ticket: Ticket) -> None:
        """Acknowledge and delete the entry of a run that has ended."""
        with store_errors():
            # No transaction: a full Redis refuses it, whatever is in it. Deleted first: what is
            # only pending after that, `take_over` clears away.
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.xdel(keys.QUEUE, ticket.entry)
                pipe.xack(keys.QUEUE, keys.GROUP, ticket.entry)
                await pipe.execute()

    async def depth(self) -> Depth:
        with store_errors():
            try:
                async with self._redis.pipeline(transaction=False) as pipe:
                    pipe.xlen(keys.QUEUE)
                    pipe.xpending(keys.QUEUE, keys.GROUP)
                    pipe.xinfo_consumers(keys.QUEUE, keys.GROUP)
                    pipe.xinfo_groups(keys.QUEUE)
                    pipe.time()
                    length, pending, consumers, groups, now = await pipe.execute()
                taken = next((group["last-delivered-id"] for group in groups), b"0")
                first = await self._redis.xrange(keys.QUEUE, b"(" + taken, count=1)
            except ResponseError as error:
                if "NOGROUP" not in str(error) and "no such key" not in str(error):
                    raise
                return Depth(0, 0, 0)
        alive = sum(1 for consumer in consumers if consumer["idle"] < RUNNER_DEAD_S * 1000)
        oldest_s = 0.0
        if first:
            oldest_s = max(0.0, now[0] - int(first[0][0].partition(b"-")[0]) / 1000)
        waiting = max(0, length - pending["pending"])
        return Depth(waiting, pending["pending"], alive, oldest_s)

    async def publish_agents(self, versions: Mapping[str, str]) -> None:
        """Announce the agents that a runner has, for a day."""
        with store_errors():
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.hset(keys.AGENTS, mapping=dict(versions))
                pipe.expire(keys.AGENTS, AGENTS_LIFE_S)
                await pipe.execute()

    async def agent_versions(self) -> dict[str, str]:
        """Name to version of every agent announced in the last day."""
        with store_errors():
            found = await self._redis.hgetall(keys.AGENTS)
        return {name.decode(): version.decode() for name, version in found.items()}


class Leases:
    """Renews leases over a blocking client, from a thread of its own."""

    def __init__(self, redis: BlockingRedis) -> None:
        self._renew = redis.register_script(_RENEW)

    def renew(self, runner: str, entries: Sequence[str]) -> set[str]:
        """Renew what is held; the entries that another runner has now."""
        with store_errors():
            lost: list[bytes] = self._renew(
                keys=[keys.QUEUE], args=[keys.GROUP, runner, *entries]
            )
        return {entry.decode() for entry in lost}


def _tickets(entries: list[tuple[bytes, dict[bytes, bytes] | None]]) -> list[Ticket]:
    # An entry deleted while it was pending comes back without fields.
    return [
        Ticket(entry.decode(), fields[b"run"].decode(), fields[b"agent"].decode())
        for entry, fields in entries
        if fields
    ]

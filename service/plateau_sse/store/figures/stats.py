"""The tally's counters on their way to Redis and back, a host at a time.

Invariant: the host's counters only grow, and each count is added once: a batch has a stamp that
the store remembers, so one whose reply was lost, or whose sender was killed, is sent again.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import Counter
from importlib.resources import files
from typing import Any

from redis.asyncio import Redis

from plateau_sse.errors import StoreError
from plateau_sse.store.figures.tally import NAMES, OTHER, Board, Row
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import ALWAYS, store_errors

log = logging.getLogger("plateau.stats")

FLUSH_S = 2.0
STATS_LIFE_S = 86_400
# As many have counters of their own, the latest; what a metric may have labels of is bounded.
HOSTS_MOST = 100
# Of a host, the latest to count.
ROWS_MOST = 1000

_COUNT = files("plateau_sse.store.figures").joinpath("count.lua").read_text()
# So that the names of counters are the same few objects, however often they are read.
_NAMES = {name.encode(): name for name in NAMES}


class Stats:
    """One a process; `board` is that of its tree."""

    def __init__(self, redis: Redis, board: Board | None = None) -> None:
        self._redis: Any = redis
        self._add = redis.register_script(_COUNT)
        self._always = redis.register_script(ALWAYS)
        self._host = socket.gethostname()
        self._board = board
        self._row = Row() if board is None else board.claim()
        # A row has one batch under way at a time.
        self._flushing = asyncio.Lock()

    def count(self, name: str, by: int = 1) -> None:
        """`name` is one of `tally.NAMES`; a failure whose code is an agent's own is `other`."""
        try:
            self._row.add(name, by)
        except KeyError:
            if not name.startswith("runs_failed_"):
                raise
            self._row.add(f"runs_failed_{OTHER}", by)

    def observe(self, name: str, seconds: float) -> None:
        """Into one of the histograms of `tally.BUCKETS`."""
        self._row.observe(name, seconds)

    async def keep_flushing(self) -> None:
        """Add to the host's counters, for ever; a failure keeps what was counted."""
        while True:
            await asyncio.sleep(FLUSH_S)
            try:
                await self.flush()
            except StoreError as error:
                log.warning("counters have to wait: %s", error)

    async def flush(self) -> None:
        """This process' counts, and those that others have left behind. Raises StoreError."""
        async with self._flushing:
            await self._flush_row(self._row)
            if self._board is not None:
                for row in self._board.left_behind():
                    await self._flush_row(row)

    async def _flush_row(self, row: Row) -> None:
        if row.is_under_way:
            # It was sent and not answered, and lacks what has been counted since.
            await self._send(row)
        await self._send(row)

    async def _send(self, row: Row) -> None:
        batch, now = row.batch(), int(time.time())
        if batch is None:
            return
        both = [keys.stats(self._host), keys.stamps(self._host)]
        args: list[str | int] = [row.name, batch.stamp, STATS_LIFE_S, ROWS_MOST]
        for name, by in batch.counts.items():
            args += (name, by)
        with store_errors():
            await self._add(keys=both, args=args)
            args = [STATS_LIFE_S, "ZADD", now, self._host]
            await self._always(keys=[keys.HOSTS], args=args)
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.zremrangebyscore(keys.HOSTS, "-inf", now - STATS_LIFE_S)
                pipe.zremrangebyrank(keys.HOSTS, 0, -1 - HOSTS_MOST)
                await pipe.execute()
        row.added()

    async def totals(self) -> dict[str, int]:
        """This host's counters, what this process has not added yet among them."""
        return (await self.by_host()).get(self._host, {})

    async def by_host(self) -> dict[str, dict[str, int]]:
        """The counters of each host that counted something within a day. Raises StoreError."""
        await self.flush()
        with store_errors():
            hosts = [host.decode() for host in await self._redis.zrange(keys.HOSTS, 0, -1)]
            async with self._redis.pipeline(transaction=False) as pipe:
                for host in hosts:
                    pipe.hgetall(keys.stats(host))
                found = await pipe.execute()
        return {
            host: {_NAMES[name]: int(n) for name, n in counters.items() if name in _NAMES}
            for host, counters in zip(hosts, found, strict=True)
        }


def summed(by_host: dict[str, dict[str, int]]) -> Counter[str]:
    """The counters of all hosts; 0 for what was never counted."""
    total: Counter[str] = Counter()
    for counters in by_host.values():
        total.update(counters)
    return total

"""What happened, counted for a whole host, whatever becomes of the processes that counted.

Invariant: the host's counters only grow: each process adds what it has counted since it last
did, and what one that was killed had not added yet.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import Counter
from typing import Any

from redis.asyncio import Redis

from service.errors import StoreError
from service.store import keys
from service.store.connections import store_errors
from service.store.tally import OTHER, Board, Row

log = logging.getLogger("plateau.stats")

FLUSH_S = 2.0
STATS_LIFE_S = 86_400
# As many have counters of their own, the latest; what a metric may have labels of is bounded.
HOSTS_MOST = 100


class Stats:
    """One a process; `board` is that of its tree."""

    def __init__(self, redis: Redis, board: Board | None = None) -> None:
        self._redis: Any = redis
        self._host = socket.gethostname()
        self._board = board
        self._row = Row() if board is None else board.claim()

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

    @property
    def deaths(self) -> dict[str, int]:
        """Of this tree's processes, as its master counts them."""
        return {} if self._board is None else self._board.deaths

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
        await self._flush_row(self._row)
        if self._board is not None:
            for row in self._board.left_behind():
                await self._flush_row(row)

    async def _flush_row(self, row: Row) -> None:
        counted = row.take()
        if not counted:
            return
        key, now = keys.stats(self._host), int(time.time())
        try:
            with store_errors():
                async with self._redis.pipeline(transaction=True) as pipe:
                    for name, by in counted.items():
                        pipe.hincrby(key, name, by)
                    pipe.expire(key, STATS_LIFE_S)
                    await pipe.execute()
                async with self._redis.pipeline(transaction=False) as pipe:
                    pipe.zadd(keys.HOSTS, {self._host: now})
                    pipe.zremrangebyscore(keys.HOSTS, "-inf", now - STATS_LIFE_S)
                    pipe.zremrangebyrank(keys.HOSTS, 0, -1 - HOSTS_MOST)
                    pipe.expire(keys.HOSTS, STATS_LIFE_S)
                    await pipe.execute()
        except StoreError:
            row.give_back(counted)
            raise

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
            host: {name.decode(): int(count) for name, count in counters.items()}
            for host, counters in zip(hosts, found, strict=True)
        }


def summed(by_host: dict[str, dict[str, int]]) -> Counter[str]:
    """The counters of all hosts; 0 for what was never counted."""
    total: Counter[str] = Counter()
    for counters in by_host.values():
        total.update(counters)
    return total

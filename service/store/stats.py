"""What happened, counted for a whole host, whatever becomes of the processes that counted.

Invariant: counters only grow: each process adds what it has counted since it last did, so the
sum survives recycling, and a kill loses at most one interval.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from typing import Any

from redis.asyncio import Redis

from service.errors import StoreError
from service.store import keys
from service.store.connections import store_errors

log = logging.getLogger("plateau.stats")

FLUSH_S = 5.0
STATS_LIFE_S = 86_400


class Stats:
    """One a process. Names are those of the metrics to come: `snapshots`, `runs_refused`, …"""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis
        self._key = keys.stats(socket.gethostname())
        self._counted: Counter[str] = Counter()

    def count(self, name: str, by: int = 1) -> None:
        self._counted[name] += by

    async def keep_flushing(self) -> None:
        """Add to the host's counters, for ever; a failure keeps what was counted."""
        while True:
            await asyncio.sleep(FLUSH_S)
            try:
                await self.flush()
            except StoreError as error:
                log.warning("counters have to wait: %s", error)

    async def flush(self) -> None:
        if not self._counted:
            return
        counted, self._counted = self._counted, Counter()
        try:
            with store_errors():
                async with self._redis.pipeline(transaction=True) as pipe:
                    for name, by in counted.items():
                        pipe.hincrby(self._key, name, by)
                    pipe.expire(self._key, STATS_LIFE_S)
                    await pipe.execute()
        except StoreError:
            self._counted.update(counted)
            raise

    async def totals(self) -> dict[str, int]:
        """The host's counters, what this process has not added yet among them."""
        with store_errors():
            found = await self._redis.hgetall(self._key)
        totals = Counter({name.decode(): int(count) for name, count in found.items()})
        totals.update(self._counted)
        return dict(totals)

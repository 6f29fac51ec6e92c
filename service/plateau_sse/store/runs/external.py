"""Runs whose producer is not a runner of ours: who looks after them when it falls silent.

Invariant: every external run that has not ended is in the index, under a time at which somebody
will look at it; a look ends it, forgets it, or puts it back under a later time.
"""

from __future__ import annotations

import time
from typing import Any

from redis.asyncio import Redis

from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import store_errors

INDEX_LIFE_S = 86_400
LOOKS_AT_ONCE = 100


class External:
    """`idle_s` without an append is the end of a lease."""

    def __init__(self, redis: Redis, *, idle_s: int) -> None:
        self._redis: Any = redis
        self._idle_s = idle_s

    async def watch(self, run_id: str) -> None:
        with store_errors():
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.zadd(keys.EXTERNAL, {run_id: time.time() + self._idle_s})
                pipe.expire(keys.EXTERNAL, INDEX_LIFE_S)
                await pipe.execute()

    async def forget(self, run_id: str) -> None:
        with store_errors():
            await self._redis.zrem(keys.EXTERNAL, run_id)

    async def silent(self) -> list[tuple[str, int]]:
        """Runs and their attempts whose lease has run out; the others looked at are put back
        under the time at which theirs will, or forgotten if they have ended."""
        now = time.time()
        with store_errors():
            due: list[bytes] = await self._redis.zrange(
                keys.EXTERNAL, "-inf", now, byscore=True, offset=0, num=LOOKS_AT_ONCE
            )
            if not due:
                return []
            run_ids = [member.decode() for member in due]
            async with self._redis.pipeline(transaction=False) as pipe:
                for run_id in run_ids:
                    fields = ["state", "attempt", "lease_ms"]
                    pipe.hmget(keys.run(run_id).record, fields)
                rows = await pipe.execute()
            silent: list[tuple[str, int]] = []
            async with self._redis.pipeline(transaction=False) as pipe:
                for run_id, (status, attempt, lease_ms) in zip(run_ids, rows, strict=True):
                    ends_at = int(lease_ms or 0) / 1000 + self._idle_s
                    if status not in (b"queued", b"running"):
                        pipe.zrem(keys.EXTERNAL, run_id)
                    elif ends_at <= now:
                        silent.append((run_id, int(attempt)))
                    else:
                        pipe.zadd(keys.EXTERNAL, {run_id: ends_at})
                pipe.expire(keys.EXTERNAL, INDEX_LIFE_S)
                await pipe.execute()
        return silent

"""What dead processes leave behind in Redis, and how it is taken away.

Invariant: an entry is dropped only when its run's record is gone.
"""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis

from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import store_errors

LOOKS_AT_ONCE = 1000


class Leftovers:
    """Each step is harmless where two workers do it at once; the turn only saves the work."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis

    async def my_turn(self, life_s: int) -> bool:
        with store_errors():
            return bool(await self._redis.set(keys.JANITOR, "1", nx=True, ex=life_s))

    async def drop_orphaned_entries(self) -> int:
        """Of the index of external runs: those whose record has expired."""
        with store_errors():
            members = await self._redis.zrange(keys.EXTERNAL, 0, LOOKS_AT_ONCE - 1)
            if not members:
                return 0
            async with self._redis.pipeline(transaction=False) as pipe:
                for member in members:
                    pipe.exists(keys.run(member.decode()).record)
                there = await pipe.execute()
            gone = [member for member, exists in zip(members, there, strict=True) if not exists]
            if gone:
                await self._redis.zrem(keys.EXTERNAL, *gone)
        return len(gone)

"""What dead processes leave behind in Redis, and how it is taken away.

Invariant: a consumer is dropped only when it holds nothing and has been silent for long, an
entry only when its run's record is gone.
"""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import store_errors

# A runner that is restarted comes back under its name within seconds.
CONSUMER_DEAD_S = 600
LOOKS_AT_ONCE = 1000

# In one step with a last look: dropping a consumer forgets what it holds.
_DROP = """#!lua
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) == 0 then
  redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
end
"""


class Leftovers:
    """Each step is harmless where two workers do it at once; the turn only saves the work."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis
        self._drop = redis.register_script(_DROP)

    async def my_turn(self, life_s: int) -> bool:
        with store_errors():
            return bool(await self._redis.set(keys.JANITOR, "1", nx=True, ex=life_s))

    async def drop_dead_consumers(self) -> int:
        """Every `plateau runner` has a name of its own, and leaves it in the group."""
        with store_errors():
            try:
                consumers = await self._redis.xinfo_consumers(keys.QUEUE, keys.GROUP)
            except ResponseError as error:
                if "NOGROUP" not in str(error) and "no such key" not in str(error):
                    raise
                return 0
            dead = [
                consumer["name"]
                for consumer in consumers
                if consumer["pending"] == 0 and consumer["idle"] > CONSUMER_DEAD_S * 1000
            ]
            for name in dead:
                await self._drop(keys=[keys.QUEUE], args=[keys.GROUP, name])
        return len(dead)

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

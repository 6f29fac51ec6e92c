"""Runs whose ends are still to be posted to somebody, which outlive the process that posts.

Invariant: a run is in the list from before it may end until its end has been posted, or is
given up; one process sees to it at a time, and another where that one dies. There are `MOST` at
most; of `BODIES_MOST` what is posted is kept for longer than their records.
"""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis

from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import store_errors

MOST, BODIES_MOST = 10_000, 1_000
# Of a list in which nothing happens any more.
LIFE_S = 2 * 86_400
# Whoever has taken one and is not done by then has died.
LEASE_S = 60

# A full store allows it: a run is not to wait for room to have ended.
_NOTE = """#!lua flags=allow-oom
-- KEYS  due      ARGV  run, in ms, most, life in s
-- Gives 0 where there is no room for another.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if not redis.call('ZSCORE', KEYS[1], ARGV[1])
    and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3]) then
  return 0
end
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[4])
return 1
"""

_KEEP = """#!lua
-- KEYS  bodies      ARGV  run, body, most, life in s
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1
    or redis.call('HLEN', KEYS[1]) < tonumber(ARGV[3]) then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
  redis.call('EXPIRE', KEYS[1], ARGV[4])
end
"""

_TAKE = """#!lua flags=allow-oom
-- KEYS  due      ARGV  how many, ms until another may take them
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local found = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
for _, run in ipairs(found) do
  redis.call('ZADD', KEYS[1], now + ARGV[2], run)
end
return found
"""


class Due:
    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis
        self._note = redis.register_script(_NOTE)
        self._keep = redis.register_script(_KEEP)
        self._take = redis.register_script(_TAKE)

    async def note(self, run_id: str, in_s: float) -> bool:
        """See to it in so many seconds. False where there is no room."""
        args: list[str | int] = [run_id, int(in_s * 1000), MOST, LIFE_S]
        with store_errors():
            return bool(await self._note(keys=[keys.WEBHOOK.due], args=args))

    async def keep(self, run_id: str, body: bytes) -> None:
        """What is to be posted, for when the record is there no more; not in a full store."""
        with store_errors():
            await self._keep(
                keys=[keys.WEBHOOK.bodies], args=[run_id, body, BODIES_MOST, LIFE_S]
            )

    async def take(self, count: int) -> list[str]:
        """Those whose time has come; nobody else is given them for `LEASE_S`."""
        with store_errors():
            found: list[bytes] = await self._take(
                keys=[keys.WEBHOOK.due], args=[count, LEASE_S * 1000]
            )
        return [run_id.decode() for run_id in found]

    async def body(self, run_id: str) -> bytes | None:
        with store_errors():
            found: bytes | None = await self._redis.hget(keys.WEBHOOK.bodies, run_id)
        return found

    async def done(self, run_id: str) -> None:
        with store_errors():
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.hdel(keys.WEBHOOK.bodies, run_id)
                pipe.zrem(keys.WEBHOOK.due, run_id)
                await pipe.execute()

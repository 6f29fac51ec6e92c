"""What an owner's large questions take of the store until their runs have ended.

Invariant: one owner's take no more than its share, and nobody is refused for more than
`LOOK_AGAIN_S` for runs that have ended: at the share they are looked at so often before they
count. Small questions are not counted: how many runs an owner may have bounds what they take.
"""

from __future__ import annotations

import time
from typing import Any

from redis.asyncio import Redis

from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import store_errors

# A quarter of the store, in as many runs as an owner may have as shipped.
LARGE_BYTES = 32 * 1024
SHARE = 0.25
LOOK_AGAIN_S = 1.0
# Who was counted a moment ago may have no record yet.
BEGINS_S = 2
# Those of producers outside last for as long as these like.
KNOWN_S = 86_400
REFUSED_MOST = 1000

_COUNT = """#!lua
-- KEYS  the owner's large questions, `<bytes>:<run id>` by when they were asked
-- ARGV  most bytes, bytes of this one, run id, s for which they are known
-- Gives 1 or 0.
local now = redis.call('TIME')[1]
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[4])
local sum = tonumber(ARGV[2])
for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local bytes, run_id = string.match(member, '^(%d+):(.*)$')
  if run_id == ARGV[3] then
    return 1
  end
  sum = sum + bytes
end
if sum > tonumber(ARGV[1]) then
  return 0
end
redis.call('ZADD', KEYS[1], now, ARGV[2] .. ':' .. ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[4])
return 1
"""


class Asked:
    """One a worker."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis
        self._count = redis.register_script(_COUNT)
        # When each that was refused may be asked for again.
        self._full_until: dict[str, float] = {}

    async def admit(self, owner: str, run_id: str, size: int, bound: int) -> bool:
        """Whether the owner may ask this, too, of a store of so many bytes. Raises
        StoreError."""
        if size < LARGE_BYTES:
            return True
        if time.monotonic() < self._full_until.get(owner, 0.0):
            return False
        # One alone fits in the least store that there may be, or in none.
        most = max(int(SHARE * bound), size)
        if await self._counted(owner, most, size, run_id):
            return True
        if len(self._full_until) >= REFUSED_MOST:
            self._full_until.clear()
        self._full_until[owner] = time.monotonic() + LOOK_AGAIN_S
        await self._forget_ended(owner)
        if not await self._counted(owner, most, size, run_id):
            return False
        del self._full_until[owner]
        return True

    async def _counted(self, owner: str, most: int, size: int, run_id: str) -> bool:
        args: list[str | int] = [most, size, run_id, KNOWN_S]
        with store_errors():
            return bool(await self._count(keys=[keys.large(owner)], args=args))

    async def _forget_ended(self, owner: str) -> None:
        key = keys.large(owner)
        with store_errors():
            seconds, _ = await self._redis.time()
            by = seconds - BEGINS_S
            members: list[bytes] = await self._redis.zrangebyscore(key, "-inf", by)
            async with self._redis.pipeline(transaction=False) as pipe:
                for member in members:
                    run_id = member.partition(b":")[2].decode()
                    pipe.hget(keys.run(run_id).record, "state")
                statuses = await pipe.execute()
            ended = [
                member
                for member, status in zip(members, statuses, strict=True)
                if status not in (b"queued", b"running")
            ]
            if ended:
                await self._redis.zrem(key, *ended)

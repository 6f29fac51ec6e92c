"""How many runs an owner has at once.

Invariant: one owner cannot fill the queue alone, and nobody is refused for runs that have
ended: at the limit each counted run is looked at before it counts.
"""

from __future__ import annotations

import time
from typing import Any

from redis.asyncio import Redis

from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import store_errors

_ADMIT = """#!lua
-- KEYS  the owner's runs
-- ARGV  now, ends by, most, run id, when all may be forgotten; '' to be asked only
-- Gives 1 or 0.
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[1])
if redis.call('ZSCORE', KEYS[1], ARGV[4]) then
  return 1
end
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3]) then
  return 0
end
if ARGV[5] == '' then
  return 1
end
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[4])
-- Later than before, or the first: what is there may end later than this one.
if redis.call('EXPIREAT', KEYS[1], ARGV[5], 'NX') == 0 then
  redis.call('EXPIREAT', KEYS[1], ARGV[5], 'GT')
end
return 1
"""


# Of runs that nobody knows an end of, since their producers may go on for as long as they like.
LASTING_S = 86_400


class Owners:
    """`most` runs at once; each ends within `life_s`, but for those that last until somebody
    ends them."""

    def __init__(self, redis: Redis, *, most: int, life_s: int) -> None:
        self._redis: Any = redis
        self._admit = redis.register_script(_ADMIT)
        self._most = most
        self._life_s = life_s

    async def admit(self, owner: str, run_id: str, *, lasts: bool = False) -> bool:
        """Whether the owner may have this run, too, which has its record; asked again it is the
        same answer."""
        now = int(time.time())
        life_s = max(self._life_s, LASTING_S) if lasts else self._life_s
        return await self._ask(owner, run_id, "+inf" if lasts else now + life_s, now + life_s)

    async def has_room(self, owner: str, run_id: str) -> bool:
        """Whether it might have it, before it has a record: nothing is counted yet."""
        return await self._ask(owner, run_id, 0, "")

    async def _ask(self, owner: str, run_id: str, ends_by: int | str, until: int | str) -> bool:
        if await self._count(owner, run_id, ends_by, until):
            return True
        await self._forget_ended(owner)
        return await self._count(owner, run_id, ends_by, until)

    async def _count(
        self, owner: str, run_id: str, ends_by: int | str, until: int | str
    ) -> bool:
        args: list[str | int] = [int(time.time()), ends_by, self._most, run_id, until]
        with store_errors():
            return bool(await self._admit(keys=[keys.owner(owner)], args=args))

    async def _forget_ended(self, owner: str) -> None:
        with store_errors():
            members: list[bytes] = await self._redis.zrange(keys.owner(owner), 0, -1)
            async with self._redis.pipeline(transaction=False) as pipe:
                for member in members:
                    pipe.hget(keys.run(member.decode()).record, "state")
                statuses = await pipe.execute()
            ended = [
                member
                for member, status in zip(members, statuses, strict=True)
                if status not in (b"queued", b"running")
            ]
            if ended:
                await self._redis.zrem(keys.owner(owner), *ended)

"""Hints of who is answering a question right now.

Invariant: a hint is never believed, only followed: whoever reads one joins the run that it
names only where that run's own record says that it is on, and replaces it otherwise. So a hint
that is lost, late or left behind by the dead costs one execution at most, never an answer.
"""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis

from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import store_errors
from plateau_sse.store.redis.together import Call

_TAKE = """#!lua
-- KEYS  the hint      ARGV  run id, holder that is known to be over ('' for none), life_s
-- Gives the holder that follows: the caller's run, or another that was there first.
local holder = redis.call('GET', KEYS[1])
if not holder or holder == ARGV[2] then
  redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[3])
  return ARGV[1]
end
return holder
"""

# Deleting makes room, so a full store allows it.
_DROP = """#!lua flags=allow-oom
-- KEYS  the hint      ARGV  run id      Deletes the hint where it names this run.
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
"""


class Inflight:
    """`life_s` bounds a hint whose run nobody drops it for."""

    def __init__(self, redis: Redis, *, life_s: int) -> None:
        self._redis: Any = redis
        self._take = redis.register_script(_TAKE)
        self._drop = redis.register_script(_DROP)
        self._life_s = life_s

    async def holder(self, key: str) -> str:
        """The run that is said to be answering; '' for none."""
        with store_errors():
            found: bytes | None = await self._redis.get(keys.inflight(key))
        return (found or b"").decode()

    async def take(self, key: str, run_id: str, *, instead_of: str = "") -> str:
        """Put this run's hint where there is none, or that of `instead_of`: the holder then."""
        call = self.taking(key, run_id, instead_of=instead_of)
        with store_errors():
            await call.alone()
        holder: bytes = call.reply
        return holder.decode()

    def taking(self, key: str, run_id: str, *, instead_of: str = "") -> Call:
        """The same, for who sends it behind something else."""
        return Call(self._take, [keys.inflight(key)], [run_id, instead_of, self._life_s])

    async def drop(self, key: str, run_id: str) -> None:
        """Take this run's hint away; another's stays."""
        with store_errors():
            await self._drop(keys=[keys.inflight(key)], args=[run_id])

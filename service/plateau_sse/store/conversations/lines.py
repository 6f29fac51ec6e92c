"""Lines of runs before conversations that are remembered: one after the other.

Invariant: of the runs of such a conversation the first of its line alone is executed. Who has
ended is in nobody's way: those behind it look at its record, and take it out of the line.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.asyncio import Redis

from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import store_errors

# Runs that are on, or wait.
MOST = 4

# Also when memory is full: whoever is refused a place in line is told that his runner died, and
# of a line there are no more than runs.
_JOIN = """#!lua flags=allow-oom
-- KEYS  line      ARGV  run, most in the line (0: any number), life_s
-- Gives the line; the run is not in it where it is full.
local line = redis.call('LRANGE', KEYS[1], 0, -1)
for _, run in ipairs(line) do
  if run == ARGV[1] then
    return line
  end
end
if ARGV[2] == '0' or #line < tonumber(ARGV[2]) then
  redis.call('RPUSH', KEYS[1], ARGV[1])
  redis.call('EXPIRE', KEYS[1], ARGV[3])
  line[#line + 1] = ARGV[1]
end
return line
"""

# A status of those that are on.
_ON = ("queued", "running")

Statuses = Callable[[Sequence[str]], Awaitable[list[str | None]]]


class Lines:
    """`statuses` gives what has become of runs; each ends within `life_s`."""

    def __init__(self, redis: Redis, statuses: Statuses, *, life_s: int) -> None:
        self._redis: Any = redis
        self._join = redis.register_script(_JOIN)
        self._statuses = statuses
        self._life_s = life_s

    async def ahead(self, place: str, run_id: str, most: int = 0) -> int | None:
        """How many runs are before this one, which joins the line; None where `most` are in
        it already. Raises StoreError."""
        while True:
            line = await self._joined(place, run_id, most)
            others = line[: line.index(run_id)] if run_id in line else line
            statuses = await self._statuses(others)
            over = [
                it for it, status in zip(others, statuses, strict=True) if status not in _ON
            ]
            if over:
                await self.leave(place, *over)
            if run_id in line:
                return len(others) - len(over)
            if not over:
                return None

    async def leave(self, place: str, *run_ids: str) -> None:
        name = keys.conversation(place).line
        with store_errors():
            async with self._redis.pipeline(transaction=False) as pipe:
                for run_id in run_ids:
                    pipe.lrem(name, 0, run_id)
                await pipe.execute()

    async def _joined(self, place: str, run_id: str, most: int) -> list[str]:
        name = keys.conversation(place).line
        with store_errors():
            found: list[bytes] = await self._join(
                keys=[name], args=[run_id, most, self._life_s]
            )
        return [it.decode() for it in found]

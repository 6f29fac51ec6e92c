"""Runs whose producer is not a runner of ours: how many there may be, and who looks after them
when it falls silent.

Invariant: every external run that has not ended is in the index, under a time at which somebody
will look at it; a look ends it, forgets it, or puts it back under a later time. There are never
more in it than may be, whoever adds to it at the same moment; and nobody is refused for runs
that have ended: at the limit each is looked at before it counts, at most once a second.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from redis.asyncio import Redis

from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import ALWAYS, store_errors
from plateau_sse.store.redis.pulse import Pulse

INDEX_LIFE_S = 86_400
LOOKS_AT_ONCE = 100
# A silence of the store in which a lease may have run out that its producer would have renewed.
PAUSE_S = 6.0
# How often those are looked at who may have ended unnoticed, however many are refused.
LOOK_AGAIN_S = 1.0

_ADMIT = """#!lua
-- KEYS  index      ARGV  run id, s after which to look at it, most, life of the index in s
-- Gives 1 where the run is in it, 0 where there are as many as may be.
if redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  return 1
end
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3]) then
  return 0
end
local time = redis.call('TIME')
redis.call('ZADD', KEYS[1], time[1] + time[2] / 1000000 + ARGV[2], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[4])
return 1
"""


# With the server's time, by which all of them are dated.
_DUE = """#!lua flags=no-writes
-- KEYS  index      ARGV  most
-- Gives the time in ms, and who is to be looked at by now.
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local due = redis.call('ZRANGE', KEYS[1], '-inf', now, 'BYSCORE', 'LIMIT', 0, ARGV[1])
return {math.floor(now * 1000), due}
"""


class Silent(NamedTuple):
    """A run whose lease has run out; `is_empty`: its producer has said nothing at all."""

    run_id: str
    attempt: int
    is_empty: bool


class External:
    """`idle_s` without an append is the end of a lease."""

    def __init__(self, redis: Redis, *, idle_s: int) -> None:
        self._redis: Any = redis
        self._admit = redis.register_script(_ADMIT)
        self._due = redis.register_script(_DUE)
        self._always = redis.register_script(ALWAYS)
        self._idle_s = idle_s
        self._pulse = Pulse(pause_s=PAUSE_S, grace_s=idle_s)
        self._looked_at = float("-inf")

    async def admit(self, run_id: str, most: int) -> bool:
        """Whether there may be this run, too, which is then looked after; asked again it is the
        same answer. Before it has a record, so that one that is refused leaves nothing."""
        if await self._count(run_id, most):
            return True
        if time.monotonic() - self._looked_at < LOOK_AGAIN_S:
            return False
        self._looked_at = time.monotonic()
        await self._forget_ended()
        return await self._count(run_id, most)

    async def _count(self, run_id: str, most: int) -> bool:
        args: list[str | int] = [run_id, self._idle_s, most, INDEX_LIFE_S]
        with store_errors():
            return bool(await self._admit(keys=[keys.EXTERNAL], args=args))

    async def _forget_ended(self) -> None:
        """Whoever ended them died before it could say so. One without a record counts: it may
        be about to have one, and is forgotten when it is due to be looked at."""
        with store_errors():
            members: list[bytes] = await self._redis.zrange(keys.EXTERNAL, 0, -1)
            async with self._redis.pipeline(transaction=False) as pipe:
                for member in members:
                    pipe.hget(keys.run(member.decode()).record, "state")
                states = await pipe.execute()
            ended = [
                member
                for member, state in zip(members, states, strict=True)
                if state not in (None, b"queued", b"running")
            ]
            if ended:
                await self._redis.zrem(keys.EXTERNAL, *ended)

    async def forget(self, run_id: str) -> None:
        with store_errors():
            await self._redis.zrem(keys.EXTERNAL, run_id)

    async def live(self, most: int) -> list[str]:
        """Some that are on, or ended just now; `most` at most."""
        with store_errors():
            found: list[bytes] = await self._redis.zrange(keys.EXTERNAL, 0, most - 1)
        return [member.decode() for member in found]

    async def silent(self) -> list[Silent]:
        """Runs whose lease has run out; the others looked at are put back under the time at
        which theirs will, or forgotten if they have ended."""
        with store_errors():
            now_ms, due = await self._due(keys=[keys.EXTERNAL], args=[LOOKS_AT_ONCE])
            # After a pause of the store nobody has been able to say anything.
            if not self._pulse.heard() or not due:
                return []
            run_ids = [member.decode() for member in due]
            async with self._redis.pipeline(transaction=False) as pipe:
                for run_id in run_ids:
                    fields = ["state", "attempt", "lease_ms", "tape", "owner"]
                    pipe.hmget(keys.run(run_id).record, fields)
                rows = await pipe.execute()
            silent: list[Silent] = []
            later: list[str | float] = []
            async with self._redis.pipeline(transaction=False) as pipe:
                for run_id, row in zip(run_ids, rows, strict=True):
                    status, attempt, lease_ms, tape, owner = row
                    ends_ms = int(lease_ms or 0) + self._idle_s * 1000
                    if status not in (b"queued", b"running"):
                        pipe.zrem(keys.EXTERNAL, run_id)
                    elif ends_ms <= now_ms:
                        at = int((tape or b"0").split(b" ", 1)[0])
                        # Its first mark says that it began.
                        silent.append(Silent(run_id, int(attempt), at <= 1))
                    else:
                        later += (ends_ms / 1000, run_id)
                        # It counts as its owner's for as long as it is on.
                        pipe.expire(keys.owner((owner or b"").decode()), INDEX_LIFE_S, gt=True)
                pipe.expire(keys.EXTERNAL, INDEX_LIFE_S)
                await pipe.execute()
            if later:
                # In a full store as well: else those behind them would never be looked at.
                args = [INDEX_LIFE_S, "ZADD", *later]
                await self._always(keys=[keys.EXTERNAL], args=args)
        return silent

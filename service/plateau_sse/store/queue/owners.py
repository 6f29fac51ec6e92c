"""How many runs an owner has at once, and begins in a minute.

Invariant: one owner cannot fill the queue alone, and nobody is refused for more than
`LOOK_AGAIN_S` for runs that have ended: at the limit each counted run is looked at so often
before it counts. In between who is refused costs nothing.

Of the minute's runs an owner may begin all at once; each comes back after its part of the
minute. What is kept is one time: when the last would have begun, had they come evenly.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from redis.asyncio import Redis

from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import store_errors
from plateau_sse.store.redis.together import Call

_ADMIT = """#!lua
-- KEYS  the owner's runs
-- ARGV  most, run id, s within which it ends ('' to be asked only), 1 where nobody knows that
-- Gives 1 or 0.
local now = redis.call('TIME')[1]
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('ZSCORE', KEYS[1], ARGV[2]) then
  return 1
end
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[1]) then
  return 0
end
if ARGV[3] == '' then
  return 1
end
redis.call('ZADD', KEYS[1], ARGV[4] == '1' and '+inf' or now + ARGV[3], ARGV[2])
-- Later than before, or the first: what is there may end later than this one.
if redis.call('EXPIRE', KEYS[1], ARGV[3], 'NX') == 0 then
  redis.call('EXPIRE', KEYS[1], ARGV[3], 'GT')
end
return 1
"""


_ASK = """#!lua
-- KEYS  the owner's runs, its rate
-- ARGV  most runs, run id, ms between two runs at the rate (0 for none), ms of all of them
-- Gives 'ok', 'counted' (it is one of the minute's now), 'full', or the ms after which another
-- may begin.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', time[1])
if redis.call('ZSCORE', KEYS[1], ARGV[2]) then
  return 'ok'
end
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[1]) then
  return 'full'
end
local apart = tonumber(ARGV[3])
if apart > 0 then
  local last = math.max(now, tonumber(redis.call('GET', KEYS[2]) or 0)) + apart
  local early = last - now - ARGV[4]
  -- A minute does not divide by every number.
  if early >= 1 then
    return math.ceil(early)
  end
  redis.call('SET', KEYS[2], string.format('%.3f', last), 'PX', math.ceil(last - now))
  return 'counted'
end
return 'ok'
"""

_GIVE_BACK = """#!lua flags=allow-oom
-- KEYS  the owner's rate
-- ARGV  ms between two runs at the rate
local last = redis.call('GET', KEYS[1])
if last then
  redis.call('SET', KEYS[1], string.format('%.3f', last - ARGV[1]), 'KEEPTTL')
end
"""


# How often those are looked at that may have ended, however many are refused.
LOOK_AGAIN_S = 1.0
# Of runs that nobody knows an end of, since their producers may go on for as long as they like.
LASTING_S = 86_400


# Owners that were refused, as far as they are remembered.
REFUSED_MOST = 1000
MINUTE_MS = 60_000


class Room(NamedTuple):
    """What an owner may do: `wait_ms` is how long it has begun too many runs for; `is_counted`
    where the run that it was asked for is one of the minute's."""

    is_full: bool = False
    wait_ms: int = 0
    is_counted: bool = False


class Owners:
    """`most` runs at once, and `per_minute` (0 for any); each ends within `life_s`, but for
    those that last until somebody ends them."""

    def __init__(self, redis: Redis, *, most: int, life_s: int, per_minute: int = 0) -> None:
        self._redis: Any = redis
        self._admit = redis.register_script(_ADMIT)
        self._asked = redis.register_script(_ASK)
        self._given_back = redis.register_script(_GIVE_BACK)
        self._most = most
        self._life_s = life_s
        self.per_minute = per_minute
        self._apart_ms = f"{MINUTE_MS / per_minute:.3f}" if per_minute else "0"
        # When each that was refused may be asked for again.
        self._full_until: dict[str, float] = {}

    async def admit(self, owner: str, run_id: str, *, lasts: bool = False) -> bool:
        """Whether the owner may have this run, too, which has its record; asked again it is the
        same answer."""
        life_s = max(self._life_s, LASTING_S) if lasts else self._life_s
        args: list[str | int] = [self._most, run_id, life_s, int(lasts)]
        if await self._count(owner, args):
            self._full_until.pop(owner, None)
            return True
        return await self._has_made_room(owner) and await self._count(owner, args)

    def admitting(self, owner: str, run_id: str) -> Call:
        """As `admit`, for who sends it with something else; one that is refused asks `admit`,
        which looks for runs that have ended."""
        args: list[str | int] = [self._most, run_id, self._life_s, 0]
        return Call(self._admit, [keys.owner(owner)], args)

    def was_full(self, owner: str) -> bool:
        """Whether it was refused, and has had no room since."""
        return owner in self._full_until

    async def room(self, owner: str, run_id: str) -> Room:
        """Whether it might have the run, before that has a record. Of those at once nothing is
        counted yet; it is one of the minute's."""
        if time.monotonic() < self._full_until.get(owner, 0.0):
            return Room(is_full=True)
        room = await self._room(owner, run_id)
        if room.is_full and await self._has_made_room(owner):
            room = await self._room(owner, run_id)
        if not room.is_full:
            self._full_until.pop(owner, None)
        return room

    async def _room(self, owner: str, run_id: str) -> Room:
        with store_errors():
            found = await self._asked(
                keys=[keys.owner(owner), keys.rate(owner)],
                args=[self._most, run_id, self._apart_ms, MINUTE_MS],
            )
        if isinstance(found, int):
            return Room(wait_ms=found)
        return Room(is_full=found == b"full", is_counted=found == b"counted")

    async def give_back(self, owner: str) -> None:
        """What was asked for begins no run."""
        if self.per_minute:
            with store_errors():
                await self._given_back(keys=[keys.rate(owner)], args=[self._apart_ms])

    async def _has_made_room(self, owner: str) -> bool:
        """Whether those that have ended count no more; False where that was just seen to."""
        if time.monotonic() < self._full_until.get(owner, 0.0):
            return False
        if len(self._full_until) >= REFUSED_MOST:
            self._full_until.clear()
        self._full_until[owner] = time.monotonic() + LOOK_AGAIN_S
        await self._forget_ended(owner)
        return True

    async def forget(self, owner: str, run_id: str) -> None:
        """It has ended."""
        await self.uncount(owner, run_id)
        self._full_until.pop(owner, None)

    async def uncount(self, owner: str, run_id: str) -> None:
        """It was refused after all. Where that was for too many of them nothing has changed:
        who comes again costs no look at all of them."""
        with store_errors():
            await self._redis.zrem(keys.owner(owner), run_id)

    async def _count(self, owner: str, args: list[str | int]) -> bool:
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

"""What the answers of an owner's runs take of the store while these are on.

Invariant: where the store is tight, an owner whose answers take more than a quarter of it gives
way first: what its producers say is put off, and nothing of others'. It is looked at then
alone, and not twice in `FRESH_S` unless a worker has passed on much meanwhile.
"""

from __future__ import annotations

import time
from typing import Any

from redis.asyncio import Redis

from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import store_errors
from plateau_sse.store.redis.fullness import TIGHT, Fullness

SHARE = 0.25
FRESH_S = 1.0
OWNERS_MOST = 1000
# Of the bound, in how much of it what is known is out of date.
MUCH = 1 / 32
# Of the record's `tape`: how far it is, the bytes of marks, and those that stand in the stream
# once more (`store/runs/append.lua`).
_SIZES = (0, 5, 6)


class Spoken:
    """One a worker."""

    def __init__(self, redis: Redis, fullness: Fullness) -> None:
        self._redis: Any = redis
        self._fullness = fullness
        # Until when what is known of each: whether it has room.
        self._known: dict[str, tuple[float, bool]] = {}
        # Said since that was forgotten, in bytes.
        self._said = 0

    async def has_room(self, owner: str, size: int) -> bool:
        """Whether so much more may be said in its runs. Raises StoreError."""
        self._said += size
        if self._said > MUCH * await self._fullness.bound():
            self._said = 0
            self._known.clear()
            self._fullness.forget()
        if await self._fullness.share() <= TIGHT:
            return True
        now = time.monotonic()
        until, has_room = self._known.get(owner, (now, True))
        if until > now:
            return has_room
        has_room = await self._bytes(owner) < SHARE * await self._fullness.bound()
        if len(self._known) >= OWNERS_MOST:
            self._known.clear()
        self._known[owner] = (now + FRESH_S, has_room)
        return has_room

    async def _bytes(self, owner: str) -> int:
        with store_errors():
            run_ids: list[bytes] = await self._redis.zrange(keys.owner(owner), 0, -1)
            async with self._redis.pipeline(transaction=False) as pipe:
                for run_id in run_ids:
                    pipe.hmget(keys.run(run_id.decode()).record, "state", "tape")
                found = await pipe.execute()
        return sum(_size(tape) for status, tape in found if status in (b"queued", b"running"))


def _size(tape: bytes | None) -> int:
    numbers = (tape or b"").split()
    return sum(int(numbers[at]) for at in _SIZES if at < len(numbers))

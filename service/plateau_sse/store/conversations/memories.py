"""What agents remember of conversations between their runs: bytes of their own.

Invariant: a run's bytes are written once, before its end is announced, and only where nobody
has written since they were read. Until the end is known what was there before is kept beside
them: it comes back where the run did not complete, and another attempt begins with it.
"""

from __future__ import annotations

import time
from typing import Any

from redis.asyncio import Redis

from plateau_sse.store.conversations.conversations import LIFE_S, Conversations, script
from plateau_sse.store.conversations.lines import Statuses
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import store_errors


class Changed(Exception):
    """Somebody else has written since it was read."""


class Memories:
    """They count as a part of their conversation, and go with it. `statuses` gives what has
    become of runs."""

    def __init__(self, redis: Redis, conversations: Conversations, statuses: Statuses) -> None:
        self._redis: Any = redis
        self._statuses = statuses
        # A full store refuses it: an agent's memory may be as large as all that was said.
        self._remember = redis.register_script(script("remember"))
        self._settle = redis.register_script(script("settle", " flags=allow-oom"))
        self._conversations = conversations

    async def read(self, place: str, agent: str, run_id: str) -> tuple[bytes, int]:
        """The bytes with which this run begins, and their revision. Raises StoreError."""
        names = [f"{it}:{agent}" for it in "vrob"]
        with store_errors():
            found = await self._redis.hmget(keys.conversation(place).memory, names)
        value, revision, writer, before = found
        if before is not None and writer == run_id.encode():
            # By an earlier attempt of its own.
            return before, int(revision) - 1
        if before is not None:
            # Another has ended that run, and did not know of this.
            (status,) = await self._statuses([writer.decode()])
            if status in ("failed", "cancelled"):
                await self.settle(place, agent, writer.decode(), stays=False)
                return await self.read(place, agent, run_id)
        return value or b"", int(revision or 0)

    async def keep(
        self,
        place: str,
        agent: str,
        run_id: str,
        value: bytes,
        *,
        revision: int,
        asked_ms: int,
        owner: str = "",
    ) -> None:
        """Instead of what had that `revision`, as a part of what `owner` has; not where the
        conversation was deleted after `asked_ms`. Raises Changed and StoreError."""
        args: list[str | int | bytes] = [LIFE_S, agent, run_id, revision, asked_ms, value]
        with store_errors():
            taken = int(await self._remember(keys=list(keys.conversation(place)), args=args))
        if taken < 0:
            raise Changed
        if taken:
            await self._conversations.make_room(place, _now_ms(), taken, owner)

    async def settle(self, place: str, agent: str, run_id: str, *, stays: bool) -> None:
        """Its run has ended: as it was to, or what was before comes back."""
        args: list[str | int] = [agent, run_id, int(stays)]
        with store_errors():
            taken = int(await self._settle(keys=list(keys.conversation(place)), args=args))
        if taken:
            await self._conversations.make_room(place, _now_ms(), taken)


def _now_ms() -> int:
    return int(time.time() * 1000)

"""Calls of append.lua: again where memory is full, and in two steps where replicas are to have
an end.

Invariant: where replicas are waited for, nobody sees an end that they lack, whoever has held it
and whoever comes next.
"""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis

from plateau_sse.errors import StoreFull, StoreUnavailable
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import store_errors
from plateau_sse.store.redis.replicas import replicated
from plateau_sse.store.runs import appending

# An end that a failover has taken back is held anew.
SETTLE_TRIES = 3

Args = list[str | int | bytes]


class Writing:
    """Over one client; so many `replicas` must have an end before it is seen, 0 for none."""

    def __init__(self, redis: Redis, replicas: int) -> None:
        self._redis = redis
        self._replicas = replicas
        self._append = redis.register_script(appending.SCRIPT)
        self._append_tight = redis.register_script(appending.TIGHT_SCRIPT)

    async def call(self, run_id: str, args: Args, *, ends: bool = False) -> list[Any]:
        """The script's reply. Where an end of others is held it is settled, and the reply is
        what comes after."""
        holds = is_lasting = ends and self._replicas > 0
        given = appending.held(args) if holds else args
        for _ in range(SETTLE_TRIES):
            reply = await self.call_once(run_id, given, is_lasting=is_lasting)
            is_own = holds and reply[0] == b"ok"
            if reply[0] == b"held" and self._replicas and not is_lasting:
                # Who holds it may have waited in vain.
                is_lasting = True
                reply = await self.call_once(run_id, given, is_lasting=True)
            if not is_own and reply[0] != b"held":
                return reply
            settle = appending.settle_args(reply, args, is_own=is_own)
            reply = await self.call_once(run_id, settle, is_lasting=True)
            if is_own and reply[0] != b"gap":
                if reply[0] == b"dup" and args[0] == "end":
                    # Another of those who end it alike has, and says so.
                    reply[0] = b"ended"
                return reply
        raise StoreUnavailable("an end that was held is lost, again and again")

    async def call_once(
        self, run_id: str, args: Args, *, is_lasting: bool = False
    ) -> list[Any]:
        """What it says to one call, `held` too. `is_lasting`: a failover is not to take back
        what it does."""
        try:
            with store_errors():
                return await self._run(self._append, run_id, args, is_lasting=is_lasting)
        except StoreFull:
            # It may write a little all the same, so that what is on can end.
            args = appending.tightened(args)
            with store_errors():
                return await self._run(self._append_tight, run_id, args, is_lasting=is_lasting)

    async def _run(
        self, script: Any, run_id: str, args: Args, *, is_lasting: bool
    ) -> list[Any]:
        names = list(keys.run(run_id))
        reply: list[Any]
        if is_lasting and self._replicas:
            reply = await replicated(self._redis, script, names, args, self._replicas)
        else:
            reply = await script(keys=names, args=args)
        return reply

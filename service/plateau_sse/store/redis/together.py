"""Scripts that are sent at once and answered one after the other: one round trip to one server.

Invariant: they are executed in their order. Where the server does not have one of them yet (it
was started anew), that and what follows are sent again, one by one, and where the connection
breaks, all together: each bears being repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import NoScriptError

from plateau_sse.store.redis.cluster import Cluster


@dataclass(slots=True)
class Call:
    """Of a script that a client has registered; with its reply, once it has one."""

    script: Any
    keys: Sequence[str]
    args: Sequence[str | int | bytes]
    reply: Any = None

    async def alone(self) -> None:
        self.reply = await self.script(keys=self.keys, args=self.args)


async def together(redis: Any, *calls: Call) -> None:
    """Raises the first error among them; those behind it may have been done."""
    if len(calls) == 1 or isinstance(redis, Cluster):
        # Servers of a cluster would execute theirs in any order.
        for call in calls:
            await call.alone()
        return
    async with redis.pipeline(transaction=False) as pipe:
        for call in calls:
            pipe.evalsha(call.script.sha, len(call.keys), *call.keys, *call.args)
        replies = await pipe.execute(raise_on_error=False)
    for number, (call, reply) in enumerate(zip(calls, replies, strict=True)):
        if isinstance(reply, NoScriptError):
            for again in calls[number:]:
                await again.alone()
            return
        if isinstance(reply, Exception):
            raise reply
        call.reply = reply

"""Waiting for replicas: what must not be lost with the primary is done when they have it.

Invariant: what is given is what so many replicas have, by the connection that wrote it: another
might ask a server that has taken the primary's place, and lacks it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import AskError, NoScriptError

from plateau_sse.errors import StoreUnavailable
from plateau_sse.store.redis.cluster import Cluster
from plateau_sse.store.redis.topology import slot_of

# One that lags by more is as good as none.
WAIT_MS = 1000
# Where it is a repeat, nothing else would be written, and nothing waited for.
MARK_LIFE_S = 10
_TRIES = 3


async def replicated(
    redis: Redis, script: Any, keys: Sequence[str], args: Sequence[Any], replicas: int
) -> Any:
    """What a script of ours gives. Raises what its client does, and StoreUnavailable where too
    few have it within `WAIT_MS`: it must bear repeating. Within `store_errors`."""
    for _ in range(_TRIES):
        server: Any = redis
        if isinstance(redis, Cluster):
            await redis.topology.known()
            server = await redis.at(redis.topology.owner(slot_of(keys[0])))
        async with server.pipeline(transaction=False) as pipe:
            pipe.evalsha(script.sha, len(keys), *keys, *args)
            pipe.set(f"{keys[0]}:waited", "", ex=MARK_LIFE_S)
            pipe.execute_command("WAIT", replicas, WAIT_MS)
            reply, _, reached = await pipe.execute(raise_on_error=False)
        if isinstance(reply, NoScriptError):
            await server.script_load(script.script)
        elif isinstance(reply, AskError) and isinstance(redis, Cluster):
            await redis.topology.learn()
        else:
            break
    for found in (reply, reached):
        if isinstance(found, Exception):
            raise found
    if reached < replicas:
        raise StoreUnavailable(f"{reached} of {replicas} replicas have it, see WAIT_REPLICAS")
    return reply

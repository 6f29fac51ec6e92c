"""What the two Redis servers say of themselves.

Invariant: nothing is asked that a hosted Redis refuses: INFO and DBSIZE, no CONFIG.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from plateau_sse.errors import StoreError
from plateau_sse.store.redis.connections import servers_of, store_errors

SECTIONS = ("server", "clients", "memory", "stats", "persistence")
# Of INFO, what an operator looks at; bytes and counts.
SHOWN = (
    "used_memory",
    "used_memory_rss",
    "used_memory_peak",
    "maxmemory",
    "mem_fragmentation_ratio",
    "mem_clients_normal",
    "evicted_keys",
    "evicted_clients",
    "expired_keys",
    "connected_clients",
    "blocked_clients",
    "rejected_connections",
    "instantaneous_ops_per_sec",
    "uptime_in_seconds",
)


# Of several servers these are not added up.
_OF_ONE = {
    "mem_fragmentation_ratio": max,
    "uptime_in_seconds": min,
    "used_memory_peak": max,
    "connected_clients": max,
}


class Role(NamedTuple):
    """What a server must be for what we keep there."""

    name: str
    policy: str


STREAMS = Role("streams", "noeviction")
CACHE = Role("cache", "allkeys-lru")


# In the place of what it says, where its user may not ask.
CLOSED = "it answers, and says nothing of itself: its user lacks +info"


async def look(redis: Redis) -> dict[str, Any] | str:
    """What of INFO is shown, with `version`, `policy`, `keys` and `process_id`; or `CLOSED`. Of
    a cluster's primaries all together. Raises StoreError."""
    try:
        with store_errors():
            servers = await servers_of(redis)
        return together(await asyncio.gather(*map(_look, servers)))
    except StoreError as error:
        if isinstance(error.__cause__, NoPermissionError):
            return CLOSED
        raise


async def _look(redis: Redis) -> dict[str, Any]:
    asked: Any = redis
    with store_errors():
        async with asked.pipeline(transaction=False) as pipe:
            pipe.info(*SECTIONS)
            pipe.dbsize()
            info, keys = await pipe.execute()
    figures = {name: info.get(name) for name in SHOWN}
    return {
        # Valkey gives the version of Redis that it is like, beside its own.
        "version": str(info.get("valkey_version") or info.get("redis_version")),
        "policy": info.get("maxmemory_policy"),
        "keys": keys,
        "process_id": info.get("process_id"),
        "aof_enabled": info.get("aof_enabled"),
        "primaries": [(info.get("used_memory"), info.get("maxmemory"))],
        **figures,
    }


def together(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Several servers as one: bytes and counts are those of all, 0 is no bound."""
    first, *others = found
    if not others:
        return first
    merged: dict[str, Any] = {}
    for name, value in first.items():
        values = [one[name] for one in found]
        if name == "primaries":
            merged[name] = [primary for primaries in values for primary in primaries]
        elif None in values or name == "process_id":
            merged[name] = None
        elif not isinstance(value, int | float):
            merged[name] = ", ".join(sorted({str(it) for it in values}))
        elif name == "maxmemory" and 0 in values:
            merged[name] = 0
        else:
            merged[name] = _OF_ONE.get(name, sum)(values)
    return merged


def fullness(server: dict[str, Any], ours: int) -> tuple[float, int]:
    """The share of the fullest primary, as runs are admitted by, and the bytes that all of them
    may take: each `ours`, or its own bound where that is less."""
    primaries = server.get("primaries") or [(server["used_memory"], server["maxmemory"])]
    bounds = [min(ours, own or ours) for _, own in primaries]
    shares = [(used or 0) / bound for (used, _), bound in zip(primaries, bounds, strict=True)]
    return max(shares), sum(bounds)


def faults(role: Role, server: dict[str, Any]) -> list[str]:
    """What is wrong with a server of this role, each with what to do."""
    found = []
    if server["policy"] != role.policy:
        risk = (
            "it would evict live streams"
            if role is STREAMS
            else "a full cache keeps its oldest answers and refuses new ones"
        )
        found.append(
            f"the policy of the {role.name} is {server['policy']}, so {risk}: "
            f"CONFIG SET maxmemory-policy {role.policy}"
        )
    if role is CACHE and not server["maxmemory"]:
        found.append("the cache has no bound: CONFIG SET maxmemory 10mb")
    return found

"""Why a server that answers cannot be the streams instance, each reason with what mends it.

Invariant: nothing is stored, removed or configured by asking; what cannot be asked is no
reason.
"""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from plateau_sse.store.redis import keys, rights
from plateau_sse.store.redis.cluster import Cluster
from plateau_sse.store.redis.connections import servers_of, store_errors
from plateau_sse.store.redis.topology import SLOTS


def _types() -> dict[str, str]:
    """Of the keys that many runs share. A run's own have names that nobody else gives."""
    return {
        keys.QUEUE.since: "zset",
        keys.QUEUE.held: "zset",
        keys.QUEUE.places: "hash",
        keys.QUEUE.turn: "string",
        keys.QUEUE.turns: "zset",
        keys.QUEUE.runners: "zset",
        keys.QUEUE.bell: "stream",
        keys.QUEUE.asked: "set",
        keys.QUEUE.serving: "hash",
        keys.QUEUE.shared: "string",
        keys.QUEUE.owned: "zset",
        keys.EXTERNAL: "zset",
        keys.AGENTS: "hash",
        keys.ANNOUNCED: "hash",
        keys.JANITOR: "string",
        keys.HOSTS: "zset",
        keys.WORKERS: "zset",
        keys.CONVERSATIONS.idle: "zset",
        keys.CONVERSATIONS.sizes: "hash",
        keys.CONVERSATIONS.whose: "hash",
        keys.CONVERSATIONS.owners: "zset",
        keys.CONVERSATIONS.by: "zset",
    }


async def unfit(redis: Redis, user: str) -> list[str]:
    """In words, for `user`, whose rights are looked at. Raises StoreError."""
    with store_errors():
        servers = await servers_of(redis)
    is_cluster = isinstance(redis, Cluster)
    for server in servers:
        mode = await _mode(server, of_cluster=is_cluster)
        if mode:
            return [mode]
    found: dict[str, None] = {}
    for server in servers:
        denied = await rights.denied(server, "streams", of_cluster=is_cluster)
        if denied.what:
            words = ", ".join(denied.what)
            line = denied.line(user)
            found[f"its user {user} has no right to {words}: {line}"] = None
    return [*found, *await _strangers(redis)]


async def _mode(redis: Any, *, of_cluster: bool) -> str:
    server = await _asked(redis, "INFO", "server") or {}
    if "sentinel" in (server.get("redis_mode"), server.get("server_mode")):
        return (
            "it is a Sentinel: name its service in REDIS_URL, "
            "redis+sentinel://host,host,host/service"
        )
    cluster = await _asked(redis, "CLUSTER INFO")
    if not isinstance(cluster, dict) or "cluster_slots_ok" not in cluster:
        return ""
    if int(cluster["cluster_size"]) > 1 and not of_cluster:
        return (
            f"it is a cluster of {cluster['cluster_size']}: name it in REDIS_URL as "
            "redis+cluster://host,host,host"
        )
    slots = int(cluster["cluster_slots_ok"])
    if slots < SLOTS:
        return f"it is a cluster that serves {slots} of {SLOTS} slots: assign the others"
    if cluster["cluster_state"] != "ok":
        return "it is a cluster whose state is not ok: ask it for CLUSTER INFO"
    return ""


async def _asked(redis: Any, *command: str) -> Any:
    """None where it does not say."""
    with store_errors():
        try:
            return await redis.execute_command(*command)
        except ResponseError:
            return None


async def _strangers(redis: Any) -> list[str]:
    """Keys of our names that another program has made."""
    with store_errors():
        async with redis.pipeline(transaction=False) as pipe:
            types = _types()
            for name in types:
                pipe.type(name)
            found = await pipe.execute(raise_on_error=False)
    return [
        f"its key {name} is a {kind.decode()} of another program: give us a database of our "
        "own in REDIS_URL, or a KEY_PREFIX"
        for (name, wanted), kind in zip(types.items(), found, strict=True)
        if isinstance(kind, bytes) and kind.decode() not in ("none", wanted)
    ]

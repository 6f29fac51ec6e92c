"""Every Redis client is made here, and every Redis failure becomes one of ours here.

Invariant: a process holds a fixed number of connections, whatever the number of its readers; a
burst waits for one of the pool, it does not open another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from redis import Redis as BlockingRedis
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import OutOfMemoryError, RedisError

from plateau_sse.errors import StoreError, StoreFull, StoreUnavailable, WritesRefused
from plateau_sse.redis_urls import Address, address_of
from plateau_sse.store.redis.cluster import BlockingCluster, Cluster
from plateau_sse.store.redis.passing import REFUSES_WRITES, code_of, passes
from plateau_sse.store.redis.pools import alone, pooled, pooled_blocking
from plateau_sse.store.redis.sentinel import Sentinels
from plateau_sse.store.redis.topology import Topology, topology_of

# Eight commands in flight saturate one Redis from one process.
COMMAND_CONNECTIONS = 8
LEASE_TIMEOUT_S = 2.0

# One command on one key, which then has a life, also where the server is full.
ALWAYS = files("plateau_sse.store.redis").joinpath("always.lua").read_text("utf-8")


def connect(
    url: str,
    name: str,
    *,
    connections: int = COMMAND_CONNECTIONS,
    timeout_s: float = 5.0,
    retries: int = 1,
) -> Redis:
    """A client with a bounded pool, for each server where there are several.

    One retry by default, since every script of ours may be sent twice; `timeout_s` bounds a
    command and must exceed the longest BLOCK sent through this client.
    """
    address = address_of(url)
    how: Any = {"connections": connections, "timeout_s": timeout_s, "retries": retries}
    if address.kind == "cluster":
        return Cluster(topology_of(address), name, **how)
    return pooled(address.url, name, sentinels=_sentinels(address), **how)


def connect_blocking(url: str, name: str) -> BlockingRedis:
    """A client for a thread: the lease is renewed even while an agent blocks the loop."""
    address = address_of(url)
    if address.kind == "cluster":
        return BlockingCluster(Topology(address), name, timeout_s=LEASE_TIMEOUT_S)
    sentinels = _sentinels(address)
    return pooled_blocking(address.url, name, timeout_s=LEASE_TIMEOUT_S, sentinels=sentinels)


def dialing(url: str, name: str) -> Callable[[], AbstractConnection]:
    """Makes single connections, for a `Wire` each, to the one server, or to the primary behind
    Sentinels. No read timeout: their user knows when silence is wrong."""
    address = address_of(url)
    return partial(alone, address.url, name, _sentinels(address))


def single_connection(url: str, name: str) -> AbstractConnection:
    """One of those."""
    return dialing(url, name)()


def is_cluster(url: str) -> bool:
    return address_of(url).kind == "cluster"


def _sentinels(address: Address) -> Sentinels | None:
    return Sentinels(address) if address.kind == "sentinel" else None


async def servers_of(redis: Redis) -> Sequence[Redis]:
    """A client of each server that has keys of ours: more than one in a cluster."""
    return await redis.primaries() if isinstance(redis, Cluster) else (redis,)


async def keep_following(
    url: str,
    clients: Sequence[Redis | BlockingRedis],
    on_moved: Callable[[], None] = lambda: None,
) -> None:
    """Where another server may take the place of the primary: for ever, leave the old one as
    soon as it has, with what these clients have open there, and say so. Returns at once for a
    server that stands alone."""
    address = address_of(url)
    if address.kind == "cluster":
        await topology_of(address).keep_following()
    elif address.kind == "sentinel":

        async def leave() -> None:
            for client in clients:
                await _drop(client)
            on_moved()

        await Sentinels(address).keep_following(leave)


async def _drop(client: Redis | BlockingRedis) -> None:
    pool: Any = client.connection_pool
    if isinstance(client, Redis):
        # Who waits there for a reply asks the other.
        await pool.disconnect(inuse_connections=True)
    else:
        # That which its thread uses just now goes when it is given back.
        pool.update_active_connections_for_reconnect()
        pool.disconnect(inuse_connections=False)


class _StoreErrors:
    """Without a state, so one is enough; a generator would be a fiftieth of a hit."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, OutOfMemoryError):
            raise StoreFull(str(error)) from error
        if isinstance(error, RedisError | OSError) and passes(error):
            if (code := code_of(error)) in REFUSES_WRITES:
                raise WritesRefused(f"it takes no writes ({code}): {error}") from error
            raise StoreUnavailable(str(error)) from error
        if isinstance(error, RedisError):
            raise StoreError(str(error)) from error


_STORE_ERRORS = _StoreErrors()


def store_errors() -> AbstractContextManager[None]:
    """Turn what redis-py raises into StoreUnavailable, WritesRefused, StoreFull or
    StoreError."""
    return _STORE_ERRORS


def masked(url: str) -> str:
    """The URL without its password, for people and logs; and without what follows the path,
    which may hold one, too."""
    parts = urlsplit(url)._replace(query="", fragment="")
    if parts.password is not None:
        host = parts.netloc.rpartition("@")[2]
        parts = parts._replace(netloc=f"{parts.username or ''}:***@{host}")
    return urlunsplit(parts)

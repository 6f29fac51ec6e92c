"""How connections to one server are made, and how many.

Invariant: every connection introduces itself, speaks RESP2, and is one of a bounded number;
behind Sentinels each goes to the primary of the moment.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

from redis import Redis as BlockingRedis
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

from plateau_sse.store.redis.passing import Again, BlockingAgain
from plateau_sse.store.redis.sending import prompt
from plateau_sse.store.redis.sentinel import (
    DRIVER,
    Sentinels,
    at_primary,
    at_primary_blocking,
    check_primary,
)
from plateau_sse.store.redis.trust import sharing

# A burst of 1,000 readers joining is through the pool in well under a second.
POOL_WAIT_S = 5.0
CONNECT_S = 2.0


def pooled(
    url: str,
    name: str,
    *,
    connections: int,
    timeout_s: float,
    retries: int,
    sentinels: Sentinels | None = None,
) -> Redis:
    """A client with a bounded pool. RESP2 throughout: replies then look alike everywhere."""
    pool = BlockingConnectionPool.from_url(
        url,
        protocol=2,
        redis_connect_func=partial(_introduce, name, sentinels is not None),
        driver_info=DRIVER,
        max_connections=connections,
        timeout=POOL_WAIT_S,
        socket_timeout=timeout_s,
        socket_connect_timeout=min(timeout_s, CONNECT_S),
        retry=Again(retries),
    )
    pool.connection_class = _kind(pool.connection_class, sentinels)
    return Redis.from_pool(pool)


def pooled_blocking(
    url: str, name: str, *, timeout_s: float, sentinels: Sentinels | None = None
) -> BlockingRedis:
    """A client for a thread."""
    client = BlockingRedis.from_url(
        url,
        protocol=2,
        redis_connect_func=partial(_introduce_blocking, name, sentinels is not None),
        driver_info=DRIVER,
        socket_timeout=timeout_s,
        # redis-py's own is 5 s, which is most of a lease.
        socket_connect_timeout=min(timeout_s, CONNECT_S),
        # Without a retry: a lease has no time for that, and who renews it tries again.
        retry=BlockingAgain(0),
    )
    if sentinels is not None:
        pool: Any = client.connection_pool
        pool.connection_class = at_primary_blocking(pool.connection_class, sentinels)
    return client


def alone(url: str, name: str, sentinels: Sentinels | None = None) -> AbstractConnection:
    """One connection, for a `Wire`. No read timeout: its user knows when silence is wrong."""
    pool: ConnectionPool = ConnectionPool.from_url(
        url,
        protocol=2,
        redis_connect_func=partial(_introduce, name, sentinels is not None),
        driver_info=DRIVER,
        socket_timeout=None,
        socket_connect_timeout=CONNECT_S,
    )
    pool.connection_class = _kind(pool.connection_class, sentinels)
    connection: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call]
    return connection


def _kind(
    kind: type[AbstractConnection], sentinels: Sentinels | None
) -> type[AbstractConnection]:
    kind = prompt(sharing(kind))
    return kind if sentinels is None else at_primary(kind, sentinels)


async def _introduce(name: str, must_be_primary: bool, connection: Any) -> None:
    """A name is for whoever looks at CLIENT LIST: a user without that right has none."""
    await connection.on_connect()
    if must_be_primary:
        await connection.send_command("HELLO", 2, check_health=False)
        check_primary(await connection.read_response(), connection)
    await connection.send_command("CLIENT", "SETNAME", name, check_health=False)
    with suppress(ResponseError):
        await connection.read_response()


def _introduce_blocking(name: str, must_be_primary: bool, connection: Any) -> None:
    connection.on_connect()
    if must_be_primary:
        connection.send_command("HELLO", 2, check_health=False)
        check_primary(connection.read_response(), connection)
    connection.send_command("CLIENT", "SETNAME", name, check_health=False)
    with suppress(ResponseError):
        connection.read_response()

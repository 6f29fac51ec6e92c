"""Every Redis client is made here, and every Redis failure becomes one of ours here.

Invariant: a process holds a fixed number of connections, whatever the number of its readers; a
burst waits for one of the pool, it does not open another.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib.resources import files
from urllib.parse import urlsplit, urlunsplit

from redis import Redis as BlockingRedis
from redis import __version__ as redis_version
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.driver_info import DriverInfo
from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    TimeoutError,
)

from plateau_sse.errors import StoreError, StoreFull, StoreUnavailable

# Eight commands in flight saturate one Redis from one process.
COMMAND_CONNECTIONS = 8
# A burst of 1,000 readers joining is through the pool in well under a second.
POOL_WAIT_S = 5.0

# What a connection says of its library. By default each one that is made looks up the version
# among all packages installed: milliseconds, and 3 MiB of what a process shares with others.
_DRIVER = DriverInfo(lib_version=redis_version)

# One command on one key, which then has a life, also where the server is full.
ALWAYS = files("plateau_sse.store.redis").joinpath("always.lua").read_text()

_UNAVAILABLE = (
    ConnectionError,
    TimeoutError,
    BusyLoadingError,
    ReadOnlyError,
    ClusterDownError,
)


def connect(
    url: str,
    name: str,
    *,
    connections: int = COMMAND_CONNECTIONS,
    timeout_s: float = 5.0,
    retries: int = 1,
) -> Redis:
    """A client with a bounded pool. RESP2 throughout: replies then look alike everywhere.

    One retry by default, since every script of ours may be sent twice; `timeout_s` bounds a
    command and must exceed the longest BLOCK sent through this client.
    """
    pool = BlockingConnectionPool.from_url(
        url,
        protocol=2,
        client_name=name,
        driver_info=_DRIVER,
        max_connections=connections,
        timeout=POOL_WAIT_S,
        socket_timeout=timeout_s,
        socket_connect_timeout=min(timeout_s, 2.0),
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), retries),
    )
    return Redis.from_pool(pool)


def connect_blocking(url: str, name: str) -> BlockingRedis:
    """A client for a thread: the lease is renewed even while an agent blocks the loop."""
    return BlockingRedis.from_url(
        url, protocol=2, client_name=name, driver_info=_DRIVER, socket_timeout=2.0
    )


class _StoreErrors:
    """Without a state, so one is enough; a generator would be a fiftieth of a hit."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, OutOfMemoryError):
            raise StoreFull(str(error)) from error
        if isinstance(error, (*_UNAVAILABLE, OSError)):
            raise StoreUnavailable(str(error)) from error
        if isinstance(error, RedisError):
            raise StoreError(str(error)) from error


_STORE_ERRORS = _StoreErrors()


def store_errors() -> AbstractContextManager[None]:
    """Turn what redis-py raises into StoreUnavailable, StoreFull or StoreError."""
    return _STORE_ERRORS


def masked(url: str) -> str:
    """The URL without its password, for people and logs; and without what follows the path,
    which may hold one, too."""
    parts = urlsplit(url)._replace(query="", fragment="")
    if parts.password is not None:
        host = parts.netloc.rpartition("@")[2]
        parts = parts._replace(netloc=f"{parts.username or ''}:***@{host}")
    return urlunsplit(parts)


def single_connection(url: str, name: str) -> AbstractConnection:
    """One connection, for a `Wire`. No read timeout: its user knows when silence is wrong."""
    pool: ConnectionPool = ConnectionPool.from_url(
        url,
        protocol=2,
        client_name=name,
        driver_info=_DRIVER,
        socket_timeout=None,
        socket_connect_timeout=2.0,
    )
    connection: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call]
    return connection

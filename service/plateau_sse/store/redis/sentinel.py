"""Sentinels: which server is the primary of a service just now.

Invariant: they are asked before each connection is made, and one to a server that does not take
itself for a primary is not used: a server that comes back as what it was is not written to.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from redis import ConnectionPool as BlockingPool
from redis import __version__ as redis_version
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.driver_info import DriverInfo
from redis.exceptions import ConnectionError, RedisError
from redis.exceptions import TimeoutError as SilentError

from plateau_sse.redis_urls import Address
from plateau_sse.store.redis.trust import sharing

log = logging.getLogger("plateau.store")

# One that takes longer is passed over for the next.
ANSWER_S = 1.0
# How long a change may go unnoticed where nobody says so.
LOOK_S = 2.0

Place = tuple[str, int]
_ASK = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME")
_MOVED = "+switch-master"
# What a connection says of its library. By default each one that is made looks up the version
# among all packages installed: milliseconds, and 3 MiB of what a process shares with others.
DRIVER = DriverInfo(lib_version=redis_version)
_OPTIONS: dict[str, Any] = {
    "driver_info": DRIVER,
    "protocol": 2,
    "socket_timeout": ANSWER_S,
    "socket_connect_timeout": ANSWER_S,
}


class Sentinels:
    """Those of one service. The one that has answered last is asked first."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._hosts = list(address.hosts)

    def __str__(self) -> str:
        hosts = ", ".join(f"{host}:{port}" for host, port in self._address.hosts)
        return f"the Sentinels at {hosts}"

    async def primary(self) -> Place:
        """Raises ConnectionError where none of them knows."""
        wrong: Exception | None = None
        for place in tuple(self._hosts):
            connection = self._connection(place)
            try:
                async with asyncio.timeout(ANSWER_S):
                    await connection.send_command(*_ASK, self._address.service)
                    found = _place(await connection.read_response())
            except (RedisError, OSError, TimeoutError) as error:
                wrong = error
                continue
            except asyncio.CancelledError:
                # Who asks may have less patience than it takes to pass over one that hangs: it
                # is asked last the next time.
                self._hosts = [*(it for it in self._hosts if it != place), place]
                raise
            finally:
                with suppress(Exception):
                    await connection.disconnect(nowait=True)
            if found is not None:
                self._prefer(place)
                return found
        raise self._unknown(wrong)

    def primary_blocking(self) -> Place:
        """The same for a thread."""
        wrong: Exception | None = None
        for place in tuple(self._hosts):
            pool: Any = BlockingPool.from_url(self._address.sentinel_at(*place), **_OPTIONS)
            try:
                connection = pool.get_connection()
                connection.send_command(*_ASK, self._address.service)
                found = _place(connection.read_response())
            except (RedisError, OSError) as error:
                wrong = error
                continue
            finally:
                pool.disconnect()
            if found is not None:
                self._prefer(place)
                return found
        raise self._unknown(wrong)

    async def keep_following(self, on_moved: Callable[[], Awaitable[None]]) -> None:
        """For ever: `on_moved` is called whenever another server has become the primary."""
        known: Place | None = None
        while True:
            for place in tuple(self._hosts):
                with suppress(RedisError, OSError, TimeoutError):
                    known = await self._listen(place, known, on_moved)
            await asyncio.sleep(LOOK_S * random.uniform(0.5, 1.0))

    async def _listen(
        self, place: Place, known: Place | None, on_moved: Callable[[], Awaitable[None]]
    ) -> Place | None:
        """As long as the Sentinels answer; what is known then."""
        connection = self._connection(place)
        try:
            async with asyncio.timeout(ANSWER_S):
                await connection.send_command("SUBSCRIBE", _MOVED)
            while True:
                with suppress(ConnectionError):
                    # Of all of them: the one that is listened to may be cut off itself.
                    found = await self.primary()
                    if known is not None and found != known:
                        log.warning("the primary is now %s:%d", *found)
                        await on_moved()
                    known = found
                if not await _is_told(connection):
                    return known
        finally:
            with suppress(Exception):
                await connection.disconnect(nowait=True)

    def _connection(self, place: Place) -> Any:
        pool = ConnectionPool.from_url(self._address.sentinel_at(*place), **_OPTIONS)
        # One is made for each that a pool makes, and every `LOOK_S`.
        pool.connection_class = sharing(pool.connection_class)
        return pool.make_connection()  # type: ignore[no-untyped-call]

    def _prefer(self, place: Place) -> None:
        if self._hosts[0] != place:
            self._hosts = [place, *(it for it in self._hosts if it != place)]

    def _unknown(self, error: Exception | None) -> ConnectionError:
        why = f": {error}" if error is not None else ""
        return ConnectionError(
            f"{self} name no primary of the service {self._address.service}{why}"
        )


async def _is_told(connection: Any) -> bool:
    """After a message, or `LOOK_S`; False where the connection has ended."""
    try:
        await connection.read_response(timeout=LOOK_S, disconnect_on_error=False)
    except (TimeoutError, SilentError):
        return True
    except (RedisError, OSError):
        return False
    return True


def _place(reply: Any) -> Place | None:
    return None if reply is None else (reply[0].decode(), int(reply[1]))


def at_primary(
    kind: type[AbstractConnection], sentinels: Sentinels
) -> type[AbstractConnection]:
    """That kind of connection, made to whatever server is the primary then."""

    usual: Any = kind._connect

    async def connect(self: Any) -> None:
        self.host, self.port = await sentinels.primary()
        await usual(self)

    return type(kind.__name__, (kind,), {"_connect": connect})


def at_primary_blocking(kind: Any, sentinels: Sentinels) -> Any:
    """The same for a thread."""

    def connect(self: Any) -> Any:
        self.host, self.port = sentinels.primary_blocking()
        return kind._connect(self)

    return type(kind.__name__, (kind,), {"_connect": connect})


def check_primary(greeting: list[Any], connection: Any) -> None:
    """What a server says of itself to HELLO, which needs no right. Raises ConnectionError."""
    said = dict(zip(greeting[::2], greeting[1::2], strict=False))
    if said.get(b"role") != b"master":
        raise ConnectionError(f"{connection.host}:{connection.port} is no primary yet")

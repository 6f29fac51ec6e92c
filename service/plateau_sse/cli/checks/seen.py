"""What doctor asks of one Redis server.

Invariant: nothing is stored, removed or configured by asking.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, ResponseError

from plateau_sse.cli.checks import Finding, error, warning
from plateau_sse.cli.servers import Server, opened, trouble
from plateau_sse.errors import StoreError
from plateau_sse.serve.redis_server import Role
from plateau_sse.store.redis import keys

ROUND_TRIPS = 5
CONFIGURATION = ("maxmemory-clients", "client-output-buffer-limit", "save", "appendfsync")
# No run and no answer has this name.
NOBODY = "doctor"
TRIED: dict[Role, tuple[tuple[str | int, ...], ...]] = {
    "streams": (
        ("UNLINK", *keys.run(NOBODY)),
        ("XLEN", keys.QUEUE),
        ("EVAL", "return 1", 0),
        ("SPUBLISH", keys.channel(NOBODY), ""),
    ),
    "cache": (("UNLINK", keys.cache(NOBODY)), ("GET", keys.cache(NOBODY))),
}


@dataclass(frozen=True, slots=True)
class Seen:
    """A server that answers. `configuration` is None where it keeps that to itself, from
    everybody or, with `wants_right`, from our user; `denied`: commands that the user may not
    give."""

    server: Server
    info: dict[str, Any]
    round_trip_ms: float
    configuration: dict[str, str] | None
    wants_right: bool
    denied: list[str]

    @property
    def user(self) -> str:
        return urlsplit(self.server.url).username or "default"

    def set(self, name: str, value: str) -> str:
        """What mends a line of its configuration."""
        if self.configuration is None:
            return f"{name} {value}  # in the server's own configuration: CONFIG is closed"
        return self.server.cli("CONFIG", "SET", name, value)


async def look(server: Server) -> Seen | Finding:
    """The finding is why nothing can be seen."""
    if not server.url:
        return warning(server.role, *server.unknown)
    try:
        async with opened(server, "plateau-doctor") as redis:
            times = [await _round_trip_ms(redis) for _ in range(ROUND_TRIPS)]
            info = await redis.info()
            configuration, wants_right = await _configuration(redis)
            denied = await _denied(redis, server.role)
            # The best tells how far it is; the others, how busy this machine is.
            return Seen(server, info, min(times), configuration, wants_right, denied)
    except StoreError as wrong:
        return error(server.role, *trouble(server, wrong))


async def _round_trip_ms(redis: Redis) -> float:
    began = time.perf_counter()
    # A server that cannot save refuses to PING, too, and is to be asked more.
    await redis.echo("")
    return (time.perf_counter() - began) * 1000


async def _configuration(redis: Redis) -> tuple[dict[str, str] | None, bool]:
    found: dict[str, str] = {}
    try:
        # One by one: before 7.0 there was no other way.
        for name in CONFIGURATION:
            for key, value in (await redis.config_get(name)).items():
                found[_word(key)] = _word(value)
    except NoPermissionError:
        return None, True
    except ResponseError:
        # Renamed, as whoever rents servers out does.
        return None, False
    return found, False


def _word(reply: Any) -> str:
    return reply.decode() if isinstance(reply, bytes) else str(reply)


async def _denied(redis: Any, role: Role) -> list[str]:
    denied = []
    for command in TRIED[role]:
        try:
            await redis.execute_command(*command)
        except NoPermissionError:
            denied.append(str(command[0]))
        except ResponseError:
            # Too old, a replica, a part of a cluster: other findings say so.
            continue
    return denied

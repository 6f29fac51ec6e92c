"""What doctor asks of one Redis server.

Invariant: nothing is stored, removed or configured by asking.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, ResponseError

from plateau_sse.cli.checks import Finding, error, warning
from plateau_sse.cli.servers import ANSWER_WITHIN_S, Server, opened, trouble
from plateau_sse.errors import StoreError
from plateau_sse.redis_urls import user_of
from plateau_sse.serve.redis_server import Role
from plateau_sse.store.redis import keys, rights
from plateau_sse.store.redis.rights import Denied

ROUND_TRIPS = 5
CONFIGURATION = ("maxmemory-clients", "client-output-buffer-limit", "save", "appendfsync")


@dataclass(frozen=True, slots=True)
class Seen:
    """A server that answers. `configuration` is None where it keeps that to itself, from
    everybody or, with `wants_right`, from our user; `denied`: what that lacks."""

    server: Server
    info: dict[str, Any]
    round_trip_ms: float
    configuration: dict[str, str] | None
    wants_right: bool
    denied: Denied

    @property
    def user(self) -> str:
        return user_of(self.server.url)

    def set(self, name: str, value: str) -> str:
        """What mends a line of its configuration."""
        if self.configuration is None:
            return f"{name} {value}  # in the server's own configuration: CONFIG is closed"
        return self.server.cli("CONFIG", "SET", name, value)


async def look(server: Server) -> Seen | Finding:
    """The finding is why nothing can be seen."""
    if not server.url:
        return warning(server.role, *server.unknown)
    times: list[float] = []
    try:
        async with opened(server, "plateau-doctor") as redis:
            while len(times) < ROUND_TRIPS:
                times.append(await _round_trip_ms(redis, server.role))
            of_cluster = server.is_one_of == "cluster"
            denied = await rights.denied(redis, server.role, of_cluster=of_cluster)
            try:
                info = await redis.info()
            except NoPermissionError:
                return _closed(server, denied)
            configuration, wants_right = await _configuration(redis)
            # The best tells how far it is; the others, how busy this machine is.
            return Seen(server, info, min(times), configuration, wants_right, denied)
    except StoreError as wrong:
        if times and isinstance(wrong.__cause__, TimeoutError):
            return _far(server, min(times))
        return error(server.role, *trouble(server, wrong))


def _far(server: Server, round_trip_ms: float) -> Finding:
    """It does answer, and not so soon that all could be asked."""
    text = (
        f"{server.shown} answers in {round_trip_ms:.1f} ms, and every event waits for it; "
        f"the rest could not be looked at within {ANSWER_WITHIN_S:g} s"
    )
    return error(f"{server.role}.latency", text, server.cli("--latency"))


async def _round_trip_ms(redis: Redis, role: Role) -> float:
    """Of what each of our users may do, and a server that cannot save does, other than PING."""
    key = keys.cache(rights.NOBODY) if role == "cache" else keys.inflight(rights.NOBODY)
    began = time.perf_counter()
    # That it is elsewhere, or not allowed, is as quick an answer: others say what it means.
    with suppress(ResponseError):
        await redis.get(key)
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


def _closed(server: Server, denied: Denied) -> Finding:
    """Nothing more can be seen of it; the service does without that, if it has the rest."""
    user = user_of(server.url)
    mend = server.cli("ACL", "SETUSER", user, *denied.grants, "+info")
    words = ", ".join((*denied.what, "INFO"))
    level = error if denied.what else warning
    return level(f"{server.role}.rights", f"the user {user} has no right to {words}", mend)

"""What each process says of itself, where every other can read it.

Invariant: figures have an age, by the store's own clock: who has not said anything for
`SILENT_S` is frozen, cut off or dead, and after `LIFE_S` forgotten; a dead one of a tree as
soon as another of it reports, one of an earlier tree of this host as soon as another begins.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from redis.asyncio import Redis

from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import ALWAYS, store_errors

REPORT_S = 5.0
# Two that are late would be three.
SILENT_S = 8.0
# Long enough for who looks every half minute.
LIFE_S = 90
# Whatever they look like: a container's host name may be all digits, a release may be 1.10.
_WORDS = ("role", "host", "version")

Figures = dict[str, str | int | float]


class Workers:
    """`role` is web or runner."""

    def __init__(self, redis: Redis, role: str) -> None:
        self._redis: Any = redis
        self._always = redis.register_script(ALWAYS)
        self._who: Figures = {"role": role, "host": socket.gethostname(), "pid": os.getpid()}
        self._name = f"{self._who['host']}:{self._who['pid']}"

    async def report(self, figures: Figures) -> None:
        """Also into a store that is full: who else could say so. Raises StoreError."""
        key = keys.worker(self._name)
        with store_errors():
            seconds, micros = await self._redis.time()
            at = seconds + micros / 1e6
            report = {**self._who, **figures, "at": at}
            fields = [word for pair in report.items() for word in pair]
            await self._always(keys=[key], args=[LIFE_S, "HSET", *fields])
            await self._always(keys=[keys.WORKERS], args=[LIFE_S, "ZADD", at, self._name])
            await self._redis.zremrangebyscore(keys.WORKERS, "-inf", at - LIFE_S)

    async def leave(self) -> None:
        """In good order: nobody need wonder. Raises StoreError."""
        await self.forget(int(self._who["pid"]))

    async def forget(self, pid: int) -> None:
        """One of this host has ended, and is known to have. Raises StoreError."""
        name = f"{self._who['host']}:{pid}"
        with store_errors():
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.delete(keys.worker(name))
                pipe.zrem(keys.WORKERS, name)
                await pipe.execute()

    async def of_this_host(self) -> list[Figures]:
        """As `all`, of those alone. Raises StoreError."""
        return [one for one in await self.all() if one["host"] == self._who["host"]]

    async def all(self) -> list[Figures]:
        """Of each process that reported within `LIFE_S`, with `age_s`. Raises StoreError."""
        with store_errors():
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.time()
                pipe.zrange(keys.WORKERS, 0, -1)
                (seconds, micros), names = await pipe.execute()
            async with self._redis.pipeline(transaction=False) as pipe:
                for name in names:
                    pipe.hgetall(keys.worker(name.decode()))
                found = await pipe.execute()
        now = seconds + micros / 1e6
        reports = [
            {
                name.decode(): _value(name.decode(), value.decode())
                for name, value in fields.items()
            }
            for fields in found
            if fields
        ]
        for report in reports:
            report["age_s"] = max(0.0, now - float(report.pop("at", 0)))
        return sorted(reports, key=lambda it: (str(it["role"]), str(it["host"]), it["pid"]))


def _value(name: str, text: str) -> str | int | float:
    for number in () if name in _WORDS else (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text

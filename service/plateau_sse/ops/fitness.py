"""Whether the streams instance, which answers, can be used: looked at when a process starts,
and again.

Invariant: what makes it unfit is said once in the log, with what mends it, and is why a web
worker is not ready; it is over as soon as it is mended.
"""

from __future__ import annotations

import asyncio
import logging

from redis.asyncio import Redis

from plateau_sse.errors import StoreError
from plateau_sse.redis_urls import user_of
from plateau_sse.store.redis.fitness import unfit

log = logging.getLogger("plateau.store")

LOOK_S = 60.0
# While it is unfit, or nobody knows.
AGAIN_S = 2.0


class Fitness:
    """One a process; `cause` is '' for a server that is fit, or has not been looked at."""

    def __init__(self, redis: Redis, url: str) -> None:
        self._redis = redis
        self._user = user_of(url)
        self.cause = ""

    async def keep_looking(self) -> None:
        """For ever."""
        while True:
            wait_s = AGAIN_S
            try:
                self._say("; ".join(await unfit(self._redis, self._user)))
                wait_s = AGAIN_S if self.cause else LOOK_S
            except StoreError as error:
                log.info("what the streams instance is like cannot be looked at: %s", error)
            except Exception:
                log.exception("what the streams instance is like cannot be looked at")
                wait_s = LOOK_S
            await asyncio.sleep(wait_s)

    def _say(self, cause: str) -> None:
        if cause and cause != self.cause:
            log.error("The streams instance cannot be used: %s", cause)
        elif self.cause and not cause:
            log.info("The streams instance can be used.")
        self.cause = cause

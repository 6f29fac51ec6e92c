"""Which agents there are, as web workers know it: they never import one.

Invariant: a new version of an agent is noticed within `FRESH_S`; a hit stays one GET.
"""

from __future__ import annotations

import time

from plateau_sse.errors import StoreError
from plateau_sse.intake import refusals
from plateau_sse.store.queue.queue import Queue

FRESH_S = 2.0


class Versions:
    """One a worker."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._versions: dict[str, str] = {}
        self._asked_at = float("-inf")

    async def of(self, agent: str) -> str:
        """The version of `agent`; Problem `unknown_agent`, or `no_runner` where none has ever
        announced anything."""
        known = agent in self._versions
        if not known or time.monotonic() - self._asked_at > FRESH_S:
            await self._ask(known=known)
        version = self._versions.get(agent)
        if version is not None:
            return version
        if not self._versions:
            raise refusals.no_runner()
        raise refusals.unknown_agent(agent, self._versions)

    async def _ask(self, *, known: bool) -> None:
        try:
            self._versions = await self._queue.agent_versions()
        except StoreError:
            # Cached answers are served while the streams instance is away.
            if not known:
                raise
        self._asked_at = time.monotonic()

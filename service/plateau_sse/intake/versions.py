"""Which agents there are, as web workers know it: they never import one.

Invariant: a new version of an agent is noticed within `FRESH_S`; a hit stays one GET. What is
known is said also while the streams instance hangs: one caller waits for it as long as
`PATIENCE_S`, and until it answers again nobody else does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from plateau_sse import tasks
from plateau_sse.errors import StoreError
from plateau_sse.intake import refusals
from plateau_sse.store.queue.announcements import About, Announced, Announcements
from plateau_sse.store.redis.patience import PATIENCE_S, retrieved

FRESH_S = 2.0


class Versions:
    """One a worker."""

    def __init__(self, announcements: Announcements) -> None:
        self._announcements = announcements
        self._agents: dict[str, Announced] = {}
        self._asked_at = float("-inf")
        # One for all who ask; it may outlive their patience.
        self._asking: asyncio.Task[None] | None = None
        self._silent = False

    async def keep_fresh(self) -> None:
        """So that nobody has to wait for it while the streams instance answers."""
        while True:
            await asyncio.sleep(FRESH_S / 2)
            await asyncio.wait({self._ask()})

    async def of(self, agent: str) -> str:
        """The version of `agent`; Problem `unknown_agent`, or `no_runner` where none has ever
        announced anything."""
        if agent not in self._agents:
            # Waited for as anything that nothing can be done without.
            await tasks.shared(self._ask())
        else:
            await self._look_again()
        found = self._agents.get(agent)
        if found is not None:
            return found.version
        if not self._agents:
            raise refusals.no_runner()
        raise refusals.unknown_agent(agent, self._agents)

    @property
    def last(self) -> Mapping[str, Announced]:
        """Each agent as it was known last. What is known later is another mapping: this one is
        never changed."""
        return self._agents

    def about(self, agent: str) -> About:
        """What else is known of it."""
        found = self._agents.get(agent)
        return About() if found is None else found.about

    async def known(self) -> Mapping[str, Announced]:
        """Each agent that there is, by its name; empty where none has ever been announced."""
        if not self._agents:
            await tasks.shared(self._ask())
        else:
            await self._look_again()
        return self._agents

    async def _look_again(self) -> None:
        """Where what is known is old."""
        if time.monotonic() - self._asked_at <= FRESH_S:
            return
        asking = self._ask()
        if not self._silent:
            await asyncio.wait({asking}, timeout=PATIENCE_S)
            self._silent = self._silent or not asking.done()

    def _ask(self) -> asyncio.Task[None]:
        if self._asking is None:
            self._asking = asyncio.create_task(self._refresh())
            self._asking.add_done_callback(retrieved)
        return self._asking

    async def _refresh(self) -> None:
        try:
            self._agents = await self._announcements.agents()
            self._silent = False
        except StoreError:
            # Cached answers are served while the streams instance is away.
            self._silent = True
            raise
        finally:
            self._asked_at = time.monotonic()
            self._asking = None

    async def close(self) -> None:
        if self._asking is not None:
            await tasks.end(self._asking)

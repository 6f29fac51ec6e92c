"""Sweeping what dead processes left behind, once a minute in the whole deployment.

Invariant: nothing that a process leaves in Redis outlives the next sweep after its time, and a
sweep touches nothing that somebody living uses.
"""

from __future__ import annotations

import asyncio
import logging
import random

from plateau_sse.errors import StoreError
from plateau_sse.store.figures.leftovers import Leftovers
from plateau_sse.store.figures.stats import Stats

log = logging.getLogger("plateau.janitor")

SWEEP_S = 60


class Janitor:
    """One a web worker; whoever gets the turn sweeps for all."""

    def __init__(self, leftovers: Leftovers, stats: Stats) -> None:
        self._leftovers = leftovers
        self._stats = stats

    async def keep_sweeping(self) -> None:
        log.info("sweeping every %d s", SWEEP_S)
        while True:
            await asyncio.sleep(SWEEP_S * random.uniform(0.9, 1.1))
            try:
                await self.sweep()
            except StoreError as error:
                log.warning("sweeping has to wait: %s", error)
            except Exception:
                log.exception("sweeping failed")

    async def sweep(self) -> int:
        """How many leftovers went; 0 also where it was another worker's turn."""
        if not await self._leftovers.my_turn(SWEEP_S // 2):
            return 0
        entries = await self._leftovers.drop_orphaned_entries()
        if entries:
            self._stats.count("swept_entries", entries)
            log.info("swept %d entries without a run", entries)
        return entries

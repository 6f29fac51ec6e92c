"""What a process says of itself, every few seconds.

Invariant: a store that does not answer costs the process nothing but being unknown.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress

from service.errors import StoreError
from service.ops import process
from service.ops.damper import tell_held
from service.store.stats import Stats
from service.store.workers import REPORT_S, Figures, Workers

log = logging.getLogger("plateau.ops")


class Reporter:
    """`more` gives what only this kind of process knows."""

    def __init__(self, workers: Workers, stats: Stats, more: Callable[[], Figures]) -> None:
        self._workers = workers
        self._stats = stats
        self._more = more
        self._cpu = process.Cpu()
        self._started = int(time.time())

    async def keep_reporting(self) -> None:
        """For ever; then it takes its leave."""
        try:
            while True:
                try:
                    await self._workers.report(self._figures())
                except StoreError as error:
                    log.info("nobody is told of this process: %s", error)
                tell_held()
                await asyncio.sleep(REPORT_S)
        finally:
            with suppress(StoreError):
                await self._workers.leave()

    def _figures(self) -> Figures:
        pss, rss = process.memory()
        master_pss, master_rss = process.memory(os.getppid())
        return {
            "started": self._started,
            "pss": pss,
            "rss": rss,
            "cpu": round(self._cpu.share(), 4),
            "master": os.getppid(),
            "master_pss": master_pss,
            "master_rss": master_rss,
            **self._stats.deaths,
            **self._more(),
        }

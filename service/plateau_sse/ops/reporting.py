"""What a process says of itself, every few seconds, and at once where others act on it.

Invariant: a store that does not answer costs the process nothing but being unknown. Whoever
can be asked has said something of itself, or tried to.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress

from plateau_sse import __version__
from plateau_sse.errors import StoreError
from plateau_sse.ops import cgroup, process
from plateau_sse.ops.damper import tell_held
from plateau_sse.store.figures.tally import Board
from plateau_sse.store.figures.workers import REPORT_S, Figures, Workers

log = logging.getLogger("plateau.ops")

LOOK_S = 0.5
# Where the store hangs, a process begins without being known.
BEGIN_S = 1.0


class Reporter:
    """`more` gives what only this kind of process knows, `urgent` what of it others are to hear
    of when it changes. One with the `board` of a tree tells of its master, too, which has no
    connection, and makes those of the tree forgotten that have died."""

    def __init__(
        self,
        workers: Workers,
        more: Callable[[], Figures],
        *,
        urgent: Callable[[], object] = lambda: None,
        board: Board | None = None,
    ) -> None:
        self._workers = workers
        self._more = more
        self._urgent = urgent
        self._board = board
        self._dead: list[int] = []
        self._cpu = process.Cpu()
        self._started = int(time.time())
        self._here: Figures = {
            "space": process.space(),
            "born": process.born(),
            "version": __version__,
        }
        self._begun = asyncio.Event()
        self._is_new = True

    async def keep_reporting(self) -> None:
        """For ever; then it takes its leave."""
        try:
            while True:
                told = self._urgent()
                try:
                    await self._workers.report(self._figures())
                    await self._bury()
                except StoreError as error:
                    log.info("nobody is told of this process: %s", error)
                self._begun.set()
                tell_held()
                await self._wait(told)
        finally:
            with suppress(StoreError):
                await self._workers.leave()

    async def has_begun(self) -> None:
        """Return when this process has been told of, as far as that is to be had."""
        with suppress(TimeoutError):
            async with asyncio.timeout(BEGIN_S):
                await self._begun.wait()

    async def _bury(self) -> None:
        """Those of this tree that have ended and, once, those of trees before it."""
        if self._is_new:
            self._dead += [
                int(one["pid"])
                for one in await self._workers.of_this_host()
                if process.is_gone(
                    int(one["pid"]), float(one.get("born", 0)), str(one.get("space", ""))
                )
            ]
            self._is_new = False
        if self._board is not None:
            self._dead += self._board.ended()
        while self._dead:
            await self._workers.forget(self._dead[-1])
            self._dead.pop()

    async def _wait(self, told: object) -> None:
        """Until the next report is due."""
        for _ in range(int(REPORT_S / LOOK_S)):
            await asyncio.sleep(LOOK_S)
            if self._urgent() != told:
                return

    def _figures(self) -> Figures:
        pss, rss = process.memory()
        used, limit = cgroup.memory()
        figures: Figures = {
            **self._here,
            "started": self._started,
            "pss": pss,
            "rss": rss,
            # Each container has its own: what kills one is not seen from another.
            "group_used": used or 0,
            "group_limit": limit or 0,
            "cpu": round(self._cpu.share(), 4),
        }
        if self._board is not None:
            master = os.getppid()
            pss, rss = process.memory(master)
            figures |= {"master": master, "master_pss": pss, "master_rss": rss}
        return figures | self._more()

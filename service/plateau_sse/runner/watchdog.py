"""Noticing an agent that blocks the runner's loop, from a thread of its own.

Invariant: a blocked loop is named within seconds, with the agent that blocks it; past that
agent's deadline its run is ended from here and the process is left, since nothing else can stop
Python code that does not yield. The other runs go on as another attempt.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable

from plateau_sse.errors import StoreError
from plateau_sse.runner.marks import Inside, Marks

log = logging.getLogger("plateau.runner")

BEAT_S = 0.5
# Longer than any pause of a loop that is merely busy.
BLOCKED_S = 5.0
# `sysexits`: a temporary failure. The supervisor starts another runner.
EXIT_CODE = 75


class Watchdog:
    """Made in the loop's thread; `marks` say in whose code that is. `end` ends a run as timed
    out, over a connection that needs no loop. `beat` is called as long as threads run."""

    def __init__(
        self,
        marks: Marks,
        end: Callable[[str], None],
        *,
        timeout_s: float,
        beat: Callable[[], None] = lambda: None,
        leave: Callable[[int], None] = os._exit,
    ) -> None:
        self._marks = marks
        self._loops_thread = threading.get_native_id()
        self._end = end
        self._timeout_s = timeout_s
        self._beat = beat
        self._leave = leave
        self._beat_at = time.monotonic()
        self._told = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        # Before there is an agent that could keep the thread from it.
        self._beat()
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(timeout=3)

    async def keep_beating(self) -> None:
        while True:
            self._beat_at = time.monotonic()
            self._told = False
            await asyncio.sleep(BEAT_S)

    def _watch(self) -> None:
        while not self._stopping.wait(BEAT_S):
            self._beat()
            silent_s = time.monotonic() - self._beat_at
            if silent_s < BLOCKED_S:
                continue
            run_id, agent = self._culprit()
            if not self._told:
                self._told = True
                log.error(
                    "agent %s blocks the runner (run %s): every other run waits for it. "
                    "A blocking agent belongs in a plain generator, which gets a thread.",
                    agent,
                    run_id,
                )
            if silent_s > self._timeout_s:
                self._put_an_end(run_id, agent)

    def _culprit(self) -> Inside:
        return self._marks.threads().get(self._loops_thread, Inside("?", "?"))

    def _put_an_end(self, run_id: str, agent: str) -> None:
        log.critical("agent %s passed its deadline without yielding: restarting", agent)
        try:
            self._end(run_id)
        except StoreError as error:
            log.error("run %s could not be ended: %s", run_id, error)
        self._leave(EXIT_CODE)

"""What large questions leave in the heap goes back to the kernel behind them.

Invariant: it is given back once for all that ended within `SETTLE_S`, in a thread, and never by
the loop: others' runs do not wait for it.
"""

from __future__ import annotations

import asyncio

from plateau_sse.heap import give_back_free_pages

# What an agent makes of a text may take two hundred times its bytes.
LARGE_BYTES = 16 * 1024
# By then nothing holds on to the run any more.
SETTLE_S = 0.5


class Settling:
    """One a runner."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None

    def ended(self, size: int) -> None:
        """A run has, that was asked in so many bytes."""
        if size >= LARGE_BYTES and self._timer is None:
            self._timer = self._loop.call_later(SETTLE_S, self._settle)

    def _settle(self) -> None:
        self._timer = None
        self._loop.run_in_executor(None, give_back_free_pages)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

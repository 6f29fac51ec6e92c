"""Keys and tokens that are wrong: whoever sends many waits for each answer.

Invariant: a right key is never held up, whoever else sends wrong ones from the same address;
what is kept of those who try is bounded, and so are the answers that wait.
"""

from __future__ import annotations

import asyncio
import logging
import time

from plateau_sse.errors import Problem

log = logging.getLogger("plateau.api")

# Of an address in a minute: a key that was mistyped, or has been replaced, is in a few clients.
FREE = 10
WINDOW_S = 60.0
HOLD_S = 1.0
HELD_MOST = 200
ADDRESSES_MOST = 1000


class Attempts:
    """One a worker."""

    def __init__(self) -> None:
        # How many in the window that began then.
        self._wrong: dict[str, tuple[float, int]] = {}
        self._held = 0

    async def wrong(self, address: str) -> None:
        """Returns when it is time to say so. Problem `too_many_attempts` where as many wait
        already as may."""
        now = time.monotonic()
        began, count = self._wrong.pop(address, (now, 0))
        if now - began > WINDOW_S:
            began, count = now, 0
        while len(self._wrong) >= ADDRESSES_MOST:
            # The one that has been still for longest.
            self._wrong.pop(next(iter(self._wrong)))
        self._wrong[address] = began, count + 1
        if count < FREE:
            return
        if count == FREE:
            log.warning("%s has sent %d wrong keys or tokens in a minute", address, count + 1)
        if self._held >= HELD_MOST:
            raise Problem(
                "too_many_attempts",
                "Wrong keys are coming too fast: try again in a while, with a right one.",
                headers={"Retry-After": str(int(WINDOW_S))},
            )
        self._held += 1
        try:
            await asyncio.sleep(HOLD_S)
        finally:
            self._held -= 1

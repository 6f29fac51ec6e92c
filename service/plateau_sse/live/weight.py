"""How much memory a worker has, beside how much it may have.

Invariant: it is looked at when somebody wants to know, and not again within `LOOK_S`, however
many do; never where there is no bound. What the platform does not tell is not too much, nor is
what nothing uses any more: that goes back to the kernel first.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from plateau_sse.heap import give_back_free_pages

LOOK_S = 1.0


def _unknown() -> int:
    return 0


class Weight:
    """One a worker. It may have `most` bytes (0: any) of those that `weigh` tells."""

    def __init__(self, most: int = 0, weigh: Callable[[], int] = _unknown) -> None:
        self.most = most
        self._weigh = weigh
        self._looked_at = float("-inf")
        # As it was then.
        self.bytes = 0

    @property
    def is_too_much(self) -> bool:
        if not self.most:
            return False
        now = time.monotonic()
        if now - self._looked_at >= LOOK_S:
            self._looked_at = now
            self.bytes = self._weigh()
            if self.bytes > self.most:
                give_back_free_pages()
                self.bytes = self._weigh()
        return self.bytes > self.most

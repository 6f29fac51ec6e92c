"""How long to wait before the next attempt.

Invariant: whoever makes no progress for `most_s` gives up, a server that takes a request and
says nothing included, and no two clients that lost the same server come back in step.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from plateau_sse.client.faults import Unreachable, shown

MAX_WAIT_S = 10.0
# An attempt has so long, however little is left: a server that is well takes its time, too.
ATTEMPT_S = 2.0
RETRY_MS = 1000

# Is told why there is a pause, as it begins.
Notice = Callable[[str], None]


def unheard(_: str) -> None:
    """A Notice for whom nobody listens."""


class Patience:
    """Pauses that double from `retry_ms` up to MAX_WAIT_S, for `most_s` without progress."""

    def __init__(self, url: str, most_s: float, notice: Notice = unheard) -> None:
        self.retry_ms = RETRY_MS
        self._url = url
        self._most_s = most_s
        self._notice = notice
        self.reset()

    def reset(self) -> None:
        """There is progress."""
        self._tries = 0
        self._since: float | None = None

    def begin(self) -> float:
        """An attempt: how long it may wait for an answer."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        return max(ATTEMPT_S, self._since + self._most_s - now)

    def pause_s(self, why: str, then: str) -> float:
        """How long to wait, which is told to the notice. Raises Unreachable."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        left_s = self._since + self._most_s - now
        if left_s <= 0:
            raise Unreachable(
                f"Gave up on {shown(self._url)} after {self._most_s:g} s: {why}, {then}."
            )
        longest_s = min(MAX_WAIT_S, max(0.05, self.retry_ms / 1000) * 2.0**self._tries)
        self._tries = min(self._tries + 1, 16)
        pause_s = min(left_s, longest_s * random.uniform(0.6, 1.0))
        self._notice(f"{why}, {then} in {pause_s:.1f} s")
        return pause_s

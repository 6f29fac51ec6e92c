"""When a lease that has run out may be believed: not right after an outage.

Invariant: a lease counts as run out only where its holder could have renewed it. While the
store was away, or we were, nobody could: every lease is stale then, and nobody need be dead.
"""

from __future__ import annotations

import time


class Pulse:
    """One a process and kind of look; a silence longer than `pause_s` may have made leases
    stale that are held. A `wary` one begins as after a silence."""

    def __init__(self, *, pause_s: float, grace_s: float, wary: bool = False) -> None:
        self._pause_s = pause_s
        self._grace_s = grace_s
        self._heard_at = float("-inf") if wary else time.monotonic()
        self._steady_at = float("-inf")

    def heard(self) -> bool:
        """The store has answered just now; whether what it says of leases is to be believed:
        not for `grace_s` after a pause, so that those who hold one can renew it."""
        now = time.monotonic()
        if now - self._heard_at > self._pause_s:
            self._steady_at = now + self._grace_s
        self._heard_at = now
        return now >= self._steady_at

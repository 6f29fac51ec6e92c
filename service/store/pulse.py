"""Whether a stale lease tells of a holder that has died.

Invariant: a lease counts as run out only where its holder could have renewed it. While the
store was away, or we were, nobody could: every lease is stale then, and nobody need be dead.
"""

from __future__ import annotations

import time


class Pulse:
    """One a process and kind of look; `lease_s` is the age from which a lease is stale."""

    def __init__(self, lease_s: float, grace_s: float) -> None:
        # Shorter pauses leave a renewal its time.
        self._pause_s = lease_s / 2
        self._grace_s = grace_s
        self._heard_at = float("inf")
        self._steady_at = float("-inf")

    def heard(self) -> bool:
        """The store has answered just now; whether what it says of leases is to be believed:
        not for `grace_s` after a pause, so that those who hold one can renew it."""
        now = time.monotonic()
        if now - self._heard_at > self._pause_s:
            self._steady_at = now + self._grace_s
        self._heard_at = now
        return now >= self._steady_at

"""How far the agent's clock is ahead of this process' own.

Invariant: on one machine there is one clock, and nothing is corrected. Elsewhere the offset is
what an exchange says whose round trip was the shortest of some: it is right to within half of
that, which is logged, and an event lag below it says nothing. (Cristian, "Probabilistic clock
synchronization", 1989.)
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import urlsplit

from gevent.lock import BoundedSemaphore

PROBES = 7

log = logging.getLogger("load")


class Exchange(NamedTuple):
    """Seconds since the epoch: asked and heard by our clock, said by the agent's."""

    asked_s: float
    said_s: float
    heard_s: float


class Clock:
    """`ahead_s` is to be taken off what the agent's clock says; `sure_s` is how far it may be
    off, None as long as nobody knows."""

    def __init__(self) -> None:
        self.ahead_s = 0.0
        self.sure_s: float | None = None
        self._one_asks = BoundedSemaphore()

    def settle(self, host: str, exchange: Callable[[], Exchange | None]) -> None:
        """Once a process; whoever comes meanwhile waits."""
        with self._one_asks:
            if self.sure_s is not None:
                return
            if is_here(host):
                self.sure_s = 0.0
                return
            found = [one for one in (exchange() for _ in range(PROBES)) if one is not None]
            if not found:
                # Asked for again by the next one.
                return
            self.ahead_s, self.sure_s = offset(found)
            log.info(
                "the agent's clock is ahead by %.1f ms, give or take %.1f",
                self.ahead_s * 1000,
                self.sure_s * 1000,
            )


def offset(found: list[Exchange]) -> tuple[float, float]:
    """By how much the agent is ahead, and how far that may be off."""
    best = min(found, key=lambda one: one.heard_s - one.asked_s)
    return best.said_s - (best.asked_s + best.heard_s) / 2, (best.heard_s - best.asked_s) / 2


def is_here(url: str) -> bool:
    """Whether that is this very machine; a port that leads elsewhere is not seen through."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

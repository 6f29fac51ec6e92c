"""The last ten minutes of the service as this worker has seen them, for a page that has just
been opened.

Invariant: `MOMENTS` are kept at most, of four numbers each; what could not be seen is None and
never 0. A worker that is young, or was away, has a shorter history, or one with a gap.
"""

from __future__ import annotations

import time
from collections import deque
from typing import NamedTuple

from plateau_sse.ops.overview import overview
from plateau_sse.ops.watch import Seen
from plateau_sse.settings import Settings
from plateau_sse.store.figures.workers import REPORT_S

KEPT_S = 600.0
MOMENTS = int(KEPT_S / REPORT_S) + 1


class Moment(NamedTuple):
    """`at` is in seconds of this host's clock, `memory_bytes` of all processes of this host."""

    at: float
    memory_bytes: int | None
    readers: int | None
    events_per_s: float | None


class History:
    """Of one web worker."""

    def __init__(self, settings: Settings, host: str) -> None:
        self._settings = settings
        self._host = host
        self._moments: deque[Moment] = deque(maxlen=MOMENTS)

    def remember(self, seen: Seen) -> None:
        picture = overview(seen, self._settings, self._host)
        memory, sse = picture["memory"], picture["sse"]
        moment = Moment(
            round(time.time(), 1), memory["total_bytes"], sse["open"], sse["events_per_s"]
        )
        self._moments.append(moment)

    def told(self) -> list[Moment]:
        """The oldest first."""
        least = time.time() - KEPT_S
        return [moment for moment in self._moments if moment.at >= least]

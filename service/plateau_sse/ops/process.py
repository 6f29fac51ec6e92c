"""Memory and CPU of processes, as the kernel accounts them.

Invariant: what the platform does not tell is an estimate by RSS or 0, never an error.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil

LEAST_S = 0.2


def memory(pid: int | None = None) -> tuple[int, int]:
    """PSS and RSS in bytes, of this process by default; zeros for one that has gone or that
    is not ours to look at. PSS divides what is shared among those who share it."""
    pid = os.getpid() if pid is None else pid
    pss = rss = 0
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                pss = int(line.split()[1]) * 1024
            elif line.startswith("Rss:"):
                rss = int(line.split()[1]) * 1024
        return pss, rss
    except (OSError, ValueError):
        pass
    try:
        rss = psutil.Process(pid).memory_info().rss
    except psutil.Error:
        return 0, 0
    return rss, rss


class Cpu:
    """The share of one core that this process has used since it was last asked; 0 where that
    was less than `LEAST_S` ago: who has just begun is busy with that."""

    def __init__(self) -> None:
        self._used_s, self._at = time.process_time(), time.monotonic()

    def share(self) -> float:
        used_s, at = time.process_time(), time.monotonic()
        passed_s = at - self._at
        if passed_s < LEAST_S:
            return 0.0
        found = (used_s - self._used_s) / passed_s
        self._used_s, self._at = used_s, at
        return found

"""Memory and CPU of processes, as the kernel accounts them.

Invariant: what the platform does not tell is an estimate by RSS or 0, never an error.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil

LEAST_S = 0.2
# Within which two readings of one process' start agree.
START_S = 2.0


def space() -> str:
    """Of which pids of this host can be told whether their processes live: those of this boot
    and, in containers, of this namespace. '' where the platform does not say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def born(pid: int | None = None) -> float:
    """When that process, or this one, began, in seconds since the epoch; 0 where it is gone,
    but for what its parent has to learn of it. Raises psutil.AccessDenied."""
    try:
        it = psutil.Process(pid)
        return 0.0 if it.status() == psutil.STATUS_ZOMBIE else it.create_time()
    except psutil.NoSuchProcess:
        return 0.0


def is_gone(pid: int, began: float, its_space: str) -> bool:
    """Whether the process that had this pid is known to have ended; False where nobody here
    can know."""
    if not its_space or its_space != space():
        return False
    try:
        return abs(born(pid) - began) > START_S
    except psutil.Error:
        return False


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


def own_memory() -> int:
    """Of this process, as `/ops` has it."""
    pss, rss = memory()
    return pss or rss


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

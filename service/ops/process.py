"""Memory and CPU of processes and of what the host bills, as the kernel accounts them.

Invariant: what the platform does not tell is None or an estimate by RSS, never an error.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")
# Where version 1 knows no limit it says a number near 2**63.
_UNLIMITED = 2**60


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


def cgroup() -> tuple[int | None, int | None]:
    """Bytes in use and the limit of this process' cgroup: what a host bills and kills by.
    Either is None where there is none."""
    for used, limit in _places():
        in_use = _number(used)
        if in_use is not None:
            most = _number(limit)
            return in_use, None if most is None or most > _UNLIMITED else most
    return None, None


def _places() -> Iterator[tuple[Path, Path]]:
    """Version 2, where this process is and at the root of what it sees; then version 1."""
    inside = ""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                inside = line[3:].strip("/")
    for folder in (_CGROUP / inside, _CGROUP):
        yield folder / "memory.current", folder / "memory.max"
    folder = _CGROUP / "memory"
    yield folder / "memory.usage_in_bytes", folder / "memory.limit_in_bytes"


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


class Cpu:
    """The share of one core that this process has used since it was last asked."""

    def __init__(self) -> None:
        self._used_s, self._at = time.process_time(), time.monotonic()

    def share(self) -> float:
        used_s, at = time.process_time(), time.monotonic()
        passed_s = max(1e-6, at - self._at)
        found = (used_s - self._used_s) / passed_s
        self._used_s, self._at = used_s, at
        return found

"""Memory and CPU of processes and of what the host bills, as the kernel accounts them.

Invariant: what the platform does not tell is None or an estimate by RSS, never an error.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

LEAST_S = 0.2
_CGROUP = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
# Where version 1 knows no limit it says a number near 2**63.
_UNLIMITED = 2**60


class _Version(NamedTuple):
    """Where the control of memory is, under which name, and what its files are called."""

    folder: str
    controller: str
    used: str
    limit: str
    idle_pages: str


_VERSIONS = (
    _Version("", "", "memory.current", "memory.max", "inactive_file"),
    _Version(
        "memory",
        "memory",
        "memory.usage_in_bytes",
        "memory.limit_in_bytes",
        "total_inactive_file",
    ),
)


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
    Either is None where there is none. Pages of files that nobody has looked at lately are not
    in use: they go before anything is killed, and a server that writes a log has many."""
    for version in _VERSIONS:
        for folder in _folders(version):
            used = _number(folder / version.used)
            if used is None:
                continue
            limit = _number(folder / version.limit)
            used = max(0, used - _stat(folder / "memory.stat", version.idle_pages))
            return used, None if limit is None or limit > _UNLIMITED else limit
    return None, None


def _folders(version: _Version) -> Iterator[Path]:
    """Where this process is, and the root of what it sees, which in a container is that."""
    root = _CGROUP / version.folder
    with suppress(OSError):
        for line in _OWN.read_text().splitlines():
            _, controllers, inside = line.split(":", 2)
            if version.controller in controllers.split(","):
                yield root / inside.strip("/")
    yield root


def _stat(path: Path, name: str) -> int:
    with suppress(OSError, ValueError):
        for line in path.read_text().splitlines():
            if line.startswith(f"{name} "):
                return int(line.split()[1])
    return 0


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


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

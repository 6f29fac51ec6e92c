"""What the control groups that a process is in allow it, and what they bill.

Invariant: the strictest of the groups counts, its own or one around it; what the platform does
not tell is None.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path("/")
# Version 1 writes "no limit" as the largest multiple of a page.
_UNLIMITED = 2**60


class _Names(NamedTuple):
    """What a version calls the bytes in use, their limit, and the pages that go first."""

    used: str
    limit: str
    idle: str


_VERSIONS = (
    _Names("memory.current", "memory.max", "inactive_file"),
    _Names("memory.usage_in_bytes", "memory.limit_in_bytes", "total_inactive_file"),
)


def memory(pid: int | None = None, root: Path = ROOT) -> tuple[int | None, int | None]:
    """Bytes in use and the limit, of this process' groups by default: what a host bills and
    kills by. Without a limit, what its own group uses. Pages of files that nobody has looked at
    lately are not in use: they go before anything is killed, and a server that writes a log has
    many."""
    own: tuple[int | None, int | None] | None = None
    strictest: tuple[int, int] | None = None
    for folder in _groups(pid, "memory", root):
        for names in _VERSIONS:
            used, limit = _number(folder / names.used), _number(folder / names.limit)
            if used is None:
                continue
            used = max(0, used - _stat(folder / "memory.stat", names.idle))
            own = own or (used, None)
            if limit is not None and limit < (strictest[1] if strictest else _UNLIMITED):
                strictest = used, limit
    return strictest or own or (None, None)


def cores(pid: int | None = None, root: Path = ROOT) -> float:
    """How many this process may keep busy; a group may allow a part of one."""
    if hasattr(os, "sched_getaffinity"):
        least = float(len(os.sched_getaffinity(0)))
    else:
        least = float(os.cpu_count() or 1)
    for folder in _groups(pid, "cpu", root):
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        if not quota:
            quota = _text(folder / "cpu.cfs_quota_us")
            period = _text(folder / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal():
            least = min(least, int(quota) / int(period))
    return least


def _groups(pid: int | None, controller: str, root: Path) -> Iterator[Path]:
    """The folders of the groups that the process is in, each followed by those around it."""
    own = root / f"proc/{'self' if pid is None else pid}/cgroup"
    for line in (_text(own) or "0::/").splitlines():
        _, controllers, path = line.split(":", 2)
        base = root / "sys/fs/cgroup"
        if controllers:
            if controller not in controllers.split(","):
                continue
            base /= controller
        folder = base / path.lstrip("/")
        # In a container the path may be that of the host, which is not there.
        yield from (*(at for at in (folder, *folder.parents) if base in at.parents), base)


def _stat(path: Path, name: str) -> int:
    words = dict(line.split(" ", 1) for line in _text(path).splitlines() if " " in line)
    return int(words.get(name, 0))


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""

"""What the machine, or the control group that a process is in, allows it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
# Version 1 writes "no limit" as the largest multiple of a page.
UNLIMITED = 2**60


def memory_limit(pid: int, root: Path = ROOT) -> int | None:
    """Bytes that the strictest of its control groups allows; None: no limit is known."""
    found = (
        int(text)
        for folder in _groups(pid, "memory", root)
        for name in ("memory.max", "memory.limit_in_bytes")
        if (text := _text(folder / name)).isdecimal()
    )
    return min((limit for limit in found if limit < UNLIMITED), default=None)


def cores(pid: int | None = None, root: Path = ROOT) -> float:
    """How many this process may keep busy; a control group may allow a part of one."""
    if hasattr(os, "sched_getaffinity"):
        least = float(len(os.sched_getaffinity(0)))
    else:
        least = float(os.cpu_count() or 1)
    for folder in _groups(os.getpid() if pid is None else pid, "cpu", root):
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        if not quota:
            quota = _text(folder / "cpu.cfs_quota_us")
            period = _text(folder / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal():
            least = min(least, int(quota) / int(period))
    return least


def _groups(pid: int, controller: str, root: Path) -> Iterator[Path]:
    """The folders of the control groups that the process is in, and of those around them."""
    for line in _text(root / f"proc/{pid}/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        base = root / "sys/fs/cgroup"
        if controllers:
            if controller not in controllers.split(","):
                continue
            base /= controller
        folder = base / path.lstrip("/")
        # In a container the path may be that of the host, which is not there.
        yield from (base, *(at for at in (folder, *folder.parents) if base in at.parents))


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""

"""Memory and CPU as the operating system accounts them.

Invariant: what is measured are the processes that are named, never the generator's own.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterable
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def pss_kib(pids: Iterable[int]) -> int:
    """Proportional set size: what is shared counts once, divided among those who share it."""
    return sum(_rollup_kib(pid)["Pss"] for pid in pids)


def private_kib(pids: Iterable[int]) -> int:
    """What these processes share with nobody: it does not move when others of the same Python
    come and go, as PSS does."""
    rollups = [_rollup_kib(pid) for pid in pids]
    return sum(rollup["Private_Clean"] + rollup["Private_Dirty"] for rollup in rollups)


def _rollup_kib(pid: int) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {name: int(rest.split()[0]) for name, _, rest in (li.partition(":") for li in lines)}


def cpu_s(pids: Iterable[int]) -> float:
    """User and system time of these processes so far."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def kernel_socket_kib() -> int:
    """Of all TCP sockets of the machine, both ends of ours among them."""
    for line in Path("/proc/net/sockstat").read_text().splitlines():
        if line.startswith("TCP:"):
            return int(line.split()[-1]) * resource.getpagesize() // 1024
    return 0


def open_files_most() -> None:
    """As many as this process may have: each reader is one."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

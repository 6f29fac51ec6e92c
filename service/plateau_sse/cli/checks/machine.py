"""What the machine gives: open files, memory, the place for heartbeats.

Invariant: where a serve runs, its own limits are looked at, and not those of the shell that
asks.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

from plateau_sse.cli.checks import Finding, error, ok, warning
from plateau_sse.cli.servers import size
from plateau_sse.files import connections_most, streams_most
from plateau_sse.ops import cgroup
from plateau_sse.serve.data_dir import running
from plateau_sse.settings import Settings
from plateau_sse.store.figures.tally import SHARED_MEMORY

MIB = 1024**2
# What the processes take with 1,000 readers, without the Redis servers.
PROCESSES = 100 * MIB
FEW_FILES = 4096
MANY_FILES = 65536
SHELL = "this shell"
OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")


def check(settings: Settings) -> Iterator[Finding]:
    pid, whose = _whose(settings)
    yield _open_files(pid, whose)
    limit = cgroup.memory(pid)[1] or psutil.virtual_memory().total
    yield _bounds(settings, limit)
    yield _memory_warn(settings, limit)
    if sys.platform == "linux":
        yield _heartbeats()
        yield from _forks(settings, limit)


def _whose(settings: Settings) -> tuple[int, str]:
    try:
        serve = running(settings.data_dir)
        if serve is not None and psutil.pid_exists(int(serve.pid)):
            return int(serve.pid), f"plateau serve (pid {serve.pid})"
    except (OSError, ValueError):
        pass
    return os.getpid(), SHELL


def _open_files(pid: int, whose: str) -> Finding:
    name = "machine.open_files"
    try:
        soft, hard = psutil.Process(pid).rlimit(psutil.RLIMIT_NOFILE)
    except (AttributeError, psutil.Error):
        # Not Linux, or somebody else's.
        whose = SHELL
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = (
        MANY_FILES if limit == resource.RLIM_INFINITY else limit for limit in (soft, hard)
    )
    text, files = f"{whose} may open {soft} files", soft
    if soft < hard and whose == SHELL:
        text, files = f"{text}, which serve raises to {hard}", hard
    readers = streams_most(connections_most(files))
    text = f"{text}: some {readers} readers a web worker"
    if files >= FEW_FILES:
        return ok(name, text)
    return warning(name, text, f"LimitNOFILE={MANY_FILES}  # in the unit that starts it")


def _bounds(settings: Settings, limit: int) -> Finding:
    """Of what is started on this machine."""
    name = "machine.memory"
    cache = 0 if settings.cache_redis_url else settings.cache_max_memory
    streams = 0 if settings.redis_url else settings.stream_max_memory
    most = PROCESSES + cache + streams
    text = f"it may take {size(most)} with 1,000 readers, of {size(limit)}"
    if most <= limit:
        return ok(name, text)
    room = max(limit - PROCESSES - cache, 8 * MIB) // MIB
    return error(name, f"{text}: it will be killed under load", f"STREAM_MAX_MEMORY={room}mb")


def _memory_warn(settings: Settings, limit: int) -> Finding:
    name = "machine.memory_warn"
    text = f"MEMORY_WARN_MB={settings.memory_warn_mb} of the {size(limit)} that there are"
    if settings.memory_warn_mb * MIB < limit:
        return ok(name, text)
    return warning(
        name, f"{text}: it comes too late", f"MEMORY_WARN_MB={limit * 4 // 5 // MIB}"
    )


def _heartbeats() -> Finding:
    name = "machine.shared_memory"
    if os.access(SHARED_MEMORY, os.W_OK):
        return ok(
            name, f"{SHARED_MEMORY} can be written: heartbeats and counters wait for no disk"
        )
    return warning(
        name,
        f"{SHARED_MEMORY} cannot be written: a slow disk holds up heartbeats, and who does not "
        "beat is killed",
        f"mount -t tmpfs -o mode=1777 tmpfs {SHARED_MEMORY}",
    )


def _forks(settings: Settings, limit: int) -> Iterator[Finding]:
    """Redis forks to rewrite its file; the kernel may refuse a fork of what it might not hold.
    (Of transparent huge pages Redis takes care itself.)"""
    if settings.redis_url:
        return
    strict = OVERCOMMIT.read_text().strip() == "2"
    large = settings.stream_max_memory > limit // 2
    if strict or (large and OVERCOMMIT.read_text().strip() == "0"):
        yield warning(
            "machine.overcommit",
            "the kernel may refuse Redis the fork that it rewrites its file with",
            "sysctl vm.overcommit_memory=1",
        )

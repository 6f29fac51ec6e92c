"""DATA_DIR: can serve use it, does one have it, is there room."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from plateau_sse.cli.checks import Finding, error, ok, warning
from plateau_sse.cli.servers import size
from plateau_sse.serve.data_dir import running
from plateau_sse.settings import Settings

# An append-only file is rewritten when it has doubled, beside the old one.
TIMES_ON_DISK = 3
OTHER = 'DATA_DIR="$HOME/plateau"'


def check(settings: Settings) -> Iterator[Finding]:
    if settings.redis_url and settings.cache_redis_url:
        yield ok("data_dir", "not used: both Redis servers have a URL")
        return
    path = settings.data_dir
    try:
        serve = running(path)
    except OSError as wrong:
        yield error("data_dir", f"DATA_DIR={path}: {wrong.strerror}", OTHER)
        return
    there = next(at for at in (path.absolute(), *path.absolute().parents) if at.exists())
    if serve is not None:
        yield ok("data_dir", f"DATA_DIR={path}: plateau serve (pid {serve.pid}) has it")
    else:
        yield _usable(path, there)
    if not settings.redis_url:
        yield _room(settings, there)


def _usable(path: Path, there: Path) -> Finding:
    """`there` is the part of the path that exists."""
    if not there.is_dir():
        return error("data_dir", f"DATA_DIR={path}: {there} is no directory", OTHER)
    if not os.access(there, os.W_OK | os.X_OK):
        return error("data_dir", f"DATA_DIR={path}: {there} cannot be written", OTHER)
    made = "it can be written" if there == path.absolute() else "serve will make it"
    return ok("data_dir", f"DATA_DIR={path}: {made}, and nothing runs in it")


def _room(settings: Settings, there: Path) -> Finding:
    free, bound = shutil.disk_usage(there).free, settings.stream_max_memory
    text = f"{size(free)} free on its disk; streams take up to {size(TIMES_ON_DISK * bound)}"
    if free >= TIMES_ON_DISK * bound:
        return ok("data_dir.room", text)
    level = error if free < bound else warning
    mend = f"STREAM_MAX_MEMORY={max(free // TIMES_ON_DISK // 1024**2, 1)}mb"
    return level("data_dir.room", text, mend)

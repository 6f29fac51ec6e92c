"""Counters that outlive the process that counts: a row for each process of a tree, in memory
that all of the tree share.

Invariant: a row has one writer, who holds its lock. The kernel lets go of it when that process
ends, however it does; whoever finds the row then takes what is left. A count is in a row or has
been taken from it, never both.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import RUN_FAILURES

# Heartbeats and counters must not wait for a disk.
SHARED_MEMORY = "/dev/shm"

OTHER = "other"
REFUSED = ("queue_full", "owner_limit", "too_many_callers", "no_runner", "store_full")
CLOSED_BY = ("ended", "left", "moved", "stale", "lost")
# Upper bounds in seconds; one more bucket has none.
BUCKETS = {
    "first_token": (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60),
    "run_time": (0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300),
    "event_lag": (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5),
}

NAMES: tuple[str, ...] = (
    "cache_hits",
    "cache_misses",
    "cache_refused",
    "cache_errors",
    "conversations_evicted",
    "runs_created",
    "runs_joined",
    "runs_completed",
    "runs_cancelled",
    "runs_restarted",
    *(f"runs_failed_{code}" for code in (*RUN_FAILURES, OTHER)),
    *(f"runs_refused_{code}" for code in REFUSED),
    "outputs_too_large",
    "responses_opened",
    "responses_resumed",
    *(f"responses_closed_{reason}" for reason in CLOSED_BY),
    "events_delivered",
    "snapshots",
    "readers_slow",
    "feeds_repaired",
    "feeds_resubscribed",
    "swept_consumers",
    "swept_entries",
    *(
        f"{name}_{cell}"
        for name, bounds in BUCKETS.items()
        for cell in (*range(len(bounds) + 1), "us")
    ),
)
_CELL = {name: cell for cell, name in enumerate(NAMES)}
_CELL_BYTES = 8

# What the master alone counts, since its tree began.
DEATHS = (
    "workers_died",
    "workers_timed_out",
    "workers_recycled",
    "runners_died",
    "redis_died",
)

# 64 workers, each of which may be recycled at the time, and the runner.
ROWS = 160
_ROW_BYTES = len(NAMES) * _CELL_BYTES
_NOTHING = bytes(_ROW_BYTES)


class Row:
    """The counters of one process."""

    def __init__(self, memory: memoryview | None = None) -> None:
        self._bytes = memory if memory is not None else memoryview(bytearray(_ROW_BYTES))
        self._cells = self._bytes.cast("Q")

    def add(self, name: str, by: int = 1) -> None:
        self._cells[_CELL[name]] += by

    def observe(self, name: str, seconds: float) -> None:
        """Into the histogram `name`."""
        bounds = BUCKETS[name]
        bucket = next((at for at, bound in enumerate(bounds) if seconds <= bound), len(bounds))
        self.add(f"{name}_{bucket}")
        self.add(f"{name}_us", max(0, int(seconds * 1e6)))

    def take(self) -> dict[str, int]:
        """What was counted since it was last taken; to be given back where it is of no use."""
        if self._bytes == _NOTHING:
            return {}
        taken = {name: n for name, n in zip(NAMES, self._cells, strict=True) if n}
        for name in taken:
            self._cells[_CELL[name]] = 0
        return taken

    def give_back(self, taken: dict[str, int]) -> None:
        for name, count in taken.items():
            self.add(name, count)


class Board:
    """The rows of one tree, made before its first fork. Where all are taken, a process counts
    in memory of its own, as one without a tree does."""

    def __init__(self) -> None:
        shared = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
        # Kept open for its locks, without a name: it goes with the last of the tree.
        self._fd, name = tempfile.mkstemp(prefix="plateau-", dir=shared)
        os.unlink(name)
        header = len(DEATHS) * _CELL_BYTES
        os.truncate(self._fd, header + ROWS * _ROW_BYTES)
        memory = memoryview(mmap.mmap(self._fd, header + ROWS * _ROW_BYTES))
        self._deaths = memory[:header].cast("Q")
        self._rows = [
            memory[start : start + _ROW_BYTES]
            for start in range(header, len(memory), _ROW_BYTES)
        ]
        self._mine: set[int] = set()

    def died(self, name: str) -> None:
        """Count one of `DEATHS`; the master's alone."""
        self._deaths[DEATHS.index(name)] += 1

    @property
    def deaths(self) -> dict[str, int]:
        return dict(zip(DEATHS, self._deaths, strict=True))

    def claim(self) -> Row:
        """A row for this process, until it ends; perhaps with what its last holder left."""
        for number, memory in enumerate(self._rows):
            if number not in self._mine and self._lock(number):
                self._mine.add(number)
                return Row(memory)
        return Row()

    def left_behind(self) -> Iterator[Row]:
        """Each row with something in it whose holder has ended, held while it is looked at."""
        for number, memory in enumerate(self._rows):
            if number in self._mine or memory == _NOTHING:
                continue
            with self._held(number) as held:
                if held:
                    yield Row(memory)

    @contextmanager
    def _held(self, number: int) -> Iterator[bool]:
        held = self._lock(number)
        try:
            yield held
        finally:
            if held:
                fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, number)

    def _lock(self, number: int) -> bool:
        try:
            # A process' own, though all have the file by fork.
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except OSError:
            return False
        return True

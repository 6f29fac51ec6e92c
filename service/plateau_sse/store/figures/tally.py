"""Counters that outlive the process that counts: a row for each process of a tree, in memory
that all of the tree share.

Invariant: a row has one that counts, and one that holds its lock and sends it to the store in
batches. The kernel lets go of the lock when that process ends, however and whenever it does:
whoever finds the row then sends what is left, a batch that was under way under its old stamp.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from plateau_sse.errors import PROBLEMS, RUN_FAILURES
from plateau_sse.store.figures.by_agent import COUNT_CELLS, NAMES_CELLS, OTHER, Places

# Heartbeats and counters must not wait for a disk.
SHARED_MEMORY = "/dev/shm"  # noqa: S108

REFUSED = (
    *("queue_full", "owner_limit", "rate_limited"),
    *("too_many_callers", "no_runner", "store_full"),
)
# Why connections were ended: a head or a body that did not come, too many headers, room for
# newcomers, none for this one, an answer of which nothing was taken.
CUT_FOR = ("head", "body", "headers", "room", "refused", "stuck")
# In which a run is told: each dialect's `name`.
DIALECTS = ("native", "chat", "ui", "responses", "agui")
CLOSED_BY = ("ended", "left", "moved", "stale", "lost", "expired")
# Upper bounds in seconds; one more bucket has none.
BUCKETS = {
    "first_token": (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60),
    "run_time": (0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300),
    "event_lag": (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5),
}

# What the master alone counts.
DEATHS = (
    "workers_died",
    "workers_timed_out",
    "workers_recycled",
    "runners_died",
    "redis_died",
)

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
    *(f"responses_opened_{dialect}" for dialect in DIALECTS),
    "responses_resumed",
    *(f"responses_closed_{reason}" for reason in CLOSED_BY),
    "streams_put_off",
    "bodies_refused",
    *(f"problems_{code}" for code in PROBLEMS),
    *(f"connections_cut_{reason}" for reason in CUT_FOR),
    *(f"events_delivered_{dialect}" for dialect in DIALECTS),
    "readers_slow",
    "feeds_repaired",
    "feeds_resubscribed",
    "swept_entries",
    *(
        f"{name}_{cell}"
        for name, bounds in BUCKETS.items()
        for cell in (*range(len(bounds) + 1), "us")
    ),
    *DEATHS,
)
_CELL = {name: cell for cell, name in enumerate(NAMES)}
_CELL_BYTES = 8
# Behind those of `NAMES`, those of each agent.
_COUNTERS = len(NAMES) + COUNT_CELLS

# 64 workers, each of which may be recycled at the time, the runner and the master.
ROWS = 160
# The latest stamp and who counts, then what was counted, sent, and added by the store, ever;
# then the agents' names.
_STAMP, _PID = 0, 1
_ROW_CELLS = 2 + 3 * _COUNTERS + NAMES_CELLS
# The row that the master counts in and the others send.
_MASTERS = 0


class Batch(NamedTuple):
    """What the store is to add once, however often it is sent: a row's stamps only grow."""

    stamp: int
    counts: dict[str, int]


class Row:
    """The counters of one process, under a `name` of their own."""

    def __init__(self, cells: memoryview | None = None, name: str = "") -> None:
        if cells is None:
            cells = memoryview(bytearray(_ROW_CELLS * _CELL_BYTES)).cast("Q")
        self.name = name or secrets.token_hex(8)
        self._stamp, self._pid = cells[:1], cells[1:2]
        self._counted, self._sent, self._added = (
            cells[2 + part * _COUNTERS : 2 + (part + 1) * _COUNTERS] for part in range(3)
        )
        self._agents = Places(cells[2 + 3 * _COUNTERS :])

    def open(self) -> None:
        """From now on it is looked at: no row has a stamp before it is used."""
        self._stamp[0] = max(1, self._stamp[0])

    def hand_over(self, pid: int) -> int:
        """To another process, or to none (0); gives the one that had it."""
        before: int = self._pid[0]
        self._pid[0] = pid
        return before

    def add(self, name: str, by: int = 1) -> None:
        self._counted[_CELL[name]] += by

    def add_of(self, agent: str, what: str, by: int = 1) -> None:
        """`what` is one of `by_agent.OF_AGENT`, or an end that is none of them."""
        self._counted[len(NAMES) + self._agents.cell(agent, what)] += by

    def observe(self, name: str, seconds: float) -> None:
        """Into the histogram `name`."""
        bounds = BUCKETS[name]
        bucket = next((at for at, bound in enumerate(bounds) if seconds <= bound), len(bounds))
        self.add(f"{name}_{bucket}")
        self.add(f"{name}_us", max(0, int(seconds * 1e6)))

    def batch(self) -> Batch | None:
        """What is to be sent: the same again until it is `added`, by whoever holds the row."""
        if not self.is_under_way:
            if self._counted == self._sent:
                return None
            # First the stamp: who is killed in between leaves one that was never sent.
            self._stamp[0] = max(self._stamp[0] + 1, time.time_ns() // 1_000_000)
            self._sent[:] = self._counted
        both = enumerate(zip(self._sent, self._added, strict=True))
        counts = {self._name_of(cell): sent - old for cell, (sent, old) in both if sent != old}
        return Batch(self._stamp[0], counts)

    def _name_of(self, cell: int) -> str:
        if cell < len(NAMES):
            return NAMES[cell]
        return self._agents.field(cell - len(NAMES))

    def added(self) -> None:
        """The store has the batch."""
        self._added[:] = self._sent

    @property
    def is_under_way(self) -> bool:
        """Whether a batch was made that has not been added."""
        return self._sent != self._added

    @property
    def is_sent(self) -> bool:
        """Whether all that was counted has been added."""
        return self._counted == self._added


# How a tree leaves: its store goes with it, or stays for other hosts.
_ALONE, _WITH_STORE = 1, 2


class Board:
    """The rows of one tree, made before its first fork. Where all are taken, a process counts
    in memory of its own, as one without a tree does."""

    def __init__(self) -> None:
        shared = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
        # Kept open for its locks, without a name: it goes with the last of the tree.
        self._fd, path = tempfile.mkstemp(prefix="plateau-", dir=shared)
        os.unlink(path)
        size = (ROWS * _ROW_CELLS + 1) * _CELL_BYTES
        os.truncate(self._fd, size)
        cells = memoryview(mmap.mmap(self._fd, size)).cast("Q")
        self._cells, self._leaving = cells[:-1], cells[-1:]
        self._name = secrets.token_hex(8)
        self._mine: set[int] = set()
        self._ended: list[int] = []
        self._masters = self._row(_MASTERS)
        self._masters.open()

    @property
    def leaving(self) -> bool:
        """Whether the tree is about to end: others are to be asked."""
        return bool(self._leaving[0])

    @property
    def closing(self) -> bool:
        """Whether the streams' server goes with it: nothing new is begun."""
        return self._leaving[0] == _WITH_STORE

    def leave(self, *, with_store: bool) -> None:
        """The master's alone."""
        self._leaving[0] = _WITH_STORE if with_store else _ALONE

    def died(self, name: str) -> None:
        """Count one of `DEATHS`; the master's alone."""
        self._masters.add(name)

    def claim(self) -> Row:
        """A row for this process, until it ends; perhaps with what its last holder left."""
        for number in range(ROWS):
            if number != _MASTERS and number not in self._mine and self._lock(number):
                self._mine.add(number)
                row = self._row(number)
                row.open()
                before = row.hand_over(os.getpid())
                if before:
                    self._ended.append(before)
                return row
        return Row()

    def ended(self) -> list[int]:
        """The pids of those that had a row and have ended, each told to one caller."""
        for number in range(ROWS):
            if number not in self._mine and self._cells[number * _ROW_CELLS + _PID]:
                with self._held(number) as held:
                    # Looked at again: another may just have been told.
                    pid = self._row(number).hand_over(0) if held else 0
                    if pid:
                        self._ended.append(pid)
        ended, self._ended = self._ended, []
        return ended

    def left_behind(self) -> Iterator[Row]:
        """Each row that nobody else sends and that has something to be sent, held while it is
        looked at."""
        for number in range(ROWS):
            if number in self._mine or not self._cells[number * _ROW_CELLS + _STAMP]:
                continue
            row = self._row(number)
            if not row.is_sent:
                with self._held(number) as held:
                    if held:
                        yield row

    def _row(self, number: int) -> Row:
        cells = self._cells[number * _ROW_CELLS : (number + 1) * _ROW_CELLS]
        return Row(cells, f"{self._name}:{number}")

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

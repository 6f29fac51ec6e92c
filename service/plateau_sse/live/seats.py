"""How many streams each owner has open on this machine, whichever worker has them.

Invariant: what a process holds is counted until it ends, however it ends: its row is locked for
as long as it lives, and a row that nobody holds counts for nobody. Owners are told apart by two
digests, and the smaller count is taken: two of them have both in common once in 260,000 times.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
import tempfile
from hashlib import blake2b

from plateau_sse.store.figures.tally import ROWS, SHARED_MEMORY

CELLS = 512
# For each cell a count of each row; behind them whether a row has ever been somebody's.
_USED = 2 * CELLS
_COUNT_BYTES = 4


class Seats:
    """Made before the first fork; `most` is what an owner may have open."""

    def __init__(self, most: int) -> None:
        self.most = most
        shared = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
        # Kept open for its locks, without a name: it goes with the last process.
        self._fd, path = tempfile.mkstemp(prefix="plateau-seats-", dir=shared)
        os.unlink(path)
        size = (_USED + 1) * ROWS * _COUNT_BYTES
        os.truncate(self._fd, size)
        self._counts = memoryview(mmap.mmap(self._fd, size)).cast("I")
        # Which cells are whose is nobody's to compute.
        self._salt = secrets.token_bytes(16)
        self._mine: int | None = None

    def claim(self) -> None:
        """A row for this process, until it ends."""
        for row in range(ROWS):
            if self._lock(row):
                self._mine = row
                self._clear(row)
                self._counts[_USED * ROWS + row] = 1
                return

    def has_room(self, owner: str) -> bool:
        """Whether the owner may open another."""
        cells = self._cells_of(owner)
        return self._count(cells) < self.most or (
            self._forget_dead(cells) and self._count(cells) < self.most
        )

    def take(self, owner: str) -> bool:
        """Count another; False where the owner has as many as it may."""
        if not self.has_room(owner):
            return False
        self._add(owner, 1)
        return True

    def leave(self, owner: str) -> None:
        self._add(owner, -1)

    def _add(self, owner: str, by: int) -> None:
        if self._mine is not None:
            for cell in self._cells_of(owner):
                self._counts[cell * ROWS + self._mine] += by

    def _cells_of(self, owner: str) -> tuple[int, int]:
        digest = blake2b(owner.encode(), digest_size=8, key=self._salt).digest()
        one, other = int.from_bytes(digest[:4], "big"), int.from_bytes(digest[4:], "big")
        return one % CELLS, CELLS + other % CELLS

    def _count(self, cells: tuple[int, int]) -> int:
        return min(sum(self._counts[cell * ROWS : (cell + 1) * ROWS]) for cell in cells)

    def _forget_dead(self, cells: tuple[int, int]) -> bool:
        """Whether some process that counted is no more."""
        found = False
        for row in range(ROWS):
            counts = self._counts[cells[0] * ROWS + row]
            if row != self._mine and counts and self._lock(row):
                self._clear(row)
                fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, row)
                found = True
        return found

    def _clear(self, row: int) -> None:
        # Nothing that nobody has used is touched: it would be memory.
        if self._counts[_USED * ROWS + row]:
            for cell in range(_USED):
                self._counts[cell * ROWS + row] = 0

    def _lock(self, row: int) -> bool:
        try:
            # A process' own, though all have the file by fork.
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, row)
        except OSError:
            return False
        return True

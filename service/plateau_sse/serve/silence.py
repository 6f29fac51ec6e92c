"""When a runner that gives no sign of life is to be ended, and for whose sake.

Invariant: one that computes and gives no sign is ended while its leases have time left, so that
its successor has what it held, and nobody else begins that again. One that the machine does not
let compute is starved, and has longer. Who holds the interpreter's lock computes, and who waits
for it does not: that tells them apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import psutil

from plateau_sse.runner.beat import Beat
from plateau_sse.runner.marks import Inside

# A lease has LEASE_S - RENEW_S left at least: two seconds for ending it and for its successor.
SILENT_S = 3.0
# Of CPU, since it is looked at closely: a sign takes a hundredth of that, and as many turns of
# 5 ms as threads compute. So it is no share of what the machine or a container's quota leaves
# it: one that is starved uses up all of its share, too. Where it gets so little that this takes
# longer than SILENT_S it is ended later.
BUSY_S = 0.5
# Whatever the cause: before web workers end its runs, as those of a dead one.
FROZEN_S = 8.0
# From then on it is looked at closely, and as often.
CLOSELY_FROM_S = 1.0
CLOSELY_S = 0.1
# Of what the busiest thread has computed: who waits for the lock takes a hundredth.
HOLDS_SHARE = 0.25


class Silence:
    """That of the runner with this beat."""

    def __init__(self, beat: Beat) -> None:
        self._beat = beat
        self.silent_s = 0.0
        # CPU seconds when it was looked at closely first: all of it, None where nobody has said
        # yet, and of its threads.
        self._used_s: float | None = None
        self._threads_s: dict[int, float] = {}
        self._busy_s = 0.0

    def look(self, pid: int) -> bool:
        """Whether it is to be ended."""
        self.silent_s = self._beat.silent_s()
        if not self.is_close:
            self._used_s = None
            return False
        used_s = _used_s(pid)
        if self._used_s is None:
            self._used_s, self._threads_s = used_s, _threads_s(pid)
            self._busy_s = 0.0
        elif used_s is not None:
            self._busy_s = used_s - self._used_s
        is_busy = self.silent_s >= SILENT_S and self._busy_s >= BUSY_S
        return is_busy or self.silent_s >= FROZEN_S

    @property
    def is_close(self) -> bool:
        return self.silent_s >= CLOSELY_FROM_S

    def culprits(self, pid: int) -> tuple[tuple[Inside, ...], bool]:
        """The runs in whose code it is, where that is known only those that compute; and
        whether one of them holds the lock, as far as can be told: who holds it and waits for
        something outside computes no more than who waits for the lock. None where what
        computes is no agent's."""
        marked = self._beat.marks.threads()
        is_busy = self._busy_s >= BUSY_S
        # Without what they had used before, all that they ever have would count.
        if is_busy and self._threads_s:
            used_s = {
                thread: seconds - self._threads_s.get(thread, 0.0)
                for thread, seconds in _threads_s(pid).items()
            }
            most_s = max(used_s.values(), default=0.0)
            if most_s > 0:
                busy = [it for it, seconds in used_s.items() if seconds >= HOLDS_SHARE * most_s]
                return _once(busy, marked), marked.keys() >= set(busy)
        return _once(marked, marked), is_busy


def _once(threads: Iterable[int], marked: Mapping[int, Inside]) -> tuple[Inside, ...]:
    """Each run in whose code they are; it may be in two threads of one."""
    return tuple({marked[it]: None for it in threads if it in marked})


def _used_s(pid: int) -> float | None:
    """Its CPU seconds; None where nobody says."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return None
    return float(times.user + times.system)


def _threads_s(pid: int) -> dict[int, float]:
    """Of each of its threads; none where the platform does not say."""
    try:
        threads = psutil.Process(pid).threads()
    except psutil.Error:
        return {}
    return {it.id: float(it.user_time + it.system_time) for it in threads}

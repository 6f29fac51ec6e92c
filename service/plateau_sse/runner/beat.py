"""A runner's sign of life, in memory that it shares with the master that forked it.

Invariant: it is given from a thread that needs nothing but the interpreter: where it stays away
nothing in that process can renew a lease, end a run or leave. Beside it stands in which agents'
code the interpreter is, so that who ends the process knows for whom.
"""

from __future__ import annotations

import faulthandler
import mmap
import signal
import time
from typing import NamedTuple

from plateau_sse.runner.marks import Inside, Marks

# As long as a lease: from then on its runs are anybody's.
ALARM_S = 6.0
# Who gets it says in whose code it is.
STACKS = signal.SIGUSR2
# Who looks has been away itself: nobody can be said to have been silent meanwhile.
AWAY_S = 2.0


class Before(NamedTuple):
    """What a runner knows of the one before it, which has ended for certain: the name that it
    held runs by; where it was ended for its silence, in whose code it was and for how long.
    `is_sure`: one of those has held it up."""

    name: str
    inside: tuple[Inside, ...] = ()
    silent_s: float = 0.0
    is_sure: bool = False

    def is_to_blame(self, run_id: str) -> bool:
        """Whether that run may have been what it died of: any, where that is not known."""
        return not self.inside or run_id in [run for run, _ in self.inside]

    def is_the_culprit(self, run_id: str) -> bool:
        """Whether it was that run, and no other."""
        return self.is_sure and {run for run, _ in self.inside} == {run_id}


class Beat:
    """Made before the fork; `places` runs are executed at once."""

    def __init__(self, places: int) -> None:
        # When it was given last, 0 where it is not; and whether it ever was.
        self._at = memoryview(mmap.mmap(-1, 16)).cast("Q")
        self.marks = Marks(places)
        self._looked_at = self._since = time.monotonic()

    # In the runner

    def give(self) -> None:
        self._at[0], self._at[1] = int(time.monotonic() * 1000), 1

    def stop(self) -> None:
        """It leaves: that is bounded otherwise."""
        self._at[0] = 0

    # In the master

    @property
    def has_begun(self) -> bool:
        return bool(self._at[1])

    def silent_s(self) -> float:
        """For how long it has been silent while it was looked at; 0 before its first sign. To
        be asked every second or so."""
        now = time.monotonic()
        if now - self._looked_at > AWAY_S:
            self._since = now
        self._looked_at = now
        given = self._at[0] / 1000
        return max(0.0, now - max(given, self._since)) if given else 0.0


class Alarm(Beat):
    """That of a runner without a master: where it stays away the process ends, with the stack
    of each thread in the log, by a thread that needs no interpreter."""

    def give(self) -> None:
        super().give()
        faulthandler.dump_traceback_later(ALARM_S, exit=True)

    def stop(self) -> None:
        faulthandler.cancel_dump_traceback_later()
        super().stop()

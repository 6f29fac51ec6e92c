"""A process that the master starts beside its workers, and when a dead one is started again.

Invariant: a child dies with the process that forked it, however that one dies (where the kernel
offers it: Linux), and never runs on into its parent's code.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None

# What gunicorn's master handles and its children must not inherit.
HANDLED = tuple(
    getattr(signal, name)
    for name in "SIGCHLD SIGQUIT SIGTERM SIGTTIN SIGTTOU SIGUSR1 SIGUSR2 SIGWINCH".split()
)
# A terminal sends these to the whole process group; the master alone decides the order in which
# the tree ends.
FROM_TERMINAL = (signal.SIGHUP, signal.SIGINT)

FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 10.0
# How often one that runs is looked after.
LOOK_S = 0.5
# Who lived this long was not broken from the start: its next death counts as a first one.
LIVED_WELL_S = 10.0


def die_with_parent(parent_pid: int, number: signal.Signals) -> None:
    """Have the kernel send `number` to this process when the thread that forked it ends.

    To be called in a fresh child; one whose parent is dead by then ends here.
    """
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    if os.getppid() != parent_pid:
        leave(1)


def leave(code: int) -> NoReturn:
    """End this process without what its parent registered to run at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue
    os._exit(code)


@contextmanager
def signals_held() -> Iterator[None]:
    """Hold back signals around a fork: one that came before the child has its own handlers
    would vanish in those it inherited."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*HANDLED, *FROM_TERMINAL})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def fork(main: Callable[[], int], *, death_signal: signal.Signals) -> int:
    """Run `main` in a child that ends with the code it returns; give the child's pid."""
    parent_pid = os.getpid()
    with signals_held():
        pid = os.fork()
        if pid:
            return pid
        for number in HANDLED:
            signal.signal(number, signal.SIG_DFL)
        for number in FROM_TERMINAL:
            signal.signal(number, signal.SIG_IGN)
    code = 1
    try:
        die_with_parent(parent_pid, death_signal)
        code = main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        leave(code)


def cause_of_death(status: int) -> str:
    """In words, from the status that `waitpid` gave."""
    if os.WIFSIGNALED(status):
        return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"exit code {os.WEXITSTATUS(status)}"


def left_in_order(status: int, *, asked: bool) -> bool:
    """Whether that is no death: it has ended by itself, or by our SIGTERM before it had a
    handler for it."""
    return status == 0 or (
        asked and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGTERM
    )


class Backoff:
    """How long to wait before a dead process is started again."""

    def __init__(self) -> None:
        self._delay_s = 0.0
        self._over_at = 0.0

    def died(self, lived_s: float) -> float:
        """Note a death; gives the delay in seconds."""
        first = lived_s >= LIVED_WELL_S or not self._delay_s
        self._delay_s = FIRST_DELAY_S if first else min(self._delay_s * 2, LONGEST_DELAY_S)
        self._over_at = time.monotonic() + self._delay_s
        return self._delay_s

    def left_s(self) -> float:
        return max(0.0, self._over_at - time.monotonic())


class Child(ABC):
    """One of them; `pid` is 0 while it is not running."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pid = 0
        self.starts = 0
        self.backoff = Backoff()
        self._started_at = 0.0
        self._kill_at: float | None = None

    @abstractmethod
    def spawn(self) -> int:
        """Fork; gives the pid and does not wait."""

    def start(self) -> None:
        self._kill_at = None
        self._started_at = time.monotonic()
        self.starts += 1
        self.pid = self.spawn()

    def was_asked(self, status: int) -> bool:
        """Whether it has ended because we, or somebody else, asked it to. Before `exited`. One
        that had to be killed has not."""
        return left_in_order(status, asked=self._kill_at is not None)

    def exited(self, status: int) -> str:
        """It was reaped; gives the words for the log."""
        pid, self.pid = self.pid, 0
        if self._kill_at is not None:
            return f"{self.name} (pid {pid}) has stopped; starting it again."
        delay_s = self.backoff.died(time.monotonic() - self._started_at)
        end = f"died: {cause_of_death(status)}" if status else "has ended"
        return f"{self.name} (pid {pid}) {end}. Starting it again in {delay_s:g} s."

    def restart(self, patience_s: float) -> None:
        """End it gracefully; whoever looks after it starts it again."""
        self.send(signal.SIGTERM)
        self._kill_at = time.monotonic() + patience_s

    def look_after(self) -> None:
        """Start it where that is due, kill it where a restart has taken too long."""
        if not self.pid and not self.backoff.left_s():
            self.start()
        elif self.pid and self._kill_at is not None and time.monotonic() > self._kill_at:
            self.send(signal.SIGKILL)

    @property
    def due_s(self) -> float:
        """Until it is to be looked after again."""
        if not self.pid:
            return self.backoff.left_s()
        if self._kill_at is not None:
            return max(0.0, self._kill_at - time.monotonic())
        return LOOK_S

    def send(self, number: signal.Signals) -> None:
        if self.pid:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                self.pid = 0

    def reap(self) -> int | None:
        """Its status once it has ended; None while it runs."""
        if not self.pid:
            return None
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            # Whoever started us had SIGCHLD ignored: nobody knows how it ended.
            pid, status = self.pid, 0
        if not pid:
            return None
        self.pid = 0
        return status

    def stop(self, patience_s: float) -> None:
        """End it, kindly for `patience_s`; it is gone when this returns."""
        self.send(signal.SIGTERM)
        deadline = time.monotonic() + patience_s
        while self.pid and self.reap() is None:
            if time.monotonic() > deadline:
                self.send(signal.SIGKILL)
            time.sleep(0.01)

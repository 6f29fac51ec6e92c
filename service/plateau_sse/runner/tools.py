"""Threads for what agents and their frameworks hand to `asyncio.to_thread`.

Invariant: at most so many calls are on at once, and as many wait as agents have handed over.
One that goes on `HANGS_S` after its run is over keeps its thread, since none can be ended, but
no other call from having one: it is counted, and a runner that leaves does not wait for it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from plateau_sse.runner.marks import MARK, Mark
from plateau_sse.runner.threads import HANGS_S

P = ParamSpec("P")
T = TypeVar("T")


class _Call:
    """Of a run, where it is begun in the context of one. `is_left`: its thread counts no
    more."""

    def __init__(self, work: Callable[[], Any], mark: Mark | None) -> None:
        self.future: Future[Any] = Future()
        self._work = work
        self._mark = mark
        self.is_left = False

    @property
    def hangs(self) -> bool:
        return self._mark is not None and time.monotonic() - self._mark.over_at >= HANGS_S

    def execute(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            found = self._work() if self._mark is None else self._mark.call(self._work)
        except BaseException as error:
            self.future.set_exception(error)
            # It remembers this frame, and would keep what it has, and itself.
            del self
        else:
            self.future.set_result(found)


class Tools(ThreadPoolExecutor):
    """`most` at once. A pool by its type alone, since asyncio takes no other executor: those of
    the library have their threads for good."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._changed = threading.Condition()
        self._waiting: deque[_Call] = deque()
        self._on: set[_Call] = set()
        # Threads that are there for calls, and those of them that have none.
        self._there = self._idle = 0
        self._is_closed = False

    def submit(self, work: Callable[P, T], /, *args: P.args, **more: P.kwargs) -> Future[T]:
        call = _Call(lambda: work(*args, **more), MARK.get())
        with self._changed:
            if self._is_closed:
                raise RuntimeError("this runner is leaving")
            self._waiting.append(call)
            try:
                self._make_way()
            except RuntimeError:
                if not self._there:
                    # There is no room for a thread, and nobody who would come to it.
                    self._waiting.remove(call)
                    raise
        return call.future

    @property
    def hanging(self) -> int:
        """How many calls hang that belong to no run any more."""
        with self._changed:
            for call in self._on:
                if not call.is_left and call.hangs:
                    call.is_left = True
                    self._there -= 1
            self._make_way()
            return sum(call.is_left for call in self._on)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        with self._changed:
            self._is_closed = True
            waiting, self._waiting = self._waiting, deque()
            self._changed.notify_all()
        for call in waiting:
            call.future.cancel()

    def _make_way(self) -> None:
        """Each that waits has a thread, while there are any left."""
        for _ in range(min(self._idle, len(self._waiting))):
            self._changed.notify()
        while self._idle < len(self._waiting) and self._there < self._most:
            # A daemon: nobody waits for it when the process ends.
            threading.Thread(target=self._serve, name="tool", daemon=True).start()
            self._there += 1
            self._idle += 1

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._is_closed:
                    self._changed.wait()
                if self._is_closed:
                    return
                self._idle -= 1
                call = self._waiting.popleft()
                self._on.add(call)
            call.execute()
            with self._changed:
                self._on.discard(call)
                if call.is_left:
                    # Another thread has its place.
                    return
                self._idle += 1
            # Kept while the next is waited for, it would be kept for long.
            del call

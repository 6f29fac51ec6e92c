"""In which agents' code each thread of a runner is, in memory that it shares with its master.

Invariant: whatever an agent has begun is its run's: tasks and tools get a copy of the context
that they are begun in, and the run's mark with it. Each thread has a cell of its own, so that
two in which one run is at once do not take away each other's marks.
"""

from __future__ import annotations

import asyncio
import itertools
import mmap
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, NamedTuple, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# A length stands before the text.
_TEXT_BYTES = 255
_PLACE_BYTES = _TEXT_BYTES + 1
# The loop's thread; for each place a generator's, a tool's, and two of those that were left.
_THREADS_A_PLACE = 4


class Inside(NamedTuple):
    """A run whose agent's code the interpreter was in."""

    run_id: str
    agent: str


class _Cell:
    """A thread's: the serial of the run in whose code it is, 0 for none. Given back when the
    thread ends."""

    __slots__ = ("_at", "_cells", "_free")

    def __init__(self, cells: memoryview, free: list[int], spare: int) -> None:
        self._cells, self._free = cells, free
        try:
            self._at = free.pop()
        except IndexError:
            # Nobody looks at it.
            self._at, self._free = spare, []
        cells[self._at] = threading.get_native_id()
        cells[self._at + 1] = 0

    def __del__(self) -> None:
        self._cells[self._at] = 0
        self._free.append(self._at)

    def swap(self, serial: int) -> int:
        before: int = self._cells[self._at + 1]
        self._cells[self._at + 1] = serial
        return before


class Mark:
    """One run's. `enter` and `leave` are called around each step of what it has begun, in the
    thread in which that runs; `leave` is given what `enter` gave. `over_at` is when the run was
    over, by `time.monotonic`."""

    __slots__ = ("_marks", "_serial", "over_at")

    def __init__(self, marks: Marks, serial: int) -> None:
        self._marks, self._serial = marks, serial
        self.over_at = float("inf")

    def enter(self) -> int:
        return self._marks.cell().swap(self._serial)

    def leave(self, before: int) -> None:
        self._marks.cell().swap(before)

    def call(self, work: Callable[P, T], /, *args: P.args, **more: P.kwargs) -> T:
        before = self.enter()
        try:
            return work(*args, **more)
        finally:
            self.leave(before)


# That of the run whose context it is.
MARK: ContextVar[Mark | None] = ContextVar("plateau_mark", default=None)


class Marks:
    """Made before the fork; `places` runs are executed at once."""

    def __init__(self, places: int) -> None:
        threads = _THREADS_A_PLACE * places + 1
        # Runs: a serial and a text each; threads: an id and a serial each. The last of both are
        # of those for whom there is none left: nobody looks at them.
        sizes = (8 * (places + 1), 16 * (threads + 1), _PLACE_BYTES * (places + 1))
        memory = memoryview(mmap.mmap(-1, sum(sizes)))
        self._serials = memory[: sizes[0]].cast("Q")
        self._cells = memory[sizes[0] : sizes[0] + sizes[1]].cast("Q")
        self._texts = memory[sizes[0] + sizes[1] :]
        self._places = places
        self._free = list(range(places))
        self._spare_cell = 2 * threads
        self._free_cells = list(range(0, 2 * threads, 2))
        self._next = itertools.count(1)
        self._mine = threading.local()

    # In the runner

    @contextmanager
    def of(self, run_id: str, agent: str) -> Iterator[Mark]:
        """For as long as the run is executed. From the loop. What goes on later, in a thread,
        is nobody's."""
        place = self._free.pop() if self._free else self._places
        serial = next(self._next)
        text = f"{run_id} {agent}".encode()[:_TEXT_BYTES]
        at = place * _PLACE_BYTES
        self._texts[at] = len(text)
        self._texts[at + 1 : at + 1 + len(text)] = text
        self._serials[place] = serial
        mark = Mark(self, serial)
        try:
            yield mark
        finally:
            mark.over_at = time.monotonic()
            self._serials[place] = 0
            if place != self._places:
                self._free.append(place)

    def cell(self) -> _Cell:
        """The calling thread's."""
        try:
            found: _Cell = self._mine.cell
        except AttributeError:
            found = _Cell(self._cells, self._free_cells, self._spare_cell)
            self._mine.cell = found
        return found

    # In the master

    def threads(self) -> dict[int, Inside]:
        """The threads, by their ids, that are in an agent's code: one of them may hold the
        interpreter's lock, the others wait for it, or for something outside."""
        runs = {}
        for place in range(self._places):
            if serial := self._serials[place]:
                at = place * _PLACE_BYTES
                text = bytes(self._texts[at + 1 : at + 1 + self._texts[at]])
                run_id, _, agent = text.decode(errors="replace").partition(" ")
                runs[serial] = Inside(run_id, agent)
        cells = range(0, self._spare_cell, 2)
        found = {self._cells[at]: runs.get(self._cells[at + 1]) for at in cells}
        return {thread: run for thread, run in found.items() if thread and run is not None}


def contained(error: BaseException) -> Exception:
    """An agent's, which must not end the process that it runs in."""
    return RuntimeError(f"the agent raised {type(error).__name__}")


class Marked(Coroutine[Any, Any, Any]):
    """The coroutine, with its run marked while it is in one of its steps. Out of a task that an
    agent has begun SystemExit would end the loop, and every other run with it."""

    __slots__ = ("_coroutine", "_mark")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], mark: Mark) -> None:
        self._coroutine = coroutine
        self._mark = mark

    def send(self, value: Any) -> Any:
        before = self._mark.enter()
        try:
            return self._coroutine.send(value)
        except (SystemExit, KeyboardInterrupt) as error:
            raise contained(error) from error
        finally:
            self._mark.leave(before)

    def throw(
        self,
        kind: Any,
        value: BaseException | object = None,
        traceback: TracebackType | None = None,
    ) -> Any:
        before = self._mark.enter()
        try:
            # Given as it was raised: the form of three is going out of use.
            return self._coroutine.throw(kind)
        except (SystemExit, KeyboardInterrupt) as error:
            raise contained(error) from error
        finally:
            self._mark.leave(before)

    def close(self) -> None:
        self._mark.call(self._coroutine.close)

    def __await__(self) -> Any:
        return self._coroutine.__await__()

    def __getattr__(self, name: str) -> Any:
        # Whoever asks a task for its coroutine looks at where that is (anyio does).
        return getattr(self._coroutine, name)


def make_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **how: Any) -> Any:
    """A loop's task factory: what is begun in a run's context is marked as that run's."""
    context = how.get("context")
    mark = MARK.get() if context is None else context.get(MARK)
    if mark is not None and asyncio.iscoroutine(coroutine):
        coroutine = Marked(coroutine, mark)
    return asyncio.Task(coroutine, loop=loop, **how)

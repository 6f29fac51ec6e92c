"""Threads for tools: bounded, used again, and none for good by whoever hangs in one."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import pytest

from plateau_sse.runner import tools
from plateau_sse.runner.marks import MARK, Marks
from plateau_sse.runner.tools import Tools
from tests.processes import wait_until


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    found = threading.Event()
    yield found
    found.set()


@contextmanager
def in_a_run() -> Iterator[None]:
    with Marks(4).of("r", "notes") as mark:
        token = MARK.set(mark)
        try:
            yield
        finally:
            MARK.reset(token)


def hang(pool: Tools, gate: threading.Event) -> Future[Any]:
    """A call of a run that is over."""
    begun = threading.Event()

    def call() -> None:
        begun.set()
        gate.wait(30)

    with in_a_run():
        found = pool.submit(call)
        assert begun.wait(10)
    return found


def test_as_many_as_there_are_places_at_once_and_the_rest_in_their_order(
    gate: threading.Event,
) -> None:
    pool, told = Tools(2), list[int]()
    first: list[Future[Any]] = [pool.submit(gate.wait, 30) for _ in range(2)]
    rest: list[Future[Any]] = [pool.submit(told.append, number) for number in range(20)]
    assert told == [] and not any(it.done() for it in rest)
    gate.set()
    assert [it.result(10) for it in (*first, *rest)] == [True, True, *[None] * 20]
    assert sorted(told) == list(range(20))


def test_threads_are_used_again() -> None:
    pool = Tools(4)
    seen = set()
    for _ in range(50):
        seen.add(pool.submit(threading.get_ident).result(10))
    assert len(seen) <= 2


def test_what_a_call_raises_is_its_callers() -> None:
    pool = Tools(1)
    for error in (ValueError("no"), SystemExit(2)):

        def call(error: BaseException = error) -> None:
            raise error

        with pytest.raises(type(error)):
            pool.submit(call).result(10)
    assert pool.submit(int, "7", base=8).result(10) == 7


def test_who_hangs_behind_its_run_takes_nobodys_place(
    gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tools, "HANGS_S", 0.0)
    pool = Tools(2)
    # One that belongs to no run, or to one that is on, may take as long as it likes.
    with in_a_run():
        busy = pool.submit(gate.wait, 30)
        left = hang(pool, gate)
        waits = pool.submit(lambda: "done")
        assert not waits.done()
        assert pool.hanging == 1
        assert waits.result(10) == "done"
    assert pool.hanging == 2
    assert {pool.submit(time.monotonic).result(10) > 0 for _ in range(3)} == {True}
    gate.set()
    busy.result(10), left.result(10)
    wait_until(lambda: pool.hanging == 0, "they have ended")
    # Their threads have gone: there are two places, as before.
    assert pool.submit(lambda: "again").result(10) == "again"


def test_a_call_that_failed_keeps_nothing() -> None:
    """Not until the collector comes, either."""

    class Large:
        pass

    def fail(_: Large) -> None:
        raise ValueError

    pool, large = Tools(1), Large()
    kept = weakref.ref(large)
    gc.disable()
    try:
        future = pool.submit(fail, large)
        assert isinstance(future.exception(10), ValueError)
        del large, future
        pool.submit(int).result(10)
        assert kept() is None
    finally:
        gc.enable()


def test_where_there_is_no_room_for_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is done behind the back of whoever was told so."""
    pool, told = Tools(2), list[int]()

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="new thread"):
            pool.submit(told.append, 1)
    pool.submit(told.append, 2).result(10)
    assert told == [2]


def test_whoever_leaves_waits_for_none(gate: threading.Event) -> None:
    pool = Tools(1)
    busy, waits = hang(pool, gate), pool.submit(int)
    pool.shutdown()
    assert waits.cancelled() and not busy.done()
    with pytest.raises(RuntimeError, match="leaving"):
        pool.submit(int)

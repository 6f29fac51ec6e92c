"""A runner that is silent, and one that gets no CPU: which is ended, and for whom."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import pytest

from plateau_sse.runner.beat import Beat, Before
from plateau_sse.runner.marks import Inside
from plateau_sse.serve.silence import BUSY_S, CLOSELY_FROM_S, FROZEN_S, SILENT_S, Silence
from plateau_sse.store.queue.queue import LEASE_S, RENEW_S
from tests.processes import wait_until

BURNING = "while True: pass"


class Quiet(Beat):
    """As long as a test says."""

    quiet_s = 0.0

    def silent_s(self) -> float:
        return self.quiet_s


@contextmanager
def child(code: str) -> Iterator[psutil.Process]:
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        yield psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


def has_used(process: psutil.Process) -> Callable[[], bool]:
    """More than is asked, since now."""
    before = sum(process.cpu_times()[:2])
    return lambda: sum(process.cpu_times()[:2]) - before > BUSY_S + 0.1


def test_one_that_computes_and_gives_no_sign_is_ended_while_its_leases_last() -> None:
    beat = Quiet(1)
    silence = Silence(beat)
    with child(BURNING) as runner:
        beat.quiet_s = CLOSELY_FROM_S
        assert not silence.look(runner.pid)
        wait_until(has_used(runner), "it computes")
        assert not silence.look(runner.pid)
        beat.quiet_s = SILENT_S
        assert silence.look(runner.pid)
    # Time for ending it, and for its successor to begin.
    assert LEASE_S - RENEW_S - SILENT_S >= 2


def test_one_that_gets_no_cpu_is_starved_and_has_longer() -> None:
    beat = Quiet(1)
    silence = Silence(beat)
    with child(BURNING) as runner:
        runner.send_signal(signal.SIGSTOP)
        for beat.quiet_s in (CLOSELY_FROM_S, SILENT_S, LEASE_S, FROZEN_S - 0.1):
            assert not silence.look(runner.pid)
        # It goes on: what it computes in a sign's time is nothing.
        beat.quiet_s = 0.0
        runner.send_signal(signal.SIGCONT)
        wait_until(has_used(runner), "it computes")
        assert not silence.look(runner.pid)
        beat.quiet_s = SILENT_S
        assert not silence.look(runner.pid)
        beat.quiet_s = FROZEN_S
        assert silence.look(runner.pid)


TWO_THREADS = """
import os, threading
def say():
    os.write(1, b"%d\\n" % threading.get_native_id())
def burn():
    say()
    while True: pass
def wait():
    say()
    threading.Event().wait()
threading.Thread(target=wait).start()
burn()
"""


@pytest.mark.parametrize("burns", ["culprit", "nobody's"])
def test_only_those_that_compute_are_to_blame(burns: str) -> None:
    """Others that wait for the lock are in their agents' code as well."""
    beat = Quiet(2)
    silence = Silence(beat)
    process = subprocess.Popen([sys.executable, "-c", TWO_THREADS], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        ids = [int(process.stdout.readline()) for _ in range(2)]
        burning = next(it for it in ids if it == process.pid)
        waiting = next(it for it in ids if it != process.pid)
        marked = {waiting: Inside("bystander", "notes")}
        if burns == "culprit":
            marked[burning] = Inside("culprit", "notes")
        beat.marks.threads = lambda: marked  # type: ignore[method-assign]
        beat.quiet_s = CLOSELY_FROM_S
        silence.look(process.pid)
        wait_until(has_used(psutil.Process(process.pid)), "it computes")
        beat.quiet_s = SILENT_S
        assert silence.look(process.pid)
        inside, is_sure = silence.culprits(process.pid)
        before = Before("r1", inside, SILENT_S, is_sure)
        if burns == "culprit":
            assert before.is_the_culprit("culprit")
            assert not before.is_to_blame("bystander")
        else:
            # Nobody knows for whom it computes: it may be any of them, and ends none.
            assert inside == ()
            assert before.is_to_blame("bystander")
            assert not before.is_the_culprit("bystander")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_who_is_frozen_ends_nobodys_run() -> None:
    """An agent that merely waits in a thread is in its code, too."""
    beat = Quiet(1)
    silence = Silence(beat)
    with beat.marks.of("r1", "notes") as mark, child(BURNING) as runner:
        mark.enter()
        runner.send_signal(signal.SIGSTOP)
        for beat.quiet_s in (CLOSELY_FROM_S, FROZEN_S):
            ends = silence.look(runner.pid)
        assert ends
        inside, is_sure = silence.culprits(runner.pid)
        assert inside == (Inside("r1", "notes"),)
        assert not Before("name", inside, FROZEN_S, is_sure).is_the_culprit("r1")


def test_a_reading_that_failed_is_no_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    """From 0 on, all that it has computed since it was born would count."""
    beat = Quiet(1)
    silence = Silence(beat)
    with child(BURNING) as runner, beat.marks.of("r1", "notes") as mark:
        mark.enter()
        wait_until(has_used(runner), "it has computed")
        runner.send_signal(signal.SIGSTOP)
        with monkeypatch.context() as patch:

            def fails(*_: object) -> None:
                raise psutil.AccessDenied(runner.pid)

            patch.setattr(psutil.Process, "cpu_times", fails)
            patch.setattr(psutil.Process, "threads", fails)
            beat.quiet_s = CLOSELY_FROM_S
            assert not silence.look(runner.pid)
        beat.quiet_s = SILENT_S
        assert not silence.look(runner.pid)
        beat.quiet_s = FROZEN_S
        assert silence.look(runner.pid)
        inside, is_sure = silence.culprits(runner.pid)
        assert not Before("name", inside, FROZEN_S, is_sure).is_the_culprit("r1")

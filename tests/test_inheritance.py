"""What a master forks: objects that its children share, whatever they do with them.

Each in a process of its own: what is kept for good stays so.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest

from plateau_sse.serve import inheritance

keeps = pytest.mark.skipif(
    sys.version_info[:2] not in inheritance._HAVE_IT,
    reason="this Python counts references in objects that its children share, too",
)


def in_a_process(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout.strip()


@keeps
def test_a_child_that_uses_what_it_inherited_copies_none_of_it() -> None:
    copied_kib = int(
        in_a_process(
            """
            import os
            from plateau_sse.serve.inheritance import settle

            inherited = [[f"text {number}", float(number)] for number in range(200_000)]

            def private_kib():
                lines = open("/proc/self/smaps_rollup").read().splitlines()
                return sum(int(line.split()[1]) for line in lines if "Private_Dirty" in line)

            settle()
            if os.fork():
                sys_exit = os.wait()[1]
                raise SystemExit(os.waitstatus_to_exitcode(sys_exit))
            before = private_kib()
            for _ in range(3):
                # Each one of them is held and let go.
                for text, number in inherited:
                    pair = (text, number)
            print(private_kib() - before)
            """
        )
    )
    # Of 27 MiB, which it copies nearly whole where they count.
    assert copied_kib < 1024


@keeps
def test_what_is_there_is_kept_and_what_comes_later_goes() -> None:
    assert (
        in_a_process(
            """
            import sys, types, weakref
            from plateau_sse.serve.inheritance import keep_for_good

            class Thing:
                pass

            def reads(): return "a constant of code that nobody has read, %d" % 1

            early, held = Thing(), sys.getrefcount(None)
            early.inside = {"a": ["list"]}
            kept = keep_for_good()
            assert kept > 10_000, kept
            constant = reads.__code__.co_consts[1]
            inside = early.inside["a"]
            for thing in (early, early.inside, inside, Thing, constant, reads.__code__):
                assert sys.getrefcount(thing) == held, thing
            late = Thing()
            late.inside = early.inside
            gone = weakref.ref(late)
            assert sys.getrefcount(late) < 10
            del late
            assert gone() is None
            # What runs is not of those that stay.
            assert sys.getrefcount(sys._getframe()) < 10
            """
        )
        == ""
    )


@keeps
def test_a_master_that_replaces_workers_for_years_keeps_no_more() -> None:
    assert (
        in_a_process(
            """
            import gc, sys, weakref
            from plateau_sse.serve.inheritance import settle

            class Worker:
                pass

            settle()
            for _ in range(3):
                worker = Worker()
                gone = weakref.ref(worker)
                settle()
                del worker
                assert gone() is None
            """
        )
        == ""
    )


def test_a_python_that_marks_otherwise_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inheritance, "_HAVE_IT", ())
    assert inheritance.keep_for_good.__wrapped__() == 0


def test_objects_that_are_laid_out_otherwise_are_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = SimpleNamespace(
        implementation=sys.implementation,
        version_info=inheritance._HAVE_IT[0],
        getrefcount=lambda thing: inheritance._IMMORTAL,
    )
    monkeypatch.setattr(inheritance, "sys", other)
    assert inheritance.keep_for_good.__wrapped__() == 0

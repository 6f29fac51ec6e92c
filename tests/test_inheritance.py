"""What a master forks: objects that its children share, whatever they do with them.

Each in a process of its own: what is kept for good stays so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from plateau_sse.serve import inheritance
from tests.processes import REPOSITORY

shown_by_the_kernel = pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="only Linux tells whose pages are"
)


def pythons() -> list[str]:
    """All on this machine that know the mark: the module needs no package."""
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    found = [sys.executable] if sys.version_info[:2] in inheritance._HAVE_IT else []
    for major, minor in inheritance._HAVE_IT:
        if (major, minor) == sys.version_info[:2]:
            continue
        name = f"python{major}.{minor}"
        there = sorted(str(it) for it in root.glob(f"versions/{major}.{minor}.*/bin/python3"))
        # A shim of pyenv is there for what is switched off, too.
        works = [it for it in (shutil.which(name), *there) if it and not _fails(it)]
        found += works[:1]
    return found


def _fails(python: str) -> int:
    return subprocess.run([python, "-c", ""], capture_output=True).returncode


KNOWING = pythons()
# Where none is here, this one, which marks nothing.
every_python = pytest.mark.parametrize("python", KNOWING or [sys.executable])


def in_a_process(code: str, python: str = sys.executable) -> str:
    done = subprocess.run(
        [python, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "service")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout.strip()


@every_python
@shown_by_the_kernel
def test_a_child_that_uses_what_it_inherited_copies_none_of_it(python: str) -> None:
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
            """,
            python,
        )
    )
    # Of 27 MiB, which it copies nearly whole where they count.
    assert (copied_kib < 1024) == bool(KNOWING)


@every_python
def test_what_is_there_is_kept_and_what_comes_later_goes(python: str) -> None:
    if not KNOWING:
        assert inheritance.keep_for_good.__wrapped__() == 0
        return
    assert (
        in_a_process(
            """
            import gc, sys, weakref
            from plateau_sse.serve.inheritance import keep_for_good

            class Thing:
                pass

            def reads(): return "a constant of code that nobody has read, %d" % 1

            early, held = Thing(), sys.getrefcount(None)
            early.inside = {"a": ["list"]}
            frame, running = sys._getframe(), (number for number in [1])
            # As before a fork: what only holds constants is not tracked any more.
            gc.collect()
            kept = keep_for_good()
            assert kept > 10_000, kept
            code = reads.__code__
            inside = early.inside["a"]
            of_code = (code, code.co_consts[1], code.co_linetable)
            for thing in (early, early.inside, inside, Thing, *of_code):
                assert sys.getrefcount(thing) == held, thing
            late = Thing()
            late.inside = early.inside
            gone = weakref.ref(late)
            assert sys.getrefcount(late) < 10
            del late
            assert gone() is None
            # What runs is not of those that stay.
            assert sys.getrefcount(frame) < 10 and sys.getrefcount(running) < 10
            """,
            python,
        )
        == ""
    )


def test_a_master_that_replaces_workers_for_years_keeps_none_of_them() -> None:
    """Of those that it has when it forks the next one, which freezes them."""
    assert (
        in_a_process(
            """
            import os, weakref
            from plateau_sse.serve.application import PlateauApplication
            from plateau_sse.serve.inheritance import settle
            from plateau_sse.serve.worker import PlateauWorker
            from plateau_sse.settings import Settings
            from gunicorn.glogging import Logger

            app = PlateauApplication(Settings())
            log = Logger(app.cfg)
            settle()
            for age in range(3):
                worker = PlateauWorker(age, os.getpid(), [], app, 30, app.cfg, log)
                gone = weakref.ref(worker)
                settle()
                worker.tmp.close()
                del worker
                assert gone() is None
            """
        )
        == ""
    )


def other_python(monkeypatch: pytest.MonkeyPatch, count_of: Any, **differs: Any) -> None:
    """Whose counts are what `count_of` makes of the true ones."""
    true_count = sys.getrefcount
    known = {"implementation": sys.implementation, "version_info": inheritance._HAVE_IT[0]}

    def count(thing: object) -> int:
        # Less the one that is this function's.
        own = true_count(thing) - 1
        return int(count_of(thing, own))

    it = SimpleNamespace(**{**known, "getrefcount": count, **differs})
    monkeypatch.setattr(inheritance, "sys", it)


def as_known(thing: object, count: int) -> int:
    return inheritance._IMMORTAL if thing is ... else count


def test_the_one_that_is_known_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    other_python(monkeypatch, as_known)
    assert inheritance._is_known()


@pytest.mark.parametrize(
    ("count_of", "differs"),
    [
        pytest.param(as_known, {"version_info": (3, 14)}, id="a later one"),
        pytest.param(
            as_known, {"implementation": SimpleNamespace(name="pypy")}, id="another kind"
        ),
        pytest.param(lambda thing, count: count, {}, id="another mark"),
        pytest.param(
            lambda thing, count: as_known(thing, count + 7), {}, id="the count is elsewhere"
        ),
    ],
)
def test_any_other_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, count_of: Any, differs: dict[str, Any]
) -> None:
    other_python(monkeypatch, count_of, **differs)
    assert not inheritance._is_known() and inheritance.keep_for_good.__wrapped__() == 0

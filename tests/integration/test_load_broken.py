"""Tests of the load's own tests: a server that lies in one event of a thousand fails it.

Invariant: locust runs in a process of its own, since it changes the one that imports it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.far import skip_unless_asked
from tests.load_server import AHEAD_S, FAULTY, load_server
from tests.processes import REPOSITORY, environment, scripts_load

EVENTS, ANSWER = "SSE events in order", "SSE whole answer"


def run_locust(
    file: Path | str, host: str, results: Path, arguments: Sequence[str] = ()
) -> tuple[int, dict[str, Any]]:
    """Its exit code and its verdict."""
    command = [sys.executable, "-m", "locust", "-f", str(file), "--headless", "--host", host]
    ended = subprocess.run(
        [*command, "--only-summary", "--results", str(results), *arguments],
        cwd=REPOSITORY,
        env=environment({}),
        capture_output=True,
        text=True,
        timeout=100,
    )
    verdict = results / "verdict.json"
    assert verdict.exists(), ended.stdout + ended.stderr
    return ended.returncode, msgspec.json.decode(verdict.read_bytes())


def smoke(fault: str, results: Path) -> tuple[int, dict[str, Any]]:
    with load_server(fault) as server:
        found = run_locust("locustfiles/smoke.py", server.url, results)
        # Otherwise there was no faulty event.
        assert fault == "nothing" or server.events > FAULTY
    return found


def missed(verdict: dict[str, Any]) -> set[str]:
    return {one["what"] for one in verdict["limits"] if one["missed"]}


def failures(verdict: dict[str, Any]) -> dict[str, int]:
    return {one["what"]: one["count"] for one in verdict["failures"]}


@pytest.fixture(autouse=True, scope="module")
def asked() -> None:
    skip_unless_asked("a load that fails on purpose")


def test_a_server_that_keeps_the_contract_passes(tmp_path: Path) -> None:
    code, verdict = smoke("", tmp_path)
    assert (code, missed(verdict), failures(verdict)) == (0, set(), {})
    counts = {row["name"]: row["count"] for row in verdict["rows"]}
    assert counts[ANSWER] == 50
    assert all(counts[f"SSE {name}"] for name in ("first token", "event lag", "resume"))


@pytest.mark.parametrize(
    ("fault", "kinds"),
    [
        ("drop", {f"{EVENTS}: lost", f"{ANSWER}: another text"}),
        ("repeat", {f"{EVENTS}: repeated", f"{ANSWER}: events out of line"}),
        ("swap", {f"{EVENTS}: out of order", f"{ANSWER}: another text"}),
        ("renumber", {f"{ANSWER}: another text"}),
        ("end-twice", {f"{EVENTS}: after the end", f"{ANSWER}: events out of line"}),
        ("no-end", {f"{ANSWER}: responses without events"}),
    ],
)
def test_one_faulty_event_in_a_thousand_is_a_failure(
    fault: str, kinds: set[str], tmp_path: Path
) -> None:
    code, verdict = smoke(fault, tmp_path)
    assert code == 1
    found = failures(verdict)
    if fault == "swap":
        # Whoever broke off just then is told once more.
        found.pop(f"{EVENTS}: repeated", None)
    if fault == "repeat" and found[f"{EVENTS}: repeated"] == 2:
        # Who breaks off behind the second of both resumes by its id, which is the first's, too,
        # and is told the second again.
        found[f"{EVENTS}: repeated"] = 1
    # One event of a thousand, in one answer of fifty.
    assert set(found.values()) == {1} and len(found) == len(kinds), found
    assert all(any(what.startswith(kind) for what in found) for kind in kinds), found
    assert missed(verdict) == {"failures", "whole answers"}


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        ("nothing", "SSE whole answer: no run"),
        ("no-events", "SSE whole answer: responses without events"),
        ("crlf", "SSE whole answer: malformed"),
    ],
)
def test_a_server_that_says_nothing_of_use_fails_every_answer(
    fault: str, what: str, tmp_path: Path
) -> None:
    code, verdict = smoke(fault, tmp_path)
    assert code == 1
    assert failures(verdict)[what] == 50
    # What nobody could measure is missed, too.
    unknown = {"first token, 95% within", "event lag, 95% within", "resume, 50% within"}
    assert missed(verdict) >= {"failures", "whole answers"} | unknown


def test_a_server_that_is_late_misses_its_thresholds(tmp_path: Path) -> None:
    code, verdict = smoke("late", tmp_path)
    assert code == 1
    assert failures(verdict) == {}
    assert missed(verdict) >= {"first token, 50% within", "event lag, 50% within"}


@contextmanager
def other_work() -> Iterator[None]:
    """A process for each core that has nothing to do with the load."""
    with ExitStack() as started:
        for _ in range(os.cpu_count() or 1):
            process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            started.callback(process.wait)
            started.callback(process.kill)
        yield


@pytest.mark.parametrize(("fault", "expected"), [("late", 75), ("drop", 1)])
def test_a_machine_that_is_busy_elsewhere_excuses_lateness_alone(
    tmp_path: Path, fault: str, expected: int
) -> None:
    with load_server(fault) as server, other_work():
        token = {"ADMIN_TOKEN": "any-token"}
        host = ("--host", server.url, "--results", str(tmp_path))
        code, said = scripts_load("smoke", *host, **token)
    verdict = msgspec.json.decode((tmp_path / "verdict.json").read_bytes())
    assert verdict["busy_elsewhere"] > 0.25
    assert (code, "while other work had" in said) == (expected, True), said
    assert ("says nothing of the service" in said) == (expected == 75)
    late = [one for one in verdict["limits"] if one["missed"] and one["unit"] == "ms"]
    assert said.count("late, on a busy machine") == len(late)


def test_another_machines_clock_is_corrected(tmp_path: Path) -> None:
    """0.0.0.0 is this machine and does not look like it."""
    with load_server("ahead") as server:
        elsewhere = server.url.replace("127.0.0.1", "0.0.0.0")
        code, verdict = run_locust("locustfiles/smoke.py", elsewhere, tmp_path)
    assert (code, failures(verdict)) == (0, {})
    lag = next(row for row in verdict["rows"] if row["name"] == "SSE event lag")
    assert lag["count"] and lag["p50"] < 1000 * AHEAD_S / 2


def test_where_it_is_one_clock_nothing_comes_before_it_was_said(tmp_path: Path) -> None:
    code, verdict = smoke("ahead", tmp_path)
    assert code == 1
    assert set(failures(verdict)) == {f"{EVENTS}: came before it was said: other clocks"}


def test_a_load_that_sends_nothing_fails(tmp_path: Path) -> None:
    """For locust alone it would be a success."""
    file = tmp_path / "idle.py"
    file.write_text(IDLE)
    code, verdict = run_locust(file, "http://127.0.0.1:1", tmp_path)
    assert code == 1
    assert missed(verdict) >= {"requests sent", "whole answers"}
    assert failures(verdict) == {}


IDLE = """
from locust import User, constant, task
from locustfiles.kit.shapes import Stage, Staged

class Idle(User):
    wait_time = constant(0.1)
    @task
    def nothing(self):
        pass

class Quiet(Staged):
    name = "ramp"
    users_most = 2
    def stages(self, users, length_s):
        return [Stage(2, users, 2)]
"""

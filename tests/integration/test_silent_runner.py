"""A runner whose interpreter an agent holds: it is ended, and what it held goes on."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from plateau_sse.runner.beat import ALARM_S
from plateau_sse.serve.silence import FROZEN_S
from tests.deployment import deployed
from tests.faults import record_of, start_run
from tests.processes import REPOSITORY, path_of, serving, wait_until

AGENTS = """
import asyncio, ctypes, hashlib, pathlib, re, time

def hold():
    # So catastrophic that it takes years, and nothing but its end lets go of the lock.
    re.match(r"(a+)+$", "a" * 60 + "b")

async def expression(run):
    yield "a"
    hold()

async def once(run):
    yield "a"
    if run.attempt == 1:
        hold()
    yield "b"

async def waits(run):
    yield "a"
    while not pathlib.Path("computes").exists():
        await asyncio.sleep(0.05)
    if run.attempt == 1:
        # A library in C that waits, and does not let go of the lock.
        ctypes.PyDLL(None).sleep(1000)
    yield "b"

def computes(run):
    yield "a"
    pathlib.Path("computes").touch()
    if run.attempt == 1:
        # Without the lock, for years.
        hashlib.pbkdf2_hmac("sha512", b"a", b"b", 2**31 - 1)
    yield "b"

def in_a_thread(run):
    yield "a"
    hold()

async def in_a_task(run):
    async def step():
        hold()
    yield "a"
    await asyncio.gather(asyncio.sleep(1000), step())

async def in_a_tool(run):
    yield "a"
    await asyncio.gather(asyncio.sleep(1000), asyncio.to_thread(hold))

async def patient(run):
    for number in range(40):
        yield f"{number} "
        await asyncio.sleep(0.2)

async def beside(run):
    yield "a"
    while not pathlib.Path("over").exists():
        await asyncio.sleep(0.05)
    yield "b"

def plain(run):
    yield "a"
    # Always in the middle of a step, and not to blame for that.
    while not pathlib.Path("over").exists():
        time.sleep(0.05)
    yield "b"
"""
WHOLE = "".join(f"{number} " for number in range(40))
HOLDING = ("expression", "in_a_thread", "in_a_task", "in_a_tool")


@pytest.mark.parametrize("agent", HOLDING)
def test_an_agent_that_holds_the_lock_costs_nobody_else_a_try_and_no_other_runner(
    tmp_path: Path, streams_url: str, agent: str
) -> None:
    """It is ended and named; of two runners the other has nothing to do with it."""
    (tmp_path / "agents_that_hold.py").write_text(AGENTS)
    names = (*HOLDING, "beside", "plain")
    env = {
        "AGENTS": ",".join(f"{name}=agents_that_hold:{name}" for name in names),
        "REDIS_URL": streams_url,
        # What the others lose is no attempt of theirs.
        "MAX_ATTEMPTS": "1",
    }
    with (
        serving(tmp_path / "one", env=env, cwd=tmp_path) as one,
        serving(tmp_path / "two", env=env, cwd=tmp_path) as two,
    ):

        def runners() -> set[int]:
            return {*one.pids("plateau: runner"), *two.pids("plateau: runner")}

        def all_are(runs: list[dict[str, str]], status: str) -> bool:
            return all(record_of(one.url, run)["status"] == status for run in runs)

        first = runners()
        assert len(first) == 2
        others = [start_run(one.url, name) for name in ("beside", "plain") * 4]
        wait_until(lambda: all_are(others, "running"), "they are on")
        culprit = start_run(one.url, agent)

        wait_until(lambda: all_are([culprit], "failed"), "it is ended", timeout_s=20)
        (tmp_path / "over").touch()
        wait_until(lambda: all_are(others, "completed"), "the others go on", timeout_s=20)
        assert {record_of(one.url, run)["output"] for run in others} == {"ab"}
        # One of the two was ended, once.
        wait_until(lambda: len(runners()) == 2, "there are two")
        assert len(first & runners()) == 1
        record, log = record_of(one.url, culprit), one.stderr + two.stderr
        assert record["error"]["code"] == "timeout" and record["attempt"] == 1
        assert f"it was in agent {agent} (run {culprit['id']}). Its" in log
        # Its stack, by the source and the function.
        assert "agents_that_hold.py" in log and "in hold" in log
        assert "Traceback" not in log


@pytest.mark.parametrize("agents", [["once"], ["waits", "computes"]], ids=" and ".join)
def test_nobody_is_ended_for_having_held_the_lock_once(
    tmp_path: Path, agents: list[str]
) -> None:
    """As a first import may; nor who computes beside one who waits with it."""
    (tmp_path / "agents_that_hold.py").write_text(AGENTS)
    env = {"AGENTS": ",".join(f"{name}=agents_that_hold:{name}" for name in agents)}
    with serving(tmp_path / "data", env=env, cwd=tmp_path) as plateau:
        (first,) = plateau.pids("plateau: runner")
        runs = [start_run(plateau.url, name) for name in agents]

        def all_have_ended() -> bool:
            return all(record_of(plateau.url, run)["ended_at"] for run in runs)

        wait_until(all_have_ended, "they end", timeout_s=40)
        records = [record_of(plateau.url, run) for run in runs]
        assert [record["status"] for record in records] == ["completed"] * len(runs), records
        assert {record["output"] for record in records} == {"ab"}
        assert plateau.pids("plateau: runner") != [first]
        assert f"it was in agent {agents[-1]} (run {runs[-1]['id']}). Its" in plateau.stderr


def test_a_runner_without_a_master_ends_where_an_agent_holds_the_lock(
    tmp_path: Path, streams_url: str
) -> None:
    """So that its supervisor starts the next, which nothing keeps from its work."""
    (tmp_path / "agents_that_hold.py").write_text(AGENTS)
    env = {
        "AGENTS": "expression=agents_that_hold:expression,patient=agents_that_hold:patient",
        "PYTHONPATH": os.pathsep.join([path_of(REPOSITORY), str(tmp_path)]),
        "MAX_ATTEMPTS": "1",
    }
    with deployed(tmp_path, streams_url=streams_url, webs=1, env=env) as first:
        url = first.urls[0]
        culprit = start_run(url, "expression")
        (runner,) = first.runners
        assert runner.wait(ALARM_S + 15) == 1
        log = (tmp_path / "runner0.log").read_text()
        assert "agents_that_hold.py" in log and "in expression" in log
        with deployed(tmp_path / "next", streams_url=streams_url, webs=1, env=env):
            wait_until(
                lambda: record_of(url, culprit)["status"] == "failed", "it ends", timeout_s=30
            )
            run = start_run(url, "patient")
            wait_until(
                lambda: record_of(url, run)["output"] == WHOLE, "it is executed", timeout_s=30
            )
        assert record_of(url, culprit)["error"]["code"] == "runner_lost"


def test_a_runner_that_is_frozen_is_replaced(tmp_path: Path) -> None:
    env = {"AGENTS": "words=tests.sample_agents:words"}
    with serving(tmp_path, env=env) as plateau:
        (first,) = plateau.pids("plateau: runner")
        run = start_run(plateau.url, "words", "frozen", count=60, pause_ms=50)
        wait_until(lambda: record_of(plateau.url, run)["status"] == "running", "it is on")
        plateau.seen[first].send_signal(signal.SIGSTOP)

        def completed() -> bool:
            return str(record_of(plateau.url, run)["status"]) == "completed"

        wait_until(completed, "it is executed anew", timeout_s=FROZEN_S + 15)
        assert plateau.pids("plateau: runner") != [first]
        assert "gave no sign of life" in plateau.stderr


def test_a_tree_that_was_frozen_keeps_its_runner(tmp_path: Path) -> None:
    """As a container that is paused, or a machine that sleeps: nobody was silent meanwhile."""
    with serving(tmp_path) as plateau:
        (first,) = plateau.pids("plateau: runner")
        everyone = [plateau.seen[pid] for pid in plateau.tree()]
        for process in everyone:
            process.send_signal(signal.SIGSTOP)
        asyncio.run(asyncio.sleep(FROZEN_S + 1))
        for process in everyone:
            process.send_signal(signal.SIGCONT)
        wait_until(plateau.is_ready, "it serves again")
        asyncio.run(asyncio.sleep(1.5))
        assert plateau.pids("plateau: runner") == [first]


SLOW = """
import asyncio, pathlib, time

started = pathlib.Path("started")
if started.exists():
    # As a large framework on a small machine.
    time.sleep(16)
started.touch()

async def patient(run):
    yield "a"
    await asyncio.sleep(1000 if run.attempt == 1 else 0)
    yield "b"
"""


def test_runs_wait_for_a_successor_that_imports_for_long(tmp_path: Path) -> None:
    """Longer than a runner that is dead is waited for."""
    (tmp_path / "agents_that_import.py").write_text(SLOW)
    env = {"AGENTS": "patient=agents_that_import:patient", "RUN_TIMEOUT_S": "1000"}
    with serving(tmp_path / "data", env=env, cwd=tmp_path) as plateau:
        (first,) = plateau.pids("plateau: runner")
        run = start_run(plateau.url, "patient")
        wait_until(lambda: record_of(plateau.url, run)["status"] == "running", "it is on")
        plateau.seen[first].kill()

        def ended() -> bool:
            return str(record_of(plateau.url, run)["status"]) != "running"

        wait_until(ended, "it ends", timeout_s=40)
        assert record_of(plateau.url, run)["output"] == "ab"

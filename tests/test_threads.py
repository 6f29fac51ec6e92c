"""Plain generators in threads: each has one of its own, whatever becomes of the others'."""

from __future__ import annotations

import asyncio
import contextvars
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from plateau_sse.agents import Run, Yielded
from plateau_sse.runner.threads import Threads
from plateau_sse.store.runs.streams import Streams
from tests.executions import execution_of, told_of
from tests.faults import record_of, start_run
from tests.processes import serving, wait_until
from tests.store import on_streams

TENANT: contextvars.ContextVar[str] = contextvars.ContextVar("TENANT", default="nobody")


def texts_of(url: str, agent: Any, runs: int) -> list[str]:
    """What that many runs say that are executed at once."""

    async def one(streams: Streams, redis: Any, threads: Threads) -> str:
        async with execution_of(streams, agent, threads=threads) as execution:
            async with asyncio.timeout(20):
                await execution.run()
            return (await told_of(streams, redis, execution.run_id)).text

    async def scenario(streams: Streams, redis: Any) -> list[str]:
        threads = Threads()
        return await asyncio.gather(*(one(streams, redis, threads) for _ in range(runs)))

    return on_streams(url, scenario)


def test_a_context_variable_holds_from_step_to_step_and_for_nobody_else(
    streams_url: str,
) -> None:
    def agent(run: Run) -> Iterator[Yielded]:
        yield TENANT.get()
        TENANT.set(run.id)
        for _ in range(5):
            yield " kept" if TENANT.get() == run.id else f" {TENANT.get()}"

    assert set(texts_of(streams_url, agent, 8)) == {"nobody" + 5 * " kept"}


def test_what_is_bound_to_a_thread_works_in_every_step(streams_url: str) -> None:
    def agent(run: Run) -> Iterator[Yielded]:
        connection = sqlite3.connect(":memory:")
        try:
            for number in range(5):
                (found,) = connection.execute("SELECT ?", (number,)).fetchone()
                yield str(found)
        finally:
            connection.close()

    assert texts_of(streams_url, agent, 8) == ["01234"] * 8


def test_a_generator_that_is_left_is_closed_where_it_ran(streams_url: str) -> None:
    seen: list[tuple[str, int]] = []

    def agent(run: Run) -> Iterator[Yielded]:
        TENANT.set(run.id)
        seen.append((run.id, threading.get_ident()))
        try:
            yield "x" * 300_000
        finally:
            seen.append((TENANT.get(), threading.get_ident()))

    texts_of(streams_url, agent, 1)
    wait_until(lambda: len(seen) == 2, "it is closed")
    assert seen[0] == seen[1]


HANGING = """
import asyncio, threading, time

def hanging(run):
    yield "a"
    time.sleep(3600)

async def blocking(run):
    yield "a"
    await asyncio.to_thread(time.sleep, 3600)

def plain(run):
    yield "plain"

async def quick(run):
    yield await asyncio.to_thread(str, "quick")

meeting = threading.Barrier(12)

async def tools(run):
    # As frameworks call functions that are not asynchronous.
    await asyncio.gather(*(asyncio.to_thread(meeting.wait, 20) for _ in range(12)))
    yield "met"
"""


def test_threads_that_hang_take_nobodys_place_and_leave_with_their_runner(
    tmp_path: Path,
) -> None:
    (tmp_path / "agents_that_hang.py").write_text(HANGING)
    names = ("hanging", "blocking", "plain", "quick", "tools")
    env = {
        "AGENTS": ",".join(f"{name}=agents_that_hang:{name}" for name in names),
        "RUNNER_CONCURRENCY": "3",
        "RUN_TIMEOUT_S": "2",
        "GRACEFUL_TIMEOUT_S": "5",
    }
    with serving(tmp_path / "data", env=env, cwd=tmp_path) as plateau:

        def ends(agent: str, status: str) -> None:
            run = start_run(plateau.url, agent)
            what = f"{agent} is {status}"
            wait_until(lambda: record_of(plateau.url, run)["status"] == status, what)

        def cause() -> str:
            component = httpx.get(plateau.url + "/health").json()["components"]["runner"]
            return str(component.get("cause"))

        (first,) = plateau.pids("plateau: runner")
        for name in ("hanging", "blocking"):
            ends(name, "failed")
        ends("plain", "completed")
        wait_until(lambda: ": 2" in cause(), "/health says it")
        ends("quick", "completed")
        ends("blocking", "failed")
        wait_until(lambda: plateau.pids("plateau: runner") != [first], "it leaves")
        ends("plain", "completed")
        assert "3 threads of agents hang" in plateau.stderr


def test_tools_wait_for_no_tools(tmp_path: Path) -> None:
    """Of as many runs as a runner has at once, each has a thread, whatever the machine has."""
    (tmp_path / "agents_that_hang.py").write_text(HANGING)
    env = {"AGENTS": "tools=agents_that_hang:tools"}
    with serving(tmp_path / "data", env=env, cwd=tmp_path) as plateau:
        run = start_run(plateau.url, "tools")
        wait_until(lambda: record_of(plateau.url, run)["output"] == "met", "all have met")

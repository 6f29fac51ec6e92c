"""What an agent raises that is no Exception ends its run, and not its runner, nor others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plateau_sse.agents import Run, Yielded
from plateau_sse.store.runs.streams import Streams
from tests.executions import Told, execution_of, told_of
from tests.faults import record_of, start_run
from tests.processes import serving, wait_until
from tests.store import on_streams


class Panic(BaseException):
    """As an extension in Rust raises it."""


async def panics(run: Run) -> AsyncIterator[Yielded]:
    yield "a"
    raise Panic


def panics_in_a_thread(run: Run) -> Iterator[Yielded]:
    yield "a"
    raise Panic


async def panics_in_a_group(run: Run) -> AsyncIterator[Yielded]:
    async def tool() -> None:
        raise Panic

    yield "a"
    async with asyncio.TaskGroup() as group:
        group.create_task(tool())


async def panics_in_a_tool(run: Run) -> AsyncIterator[Yielded]:
    def tool() -> None:
        raise Panic

    yield "a"
    await asyncio.to_thread(tool)


async def gives_up(run: Run) -> AsyncIterator[Yielded]:
    yield "a"
    raise GeneratorExit


@pytest.mark.parametrize(
    "agent", [panics, panics_in_a_thread, panics_in_a_group, panics_in_a_tool, gives_up]
)
def test_its_run_fails_at_once(streams_url: str, agent: Callable[[Run], Any]) -> None:
    async def scenario(streams: Streams, redis: Any) -> Told:
        async with execution_of(streams, agent) as execution:
            await execution.run()
            return await told_of(streams, redis, execution.run_id)

    told = on_streams(streams_url, scenario)
    assert told.last["code"] == "agent_error" and told.text == "a"


EXITS = """
import argparse, asyncio, os

def parse(words):
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", type=int)
    parser.parse_args(words)

async def tool():
    parse(["--n", "three"])

async def exits(run):
    # As frameworks execute tools.
    yield "a"
    await asyncio.gather(asyncio.create_task(tool()))

async def exits_in_a_thread(run):
    yield "a"
    await asyncio.to_thread(parse, ["--n", "three"])

async def other(run):
    yield "b"
    while not os.path.exists("go"):
        await asyncio.sleep(0.02)

def dies(run):
    yield "a"
    os._exit(2)
"""


def test_a_tool_that_exits_ends_nobody_elses_run(tmp_path: Path) -> None:
    (tmp_path / "agents_that_exit.py").write_text(EXITS)
    names = ("exits", "exits_in_a_thread", "other", "dies")
    env = {"AGENTS": ",".join(f"{name}=agents_that_exit:{name}" for name in names)}
    with serving(tmp_path / "data", env=env, cwd=tmp_path) as plateau:

        def ends(run: dict[str, str], status: str) -> dict[str, Any]:
            what = f"it is {status}"
            wait_until(lambda: record_of(plateau.url, run)["status"] == status, what)
            return record_of(plateau.url, run)

        runner = plateau.pids("plateau: runner")
        other = start_run(plateau.url, "other")
        for name in ("exits", "exits_in_a_thread"):
            failed = ends(start_run(plateau.url, name), "failed")
            assert failed["error"]["code"] == "agent_error"
        assert plateau.pids("plateau: runner") == runner
        (tmp_path / "go").touch()
        assert ends(other, "completed")["output"] == "b"
        # Its first runner was up: that it ends as one with wrong settings does is no word of
        # its settings.
        start_run(plateau.url, "dies")
        wait_until(lambda: plateau.pids("plateau: runner") not in ([], runner), "another")
        assert ends(start_run(plateau.url, "other"), "completed")["output"] == "b"

"""Agents that block the runner's loop: named, and ended at their deadline."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import httpx
import pytest

from plateau_sse.runner import watchdog
from plateau_sse.runner.marks import MARK, Marks, make_task
from plateau_sse.runner.watchdog import EXIT_CODE, Watchdog
from tests.processes import serving, wait_until


def test_it_names_the_agent_whose_task_holds_the_loop(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watchdog, "BLOCKED_S", 0.2)
    monkeypatch.setattr(watchdog, "BEAT_S", 0.05)
    ended: list[str] = []
    left = threading.Event()

    async def agent() -> None:
        # Blocks, as an agent does that was not written for a loop; here until it was noticed.
        left.wait(10)

    async def scenario() -> None:
        marks = Marks(1)
        asyncio.get_running_loop().set_task_factory(make_task)
        watching = Watchdog(
            marks,
            ended.append,
            timeout_s=0.5,
            leave=lambda code: left.set() if code == EXIT_CODE else None,
        )
        watching.start()
        beating = asyncio.create_task(watching.keep_beating())
        await asyncio.sleep(0)
        with marks.of("r1", "sleepy") as mark:
            MARK.set(mark)
            await asyncio.create_task(agent())
        beating.cancel()
        watching.stop()

    asyncio.run(scenario())
    assert ended[0] == "r1"
    assert "agent sleepy blocks the runner (run r1)" in caplog.text


BLOCKING = """
import asyncio, time

async def blocking(run):
    yield "before "
    time.sleep(60)
    yield "after"

async def in_a_task(run):
    async def step():
        time.sleep(60)
    yield "before "
    await asyncio.gather(asyncio.sleep(1000), step())

async def patient(run):
    for i in range(10):
        yield f"{i} "
        await asyncio.sleep(0.2)
"""


@pytest.mark.parametrize("agent", ["blocking", "in_a_task"])
def test_a_blocking_agent_ends_at_its_deadline_and_the_others_go_on(
    tmp_path: Path, agent: str
) -> None:
    (tmp_path / "agents_that_block.py").write_text(BLOCKING)
    agents = f"blocking=agents_that_block:{agent},patient=agents_that_block:patient"
    # The other's attempt is not one that counts.
    env = {"AGENTS": agents, "RUN_TIMEOUT_S": "7", "MAX_ATTEMPTS": "1"}
    with (
        serving(tmp_path / "data", env=env, cwd=tmp_path) as plateau,
        httpx.Client(base_url=plateau.url, timeout=60, trust_env=False) as client,
    ):
        runs = {}
        for name in ("patient", "blocking"):
            answer = client.post("/v1/runs", json={"agent": name, "input": "x"})
            runs[name] = answer.json()

        def status(name: str) -> str:
            record = client.get(f"/v1/runs/{runs[name]['id']}").json()
            return str(record["status"])

        wait_until(lambda: status("blocking") == "failed", "it is ended", timeout_s=40)
        record = client.get(f"/v1/runs/{runs['blocking']['id']}").json()
        assert record["error"]["code"] == "timeout"
        wait_until(lambda: status("patient") == "completed", "the other ends", timeout_s=40)
        record = client.get(f"/v1/runs/{runs['patient']['id']}").json()
        assert record["output"] == "".join(f"{i} " for i in range(10))
        assert "agent blocking blocks the runner" in plateau.stderr

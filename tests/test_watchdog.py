"""Agents that block the runner's loop: named, and ended at their deadline."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import httpx
import pytest

from plateau_sse.runner import watchdog
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
        watching = Watchdog(
            asyncio.get_running_loop(),
            lambda: {"agent r1": ("r1", "sleepy")},
            ended.append,
            timeout_s=0.5,
            leave=lambda code: left.set() if code == EXIT_CODE else None,
        )
        watching.start()
        beating = asyncio.create_task(watching.keep_beating())
        await asyncio.sleep(0)
        await asyncio.create_task(agent(), name="agent r1")
        beating.cancel()
        watching.stop()

    asyncio.run(scenario())
    assert ended[0] == "r1"
    assert "agent sleepy blocks the runner (run r1)" in caplog.text


BLOCKING = """
import time

async def blocking(run):
    yield "before "
    time.sleep(60)
    yield "after"

async def patient(run):
    import asyncio
    for i in range(10):
        yield f"{i} "
        await asyncio.sleep(0.2)
"""


def test_a_blocking_agent_ends_at_its_deadline_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "agents_that_block.py").write_text(BLOCKING)
    agents = "blocking=agents_that_block:blocking,patient=agents_that_block:patient"
    env = {"AGENTS": agents, "RUN_TIMEOUT_S": "7"}
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

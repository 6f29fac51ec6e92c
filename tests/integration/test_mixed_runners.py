"""Runners of different agents on one Redis: each executes what it has, and nothing is lost."""

from __future__ import annotations

import statistics
import time
from functools import partial
from pathlib import Path

import httpx

from tests.deployment import deployed
from tests.faults import record_of, start_run
from tests.processes import wait_until

ONE = {"AGENTS": "one=tests.sample_agents:words"}
TWO = {"AGENTS": "two=tests.sample_agents:words", "RUNNER_CONCURRENCY": "4"}
# Longer than a runner counts as alive that has gone: until then it may yet take the run.
SOON = {"QUEUE_TIMEOUT_S": "8"}


def test_each_runner_executes_the_runs_of_its_own_agents(
    tmp_path: Path, streams_url: str, cache_url: str
) -> None:
    place = partial(deployed, streams_url=streams_url, cache_url=cache_url)
    with (
        place(tmp_path / "one", webs=1, runners=1, env=ONE) as first,
        place(tmp_path / "two", webs=0, runners=1, env=TWO),
    ):
        (url,) = first.urls

        def is_known(agent: str) -> bool:
            body = {"agent": agent, "input": "x", "cache": {"mode": "off"}}
            return httpx.post(f"{url}/v1/runs", json=body).status_code == 202

        wait_until(lambda: is_known("one") and is_known("two"), "both are known")
        runs = [
            start_run(url, ("one", "two")[number % 2], f"{number}", count=3, pause_ms=20)
            for number in range(40)
        ]

        def ended() -> bool:
            return all(record_of(url, run)["status"] in ("completed", "failed") for run in runs)

        wait_until(ended, "all have ended", timeout_s=30)
        records = [record_of(url, run) for run in runs]
        assert {record["status"] for record in records} == {"completed"}
        assert {record["attempt"] for record in records} == {1}
        waited = [record["started_at"] - record["created_at"] for record in records]
        assert statistics.median(waited) < 2 and max(waited) < 5


def test_a_run_lost_with_its_agents_last_runner_ends_within_15_s(
    tmp_path: Path, streams_url: str, cache_url: str
) -> None:
    """Though runners of other agents live."""
    place = partial(deployed, streams_url=streams_url, cache_url=cache_url)
    with (
        place(tmp_path / "one", webs=1, runners=1, env=ONE) as first,
        place(tmp_path / "two", webs=0, runners=1, env=TWO) as second,
    ):
        (url,), (runner,) = first.urls, second.runners
        body = {"agent": "two", "input": "x", "cache": {"mode": "off"}}
        wait_until(lambda: httpx.post(f"{url}/v1/runs", json=body).status_code == 202, "known")
        run = start_run(url, "two", hold_at=3, gate=str(tmp_path / "never"))
        wait_until(lambda: record_of(url, run)["status"] == "running", "it is on")
        runner.kill()
        began = time.monotonic()
        wait_until(lambda: record_of(url, run)["status"] == "failed", "it ends", timeout_s=30)
        assert time.monotonic() - began < 15
        assert record_of(url, run)["error"]["code"] == "runner_lost"


def test_an_agent_whose_runners_have_all_gone_is_not_waited_for_for_ever(
    tmp_path: Path, streams_url: str, cache_url: str
) -> None:
    place = partial(deployed, streams_url=streams_url, cache_url=cache_url)
    with place(tmp_path / "one", webs=1, runners=1, env=ONE | SOON) as first:
        (url,) = first.urls
        with place(tmp_path / "two", webs=0, runners=1, env=TWO):
            body = {"agent": "two", "input": "x", "cache": {"mode": "off"}}
            wait_until(
                lambda: httpx.post(f"{url}/v1/runs", json=body).status_code == 202, "known"
            )
        # As in a restart it is still taken on: the next runner would have it.
        began = time.monotonic()
        run = start_run(url, "two", "late")
        wait_until(lambda: record_of(url, run)["status"] == "failed", "it ends", timeout_s=30)
        assert record_of(url, run)["error"]["code"] == "agent_unknown"
        assert time.monotonic() - began > 7
        # And one that comes in time begins at once.
        run = start_run(url, "two", "in time", count=2)
        with place(tmp_path / "three", webs=0, runners=1, env=TWO):
            wait_until(lambda: record_of(url, run)["status"] == "completed", "it is executed")

"""Producers that die: what their readers see, and how soon."""

from __future__ import annotations

import os
import signal
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.deployment import Deployment, deployed
from tests.integration.api_client import Event, messages, told
from tests.processes import serving, wait_until
from tests.sample_agents import words_of

# What the design promises; the machine may be slow, so the margin is what a look may be late.
PROMISED_S = 15
MARGIN_S = 3


class Watching:
    """A reader in a thread; `seen` fills as events come, each with its arrival time."""

    def __init__(self, url: str) -> None:
        self.seen: list[tuple[float, Event]] = []
        self._url = url
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        timeout = httpx.Timeout(30, read=60)
        with httpx.stream("GET", self._url, timeout=timeout, trust_env=False) as response:
            for event in messages(response.iter_lines()):
                self.seen.append((time.monotonic(), event))

    def types(self) -> list[str]:
        return [event.type for _, event in self.seen]

    def until(self, *types: str, timeout_s: float = 30) -> tuple[float, Event]:
        def found() -> list[tuple[float, Event]]:
            return [pair for pair in list(self.seen) if pair[1].type in types]

        wait_until(found, f"one of {types} arrives", timeout_s=timeout_s)
        return found()[0]

    def join(self) -> None:
        """To the end of the response, in which nothing was missing and nothing came twice."""
        self._thread.join(60)
        assert not self._thread.is_alive()
        told(event for _, event in self.seen)


def start(url: str, text: str, **options: int) -> dict[str, str]:
    body = {"agent": "words", "input": text, "options": options}
    answer = httpx.post(f"{url}/v1/runs", json=body, timeout=30, trust_env=False)
    assert answer.status_code == 202, answer.text
    run: dict[str, str] = answer.json()
    return run


def record_of(url: str, run: dict[str, str]) -> dict[str, Any]:
    query = run["events_url"].partition("?")[2]
    answer = httpx.get(f"{url}/v1/runs/{run['id']}?{query}", timeout=30, trust_env=False)
    record: dict[str, Any] = answer.json()
    return record


@pytest.fixture
def one_runner(tmp_path: Path, streams_url: str, cache_url: str) -> Iterator[Deployment]:
    with deployed(
        tmp_path, streams_url=streams_url, cache_url=cache_url, webs=2, runners=1
    ) as deployment:
        yield deployment


def report(capsys: pytest.CaptureFixture[str], what: str, waits_s: list[float]) -> None:
    """Median and maximum, printed whether or not the test passes."""
    median_s, most_s = statistics.median(waits_s), max(waits_s)
    with capsys.disabled():
        sys.stdout.write(f"\n{what}: median {median_s:.1f} s, maximum {most_s:.1f} s\n")


def test_where_no_runner_comes_back_a_web_worker_ends_the_runs(
    one_runner: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    url = one_runner.urls[0]
    runs = [start(url, f"lost {i}", count=600, pause_ms=50) for i in range(3)]
    readers = [
        Watching(one_runner.urls[i % 2] + run["events_url"]) for i, run in enumerate(runs)
    ]
    for reader in readers:
        reader.until("message.delta")
    one_runner.runners[0].kill()
    killed_at = time.monotonic()
    one_runner.runners[0].wait(5)
    waits = []
    for reader, run in zip(readers, runs, strict=True):
        at, event = reader.until("run.failed", timeout_s=PROMISED_S + MARGIN_S)
        waits.append(at - killed_at)
        assert event.data["code"] == "runner_lost"
        reader.join()
        assert reader.types().count("run.failed") == 1
        record = record_of(url, run)
        # What was heard of it stays, and nobody begins anew because of its end.
        assert told(event for _, event in reader.seen).parts == record["parts"] != []
        assert "run.restarted" not in reader.types()
        assert (record["status"], record["error"]["code"]) == ("failed", "runner_lost")
    report(capsys, "from kill -9 of the only runner to the end", waits)
    assert max(waits) < PROMISED_S + MARGIN_S, waits


def test_another_runner_takes_over_as_attempt_2(
    tmp_path: Path, streams_url: str, cache_url: str
) -> None:
    # Neither can have all of them.
    env = {"RUNNER_CONCURRENCY": "3"}
    with deployed(
        tmp_path, streams_url=streams_url, cache_url=cache_url, webs=1, runners=2, env=env
    ) as deployment:
        url = deployment.urls[0]
        runs = [start(url, f"taken over {i}", count=60, pause_ms=50) for i in range(6)]
        readers = [Watching(url + run["events_url"]) for run in runs]
        for reader in readers:
            reader.until("message.delta")
        deployment.runners[0].kill()
        deployment.runners[0].wait(5)
        for reader in readers:
            reader.until("run.completed", timeout_s=40)
            reader.join()
        restarted = 0
        for number, (run, reader) in enumerate(zip(runs, readers, strict=True)):
            record = record_of(url, run)
            heard = told(event for _, event in reader.seen)
            assert heard.parts == record["parts"]
            assert record["output"] == "".join(words_of(f"taken over {number}", 60))
            # Those of the runner that was killed, and only those.
            assert heard.restarts == record["attempt"] - 1
            if heard.restarts:
                restarted += 1
                index = reader.types().index("run.restarted")
                event, first = reader.seen[index][1], reader.seen[index + 1][1]
                tag = run["id"][12:18]
                assert event.id == f"{tag}-2-0"
                assert event.data == {
                    "type": "run.restarted",
                    "attempt": 2,
                    "reason": "attempt",
                }
                assert (first.id, first.type) == (f"{tag}-2-1", "run.started")
                assert first.data["attempt"] == 2
        assert restarted


def test_a_restarted_runner_takes_its_predecessors_runs_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    env = {"AGENTS": "words=tests.sample_agents:words"}
    with serving(tmp_path, env=env) as plateau:
        run = start(plateau.url, "at once", count=60, pause_ms=30)
        reader = Watching(plateau.url + run["events_url"])
        reader.until("message.delta")
        (runner,) = plateau.pids("plateau: runner")
        os.kill(runner, signal.SIGKILL)
        killed_at = time.monotonic()
        at, _ = reader.until("run.restarted")
        report(capsys, "from kill -9 of a runner of serve to the restart", [at - killed_at])
        # The lease of its predecessor, 6 s, did not have to run out.
        assert at - killed_at < 6
        reader.until("run.completed")
        reader.join()
        assert reader.types().count("run.completed") == 1


def test_after_max_attempts_the_run_is_lost(tmp_path: Path) -> None:
    env = {"AGENTS": "words=tests.sample_agents:words", "MAX_ATTEMPTS": "2"}
    with serving(tmp_path, env=env) as plateau:
        run = start(plateau.url, "never", count=600, pause_ms=50)
        reader = Watching(plateau.url + run["events_url"])
        reader.until("message.delta")
        for attempt in (1, 2):
            (runner,) = plateau.pids("plateau: runner")
            os.kill(runner, signal.SIGKILL)
            if attempt == 1:
                reader.until("run.restarted")
                wait_until(lambda: reader.types()[-1] == "message.delta", "attempt 2 goes on")
        _, event = reader.until("run.failed")
        assert event.data["code"] == "runner_lost"
        reader.join()


def test_a_run_that_nobody_claims_times_out(
    tmp_path: Path, streams_url: str, cache_url: str
) -> None:
    env = {"QUEUE_TIMEOUT_S": "3", "RUNNER_CONCURRENCY": "1"}
    with deployed(
        tmp_path, streams_url=streams_url, cache_url=cache_url, webs=1, runners=1, env=env
    ) as deployment:
        url = deployment.urls[0]
        holding = start(url, "holds the runner", count=300, pause_ms=50)
        waiting = start(url, "waits", count=1, pause_ms=1)
        reader = Watching(url + waiting["events_url"])
        _, event = reader.until("run.failed")
        assert event.data["code"] == "queue_timeout"
        reader.join()
        httpx.post(url + holding["cancel_url"], trust_env=False)

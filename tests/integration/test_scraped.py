"""A real Prometheus scrapes two workers under load, through recycles and a kill -9: what it has
in the end is what the clients were given, and nothing that it scraped ever fell.

SCRAPED_S is how long; 20 s where it is not set.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.integration import api_agents
from tests.integration.scraped_load import Load
from tests.processes import Serving, free_ports, serving, wait_until
from tests.scrapes import (
    PROMETHEUS,
    PROMTOOL,
    Scrape,
    Series,
    check_with_promtool,
    metric_of,
    parsed,
)
from tests.watched import until

SECONDS = float(os.environ.get("SCRAPED_S", "20"))
USERS = 8
WORKER = "gunicorn: worker"

YOUNG_WORKERS = """
from plateau_sse.cli import main
from plateau_sse.serve.worker import PlateauWorker

PlateauWorker.min_age_s = 0
raise SystemExit(main(["serve"]))
"""

# What the clients' books are called, and what the service calls it.
COUNTERS = {
    "hits": "plateau_cache_hits_total",
    "misses": "plateau_cache_misses_total",
    "misses ": "plateau_runs_created_total",
    "completed": "plateau_runs_completed_total",
    "opened": "plateau_responses_opened_total",
    "resumed": "plateau_responses_resumed_total",
    "delivered": "plateau_events_delivered_total",
    "completed ": "plateau_run_duration_seconds_count",
    "completed  ": "plateau_time_to_first_token_seconds_count",
}


@contextmanager
def prometheus(
    folder: Path, target: str, *, rules: Sequence[Path] = (), every: str = "1s"
) -> Iterator[str]:
    """Its URL; it scrapes `target` that often, over one connection while that lasts."""
    assert PROMETHEUS is not None
    folder.mkdir()
    config = folder / "prometheus.yml"
    config.write_text(
        f"global: {{scrape_interval: {every}, scrape_timeout: {every}, "
        f"evaluation_interval: {every}}}\n"
        f"rule_files: {json.dumps([str(rule) for rule in rules])}\n"
        "scrape_configs:\n"
        f"- {{job_name: plateau, static_configs: [{{targets: ['{target}']}}]}}\n"
    )
    port = free_ports(1)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                PROMETHEUS,
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--log.level=warn",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: _is_ready(url), "Prometheus is ready", timeout_s=30)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def queried(url: str, query: str) -> list[dict[str, Any]]:
    answer = httpx.get(f"{url}/api/v1/query", params={"query": query}, timeout=10).json()
    assert answer["status"] == "success", answer
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found


class Beside:
    """Scrapes, too, each time over a new connection, so that now one worker answers and now the
    other: `fallen` is what was less than it had been."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._scrape)
        self._most: dict[Series, float] = {}
        self.fallen: list[str] = []
        self.scrapes = 0
        self.failure = ""

    def __enter__(self) -> Beside:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _scrape(self) -> None:
        while not self._over.wait(0.05):
            try:
                text = scrape(self._url)
            except httpx.TransportError:
                # The worker that was asked has just been killed.
                continue
            try:
                found = parsed(text)
            except Exception as error:
                self.failure = repr(error)
                return
            self.scrapes += 1
            for series, value in found.growing().items():
                most = self._most.setdefault(series, value)
                if value < most:
                    self.fallen.append(f"{series}: {most} {value}")
                self._most[series] = max(most, value)


def scrape(url: str) -> str:
    return httpx.get(f"{url}/metrics", timeout=10, trust_env=False).text


def readers_of(running: Serving, pid: int) -> int:
    try:
        connections = psutil.Process(pid).net_connections("tcp")
    except psutil.NoSuchProcess:
        # It has just been recycled.
        return -1
    return sum(
        connection.laddr.port == running.port and connection.status == "ESTABLISHED"
        for connection in connections
    )


def recycled(running: Serving, victim: int) -> int:
    """How many others said farewell: the victim may have been killed before it could leave."""
    lines = [line for line in running.stderr.splitlines() if "recycled after" in line]
    return sum(f"[{victim}]" not in line for line in lines)


async def loaded(running: Serving) -> tuple[Load, int]:
    """Under load for `SECONDS`, with a kill in the middle of it: the load, and who it was."""
    began = time.monotonic()
    async with Load(running.url, running.data_dir, USERS) as load:
        await asyncio.sleep(SECONDS / 2)
        await load.hold()
        victim = max(running.pids(WORKER), key=lambda pid: readers_of(running, pid))
        visits = {follower: follower.visits for follower in load.followers}
        os.kill(victim, signal.SIGKILL)
        await until(lambda: victim not in running.pids(WORKER), "it is gone")
        await until(
            lambda: sum(follower.visits > visits[follower] for follower in visits) > 0,
            "its readers have come back",
        )
        load.go_on()
        await asyncio.sleep(max(0.0, began + SECONDS - time.monotonic()))
        await load.until(lambda: recycled(running, victim) >= 2, "two recycles", timeout_s=60)
        await load.finish()
    return load, victim


def expected_of(load: Load) -> dict[str, float]:
    return {name: load.books[book.strip()] for book, name in COUNTERS.items()}


@pytest.mark.skipif(PROMETHEUS is None, reason="prometheus (Debian's package) is not installed")
@pytest.mark.timeout(120 + 3 * SECONDS)
def test_what_prometheus_has_is_what_clients_were_given(tmp_path: Path) -> None:
    shutil.copy(Path(api_agents.__file__), tmp_path / "api_agents.py")
    env = {
        "AGENTS": "big=api_agents:big",
        "MAX_REQUESTS": "250",
        "MAX_REQUESTS_JITTER": "20",
    }
    with (
        serving(
            tmp_path / "data", arguments=["-c", YOUNG_WORKERS], env=env, cwd=tmp_path
        ) as running,
        prometheus(tmp_path / "prometheus", f"127.0.0.1:{running.port}") as url,
    ):
        with Beside(running.url) as beside:
            load, victim = asyncio.run(loaded(running))
            expected = expected_of(load)
            assert min(expected.values()) > 0

            def shown() -> dict[str, float]:
                found = parsed(scrape(running.url))
                return {name: found.total(name) for name in expected}

            _wait_for(shown, expected)
        assert beside.failure == "" and beside.fallen == []
        assert beside.scrapes > SECONDS

        def stored() -> dict[str, float]:
            return {
                name: float(queried(url, f"sum({name})")[0]["value"][1]) for name in expected
            }

        _wait_for(stored, expected)
        _check_ends(running, victim)
        _check_never_fell(url, parsed(scrape(running.url)))
        if PROMTOOL is not None:
            check_with_promtool(scrape(running.url))
        (alarm,) = [line for line in running.stderr.splitlines() if " ERROR " in line]
        assert "killed by SIGKILL" in alarm and "Traceback" not in running.stderr


def _wait_for(found: Any, expected: dict[str, float]) -> None:
    """What was counted is added within two seconds, and scraped within another."""
    try:
        wait_until(lambda: found() == expected, "the books agree", timeout_s=10)
    except AssertionError as error:
        differing = {
            name: (value, expected[name])
            for name, value in found().items()
            if value != expected[name]
        }
        error.add_note(f"found and expected: {differing}")
        raise


def _check_ends(running: Serving, victim: int) -> None:
    def ends(how: str) -> float:
        return parsed(scrape(running.url)).total("plateau_process_ends_total", how=how)

    # The last of those who said farewell may not have gone yet.
    wait_until(
        lambda: ends("workers_recycled") == recycled(running, victim) >= 2,
        "those who were recycled are counted",
    )
    assert ends("workers_died") == 1
    assert ends("runners_died") == ends("redis_died") == 0


def _check_never_fell(url: str, last: Scrape) -> None:
    """All samples that it took, series by series."""
    grown = 0
    for series in queried(url, '{__name__=~"plateau_.+"}[1h]'):
        if last.kinds[metric_of(series["metric"]["__name__"], last.kinds)] == "gauge":
            continue
        values = [float(value) for _, value in series["values"]]
        assert values == sorted(values), series
        grown += values[-1] > values[0]
    assert grown >= 20
    (up,) = queried(url, "sum_over_time(up[1h])")
    assert float(up["value"][1]) > SECONDS * 0.5

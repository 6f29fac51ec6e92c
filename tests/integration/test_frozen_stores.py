"""A Redis server that is frozen, not dead: it takes connections and says nothing.

Invariant of these tests: what can be done without the frozen one is done as if it were there.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from redis import Redis

from tests.integration.api_client import api_serving, ask, finish, record_of, unique
from tests.processes import Serving, wait_until

# Of the versions of agents, which are known for two.
FROZEN_S = 5.0
# A patience, and what a busy machine takes: without one it is 4 to 10.
AT_ONCE_S = 2.5


@pytest.fixture(scope="module")
def plateau(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with api_serving(tmp_path_factory.mktemp("frozen")) as serving:
        yield serving


@pytest.fixture
def client(plateau: Serving) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=plateau.url, timeout=30, trust_env=False) as client:
        yield client


@contextmanager
def frozen(url: str) -> Iterator[None]:
    with Redis.from_url(url) as redis:
        pid = int(redis.info("server")["process_id"])
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_hits_are_served_while_the_streams_hang(plateau: Serving, client: httpx.Client) -> None:
    text = unique()
    finish(client, "echo", text)
    longest, hits = 0.0, 0
    with frozen(plateau.streams_url):
        end = time.monotonic() + FROZEN_S
        while time.monotonic() < end:
            began = time.monotonic()
            assert ask(client, "echo", text)["cached"]
            took_s = time.monotonic() - began
            longest, hits = max(longest, took_s), hits + 1
    assert longest < AT_ONCE_S
    # Each of two workers finds out once; were it each time, there would be ten.
    assert hits > 50
    wait_until(plateau.is_ready, "the streams are back")
    assert finish(client, "echo")["status"] == "completed"


def test_runs_end_while_the_cache_hangs(plateau: Serving, client: httpx.Client) -> None:
    with frozen(plateau.cache_url):
        runs = [ask(client, "echo") for _ in range(24)]
        for run in runs:
            wait_until(
                lambda run=run: record_of(client, run)["status"] == "completed",  # type: ignore[misc]
                "it ends",
            )
        took_ms = [record_of(client, run)["duration_ms"] for run in runs]
    assert max(took_ms) < AT_ONCE_S * 1000, took_ms
    text = unique()
    finish(client, "echo", text)
    wait_until(lambda: ask(client, "echo", text)["cached"], "the cache is used again")

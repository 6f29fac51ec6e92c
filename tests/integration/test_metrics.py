"""What operators read agrees with what clients did, whichever of two workers answers, and
reading it costs next to nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from benchmarks.measuring import cpu_s

from plateau_sse.api.ops import FEED_S
from tests.integration.api_client import (
    SSE,
    api_serving,
    ask,
    finish,
    follow,
    messages,
    unique,
    wait_for_status,
)
from tests.processes import Serving, wait_until

TOKEN = "the-operators-own-token"
METRICS = "/api/admin/metrics"
RUNS, HITS, OPEN = 8, 5, 6
SCRAPE_EVERY_S = 15.0
# Of one core, at the default rate.
CPU_MOST = 0.01
SCRAPES, FEEDS, PICTURES = 200, 10, 4


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Serving]:
    # No worker is replaced: its counted CPU would go with it.
    env = {"ADMIN_TOKEN": TOKEN, "MAX_REQUESTS": "0"}
    with api_serving(tmp_path, env) as started:
        yield started


@pytest.fixture
def client(running: Serving) -> Iterator[httpx.Client]:
    """A connection for each request: the workers take turns as the kernel pleases."""
    limits = httpx.Limits(max_keepalive_connections=0)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(
        base_url=running.url, timeout=30, limits=limits, headers=headers, trust_env=False
    ) as opened:
        yield opened


def picture(client: httpx.Client) -> dict[str, Any]:
    answer = client.get(METRICS)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_the_picture_is_of_all_workers(
    running: Serving, client: httpx.Client, tmp_path: Path
) -> None:
    texts = [unique() for _ in range(RUNS)]
    for text in texts:
        assert finish(client, "echo", text)["status"] == "completed"
    for text in texts[:HITS]:
        found = ask(client, "echo", text)
        assert found["cached"] is True
        assert follow(client, found["events_url"])
    gate = tmp_path / "gate"
    slow = ask(client, "slow", options={"gate": str(gate)})
    wait_for_status(client, slow, "running")
    reading: list[Iterator[str]] = []
    with ExitStack() as readers:
        for _ in range(OPEN):
            opened = readers.enter_context(client.stream("GET", slow["events_url"]))
            # One that is let go of closes what it reads.
            reading.append(opened.iter_lines())
            assert next(reading[-1]).startswith("retry: ")
        wanted = {
            "open": OPEN,
            "opened": OPEN,
            "created": RUNS + 1,
            "completed": RUNS,
            "running": 1,
            "hits": HITS,
            "misses": RUNS + 1,
            # Beside each answer stands where its run left it.
            "items": 2 * RUNS,
        }
        # Whoever answers: what the other has counted is in the store within seconds.
        for _ in range(4):
            _wait_for(client, wanted)
        _check_processes(running, picture(client))
        gate.touch()
    _wait_for(client, {"open": 0, "running": 0, "completed": RUNS + 1})


def _wait_for(client: httpx.Client, wanted: dict[str, int]) -> None:
    seen: dict[str, Any] = {}

    def says_so() -> bool:
        seen.update(_said(picture(client)))
        return {name: seen[name] for name in wanted} == wanted

    try:
        wait_until(says_so, f"it says {wanted}")
    except AssertionError as error:
        error.add_note(f"it said {seen}")
        raise


def _said(found: dict[str, Any]) -> dict[str, Any]:
    sse, runs, cache = found["sse"], found["runs"], found["cache"]
    return {
        **{name: sse[name] for name in ("open", "opened")},
        **{name: runs[name] for name in ("created", "completed", "running")},
        **{name: cache[name] for name in ("hits", "misses", "items")},
    }


def _check_processes(running: Serving, found: dict[str, Any]) -> None:
    """Each of the tree is there once, and the total is theirs."""
    rows = found["memory"]["processes"]
    roles = {row["pid"]: row["role"] for row in rows}
    assert len(roles) == len(rows)
    assert sorted(roles) == sorted(running.tree())
    assert sorted(roles.values()) == sorted(
        ["master", "web", "web", "runner", "redis-streams", "redis-cache"]
    )
    assert all(0 < row["pss_bytes"] <= row["rss_bytes"] for row in rows)
    assert found["memory"]["total_bytes"] == sum(row["pss_bytes"] for row in rows)
    shown = {row["pid"]: row["role"] for row in found["workers"]["processes"]}
    assert shown == {pid: role for pid, role in roles.items() if role in ("web", "runner")}
    assert not any(row["silent"] for row in found["workers"]["processes"])


def test_a_feed_begins_with_what_was_before(client: httpx.Client) -> None:
    def first_two() -> tuple[dict[str, Any], dict[str, Any]]:
        with client.stream("GET", METRICS, headers=SSE) as response:
            pictures = messages(response.iter_lines())
            return next(pictures).data, next(pictures).data

    # Whoever answers: each worker remembers what it has seen.
    wait_until(lambda: len(first_two()[0]["history"]) >= 3, "there is a history", timeout_s=60)
    first, second = first_two()
    assert "history" not in second and "history" not in picture(client)
    times = [at for at, *_ in first["history"]]
    assert times == sorted(times) and abs(time.time() - times[-1]) < 15
    _, memory, readers, _ = first["history"][-1]
    assert memory > 20 * 1024**2 and readers >= 0


def test_scraping_is_cheap(running: Serving, client: httpx.Client) -> None:
    """By the kernel's accounting; all that the workers did meanwhile counts."""
    workers = running.pids("gunicorn: worker")
    used_s = cpu_s(workers)
    for _ in range(SCRAPES):
        answer = client.get("/metrics")
        assert answer.status_code == 200 and "plateau_" in answer.text
    used_s = cpu_s(workers) - used_s
    assert used_s / SCRAPES < CPU_MOST * SCRAPE_EVERY_S


def test_a_live_page_is_cheap(running: Serving, client: httpx.Client) -> None:
    """Many at once, so that what the workers do anyway is little beside it."""
    workers = running.pids("gunicorn: worker")
    seen: list[int] = []

    def look() -> None:
        with client.stream("GET", METRICS, headers=SSE) as response:
            pictures = messages(response.iter_lines())
            for _ in range(PICTURES):
                next(pictures)
                seen.append(1)

    pages = [threading.Thread(target=look) for _ in range(FEEDS)]
    used_s = cpu_s(workers)
    for page in pages:
        page.start()
    for page in pages:
        page.join(60)
    used_s = cpu_s(workers) - used_s
    assert len(seen) == FEEDS * PICTURES
    assert used_s / len(seen) < CPU_MOST * FEED_S

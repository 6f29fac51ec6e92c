"""What a service is put to until it is too much, one thing after the other, each of which a
real Prometheus with our rules must tell: the memory that the host bills, the CPU of its web
workers, readers that do not read, a cache that is too small, requests that end in a 500.

Where a rule looks at a moment its alert is seen to go, too; the others look back ten minutes.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from redis import Redis

from plateau_sse.store.redis import keys
from tests.faults import append, complete, start_run, stuck_readers
from tests.integration.provoking import Alarm, alarmed, runbook
from tests.integration.wire import connected, get, rest_of, statuses
from tests.memory_group import MemoryGroup, memory_group
from tests.processes import Serving, serving, wait_until
from tests.scrapes import PROMETHEUS

ADMIN = {"ADMIN_TOKEN": "the-operators-own-token"}
ENV = {
    "AGENTS": "long=provoked_agents:long",
    "CACHE_MAX_MEMORY": "2mb",
    "WEB_CONCURRENCY": "1",
    **ADMIN,
}
# What does not pack, the same for the same question.
AGENTS = """
import random
import string


async def long(run):
    yield "".join(random.Random(run.input).choices(string.ascii_letters, k=8000))
"""
QUESTIONS, ASKERS = 600, 8
# A clear part of the bound, and yet room for what a service needs now and then.
SHARE = 0.94
# Clients, and what each of them asks before it reads an answer.
BUSY, AT_ONCE = 4, 500
STUCK = 130
PIECE = {"type": "message.delta", "text": "x" * 1000}

pytestmark = [
    pytest.mark.skipif(
        PROMETHEUS is None, reason="prometheus (Debian's package) is not installed"
    ),
    pytest.mark.timeout(400),
]


class Site(NamedTuple):
    running: Serving
    alarm: Alarm
    group: MemoryGroup

    def runbook(self, alert: str) -> str:
        log = self.running.data_dir / "stderr"
        its_own = {**ADMIN, "DATA_DIR": str(self.running.data_dir)}
        return runbook(alert, self.running.url, its_own, log)


def preferred(pid: int, nice: int) -> None:
    """Where this user may say so."""
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, pid, nice)


@contextmanager
def busy(running: Serving) -> Iterator[None]:
    """Its worker has no rest: what is asked lies there before it is answered. It is preferred
    to whatever else this machine does, or there may be less of a core for it than is looked
    for."""
    over = threading.Event()

    def ask() -> None:
        last = get(b"/health/live", b"Connection: close")
        while not over.is_set():
            with connected(running) as peer:
                peer.sendall(get(b"/health/live") * (AT_ONCE - 1) + last)
                assert len(statuses(rest_of(peer))) == AT_ONCE

    (worker,) = running.pids("gunicorn: worker")
    with ThreadPoolExecutor(BUSY) as pool, ExitStack() as stack:
        preferred(worker, -10)
        stack.callback(preferred, worker, 0)
        stack.callback(over.set)
        asked = [pool.submit(ask) for _ in range(BUSY)]
        yield
        over.set()
        for one in asked:
            one.result(60)


def bounded_memory(site: Site) -> None:
    def is_alerted() -> bool:
        # Pages of files go when there is little room: the bound follows.
        site.group.bound_by(site.group.used() / SHARE)
        return "PlateauCgroup" in site.alarm.firing()

    wait_until(is_alerted, "PlateauCgroup fires", timeout_s=60)
    used, limit = (
        site.alarm.value(f"plateau_cgroup_{name}_bytes") for name in ("used", "limit")
    )
    assert used and limit and 0.9 < used / limit < 1
    assert "cgroup" in site.runbook("PlateauCgroup")
    site.group.set_free()
    site.alarm.rests("PlateauCgroup")


def full_core(site: Site) -> None:
    with busy(site.running):
        site.alarm.fires("PlateauCpu", 'plateau_processes_cpu_ratio{role="web"} > 0.8')
    assert "web" in site.runbook("PlateauCpu")
    site.alarm.rests("PlateauCpu")


def readers_that_do_not_read(site: Site) -> None:
    url = site.running.url
    run = start_run(url, "external")
    with (
        stuck_readers(url, run["events_url"], STUCK),
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        site.alarm.shows(f"sum(plateau_responses_opened_total) >= {STUCK}")
        for _ in range(10):
            append(client, run, [PIECE] * 20)
        site.alarm.fires("PlateauSlowReaders", "plateau_readers_slow_total > 100")
        assert "too slow" in site.runbook("PlateauSlowReaders")
        complete(client, run)


def small_cache(site: Site) -> None:
    """Each question is another, and the answers are more than there is room for."""

    def ask(first: int) -> None:
        with httpx.Client(base_url=site.running.url, timeout=60) as client:
            for number in range(first, QUESTIONS, ASKERS):
                body = {"agent": "long", "input": f"{number}"}
                answer = client.post("/v1/runs", json=body, headers={"Prefer": "wait=30"})
                assert answer.json()["status"] == "completed", answer.text

    with ThreadPoolExecutor(ASKERS) as pool:
        for asked in [pool.submit(ask, first) for first in range(ASKERS)]:
            asked.result(120)
    evicted = 'plateau_redis_evicted_keys_total{role="cache"} > 100'
    site.alarm.fires("PlateauCacheSmall", evicted)
    assert "evict" in site.runbook("PlateauCacheSmall")


def internal_errors(site: Site) -> None:
    """Somebody else has written into what is the service's own."""
    url, answers = site.running.url, []
    run = start_run(url, "external")
    body = {"agent": "long", "input": "x", "conversation_id": "c1"}
    httpx.post(f"{url}/v1/runs", json=body, headers={"Prefer": "wait=30"}, timeout=60)
    with Redis.from_url(site.running.streams_url, protocol=2) as streams:
        streams.hset(keys.run(run["id"])[0], "created_ms", "yesterday")
        (index,) = streams.scan_iter("conversation:*:index")
        streams.lset(index, 0, "no message")
    # Ahead of the routes, and by them.
    for path in (f"/v1/runs/{run['id']}", "/v1/conversations/c1", "/v1/conversations"):
        answers.append(httpx.get(f"{url}{path}", timeout=30))
        assert answers[-1].json()["code"] == "internal_error", answers[-1].text
    shown = 'plateau_problems_total{code="internal_error"} >= 3'
    site.alarm.fires("PlateauInternalErrors", shown)
    told = site.runbook("PlateauInternalErrors")
    assert all(f"(request {it.headers['x-request-id']})" in told for it in answers)
    # Each once, with its cause.
    assert site.running.stderr.count("Traceback") == told.count("ValueError:") == len(answers)


def test_what_is_too_much_is_alerted(tmp_path: Path) -> None:
    (tmp_path / "provoked_agents.py").write_text(AGENTS)
    with (
        memory_group(tmp_path) as group,
        serving(tmp_path / "data", arguments=group.serve, env=ENV, cwd=tmp_path) as running,
        alarmed(tmp_path, running.url) as alarm,
    ):
        site = Site(running, alarm, group)
        for provoked in (
            bounded_memory,
            full_core,
            readers_that_do_not_read,
            small_cache,
            internal_errors,
        ):
            provoked(site)

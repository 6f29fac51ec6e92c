"""Faults of a real service, one after the other, each of which a real Prometheus with our rules
must tell: all whose provoking takes seconds. Others are in test_alerting.py.

An alert counts as soon as its fault is seen, also while it waits for it to last.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from plateau_sse.files import connections_most, streams_most
from tests.integration.test_alerting import alerts, ask, watched
from tests.integration.wire import connected, get, read_on
from tests.processes import Serving, wait_until
from tests.scrapes import PROMETHEUS

# Of a process: so few that they can be had.
FILES = 200
MOST = connections_most(FILES)
STREAMS = streams_most(MOST)
FEW_FILES = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({FILES}, {FILES}))
from plateau_sse.cli import main
raise SystemExit(main(["serve"]))
"""
ENV = {
    "WEB_CONCURRENCY": "1",
    "STREAM_MAX_MEMORY": "8mb",
    "MEMORY_WARN_MB": "1",
    "OPENAI_MODEL": "401",
    "QUEUE_LIMIT": "1",
}
FILLER = "x" * 64 * 1024
FILLER_S = 300

pytestmark = [
    pytest.mark.skipif(
        PROMETHEUS is None, reason="prometheus (Debian's package) is not installed"
    ),
    pytest.mark.timeout(400),
]

Appears = Callable[..., None]


@contextmanager
def frozen(pids: list[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def fill(streams: Redis, share: float, first: int = 0) -> int:
    """With keys that are nobody's; the next number of one."""
    bound = int(streams.info("memory")["maxmemory"])
    while int(streams.info("memory")["used_memory"]) < share * bound:
        streams.set(f"filler:{first}", FILLER, ex=FILLER_S)
        first += 1
    return first


def queue(running: Serving, appears: Appears) -> None:
    """Whoever would execute them is frozen: one run waits, and the others are refused. Its
    master would start another."""
    body: dict[str, Any] = {"agent": "study", "cache": {"mode": "off"}}
    with frozen([running.pid, *running.pids("plateau: runner")]):
        for number in range(30):
            httpx.post(f"{running.url}/v1/runs", json=body | {"input": f"{number}"}, timeout=30)
        appears("PlateauQueueFull", "PlateauNoRunner", "PlateauSilent", "PlateauQueueWaits")
    wait_until(running.is_ready, "it serves again", timeout_s=60)


def memory(streams: Redis, appears: Appears) -> None:
    """Half full, full, and with a policy that has it evict."""
    made = fill(streams, 0.6)
    appears("PlateauStreamsFilling")
    made = fill(streams, 0.9, made)
    appears("PlateauStreamsFull")
    streams.config_set("maxmemory-policy", "allkeys-lru")
    for number in range(made, made + 40):
        streams.set(f"filler:{number}", FILLER, ex=FILLER_S)
    appears("PlateauRedisWrong", "PlateauStreamsEvict")
    streams.config_set("maxmemory-policy", "noeviction")
    for number in range(made + 40):
        streams.delete(f"filler:{number}")


def connections(running: Serving, appears: Appears, told: Callable[[], set[str]]) -> None:
    """More streams than there is room for, and as many other connections as there may be."""
    asked = httpx.post(f"{running.url}/v1/runs", json={"agent": "external"}, timeout=30).json()
    stream = get(asked["events_url"].encode())
    with ExitStack() as stack:
        for _ in range(STREAMS):
            peer = stack.enter_context(connected(running))
            peer.sendall(stream)
            read_on(peer, b"retry: ")
        for _ in range(30):
            with connected(running) as peer:
                peer.sendall(stream)
                read_on(peer, b"0\r\n\r\n")
        appears("PlateauTurnedAway")
        # Who says nothing is let go of after 10 s.
        idle: list[socket.socket] = []
        until = 0.0

        def is_alerted() -> bool:
            nonlocal until
            if time.monotonic() > until:
                for peer in idle:
                    peer.close()
                idle[:] = [
                    stack.enter_context(connected(running)) for _ in range(MOST - STREAMS - 4)
                ]
                until = time.monotonic() + 8
            return "PlateauConnections" in told()

        wait_until(is_alerted, "the connections are alerted", timeout_s=60)


def test_what_can_be_broken_in_seconds_is_alerted(tmp_path: Path) -> None:
    with watched(tmp_path, "3s", env=ENV, arguments=("-c", FEW_FILES)) as (running, url):

        def appears(*names: str) -> None:
            wait_until(lambda: set(names) <= alerts(url), f"{names}", timeout_s=60)

        slow = threading.Thread(target=ask, args=(running, "slow", "x"))
        slow.start()
        appears("PlateauMemory")
        for number in range(25):
            ask(running, "openai", f"{number}")
        appears("PlateauModelFails")
        connections(running, appears, lambda: alerts(url))
        slow.join(60)
        appears("PlateauFirstTokenSlow")
        with Redis.from_url(running.streams_url, protocol=2) as streams:
            memory(streams, appears)
        wait_until(running.is_ready, "it has room again", timeout_s=60)
        queue(running, appears)
        running.stop()
        appears("PlateauDown")

"""Two whole services that cannot be told apart by host name and port, on one Redis."""

from __future__ import annotations

import os
import signal
import socket
from functools import partial
from pathlib import Path

from tests.faults import record_of, start_run
from tests.integration.test_serve import RUNNER, linux_only
from tests.processes import Serving, free_ports, serving, wait_until

COUNT, HELD = 4, 3


def address_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.2", port))
        except OSError:
            return False
    return True


@linux_only
def test_neither_of_two_services_of_one_name_takes_the_others_live_runs(
    tmp_path: Path, streams_url: str, cache_url: str
) -> None:
    """As Compose's `hostname` or a golden image makes them. A start and a runner that dies are
    when a runner takes what its own name held."""
    port = free_ports(1)
    while not address_free(port):
        port = free_ports(1)
    env = {
        "AGENTS": "words=tests.sample_agents:words",
        "REDIS_URL": streams_url,
        "CACHE_REDIS_URL": cache_url,
        "PORT": str(port),
        "WEB_CONCURRENCY": "1",
        "RUNNER_CONCURRENCY": str(COUNT),
    }
    gate = tmp_path / "gate"

    def begin(service: Serving, name: str) -> list[dict[str, str]]:
        """So many that its own runner has its places taken."""
        runs = [
            start_run(service.url, "words", f"{name}{n}", count=9, hold_at=HELD, gate=str(gate))
            for n in range(COUNT)
        ]
        for run in runs:
            wait_until(partial(is_on, service, run), "it is on")
        return runs

    def is_on(service: Serving, run: dict[str, str]) -> bool:
        return str(record_of(service.url, run)["status"]) == "running"

    def has_completed(service: Serving, run: dict[str, str]) -> bool:
        return str(record_of(service.url, run)["status"]) == "completed"

    def attempts(service: Serving, runs: list[dict[str, str]]) -> list[int]:
        return [record_of(service.url, run)["attempt"] for run in runs]

    first = serving(tmp_path / "one", env={**env, "HOST": "127.0.0.1"})
    second = partial(serving, tmp_path / "two", env={**env, "HOST": "127.0.0.2"})
    with first as one:
        ours = begin(one, "one")
        with second() as two:
            assert attempts(one, ours) == [1] * COUNT, "a start takes nothing"
            theirs = begin(two, "two")
            (old,) = two.pids(RUNNER)
            os.kill(old, signal.SIGKILL)
            # Its successor takes what is its own, at once, and that alone.
            wait_until(lambda: attempts(two, theirs) == [2] * COUNT, "theirs go on")
            assert attempts(one, ours) == [1] * COUNT
            gate.touch()
            for run in (*ours, *theirs):
                wait_until(partial(has_completed, one, run), "it ends")
            assert attempts(one, ours) == [1] * COUNT
            assert attempts(two, theirs) == [2] * COUNT

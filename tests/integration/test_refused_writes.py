"""A streams server that answers and takes no writes for longer than a lease."""

from __future__ import annotations

import time
from pathlib import Path

import httpx

from plateau_sse.store.queue.queue import ABANDONED_S
from tests.faults import own_redis
from tests.integration.api_client import api_serving, ask, follow, record_of, told, unique
from tests.processes import wait_until


def test_refused_writes_cost_no_attempt_and_readiness_says_so(tmp_path: Path) -> None:
    gate, text = tmp_path / "gate", unique()
    with (
        own_redis(tmp_path / "streams") as server,
        server.client() as redis,
        api_serving(tmp_path, {"REDIS_URL": server.url, "WEB_CONCURRENCY": "1"}) as plateau,
        httpx.Client(base_url=plateau.url, timeout=30, trust_env=False) as client,
    ):
        run = ask(client, "slow", text, options={"gate": str(gate)})
        wait_until(lambda: record_of(client, run)["status"] == "running", "it is executed")
        redis.config_set("min-replicas-to-write", 1)
        refused_at = time.monotonic()
        gate.touch()

        def refusal() -> str:
            ready = client.get("/health/ready")
            return str(ready.json().get("cause", "")) if ready.status_code == 503 else ""

        wait_until(lambda: "NOREPLICAS" in refusal(), "readiness says so")
        streams = client.get("/health").json()["components"]["streams"]
        assert streams["status"] == "degraded" and "NOREPLICAS" in streams["cause"]
        assert client.post("/v1/runs", json={"agent": "echo", "input": "x"}).status_code == 503
        # Until whoever believed in leases would take its runner for dead.
        while time.monotonic() < refused_at + ABANDONED_S + 2:
            assert "NOREPLICAS" in refusal()
        redis.config_set("min-replicas-to-write", 0)
        events = follow(client, run["events_url"])
        told(events)
        record = record_of(client, run)
        assert (record["status"], record["attempt"]) == ("completed", 1), record
        assert record["output"] == f"before {text} after"
        wait_until(plateau.is_ready, "it is ready again")
    assert "runner_lost" not in plateau.stderr

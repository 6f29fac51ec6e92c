"""What clients are told when a Redis or every runner is away."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from redis import Redis

from plateau_sse.store.redis import keys
from tests.conftest import Server, end_server, start_server
from tests.integration.api_client import (
    SSE,
    api_serving,
    ask,
    assert_problem,
    finish,
    follow,
    keys_in,
    record_of,
    text_of,
    unique,
    wait_for_status,
)
from tests.processes import Serving, wait_until

PAGE = {"Origin": "http://localhost:3000"}


@contextmanager
def server_of_its_own(folder: Path) -> Iterator[Server]:
    server = start_server("streams", folder)
    try:
        yield server
    finally:
        end_server(server)


@contextmanager
def client_of(running: Serving) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url, timeout=30, trust_env=False) as client:
        yield client


@contextmanager
def without_a_runner(running: Serving, redis: Redis) -> Iterator[None]:
    """As it looks once the last runner has been gone for a while."""
    (runner,) = running.pids("plateau: runner")
    # With its master, which would start another.
    frozen = (running.process.pid, runner)
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        redis.delete(keys.QUEUE.runners)
        yield
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)


def test_while_the_streams_are_away(tmp_path: Path) -> None:
    with (
        server_of_its_own(tmp_path / "streams") as server,
        api_serving(tmp_path, {"REDIS_URL": server.url}) as running,
        client_of(running) as client,
    ):
        text = unique()
        run, found = finish(client, "echo", text), ask(client, "echo", text)
        server.process.kill()
        server.process.wait(10)

        body = {"agent": "echo", "input": unique()}
        answers = [
            client.post("/v1/runs", json=body, headers=PAGE),
            client.post("/v1/runs", json=body, headers=PAGE | SSE),
            client.get(f"/v1/runs/{run['id']}", headers=PAGE),
            client.post(run["cancel_url"], headers=PAGE),
        ]
        for response in answers:
            assert_problem(response, 503, "store_unavailable")
            assert int(response.headers["retry-after"]) >= 1
            assert response.headers["access-control-allow-origin"] == PAGE["Origin"]
        # EventSource would never come back from anything but a 200.
        events = client.get(run["events_url"], headers=PAGE)
        assert events.status_code == 200
        assert events.headers["content-type"].startswith("text/event-stream")
        assert events.headers["access-control-allow-origin"] == PAGE["Origin"]
        assert events.text.startswith("retry: ") and "data:" not in events.text
        # A hit lives in the cache alone.
        assert text_of(follow(client, found["events_url"])) == run["output"]
        assert client.get(f"/v1/runs/{found['id']}").status_code == 200

        assert client.get("/health/live").status_code == 200
        assert client.get("/health/ready").status_code == 503
        whole = client.get("/health")
        assert (whole.status_code, whole.json()["status"]) == (503, "down")
        assert whole.json()["components"]["streams"]["cause"]


def test_while_the_cache_is_away(tmp_path: Path) -> None:
    with (
        server_of_its_own(tmp_path / "cache") as server,
        api_serving(tmp_path, {"CACHE_REDIS_URL": server.url}) as running,
        client_of(running) as client,
    ):
        text = unique()
        finish(client, "echo", text)
        found = ask(client, "echo", text)
        server.process.kill()
        server.process.wait(10)

        again = finish(client, "echo", text)
        assert (again["cached"], again["output"]) == (False, found["output"])
        _told_to_come_back(client, found)
        assert client.get("/health/ready").status_code == 200
        whole = client.get("/health")
        assert (whole.status_code, whole.json()["status"]) == (200, "degraded")
        assert whole.json()["components"]["cache"]["status"] == "down"


def test_a_hit_whose_cache_only_hangs_has_not_been_evicted(tmp_path: Path) -> None:
    with (
        server_of_its_own(tmp_path / "cache") as server,
        api_serving(tmp_path, {"CACHE_REDIS_URL": server.url}) as running,
        client_of(running) as client,
    ):
        text = unique()
        run, found = finish(client, "echo", text), ask(client, "echo", text)
        server.process.send_signal(signal.SIGSTOP)
        try:
            _told_to_come_back(client, found)
        finally:
            server.process.send_signal(signal.SIGCONT)
        wait_until(
            lambda: client.get(f"/v1/runs/{found['id']}").status_code == 200, "it is found"
        )
        assert text_of(follow(client, found["events_url"])) == run["output"]


def _told_to_come_back(client: httpx.Client, found: dict[str, Any]) -> None:
    """About a hit whose entry is out of reach."""
    events = client.get(found["events_url"], headers=PAGE)
    assert events.status_code == 200
    assert events.headers["access-control-allow-origin"] == PAGE["Origin"]
    assert events.text.startswith("retry: ") and "data:" not in events.text
    for response in (
        client.get(f"/v1/runs/{found['id']}"),
        client.post(found["cancel_url"]),
    ):
        assert_problem(response, 503, "store_unavailable")


def test_while_the_streams_are_full(tmp_path: Path) -> None:
    with (
        server_of_its_own(tmp_path / "streams") as server,
        api_serving(tmp_path, {"REDIS_URL": server.url}) as running,
        client_of(running) as client,
        server.client() as redis,
    ):
        run = ask(client, "slow", options={"gate": str(tmp_path / "gate")})
        wait_for_status(client, run, "running")
        redis.config_set("maxmemory", "1mb")
        before = keys_in(server.url)
        for accept in ({}, SSE):
            body = {"agent": "echo", "input": unique()}
            response = client.post("/v1/runs", json=body, headers=accept)
            assert_problem(response, 503, "store_full")
            assert int(response.headers["retry-after"]) >= 1
        assert keys_in(server.url) <= before
        # What is under way still ends, and is read.
        (tmp_path / "gate").touch()
        wait_for_status(client, run, "completed")
        events = follow(client, run["events_url"])
        assert text_of(events) == record_of(client, run)["output"]


def test_without_a_runner(tmp_path: Path) -> None:
    with (
        server_of_its_own(tmp_path / "streams") as server,
        api_serving(tmp_path, {"REDIS_URL": server.url}) as running,
        client_of(running) as client,
        server.client() as redis,
    ):
        text = unique()
        run = finish(client, "echo", text)
        with without_a_runner(running, redis):
            before = keys_in(server.url)
            for accept in ({}, SSE):
                body = {"agent": "echo", "input": unique()}
                response = client.post("/v1/runs", json=body, headers=accept)
                assert_problem(response, 503, "no_runner")
                assert int(response.headers["retry-after"]) >= 1
            assert keys_in(server.url) <= before
            assert ask(client, "echo", text)["cached"] is True
            assert text_of(follow(client, run["events_url"])) == run["output"]
            assert client.get("/health/ready").status_code == 200
            whole = client.get("/health")
            assert (whole.status_code, whole.json()["status"]) == (200, "degraded")
            assert whole.json()["components"]["runner"]["alive"] == 0

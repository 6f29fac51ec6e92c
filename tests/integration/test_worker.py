"""Web workers leaving: recycled, replaced, stopped; what their clients notice of it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn
import uvloop

from plateau_sse.live.guard import Guard
from plateau_sse.live.protocol import LiveProtocol
from plateau_sse.live.weight import Weight
from plateau_sse.serve.worker import (
    FAREWELL_S,
    MIN_AGE_S,
    WITH_READERS,
    PlateauWorker,
    WorkerServer,
)
from tests.processes import Serving, serving, wait_until

WORKER, RUNNER = "gunicorn: worker", "plateau: runner"

SLOW_AGENT = """
import asyncio

async def slow(run):
    for number in range(600):
        yield f"{number} "
        await asyncio.sleep(0.05)
"""

YOUNG_WORKERS = """
from plateau_sse.cli import main
from plateau_sse.serve.worker import PlateauWorker

PlateauWorker.min_age_s = 0
raise SystemExit(main(["serve"]))
"""


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Serving]:
    """A serve whose agent `slow` takes half a minute."""
    (tmp_path / "slowly.py").write_text(SLOW_AGENT)
    env = {"AGENTS": "slow=slowly:slow", "GRACEFUL_TIMEOUT_S": "5"}
    with serving(tmp_path, env=env) as running:
        yield running


def open_events(running: Serving, client: httpx.Client) -> str:
    """The URL of the events of a new slow run."""
    run = client.post(
        running.url + "/v1/runs", json={"agent": "slow", "input": "x", "cache": {"mode": "off"}}
    )
    assert run.status_code == 202, run.text
    return running.url + str(run.json()["events_url"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_open_stream_is_ended_not_broken_off(slow: Serving, number: signal.Signals) -> None:
    with httpx.Client(timeout=10) as client:
        with client.stream("GET", open_events(slow, client)) as response:
            lines = response.iter_lines()
            assert any("message.delta" in line for line in lines)
            began = time.monotonic()
            slow.send(number)
            # Raises where the response is not complete.
            rest = list(lines)
        assert time.monotonic() - began < 4
    assert any(line.startswith("retry:") for line in rest)
    slow.stop()
    assert "Traceback" not in slow.stderr
    assert "cut" not in slow.stderr


def test_sighup_replaces_workers_and_runner_and_nothing_else(slow: Serving) -> None:
    before = slow.tree()
    old = {pid for pid, title in before.items() if WORKER in title or RUNNER in title}
    with httpx.Client(timeout=10) as client:
        with client.stream("GET", open_events(slow, client)) as response:
            slow.send(signal.SIGHUP)
            assert any(line.startswith("retry:") for line in list(response.iter_lines())[1:])
    wait_until(lambda: not old & slow.tree().keys(), "the old ones have gone")
    wait_until(lambda: len(slow.tree()) == len(before), "new ones have come")
    assert before.keys() - old <= slow.tree().keys()
    assert httpx.get(slow.url + "/health/live").status_code == 200
    assert "died" not in slow.stderr


def test_a_stuck_response_is_cut_within_the_grace(tmp_path: Path) -> None:
    """One that nobody can end: the application itself does not answer."""
    with serving(
        tmp_path,
        arguments=["-c", STUCK_APP],
        env={"GRACEFUL_TIMEOUT_S": "5", "WEB_CONCURRENCY": "1"},
    ) as running:
        failed: list[Exception] = []

        def ask() -> None:
            try:
                httpx.get(running.url + "/v1/stuck", timeout=20)
            except httpx.HTTPError as error:
                failed.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        wait_until(lambda: "stuck" in running.stderr, "the request has arrived")
        began = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - began < 6
        asking.join(10)
        assert failed
        assert "1 connections did not end within 2 s and are cut" in running.stderr
        assert "Traceback" not in running.stderr


STUCK_APP = """
import asyncio, os, sys
import plateau_sse.app

create_app = plateau_sse.app.create_app

def stuck(settings, board):
    app = create_app(settings, board)

    async def wrapped(scope, receive, send):
        if scope["type"] == "http" and scope["path"] == "/v1/stuck":
            print("stuck", file=sys.stderr, flush=True)
            await asyncio.sleep(float(os.environ.get("STUCK_S", "60")))
        await app(scope, receive, send)

    return wrapped

plateau_sse.app.create_app = stuck
from plateau_sse.cli import main
raise SystemExit(main(["serve"]))
"""


UNCLOSING_APP = """
import asyncio
import plateau_sse.app

create_app = plateau_sse.app.create_app

def unclosing(settings, board):
    app = create_app(settings, board)

    async def wrapped(scope, receive, send):
        await app(scope, receive, send if scope["type"] == "http" else deaf(send))

    return wrapped

def deaf(send):
    async def sending(message):
        if message["type"] == "lifespan.shutdown.complete":
            await asyncio.sleep(60)
        await send(message)

    return sending

plateau_sse.app.create_app = unclosing
from plateau_sse.cli import main
raise SystemExit(main(["serve"]))
"""


def test_an_application_that_does_not_close_is_not_waited_for(tmp_path: Path) -> None:
    with serving(tmp_path, arguments=["-c", UNCLOSING_APP]) as running:
        began = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - began < 6
        assert "did not close within 2 s" in running.stderr


def test_impatience_shortens_a_graceful_stop(tmp_path: Path) -> None:
    with (
        serving(tmp_path, arguments=["-c", STUCK_APP], env={"WEB_CONCURRENCY": "1"}) as running,
        socket.create_connection(("127.0.0.1", running.port)) as connection,
    ):
        connection.sendall(b"GET /v1/stuck HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_until(lambda: "stuck" in running.stderr, "the request has arrived")
        began = time.monotonic()
        running.tree()
        running.send(signal.SIGTERM)
        wait_until(lambda: not running.pids(RUNNER), "it is stopping")
        assert running.pids(WORKER)
        assert running.stop(signal.SIGINT) == 0
        assert time.monotonic() - began < 10
        assert "Traceback" not in running.stderr


def test_a_worker_that_leaves_for_longer_than_it_may_be_silent_is_not_killed(
    tmp_path: Path,
) -> None:
    env = {"WEB_CONCURRENCY": "1", "WORKER_TIMEOUT_S": "5", "STUCK_S": "11"}
    with serving(tmp_path, arguments=["-c", STUCK_APP], env=env) as running:
        answers: list[int] = []

        def ask() -> None:
            answers.append(httpx.get(running.url + "/v1/stuck", timeout=30).status_code)

        asking = threading.Thread(target=ask)
        asking.start()
        wait_until(lambda: "stuck" in running.stderr, "the request has arrived")
        (old,) = running.pids(WORKER)
        running.send(signal.SIGHUP)
        asking.join(30)
        assert answers == [404]
        wait_until(lambda: old not in running.pids(WORKER), "it has gone")
        assert "TIMEOUT" not in running.stderr


def test_a_frozen_worker_is_replaced(tmp_path: Path) -> None:
    env = {"WEB_CONCURRENCY": "1", "WORKER_TIMEOUT_S": "5"}
    with serving(tmp_path, env=env) as running:
        before = running.pids(WORKER)
        os.kill(before[0], signal.SIGSTOP)
        wait_until(
            lambda: running.pids(WORKER) not in ([], before), "another one", timeout_s=20
        )
        assert "WORKER TIMEOUT" in running.stderr


def test_recycling_breaks_no_connection(tmp_path: Path) -> None:
    """Every worker is replaced under load, one at a time, and no request fails."""
    env = {"MAX_REQUESTS": "40", "MAX_REQUESTS_JITTER": "5"}
    with serving(tmp_path, arguments=["-c", YOUNG_WORKERS], env=env) as running:
        first = set(running.pids(WORKER))
        fewest, told, asked = len(first), 0, 0
        with httpx.Client(timeout=10) as one, httpx.Client(timeout=10) as other:

            def load() -> bool:
                nonlocal told, asked, fewest
                for client in (one, other):
                    answer = client.get(running.url + "/v1/models")
                    assert answer.status_code == 200
                    told += answer.headers.get("connection") == "close"
                    asked += 1
                now = running.pids(WORKER)
                fewest = min(fewest, len(now))
                return len(now) == 2 and not first & set(now)

            wait_until(load, "both workers are replaced", timeout_s=40)
        assert told >= 2
        assert fewest >= 1
        assert "recycled after" in running.stderr
        assert "died" not in running.stderr
        assert "WORKER TIMEOUT" not in running.stderr


def test_what_costs_nothing_replaces_nobody(tmp_path: Path) -> None:
    """Pages, looks at its health, and what there is not or nobody may have."""
    env = {"MAX_REQUESTS": "40", "MAX_REQUESTS_JITTER": "0", "WEB_CONCURRENCY": "1"}
    env |= {"API_KEYS": "key-of-ann-12345"}
    with (
        serving(tmp_path, arguments=["-c", YOUNG_WORKERS], env=env) as running,
        httpx.Client(base_url=running.url, timeout=10, trust_env=False) as client,
    ):
        key = {"Authorization": "Bearer key-of-ann-12345"}
        first = running.pids(WORKER)
        for path, status in (
            ("/nothing", 404),
            ("/v1/nothing", 404),
            ("/v1/models", 401),
            ("/v1/runs/" + "0" * 32, 401),
            ("/health/live", 200),
            ("/health", 200),
            ("/", 200),
        ):
            for _ in range(60):
                assert client.get(path).status_code == status
        for _ in range(60):
            assert client.get("/v1/runs/" + "f" * 32, headers=key).status_code == 404
        # It looks once a second.
        began = time.monotonic()
        wait_until(lambda: time.monotonic() - began > 2.5, "it has looked")
        assert running.pids(WORKER) == first and "recycled" not in running.stderr
        for _ in range(60):
            assert client.get("/v1/models", headers=key).status_code == 200
        wait_until(lambda: running.pids(WORKER) != first, "it is replaced", timeout_s=20)


def make_server(
    turn: bool, *, readers: int = 0, served: int = 5000, heavy: bool = False
) -> WorkerServer:
    """One that is driven by hand; `turn`: whether no other worker is being recycled."""

    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    worker: Any = SimpleNamespace(
        cfg=SimpleNamespace(graceful_timeout=20),
        max_requests=1000,
        min_age_s=MIN_AGE_S,
        ppid=os.getppid(),
        takes_turn=lambda: turn,
    )
    server = WorkerServer(uvicorn.Config(app, log_config=None), worker)
    guard = SimpleNamespace(served=served, weight=Weight(1, lambda: 2 if heavy else 1))
    hub = SimpleNamespace(readers=readers)
    server.lifespan = SimpleNamespace(state={"hub": hub, "guard": guard})
    return server


def tick(server: WorkerServer, after_s: float) -> bool:
    server._recycle_when_due(time.monotonic() + after_s)
    return server.should_exit


def test_a_young_worker_is_not_recycled() -> None:
    server = make_server(turn=True)
    assert not tick(server, MIN_AGE_S - 5)
    assert not server.config.encoded_headers


def test_a_worker_waits_for_its_turn() -> None:
    server = make_server(turn=False)
    assert not tick(server, MIN_AGE_S + 5)
    assert not tick(server, MIN_AGE_S + 500)
    assert not server.config.encoded_headers


def test_a_worker_says_farewell_before_it_leaves() -> None:
    server = make_server(turn=True)
    assert not tick(server, MIN_AGE_S + 5)
    assert (b"connection", b"close") in server.server_state.default_headers
    assert (b"connection", b"close") in server.config.encoded_headers
    assert not tick(server, MIN_AGE_S + 5 + FAREWELL_S / 2)
    assert tick(server, MIN_AGE_S + 5 + FAREWELL_S)


def test_who_is_connected_as_a_worker_goes_is_answered() -> None:
    """The kernel resets those that nobody has accepted."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"yes"})

    async def scenario() -> None:
        server = make_server(turn=True)
        server.config = uvicorn.Config(app, http=LiveProtocol, lifespan="off", log_config=None)
        server.config.load()
        server.lifespan.state["guard"] = Guard()
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        loop = asyncio.get_running_loop()
        server.servers = [await loop.create_server(server._newcomer, sock=listener)]
        peers = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(3)]
        for peer in peers:
            peer.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        await server._close_listeners([listener])
        for peer in peers:
            assert b"200 OK" in await loop.run_in_executor(None, peer.recv, 4096)
            peer.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(scenario(), 30))


def test_a_worker_with_readers_is_not_recycled_sooner_than_it_must_be() -> None:
    most = 1000
    server = make_server(turn=True, readers=1, served=WITH_READERS * most - 1)
    assert not tick(server, MIN_AGE_S + 5) and not server.config.encoded_headers
    # Without them it would have left long ago, and leaves when they have.
    server.lifespan.state["hub"].readers = 0
    tick(server, MIN_AGE_S + 6)
    assert server.config.encoded_headers
    server = make_server(turn=True, readers=1, served=WITH_READERS * most)
    tick(server, MIN_AGE_S + 5)
    assert server.config.encoded_headers


def test_a_worker_that_is_too_heavy_is_replaced_once_its_readers_have_gone() -> None:
    server = make_server(turn=True, readers=1, served=1, heavy=True)
    tick(server, MIN_AGE_S + 5)
    assert not server.config.encoded_headers
    server.lifespan.state["hub"].readers = 0
    tick(server, MIN_AGE_S - 5)
    assert not server.config.encoded_headers
    tick(server, MIN_AGE_S + 6)
    assert server.config.encoded_headers
    # One that has done nothing is as heavy as the next one would be.
    server = make_server(turn=True, served=0, heavy=True)
    tick(server, MIN_AGE_S + 5)
    assert not server.config.encoded_headers


def test_uvicorn_itself_counts_nothing() -> None:
    assert PlateauWorker.CONFIG_KWARGS["limit_max_requests"] is None
    server = make_server(turn=False)
    assert not asyncio.run(server.on_tick(1))

"""A web worker that has more memory than it may: it keeps whom it has, and sends others on."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.api_client import api_serving, ask
from tests.integration.wire import get, read_on, statuses
from tests.processes import Serving, wait_until

TOKEN = "a-token-of-this-test"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
ENV = {"ADMIN_TOKEN": TOKEN, "MAX_REQUESTS": "0"}
MIB = 1024**2
# What the bound is above what an idle worker has, and what it is made to hold then.
ABOVE, BODIES = 10 * MIB, 15


def picture_of(url: str) -> dict[str, Any]:
    answer = httpx.get(f"{url}/api/admin/metrics", headers=BEARER, trust_env=False)
    found: dict[str, Any] = answer.json()
    return found


def web(picture: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for one in picture["workers"]["processes"] if one["role"] == "web"]


@pytest.fixture(scope="module")
def plateau(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """Two workers with a bound that is above what they have when they are idle."""
    with api_serving(tmp_path_factory.mktemp("idle"), ENV) as idle:
        for _ in range(40):
            httpx.get(f"{idle.url}/v1/models", trust_env=False).raise_for_status()
        wait_until(lambda: len(web(picture_of(idle.url))) == 2, "both are known")
        most = max(int(one["pss"]) for one in web(picture_of(idle.url)))
    env = ENV | {"WORKER_MAX_MEMORY": str(most + ABOVE)}
    with api_serving(tmp_path_factory.mktemp("heavy"), env) as running:
        yield running


def connection(plateau: Serving, stack: ExitStack) -> tuple[int, socket.socket]:
    """The pid of the worker that has it, and a connection that is kept for a next request."""
    peer = stack.enter_context(
        socket.create_connection(("127.0.0.1", plateau.port), timeout=20)
    )
    peer.sendall(get(b"/health", b"Authorization: Bearer " + TOKEN.encode()))
    # The whole of it ends with what each host says.
    read = read_on(peer, b'"hosts"')
    while True:
        head, _, body = read.partition(b"\r\n\r\n")
        size = re.search(rb"(?i)content-length: (\d+)", head)
        assert size is not None, head
        if len(body) >= int(size[1]):
            return int(json.loads(body)["components"]["web"]["pid"]), peer
        read += peer.recv(65536)


def connection_to(plateau: Serving, stack: ExitStack, pid: int) -> socket.socket:
    for _ in range(200):
        found, peer = connection(plateau, stack)
        if found == pid:
            return peer
    raise AssertionError(f"nobody came to {pid}")


def grow(peers: list[socket.socket]) -> None:
    """By bodies that do not come to their ends."""
    for peer in peers:
        peer.sendall(b"POST /v1/runs HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % MIB)
        peer.sendall(b" " * (MIB - 100))


def test_a_heavy_worker_sends_new_readers_on_and_keeps_its_own(
    plateau: Serving, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    with (
        ExitStack() as stack,
        httpx.Client(base_url=plateau.url, timeout=30, trust_env=False) as client,
    ):
        run = ask(client, "slow", options={"gate": str(gate)})
        stream = get(run["events_url"].encode())
        pid, mine = connection(plateau, stack)
        mine.sendall(stream)
        assert b"before" in read_on(mine, b"before")
        with ExitStack() as bodies:
            grow([connection_to(plateau, bodies, pid) for _ in range(BODIES)])
            late = connection_to(plateau, stack, pid)

            def heavy() -> list[int]:
                return [int(it["pid"]) for it in web(picture_of(plateau.url)) if it["heavy"]]

            wait_until(lambda: heavy() == [pid], "it says that it is too heavy")
            late.sendall(stream)
            # The whole answer, and the end of the connection: nothing is reset.
            told = b"".join(iter(lambda: late.recv(65536), b""))
            assert statuses(told) == [b"200"] and b"before" not in told
            assert 5000 <= int(re.findall(rb"retry: (\d+)\n", told)[0]) <= 15_000
            assert b"connection: close" in told.lower()

            # What is no stream is served, and a stream by the other.
            pids = {int(it["pid"]) for it in web(picture_of(plateau.url))}
            (other,) = pids - {pid}
            again = connection_to(plateau, stack, other)
            again.sendall(stream)
            assert b"before" in read_on(again, b"before")

            whole = client.get("/health", headers=BEARER).json()["components"]["web"]
            assert whole["status"] == "degraded" and "takes no more streams" in whole["cause"]
            picture = picture_of(plateau.url)
            assert "heavy" in {advice["rule"] for advice in picture["advice"]}
            metrics = client.get("/metrics", headers=BEARER).text
            assert re.search(r"^plateau_workers_heavy\{[^}]*\} 1.0$", metrics, re.M), metrics
            assert "a stream is put off: this worker has" in plateau.stderr

        wait_until(lambda: not heavy(), "it has given back what it held", timeout_s=40)
        back = connection_to(plateau, stack, pid)
        back.sendall(stream)
        assert b"before" in read_on(back, b"before")
        gate.touch()
        for reader in (mine, again, back):
            assert b"run.completed" in read_on(reader, b"run.completed")


def test_one_that_is_too_heavy_from_the_first_serves_whatever_is_no_stream(
    tmp_path: Path,
) -> None:
    env = ENV | {"WORKER_MAX_MEMORY": "1mb", "WEB_CONCURRENCY": "1"}
    with (
        api_serving(tmp_path, env) as running,
        httpx.Client(base_url=running.url, timeout=30, trust_env=False) as client,
    ):
        body = {"agent": "echo", "input": "x"}
        answer = client.post("/v1/runs", json=body, headers={"Prefer": "wait=20"})
        assert answer.status_code == 200 and answer.json()["status"] == "completed"
        run = ask(client, "echo")
        answer = client.get(run["events_url"])
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        assert answer.text.startswith("retry: ") and "data:" not in answer.text
        # In other dialects, and where a run would be begun for a stream: none is.
        said = {"model": "echo", "stream": True, "messages": [{"role": "user", "content": "y"}]}
        refused = client.post("/v1/chat/completions", json=said)
        assert refused.status_code == 503 and refused.headers["retry-after"]
        assert client.get("/health/ready").status_code == 200

"""A whole service whose processes may open few files, and clients who would have them all."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import httpx
import psutil
import pytest

from plateau_sse.files import FILES_MOST, connections_most, streams_most
from tests.integration.api_client import api_serving, ask
from tests.integration.wire import connected, get, read_on, rest_of, statuses
from tests.processes import Serving, wait_until

# As a unit, or a shell, has them; the soft one is raised.
SOFT, HARD = 100, 200
MOST = connections_most(HARD)
STREAMS = streams_most(MOST)
TOKEN = "a-token-of-this-test"
CLOSED = b"\r\nconnection: close\r\n"
LIMITED = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({SOFT}, {HARD}))
from plateau_sse.cli import main
raise SystemExit(main(["serve"]))
"""


@pytest.fixture(scope="module")
def plateau(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    env = {"WEB_CONCURRENCY": "1", "ADMIN_TOKEN": TOKEN}
    folder = tmp_path_factory.mktemp("guard")
    with api_serving(folder, env, arguments=("-c", LIMITED)) as running:
        yield running


@pytest.fixture
def client(plateau: Serving) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=plateau.url, timeout=30, trust_env=False) as opened:
        yield opened


def worker_of(plateau: Serving) -> psutil.Process:
    (pid,) = plateau.pids("gunicorn: worker")
    return psutil.Process(pid)


def metric(client: httpx.Client, name: str) -> float:
    text = client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).text
    return sum(float(value) for value in re.findall(rf"^{name}{{[^}}]*}} (\S+)", text, re.M))


def test_the_soft_limit_is_raised_to_the_hard_one(plateau: Serving) -> None:
    assert worker_of(plateau).rlimit(psutil.RLIMIT_NOFILE) == (HARD, HARD)
    assert FILES_MOST > HARD


def test_streams_leave_room_and_who_finds_none_is_to_come_back(
    plateau: Serving, client: httpx.Client
) -> None:
    gate = plateau.data_dir / "gate"
    run = ask(client, "slow", options={"gate": str(gate)})
    stream = get(run["events_url"].encode())
    with ExitStack() as stack:
        told = []
        for _ in range(STREAMS + 10):
            peer = stack.enter_context(connected(plateau))
            peer.sendall(stream)
            told.append(read_on(peer, b"retry: "))
        assert all(statuses(read) == [b"200"] for read in told)
        assert not any(CLOSED in read.lower() for read in told[: STREAMS // 2])
        late = [stack.enter_context(connected(plateau)) for _ in range(3)]
        for peer in late:
            peer.sendall(stream)
            read = read_on(peer, b"0\r\n\r\n")
            assert 5000 <= int(re.findall(rb"retry: (\d+)\n", read)[0])
            # A browser would keep it, and many of them all that is left of the room.
            assert CLOSED in read.lower() and rest_of(peer) == b""
        # What is no stream is served, and says what is the matter.
        finished = client.post(
            "/v1/runs", json={"agent": "echo", "input": "x"}, headers={"Prefer": "wait=20"}
        )
        assert finished.status_code == 200 and finished.json()["status"] == "completed"
        assert metric(client, "plateau_streams_put_off_total") >= 3
        web = client.get("/health").json()["components"]["web"]
        assert web["status"] == "degraded" and "streams found no room" in web["cause"]
        picture = client.get(
            "/api/admin/metrics", headers={"Authorization": f"Bearer {TOKEN}"}
        ).json()
        assert "connections" in {advice["rule"] for advice in picture["advice"]}
        assert picture["sse"]["put_off"] >= 3
        assert f"a stream is put off: {STREAMS}" in plateau.stderr
    gate.touch()


def test_silent_connections_take_nobodys_place(plateau: Serving, client: httpx.Client) -> None:
    with ExitStack() as stack:
        silent = []
        for _ in range(3 * HARD):
            peer = socket.create_connection(("127.0.0.1", plateau.port), timeout=20)
            silent.append(stack.enter_context(peer))
        for _ in range(20):
            with httpx.Client(base_url=plateau.url, timeout=20, trust_env=False) as other:
                ask(other, "echo")
                assert other.get("/health/ready").status_code == 200
        worker = worker_of(plateau)
        assert worker.num_fds() <= HARD

        def is_counted() -> bool:
            return metric(client, "plateau_connections_cut_total") >= 3 * HARD - MOST

        wait_until(is_counted, "it is counted")
        assert "connections are open, as many as may be" in plateau.stderr


def test_hostile_bytes_cost_no_more_than_twice_what_they_are(
    plateau: Serving, client: httpx.Client
) -> None:
    """Before any key is asked for. And others are served meanwhile."""
    peers, data = 20, b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n" * 14_000
    worker = worker_of(plateau)
    ask(client, "echo")
    before = worker.memory_info().rss
    total = 0
    with ExitStack() as stack:
        for _ in range(peers):
            peer = stack.enter_context(connected(plateau))
            peer.setblocking(False)
            sent = 0
            # What of it is taken: the answers are not read.
            with suppress(BlockingIOError):
                while sent < len(data):
                    sent += peer.send(data[sent : sent + 65_536])
            total += sent
        slowest = 0.0
        for _ in range(30):
            slowest = max(slowest, client.get("/health/live").elapsed.total_seconds())
        grown = worker.memory_info().rss - before
    assert grown < 2 * total + peers * 16 * 1024
    # A tenth is promised; the machine may be busy with other tests.
    assert slowest < 1

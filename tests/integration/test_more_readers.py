"""More readers than a service may open files, and beside readers those who ask nothing: who
fits is served to the end, the others come back, and nobody is reset."""

from __future__ import annotations

import asyncio
import re
import resource
import statistics
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
from benchmarks.measuring import private_kib

from plateau_sse.files import connections_most, streams_most
from plateau_sse.live.guard import BODY_S, HEAD_S
from tests.integration.api_client import api_serving, ask, finish
from tests.integration.wire import get
from tests.processes import Serving, wait_until

# As a shell and a unit have them, and no more may be had.
FILES, WORKERS = 1024, 2
READERS = 3000
FIT = WORKERS * streams_most(connections_most(FILES))
LIMITED = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({FILES}, {FILES}))
from plateau_sse.cli import main
raise SystemExit(main(["serve"]))
"""
TOKEN = "a-token-of-this-test"
WITHIN_S = 60.0
# Beside readers.
LISTENING, SILENT, SLOW = 500, 2000, 200
GROWTH_KIB = 20 * 1024


@pytest.fixture(autouse=True)
def files() -> Iterator[None]:
    """This process has as many sockets as all of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * READERS:
        pytest.skip("this process may open few files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4 * READERS, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Peer:
    """One connection; `told` is what came over it, `is_over` whether it has ended in order."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.told = b""
        self.is_over = False

    async def open(self, data: bytes = b"") -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port)
        self.writer.write(data)
        await self.writer.drain()

    async def read_until(self, *ends: bytes) -> None:
        """Raises where it is reset."""
        async with asyncio.timeout(WITHIN_S):
            while not any(end in self.told for end in ends):
                more = await self.reader.read(65536)
                if not more:
                    self.is_over = True
                    return
                self.told += more

    async def close(self) -> None:
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()


async def opened(port: int, many: int, data: bytes) -> list[Peer]:
    """Not more at a time than a listener's queue has."""
    peers = [Peer(port) for _ in range(many)]
    for at in range(0, many, 100):
        await asyncio.gather(*(peer.open(data) for peer in peers[at : at + 100]))
    return peers


def test_more_readers_than_files(tmp_path: Path) -> None:
    env = {"WEB_CONCURRENCY": str(WORKERS), "ADMIN_TOKEN": TOKEN, "MAX_REQUESTS": "0"}
    gate = tmp_path / "gate"
    with (
        api_serving(tmp_path, env, arguments=("-c", LIMITED)) as plateau,
        httpx.Client(base_url=plateau.url, timeout=WITHIN_S, trust_env=False) as client,
    ):
        workers = plateau.pids("gunicorn: worker")
        run = ask(client, "slow", options={"gate": str(gate)})
        stream = get(run["events_url"].encode())

        async def scenario() -> tuple[int, int]:
            peers = await opened(plateau.port, READERS, stream)
            await asyncio.gather(*(peer.read_until(b"before", b"retry: ") for peer in peers))
            # The first frame may be the `retry:` that each stream begins with.
            await asyncio.gather(*(peer.read_until(b"before", b"\r\n0\r\n") for peer in peers))
            served = [peer for peer in peers if b"before" in peer.told]
            others = [peer for peer in peers if b"before" not in peer.told]
            for peer in others:
                assert peer.told.startswith(b"HTTP/1.1 200 "), peer.told
                assert int(re.findall(rb"retry: (\d+)\n", peer.told)[-1]) >= 5000
                await peer.close()
            # What is no stream is answered, all of it.
            for _ in range(20):
                done = await asyncio.to_thread(finish, client, "echo")
                assert done["status"] == "completed"
            bearer = {"Authorization": f"Bearer {TOKEN}"}
            health = await asyncio.to_thread(client.get, "/health", headers=bearer)
            assert "streams found no room" in health.json()["components"]["web"]["cause"]
            gate.touch()
            await asyncio.gather(*(peer.read_until(b"run.completed") for peer in served))
            assert all(b"run.completed" in peer.told for peer in served)
            await asyncio.gather(*(peer.close() for peer in served))
            # They come back, and there is room.
            again = await opened(plateau.port, len(others), stream)
            await asyncio.gather(*(peer.read_until(b"run.completed") for peer in again))
            assert all(b"run.completed" in peer.told for peer in again)
            await asyncio.gather(*(peer.close() for peer in again))
            return len(served), len(others)

        served, others = asyncio.run(scenario())
        assert served + others == READERS and served <= FIT and others >= READERS - FIT
        # Workers take what comes to them: one may be full while the other is not yet.
        assert served >= FIT / 2
        assert "a stream is put off" in plateau.stderr
        assert plateau.pids("gunicorn: worker") == workers
        assert "Traceback" not in plateau.stderr, plateau.stderr[-4000:]


@pytest.mark.timeout(240)
def test_who_asks_nothing_is_no_burden_to_readers(tmp_path: Path) -> None:
    """Slow heads, slow bodies and silence; all of them are gone in the end."""
    env = {"WEB_CONCURRENCY": "1", "MAX_REQUESTS": "0"}
    with (
        api_serving(tmp_path, env) as plateau,
        httpx.Client(base_url=plateau.url, timeout=WITHIN_S, trust_env=False) as client,
    ):
        (pid,) = plateau.pids("gunicorn: worker")
        run = ask(client, "external")
        asyncio.run(beside_those(plateau, client, psutil.Process(pid), run))
        assert "Traceback" not in plateau.stderr, plateau.stderr[-4000:]


async def lags_s(client: httpx.Client, run: dict[str, str], peers: list[Peer], n: int) -> float:
    """The 95th percentile of what readers wait for events, from asking to tell one on."""
    found: list[float] = []
    for number in range(n):
        text = f"word-{time.monotonic_ns()}-{number} "
        began = time.monotonic()

        async def heard(peer: Peer, text: bytes, began: float) -> float:
            await peer.read_until(text)
            peer.told = b""
            return time.monotonic() - began

        listening = [asyncio.create_task(heard(it, text.encode(), began)) for it in peers]
        await asyncio.sleep(0)
        event = [{"type": "message.delta", "text": text}]
        path = f"/v1/runs/{run['id']}/events"
        answer = await asyncio.to_thread(client.post, path, json=event)
        assert answer.status_code == 200
        found += await asyncio.gather(*listening)
        await asyncio.sleep(0.05)
    return statistics.quantiles(found, n=20)[-1]


async def beside_those(
    plateau: Serving, client: httpx.Client, worker: psutil.Process, run: dict[str, str]
) -> None:
    readers = await opened(plateau.port, LISTENING, get(run["events_url"].encode()))
    await asyncio.gather(*(peer.read_until(b"run.started") for peer in readers))
    await lags_s(client, run, readers, 3)
    alone_s = await lags_s(client, run, readers, 20)
    before = private_kib([worker.pid])
    had = len(worker.net_connections())

    silent = await opened(plateau.port, SILENT, b"")
    head = b"POST /v1/runs HTTP/1.1\r\nHost: x\r\n"
    heads = await opened(plateau.port, SLOW, head)
    body = head + b"Content-Length: 1000\r\n\r\n{"
    bodies = await opened(plateau.port, SLOW, body)
    began = time.monotonic()

    async def drip() -> None:
        """A byte now and then of each, until they are closed on."""
        for peer in heads:
            peer.writer.write(b"X")
        for peer in bodies:
            peer.writer.write(b" ")

    worst_kib, lags = 0, []
    while time.monotonic() - began < HEAD_S / 2:
        await drip()
        lags.append(await lags_s(client, run, readers, 5))
        worst_kib = max(worst_kib, private_kib([worker.pid]) - before)
    beside_s = statistics.median(lags)
    assert worst_kib < GROWTH_KIB
    # A hundredth of a second is what a busy machine adds to either.
    assert beside_s < 2 * alone_s + 0.01, (alone_s, beside_s)

    def left() -> int:
        return len(worker.net_connections()) - had

    while left() > 0 and time.monotonic() - began < BODY_S + HEAD_S:
        await asyncio.sleep(1)
        with suppress(OSError):
            await drip()
    assert left() <= 0 and time.monotonic() - began < BODY_S + HEAD_S
    # Whoever reads has not noticed.
    assert await lags_s(client, run, readers, 3) < WITHIN_S
    await asyncio.gather(*(peer.close() for peer in [*readers, *silent, *heads, *bodies]))
    answer = await asyncio.to_thread(
        client.post, f"/v1/runs/{run['id']}/events", json=[{"type": "run.completed"}]
    )
    assert answer.status_code == 200
    wait_until(lambda: private_kib([worker.pid]) - before < GROWTH_KIB, "it is given back")

"""The five ways in which the service's predecessor leaked, each held against the real service.

Invariant: what is measured is what an operator would see: the Redis servers' own statistics and
the workers' memory as the kernel accounts it.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from benchmarks.measuring import private_kib
from redis import Redis

from plateau_sse.store.redis import keys
from tests.integration.api_client import api_serving, finish, follow, unique
from tests.processes import Serving, wait_until

CACHE_BYTES = 2 * 1024**2
READERS = 100
GROWTH_KIB = 2 * 1024


@pytest.fixture(scope="module")
def plateau(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    # No worker is replaced: what it leaks stays with it.
    env = {"CACHE_MAX_MEMORY": str(CACHE_BYTES), "MAX_REQUESTS": "0"}
    with api_serving(tmp_path_factory.mktemp("leaks"), env) as running:
        yield running


@pytest.fixture
def client(plateau: Serving) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=plateau.url, timeout=30, trust_env=False) as opened:
        yield opened


@pytest.fixture
def cache(plateau: Serving) -> Iterator[Redis]:
    with Redis.from_url(plateau.cache_url, protocol=2) as opened:
        yield opened


@pytest.fixture
def streams(plateau: Serving) -> Iterator[Redis]:
    with Redis.from_url(plateau.streams_url, protocol=2) as opened:
        yield opened


def noise(letters: int) -> str:
    """A text that does not get shorter."""
    return "".join(random.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=letters))


@contextmanager
def highest(url: str) -> Iterator[list[int]]:
    """The most memory that the server there used during the block, as its only item."""
    found, over = [0], threading.Event()

    def sample() -> None:
        with Redis.from_url(url, protocol=2) as own:
            while not over.wait(0.005):
                info: Any = own.info("memory")
                found[0] = max(found[0], info["used_memory"])

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def test_cache_respects_its_limits(client: httpx.Client, cache: Redis) -> None:
    """Distinct answers of 60 KB, more than fit: the oldest go, the latest are there."""
    before: Any = cache.info("stats")
    texts = [noise(60_000) for _ in range(40)]
    for text in texts:
        assert finish(client, "echo", text)["status"] == "completed"
    after: Any = cache.info("stats")
    assert after["evicted_keys"] > before["evicted_keys"]
    policy: Any = cache.config_get("maxmemory*")
    assert policy["maxmemory-policy"] == "allkeys-lru"
    assert int(policy["maxmemory"]) == CACHE_BYTES
    found = client.post("/v1/runs", json={"agent": "echo", "input": texts[-1]})
    assert found.headers["x-cache"] == "hit" and found.json()["output"].endswith(texts[-1])
    # A twentieth is the most that one may take: this one is answered, and not kept.
    large = noise(200_000)
    for _ in range(2):
        run = finish(client, "echo", large)
        assert run["cached"] is False and run["output"].endswith(large)


def test_cache_memory_is_bounded(plateau: Serving, client: httpx.Client, cache: Redis) -> None:
    largest = 0
    with highest(plateau.cache_url) as most:
        for _ in range(60):
            finish(client, "echo", noise(random.randint(1000, 80_000)))
        for key in cache.scan_iter():
            largest = max(largest, int(cache.memory_usage(key) or 0))
    assert 0 < most[0] <= CACHE_BYTES + largest
    # One that has been evicted since it was named has none; -1 would be no end of life.
    assert all(cache.ttl(key) != -1 for key in cache.scan_iter())


def clients_of(plateau: Serving) -> int:
    """Connections that its workers have accepted, closed ones that they still hold included."""
    return sum(
        bool(socket.raddr) and socket.laddr.port == plateau.port
        for pid in plateau.pids("gunicorn: worker")
        for socket in psutil.Process(pid).net_connections()
    )


def test_responses_clean_up(
    plateau: Serving, client: httpx.Client, streams: Redis, tmp_path: Path
) -> None:
    """Readers who leave in the middle leave nothing: no socket, no subscription."""
    gate = tmp_path / "gate"
    body = {"agent": "slow", "input": unique(), "options": {"gate": str(gate)}}
    run = client.post("/v1/runs", json=body).json()
    before, own = clients_of(plateau), len(streams.pubsub_shardchannels())

    async def read_and_leave() -> None:
        limits = httpx.Limits(max_connections=READERS)
        async with httpx.AsyncClient(base_url=plateau.url, timeout=30, limits=limits) as many:

            async def read() -> None:
                async with many.stream("GET", run["events_url"]) as response:
                    async for line in response.aiter_lines():
                        if "before" in line:
                            return

            await asyncio.gather(*(read() for _ in range(READERS)))

    asyncio.run(read_and_leave())

    def all_gone() -> bool:
        return clients_of(plateau) <= before and len(streams.pubsub_shardchannels()) <= own

    wait_until(all_gone, "sockets and subscriptions are gone", timeout_s=30)
    gate.touch()
    assert follow(client, run["events_url"])[-1].type == "run.completed"


def test_streams_are_bounded(client: httpx.Client, streams: Redis) -> None:
    run = finish(client, "big")
    key = keys.run(run["id"])
    assert streams.xlen(key.events) == 100
    # 180 steps with a word each went through it; all of the text is there.
    words = [f"word{number + 1}" for number in range(180)]
    assert run["output"].split() == words
    for name in key:
        # No text of its own where there is none; what is there has a life.
        assert streams.ttl(name) != -1
    assert 0 < int(streams.ttl(key.events)) <= 60


def test_no_growth_after_requests(plateau: Serving, client: httpx.Client) -> None:
    """Misses, hits, records, streams and errors: the predecessor grew by 5 MB over 10 requests,
    this one by less than 2 over 1,000."""
    workers = plateau.pids("gunicorn: worker")

    def mixed(rounds: int) -> None:
        for _ in range(rounds):
            text = unique()
            run = finish(client, "echo", text)
            hit = client.post("/v1/runs", json={"agent": "echo", "input": text}).json()
            for found in (run, hit):
                assert follow(client, found["events_url"])[-1].type == "run.completed"
                assert client.get(f"/v1/runs/{found['id']}").status_code == 200
            assert client.post("/v1/runs", json={"agent": "echo"}).status_code == 422
            conversation = {"agent": "echo", "input": text, "conversation_id": text}
            assert client.post("/v1/runs", json=conversation).status_code in (200, 202)
            assert client.get(f"/v1/conversations/{text}").status_code == 200
            assert client.delete(f"/v1/conversations/{text}").status_code == 204

    mixed(30)
    before = private_kib(workers)
    mixed(100)
    assert plateau.pids("gunicorn: worker") == workers
    assert private_kib(workers) - before <= GROWTH_KIB

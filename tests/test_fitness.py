"""Servers that answer and cannot be the streams instance: each is told by its name."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from redis import Redis
from redis.exceptions import RedisError

from plateau_sse.serve.redis_server import server_binary
from plateau_sse.settings import Settings
from plateau_sse.store.answers.cache import Cache
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import connect
from plateau_sse.store.redis.fitness import unfit
from tests.integration.api_client import api_serving, finish
from tests.processes import free_ports, wait_until
from tests.store import answer

Start = Callable[..., str]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A server as it comes."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str, file: str = "") -> str:
        port, folder = free_ports(2), tmp_path / f"server{len(processes)}"
        folder.mkdir()
        words = [
            server_binary(Settings(redis_server_bin=os.environ.get("REDIS_SERVER_BIN", "")))
        ]
        if file:
            (folder / "its.conf").write_text(file)
            words.append(str(folder / "its.conf"))
        words += ["--port", str(port), "--dir", str(folder), *arguments]
        words = [word.replace("BUS", str(port + 1)) for word in words]
        null = subprocess.DEVNULL
        processes.append(subprocess.Popen(words, stdout=null, stderr=null))
        url = f"redis://127.0.0.1:{port}/0"

        def answers() -> bool:
            try:
                with Redis.from_url(url) as client:
                    return bool(client.ping())
            except RedisError:
                return False

        wait_until(answers, "the server answers")
        return url

    yield start
    for process in processes:
        process.kill()
        process.wait(10)


def said_of(url: str) -> str:
    async def scenario() -> str:
        redis = connect(url, "test", connections=2)
        try:
            return "; ".join(await unfit(redis, "default"))
        finally:
            await redis.aclose()

    return asyncio.run(scenario())


CLUSTER = ("--cluster-enabled", "yes", "--cluster-port", "BUS")


def test_a_server_that_is_fit_is_told_nothing_of(start: Start) -> None:
    assert said_of(start()) == ""


def test_a_cluster_that_serves_half_its_slots_is_named(start: Start) -> None:
    url = start(*CLUSTER)
    with Redis.from_url(url) as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 8191)
        assert "8192 of 16384 slots" in said_of(url)
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 8192, 16383)
        wait_until(lambda: said_of(url) == "", "it is whole")


def test_nothing_is_done_where_there_are_no_transactions(start: Start) -> None:
    url = start("--rename-command", "MULTI", "")
    assert said_of(url) == ""
    with Redis.from_url(url) as client:
        assert client.keys("*") == []


def test_a_sentinel_is_named(start: Start) -> None:
    assert "is a Sentinel" in said_of(start("--sentinel", file="# nobody's\n"))


@pytest.mark.parametrize(
    "name", [keys.QUEUE.since, keys.QUEUE.bell, keys.EXTERNAL, keys.AGENTS, keys.WORKERS]
)
def test_a_key_of_another_program_is_named(start: Start, name: str) -> None:
    url = start()
    with Redis.from_url(url) as client:
        client.set(name, "theirs", ex=60)
    assert f"its key {name} is a string of another program" in said_of(url)


def test_readiness_says_so_until_it_is_mended(start: Start, tmp_path: Path) -> None:
    url = start()
    with Redis.from_url(url) as client:
        client.set(keys.QUEUE.held, "theirs")
        with api_serving(tmp_path, {"REDIS_URL": url}) as plateau:
            found: dict[str, str] = {}

            def is_named() -> bool:
                ready = httpx.get(plateau.url + "/health/ready", timeout=10)
                found.update(ready.json())
                return ready.status_code == 503 and keys.QUEUE.held in found["cause"]

            wait_until(is_named, "the key is named")
            health = httpx.get(plateau.url + "/health", timeout=10).json()
            assert keys.QUEUE.held in health["components"]["streams"]["cause"]
            client.delete(keys.QUEUE.held)
            wait_until(plateau.is_ready, "it is mended")
            with httpx.Client(base_url=plateau.url, timeout=20, trust_env=False) as http:
                assert finish(http, "echo")["status"] == "completed"


def test_a_cluster_of_one_that_is_fit_serves(start: Start, tmp_path: Path) -> None:
    url = start(*CLUSTER)
    with Redis.from_url(url) as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    wait_until(lambda: said_of(url) == "", "it is whole")
    with (
        api_serving(tmp_path, {"REDIS_URL": url}) as plateau,
        httpx.Client(base_url=plateau.url, timeout=20, trust_env=False) as http,
    ):
        assert finish(http, "echo")["status"] == "completed"


def test_a_cache_in_a_cluster_is_cleared(start: Start) -> None:
    url = start(*CLUSTER)
    with Redis.from_url(url) as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        wait_until(lambda: said_of(url) == "", "it is whole")

    async def scenario() -> None:
        redis = connect(url, "test")
        cache = Cache(redis, ttl_s=60, max_bytes=10 * 1024**2)
        for number in range(20):
            assert await cache.put(f"{number:024d}", answer())
        assert await cache.clear() == 20
        assert await cache.get(f"{3:024d}") is None
        await redis.aclose()

    asyncio.run(scenario())

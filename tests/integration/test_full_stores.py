"""A cache that is away or full, and a streams instance near its bound.

Invariant of these tests: whoever is taken on ends well; who is not is told so at the door.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from redis import Redis
from redis.exceptions import OutOfMemoryError

from tests.deployment import Deployment, deployed
from tests.faults import (
    OwnRedis,
    append_characters,
    check_log,
    complete,
    output_of,
    own_redis,
    start_run,
)
from tests.integration.api_client import assert_problem
from tests.processes import Serving, serving, wait_until
from tests.sample_agents import words_of
from tests.store import full
from tests.watched import Watched, until

FILLER_S = 300
FILLER_BYTES = 64 * 1024


class Filler:
    """Fills a server with keys that would go by themselves, up to a share of its bound."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._count = 0

    def share(self) -> float:
        memory = self._redis.info("memory")
        return float(memory["used_memory"]) / float(memory["maxmemory"])

    def fill(self, share: float) -> None:
        while self.share() < share:
            self._redis.set(f"filler:{self._count}", "x" * FILLER_BYTES, ex=FILLER_S)
            self._count += 1

    def empty(self) -> None:
        for number in range(self._count):
            self._redis.delete(f"filler:{number}")


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[OwnRedis]:
    with own_redis(tmp_path / "cache", "cache") as server:
        yield server


@pytest.fixture
def one_web(tmp_path: Path, streams_url: str, cache: OwnRedis) -> Iterator[Deployment]:
    with deployed(
        tmp_path, streams_url=streams_url, cache_url=cache.url, webs=1, runners=1
    ) as deployment:
        yield deployment
    for name in ("web0", "runner0"):
        check_log((tmp_path / f"{name}.log").read_text())


def answered(url: str, text: str) -> str:
    """Ask and wait for the answer; `hit` or `miss`."""
    body = {"agent": "words", "input": text, "options": {"count": 5, "pause_ms": 1}}
    wait = {"Prefer": "wait=20"}
    answer = httpx.post(f"{url}/v1/runs", json=body, headers=wait, timeout=30, trust_env=False)
    assert answer.status_code == 200, answer.text
    assert answer.json()["output"] == "".join(words_of(text, 5))
    return answer.headers["x-cache"]


def test_a_cache_that_goes_and_comes_back(one_web: Deployment, cache: OwnRedis) -> None:
    (url,) = one_web.urls
    assert [answered(url, "gone") for _ in range(2)] == ["miss", "hit"]
    cache.stop()
    assert [answered(url, "gone") for _ in range(2)] == ["miss", "miss"]
    cache.start()
    wait_until(lambda: answered(url, "gone") == "hit", "it is used again")


def test_a_cache_that_is_full(one_web: Deployment, cache: OwnRedis) -> None:
    """Of a kind that evicts nothing, as somebody else's server may be."""
    (url,) = one_web.urls
    with cache.client() as redis:
        redis.config_set("maxmemory-policy", "noeviction")
        redis.config_set("maxmemory", redis.info("memory")["used_memory"] // 2)
        with pytest.raises(OutOfMemoryError):
            redis.set("anything", "x", ex=FILLER_S)
        assert [answered(url, "full") for _ in range(3)] == ["miss"] * 3
        redis.config_set("maxmemory", "10mb")
        assert answered(url, "full") == "miss"
        wait_until(lambda: answered(url, "full") == "hit", "it is used again")


@contextmanager
def small(folder: Path) -> Iterator[tuple[Serving, Filler]]:
    env = {"AGENTS": "words=tests.sample_agents:words", "STREAM_MAX_MEMORY": "8mb"}
    with (
        serving(folder, env=env) as running,
        Redis.from_url(running.streams_url, protocol=2) as redis,
    ):
        yield running, Filler(redis)


def ask(url: str, agent: str = "words", **headers: str) -> httpx.Response:
    body: dict[str, object] = {"agent": agent, "cache": {"mode": "off"}}
    if agent != "external":
        body |= {"input": "x", "options": {"count": 1}}
    return httpx.post(f"{url}/v1/runs", json=body, headers=headers, timeout=30, trust_env=False)


def test_near_its_bound_new_runs_are_refused_and_running_ones_end_well(tmp_path: Path) -> None:
    text = "".join(chr(ord("a") + index % 26) for index in range(3000))

    async def scenario(url: str, filler: Filler) -> None:
        runs = [start_run(url, "words", f"q{i}", count=60, pause_ms=50) for i in range(5)]
        external = start_run(url, "external")
        readers = [Watched([url], run["events_url"]) for run in [*runs, external]]
        following = [asyncio.create_task(reader.follow()) for reader in readers]
        await until(lambda: all(reader.delivered for reader in readers), "all are told")
        await asyncio.to_thread(filler.fill, 0.9)
        # What a worker found a second ago it believes: each has to look again.
        await asyncio.to_thread(
            wait_until,
            lambda: all(ask(url).status_code == 503 for _ in range(8)),
            "new runs are refused by either worker",
        )
        for agent, headers in (
            ("words", {}),
            ("words", {"Accept": "text/event-stream"}),
            ("external", {}),
        ):
            refused = await asyncio.to_thread(ask, url, agent, **headers)
            assert_problem(refused, 503, "store_full")
            assert int(refused.headers["retry-after"]) >= 1
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
            await asyncio.to_thread(append_characters, client, external, text)
            await asyncio.to_thread(complete, client, external)
        await asyncio.gather(*following)
        for number, (run, reader) in enumerate(zip(runs, readers, strict=False)):
            assert await asyncio.to_thread(output_of, url, run) == reader.text
            reader.check_whole("".join(words_of(f"q{number}", 60)))
            reader.check_clean()
        readers[-1].check_whole(text)

    with small(tmp_path) as (running, filler):
        filler.fill(0.75)
        assert ask(running.url).status_code == 202
        asyncio.run(scenario(running.url, filler))
        filler.empty()
        wait_until(lambda: ask(running.url).status_code == 202, "new runs are taken on again")
        check_log(running.stderr)


def test_at_its_bound_a_conversation_is_forgotten(tmp_path: Path) -> None:
    with (
        small(tmp_path) as (running, _),
        httpx.Client(base_url=running.url, timeout=30, trust_env=False) as client,
    ):
        body = {"agent": "words", "input": "x", "options": {"count": 1}, "conversation_id": "c"}
        said = client.post("/v1/runs", json=body, headers={"Prefer": "wait=20"})
        assert said.status_code == 200, said.text
        assert len(client.get("/v1/conversations/c").json()["messages"]) == 2
        with full(running.streams_url):
            for conversation in ("c", "never-heard-of"):
                assert client.delete(f"/v1/conversations/{conversation}").status_code == 204
        assert client.get("/v1/conversations/c").json()["messages"] == []
        check_log(running.stderr)


def test_at_its_bound_running_ones_end_well(tmp_path: Path) -> None:
    """Others fill it to the brim: nothing can be written that does not make room."""

    async def scenario(url: str, filler: Filler) -> None:
        runs = [start_run(url, "words", f"q{i}", count=60, pause_ms=50) for i in range(5)]
        readers = [Watched([url], run["events_url"]) for run in runs]
        following = [asyncio.create_task(reader.follow()) for reader in readers]
        await until(lambda: all(reader.delivered for reader in readers), "all are told")
        with pytest.raises(OutOfMemoryError):
            await asyncio.to_thread(filler.fill, 2.0)
        await asyncio.gather(*following)
        for number, (run, reader) in enumerate(zip(runs, readers, strict=True)):
            assert await asyncio.to_thread(output_of, url, run) == reader.text
            reader.check_whole("".join(words_of(f"q{number}", 60)))
            reader.check_clean()
        assert_problem(await asyncio.to_thread(ask, url), 503, "store_full")

    with small(tmp_path) as (running, filler):
        asyncio.run(scenario(running.url, filler))
        filler.empty()
        wait_until(lambda: ask(running.url).status_code == 202, "new runs are taken on again")
        check_log(running.stderr)

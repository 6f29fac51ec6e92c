"""The answer cache in Redis: bounded, and a miss whatever is wrong with it."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from plateau_sse.store.answers.cache import Cache
from plateau_sse.store.answers.lookups import Lookups
from plateau_sse.store.answers.packing import pack
from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import connect, is_cluster
from plateau_sse.store.runs import ids
from tests.conftest import end_server, start_server
from tests.packed import pack_once
from tests.store import admin_url, answer

MAX_BYTES = 10 * 1024**2
KEY = "0" * 24


def on_cache(
    url: str, scenario: Callable[[Cache, Any], Awaitable[None]], *, timeout_s: float = 2.0
) -> None:
    async def opened() -> None:
        redis = connect(url, "test", timeout_s=timeout_s)
        looking = connect(admin_url(url), "looking", timeout_s=timeout_s)
        # As a web worker has it: a connection of their own where there is one server.
        lookups = None if is_cluster(url) else Lookups(url, "test", timeout_s=timeout_s)
        try:
            await scenario(Cache(redis, lookups, ttl_s=600, max_bytes=MAX_BYTES), looking)
        finally:
            if lookups is not None:
                await lookups.close()
            await looking.aclose()
            await redis.aclose()

    asyncio.run(opened())


def test_an_answer_is_found_again_and_has_a_life(cache_url: str) -> None:
    async def scenario(cache: Cache, redis: Any) -> None:
        assert await cache.get(KEY) is None
        stored = answer("né雪🏔\u2028" * 50, output="x")
        assert await cache.put(KEY, stored)
        assert await cache.get(KEY) == stored
        assert 595 <= await redis.ttl(keys.cache(KEY)) <= 600
        assert await cache.put(KEY, answer("newer"), ttl_s=7)
        assert 2 <= await redis.ttl(keys.cache(KEY)) <= 7
        assert await cache.get(KEY) == answer("newer")
        for content in (b"", b"\xff" * 40, pack(stored)[:-4]):
            await redis.set(keys.cache(KEY), content, ex=60)
            assert await cache.get(KEY) is None

    on_cache(cache_url, scenario)


def test_a_run_that_is_gone_is_found_by_who_could_read_it(cache_url: str) -> None:
    run_id = ids.new_run_id()
    tokens = [ids.new_token() for _ in range(3)]
    stored = answer("Because.", tag=ids.tag_of(run_id))

    async def scenario(cache: Cache, redis: Any) -> None:
        name = keys.left_by(run_id)
        await cache.put(KEY, stored, ttl_s=50)
        assert await redis.get(name) is None
        assert await cache.point(KEY, stored, tokens, run_id, 50)
        assert 45 <= await redis.ttl(name) <= 50
        assert len(await redis.get(name)) == 18 + 4 + 3 * 6
        for token in tokens:
            assert await cache.of_run(run_id, token=token, owner="") == (KEY, stored)
        assert await cache.of_run(run_id, token="", owner="ann") == (KEY, stored)
        for token, owner in (("", ""), (tokens[0][:-1], ""), (tokens[0], "bob"), ("!", "")):
            assert await cache.of_run(run_id, token=token, owner=owner) is None
        assert await cache.of_run(ids.new_run_id(), token=tokens[0], owner="") is None
        # Another answer to the same question, even one of a run with the same tag.
        for other in (
            msgspec.structs.replace(stored, token=ids.new_token()),
            msgspec.structs.replace(stored, tag="000000"),
        ):
            await cache.put(KEY, other)
            assert await cache.of_run(run_id, token=tokens[0], owner="") is None
        await cache.put(KEY, stored)
        assert await cache.of_run(run_id, token=tokens[0], owner="") is not None
        await redis.delete(keys.cache(KEY))
        assert await cache.of_run(run_id, token=tokens[0], owner="") is None
        for damaged in (b"", b"\xff" * 5, b"\xff" * 27):
            await redis.set(name, damaged, ex=60)
            assert await cache.of_run(run_id, token=tokens[0], owner="") is None
            assert await cache.of_run(run_id, token="", owner="ann") is None

    on_cache(cache_url, scenario)


def test_of_many_callers_sixteen_are_remembered(cache_url: str) -> None:
    run_id = ids.new_run_id()
    tokens = [ids.new_token() for _ in range(1000)]

    async def scenario(cache: Cache, redis: Any) -> None:
        stored = answer("Because.", tag=ids.tag_of(run_id))
        await cache.put(KEY, stored)
        await cache.point(KEY, stored, tokens, run_id)
        found = [await cache.of_run(run_id, token=token, owner="") for token in tokens]
        assert sum(1 for one in found if one is not None) == 16

    on_cache(cache_url, scenario)


def test_an_answer_over_a_twentieth_of_the_cache_is_refused(cache_url: str) -> None:
    async def scenario(cache: Cache, redis: Any) -> None:
        counted: list[str] = []
        cache = Cache(redis, ttl_s=600, max_bytes=MAX_BYTES, count=counted.append)
        noise = "".join(f"{i * 2654435761 % 2**32:08x}" for i in range(200_000))
        assert not await cache.put(KEY, answer(noise))
        assert await redis.keys("*") == [] and counted == ["cache_refused"]
        # What counts is what is stored: a long answer that says little is welcome.
        assert await cache.put(KEY, answer("again and " * 200_000))

    on_cache(cache_url, scenario)


def test_without_a_cache_everything_is_a_miss() -> None:
    async def scenario() -> None:
        none = Cache(None, ttl_s=1, max_bytes=1)
        assert await none.get(KEY) is None and not await none.put(KEY, answer())

    asyncio.run(scenario())


def test_a_cache_of_another_type_is_a_miss(cache_url: str) -> None:
    async def scenario(cache: Cache, redis: Any) -> None:
        await redis.lpush(keys.cache(KEY), "x")
        await redis.expire(keys.cache(KEY), 60)
        assert await cache.get(KEY) is None

    on_cache(cache_url, scenario)


def test_a_cache_that_is_down_is_a_miss_and_quick(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_server("cache", tmp_path)

    async def scenario(cache: Cache, redis: Any) -> None:
        assert await cache.put(KEY, answer())
        end_server(server)
        began = time.monotonic()
        for _ in range(5):
            assert await cache.get(KEY) is None
            assert not await cache.put(KEY, answer())
        assert time.monotonic() - began < 5
        # Once, not at every request.
        assert caplog.text.count("every lookup is a miss") == 1

    try:
        on_cache(server.url, scenario)
    finally:
        server.process.kill()
        server.process.wait(10)


def test_a_cache_that_hangs_is_a_miss(tmp_path: Path) -> None:
    server = start_server("cache", tmp_path)

    async def scenario(cache: Cache, redis: Any) -> None:
        assert await cache.put(KEY, answer())
        server.process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        assert await cache.get(KEY) is None
        assert not await cache.put(KEY, answer("unheard"))
        assert time.monotonic() - began < 5
        server.process.send_signal(signal.SIGCONT)
        found = None
        async with asyncio.timeout(10):
            while found is None:
                found = await cache.get(KEY)
        # What it was sent last it may do now, on a connection that nobody listens to.
        assert found in (answer(), answer("unheard"))

    try:
        on_cache(server.url, scenario, timeout_s=0.2)
    finally:
        server.process.send_signal(signal.SIGCONT)
        end_server(server)


def prose(number: int, words: list[str]) -> str:
    """About 2 KB of text that no other number gives; of real words, it deflates like prose."""
    start, step = number * 7919 % len(words), 1 + number * 31 % 97
    picked = itertools.islice(itertools.cycle(words), start, None, step)
    return f"{number}: " + " ".join(itertools.islice(picked, 330))


# Tens of seconds where others compute.
@pytest.mark.timeout(300)
def test_50000_answers_stay_within_the_bound(
    cache_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a key each, as large as they come; a text is packed once and stored fifty times."""
    pack_once(monkeypatch, "plateau_sse.store.answers.cache.pack")
    texts = sorted(Path(__file__).parent.joinpath("texts").glob("*.txt"))
    words = " ".join(path.read_text() for path in texts).split()
    answers = [answer(prose(number, words)) for number in range(1000)]
    peak, largest = 0, 0

    async def scenario(cache: Cache, redis: Any) -> None:
        nonlocal peak, largest
        numbers = iter(range(50_000))

        async def store() -> None:
            nonlocal largest
            for number in numbers:
                assert await cache.put(f"{number:032x}", answers[number % 1000])
                if number % 500 == 0:
                    largest = max(
                        largest, await redis.memory_usage(keys.cache(f"{number:032x}"))
                    )

        async def sample() -> None:
            nonlocal peak
            while not all(storing.done() for storing in stores):
                peak = max(peak, (await redis.info("memory"))["used_memory"])

        stores = [asyncio.create_task(store()) for _ in range(6)]
        await sample()
        await asyncio.gather(*stores)
        assert (await redis.config_get("maxmemory-policy"))["maxmemory-policy"] == "allkeys-lru"
        assert (await redis.info("stats"))["evicted_keys"] > 30_000
        # The latest are there, whole; the first made room for them.
        assert await cache.get(f"{49_999:032x}") == answers[999]
        assert await cache.get(f"{0:032x}") is None

    on_cache(cache_url, scenario)
    assert peak <= MAX_BYTES + largest

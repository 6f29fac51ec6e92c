"""Readers that come, drop and come back: none loses, repeats or reorders anything."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import httpx
import pytest
from locustfiles.kit.ledger import Ledger
from redis import Redis

from plateau_sse.store.redis import keys
from plateau_sse.store.redis.connections import connect
from tests.deployment import Deployment, deployed
from tests.proxy import dropping_messages
from tests.readers import Reader
from tests.sample_agents import words_of
from tests.store import admin_url

RUNS = 200


@pytest.fixture
def two_webs(tmp_path: Path, streams_url: str, cache_url: str) -> Iterator[Deployment]:
    env = {"RUNNER_CONCURRENCY": "200"}
    with deployed(
        tmp_path, streams_url=streams_url, cache_url=cache_url, webs=2, env=env
    ) as deployment:
        yield deployment


async def start_runs(
    client: httpx.AsyncClient, urls: list[str], count: int, options: dict[str, int]
) -> list[dict[str, str]]:
    async def start(index: int) -> dict[str, str]:
        body = {"agent": "words", "input": f"question {index}", "options": options}
        answer = await client.post(f"{urls[index % len(urls)]}/v1/runs", json=body)
        assert answer.status_code == 202, answer.text
        found: dict[str, str] = answer.json()
        return found

    return await asyncio.gather(*(start(index) for index in range(count)))


async def output_of(client: httpx.AsyncClient, url: str, run: dict[str, str]) -> str:
    query = run["events_url"].partition("?")[2]
    record = (await client.get(f"{url}/v1/runs/{run['id']}?{query}")).json()
    assert record["status"] == "completed", record
    output: str = record["output"]
    return output


def test_every_reader_of_200_runs_ends_with_the_records_output(
    two_webs: Deployment, streams_url: str
) -> None:
    """Each run has two readers on different workers; one of them drops at random points and
    goes on at the other worker."""
    chances = random.Random(20_260_101)
    lengths: list[int] = []

    async def scenario() -> None:
        async with httpx.AsyncClient(timeout=30) as client:
            options = {"count": 120, "pause_ms": 20}
            runs = await start_runs(client, two_webs.urls, RUNS, options)
            here, there = two_webs.urls
            steady = [Reader([here], run["events_url"]) for run in runs]
            dropping = [
                Reader([there, here], run["events_url"], drop=lambda: chances.random() < 0.2)
                for run in runs
            ]
            reading = asyncio.gather(*(reader.follow() for reader in steady + dropping))
            lengths.extend(await watch_lengths(streams_url, runs, reading))
            await reading
            for index, run in enumerate(runs):
                output = await output_of(client, here, run)
                assert output == "".join(words_of(f"question {index}", 120))
                steady[index].check_whole(output)
                dropping[index].check_whole(output)
            # Otherwise nothing was tested.
            assert sum(reader.connections for reader in dropping) > 2 * RUNS
            assert all(reader.connections == 1 for reader in steady)

    asyncio.run(scenario())
    assert max(lengths) <= 100


async def watch_lengths(
    streams_url: str, runs: list[dict[str, str]], until: asyncio.Future[list[None]]
) -> list[int]:
    """XLEN of the runs' streams, looked at again and again while they are read."""
    redis: Any = connect(admin_url(streams_url), "test-looking")
    seen = []
    while not until.done():
        for run in runs[::20]:
            seen.append(await redis.xlen(keys.run(run["id"]).events))
        await asyncio.sleep(0.05)
    await redis.aclose()
    return seen


def test_the_streams_alone_suffice(tmp_path: Path, streams_url: str, cache_url: str) -> None:
    """With every published message dropped between Redis and the hubs, all readers still end
    with the whole answer."""

    async def scenario(urls: list[str]) -> None:
        async with httpx.AsyncClient(timeout=30) as client:
            options = {"count": 60, "pause_ms": 15}
            runs = await start_runs(client, urls, RUNS, options)
            chances = random.Random(7)
            pairs = [
                (
                    Reader([urls[0]], run["events_url"]),
                    Reader(urls[::-1], run["events_url"], drop=lambda: chances.random() < 0.1),
                )
                for run in runs
            ]
            await asyncio.gather(*(reader.follow() for pair in pairs for reader in pair))
            for pair, run in zip(pairs, runs, strict=True):
                output = await output_of(client, urls[0], run)
                for reader in pair:
                    reader.check_whole(output)

    with (
        dropping_messages(streams_url) as dropper,
        deployed(
            tmp_path,
            streams_url=streams_url,
            cache_url=cache_url,
            web_streams_url=dropper.url,
            env={"RUNNER_CONCURRENCY": "200"},
        ) as deployment,
    ):
        asyncio.run(scenario(deployment.urls))
        assert dropper.dropped > RUNS


def test_a_trimmed_position_gets_the_rest(two_webs: Deployment) -> None:
    """A reader who comes late, or after more than 100 events, is told the rest, in few."""

    async def scenario() -> None:
        async with httpx.AsyncClient(timeout=30) as client:
            url = two_webs.urls[0]
            options = {"count": 200, "pause_ms": 31}
            (run,) = await start_runs(client, [url], 1, options)
            kept: list[Ledger] = []

            def keep() -> bool:
                if len(early.delivered) == 5:
                    kept.append(deepcopy(early.books))
                return False

            early = Reader([url], run["events_url"], drop=keep)
            await early.follow()
            assert early.heard > 120
            late = Reader([url], run["events_url"])
            await late.follow()
            behind = Reader([url], run["events_url"], books=kept[0], agreed=early.agreed)
            await behind.follow()
            output = await output_of(client, url, run)
            for reader in (early, late, behind):
                reader.check_whole(output)
                assert reader.restarts == 0
            # The start, some 1,500 characters at once, the end.
            assert late.heard < 10 and behind.heard < 10

    asyncio.run(scenario())


def test_connections_to_redis_do_not_grow_with_readers(
    two_webs: Deployment, streams_url: str
) -> None:
    redis = Redis.from_url(streams_url, protocol=2)

    def connections() -> int:
        names: list[dict[str, str]] = redis.client_list()
        return sum(1 for client in names if client["name"] in ("plateau-web", "plateau-hub"))

    async def scenario() -> None:
        async with httpx.AsyncClient(timeout=30) as client:
            options = {"count": 400, "pause_ms": 100}
            runs = await start_runs(client, two_webs.urls, 50, options)
            counts = []
            readers: list[asyncio.Task[None]] = []
            for target in (10, 500):
                started = [
                    Reader([two_webs.urls[0]], runs[index % 50]["events_url"])
                    for index in range(target - len(readers))
                ]
                readers += [asyncio.create_task(reader.follow()) for reader in started]
                await asyncio.gather(*(reader.started.wait() for reader in started))
                counts.append(connections())
            for task in readers:
                task.cancel()
            await asyncio.gather(*readers, return_exceptions=True)
            for run in runs:
                await client.post(two_webs.urls[0] + run["cancel_url"])
            # Two workers: at most eight commands each at once, and one subscription each.
            assert counts[1] <= 2 * (8 + 1), counts
            warm = connections()
            assert warm == counts[1], (warm, counts)

    asyncio.run(scenario())
    redis.close()

"""The streams instance restarted, paused, cut off and emptied under open responses.

Invariant of these tests: a response that was open stays open, the same one, and ends with the
record's output; what cannot be recovered is declared.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

import httpx
import pytest
from redis import Redis

from plateau_sse.store.redis import keys
from tests.deployment import Deployment, deployed
from tests.faults import (
    OwnRedis,
    append_characters,
    check_log,
    client_ids,
    complete,
    output_of,
    own_redis,
    record_of,
    start_run,
)
from tests.integration.api_client import assert_problem
from tests.processes import is_on_disk
from tests.sample_agents import words_of
from tests.watched import Watched, until

PAUSED_S = 20
HUB, COMMANDS = "plateau-hub", ("plateau-web", "plateau-runner")


@pytest.fixture
def streams(tmp_path: Path) -> Iterator[OwnRedis]:
    with own_redis(tmp_path / "streams") as server:
        yield server


@pytest.fixture
def two_webs(tmp_path: Path, streams: OwnRedis, cache_url: str) -> Iterator[Deployment]:
    env = {"AGENTS": "words=tests.sample_agents:words,ticking=tests.fault_agents:ticking"}
    with deployed(
        tmp_path, streams_url=streams.url, cache_url=cache_url, webs=2, runners=2, env=env
    ) as deployment:
        yield deployment
    for name in ("web0", "web1", "runner0", "runner1"):
        check_log((tmp_path / f"{name}.log").read_text())


class Followed:
    """`count` runs of `words` words, each with a reader on either worker."""

    def __init__(self, urls: list[str], *, count: int, words: int, pause_ms: int = 50) -> None:
        self.urls = urls
        self.words = words
        self.texts = [f"question {index}" for index in range(count)]
        self.runs = [
            start_run(urls[index % 2], "words", text, count=words, pause_ms=pause_ms)
            for index, text in enumerate(self.texts)
        ]
        self.readers = [Watched([url], run["events_url"]) for run in self.runs for url in urls]
        self._following: list[asyncio.Task[None]] = []

    async def under_way(self) -> None:
        self._following = [
            asyncio.create_task(reader.follow(timeout_s=90)) for reader in self.readers
        ]
        await until(lambda: all(len(r.delivered) > 2 for r in self.readers), "all are told")

    async def to_the_end(self) -> None:
        await asyncio.gather(*self._following)

    def check(self) -> None:
        """Each reader had one response, which ended with what the record says."""
        for text, run in zip(self.texts, self.runs, strict=True):
            assert output_of(self.urls[0], run) == "".join(words_of(text, self.words))
        for index, reader in enumerate(self.readers):
            reader.check_parts(record_of(self.urls[0], self.runs[index // 2]))
            reader.check_whole("".join(words_of(self.texts[index // 2], self.words)))
            reader.check_clean(responses=1)

    def attempts(self) -> list[int]:
        return [record_of(self.urls[0], run)["attempt"] for run in self.runs]


async def refuses_in_good_order(url: str, run: dict[str, str]) -> None:
    """What clients are told while the streams instance is away."""
    async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:
        body = {"agent": "words", "input": "anything", "cache": {"mode": "off"}}
        refused, events = await asyncio.gather(
            client.post("/v1/runs", json=body), client.get(run["events_url"])
        )
    assert_problem(refused, 503, "store_unavailable")
    assert int(refused.headers["retry-after"]) >= 1
    # EventSource comes back from nothing but a 200.
    assert events.status_code == 200
    assert events.text.startswith("retry: ") and "data:" not in events.text


async def taken_on_again(url: str) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:
        body = {"agent": "words", "input": "again", "options": {"count": 3}}

        async def completed() -> bool:
            wait = {"Prefer": "wait=20"}
            answer = await client.post("/v1/runs", json=body, headers=wait)
            return answer.status_code == 200 and answer.json()["status"] == "completed"

        deadline = time.monotonic() + 20
        while not await completed():
            assert time.monotonic() < deadline, "new runs are not taken on again"
            await asyncio.sleep(0.1)


def test_a_restart_is_a_pause(two_webs: Deployment, streams: OwnRedis) -> None:
    async def scenario() -> None:
        followed = Followed(two_webs.urls, count=6, words=160)
        await followed.under_way()
        with streams.client() as redis:
            await until(lambda: is_on_disk(redis), "it is on disk")
        await asyncio.to_thread(streams.stop)
        for url in two_webs.urls:
            await refuses_in_good_order(url, followed.runs[0])
        await asyncio.to_thread(streams.start)
        await asyncio.gather(*(taken_on_again(url) for url in two_webs.urls))
        await followed.to_the_end()
        followed.check()
        assert followed.attempts() == [1] * 6

    asyncio.run(scenario())


def test_a_pause_of_20_s_loses_no_run(two_webs: Deployment, streams: OwnRedis) -> None:
    """No runner died: whoever finds the leases old afterwards has to wait until their holders
    had a chance to renew them."""

    async def scenario() -> None:
        # They would end well after the pause.
        followed = Followed(two_webs.urls, count=8, words=110, pause_ms=250)
        await followed.under_way()
        with streams.paused():
            began = time.monotonic()
            await refuses_in_good_order(two_webs.urls[0], followed.runs[0])
            await asyncio.sleep(began + PAUSED_S - time.monotonic())
        await asyncio.gather(*(taken_on_again(url) for url in two_webs.urls))
        await followed.to_the_end()
        followed.check()
        assert followed.attempts() == [1] * 8

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["pubsub", "normal"])
def test_connections_that_are_killed(
    two_webs: Deployment, streams: OwnRedis, kind: str
) -> None:
    """Again and again, while the runs go on."""

    async def scenario() -> None:
        followed = Followed(two_webs.urls, count=6, words=80)
        await followed.under_way()
        with streams.client() as redis:
            # Each worker has one hub; of commands there are as many as it takes.
            least = dict.fromkeys(COMMANDS, 1) if kind == "normal" else {HUB: 2}
            for _ in range(3):
                # A hub's counts as one of pub/sub once it has subscribed, which takes a moment.
                await until(partial(are_there, redis, kind, least), f"all are of {kind}")
                before = ids_of(redis, kind, least)
                redis.client_kill_filter(_type=kind, skipme=True)

                def are_others(old: dict[str, set[int]] = before) -> bool:
                    now = {name: client_ids(redis, name) for name in old}
                    return all(now[name] and not now[name] & old[name] for name in old)

                await until(are_others, f"other {kind} connections")
        await followed.to_the_end()
        followed.check()
        assert followed.attempts() == [1] * 6

    asyncio.run(scenario())


def ids_of(redis: Redis, kind: str, names: Iterable[str]) -> dict[str, set[int]]:
    """Those that a kill of this type would meet now, by name."""
    there = redis.client_list(_type=kind)
    return {name: {int(it["id"]) for it in there if it["name"] == name} for name in names}


def are_there(redis: Redis, kind: str, least: Mapping[str, int]) -> bool:
    """Whether there are so many of each name, of this type."""
    found = ids_of(redis, kind, least)
    return all(len(found[name]) >= count for name, count in least.items())


def test_a_subscriber_that_lags_is_cut(two_webs: Deployment, streams: OwnRedis) -> None:
    """Redis cuts the hub off for what waits for it: a thousand messages at once."""
    text = "".join(chr(ord("a") + index % 26) for index in range(6000))
    url = two_webs.urls[0]

    def produce(run: dict[str, str]) -> None:
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
            append_characters(client, run, text)
            complete(client, run)

    async def scenario() -> None:
        run = await asyncio.to_thread(start_run, url, "external")
        readers = [Watched([each], run["events_url"]) for each in two_webs.urls * 3]
        following = [asyncio.create_task(reader.follow()) for reader in readers]
        await until(lambda: all(reader.delivered for reader in readers), "all follow")
        with streams.client() as redis:
            before = client_ids(redis, HUB)
            redis.config_set("client-output-buffer-limit", "pubsub 16kb 16kb 1")
            await asyncio.to_thread(produce, run)
            await asyncio.gather(*following)
            await until(lambda: not client_ids(redis, HUB) & before, "the hubs were cut off")
        for reader in readers:
            reader.check_whole(text)
            reader.check_clean(responses=1)

    asyncio.run(scenario())


def test_a_run_that_is_deleted_under_its_readers(
    two_webs: Deployment, streams: OwnRedis, tmp_path: Path
) -> None:
    async def scenario() -> None:
        note = tmp_path / "note"
        url = two_webs.urls[0]
        run = await asyncio.to_thread(
            lambda: start_run(url, "ticking", count=2000, note=str(note))
        )
        external = await asyncio.to_thread(start_run, url, "external")
        readers = [
            Watched([each], one["events_url"])
            for each in two_webs.urls
            for one in (run, external)
        ]
        following = [asyncio.create_task(reader.follow()) for reader in readers]
        await until(lambda: all(reader.delivered for reader in readers), "all are told")
        with streams.client() as redis:
            redis.delete(*keys.run(run["id"]), *keys.run(external["id"]))
        began = time.monotonic()
        await asyncio.gather(*following)
        # A sweep finds it within 15 s.
        assert time.monotonic() - began < 22
        for reader in readers:
            assert reader.end is not None
            assert (reader.end["type"], reader.end["code"]) == ("run.failed", "record_lost")
            reader.check_clean(responses=1)
        async with httpx.AsyncClient(trust_env=False) as client:
            for each in two_webs.urls:
                for one in (run, external):
                    back = await client.get(
                        each + one["events_url"], headers={"Last-Event-ID": "1-1"}
                    )
                    assert_problem(back, 404, "run_not_found")
        # Nobody will ever read it: its agent is stopped, too.
        await until(note.exists, "the agent is stopped", timeout_s=10)
        assert note.read_text().startswith("cancelled")

    asyncio.run(scenario())

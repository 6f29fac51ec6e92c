"""Runs that are cancelled, that take too long, or whose agent holds its runner."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from redis import Redis

from plateau_sse.store.redis import keys
from tests.deployment import Deployment, deployed
from tests.fake_model import fake_model
from tests.faults import check_log, record_of, start_run
from tests.processes import serving, wait_until
from tests.sample_agents import words_of
from tests.watched import Watched, until

log = logging.getLogger(__name__)

NAMES = "ticking ticking_in_a_thread sleepy blocking".split()
AGENTS = {
    "AGENTS": "words=tests.sample_agents:words,"
    + ",".join(f"{name}=tests.fault_agents:{name}" for name in NAMES)
}
# Promised is one second: the margin is the machine's.
CANCELLED_WITHIN_S = 3
TIMEOUT_S = 3
RUNNERS_LATE_S = 5


@pytest.fixture
def two_and_two(tmp_path: Path, streams_url: str, cache_url: str) -> Iterator[Deployment]:
    with deployed(
        tmp_path, streams_url=streams_url, cache_url=cache_url, webs=2, runners=2, env=AGENTS
    ) as deployment:
        yield deployment
    for name in ("web0", "web1", "runner0", "runner1"):
        check_log((tmp_path / f"{name}.log").read_text())


@pytest.fixture
def report(
    record_testsuite_property: Callable[[str, object], None],
) -> Callable[[str, object], None]:
    """Figures, for `--junitxml` and for `--log-cli-level=info`."""

    def reported(name: str, figure: object) -> None:
        log.info("%s: %s", name, figure)
        record_testsuite_property(name, figure)

    return reported


def runner_of(streams_url: str, run: dict[str, str]) -> str:
    """The runner that executes it now, without what it calls its claim."""
    with Redis.from_url(streams_url, protocol=2) as redis:
        name = redis.hget(keys.run(run["id"]).record, "runner")
    assert isinstance(name, bytes)
    return name.decode().partition(" ")[0]


def test_cancelling_reaches_the_agent_from_whatever_worker(
    two_and_two: Deployment,
    streams_url: str,
    tmp_path: Path,
    report: Callable[[str, object], None],
) -> None:
    async def scenario() -> None:
        urls = two_and_two.urls
        notes = [tmp_path / f"note{number}" for number in range(12)]
        runs = [start_run(urls[0], "ticking", count=2000, note=str(note)) for note in notes]
        readers = [
            Watched([urls[number % 2]], run["events_url"]) for number, run in enumerate(runs)
        ]
        following = [asyncio.create_task(reader.follow()) for reader in readers]
        await until(lambda: all(len(r.delivered) > 1 for r in readers), "all are under way")
        assert len({runner_of(streams_url, run) for run in runs}) == 2, "one runner has all"
        asked = []
        async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
            for number, run in enumerate(runs):
                asked.append(time.time())
                # Not always on the worker that took it on, nor always on the reader's.
                answer = await client.post(urls[number // 2 % 2] + run["cancel_url"])
                assert (answer.status_code, answer.json()["status"]) == (202, "running")
        await asyncio.gather(*following)
        took = []
        for reader, note, asked_at in zip(readers, notes, asked, strict=True):
            assert reader.end is not None and reader.end["type"] == "run.cancelled"
            reader.check_ids()
            reader.check_clean()
            word, _, at = note.read_text().partition(" ")
            assert word == "cancelled"
            took.append(float(at) - asked_at)
        report("cancel_median_s", round(statistics.median(took), 2))
        report("cancel_most_s", round(max(took), 2))
        assert max(took) < CANCELLED_WITHIN_S

    asyncio.run(scenario())


def test_a_run_that_its_runner_handed_back_is_cancelled_though_no_other_comes(
    tmp_path: Path, streams_url: str
) -> None:
    env = AGENTS | {"GRACEFUL_TIMEOUT_S": "4"}
    with deployed(tmp_path, streams_url=streams_url, webs=1, runners=1, env=env) as deployment:
        (url,), (runner,) = deployment.urls, deployment.runners
        run = start_run(url, "words", hold_at=3, gate=str(tmp_path / "never"))
        wait_until(lambda: record_of(url, run)["status"] == "running", "it is on")
        runner.terminate()
        assert runner.wait(15) == 0
        with Redis.from_url(streams_url, protocol=2) as redis:
            assert redis.zrange(keys.QUEUE.since, 0, -1) == [run["id"].encode()]
            answer = httpx.post(url + run["cancel_url"])
            assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
            assert record_of(url, run)["status"] == "cancelled"
            assert redis.zrange(keys.QUEUE.since, 0, -1) == []
        reader = Watched([url], run["events_url"])
        asyncio.run(reader.follow())
        assert reader.end is not None and reader.end["type"] == "run.cancelled"


def test_a_run_that_many_cancel_at_once_counts_once(tmp_path: Path, streams_url: str) -> None:
    with deployed(tmp_path, streams_url=streams_url, webs=2, runners=1, env=AGENTS) as two:
        for runner in two.runners:
            # So that it takes none.
            runner.send_signal(signal.SIGSTOP)
        try:
            runs = [start_run(two.urls[0], "words") for _ in range(10)]

            async def cancel() -> list[httpx.Response]:
                async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
                    return await asyncio.gather(
                        *(
                            client.post(two.urls[n % 2] + run["cancel_url"])
                            for run in runs
                            for n in range(6)
                        )
                    )

            assert {answer.json()["status"] for answer in asyncio.run(cancel())} == {
                "cancelled"
            }
        finally:
            for runner in two.runners:
                runner.send_signal(signal.SIGCONT)
    # By now all have added theirs.
    with Redis.from_url(streams_url, protocol=2) as redis:
        counted = redis.hget(keys.stats(socket.gethostname()), "runs_cancelled")
    assert isinstance(counted, bytes) and int(counted) == len(runs)


def test_cancelling_closes_the_models_connection_and_leaving_does_not(
    tmp_path: Path, streams_url: str, cache_url: str
) -> None:
    with (
        fake_model() as model,
        deployed(
            tmp_path,
            streams_url=streams_url,
            cache_url=cache_url,
            webs=1,
            runners=1,
            env={"OPENAI_BASE_URL": model.base_url, "OPENAI_MODELS": "slow,silent"},
        ) as deployment,
    ):
        (url,) = deployment.urls

        async def leave(run: dict[str, str]) -> None:
            reader = Watched([url], run["events_url"])
            following = asyncio.create_task(reader.follow())
            await until(lambda: reader.text, "the model has said something")
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

        left = start_run(url, "openai", model="slow")
        asyncio.run(leave(left))
        cancelled = start_run(url, "openai", model="silent")
        asyncio.run(leave(cancelled))
        began = time.monotonic()
        assert httpx.post(url + cancelled["cancel_url"]).status_code == 202
        silent = next(asked for asked in model.requests if asked.body["model"] == "silent")
        assert silent.gone.wait(CANCELLED_WITHIN_S), "the model still sees its client"
        assert time.monotonic() - began < CANCELLED_WITHIN_S
        wait_until(lambda: record_of(url, left)["status"] == "completed", "the other run ends")
        slow = next(asked for asked in model.requests if asked.body["model"] == "slow")
        assert not slow.gone.is_set()
    check_log((tmp_path / "runner0.log").read_text())


def test_an_attempt_has_its_time(tmp_path: Path, streams_url: str, cache_url: str) -> None:
    """An asynchronous agent, a plain generator, and a plain one in the middle of a step."""
    with deployed(
        tmp_path,
        streams_url=streams_url,
        cache_url=cache_url,
        webs=1,
        runners=1,
        env=AGENTS | {"RUN_TIMEOUT_S": str(TIMEOUT_S)},
    ) as deployment:
        (url,) = deployment.urls
        left = {"ticking": "cancelled", "ticking_in_a_thread": "closed", "sleepy": ""}
        began = time.monotonic()
        runs = [
            start_run(url, agent, count=2000, sleep_s=12, note=str(tmp_path / agent))
            for agent in left
        ]
        readers = [Watched([url], run["events_url"]) for run in runs]

        async def follow() -> None:
            await asyncio.gather(*(reader.follow() for reader in readers))

        asyncio.run(follow())
        assert TIMEOUT_S - 1 < time.monotonic() - began < TIMEOUT_S + RUNNERS_LATE_S
        for run, reader in zip(runs, readers, strict=True):
            assert reader.end is not None
            assert (reader.end["type"], reader.end["code"]) == ("run.failed", "timeout")
            reader.check_ids()
            reader.check_clean()
            assert record_of(url, run)["error"]["code"] == "timeout"
        for agent, word in left.items():
            if word:
                wait_until((tmp_path / agent).exists, f"{agent} is told")
                assert (tmp_path / agent).read_text().startswith(word)
    check_log((tmp_path / "runner0.log").read_text())


def test_an_agent_that_holds_the_loop_is_ended_and_named(tmp_path: Path) -> None:
    """Nothing but another runner can go on then: its other runs begin anew there."""
    with serving(tmp_path, env=AGENTS | {"RUN_TIMEOUT_S": "6"}) as running:
        url = running.url
        beside = start_run(url, "words", "beside", count=60, pause_ms=50)
        began = time.monotonic()
        run = start_run(url, "blocking", sleep_s=20)
        readers = [Watched([url], one["events_url"]) for one in (run, beside)]

        async def follow() -> None:
            await asyncio.gather(*(reader.follow() for reader in readers))

        asyncio.run(follow())
        blocked, other = readers
        assert blocked.end is not None
        assert (blocked.end["type"], blocked.end["code"]) == ("run.failed", "timeout")
        assert time.monotonic() - began < 20
        blocked.check_ids()
        assert "agent blocking blocks the runner" in running.stderr
        other.check_whole("".join(words_of("beside", 60)))
        for reader in readers:
            reader.check_clean()
        assert record_of(url, run)["error"]["code"] == "timeout"
        assert "Traceback" not in running.stderr


def test_who_holds_the_loop_and_cannot_be_named_has_its_tries_and_no_more(
    tmp_path: Path,
) -> None:
    env = {"AGENTS": "beside=tests.fault_agents:blocking_beside", "RUN_TIMEOUT_S": "6"}
    with serving(tmp_path, env=env | {"MAX_ATTEMPTS": "2"}) as running:
        run = start_run(running.url, "beside", sleep_s=60)

        def ended() -> bool:
            return str(record_of(running.url, run)["status"]) == "failed"

        wait_until(ended, "it is given up", timeout_s=45)
        record = record_of(running.url, run)
        assert (record["error"]["code"], record["attempt"]) == ("runner_lost", 2)


def test_a_plain_agent_that_sleeps_keeps_its_lease_and_starves_nobody(
    two_and_two: Deployment, streams_url: str
) -> None:
    async def scenario() -> None:
        (url, other) = two_and_two.urls
        asleep = [start_run(url, "sleepy", sleep_s=15) for _ in range(4)]
        awake = [start_run(url, "words", f"{n}", count=260, pause_ms=50) for n in range(6)]
        sleepers = [Watched([other], run["events_url"]) for run in asleep]
        others = [Watched([url], run["events_url"]) for run in awake]
        everyone = sleepers + others
        following = [asyncio.create_task(reader.follow()) for reader in everyone]
        await until(lambda: all(len(r.delivered) > 1 for r in everyone), "all are under way")
        # The record has it for as long as the run is on.
        runners = [runner_of(streams_url, run) for run in asleep]
        beside = [
            reader
            for run, reader in zip(awake, others, strict=True)
            if runner_of(streams_url, run) in runners
        ]
        await asyncio.gather(*following)
        assert beside, "the sleepers were alone on their runners"
        for reader in beside:
            gaps = [
                later - sooner
                for sooner, later in zip(reader.arrivals, reader.arrivals[1:], strict=False)
            ]
            assert max(gaps) < 2, "it was starved"
        for reader in sleepers:
            reader.check_whole("before after")
        for run in asleep + awake:
            record = record_of(url, run)
            assert (record["status"], record["attempt"]) == ("completed", 1)

    asyncio.run(scenario())

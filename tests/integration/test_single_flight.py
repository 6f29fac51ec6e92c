"""Equal requests over two web processes and a runner: one execution, told to everyone."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from plateau_sse.store.redis import keys
from tests.deployment import Deployment, deployed
from tests.faults import check_log
from tests.integration.api_client import unique
from tests.processes import wait_until
from tests.watched import Watched

AGENTS = {"AGENTS": "counted=tests.flight_agents:counted"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("flights")


@pytest.fixture
def deployment(folder: Path, streams_url: str, cache_url: str) -> Iterator[Deployment]:
    with deployed(
        folder, streams_url=streams_url, cache_url=cache_url, webs=2, env=AGENTS
    ) as running:
        yield running
    for name in ("web0", "web1", "runner0"):
        check_log((folder / f"{name}.log").read_text())


class Question:
    """One that nobody has asked before; `executions` are the runs that were executed for it."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self._note = folder / f"{unique()}.note"
        self._gate = folder / f"{unique()}.gate"
        options |= {"note": str(self._note), "gate": str(self._gate)}
        self.body = {"agent": "counted", "input": unique(), "options": options}

    def open(self) -> None:
        self._gate.touch()

    @property
    def executions(self) -> list[str]:
        return self._note.read_text().split() if self._note.exists() else []


async def post_all(
    urls: list[str], question: Question, count: int, **headers: str
) -> list[httpx.Response]:
    limits = httpx.Limits(max_connections=count)
    async with httpx.AsyncClient(timeout=30, trust_env=False, limits=limits) as client:
        return await asyncio.gather(
            *(
                client.post(f"{urls[n % 2]}/v1/runs", json=question.body, headers=headers)
                for n in range(count)
            )
        )


async def told_all(urls: list[str], runs: list[dict[str, Any]]) -> list[Watched]:
    """Everyone follows at the worker where it did not ask."""
    readers = [Watched([urls[(n + 1) % 2]], run["events_url"]) for n, run in enumerate(runs)]
    await asyncio.gather(*(reader.follow() for reader in readers))
    return readers


def test_100_at_once_are_one_execution(
    deployment: Deployment, folder: Path, streams_url: str
) -> None:
    question = Question(folder)

    async def scenario() -> None:
        answers = await post_all(deployment.urls, question, 100)
        assert {answer.status_code for answer in answers} == {202}
        runs = [answer.json() for answer in answers]
        assert len({run["id"] for run in runs}) == 1
        assert len({run["events_url"] for run in runs}) == 100
        how = [answer.headers["x-cache"] for answer in answers]
        assert sorted(how) == ["joined"] * 99 + ["miss"]
        joined = answers[how.index("joined")]
        assert joined.headers["cache-status"] == "plateau; fwd=miss; collapsed"
        assert joined.json()["cached"] is False
        question.open()
        readers = await told_all(deployment.urls, runs)
        (run_id,) = question.executions
        assert {reader.text for reader in readers} == {f"An answer of {run_id}."}
        assert {reader.end["type"] for reader in readers if reader.end} == {"run.completed"}
        (after,) = await post_all(deployment.urls, question, 1)
        assert after.headers["x-cache"] == "hit"
        assert after.json()["output"] == f"An answer of {run_id}."

    asyncio.run(scenario())
    with Redis.from_url(streams_url, protocol=2) as redis:
        # Each that is enqueued rings it.
        bell: Any = redis.xinfo_stream(keys.QUEUE.bell)
        assert bell["entries-added"] == 1


def test_a_failure_is_everyones_and_the_next_runs_anew(
    deployment: Deployment, folder: Path
) -> None:
    question = Question(folder, fail=True)

    async def scenario() -> None:
        answers = await post_all(deployment.urls, question, 100)
        question.open()
        readers = await told_all(deployment.urls, [answer.json() for answer in answers])
        ends = {(reader.end or {}).get("code") for reader in readers}
        assert ends == {"agent_error"} and len(question.executions) == 1
        (after,) = await post_all(deployment.urls, question, 1)
        assert after.headers["x-cache"] == "miss"
        wait_until(lambda: len(question.executions) == 2, "it has been asked again")

    asyncio.run(scenario())


def test_streams_and_waiting_join_too(deployment: Deployment, folder: Path) -> None:
    question = Question(folder)

    async def scenario() -> None:
        streaming = asyncio.create_task(
            post_all(deployment.urls, question, 10, Accept="text/event-stream")
        )
        await asyncio.to_thread(wait_until, lambda: question.executions, "one has begun")
        waiting = asyncio.create_task(post_all(deployment.urls, question, 10, Prefer="wait=20"))
        question.open()
        streams, waited = await asyncio.gather(streaming, waiting)
        (run_id,) = question.executions
        for answer in streams:
            # Live, or from what had been said already, or both.
            assert f"of {run_id}." in answer.text and "run.completed" in answer.text
        for answer in waited:
            assert answer.status_code == 200
            assert answer.headers["x-cache"] in ("joined", "hit")
            assert answer.json()["output"] == f"An answer of {run_id}."

    asyncio.run(scenario())


def test_it_goes_on_until_all_have_cancelled(deployment: Deployment, folder: Path) -> None:
    question = Question(folder)
    url = deployment.urls[0]

    async def scenario() -> None:
        answers = await post_all(deployment.urls, question, 3)
        runs = [answer.json() for answer in answers]
        wait_until(lambda: question.executions, "it has begun")
        async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:
            for run in runs[:2]:
                answer = await client.post(run["cancel_url"])
                assert (answer.status_code, answer.json()["status"]) == (202, "running")
            # Shared with the one who is left.
            (late,) = await post_all(deployment.urls, question, 1)
            assert late.headers["x-cache"] == "joined"
            for run in (runs[2], late.json()):
                assert (await client.post(run["cancel_url"])).status_code == 202
        readers = await told_all(deployment.urls, runs)
        assert {(reader.end or {}).get("type") for reader in readers} == {"run.cancelled"}
        # Nobody can join it any more, whether or not its runner has noticed.
        (after,) = await post_all(deployment.urls, question, 1)
        assert after.headers["x-cache"] == "miss" and after.json()["id"] != runs[0]["id"]
        question.open()

    asyncio.run(scenario())


def test_a_worker_that_is_killed_while_it_leads_holds_nobody_up(
    deployment: Deployment, folder: Path, streams_url: str
) -> None:
    """Its run is the store's: whoever comes to the other worker shares it."""
    question = Question(folder)

    async def scenario() -> None:
        (led,) = await post_all(deployment.urls, question, 1)
        deployment.webs[0].send_signal(signal.SIGKILL)
        deployment.webs[0].wait(10)
        async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
            joined = await client.post(f"{deployment.urls[1]}/v1/runs", json=question.body)
        assert joined.headers["x-cache"] == "joined"
        assert joined.json()["id"] == led.json()["id"]
        question.open()
        await told_all([deployment.urls[1]] * 2, [joined.json()])
        assert len(question.executions) == 1

    asyncio.run(scenario())
    with Redis.from_url(streams_url, protocol=2) as redis:
        wait_until(lambda: not redis.keys("inflight:*"), "the hint is gone")

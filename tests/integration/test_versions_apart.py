"""Runners with different models under one agent's name: none answers for another that lives."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from tests import fake_model as models
from tests.deployment import Deployment, deployed
from tests.fake_model import FakeModel, fake_model
from tests.faults import record_of
from tests.processes import wait_until

EACH = 100
QUESTIONS = [f"question {number}" for number in range(EACH)]
# What a web worker knows of agents is at most so old, and it asks the latest.
KNOWN_S = 10


class Pair(NamedTuple):
    """Two models, the first of which answers nobody before `going`."""

    first: FakeModel
    second: FakeModel
    going: threading.Event

    def env(self, which: str) -> dict[str, str]:
        return {
            "OPENAI_BASE_URL": getattr(self, which).base_url,
            "OPENAI_MODEL": which,
            "RUNNER_CONCURRENCY": "8",
        }


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    going = threading.Event()

    async def held(writer: asyncio.StreamWriter, model: FakeModel) -> None:
        await asyncio.to_thread(going.wait, 60)
        await models.MODES["normal"](writer, model)

    monkeypatch.setitem(models.MODES, "first", held)
    with fake_model("of the first") as first, fake_model("of the second") as second:
        yield Pair(first, second, going)
        going.set()


Place = Callable[..., AbstractContextManager[Deployment]]


@pytest.fixture
def place(tmp_path: Path, streams_url: str, cache_url: str, pair: Pair) -> Place:
    def place(which: str, webs: int = 0) -> AbstractContextManager[Deployment]:
        return deployed(
            tmp_path / which,
            streams_url=streams_url,
            cache_url=cache_url,
            webs=webs,
            env=pair.env(which),
        )

    return place


def ask(url: str, text: str) -> dict[str, Any]:
    answer = httpx.post(f"{url}/v1/runs", json={"agent": "openai", "input": text}, timeout=30)
    assert answer.status_code in (200, 202), answer.text
    run: dict[str, Any] = answer.json()
    run["is_hit"] = answer.headers["X-Cache"] == "hit"
    return run


def version(url: str) -> str:
    agents = httpx.get(f"{url}/v1/agents").json()["agents"]
    return next(str(agent["version"]) for agent in agents if agent["name"] == "openai")


def has_ended(url: str, run: dict[str, Any]) -> bool:
    return record_of(url, run)["status"] in ("completed", "failed", "cancelled")


def outputs(url: str, runs: list[dict[str, Any]]) -> list[str]:
    """Once all have completed."""
    for run in runs:
        wait_until(partial(has_ended, url, run), "it ends", timeout_s=60)
    records = [record_of(url, run) for run in runs]
    assert {record["status"] for record in records} == {"completed"}
    return [record["output"] for record in records]


def answered(url: str, text: str) -> str:
    return outputs(url, [ask(url, text)])[0]


def questions_to(model: FakeModel) -> list[str]:
    return sorted(request.body["messages"][-1]["content"] for request in model.requests)


def cause(url: str) -> str:
    runner = httpx.get(f"{url}/health").json()["components"]["runner"]
    return str(runner.get("cause", ""))


def test_of_two_models_under_one_name_neither_answers_for_the_other(
    place: Place, pair: Pair
) -> None:
    with place("first", webs=1) as first:
        (url,) = first.urls
        old = version(url)
        ours = [ask(url, text) for text in QUESTIONS]
        with place("second"):
            wait_until(lambda: version(url) != old, "the latest is asked", timeout_s=KNOWN_S)
            new = version(url)
            # The same questions: neither joined nor answered from the other's cache.
            theirs = [ask(url, text) for text in QUESTIONS]
            assert not {run["id"] for run in ours} & {run["id"] for run in theirs}
            # One has nothing to do, and leaves what waits to the other.
            assert outputs(url, theirs) == ["of the second"] * EACH
            assert questions_to(pair.second) == sorted(QUESTIONS)
            wait_until(lambda: "openai" in cause(url), "it is told", timeout_s=30)
            said = cause(url)
            assert old in said and new in said and "OPENAI_MODEL" in said
            pair.going.set()
            assert outputs(url, ours) == ["of the first"] * EACH
            assert questions_to(pair.first) == sorted(QUESTIONS)
            assert len(pair.second.requests) == EACH
            again = [ask(url, text) for text in QUESTIONS]
            assert [run["is_hit"] for run in again].count(False) == 0
            assert outputs(url, again) == ["of the second"] * EACH
        wait_until(lambda: cause(url) == "", "they agree again", timeout_s=10)
        # It is asked still, and nobody with it lives: what the other says is never its answer.
        assert version(url) == new
        assert [answered(url, "later") for _ in range(2)] == ["of the first"] * 2
        with place("second"):
            wait_until(lambda: answered(url, "later") == "of the second", "it is back")


def test_a_rolling_deploy_loses_nothing_and_caches_no_answer_as_another_s(
    place: Place, pair: Pair
) -> None:
    with place("first", webs=1) as first:
        (url,), (runner,) = first.urls, first.runners
        old = version(url)
        runs = [ask(url, text) for text in QUESTIONS]
        wait_until(lambda: len(pair.first.requests) == 8, "some are on")
        with place("second"):
            runner.terminate()
            # What it has it finishes; what waits for it is the next one's at once.
            waiting = [run for run in runs if record_of(url, run)["status"] == "queued"]
            assert len(waiting) >= EACH - 16
            rest = outputs(url, waiting)
            assert rest == ["of the second"] * len(waiting)
            pair.going.set()
            assert set(outputs(url, runs)) == {"of the first", "of the second"}
            assert runner.wait(20) == 0
            assert max(record_of(url, run)["attempt"] for run in runs) == 1
            wait_until(lambda: version(url) != old, "the latest is asked", timeout_s=KNOWN_S)
            # What it has answered in the other's place it has answered: nothing is asked twice.
            known = len(pair.second.requests)
            again = [ask(url, text) for text in QUESTIONS]
            assert outputs(url, again) == ["of the second"] * EACH
            assert len(pair.second.requests) == known + EACH - len(waiting)
            assert cause(url) == ""

"""A model's answers through a whole service: what is cut off is told and asked anew, what is
whole is a hit, and nobody gets what came over another's connection."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.deployment import deployed
from tests.faults import check_log
from tests.model_answers import delta, end, said
from tests.processes import wait_until
from tests.raw_model import (
    GO,
    LAST,
    RawModel,
    Step,
    chunk,
    chunked,
    raw_model,
    sized,
    stream_of,
)


@contextmanager
def serving_a_model(
    script: list[Step], tmp_path: Path, streams_url: str, cache_url: str
) -> Iterator[tuple[httpx.Client, RawModel]]:
    with raw_model(script) as model:
        env = {"OPENAI_BASE_URL": model.base_url, "OPENAI_MODEL": "m"}
        with (
            deployed(
                tmp_path, streams_url=streams_url, cache_url=cache_url, webs=1, env=env
            ) as deployment,
            httpx.Client(base_url=deployment.urls[0], timeout=30, trust_env=False) as client,
        ):
            yield client, model
    check_log((tmp_path / "runner0.log").read_text())


def ask(client: httpx.Client, text: str, **fields: Any) -> httpx.Response:
    return client.post("/v1/runs", json={"agent": "openai", "input": text, **fields})


def last_event_of(client: httpx.Client, asked: httpx.Response) -> dict[str, Any]:
    stream = client.get(asked.json()["events_url"]).text
    lines = [line for line in stream.splitlines() if line.startswith("data: ")]
    last: dict[str, Any] = json.loads(lines[-1].removeprefix("data: "))
    return last


def record_of(client: httpx.Client, asked: httpx.Response) -> dict[str, Any]:
    run = asked.json()
    token = run["events_url"].partition("?")[2]
    record: dict[str, Any] = client.get(f"/v1/runs/{run['id']}?{token}").json()
    return record


def test_an_answer_that_is_cut_off_is_told_and_asked_anew(
    tmp_path: Path, streams_url: str, cache_url: str
) -> None:
    script: list[Step] = [
        chunked(said(delta(content="half an"), done=False)),
        GO,
        chunk(said(end("length"))) + LAST,
    ]
    with serving_a_model(script, tmp_path, streams_url, cache_url) as (client, model):
        first = ask(client, "Why?")
        wait_until(lambda: model.requests, "the model is asked")
        joined = ask(client, "Why?")
        assert (first.headers["x-cache"], joined.headers["x-cache"]) == ("miss", "joined")
        model.go.set()
        for asked in (first, joined):
            told = last_event_of(client, asked)
            assert (told["type"], told["finish_reason"]) == ("run.completed", "length")
            record = record_of(client, asked)
            assert (record["status"], record["finish_reason"]) == ("completed", "length")
            assert record["output"] == "half an"
        anew = ask(client, "Why?")
        assert anew.headers["x-cache"] == "miss"
        assert anew.json()["id"] != first.json()["id"]
        assert last_event_of(client, anew)["finish_reason"] == "stop"
        assert record_of(client, anew)["output"] == "second"
        hit = ask(client, "Why?")
        assert hit.headers["x-cache"] == "hit"
        told, record = last_event_of(client, hit), record_of(client, hit)
        assert (told["cached"], told["finish_reason"]) == (True, "stop")
        assert hit.json()["finish_reason"] == record["finish_reason"] == "stop"
        assert len(model.requests) == 2


@pytest.mark.parametrize("late", [False, True])
def test_nobody_is_told_or_cached_what_came_over_another_s_connection(
    tmp_path: Path, streams_url: str, cache_url: str, late: bool
) -> None:
    poison = sized(stream_of("poison"))
    first = sized(stream_of("first"))
    script: list[Step] = [first, GO, poison] if late else [first + poison]
    with serving_a_model(script, tmp_path, streams_url, cache_url) as (client, model):
        asked = ask(client, "One?")
        assert last_event_of(client, asked)["type"] == "run.completed"
        model.go.set()
        assert model.said.wait(20)
        for question, answer in (("Two?", "second"), ("One?", "first"), ("Two?", "second")):
            asked = ask(client, question)
            last_event_of(client, asked)
            assert record_of(client, asked)["output"] == answer
        assert asked.headers["x-cache"] == "hit"
        assert [number for number, _ in model.requests] == [1, 2]

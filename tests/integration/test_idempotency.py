"""`Idempotency-Key`: a repeated request is the same run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from plateau_sse.store.runs import ids
from tests.integration.api_client import (
    api_serving,
    assert_problem,
    follow,
    record_of,
    unique,
    wait_for_status,
)
from tests.processes import Serving


@pytest.fixture(scope="module")
def plateau(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with api_serving(tmp_path_factory.mktemp("idempotency")) as running:
        yield running


@pytest.fixture(scope="module")
def client(plateau: Serving) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=plateau.url, timeout=30, trust_env=False) as opened:
        yield opened


def post(client: httpx.Client, key: str, text: str, **more: Any) -> httpx.Response:
    body = {"agent": "echo", "input": text, **more}
    return client.post("/v1/runs", json=body, headers={"Idempotency-Key": key})


def test_a_repeat_is_the_same_run_with_a_token_of_its_own(client: httpx.Client) -> None:
    key, text = unique(), unique()
    first, second = post(client, key, text).json(), post(client, key, text).json()
    assert first["id"] == second["id"]
    assert first["events_url"] != second["events_url"]
    for run in (first, second):
        assert follow(client, run["events_url"])[-1].type == "run.completed"
    # Once it has ended as well: the run itself, not a hit of the cache.
    third = post(client, key, text)
    assert (third.status_code, third.json()["id"]) == (202, first["id"])
    assert third.json()["status"] == "completed"


def test_many_at_once_are_one_run(client: httpx.Client) -> None:
    key, text = unique(), unique()
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: post(client, key, text), range(48)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    (event,) = [
        event
        for event in follow(client, answers[0].json()["events_url"])
        if event.type == "run.started"
    ]
    assert event.data["attempt"] == 1


def test_a_shared_run_ends_when_all_have_given_it_up(
    client: httpx.Client, tmp_path: Path
) -> None:
    key, options = unique(), {"gate": str(tmp_path / "gate")}
    body = {"agent": "slow", "input": "shared", "options": options, "cache": {"mode": "off"}}
    first, second = (
        client.post("/v1/runs", json=body, headers={"Idempotency-Key": key}).json()
        for _ in range(2)
    )
    assert first["id"] == second["id"]
    wait_for_status(client, first, "running")
    for _ in range(2):
        # Repeatable, and no more than this caller's own share.
        answer = client.post(first["cancel_url"])
        assert (answer.status_code, answer.json()["status"]) == (202, "running")
    assert record_of(client, first)["status"] == "running"
    assert client.post(second["cancel_url"]).status_code == 202
    # Who has given up its share may still watch the end.
    assert follow(client, first["events_url"])[-1].type == "run.cancelled"
    assert client.post(first["cancel_url"]).json()["status"] == "cancelled"


def test_another_body_under_the_same_key_is_refused(client: httpx.Client) -> None:
    key = unique()
    assert post(client, key, "one").status_code in (200, 202)
    text = unique()
    assert post(client, key + "x", text).status_code == 202
    problem = post(client, key + "x", text, options={"a": 1})
    assert_problem(problem, 422, "idempotency_conflict")
    assert problem.json()["field"] == "Idempotency-Key"


@pytest.mark.parametrize("key", ["x" * 256, "a b"])
def test_a_bad_key(client: httpx.Client, key: str) -> None:
    assert_problem(post(client, key, unique()), 422, "invalid_request")


def test_derived_ids_belong_to_owner_key_and_window() -> None:
    at = time.time()
    now, before, after = ids.derived_run_ids("owner", "key", 600, at)
    assert ids.derived_run_ids("owner", "key", 600, at + 600)[:2] == (after, now)
    assert ids.derived_run_ids("owner", "key", 600, at - 600)[0] == before
    assert len({now, before, after, *ids.derived_run_ids("other", "key", 600, at)}) == 6
    assert all(ids.RUN_ID.fullmatch(run_id) for run_id in (now, before))
    # They age like other ids, at most a window early.
    assert 0 <= ids.age_s(now) <= 600
    assert 600 <= ids.age_s(before) <= 1200

"""Runs over real sockets: create, look up, cancel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.integration.api_client import (
    SSE,
    api_serving,
    ask,
    assert_problem,
    finish,
    follow,
    keys_in,
    messages,
    record_of,
    text_of,
    told,
    unique,
    wait_for_status,
)
from tests.processes import Serving, wait_until

CONCURRENCY = 2
QUEUE_LIMIT = 20
RECORD = {
    "id": str,
    "status": str,
    "agent": str,
    "attempt": int,
    "cached": bool,
    "created_at": float,
}
# What nobody knows before the run has begun, or has ended.
LATER = {
    *("output", "parts", "error", "finish_reason", "usage", "model"),
    *("started_at", "ended_at", "duration_ms"),
}


@pytest.fixture(scope="module")
def plateau(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    env = {"RUNNER_CONCURRENCY": str(CONCURRENCY), "QUEUE_LIMIT": str(QUEUE_LIMIT)}
    with api_serving(tmp_path_factory.mktemp("api"), env) as running:
        yield running


@pytest.fixture(scope="module")
def client(plateau: Serving) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=plateau.url, timeout=30, trust_env=False) as opened:
        yield opened


@contextmanager
def occupied(client: httpx.Client, folder: Path) -> Iterator[None]:
    """The runner has no place free: whatever is posted now waits in the queue."""
    gate = folder / "occupied"
    runs = [
        ask(client, "slow", options={"gate": str(gate)}, cache={"mode": "off"})
        for _ in range(CONCURRENCY)
    ]
    try:
        for run in runs:
            wait_for_status(client, run, "running")
        yield
    finally:
        gate.touch()
        for run in runs:
            wait_for_status(client, run, "completed")


# POST /v1/runs in its three forms


def test_a_run_is_accepted_with_its_links(client: httpx.Client) -> None:
    response = client.post("/v1/runs", json={"agent": "echo", "input": unique()})
    assert response.status_code == 202
    body = response.json()
    assert set(body) == {"id", "status", "agent", "cached", "events_url", "cancel_url"}
    assert (body["status"], body["agent"], body["cached"]) == ("queued", "echo", False)
    path = f"/v1/runs/{body['id']}"
    events_url, token = body["events_url"].split("?token=")
    assert events_url == f"{path}/events"
    assert body["cancel_url"] == f"{path}/cancel?token={token}"
    assert len(token) >= 22
    assert response.headers["content-type"] == "application/json"
    assert response.headers["location"] == path
    assert response.headers["x-cache"] == "miss"
    assert response.headers["cache-status"] == "plateau; fwd=miss"
    assert response.headers["cache-control"] == "no-store"
    assert "age" not in response.headers


@pytest.mark.parametrize("accept", ["text/event-stream", "application/json, Text/Event-Stream"])
def test_the_answer_may_be_the_stream_itself(client: httpx.Client, accept: str) -> None:
    text = unique()
    body = {"agent": "echo", "input": text}
    with client.stream("POST", "/v1/runs", json=body, headers={"Accept": accept}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-cache"] == "miss"
        assert response.headers["cache-status"] == "plateau; fwd=miss"
        found = response.headers["location"].partition("/events?")[0]
        events = list(messages(response.iter_lines()))
    assert text_of(events) == f"You said: {text}"
    assert events[-1].type == "run.completed"
    assert client.get(found).json()["output"] == f"You said: {text}"


def test_waiting_for_the_end_gives_the_record(client: httpx.Client) -> None:
    text = unique()
    response = client.post(
        "/v1/runs", json={"agent": "echo", "input": text}, headers={"Prefer": "wait=30"}
    )
    assert response.status_code == 200
    assert response.headers["preference-applied"] == "wait=30"
    assert response.headers["x-cache"] == "miss"
    body = response.json()
    assert body["output"] == f"You said: {text}"
    links = {name: body.pop(name) for name in ("events_url", "cancel_url")}
    assert body == record_of(client, body)
    assert client.get(links["events_url"], headers={"Last-Event-ID": "1-1"}).status_code == 200


@pytest.mark.parametrize(
    "headers", [[("Prefer", "wait=1")], [("Prefer", "handling=lenient"), ("Prefer", "wait=1")]]
)
def test_waiting_ends_before_the_run_does(
    client: httpx.Client, tmp_path: Path, headers: list[tuple[str, str]]
) -> None:
    body = {"agent": "slow", "input": unique(), "options": {"gate": str(tmp_path / "gate")}}
    response = client.post("/v1/runs", json=body, headers=headers)
    (tmp_path / "gate").touch()
    assert response.status_code == 202
    assert response.headers["preference-applied"] == "wait=1"
    assert response.elapsed.total_seconds() >= 1
    assert response.json()["status"] == "running"
    assert follow(client, response.json()["events_url"])[-1].type == "run.completed"


def test_a_preference_that_is_not_understood_is_ignored(client: httpx.Client) -> None:
    body = {"agent": "echo", "input": unique()}
    response = client.post("/v1/runs", json=body, headers={"Prefer": "wait=soon"})
    assert response.status_code == 202
    assert "preference-applied" not in response.headers


def test_messages_instead_of_an_input(client: httpx.Client) -> None:
    text = unique()
    exchange = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hi"), ("user", text)]
    body = {
        "agent": "echo",
        "messages": [{"role": role, "content": content} for role, content in exchange],
    }
    response = client.post("/v1/runs", json=body, headers={"Prefer": "wait=30"})
    assert response.json()["output"] == f"You said: {text}"
    assert response.json()["usage"] == {"input_tokens": 4, "output_tokens": 2}


def test_a_full_queue_refuses_and_leaves_nothing_behind(
    plateau: Serving, client: httpx.Client, tmp_path: Path
) -> None:
    with occupied(client, tmp_path):
        waiting = []
        for _ in range(QUEUE_LIMIT + 1):
            before = keys_in(plateau.streams_url)
            body = {"agent": "echo", "input": unique(), "cache": {"mode": "off"}}
            response = client.post("/v1/runs", json=body)
            if response.status_code == 429:
                break
            waiting.append(response.json())
        assert_problem(response, 429, "queue_full")
        assert int(response.headers["retry-after"]) >= 1
        assert keys_in(plateau.streams_url) <= before
        assert 0 < len(waiting) <= QUEUE_LIMIT
    for run in waiting:
        wait_for_status(client, run, "completed")


# GET /v1/runs/{id}


def test_the_record_of_a_queued_run(client: httpx.Client, tmp_path: Path) -> None:
    with occupied(client, tmp_path):
        run = ask(client, "echo")
        record = record_of(client, run)
        assert record["status"] == "queued"
        assert record["attempt"] == 0
        for name in LATER:
            assert record[name] is None, name
    wait_for_status(client, run, "completed")


def test_the_record_of_a_running_run(client: httpx.Client, tmp_path: Path) -> None:
    run = ask(client, "slow", options={"gate": str(tmp_path / "gate")})
    wait_for_status(client, run, "running")
    record = record_of(client, run)
    assert record["attempt"] == 1
    assert record["started_at"] >= record["created_at"]
    # Who wants what has been said so far follows it.
    for name in LATER - {"started_at"}:
        assert record[name] is None, name
    (tmp_path / "gate").touch()
    wait_for_status(client, run, "completed")


def test_the_record_of_a_completed_run(client: httpx.Client) -> None:
    record = finish(client, "tools", "a word")
    for name, kind in RECORD.items():
        assert type(record[name]) is kind, name
    assert (record["status"], record["error"], record["attempt"]) == ("completed", None, 1)
    assert record["output"] == "It is there."
    assert record["finish_reason"] == "stop"
    assert record["parts"] == [
        {"type": "tool.call", "id": "c1", "name": "search", "arguments": {"query": "a word"}},
        {"type": "tool.result", "id": "c1", "output": ["found"]},
        {"type": "text", "part": 0, "text": "It is there."},
    ]
    assert record["usage"] == {"input_tokens": 7, "output_tokens": 3}
    assert record["created_at"] <= record["started_at"] <= record["ended_at"]
    between_ms = 1000 * (record["ended_at"] - record["started_at"])
    assert record["duration_ms"] == pytest.approx(between_ms, abs=2)


FAILURES: dict[str, dict[str, Any]] = {
    "failing": {"code": "agent_error", "retryable": False},
    "refusing": {"code": "invalid_options", "retryable": True, "message": "Not like this."},
    "large": {"code": "output_too_large", "retryable": False},
}


@pytest.mark.parametrize("agent", FAILURES)
def test_the_record_of_a_failed_run(client: httpx.Client, agent: str) -> None:
    text = unique()
    record = finish(client, agent, text)
    assert (record["status"], record["output"]) == ("failed", None)
    assert record["error"].items() >= FAILURES[agent].items()
    assert record["ended_at"] >= record["started_at"]
    # What an exception says is for the log, not for whoever asked.
    assert text not in str(record["error"])
    # What it has said stays said.
    events = follow(client, record["events_url"])
    assert told(events).parts == record["parts"] != []
    last = events[-1]
    assert last.type == "run.failed"
    assert {key: last.data[key] for key in record["error"]} == record["error"]


def test_agents_of_every_kind(client: httpx.Client) -> None:
    assert finish(client, "sync", "x")["output"] == "from a thread: x"
    assert finish(client, "output", "life")["output"] == "The answer to life."


def test_a_token_opens_its_own_run_and_no_other(client: httpx.Client) -> None:
    mine, other = finish(client, "echo"), finish(client, "echo")
    token = mine["events_url"].partition("?token=")[2]
    assert client.get(f"/v1/runs/{mine['id']}?token={token}").status_code == 200
    for method, path in (("GET", ""), ("GET", "/events"), ("POST", "/cancel")):
        response = client.request(method, f"/v1/runs/{other['id']}{path}?token={token}")
        assert_problem(response, 401, "invalid_token")
        assert response.headers["www-authenticate"] == "Bearer"


# POST /v1/runs/{id}/cancel


def test_cancelling_reaches_the_agent(client: httpx.Client, tmp_path: Path) -> None:
    left = tmp_path / "left"
    options = {"gate": str(tmp_path / "never"), "left": str(left)}
    run_input = unique()
    run = ask(client, "slow", run_input, options=options)
    wait_for_status(client, run, "running")
    with client.stream("GET", run["events_url"]) as reader:
        response = client.post(run["cancel_url"])
        assert (response.status_code, response.json()["status"]) == (202, "running")
        assert client.post(run["cancel_url"]).status_code in (200, 202)
        # An agent is told within about a second; the rest is a slow machine's.
        wait_until(left.exists, "the agent is told", timeout_s=5)
        last = list(messages(reader.iter_lines()))[-1]
    assert left.read_text() == "cancelled"
    assert (last.type, last.data["reason"]) == ("run.cancelled", "requested")
    record = record_of(client, run)
    assert (record["status"], record["output"]) == ("cancelled", None)
    assert record["error"]["code"] == "cancelled"
    assert [part["text"] for part in record["parts"]] == [f"before {run_input}"]
    response = client.post(run["cancel_url"])
    assert (response.status_code, response.json()["status"]) == (200, "cancelled")
    assert follow(client, run["events_url"])[-1] == last


def test_a_queued_run_is_cancelled_at_once(client: httpx.Client, tmp_path: Path) -> None:
    with occupied(client, tmp_path):
        run = ask(client, "echo")
        response = client.post(run["cancel_url"])
        assert (response.status_code, response.json()["status"]) == (200, "cancelled")
        assert client.post(run["cancel_url"]).status_code == 200
        record = record_of(client, run)
        assert (record["status"], record["started_at"]) == ("cancelled", None)
        events = follow(client, run["events_url"])
        tag = run["id"][12:18]
        assert [(event.id, event.type) for event in events] == [(f"{tag}-1-1", "run.cancelled")]
    # The runner comes by its place in the queue and lets it be.
    assert finish(client, "echo")["status"] == "completed"
    assert record_of(client, run) == record


@pytest.mark.parametrize("agent", ["echo", "failing"])
def test_what_has_finished_cannot_be_cancelled(client: httpx.Client, agent: str) -> None:
    run = finish(client, agent)
    assert_problem(client.post(run["cancel_url"]), 409, "run_finished")
    assert record_of(client, run)["status"] == run["status"]


def test_the_stream_of_a_post_ends_when_the_run_is_cancelled(
    client: httpx.Client, tmp_path: Path
) -> None:
    body = {"agent": "slow", "input": "x", "options": {"gate": str(tmp_path / "never")}}
    with client.stream("POST", "/v1/runs", json=body, headers=SSE) as response:
        lines = response.iter_lines()
        for event in messages(lines):
            if event.type == "message.delta":
                break
        cancel = response.headers["location"].replace("/events?", "/cancel?")
        assert client.post(cancel).status_code == 202
        assert [event.type for event in messages(lines)][-1] == "run.cancelled"

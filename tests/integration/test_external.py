"""Producers outside: numbering, repeats, arrays that are taken whole or not, and silence."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from redis import Redis

from plateau_sse.store.redis import keys
from plateau_sse.store.runs.appending import BRIEF_LIVES_S
from tests.integration.api_client import api_serving, assert_problem, follow, record_of, text_of
from tests.processes import Serving, wait_until

IDLE_S = 3


@pytest.fixture(scope="module")
def plateau(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    env = {"EXTERNAL_IDLE_S": str(IDLE_S)}
    with api_serving(tmp_path_factory.mktemp("external"), env) as running:
        yield running


@pytest.fixture(scope="module")
def client(plateau: Serving) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=plateau.url, timeout=30, trust_env=False) as opened:
        yield opened


def start(client: httpx.Client) -> dict[str, Any]:
    response = client.post("/v1/runs", json={"agent": "external"})
    assert (response.status_code, response.headers["x-cache"]) == (202, "miss"), response.text
    body: dict[str, Any] = response.json()
    assert body["status"] == "running"
    return body


def append(
    client: httpx.Client, run: dict[str, Any], events: object, first_seq: int | None = None
) -> httpx.Response:
    params = {} if first_seq is None else {"first_seq": str(first_seq)}
    return client.post(f"/v1/runs/{run['id']}/events", json=events, params=params)


def delta(text: str) -> dict[str, str]:
    return {"type": "message.delta", "text": text}


def test_a_producer_in_any_language(client: httpx.Client) -> None:
    run = start(client)
    one = append(client, run, delta("Hé"))
    assert one.json() == {
        "id": run["id"],
        "attempt": 1,
        "first_seq": 2,
        "last_seq": 2,
        "next_seq": 3,
        "duplicate": False,
    }
    many = append(
        client,
        run,
        [
            {"type": "run.progress", "step": 1, "total_steps": 4, "message": "a quarter"},
            {"type": "tool.call", "id": "c", "name": "look", "arguments": {"at": 1}},
            {"type": "tool.result", "id": "c", "output": [1, 2]},
            delta("llo"),
            {
                "type": "run.completed",
                "finish_reason": "length",
                "usage": {"input_tokens": 3, "output_tokens": 2},
            },
        ],
    )
    assert (many.json()["first_seq"], many.json()["last_seq"]) == (3, 7)
    events = follow(client, run["events_url"])
    assert [event.type for event in events] == [
        "run.started",
        "message.delta",
        "run.progress",
        "tool.call",
        "tool.result",
        "message.delta",
        "run.completed",
    ]
    assert events[2].data["percentage"] == 25
    record = record_of(client, run)
    assert events[-1].data["finish_reason"] == record["finish_reason"] == "length"
    assert (
        (record["status"], record["output"])
        == ("completed", "Héllo")
        == (
            "completed",
            text_of(events),
        )
    )
    assert record["usage"] == {"input_tokens": 3, "output_tokens": 2}


def test_a_repeat_is_recognised_by_its_first_seq(client: httpx.Client) -> None:
    run = start(client)
    batch = [delta("a"), delta("b")]
    assert append(client, run, batch, 2).json()["duplicate"] is False
    again = append(client, run, batch, 2)
    assert (again.status_code, again.json()["duplicate"]) == (200, True)
    assert again.json()["last_seq"] == 3
    overlapping = append(client, run, [delta("b"), delta("c")], 3)
    assert (overlapping.json()["last_seq"], overlapping.json()["next_seq"]) == (4, 5)
    problem = append(client, run, delta("z"), 9)
    assert_problem(problem, 409, "sequence_gap")
    assert problem.json()["expected_seq"] == 5
    append(client, run, {"type": "run.completed"}, 5)
    assert append(client, run, {"type": "run.completed"}, 5).json()["duplicate"] is True
    assert record_of(client, run)["output"] == "abc"
    assert_problem(append(client, run, delta("late")), 409, "run_finished")


def test_concurrent_producers_are_numbered_by_the_script(client: httpx.Client) -> None:
    run = start(client)

    def produce(name: str) -> None:
        for _ in range(20):
            assert append(client, run, [delta(name), delta(name)]).status_code == 200

    threads = [threading.Thread(target=produce, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    append(client, run, {"type": "run.completed"})
    output = record_of(client, run)["output"]
    assert sorted(output) == sorted("abcd" * 40)
    # Each array was taken in one piece.
    assert all(output[i] == output[i + 1] for i in range(0, len(output), 2))


@pytest.mark.parametrize(
    ("events", "field"),
    [
        ([delta("x"), {"type": "message.delta"}], "[1].text"),
        ([delta("x"), {"type": "run.started", "run": "r"}], "[1].type"),
        ([{"type": "run.completed"}, delta("x")], "[0]"),
        ([delta("x"), 5], "[1]"),
        ({"type": "run.failed", "code": "Not A Code"}, "code"),
        ({"type": "run.completed", "finish_reason": "STOP"}, "finish_reason"),
        ({"type": "run.progress", "step": -1}, "step"),
        ({"type": "message.delta", "text": "x", "more": 1}, "more"),
        ("text", ""),
        ([delta("x")] * 1001, ""),
    ],
)
def test_an_array_with_a_bad_event_is_not_taken_at_all(
    client: httpx.Client, events: object, field: str
) -> None:
    run = start(client)
    problem = append(client, run, events)
    assert_problem(problem, 422, "invalid_request")
    assert problem.json()["field"] == field
    assert append(client, run, []).json()["next_seq"] == 2


def test_bounds(client: httpx.Client) -> None:
    run = start(client)
    assert_problem(append(client, run, delta("x" * 70_000)), 413, "too_large")
    piece = delta("é" * 30_000)
    assert append(client, run, [piece] * 4).status_code == 200
    assert_problem(append(client, run, piece), 413, "output_too_large")
    assert append(client, run, {"type": "run.completed"}).json()["last_seq"] == 6
    assert len(record_of(client, run)["output"]) == 120_000


def test_only_external_runs_take_events(client: httpx.Client) -> None:
    run = client.post("/v1/runs", json={"agent": "echo", "input": "x"}).json()
    if run["cached"]:
        return
    assert_problem(append(client, run, delta("x")), 409, "not_external")
    absent = {"id": "0" * 32}
    assert_problem(append(client, absent, delta("x")), 410, "run_expired")


def test_cancelling_ends_it_and_the_producer_learns_of_it(client: httpx.Client) -> None:
    run = start(client)
    append(client, run, delta("x"))
    assert client.post(run["cancel_url"]).json()["status"] == "cancelled"
    assert_problem(append(client, run, delta("y")), 409, "run_finished")
    events = follow(client, run["events_url"])
    assert events[-1].type == "run.cancelled"


def test_silence_is_the_end_and_an_empty_append_is_not_silence(
    client: httpx.Client, plateau: Serving
) -> None:
    quiet, alive = start(client), start(client)
    append(client, quiet, delta("half an ans"))
    with Redis.from_url(plateau.streams_url, protocol=2) as redis:

        def quiet_has_ended() -> bool:
            append(client, alive, [])
            return bool(record_of(client, quiet)["status"] == "failed")

        wait_until(quiet_has_ended, "the silent producer is given up", timeout_s=IDLE_S + 10)
        assert record_of(client, quiet)["error"]["code"] == "producer_lost"
        assert follow(client, quiet["events_url"])[-1].data["code"] == "producer_lost"
        assert record_of(client, alive)["status"] == "running"
        append(client, alive, {"type": "run.completed"})
        wait_until(
            lambda: redis.zscore(keys.EXTERNAL, alive["id"]) is None,
            "the index forgets what has ended",
            timeout_s=IDLE_S + 10,
        )


# How many there may be


@pytest.fixture(scope="module", params=["anyone", "with keys"])
def few(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[httpx.Client, int, str]]:
    """A service that takes few, how many of them and what it says to one more."""
    keyed = request.param == "with keys"
    env = {"QUEUE_LIMIT": "6", **({"API_KEYS": "key-of-ann-12345"} if keyed else {})}
    headers = {"Authorization": "Bearer key-of-ann-12345"} if keyed else {}
    with (
        api_serving(tmp_path_factory.mktemp("few"), env) as running,
        httpx.Client(base_url=running.url, timeout=30, trust_env=False, headers=headers) as it,
    ):
        yield (it, 3, "owner_limit") if keyed else (it, 6, "queue_full")


def test_they_count_while_they_live(few: tuple[httpx.Client, int, str]) -> None:
    client, most, code = few
    running = [start(client) for _ in range(most)]
    for _ in range(3):
        refused = client.post("/v1/runs", json={"agent": "external"})
        assert_problem(refused, 429, code)
        assert int(refused.headers["retry-after"]) > 0
    # Ended by its producer, and by whoever asked for it: there is room at once.
    assert append(client, running[0], {"type": "run.completed"}).status_code == 200
    assert client.post(running[1]["cancel_url"]).json()["status"] == "cancelled"
    running[:2] = [start(client), start(client)]
    assert_problem(client.post("/v1/runs", json={"agent": "external"}), 429, code)
    for run in running:
        assert append(client, run, {"type": "run.completed"}).status_code == 200


def test_one_that_ends_without_a_word_is_soon_forgotten(
    client: httpx.Client, plateau: Serving
) -> None:
    empty, brief = start(client), start(client)
    append(client, empty, {"type": "run.completed"})
    append(client, brief, [delta("x"), {"type": "run.completed"}])
    with Redis.from_url(plateau.streams_url, protocol=2) as redis:
        assert redis.ttl(keys.run(empty["id"]).record) <= BRIEF_LIVES_S[0]
        assert redis.ttl(keys.run(brief["id"]).record) > 500
    assert record_of(client, empty)["status"] == "completed"

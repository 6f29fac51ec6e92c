"""Producers outside: numbering, repeats, arrays that are taken whole or not, and silence."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from locustfiles.kit.ledger import Ledger
from redis import Redis

from plateau_sse.store.redis import keys
from plateau_sse.store.runs.appending import BRIEF_LIVES_S
from tests.integration.api_client import (
    api_serving,
    ask,
    assert_problem,
    finish,
    follow,
    messages,
    record_of,
    text_of,
    unique,
)
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
    # Progress is state: nobody who comes late is told it of a run that has ended.
    assert [event.type for event in events] == [
        *("run.started", "message.delta", "tool.call", "tool.result", "message.delta"),
        "run.completed",
    ]
    assert [event.data.get("part") for event in events] == [None, 0, None, None, 1, None]
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


def test_numbers_begin_behind_the_one_that_is_not_the_producer_s(client: httpx.Client) -> None:
    """`run.started` is number 1: who thinks that its own is would lose it as a repeat."""
    run = start(client)
    for body in (delta("Hello "), [delta("Hello "), delta("world")]):
        refused = append(client, run, body, 1)
        assert_problem(refused, 422, "invalid_request")
        assert "2 for the first" in refused.json()["detail"]
    taken = append(client, run, [delta("Hello "), delta("world")], run["next_seq"]).json()
    assert (taken["first_seq"], taken["next_seq"], taken["duplicate"]) == (2, 4, False)
    append(client, run, {"type": "run.completed"}, taken["next_seq"])
    assert record_of(client, run)["output"] == "Hello world"


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
        ({"type": "message.delta", "text": "x", "part": -1}, "part"),
        ({"type": "message.delta", "text": "x", "part": "0"}, "part"),
        ({"type": "reasoning.delta", "text": "x", "continues": 1001}, "continues"),
        ({"type": "tool.result", "id": "c"}, ""),
        ({"type": "tool.result", "id": "c", "output": 1, "error": "x"}, ""),
        ({"type": "source", "id": "s", "title": "neither"}, ""),
        ({"type": "input.request", "id": "i", "message": "?", "kind": "order"}, "kind"),
        ([delta("x"), {"type": "run.queued"}], "[1].type"),
        ([delta("x"), {"type": "run.restarted", "attempt": 2}], "[1].type"),
        ({"type": "step", "name": "x" * 501}, "name"),
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


def told_of(client: httpx.Client, run: dict[str, Any]) -> Ledger:
    """What a reader is told who comes when all is over, each event in line."""
    ledger = Ledger()
    for event in follow(client, run["events_url"]):
        assert ledger.take(event.id, event.data), (ledger.faults, event)
    return ledger


EVERYTHING: list[dict[str, Any]] = [
    {"type": "reasoning.delta", "text": "hm"},
    {"type": "reasoning.delta", "text": "m"},
    delta("It is "),
    {"type": "tool.delta", "id": "c", "name": "look", "arguments": '{"at"'},
    {"type": "tool.call", "id": "c", "name": "look", "arguments": {"at": 1}, "client": True},
    {"type": "tool.result", "id": "c", "output": "soon", "preliminary": True},
    {"type": "tool.result", "id": "c", "error": "nothing there"},
    {"type": "source", "id": "s", "url": "https://a.example/", "title": "A"},
    {"type": "source", "id": "d", "media_type": "text/plain", "filename": "d.txt"},
    {"type": "file", "media_type": "text/plain", "url": "data:,x"},
    {"type": "data", "name": "table", "id": "t", "value": [1, None]},
    {"type": "data", "name": "draft", "value": 1, "transient": True},
    {"type": "step", "name": "again"},
    {"type": "message.delta", "text": "so.", "continues": 1},
    {"type": "input.request", "id": "i", "kind": "approval", "message": "Go on?"},
    {
        "type": "run.completed",
        "finish_reason": "input_required",
        "model": "m-1",
        "usage": {"input_tokens": 3, "output_tokens": 2, "reasoning_tokens": 1},
    },
]
STATES = [
    event
    for event in EVERYTHING
    if event["type"] == "tool.delta" or event.get("preliminary") or event.get("transient")
]


def test_each_event_that_a_producer_may_send(client: httpx.Client) -> None:
    run = start(client)
    answered = append(client, run, EVERYTHING).json()
    assert (answered["first_seq"], answered["last_seq"]) == (2, 1 + len(EVERYTHING))
    ledger = told_of(client, run)
    assert ledger.close() == {} and ledger.parts == record_of(client, run)["parts"]
    said = [
        {"type": "reasoning", "part": 0, "text": "hmm"},
        {"type": "text", "part": 1, "text": "It is "},
        *[event for event in EVERYTHING[4:13] if event not in STATES],
        {"type": "text", "part": 2, "text": "so.", "continues": 1},
        EVERYTHING[14],
    ]
    assert ledger.parts == said
    record = record_of(client, run)
    assert record["output"] == "It is so." and record["finish_reason"] == "input_required"
    assert record["usage"] == EVERYTHING[-1]["usage"] and record["model"] == "m-1"


def test_states_are_told_to_who_is_there(client: httpx.Client) -> None:
    run = start(client)
    with client.stream("GET", run["events_url"]) as response:
        events = messages(response.iter_lines())
        assert next(events).type == "run.started"
        progress = {"type": "run.progress", "step": 1, "total_steps": 4}
        append(client, run, [*STATES, progress, {"type": "run.completed"}])
        *states, share, end = events
        assert [event.data for event in states] == STATES
        assert share.data["percentage"] == 25 and end.type == "run.completed"
        assert {event.id for event in (*states, share)} == {""}


def test_parts_are_numbered_by_their_producer_or_for_it(client: httpx.Client) -> None:
    run = start(client)

    def said(text: str, **more: int) -> dict[str, Any]:
        return {"type": "message.delta", "text": text, **more}

    batch = [said("a", part=0), said("b", part=1), said("c", part=1), said("d")]
    assert append(client, run, batch).status_code == 200
    # Two that speak at once.
    turns = [said("A", part=2, continues=0), said("B", part=3, continues=1)]
    assert append(client, run, turns).status_code == 200
    for wrong, right in (
        (said("x", part=5), 4),
        (said("x", part=0), 4),
        (said("x", continues=4), 4),
        (said("x", part=4, continues=9), 4),
        ([said("x"), {"type": "step", "name": ""}, said("x", part=3)], 4),
        ([said("x", part=4), said("x", part=6)], 5),
    ):
        problem = append(client, run, wrong)
        assert_problem(problem, 422, "invalid_request")
        assert problem.json()["field"] == "part"
        assert f"number {right};" in problem.json()["detail"]
    append(client, run, {"type": "run.completed"})
    parts = [(part["text"], part.get("continues")) for part in told_of(client, run).parts]
    assert parts == [("a", None), ("bcd", None), ("A", 0), ("B", 1)]
    assert record_of(client, run)["output"] == "abcdAB"


def test_a_large_text_is_cut_and_counts_as_one(client: httpx.Client) -> None:
    run = start(client)
    text = "é🏔\n\u2028" * 15_000
    with client.stream("GET", run["events_url"]) as response:
        lines = response.iter_lines()
        assert append(client, run, {"type": "message.delta", "text": text}, 2).json() == {
            **{"id": run["id"], "attempt": 1, "first_seq": 2, "last_seq": 2, "next_seq": 3},
            "duplicate": False,
        }
        assert append(client, run, {"type": "message.delta", "text": text}, 2).json()[
            "duplicate"
        ]
        thought = {"type": "reasoning.delta", "text": "x" * 20_000, "part": 1, "continues": 0}
        assert append(client, run, [thought], 3).json()["last_seq"] == 3
        append(client, run, {"type": "run.completed"}, 4)
        heard, ledger = list(lines), Ledger()
    for event in messages(heard):
        assert ledger.take(event.id, event.data), (ledger.faults, event)
    assert max(len(line.encode()) for line in heard) <= 8 * 1024 - 60
    assert ledger.close() == {} and ledger.text == text
    assert ledger.parts == told_of(client, run).parts == record_of(client, run)["parts"]
    assert ledger.parts[1] == {
        **{"type": "reasoning", "part": 1, "text": "x" * 20_000},
        "continues": 0,
    }


def test_bounds(client: httpx.Client) -> None:
    run = start(client)

    def mark(size: int) -> dict[str, Any]:
        return {"type": "data", "name": "n", "value": "x" * size}

    assert_problem(append(client, run, mark(32 * 1024)), 413, "too_large")
    problem = append(client, run, {"type": "tool.result", "id": "c", "output": "é" * 20_000})
    assert_problem(problem, 413, "too_large")
    piece = delta("é" * 32_000)
    assert append(client, run, [piece] * 4).status_code == 200
    assert_problem(append(client, run, piece), 413, "output_too_large")
    assert_problem(append(client, run, [delta("x"), piece]), 413, "output_too_large")
    assert append(client, run, [mark(32_000)] * 8).status_code == 200
    assert_problem(append(client, run, mark(32_000)), 413, "output_too_large")
    # State takes no room, the end always has it.
    assert append(client, run, {"type": "run.progress"}).status_code == 200
    room = 256 * 1024 - 4 * 64_000
    for too_long in (room + 1, 256 * 1024 + 1):
        end = {"type": "run.completed", "output": "x" * too_long}
        assert_problem(append(client, run, end), 413, "output_too_large")
    own = {"type": "run.completed", "output": "y" * room}
    assert append(client, run, own).json()["last_seq"] == 1 + 4 + 8 + 1 + 1
    assert record_of(client, run)["output"] == own["output"]
    ledger = told_of(client, run)
    assert ledger.text == "é" * 128_000
    assert ledger.end is not None and ledger.end["output"] == own["output"]


def test_as_many_marks_and_parts_as_there_may_be(client: httpx.Client) -> None:
    run = start(client)
    step = {"type": "step", "name": "s"}
    assert append(client, run, [step, delta("x")] * 499).status_code == 200
    assert_problem(append(client, run, [step, delta("x")]), 413, "output_too_large")
    assert append(client, run, [step, {"type": "run.completed"}]).status_code == 200
    assert told_of(client, run).text == "x" * 499


@pytest.mark.parametrize(
    "body",
    [
        b'{"type":"message.delta","text":"a\\ud83d"}',
        b'[{"type":"message.delta","text":"\\udfd4"}]',
        b'[{"type":"message.delta","text":"a"},{"type":"step","name":"\\ud83d b"}]',
    ],
)
def test_half_a_character_is_refused(client: httpx.Client, body: bytes) -> None:
    run = start(client)
    problem = client.post(f"/v1/runs/{run['id']}/events", content=body)
    assert_problem(problem, 422, "invalid_request")
    whole = b'{"type":"message.delta","text":"\\ud83c\\udfd4"}'
    assert client.post(f"/v1/runs/{run['id']}/events", content=whole).status_code == 200
    append(client, run, {"type": "run.completed"})
    assert record_of(client, run)["output"] == "🏔"


def test_a_server_that_was_exchanged_is_a_new_attempt(
    client: httpx.Client, plateau: Serving
) -> None:
    """Of a run whose producer does not count: readers begin anew with what is left."""
    counted, uncounted = start(client), start(client)
    append(client, counted, delta("left"), 2)
    append(client, uncounted, delta("left"))
    last = follow_until(client, uncounted, "message.delta")
    with Redis.from_url(plateau.streams_url, protocol=2) as redis:
        for run in (counted, uncounted):
            redis.hset(keys.run(run["id"]).record, "server", "0" * 8)
    assert append(client, counted, delta("!"), 3).json()["attempt"] == 1
    answered = append(client, uncounted, delta("!")).json()
    begun = answered["attempt"]
    assert begun > 2 and answered["last_seq"] == 1
    again = append(client, uncounted, {"type": "run.completed"}).json()
    assert (again["attempt"], again["last_seq"]) == (begun, 2)
    events = follow(client, uncounted["events_url"], **{"Last-Event-ID": last})
    assert [event.type for event in events] == [
        *("run.restarted", "run.started", "message.delta", "run.completed"),
    ]
    assert events[0].data == {"type": "run.restarted", "attempt": begun, "reason": "attempt"}
    assert events[1].data["attempt"] == begun and events[2].data["text"] == "left!"
    assert record_of(client, uncounted)["attempt"] == begun


def follow_until(client: httpx.Client, run: dict[str, Any], kind: str) -> str:
    """The id of the first event of that kind."""
    with client.stream("GET", run["events_url"]) as response:
        for event in messages(response.iter_lines()):
            if event.type == kind:
                return event.id
    raise AssertionError(f"no {kind}")


def test_a_run_of_another_release_is_refused(client: httpx.Client, plateau: Serving) -> None:
    run = start(client)
    with Redis.from_url(plateau.streams_url, protocol=2) as redis:
        record = keys.run(run["id"]).record
        redis.hset(record, "status", "running")
        redis.hdel(record, "state", "tape", "server")
        token = run["events_url"].partition("?")[2]
        for answered in (
            append(client, run, delta("x")),
            append(client, run, []),
            client.get(f"/v1/runs/{run['id']}"),
            client.get(f"/v1/runs/{run['id']}/events?{token}"),
            client.post(run["cancel_url"]),
        ):
            assert_problem(answered, 409, "other_release")
        redis.delete(*keys.run(run["id"]))


@pytest.mark.parametrize(
    "event",
    [
        {"type": "data", "name": "n", "value": "*"},
        {"type": "tool.call", "id": "c", "name": "n", "arguments": {"a": "*"}},
        {"type": "tool.result", "id": "c", "output": ["*"]},
        {"type": "input.request", "id": "c", "message": "m", "schema": "*"},
    ],
)
@pytest.mark.parametrize("depth", [101, 900, 985, 990, 5000])
def test_values_have_a_bound_of_depth(
    client: httpx.Client, event: dict[str, Any], depth: int
) -> None:
    run = start(client)
    deep = "[" * depth + "]" * depth
    for body in (json.dumps(event), json.dumps([delta("x"), event])):
        content = body.replace('"*"', deep)
        refused = client.post(f"/v1/runs/{run['id']}/events", content=content)
        assert_problem(refused, 422, "invalid_request")
        assert "100 levels" in refused.json()["detail"]
    fine = json.dumps(event).replace('"*"', "[" * 99 + "]" * 99)
    taken = client.post(f"/v1/runs/{run['id']}/events", content=fine)
    assert taken.status_code == 200, taken.text


def test_a_source_is_somewhere(client: httpx.Client) -> None:
    run = start(client)
    for nowhere in ({}, {"url": ""}, {"media_type": ""}, {"url": "", "title": "t"}):
        refused = append(client, run, {"type": "source", "id": "s", **nowhere})
        assert_problem(refused, 422, "invalid_request")


def test_what_an_end_may_say_has_a_bound(client: httpx.Client) -> None:
    """It is written however full the store is."""
    for end, member in (
        ({"type": "run.failed", "code": "broke", "message": "m" * 30_000}, "message"),
        ({"type": "run.cancelled", "reason": "r" * 30_000}, "reason"),
    ):
        run = start(client)
        assert append(client, run, end).status_code == 200
        last = follow(client, run["events_url"])[-1]
        assert last.data[member] == end[member][:500]


def test_of_one_that_has_ended_no_lease_is_left(client: httpx.Client, plateau: Serving) -> None:
    run = start(client)
    with Redis.from_url(plateau.streams_url, protocol=2) as redis:
        record = keys.run(run["id"]).record
        assert redis.hexists(record, "lease_ms")
        append(client, run, {"type": "run.completed"})
        assert not redis.hexists(record, "lease_ms")


def test_one_whose_beginning_the_store_has_lost_goes_on(
    client: httpx.Client, plateau: Serving
) -> None:
    """Its producer was told its id: what it sends is not refused as if the run had ended."""
    run = start(client)
    with Redis.from_url(plateau.streams_url, protocol=2) as redis:
        key = keys.run(run["id"])
        redis.delete(key.text, key.events, key.marks)
        redis.hdel(key.record, "runner", "started_ms", "lease_ms", "tries")
        redis.hset(
            key.record,
            mapping={
                **{"state": "queued", "attempt": 0, "seq": 0, "server": "0" * 8},
                "tape": "0 - 0 0 0 0 0 0 0",
            },
        )
    begun = append(client, run, delta("Hé"))
    # The lost one had the number 1.
    assert begun.status_code == 200 and begun.json()["attempt"] > 1
    assert append(client, run, {"type": "run.completed"}).status_code == 200
    assert text_of(follow(client, run["events_url"])) == "Hé"


def test_only_external_runs_take_events(client: httpx.Client) -> None:
    run = client.post("/v1/runs", json={"agent": "echo", "input": "x"}).json()
    if run["cached"]:
        return
    assert_problem(append(client, run, delta("x")), 409, "not_external")
    absent = {"id": "0" * 32}
    assert_problem(append(client, absent, delta("x")), 410, "run_expired")


def test_a_cached_answer_takes_no_events(client: httpx.Client) -> None:
    text = unique()
    finish(client, "echo", text)
    hit = ask(client, "echo", text)
    assert hit["cached"]
    assert_problem(append(client, hit, delta("x")), 409, "run_finished")


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


def test_an_append_does_not_read_what_was_said(plateau: Serving, client: httpx.Client) -> None:
    """The answer is 200 KB long by then, and would be read with each token."""
    run = start(client)
    for _ in range(25):
        assert append(client, run, delta("x" * 8000)).status_code == 200
    with Redis.from_url(plateau.streams_url) as redis:

        def sent_by_redis() -> int:
            return int(redis.info("stats")["total_net_output_bytes"])

        before = sent_by_redis()
        for _ in range(20):
            assert append(client, run, delta("y")).status_code == 200
        # What else the service asks meanwhile is in it.
        assert sent_by_redis() - before < 100_000
    assert append(client, run, {"type": "run.completed"}).status_code == 200

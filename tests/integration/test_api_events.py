"""The event stream of a run over real sockets: framing, resuming, snapshots, the end."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from plateau_sse.store.redis import keys
from tests.integration.api_client import (
    TERMINAL,
    Event,
    api_serving,
    ask,
    assert_problem,
    finish,
    follow,
    messages,
    record_of,
    text_of,
    unique,
    wait_for_status,
)
from tests.processes import Serving, wait_until

STREAM_CAP = 100
FRAME = re.compile(rb"id: \d+-\d+\ndata: \{[^\n]*\}")
NAMED_FRAME = re.compile(rb"id: \d+-\d+\nevent: [a-z.]+\ndata: \{[^\n]*\}")


@pytest.fixture(scope="module")
def plateau(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with api_serving(tmp_path_factory.mktemp("events"), {"RUNNER_CONCURRENCY": "2"}) as running:
        yield running


@pytest.fixture(scope="module")
def client(plateau: Serving) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=plateau.url, timeout=30, trust_env=False) as opened:
        yield opened


@pytest.fixture
def redis(plateau: Serving) -> Iterator[Redis]:
    with Redis.from_url(plateau.streams_url, protocol=2) as opened:
        yield opened


def gated(client: httpx.Client, folder: Path, agent: str = "slow") -> dict[str, Any]:
    """A run that is half done and stays so until `folder / "gate"` exists."""
    return ask(client, agent, options={"gate": str(folder / "gate")})


def accounted(events: list[Event]) -> int:
    """How many events these deliver or stand for."""
    snapshots = [event for event in events if event.type == "run.snapshot"]
    return len(events) - len(snapshots) + sum(int(event.data["missed"]) for event in snapshots)


def test_the_whole_run_from_its_start(client: httpx.Client) -> None:
    run = finish(client, "tools", unique())
    events = follow(client, run["events_url"])
    assert [event.id for event in events] == [f"1-{n}" for n in range(1, len(events) + 1)]
    started, call, result, delta, completed = (event.data for event in events)
    assert started == {
        "type": "run.started",
        "run": run["id"],
        "agent": "tools",
        "attempt": 1,
    }
    assert (call["type"], call["id"], call["name"]) == ("tool.call", "c1", "search")
    assert result == {"type": "tool.result", "id": "c1", "output": ["found"]}
    assert delta == {"type": "message.delta", "text": "It is there."}
    assert (completed["type"], completed["cached"]) == ("run.completed", False)
    assert completed["usage"] == run["usage"]
    assert "output" not in completed


def test_output_that_is_not_the_text_comes_with_the_end(client: httpx.Client) -> None:
    run = finish(client, "output", "life")
    events = follow(client, run["events_url"])
    assert text_of(events) == "thinking"
    assert events[-1].data["output"] == run["output"] == "The answer to life."


@pytest.mark.parametrize(("names", "frame"), [("", FRAME), ("&event_names=1", NAMED_FRAME)])
def test_the_bytes_of_a_stream(
    client: httpx.Client, names: str, frame: re.Pattern[bytes]
) -> None:
    response = client.get(finish(client, "echo")["events_url"] + names)
    assert response.headers["content-type"] == "text/event-stream"
    assert response.headers["cache-control"] == "no-store, no-transform"
    assert response.headers["x-accel-buffering"] == "no"
    assert "content-length" not in response.headers
    content = response.content
    assert b"\r" not in content
    retry, _, rest = content.partition(b"\n")
    *frames, end = rest.split(b"\n\n")
    assert end == b""
    assert 1000 <= int(retry.removeprefix(b"retry: ")) <= 3000
    assert frames and all(frame.fullmatch(found) for found in frames)


def test_named_events_carry_their_type(client: httpx.Client) -> None:
    events = follow(client, finish(client, "tools")["events_url"] + "&event_names=1")
    assert all(event.event == event.type for event in events)


def test_events_arrive_while_the_run_is_under_way(client: httpx.Client, tmp_path: Path) -> None:
    run = gated(client, tmp_path)
    with client.stream("GET", run["events_url"]) as response:
        events = messages(response.iter_lines())
        seen = []
        for event in events:
            seen.append(event)
            if event.type == "message.delta":
                break
        assert record_of(client, run)["status"] == "running"
        (tmp_path / "gate").touch()
        seen += events
    assert text_of(seen) == record_of(client, run)["output"]
    assert seen[-1].type == "run.completed"


# Resuming


def test_resuming_goes_on_after_the_event(client: httpx.Client) -> None:
    url = finish(client, "echo")["events_url"]
    whole = follow(client, url)
    for position in range(1, len(whole)):
        after = whole[position - 1].id
        assert follow(client, url, **{"Last-Event-ID": after}) == whole[position:]
        assert follow(client, f"{url}&last_event_id={after}") == whole[position:]


@pytest.mark.parametrize("query", ["1-1", "nonsense", "9-9"])
def test_the_header_beats_the_query(client: httpx.Client, query: str) -> None:
    url = finish(client, "echo")["events_url"]
    events = follow(client, f"{url}&last_event_id={query}", **{"Last-Event-ID": "1-2"})
    assert events[0].id == "1-3"


def test_an_empty_position_is_the_start(client: httpx.Client) -> None:
    # A browser sends no header before the first event, some clients an empty one.
    url = finish(client, "echo")["events_url"]
    assert follow(client, url + "&last_event_id=", **{"Last-Event-ID": ""}) == follow(
        client, url
    )


def test_after_the_end_there_is_nothing_to_come_back_for(client: httpx.Client) -> None:
    url = finish(client, "echo")["events_url"]
    last = follow(client, url)[-1].id
    for method in ("GET", "HEAD"):
        response = client.request(method, url, headers={"Last-Event-ID": last})
        assert (response.status_code, response.content) == (204, b"")
    assert client.get(f"{url}&last_event_id={last}").status_code == 204


def test_a_head_request_tells_what_a_get_would(client: httpx.Client, tmp_path: Path) -> None:
    running, ended = gated(client, tmp_path), finish(client, "echo")
    for run in (running, ended):
        response = client.head(run["events_url"])
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.content == b""
    assert client.head(running["events_url"] + "x").status_code == 401
    (tmp_path / "gate").touch()
    wait_for_status(client, running, "completed")


def test_dropping_and_resuming_loses_and_repeats_nothing(
    client: httpx.Client, tmp_path: Path
) -> None:
    run = gated(client, tmp_path)
    with client.stream("GET", run["events_url"]) as response:
        seen = []
        for event in messages(response.iter_lines()):
            seen.append(event)
            if event.type == "message.delta":
                break
    (tmp_path / "gate").touch()
    seen += follow(client, run["events_url"], **{"Last-Event-ID": seen[-1].id})
    known = [event for event in seen if event.id]
    assert [event.seq for event in known] == list(range(1, len(known) + 1))
    assert text_of(seen) == record_of(client, run)["output"]


# Snapshots


def test_a_queued_run_says_so_at_once(client: httpx.Client, tmp_path: Path) -> None:
    occupying = [gated(client, tmp_path) for _ in range(2)]
    for run in occupying:
        wait_for_status(client, run, "running")
    waiting = ask(client, "echo")
    with client.stream("GET", waiting["events_url"]) as response:
        events = messages(response.iter_lines())
        first = next(events)
        assert (first.type, first.data["status"]) == ("run.snapshot", "queued")
        assert (first.data["text"], first.data["missed"], first.id) == ("", 0, "")
        (tmp_path / "gate").touch()
        rest = list(events)
    assert [event.seq for event in rest] == list(range(1, len(rest) + 1))
    assert text_of(rest) == record_of(client, waiting)["output"]


def test_a_late_reader_of_a_long_run_gets_one_snapshot(
    client: httpx.Client, redis: Redis
) -> None:
    run = finish(client, "big")
    assert redis.xlen(keys.run(run["id"]).events) == STREAM_CAP
    snapshot, *rest = follow(client, run["events_url"])
    assert snapshot.type == "run.snapshot"
    assert [event.type for event in rest] == ["run.completed"]
    assert snapshot.data["progress"]["step"] == 180
    assert snapshot.data["missed"] == snapshot.seq == rest[-1].seq - 1
    assert text_of([snapshot]) == run["output"]


def test_a_reader_that_was_away_for_too_long_gets_what_it_missed(
    client: httpx.Client, tmp_path: Path
) -> None:
    run = gated(client, tmp_path, "big")
    with client.stream("GET", run["events_url"]) as response:
        # The queued run's own snapshot, which has no id, stands for nothing.
        told = (event for event in messages(response.iter_lines()) if event.id)
        seen = list(islice(told, 5))
    (tmp_path / "gate").touch()
    wait_for_status(client, run, "completed")
    resumed = follow(client, run["events_url"], **{"Last-Event-ID": seen[-1].id})
    assert [event.type for event in resumed].count("run.snapshot") == 1
    assert accounted(seen + resumed) == resumed[-1].seq
    assert text_of(resumed) == record_of(client, run)["output"]


def test_a_late_reader_goes_on_live_from_its_snapshot(
    client: httpx.Client, tmp_path: Path
) -> None:
    run = gated(client, tmp_path, "big")

    def half_done() -> bool:
        with client.stream("GET", run["events_url"], headers={"Last-Event-ID": "9-1"}) as there:
            event = next(messages(there.iter_lines()))
        return str(event.data.get("text")).endswith("word90 ")

    wait_until(half_done, "the first half is there")
    with client.stream("GET", run["events_url"]) as response:
        events = messages(response.iter_lines())
        snapshot = next(events)
        assert (snapshot.type, snapshot.data["status"]) == ("run.snapshot", "running")
        assert snapshot.data["missed"] == snapshot.seq > STREAM_CAP
        (tmp_path / "gate").touch()
        seen = [snapshot, *events]
    assert accounted(seen) == seen[-1].seq
    assert text_of(seen) == record_of(client, run)["output"]


@pytest.mark.parametrize("position", ["1-5000", "7-1", "999999999-999999999"])
def test_a_position_of_the_future_gets_a_snapshot(client: httpx.Client, position: str) -> None:
    run = finish(client, "tools")
    events = follow(client, run["events_url"], **{"Last-Event-ID": position})
    assert [event.type for event in events] == ["run.snapshot", "run.completed"]
    assert accounted(events) == events[-1].seq
    assert text_of(events) == run["output"]
    tools = events[0].data["tools"]
    assert [tool["type"] for tool in tools] == ["tool.call", "tool.result"]


def test_a_reader_that_comes_when_the_events_are_gone(
    client: httpx.Client, redis: Redis
) -> None:
    # They live for a minute after the end; the record lives longer.
    run = finish(client, "echo")
    whole = follow(client, run["events_url"])
    redis.delete(keys.run(run["id"]).events)
    events = follow(client, run["events_url"])
    assert [event.type for event in events] == ["run.snapshot", "run.completed"]
    assert (events[-1], text_of(events)) == (whole[-1], run["output"])
    before_last = follow(client, run["events_url"], **{"Last-Event-ID": whole[-2].id})
    assert before_last == whole[-1:]
    final = client.get(run["events_url"], headers={"Last-Event-ID": whole[-1].id})
    assert final.status_code == 204


# No such run


def test_runs_that_are_no_more_and_runs_that_never_were(client: httpx.Client) -> None:
    old, young = "0" * 12 + "ab" * 10, "f" * 12 + "ab" * 10
    for method, path in (("GET", ""), ("GET", "/events"), ("POST", "/cancel")):
        gone = client.request(method, f"/v1/runs/{old}{path}")
        assert_problem(gone, 410, "run_expired")
        never = client.request(method, f"/v1/runs/{young}{path}?token=abc")
        assert_problem(never, 404, "run_not_found")


def test_every_run_ends_once(client: httpx.Client) -> None:
    for agent in ("echo", "failing", "sync", "large"):
        events = follow(client, finish(client, agent)["events_url"])
        assert [event.type in TERMINAL for event in events].count(True) == 1
        assert events[-1].type in TERMINAL

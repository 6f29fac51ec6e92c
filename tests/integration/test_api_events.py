"""The event stream of a run over real sockets: framing, resuming, late readers, the end."""

from __future__ import annotations

import re
from collections.abc import Iterator
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
    told,
    unique,
    wait_for_status,
)
from tests.processes import Serving, wait_until

STREAM_CAP = 100
FRAME_BYTES = 8 * 1024
FRAME = re.compile(rb"id: [0-9a-f]{6}-1-\d+\ndata: \{[^\n]*\}")
NAMED_FRAME = re.compile(rb"id: [0-9a-f]{6}-1-\d+\nevent: [a-z.]+\ndata: \{[^\n]*\}")


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


def tag_of(run: dict[str, Any]) -> str:
    """What the ids of its events begin with, as docs/events.md has it."""
    return str(run["id"])[12:18]


def read_until(events: Iterator[Event], kind: str) -> list[Event]:
    """Those up to the first of this type."""
    seen = []
    for event in events:
        seen.append(event)
        if event.type == kind:
            return seen
    raise AssertionError(f"the response ended before {kind}")


def test_the_whole_run_from_its_start(client: httpx.Client) -> None:
    run = finish(client, "tools", unique())
    events = follow(client, run["events_url"])
    # Two marks behind the first, then the opening of a part and its 12 bytes, then the end.
    assert [event.id for event in events] == [f"{tag_of(run)}-1-{n}" for n in (1, 2, 3, 16, 17)]
    started, call, result, delta, completed = (event.data for event in events)
    assert started == {
        "type": "run.started",
        "run": run["id"],
        "agent": "tools",
        "attempt": 1,
    }
    assert (call["type"], call["id"], call["name"]) == ("tool.call", "c1", "search")
    assert result == {"type": "tool.result", "id": "c1", "output": ["found"]}
    assert delta == {"type": "message.delta", "part": 0, "text": "It is there."}
    assert (completed["type"], completed["cached"]) == ("run.completed", False)
    assert completed["finish_reason"] == run["finish_reason"] == "stop"
    assert completed["usage"] == run["usage"]
    assert "output" not in completed
    assert told(events).parts == run["parts"]


def test_output_that_is_not_the_text_comes_with_the_end(client: httpx.Client) -> None:
    run = finish(client, "output", "life")
    events = follow(client, run["events_url"])
    assert told(events).text == "thinking"
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
        seen = read_until(events, "message.delta")
        assert record_of(client, run)["status"] == "running"
        (tmp_path / "gate").touch()
        seen += events
    assert told(seen).text == record_of(client, run)["output"]
    assert seen[-1].type == "run.completed"


# Resuming


def test_resuming_goes_on_after_the_event(client: httpx.Client) -> None:
    url = finish(client, "echo")["events_url"]
    whole = follow(client, url)
    for position in range(1, len(whole)):
        after = whole[position - 1].id
        assert follow(client, url, **{"Last-Event-ID": after}) == whole[position:]
        assert follow(client, f"{url}&last_event_id={after}") == whole[position:]


def test_any_position_gets_the_rest(client: httpx.Client) -> None:
    """By its number alone, also where no event ended: within a delta, and without the tag."""
    run = finish(client, "echo", "Grüße, 雪 🏔!")
    url, tag = run["events_url"], tag_of(run)
    whole = follow(client, url)
    started, delta, completed = whole
    text = delta.data["text"].encode()
    assert delta.id == f"{tag}-1-{2 + len(text)}"
    # At 0 there is nothing, at 1 the start, at 2 the part is open.
    assert follow(client, url, **{"Last-Event-ID": f"{tag}-1-0"}) == whole
    assert follow(client, url, **{"Last-Event-ID": f"{tag}-1-1"}) == [delta, completed]
    for at in range(2, 2 + len(text)):
        rest = text[at - 2 :]
        for position in (f"{tag}-1-{at}", f"1-{at}"):
            events = follow(client, url, **{"Last-Event-ID": position})
            if rest[0] & 0xC0 == 0x80:
                # Within a character nobody ever stood.
                again, *events = events
                assert again.id == f"{tag}-1-0"
                assert (again.type, again.data["reason"]) == ("run.restarted", "rewound")
                assert events == whole
            else:
                said = {"type": "message.delta", "part": 0, "text": rest.decode()}
                assert events == [delta._replace(data=said), completed]
    assert follow(client, url, **{"Last-Event-ID": delta.id}) == [completed]
    assert started.id == f"{tag}-1-1"


@pytest.mark.parametrize("query", ["1-1", "nonsense", "9-9"])
def test_the_header_beats_the_query(client: httpx.Client, query: str) -> None:
    url = finish(client, "echo")["events_url"]
    whole = follow(client, url)
    events = follow(client, f"{url}&last_event_id={query}", **{"Last-Event-ID": whole[1].id})
    assert events == whole[2:]


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
        seen = read_until(messages(response.iter_lines()), "message.delta")
    (tmp_path / "gate").touch()
    seen += follow(client, run["events_url"], **{"Last-Event-ID": seen[-1].id})
    reader, record = told(seen), record_of(client, run)
    assert (reader.text, reader.parts) == (record["output"], record["parts"])
    assert reader.restarts == 0


# Whoever comes late, or from elsewhere


def test_a_queued_run_says_so_at_once(client: httpx.Client, tmp_path: Path) -> None:
    occupying = [gated(client, tmp_path) for _ in range(2)]
    for run in occupying:
        wait_for_status(client, run, "running")
    waiting = ask(client, "echo")
    with client.stream("GET", waiting["events_url"]) as response:
        events = messages(response.iter_lines())
        first = next(events)
        assert (first.id, first.data) == ("", {"type": "run.queued"})
        (tmp_path / "gate").touch()
        rest = list(events)
    assert rest[0].id == f"{tag_of(waiting)}-1-1"
    assert told([first, *rest]).text == record_of(client, waiting)["output"]


def test_a_late_reader_of_a_long_run_gets_all_of_it(
    client: httpx.Client, redis: Redis, tmp_path: Path
) -> None:
    """More of it than the live log keeps."""
    run = gated(client, tmp_path, "big")
    events = follow_through(client, run, tmp_path)
    assert told(events).text == record_of(client, run)["output"]
    assert redis.xlen(keys.run(run["id"]).events) == STREAM_CAP
    late = follow(client, run["events_url"])
    # Nothing says how far a run is that has ended, and the text comes at once.
    assert [event.type for event in late] == ["run.started", "message.delta", "run.completed"]
    assert told(late).parts == told(events).parts == record_of(client, run)["parts"]
    assert late[-1] == events[-1]


def follow_through(client: httpx.Client, run: dict[str, Any], folder: Path) -> list[Event]:
    """All of a gated run, by someone who was there from its start."""
    with client.stream("GET", run["events_url"]) as response:
        events = messages(response.iter_lines())
        seen = read_until(events, "message.delta")
        (folder / "gate").touch()
        return [*seen, *events]


def test_a_reader_that_was_away_for_too_long_gets_what_it_missed(
    client: httpx.Client, redis: Redis, tmp_path: Path
) -> None:
    run = gated(client, tmp_path, "big")
    with client.stream("GET", run["events_url"]) as response:
        seen = read_until(messages(response.iter_lines()), "message.delta")
    (tmp_path / "gate").touch()
    wait_for_status(client, run, "completed")
    # The live log begins behind what this reader has.
    assert oldest(redis, run) > told(seen).at.at
    resumed = follow(client, run["events_url"], **{"Last-Event-ID": seen[-1].id})
    reader, record = told(seen + resumed), record_of(client, run)
    assert (reader.text, reader.parts) == (record["output"], record["parts"])
    assert reader.restarts == 0


def oldest(redis: Redis, run: dict[str, Any]) -> int:
    """The position of what is first in the live log of a run."""
    first: Any = redis.xrange(keys.run(run["id"]).events, count=1)
    ((entry_id, _),) = first
    return int(entry_id.partition(b"-")[2])


def test_a_late_reader_goes_on_live(client: httpx.Client, tmp_path: Path) -> None:
    run = gated(client, tmp_path, "big")

    def half_done() -> bool:
        with client.stream("GET", run["events_url"]) as there:
            return told(read_until(messages(there.iter_lines()), "run.progress")).text.endswith(
                "word90 "
            )

    wait_until(half_done, "the first half is there")
    with client.stream("GET", run["events_url"]) as response:
        events = messages(response.iter_lines())
        seen = read_until(events, "run.progress")
        # How far it is comes behind the tape, has no place on it, and is told once.
        assert [event.type for event in seen] == [
            "run.started",
            "message.delta",
            "run.progress",
        ]
        assert (seen[-1].id, seen[-1].data["step"]) == ("", 90)
        (tmp_path / "gate").touch()
        seen += events
    steps = [event.data["step"] for event in seen if event.type == "run.progress"]
    assert steps == sorted(set(steps))
    reader, record = told(seen), record_of(client, run)
    assert (reader.text, reader.parts) == (record["output"], record["parts"])


@pytest.mark.parametrize("tag", ["", "own"])
@pytest.mark.parametrize("position", ["1-5000", "7-1", "999999999-999999999"])
def test_a_position_of_the_future_begins_anew(
    client: httpx.Client, position: str, tag: str
) -> None:
    # Nobody can have seen it but of a store that has lost what came after.
    run = finish(client, "tools")
    whole, own = follow(client, run["events_url"]), tag_of(run)
    last = f"{own}-{position}" if tag else position
    again, *events = follow(client, run["events_url"], **{"Last-Event-ID": last})
    assert (again.id, again.event) == (f"{own}-1-0", "")
    assert again.data == {"type": "run.restarted", "attempt": 1, "reason": "rewound"}
    assert events == whole
    assert told(events).parts == run["parts"]


def test_who_comes_from_another_answer_gets_this_one(
    client: httpx.Client, tmp_path: Path
) -> None:
    """Whether it has ended or not, and wherever in the other one the reader was."""
    other, ended = finish(client, "tools"), finish(client, "tools")
    running = gated(client, tmp_path)
    wait_for_status(client, running, "running")
    whole, last = (
        follow(client, ended["events_url"]),
        follow(client, other["events_url"])[-1].id,
    )
    for position in (last, f"{tag_of(other)}-1-2", f"{tag_of(other)}-9-9000"):
        there = {"Last-Event-ID": position}
        again, *events = follow(client, ended["events_url"], **there)
        assert again.id == f"{tag_of(ended)}-1-0"
        assert again.data == {"type": "run.restarted", "attempt": 1, "reason": "other"}
        assert events == whole
        with client.stream("GET", running["events_url"], headers=there) as response:
            first, second = read_until(messages(response.iter_lines()), "run.started")
            assert (first.data["reason"], first.id) == ("other", f"{tag_of(running)}-1-0")
            assert second.id == f"{tag_of(running)}-1-1"
    (tmp_path / "gate").touch()
    wait_for_status(client, running, "completed")


def test_a_reader_that_comes_when_the_live_log_is_gone(
    client: httpx.Client, redis: Redis
) -> None:
    # It lives for a minute after the end; the tape lives longer.
    run = finish(client, "tools")
    whole = follow(client, run["events_url"])
    redis.delete(keys.run(run["id"]).events)
    assert follow(client, run["events_url"]) == whole
    for position in range(1, len(whole)):
        after = {"Last-Event-ID": whole[position - 1].id}
        assert follow(client, run["events_url"], **after) == whole[position:]
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
        run = finish(client, agent)
        events = follow(client, run["events_url"])
        assert [event.type in TERMINAL for event in events].count(True) == 1
        assert events[-1].type in TERMINAL
        assert told(events).parts == run["parts"]


def test_what_is_long_comes_in_frames_of_a_few_kib(client: httpx.Client) -> None:
    run = finish(client, "large")
    content = client.get(run["events_url"]).content
    frames = content.partition(b"\n")[2].split(b"\n\n")
    assert len(content) > 20 * FRAME_BYTES
    assert max(map(len, frames)) <= FRAME_BYTES
    assert told(follow(client, run["events_url"])).parts == run["parts"]

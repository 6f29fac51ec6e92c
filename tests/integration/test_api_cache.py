"""Cached answers over real sockets: hits, their records and streams, and what is no hit."""

from __future__ import annotations

import json
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from redis import Redis

from plateau_sse.store.runs import ids
from tests.integration.api_client import (
    SSE,
    api_serving,
    ask,
    assert_problem,
    finish,
    follow,
    keys_in,
    messages,
    text_of,
    told,
    unique,
    wait_for_status,
)
from tests.processes import Serving


@pytest.fixture(scope="module")
def plateau(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with api_serving(tmp_path_factory.mktemp("cached")) as running:
        yield running


@pytest.fixture(scope="module")
def client(plateau: Serving) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=plateau.url, timeout=30, trust_env=False) as opened:
        yield opened


@pytest.fixture
def cache(plateau: Serving) -> Iterator[Redis]:
    with Redis.from_url(plateau.cache_url, protocol=2) as opened:
        yield opened


def hit(client: httpx.Client, agent: str = "echo", **more: Any) -> dict[str, Any]:
    """What the second of two equal requests is answered."""
    text = unique()
    finish(client, agent, text, **more)
    found = ask(client, agent, text, **more)
    assert found["cached"] is True
    return found


def key_of(found: dict[str, Any]) -> str:
    return f"cache:{found['id'].removeprefix('hit-')}"


def segments_received(peer: socket.socket) -> int:
    """Those with data: `tcpi_data_segs_in` of linux/tcp.h."""
    information = peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160)
    return int(struct.unpack_from("I", information, 152)[0])


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts a connection's segments")
@pytest.mark.parametrize(
    ("accept", "end"), [("application/json", b"}"), ("text/event-stream", b"0\r\n\r\n")]
)
def test_a_hit_is_one_write(
    client: httpx.Client, plateau: Serving, accept: str, end: bytes
) -> None:
    body = {"agent": "echo", "input": unique()}
    finish(client, body["agent"], body["input"])
    content = json.dumps(body).encode()
    head = f"POST /v1/runs HTTP/1.1\r\nHost: plateau\r\nAccept: {accept}\r\n"
    request = f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content
    with socket.create_connection(("127.0.0.1", plateau.port), timeout=10) as peer:
        for asked in range(1, 21):
            peer.sendall(request)
            answer = b""
            while not answer.endswith(end):
                answer += peer.recv(65536)
            assert b"x-cache: hit" in answer
            # On loopback a write of a few KB is a segment.
            assert segments_received(peer) == asked


def test_an_equal_request_is_answered_from_the_cache(
    plateau: Serving, client: httpx.Client
) -> None:
    body = {"agent": "echo", "input": unique()}
    run = finish(client, **body)
    before = keys_in(plateau.streams_url)
    response = client.post("/v1/runs", json=body)
    assert response.status_code == 200
    found = response.json()
    assert found["id"].startswith("hit-")
    assert (found["status"], found["cached"]) == ("completed", True)
    for name in ("output", "usage", "agent", "error"):
        assert found[name] == run[name], name
    assert response.headers["x-cache"] == "hit"
    assert response.headers["cache-status"] == "plateau; hit"
    assert 0 <= int(response.headers["age"]) < 30
    assert response.headers["location"] == f"/v1/runs/{found['id']}"
    assert response.headers["cache-control"] == "no-store"
    # No run was made for it.
    assert keys_in(plateau.streams_url) <= before


def test_a_hit_does_not_wait(client: httpx.Client) -> None:
    body = {"agent": "echo", "input": unique()}
    finish(client, **body)
    response = client.post("/v1/runs", json=body, headers={"Prefer": "wait=30"})
    assert (response.status_code, response.json()["cached"]) == (200, True)


def test_what_does_not_matter_to_the_answer_is_not_in_its_key(client: httpx.Client) -> None:
    text = unique()
    finish(client, "echo", text, options={"a": 1, "b": {"c": 2, "d": 3}})
    same = {
        "options": {"b": {"d": 3, "c": 2}, "a": 1},
        "messages": [{"content": text, "role": "user"}],
        "agent": "echo",
    }
    assert client.post("/v1/runs", json=same).headers["x-cache"] == "hit"
    for other in ({"user": "ann"}, {"options": {"a": 2}}, {"agent": "sync"}):
        assert client.post("/v1/runs", json=same | other).headers["x-cache"] == "miss"


# A hit's record and events


def test_the_record_of_a_hit(client: httpx.Client) -> None:
    found = hit(client, "tools")
    token = found["events_url"].partition("?token=")[2]
    for query in ("", f"?token={token}"):
        response = client.get(f"/v1/runs/{found['id']}{query}")
        assert response.status_code == 200
        assert response.json().items() <= found.items()
    assert set(response.json()) == set(finish(client, "tools")) - {"events_url", "cancel_url"}


@pytest.mark.parametrize("agent", ["echo", "tools", "output", "sync", "rich"])
def test_the_events_of_a_hit_are_those_of_the_run(client: httpx.Client, agent: str) -> None:
    text = unique()
    run = finish(client, agent, text)
    found = ask(client, agent, text)
    original, replayed = follow(client, run["events_url"]), follow(client, found["events_url"])
    one, other = told(original), told(replayed)
    assert (one.parts, one.last_id) == (other.parts, other.last_id)
    assert found["parts"] == run["parts"] and found["output"] == run["output"]
    assert (found["model"], found["usage"]) == (run["model"], run["usage"])
    assert replayed[0].data | {"run": run["id"]} == original[0].data
    ignored = {"cached": None, "duration_ms": None}
    assert replayed[-1].data | ignored == original[-1].data | ignored
    assert replayed[-1].data["cached"] is True


def test_who_left_the_run_goes_on_in_the_hit(client: httpx.Client) -> None:
    """From each event of the one to the end of the other."""
    text = unique()
    run = finish(client, "rich", text)
    found = ask(client, "rich", text)
    original = follow(client, run["events_url"])
    whole = told(original)
    assert [part["type"] for part in whole.parts] == [
        *("reasoning", "tool.call", "tool.result", "reasoning", "text"),
        *("source", "step", "text"),
    ]
    for seen, event in enumerate(original[:-1], 1):
        rest = follow(client, found["events_url"], **{"Last-Event-ID": event.id})
        assert told([*original[:seen], *rest]).parts == whole.parts
        assert rest[0].type != "run.restarted"
    end = {"Last-Event-ID": original[-1].id}
    assert client.get(found["events_url"], headers=end).status_code == 204
    # As stock clients do that send their POST again, to which the run is a cached answer now.
    again = {**SSE, "Last-Event-ID": original[3].id}
    body = {"agent": "rich", "input": text}
    with client.stream("POST", "/v1/runs", json=body, headers=again) as response:
        assert response.headers["x-cache"] == "hit"
        rest = list(messages(response.iter_lines()))
    assert told([*original[:4], *rest]).parts == whole.parts
    assert rest[0].type != "run.restarted"


def test_a_hit_is_streamed_in_one_write(client: httpx.Client) -> None:
    found = hit(client, "big")
    address = urlsplit(str(client.base_url))
    with socket.create_connection((str(address.hostname), int(address.port or 0))) as peer:
        head = f"GET {found['events_url']} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        peer.sendall(head.encode())
        answer = b"".join(iter(lambda: peer.recv(65536), b""))
    body = answer.partition(b"\r\n\r\n")[2]
    size, _, rest = body.partition(b"\r\n")
    # One chunk, then the empty one that ends the body.
    assert rest[int(size, 16) :] == b"\r\n0\r\n\r\n"


def test_the_stream_of_a_post_that_hits(client: httpx.Client) -> None:
    body = {"agent": "echo", "input": unique()}
    output = finish(client, **body)["output"]
    with client.stream("POST", "/v1/runs", json=body, headers=SSE) as response:
        assert response.headers["x-cache"] == "hit"
        assert response.headers["cache-status"] == "plateau; hit"
        assert "age" in response.headers
        events = list(messages(response.iter_lines()))
    assert text_of(events) == output
    assert response.headers["location"].startswith(f"/v1/runs/{events[0].data['run']}/events?")


def test_a_position_without_a_tag_is_none_of_an_answer_that_nobody_has_seen(
    client: httpx.Client,
) -> None:
    """As of a new run: it may be one of any other's."""
    body = {"agent": "echo", "input": unique()}
    output = finish(client, **body)["output"]
    there = {**SSE, "Last-Event-ID": "1-3"}
    with client.stream("POST", "/v1/runs", json=body, headers=there) as response:
        assert response.headers["x-cache"] == "hit"
        events = list(messages(response.iter_lines()))
    assert events[0].data == {"type": "run.restarted", "attempt": 1, "reason": "other"}
    assert text_of(events) == output
    # By its URL it is the one that was meant.
    url, seen = response.headers["location"], ids.parse(events[1].id)
    rest = follow(client, url, **{"Last-Event-ID": ids.show(seen.number)})
    assert [event.data for event in rest] == [event.data for event in events[2:]]


def test_resuming_a_hit(client: httpx.Client) -> None:
    url = hit(client, "tools")["events_url"]
    whole = follow(client, url)
    for position in range(1, len(whole)):
        after = whole[position - 1].id
        assert follow(client, url, **{"Last-Event-ID": after}) == whole[position:]
    last = {"Last-Event-ID": whole[-1].id}
    assert client.get(url, headers=last).status_code == 204
    assert client.head(url, headers=last).status_code == 204
    assert (client.head(url).status_code, client.head(url).content) == (200, b"")
    assert all(event.event == event.type for event in follow(client, url + "&event_names=1"))


def test_what_was_seen_of_another_tape_is_void(client: httpx.Client) -> None:
    found = hit(client, "rich")
    url = found["events_url"]
    whole = follow(client, url)
    tag = whole[0].id.partition("-")[0]
    # Of an answer that was replaced, of one that was longer, of a later attempt; and from
    # within the last character of a thought.
    inside = int(whole[-6].id.rpartition("-")[2]) - 1
    for seen, reason in (
        ("000000-1-5", "other"),
        (f"{tag}-1-9000", "rewound"),
        (f"{tag}-2-5", "rewound"),
        (f"{tag}-1-{inside}", "rewound"),
    ):
        first, *rest = follow(client, url, **{"Last-Event-ID": seen})
        assert first.data == {"type": "run.restarted", "attempt": 1, "reason": reason}, seen
        assert first.id == f"{tag}-1-0"
        assert rest == whole


def test_a_hit_is_opened_by_its_own_token(client: httpx.Client) -> None:
    mine, other = hit(client), hit(client)
    token = other["events_url"].partition("?token=")[2]
    for method, path in (("GET", ""), ("GET", "/events"), ("POST", "/cancel")):
        response = client.request(method, f"/v1/runs/{mine['id']}{path}?token={token}")
        assert_problem(response, 401, "invalid_token")


def test_a_hit_cannot_be_cancelled(client: httpx.Client) -> None:
    assert_problem(client.post(hit(client)["cancel_url"]), 409, "run_finished")


def test_a_hit_that_was_evicted_is_gone(client: httpx.Client, cache: Redis) -> None:
    found = hit(client)
    assert cache.delete(key_of(found)) == 1
    record_url = f"/v1/runs/{found['id']}"
    for method, url in (
        ("GET", record_url),
        ("GET", found["events_url"]),
        ("POST", found["cancel_url"]),
    ):
        assert_problem(client.request(method, url), 410, "run_expired")


# Modes


def test_refresh_asks_anew_and_stores_the_answer(client: httpx.Client) -> None:
    body = {"agent": "echo", "input": unique()}
    finish(client, **body)
    first = ask(client, **body)
    response = client.post(
        "/v1/runs",
        json=body | {"cache": {"mode": "refresh"}},
        headers={"Prefer": "wait=30"},
    )
    assert response.headers["x-cache"] == "miss"
    assert response.headers["cache-status"] == "plateau; fwd=request"
    assert response.json()["cached"] is False
    second = ask(client, **body)
    assert (second["id"], second["cached"]) == (first["id"], True)
    assert second["events_url"] != first["events_url"]


def test_off_neither_reads_nor_stores(client: httpx.Client) -> None:
    body = {"agent": "echo", "input": unique()}
    off = body | {"cache": {"mode": "off"}}

    def ask_past_the_cache() -> None:
        response = client.post("/v1/runs", json=off, headers={"Prefer": "wait=30"})
        assert response.json()["cached"] is False
        assert response.headers["x-cache"] == "miss"
        assert response.headers["cache-status"] == "plateau; fwd=bypass"

    ask_past_the_cache()
    assert finish(client, **body)["cached"] is False
    ask_past_the_cache()


def test_the_life_of_an_answer_may_be_chosen(client: httpx.Client, cache: Redis) -> None:
    found = hit(client, cache={"mode": "use", "ttl_s": 77})
    assert 0 < int(cache.ttl(key_of(found))) <= 77


# What is never a hit


@pytest.mark.parametrize("agent", ["failing", "refusing", "large"])
def test_failures_are_not_cached(client: httpx.Client, agent: str) -> None:
    text = unique()
    for _ in range(2):
        run = finish(client, agent, text)
        assert (run["status"], run["cached"]) == ("failed", False)


def test_what_was_cancelled_is_not_cached(client: httpx.Client, tmp_path: Path) -> None:
    text, options = unique(), {"gate": str(tmp_path / "gate")}
    run = ask(client, "slow", text, options=options)
    wait_for_status(client, run, "running")
    client.post(run["cancel_url"])
    wait_for_status(client, run, "cancelled")
    again = ask(client, "slow", text, options=options)
    assert again["cached"] is False
    (tmp_path / "gate").touch()
    wait_for_status(client, again, "completed")


def test_a_damaged_entry_is_a_miss(client: httpx.Client, cache: Redis) -> None:
    body = {"agent": "echo", "input": unique()}
    finish(client, **body)
    key = key_of(ask(client, **body))
    whole = cache.get(key)
    assert isinstance(whole, bytes)
    for damaged in (b"", b"no deflate", whole[:-9]):
        cache.set(key, damaged, ex=60)
        run = finish(client, **body)
        assert (run["cached"], run["status"]) == (False, "completed")
        assert ask(client, **body)["cached"] is True

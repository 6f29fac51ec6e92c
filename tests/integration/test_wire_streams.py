"""The bytes of event streams as stock clients read them: no block without data, no head that
a client's check refuses, no character that a line reader takes for a line end, no chunks for
those who know none."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest
from locustfiles.kit.ledger import Ledger

from tests.integration.api_client import SSE, api_serving, ask, finish, follow, messages, unique
from tests.processes import Serving

LINE_ENDS = "a\u2028b\u2029c\u0085d\x0b\x0c\x1c\x1d\x1e\r\n\te’—é🏔"
# What a response may be made of; a block is never without data.
FRAME = rb"(?:id: [0-9a-f]{6}-\d+-\d+\n)?data: \{[^\n]*\}\n\n"
STREAM = re.compile(rb"(?:(?:retry: \d+|: ping)\n|%b)*" % FRAME)
# Past any reader's turn: each is pinged every 15 s.
PINGED_S = 17


@pytest.fixture(scope="module")
def plateau(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("wire")
    with api_serving(folder, {"ADMIN_TOKEN": "sesame-open"}) as running:
        yield running


@pytest.fixture(scope="module")
def client(plateau: Serving) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=plateau.url, timeout=30, trust_env=False) as opened:
        yield opened


def raw(
    plateau: Serving, head: str, body: bytes = b"", *, stop: bytes = b""
) -> tuple[str, bytes]:
    """Head and body of what is answered, read until the service closes, or `stop` came."""
    if body:
        head += f"Content-Length: {len(body)}\r\n"
    with closing(socket.create_connection(("127.0.0.1", plateau.port), timeout=20)) as sock:
        sock.sendall(f"{head}\r\n".encode() + body)
        read = b""
        while more := sock.recv(65536):
            read += more
            if stop and stop in read.partition(b"\r\n\r\n")[2]:
                break
    answered, _, content = read.partition(b"\r\n\r\n")
    return answered.decode("latin-1"), content


# ---- blocks


def assert_is_a_stream(content: bytes) -> None:
    assert STREAM.fullmatch(content), content[:300]
    assert content.count(b"retry:") == 1


def test_every_block_of_a_live_stream_has_data(
    plateau: Serving, client: httpx.Client, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    run = ask(client, "slow", options={"gate": str(gate)})
    content = b""
    with client.stream("GET", run["events_url"], timeout=PINGED_S) as response:
        for piece in response.iter_bytes():
            content += piece
            if b": ping" in content and not gate.exists():
                # So far not one block has been closed that held no event.
                assert content.startswith(b"retry: ")
                assert all(b"data: " in block for block in content.split(b"\n\n")[:-1])
                gate.touch()
    assert_is_a_stream(content)
    assert b": ping\n" in content and b"run.completed" in content


@pytest.mark.parametrize("names", ["", "&event_names=1"])
@pytest.mark.parametrize("agent", ["echo", "tools", "failing", "large"])
def test_every_block_of_a_finished_stream_has_data(
    client: httpx.Client, agent: str, names: str
) -> None:
    run = finish(client, agent)
    content = client.get(run["events_url"] + names).content
    assert_is_a_stream(re.sub(rb"event: [a-z.]+\n", b"", content))


def test_every_block_of_a_hit_has_data(client: httpx.Client) -> None:
    text = unique()
    finish(client, "tools", text)
    response = client.post("/v1/runs", json={"agent": "tools", "input": text}, headers=SSE)
    assert response.headers["x-cache"] == "hit"
    assert_is_a_stream(response.content)


def test_every_block_of_the_operators_feed_has_data(
    plateau: Serving, client: httpx.Client
) -> None:
    headers = {"Authorization": "Bearer sesame-open", **SSE}
    with client.stream("GET", "/api/admin/metrics", headers=headers) as response:
        assert response.headers["content-type"] == "text/event-stream"
        assert response.headers["cache-control"] == "no-store, no-transform"
        content = b""
        for piece in response.iter_bytes():
            content += piece
            if content.count(b"\n\n") >= 2:
                break
    assert all(b"data: {" in block for block in content.split(b"\n\n")[:2])


# ---- heads

HEADS = ["live GET", "live POST", "finished", "hit GET", "hit POST", "failed", "HEAD"]


@pytest.mark.parametrize("kind", HEADS)
def test_the_head_of_a_stream(client: httpx.Client, tmp_path: Path, kind: str) -> None:
    text, gate = unique(), tmp_path / "gate"
    body: dict[str, Any] = {"agent": "tools", "input": text}
    if kind.startswith("live"):
        gate.touch()
        body = {"agent": "slow", "input": text, "options": {"gate": str(gate)}}
    elif kind == "failed":
        body["agent"] = "failing"
    else:
        finish(client, "tools", text)
    if kind.endswith("POST"):
        response = client.post("/v1/runs", json=body, headers=SSE)
    else:
        method = "HEAD" if kind == "HEAD" else "GET"
        url = client.post("/v1/runs", json=body).json()["events_url"]
        response = client.request(method, url)
    assert response.status_code == 200
    assert response.headers.get_list("content-type") == ["text/event-stream"]
    assert response.headers.get_list("cache-control") == ["no-store, no-transform"]
    assert response.headers["x-accel-buffering"] == "no"


@pytest.mark.parametrize("cached", [False, True])
def test_a_streamed_answer_is_rejoined_where_its_location_says(
    client: httpx.Client, cached: bool
) -> None:
    body = {"agent": "tools", "input": unique()}
    if cached:
        finish(client, body["agent"], body["input"])
    response = client.post("/v1/runs", json=body, headers=SSE)
    assert response.headers["x-cache"] == ("hit" if cached else "miss")
    location = response.headers["location"]
    assert location == response.headers["content-location"]
    assert re.fullmatch(r"/v1/runs/[\w-]+/events\?token=[\w-]+", location)
    whole = follow(client, location)
    assert whole[-1].type == "run.completed"
    assert follow(client, location, **{"Last-Event-ID": whole[0].id}) == whole[1:]


def test_a_document_is_found_where_its_location_says(client: httpx.Client) -> None:
    response = client.post("/v1/runs", json={"agent": "echo", "input": unique()})
    assert response.headers["location"] == f"/v1/runs/{response.json()['id']}"


# ---- positions


@pytest.mark.parametrize("name", ["last_event_id", "lastEventId"])
def test_a_position_in_the_query(client: httpx.Client, name: str) -> None:
    url = finish(client, "tools")["events_url"]
    whole = follow(client, url)
    assert follow(client, f"{url}&{name}={whole[1].id}") == whole[2:]
    # Its own header is what a client knows best.
    assert follow(client, f"{url}&{name}=1-1", **{"Last-Event-ID": whole[2].id}) == whole[3:]


@pytest.mark.parametrize(
    "position", ["", "0", "null", "undefined", "-1", "0-0", "1-0", "1700000000000-0", "é"]
)
def test_what_is_no_position_gets_the_whole(client: httpx.Client, position: str) -> None:
    url = finish(client, "tools")["events_url"]
    whole = follow(client, url)
    raw = [(b"Last-Event-ID", position.encode())]
    with client.stream("GET", url, headers=raw) as response:
        assert response.status_code == 200
        assert [line for line in response.iter_lines() if line.startswith("id: ")] == [
            f"id: {event.id}" for event in whole
        ]
    for name in ("last_event_id", "lastEventId"):
        assert follow(client, f"{url}&{name}={position}") == whole


# ---- a POST that is sent again, as fetch-event-source does when its tab is shown


def test_the_same_key_goes_on_behind_the_position(client: httpx.Client) -> None:
    body = {"agent": "tools", "input": unique()}
    headers = {**SSE, "Idempotency-Key": unique()}
    first = client.post("/v1/runs", json=body, headers=headers)
    second, third = re.findall(rb"id: ([0-9a-f]{6}-1-[23])\n", first.content)
    again = client.post(
        "/v1/runs", json=body, headers={**headers, "Last-Event-ID": second.decode()}
    )
    behind = first.content.partition(b"id: %b\n" % third)[2]
    assert behind and again.content.partition(b"id: %b\n" % third)[2] == behind
    assert second not in again.content and b"run.restarted" not in again.content


def test_who_joins_goes_on_behind_the_position(client: httpx.Client, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    body = {"agent": "slow", "input": unique(), "options": {"gate": str(gate)}}
    with client.stream("POST", "/v1/runs", json=body, headers=SSE) as first:
        told = (line for line in first.iter_lines() if line.startswith("id: "))
        started, half = islice(told, 2)
    headers = {**SSE, "Last-Event-ID": started.removeprefix("id: ")}
    with client.stream("POST", "/v1/runs", json=body, headers=headers) as again:
        assert again.headers["x-cache"] == "joined"
        lines = again.iter_lines()
        # In one piece, as nothing is said behind it yet.
        assert next(line for line in lines if line.startswith("id: ")) == half
        gate.touch()
        rest = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    said = "".join(event["text"] for event in rest if event["type"] == "message.delta")
    assert said == f"before {body['input']} after"
    assert "run.restarted" not in {event["type"] for event in rest}


@pytest.mark.parametrize("named", ["", "?event_names=1"])
@pytest.mark.parametrize("cached", [False, True])
def test_another_run_says_first_that_it_is_one(
    client: httpx.Client, cached: bool, named: str
) -> None:
    """Which the tag tells, however alike the positions are."""
    body = {"agent": "tools", "input": unique()}
    if cached:
        finish(client, body["agent"], body["input"])
    other = follow(client, finish(client, "tools")["events_url"])[2].id
    headers = {**SSE, "Last-Event-ID": other}
    with client.stream("POST", f"/v1/runs{named}", json=body, headers=headers) as response:
        events = list(messages(response.iter_lines()))
    told, *rest = events
    assert told.data == {"type": "run.restarted", "attempt": 1, "reason": "other"}
    # A run that waits says so, without an id; its readers then have nothing yet.
    first = next(event for event in rest if event.type != "run.queued")
    tag = first.id.partition("-")[0]
    assert told.id in (f"{tag}-1-0", "") and other.partition("-")[0] != tag
    assert (first.id, first.type) == (f"{tag}-1-1", "run.started")
    assert [event.type for event in rest].count("run.queued") == (not told.id)
    books = Ledger()
    for event in events:
        books.take(event.id, event.data)
    assert books.end is not None and not books.close()


def test_a_damaged_position_starts_no_run(client: httpx.Client) -> None:
    headers = {**SSE, "Last-Event-ID": "1-x"}
    body = {"agent": "echo", "input": unique()}
    response = client.post("/v1/runs", json=body, headers=headers)
    assert (response.status_code, response.json()["code"]) == (400, "bad_event_id")
    assert client.post("/v1/runs", json=body).headers["x-cache"] == "miss"


# ---- characters that end a line elsewhere


def data_lines(lines: Iterator[str]) -> list[str]:
    return [json.loads(line[6:])["type"] for line in lines if line.startswith("data: ")]


@pytest.mark.parametrize("kind", ["live", "finished", "hit", "record", "problem"])
def test_no_character_of_an_answer_ends_a_line(
    plateau: Serving, client: httpx.Client, kind: str
) -> None:
    text = f"{unique()} {LINE_ENDS}"
    body = {"agent": "echo", "input": text}
    if kind == "problem":
        content = client.post("/v1/runs", json={"agent": LINE_ENDS, "input": "x"}).content
        assert json.loads(content)["code"] == "unknown_agent"
    elif kind == "live":
        content = client.post("/v1/runs", json=body, headers=SSE).content
    else:
        run = finish(client, "echo", text)
        url = f"/v1/runs/{run['id']}" if kind == "record" else run["events_url"]
        if kind == "hit":
            url = ask(client, "echo", text)["events_url"]
        content = client.get(url).content
    whole = content.decode()
    lines = whole.splitlines()
    assert lines == whole.removesuffix("\n").split("\n")
    if kind != "problem":
        # That has quoted what is not printable.
        assert all(escaped in whole for escaped in (r"\u2028", r"\u2029", r"\u0085"))
    if kind in ("live", "finished", "hit"):
        folded = "".join(
            event.get("text", "")
            for event in (json.loads(line[6:]) for line in lines if line.startswith("data: "))
        )
        assert folded == f"You said: {text}"


# ---- HTTP/1.0


@pytest.mark.parametrize("kind", ["live", "finished", "hit", "ops"])
@pytest.mark.parametrize("asked", ["", "Connection: keep-alive\r\n"])
def test_http_1_0_gets_no_chunks(
    plateau: Serving, client: httpx.Client, kind: str, asked: str
) -> None:
    text = unique()
    if kind == "live":
        body = json.dumps({"agent": "tools", "input": text}).encode()
        head = f"POST /v1/runs HTTP/1.0\r\nAccept: text/event-stream\r\n{asked}"
        head, content = raw(plateau, head, body)
    elif kind == "ops":
        head, content = raw(
            plateau,
            "GET /api/admin/metrics?admin_token=sesame-open HTTP/1.0\r\n"
            f"Accept: text/event-stream\r\n{asked}",
            stop=b"\n\n",
        )
        content += b"run.completed"
    else:
        url = finish(client, "tools", text)["events_url"]
        if kind == "hit":
            url = ask(client, "tools", text)["events_url"]
        head, content = raw(plateau, f"GET {url} HTTP/1.0\r\n{asked}")
        assert_is_a_stream(content)
    assert "transfer-encoding" not in head.lower() and "content-length" not in head.lower()
    assert re.findall(r"(?im)^connection: *(.*?)\r?$", head) == ["close"]
    assert content.startswith((b"retry: ", b"data: ")) and b"run.completed" in content
    assert b"\r\n" not in content


@pytest.mark.parametrize("path", ["/health/live", "/", "/v1/runs/x", "/openapi.json"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_http_1_0_gets_documents_with_their_length(
    plateau: Serving, path: str, method: str
) -> None:
    head, content = raw(plateau, f"{method} {path} HTTP/1.0\r\n")
    length = re.findall(r"(?im)^content-length: *(\d+)", head)
    assert "transfer-encoding" not in head.lower() and len(length) == 1
    assert len(content) == (0 if method == "HEAD" else int(length[0]))
    assert re.findall(r"(?im)^connection: *(.*?)\r?$", head) == ["close"]


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
def test_http_1_0_is_not_told_to_go_on(plateau: Serving, accept: str) -> None:
    body = json.dumps({"agent": "echo", "input": unique()}).encode()
    expect = f"Accept: {accept}\r\nExpect: 100-continue\r\n"
    head, _ = raw(plateau, f"POST /v1/runs HTTP/1.0\r\n{expect}", body)
    assert head.split()[1] in ("200", "202")


@pytest.mark.parametrize("version", ["0.9", "2.0"])
def test_another_http_is_refused(plateau: Serving, version: str) -> None:
    head, _ = raw(plateau, f"GET /health/live HTTP/{version}\r\nHost: x\r\n")
    assert head.split()[1] == "400"


@pytest.mark.parametrize("kind", ["live", "finished", "hit"])
def test_a_stream_says_once_whether_its_connection_is_kept(
    plateau: Serving, client: httpx.Client, kind: str
) -> None:
    text = unique()
    body = json.dumps({"agent": "tools", "input": text}).encode()
    if kind == "live":
        accept = "Accept: text/event-stream\r\nHost: x\r\nConnection: close\r\n"
        head, _ = raw(plateau, f"POST /v1/runs HTTP/1.1\r\n{accept}", body)
    else:
        run = finish(client, "tools", text)
        url = (run if kind == "finished" else ask(client, "tools", text))["events_url"]
        head, _ = raw(plateau, f"GET {url} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n")
    assert re.findall(r"(?im)^connection: *(.*?)\r?$", head) == ["close"]


def test_http_1_0_is_told_of_an_end_without_a_body(
    plateau: Serving, client: httpx.Client
) -> None:
    url = finish(client, "tools")["events_url"]
    last = follow(client, url)[-1].id
    head, content = raw(plateau, f"GET {url} HTTP/1.0\r\nLast-Event-ID: {last}\r\n")
    assert " 204 " in head and content == b""

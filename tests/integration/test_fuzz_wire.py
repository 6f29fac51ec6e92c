"""Ten thousand hostile requests over real sockets, from a seed: none is a 500 or hangs, and the
worker, the store and whoever reads meanwhile are afterwards as they were."""

from __future__ import annotations

import json
import re
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from http.client import HTTPException, HTTPResponse
from random import Random
from typing import Any

import httpx
import pytest
from benchmarks.measuring import private_kib
from redis import Redis

from tests.conftest import assert_all_have_a_life
from tests.hostile import damaged, hostile_json, in_a_header, in_a_target
from tests.integration.api_client import api_serving, ask, finish, messages, unique
from tests.integration.test_external import EVERYTHING
from tests.integration.witness import Witness
from tests.processes import Serving, wait_until

SEED = 20
# Of each kind: ten thousand in all.
MANY = 2000
GROWTH_KIB = 32 * 1024
# Who waits for a run waits for its producer, too.
WITHIN_S = 30.0
# Answers that say what is wrong with this machine, not with the request.
ALLOWED = {501, 503, 505}
ENV = {
    "WEB_CONCURRENCY": "1",
    "MAX_REQUESTS": "0",
    "QUEUE_LIMIT": "500",
    "EXTERNAL_IDLE_S": "8",
    "STREAM_TTL_S": "61",
    "ADMIN_TOKEN": "a-token-of-this-test",
}


@pytest.fixture(scope="module")
def plateau(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with api_serving(tmp_path_factory.mktemp("wire"), ENV) as running:
        yield running


@pytest.fixture(scope="module")
def client(plateau: Serving) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=plateau.url, timeout=WITHIN_S, trust_env=False) as opened:
        yield opened


class Attacker:
    """One connection after another; `statuses` are the answers' own."""

    def __init__(self, plateau: Serving) -> None:
        self._port = plateau.port
        self._peer: socket.socket | None = None
        self.statuses: Counter[int] = Counter()

    def _connection(self) -> socket.socket:
        if self._peer is None:
            self._peer = socket.create_connection(("127.0.0.1", self._port), timeout=WITHIN_S)
            self._peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._peer

    def close(self) -> None:
        if self._peer is not None:
            self._peer.close()
            self._peer = None

    def request(
        self, method: bytes, target: bytes, *headers: bytes, body: bytes = b""
    ) -> tuple[int, bytes]:
        """On a connection that is kept. A stream is left once it has begun."""
        lines = [b"%b %b HTTP/1.1" % (method, target), b"Host: localhost", *headers]
        if body or method in (b"POST", b"PUT", b"PATCH"):
            lines.append(b"Content-Length: %d" % len(body))
        data, is_new = b"\r\n".join([*lines, b"", body]), self._peer is None
        try:
            self._connection().sendall(data)
            answer = HTTPResponse(self._connection(), method=method.decode("latin-1"))
            answer.begin()
            is_stream = (answer.headers["content-type"] or "").startswith("text/event-stream")
            read = (
                b"" if is_stream and "content-length" not in answer.headers else answer.read()
            )
        except TimeoutError:
            raise AssertionError(f"no answer to {data[:2000]!r}") from None
        except (HTTPException, OSError):
            self.close()
            if is_new:
                return 0, b""
            # It had ended the connection behind the last answer.
            return self.request(method, target, *headers, body=body)
        self.note(answer.status, data, read)
        if is_stream or answer.will_close:
            self.close()
        return answer.status, read

    def shout(self, data: bytes) -> None:
        """All of it, and then nothing more, on a connection of its own."""
        self.close()
        peer = self._connection()
        read = b""
        try:
            peer.sendall(data)
            peer.shutdown(socket.SHUT_WR)
            while more := peer.recv(65536):
                read += more
        except TimeoutError:
            raise AssertionError(f"{data[:2000]!r} is kept, and told {read[:500]!r}") from None
        except OSError:
            # Of what is not read there may be more than is waited for.
            pass
        self.close()
        for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", read):
            self.note(int(status), data, read)

    def note(self, status: int, asked: bytes, read: bytes) -> None:
        self.statuses[status] += 1
        assert status < 500 or status in ALLOWED, (status, asked[:2000], read[:2000])


HEADS = [
    b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"OPTIONS /v1/runs HTTP/1.1\r\nHost: localhost\r\nOrigin: http://a.example\r\n"
    b"Access-Control-Request-Method: POST\r\n\r\n",
    b"POST /v1/runs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 29\r\n"
    b'Idempotency-Key: k\r\nPrefer: wait=1\r\n\r\n{"agent":"echo","input":"xyz"}',
    b"POST /v1/runs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'10\r\n{"agent":"echo",\r\nd\r\n"input":"xy"}\r\n0\r\n\r\n',
    b"GET /v1/conversations/main HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
    b"Connection: keep-alive, Upgrade\r\nUpgrade: h2c\r\nCookie: a=b\r\n\r\n",
    b"HEAD / HTTP/1.0\r\n\r\nGET /docs HTTP/1.1\r\nHost: localhost\r\nRange: bytes=0-1\r\n\r\n",
]
METHODS = b"GET GET GET HEAD POST PUT PATCH DELETE OPTIONS TRACE CONNECT get FOO".split()
TARGETS = [
    *(b"/", b"/health", b"/health/live", b"/docs", b"/ops", b"/client.js", b"/openapi.json"),
    *(b"/metrics", b"/v1/models", b"/v1/agents", b"/v1/runs", b"/v1/runs?limit=2&cursor=x"),
    *(b"/v1/conversations?limit=1", b"/v1/conversations/c1", b"/v1/responses/resp_00"),
    *(b"/v1/runs/%b" % (b"f" * 32), b"/v1/runs/%b/events?token=x" % (b"f" * 32)),
    *(b"/api/chat/c1/stream", b"/agui/t1/events", b"/api/admin/metrics", b"/api/admin/cache"),
    *(b"http://localhost/v1/models", b"/v1/conversations/c1/messages", b"/favicon.ico"),
]
_SAID = [{"role": "user", "content": "x"}]
BODIES: list[tuple[bytes, Any]] = [
    (
        b"/v1/runs",
        {
            "agent": "echo",
            "messages": _SAID,
            "user": "ann",
            "options": {"a": [1, {"b": None}]},
            "cache": {"mode": "off", "ttl_s": 60},
        },
    ),
    (b"/v1/runs", {"agent": "echo", "input": "x", "conversation_id": "c1", "reply_to": "m"}),
    (
        b"/v1/chat/completions",
        {"model": "echo", "messages": _SAID, "stream": True, "temperature": 0.5, "n": 1},
    ),
    (b"/v1/chat/completions", {"model": "echo", "messages": _SAID, "stop": ["x"], "tools": []}),
    (b"/v1/responses", {"model": "echo", "input": "x", "stream": True, "store": False}),
    (b"/v1/responses", {"model": "echo", "input": _SAID, "previous_response_id": "resp_1"}),
    (
        b"/api/chat",
        {
            "id": "c1",
            "messages": [{"id": "m", "role": "user", "parts": [{"type": "text", "text": "x"}]}],
            "trigger": "submit-message",
        },
    ),
    (
        b"/agui",
        {
            "threadId": "t",
            "runId": "r",
            "messages": [{"id": "1", "role": "user", "content": "x"}],
            "tools": [],
            "context": [],
            "state": {},
            "forwardedProps": {"agent": "echo"},
        },
    ),
]
# Without what ends a run.
PAYLOADS = [event for event in EVERYTHING if event["type"] != "run.completed"]
HEADERS = [
    *(b"Last-Event-ID: abcd1234-1-17", b"Idempotency-Key: key-1", b"X-Request-ID: r-1"),
    *(b"Prefer: wait=0", b"Accept: text/event-stream;q=0.5, */*", b"Cache-Control: no-cache"),
    *(
        b"Origin: http://a.example",
        b"X-Forwarded-For: 10.0.0.1, 10.0.0.2",
        b"traceparent: 00-1",
    ),
    *(b"X-Forwarded-Prefix: /ai", b"Authorization: Bearer x", b"Content-Type: a/b; charset=x"),
]


def hostile_heads(draw: Random, attacker: Attacker, _: dict[str, Any]) -> None:
    attacker.shout(damaged(draw, draw.choice(HEADS)))


def hostile_targets(draw: Random, attacker: Attacker, _: dict[str, Any]) -> None:
    attacker.request(draw.choice(METHODS), in_a_target(draw, draw.choice(TARGETS)))


def hostile_bodies(draw: Random, attacker: Attacker, _: dict[str, Any]) -> None:
    path, body = draw.choice(BODIES)
    attacker.request(b"POST", path, body=hostile_json(draw, json.dumps(body).encode()))


def hostile_events(draw: Random, attacker: Attacker, kept: dict[str, Any]) -> None:
    """Of a producer outside, whose run is another one when it has ended."""
    if "events" not in kept:
        body = json.dumps({"agent": "external", "input": unique()}).encode()
        status, read = attacker.request(b"POST", b"/v1/runs", body=body)
        if status not in (200, 202):
            return
        kept["events"] = f"/v1/runs/{json.loads(read)['id']}/events".encode()
    some = draw.sample(PAYLOADS, draw.randint(1, 4))
    body = hostile_json(draw, json.dumps(some).encode())
    status, _ = attacker.request(b"POST", kept["events"], body=body)
    if status in (404, 409, 410):
        del kept["events"]


def hostile_ids(draw: Random, attacker: Attacker, kept: dict[str, Any]) -> None:
    """In headers and paths, of runs and conversations that there are."""
    header = draw.choice(HEADERS)
    name, _, value = header.partition(b": ")
    header = name + b": " + in_a_header(draw, value)
    kind = draw.randrange(4)
    if kind == 0:
        url = kept["run"]["events_url"].encode()
        last = b"Last-Event-ID: " + in_a_header(draw, draw.choice(kept["ids"]))
        attacker.request(b"GET", url, last)
    elif kind == 1:
        place = in_a_target(draw, b"conversation-1").replace(b"?", b"").replace(b"/", b"%2f")
        attacker.request(
            draw.choice([b"GET", b"DELETE"]), b"/v1/conversations/" + place, header
        )
    elif kind == 2:
        said = {"agent": "echo", "input": "x", "conversation_id": "c-1", "user": "u"}
        body = json.dumps(said).encode().replace(b"c-1", damaged(draw, b"c-1"))
        attacker.request(b"POST", b"/v1/runs", header, body=body)
    else:
        target = in_a_target(draw, kept["run"]["events_url"].encode())
        attacker.request(b"GET", target, header)


KINDS: list[Callable[[Random, Attacker, dict[str, Any]], None]] = [
    hostile_heads,
    hostile_targets,
    hostile_bodies,
    hostile_events,
    hostile_ids,
]


def attack(plateau: Serving, kept: dict[str, Any], seed: int, many: int) -> Counter[int]:
    attacker = Attacker(plateau)
    for number, kind in enumerate(KINDS):
        draw = Random(f"{SEED} {seed} {number}")
        own = dict(kept)
        for _ in range(many):
            kind(draw, attacker, own)
    attacker.close()
    return attacker.statuses


def test_ten_thousand_hostile_requests(plateau: Serving, client: httpx.Client) -> None:
    (pid,) = plateau.pids("gunicorn: worker")
    run = ask(client, "echo")
    finish(client, "echo")
    with client.stream("GET", run["events_url"]) as response:
        ids = [event.id.encode() for event in messages(response.iter_lines()) if event.id]
    kept = {"run": run, "ids": ids}
    # What is made once, is made.
    attack(plateau, kept, seed=0, many=20)
    before = private_kib([pid])
    statuses = Counter[int]()
    with Witness(plateau.url) as witness:
        for seed in range(1, 5):
            statuses += attack(plateau, kept, seed, MANY // 4)
    witness.check()

    # Nearly all are answered, and not all by the same.
    assert statuses.total() > 4 * MANY and len(statuses) >= 10, statuses
    assert statuses[400] < statuses.total() / 2, statuses
    said = plateau.stderr
    assert "Traceback" not in said and " ERROR " not in said, said[-4000:]
    assert plateau.pids("gunicorn: worker") == [pid]
    wait_until(lambda: private_kib([pid]) - before < GROWTH_KIB, "what it took is given back")
    assert finish(client, "echo")["status"] == "completed"
    for url in (plateau.streams_url, plateau.cache_url):
        with Redis.from_url(url, protocol=2) as redis:
            assert_all_have_a_life(redis)

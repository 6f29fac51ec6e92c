"""What stock clients do with a connection, in bytes on the wire: they ask to upgrade it, send
several requests at once, close their half when they have nothing more to say, or go."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from redis import Redis

from plateau_sse.api.ops import FEEDS_MOST
from plateau_sse.store.redis import keys
from tests.integration.api_client import api_serving, ask, finish
from tests.integration.wire import (
    chunked,
    connected,
    get,
    post,
    raw_post,
    read_on,
    rest_of,
    send_all_and_close_half,
    statuses,
    whole_of,
)
from tests.processes import Serving, wait_until

TOKEN = "a-token-of-this-test"
ADMIN = b"Authorization: Bearer " + TOKEN.encode()
SSE = b"Accept: text/event-stream"
WAIT = b"Prefer: wait=30"
LIVE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def plateau(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    # One worker: what comes later is answered later.
    env = {"WEB_CONCURRENCY": "1", "ADMIN_TOKEN": TOKEN}
    with api_serving(tmp_path_factory.mktemp("wire"), env) as running:
        yield running


@pytest.fixture(scope="module")
def client(plateau: Serving) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=plateau.url, timeout=30, trust_env=False) as opened:
        yield opened


@pytest.fixture(scope="module")
def run(client: httpx.Client) -> dict[str, Any]:
    """A finished run."""
    return finish(client, "echo")


@pytest.fixture(autouse=True)
def nothing_goes_wrong(plateau: Serving) -> Iterator[None]:
    said = len(plateau.stderr)
    yield
    log = plateau.stderr[said:]
    assert "Traceback" not in log and " ERROR " not in log, log


# An upgrade that nobody takes up

UPGRADES = {
    # As the JDK's HttpClient sends it with every request that is not encrypted.
    "h2c": (
        b"Connection: Upgrade, HTTP2-Settings",
        b"Upgrade: h2c",
        b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
    ),
    "a web socket": (
        b"Connection: keep-alive, Upgrade",
        b"Upgrade: websocket",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ),
    "TLS": (b"Upgrade: TLS/1.0", b"Connection: Upgrade"),
    "anything": (b"UPGRADE: foo/2, bar", b"connection: UPGRADE"),
    "two lines": (b"Upgrade: h2c", b"Upgrade: foo", b"Connection: x", b"Connection: upgrade"),
    "nothing": (b"Upgrade:", b"Connection: upgrade"),
    "without Connection": (b"Upgrade: h2c",),
}
# Nothing but the body says that there is no such agent.
SHAPES: dict[str, Callable[..., bytes]] = {
    "a body with its length": lambda *headers: post(*headers, agent="nobody"),
    "a body in chunks": lambda *headers: chunked(post(*headers, agent="nobody")),
    "no body": lambda *headers: get(b"/health/live", *headers),
    "an empty body": lambda *headers: raw_post(*headers, body=b""),
}
EXPECTED = {"no body": b"200", "an empty body": b"400"}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", UPGRADES)
def test_an_upgrade_is_ignored(plateau: Serving, name: str, shape: str) -> None:
    request = SHAPES[shape](*UPGRADES[name])
    expected = EXPECTED.get(shape, b"422")
    with connected(plateau) as peer:
        for _ in range(3):
            peer.sendall(request)
            assert statuses(read_on(peer, b"}"))[0] == expected
        peer.sendall(request * 3 + LAST)
        assert statuses(rest_of(peer)) == [expected] * 3 + [b"200"]


@pytest.mark.parametrize("size", [1, 2, 40, 150])
def test_an_upgrade_is_ignored_however_the_bytes_arrive(plateau: Serving, size: int) -> None:
    request = post(*UPGRADES["h2c"]) + chunked(post(*UPGRADES["a web socket"])) + LAST
    with connected(plateau) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(request), size):
            peer.sendall(request[at : at + size])
        assert statuses(rest_of(peer)) == [b"202", b"202", b"200"]


def test_an_upgrade_before_a_stream(plateau: Serving, run: dict[str, Any]) -> None:
    path = run["events_url"].encode()
    with connected(plateau) as peer:
        peer.sendall(get(path, *UPGRADES["h2c"]) + post(SSE, *UPGRADES["h2c"]) + LAST)
        answers = rest_of(peer)
    assert statuses(answers) == [b"200", b"200", b"200"]
    assert answers.count(b"run.completed") == 2


def test_a_connection_that_is_not_kept_is_not_kept_for_an_upgrade(plateau: Serving) -> None:
    last = {
        "HTTP/1.0": post(*UPGRADES["h2c"]).replace(b"HTTP/1.1", b"HTTP/1.0"),
        "close": post(b"Connection: close", *UPGRADES["h2c"]),
        "chunks": chunked(post(*UPGRADES["TLS"], b"Connection: close")),
    }
    for request in last.values():
        with connected(plateau) as peer:
            peer.sendall(request)
            assert statuses(rest_of(peer)) == [b"202"]


def test_what_is_wrong_beside_an_upgrade_is_refused(plateau: Serving) -> None:
    wrong = {
        "two lengths": post(b"Content-Length: 3", *UPGRADES["h2c"]),
        "a tunnel": b"CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\nabc",
        "a tunnel to a path": b"CONNECT /v1/runs HTTP/1.1\r\nHost: x\r\n\r\n{}",
        "a tunnel with an upgrade": b"\r\n".join(
            [b"CONNECT x:80 HTTP/1.1", b"Host: x:80", *UPGRADES["h2c"], b"", b""]
        ),
        "a path that is none": get(b"http://[/", *UPGRADES["h2c"]),
        "HTTP/2 at once": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    }
    for name, request in wrong.items():
        with connected(plateau) as peer:
            peer.sendall(request)
            assert statuses(rest_of(peer)) == [b"400"], name


NONSENSE = {
    "nonsense": b"\x16\x03\x01\r\n\r\n",
    "a tunnel": b"CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n",
    "a body that breaks": chunked(post())[:-5] + b"z\r\n\r\n",
}


@pytest.mark.parametrize("name", NONSENSE)
def test_what_cannot_be_read_takes_no_answer_from_what_can(
    plateau: Serving, client: httpx.Client, name: str
) -> None:
    nonsense = NONSENSE[name]
    for asked, expected in (
        (post(WAIT), [b"200"]),
        (post(SSE, *UPGRADES["h2c"]) + post(WAIT), [b"200", b"200"]),
        (b"", [b"400"]),
    ):
        with connected(plateau) as peer:
            peer.sendall(asked + nonsense)
            assert statuses(whole_of(peer)) == expected
    live = External(client, plateau)
    for waiting in (b"", LIVE):
        with connected(plateau) as peer:
            peer.sendall(get(live.path) + waiting)
            read_on(peer, b"run.started")
            peer.sendall(nonsense)
            assert b"HTTP/1.1" not in whole_of(peer), "nothing of ours within the stream"
        live.is_left()
    live.end()


# Clients that close their half

HALF_CLOSED: dict[str, tuple[Callable[[], bytes], bytes, bytes]] = {
    "a page": (lambda: get(b"/"), b"200", b"</html>"),
    "a document": (lambda: get(b"/openapi.json"), b"200", b'"openapi"'),
    "a new run": (post, b"202", b"events_url"),
    "a new run in chunks": (lambda: chunked(post()), b"202", b"events_url"),
    "a run that is waited for": (lambda: post(WAIT), b"200", b'"completed"'),
    "a run that takes its time": (lambda: post(WAIT, agent="big"), b"200", b'"completed"'),
    "a stream of a new run": (lambda: post(SSE), b"200", b"run.completed"),
    "a long stream": (lambda: post(SSE, agent="big"), b"200", b"run.completed"),
    "not JSON": (lambda: raw_post(body=b"{"), b"400", b"bad_json"),
    "no run": (lambda: get(b"/v1/runs/" + b"f" * 32), b"404", b"run_not_found"),
    "no events": (lambda: get(b"/v1/runs/" + b"f" * 32 + b"/events"), b"404", b"run_not_found"),
    "no method": (lambda: raw_post(path=b"/health", body=b"x"), b"405", b"method_not_allowed"),
    "too much": (lambda: raw_post(body=b" " * (1 << 20) + b"x"), b"413", b"too_large"),
    "no HTTP": (lambda: b"hello\r\n\r\n", b"400", b"Invalid"),
    "HTTP/1.0": (lambda: post(WAIT).replace(b"/1.1", b"/1.0"), b"200", b'"completed"'),
    "an upgrade": (lambda: post(WAIT, *UPGRADES["h2c"]), b"200", b'"completed"'),
}


@pytest.mark.parametrize("name", HALF_CLOSED)
def test_who_closes_their_half_is_answered(plateau: Serving, name: str) -> None:
    request, status, part = HALF_CLOSED[name]
    with connected(plateau) as peer:
        send_all_and_close_half(peer, request())
        answer = rest_of(peer)
    assert statuses(answer) == [status]
    assert part in answer, answer


@pytest.mark.parametrize("accept", [b"application/json", b"text/event-stream"])
def test_a_hit_for_who_closes_their_half(plateau: Serving, accept: bytes) -> None:
    request = post(WAIT, b"Accept: " + accept)
    for cached in (b"miss", b"hit"):
        with connected(plateau) as peer:
            send_all_and_close_half(peer, request)
            answer = rest_of(peer)
        assert b"x-cache: " + cached in answer.lower()
        assert b"completed" in answer


def test_several_requests_of_who_closes_their_half(
    plateau: Serving, run: dict[str, Any]
) -> None:
    stream = run["events_url"].encode()
    asked = {
        "whole": get(stream) + post(WAIT) + LIVE + post(SSE),
        "and half a head": get(stream) + post(WAIT) + LIVE + post(SSE) + LIVE[:20],
        "and half a body": get(stream) + post(WAIT) + LIVE + post(SSE) + post()[:-3],
        "the second by halves": get(stream) + post()[:-3],
    }
    for name, requests in asked.items():
        with connected(plateau) as peer:
            send_all_and_close_half(peer, requests)
            answers = rest_of(peer)
        expected = 1 if name == "the second by halves" else 4
        assert len(statuses(answers)) == expected, name
        assert answers.count(b"run.completed") == (expected + 1) // 2, name


def test_a_live_stream_of_who_closed_their_half(plateau: Serving, client: httpx.Client) -> None:
    live = External(client, plateau)
    with connected(plateau) as peer:
        send_all_and_close_half(peer, get(live.path))
        read_on(peer, b"run.started")
        for number in range(3):
            live.say(f"piece {number}.")
            read_on(peer, b"piece %d." % number)
        live.end()
        assert b"run.completed" in rest_of(peer)
    live.is_left()


# Clients that have gone


class External:
    """A run whose events the test sends."""

    def __init__(self, client: httpx.Client, plateau: Serving) -> None:
        run = ask(client, "external")
        self._client = client
        self._url = f"/v1/runs/{run['id']}/events"
        self._channel = keys.channel(run["id"]).encode()
        self._redis = plateau.streams_url
        self.path = run["events_url"].encode()

    def say(self, text: str) -> None:
        event = {"type": "message.delta", "text": text}
        assert self._client.post(self._url, json=event).status_code == 200

    def end(self) -> None:
        assert self._client.post(self._url, json={"type": "run.completed"}).status_code == 200

    def is_followed(self) -> bool:
        with Redis.from_url(self._redis, protocol=2) as redis:
            return self._channel in redis.pubsub_shardchannels()

    def is_left(self) -> None:
        wait_until(lambda: not self.is_followed(), "nobody follows the run", timeout_s=5)


def test_a_reader_who_goes_is_let_go_of_at_once(plateau: Serving, client: httpx.Client) -> None:
    live = External(client, plateau)
    for go in ("closes", "closes their half"):
        with connected(plateau) as peer:
            peer.sendall(get(live.path))
            read_on(peer, b"run.started")
            assert live.is_followed()
            if go == "closes":
                peer.close()
            else:
                peer.shutdown(socket.SHUT_WR)
            live.is_left()
    live.end()


def test_a_reader_who_goes_with_requests_waiting_is_let_go_of(
    plateau: Serving, client: httpx.Client
) -> None:
    live = External(client, plateau)
    with connected(plateau) as peer:
        peer.sendall(LIVE + get(live.path) + LIVE + post(WAIT))
        read_on(peer, b"run.started")
        assert live.is_followed()
    live.is_left()
    live.end()


def test_a_reader_who_went_before_the_answer_is_found_out_by_it(
    plateau: Serving, client: httpx.Client
) -> None:
    live = External(client, plateau)
    for _ in range(20):
        with connected(plateau) as peer:
            peer.sendall(get(live.path))
    # Whoever is still taken for a listener is written to, and that is refused.
    for number in range(3):
        live.say(f"piece {number}")
    live.is_left()
    live.end()


def test_operators_who_go_before_the_answer_leave_their_place_to_others(
    plateau: Serving,
) -> None:
    feed = get(b"/api/admin/metrics", ADMIN, SSE)

    def answered() -> bytes:
        with connected(plateau) as peer:
            send_all_and_close_half(peer, feed)
            return read_on(peer, b"\r\n\r\n")

    for _ in range(FEEDS_MOST + 5):
        with connected(plateau) as peer:
            send_all_and_close_half(peer, feed)
    wait_until(lambda: statuses(answered()) == [b"200"], "there is room for another")


def test_a_connection_without_a_question_is_closed_at_once(plateau: Serving) -> None:
    said = {
        "nothing": b"",
        "half a head": LIVE[:20],
        "half a body": post()[:-3],
        "half a body, in chunks": chunked(post())[:-7],
        "what has been answered": LIVE,
        "that, and half a head": LIVE + LIVE[:20],
    }
    for name, data in said.items():
        with connected(plateau) as peer:
            peer.settimeout(2)
            peer.sendall(data)
            if data.startswith(LIVE):
                read_on(peer, b"}")
            peer.shutdown(socket.SHUT_WR)
            assert rest_of(peer) == b"", name

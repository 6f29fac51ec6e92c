"""Requests that are wrong as such: ids, tokens, methods, headers, and what is no HTTP
at all. None ends in a 500 or a traceback, and nothing stays behind in Redis."""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from plateau_sse.errors import PROBLEMS
from tests.integration.api_client import api_serving, assert_problem, finish, nothing_stays
from tests.processes import Serving

NOBODY = "f" * 32
ROUTES = [("GET", ""), ("GET", "/events"), ("POST", "/cancel")]


@pytest.fixture(scope="module")
def plateau(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    # One worker: what comes later is answered later.
    with api_serving(tmp_path_factory.mktemp("requests"), {"WEB_CONCURRENCY": "1"}) as running:
        yield running


@pytest.fixture(scope="module")
def client(plateau: Serving) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=plateau.url, timeout=30, trust_env=False) as opened:
        yield opened


@pytest.fixture(scope="module")
def run(client: httpx.Client) -> dict[str, Any]:
    """A finished run, to be asked for in wrong ways."""
    return finish(client, "echo")


@pytest.fixture(autouse=True)
def nothing_is_left_behind(plateau: Serving, run: dict[str, Any]) -> Iterator[None]:
    with nothing_stays(plateau):
        yield


# Ids and tokens

RUN_IDS = [
    "x",
    "0" * 31,
    "0" * 33,
    "F" * 32,
    "g" * 32,
    "hit-",
    "hit-" + "0" * 31,
    "hit-" + "G" * 32,
    "HIT-" + "0" * 32,
    "{" + "0" * 32 + "}",
    "0" * 32 + "%0a",
    "%00",
    "%ff%fe",
    "٣" * 32,
    "a" * 5000,
]


@pytest.mark.parametrize("run_id", RUN_IDS, ids=range(len(RUN_IDS)))
@pytest.mark.parametrize(("method", "rest"), ROUTES)
def test_a_run_id_that_is_none(
    client: httpx.Client, run_id: str, method: str, rest: str
) -> None:
    response = client.request(method, f"/v1/runs/{run_id}{rest}")
    assert_problem(response, 404, "run_not_found")


@pytest.mark.parametrize("run_id", [NOBODY, "7" * 32])
def test_a_run_id_of_the_future(client: httpx.Client, run_id: str) -> None:
    for method, rest in ROUTES:
        response = client.request(method, f"/v1/runs/{run_id}{rest}")
        assert_problem(response, 404, "run_not_found")


EVENT_IDS = ["1-", "01-1", "1-x", "1-1.0", "1-\u0661", "1-0x1", "1-" + "9" * 5000, "999-1%"]


@pytest.mark.parametrize("event_id", EVENT_IDS, ids=range(len(EVENT_IDS)))
def test_an_event_id_that_is_damaged(
    client: httpx.Client, run: dict[str, Any], event_id: str
) -> None:
    query = {"last_event_id": event_id}
    response = client.get(f"/v1/runs/{run['id']}/events", params=query)
    assert_problem(response, 400, "bad_event_id")
    raw = [(b"Last-Event-ID", event_id.encode())]
    response = client.get(run["events_url"] + "&last_event_id=1-1", headers=raw)
    assert_problem(response, 400, "bad_event_id")


TOKENS = ["x", " ", "%00", "%ff%fe", "%ed%a0%80", "*", "t" * 20_000, "%7B%7D", "é"]


@pytest.mark.parametrize("token", TOKENS, ids=range(len(TOKENS)))
def test_a_wrong_token(client: httpx.Client, run: dict[str, Any], token: str) -> None:
    for method, rest in [*ROUTES, ("HEAD", "/events")]:
        response = client.request(method, f"/v1/runs/{run['id']}{rest}?token={token}")
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        if method != "HEAD":
            assert_problem(response, 401, "invalid_token")


# Below HTTP's own rules


def raw(plateau: Serving, data: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to these very bytes."""
    with socket.create_connection(("127.0.0.1", plateau.port), timeout=10) as peer:
        peer.sendall(data)
        response = http.client.HTTPResponse(peer)
        response.begin()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return response.status, headers, response.read()


def post(body: bytes = b"{", *more: bytes) -> bytes:
    head = [b"POST /v1/runs HTTP/1.1", b"Host: x", b"Content-Length: %d" % len(body), *more]
    return b"\r\n".join([*head, b"", body])


def get(path: bytes, *more: bytes, method: bytes = b"GET") -> bytes:
    return b"\r\n".join([method + b" " + path + b" HTTP/1.1", b"Host: x", *more, b"", b""])


RUN_PATH = b"/v1/runs/" + NOBODY.encode()
REQUESTS = {
    "event id in Latin-1": (
        get(RUN_PATH + b"/events", b"Last-Event-ID: 1-\xe9"),
        "bad_event_id",
    ),
    "key in Latin-1": (post(b"{", b"Authorization: Bearer \xe9\xff"), "bad_json"),
    "two event ids": (
        get(RUN_PATH + b"/events", b"Last-Event-ID: 1-x", b"Last-Event-ID: 1-1"),
        "bad_event_id",
    ),
    "two keys": (post(b"{", b"Authorization: a", b"Authorization: b"), "bad_json"),
    "two content types": (post(b"{", b"Content-Type: a/b", b"Content-Type: c"), "bad_json"),
    "no content type": (post(), "bad_json"),
    "a compressed body": (
        post(b"\x1f\x8b\x08", b"Content-Encoding: gzip"),
        "unsupported_encoding",
    ),
    "an odd preference": (post(b"{", b"Prefer: wait=;;=\xff,wait=-1,wait=1e9"), "bad_json"),
    "an odd Accept": (post(b"{", b"Accept: \xff;q=nonsense,,"), "bad_json"),
    "an unknown expectation": (post(b"{", b"Expect: miracles"), "bad_json"),
    "a Host that is none": (post().replace(b"Host: x", b"Host: ["), "bad_request"),
    "no Host": (post().replace(b"Host: x\r\n", b""), "bad_request"),
    "HTTP/1.0": (post().replace(b"/1.1", b"/1.0"), "bad_json"),
    "an absolute target": (get(b"http://x/v1/runs", method=b"DELETE"), "method_not_allowed"),
    "a wish to upgrade": (
        post(b'{"agent":"echo"}', b"Connection: Upgrade", b"Upgrade: h2c"),
        "invalid_request",
    ),
    "100 GB announced": (
        post().replace(b"Content-Length: 1", b"Content-Length: 100000000000"),
        "too_large",
    ),
    **{
        f"method {method}": (get(b"/v1/runs", method=method.encode()), "method_not_allowed")
        for method in ("TRACE", "PURGE", "PROPFIND", "LOCK", "QUERY", "PATCH", "OPTIONS")
    },
    "TRACE on events": (get(RUN_PATH + b"/events", method=b"TRACE"), "method_not_allowed"),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_strange_request(plateau: Serving, name: str) -> None:
    request, code = REQUESTS[name]
    status, headers, body = raw(plateau, request)
    assert headers["content-type"] == "application/problem+json"
    assert json.loads(body)["code"] == code
    assert status == PROBLEMS[code][0]


def test_who_sends_too_much_is_told_so_before_the_connection_ends(plateau: Serving) -> None:
    """Some clients, and proxies, read nothing before they have sent everything: reset in the
    middle, they would not know why."""
    size = 24 * 1024 * 1024
    for _ in range(10):
        with socket.create_connection(("127.0.0.1", plateau.port), timeout=10) as peer:
            peer.sendall(post().replace(b"Content-Length: 1", b"Content-Length: %d" % size))
            peer.sendall(b"x" * (size - 1))
            response = http.client.HTTPResponse(peer)
            response.begin()
            assert response.status == 413
            assert json.loads(response.read())["code"] == "too_large"
            assert peer.recv(1) == b"", "in good order, not by a reset"


NOT_HTTP = {
    "an unknown method": get(b"/v1/runs", method=b"FOO"),
    "a method in small letters": get(b"/v1/runs", method=b"get"),
    "CONNECT": get(b"x:80", method=b"CONNECT"),
    "a path in Latin-1": get(b"/v1/runs/\xe9"),
    "a token in Latin-1": get(RUN_PATH + b"?token=\xe9"),
    "a path without a slash": get(b"health"),
    "a space in the path": get(b"/v1/runs /x"),
    "a path of 100 KB": get(b"/" + b"a" * 100_000),
    "two lengths": post(b"{", b"Content-Length: 5"),
    "a length and chunks": post(b"{", b"Transfer-Encoding: chunked"),
    "a negative length": post().replace(b"Length: 1", b"Length: -1"),
    "a length in words": post().replace(b"Length: 1", b"Length: one"),
    "a length of 100 bits": post().replace(b"Length: 1", b"Length: 1" + b"0" * 30),
    "a chunk that is none": get(b"/v1/runs", b"Transfer-Encoding: chunked", method=b"POST")
    + b"z\r\n",
    "a header without a name": post(b"{", b": x"),
    "a header with a NUL": post(b"{", b"X-A: \0"),
    "no HTTP at all": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
}


@pytest.mark.parametrize("name", NOT_HTTP)
def test_what_is_not_http_is_a_bad_request(plateau: Serving, name: str) -> None:
    # The parser answers before any route is asked.
    assert raw(plateau, NOT_HTTP[name])[0] == 400


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
def test_a_client_that_goes_in_the_middle_of_its_body(plateau: Serving, accept: str) -> None:
    whole = post(b'{"agent":"echo","input":"x"}', b"Accept: " + accept.encode())
    with socket.create_connection(("127.0.0.1", plateau.port), timeout=10) as peer:
        peer.sendall(whole[:-5])
        peer.shutdown(socket.SHUT_WR)
        assert peer.recv(1) == b""
    # By the same process, hence after it has dealt with the other.
    assert raw(plateau, get(b"/health/live"))[0] == 200


def test_a_head_without_an_end_is_refused(plateau: Serving) -> None:
    # A worker would hold all of it.
    with socket.create_connection(("127.0.0.1", plateau.port), timeout=10) as peer:
        peer.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n")
        with pytest.raises(ConnectionError):
            for number in range(400):
                peer.sendall(b"X-%d: " % number + b"a" * 50_000 + b"\r\n")


def test_requests_that_do_not_wait_for_answers_get_them_in_order(
    plateau: Serving, run: dict[str, Any]
) -> None:
    stream = b"/v1/runs/%b/events" % run["id"].encode()
    asked = [
        get(stream),
        get(RUN_PATH),
        post(b"{"),
        get(stream),
        get(b"/health/live", b"Connection: close"),
    ]
    with socket.create_connection(("127.0.0.1", plateau.port), timeout=10) as peer:
        peer.sendall(b"".join(asked))
        answers = peer.makefile("rb").read()
    statuses = re.findall(rb"HTTP/1\.1 (\d+)", answers)
    assert statuses == [b"200", b"404", b"400", b"200", b"200"]
    assert answers.count(b"run.completed") == 2

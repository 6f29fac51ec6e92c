"""What stock clients and proxies write into a request, in bytes on the wire: the forms that
they accept, the host, and the ways in which they encode a body."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator

import httpx
import pytest

from plateau_sse.errors import PROBLEMS
from tests.integration.api_client import api_serving, ask, finish, unique
from tests.integration.wire import (
    chunked,
    connected,
    get,
    post,
    raw_post,
    read_on,
    rest_of,
    statuses,
)
from tests.processes import Serving

TOKEN = "a-token-of-this-test"
ADMIN = b"Authorization: Bearer " + TOKEN.encode()
CLOSE = b"Connection: close"


@pytest.fixture(scope="module")
def plateau(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    env = {"WEB_CONCURRENCY": "1", "ADMIN_TOKEN": TOKEN, "ALLOWED_HOSTS": "*"}
    with api_serving(tmp_path_factory.mktemp("wire"), env) as running:
        yield running


@pytest.fixture(scope="module")
def client(plateau: Serving) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=plateau.url, timeout=30, trust_env=False) as opened:
        yield opened


@pytest.fixture(autouse=True)
def nothing_goes_wrong(plateau: Serving) -> Iterator[None]:
    said = len(plateau.stderr)
    yield
    log = plateau.stderr[said:]
    assert "Traceback" not in log and " ERROR " not in log, log


def answer_to(plateau: Serving, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and the first bytes of the body, a chunk's length left out."""
    with connected(plateau) as peer:
        peer.sendall(request)
        head, _, body = read_on(peer, b"\r\n\r\n").partition(b"\r\n\r\n")
        if b"event-stream" not in head:
            body += rest_of(peer)
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (x.partition(": ") for x in lines[1:])}
    return int(lines[0].split()[1]), headers, body


def assert_problem(answer: tuple[int, dict[str, str], bytes], code: str) -> None:
    status, headers, body = answer
    assert (status, json.loads(body)["code"]) == (PROBLEMS[code][0], code)
    assert headers["content-type"] == "application/problem+json"
    assert json.loads(body)["detail"]


# Accept

EVENTS = {
    "by name": [b"text/event-stream"],
    "in capitals": [b"Text/Event-Stream"],
    "before JSON": [b"text/event-stream, application/json"],
    "behind JSON, equally": [b"application/json, text/event-stream"],
    "equally, by weights": [b"application/json;q=0.5, text/event-stream;q=0.5"],
    "more than JSON": [b"application/json;q=0.8, text/event-stream"],
    "a little more": [b"application/json;q=0.001, text/event-stream;q=0.002"],
    "and anything else less": [b"text/event-stream, */*;q=0.1"],
    "equally with anything": [b"*/*, text/event-stream"],
    "a browser's fetch": [b"text/event-stream, text/html;q=0.9, */*;q=0.8"],
    "text, and no JSON": [b"text/*"],
    "text, and JSON refused": [b"text/*, application/json;q=0"],
    "anything but JSON": [b"*/*, application/json;q=0"],
    "text more than anything": [b"text/*, */*;q=0.5"],
    "on two lines": [b"application/json;q=0.5", b"text/event-stream"],
    "on the first of three": [b"text/event-stream", b"*/*;q=0.1", b"image/png"],
    "white space": [b"  text/event-stream\t; q = 0.9 ,application/json ;q=0.1  "],
    "no white space": [b"application/json;q=.2,text/event-stream;q=.3"],
    "Q in capitals": [b"application/json;Q=0.1, TEXT/EVENT-STREAM;Q=0.9"],
    "a charset": [b"text/event-stream;charset=utf-8"],
    "a charset and a weight": [b'text/event-stream; charset="utf-8"; q=0.4'],
    "quotes with commas": [b'text/plain;x=",application/json,";q=1, text/event-stream'],
    "an extension behind": [b"text/event-stream;q=1;ext=0"],
    "empty items": [b",, ,text/event-stream,;,"],
    "q in words": [b"text/event-stream;q=nonsense"],
    "no q": [b"text/event-stream;q="],
    "q of minus one": [b"text/event-stream;q=-1"],
    "q of two": [b"text/event-stream;q=2, application/json"],
    "q of a point": [b"text/event-stream;q=."],
    "q not a number": [b"text/event-stream;q=NaN"],
    "an open quote": [b'text/event-stream;x="'],
    "bytes": [b"\xff\xfe, text/event-stream"],
}
JSON = {
    "none": [],
    "empty": [b""],
    "anything": [b"*/*"],
    "by name": [b"application/json"],
    "an application's": [b"application/*"],
    "before anything": [b"application/json, text/plain, */*"],
    "a browser's page": [b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"],
    "Java's": [b"text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"],
    "no events": [b"text/event-stream;q=0"],
    "no events, in full": [b"text/event-stream;q=0.000"],
    "no events, a dot": [b"text/event-stream; q=0."],
    "anything but events": [b"*/*, text/event-stream;q=0"],
    "text, but no events": [b"text/*, text/event-stream;q=0"],
    "text but events less": [b"text/*, text/event-stream;q=0.1, application/json;q=0.5"],
    "events less": [b"application/json, text/event-stream;q=0.5"],
    "events less, behind": [b"text/event-stream;q=0.5, application/json"],
    "events less than anything": [b"*/*, text/event-stream;q=0.9"],
    "events less, on lines": [b"text/event-stream;q=0.5", b"application/json"],
    "events less, spelled oddly": [b"TEXT/EVENT-STREAM ;\tQ=0.5,APPLICATION/JSON"],
    "events less, a charset": [b"text/event-stream;charset=utf-8;q=0.1, application/json"],
    "text as well as anything": [b"text/*, */*"],
    "text as well as JSON": [b"application/json, text/*"],
    "neither": [b"text/html"],
    "neither, refused": [b"text/event-stream;q=0, application/json;q=0"],
    "events within quotes": [b'application/json;x="text/event-stream"'],
    "an event within quotes": [b'text/plain;x=",text/event-stream,"'],
    "another event stream": [b"text/event-stream-2, application/vnd.text/event-stream"],
    "a parameter of that name": [b"application/json;text/event-stream"],
    "only commas": [b",,;,"],
    "very many": [b"a/b," * 10_000 + b"text/event-stream"],
}
CASES = [(name, accept, True) for name, accept in EVENTS.items()]
CASES += [(name, accept, False) for name, accept in JSON.items()]
IDS = [f"{'events' if events else 'JSON'}, {name}" for name, _, events in CASES]


@pytest.mark.parametrize(("name", "accept", "events"), CASES, ids=IDS)
def test_what_is_accepted(
    plateau: Serving, name: str, accept: list[bytes], events: bool
) -> None:
    lines = [b"Accept: " + line for line in accept]
    text = unique()
    expected = "text/event-stream" if events else "application/json"
    # A miss, then a hit or a run that is joined; and what operators look at.
    for request in (
        post(*lines, CLOSE, text=text),
        post(*lines, CLOSE, b"Prefer: wait=20", text=text),
        get(b"/api/admin/metrics", *lines, ADMIN, CLOSE),
    ):
        status, headers, _ = answer_to(plateau, request)
        assert status in (200, 202)
        assert headers["content-type"].partition(";")[0] == expected, name


# The host

PATHS: dict[str, Callable[..., bytes]] = {
    "a page": lambda *headers: get(b"/", *headers),
    "health": lambda *headers: get(b"/health/live", *headers),
    "metrics": lambda *headers: get(b"/metrics", *headers),
    "a new run": post,
    "a new stream": lambda *headers: post(b"Accept: text/event-stream", *headers),
    "events": lambda *headers: get(b"/v1/runs/" + b"f" * 32 + b"/events", *headers),
    "nothing there": lambda *headers: get(b"/nothing", *headers),
    "a preflight": lambda *headers: get(b"/v1/runs", *headers).replace(b"GET", b"OPTIONS", 1),
    "absolute": lambda *headers: get(b"http://x/health/live", *headers),
    "an upgrade": lambda *headers: get(
        b"/health/live", b"Upgrade: h2c", b"Connection: Upgrade", *headers
    ),
}
WITHOUT: dict[str, tuple[bytes, ...]] = {
    "no host": (),
    "two hosts": (b"Host: x", b"Host: y"),
    "the same host twice": (b"Host: x", b"HOST: x"),
    "an empty host": (b"Host:",),
    "a blank host": (b"Host:   ",),
    "two hosts in one": (b"Host: x, y",),
    "two hosts in one, close": (b"Host: x,y",),
    "a space": (b"Host: x y",),
    "a path": (b"Host: x/y",),
    "a URL": (b"Host: http://x",),
    "a user": (b"Host: me@x",),
    "a query": (b"Host: x?y",),
    "a fragment": (b"Host: x#y",),
    "a bracket": (b"Host: [",),
    "a bracket too many": (b"Host: [::1",),
    "IPv6 without brackets": (b"Host: ::1",),
    "a name in brackets": (b"Host: [x]",),
    "a port in words": (b"Host: x:http",),
    "two ports": (b"Host: x:80:80",),
    "a port below zero": (b"Host: x:-1",),
    "a port of six digits": (b"Host: x:123456",),
    "only a port": (b"Host: :80",),
    "Latin-1": (b"Host: \xe9",),
    "UTF-8": ("Host: bücher.example".encode(),),
    "a quote": (b'Host: "x"',),
    "a backslash": (b"Host: x\\y",),
    "a percent sign": (b"Host: x%zz",),
    "a tab": (b"Host: x\ty",),
}


def with_hosts(request: bytes, hosts: tuple[bytes, ...]) -> bytes:
    lines = b"".join(host + b"\r\n" for host in hosts)
    return request.replace(b"Host: x\r\n", lines, 1)


@pytest.mark.parametrize("name", WITHOUT)
def test_a_host_that_is_none(plateau: Serving, name: str) -> None:
    for path in ("health", "a new stream"):
        request = with_hosts(PATHS[path](), WITHOUT[name])
        assert_problem(answer_to(plateau, request), "bad_request")


@pytest.mark.parametrize("path", PATHS)
def test_a_host_is_missed_on_every_path(plateau: Serving, path: str) -> None:
    for name in ("no host", "two hosts", "an empty host", "a path"):
        request = with_hosts(PATHS[path](b"Origin: http://localhost"), WITHOUT[name])
        answer = answer_to(plateau, request)
        assert_problem(answer, "bad_request")
        # A page is told why, too.
        assert answer[1]["access-control-allow-origin"] == "http://localhost"


HOSTS = [
    b"x",
    b"X.Example",
    b"x.example.",
    b"127.0.0.1",
    b"127.0.0.1:8000",
    b"x:",
    b"x:00080",
    b"[::1]",
    b"[::1]:8000",
    b"[fe80::1%25eth0]:80",
    b"[fe80::1%eth0]",
    b"my_service",
    b"a-b.c~d",
    b"xn--bcher-kva.example:443",
    b"b%C3%BCcher",
    b"\tx \t",
]


@pytest.mark.parametrize("host", HOSTS)
def test_hosts(plateau: Serving, host: bytes) -> None:
    request = with_hosts(get(b"/health/live", CLOSE), (b"hOsT: " + host,))
    assert answer_to(plateau, request)[0] == 200


def test_http_1_0_needs_no_host(plateau: Serving) -> None:
    for hosts, status in (((), 200), ((b"Host: x",), 200), ((b"Host: x", b"Host: x"), 400)):
        request = with_hosts(get(b"/health/live"), hosts).replace(b"HTTP/1.1", b"HTTP/1.0")
        assert answer_to(plateau, request)[0] == status


def test_a_request_without_a_host_is_answered_in_its_turn(plateau: Serving) -> None:
    live = get(b"/health/live")
    waited = post(b"Prefer: wait=20")
    with connected(plateau) as peer:
        peer.sendall(waited + live + with_hosts(waited, ()) + live)
        answers = rest_of(peer)
    assert statuses(answers) == [b"200", b"200", b"400"]


# Bodies


def ask_of(text: str = "") -> bytes:
    return json.dumps({"agent": "echo", "input": text or unique()}).encode()


@pytest.fixture(scope="module")
def appending(client: httpx.Client) -> Iterator[bytes]:
    """The path at which a run takes events."""
    run = ask(client, "external")
    path = f"/v1/runs/{run['id']}/events"
    yield path.encode()
    client.post(path, json={"type": "run.completed"})


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "GZIP": gzip.compress,
    "deflate": zlib.compress,
    "br": lambda body: b"\x8b\x03\x80" + body + b"\x03",
    "zstd": lambda body: b"\x28\xb5\x2f\xfd" + body,
    "compress": lambda body: body,
    "aws-chunked": lambda body: body,
    "identity, gzip": gzip.compress,
    "gzip, identity": gzip.compress,
    "nonsense": lambda body: body,
}


@pytest.mark.parametrize("name", PACKED)
def test_a_compressed_body(plateau: Serving, appending: bytes, name: str) -> None:
    coding = b"Content-Encoding: " + name.encode()
    for body, path in ((ask_of(), b"/v1/runs"), (b"[]", appending)):
        packed = raw_post(coding, CLOSE, body=PACKED[name](body), path=path)
        for request in (packed, chunked(packed)):
            answer = answer_to(plateau, request)
            assert_problem(answer, "unsupported_encoding")
            assert answer[1]["accept-encoding"] == "identity"


def test_a_compressed_body_leaves_the_connection_in_order(plateau: Serving) -> None:
    packed = raw_post(b"Content-Encoding: gzip", body=gzip.compress(ask_of()))
    large = raw_post(b"Content-Encoding: br", body=b"x" * 200_000)
    requests = [packed, chunked(packed), large, get(b"/health/live", CLOSE)]
    with connected(plateau) as peer:
        peer.sendall(b"".join(requests))
        assert statuses(rest_of(peer)) == [b"415", b"415", b"415", b"200"]


@pytest.mark.parametrize("coding", [b"identity", b"Identity", b"", b"identity, identity"])
def test_a_body_that_is_what_it_is(plateau: Serving, coding: bytes) -> None:
    request = raw_post(b"Content-Encoding: " + coding, CLOSE, body=ask_of())
    assert answer_to(plateau, request)[0] == 202


MARK = b"\xef\xbb\xbf"


def test_a_byte_order_mark_is_read_over(plateau: Serving, appending: bytes) -> None:
    text = unique()
    for ask_for in (ask_of(text), MARK + ask_of(text), MARK + b" \r\n" + ask_of(text)):
        request = raw_post(CLOSE, b"Prefer: wait=20", body=ask_for)
        for sent in (request, chunked(request)):
            status, headers, body = answer_to(plateau, sent)
            assert status == 200, body
    assert headers["x-cache"] == "hit"
    event = b'{"type": "message.delta", "text": "x"}'
    answer = answer_to(plateau, raw_post(CLOSE, body=MARK + event, path=appending))
    assert answer[0] == 200, answer


STRANGE: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "UTF-16": ("UTF-16", lambda body: body.decode().encode("utf-16")),
    "UTF-16, the other way": ("UTF-16", lambda body: b"\xfe\xff" + wide(body, "utf-16-be")),
    "UTF-16 without a mark": ("UTF-16", lambda body: wide(body, "utf-16-le")),
    "UTF-16, no mark, the other way": ("UTF-16", lambda body: wide(body, "utf-16-be")),
    "UTF-32": ("UTF-32", lambda body: body.decode().encode("utf-32")),
    "UTF-32, the other way": ("UTF-32", lambda body: b"\0\0\xfe\xff" + wide(body, "utf-32-be")),
    "UTF-32 without a mark": ("UTF-32", lambda body: wide(body, "utf-32-le")),
    "UTF-32, no mark, the other way": ("UTF-32", lambda body: wide(body, "utf-32-be")),
    "two marks": ("not valid JSON", lambda body: MARK + MARK + body),
    "a mark at the end": ("not valid JSON", lambda body: body + MARK),
    "half a mark": ("not valid JSON", lambda body: MARK[:2] + body),
    "only a mark": ("not valid JSON", lambda body: MARK),
    "nothing": ("not valid JSON", lambda body: b""),
    "gzip that nobody announced": ("not valid JSON", gzip.compress),
    "Latin-1": ("not valid JSON", lambda body: body.replace(b"x", b"\xe9")),
}


def wide(body: bytes, encoding: str) -> bytes:
    return body.decode().encode(encoding)


@pytest.mark.parametrize("name", STRANGE)
def test_a_body_in_another_encoding(plateau: Serving, appending: bytes, name: str) -> None:
    said, encoded = STRANGE[name]
    for body, path in (
        (b'{"agent": "echo", "input": "x"}', b"/v1/runs"),
        (b'[{"type": "message.delta", "text": "x"}]', appending),
    ):
        answer = answer_to(plateau, raw_post(CLOSE, body=encoded(body), path=path))
        assert_problem(answer, "bad_json")
        assert said in json.loads(answer[2])["detail"]


CODINGS = [
    (b"Transfer-Encoding: gzip, chunked",),
    (b"Transfer-Encoding: gzip,chunked",),
    (b"Transfer-Encoding: GZIP , Chunked",),
    (b"Transfer-Encoding: deflate, gzip, chunked",),
    (b"Transfer-Encoding: identity, chunked",),
    (b"Transfer-Encoding: nonsense, chunked",),
    (b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked"),
    (b"Transfer-Encoding: x;y=z, chunked",),
]


@pytest.mark.parametrize("coding", CODINGS)
def test_a_transfer_that_is_not_understood(
    plateau: Serving, appending: bytes, coding: tuple[bytes, ...]
) -> None:
    lines = b"\r\n".join(coding)
    for path in (b"/v1/runs", appending, b"/health", b"/nothing"):
        request = chunked(raw_post(body=ask_of(), path=path))
        request = request.replace(b"Transfer-Encoding: chunked", lines)
        answer = answer_to(plateau, request + get(b"/health/live"))
        assert_problem(answer, "unsupported_transfer_encoding")
        assert answer[1]["connection"] == "close"


@pytest.mark.parametrize(
    "coding", [b"chunked", b"Chunked", b"CHUNKED", b"\tchunked ", b",chunked"]
)
def test_chunks(plateau: Serving, coding: bytes) -> None:
    request = chunked(raw_post(CLOSE, body=ask_of()))
    request = request.replace(b"Encoding: chunked", b"Encoding: " + coding)
    assert answer_to(plateau, request)[0] == 202


# White space, which is no part of a value


def test_white_space_behind_a_value_is_no_part_of_it(plateau: Serving) -> None:
    body = ask_of("x" * 200_000)
    lines = [
        b"Host: x \t ",
        b"Accept: */* ",
        b"Content-Length: %d  " % len(body),
        b"Content-Encoding: identity\t",
        b"X-Request-ID: a-name\t ",
        b"Origin: http://localhost  ",
        b"Idempotency-Key: %b\t" % unique().encode(),
        b"Cache-Control: no-cache\t",
        b"Prefer: wait=20 \t",
        b"Connection: close",
    ]
    request = b"\r\n".join([b"POST /v1/runs HTTP/1.1", *lines, b"", body])
    status, headers, _ = answer_to(plateau, request)
    assert status == 200
    assert headers["x-request-id"] == "a-name"
    assert headers["access-control-allow-origin"] == "http://localhost"
    assert headers["cache-status"] == "plateau; fwd=request"


# Waiting


def test_to_wait_for_no_time_is_not_to_wait(plateau: Serving, client: httpx.Client) -> None:
    for text in (b"wait=0", b"wait=00", b'respond-async, WAIT = "0"'):
        body = b'{"agent": "external"}'
        request = raw_post(CLOSE, b"Prefer: " + text, body=body)
        status, headers, answer = answer_to(plateau, request)
        assert status == 202
        assert headers["preference-applied"] == "wait=0"
        path = f"/v1/runs/{json.loads(answer)['id']}/events"
        assert client.post(path, json={"type": "run.completed"}).status_code == 200
    assert finish(client, "echo")["status"] == "completed"

"""Which prefix counts, whose word for it, and which path is meant: over real sockets."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import uvloop

from plateau_sse.app import create_app
from plateau_sse.serve.worker import PlateauWorker
from plateau_sse.settings import Settings
from tests.processes import wait_until


class Web:
    """A web worker in a thread, at a port and at a Unix socket."""

    def __init__(self, settings: Settings, path: Path) -> None:
        options = {**PlateauWorker.CONFIG_KWARGS, "loop": "none"}
        self._server = uvicorn.Server(uvicorn.Config(create_app(settings), **options))
        self._loop = uvloop.new_event_loop()
        self._tcp = socket.create_server(("127.0.0.1", 0))
        self._unix = socket.socket(socket.AF_UNIX)
        self._unix.bind(str(path))
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        self._loop.run_until_complete(self._server.serve([self._tcp, self._unix]))

    def __enter__(self) -> Web:
        self._thread.start()
        wait_until(lambda: self._server.started, "the worker serves")
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(20)
        self._loop.close()
        self._unix.close()

    def send(self, request: bytes, *, over: str = "tcp") -> tuple[int, dict[str, str], bytes]:
        """Status, head and body of the answer to a request that asks to close behind it."""
        listener = self._tcp if over == "tcp" else self._unix
        with socket.socket(listener.family) as client:
            client.settimeout(20)
            client.connect(listener.getsockname())
            client.sendall(request)
            answer = b""
            while more := client.recv(65536):
                answer += more
        head, _, body = answer.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ") for line in lines)}
        return int(first.split()[1]), headers, body


def get(path: str, *lines: str) -> bytes:
    return request("GET", path, *lines)


def request(method: str, path: str, *lines: str, body: bytes = b"") -> bytes:
    head = [f"{method} {path} HTTP/1.1", "Host: plateau", "Connection: close", *lines]
    if body:
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


POST = request("POST", "/v1/runs", body=b'{"agent": "external"}')


@pytest.fixture
def web(streams_url: str, tmp_path: Path) -> Iterator[Any]:
    """Starts one with these variables."""
    with ExitStack() as stack:

        def start(**environ: str) -> Web:
            settings = Settings.from_env({"REDIS_URL": streams_url, **environ})
            return stack.enter_context(Web(settings, tmp_path / f"{len(environ)}.sock"))

        yield start


def server_of(web: Web, *lines: str, over: str = "tcp") -> str:
    status, _, body = web.send(get("/openapi.json", *lines), over=over)
    assert status == 200
    (server,) = json.loads(body)["servers"]
    return str(server["url"])


HEADER = "X-Forwarded-Prefix"
# The header's lines, and what they make of a service that is at /own by itself.
TOLD = [
    ((), "/own"),
    ((f"{HEADER}: /ai",), "/ai"),
    ((f"{HEADER}: /ai/",), "/ai"),
    ((f"{HEADER}:  /ai \t",), "/ai"),
    ((f"{HEADER.lower()}: /apps/ai-2/v_1.x~y",), "/apps/ai-2/v_1.x~y"),
    ((f"{HEADER}: /",), "/"),
    ((f"{HEADER}:",), "/own"),
    # What the nearest hop has said stands last.
    ((f"{HEADER}: /client, /ai",), "/ai"),
    ((f"{HEADER}: /client,/ai/",), "/ai"),
    ((f"{HEADER}: /client", f"{HEADER}: /ai"), "/ai"),
    ((f"{HEADER}: //evil.example, /ai",), "/ai"),
    # Malformed: as if nothing had been said, also of what is before it.
    ((f"{HEADER}: /ai, //evil.example",), "/own"),
    ((f"{HEADER}: /ai", f"{HEADER}: evil"), "/own"),
    ((f"{HEADER}: /ai,",), "/own"),
    ((f"{HEADER}: ai",), "/own"),
    ((f"{HEADER}: //evil.example",), "/own"),
    ((f"{HEADER}: //evil.example/ai",), "/own"),
    ((f"{HEADER}: ///",), "/own"),
    ((f"{HEADER}: /ai//",), "/own"),
    ((f"{HEADER}: /a//b",), "/own"),
    ((f"{HEADER}: /a/../b",), "/own"),
    ((f"{HEADER}: /..",), "/own"),
    ((f"{HEADER}: /a/./b",), "/own"),
    ((f"{HEADER}: /a/.",), "/own"),
    ((f"{HEADER}: /a/%2e%2e/b",), "/own"),
    ((f"{HEADER}: /a%2fb",), "/own"),
    ((f"{HEADER}: /a%0d%0aSet-Cookie:x",), "/own"),
    ((f"{HEADER}: \\evil",), "/own"),
    ((f"{HEADER}: /\\evil.example",), "/own"),
    ((f"{HEADER}: https://evil.example/ai",), "/own"),
    ((f"{HEADER}: javascript:alert(1)",), "/own"),
    ((f'{HEADER}: /a"b',), "/own"),
    ((f"{HEADER}: /a'b",), "/own"),
    ((f"{HEADER}: /<script>",), "/own"),
    ((f"{HEADER}: /a b",), "/own"),
    ((f"{HEADER}: /a\tb",), "/own"),
    ((f"{HEADER}: /a?b=c",), "/own"),
    ((f"{HEADER}: /a#b",), "/own"),
    ((f"{HEADER}: /a;b",), "/own"),
    ((f"{HEADER}: /a\xe9",), "/own"),
    ((f"{HEADER}: /ai\xa0",), "/own"),
    ((f"{HEADER}: /ai\x85",), "/own"),
    ((f"{HEADER}: /{'a' * 199}",), f"/{'a' * 199}"),
    ((f"{HEADER}: /{'a' * 200}",), "/own"),
    ((f"{HEADER}: {'/a' * 5000}",), "/own"),
    # Other headers say nothing of it.
    (("X-Forwarded-Path: /ai", "X-Script-Name: /ai", "Forwarded: path=/ai"), "/own"),
]


def test_what_a_trusted_hop_says(web: Any) -> None:
    own = web(ROOT_PATH="/own/")
    for lines, expected in TOLD:
        assert server_of(own, *lines) == expected, lines
    bare = web(ROOT_PATH="", HOST="localhost", ALLOW_ANONYMOUS="0")
    for lines, expected in TOLD:
        assert server_of(bare, *lines) == ("/" if expected == "/own" else expected), lines


@pytest.mark.parametrize(
    ("allowed", "tcp"),
    [
        ("", True),
        ("127.0.0.1", True),
        ("10.0.0.0/8, 127.0.0.0/8", True),
        ("::/0,127.0.0.1", True),
        ("*", True),
        ("10.0.0.1", False),
        ("10.0.0.0/8,::1", False),
        ("127.0.0.2", False),
    ],
)
def test_whose_word_counts(web: Any, allowed: str, tcp: bool) -> None:
    started = web(FORWARDED_ALLOW_IPS=allowed, ROOT_PATH="/own")
    line = f"{HEADER}: /ai"
    assert server_of(started, line) == ("/ai" if tcp else "/own")
    # Whoever reaches the socket's file has been let in by the system.
    assert server_of(started, line, over="unix") == "/ai"


def test_a_peer_in_the_form_of_both_families_is_the_older_one(streams_url: str) -> None:
    from plateau_sse.api.prefix import url_of

    def told(client: Any, server: Any, allowed: str) -> str:
        settings = Settings.from_env({"FORWARDED_ALLOW_IPS": allowed})
        scope = {
            "client": client,
            "server": server,
            "headers": [(b"x-forwarded-prefix", b"/ai")],
            "state": {"settings": settings},
        }
        return url_of(scope, "/x")

    at = ("::", 8000)
    assert told(("::ffff:10.1.2.3", 5), at, "10.0.0.0/8") == "/ai/x"
    assert told(("::ffff:11.1.2.3", 5), at, "10.0.0.0/8") == "/x"
    assert told(("2001:db8::1", 5), at, "2001:db8::/32") == "/ai/x"
    assert told(("fe80::1%eth0", 5), at, "10.0.0.0/8") == "/x"
    # Gone already, or no address at all.
    assert told(None, at, "*") == "/x"
    assert told(None, None, "*") == "/x"
    assert told(("testclient", 5), at, "*") == "/x"


def test_every_url_of_a_new_run(web: Any) -> None:
    started = web(ROOT_PATH="/own")
    for line, prefix in (("X-Y: z", "/own"), (f"{HEADER}: /ai", "/ai"), (f"{HEADER}: /", "")):
        ask = POST.replace(b"Host", f"{line}\r\nHost".encode())
        status, headers, body = started.send(ask)
        run = json.loads(body)
        at = f"{prefix}/v1/runs/{run['id']}"
        assert status == 202
        assert headers["location"].startswith(at)
        assert run["events_url"].startswith(f"{at}/events?token=")
        assert run["cancel_url"].startswith(f"{at}/cancel?token=")


ROUTES = [
    ("GET", "/health/live", 200),
    ("GET", "/", 200),
    ("HEAD", "/docs", 200),
    ("GET", "/docs/swagger-ui.css", 200),
    ("POST", "/v1/runs", 400),
    ("GET", "/v1/runs", 200),
    ("DELETE", "/v1/runs", 405),
    ("GET", "/v1/conversations", 200),
    ("GET", "/v1/conversations/none/events?token=x", 401),
    ("POST", "/v1/conversations/none/events", 405),
    ("GET", "/v1/runs/x/events", 404),
    ("DELETE", "/v1/runs/x/events", 405),
    ("POST", "/v1/runs/x/events", 404),
    ("GET", "/v1/conversations/none", 200),
    ("GET", "/v1/conversations/no%20name", 422),
    ("DELETE", "/api/admin/cache", 403),
    ("GET", "/api/admin/metrics", 403),
    ("OPTIONS", "/v1/runs", 405),
    ("GET", "/nothing", 404),
]
# Some of them begin like a route of ours.
ROOTS = ["/ai", "/a/b", "/api", "/v1", "/v1/runs", "/health", "/docs", "/ops"]


@pytest.mark.parametrize("root", ROOTS)
def test_a_path_is_meant_with_the_root_and_without_it(web: Any, root: str) -> None:
    started = web(ROOT_PATH=root)
    for method, path, status in ROUTES:
        for at in (path, root + path):
            found, _, body = started.send(request(method, at))
            assert found == status, (method, at, body)


@pytest.mark.parametrize("root", ["/ai", "/a/b", "/api", "/v1"])
def test_the_root_without_its_slash_leads_to_the_page(web: Any, root: str) -> None:
    started = web(ROOT_PATH=root)
    status, headers, _ = started.send(get(root))
    assert (status, headers["location"]) == (308, f"{root}/")
    _, headers, _ = started.send(get(f"{root}?x=1&y=%20"))
    assert headers["location"] == f"{root}/?x=1&y=%20"
    # As the hop before it knows it.
    _, headers, _ = started.send(get(root, f"{HEADER}: /outer{root}"))
    assert headers["location"] == f"/outer{root}/"


@pytest.mark.parametrize(
    "path", ["/aix/v1/runs", "/ai//v1/runs", "/AI/health", "/ai/ai/health"]
)
def test_what_only_looks_like_the_root_is_not_taken_off(web: Any, path: str) -> None:
    started = web(ROOT_PATH="/ai")
    assert started.send(get(path))[0] == 404


def test_a_header_never_changes_what_a_path_means(web: Any) -> None:
    started = web()
    assert started.send(get("/ai/health/live", f"{HEADER}: /ai"))[0] == 404
    assert started.send(get("/health/live", f"{HEADER}: /ai"))[0] == 200


# How each tells an error, and where its code is.
SHAPES: dict[str, tuple[str, Any]] = {
    "/v1/runs": ("application/problem+json", lambda body: json.loads(body)["code"]),
    "/v1/chat/completions": (
        "application/json",
        lambda body: json.loads(body)["error"]["code"],
    ),
    "/v1/responses": ("application/json", lambda body: json.loads(body)["error"]["code"]),
    "/agui/external": ("application/json", lambda body: json.loads(body)["code"]),
    "/api/chat": ("text/plain; charset=utf-8", None),
}
# What no route is asked about: what stands in the request, and instead of what.
HEADS = [
    ("Host: ai.example", "Host: plateau", 421, "host_not_allowed"),
    ("Host: a b", "Host: plateau", 400, "bad_request"),
    (
        "Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "Content-Length: 2\r\n\r\n{}",
        501,
        "unsupported_transfer_encoding",
    ),
]


@pytest.mark.parametrize(("line", "instead", "status", "code"), HEADS)
@pytest.mark.parametrize("root", ["", "/ai"])
def test_a_head_that_is_refused_is_told_as_its_client_reads_it(
    web: Any, root: str, line: str, instead: str, status: int, code: str
) -> None:
    started = web(ROOT_PATH=root)
    for path, (kind, code_of) in SHAPES.items():
        ask = request("POST", root + path, body=b"{}")
        found, headers, body = started.send(ask.replace(instead.encode(), line.encode()))
        assert (found, headers["content-type"]) == (status, kind), path
        assert headers["cache-control"] == "no-store" and headers["x-request-id"]
        if code_of is None:
            assert body and not body.startswith(b"{")
        else:
            assert code_of(body) == code

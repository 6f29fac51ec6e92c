"""CORS on every kind of route, errors and event streams included."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.integration.api_client import SSE, api_serving, ask, finish, follow, unique
from tests.processes import Serving

PAGE = "https://app.example"
ASKED = {
    "what the routes read": "authorization,cache-control,content-type,idempotency-key,prefer",
    "a place in a stream": "Last-Event-ID",
    "a trace": "baggage,sentry-trace,traceparent,tracestate,x-request-id",
    "Datadog": "x-datadog-origin, x-datadog-parent-id, x-datadog-sampling-priority",
    "OpenAI's SDK": "authorization,content-type,x-stainless-arch,x-stainless-lang,"
    "x-stainless-os,x-stainless-package-version,x-stainless-retry-count,"
    "x-stainless-runtime,x-stainless-runtime-version,x-stainless-timeout",
    "anything": "x-no, X_YES, a.b!c",
    "one": "x-one",
    "nothing": "",
}
EXPOSED = {
    "X-Cache",
    "X-Plateau-Run",
    "X-Vercel-AI-UI-Message-Stream",
    "Link",
    "Cache-Status",
    "Location",
    "Content-Location",
    "Retry-After",
    "RateLimit",
    "RateLimit-Policy",
    "WWW-Authenticate",
    "Preference-Applied",
    "X-Should-Retry",
    "Age",
    "X-Request-ID",
}
KEY = "a-key-of-this-test"
ORIGINS = {
    "ALLOWED_ORIGINS": f"{PAGE}, https://other.example:8443, HTTPS://Slash.Example/ ,"
    "https://port.example:443/,http://port.example:80,capacitor://localhost,"
    "tauri://localhost,ionic://localhost/,app://.,chrome-extension://abcdefgh,moz-extension://1-2"
}
RUN = "0" * 31 + "1"


@pytest.fixture(scope="module")
def plateau(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with api_serving(tmp_path_factory.mktemp("cors"), ORIGINS) as running:
        yield running


@pytest.fixture(scope="module")
def client(plateau: Serving) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=plateau.url, timeout=30, trust_env=False) as opened:
        yield opened


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """The same service with a key, so that loopback origins mean nothing."""
    env = ORIGINS | {"API_KEYS": KEY}
    with (
        api_serving(tmp_path_factory.mktemp("cors_locked"), env) as running,
        httpx.Client(base_url=running.url, timeout=30, trust_env=False) as opened,
    ):
        yield opened


def assert_open(response: httpx.Response, origin: str = PAGE) -> None:
    assert response.headers.get_list("access-control-allow-origin") == [origin]
    exposed = response.headers["access-control-expose-headers"]
    assert {name.strip() for name in exposed.split(",")} == EXPOSED
    assert "origin" in response.headers["vary"].lower()
    # Nothing here is meant for cookies.
    assert "access-control-allow-credentials" not in response.headers


def assert_shut(response: httpx.Response) -> None:
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("/v1/runs", "POST"),
        (f"/v1/runs/{RUN}", "GET"),
        (f"/v1/runs/{RUN}/events", "GET"),
        (f"/v1/runs/{RUN}/events", "HEAD"),
        (f"/v1/runs/{RUN}/events", "POST"),
        (f"/v1/runs/{RUN}/cancel", "POST"),
        ("/v1/conversations/c1", "DELETE"),
        ("/api/admin/metrics", "GET"),
        ("/health", "GET"),
        ("/nothing/here", "GET"),
    ],
)
def test_a_preflight(client: httpx.Client, path: str, method: str, asked: str) -> None:
    asking = {
        "Origin": PAGE,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": ASKED[asked],
    }
    response = client.options(path, headers=asking)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == PAGE
    assert method in response.headers["access-control-allow-methods"]
    assert response.headers["access-control-allow-headers"] == ASKED[asked]
    assert int(response.headers["access-control-max-age"]) > 0
    vary = response.headers["vary"].lower()
    assert "origin" in vary and "access-control-request-headers" in vary

    for origin in ("https://evil.example", "null", PAGE.upper(), f"{PAGE}/", f"{PAGE}:443"):
        refused = client.options(path, headers=asking | {"Origin": origin})
        assert refused.status_code == 400
        assert_shut(refused)
    unknown = client.options(path, headers=asking | {"Access-Control-Request-Method": "PUT"})
    assert unknown.status_code == 400


def test_a_preflight_from_the_network_beyond(client: httpx.Client) -> None:
    """Of a public page to a service on this machine, as Chromium asks."""
    asking = {
        "Origin": PAGE,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Private-Network": "true",
    }
    response = client.options("/v1/runs", headers=asking)
    assert response.status_code == 200
    assert response.headers["access-control-allow-private-network"] == "true"
    refused = client.options("/v1/runs", headers=asking | {"Origin": "https://evil.example"})
    assert refused.status_code == 400
    assert_shut(refused)


def test_a_preflight_that_asks_for_no_header(client: httpx.Client) -> None:
    asking = {"Origin": PAGE, "Access-Control-Request-Method": "DELETE"}
    response = client.options("/v1/conversations/c1", headers=asking)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == PAGE


@pytest.mark.parametrize(
    "origin",
    [
        PAGE,
        "https://other.example:8443",
        "https://slash.example",
        "https://port.example",
        "http://port.example",
        "capacitor://localhost",
        "ionic://localhost",
        "tauri://localhost",
        "app://.",
        "chrome-extension://abcdefgh",
        "moz-extension://1-2",
        "http://localhost",
        "http://localhost:5173",
        "http://127.0.0.1:8000",
        "https://[::1]:3000",
    ],
)
def test_origins_that_are_allowed(client: httpx.Client, origin: str) -> None:
    headers = {"Origin": origin}
    run = finish(client, "echo")
    assert_open(client.get(f"/v1/runs/{run['id']}", headers=headers), origin)
    assert_open(client.get(run["events_url"], headers=headers), origin)


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://app.example",
        "https://app.example:444",
        "https://app.example.evil.example",
        "https://sub.app.example",
        "http://localhost.evil.example",
        "http://evil.example/localhost",
        "http://127.0.0.1.evil.example",
        "http://127.0.0.1:80@evil.example",
        "capacitor://localhost.evil.example",
        "ionic://evil",
        "app://..",
        "https://port.example:80",
        "null",
        "",
    ],
)
def test_origins_that_are_not(client: httpx.Client, origin: str) -> None:
    headers = {"Origin": origin}
    run = finish(client, "echo")
    assert_shut(client.get(f"/v1/runs/{run['id']}", headers=headers))
    assert_shut(client.get(run["events_url"], headers=headers))
    assert_shut(client.get("/v1/runs/nonsense/events", headers=headers))


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
def test_creating_a_run_from_another_origin(client: httpx.Client, accept: str) -> None:
    body = {"agent": "echo", "input": unique()}
    for cached in ("miss", "hit"):
        headers = {"Origin": PAGE, "Accept": accept, "Prefer": "wait=30"}
        response = client.post("/v1/runs", json=body, headers=headers)
        assert response.headers["x-cache"] == cached
        assert_open(response)


def test_errors_are_readable_from_another_origin(client: httpx.Client) -> None:
    origin = {"Origin": PAGE}
    run = finish(client, "echo")
    last = follow(client, run["events_url"])[-1].id
    found = {
        400: client.post("/v1/runs", content=b"{", headers=origin),
        404: client.get(f"/v1/runs/{'f' * 32}", headers=origin),
        405: client.delete("/v1/runs", headers=origin),
        409: client.post(run["cancel_url"], headers=origin),
        410: client.get(f"/v1/runs/{'0' * 32}", headers=origin),
        413: client.post("/v1/runs", content=b" " * (1 << 21), headers=origin),
        422: client.post("/v1/runs", json={}, headers=origin),
    }
    for status, response in found.items():
        assert response.status_code == status
        assert_open(response)
    events = {
        204: client.get(run["events_url"], headers=origin | {"Last-Event-ID": last}),
        400: client.get(run["events_url"], headers=origin | {"Last-Event-ID": "1-x"}),
        401: client.get(f"/v1/runs/{run['id']}/events?token=x", headers=origin),
        404: client.get(f"/v1/runs/{'f' * 32}/events", headers=origin),
        405: client.put(f"/v1/runs/{'f' * 32}/events", headers=origin),
        410: client.get(f"/v1/runs/{'0' * 32}/events", headers=origin),
        422: client.post("/v1/runs", json={}, headers=origin | SSE),
    }
    for status, response in events.items():
        assert response.status_code == status
        assert_open(response)


def test_with_keys_only_the_named_origins_are_allowed(locked: httpx.Client) -> None:
    body = {"agent": "echo", "input": unique()}
    for headers in ({}, {"Authorization": f"Bearer {KEY}"}):
        assert_open(locked.post("/v1/runs", json=body, headers=headers | {"Origin": PAGE}))
        local = {"Origin": "http://localhost:8000"}
        assert_shut(locked.post("/v1/runs", json=body, headers=headers | local))
    events = locked.get(f"/v1/runs/{RUN}/events", headers={"Origin": PAGE})
    assert events.status_code == 401
    assert_open(events)


def test_a_request_from_no_page_is_not_told_of_origins(client: httpx.Client) -> None:
    run = ask(client, "echo")
    for response in (client.get("/health/live"), client.get(run["events_url"])):
        assert_shut(response)

"""A keyless service, and pages of other sites: what a browser says of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.integration.api_client import api_serving, assert_problem, finish, unique
from tests.processes import Serving, serving

PATHS = ("/", "/health", "/metrics", "/openapi.json", "/v1/conversations/main", "/v1/models")


@pytest.fixture(scope="module")
def plateau(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    env = {"ALLOWED_HOSTS": "ai.example, Other.Example"}
    with api_serving(tmp_path_factory.mktemp("hosts"), env) as running:
        yield running


@pytest.fixture
def client(plateau: Serving) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=plateau.url, timeout=30, trust_env=False) as found:
        yield found


@pytest.mark.parametrize(
    "host",
    [
        *("evil.test", "evil.test:8000", "localhost.evil.test", "127.0.0.1.evil.test"),
        *("ai.example.evil.test", "evil-ai.example", "1.2.3", "0x7f.1", "evil.test."),
    ],
)
@pytest.mark.parametrize("path", PATHS)
def test_a_name_that_leads_here_is_not_ours(client: httpx.Client, host: str, path: str) -> None:
    answer = client.get(path, headers={"Host": host})
    if path == "/v1/models":
        assert answer.status_code == 421
        assert answer.json()["error"]["code"] == "host_not_allowed"
    else:
        assert_problem(answer, 421, "host_not_allowed")


@pytest.mark.parametrize(
    "host",
    [
        *(
            "localhost",
            "LOCALHOST:1",
            "localhost.",
            "app.localhost",
            "127.0.0.1",
            "127.9.9.9:1",
            # As containers call each other.
            "plateau",
            "plateau:8000",
        ),
        *("[::1]", "[::1]:8000", "192.0.2.1", "ai.example", "AI.example:443", "other.example"),
    ],
)
def test_a_name_of_ours(client: httpx.Client, host: str) -> None:
    assert client.get("/v1/models", headers={"Host": host}).status_code == 200


def test_who_has_a_key_may_use_any_name(tmp_path: Any) -> None:
    with serving(tmp_path, env={"API_KEYS": "key-of-ann-12345"}) as running:
        headers = {"Host": "ai.example", "Authorization": "Bearer key-of-ann-12345"}
        assert httpx.get(running.url + "/v1/models", headers=headers).status_code == 200
        assert httpx.get(running.url + "/", headers={"Host": "x.example"}).status_code == 200


FOREIGN: list[dict[str, str]] = [
    {"Origin": "https://evil.test"},
    {"Origin": "null"},
    {"Origin": "http://localhost.evil.test"},
    {"Origin": "http://evil.test", "Sec-Fetch-Site": "same-origin"},
    # What asks for a script, an image or a style has no origin.
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
]


@pytest.mark.parametrize("page", FOREIGN)
def test_a_foreign_page_neither_starts_reads_nor_cancels(
    client: httpx.Client, page: dict[str, str]
) -> None:
    run = finish(client, "echo", unique(), conversation_id="main")
    token = run["events_url"].partition("?")[2]
    body = '{"agent": "echo", "input": "x", "model": "echo"}'
    for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded", None):
        headers = page | ({} if kind is None else {"Content-Type": kind})
        for path in ("/v1/runs", "/v1/responses", "/v1/chat/completions", "/agui/echo"):
            answer = client.post(path, content=body, headers=headers)
            assert answer.status_code == 403, (path, answer.text)
            assert "access-control-allow-origin" not in answer.headers
    path = f"/v1/runs/{run['id']}"
    for method, asked in (
        ("GET", path),
        ("GET", f"{path}?{token}"),
        ("GET", f"{path}/events"),
        ("GET", f"{path}/events?{token}"),
        ("POST", f"{path}/cancel?{token}"),
        ("POST", f"{path}/events"),
        ("GET", "/v1/conversations/main"),
        ("DELETE", "/v1/conversations/main"),
        ("GET", f"/v1/responses/resp_{run['id']}"),
    ):
        answer = client.request(method, asked, headers=page)
        assert answer.status_code == 403, (method, asked, answer.text)
    assert client.get("/v1/conversations/main").json()["messages"]


def test_a_page_of_this_machine_may(client: httpx.Client) -> None:
    page = {"Origin": "http://localhost:5173", "Sec-Fetch-Site": "cross-site"}
    body = {"agent": "echo", "input": unique()}
    assert client.post("/v1/runs", json=body, headers=page).status_code == 202
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert client.get("/v1/models", headers=link).status_code == 200


def test_whatever_is_said_is_what_it_says_it_is(client: httpx.Client) -> None:
    run = finish(client, "echo", unique())
    for path in (*PATHS, run["events_url"], f"/v1/runs/{run['id']}", "/nothing", "/v1/runs"):
        answer = client.get(path)
        assert answer.headers.get_list("x-content-type-options") == ["nosniff"], path
        if answer.status_code >= 400:
            assert answer.headers["cache-control"] == "no-store", path
    for path in ("/", "/ops", "/docs"):
        policy = client.get(path).headers["content-security-policy"]
        assert "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert client.get(path).headers["referrer-policy"] == "no-referrer"

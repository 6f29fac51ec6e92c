"""Who may have a cached answer, who may not, and that it is the same by every way out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.integration.api_client import (
    SSE,
    api_serving,
    assert_problem,
    finish,
    messages,
    text_of,
    unique,
)
from tests.processes import Serving

TOKEN = "token-of-the-operator"


@pytest.fixture(scope="module")
def plateau(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with api_serving(
        tmp_path_factory.mktemp("controls"), {"ADMIN_TOKEN": TOKEN, "MAX_REQUESTS": "0"}
    ) as running:
        yield running
    assert TOKEN not in running.stdout + running.stderr


@pytest.fixture(scope="module")
def client(plateau: Serving) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=plateau.url, timeout=30, trust_env=False) as opened:
        yield opened


def cached(client: httpx.Client, text: str, agent: str = "echo", **more: Any) -> str:
    """`X-Cache` of an equal request."""
    body = {"agent": agent, "input": text, **more}
    response = client.post("/v1/runs", json=body, headers={"Prefer": "wait=20"})
    assert response.status_code == 200, response.text
    return response.headers["x-cache"]


# Modes


@pytest.mark.parametrize(
    ("header", "mode", "status", "stored"),
    [
        (None, "use", "miss", True),
        ("max-age=0", "use", "miss", True),
        ("no-cache", "use", "request", True),
        ("No-Cache", "refresh", "request", True),
        (None, "refresh", "request", True),
        ("no-store", "use", "bypass", False),
        ("no-cache, no-store", "refresh", "bypass", False),
        (None, "off", "bypass", False),
        ("no-cache", "off", "bypass", False),
    ],
)
def test_the_stricter_of_body_and_header_counts(
    client: httpx.Client, header: str | None, mode: str, status: str, stored: bool
) -> None:
    text = unique()
    headers = {"Prefer": "wait=20"} | ({"Cache-Control": header} if header else {})
    body = {"agent": "echo", "input": text, "cache": {"mode": mode}}
    response = client.post("/v1/runs", json=body, headers=headers)
    assert response.json()["status"] == "completed"
    assert response.headers["x-cache"] == "miss"
    assert response.headers["cache-status"] == f"plateau; fwd={status}"
    assert (cached(client, text) == "hit") is stored


def test_a_refresh_replaces_what_is_there(client: httpx.Client, tmp_path: Path) -> None:
    text = unique()
    first = finish(client, "tools", text)
    hit = client.post("/v1/runs", json={"agent": "tools", "input": text})
    refreshed = finish(client, "tools", text, cache={"mode": "refresh"})
    assert refreshed["cached"] is False and refreshed["id"] != first["id"]
    again = client.post("/v1/runs", json={"agent": "tools", "input": text})
    # The same entry, with a token of its own: the old one opens it no more.
    assert again.json()["id"] == hit.json()["id"]
    assert again.json()["events_url"] != hit.json()["events_url"]
    # Who has it has not come with a wrong one: he is to ask again, not to sign in.
    assert_problem(client.get(hit.json()["events_url"]), 410, "run_expired")


def test_another_version_user_or_option_is_another_question(client: httpx.Client) -> None:
    text = unique()
    assert cached(client, text) == "miss"
    assert cached(client, text, user="u") == "miss"
    assert cached(client, text, options={"x": 1}) == "miss"
    assert cached(client, text) == "hit"


def test_only_whole_successful_answers_are_kept(client: httpx.Client) -> None:
    for agent in ("failing", "refusing", "large"):
        text = unique()
        for _ in range(2):
            assert finish(client, agent, text)["status"] == "failed"


# Byte for byte


AWKWARD = "né雪🏔👩‍👩‍👧‍👦\u2028\u2029\u0000\u001f\u007f\ufeff\\\"'</script>\r\n\n\ttail \r"


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@example(AWKWARD)
@example("\ufffd" * 50 + "\n" * 50)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip))
def test_an_answer_is_the_same_by_every_way_out(client: httpx.Client, text: str) -> None:
    body = {"agent": "echo", "input": text, "options": {"for": "ways"}}
    expected = f"You said: {text}"
    run = client.post("/v1/runs", json=body, headers={"Prefer": "wait=20"}).json()
    hit = client.post("/v1/runs", json=body)
    assert hit.headers["x-cache"] == "hit"
    found = hit.json()
    with client.stream("POST", "/v1/runs", json=body, headers=SSE) as response:
        assert response.headers["x-cache"] == "hit"
        streamed = list(messages(response.read().decode().split("\n")))
    waited = client.post("/v1/runs", json=body, headers={"Prefer": "wait=5"}).json()
    ways = {
        "the run": run["output"],
        "the hit": found["output"],
        "a hit that waits": waited["output"],
        "its record": client.get(f"/v1/runs/{found['id']}").json()["output"],
        "its events": text_of(follow_all(client, found["events_url"])),
        "the stream of a hit": text_of(streamed),
        "the end of its events": text_of(
            follow_all(client, found["events_url"], "9-9"),
        ),
    }
    assert ways == dict.fromkeys(ways, expected)


def follow_all(client: httpx.Client, url: str, last: str = "") -> Any:
    """Events, read as bytes: `iter_lines` would break lines where SSE does not."""
    response = client.get(url, headers={"Last-Event-ID": last} if last else {})
    assert response.status_code == 200
    return list(messages(response.content.decode().split("\n")))


# Clearing


def clear(client: httpx.Client, **query: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    return client.delete("/api/admin/cache", params=query, headers=headers)


def test_the_cache_can_be_cleared_by_agent_and_whole(client: httpx.Client) -> None:
    texts = [unique() for _ in range(20)]
    for text in texts:
        finish(client, "echo", text)
    finish(client, "sync", texts[0])
    answer = clear(client, agent="echo")
    assert answer.status_code == 200
    assert answer.json()["agent"] == "echo" and answer.json()["deleted"] >= 20
    assert cached(client, texts[0], agent="sync") == "hit"
    assert [cached(client, text) for text in texts] == ["miss"] * 20
    assert clear(client, agent="nobody").json() == {"deleted": 0, "agent": "nobody"}
    whole = clear(client).json()
    assert whole["agent"] is None and whole["deleted"] >= 21
    assert cached(client, texts[0], agent="sync") == "miss"


def test_clearing_is_the_operators(client: httpx.Client) -> None:
    text = unique()
    finish(client, "echo", text)
    wrong = [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "Bearer é".encode()},
    ]
    for headers in wrong:
        response = client.delete("/api/admin/cache", headers=headers)  # type: ignore[arg-type]
        assert_problem(response, 401, "unauthorized")
    for query in ({"admin_token": "wrong"}, {"admin_token": ""}, {"token": TOKEN}):
        response = client.delete("/api/admin/cache", params=query)
        assert_problem(response, 401, "unauthorized")
    assert cached(client, text) == "hit"
    assert client.delete(f"/api/admin/cache?admin_token={TOKEN}").status_code == 200
    assert cached(client, text) == "miss"
    problem = assert_problem(clear(client, agent=""), 422, "invalid_request")
    assert problem["field"] == "agent"


def test_without_a_token_administration_is_closed(tmp_path: Path) -> None:
    with api_serving(tmp_path) as running:
        for query in ("", "?admin_token=", "?admin_token=x"):
            response = httpx.delete(f"{running.url}/api/admin/cache{query}")
            assert_problem(response, 403, "admin_closed")

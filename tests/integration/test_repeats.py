"""A question word for word again, through a service: everything but the work is as before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from redis import Redis

from tests.integration.api_client import api_serving, unique
from tests.processes import Serving, wait_until

ANN, BOB = "key-of-ann-12345", "key-of-bob-67890"
# What belongs to one request.
OWN = ("x-request-id", "age", "date")


@pytest.fixture(scope="module")
def plateau(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    # One worker: what one keeps the other does not know.
    env = {"API_KEYS": f"{ANN}, {BOB}", "WEB_CONCURRENCY": "1"}
    with api_serving(tmp_path_factory.mktemp("repeats"), env) as running:
        yield running


@pytest.fixture
def client(plateau: Serving) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {ANN}"}
    with httpx.Client(
        base_url=plateau.url, headers=headers, timeout=30, trust_env=False
    ) as opened:
        yield opened


def native(text: str) -> tuple[str, dict[str, Any]]:
    return "/v1/runs", {"agent": "echo", "input": text}


def chat(text: str) -> tuple[str, dict[str, Any]]:
    said = [{"role": "user", "content": text}]
    return "/v1/chat/completions", {"model": "echo", "messages": said}


def post(client: httpx.Client, asked: tuple[str, Any], **headers: str) -> httpx.Response:
    path, body = asked
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = client.post(path, json=body, headers={"Prefer": "wait=20"} | named)
    assert response.status_code == 200, response.text
    return response


def told(response: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name not in OWN}


@pytest.mark.parametrize("form", [native, chat])
def test_every_answer_is_as_the_first_hit(client: httpx.Client, form: Any) -> None:
    asked = form(unique())
    assert post(client, asked).headers["x-cache"] == "miss"
    first, *more = (post(client, asked, Origin="http://localhost:1") for _ in range(5))
    assert first.headers["x-cache"] == "hit"
    assert len({response.headers["x-request-id"] for response in (first, *more)}) == 5
    for response in more:
        assert response.content == first.content and told(response) == told(first)
        assert int(response.headers["age"]) >= int(first.headers["age"])
    named = post(client, asked, X_Request_ID="mine")
    assert named.headers["x-request-id"] == "mine" and named.content == first.content


@pytest.mark.parametrize("form", [native, chat])
def test_a_key_sees_what_it_may(client: httpx.Client, form: Any) -> None:
    asked = form(unique())
    mine = [post(client, asked) for _ in range(4)][-1]
    assert mine.headers["x-cache"] == "hit"
    bob = {"Authorization": f"Bearer {BOB}"}
    assert post(client, asked, **bob).headers["x-cache"] == "miss"
    path, body = asked
    wrong = client.post(path, json=body, headers={"Authorization": "Bearer key-of-eve-1"})
    assert wrong.status_code == 401


@pytest.mark.parametrize("form", [native, chat])
def test_what_is_asked_otherwise_is_answered_otherwise(client: httpx.Client, form: Any) -> None:
    asked = form(unique())
    ways = [post(client, asked) for _ in range(4)]
    assert ways[-1].headers["x-cache"] == "hit"
    for header in ("no-cache", "no-store"):
        assert post(client, asked, Cache_Control=header).headers["x-cache"] == "miss"
    # The `no-cache` has left another in its place.
    after = post(client, asked)
    assert after.headers["x-cache"] == "hit"
    assert after.headers["link" if form is chat else "location"] is not None
    assert post(client, asked).content == after.content


@pytest.mark.parametrize("form", [native, chat])
def test_what_was_cleared_is_asked_anew(
    client: httpx.Client, plateau: Serving, form: Any
) -> None:
    asked = form(unique())
    for _ in range(4):
        last = post(client, asked)
    assert last.headers["x-cache"] == "hit"
    with Redis.from_url(plateau.cache_url, protocol=2) as cache:
        cache.flushall()
    assert post(client, asked).headers["x-cache"] == "miss"
    assert post(client, asked).headers["x-cache"] == "hit"


def test_each_is_counted(client: httpx.Client) -> None:
    def hits() -> int:
        text = client.get("/metrics").text
        name = "plateau_cache_hits_total"
        return sum(
            int(float(line.rsplit(" ", 1)[1]))
            for line in text.splitlines()
            if line.startswith(name)
        )

    asked = chat(unique())
    post(client, asked)
    before = hits()
    for _ in range(10):
        post(client, asked)
    wait_until(lambda: hits() == before + 10, "all of them are counted")

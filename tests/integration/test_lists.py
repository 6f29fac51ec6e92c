"""`GET /v1/runs` and `GET /v1/conversations`: an owner's, the latest first, in pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest

from tests.conftest import Server, assert_all_have_a_life
from tests.deployment import deployed
from tests.integration.api_client import assert_problem, unique
from tests.processes import wait_until

KEYS = [f"key-of-a-caller-{number}" for number in range(20)]
unused = iter(KEYS)
ENV = {
    "AGENTS": "counted=tests.flight_agents:counted,parrot=tests.flight_agents:parrot",
    "API_KEYS": ",".join(KEYS),
}


@pytest.fixture(scope="module")
def url(
    tmp_path_factory: pytest.TempPathFactory, streams_server: Server, cache_server: Server
) -> Iterator[str]:
    with streams_server.client() as streams:
        streams.flushall()
        folder = tmp_path_factory.mktemp("lists")
        with deployed(
            folder,
            streams_url=streams_server.url,
            cache_url=cache_server.url,
            webs=1,
            env=ENV,
        ) as running:
            yield running.urls[0]
            assert_all_have_a_life(streams)


@pytest.fixture
def ann(url: str) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {next(unused)}"}
    with httpx.Client(base_url=url, headers=headers, timeout=30) as client:
        yield client


def say(
    client: httpx.Client, conversation: str = "", agent: str = "parrot", **more: Any
) -> str:
    body = {"agent": agent, "input": unique(), **more}
    if conversation:
        body["conversation_id"] = conversation
    headers = {"Prefer": "wait=20"} if agent == "parrot" else {}
    response = client.post("/v1/runs", json=body, headers=headers)
    assert response.status_code in (200, 202), response.text
    return str(response.json()["id"])


def pages(client: httpx.Client, path: str) -> Iterator[dict[str, Any]]:
    while path:
        response = client.get(path)
        assert response.status_code == 200, response.text
        page = response.json()
        yield page
        path = page["next"] and urljoin(str(response.url), page["next"])


def listed(client: httpx.Client, name: str, query: str = "") -> list[Any]:
    return [one["id"] for page in pages(client, f"/v1/{name}?{query}") for one in page[name]]


def test_runs_are_listed_the_latest_first_in_pages(ann: httpx.Client) -> None:
    runs = [say(ann) for _ in range(5)][::-1]
    assert listed(ann, "runs") == runs
    of_two = list(pages(ann, "/v1/runs?limit=2"))
    assert [len(page["runs"]) for page in of_two] == [2, 2, 1]
    assert [run["id"] for page in of_two for run in page["runs"]] == runs
    first = of_two[0]["runs"][0]
    assert (first["status"], first["agent"], first["conversation_id"]) == (
        "completed",
        "parrot",
        None,
    )


def test_runs_are_found_by_status_agent_and_conversation(
    ann: httpx.Client, tmp_path: Path
) -> None:
    options = {"note": str(tmp_path / "note"), "gate": str(tmp_path / "gate")}
    alone, inside = say(ann), say(ann, "c1")
    eves = say(ann, "c1", user="eve")
    counted = say(ann, "c2", agent="counted", options=options)
    wait_until(lambda: listed(ann, "runs", "status=running") == [counted], "it is on")
    assert listed(ann, "runs", "status=completed") == [eves, inside, alone]
    assert listed(ann, "runs", "agent=counted") == [counted]
    assert listed(ann, "runs", "conversation_id=c1") == [inside]
    assert listed(ann, "runs", "conversation_id=c1&user=eve") == [eves]
    assert listed(ann, "runs", "status=completed&limit=1") == [eves, inside, alone]
    (tmp_path / "gate").touch()
    wait_until(lambda: not listed(ann, "runs", "status=running"), "it has ended")


def test_a_run_whose_record_has_gone_is_listed_no_more(
    ann: httpx.Client, streams_server: Server
) -> None:
    gone, there = say(ann), say(ann)
    with streams_server.client() as client:
        for key in client.scan_iter(f"run:{{{gone}}}*"):
            client.delete(key)
    assert listed(ann, "runs") == [there]


def test_conversations_are_listed_by_their_last_question(ann: httpx.Client) -> None:
    for conversation in ("c1", "c2", "c3", "c1"):
        say(ann, conversation)
    say(ann, "c9", user="eve")
    assert listed(ann, "conversations") == ["c1", "c3", "c2"]
    assert listed(ann, "conversations", "limit=1") == ["c1", "c3", "c2"]
    assert listed(ann, "conversations", "user=eve") == ["c9"]
    ann.delete("/v1/conversations/c3")
    assert listed(ann, "conversations") == ["c1", "c2"]


@pytest.mark.parametrize("happens", ["deleted", "asked in again"])
def test_the_next_page_is_there_whatever_happens_to_the_last_one_shown(
    ann: httpx.Client, happens: str
) -> None:
    for number in range(6):
        say(ann, f"c{number}")
    first = ann.get("/v1/conversations?limit=2").json()
    assert [it["id"] for it in first["conversations"]] == ["c5", "c4"]
    if happens == "deleted":
        ann.delete("/v1/conversations/c4")
    else:
        say(ann, "c4")
    second = ann.get(first["next"]).json()
    assert [it["id"] for it in second["conversations"]] == ["c3", "c2"]
    third = ann.get(second["next"]).json()
    assert [it["id"] for it in third["conversations"]] == ["c1", "c0"] and not third["next"]
    # As releases before said it.
    plain = ann.get("/v1/conversations?before=c3").json()
    assert [it["id"] for it in plain["conversations"]] == ["c2", "c1", "c0"]


def test_each_sees_its_own_alone(ann: httpx.Client, url: str) -> None:
    say(ann, "c1")
    other = {"Authorization": f"Bearer {next(unused)}"}
    for name in ("runs", "conversations"):
        assert httpx.get(f"{url}/v1/{name}", headers=other).json()[name] == []
        assert_problem(httpx.get(f"{url}/v1/{name}"), 401, "unauthorized")


@pytest.mark.parametrize(
    "path",
    [
        *("runs?limit=0", "runs?limit=101", "runs?limit=x", "runs?status=done"),
        *(f"runs?limit={'9' * 5000}", "conversations?limit=000000001000"),
    ],
)
def test_what_cannot_be_asked_is_refused(ann: httpx.Client, path: str) -> None:
    assert_problem(ann.get(f"/v1/{path}"), 422, "invalid_request")

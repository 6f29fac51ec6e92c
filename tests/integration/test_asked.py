"""What is asked reaches the agent as it was sent: parts, roles, calls of tools, halves of
characters."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.integration.api_client import unique
from tests.processes import Serving, serving

AGENTS = "asked=tests.flight_agents:asked"
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}


@pytest.fixture(scope="module")
def plateau(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("asked")
    with serving(folder / "data", env={"AGENTS": AGENTS}) as running:
        yield running


@pytest.fixture(scope="module")
def client(plateau: Serving) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=plateau.url, timeout=30, trust_env=False) as opened:
        yield opened


def got(client: httpx.Client, body: bytes | dict[str, Any]) -> tuple[dict[str, Any], str]:
    """What the agent was given, and whether it came from the cache."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = client.post("/v1/runs", content=content, headers={"Prefer": "wait=20"})
    assert response.status_code == 200, response.text
    return json.loads(response.json()["output"]), response.headers["x-cache"]


def test_an_agent_gets_messages_as_they_were_sent(client: httpx.Client) -> None:
    text = unique()
    parts = [{"type": "text", "text": "What "}, IMAGE, {"type": "text", "text": text}]
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": parts, "name": "ann"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": [{"type": "text", "text": "Rain."}], "tool_call_id": "c1"},
    ]
    body = {"agent": "asked", "messages": messages}
    given, how = got(client, body)
    assert given == {"input": f"What {text}", "messages": messages}
    assert how == "miss"
    assert got(client, body) == (given, "hit")


@pytest.mark.parametrize("other", ["image", "call", "name", "role"])
def test_an_answer_depends_on_all_of_it(client: httpx.Client, other: str) -> None:
    text = unique()
    first: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": text}, IMAGE]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "Rain.", "tool_call_id": "c1"},
    ]
    second = json.loads(json.dumps(first))
    if other == "image":
        second[1]["content"][1]["image_url"]["detail"] = "low"
    elif other == "call":
        second[2]["tool_calls"][0]["function"]["arguments"] = '{"at":"Ulm"}'
    elif other == "name":
        second[1]["name"] = "ann"
    else:
        second[0]["role"] = "developer"
    assert got(client, {"agent": "asked", "messages": first})[1] == "miss"
    assert got(client, {"agent": "asked", "messages": second})[1] == "miss"
    assert got(client, {"agent": "asked", "messages": first})[1] == "hit"


def test_half_a_character_is_no_reason_to_refuse(client: httpx.Client) -> None:
    """A client that cuts a text by JavaScript's count of its length sends one, and each run of
    its conversation would from then on be refused."""
    text = unique()
    head = b'{"agent":"asked","conversation_id":"halves","input":"%b ' % text.encode()
    given, _ = got(client, head + rb'\ud83d","options":{"\udc00":["\ud83d"]}}')
    assert given["input"] == f"{text} \ufffd"
    given, _ = got(client, head + b'go on"}')
    assert [message["content"] for message in given["messages"]][::2] == [
        f"{text} \ufffd",
        f"{text} go on",
    ]


def test_the_same_key_with_another_image_is_a_conflict(client: httpx.Client) -> None:
    message = {"role": "user", "content": [{"type": "text", "text": unique()}, IMAGE]}
    body = {"agent": "asked", "messages": [message]}
    headers = {"Idempotency-Key": unique()}
    assert client.post("/v1/runs", json=body, headers=headers).status_code == 202
    assert client.post("/v1/runs", json=body, headers=headers).status_code == 202
    message["content"] = [message["content"][0]]
    response = client.post("/v1/runs", json=body, headers=headers)
    assert response.status_code == 422, response.text
    assert response.json()["code"] == "idempotency_conflict"

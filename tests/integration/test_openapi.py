"""`/openapi.json`: valid by the specification, and true of what the service says and takes."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from plateau_sse.dialects.native import VARIANTS
from plateau_sse.store.runs import events
from tests.integration.api_client import (
    SSE,
    api_serving,
    ask,
    assert_problem,
    finish,
    follow,
    messages,
    unique,
    wait_for_status,
)
from tests.processes import REPOSITORY, Serving, environment

TOKEN = "openapi-admin-token"
OPERATOR = {"Authorization": f"Bearer {TOKEN}"}
METHODS = ("get", "post", "delete")


@pytest.fixture(scope="module")
def plateau(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    env = {"ADMIN_TOKEN": TOKEN}
    with api_serving(tmp_path_factory.mktemp("openapi"), env=env) as running:
        yield running


@pytest.fixture(scope="module")
def client(plateau: Serving) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=plateau.url, timeout=30, trust_env=False) as opened:
        yield opened


@pytest.fixture(scope="module")
def document(client: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/openapi.json").json()
    return found


def operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        item[method]
        | {"parameters": item.get("parameters", []) + item[method].get("parameters", [])}
        for item in document["paths"].values()
        for method in METHODS
        if method in item
    ]


def validator(document: dict[str, Any], name: str) -> Draft202012Validator:
    """Of the schema of that name."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    return Draft202012Validator(schema)


def assert_described(document: dict[str, Any], name: str, content: Any) -> None:
    faults = [error.message for error in validator(document, name).iter_errors(content)]
    assert not faults, (name, content, faults)


# The document


def test_it_is_valid(document: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(document).validate()
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_every_operation_has_a_name_and_words(document: dict[str, Any]) -> None:
    found = operations(document)
    names = [operation["operationId"] for operation in found]
    assert len(names) == len(set(names)) > 20
    tags = {tag["name"] for tag in document["tags"]}
    for operation in found:
        assert operation["operationId"].isidentifier()
        assert operation["summary"] and operation["description"], operation
        assert set(operation["tags"]) <= tags
        for parameter in operation["parameters"]:
            assert parameter["description"], parameter


def test_every_parameter_is_there(document: dict[str, Any]) -> None:
    def given(name: str) -> set[str]:
        (operation,) = (one for one in operations(document) if one["operationId"] == name)
        return {parameter["name"] for parameter in operation["parameters"]}

    position = {"Last-Event-ID", "last_event_id", "lastEventId", "event_names", "heartbeat"}
    assert given("createRun") == {
        *("Accept", "Prefer", "Idempotency-Key", "Cache-Control", "X-Request-ID"),
        "Last-Event-ID",
    }
    assert given("followRun") == position | {"run_id", "token"}
    assert given("appendEvents") == {"run_id", "token", "first_seq"}
    assert given("getConversation") == {"conversation_id", "user"}
    assert given("clearCache") == {"agent", "admin_token"}
    assert given("getMetrics") == {"Accept", "admin_token"}


def test_whoever_needs_a_key_is_told_which(document: dict[str, Any]) -> None:
    schemes = document["components"]["securitySchemes"]
    assert {(one["type"], one.get("scheme", one.get("name"))) for one in schemes.values()} == {
        ("http", "bearer"),
        ("apiKey", "token"),
    }
    for operation in operations(document):
        wanted = {name for one in operation["security"] for name in one}
        path_is_open = operation["tags"][0] in ("health", "pages")
        assert (not wanted) == (path_is_open or operation["operationId"] == "getExposition")


def test_no_worker_has_it_in_memory_until_it_is_asked_for() -> None:
    code = (
        "import sys, threading; from plateau_sse.app import create_app; create_app();"
        "heavy = ('operation', 'operations', 'parameters', 'schemas');"
        "print([m for m in sys.modules if m.startswith('plateau_sse.api.')"
        " and m.endswith(heavy)], threading.active_count())"
    )
    env = environment({"REDIS_URL": "redis://127.0.0.1:1/0"})
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.stdout == "[] 1\n", done.stderr


# Events


def a_delta(kind: events.Kind, part: str) -> bytes:
    """Whole, as the script makes it."""
    number, _, _ = part.partition(" ")
    return events.delta_head(kind, int(number)) + events.delta("text", kind, part).data


# At least one of each, by the function that makes it.
SAMPLES = {
    "queued": [events.queued()],
    "started": [
        events.started("f" * 32, "study", 1).data,
        events.started("hit-" + "a" * 24, "study", 1).data,
    ],
    "progress": [events.progress(1, 2, "me", "half", 50.0).data],
    "delta": [a_delta("t", "0"), a_delta("t", "2 0"), a_delta("r", "1")],
    "tool_call": [
        events.tool_call("c1", "search", {"q": [1, None]}).data,
        events.tool_call("c1", "search", "text", client=True).data,
    ],
    "tool_delta": [events.tool_delta("c1", "search", '{"q').data],
    "tool_result": [
        events.tool_result("c1", None).data,
        events.tool_result("c1", "so far", preliminary=True).data,
    ],
    "tool_error": [events.tool_error("c1", "It broke.").data],
    "source": [
        events.source("s1", url="https://example.org/", title="A page").data,
        events.source("s2", media_type="text/plain", filename="a.txt").data,
    ],
    "file": [events.file("image/png", "https://example.org/a.png").data],
    "data": [
        events.data("chart", [1, 2], "c").data,
        events.data("cursor", None, transient=True).data,
    ],
    "step": [events.step("again").data],
    "input_request": [
        events.input_request("i1", "approval", "May it?", tool_call_id="c1").data,
        events.input_request("i2", "question", "Which?", schema={"type": "string"}).data,
    ],
    "restarted": [events.restarted(2, "attempt"), events.restarted(1, "other")],
    "completed": [
        events.completed(None, cached=True, duration_ms=0).data,
        events.with_output(
            events.completed(
                {"input_tokens": 1, "output_tokens": 2, "reasoning_tokens": 1},
                cached=False,
                duration_ms=5,
                model="m",
            ).data,
            b"x",
        ),
    ],
    "failed": [events.failed("agent_error", "It broke.", retryable=False).data],
    "cancelled": [events.cancelled("requested").data],
    "heartbeat": [VARIANTS[False, True].ping.removeprefix(b"data: ")],
}
KINDS = {json.loads(data)["type"] for made in SAMPLES.values() for data in made}


def test_there_is_a_sample_of_whatever_makes_an_event() -> None:
    made = {
        name
        for name, function in inspect.getmembers(events, inspect.isfunction)
        if function.__module__ == events.__name__
        and function.__annotations__["return"] == "Event"
    }
    assert made | {"queued", "restarted", "heartbeat"} == set(SAMPLES)


def test_every_type_of_event_is_described(document: dict[str, Any]) -> None:
    event = document["components"]["schemas"]["Event"]
    assert set(event["discriminator"]["mapping"]) == KINDS
    assert {one["$ref"] for one in event["oneOf"]} == set(
        event["discriminator"]["mapping"].values()
    )
    for kind, where in event["discriminator"]["mapping"].items():
        schema = document["components"]["schemas"][where.rpartition("/")[2]]
        assert schema["properties"]["type"]["const"] == kind
        assert schema["description"]
        assert "additionalProperties" not in schema


def test_each_function_of_events_makes_what_is_described(document: dict[str, Any]) -> None:
    for data in (data for made in SAMPLES.values() for data in made):
        event = json.loads(data)
        assert_described(document, "Event", event)
        # No other one fits, and none fits without each of its members that are required.
        name = document["components"]["schemas"]["Event"]["discriminator"]["mapping"][
            event["type"]
        ].rpartition("/")[2]
        for member in document["components"]["schemas"][name]["required"]:
            less = {key: value for key, value in event.items() if key != member}
            assert not validator(document, "Event").is_valid(less), (event, member)
        # Events are only ever added to.
        assert_described(document, "Event", event | {"later": 1})


def test_events_of_real_runs_are_as_described(
    document: dict[str, Any], client: httpx.Client, tmp_path: Path
) -> None:
    seen = set()

    def check(url: str, **headers: str) -> None:
        for event in follow(client, url, **headers):
            assert_described(document, "Event", event.data)
            seen.add(event.type)

    for agent in ("echo", "failing", "refusing", "tools", "output", "sync"):
        text = unique()
        check(ask(client, agent, text)["events_url"])
        # From the cache, or by another run of it.
        check(ask(client, agent, text)["events_url"])
    # States are told to who is there.
    slow = ask(client, "slow", options={"gate": str(tmp_path / "gate")})
    with client.stream("GET", slow["events_url"]) as response:
        for event in messages(response.iter_lines()):
            assert_described(document, "Event", event.data)
            seen.add(event.type)
            if event.type == "message.delta":
                (tmp_path / "gate").touch()
    run = client.post("/v1/runs", json={"agent": "external"}).json()
    with client.stream("GET", run["events_url"]) as response:
        assert client.post(f"/v1/runs/{run['id']}/events", json=POSTED).status_code == 200
        client.post(run["cancel_url"])
        for event in messages(response.iter_lines()):
            assert_described(document, "Event", event.data)
            seen.add(event.type)
    # Who comes from another answer.
    check(slow["events_url"], **{"Last-Event-ID": f"{run['id'][12:18]}-1-1"})
    # A runner may have taken each before its reader came, and none was silent for long.
    assert KINDS - seen <= {"run.queued", "heartbeat"}


def test_a_stream_is_described_by_its_events(document: dict[str, Any]) -> None:
    for name in ("createRun", "followRun"):
        (operation,) = (one for one in operations(document) if one["operationId"] == name)
        content = operation["responses"]["200"]["content"]["text/event-stream"]
        assert content["schema"] == {"$ref": "#/components/schemas/Event"}


# What is sent


POSTED = [
    {"type": "message.delta", "text": "Hello"},
    {"type": "message.delta", "text": "Hello", "part": 0},
    {"type": "reasoning.delta", "text": "Why?", "part": None, "continues": None},
    {"type": "run.progress"},
    {"type": "run.progress", "step": 1, "total_steps": 2, "message": "m", "percentage": 50},
    {"type": "tool.call", "id": "c", "name": "n"},
    {"type": "tool.call", "id": "c", "name": "n", "arguments": {"a": 1}, "client": True},
    {"type": "tool.delta", "id": "c", "name": "n", "arguments": '{"a'},
    {"type": "tool.result", "id": "c", "output": [1]},
    {"type": "tool.result", "id": "c", "output": None, "preliminary": True},
    {"type": "tool.result", "id": "c", "error": "It broke."},
    {"type": "source", "id": "s", "url": "https://example.org/"},
    {"type": "source", "id": "s", "url": None, "media_type": "text/plain", "title": "T"},
    {"type": "file", "media_type": "image/png", "url": "data:,"},
    {"type": "data", "name": "n", "value": None},
    {"type": "data", "name": "n", "value": {"a": 1}, "id": "d", "transient": True},
    {"type": "step", "name": "again"},
    {"type": "input.request", "id": "i", "message": "Which?"},
    {
        **{"type": "input.request", "id": "i", "message": "May it?", "kind": "approval"},
        **{"tool_call_id": "c", "schema": {"type": "boolean"}},
    },
]
NOT_POSTED: list[Any] = [
    {},
    {"type": "run.started"},
    {"type": "run.snapshot"},
    {"type": "run.queued"},
    {"type": "run.restarted", "attempt": 1, "reason": "rewound"},
    {"type": "message.delta"},
    {"type": "message.delta", "text": "x", "part": -1},
    {"type": "message.delta", "text": "x", "part": "0"},
    {"type": "reasoning.delta", "text": "x", "continues": -1},
    {"type": "message.delta", "text": 1},
    {"type": "message.delta", "text": "x", "more": 1},
    {"type": "run.progress", "percentage": 101},
    {"type": "run.progress", "step": -1},
    {"type": "tool.call", "id": "c"},
    {"type": "tool.delta", "id": "c", "name": "n"},
    {"type": "tool.result", "id": "c"},
    {"type": "tool.result", "id": "c", "output": 1, "error": "It broke."},
    {"type": "tool.result", "id": "c", "error": None},
    {"type": "source", "id": "s"},
    {"type": "source", "id": "s", "url": None, "title": "T"},
    {"type": "file", "media_type": "image/png"},
    {"type": "data", "name": "n"},
    {"type": "step"},
    {"type": "input.request", "id": "i"},
    {"type": "input.request", "id": "i", "message": "x", "kind": "order"},
    {"type": "run.failed", "code": "Not a code"},
    {"type": "run.failed"},
    {"type": "run.completed", "usage": {"input_tokens": -1}},
    {"type": "run.completed", "usage": {"tokens": 1}},
    {"type": "run.completed", "finish_reason": "done"},
    "message.delta",
    None,
]
ENDS = [
    {"type": "run.completed"},
    {"type": "run.completed", "usage": {"output_tokens": 3}, "output": "x"},
    {"type": "run.completed", "usage": {}},
    {
        **{"type": "run.completed", "finish_reason": "length", "model": "m"},
        "usage": {"input_tokens": 1, "output_tokens": 3, "reasoning_tokens": 2},
    },
    {"type": "run.failed", "code": "my_code", "message": "m", "retryable": True},
    {"type": "run.cancelled"},
    {"type": "run.cancelled", "reason": "r"},
]


def test_what_may_be_appended_is_what_is_described(
    document: dict[str, Any], client: httpx.Client
) -> None:
    for event in (*POSTED, *ENDS):
        assert_described(document, "PostedEvent", event)
        run = client.post("/v1/runs", json={"agent": "external"}).json()
        answer = client.post(f"/v1/runs/{run['id']}/events", json=event)
        assert answer.status_code == 200, (event, answer.text)
        assert_described(document, "Appended", answer.json())
        # Also where its producer counted half of what it used.
        assert_described(document, "Run", client.get(f"/v1/runs/{run['id']}").json())
    for event in NOT_POSTED:
        assert not validator(document, "PostedEvent").is_valid(event), event
        answer = client.post(f"/v1/runs/{'f' * 32}/events", content=json.dumps(event))
        assert_problem(answer, 422, "invalid_request")


MESSAGE: dict[str, Any] = {"role": "user", "content": "x"}
CALL = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
CALLING: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT: dict[str, Any] = {"role": "tool", "content": "x", "tool_call_id": "c"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}
ASKED: list[dict[str, Any]] = [
    {"input": "x"},
    {"input": "x", "messages": None},
    {"messages": [MESSAGE]},
    {"messages": [{"role": "system", "content": ""}, MESSAGE], "conversation_id": "c-1"},
    {"messages": [MESSAGE | {"name": "n", "tool_calls": None, "tool_call_id": None}]},
    {"messages": [MESSAGE | {"content": [{"type": "text", "text": "x"}, {"type": "new"}]}]},
    {"messages": [{"role": "developer", "content": "x"}, MESSAGE]},
    {"messages": [CALLING, RESULT]},
    {"messages": [CALLING | {"content": "x"}, RESULT | {"content": [IMAGE]}, MESSAGE]},
    {"input": " x\n", "user": "u" * 200, "options": {"a": 1}},
    {"input": "x", "cache": {"mode": "refresh", "ttl_s": 30 * 86_400}},
    {"input": "x", "cache": {"mode": "off", "ttl_s": None}},
    {"input": "x", "conversation_id": "a" * 128},
    {"resume": [{"id": "i1", "payload": {"approved": True}}]},
    {"resume": [{"id": "i1", "status": "cancelled"}], "input": None, "messages": None},
    {"input": "x", "resume": [{"id": "i1", "status": "resolved", "payload": None}]},
    {"messages": [MESSAGE], "resume": []},
    {"agent": "external"},
    {"agent": "external", "input": "x"},
]
NOT_ASKED: list[dict[str, Any]] = [
    {},
    {"input": None},
    {"input": ""},
    {"input": " \n\t\x1c\x85\u2003"},
    {"input": 1},
    {"input": "x", "messages": [MESSAGE]},
    {"messages": []},
    {"messages": [{"role": "tool", "content": "x"}]},
    {"messages": [{"role": "user"}]},
    {"messages": [{"role": "user", "content": None}]},
    {"messages": [{"role": "user", "content": []}]},
    {"messages": [{"role": "user", "content": [{"text": "x"}]}]},
    {"messages": [{"role": "assistant", "content": None, "tool_calls": []}, MESSAGE]},
    {"messages": [MESSAGE | {"tool_calls": [CALL]}]},
    {"messages": [MESSAGE | {"tool_call_id": "c"}]},
    {"messages": [CALLING, RESULT | {"tool_call_id": ""}]},
    {"messages": [CALLING | {"tool_calls": [{"function": {}}]}, RESULT]},
    {"messages": [MESSAGE | {"nom": "n"}]},
    {"messages": [MESSAGE] * 1001},
    {"agent": "", "input": "x"},
    {"agent": "a" * 101, "input": "x"},
    {"input": "x", "user": "u" * 201},
    {"input": "x", "conversation_id": ""},
    {"input": "x", "conversation_id": "-c"},
    {"input": "x", "conversation_id": "a" * 129},
    {"input": "x", "conversation_id": "a/b"},
    {"input": "x", "cache": {"mode": "never"}},
    {"input": "x", "cache": {"ttl_s": 0}},
    {"input": "x", "cache": {"ttl_s": 30 * 86_400 + 1}},
    {"input": "x", "cache": {"life": 1}},
    {"input": "x", "options": []},
    {"input": "x", "model": "m"},
    {"resume": []},
    {"resume": [{"payload": True}]},
    {"resume": [{"id": ""}]},
    {"resume": [{"id": "i" * 501}]},
    {"resume": [{"id": "i1"}] * 101},
    {"input": "x", "resume": [{"id": "i1", "status": "perhaps"}]},
    {"input": "x", "resume": [{"id": "i1", "answer": True}]},
    {"input": "x", "resume": {"id": "i1"}},
    {"agent": "external", "conversation_id": "c"},
    {"agent": "external", "input": ""},
]


def test_what_may_be_asked_is_what_is_described(
    document: dict[str, Any], client: httpx.Client
) -> None:
    for more in ASKED:
        body = {"agent": "echo", **more}
        assert_described(document, "RunRequest", body)
        answer = client.post("/v1/runs", json=body)
        assert answer.status_code in (200, 202), (body, answer.text)
        assert_described(document, "Run", answer.json())
    for more in NOT_ASKED:
        body = {"agent": "echo", **more}
        assert not validator(document, "RunRequest").is_valid(body), body
        assert_problem(client.post("/v1/runs", json=body), 422, "invalid_request")


# What is answered


def test_every_kind_of_answer_is_as_described(
    document: dict[str, Any], client: httpx.Client
) -> None:
    name = unique()
    for agent in ("echo", "failing", "tools", "output"):
        assert_described(document, "Run", finish(client, agent))
    run = ask(client, "slow", conversation_id=name, options={"gate": "/nowhere"})
    assert_described(document, "Run", run)
    assert_described(document, "Run", client.get(f"/v1/runs/{run['id']}").json())
    for _ in range(2):
        conversation = client.get(f"/v1/conversations/{name}").json()
        assert_described(document, "Conversation", conversation)
        assert_described(document, "Cancellation", client.post(run["cancel_url"]).json())
        wait_for_status(client, run, "cancelled")
    agents = client.get("/v1/agents").json()
    assert_described(document, "Agents", agents)
    assert {"echo", "study"} <= {agent["name"] for agent in agents["agents"]}
    assert_described(document, "Health", client.get("/health").json())
    for path in ("/health/live", "/health/ready"):
        assert_described(document, "Probe", client.get(path).json())
    metrics = client.get("/api/admin/metrics", headers=OPERATOR).json()
    assert_described(document, "Metrics", metrics)
    assert set(metrics) == set(document["components"]["schemas"]["Metrics"]["properties"])
    cleared = client.delete("/api/admin/cache?agent=echo", headers=OPERATOR)
    assert_described(document, "Cleared", cleared.json())
    for path, headers in (
        ("/nothing", {}),
        (f"/v1/runs/{'0' * 32}", {}),
        (f"/v1/runs/{'0' * 32}/events", SSE),
        ("/api/admin/metrics", {}),
    ):
        assert_described(document, "Problem", client.get(path, headers=headers).json())


def test_an_old_id_is_answered_as_described(
    document: dict[str, Any], client: httpx.Client
) -> None:
    old = "0" * 32
    for method, path in (
        ("get", "/v1/runs/{run_id}"),
        ("get", "/v1/runs/{run_id}/events"),
        ("post", "/v1/runs/{run_id}/events"),
        ("post", "/v1/runs/{run_id}/cancel"),
    ):
        answer = client.request(method.upper(), path.format(run_id=old), content=b"[]")
        assert_problem(answer, 410, "run_expired")
        described = document["paths"][path][method]["responses"]
        assert "run_expired" in described["410"]["description"]

"""Whatever a client of a dialect sends, nothing of it is a 500, and what is refused is told in
its own shape."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plateau_sse.api import openai_answers
from plateau_sse.dialects import openai_errors
from plateau_sse.live.paced import Pacer
from plateau_sse.store.runs.looks import OtherRelease
from tests.dialects.stage import KEY, Stage, staged

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-2, 2) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CHAT: dict[str, Any] = {
    "model": "options",
    "messages": [
        {"role": "system", "content": "x"},
        {"role": "user", "content": [{"type": "text", "text": "x"}]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c", "content": "x"},
        {"role": "user", "content": "x"},
    ],
    "stream": False,
    "stream_options": {"include_usage": True},
    "user": "ann",
    "n": 1,
    "tools": [],
}
UI: dict[str, Any] = {
    "id": "c",
    "agent": "options",
    "trigger": "submit-message",
    "messages": [
        {"id": "m1", "role": "user", "parts": [{"type": "text", "text": "x"}]},
        {
            "id": "m2",
            "role": "assistant",
            "parts": [
                {"type": "step-start"},
                {"type": "reasoning", "text": "x"},
                {"type": "text", "text": "x"},
                {
                    "type": "tool-f",
                    "toolCallId": "c",
                    "state": "output-available",
                    "input": {},
                    "output": {"x": 1},
                },
                {
                    "type": "dynamic-tool",
                    "toolName": "g",
                    "toolCallId": "d",
                    "state": "approval-responded",
                    "approval": {"id": "a", "approved": True, "reason": "x"},
                },
            ],
        },
        {
            "id": "m3",
            "role": "user",
            "parts": [
                {"type": "file", "mediaType": "image/png", "url": "data:,"},
                {"type": "file", "mediaType": "audio/mpeg", "url": "data:audio/mpeg;base64,"},
                {"type": "data-x", "data": {}},
                {"type": "text", "text": "x"},
            ],
        },
    ],
}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("any")) as found:
        yield found


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where a document can be damaged."""
    yield at
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*at, key))


def damaged(value: Any, at: tuple[Any, ...], other: Any) -> Any:
    if not at:
        return other
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[at[0]] = damaged(copy[at[0]], at[1:], other)
    return copy


def bodies(valid: dict[str, Any]) -> st.SearchStrategy[Any]:
    return VALUES | st.builds(
        lambda at, other: damaged(valid, at, other), st.sampled_from([*places(valid)]), VALUES
    )


@pytest.mark.parametrize(
    ("code", "retryable", "given", "expected"),
    [
        ("upstream_rate_limited", True, None, "5"),
        ("store_full", True, None, "30"),
        ("queue_timeout", True, None, "2"),
        ("agent_error", True, "7", "7"),
        ("agent_error", False, None, None),
    ],
)
def test_who_may_ask_again_is_told_when(
    code: str, retryable: bool, given: str | None, expected: str | None
) -> None:
    refusal = openai_errors.of_failure(code, "x", retryable=retryable)
    headers = {"Retry-After": given} if given else {}
    answer = openai_answers.refused(refusal, headers)
    assert answer.headers.get("retry-after") == expected
    assert answer.headers["x-should-retry"] == ("true" if retryable else "false")


@pytest.mark.parametrize(("code", "status"), [("runner_lost", 502), ("timeout", 504)])
def test_what_was_tried_to_no_end_is_not_tried_by_a_package(code: str, status: int) -> None:
    """Which would have it executed twice more."""
    answer = openai_answers.refused(openai_errors.of_failure(code, "x", retryable=True), {})
    assert answer.status_code == status and "retry-after" not in answer.headers
    assert answer.headers["x-should-retry"] == "false"


def test_a_run_of_another_release_is_refused_as_these_clients_read_it() -> None:
    async def record(_: str) -> None:
        raise OtherRelease("r")

    state: Any = {"streams": SimpleNamespace(record=record), "pacer": Pacer()}
    taken: Any = SimpleNamespace(run_id="r")
    request: Any = None
    response: Any = openai_answers.document_of(request, state, taken, dict, None, {})
    found = asyncio.run(response._find())
    error = json.loads(found.body)["error"]
    assert found.status_code == 409 and error["code"] == "other_release"
    assert found.headers["x-should-retry"] == "false"


RESPONSES: dict[str, Any] = {
    "model": "options",
    "instructions": "x",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "x"}]},
        {"type": "reasoning", "summary": []},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "x"}, {"type": "refusal"}],
        },
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "x"},
        {
            "role": "user",
            "content": [
                {"type": "input_image", "image_url": "data:,", "detail": "low"},
                {"type": "input_file", "file_data": "x", "filename": "x"},
                {"type": "input_audio", "input_audio": {}},
            ],
        },
    ],
    "stream": False,
    "background": False,
    "store": True,
    "metadata": {"x": "y"},
    "user": "ann",
    "conversation": None,
    "previous_response_id": None,
    "max_output_tokens": 3,
    "reasoning": {"effort": "low"},
    "text": {"format": {"type": "json_schema", "name": "n"}, "verbosity": "low"},
    "tools": [{"type": "function", "name": "f"}],
    "tool_choice": {"type": "function", "name": "f"},
}
AGUI: dict[str, Any] = {
    "threadId": "t",
    "runId": "r",
    "messages": [
        {"id": "1", "role": "system", "content": "x"},
        {
            "id": "2",
            "role": "user",
            "content": [
                {"type": "text", "text": "x"},
                {"type": "image", "source": {"type": "url", "value": "x"}},
                {"type": "audio", "source": {"type": "data", "value": "", "mimeType": "x"}},
                {"type": "document", "source": {"type": "file", "value": "x"}},
            ],
        },
        {"id": "3", "role": "reasoning", "content": "x"},
        {"id": "4", "role": "activity", "activityType": "x", "content": {}},
        {
            "id": "5",
            "role": "assistant",
            "toolCalls": [
                {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            ],
        },
    ],
    "tools": [{"name": "f", "description": "x", "parameters": {}}],
    "context": [{"description": "x", "value": "x"}],
    "state": {"x": 1},
    "forwardedProps": {"x": 1},
    "resume": [{"interruptId": "i", "status": "resolved", "payload": {"x": 1}}],
}
ROWS = {
    "chat": ("/v1/chat/completions", CHAT),
    "responses": ("/v1/responses", RESPONSES),
    "ui": ("/api/chat", UI),
    "agui": ("/agui/options", AGUI),
}


@pytest.mark.parametrize("row", ROWS)
def test_what_is_damaged_is_valid(stage: Stage, row: str) -> None:
    path, valid = ROWS[row]
    answer = httpx.post(stage.url + path, json=valid, headers=KEY, timeout=30)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("row", ROWS)
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_nothing_is_a_500(stage: Stage, row: str, data: st.DataObject) -> None:
    path, valid = ROWS[row]
    body = data.draw(bodies(valid))
    answer = httpx.post(stage.url + path, json=body, headers=KEY, timeout=30)
    assert answer.status_code < 500, (body, answer.text)
    if answer.status_code == 200:
        return
    if row == "agui":
        assert answer.json()["message"] and answer.json()["code"]
    elif row in ("chat", "responses"):
        error = answer.json()["error"]
        assert error["message"] and error["type"] and error["code"]
    else:
        assert answer.headers["content-type"].startswith("text/plain") and answer.text


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("chat", {"messages": [1]}, "messages[0]"),
    ("responses", {"input": ""}, "input"),
    ("responses", {"input": [{"role": "user", "content": "x"}] * 1001}, "input"),
    ("responses", {"input": [{"role": "user", "content": [{}]}]}, "input[0].content[0]"),
    ("ui", {"messages": [1]}, "messages[0]"),
    ("ui", {"id": ""}, "id"),
    ("ui", {"messages": [{"role": "user", "parts": [{}]}]}, "messages[0].parts[0]"),
    ("ui", {"messages": None, "message": {"role": "user"}}, "message.parts"),
    ("agui", {"messages": [1]}, "messages[0]"),
    ("agui", {"runId": None}, "runId"),
    ("agui", {"resume": [{}]}, "resume[0]"),
    ("agui", {"messages": [{"role": "user", "content": [{}]}]}, "messages[0].content[0]"),
]


@pytest.mark.parametrize(("row", "other", "field"), WRONG)
def test_what_is_refused_is_named(
    stage: Stage, row: str, other: dict[str, Any], field: str
) -> None:
    """By where it stands in what its client sent."""
    path, valid = ROWS[row]
    answer = httpx.post(stage.url + path, json=valid | other, headers=KEY, timeout=30)
    assert 400 <= answer.status_code < 500, answer.text
    if row == "agui":
        assert answer.json()["field"] == field
    elif row == "ui":
        assert answer.text.startswith(f"{field}: ")
    else:
        assert answer.json()["error"]["param"] == field


def test_people_are_shown_a_sentence_where_no_member_is_wrong(stage: Stage) -> None:
    answer = httpx.post(stage.url + "/api/chat?agent=nobody", json=UI, headers=KEY, timeout=30)
    assert answer.status_code == 422
    assert answer.text.startswith("There is no agent 'nobody'")
    answer = httpx.post(stage.url + "/agui/nobody", json=AGUI, headers=KEY, timeout=30)
    assert set(answer.json()) == {"message", "code"}

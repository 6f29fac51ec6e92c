"""pydantic-ai's agents and those of the Agents SDK, as they are, in a service: what they say
arrives, in order and whole, and what they need reaches them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.hosting.hosts import Host, hosting
from tests.hosting.scripts import CITE
from tests.processes import wait_until

WIRES = pytest.mark.parametrize("wire", ["chat", "responses"])
SECRET = "sk-very-secret"


@pytest.fixture(scope="module", params=["pydantic-ai", "openai-agents"])
def host(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Host]:
    with hosting(request.param, tmp_path_factory.mktemp("hosting")) as found:
        yield found


def is_pydantic(host: Host) -> bool:
    return host.framework == "pydantic-ai"


@WIRES
def test_everything_that_an_agent_says_arrives(host: Host, wire: str) -> None:
    told = host.ask(f"{wire}_helper", "both", options={"city": "Rome"})
    data = ["data", "data"] if is_pydantic(host) else []
    source = ["source"] if wire == "responses" else []
    assert told.kinds == [
        *("reasoning", "text", "tool.call", "tool.call", *data, "tool.result", "tool.result"),
        *("step", "reasoning", "text", *source),
    ]
    assert told.text == "Let me see. Cold, and 雪 🌊."
    calls, results = told.all("tool.call"), told.all("tool.result")
    assert [json.loads(it["arguments"]) for it in calls] == [{"city": "Oslo"}, {"city": "Rome"}]
    assert {it["id"]: it["output"] for it in results} == {
        calls[0]["id"]: {"city": "Oslo", "for": "Rome"},
        calls[1]["id"]: {"city": "Rome", "for": "Rome"},
    }
    assert [it["url"] for it in told.all("source")] == [CITE] * len(source)
    end = told.end
    assert (end["type"], end["finish_reason"]) == ("run.completed", "stop")
    # Over chat.completions the Agents SDK knows only whom it has asked.
    model = "m1" if wire == "chat" and not is_pydantic(host) else "m1-2026"
    assert (end["model"], end["output"]) == (model, "Cold, and 雪 🌊.")
    assert end["usage"] == {
        "input_tokens": 20,
        "output_tokens": 10,
        "cached_input_tokens": 8,
        "reasoning_tokens": 4,
    }


@WIRES
def test_arguments_are_shown_while_they_are_written(host: Host, wire: str) -> None:
    told = host.ask(f"{wire}_helper", "whose me")
    drafts = [it["arguments"] for it in told.all("tool.delta")]
    (call,) = told.all("tool.call")
    assert all(call["arguments"].startswith(draft) for draft in drafts)


@WIRES
def test_a_tool_that_fails_is_shown(host: Host, wire: str) -> None:
    """With pydantic-ai that ends the run, with the Agents SDK the model is told."""
    told = host.ask(f"{wire}_helper", "breaks")
    (call,) = told.all("tool.call")
    (result,) = told.all("tool.result")
    assert result["id"] == call["id"] and result["error"]
    assert SECRET not in json.dumps(told.events)
    if is_pydantic(host):
        assert told.end["code"] == "agent_error" and "ValueError" in told.end["message"]
    else:
        assert told.text.startswith("I try. It said: An error occurred")


@WIRES
def test_structured_output_is_data(host: Host, wire: str) -> None:
    told = host.ask(f"{wire}_city", "city")
    (data,) = told.all("data")
    city = {"name": "Oslo", "population": 7}
    assert (data["name"], data["value"]) == ("output", city)
    assert json.loads(host.record(told.run_id)["output"]) == city
    # The call by which it was given is none that anybody waits for.
    assert not told.all("tool.call") and not told.all("tool.delta")


@WIRES
def test_an_agent_asks_another(host: Host, wire: str) -> None:
    told = host.ask(f"{wire}_helper", "expert")
    (result,) = told.all("tool.result")
    assert result["output"] == "Plain words." and told.text == "They say: Plain words."


# pydantic-ai has no handoffs.
@WIRES
@pytest.mark.parametrize("host", ["openai-agents"], indirect=True)
def test_an_agent_hands_over_to_another(host: Host, wire: str) -> None:
    told = host.ask(f"{wire}_helper", "handoff")
    assert told.kinds == ["text", "tool.call", "tool.result", "step", "text"]
    assert [it["name"] for it in told.all("step")] == ["spaniard"]
    assert (told.text, told.end["output"]) == ("I pass you on. Hola.", "Hola.")


@WIRES
def test_a_loop_ends_after_fifty_steps(host: Host, wire: str) -> None:
    before = len(host.model.requests)
    told = host.ask(f"{wire}_helper", "loop")
    assert (told.end["type"], told.end["code"]) == ("run.failed", "too_many_steps")
    assert not told.end["retryable"]
    assert len(host.model.requests) - before == 50


@WIRES
@pytest.mark.parametrize(
    ("script", "code", "retryable"),
    [
        ("limited", "upstream_rate_limited", True),
        ("failing", "upstream_error", True),
        ("rejected", "upstream_rejected", False),
        ("broken", "upstream_broken_stream", True),
        ("filtered", "content_filtered", False),
    ],
)
def test_errors_are_told_by_kind_and_without_secrets(
    host: Host, wire: str, script: str, code: str, retryable: bool
) -> None:
    told = host.ask(f"{wire}_helper", script)
    assert (told.end["code"], told.end["retryable"]) == (code, retryable)
    assert SECRET not in json.dumps(told.events)


# Over chat.completions the Agents SDK does not say so.
@pytest.mark.parametrize(
    ("host", "wire"),
    [("pydantic-ai", "chat"), ("pydantic-ai", "responses"), ("openai-agents", "responses")],
    indirect=["host"],
)
def test_an_answer_that_was_cut_off_says_so(host: Host, wire: str) -> None:
    told = host.ask(f"{wire}_helper", "long")
    assert (told.text, told.end["finish_reason"]) == ("As much as ", "length")


def test_calls_that_a_model_calls_alike_are_told_apart(host: Host) -> None:
    told = host.ask("chat_helper", "twice")
    if not is_pydantic(host):
        # The SDK takes that for a fault of the model.
        assert told.end["code"] == "upstream_broken_stream"
        return
    calls = [it["id"] for it in told.all("tool.call")]
    assert len(set(calls)) == 2
    assert [it["id"] for it in told.all("tool.result")] == calls


@WIRES
def test_the_whole_exchange_reaches_the_model(host: Host, wire: str) -> None:
    pixel = "data:image/png;base64,iVBORw0KGgo="
    call = {"id": "c1", "type": "function"}
    call["function"] = {"name": "weather", "arguments": '{"city": "Oslo"}'}  # type: ignore[assignment]
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Speak like a pirate."},
        {"role": "user", "content": "Is it cold?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "very"},
        {"role": "assistant", "content": "It is."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "plain"},
                {"type": "image_url", "image_url": {"url": pixel}},
            ],
        },
    ]
    told = host.ask(f"{wire}_helper", "", messages=messages)
    assert told.text == "Plain words."
    body = json.dumps(host.model.requests[-1].body, ensure_ascii=False)
    for said in ("You are a helper.", "Speak like a pirate.", "Is it cold?", "It is.", pixel):
        assert body.count(said) == 1, said
    assert '"very"' in body and "c1" in body and "weather" in body


@pytest.mark.parametrize("member", ["file_url", "file_data"])
def test_a_file_that_is_elsewhere_keeps_its_address(host: Host, member: str) -> None:
    """AI SDK and AG-UI send it as the data, Responses as what it is."""
    url = "https://x.test/a.pdf"
    file = {"type": "file", "file": {member: url}}
    content = [{"type": "text", "text": "plain"}, file]
    told = host.ask("responses_helper", "", messages=[{"role": "user", "content": content}])
    assert told.text == "Plain words."
    said = host.model.requests[-1].body["input"][-1]["content"]
    assert said[1] == {"type": "input_file", "file_url": url}


def test_a_file_that_is_there_is_told_whole(host: Host) -> None:
    data = "data:application/pdf;base64,AAAA"
    file = {"type": "file", "file": {"file_data": data, "filename": "a.pdf"}}
    content = [{"type": "text", "text": "plain"}, file]
    host.ask("responses_helper", "", messages=[{"role": "user", "content": content}])
    said = host.model.requests[-1].body["input"][-1]["content"]
    assert said[1]["file_data"] == data and "file_url" not in said[1]


def test_what_cannot_be_told_to_an_agent_is_refused(host: Host) -> None:
    messages = [{"role": "user", "content": [{"type": "video_url", "video_url": {}}]}]
    told = host.ask("chat_helper", "", messages=messages)
    assert told.end["code"] == "invalid_options" and "'video_url'" in told.end["message"]


def test_an_agent_of_a_factory_answers(host: Host) -> None:
    assert host.ask("pooled", "plain").text == "Plain words."


@WIRES
def test_thirty_two_at_once_are_told_apart_and_leave_nothing_open(
    host: Host, wire: str
) -> None:
    def ask(number: int) -> str:
        return host.ask(f"{wire}_helper", f"whose n{number}").text

    with ThreadPoolExecutor(32) as pool:
        texts = list(pool.map(ask, range(32)))
    assert texts == [f"n{number} is n{number}" for number in range(32)]
    wait_until(lambda: host.model.open == 0, "nothing is open", timeout_s=5)


MOMENTS = {
    "before the first byte": ("silent", "run.started"),
    "in a text": ("hang", "message.delta"),
    "in a tool": ("slow", "tool.call"),
    "in a loop": ("slow_loop", "step"),
    "of another agent": ("ask_silent", "tool.call"),
}


@WIRES
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_cancelled_run_leaves_the_model(host: Host, wire: str, moment: str) -> None:
    script, sign = MOMENTS[moment]
    asked = 2 if moment == "of another agent" else 1
    host.check_cancelling(f"{wire}_helper", script, sign, asked)

"""What a model thought before its calls comes back to it with their results, whichever way the
client sends it; there are models that insist on it. What led to a text alone stays here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from plateau_sse.agents import Message
from plateau_sse.api import agui_request, chat_completions, responses_request, ui_request
from tests.dialects.stage import ENV, KEY
from tests.hosting.endpoint import Asked, Model, scripted_model
from tests.hosting.wires import Call, Piece, Say, Think
from tests.processes import serving

FUNCTION = {"name": "f", "arguments": "{}"}
CALL = {"id": "c", "type": "function", "function": FUNCTION}
RESULT = {"role": "tool", "tool_call_id": "c", "content": "x"}
THOUGHT = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Hm. "}]}


def of_responses(*items: Any) -> list[dict[str, Any]]:
    return responses_request.matched(responses_request.messages_of(list(items)))


def of_ui(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return ui_request.messages_of([{"role": "assistant", "parts": list(parts)}])


def of_agui(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    return agui_request.messages_of([{"role": "user", "content": "x"}, *messages], ())[1:]


FUNCTION_CALL = {"type": "function_call", "call_id": "c", **FUNCTION}
OUTPUT = {"type": "function_call_output", "call_id": "c", "output": "x"}
SPOKEN = {"role": "assistant", "content": "So."}
TOOL = {"type": "tool-f", "toolCallId": "c", "state": "output-available", "output": "x"}
REASONING = {"type": "reasoning", "text": "Hm. "}
CALLED: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "responses": lambda: of_responses(THOUGHT, FUNCTION_CALL, OUTPUT),
    "responses, with a text": lambda: of_responses(THOUGHT, SPOKEN, FUNCTION_CALL, OUTPUT),
    "responses, in the midst": lambda: of_responses(SPOKEN, FUNCTION_CALL, THOUGHT, OUTPUT),
    "ui": lambda: of_ui(REASONING, TOOL),
    "agui": lambda: of_agui(
        {"role": "reasoning", "content": "Hm. "},
        {"role": "assistant", "toolCalls": [CALL]},
        {"role": "tool", "toolCallId": "c", "content": "x"},
    ),
    "agui, with a text": lambda: of_agui(
        {"role": "reasoning", "content": "Hm. "},
        SPOKEN,
        {"role": "assistant", "toolCalls": [CALL]},
        {"role": "tool", "toolCallId": "c", "content": "x"},
    ),
    "chat": lambda: chat_completions.messages_of(
        [{"role": "assistant", "tool_calls": [CALL], "reasoning_content": "Hm. "}, RESULT]
    ),
}
ALIEN: list[Any] = [None, 7, "Hm", {}, [7, {"text": 7}]]
SAID: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "responses": lambda: of_responses(THOUGHT, SPOKEN),
    # Its call was never answered.
    "responses, given up": lambda: of_responses(THOUGHT, SPOKEN, FUNCTION_CALL),
    "responses, of another's": lambda: of_responses(
        *({"type": "reasoning", "content": it} for it in ALIEN), SPOKEN
    ),
    "ui": lambda: of_ui(REASONING, {"type": "text", "text": "So."}),
    "agui": lambda: of_agui({"role": "reasoning", "content": "Hm. "}, SPOKEN),
    "chat": lambda: chat_completions.messages_of(
        [
            {"role": "assistant", "content": "So.", "reasoning_content": "Hm. "},
            {"role": "user", "content": "x"},
        ]
    )[:1],
}


@pytest.mark.parametrize("way", CALLED)
def test_a_thought_goes_with_its_call(way: str) -> None:
    called, result = CALLED[way]()
    assert called["reasoning_content"] == "Hm. " and result == RESULT
    assert [it["id"] for it in called["tool_calls"]] == ["c"]
    text = "So." if "text" in way or "midst" in way else None
    assert called["content"] == text
    # And through the runner.
    assert Message.of(called).as_sent() == {n: it for n, it in called.items()}


@pytest.mark.parametrize("way", SAID)
def test_a_thought_before_a_text_stays_here(way: str) -> None:
    assert SAID[way]() == [SPOKEN]


def thinks(asked: Asked) -> list[Piece]:
    if asked.outputs:
        return [Say(f"It is {asked.outputs[0]}.")]
    return [Think("Hm. "), Call("weather", {"city": "Oslo"}, "call_a")]


def thought_last(model: Model) -> str:
    (called,) = [it for it in model.requests[-1].body["messages"] if it.get("tool_calls")]
    found: str = called["reasoning_content"]
    return found


def test_the_stock_package_sends_back_what_it_was_given(tmp_path: Path) -> None:
    with scripted_model(weather=thinks) as model:
        env = ENV | {"OPENAI_BASE_URL": model.base_url, "OPENAI_API_KEY": "-"}
        with (
            serving(tmp_path / "data", env=env) as plateau,
            OpenAI(base_url=f"{plateau.url}/v1", api_key=KEY["Authorization"][7:]) as client,
        ):
            asked: list[Any] = [{"role": "user", "content": "weather"}]
            message = client.chat.completions.create(model="small-1", messages=asked).choices[0]
            asked += [message.message, RESULT | {"tool_call_id": "call_a", "content": "cold"}]
            told = client.chat.completions.create(model="small-1", messages=asked).choices[0]
            assert told.message.content == "It is cold." and thought_last(model) == "Hm. "

            given = {"type": "function_call_output", "call_id": "call_a", "output": "hot"}
            first = client.responses.create(model="small-1", input="weather now")
            rest: list[Any] = [given]
            told_2 = client.responses.create(
                model="small-1", input=rest, previous_response_id=first.id
            )
            assert told_2.output_text == "It is hot." and thought_last(model) == "Hm. "
            items: list[Any] = [{"role": "user", "content": "weather now"}, *first.output]
            given = {**given, "output": "dry"}
            items.append(given)
            told_2 = client.responses.create(model="small-1", input=items)
            assert told_2.output_text == "It is dry." and thought_last(model) == "Hm. "

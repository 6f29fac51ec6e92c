"""Results of tools that come without their calls, which lie in the conversation: the model is
asked with both; where there are none, who has asked is told what to send."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai import OpenAI

from plateau_sse.api import agui_request
from plateau_sse.errors import Problem
from tests.dialects.stage import ENV, KEY, anew
from tests.hosting.endpoint import Asked, Model, scripted_model
from tests.hosting.wires import Call, Piece, Say, Think
from tests.processes import Serving, serving


def answers(asked: Asked) -> list[Piece]:
    if asked.outputs:
        return [Say(f"It is {' and '.join(asked.outputs)}.")]
    if "call" not in asked.user:
        return [Say("Well.")]
    calls = [Call("weather", {"city": it}, f"call_{it}") for it in ("Oslo", "Rome")]
    return [Think("Hm. "), Say("Let me see. "), *calls]


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with scripted_model(**{"small-1": answers}) as found:
        yield found


@pytest.fixture(scope="module")
def plateau(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    env = ENV | {"OPENAI_BASE_URL": model.base_url, "OPENAI_API_KEY": "-"}
    with serving(tmp_path_factory.mktemp("alone") / "data", env=env) as found:
        yield found


def native(plateau: Serving, conversation: str, *messages: Any) -> httpx.Response:
    body = {"agent": "openai", "conversation_id": conversation, "messages": list(messages)}
    headers = KEY | {"Prefer": "wait=20"}
    return httpx.post(f"{plateau.url}/v1/runs", json=body, headers=headers, timeout=30)


def result(city: str, content: str) -> dict[str, str]:
    return {"role": "tool", "tool_call_id": f"call_{city}", "content": content}


def output(city: str, content: str) -> Any:
    return {"type": "function_call_output", "call_id": f"call_{city}", "output": content}


def assert_whole(model: Model, question: str) -> None:
    user, called, *results = model.requests[-1].body["messages"]
    assert user == {"role": "user", "content": question}
    assert called["content"] == "Let me see. " and called["reasoning_content"] == "Hm. "
    assert [it["id"] for it in called["tool_calls"]] == ["call_Oslo", "call_Rome"]
    assert [it["tool_call_id"] for it in results] == ["call_Oslo", "call_Rome"]


@pytest.mark.parametrize("how", ["miss", "hit"])
def test_in_a_conversation_of_responses(plateau: Serving, model: Model, how: str) -> None:
    with OpenAI(base_url=f"{plateau.url}/v1", api_key=KEY["Authorization"][7:]) as client:
        question = f"call {anew()}"
        # The second conversation has its calls from the cache.
        for _ in ("miss", "hit")[: 1 + (how == "hit")]:
            conversation = anew()
            asked = client.responses.with_raw_response.create(
                model="small-1", input=question, conversation=conversation
            )
        assert asked.headers["x-cache"] == how
        given = [output("Oslo", f"cold {anew()}"), output("Rome", "hot")]
        told = client.responses.create(
            model="small-1", input=given, instructions="Short.", conversation=conversation
        )
        assert told.output_text == f"It is {given[0]['output']} and hot."
        system = model.requests[-1].body["messages"].pop(0)
        assert system == {"role": "system", "content": "Short."}
        assert_whole(model, question)


def test_natively(plateau: Serving, model: Model) -> None:
    conversation, question = anew(), f"call {anew()}"
    native(plateau, conversation, {"role": "user", "content": question})
    told = native(plateau, conversation, result("Oslo", "cold"), result("Rome", "hot"))
    assert told.status_code == 200 and told.json()["output"] == "It is cold and hot.", told.text
    assert_whole(model, question)
    url = f"{plateau.url}/v1/conversations/{conversation}"
    seen = httpx.get(url, headers=KEY).json()["messages"]
    assert [it["role"] for it in seen] == ["user", "assistant", "tool", "assistant"]


def test_a_call_that_has_no_result_is_left_out(plateau: Serving, model: Model) -> None:
    """Endpoints refuse it."""
    conversation = anew()
    native(plateau, conversation, {"role": "user", "content": f"call {anew()}"})
    user = {"role": "user", "content": "Only that one."}
    told = native(plateau, conversation, result("Rome", "hot"), user)
    assert told.status_code == 200, told.text
    _, called, given, last = model.requests[-1].body["messages"]
    assert [it["id"] for it in called["tool_calls"]] == ["call_Rome"]
    assert given == result("Rome", "hot") and last == user


def test_where_the_calls_are_not_to_be_found_it_is_said(plateau: Serving) -> None:
    conversation = anew()
    native(plateau, conversation, {"role": "user", "content": anew()})
    refused = native(plateau, conversation, result("Oslo", "cold"))
    assert refused.status_code == 422 and "`tool_calls`" in refused.json()["detail"]
    url = f"{plateau.url}/v1/responses"
    for place in ({"conversation": conversation}, {"conversation": anew()}, {}):
        body = {"model": "small-1", "input": [output("Oslo", "cold")], **place}
        told = httpx.post(url, json=body, headers=KEY)
        assert told.status_code == 400
        assert "`function_call` items" in told.json()["error"]["message"]
    with pytest.raises(Problem, match="toolCalls"):
        messages = [{"role": "user", "content": "x"}, {"role": "tool", "toolCallId": "c"}]
        agui_request.messages_of([messages[0], messages[1] | {"content": "x"}], ())

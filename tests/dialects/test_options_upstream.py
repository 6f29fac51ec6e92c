"""What a model is asked with is what chat.completions know: not what another protocol calls so,
nor what is only noted beside a question."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from plateau_sse.api.agui_request import for_model
from plateau_sse.api.responses_request import options_of
from plateau_sse.errors import Problem
from tests.dialects.stage import ENV, KEY, anew
from tests.hosting.endpoint import Model, scripted_model
from tests.hosting.wires import Say
from tests.processes import Serving, serving


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with scripted_model(**{"small-1": lambda asked: [Say("So.")]}) as found:
        yield found


@pytest.fixture(scope="module")
def plateau(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    env = ENV | {"OPENAI_BASE_URL": model.base_url, "OPENAI_API_KEY": "-"}
    with serving(tmp_path_factory.mktemp("options") / "data", env=env) as found:
        yield found


def asked(plateau: Serving, path: str, **body: Any) -> httpx.Response:
    answer = httpx.post(f"{plateau.url}{path}", json=body, headers=KEY, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer


def test_an_applications_context_is_told_and_its_state_is_not(
    plateau: Serving, model: Model
) -> None:
    context = [{"description": "Who asks", "value": "Ann"}, {"description": "n", "value": [1]}]
    messages = [
        {"id": "0", "role": "system", "content": "Be brief."},
        {"id": "1", "role": "user", "content": anew()},
    ]
    body = {"messages": messages, "tools": [], "context": context, "state": {"x": 1}}
    asked(plateau, "/agui/openai", threadId="t", runId="r", **body)
    sent = model.requests[-1].body
    assert not {"context", "state", "tools"} & sent.keys()
    system, told, user = sent["messages"]
    assert system["content"] == "Be brief." and user["content"] == messages[1]["content"]
    assert told["role"] == "system" and "Who asks:\nAnn" in told["content"]
    assert "n:\n[1]" in told["content"]
    body["state"] = {"x": 2}
    again = asked(plateau, "/agui/openai", threadId="t", runId="r2", **body)
    assert again.headers["X-Cache"] == "hit"


@pytest.mark.parametrize("context", [None, [], {}, "x", [7]])
def test_where_there_is_no_context_nothing_is_told(context: Any) -> None:
    user = {"role": "user", "content": "x"}
    assert for_model([user], {"context": context, "y": 1}) == ([user], {"y": 1})


NOTES = {
    **{"metadata": {"a": "b"}, "safety_identifier": "ann", "store": True},
    **{"prompt_cache_key": "k", "prompt_cache_retention": "24h"},
}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_a_note_beside_a_question_makes_it_no_other(
    plateau: Serving, model: Model, path: str
) -> None:
    name = "messages" if "chat" in path else "input"
    body = {"model": "small-1", name: [{"role": "user", "content": anew()}]}
    first = asked(plateau, path, **body, **NOTES)
    assert first.headers["X-Cache"] == "miss"
    assert not NOTES.keys() & model.requests[-1].body.keys()
    assert asked(plateau, path, **body).headers["X-Cache"] == "hit"


def test_of_responses_options_those_remain_that_chat_completions_have() -> None:
    given = {
        **{"reasoning": {"summary": "auto"}, "tools": [], "tool_choice": "auto"},
        **{"parallel_tool_calls": True, "max_tool_calls": 3, "top_logprobs": 5, "seed": 1},
    }
    assert options_of(given) == {"seed": 1}
    efforts = {"effort": "low", "summary": "auto", "max_tokens": 9}
    assert options_of({"reasoning": efforts}) == {
        "reasoning_effort": "low",
        "reasoning": {"max_tokens": 9},
    }
    assert options_of({"reasoning": {"effort": "low"}, "reasoning_effort": "high"}) == {
        "reasoning_effort": "high"
    }
    tools = [{"type": "function", "name": "f"}]
    kept = options_of({"tools": tools, "tool_choice": "auto"})
    assert kept.keys() == {"tools", "tool_choice"}
    # An agent may have an option of this name.
    assert options_of({"prompt": "x"}) == {"prompt": "x"}
    with pytest.raises(Problem, match="instructions"):
        options_of({"prompt": {"id": "pmpt_1"}})

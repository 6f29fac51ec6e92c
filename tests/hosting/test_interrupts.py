"""What a person has answered, as LangGraph takes it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from plateau_sse.agents import AgentError
from plateau_sse.agents.hosting.langgraph_interrupts import Asking

APPROVE = {"type": "approve"}
ONE = SimpleNamespace(id="i1", value={"action_requests": [{"name": "delete", "args": {}}]})
TWO = SimpleNamespace(id="i2", value={"action_requests": [{"name": "a"}, {"name": "b"}]})
QUESTION = SimpleNamespace(id="i3", value="Which city?")


def decisions(*resume: dict[str, Any]) -> Any:
    (found,) = Asking.answers([ONE], resume).values()
    return found["decisions"]


@pytest.mark.parametrize(
    ("payload", "decision"),
    [
        (True, APPROVE),
        ("approve", APPROVE),
        ({"approved": True}, APPROVE),
        (False, {"type": "reject"}),
        (None, {"type": "reject"}),
        ("sure", {"type": "reject"}),
        ({"approved": "yes"}, {"type": "reject"}),
        ({"approved": False, "reason": "No."}, {"type": "reject", "message": "No."}),
        ({"type": "edit", "edited_action": {}}, {"type": "edit", "edited_action": {}}),
    ],
)
def test_nothing_but_a_plain_yes_approves(payload: Any, decision: dict[str, Any]) -> None:
    assert decisions({"id": "i1", "status": "resolved", "payload": payload}) == [decision]


@pytest.mark.parametrize("payload", [True, {"approved": True}, APPROVE])
def test_who_has_left_has_approved_nothing(payload: Any) -> None:
    told = decisions({"id": "i1", "status": "cancelled", "payload": payload})
    assert told == [{"type": "reject"}]


def test_each_of_several_calls_has_its_answer_and_who_is_silent_has_refused() -> None:
    found = Asking.answers([TWO, QUESTION], [{"id": "i2:1", "payload": True}])
    assert found == {"i2": {"decisions": [{"type": "reject"}, APPROVE]}}
    found = Asking.answers([TWO, QUESTION], [{"id": "i3", "payload": "Rome"}])
    assert found == {"i3": "Rome"}


def test_what_answers_nothing_is_refused() -> None:
    with pytest.raises(AgentError, match="Nothing was asked under the id 'i9'"):
        Asking.answers([QUESTION], [{"id": "i9", "payload": "Rome"}])

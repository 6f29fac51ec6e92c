"""Agents of both frameworks that wait for a person, or for whoever executes a call, and what
they remember of a conversation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tests.clients.packages import install
from tests.dialects.apart import programs_of
from tests.dialects.stage import Stage, anew
from tests.dialects.test_ai_sdk import chat
from tests.hosting.endpoint import scripted_model
from tests.hosting.hosts import Host, Told, hosting, settings_of
from tests.hosting.scripts import SCRIPTS
from tests.processes import is_on_disk, serving, wait_until

FRAMEWORKS = ["pydantic-ai", "openai-agents"]
WIRES = pytest.mark.parametrize("wire", ["chat", "responses"])
# The Agents SDK knows approvals alone: no questions, no calls that whoever asked executes.
PYDANTIC_ALONE = pytest.mark.parametrize("host", ["pydantic-ai"], indirect=True)
YES: dict[str, Any] = {"id": "call_a", "status": "resolved", "payload": {"approved": True}}
NO = {**YES, "payload": {"approved": False, "reason": "Never."}}
GONE = {"id": "call_a", "status": "cancelled"}


@pytest.fixture(scope="module", params=FRAMEWORKS)
def host(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Host]:
    with hosting(request.param, tmp_path_factory.mktemp("waiting")) as found:
        yield found


def is_pydantic(host: Host) -> bool:
    return host.framework == "pydantic-ai"


def asked(host: Host, agent: str, conversation: str) -> Told:
    """A run that asks whether it may delete something."""
    told = host.ask(agent, "delete", conversation_id=conversation)
    assert (told.end["type"], told.end["finish_reason"]) == ("run.completed", "input_required")
    (request,) = told.all("input.request")
    (call,) = [it for it in told.all("tool.call") if it["name"] == "delete"]
    assert (request["id"], request["kind"]) == ("call_a", "approval")
    assert request["tool_call_id"] == call["id"]
    # What needs nobody's word has been done.
    (result,) = told.all("tool.result")
    assert result["id"] != call["id"]
    return told


def answered(host: Host, agent: str, conversation: str, *resume: Any) -> Told:
    return host.ask(agent, "", conversation_id=conversation, resume=list(resume))


def check(told: Told, verdict: Any) -> None:
    """The call has been executed, or has not, and the model was told."""
    (call,), (result,) = told.all("tool.call"), told.all("tool.result")
    assert (call["name"], call["id"], result["id"]) == ("delete", "call_a", "call_a")
    if verdict is YES:
        assert result["output"] == "deleted /a" and "deleted /a" in told.text
    else:
        assert result["error"] and "deleted" not in told.text
        assert result["error"] in told.text
    if verdict is NO:
        assert result["error"] == "Never."
    assert told.end["finish_reason"] == "stop"


def is_served(host: Host) -> bool:
    runner = host.get("/health").json()["components"]["runner"]
    return bool(runner["status"] == "up")


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_what_waits_goes_on_after_everything_was_killed(framework: str, tmp_path: Path) -> None:
    python = programs_of(framework) / "python"
    cases = {
        anew(): (agent, verdict)
        for agent in ("chat_helper", "responses_helper", "chat_keeper", "responses_keeper")
        for verdict in (YES, NO, GONE)
    }
    with scripted_model(**SCRIPTS) as model:
        env = settings_of(framework, model)
        with serving(tmp_path / "data", env=env, python=python) as plateau:
            host = Host(framework, plateau, model, tmp_path)
            wait_until(host.agents, "the runner has its agents", timeout_s=60)
            for conversation, (agent, _) in cases.items():
                asked(host, agent, conversation)
            with Redis.from_url(plateau.streams_url, decode_responses=True) as client:
                wait_until(lambda: is_on_disk(client), "it is on disk")
            plateau.kill()
        with serving(tmp_path / "data", env=env, python=python) as plateau:
            host = Host(framework, plateau, model, tmp_path)
            # Its agents take their time to be imported.
            wait_until(lambda: is_served(host), "there is a runner", timeout_s=60)
            for conversation, (agent, verdict) in cases.items():
                check(answered(host, agent, conversation, verdict), verdict)
                # A yes counts once.
                told = answered(host, agent, conversation, verdict)
                assert told.end["code"] == "invalid_options"


@WIRES
@pytest.mark.parametrize(
    ("resume", "said"),
    [
        ({**YES, "id": "call_b"}, "An answer is missing to call_a"),
        ({**YES, "payload": "sure"}, "An approval is answered with"),
        ({"id": "call_a", "status": "resolved"}, "An approval is answered with"),
    ],
)
def test_nothing_but_a_plain_yes_approves(
    host: Host, wire: str, resume: dict[str, Any], said: str
) -> None:
    conversation, agent = anew(), f"{wire}_helper"
    asked(host, agent, conversation)
    told = answered(host, agent, conversation, resume)
    assert told.end["code"] == "invalid_options" and said in told.end["message"]
    # It waits still.
    check(answered(host, agent, conversation, YES), YES)


def test_nothing_that_was_not_asked_can_be_approved(host: Host) -> None:
    told = answered(host, "chat_helper", anew(), YES)
    assert told.end["code"] == "invalid_options"
    assert told.end["message"].startswith("Nothing waits for an answer")


def test_without_a_conversation_nothing_can_wait(host: Host) -> None:
    told = host.ask("chat_helper", "delete")
    assert told.end["code"] == "invalid_options" and "conversation_id" in told.end["message"]


def test_what_an_agent_needs_to_wait_is_said(host: Host) -> None:
    told = host.ask("strict", "only", conversation_id=anew())
    if is_pydantic(host):
        assert told.end["code"] == "agent_error"
        assert "add DeferredToolRequests" in told.end["message"]
    else:
        assert told.end["finish_reason"] == "input_required"


def test_a_person_may_say_other_arguments_where_the_framework_knows_that(host: Host) -> None:
    conversation = anew()
    asked(host, "chat_helper", conversation)
    verdict = {**YES, "payload": {"approved": True, "arguments": {"path": "/b"}}}
    told = answered(host, "chat_helper", conversation, verdict)
    if is_pydantic(host):
        assert "deleted /b" in told.text
    else:
        assert told.end["code"] == "invalid_options"


@WIRES
def test_who_goes_on_without_an_answer_has_refused(host: Host, wire: str) -> None:
    for agent in (f"{wire}_helper", f"{wire}_keeper"):
        conversation = anew()
        asked(host, agent, conversation)
        told = host.ask(agent, "plain", conversation_id=conversation)
        assert told.text == "Plain words." and told.end["finish_reason"] == "stop"
        assert answered(host, agent, conversation, YES).end["code"] == "invalid_options"


@WIRES
def test_what_was_asked_without_an_answer_is_asked_once(host: Host, wire: str) -> None:
    """Also where the agent has said nothing but that a person be asked."""
    conversation, agent = anew(), f"{wire}_keeper"
    host.ask(agent, "plain", conversation_id=conversation)
    told = host.ask(agent, "only", conversation_id=conversation)
    assert told.end["finish_reason"] == "input_required" and not told.text
    said = host.ask(agent, "recall", conversation_id=conversation).text.split()
    assert said.count("user") == 3, said
    assert {"tool", "function_call_output"} & set(said)


@WIRES
def test_a_whole_exchange_is_remembered(host: Host, wire: str) -> None:
    """With its calls and results, which a conversation alone does not have."""
    conversation, agent = anew(), f"{wire}_keeper"
    host.ask(agent, "both", conversation_id=conversation)
    said = host.ask(agent, "recall", conversation_id=conversation).text.split()
    called = ["function_call"] * 2 if wire == "responses" else []
    results = ["function_call_output" if wire == "responses" else "tool"] * 2
    rest = [it for it in said if it not in ("system", "reasoning")]
    # Thoughts of a Responses model may go back as a message of the assistant.
    spoken = [
        it for at, it in enumerate(rest) if rest[at - 1 : at] != [it] or it != "assistant"
    ]
    assert spoken == ["user", "assistant", *called, *results, "assistant", "user"]
    # Each agent has a memory of its own.
    other = host.ask(f"{wire}_helper", "recall", conversation_id=anew()).text.split()
    assert [it for it in other if it != "system"] == ["user"]


@WIRES
@PYDANTIC_ALONE
def test_a_question_of_a_tool_is_answered(host: Host, wire: str) -> None:
    conversation = anew()
    told = host.ask(f"{wire}_helper", "question", conversation_id=conversation)
    (request,) = told.all("input.request")
    assert request["kind"] == "question"
    resume = {"id": request["id"], "status": "resolved", "payload": "blue"}
    told = answered(host, f"{wire}_helper", conversation, resume)
    assert told.text == "So blue."


@pytest.fixture(scope="module")
def packages() -> None:
    if cause := install():
        pytest.skip(cause)


@pytest.mark.usefixtures("packages")
@WIRES
def test_use_chat_is_told_everything_in_order(host: Host, wire: str) -> None:
    told = chat(
        Stage(host.plateau, host.folder), f"{wire}_helper", ["send", "both"], ["settled"]
    )
    data = ["data-measured"] * 2 if is_pydantic(host) else []
    source = ["source-url"] if wire == "responses" else []
    assert [part["type"] for part in told.answer["parts"]] == [
        *("step-start", "reasoning", "text", "tool-weather", "tool-weather", *data),
        *("step-start", "reasoning", "text", *source),
    ]
    assert told.text == "Let me see. Cold, and 雪 🌊." and told.finish["reason"] == "stop"
    cities = [part["output"]["city"] for part in told.parts("tool-weather")]
    assert cities == ["Oslo", "Rome"]


@pytest.mark.usefixtures("packages")
@WIRES
@pytest.mark.parametrize("approved", [True, False])
def test_use_chat_approves_and_refuses(host: Host, wire: str, approved: bool) -> None:
    told = chat(
        Stage(host.plateau, host.folder),
        f"{wire}_helper",
        ["send", "delete"],
        ["until", "approval-requested"],
        ["settled"],
        ["approve", approved, "Never."],
        ["until", "Done: "],
        ["settled"],
        automatic="approvals",
    )
    (call,) = told.parts("tool-delete")
    if approved:
        assert (call["state"], call["output"]) == ("output-available", "deleted /a")
    else:
        assert call["state"] in ("output-error", "output-denied")
        assert "deleted" not in told.text
    assert told.status == "ready" and len(told.tried) == 2


@pytest.mark.usefixtures("packages")
@WIRES
@PYDANTIC_ALONE
def test_use_chat_executes_the_calls_that_are_its_own(host: Host, wire: str) -> None:
    told = chat(
        Stage(host.plateau, host.folder),
        f"{wire}_helper",
        ["send", "locate"],
        ["until", "input-available"],
        ["settled"],
        ["result", "locate", "call_l", "Rome"],
        ["until", "You are in Rome."],
        ["settled"],
        automatic="tools",
    )
    assert told.called == ["call_l"] and told.status == "ready"


@WIRES
@PYDANTIC_ALONE
def test_calls_of_whoever_asked_are_remembered(host: Host, wire: str) -> None:
    conversation, agent = anew(), f"{wire}_keeper"
    told = host.ask(agent, "locate", conversation_id=conversation)
    (call,) = told.all("tool.call")
    assert call["client"] and told.end["finish_reason"] == "tool_calls"
    result = {"role": "tool", "tool_call_id": call["id"], "content": "Rome"}
    told = host.ask(agent, "", conversation_id=conversation, messages=[result])
    assert told.text == "You are in Rome."
    assert json.loads(call["arguments"]) == {}

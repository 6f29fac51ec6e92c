"""LangGraph's graphs, as they are, in a service: what they say arrives, in order and whole, and
what they need reaches them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from plateau_sse.agents.hosting.exchange import UNANSWERED
from plateau_sse.eventsource import EventReader
from tests.dialects.stage import KEY
from tests.hosting.graph_scripts import ANSWER, NUMBERS, SCRIPTS, words
from tests.hosting.hosts import Event, Host, hosting
from tests.hosting.scripts import CITE
from tests.processes import is_on_disk, wait_until


@contextmanager
def graphs(folder: Path, **env: str) -> Iterator[Host]:
    with hosting("langgraph", folder, SCRIPTS, env) as found:
        yield found


def ask(host: Host, agent: str, text: str = "Why?", **body: Any) -> list[Event]:
    """All events of a run, to its end, each looked at."""
    return host.ask(agent, "" if body.keys() & {"messages", "resume"} else text, **body).events


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with graphs(tmp_path_factory.mktemp("langgraph")) as found:
        yield found


def only(events: list[Event], kind: str) -> list[Event]:
    return [event for event in events if event["type"] == kind]


def text_of(events: list[Event], kind: str = "message.delta") -> str:
    return "".join(event["text"] for event in only(events, kind))


def kinds(events: list[Event]) -> list[str]:
    """Of what stays, each once in a row."""
    passing = ("run.queued", "tool.delta", "run.progress")
    names = [it["type"] for it in events if it["type"] not in passing]
    return [it for i, it in enumerate(names) if i == 0 or names[i - 1] != it]


def test_text_arrives_with_its_usage_and_model(host: Host) -> None:
    events = ask(host, "plain")
    assert text_of(events) == ANSWER
    assert kinds(events) == ["run.started", "step", "message.delta", "run.completed"]
    end = events[-1]
    assert (end["finish_reason"], end["model"]) == ("stop", "plain-2026")
    assert end["usage"] == {
        "input_tokens": 10,
        "output_tokens": 5,
        "cached_input_tokens": 4,
        "reasoning_tokens": 2,
    }


def test_thoughts_and_sources_arrive(host: Host) -> None:
    events = ask(host, "thoughts")
    assert text_of(events, "reasoning.delta") == "Three times three."
    assert text_of(events) == "Nine."
    (source,) = only(ask(host, "cites"), "source")
    assert (source["url"], source["title"]) == (CITE, "A page")


@pytest.mark.parametrize("agent", ["tools_chat", "tools_responses"])
def test_two_tools_at_once(host: Host, agent: str) -> None:
    events = ask(host, agent)
    assert kinds(events) == [
        *("run.started", "step", "message.delta", "tool.call", "tool.result"),
        *("step", "message.delta", "run.completed"),
    ]
    calls = {it["id"]: it for it in only(events, "tool.call")}
    assert {
        (it["name"], it["arguments"]["city" if i == "call_weather" else "zone"])
        for i, it in calls.items()
    } == {("weather", "Rome"), ("clock", "UTC")}
    results = {it["id"]: it["output"] for it in only(events, "tool.result")}
    assert results == {"call_weather": "cold in Rome", "call_clock": "noon in UTC"}
    # Narration is in the parts; the answer is the last message.
    assert text_of(events) == "Let me look that up.It is cold in Rome at noon."
    assert events[-1]["output"] == "It is cold in Rome at noon."
    assert events[-1]["usage"]["input_tokens"] == 20


def test_a_tool_that_fails(host: Host) -> None:
    events = ask(host, "fails")
    (result,) = only(events, "tool.result")
    assert result["error"] == "it failed for no reason"
    assert (events[-1]["type"], events[-1]["code"]) == ("run.failed", "agent_error")


def test_an_endless_loop_ends_at_its_steps(host: Host) -> None:
    events = ask(host, "loop")
    assert (events[-1]["code"], events[-1]["retryable"]) == ("too_many_steps", False)
    calls = [it["id"] for it in only(events, "tool.call")]
    # A round is two steps of a graph: the model's and its tools'.
    assert 24 <= len(calls) <= 26 and len(set(calls)) == len(calls)
    assert len(only(events, "tool.result")) >= len(calls) - 1


@pytest.mark.parametrize("agent", ["structured", "structured_by_tool"])
def test_structured_output_is_data_and_the_answer(host: Host, agent: str) -> None:
    """Also for who reads only text, and where the model has given it by a call."""
    told = host.ask(agent, "Why?")
    (data,) = told.all("data")
    weather = {"city": "Rome", "degrees": 7}
    assert (data["name"], data["value"]) == ("output", weather)
    assert json.loads(host.record(told.run_id)["output"]) == weather
    assert told.end["finish_reason"] == "stop"


def test_what_a_node_returns_as_its_own_is_told_once(host: Host) -> None:
    """And what others say again in the same words, once more."""
    told = host.ask("copies", "Why?")
    texts = [part["text"] for part in told.books.parts if part["type"] == "text"]
    assert texts == [*[ANSWER] * 5, "Nine."]
    assert len(told.all("step")) == 6
    # What was said last is no part of the state.
    assert told.end["output"] == ANSWER


def test_calls_that_a_node_returns_as_its_own_are_told_once(host: Host) -> None:
    told = host.ask("copies_calls", "Why?")
    assert [it["id"] for it in told.all("tool.call")] == ["call_weather", "call_clock"]
    assert {it["id"] for it in told.all("tool.result")} == {"call_weather", "call_clock"}
    assert told.text == "Let me look that up.It is cold in Rome at noon."


def test_two_nodes_side_by_side_are_not_garbled(host: Host) -> None:
    events = ask(host, "side_by_side")
    assert text_of(events) in (words("a") + words("b"), words("b") + words("a"))
    assert [it["name"] for it in only(events, "step")] in (["a", "b"], ["b", "a"])


def test_a_sub_agent_is_a_step_of_its_own(host: Host) -> None:
    events = ask(host, "with_sub_agent")
    assert [it["name"] for it in only(events, "step")] == ["researcher", "researcher", "writer"]
    assert len(only(events, "tool.call")) == len(only(events, "tool.result")) == 2
    assert events[-1]["output"] == ANSWER


def test_options_are_the_input_of_a_graph_without_messages(host: Host) -> None:
    events = ask(host, "of_a_topic", options={"topic": "ab", "times": 2})
    data = {it["name"]: it["value"] for it in only(events, "data")}
    assert data["draft"] == {"topic": "ab"} and data["custom"] == "anything"
    assert data["output"] == {"topic": "ab", "times": 2, "text": "abab"}
    assert json.loads(events[-1]["output"]) == data["output"]
    wrong = ask(host, "of_a_topic", options={"topic": "ab", "times": "often"})[-1]
    assert wrong["code"] == "invalid_options" and "times" in wrong["message"]


def test_whole_exchanges_reach_the_graph(host: Host) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    messages: list[Event] = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "cold"},
        {"role": "user", "content": [{"type": "text", "text": "And this?"}, picture]},
    ]
    before = len(host.model.requests)
    ask(host, "plain", messages=messages)
    sent = host.model.requests[before].body["messages"]
    assert [it["role"] for it in sent] == ["system", "user", "assistant", "tool", "user"]
    assert sent[2]["tool_calls"][0]["function"]["name"] == "weather"
    assert sent[3]["tool_call_id"] == "c"
    assert sent[4]["content"][1]["image_url"]["url"] == picture["image_url"]["url"]  # type: ignore[index]


@pytest.mark.parametrize("member", ["file_url", "file_data"])
def test_a_file_that_is_elsewhere_keeps_its_address(host: Host, member: str) -> None:
    url = "https://x.test/a.pdf"
    content = [{"type": "text", "text": "?"}, {"type": "file", "file": {member: url}}]
    ask(host, "cites", messages=[{"role": "user", "content": content}])
    said = host.model.requests[-1].body["input"][-1]["content"]
    assert said[1] == {"type": "input_file", "file_url": url}


@pytest.mark.parametrize(
    ("agent", "code", "retryable"),
    [
        ("limited", "upstream_rate_limited", True),
        ("down", "upstream_error", True),
        ("broken", "upstream_broken_stream", True),
    ],
)
def test_errors_are_told_by_kind(host: Host, agent: str, code: str, retryable: bool) -> None:
    end = ask(host, agent)[-1]
    assert (end["type"], end["code"], end["retryable"]) == ("run.failed", code, retryable)
    assert "secret" not in json.dumps(end)


def test_an_answer_that_is_cut_says_so(host: Host) -> None:
    assert ask(host, "length")[-1]["finish_reason"] == "length"


def test_context_variables_are_a_run_s_own(host: Host) -> None:
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda _: text_of(ask(host, "context")), range(16)))
    assert told == ["its own"] * 16


def test_what_a_graph_is_given_may_follow_from_the_run(host: Host) -> None:
    events = ask(host, "greets", "Rome", options={"name": "Ann"})
    assert text_of(events) == "Greet Rome for Ann"


def test_a_question_is_answered_by_the_next_run(host: Host) -> None:
    events = ask(host, "asks", conversation_id="q1")
    (request,) = only(events, "input.request")
    assert (request["kind"], request["message"]) == ("question", "Which city?")
    assert events[-1]["finish_reason"] == "input_required"
    wrong = ask(host, "asks", conversation_id="q1", resume=[{"id": "x", "payload": "Oslo"}])
    assert wrong[-1]["code"] == "invalid_options" and request["id"] in wrong[-1]["message"]
    resume = [{"id": request["id"], "payload": "Oslo"}]
    events = ask(host, "asks", conversation_id="q1", resume=resume)
    assert text_of(events) == "It is Oslo."
    assert events[-1]["finish_reason"] == "stop"
    # It is answered.
    assert (
        ask(host, "asks", conversation_id="q1", resume=resume)[-1]["code"] == "invalid_options"
    )


def test_who_waits_outside_of_a_conversation_is_told(host: Host) -> None:
    end = ask(host, "asks")[-1]
    assert end["code"] == "invalid_options" and "conversation_id" in end["message"]


def test_a_checkpointer_keeps_what_was_said(host: Host) -> None:
    told = [text_of(ask(host, "remembers", word, conversation_id="m1")) for word in "xyz"]
    assert told == ["x", "x, y", "x, y, z"]
    assert text_of(ask(host, "remembers", "other", conversation_id="m2")) == "other"
    url = f"{host.url}/v1/conversations/m1"
    assert httpx.delete(url, headers=KEY).status_code == 204
    assert text_of(ask(host, "remembers", "new", conversation_id="m1")) == "new"


@pytest.mark.parametrize("agent", ["careful", "careful_tool", "careful_elsewhere"])
def test_a_graph_that_remembers_goes_on_without_an_answer(host: Host, agent: str) -> None:
    """Each call has one result, which endpoints insist on, and each question is asked once."""
    conversation = f"c-{agent}"
    ask(host, agent, "first", conversation_id=conversation)
    events = ask(host, agent, "delete", conversation_id=conversation)
    assert events[-1]["finish_reason"] == "input_required"
    said, _, results = text_of(
        ask(host, agent, "next", conversation_id=conversation)
    ).partition(": ")
    assert said == "user assistant user assistant tool tool user"
    weather = "cold in Rome" if agent != "careful" else UNANSWERED
    assert results.split(" | ") == [weather, UNANSWERED]
    # What it waited for is not waited for any more.
    events = ask(host, agent, "last", conversation_id=conversation)
    assert text_of(events).startswith(f"{said} assistant user: ")
    resume = [{"id": "x", "status": "resolved", "payload": "yes"}]
    events = ask(host, agent, conversation_id=conversation, resume=resume)
    assert events[-1]["code"] == "invalid_options"


def test_results_that_a_graph_has_are_not_given_to_it_again(host: Host) -> None:
    """A client that has the history sends what tools gave: endpoints refuse it twice."""
    thread = {"threadId": "results", "runId": "r"}
    messages: list[Event] = [{"id": "1", "role": "user", "content": "Why?"}]
    for _ in range(2):
        body = {**thread, "messages": messages}
        assert host.post("/agui/structured_keeper", body).status_code == 200
        call: Event = {"id": "call_1", "type": "function"}
        call["function"] = {"name": "Weather", "arguments": "{}"}
        messages += [
            {"id": "2", "role": "assistant", "content": "Here it is: ", "toolCalls": [call]},
            {"id": "3", "role": "tool", "toolCallId": "call_1", "content": "x"},
            {"id": "4", "role": "user", "content": "And then?"},
        ]
    said = [it["role"] for it in host.model.requests[-1].body["messages"]]
    assert said == ["user", "assistant", "tool", "user"]


def test_what_a_call_gave_before_its_run_failed_is_kept_once(host: Host) -> None:
    """By a state whose messages are added up."""
    assert ask(host, "adds", "call", conversation_id="a1")[-1]["type"] == "run.failed"
    told = [text_of(ask(host, "adds", word, conversation_id="a1")) for word in "xy"]
    assert told == ["human ai tool human", "human ai tool human ai human"]


def test_runs_of_a_conversation_that_is_remembered_wait_for_each_other(host: Host) -> None:
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(ask, host, "remembers", it, conversation_id="w") for it in "123"]
        told = sorted((text_of(it.result()) for it in asked), key=len)
    assert [len(it.split(", ")) for it in told] == [1, 2, 3]
    slow = threading.Thread(target=ask, args=(host, "slow"), kwargs={"conversation_id": "b"})
    slow.start()
    wait_until(lambda: host.model.open, "the slow one is on")
    body: Event = {"agent": "slow", "input": "x", "conversation_id": "b"}
    refused = host.post("/v1/runs", {**body, "options": {"if_busy": "refuse"}})
    assert (refused.status_code, refused.json()["code"]) == (409, "conversation_busy")
    wrong = host.post("/v1/runs", {**body, "options": {"if_busy": 1}})
    assert (wrong.status_code, wrong.json()["field"]) == (422, "options.if_busy")
    slow.join()


@pytest.mark.parametrize(
    ("agent", "sign", "asked"),
    [
        # Before the first byte; in a text, a tool, a loop; of an agent that a tool asks.
        ("silent", "run.started", 1),
        ("slow", "message.delta", 1),
        ("waits", "tool.call", 1),
        ("slow_loop", "tool.result", 2),
        ("asks_expert", "tool.call", 2),
    ],
)
def test_a_cancelled_run_leaves_the_model(
    host: Host, agent: str, sign: str, asked: int
) -> None:
    host.check_cancelling(agent, "Why?", sign, asked)


def test_many_at_once_leave_nothing_open(host: Host) -> None:
    with ThreadPoolExecutor(32) as pool:
        told = list(pool.map(lambda _: text_of(ask(host, "tools_chat")), range(32)))
    assert set(told) == {"Let me look that up.It is cold in Rome at noon."}
    wait_until(lambda: host.model.open == 0, "nothing is open")


def test_hosted_answers_are_not_cached_unless_that_is_said(host: Host) -> None:
    def cached(agent: str) -> bool:
        return bool(ask(host, agent, "The same?")[-1]["cached"])

    assert [cached("plain") for _ in range(2)] == [False, False]
    assert [cached("kept_in_cache") for _ in range(2)] == [False, True]


def test_what_a_factory_opens_is_closed_with_the_runner(tmp_path: Path) -> None:
    with graphs(tmp_path, AGENTS="opened=tests.hosting.apart.graphs:opened") as host:
        assert text_of(ask(host, "opened")) == ANSWER
        assert (tmp_path / "data" / "opened").exists()
    assert (tmp_path / "data" / "closed").exists()


def chat_of(host: Host, chat: str, messages: list[Event]) -> list[Event]:
    body = {"id": chat, "messages": messages, "agent": "approve"}
    url, reader, found = f"{host.url}/api/chat", EventReader(), list[Event]()
    with httpx.stream("POST", url, json=body, headers=KEY, timeout=60) as response:
        assert response.status_code == 200, response.read()
        for chunk in response.iter_bytes():
            found += [json.loads(it.data) for it in reader.feed(chunk) if it.data != "[DONE]"]
    return found


@pytest.mark.parametrize("approved", [True, False])
def test_an_approval_outlives_the_whole_service(tmp_path: Path, approved: bool) -> None:
    """Asked natively, and in a chat of AI SDK; the service is killed with all it started."""
    agents = "approve=tests.hosting.apart.graphs:approve"
    chat = str(tmp_path.name)
    said = [{"role": "user", "parts": [{"type": "text", "text": "Delete it."}]}]
    with graphs(tmp_path, AGENTS=agents) as host:
        events = ask(host, "approve", conversation_id="c1")
        (request,) = only(events, "input.request")
        assert (request["kind"], request["tool_call_id"]) == ("approval", "call_del")
        assert events[-1]["finish_reason"] == "input_required"
        parts = chat_of(host, chat, said)
        (asked,) = [it for it in parts if it["type"] == "tool-approval-request"]
        assert asked["toolCallId"] == "call_del"
        with Redis.from_url(host.plateau.streams_url) as redis:
            wait_until(lambda: is_on_disk(redis), "the store has written it")
        host.plateau.kill()
    with graphs(tmp_path, AGENTS=agents) as host:
        payload = {"approved": approved}
        resume = [{"id": request["id"], "payload": payload}]
        events = ask(host, "approve", conversation_id="c1", resume=resume)
        assert text_of(events) == ("Done." if approved else "Then not.")
        assert events[-1]["finish_reason"] == "stop"
        part = {
            "type": "tool-delete",
            "toolCallId": "call_del",
            "state": "approval-responded",
            "input": {"path": "/a"},
            "approval": {"id": asked["approvalId"], "approved": approved},
        }
        answered = {"id": "m1", "role": "assistant", "parts": [part]}
        parts = chat_of(host, chat, [*said, answered])
        text = "".join(it["delta"] for it in parts if it["type"] == "text-delta")
        assert text == ("Done." if approved else "Then not.")


def test_the_slow_model_says_all(host: Host) -> None:
    assert text_of(ask(host, "slow")) == NUMBERS

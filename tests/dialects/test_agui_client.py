"""AG-UI's own client, unchanged, at a service of two workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from plateau_sse.eventsource import EventReader
from tests.clients.packages import HERE, NODE, install
from tests.dialects.agents import LONG, PIXEL, TEXT, THOUGHT, WORDS
from tests.dialects.stage import KEY, Stage, anew, staged
from tests.processes import environment, wait_until

PROGRAM = HERE / "programs" / "agui.mjs"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    if cause := install():
        pytest.skip(cause)
    with staged(tmp_path_factory.mktemp("agui")) as found:
        yield found


@dataclass
class Told:
    """What the agent's messages have come to, and what each run has told."""

    messages: list[dict[str, Any]]
    runs: list[dict[str, Any]]
    tried: list[dict[str, Any]]

    @property
    def types(self) -> list[str]:
        """Of the first run; what is told in pieces counts once."""
        found = [event["type"] for event in self.runs[0]["events"]]
        return [it for n, it in enumerate(found) if n == 0 or found[n - 1] != it]

    def said(self, role: str) -> str:
        return "".join(it.get("content") or "" for it in self.messages if it["role"] == role)


def user(text: str) -> dict[str, Any]:
    return {"id": anew(), "role": "user", "content": text}


def run(
    stage: Stage,
    agent: str,
    *runs: dict[str, Any],
    thread_id: str = "",
    history: list[dict[str, Any]] | None = None,
) -> Told:
    """Ask in a program of its own."""
    asked = {
        "url": f"{stage.url}/agui/{agent}",
        "headers": KEY,
        "threadId": thread_id or anew(),
        "history": history,
        "runs": runs,
    }
    done = subprocess.run(
        [NODE, PROGRAM, json.dumps(asked)],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment({}),
        cwd=stage.folder,
    )
    assert done.returncode == 0, done.stderr
    # It says what it takes away, and what it does not know.
    assert "[ag-ui]" not in done.stderr, done.stderr
    return Told(**json.loads(done.stdout))


def check_told(told: Told, of: int = 0) -> None:
    seen = told.runs[of]
    assert seen["error"] is None and seen["failed"] is None
    assert (told.said("assistant"), told.said("reasoning")) == (TEXT, THOUGHT)
    outcome = seen["outcome"]
    assert outcome["outcome"] == {"type": "success"}
    assert outcome["usage"] == [{"inputTokens": 7, "outputTokens": 3}]
    calls = [call for it in told.messages for call in it.get("toolCalls") or []]
    assert [(it["id"], it["function"]["arguments"]) for it in calls] == [
        ("c1", '{"query":"snow"}'),
        ("c2", '{"url": "x"}'),
    ]
    results = {it["toolCallId"]: it["content"] for it in told.messages if it["role"] == "tool"}
    assert results == {"c1": '["found",{"more":1}]', "c2": "no such page"}
    events = seen["events"]
    customs = {it["name"]: it["value"] for it in events if it["type"] == "CUSTOM"}
    assert customs["file"] == {"media_type": "image/png", "url": PIXEL}
    assert customs["weather"] == {"at": 1}
    assert customs["source"]["filename"] == "y.pdf"
    steps = [it for it in events if it["type"].startswith("STEP_")]
    assert [(it["type"], it["stepName"]) for it in steps] == [
        ("STEP_STARTED", "answer"),
        ("STEP_FINISHED", "answer"),
    ]


def test_a_run_has_all_events_and_a_hit_the_same(stage: Stage) -> None:
    text = anew()
    told = run(stage, "told", {"message": user(text), "runId": "mine"})
    check_told(told)
    (tried,) = told.tried
    assert (tried["status"], tried["cache"]) == (200, "miss")
    first, last = told.runs[0]["events"][0], told.runs[0]["events"][-1]
    assert first["type"] == "RUN_STARTED" and last["type"] == "RUN_FINISHED"
    assert first["runId"] == last["runId"] == "mine"
    assert first["threadId"] == last["threadId"]
    again = run(stage, "told", {"message": user(text)})
    check_told(again)
    assert again.tried[0]["cache"] == "hit"
    # How far the agent has come is not kept.
    customs = [it for it in told.runs[0]["events"] if it.get("name") != "progress"]
    assert len({it["type"] for it in customs}) == len(set(again.types))


def test_equal_questions_share_a_run_under_ids_of_their_own(stage: Stage) -> None:
    with stage.gate() as gate:
        text = anew()
        asked = {"message": user(text), "forwardedProps": {"gate": str(gate)}}
        found: list[Told] = []

        def ask(name: str) -> None:
            until = {"until": WORDS[0], "touch": str(stage.folder / name)}
            found.append(run(stage, "told", {**asked, **until, "runId": name}))

        names = [anew(), anew()]
        asking = [threading.Thread(target=ask, args=(name,)) for name in names]
        for one in asking:
            one.start()
        for name in names:
            wait_until((stage.folder / name).exists, "it reads")
        gate.touch()
        for one in asking:
            one.join(30)
    assert len({told.tried[0]["run"] for told in found}) == 1 and len(found) == 2
    for told in found:
        check_told(told)
    ends = [(told.runs[0]["events"][0], told.runs[0]["outcome"]) for told in found]
    assert {(first["runId"], last["runId"]) for first, last in ends} == {
        (name, name) for name in names
    }


def test_a_tool_of_the_caller_goes_round(stage: Stage) -> None:
    told = run(stage, "calls", {"message": user(anew())})
    assert told.runs[0]["outcome"]["outcome"] == {
        "type": "success",
        "pendingToolCallIds": ["call-1", "call-2"],
    }
    results = [
        {"id": anew(), "role": "tool", "toolCallId": f"call-{n}", "content": text}
        for n, text in ((1, "cold"), (2, "warm"))
    ]
    again = run(stage, "calls", {}, history=[*told.messages, *results])
    assert again.messages[-1]["content"] == "It is warm."


def test_a_person_is_asked_and_the_next_run_has_the_answer(stage: Stage) -> None:
    """The events are a producer's own."""
    thread_id = anew()

    def produce(posted: list[dict[str, Any]]) -> None:
        url = f"{stage.url}/agui/{thread_id}/events"
        wait_until(lambda: httpx.head(url, headers=KEY).status_code == 200, "it is on")
        run_id = httpx.head(url, headers=KEY).headers["x-plateau-run"]
        answer = httpx.post(f"{stage.url}/v1/runs/{run_id}/events", json=posted, headers=KEY)
        assert answer.status_code == 200, answer.text

    asked = [
        {"type": "message.delta", "text": "May I? "},
        {"type": "tool.call", "id": "c1", "name": "delete", "arguments": {}},
        {
            **{"type": "input.request", "id": "i1", "kind": "approval"},
            **{"message": "Delete?", "tool_call_id": "c1"},
        },
        {
            **{"type": "input.request", "id": "i2", "kind": "question"},
            **{"message": "Which?", "schema": {"type": "string"}},
        },
        {"type": "run.completed", "finish_reason": "input_required"},
    ]
    producing = threading.Thread(target=produce, args=(asked,))
    producing.start()
    told = run(stage, "external", {"message": user(anew())}, thread_id=thread_id)
    producing.join(20)
    assert told.runs[0]["failed"] is None
    assert told.runs[0]["outcome"]["outcome"] == {
        "type": "interrupt",
        "interrupts": [
            {"id": "i1", "reason": "tool_call", "message": "Delete?", "toolCallId": "c1"},
            {
                **{"id": "i2", "reason": "input_required", "message": "Which?"},
                "responseSchema": {"type": "string"},
            },
        ],
    }
    resume = [
        {"interruptId": "i1", "status": "resolved", "payload": {"approved": True}},
        {"interruptId": "i2", "status": "cancelled"},
    ]
    again = run(stage, "options", {"resume": resume}, history=told.messages)
    said = again.messages[-1]["content"]
    assert "{'id': 'i1', 'status': 'resolved', 'payload': {'approved': True}}" in said
    assert "{'id': 'i2', 'status': 'cancelled'}" in said
    assert "'tool_call_id': 'c1'" in said


def test_a_failure_and_a_refusal_are_errors(stage: Stage) -> None:
    body = {"forwardedProps": {"before": True}}
    told = run(stage, "fails", {"message": user(anew()), **body})
    error = told.runs[0]["error"]
    assert (error["message"], error["code"]) == ("It broke.", "upstream_error")
    assert told.said("assistant") == "Half an "
    refused = run(stage, "nobody", {"message": user(anew())})
    assert "422" in refused.runs[0]["failed"] and "nobody" in refused.runs[0]["failed"]


def test_an_answer_that_is_no_text_is_a_message(stage: Stage) -> None:
    assert run(stage, "concludes", {"message": user(anew())}).said("assistant") == (
        "What was meant."
    )


def test_what_is_cut_off_says_so(stage: Stage) -> None:
    told = run(stage, "cut_off", {"message": user(anew())})
    assert told.runs[0]["outcome"]["metadata"] == {"finishReason": "length"}


def test_a_page_that_is_loaded_anew_connects(stage: Stage) -> None:
    """By whoever asked, and by another; while it is on, and for a minute after."""
    thread_id, question = anew(), user(anew())
    with stage.gate() as gate:
        asked = {"message": question, "forwardedProps": {"gate": str(gate)}, "runId": "mine"}
        found: list[Told] = []

        def ask() -> None:
            found.append(run(stage, "told", asked, thread_id=thread_id))

        asking = threading.Thread(target=ask)
        asking.start()
        url = f"{stage.url}/agui/{thread_id}/events"
        wait_until(lambda: httpx.head(url, headers=KEY).status_code == 200, "it is on")
        connect = {"connect": True, "until": WORDS[0], "touch": str(gate)}
        told = run(stage, "told", connect, thread_id=thread_id, history=[question])
        asking.join(30)
    check_told(told)
    check_told(found[0])
    assert told.runs[0]["events"][0]["runId"] == "mine"
    late = run(stage, "told", {"connect": True}, thread_id=thread_id, history=[question])
    check_told(late)
    nothing = httpx.get(f"{stage.url}/agui/{anew()}/events", headers=KEY)
    assert nothing.status_code == 204
    other = {"Authorization": "Bearer the-key-of-bob"}
    assert httpx.get(url, headers=other).status_code == 204


def blocks(content: str) -> list[tuple[str, dict[str, Any]]]:
    """Each event with its id, '' for none."""
    found = []
    for block in content.split("\n\n")[:-1]:
        lines = dict(
            line.split(": ", 1) for line in block.split("\n") if not line.startswith(":")
        )
        found.append((lines.get("id", ""), json.loads(lines["data"])))
    return found


def folded(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for event in events:
        last = found[-1] if found else {}
        if "delta" in event and {**last, "delta": ""} == {**event, "delta": ""}:
            found[-1] = {**last, "delta": last["delta"] + event["delta"]}
        else:
            found.append(event)
    return found


def posted(stage: Stage, agent: str, thread_id: str, **more: Any) -> httpx.Response:
    body = {"threadId": thread_id, "runId": "mine", "messages": [user(anew())], **more}
    return httpx.post(f"{stage.url}/agui/{agent}", json=body, headers=KEY, timeout=30)


@pytest.mark.parametrize("agent", ["told", "calls", "takes_turns", "goes_on"])
def test_dropped_at_every_event_it_goes_on_where_it_was(stage: Stage, agent: str) -> None:
    thread_id = anew()
    whole = [it for it in blocks(posted(stage, agent, thread_id).text) if it[0]]
    expected = folded([event for _, event in whole])
    step = max(1, len(whole) // 20)
    for number in range(0, len(whole), step):
        headers = KEY | {"Last-Event-ID": whole[number][0]}
        rest = httpx.get(f"{stage.url}/agui/{thread_id}/events", headers=headers)
        seen = [event for _, event in whole[: number + 1]]
        last = [event for _, event in blocks(rest.text)] if rest.status_code == 200 else []
        assert folded(seen + last) == expected, whole[number]


def test_who_is_cut_off_while_it_is_on_goes_on_where_it_was(stage: Stage) -> None:
    thread_id = anew()
    url = f"{stage.url}/agui/{thread_id}/events"
    with stage.gate() as gate:
        body = {
            **{"threadId": thread_id, "runId": "mine", "messages": [user(anew())]},
            "forwardedProps": {"gate": str(gate)},
        }
        ask = httpx.stream("POST", f"{stage.url}/agui/goes_on", json=body, headers=KEY)
        last, said = read_until(ask, LONG[:2])
        again = httpx.stream("GET", url, headers=KEY | {"Last-Event-ID": last})
        with again as response:
            gate.touch()
            response.read()
        rest = [event for _, event in blocks(response.text)]
    said += "".join(it["delta"] for it in rest if it["type"] == "TEXT_MESSAGE_CONTENT")
    assert said == LONG and rest[-1]["type"] == "RUN_FINISHED"
    assert rest[-1]["runId"] == "mine"


def read_until(ask: Any, text: str) -> tuple[str, str]:
    """The last id and what was said, up to where the text stands in it."""
    reader, said, last = EventReader(), "", ""
    with ask as response:
        assert response.status_code == 200
        for piece in response.iter_bytes():
            for message in reader.feed(piece):
                event = json.loads(message.data)
                last = message.id or last
                if event["type"] == "TEXT_MESSAGE_CONTENT":
                    said += event["delta"]
            if text in said:
                break
    return last, said


def test_a_cancelled_run_says_so(stage: Stage) -> None:
    thread_id = anew()
    with stage.gate() as gate:

        def cancel() -> None:
            url = f"{stage.url}/agui/{thread_id}/events"
            wait_until(lambda: httpx.head(url, headers=KEY).status_code == 200, "it is on")
            run_id = httpx.head(url, headers=KEY).headers["x-plateau-run"]
            wait_until(lambda: stage.record(run_id)["status"] == "running", "it runs")
            httpx.post(f"{stage.url}/v1/runs/{run_id}/cancel", headers=KEY)

        cancelling = threading.Thread(target=cancel)
        cancelling.start()
        asked = {"message": user(anew()), "forwardedProps": {"gate": str(gate)}}
        told = run(stage, "told", asked, thread_id=thread_id)
        cancelling.join(20)
    assert told.runs[0]["outcome"]["outcome"] == {"type": "cancelled"}


def test_what_is_asked_is_what_an_agent_is_given(stage: Stage) -> None:
    parts = [
        {"type": "text", "text": "x"},
        {"type": "image", "source": {"type": "data", "value": "iVBO", "mimeType": "image/png"}},
    ]
    asked = {
        "message": {"id": anew(), "role": "user", "content": parts},
        "tools": [{"name": "f", "description": "d", "parameters": {"type": "object"}}],
        "context": [{"description": anew(), "value": "v"}],
        "forwardedProps": {"made_up": 1},
    }
    said = run(stage, "options", asked).said("assistant")
    for expected in (
        "('made_up', 1)",
        "('context', [{",
        "('tools', [{'type': 'function', 'function': {'name': 'f', 'description': 'd'",
        "{'url': 'data:image/png;base64,iVBO'}",
    ):
        assert expected in said, said


def test_a_worker_that_leaves_breaks_off_and_the_page_connects(tmp_path: Path) -> None:
    """A clean end would be taken for the run's."""
    if cause := install():
        pytest.skip(cause)
    with staged(tmp_path) as stage, stage.gate() as gate:
        here, thread_id, question = tmp_path / "here", anew(), user(anew())
        found: list[Told] = []

        def ask() -> None:
            asked = {"message": question, "forwardedProps": {"gate": str(gate)}}
            until = {"until": WORDS[0], "touch": str(here)}
            found.append(run(stage, "told", {**asked, **until}, thread_id=thread_id))

        asking = threading.Thread(target=ask)
        asking.start()
        wait_until(here.exists, "it reads")
        stage.replace_workers()
        asking.join(30)
        assert found[0].runs[0]["failed"] and found[0].runs[0]["outcome"] is None
        connect = {"connect": True, "until": WORDS[0], "touch": str(gate)}
        check_told(run(stage, "told", connect, thread_id=thread_id, history=[question]))


def test_an_attempt_that_begins_again_behind_text_is_an_error(tmp_path: Path) -> None:
    if cause := install():
        pytest.skip(cause)
    with staged(tmp_path) as stage, stage.gate() as gate:
        here, thread_id, question = tmp_path / "here", anew(), user(anew())

        def kill() -> None:
            wait_until(here.exists, "it reads")
            for runner in stage.plateau.pids("runner"):
                os.kill(runner, signal.SIGKILL)

        killing = threading.Thread(target=kill)
        killing.start()
        asked = {"message": question, "forwardedProps": {"gate": str(gate)}}
        until = {"until": "attempt 1", "touch": str(here)}
        told = run(stage, "stumbles", {**asked, **until}, thread_id=thread_id)
        killing.join(20)
        assert told.runs[0]["error"]["code"] == "restarted"
        again = run(stage, "stumbles", {"connect": True}, thread_id=thread_id)
        assert again.said("assistant") == "attempt 2 is over."

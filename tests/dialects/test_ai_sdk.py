"""AI SDK's own client, unchanged, at a service of two workers."""

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

from tests.clients.packages import HERE, NODE, install
from tests.dialects.agents import PIXEL, TEXT, THOUGHT, WORDS
from tests.dialects.stage import ENV, KEY, Stage, anew, staged
from tests.hosting.endpoint import Asked, scripted_model
from tests.hosting.wires import Call, Piece, Say
from tests.processes import environment, serving, wait_until

PROGRAM = HERE / "programs" / "chat.mjs"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    if cause := install():
        pytest.skip(cause)
    with staged(tmp_path_factory.mktemp("ai")) as found:
        yield found


@dataclass
class Told:
    """What the chat has come to."""

    messages: list[dict[str, Any]]
    status: str
    error: str | None
    finish: dict[str, Any]
    called: list[str]
    datas: list[dict[str, Any]]
    tried: list[dict[str, Any]]

    @property
    def answer(self) -> dict[str, Any]:
        return self.messages[-1]

    @property
    def text(self) -> str:
        return "".join(it["text"] for it in self.answer["parts"] if it["type"] == "text")

    def parts(self, type_: str) -> list[dict[str, Any]]:
        return [it for it in self.answer["parts"] if it["type"] == type_]


def chat(
    stage: Stage,
    agent: str,
    *actions: list[Any],
    body: dict[str, Any] | None = None,
    chat_id: str = "",
    **more: Any,
) -> Told:
    """Run the actions, in a program of its own."""
    asked = {
        "url": f"{stage.url}/api/chat",
        "headers": KEY,
        "id": chat_id or anew(),
        "body": {"agent": agent, **(body or {})},
        "actions": actions,
        **more,
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
    found = json.loads(done.stdout)
    return Told(**({"error": None, "finish": {}} | found))


def check_told(told: Told) -> None:
    """All parts, in their order, each as its client has it."""
    assert told.status == "ready" and told.finish["reason"] == "stop"
    assert told.text == TEXT
    kinds = [part["type"] for part in told.answer["parts"]]
    assert kinds == [
        *("step-start", "reasoning", "tool-search", "tool-fetch"),
        *("source-url", "source-document", "step-start", "text", "file", "data-weather"),
    ]
    assert told.parts("reasoning")[0]["text"] == THOUGHT
    assert all(
        part["state"] == "done" for kind in ("text", "reasoning") for part in told.parts(kind)
    )
    (search,) = told.parts("tool-search")
    assert search["state"] == "output-available" and search["providerExecuted"]
    assert search["input"] == {"query": "snow"} and search["output"] == ["found", {"more": 1}]
    (fetch,) = told.parts("tool-fetch")
    assert (fetch["state"], fetch["errorText"]) == ("output-error", "no such page")
    assert fetch["input"] == {"url": "x"}
    (page,) = told.parts("source-url")
    assert (page["sourceId"], page["url"], page["title"]) == ("s1", "https://x.test/", "X")
    (paper,) = told.parts("source-document")
    assert (paper["mediaType"], paper["filename"]) == ("application/pdf", "y.pdf")
    assert told.parts("file")[0]["url"] == PIXEL
    assert told.parts("data-weather")[0] == {
        "type": "data-weather",
        "id": "w",
        "data": {"at": 1},
    }
    # Its agent executes those.
    assert told.called == []


def test_a_chat_has_every_part_and_a_hit_the_same(stage: Stage) -> None:
    text = anew()
    with stage.gate() as gate:
        body = {"gate": str(gate)}
        # Progress is told to who reads while the run is on.
        live = ["send", text], ["until", WORDS[0]], ["touch", str(gate)], ["settled"]
        told = chat(stage, "told", *live, body=body)
    check_told(told)
    (tried,) = told.tried
    assert (tried["status"], tried["cache"]) == (200, "miss")
    assert told.answer["id"] == f"msg_{tried['run']}"
    assert any(data["type"] == "data-progress" for data in told.datas)
    again = chat(stage, "told", ["send", text], ["settled"], body=body)
    check_told(again)
    assert again.tried[0]["cache"] == "hit"
    assert [it["type"] for it in again.answer["parts"]] == [
        it["type"] for it in told.answer["parts"]
    ]


def test_a_page_that_is_loaded_anew_resumes(stage: Stage) -> None:
    with stage.gate() as gate:
        told = chat(
            stage,
            "told",
            ["send", anew()],
            ["until", WORDS[0]],
            ["reload"],
            ["until", WORDS[0]],
            ["touch", str(gate)],
            ["settled"],
            body={"gate": str(gate)},
        )
    check_told(told)
    first, second = told.tried
    assert first["run"] == second["run"] and len(told.messages) == 2


def test_a_second_page_of_the_chat_reads_along(stage: Stage) -> None:
    chat_id = anew()
    with stage.gate() as gate:
        found: list[Told] = []

        def ask() -> None:
            actions: list[list[Any]] = [["send", "Hi"], ["until", "end."], ["settled"]]
            body = {"gate": str(gate)}
            found.append(chat(stage, "told", *actions, body=body, chat_id=chat_id))

        asking = threading.Thread(target=ask)
        asking.start()
        stream = f"{stage.url}/api/chat/{chat_id}/stream"
        wait_until(lambda: httpx.head(stream, headers=KEY).status_code == 200, "it is on")
        second = chat(
            stage,
            "told",
            ["resume"],
            ["until", WORDS[0]],
            ["touch", str(gate)],
            ["until", "end."],
            ["settled"],
            chat_id=chat_id,
        )
        asking.join(30)
    check_told(found[0])
    assert second.text == found[0].text and second.answer["id"] == found[0].answer["id"]


def test_what_has_just_ended_is_resumed_and_what_is_not_there_is_not(stage: Stage) -> None:
    told = chat(stage, "told", ["send", anew()], ["settled"], ["reload"], ["until", "end."])
    assert [tried["status"] for tried in told.tried] == [200, 200]
    nothing = chat(stage, "told", ["resume"], ["answered", 1], ["settled"])
    assert [tried["status"] for tried in nothing.tried] == [204]
    assert (nothing.status, nothing.messages) == ("ready", [])


def test_a_hit_that_was_just_asked_for_is_resumed(stage: Stage) -> None:
    text = anew()
    chat(stage, "told", ["send", text], ["settled"])
    again = chat(stage, "told", ["send", text], ["settled"], ["reload"], ["until", "end."])
    assert [tried["cache"] for tried in again.tried] == ["hit", None]
    assert [tried["status"] for tried in again.tried] == [200, 200] and again.text == TEXT


def test_a_long_answer_is_resumed_from_its_first_chunk(stage: Stage) -> None:
    """Behind more events than are kept one by one."""
    with stage.gate() as gate:
        told = chat(
            stage,
            "takes_turns",
            ["send", anew()],
            ["until", "word 89"],
            ["reload"],
            ["until", "word 89"],
            ["touch", str(gate)],
            ["settled"],
            body={"gate": str(gate)},
        )
    record = stage.record(told.tried[0]["run"])
    said = [(it["type"], it["text"]) for it in record["parts"]]
    parts = told.answer["parts"]
    assert parts[0]["type"] == "step-start"
    assert [(it["type"], it["text"]) for it in parts[1:]] == said


def test_stop_stops(stage: Stage) -> None:
    with stage.gate() as gate:
        told = chat(
            stage,
            "told",
            ["send", anew()],
            ["until", WORDS[0]],
            ["stop"],
            ["stop"],
            ["reload"],
            ["answered", 4],
            ["settled"],
            body={"gate": str(gate)},
        )
        run_id = told.tried[0]["run"]
        wait_until(lambda: stage.record(run_id)["status"] == "cancelled", "it is cancelled")
    assert [tried["status"] for tried in told.tried] == [200, 200, 204, 204]
    assert told.status == "ready"


def test_regenerate_asks_anew(stage: Stage) -> None:
    text = anew()
    told = chat(stage, "told", ["send", text], ["settled"], ["regenerate"], ["settled"])
    check_told(told)
    assert [tried["cache"] for tried in told.tried] == ["miss", "miss"]
    assert told.tried[0]["run"] != told.tried[1]["run"] and len(told.messages) == 2


def test_a_tool_of_the_page_goes_round(stage: Stage) -> None:
    """The page is told to execute it, and the answer goes on in the same message."""
    told = chat(
        stage,
        "calls",
        ["send", anew()],
        ["settled"],
        ["result", "weather", "call-1", "cold"],
        ["result", "weather", "call-2", {"sky": "blue"}],
        ["until", "It is"],
        ["settled"],
        automatic="tools",
    )
    assert told.called == ["call-1", "call-2"]
    assert told.text == 'Let me see. It is {"sky":"blue"}.'
    # One message, which went on.
    assert [message["role"] for message in told.messages] == ["user", "assistant"]
    assert [tried["status"] for tried in told.tried] == [200, 200]
    first, second = told.parts("tool-weather")
    assert first["input"] == {"city": "Oslo"} and second["input"] == {"city": "Rome"}


def numbers_anew(asked: Asked) -> list[Piece]:
    """A model whose first call is the first in each of its answers."""
    given = len(asked.outputs)
    if given == 2:
        return [Say(f"It is {asked.outputs[0]}, then {asked.outputs[1]}.")]
    return [Call("weather", {"city": ("Oslo", "Rome")[given]}, "call_0")]


def test_calls_of_one_message_have_ids_of_their_own(tmp_path: Path) -> None:
    if cause := install():
        pytest.skip(cause)
    with scripted_model(weather=numbers_anew) as model:
        env = ENV | {"OPENAI_BASE_URL": model.base_url, "OPENAI_API_KEY": "-"}
        with serving(tmp_path / "data", env=env) as plateau:
            told = chat(
                Stage(plateau, tmp_path),
                "openai",
                ["send", "weather"],
                ["settled"],
                ["result", "weather", "call_0", "cold"],
                ["answered", 2],
                ["settled"],
                ["result", "weather", "call_0_0", "hot"],
                ["until", "It is"],
                ["settled"],
                automatic="tools",
            )
    assert told.text == "It is cold, then hot."
    first, second = told.parts("tool-weather")
    assert (first["input"], second["input"]) == ({"city": "Oslo"}, {"city": "Rome"})


def test_a_message_that_goes_on_is_resumed_with_what_stood_in_it(stage: Stage) -> None:
    """Nothing of it is done again: the page is not handed its own calls."""
    with stage.gate() as gate:
        told = chat(
            stage,
            "calls",
            ["send", anew()],
            ["settled"],
            ["result", "weather", "call-1", "cold"],
            ["result", "weather", "call-2", {"sky": "blue"}],
            ["until", "It is"],
            ["reload"],
            ["until", "It is"],
            ["touch", str(gate)],
            ["settled"],
            automatic="tools",
            body={"gate": str(gate)},
        )
    assert told.text == 'Let me see. It is {"sky":"blue"}.' and told.called == []
    assert [part["type"] for part in told.answer["parts"]] == [
        *("step-start", "text", "tool-weather", "tool-weather", "step-start", "text"),
    ]
    first, second = told.parts("tool-weather")
    assert (first["input"], first["output"]) == ({"city": "Oslo"}, "cold")
    assert (second["input"], second["output"]) == ({"city": "Rome"}, {"sky": "blue"})
    assert [part["state"] for part in (first, second)] == ["output-available"] * 2
    assert [message["role"] for message in told.messages] == ["user", "assistant"]


def test_what_is_asked_again_alone_takes_the_place_of_what_was(stage: Stage) -> None:
    """Also where its answer was stopped, and ends later."""
    first, second = anew(), anew()
    told = chat(
        stage,
        "options",
        *(["send", first], ["settled"]),
        *(["send", second], ["settled"]),
        *(["regenerate"], ["settled"]),
        *(["regenerate"], ["settled"]),
        single=True,
        chat_id=(chat_id := anew()),
    )
    assert first in told.text and told.text.count(second) == 1
    said = httpx.get(f"{stage.url}/v1/conversations/{chat_id}", headers=KEY).json()["messages"]
    assert [message["role"] for message in said] == ["user", "assistant"] * 2
    with stage.gate() as gate:
        body = {"gate": str(gate)}
        chat_id = anew()
        told = chat(
            stage,
            "told",
            *(["send", anew()], ["until", WORDS[0]], ["stop"]),
            *(["regenerate"], ["until", WORDS[0]], ["touch", str(gate)], ["settled"]),
            single=True,
            body=body,
            chat_id=chat_id,
        )
    check_told(told)
    stopped = told.tried[0]["run"]
    # As cancelled, or before its runner has heard of that: the gate is that of both.
    wait_until(lambda: stage.record(stopped)["ended_at"], "it has ended")
    url = f"{stage.url}/v1/conversations/{chat_id}"

    def roles() -> list[str]:
        said = httpx.get(url, headers=KEY).json()["messages"]
        return [message["role"] for message in said]

    wait_until(lambda: roles() == ["user", "assistant"], "it has one answer")


def test_a_failure_is_shown_and_nothing_spins(stage: Stage) -> None:
    told = chat(stage, "fails", ["send", anew()], ["settled"], body={"before": True})
    assert (told.status, told.error) == ("error", "It broke.")
    (tool,) = told.parts("tool-search")
    assert tool["state"] == "output-error"
    assert told.text == "Half an "


def test_a_cancelled_answer_ends(stage: Stage) -> None:
    chat_id = anew()
    with stage.gate() as gate:

        def cancel() -> None:
            stream = f"{stage.url}/api/chat/{chat_id}/stream"
            wait_until(lambda: httpx.head(stream, headers=KEY).status_code == 200, "it is on")
            run_id = httpx.head(stream, headers=KEY).headers["x-plateau-run"]
            wait_until(lambda: stage.record(run_id)["status"] == "running", "it runs")
            httpx.post(f"{stage.url}/v1/runs/{run_id}/cancel", headers=KEY)

        cancelling = threading.Thread(target=cancel)
        cancelling.start()
        told = chat(
            stage,
            "told",
            ["send", anew()],
            ["settled"],
            body={"gate": str(gate)},
            chat_id=chat_id,
        )
        cancelling.join(20)
    assert told.status == "ready" and "reason" not in told.finish


def test_a_message_alone_stands_behind_what_is_remembered(stage: Stage) -> None:
    first, second = anew(), anew()
    told = chat(
        stage,
        "options",
        ["send", first],
        ["settled"],
        ["send", second],
        ["settled"],
        single=True,
        body={"made_up": {"x": 1}},
    )
    assert told.text.startswith("[('made_up', {'x': 1})]")
    assert first in told.text and second in told.text


def test_an_error_is_a_short_text(stage: Stage) -> None:
    told = chat(stage, "nobody", ["send", "Hi"], ["settled"])
    assert told.status == "error" and told.error and "nobody" in told.error
    assert told.error[0] != "{"
    bodies: list[Any] = [
        {},
        {"id": "c", "messages": "x"},
        {"id": "c", "agent": "told", "messages": [5]},
        {"id": "c", "agent": "told", "messages": [{"role": "user", "parts": [5]}]},
        {"id": "c", "agent": "told", "message": {"role": "robot", "parts": []}},
        {"id": "c", "agent": "told", "messages": [{"role": "user", "parts": []}]},
        {"id": 5},
        [],
    ]
    for body in bodies:
        answer = httpx.post(f"{stage.url}/api/chat", json=body, headers=KEY)
        assert 400 <= answer.status_code < 500, (body, answer.text)
        assert answer.headers["content-type"].startswith("text/plain") and answer.text
    answer = httpx.post(f"{stage.url}/api/chat", json={})
    assert answer.status_code == 401


def test_a_worker_that_leaves_breaks_the_connection_and_the_page_resumes(
    tmp_path: Path,
) -> None:
    """A clean end would be taken for the answer's."""
    if cause := install():
        pytest.skip(cause)
    with staged(tmp_path) as stage, stage.gate() as gate:
        body = {"gate": str(gate)}
        here, back = tmp_path / "here", tmp_path / "back"
        found: list[Told] = []

        def ask() -> None:
            actions: list[list[Any]] = [
                *(["send", "Hi"], ["until", WORDS[0]], ["touch", str(here)]),
                *(["settled"], ["exists", str(back)], ["resume"], ["until", WORDS[0]]),
                *(["touch", str(gate)], ["until", "end."], ["settled"]),
            ]
            found.append(chat(stage, "told", *actions, body=body))

        asking = threading.Thread(target=ask)
        asking.start()
        wait_until(here.exists, "it reads")
        stage.replace_workers()
        back.touch()
        asking.join(60)
        (told,) = found
        check_told(told)
        assert len(told.messages) == 2 and len(told.tried) == 2


def test_an_attempt_that_begins_again_is_taken_back(tmp_path: Path) -> None:
    if cause := install():
        pytest.skip(cause)
    with staged(tmp_path) as stage, stage.gate() as gate:
        here = tmp_path / "here"

        def kill() -> None:
            wait_until(here.exists, "it reads")
            for runner in stage.plateau.pids("runner"):
                os.kill(runner, signal.SIGKILL)

        killing = threading.Thread(target=kill)
        killing.start()
        told = chat(
            stage,
            "stumbles",
            ["send", "Hi"],
            ["until", "attempt 1"],
            ["touch", str(here)],
            ["until", "is over."],
            ["settled"],
            body={"gate": str(gate)},
        )
        killing.join(20)
    assert told.text == "attempt 2 is over." and told.status == "ready"

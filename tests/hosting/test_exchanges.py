"""Agents that remember by themselves, of all frameworks: what of a request is new to them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.dialects.stage import KEY, anew
from tests.hosting.endpoint import Asked
from tests.hosting.hosts import MODULES, Host, hosting
from tests.hosting.scripts import both, delete
from tests.hosting.wires import Hang, Piece, Say, Status
from tests.processes import wait_until


def say(asked: Asked) -> list[Piece]:
    return [Say(f"Heard {asked.user}.")]


def hang(asked: Asked) -> list[Piece]:
    return [Say("Wait "), Hang()]


def fail(asked: Asked) -> list[Piece]:
    return [Status(500, "no")]


SCRIPTS = {"say": say, "hang": hang, "fail": fail, "both": both, "delete": delete}


@pytest.fixture(scope="module", params=MODULES)
def host(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Host]:
    with hosting(request.param, tmp_path_factory.mktemp("exchanges"), SCRIPTS) as found:
        yield found


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def given(host: Host) -> list[str]:
    """What its model was told last, without what the agent itself adds."""
    body = host.model.requests[-1].body
    found = []
    for it in body.get("messages") or body["input"]:
        content = it.get("content")
        if it.get("role") in ("user", "assistant") and content:
            texts = (
                [content] if isinstance(content, str) else [part["text"] for part in content]
            )
            found.append("".join(texts))
    return found


HISTORY = [user("say 1"), assistant("One."), user("say 2")]


def test_a_whole_exchange_is_told_where_nothing_is_remembered(host: Host) -> None:
    body: dict[str, Any] = {"model": "chat_keeper", "messages": HISTORY}
    assert host.post("/v1/chat/completions", body).status_code == 200
    assert given(host) == ["say 1", "One.", "say 2"]
    # Nor is it where the memory of the conversation is empty.
    body = {"model": "chat_keeper", "input": HISTORY, "conversation": anew()}
    for text in ("say 2", "say 3"):
        assert host.post("/v1/responses", body).status_code == 200
        assert given(host)[-1] == text
        body["input"] = "say 3"
    assert given(host) == ["say 1", "One.", "say 2", "Heard say 2.", "say 3"]


def keepers(host: Host) -> list[str]:
    """A graph may be kept by a checkpointer that is none of Plateau's."""
    is_graph = host.framework == "langgraph"
    return ["chat_keeper", "keeper_elsewhere" if is_graph else "responses_keeper"]


def say_in(host: Host, agent: str, thread: str, *history: str) -> None:
    """In a thread of AG-UI, whose client has the history: what the user says and what came of
    it, by turns. What hangs is stopped."""
    roles = ("user", "assistant")
    messages = [
        {"id": str(at), "role": roles[at % 2], "content": it} for at, it in enumerate(history)
    ]
    body = {"threadId": thread, "runId": anew(), "messages": messages}
    url = f"{host.url}/agui/{agent}"
    with httpx.stream("POST", url, json=body, headers=KEY, timeout=60) as response:
        assert response.status_code == 200, response.read()
        for line in response.iter_lines():
            if "Wait" in line:
                host.cancel(response.headers["X-Plateau-Run"])


ONE, TWO, THREE = ((f"say {it}", f"Heard say {it}.") for it in (1, 2, 3))


@pytest.mark.parametrize("broken", ["hang 2", "fail 2"])
def test_what_was_broken_off_is_told_the_next_time(host: Host, broken: str) -> None:
    for agent in keepers(host):
        thread = anew()
        say_in(host, agent, thread, ONE[0])
        say_in(host, agent, thread, *ONE, broken)
        say_in(host, agent, thread, *ONE, broken, "Wait ", "say 3")
        # What a checkpointer of one's own has kept of it is not told again.
        said = ["Wait "] if agent != "keeper_elsewhere" else []
        assert given(host) == [*ONE, broken, *said, "say 3"]
        say_in(host, agent, thread, *ONE, broken, "Wait ", *THREE, "say 4")
        assert given(host) == [*ONE, broken, *said, *THREE, "say 4"]


def test_what_is_asked_again_behind_what_was_broken_off(host: Host) -> None:
    for agent in keepers(host):
        thread = anew()
        say_in(host, agent, thread, ONE[0])
        say_in(host, agent, thread, *ONE, "hang 2")
        for _ in range(2):
            say_in(host, agent, thread, *ONE, "hang 2", "Wait ", "say 3")
            said = [it for it in given(host) if it != "Wait "]
            assert said == [*ONE, "hang 2", "say 3"]


def test_what_is_asked_again_is_asked_once(host: Host) -> None:
    for agent in keepers(host):
        thread = anew()
        say_in(host, agent, thread, ONE[0])
        say_in(host, agent, thread, *ONE, "say 2")
        for _ in range(2):
            say_in(host, agent, thread, *ONE, "say 2")
            assert given(host) == [*ONE, "say 2"]
        say_in(host, agent, thread, *ONE, *TWO, "say 3")
        assert given(host) == [*ONE, *TWO, "say 3"]
        # The first one, too.
        say_in(host, agent, thread, ONE[0])
        assert given(host) == ["say 1"]
        say_in(host, agent, thread, *ONE, "say 3")
        assert given(host) == [*ONE, "say 3"]


# Of a graph's state that Plateau keeps there is only the latest.
GO_BACK = pytest.mark.parametrize("host", ["pydantic-ai", "openai-agents"], indirect=True)


@GO_BACK
def test_what_came_before_what_is_asked_again_is_remembered_whole(host: Host) -> None:
    """With its calls, which its client has not sent."""
    thread, cold = anew(), ("both", "Cold.")
    say_in(host, "chat_keeper", thread, "both")
    say_in(host, "chat_keeper", thread, *cold, "say 2")
    for text in ("say 2", "say 3"):
        say_in(host, "chat_keeper", thread, *cold, text)
        said = [it["role"] for it in host.model.requests[-1].body["messages"]]
        assert said.count("tool") == 2
        assert [it for it in given(host) if "say" in it] == [text]


@GO_BACK
def test_what_waits_may_be_asked_again(host: Host) -> None:
    thread = anew()
    for _ in range(2):
        say_in(host, "chat_keeper", thread, "delete")
        assert given(host) == ["delete"]
    say_in(host, "chat_keeper", thread, "delete", "May I? ", "say 2")
    assert given(host) == ["delete", "May I? ", "say 2"]
    # The calls that waited were closed by what was said then: both go together.
    say_in(host, "chat_keeper", thread, "delete", "May I? ", "say 3")
    assert given(host) == ["delete", "May I? ", "say 3"]
    body = host.model.requests[-1].body
    assert "tool" not in [it["role"] for it in body["messages"]]


@GO_BACK
def test_what_was_broken_off_while_something_waits_is_told(host: Host) -> None:
    thread = anew()
    say_in(host, "chat_keeper", thread, "delete")
    say_in(host, "chat_keeper", thread, "delete", "May I? ", "hang 2")
    say_in(host, "chat_keeper", thread, "delete", "May I? ", "hang 2", "Wait ", "say 3")
    assert given(host)[:2] == ["delete", "May I? "]
    told = "".join(given(host)[2:]).replace("Wait ", "")
    assert told == "hang 2say 3"
    # Each call has one result.
    said = [it["role"] for it in host.model.requests[-1].body["messages"]]
    assert said.count("tool") == 2


def test_what_was_edited_is_forgotten(host: Host) -> None:
    for agent in keepers(host):
        thread = anew()
        say_in(host, agent, thread, ONE[0])
        say_in(host, agent, thread, *ONE, "say 2")
        say_in(host, agent, thread, *ONE, "say 3")
        assert given(host) == [*ONE, "say 3"]
        say_in(host, agent, thread, "say 2")
        assert given(host) == ["say 2"]
        say_in(host, agent, thread, *TWO, "say 1")
        assert given(host) == [*TWO, "say 1"]
        say_in(host, agent, thread, "say 3")
        say_in(host, agent, thread, *THREE, "say 1")
        assert given(host) == [*THREE, "say 1"]


def test_a_client_that_sends_its_latest_alone_is_remembered(host: Host) -> None:
    """Whatever Plateau's own context has of it, which is cut."""
    for agent in keepers(host):
        conversation, long = anew(), f"say {'x' * 300}"
        said: list[str] = []
        for text in (long, "say 1", "say 1", long, "say 2", "say 3"):
            host.ask(agent, text, conversation_id=conversation)
            assert given(host) == [*said, text]
            said += [text, f"Heard {text}."]


@pytest.mark.parametrize("broken", ["hang 2", "fail 2"])
def test_what_was_broken_off_in_a_conversation_is_told(host: Host, broken: str) -> None:
    for agent in keepers(host):
        conversation = anew()
        host.ask(agent, "say 1", conversation_id=conversation)
        run_id = ""
        for _, event in host.stream(agent, broken, conversation_id=conversation):
            run_id = event.get("run", run_id)
            if event["type"] == "message.delta":
                host.cancel(run_id)
        wait_until(lambda: host.model.open == 0, "it has ended")
        for text in ("say 3", "say 4"):
            host.ask(agent, text, conversation_id=conversation)
        told = given(host)
        said = [it for it in told if "[cancelled]" not in it]
        assert said == [*ONE, broken, *THREE, "say 4"]
        assert len(told) - len(said) <= 1


def test_what_is_asked_again_in_a_conversation_is_asked_once(host: Host) -> None:
    for agent in keepers(host):
        chat = anew()

        def ask(text: str, **more: Any) -> None:
            message = {"role": "user", "parts": [{"type": "text", "text": text}]}
            body = {"id": chat, "message": message, "agent": agent, **more}  # noqa: B023
            assert host.post("/api/chat", body).status_code == 200

        ask("say 1")
        ask("say 2")
        ask("say 2", trigger="regenerate-message")
        assert given(host) == [*ONE, "say 2"]
        ask("say 1", trigger="regenerate-message")
        assert given(host) == ["say 1"]
        ask("say 3")
        assert given(host) == [*ONE, "say 3"]
        # To say the same is not to ask again.
        ask("say 3")
        assert given(host) == [*ONE, *THREE, "say 3"]

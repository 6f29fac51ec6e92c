"""Conversations over HTTP: people see what was said, and agents are given the beginnings."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Server, assert_all_have_a_life, end_server, start_server
from tests.deployment import Deployment, deployed
from tests.integration.api_client import assert_problem, unique
from tests.processes import wait_until

# The tests share a service: each caller of each test is another owner.
KEYS = [f"key-of-a-caller-{number}" for number in range(200)]
unused = iter(KEYS)
NAMES = ("counted", "context", "parrot", "silent")
ENV = {
    "AGENTS": ",".join(f"{name}=tests.flight_agents:{name}" for name in NAMES),
    "API_KEYS": ",".join(KEYS),
}


@pytest.fixture(scope="module")
def deployment(
    tmp_path_factory: pytest.TempPathFactory, streams_server: Server, cache_server: Server
) -> Iterator[Deployment]:
    """No test here may ask for `streams_url` or `cache_url`, which empty the servers."""
    folder = tmp_path_factory.mktemp("conversations")
    streams_url, cache_url = streams_server.url, cache_server.url
    with streams_server.client() as streams, cache_server.client() as cache:
        for client in (streams, cache):
            client.flushall()
        with deployed(folder, streams_url=streams_url, cache_url=cache_url, env=ENV) as running:
            yield running
            for client in (streams, cache):
                assert_all_have_a_life(client)


@pytest.fixture
def ann(deployment: Deployment) -> Iterator[Caller]:
    with Caller(deployment) as caller:
        yield caller


@pytest.fixture
def bob(deployment: Deployment) -> Iterator[Caller]:
    with Caller(deployment) as caller:
        yield caller


class Caller:
    """Asks one worker, looks at the other."""

    def __init__(self, deployment: Deployment) -> None:
        self.headers = headers = {"Authorization": f"Bearer {next(unused)}"}
        self.asking, self.looking = (
            httpx.Client(base_url=url, headers=headers, timeout=30, trust_env=False)
            for url in deployment.urls
        )

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self.asking.close()
        self.looking.close()

    def say(self, conversation: str, text: str, agent: str = "parrot", **more: Any) -> Any:
        """Say it and wait for the answer: the response."""
        body = {"agent": agent, "input": text, "conversation_id": conversation, **more}
        if "messages" in more:
            del body["input"]
        response = self.asking.post("/v1/runs", json=body, headers={"Prefer": "wait=20"})
        assert response.status_code == 200, response.text
        return response

    def seen(self, conversation: str, **query: str) -> dict[str, Any]:
        response = self.looking.get(f"/v1/conversations/{conversation}", params=query)
        assert response.status_code == 200, response.text
        body: dict[str, Any] = response.json()
        return body

    def contents(self, conversation: str, **query: str) -> list[Any]:
        messages = self.seen(conversation, **query)["messages"]
        return [(message["role"], message["content"]) for message in messages]

    def given(self, conversation: str) -> list[Any]:
        """What an agent is given of it now; this is one more question in it."""
        said = self.say(conversation, unique(), agent="context").json()["output"]
        messages: list[Any] = json.loads(said)["messages"]
        return messages[:-1]


def test_question_and_answer_are_remembered(ann: Caller) -> None:
    run = ann.say("c1", "Hello").json()
    body = ann.seen("c1")
    assert body["id"] == "c1" and body["active_run"] is None
    question, answer = body["messages"]
    assert (question["role"], question["content"]) == ("user", "Hello")
    assert (answer["role"], answer["content"]) == ("assistant", "Hello")
    assert answer["id"] == run["id"] and answer["reply_to"] == question["id"]
    assert question["reply_to"] is None and question["length"] == 5
    assert question["truncated"] is False
    assert question["created_at"] == pytest.approx(run["created_at"], abs=5)


def test_people_see_all_of_it_and_an_agent_the_beginnings(ann: Caller) -> None:
    texts = [f"{number} " + "long 雪" * 100 for number in range(7)]
    for text in texts:
        ann.say("c1", text)
    said = [(role, text) for text in texts for role in ("user", "assistant")]
    assert ann.contents("c1") == said[-10:]
    for message in ann.seen("c1")["messages"]:
        assert message["length"] == len(message["content"]) and not message["truncated"]
    got = json.loads(ann.say("c1", "now", agent="context").json()["output"])
    short = [[role, text[:198] + " …"] for role, text in said[-5:]]
    assert got == {"conversation": "c1", "messages": [*short, ["user", "now"]]}


def test_parts_are_shown_and_a_model_is_told_of_them(ann: Caller) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    parts = [{"type": "text", "text": "What is this?"}, image]
    ann.say("c1", "", messages=[{"role": "user", "content": parts}])
    question, answer = ann.seen("c1")["messages"]
    assert (question["content"], question["parts"]) == ("What is this?", parts)
    assert question["status"] is None
    # The parrot says what it was asked in words.
    assert (answer["content"], answer["status"]) == ("What is this?", "completed")
    assert answer["parts"] == [{"type": "text", "part": 0, "text": "What is this?"}]
    given = ann.given("c1")
    assert given == [["user", "What is this? [image]"], ["assistant", "What is this?"]]


def test_results_of_tools_go_on_with_it(ann: Caller) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    round_of_tools = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "Rain.", "tool_call_id": "c1"},
    ]
    ann.say("c1", "How is the weather?")
    said = ann.say("c1", "", agent="context", messages=round_of_tools).json()["output"]
    assert [role for role, _ in json.loads(said)["messages"]] == [
        *("user", "assistant"),
        *("assistant", "tool"),
    ]
    result = ann.seen("c1")["messages"][2]
    assert (result["role"], result["parts"]) == (
        "tool",
        [{"type": "tool.result", "id": "c1", "output": "Rain."}],
    )
    # A model that was given a result without its call would refuse all that follows.
    assert [role for role, _ in ann.given("c1")] == ["user", "assistant", "assistant"]


@pytest.mark.parametrize("how", ["cancelled", "failed"])
def test_what_was_said_before_it_was_broken_off_stays(
    ann: Caller, tmp_path: Path, how: str
) -> None:
    gate = tmp_path / "gate"
    options = {"gate": str(gate), "note": str(tmp_path / "note"), "fail": how == "failed"}
    body = {"agent": "counted", "input": "q", "conversation_id": "c1", "options": options}
    run = ann.asking.post("/v1/runs", json=body).json()
    with httpx.stream(
        "GET", ann.looking.base_url.join(run["events_url"]), timeout=30, trust_env=False
    ) as response:
        for line in response.iter_lines():
            if "message.delta" in line:
                break
    if how == "cancelled":
        assert ann.looking.post(run["cancel_url"]).status_code in (200, 202)
    else:
        gate.touch()

    def ended() -> bool:
        return bool(ann.looking.get(f"/v1/runs/{run['id']}").json()["status"] == how)

    wait_until(ended, "the run has ended")
    _, answer = ann.seen("c1")["messages"]
    assert (answer["content"], answer["status"]) == ("An answer ", how)
    assert ann.seen("c1")["active_run"] is None
    assert ann.given("c1") == [["user", "q"], ["assistant", f"An answer  … [{how}]"]]


def test_one_may_be_called_as_a_route_is(ann: Caller) -> None:
    for name in ("events", "runs", "cancel"):
        ann.say(name, "Hello")
        assert ann.contents(name) == [("user", "Hello"), ("assistant", "Hello")]


def test_one_that_has_not_begun_is_an_empty_one(ann: Caller) -> None:
    empty: dict[str, Any] = {"id": "new", "messages": [], "active_run": None}
    for _ in range(2):
        found = ann.seen("new")
        # Whoever waits for its first question can follow it.
        assert found.pop("events_url").startswith("/v1/conversations/new/events?token=")
        assert found == empty
        assert ann.asking.delete("/v1/conversations/new").status_code == 204


def test_instructions_come_first_and_are_not_remembered(ann: Caller) -> None:
    ann.say("c1", "before")
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "after"},
    ]
    got = json.loads(ann.say("c1", "", agent="context", messages=messages).json()["output"])
    assert [content for _, content in got["messages"]] == [
        "Be brief.",
        "before",
        "before",
        "after",
    ]
    assert [content for role, content in ann.contents("c1") if role == "user"] == [
        "before",
        "after",
    ]


def test_yes_go_on_in_two_conversations_gets_two_answers(ann: Caller) -> None:
    for name in ("dogs", "cats"):
        ann.say(name, f"Tell me about {name}.")
    answers = [ann.say(name, "Yes, go on", agent="context") for name in ("dogs", "cats")]
    assert [answer.headers["x-cache"] for answer in answers] == ["miss", "miss"]
    assert "dogs" in answers[0].json()["output"] and "cats" in answers[1].json()["output"]
    # And where the same was said before: an agent may know more of a conversation than we.
    for name in ("one", "two"):
        ann.say(name, "The same.")
    answers = [ann.say(name, "Yes, go on", agent="context") for name in ("one", "two")]
    assert [answer.headers["x-cache"] for answer in answers] == ["miss", "miss"]
    assert [json.loads(a.json()["output"])["conversation"] for a in answers] == ["one", "two"]


def test_a_hit_is_remembered_as_well(ann: Caller) -> None:
    text = unique()
    assert ann.say("first", text).headers["x-cache"] == "miss"
    # Nothing has been said in either: the same question.
    assert ann.say("second", text).headers["x-cache"] == "hit"
    assert ann.contents("second") == ann.contents("first")
    assert ann.say("second", text).headers["x-cache"] == "miss"
    assert len(ann.contents("second")) == 4


def test_the_same_first_question_at_once_is_answered_in_both(
    ann: Caller, tmp_path: Path
) -> None:
    text, gate, note = unique(), tmp_path / "gate", tmp_path / "note"
    options = {"gate": str(gate), "note": str(note)}
    body = {"agent": "counted", "input": text, "options": options}
    for name in ("one", "two"):
        answer = ann.asking.post("/v1/runs", json=body | {"conversation_id": name})
        assert answer.headers["x-cache"] == "miss"
    # Twice in the same one is once.
    again = ann.looking.post("/v1/runs", json=body | {"conversation_id": "two"})
    assert again.headers["x-cache"] in ("joined", "miss")
    gate.touch()

    def answered() -> bool:
        return all(
            [role for role, _ in ann.contents(name)][-1] == "assistant"
            for name in ("one", "two")
        )

    wait_until(answered, "both have an answer")


def test_two_runs_at_once_lose_no_message(ann: Caller, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    runs = []
    for number in range(3):
        options = {"gate": str(gate), "note": str(tmp_path / f"note{number}")}
        body = {"agent": "counted", "input": f"q{number}", "conversation_id": "c1"}
        answer = ann.asking.post("/v1/runs", json=body | {"options": options})
        assert answer.status_code == 202
        runs.append(answer.json())
    assert [content for _, content in ann.contents("c1")] == ["q0", "q1", "q2"]
    gate.touch()
    wait_until(lambda: len(ann.contents("c1")) == 6, "all three have been answered")
    messages = ann.seen("c1")["messages"]
    replies = {message["id"]: message["reply_to"] for message in messages[3:]}
    assert replies == {run["id"]: f"{run['id']}-user" for run in runs}


def test_a_run_that_has_said_nothing_leaves_its_question_alone(ann: Caller) -> None:
    failed = ann.say("c1", "q", agent="silent").json()
    assert failed["status"] == "failed"
    assert ann.contents("c1") == [("user", "q")]
    assert ann.seen("c1")["active_run"] is None


def test_a_page_can_rejoin_after_a_reload(ann: Caller, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    options = {"gate": str(gate), "note": str(tmp_path / "note")}
    body = {"agent": "counted", "input": "q", "conversation_id": "c1", "options": options}
    posted = ann.asking.post("/v1/runs", json=body).json()
    active = ann.seen("c1")["active_run"]
    assert active["status"] in ("queued", "running")
    for name in ("id", "events_url", "cancel_url"):
        assert active[name] == posted[name]
    gate.touch()
    # Without a key, as an EventSource would.
    url = ann.looking.base_url.join(active["events_url"])
    with httpx.stream("GET", url, timeout=30, trust_env=False) as response:
        assert "run.completed" in response.read().decode()
    assert ann.seen("c1")["active_run"] is None


def test_another_owner_or_user_has_a_conversation_of_its_own(ann: Caller, bob: Caller) -> None:
    ann.say("c1", "of ann")
    ann.say("c1", "of u", user="u")
    assert bob.contents("c1") == []
    bob.say("c1", "of bob")
    assert ann.contents("c1")[0] == ("user", "of ann")
    assert ann.contents("c1", user="u")[0] == ("user", "of u")
    assert bob.contents("c1")[0] == ("user", "of bob")
    assert bob.asking.delete("/v1/conversations/c1").status_code == 204
    assert len(ann.contents("c1")) == 2
    without = httpx.get(ann.looking.base_url.join("/v1/conversations/c1"))
    assert_problem(without, 401, "unauthorized")


def test_deleting_removes_it_all_also_what_is_on_its_way(
    ann: Caller, streams_server: Server, tmp_path: Path
) -> None:
    def conversations() -> set[bytes]:
        with streams_server.client() as redis:
            found = set(redis.scan_iter("conversation:*"))
            # What opens its events is made anew for whoever looks at it.
            return {it for it in found if not it.endswith((b":deleted", b":opener"))}

    of_others = conversations()
    gate = tmp_path / "gate"
    options = {"gate": str(gate), "note": str(tmp_path / "note")}
    ann.say("c1", "q")
    body = {"agent": "counted", "input": "q2", "conversation_id": "c1", "options": options}
    run = ann.asking.post("/v1/runs", json=body).json()
    assert ann.looking.delete("/v1/conversations/c1").status_code == 204
    assert ann.looking.delete("/v1/conversations/c1").status_code == 204
    assert ann.contents("c1") == []
    gate.touch()

    def ended() -> bool:
        return bool(ann.looking.get(f"/v1/runs/{run['id']}").json()["status"] == "completed")

    wait_until(ended, "the run has ended")
    assert ann.contents("c1") == []
    assert conversations() == of_others
    # It begins anew.
    ann.say("c1", "again")
    assert len(ann.contents("c1")) == 2
    assert len(conversations() - of_others) > 0


def test_a_key_that_comes_again_is_the_same_run_although_the_answer_is_cached(
    ann: Caller,
) -> None:
    text = unique()
    ann.say("other", text)
    body = {"agent": "parrot", "input": text, "conversation_id": "c1"}
    headers = {"Idempotency-Key": unique(), "Prefer": "wait=20"}
    first, second = [ann.asking.post("/v1/runs", json=body, headers=headers) for _ in "ab"]
    assert first.json()["id"] == second.json()["id"]
    # As it would be without a key: clients give one with each question.
    assert (first.headers["x-cache"], second.headers["x-cache"]) == ("hit", "hit")
    assert len(ann.contents("c1")) == 2
    # Late, too: what has been said since is no part of what was asked then.
    ann.say("c1", unique())
    said = ann.contents("c1")
    third = ann.asking.post("/v1/runs", json=body, headers=headers)
    assert (third.json()["id"], ann.contents("c1")) == (first.json()["id"], said)


def test_a_key_that_comes_again_says_nothing_twice(ann: Caller) -> None:
    body = {"agent": "parrot", "input": unique(), "conversation_id": "c1"}
    headers = {"Idempotency-Key": unique(), "Prefer": "wait=20"}
    first, second = [ann.asking.post("/v1/runs", json=body, headers=headers) for _ in "ab"]
    assert first.json()["id"] == second.json()["id"]
    assert len(ann.contents("c1")) == 2


@pytest.mark.parametrize(
    "conversation_id", ["", "a b", "-a", "é", "x" * 129, "a/b", "a\n", "..", {"a": 1}, 5]
)
def test_an_id_that_is_none_is_refused(ann: Caller, conversation_id: Any) -> None:
    body = {"agent": "parrot", "input": "q", "conversation_id": conversation_id}
    problem = assert_problem(ann.asking.post("/v1/runs", json=body), 422, "invalid_request")
    assert problem["field"] == "conversation_id"


def test_what_cannot_go_with_a_conversation_is_refused(ann: Caller) -> None:
    body = {"agent": "external", "conversation_id": "c1"}
    problem = assert_problem(ann.asking.post("/v1/runs", json=body), 422, "invalid_request")
    assert problem["field"] == "conversation_id"
    said = [{"role": role, "content": "x"} for role in ("system", "assistant", "user")]
    body = {"agent": "parrot", "conversation_id": "c1", "messages": said}  # type: ignore[dict-item]
    problem = assert_problem(ann.asking.post("/v1/runs", json=body), 422, "invalid_request")
    assert problem["field"] == "messages[1]"
    response = ann.looking.get("/v1/conversations/c1", params={"user": "u" * 201})
    assert assert_problem(response, 422, "invalid_request")["field"] == "user"
    response = ann.looking.get("/v1/conversations/%20")
    assert assert_problem(response, 422, "invalid_request")["field"] == "conversation_id"


def test_a_refused_run_says_nothing(tmp_path: Path) -> None:
    """On servers of its own: its runner ends."""
    with ExitStack() as stack:
        streams = start_server("streams", tmp_path / "streams")
        stack.callback(end_server, streams)
        cache = start_server("cache", tmp_path / "cache")
        stack.callback(end_server, cache)
        deployment = stack.enter_context(
            deployed(tmp_path, streams_url=streams.url, cache_url=cache.url, env=ENV)
        )
        ann = stack.enter_context(Caller(deployment))
        ann.say("c1", "heard")
        runner = deployment.runners[0]
        runner.terminate()
        runner.wait(15)

        def refused() -> bool:
            body = {"agent": "parrot", "input": unique(), "conversation_id": "c1"}
            return ann.asking.post("/v1/runs", json=body).status_code == 503

        wait_until(refused, "nobody is there to answer", timeout_s=20)
        before = len(ann.contents("c1"))
        assert refused()
        assert len(ann.contents("c1")) == before


async def _talk(urls: list[str], number: int, headers: dict[str, str]) -> None:
    headers = {**headers, "Prefer": "wait=20"}
    async with httpx.AsyncClient(timeout=30, trust_env=False, headers=headers) as client:
        body = {"agent": "parrot", "input": f"q{number}", "conversation_id": "c1"}
        response = await client.post(f"{urls[number % 2]}/v1/runs", json=body)
        assert response.status_code == 200, response.text


def test_many_at_once_over_two_workers_lose_no_message(
    ann: Caller, deployment: Deployment
) -> None:
    async def scenario() -> None:
        await asyncio.gather(
            *(_talk(deployment.urls, number, ann.headers) for number in range(5))
        )

    asyncio.run(scenario())
    messages = ann.seen("c1")["messages"]
    assert len(messages) == 10
    asked = {m["id"]: at for at, m in enumerate(messages) if m["role"] == "user"}
    replies = {m["reply_to"]: at for at, m in enumerate(messages) if m["role"] == "assistant"}
    assert asked.keys() == replies.keys()
    assert all(replies[name] > at for name, at in asked.items())

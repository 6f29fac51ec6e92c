"""An answer that is not all of the text: whatever came before, what is told ends with it, and
says it once; streamed as whole, live as late."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from plateau_sse.content import untold, with_answer
from plateau_sse.dialects.agui import AGUI
from plateau_sse.dialects.chat_completions import ChatCompletions, document
from plateau_sse.dialects.openai_items import document as response_of
from plateau_sse.dialects.ui_messages import PLAIN as UI
from plateau_sse.live.dialect import Dialect
from plateau_sse.store.conversations.calls import message_of
from plateau_sse.store.runs import events
from plateau_sse.store.runs.tape import Tape
from tests.dialects.machines import OfARun, blocks, completed, folded, signed, tape_of, told
from tests.dialects.stage import KEY, Stage, anew, staged

APART, TEXT = '{"it": 5}', "It is 5."


@pytest.mark.parametrize(
    ("text", "output", "rest"),
    [
        ("", "x", "x"),
        ("x", None, ""),
        ("x", "", ""),
        ("a draft", "final", "final"),
        ("Let me look. It is 5.", TEXT, ""),
        ("It is 5. Let me look.", TEXT, TEXT),
        ("It is 5.\n", TEXT, ""),
        ("It is 5.", "It is 5.\n", ""),
        ('Look: {"it":5}', APART, ""),
        ('{"it":5,"s":"\\u00e9"}', '{"s": "é", "it": 5}', ""),
        # Members that the model has left to their defaults.
        ('{"it":5}', '{"it": 5, "of": null}', ""),
        ('{"it":6}', APART, APART),
        ("{}", APART, APART),
        ("[1, 2]", "[1,2]", ""),
        # Not in the midst of a word or a number.
        ("I have looked at 17", "7", "7"),
        ("Looking in the book", "ok", "ok"),
        ("Is it ok?\n\nok", "ok", ""),
        ("It is (7", "7", ""),
        ("答えは北京", "北京", ""),
        ("It is a\nb", "a b", ""),
        ("[" * 5000, "]" * 5000, "]" * 5000),
    ],
)
def test_what_the_text_ends_with_is_not_said_again(text: str, output: Any, rest: str) -> None:
    parts = [{"type": "text", "part": 0, "text": text}]
    assert untold(parts, output) == rest
    assert with_answer(parts, output) == (
        f"{text}\n\n{rest}" if text and rest else text or rest
    )


def part(number: int, text: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "part": number, "text": text, **more}


def test_of_two_who_speak_side_by_side_neither_is_told_twice() -> None:
    """The answer is that of who has ended last."""
    parts = [part(0, "It "), part(1, "Other"), part(2, "is 5.", continues=0), part(3, "wise")]
    assert untold(parts, TEXT) == "" and untold(parts, "Otherwise") == "Otherwise"
    both, more = [part(0, '{"it": 5}'), part(1, "Done.")], '{"it": 5, "of": 1}'
    assert untold(both[::-1], more) == "" and untold(both, '{"it": 5, "of": []}') == ""
    # A draft of it.
    assert untold(both, more) == more
    # As releases before kept them.
    assert untold([{"type": "text", "text": TEXT}, part(0, "x")], TEXT) == ""


def test_an_answer_beside_many_parts_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a worker that tells it would tell nothing else for seconds."""
    read: list[int] = []

    def bare(text: str) -> str:
        read.append(len(text))
        return "".join(text.split())

    monkeypatch.setattr("plateau_sse.content._bare", bare)
    output = json.dumps({"words": ["x y z"] * 1000})
    parts = [part(number, f"word {number} ") for number in range(500)]
    assert untold(parts, output) == output
    assert sum(read) < 4 * len(output)


def tape_with(*said: str, output: str | None) -> Tape:
    deltas = [events.delta(it, "r" if it.startswith("Hm") else "t") for it in said]
    between = [it for delta in deltas for it in (delta, events.step("next"))]
    return tape_of([*between, completed("stop", output)])


def texts(dialect: Dialect, tape: Tape) -> list[str]:
    """What it tells, each message or part one."""
    found = list[str]()
    content = told(dialect, dialect.start, tape.entries(), tape).content
    for frame in folded(content):
        if frame == "[DONE]":
            continue
        for choice in frame.get("choices", ()):
            found.append(choice["delta"].get("content") or "")
        if frame.get("type") in (
            *("text-delta", "TEXT_MESSAGE_CONTENT", "response.output_text.delta"),
        ):
            found.append(frame["delta"])
    return [it for it in found if it]


PARTED: list[Dialect] = [UI, AGUI, OfARun()]
CASES = [
    (("Let me look. ", "Hm. "), APART, ["Let me look. ", APART]),
    (("Let me look. ", "Hm. ", TEXT), TEXT, ["Let me look. ", TEXT]),
    (("Hm. ",), APART, [APART]),
    (("Let me look. ",), None, ["Let me look. "]),
]


@pytest.mark.parametrize("dialect", PARTED, ids=["ui", "agui", "responses"])
@pytest.mark.parametrize(("said", "output", "expected"), CASES)
def test_where_parts_are_told_it_is_one_of_its_own(
    dialect: Dialect, said: tuple[str, ...], output: str | None, expected: list[str]
) -> None:
    assert texts(dialect, tape_with(*said, output=output)) == expected


@pytest.mark.parametrize(("said", "output", "expected"), CASES)
def test_a_stream_and_its_document_say_the_same(
    said: tuple[str, ...], output: str | None, expected: list[str]
) -> None:
    tape = tape_with(*said, output=output)
    run: dict[str, Any] = {
        **{"id": "r", "created_at": 5, "status": "completed", "error": None, "usage": None},
        **{"finish_reason": "stop", "parts": tape.shown(), "output": output or tape.said()},
    }
    content = document(run, "m")["choices"][0]["message"]["content"]
    assert "".join(texts(ChatCompletions("m", usage=False), tape)) == content
    is_apart = expected[-1] == APART and len(expected) > 1
    assert content == ("\n\n" if is_apart else "").join(expected)
    # What goes back to a model is that, too.
    assert message_of(run["parts"], run["output"]) == {"role": "assistant", "content": content}
    dialect = OfARun()
    streamed = told(dialect, dialect.start, tape.entries(), tape).content
    final = json.loads(blocks(signed(streamed))[-1])["response"]["output"]
    items = [it["content"][0]["text"] for it in final if it["type"] == "message"]
    assert items == expected
    of_run = response_of(run | {"id": "r"}, {})["output"]
    assert [it["content"] for it in of_run] == [it["content"] for it in final]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with staged(tmp_path_factory.mktemp("apart")) as found:
        yield found


def post(stage: Stage, path: str, body: dict[str, Any]) -> str:
    headers = KEY | {"Accept": "text/event-stream"}
    answer = httpx.post(f"{stage.url}{path}", json=body, headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.text


def chat(stage: Stage, question: str, options: dict[str, Any]) -> str:
    messages = [{"role": "user", "content": question}]
    body = {"model": "narrates", "messages": messages, "stream": True, **options}
    frames = post(stage, "/v1/chat/completions", body).split("\n\n")
    chunks = [json.loads(it[6:]) for it in frames if it.startswith("data: {")]
    return "".join(it["choices"][0]["delta"].get("content") or "" for it in chunks)


def document_of(stage: Stage, question: str, options: dict[str, Any]) -> str:
    messages = [{"role": "user", "content": question}]
    body = {"model": "narrates", "messages": messages, **options}
    answer = json.loads(post(stage, "/v1/chat/completions", body))
    content: str = answer["choices"][0]["message"]["content"]
    return content


@pytest.mark.parametrize("is_apart", [True, False])
def test_live_joined_and_from_the_cache(stage: Stage, is_apart: bool) -> None:
    question, found = anew(), list[str]()
    expected = f"Let me look. \n\n{APART}" if is_apart else f"Let me look. {TEXT}"
    with stage.gate() as gate:
        options: dict[str, Any] = {"gate": str(gate), "apart": is_apart}
        asking = [
            threading.Thread(target=lambda ask=ask: found.append(ask(stage, question, options)))
            for ask in (chat, chat, chat, document_of)
        ]
        for thread in asking:
            thread.start()
        time.sleep(1)
    for thread in asking:
        thread.join(20)
    assert found == [expected] * 4
    assert chat(stage, question, options) == document_of(stage, question, options) == expected

    body = {"model": "narrates", "input": question, **options}
    answer = httpx.post(f"{stage.url}/v1/responses", json=body, headers=KEY).json()
    items = [it["content"][0]["text"] for it in answer["output"]]
    assert items == ["Let me look. ", APART if is_apart else TEXT]
    again = httpx.get(f"{stage.url}/v1/responses/{answer['id']}", headers=KEY).json()
    assert again["output"] == answer["output"]
    last = {"type": "item_reference", "id": answer["output"][-1]["id"]}
    asked = {"model": "options", "input": [last, {"role": "user", "content": anew()}]}
    told_ = httpx.post(f"{stage.url}/v1/responses", json=asked, headers=KEY).json()
    assert items[-1] in told_["output"][0]["content"][0]["text"]
    next_ = asked | {"input": anew(), "previous_response_id": answer["id"]}
    told_ = httpx.post(f"{stage.url}/v1/responses", json=next_, headers=KEY).json()
    assert repr(expected)[1:-1] in told_["output"][0]["content"][0]["text"]

"""Every dialect as a machine: whatever the tape and however it is cut, it says the same, and
what is made for one reader is right for another."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plateau_sse.dialects.agui import AGUI
from plateau_sse.dialects.chat_completions import ChatCompletions, chunks, document
from plateau_sse.dialects.native import NAMED, PLAIN
from plateau_sse.dialects.ui_messages import PLAIN as UI
from plateau_sse.dialects.ui_messages import UiMessages, going_on
from plateau_sse.live import sse, telling
from plateau_sse.live.dialect import Dialect, Due, Stand
from plateau_sse.store.conversations.calls import arguments_of
from plateau_sse.store.runs import events, ids
from plateau_sse.store.runs.events import Event
from plateau_sse.store.runs.tape import Entry, Tape
from tests.dialects.machines import (
    MARKS,
    RUN,
    SAID,
    STATES,
    TAG,
    TAPES,
    OfARun,
    blocks,
    cut_at,
    folded,
    positions,
    signed,
    tape_of,
    told,
)


class GoesOn(UiMessages):
    """As its readers begin whose message goes on."""

    start = going_on("m1", ["a"])


# A row each: the next is one more.
DIALECTS: dict[str, Dialect] = {
    "native": PLAIN,
    "named": NAMED,
    "chat": chunks("m", usage=False),
    "chat with usage": chunks("m", usage=True),
    "ui": UI,
    "ui of a message that goes on": GoesOn(),
    "responses": OfARun(),
    "agui": AGUI,
}
EACH = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=list(DIALECTS))


@EACH
@given(tape=TAPES, where=st.data())
def test_what_is_said_does_not_depend_on_where_a_reading_ends(
    dialect: Dialect, tape: Tape, where: st.DataObject
) -> None:
    """Folded, since deltas may be cut: the rest, said from the state at any position, makes the
    same of what was said before."""
    at = where.draw(st.sampled_from(positions(tape)))
    whole = told(dialect, dialect.start, tape.entries(), tape)
    before = told(dialect, dialect.start, Tape(1, *cut_at(tape, at)).entries(), tape)
    if before.last:
        assert at == tape.at
        return
    rest = told(dialect, before.state, tape.entries(at), tape)
    assert rest.last and rest.state == whole.state
    assert folded(before.content + rest.content) == folded(whole.content)


@EACH
@given(tape=TAPES, where=st.data())
def test_a_state_is_known_from_the_marks_and_openings_before_it(
    dialect: Dialect, tape: Tape, where: st.DataObject
) -> None:
    """So a reader may begin at any position: the text before it need not be read."""
    at = where.draw(st.sampled_from(positions(tape)))
    text, points = cut_at(tape, at)
    state = told(dialect, dialect.start, Tape(1, text, points).entries()).state
    assert telling.behind(dialect, dialect.start, 1, points, TAG) == state


def without_results(content: bytes) -> list[Any]:
    def is_result(frame: Any) -> bool:
        return frame != "[DONE]" and str(frame.get("type")).startswith("tool-output-")

    return [it for it in folded(content) if not is_result(it)]


@EACH
@given(tape=TAPES, states=st.lists(STATES, max_size=4), where=st.data())
def test_a_frame_is_right_for_all_who_are_in_one_state(
    dialect: Dialect, tape: Tape, states: list[Event], where: st.DataObject
) -> None:
    """Readers who have been told the same are given the very same bytes; who has missed a state
    of the run is given its own."""
    entries = tape.entries()
    for event in states:
        at = where.draw(st.integers(1, len(entries)))
        entries.insert(min(at, len(entries) - 1), Entry(0, event.data))
    one, other, misses = (Stand(dialect, dialect.start) for _ in range(3))
    alone = dialect.start
    for entry in entries:
        frame = sse.Frame(*entry, TAG)
        first, second = frame.told(one), frame.told(other)
        assert first is second
        one, other = first.then, second.then
        alone, content, last, due = dialect.say(alone, *entry, TAG)
        assert (first.content, first.last) == (content, last)
        assert made(first.due, tape) == made(due, tape)
        assert due is None or dialect.recalls or frame.terminal
        if entry.number:
            missed = frame.told(misses)
            said = dialect.say(misses.state, *entry, TAG)
            assert missed.content == said.content
            assert made(missed.due, tape) == made(said.due, tape)
            misses = missed.then
    assert last and one.state == alone


def made(due: Due | None, tape: Tape) -> bytes:
    """Twice: who is slow has it made again."""
    if due is None:
        return b""
    points = tape.points if due.points else []
    first, again = (due.make(bytes(tape.text[due.start : due.end]), points) for _ in "12")
    assert first == again
    return first


@EACH
@given(said=st.lists(SAID | MARKS, max_size=6), again=TAPES)
def test_an_attempt_that_begins_again_is_told_honestly(
    dialect: Dialect, said: list[Event], again: Tape
) -> None:
    """Taken back, or an error that ends the response: never one answer behind another."""
    first = tape_of(said)
    before = told(dialect, dialect.start, first.entries(), first)
    anew = Entry(ids.number(2, 0), events.restarted(2, "attempt"))
    restarted = told(dialect, before.state, [anew])
    if restarted.last:
        assert b"error" in restarted.content.lower()
        return
    second = Tape(2, bytes(again.text), again.points)
    after = told(dialect, restarted.state, second.entries(), second)
    assert after.last
    if dialect in (PLAIN, NAMED):
        assert b"run.restarted" in restarted.content
        return
    content = before.content + restarted.content + after.content
    fresh = told(dialect, dialect.start, second.entries(), second)
    if b"reset-step" in restarted.content:
        begun = told(dialect, dialect.start, second.entries()[:1])
        assert begun.content + after.content == fresh.content
    else:
        # Nothing was told that had to be taken back: what a tool of before the run has given
        # stays, or is given anew.
        assert without_results(content) == without_results(fresh.content)


@given(tape=TAPES)
def test_a_document_says_what_its_chunks_say(tape: Tape) -> None:
    end = msgspec.json.decode(tape.points[-1].data)
    if end["type"] != "run.completed":
        return
    run = {
        **{"id": RUN, "created_at": 5.5, "output": end.get("output", tape.said())},
        **{"parts": tape.shown(), "finish_reason": end["finish_reason"], "usage": end["usage"]},
    }
    (choice,) = document(run, "m")["choices"]
    dialect = ChatCompletions("m", usage=True)
    content = told(dialect, dialect.start, tape.entries(), tape).content
    frames = [msgspec.json.decode(it) for it in blocks(content)[:-1]]
    deltas = [it["choices"][0] for it in frames if it["choices"]]
    assert frames[-1]["usage"] == document(run, "m")["usage"]
    assert deltas[-1]["finish_reason"] == choice["finish_reason"]
    said = "".join(it["delta"].get("content") or "" for it in deltas)
    assert said == (choice["message"]["content"] or "")
    thoughts = "".join(it["delta"].get("reasoning_content", "") for it in deltas)
    assert thoughts == choice["message"].get("reasoning_content", "")
    calls = [call for it in deltas for call in it["delta"].get("tool_calls", [])]
    assert [call.pop("index") for call in calls] == list(range(len(calls)))
    assert calls == choice["message"].get("tool_calls", [])


# How what grows is begun, and how it is ended.
PAIRS = {"-start": "-end", "_START": "_END", ".added": ".done"}


def opened_and_ended(frame: dict[str, Any]) -> tuple[str, str] | None:
    """Which of the two, and of what."""
    type_ = str(frame.get("type"))
    item = frame.get("item") or {}
    names = (frame.get(name) for name in ("item_id", "messageId", "toolCallId", "id"))
    what = item.get("id") or next((name for name in names if name), "")
    for begins, ends in PAIRS.items():
        for suffix in (begins, ends):
            # The input of a tool is there, in the end.
            if type_.endswith(suffix) and type_ != "tool-input-start":
                return begins if suffix == begins else ends, f"{type_[: -len(suffix)]} {what}"
    return None


@EACH
@given(tape=TAPES)
def test_whatever_is_begun_is_ended(dialect: Dialect, tape: Tape) -> None:
    content = told(dialect, dialect.start, tape.entries(), tape).content
    begun = list[str]()
    for block in blocks(signed(content)) if content else ():
        found = opened_and_ended(msgspec.json.decode(block)) if block != "[DONE]" else None
        if found is None or (found[1] not in begun and found[0] == ".done"):
            # Of a text there is one event behind its last delta, and none before its first.
            continue
        how, what = found
        if how in PAIRS:
            begun.append(what)
        else:
            begun.remove(what)
    assert not begun


class Client:
    """What AI SDK's client insists on, chunk by chunk (`process-ui-message-stream.ts`)."""

    def __init__(self) -> None:
        self.begun = False
        self.active: set[tuple[str, str]] = set()
        self.partial: set[str] = set()
        self.calls: set[str] = set()
        self.unfinished: set[str] = set()
        self.error = ""

    def take(self, chunk: dict[str, Any]) -> None:
        assert not self.error, "nothing follows an error"
        type_ = chunk["type"]
        kind, _, what = type_.rpartition("-")
        if type_ == "start":
            assert not self.begun, "one message"
            self.begun = True
        elif kind in ("text", "reasoning"):
            self.grow((kind, chunk["id"]), what)
        elif type_ == "tool-approval-response":
            return
        elif type_.startswith("tool-"):
            self.call(type_, chunk["toolCallId"], chunk)
        elif type_ == "error":
            self.error = chunk["errorText"]
            assert self.error and not self.active and not self.unfinished
        elif type_ == "abort":
            assert not self.active and not self.unfinished
        elif type_ in ("finish", "finish-step", "start-step"):
            assert not self.active

    def grow(self, part: tuple[str, str], what: str) -> None:
        assert (part in self.active) == (what != "start"), part
        if what == "start":
            assert not self.active, "one part at a time"
            self.active.add(part)
        elif what == "end":
            self.active.remove(part)

    def call(self, type_: str, call: str, chunk: dict[str, Any]) -> None:
        if type_ == "tool-input-start":
            self.partial.add(call)
            self.unfinished.add(call)
        elif type_ == "tool-input-delta":
            assert call in self.partial, chunk
        elif type_ == "tool-input-available":
            assert not self.active, "a part is ended before a tool is called"
            self.calls.add(call)
            self.unfinished.discard(call)
            if chunk.get("providerExecuted"):
                self.unfinished.add(call)
        else:
            assert call in self.calls | self.partial, chunk
            if not chunk.get("preliminary"):
                self.unfinished.discard(call)


@given(tape=TAPES, states=st.lists(STATES, max_size=4), where=st.data())
def test_ai_sdks_client_can_make_parts_of_it(
    tape: Tape, states: list[Event], where: st.DataObject
) -> None:
    entries = tape.entries()
    for event in states:
        at = where.draw(st.integers(1, len(entries)))
        entries.insert(min(at, len(entries) - 1), Entry(0, event.data))
    client = Client()
    found = blocks(told(UI, UI.start, entries, tape).content)
    assert found.pop() == "[DONE]"
    for block in found:
        client.take(msgspec.json.decode(block))


@given(tape=TAPES)
def test_readers_of_any_message_share_what_comes_behind_its_start(tape: Tape) -> None:
    stands = [Stand(UI, UI.start), *(Stand(UI, going_on(it)) for it in ("m1", "m1", "m2"))]
    begun, *rest = tape.entries()
    frame = sse.Frame(*begun, TAG)
    told_ = [frame.told(stand) for stand in stands]
    ids_ = [msgspec.json.decode(blocks(it.content)[0])["messageId"] for it in told_]
    assert ids_ == [f"msg_{RUN}", "m1", "m1", "m2"] and told_[1] is told_[2]
    stands = [it.then for it in told_]
    for entry in rest:
        frame = sse.Frame(*entry, TAG)
        first, *others = (frame.told(stand) for stand in stands)
        assert all(it is first for it in others)
        stands = [first.then] * len(stands)


def test_what_begins_again_in_a_later_step_leaves_nothing_in_the_making() -> None:
    said = [
        events.tool_call("c1", "f", {}),
        events.step("next"),
        events.tool_call("c2", "f", {}),
        events.delta("text"),
    ]
    entries = [
        *tape_of(said).entries(),
        Entry(0, events.tool_delta("c3", "f", "{").data),
        Entry(ids.number(2, 0), events.restarted(2, "attempt")),
    ]
    *found, done = blocks(told(UI, UI.start, entries).content)
    client = Client()
    for block in found:
        client.take(msgspec.json.decode(block))
    assert client.error and done == "[DONE]"
    ended = [msgspec.json.decode(it) for it in found[-4:-1]]
    assert [it["toolCallId"] for it in ended] == ["c1", "c2", "c3"]


def test_a_call_that_was_cut_off_is_not_left_in_the_making() -> None:
    """The model's answer had its length; a question to a person waits on."""
    tape = tape_of([events.tool_call("c1", "f", {}), events.delta("text")])
    end = events.completed(None, cached=False, duration_ms=1, finish_reason="length")
    entries = [
        *tape.entries(),
        Entry(0, events.tool_delta("c2", "f", "{").data),
        *[
            it
            for it in tape_of(
                [events.tool_call("c1", "f", {}), events.delta("text"), end]
            ).entries()
        ][-1:],
    ]
    found = [msgspec.json.decode(it) for it in blocks(told(UI, UI.start, entries).content)[:-1]]
    client = Client()
    for chunk in found:
        client.take(chunk)
    ended = [it["toolCallId"] for it in found if it["type"] == "tool-output-error"]
    assert ended == ["c2"]
    assert found[-1] == {"type": "finish", "finishReason": "length"}


@pytest.mark.parametrize("arguments", ["", " ", "{}"])
def test_a_call_without_arguments_is_json_to_who_reads_it(arguments: str) -> None:
    said = [events.tool_call("c1", "f", arguments, client=True)]
    end = events.completed(None, cached=False, duration_ms=1, finish_reason="tool_calls")
    chat = chunks("m", usage=False)
    content = told(chat, chat.start, tape_of([*said, end]).entries()).content
    calls = [
        call["function"]["arguments"]
        for block in blocks(content)
        if block != "[DONE]"
        for choice in msgspec.json.decode(block)["choices"]
        for call in choice["delta"].get("tool_calls", ())
    ]
    assert [msgspec.json.decode(it) for it in calls] == [{}]
    assert arguments_of({"arguments": arguments}).strip() == "{}"


@pytest.mark.parametrize("earlier", [["c"], []])
def test_a_tool_that_was_called_before_has_its_result_told(earlier: list[str]) -> None:
    """Approved, and executed in the run after: also by an attempt that begins again."""
    said = [events.delta("x"), events.tool_result("c", {"y": 1})]
    entries = [
        *tape_of([*said, events.tool_result("d", 1)]).entries(),
        Entry(ids.number(2, 0), events.restarted(2, "attempt")),
        *Tape(2, *cut_at(again := tape_of(said, 2), again.at)).entries(),
    ]
    found = [
        msgspec.json.decode(it)
        for it in blocks(told(UI, going_on("m", earlier), entries).content)
    ]
    results = [it for it in found if it["type"] == "tool-output-available"]
    assert results == [
        {"type": "tool-output-available", "toolCallId": "c", "output": {"y": 1}}
    ] * 2 * len(earlier)


def test_a_call_that_is_in_the_message_is_not_told_again() -> None:
    """Approved: its agent tells it to whoever has not read the run before."""
    said = [events.tool_call("c", "f", {"x": 1}), events.tool_result("c", {"y": 1})]
    entries = tape_of([*said, events.tool_call("d", "f", {})]).entries()
    found = [
        msgspec.json.decode(it)
        for it in blocks(told(UI, going_on("m", ["c"]), entries).content)
    ]
    assert [(it["type"], it.get("toolCallId")) for it in found[2:]] == [
        ("tool-output-available", "c"),
        ("tool-input-available", "d"),
    ]


def test_a_question_to_a_person_is_an_approval_or_data() -> None:
    asked = [
        events.tool_call("c1", "delete", {}),
        events.input_request("a1", "approval", "May I?", tool_call_id="c1"),
        events.input_request("q1", "question", "Which?"),
    ]
    content = told(UI, UI.start, tape_of(asked).entries()).content
    *_, approval, question = (msgspec.json.decode(it) for it in blocks(content))
    assert approval == {
        "type": "tool-approval-request",
        "approvalId": "a1",
        "toolCallId": "c1",
    }
    assert question["type"] == "data-input-request" and question["id"] == "q1"
    assert question["data"]["message"] == "Which?"


@pytest.mark.parametrize("levels", [100, 101, 990])
def test_arguments_that_nest_too_deep_stay_a_text(levels: int) -> None:
    arguments = "[" * levels + "]" * levels
    entries = tape_of([events.tool_call("c", "f", arguments)]).entries()
    called = blocks(told(UI, UI.start, entries).content)[-1]
    assert isinstance(msgspec.json.decode(called)["input"], str) == (levels > 100)


def test_arguments_grow_as_they_are_written() -> None:
    entries = [
        *tape_of([]).entries(),
        *(Entry(0, events.tool_delta("c", "f", text).data) for text in ('{"a', '{"a"', '{"a"')),
    ]
    found = blocks(told(UI, UI.start, entries).content)[2:]
    chunks_ = [msgspec.json.decode(it) for it in found]
    assert [it["type"] for it in chunks_] == [
        "tool-input-start",
        *["tool-input-delta"] * 2,
    ]
    assert "".join(it.get("inputTextDelta", "") for it in chunks_) == '{"a"'

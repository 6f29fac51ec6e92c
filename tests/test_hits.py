"""What a cached answer tells a reader, from each position that there may be."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from plateau_sse.api import hits
from plateau_sse.dialects.native import NAMED, PLAIN
from plateau_sse.eventsource import EventReader
from plateau_sse.live.dialect import beginning
from plateau_sse.store.answers.answer import Answer, answer_of
from plateau_sse.store.runs import events, ids
from plateau_sse.store.runs.ids import Seen
from plateau_sse.store.runs.tape import Tape
from tests.store import answer, decoded, tape_of, texts

RUN = ids.new_run_id()
TAG = ids.tag_of(RUN)
LONG = "né雪🏔 and so on. " * 1000


def tape() -> Tape:
    """The second attempt's: two kinds of parts, one that goes on, marks between, a character of
    each length, and more text than one delta holds."""
    return tape_of(
        RUN,
        events.delta("Hm. é", "r"),
        events.tool_call("1", "look", {"at": 1}),
        events.tool_error("1", "nothing there"),
        *texts("a雪🏔"),
        events.delta(" And", "r", "2 0"),
        events.source("s", url="https://x.test/"),
        *texts(LONG),
        attempt=2,
    )


ANSWER = answer_of(
    tape=tape(),
    run_id=RUN,
    agent="notes",
    owner="ann",
    output="What was meant.",
    usage={"input_tokens": 1, "output_tokens": 2, "reasoning_tokens": 1},
    model="m-1",
    duration_ms=9,
)


class Told(NamedTuple):
    id: str
    data: dict[str, Any]


def told(seen: Seen, found: Answer = ANSWER, *, named: bool = False) -> list[Told]:
    content = hits.frames("hit-x", found, seen, beginning(NAMED if named else PLAIN))
    reader = EventReader()
    messages = [*reader.feed(content), *reader.finish()]
    made = [Told(it.id or "", decoded(it.data.encode())) for it in messages]
    assert not named or [it.event for it in messages] == [it.data["type"] for it in made]
    return made


def at(position: int, attempt: int = 2, tag: str = TAG) -> Seen:
    return Seen(ids.number(attempt, position), tag)


def folded(said: list[Told], before: bytes = b"") -> bytes:
    """All text that was told, thoughts too."""
    return before + "".join(it.data.get("text", "") for it in said).encode()


WHOLE = told(Seen())


@pytest.mark.parametrize("named", [False, True])
def test_all_of_it_and_each_id_by_the_arithmetic(named: bool) -> None:
    said = told(Seen(), named=named)
    position, part = 0, -1
    for event in said:
        tag, attempt, behind = event.id.split("-")
        assert (tag, attempt) == (TAG, "2")
        position += 1
        if "text" in event.data:
            opens = event.data["part"] != part
            position += len(event.data["text"].encode()) - (not opens)
            part = event.data["part"]
            assert len(event.data["text"]) < events.TEXT_BYTES
        else:
            part = -1
        assert int(behind) == position
    assert position == ANSWER.tape("x").at
    first, last = said[0].data, said[-1].data
    assert first == {"type": "run.started", "run": "hit-x", "agent": "notes", "attempt": 2}
    assert last == {
        "type": "run.completed",
        "finish_reason": "stop",
        "usage": ANSWER.usage,
        "model": "m-1",
        "cached": True,
        "duration_ms": 9,
        "output": "What was meant.",
    }


def test_from_every_position_comes_the_rest_and_it_is_the_runs_own() -> None:
    """Where the run was left, the hit goes on: what both say together is the whole."""
    run = tape()
    run.add(events.completed(None, cached=False, duration_ms=9))
    text = bytes(run.text)
    places = [*range(1, 80), run.at - 2, run.at - 1]
    for position in places:
        said = told(at(position))
        passed = sum(1 for point in run.points if point.at <= position)
        seen = text[: position - passed]
        if text[len(seen) : len(seen) + 1] and text[len(seen)] & 0xC0 == 0x80:
            assert said[0].data == {
                "type": "run.restarted",
                "attempt": 2,
                "reason": "rewound",
            }
            assert said[0].id == f"{TAG}-2-0" and said[1:] == WHOLE
        else:
            assert folded(said, seen) == text
            assert said[0].data["type"] != "run.restarted"
            assert said[-1] == WHOLE[-1]


def test_who_has_seen_the_end_is_told_nothing() -> None:
    assert told(at(ANSWER.tape("x").at)) == []


def test_before_the_attempt_begins_there_is_nothing_to_take_back() -> None:
    assert told(at(0)) == WHOLE


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (at(5, tag="000000"), "other"),
        (at(ANSWER.tape("x").at, tag="000000"), "other"),
        (at(ANSWER.tape("x").at + 1), "rewound"),
        (at(5, attempt=3), "rewound"),
        # As at the run itself, where the attempt that was seen has failed.
        (at(5, attempt=1), "attempt"),
    ],
)
def test_who_has_seen_another_tape_begins_anew(seen: Seen, reason: str) -> None:
    first, *rest = told(seen)
    assert first.id == f"{TAG}-2-0"
    assert first.data == {"type": "run.restarted", "attempt": 2, "reason": reason}
    assert rest == WHOLE


def test_a_position_without_a_tag_is_taken_for_this_tapes() -> None:
    assert told(at(5, tag="")) == told(at(5))


def test_a_record_says_what_the_tape_says() -> None:
    record = hits.record("hit-x", ANSWER)
    assert record["parts"] == tape().shown() == ANSWER.parts
    assert (record["output"], record["model"], record["attempt"]) == (
        "What was meant.",
        "m-1",
        2,
    )
    assert [part["type"] for part in record["parts"]] == [
        *("reasoning", "tool.call", "tool.result", "text"),
        *("reasoning", "source", "text"),
    ]
    usual = hits.record("hit-x", answer("Because."))
    assert usual["parts"] == [{"type": "text", "part": 0, "text": "Because."}]
    assert usual["output"] == "Because."


def test_an_answer_without_a_word_of_text() -> None:
    found = answer_of(
        tape=tape_of(RUN, events.tool_call("1", "look", {}, client=True)),
        run_id=RUN,
        agent="notes",
        owner="ann",
        output=None,
        usage=None,
        duration_ms=1,
        finish_reason="tool_calls",
    )
    said = told(Seen(), found)
    assert [it.data["type"] for it in said] == ["run.started", "tool.call", "run.completed"]
    assert hits.record("hit-x", found)["output"] == ""

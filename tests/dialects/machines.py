"""Tapes of all kinds, and what a dialect makes of them, for tests of dialects as machines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from hypothesis import strategies as st

from plateau_sse.dialects.responses import Responses, start_of
from plateau_sse.eventsource import EventReader
from plateau_sse.live import sse, telling
from plateau_sse.live.dialect import Dialect, Said
from plateau_sse.store.runs import events, ids
from plateau_sse.store.runs.events import Event
from plateau_sse.store.runs.tape import Entry, Tape

RUN = ids.new_run_id()
TAG = ids.tag_of(RUN).encode()
_DELTAS = (
    *("text-delta", "reasoning-delta"),
    *("response.output_text.delta", "response.reasoning_text.delta"),
    *("TEXT_MESSAGE_CONTENT", "REASONING_MESSAGE_CONTENT"),
)

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
NAMES = st.sampled_from(["a", "b", "c"])
SAID = st.builds(events.delta, TEXTS, st.sampled_from(["t", "r"]))
MARKS = st.one_of(
    st.builds(events.tool_call, NAMES, NAMES, st.sampled_from([{}, "", "{", '{"x": 1}'])),
    st.builds(lambda n: events.tool_call(n, n, {}, client=True), NAMES),
    st.builds(events.tool_result, NAMES, st.sampled_from([None, "x", {"y": [1]}])),
    st.builds(events.tool_error, NAMES, TEXTS),
    st.builds(lambda n: events.source(n, url="https://x.test"), NAMES),
    st.builds(lambda n: events.source(n, media_type="text/plain"), NAMES),
    st.just(events.file("image/png", "data:,")),
    st.builds(events.data, NAMES, TEXTS, st.none() | NAMES),
    st.builds(events.step, NAMES),
    st.builds(lambda n: events.input_request(n, "approval", "?", tool_call_id=n), NAMES),
    st.builds(lambda n: events.input_request(n, "question", "?"), NAMES),
)


def completed(reason: events.FinishReason = "stop", output: str | None = None) -> Event:
    usage = {"input_tokens": 1, "output_tokens": 2}
    end = events.completed(usage, cached=False, duration_ms=1, finish_reason=reason)
    if output is None:
        return end
    return end._replace(data=events.with_output(end.data, output.encode()))


ENDS = st.one_of(
    st.builds(completed, st.sampled_from(events.FINISH_REASONS), st.none() | TEXTS),
    st.builds(lambda text: events.failed("agent_error", text, retryable=False), TEXTS),
    st.just(events.cancelled("requested")),
)
STATES = st.one_of(
    st.builds(lambda n, t: events.tool_delta(n, n, t), NAMES, TEXTS),
    st.just(events.progress(1, 2, "", "", 50.0)),
    st.builds(lambda n: events.data(n, 1, transient=True), NAMES),
    st.builds(lambda n: events.tool_result(n, 1, preliminary=True), NAMES),
)


class OfARun(Responses):
    """As all of its readers begin."""

    start = start_of(RUN, 5)


def tape_of(said: Sequence[Event], attempt: int = 1) -> Tape:
    tape = Tape(attempt)
    for event in (events.started(RUN, "notes", attempt), *said):
        tape.add(event)
    return tape


TAPES = st.builds(
    lambda said, end: tape_of([*said, end]), st.lists(SAID | MARKS, max_size=12), ENDS
)


def positions(tape: Tape) -> list[int]:
    """Those at which a reader can be: not within a character."""
    found = []
    for at in range(tape.at + 1):
        try:
            tape.entries(at)
        except ValueError:
            continue
        found.append(at)
    return found


def told(
    dialect: Dialect, state: Any, entries: Sequence[Entry], tape: Tape | None = None
) -> Said:
    """What is due is said of this tape."""
    return telling.whole(dialect, state, entries, TAG, tape)


def blocks(content: bytes) -> list[str]:
    reader = EventReader()
    found = [message.data for message in [*reader.feed(content), *reader.finish()]]
    assert content.endswith(b"\n\n") and all(found)
    return found


def cut_at(tape: Tape, at: int) -> tuple[bytes, list[Any]]:
    """What of it stands before the position."""
    points = [point for point in tape.points if point.at <= at]
    return bytes(tape.text[: at - len(points)]), points


def signed(content: bytes) -> bytes:
    return sse.signed(content, b'"own":1')


def folded(content: bytes) -> list[Any]:
    """The frames, with neighbouring deltas of one part as one, and without ids and numbers."""
    found: list[Any] = []
    for block in blocks(signed(content)) if content else []:
        if block == "[DONE]":
            found.append(block)
            continue
        frame = msgspec.json.decode(block)
        frame.pop("sequence_number", None)
        last = found[-1] if found else None
        text = text_in(frame)
        if isinstance(last, dict) and text and text_in(last):
            (place, key), (others, other) = text, text_in(last)  # type: ignore[misc]
            rest, before = {**place, key: ""}, {**others, other: ""}
            if rest == before:
                others[other] += place[key]
                continue
        found.append(frame)
    return found


def text_in(frame: dict[str, Any]) -> tuple[dict[str, Any], str] | None:
    """Where a frame has the text that its neighbours may hold more of."""
    if frame.get("type") in ("message.delta", "reasoning.delta"):
        return frame, "text"
    if frame.get("type") in _DELTAS:
        return frame, "delta"
    for choice in frame.get("choices", []):
        for key in ("content", "reasoning_content"):
            # An opening may be empty.
            if isinstance(choice["delta"].get(key), str):
                return choice["delta"], key
    return None

"""Frames: what sse-starlette would write, and the chunk that carries it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from sse_starlette import ServerSentEvent

from plateau_sse.live import sse
from plateau_sse.store.runs import events, ids

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
NUMBERS = st.builds(ids.number, st.integers(1, 10**9 - 1), st.integers(1, 10**9 - 1))


@given(NUMBERS | st.just(0), TEXTS, st.booleans())
def test_a_frame_is_what_sse_starlette_makes_of_it(number: int, text: str, named: bool) -> None:
    data = events.delta(text).data
    expected = ServerSentEvent(
        data.decode(),
        id=ids.show(number) if number else None,
        event="message.delta" if named else None,
        sep="\n",
    ).encode()
    assert sse.encode(number, data, named=named) == expected


@given(NUMBERS, TEXTS)
def test_a_chunk_is_its_frame_with_its_length(number: int, text: str) -> None:
    frame = sse.Frame(number, events.delta(text).data)
    size, _, rest = frame.chunk.partition(b"\r\n")
    body = frame.message()["body"]
    assert int(size, 16) == len(body) and rest == body + b"\r\n"
    assert not frame.terminal and frame.message()["more_body"] is True

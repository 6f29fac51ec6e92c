"""Frames: what sse-starlette would write, and the chunk that carries it."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from plateau_sse.live.snapshot import escaped
from sse_starlette import ServerSentEvent

from plateau_sse import jsontext
from plateau_sse.live import sse
from plateau_sse.store.runs import events, ids

TEXTS_OF_LINES = 'a’é\u2028\u2029\u0085\n\\"'
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


@given(st.text() | st.text('\u2028\u2029\u0085\u0084\u2027’\\"u8', max_size=20))
def test_what_is_encoded_is_one_line_and_the_same_text(text: str) -> None:
    text = text.encode(errors="ignore").decode()
    encoded = jsontext.encode({"text": text})
    assert json.loads(encoded) == {"text": text}
    assert len(encoded.decode().splitlines()) == 1


@given(st.lists(st.text(TEXTS_OF_LINES)))
def test_a_snapshot_in_pieces_is_the_same_line(pieces: list[str]) -> None:
    whole = escaped("".join(pieces).encode())
    assert b"".join(escaped(piece.encode()) for piece in pieces) == whole
    assert whole == jsontext.encode("".join(pieces))[1:-1]


def test_neither_a_retry_nor_a_ping_ends_a_block() -> None:
    for line in (sse.retry(), sse.PING["body"]):
        assert line.endswith(b"\n") and b"\n\n" not in line and line.count(b"\n") == 1

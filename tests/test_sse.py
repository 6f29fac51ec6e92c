"""Frames: what sse-starlette would write, and the chunk that carries it."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from sse_starlette import ServerSentEvent

from plateau_sse import jsontext
from plateau_sse.live import sse
from plateau_sse.store.runs import events, ids

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
NUMBERS = st.builds(ids.number, st.integers(1, 10**9 - 1), st.integers(1, 10**9 - 1))


TAG = b"3fa29c"


def delta(text: str) -> bytes:
    return events.delta_head("t", 0) + events.delta_tail(text)


@given(NUMBERS | st.just(0), TEXTS, st.booleans())
def test_a_frame_is_what_sse_starlette_makes_of_it(number: int, text: str, named: bool) -> None:
    data = delta(text)
    expected = ServerSentEvent(
        data.decode(),
        id=f"3fa29c-{ids.show(number)}" if number else None,
        event="message.delta" if named else None,
        sep="\n",
    ).encode()
    assert sse.encode(number, data, tag=TAG, named=named) == expected
    assert sse.encode_all([(number, data)] * 2, tag=TAG, named=named) == expected * 2
    frame = sse.Frame(number, data, TAG)
    assert (frame.named() if named else frame.message())["body"] == expected


@given(NUMBERS | st.just(0), TEXTS)
def test_a_chunk_is_its_frame_with_its_length(number: int, text: str) -> None:
    frame = sse.Frame(number, delta(text), TAG)
    size, _, rest = frame.chunk.partition(b"\r\n")
    body = frame.message()["body"]
    assert int(size, 16) == len(body) and rest == body + b"\r\n"
    assert not frame.terminal and frame.message()["more_body"] is True


def test_the_frame_that_ends_a_run_ends_the_response() -> None:
    end = events.completed(None, cached=False, duration_ms=1).data
    frame = sse.Frame(ids.number(1, 9), end, TAG)
    assert frame.terminal
    assert frame.message()["more_body"] is frame.named()["more_body"] is False


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=9000))
def test_no_frame_of_a_delta_is_longer_than_8_kib(text: str) -> None:
    for piece in events.pieces(text * 20):
        tail = events.delta_tail(piece, "999")
        data = events.delta_head("r", 999) + tail
        frame = sse.encode(ids.number(10**9 - 1, 10**9 - 1), data, tag=TAG, named=True)
        assert len(frame) <= 8 * 1024


@given(st.text() | st.text('\u2028\u2029\u0085\u0084\u2027’\\"u8', max_size=20))
def test_what_is_encoded_is_one_line_and_the_same_text(text: str) -> None:
    text = text.encode(errors="ignore").decode()
    encoded = jsontext.encode({"text": text})
    assert json.loads(encoded) == {"text": text}
    assert len(encoded.decode().splitlines()) == 1


def test_neither_a_retry_nor_a_ping_ends_a_block() -> None:
    for line in (sse.retry(), sse.PING["body"]):
        assert line.endswith(b"\n") and b"\n\n" not in line and line.count(b"\n") == 1

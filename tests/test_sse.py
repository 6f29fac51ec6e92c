"""Frames: what sse-starlette would write, and the chunk that carries it."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from sse_starlette import ServerSentEvent

from plateau_sse import jsontext
from plateau_sse.dialects import native
from plateau_sse.dialects.native import NAMED, PLAIN, encode
from plateau_sse.live import sse, telling
from plateau_sse.live.dialect import Said, Stand
from plateau_sse.store.runs import events, ids
from plateau_sse.store.runs.tape import Entry

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
    dialect = NAMED if named else PLAIN
    entry = Entry(number, data)
    assert telling.whole(dialect, None, [entry] * 2, TAG) == Said(None, expected * 2, False)
    frame = sse.Frame(number, data, TAG)
    assert frame.told(Stand(dialect, None)).content == expected
    assert frame.told(Stand(dialect, None)) is frame.told(Stand(dialect, None)) is frame.latest


@given(NUMBERS | st.just(0), TEXTS)
def test_a_chunk_is_its_frame_with_its_length(number: int, text: str) -> None:
    frame = sse.Frame(number, delta(text), TAG)
    told = frame.told(Stand(PLAIN, None))
    size, _, rest = told.chunk.partition(b"\r\n")
    assert int(size, 16) == len(told.content) and rest == told.content + b"\r\n"
    assert not frame.terminal and not told.last


def test_the_frame_that_ends_a_run_ends_the_response() -> None:
    end = events.completed(None, cached=False, duration_ms=1).data
    frame = sse.Frame(ids.number(1, 9), end, TAG)
    assert frame.terminal
    assert frame.told(Stand(PLAIN, None)).last and frame.told(Stand(NAMED, None)).last


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=9000))
def test_no_frame_of_a_delta_is_longer_than_8_kib(text: str) -> None:
    for piece in events.pieces(text * 20):
        tail = events.delta_tail(piece, "999")
        data = events.delta_head("r", 999) + tail
        frame = encode(ids.number(10**9 - 1, 10**9 - 1), data, tag=TAG, named=True)
        assert len(frame) <= 8 * 1024


@given(st.text() | st.text('\u2028\u2029\u0085\u0084\u2027’\\"u8', max_size=20))
def test_what_is_encoded_is_one_line_and_the_same_text(text: str) -> None:
    text = text.encode(errors="ignore").decode()
    encoded = jsontext.encode({"text": text})
    assert json.loads(encoded) == {"text": text}
    assert len(encoded.decode().splitlines()) == 1


def test_neither_a_retry_nor_a_ping_ends_a_block() -> None:
    for line in (sse.retry(), PLAIN.ping):
        assert line.endswith(b"\n") and b"\n\n" not in line and line.count(b"\n") == 1


def test_a_heartbeat_is_an_event_that_pages_see() -> None:
    plain, named = native.VARIANTS[False, True], native.VARIANTS[True, True]
    assert plain.ping == b'data: {"type":"heartbeat"}\n\n'
    assert named.ping == b'event: heartbeat\ndata: {"type":"heartbeat"}\n\n'

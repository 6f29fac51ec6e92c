"""What the load's readers hear in the dialects of others: what is whole, what is a fault."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from locustfiles.agent import piece
from locustfiles.kit.hearing import Hearing, Malformed

from plateau_sse.cli.dialects import SPOKEN
from plateau_sse.dialects.agui import AGUI
from plateau_sse.dialects.chat_completions import chunks
from plateau_sse.dialects.ui_messages import PLAIN
from plateau_sse.live.dialect import Dialect
from plateau_sse.store.runs import events
from plateau_sse.store.runs.tape import Entry, Tape
from tests.dialects.machines import RUN, OfARun, signed, told

EACH = pytest.mark.parametrize("name", sorted(SPOKEN))
TOLD: dict[str, Dialect] = {
    "chat": chunks("load", usage=False),
    "ui": PLAIN,
    "responses": OfARun(),
    "agui": AGUI,
}
# In the frames that end an answer, and in no others.
ENDS = {
    "chat": b'"finish_reason":"stop"',
    "ui": b'"type":"finish"',
    "responses": b'"response.completed"',
    "agui": b'"RUN_FINISHED"',
}
PIECES = [piece(number, 1_700_000_000 + number, 30) for number in range(20)]
RECORD: dict[str, Any] = {
    "output": "".join(PIECES),
    "parts": [{"type": "reasoning", "text": "Hm. "}, {"type": "text", "text": "".join(PIECES)}],
}


def frames(name: str, pieces: Sequence[str] = PIECES) -> list[bytes]:
    """Of a whole answer, without the blank lines between them."""
    tape, entries = Tape(1), list[Entry]()
    end = events.completed(None, cached=False, duration_ms=1)
    said = [events.delta("Hm. ", "r"), *(events.delta(text, "t") for text in pieces)]
    for event in (events.started(RUN, "load", 1), *said, end):
        before = tape.at
        tape.add(event)
        entries += tape.entries(before)
    dialect = TOLD[name]
    found = signed(told(dialect, dialect.start, entries, tape).content)
    return found.removesuffix(b"\n\n").split(b"\n\n")


def heard(name: str, some: Sequence[bytes]) -> Hearing:
    hearing = Hearing(SPOKEN[name])
    for frame in some:
        hearing.take(frame)
    return hearing


def at_piece(some: Sequence[bytes], number: int) -> int:
    return next(at for at, frame in enumerate(some) if f"{number}@".encode() in frame)


@EACH
def test_a_whole_answer_is_whole(name: str) -> None:
    hearing = heard(name, frames(name))
    assert hearing.end is not None and hearing.end["type"] == "run.completed"
    assert (hearing.close(), hearing.differs(RECORD, len(PIECES))) == ({}, "")


@EACH
@pytest.mark.parametrize("cut", [1, 2, 7, 100, 1000])
def test_pieces_may_be_cut_and_joined_as_it_pleases(name: str, cut: int) -> None:
    text = "".join(PIECES)
    some = [text[start : start + cut] for start in range(0, len(text), cut)]
    hearing = heard(name, frames(name, some))
    assert (hearing.close(), hearing.differs(RECORD, len(PIECES))) == ({}, "")


@EACH
def test_who_asks_again_is_told_it_from_the_first_word(name: str) -> None:
    hearing = Hearing(SPOKEN[name])
    for frame in frames(name)[:9]:
        hearing.take(frame)
    assert hearing.end is None
    hearing.begin_anew()
    for frame in frames(name):
        hearing.take(frame)
    assert (hearing.close(), hearing.differs(RECORD, len(PIECES))) == ({}, "")


@EACH
def test_a_frame_that_is_lost_repeated_or_swapped_is_a_fault(name: str) -> None:
    whole = frames(name)
    at = at_piece(whole, 9)
    lost = [*whole[:at], *whole[at + 1 :]]
    repeated = [*whole[: at + 1], *whole[at:]]
    swapped = [*whole[:at], whole[at + 1], whole[at], *whole[at + 2 :]]
    for some, faults in (
        (lost, {"lost": 1}),
        (repeated, {"out of order": 1}),
        (swapped, {"lost": 2, "out of order": 1}),
    ):
        hearing = heard(name, some)
        assert hearing.close() == faults
        assert hearing.differs(RECORD, len(PIECES)) == "another text than its record's"


@EACH
def test_what_comes_after_the_end_is_a_fault(name: str) -> None:
    whole = frames(name)
    assert heard(name, [*whole, whole[at_piece(whole, 3)]]).close()["after the end"]
    assert heard(name, [*whole, whole[-1]]).close()["after the end"]


@EACH
def test_an_answer_without_its_end_has_none(name: str) -> None:
    assert heard(name, frames(name)[:-1]).end is None
    endless = [it for it in frames(name) if ENDS[name] not in it]
    assert len(endless) == len(frames(name)) - 1
    assert heard(name, endless).end is None


@EACH
def test_other_thoughts_and_missing_pieces_are_told(name: str) -> None:
    hearing = heard(name, frames(name))
    other = {**RECORD, "parts": [{"type": "reasoning", "text": "Oh. "}]}
    assert hearing.differs(other, None) == "other thoughts than its record's"
    assert hearing.differs(RECORD, len(PIECES) + 1).startswith("pieces of the text")


@EACH
@pytest.mark.parametrize(
    "frame", [b"", b"data: {", b"data: []", b"id: 1-1", b"data: 5\ndata: 6"]
)
def test_what_is_no_frame_is_malformed(name: str, frame: bytes) -> None:
    with pytest.raises(Malformed):
        heard(name, [frame])

"""Dialects whose clients come back with the number of a frame: whatever it is, they are given
what follows, under numbers that only grow."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plateau_sse.dialects import agui, places, responses
from plateau_sse.dialects.places import Numbered
from plateau_sse.live import telling
from plateau_sse.store.runs import events, ids
from plateau_sse.store.runs.tape import Entry, Tape
from tests.dialects.machines import RUN, SAID, TAG, TAPES, cut_at, folded, tape_of, told


class Row(NamedTuple):
    """`places_in` are those of the frames in some content, `cut` is the content behind one."""

    dialect: Numbered
    start: Any
    frame: re.Pattern[bytes]
    place_of: Callable[[bytes], int]

    def places_in(self, content: bytes) -> list[int]:
        return [self.place_of(it[1]) for it in self.frame.finditer(content)]

    def behind(self, content: bytes, place: int) -> bytes:
        found = self.frame.finditer(content)
        return b"".join(it[0] for it in found if self.place_of(it[1]) > place)


def place_of_id(text: bytes) -> int:
    seen = agui.seen(text.decode())
    assert seen is not None and seen[0] == TAG.decode()
    return seen[1]


ROWS = {
    "responses": Row(
        responses.RESPONSES,
        responses.start_of(RUN, 5),
        re.compile(rb'event: [^\n]+\ndata: [^\n]+"sequence_number":(\d+)\}\n\n'),
        lambda text: responses.place_of(int(text)),
    ),
    "agui": Row(
        agui.AGUI,
        agui.AGUI.start,
        re.compile(rb"id: (\S+)\ndata: [^\n]+\n\n"),
        place_of_id,
    ),
}
EACH = pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))


@EACH
@given(tape=TAPES, attempt=st.sampled_from([1, 2, 30]))
def test_numbers_only_grow_and_the_rest_follows_behind_each(
    row: Row, tape: Tape, attempt: int
) -> None:
    tape = Tape(attempt, bytes(tape.text), tape.points)
    whole = told(row.dialect, row.start, tape.entries(), tape).content
    found = row.places_in(whole)
    assert found == sorted(set(found)) and found
    for place in found:
        position = places.position_before(place)
        _, at = ids.split(position)
        points = cut_at(tape, at)[1]
        state = telling.behind(row.dialect, row.start, attempt, points, TAG)
        state = row.dialect.going_on(state, place)
        rest = told(row.dialect, state, tape.entries(at), tape).content
        assert folded(rest) == folded(row.behind(whole, place))
        assert all(it > place for it in row.places_in(rest))


@EACH
@given(tape=TAPES, where=st.data())
def test_the_rest_follows_however_it_was_cut(
    row: Row, tape: Tape, where: st.DataObject
) -> None:
    """A delta of which only a part was told before the connection ended."""
    ends = [n for n in range(1, tape.at) if _is_position(tape, n)]
    at = where.draw(st.sampled_from(ends))
    first = Tape(1, *cut_at(tape, at))
    before = told(row.dialect, row.start, first.entries(), tape).content
    whole = told(row.dialect, row.start, tape.entries(), tape).content
    found = row.places_in(before)
    place = found[-1]
    position = ids.split(places.position_before(place))[1]
    state = telling.behind(row.dialect, row.start, 1, cut_at(tape, position)[1], TAG)
    entries = tape.entries(position)
    rest = told(row.dialect, row.dialect.going_on(state, place), entries, tape).content
    assert folded(before + rest) == folded(whole)


def _is_position(tape: Tape, at: int) -> bool:
    try:
        tape.entries(at)
    except ValueError:
        return False
    return True


@EACH
def test_an_attempt_that_is_gone_is_an_error(row: Row) -> None:
    """Of what was told in it nothing is known any more."""
    place = places.of_delta(ids.number(1, 7))
    state = row.dialect.going_on(row.start, place, gone=True)
    tape = tape_of([events.delta("later")], 2)
    anew = Entry(ids.number(2, 0), events.restarted(2, "attempt"))
    for entries in ([anew, *tape.entries()], tape.entries()):
        said = told(row.dialect, state, entries, tape)
        assert said.last and b"begun again" in said.content and b"later" not in said.content


@EACH
@given(said=st.lists(SAID, min_size=1, max_size=3))
def test_an_error_that_ends_a_stream_has_a_number_behind_all(row: Row, said: list[Any]) -> None:
    first = tape_of(said)
    before = told(row.dialect, row.start, first.entries(), first)
    anew = Entry(ids.number(2, 0), events.restarted(2, "attempt"))
    content = before.content + told(row.dialect, before.state, [anew]).content
    found = row.places_in(content)
    assert found == sorted(set(found))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3fa29c-1-500.15", ("3fa29c", places.of_delta(ids.number(1, 500)))),
        (" 12-0.3 ", ("", places.of_mark(ids.number(12, 0)) + 3)),
        ("3fa29c-1-500.16", None),
        ("3fa29c-1-500", None),
        ("3fa29c-0-500.1", None),
        ("0", None),
        ("", None),
    ],
)
def test_an_id_is_known_or_none(text: str, expected: Any) -> None:
    assert agui.seen(text) == expected


@given(attempt=st.integers(1, 2**20), at=st.integers(0, 2**19), j=st.integers(0, 15))
def test_a_sequence_number_is_a_place(attempt: int, at: int, j: int) -> None:
    place = places.of(ids.number(attempt, at), j)
    number = responses.number_of(place)
    assert responses.place_of(number) == place
    # What JavaScript counts exactly.
    assert number < 2**53
    assert number == (attempt - 1) * 2**28 + 16 * at + j

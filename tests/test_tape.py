"""The tape's own arithmetic: whoever comes from any position ends with the same parts."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import FailedHealthCheck

from plateau_sse.store.runs import events, ids, tape
from plateau_sse.store.runs.events import Event
from tests.tapes import (
    END,
    LONG_MOVES,
    MOVES,
    Atoms,
    Move,
    appended,
    events_of,
    newcomer,
    tell,
)

FIRST = events.started("f" * 32, "notes", 1)
# From one character of the longest escape to what is never cut.
PIECES = st.sampled_from([8, 9, 16, 61, 500, events.TEXT_BYTES])
QUICK = settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
# Enough to find what is broken on purpose, and no more.
BROKEN = settings(
    QUICK, max_examples=60, derandomize=True, database=None, phases=[Phase.generate]
)


def told(module: ModuleType, moves: Sequence[Event], attempt: int = 1) -> Any:
    found = module.Tape(attempt)
    for event in moves:
        found.add(event)
    return found


def everybody_ends_alike(module: ModuleType, moves: Sequence[Move], piece: int) -> None:
    """From each position that a reader can have: the rest, once and in line. From within a
    character: that it is none."""
    model = Atoms()
    tape_ = told(module, appended([FIRST, *moves, END], model))
    *readers, whole = model.readers()
    assert not whole.close() and whole.at.at == tape_.at == model.at
    assert tape_.entries(tape_.at) == []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(events, "TEXT_BYTES", piece)
        for reader in readers:
            tell(reader, tape_.entries(reader.at.at))
            assert reader.close() == {}
            assert (reader.parts, reader.end, reader.at) == (whole.parts, whole.end, whole.at)
        for at in set(range(tape_.at)) - {reader.at.at for reader in model.readers()}:
            with pytest.raises(module.Inside):
                tape_.entries(at)
    assert tape_.shown() == whole.parts
    assert tape_.said() == whole.text


@QUICK
@given(moves=st.lists(MOVES, max_size=12), piece=PIECES)
def test_whoever_comes_from_any_position_gets_the_rest(moves: list[Move], piece: int) -> None:
    everybody_ends_alike(tape, moves, piece)


@QUICK
@given(
    moves=st.lists(MOVES, min_size=1, max_size=25),
    visits=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 30), st.integers(0, 9), PIECES), max_size=40
    ),
    attempt=st.integers(1, 3),
)
def test_readers_come_and_go_as_the_tape_grows(
    moves: list[Move], visits: list[tuple[int, int, int, int]], attempt: int
) -> None:
    """`visits` says which of four readers comes, behind which event, how many it is told before
    it breaks off, and how large the pieces are."""
    model, growing = Atoms(), tape.Tape(attempt)
    readers = [newcomer(attempt) for _ in range(4)]
    all_moves = [FIRST, *moves, END]
    for index, move in enumerate(all_moves):
        for event in events_of(move, model):
            model.add(event)
            growing.add(event)
        assert growing.at == model.at and growing.parts == model.parts
        for who, behind, most, piece in visits:
            if behind % len(all_moves) == index:
                with pytest.MonkeyPatch.context() as patched:
                    patched.setattr(events, "TEXT_BYTES", piece)
                    entries = growing.entries(readers[who].at.at)
                    tell(readers[who], entries[:most])
    for reader in readers:
        # One that has been told of the end before has nothing left to be told.
        tell(reader, growing.entries(reader.at.at))
        assert reader.close() == {}
        assert reader.parts == growing.shown()
        assert reader.end is not None


@settings(QUICK, max_examples=30)
@given(moves=st.lists(LONG_MOVES, min_size=1, max_size=6))
def test_no_delta_is_longer_than_it_may_be(moves: list[Move]) -> None:
    model = Atoms()
    tape_ = told(tape, appended(moves, model))
    for entry in tape_.entries():
        # With a line of an id and the two line ends.
        assert len(entry.data) + 60 <= 8 * 1024 or b'.delta"' not in entry.data[:24]
    reader = newcomer()
    tell(reader, tape_.entries())
    assert reader.parts == tape_.shown()


@pytest.mark.parametrize("moves", [[], [events.delta("")], [events.delta("é🏔")]])
def test_the_smallest_tapes(moves: list[Event]) -> None:
    model = Atoms()
    tape_ = told(tape, appended(moves, model))
    assert tape_.at == model.at
    reader = newcomer()
    tell(reader, tape_.entries())
    assert reader.parts == tape_.shown()


@pytest.mark.parametrize("cut", range(1, 9))
def test_whole_characters_are_kept_and_others_cut_off(cut: int) -> None:
    text = "é🏔a雪"
    kept = tape.whole_characters(text.encode()[:-cut])
    assert text.startswith(kept.decode())
    assert len(text.encode()) - cut - len(kept) < 4


def test_two_attempts_have_nothing_in_common() -> None:
    first = told(tape, [FIRST, events.delta("one")])
    second = told(tape, [FIRST, events.delta("two")], attempt=2)
    numbers = {entry.number for entry in first.entries()}
    assert not numbers & {entry.number for entry in second.entries()}
    assert all(ids.split(entry.number)[0] == 2 for entry in second.entries())


# Broken on purpose: each of these changes is found

OFF_BY_ONE = ("        number += 1\n", "        number += bool(point.data)\n")
FORGOTTEN = (
    "if point.data:\n            entries",
    "if point.data and passed != 3:\n            entries",
)
INSIDE = (
    "for size, tail in events.delta_tails(said.decode(), continues):\n",
    "half = len(said) // 2\n"
    "        for raw in (said[:half], said[half:]):\n"
    "            size = len(raw)\n"
    "            tail = events.delta_tail(raw.decode(errors='ignore'), continues)\n",
)
COUNTED = ('Point(self.at + 1, b""', 'Point(self.at, b""')


def broken(change: tuple[str, str]) -> ModuleType:
    """The module with the change in it."""
    source = inspect.getsource(tape)
    assert source.count(change[0]) == 1, change[0]
    module = ModuleType(tape.__name__)
    exec(source.replace(*change), module.__dict__)
    return module


@pytest.mark.parametrize("change", [OFF_BY_ONE, FORGOTTEN, INSIDE, COUNTED])
def test_what_is_broken_on_purpose_is_found(change: tuple[str, str]) -> None:
    module = broken(change)

    @BROKEN
    @given(moves=st.lists(MOVES, max_size=12), piece=PIECES)
    def found(moves: list[Move], piece: int) -> None:
        everybody_ends_alike(module, moves, piece)

    with pytest.raises(Exception) as caught:
        found()
    assert not isinstance(caught.value, FailedHealthCheck)

"""A tape as the contract has it, character by character: what the real one is compared with.

Invariant: nothing here counts bytes or cuts text as the code under test does; each atom is one
thing that has a position of its own (an opening, a character, a mark), so where each ends, and
what a reader has there, follows without arithmetic on pieces.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import msgspec
from hypothesis import strategies as st
from locustfiles.kit.ledger import DELTAS, Ledger

from plateau_sse.store.runs import events, ids
from plateau_sse.store.runs.events import Event, Kind
from plateau_sse.store.runs.tape import Entry

TAG = "0123ab"
KINDS = dict(zip("tr", DELTAS, strict=True))


class Atom(NamedTuple):
    """`event` is what it would be alone; `width` what it adds to the position."""

    event: dict[str, Any]
    width: int


class Atoms:
    """One attempt's tape. `add` takes what a producer appends."""

    def __init__(self) -> None:
        self.atoms: list[Atom] = []
        self.parts = 0
        # Kind and number of the part that is open.
        self.open: tuple[str, int] | None = None

    @property
    def at(self) -> int:
        return sum(atom.width for atom in self.atoms)

    def copy(self) -> Atoms:
        return deepcopy(self)

    def add(self, event: Event) -> None:
        kind = event.op.lower()
        if kind in "me":
            self.open = None
            self.atoms.append(Atom(msgspec.json.decode(event.data), 1))
        elif kind in "tr":
            self._say(kind, event)

    def _say(self, kind: str, event: Event) -> None:
        number, _, continues = event.part.partition(" ")
        own = (kind, int(number)) if number else (kind, self.open[1]) if self.open else None
        type_ = KINDS[kind]
        if continues or self.open is None or own != self.open:
            self.open = (kind, self.parts)
            opening: dict[str, Any] = {"type": type_, "part": self.parts, "text": ""}
            if continues:
                opening["continues"] = int(continues)
            self.atoms.append(Atom(opening, 1))
            self.parts += 1
        for character in event.arg:
            said = {"type": type_, "part": self.open[1], "text": character}
            self.atoms.append(Atom(said, len(character.encode())))

    def ledger(self, attempt: int = 1, tag: str = TAG) -> Ledger:
        """Of a reader that has been told all of it."""
        return self.readers(attempt, tag)[-1]

    def readers(self, attempt: int = 1, tag: str = TAG) -> list[Ledger]:
        """One at each position at which a reader can be, the beginning first."""
        ledger, at = newcomer(attempt, tag), 0
        found = [deepcopy(ledger)]
        for atom in self.atoms:
            at += atom.width
            ledger.take(f"{tag}-{attempt}-{at}", atom.event)
            found.append(deepcopy(ledger))
        return found


def newcomer(attempt: int = 1, tag: str = TAG) -> Ledger:
    """A reader who has been told that an attempt begins, and nothing else."""
    ledger = Ledger()
    tell_of_a_restart(ledger, attempt, "other", tag)
    return ledger


def tell(ledger: Ledger, entries: Iterable[Entry], tag: str = TAG) -> None:
    """As a response would, event by event."""
    for entry in entries:
        shown = f"{tag}-{ids.show(entry.number)}" if entry.number else ""
        assert ledger.take(shown, msgspec.json.decode(entry.data)), (
            ledger.faults,
            ledger.at,
            shown,
            entry.data[:80],
        )


def tell_of_a_restart(ledger: Ledger, attempt: int, reason: Any, tag: str = TAG) -> None:
    tell(ledger, [Entry(ids.number(attempt, 0), events.restarted(attempt, reason))], tag)


# What a producer appends, before the parts that are there are known

TEXTS = st.one_of(
    st.just(""),
    st.text(alphabet='ab é雪🏔👩‍🚀\u2028"\\\n\x01', max_size=6),
    st.tuples(st.sampled_from(["a", "é", "雪", "🏔", '"', "ab🏔"]), st.integers(1, 40)).map(
        lambda pair: pair[0] * pair[1]
    ),
)
# Longer than a delta may be.
LONG = st.tuples(st.sampled_from(["a", "雪", "🏔", "\x01"]), st.integers(1500, 9000)).map(
    lambda pair: pair[0] * pair[1]
)
MARKS = st.one_of(
    st.integers(0, 9).map(lambda n: events.tool_call(str(n), "find", {"q": n})),
    st.integers(0, 9).map(lambda n: events.tool_result(str(n), "found" * n)),
    st.integers(0, 9).map(lambda n: events.tool_error(str(n), "broke")),
    st.integers(0, 9).map(lambda n: events.source(str(n), url="https://a.example/")),
    st.integers(0, 900).map(lambda n: events.data("table", ["é🏔" * n])),
    st.just(events.step("again")),
    st.just(events.file("text/plain", "data:,x")),
)
STATES = st.one_of(
    st.integers(0, 9).map(lambda n: events.progress(n, 9, "", "", 0.0)),
    st.just(events.tool_delta("1", "find", '{"q"')),
    st.just(events.data("draft", 1, transient=True)),
    st.just(events.tool_result("1", "soon", preliminary=True)),
)
END = events.completed(None, cached=False, duration_ms=1)


class Said(NamedTuple):
    """A piece of text: in what is open where that is of its `kind`. `numbered`: its producer
    gives the number; with a `continues` it goes on with one of the parts before."""

    kind: Kind
    text: str
    numbered: bool
    continues: int | None


def said(texts: st.SearchStrategy[str]) -> st.SearchStrategy[Said]:
    return st.builds(
        Said,
        st.sampled_from(["t", "t", "r"]),
        texts,
        st.booleans(),
        st.one_of(st.none(), st.none(), st.none(), st.integers(0, 50)),
    )


Move = Said | Event
MOVES: st.SearchStrategy[Move] = st.one_of(said(TEXTS), said(TEXTS), MARKS, STATES)
LONG_MOVES: st.SearchStrategy[Move] = st.one_of(said(TEXTS), said(LONG), MARKS)


def events_of(move: Move, before: Atoms) -> list[Event]:
    """What a producer who has told `before` appends for it: text in pieces that fit."""
    if isinstance(move, Event):
        return [move]
    going_on = before.open is not None and before.open[0] == move.kind
    number, continues = "", ""
    if move.continues is not None and before.parts:
        continues, going_on = f" {move.continues % before.parts}", False
    if move.numbered:
        open_ = before.open[1] if before.open is not None and going_on else before.parts
        number = str(open_)
    first, *rest = events.pieces(move.text)
    found = [events.delta(first, move.kind, number + continues)]
    for piece in rest:
        one = events.delta(piece, move.kind, number)
        found.append(one._replace(op=one.op.upper()))
    return found


def appended(moves: Sequence[Move], start: Atoms) -> list[Event]:
    """All of them, one after the other; `start` takes them, too."""
    found = []
    for move in moves:
        some = events_of(move, start)
        for event in some:
            start.add(event)
        found += some
    return found

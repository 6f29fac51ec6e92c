"""A run as the contract has it: what the scripts are compared with.

Invariant: it counts characters, openings and marks one by one (`tests/tapes.py`), and what it
says of a reader follows from what that reader has been told.
"""

from __future__ import annotations

from copy import deepcopy

from locustfiles.kit.ledger import Ledger

from plateau_sse.store.runs import events, ids
from plateau_sse.store.runs.events import Event
from tests.store import decoded
from tests.tapes import TAG, Atoms, tell_of_a_restart

# Code, attempt, the producer's count, parts.
Answer = tuple[str, int, int, int]


class Model:
    """A run as the contract has it. `history` is every entry that the stream was ever given,
    and `positions` some of the readers that there can be: what each has is in its ledger."""

    def __init__(self) -> None:
        self.status, self.runner = "queued", ""
        self.attempt = self.seq = self.states = 0
        self.progress = b""
        self.mark_bytes = 0
        self.atoms = Atoms()
        self.history: list[tuple[int, int, bytes]] = []
        self.ledger = Ledger()
        self.positions = [deepcopy(self.ledger)]
        self.other_server = False

    @property
    def running(self) -> bool:
        return self.status in ("queued", "running")

    @property
    def number(self) -> int:
        return ids.number(self.attempt, self.atoms.at)

    def answer(self, code: str) -> Answer:
        return code, self.attempt, self.seq, self.atoms.parts

    def append(self, attempt: int, first: int, batch: list[Event]) -> Answer:
        if attempt < self.attempt or attempt < 1:
            return self.answer("fenced")
        if attempt > self.attempt or first > self.seq + 1:
            return self.answer("gap")
        counted = sum(1 for event in batch if event.op.islower())
        if first and counted and first + counted - 1 <= self.seq:
            return self.answer("dup")
        if not self.running:
            return self.answer("ended")
        skip = self.seq + 1 - first if first else 0
        rest, passed = [], 0
        for event in batch:
            passed += event.op.islower()
            if passed > skip:
                rest.append(event)
        right = self._wrong_part(rest)
        if right is not None:
            return "part", self.attempt, self.seq, right
        if self._passes_a_bound(rest):
            return self.answer("full")
        if counted and not first and self.other_server:
            self._begin_anew()
        return self._write(rest)

    def _passes_a_bound(self, batch: list[Event]) -> bool:
        said = sum(len(event.arg.encode()) for event in batch if event.op.lower() in "tr")
        marks = [len(event.data) for event in batch if event.op == "m"]
        trial = copied(self.atoms)
        points = points_of(trial)
        for event in batch:
            if event.op != "e":
                trial.add(event)
        return (
            (said > 0 and self.atoms.at - points + said > events.TAPE_BYTES)
            or (bool(marks) and self.mark_bytes + sum(marks) > events.MARKS_BYTES)
            or points_of(trial) > max(points, events.POINTS_MOST)
        )

    def _wrong_part(self, batch: list[Event]) -> int | None:
        """The next number, where a part has none that it may have."""
        trial = copied(self.atoms)
        for event in batch:
            number, _, continues = event.part.partition(" ")
            kind = event.op.lower()
            if kind in "tr":
                own = (kind, int(number)) if number else trial.open
                goes_on = trial.open is not None and own == trial.open and own[0] == kind
                opens = bool(continues) or not goes_on
                if opens and number and int(number) != trial.parts:
                    return trial.parts
                if continues and int(continues) >= trial.parts:
                    return trial.parts
            trial.add(event)
        return None

    def _begin_anew(self) -> None:
        """What is left is the beginning of a new attempt."""
        self.attempt, self.seq, self.other_server = self.attempt + 2, 0, False
        self.history = []
        for index, atom in enumerate(self.atoms.atoms):
            if atom.event["type"] == "run.started":
                event = atom.event | {"attempt": self.attempt}
                self.atoms.atoms[index] = atom._replace(event=event)
        self.ledger = self.atoms.ledger(self.attempt)
        self.positions.append(deepcopy(self.ledger))

    def claim(self, attempt: int, runner: str, first: Event) -> Answer:
        if self.running and (attempt, runner) == (self.attempt, self.runner):
            return self.answer("dup")
        if not self.running:
            return self.answer("ended")
        if attempt <= self.attempt:
            return self.answer("fenced")
        if self.other_server and attempt == self.attempt + 1:
            return "skip", self.attempt, self.attempt + 2, self.atoms.parts
        if self.attempt:
            tell_of_a_restart(self.ledger, attempt, "attempt")
        self.status, self.runner, self.attempt, self.seq = "running", runner, attempt, 0
        self.progress, self.atoms, self.other_server = b"", Atoms(), False
        self.mark_bytes = 0
        return self._write([first])

    def end_by_another(self, attempt: int, last: Event) -> Answer:
        if not self.running:
            return self.answer("ended")
        if attempt != self.attempt:
            return self.answer("fenced")
        self.attempt = max(1, self.attempt)
        if self.other_server:
            self._begin_anew()
        return self._write([last], by_another=True)

    def _write(self, batch: list[Event], *, by_another: bool = False) -> Answer:
        for event in batch:
            # What the producer says next is not taken for this one.
            self.seq += event.op.islower() and not by_another
            before = self.atoms.at
            if event.op in "sp":
                self.states += 1
                if event.op == "p":
                    self.progress = event.data
            self.atoms.add(event)
            if event.op in "me":
                self.mark_bytes += len(event.data)
            if self.atoms.at > before:
                self._told(event, before)
            if event.op == "e":
                self.status = event.arg
                self.progress = b""
        return self.answer("ok")

    def _told(self, event: Event, before: int) -> None:
        data = event.data
        if event.op.lower() in "tr":
            open_ = self.atoms.open
            assert open_ is not None
            data = events.delta_head(event.op.lower(), open_[1]) + event.data
        self.history.append((before, self.number, data))
        self.ledger.take(f"{TAG}-{ids.show(self.number)}", decoded(data))
        assert not self.ledger.faults, (self.ledger.faults, data)
        if len(self.history) < 20 or len(self.history) % 16 == 0:
            self.positions.append(deepcopy(self.ledger))


def copied(atoms: Atoms) -> Atoms:
    """To be added to; what is in it never changes."""
    found = Atoms()
    found.atoms, found.parts, found.open = list(atoms.atoms), atoms.parts, atoms.open
    return found


def points_of(atoms: Atoms) -> int:
    """Marks and openings: all that is no character."""
    return sum(1 for atom in atoms.atoms if atom.event.get("text", "") == "")

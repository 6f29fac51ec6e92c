"""What the queue is meant to do, in plain Python: the model that its scripts are compared with.

Invariant: it says nothing of how anything is stored, and knows no time: a lease has run out or
has not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

FRONT = -1
# Of an owner's places and those that are free beside them, all but one.
SHARE = 7

# A run, its line, whether somebody had it, its owner.
Taken = tuple[str, str, bool, str]


@dataclass
class Place:
    """`runner` holds the run, or has lost it; '' for none."""

    line: str
    owner: str
    turn: int
    how: str = "n"
    runner: str = ""
    is_held: bool = False
    is_late: bool = False


@dataclass
class Model:
    limit: int
    places: dict[str, Place] = field(default_factory=dict)
    turn: int = 0
    turns: dict[str, int] = field(default_factory=dict)
    # Of each runner its own lines; and what the queue's user has been told is left.
    serving: dict[str, set[str]] = field(default_factory=dict)
    left: set[str] = field(default_factory=set)
    # Whether owners share the service, and whether the last taking has passed one over.
    is_shared: bool = False
    has_passed_over: bool = False
    # Those that were asked while they did.
    owned: set[str] = field(default_factory=set)

    def waiting(self, line: str | None = None) -> dict[str, Place]:
        return {
            run: place
            for run, place in self.places.items()
            if not place.is_held and line in (None, place.line)
        }

    def held(self, runner: str | None = None) -> dict[str, Place]:
        return {
            run: place
            for run, place in self.places.items()
            if place.is_held and runner in (None, place.runner)
        }

    def places_of(self, runner: str) -> Counter[str]:
        """Of each owner."""
        return Counter(place.owner for place in self.held(runner).values())

    def enqueue(self, run: str, line: str, owner: str, *, shared: bool = False) -> str:
        if run in self.places:
            return "ok"
        # What a runner had is no reason to turn others away.
        if sum(place.turn != FRONT for place in self.waiting().values()) >= self.limit:
            return "full"
        turn = max(self.turn, self.turns.get(owner, -1) + 1)
        self.turns[owner] = turn
        self.places[run] = Place(line, owner, turn)
        self.is_shared |= shared
        (self.owned.add if shared else self.owned.discard)(run)
        return "ok"

    def members(self) -> set[str]:
        """Of those that wait by owners."""
        return {
            f"{place.line}\n{place.owner}\n{place.turn:016d}\n{run}"
            for run, place in self.waiting().items()
            if run in self.owned and place.turn != FRONT
        }

    def take(
        self, runner: str, lines: Collection[str], free: int, *, without: bool = False
    ) -> list[Taken]:
        """Of these lines, and of those of the same agents that no runner has; and what is late
        goes back behind that."""
        self.serving[runner] = set(lines)
        while True:
            left = self._left(lines)
            some = {*lines, *(self.left & left)}
            taken = self._take(runner, some, free, without=without)
            self.lose()
            is_news, self.left = not left <= self.left, left
            if taken or not free or not is_news:
                return taken

    def _left(self, lines: Collection[str]) -> set[str]:
        served = {line for lines in self.serving.values() for line in lines}
        agents = {line.partition("@")[0] for line in lines}
        asked = {place.line for place in self.waiting().values()} - served
        return {line for line in asked if line.partition("@")[0] in agents}

    def _take(
        self, runner: str, lines: Collection[str], free: int, *, without: bool
    ) -> list[Taken]:
        """`without` a place, too, where somebody had it, once all places are taken."""
        in_line = sorted(
            (place.turn, run) for run, place in self.waiting().items() if place.line in lines
        )
        chosen: list[str] = []
        has = self.places_of(runner)
        self.has_passed_over = False
        for turn, run in in_line:
            owner, left = self.places[run].owner, free - len(chosen)
            if not left:
                break
            if (
                turn == FRONT
                or not self.is_shared
                or not has[owner]
                or (has[owner] < SHARE * (left - 1))
            ):
                chosen.append(run)
                has[owner] += 1
            else:
                self.has_passed_over = True
        self.has_passed_over &= len(chosen) < free
        rest = [run for turn, run in in_line if turn == FRONT and run not in chosen]
        taken = []
        for run in (*chosen, *(rest if without else ())):
            place = self.places[run]
            place.runner, place.is_held, place.is_late = runner, True, False
            taken.append((run, place.line, place.how != "n", place.owner))
        reached = max((self.places[run].turn for run, *_ in taken), default=FRONT)
        if reached > self.turn:
            self.turn = reached
            self.turns = {who: turn for who, turn in self.turns.items() if turn >= reached}
        if taken:
            self._rest()
        return taken

    def lose(self) -> None:
        for place in self.held().values():
            if place.is_late:
                self._put_back(place, "l")

    def hand_back(
        self, runner: str, lines: Collection[str], *, lost: bool, leaves: bool
    ) -> None:
        for place in self.held(runner).values():
            if place.line in lines:
                self._put_back(place, "l" if lost else "h")
        if leaves:
            self.serving.pop(runner, None)

    def _put_back(self, place: Place, how: str) -> None:
        place.how, place.turn, place.is_held, place.is_late = how, FRONT, False, False
        if how == "h":
            place.runner = ""

    def inherit(self, runner: str, dead: str) -> list[Taken]:
        found = self.held(dead)
        for place in found.values():
            place.runner, place.how, place.is_late = runner, "l", False
        return sorted((run, place.line, True, place.owner) for run, place in found.items())

    def renew(self, runner: str, runs: Mapping[str, str]) -> set[str]:
        lost = set()
        for run in runs:
            place = self.places.get(run)
            if place is None or place.runner != runner:
                lost.add(run)
            else:
                place.is_held, place.is_late = True, False
        return lost

    def remove(self, run: str, runner: str) -> None:
        """By its runner, or by '' while it waits."""
        place = self.places.get(run)
        if place is None or (place.runner != runner if runner else place.is_held):
            return
        del self.places[run]
        if not place.is_held:
            if place.turn != FRONT and place.owner in self.turns:
                self.turns[place.owner] -= 1
            self._rest()

    def _rest(self) -> None:
        """Where nobody waits everybody's turn has come."""
        if not self.waiting():
            self.turn, self.turns = 0, {}

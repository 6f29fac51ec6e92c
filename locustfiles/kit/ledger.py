"""What one reader has been told of one run, event by event.

Invariant: each id of the last attempt was delivered once and in line, or counted in a `missed`;
whatever is not so is a fault with a name. Nothing is forgiven because it comes right later: an
event that comes after its successor is out of order, one that never comes is lost.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

LOST, REPEATED, OUT_OF_ORDER = "lost", "repeated", "out of order"
AFTER_THE_END, CONTRADICTION, NO_ID = "after the end", "contradicts itself", "no valid id"
TERMINAL = ("run.completed", "run.failed", "run.cancelled")

Id = tuple[int, int]


@dataclass
class Ledger:
    """`last_id` is what a resuming reader sends; `text` is the answer so far; `end` the
    terminal event. `faults` counts by name."""

    last_id: str = ""
    text: str = ""
    end: dict[str, Any] | None = None
    events: int = 0
    snapshots: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    _last: Id = (0, 0)
    _overtaken: set[Id] = field(default_factory=set)

    def take(self, event_id: str, event: dict[str, Any]) -> bool:
        """Note one event, `event_id` being "" where it had none; whether it is news."""
        self.events += 1
        kind = event.get("type")
        if self.end is not None:
            self.faults[AFTER_THE_END] += 1
            return False
        if kind == "run.snapshot":
            return self._take_snapshot(event_id, event)
        at = parse_id(event_id)
        if at is None:
            # A run that the store has lost ends at no place in its stream.
            if kind in TERMINAL and not event_id:
                self.end = event
                return True
            self.faults[NO_ID] += 1
            return False
        return self._take(at, event_id, event)

    def _take(self, at: Id, event_id: str, event: dict[str, Any]) -> bool:
        if at <= self._last:
            late = at in self._overtaken
            self._overtaken.discard(at)
            self.faults[OUT_OF_ORDER if late else REPEATED] += 1
            return False
        attempt, seq = at
        before = self._last[1] if attempt == self._last[0] else 0
        self._overtaken.update((attempt, missing) for missing in range(before + 1, seq))
        self._last, self.last_id = at, event_id
        kind = event["type"]
        if kind == "message.delta":
            self.text += event["text"]
        elif kind == "run.restarted":
            self.text = ""
        elif kind in TERMINAL:
            self.end = event
        return True

    def _take_snapshot(self, event_id: str, event: dict[str, Any]) -> bool:
        self.snapshots += 1
        if not event_id:
            # Of a run that nobody has claimed: it stands at no place in a stream.
            if (event.get("text"), event.get("missed")) != ("", 0):
                self.faults[CONTRADICTION] += 1
            return True
        at = parse_id(event_id)
        if at is None:
            self.faults[NO_ID] += 1
            return False
        (attempt, seq), (own, seen) = at, self._last
        if at <= self._last:
            self.faults[REPEATED] += 1
            return False
        goes_on = attempt != own or str(event.get("text")).startswith(self.text)
        if not goes_on or event.get("missed") != seq - (seen if attempt == own else 0):
            self.faults[CONTRADICTION] += 1
        self._last, self.last_id = at, event_id
        self.text = str(event.get("text"))
        return True

    def close(self) -> Counter[str]:
        """All faults, once nothing more can come: what was overtaken and never came is lost."""
        attempt = self._last[0]
        self.faults[LOST] += sum(own == attempt for own, _ in self._overtaken)
        self._overtaken.clear()
        return +self.faults


def parse_id(event_id: str) -> Id | None:
    """`<attempt>-<seq>`, both counted from 1; None for anything else."""
    attempt, _, seq = event_id.partition("-")
    if not (attempt.isdecimal() and seq.isdecimal() and event_id.isascii()):
        return None
    at = int(attempt), int(seq)
    return at if min(at) > 0 else None

"""What one reader has been told of one run, event by event.

Invariant: a position grows by the bytes of a delta, by one more where its part is new, and by
one for whatever else stays; so where an event begins follows from where it ends, and must be
where the last one ended. Whatever is not so is a fault with a name. Nothing is forgiven because
it comes right later: an event that comes after its successor is out of order, one that never
comes is lost.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

LOST, REPEATED, OUT_OF_ORDER = "lost", "repeated", "out of order"
AFTER_THE_END, CONTRADICTION, NO_ID = "after the end", "contradicts itself", "no valid id"
TERMINAL = ("run.completed", "run.failed", "run.cancelled")
DELTAS = {"message.delta": "text", "reasoning.delta": "reasoning"}
# What shows how it goes, and takes no place on the tape; so do the two below where they say so.
STATES = ("run.queued", "run.progress", "tool.delta")
PASSING = {"data": "transient", "tool.result": "preliminary"}

_ID = re.compile(r"(?:([0-9a-f]{6})-)?([1-9][0-9]*)-(0|[1-9][0-9]*)")


class Place(NamedTuple):
    """An event id: the tag of its run ("" where it has none), the attempt and the position."""

    tag: str
    attempt: int
    at: int


NOWHERE = Place("", 0, 0)


@dataclass
class Ledger:
    """`last_id` is what a resuming reader sends; `parts` what it has of the answer, as records
    show it; `end` the terminal event. `faults` counts events by name, but for what is lost:
    that is in `holes`, from one position to another, until `close` counts them."""

    last_id: str = ""
    parts: list[dict[str, Any]] = field(default_factory=list)
    end: dict[str, Any] | None = None
    events: int = 0
    restarts: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    holes: list[tuple[int, int]] = field(default_factory=list)
    at: Place = NOWHERE
    # The part that the last event was of.
    _open: dict[str, Any] | None = None
    _opened: int = 0

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(part["text"] for part in self.parts if part["type"] == "text")

    def take(self, event_id: str, event: dict[str, Any]) -> bool:
        """Note one event, `event_id` being "" where it had none; whether it is as it should
        be."""
        self.events += 1
        kind = str(event.get("type"))
        if self.end is not None:
            return self._fault(AFTER_THE_END)
        if kind in STATES or event.get(PASSING.get(kind, "")) is True:
            # It stands at no place: whoever resumed from there would go wrong.
            return not event_id or self._fault(CONTRADICTION)
        if kind == "run.restarted":
            return self._begin_anew(event_id, event)
        place = parse_id(event_id)
        if place is None or place.at == 0:
            # A run that the store has lost ends at no place on its tape.
            if kind in TERMINAL and not event_id:
                self.end = event
                return True
            return self._fault(NO_ID)
        if self.at != NOWHERE and place.tag != self.at.tag:
            return self._fault(CONTRADICTION)
        return self._take(kind, place, event_id, event)

    def _take(self, kind: str, place: Place, event_id: str, event: dict[str, Any]) -> bool:
        own = self.at if self.at.attempt else Place(place.tag, place.attempt, 0)
        if place.attempt != own.attempt:
            # An attempt begins with `run.restarted`, and what is over does not go on.
            return self._fault(CONTRADICTION if place.attempt > own.attempt else REPEATED)
        opens = kind in DELTAS and not self._is_open(kind, event)
        length = len(str(event["text"]).encode()) + opens if kind in DELTAS else 1
        start = place.at - length
        if place.at <= own.at:
            late = self._was_left_out(start, place.at)
            return self._fault(OUT_OF_ORDER if late else REPEATED)
        if start < own.at:
            return self._fault(REPEATED)
        whole = start == own.at
        if not whole:
            self.holes.append((own.at, start))
        self.at, self.last_id = place, event_id
        if kind in DELTAS:
            self._say(kind, event, opens=opens, in_line=whole)
        else:
            self._open = None
            if not kind.startswith("run."):
                self.parts.append(event)
        if kind in TERMINAL:
            self.end = event
        return True

    def _is_open(self, kind: str, event: dict[str, Any]) -> bool:
        part = self._open
        return part is not None and (part["type"], part["part"]) == (
            DELTAS[kind],
            event["part"],
        )

    def _say(self, kind: str, event: dict[str, Any], *, opens: bool, in_line: bool) -> None:
        if not opens and self._open is not None:
            if "continues" in event or not event["text"]:
                self._fault(CONTRADICTION)
            self._open["text"] += event["text"]
            return
        number, continues = event["part"], event.get("continues")
        if (in_line and number != self._opened) or (
            continues is not None and not 0 <= continues < number
        ):
            self._fault(CONTRADICTION)
        self._open = {"type": DELTAS[kind], "part": number, "text": event["text"]}
        if continues is not None:
            self._open["continues"] = continues
        self._opened = number + 1
        self.parts.append(self._open)

    def _begin_anew(self, event_id: str, event: dict[str, Any]) -> bool:
        """What came before is void. Its own place is the one before all that follows; a run
        that nobody has claimed has none."""
        place, own = parse_id(event_id) or NOWHERE, self.at
        reason = event.get("reason")
        goes_on = reason == "other" or (
            place.tag == own.tag and (place.attempt > own.attempt or reason == "rewound")
        )
        named = place.attempt == event.get("attempt") or (not event_id and reason == "other")
        if place.at or not (goes_on and named):
            return self._fault(CONTRADICTION)
        self.restarts += 1
        self.at, self.last_id = place, event_id
        self.parts, self._open, self._opened, self.holes = [], None, 0, []
        return True

    def _was_left_out(self, start: int, end: int) -> bool:
        """Whether it lies in a hole, which is smaller then."""
        for index, (begin, until) in enumerate(self.holes):
            if begin < end <= until:
                rest = [(begin, max(begin, start)), (end, until)]
                self.holes[index : index + 1] = [hole for hole in rest if hole[0] < hole[1]]
                return True
        return False

    def _fault(self, name: str) -> bool:
        self.faults[name] += 1
        return False

    def close(self) -> Counter[str]:
        """All faults, once nothing more can come: what was overtaken and never came is lost."""
        self.faults[LOST] += len(self.holes)
        self.holes = []
        return +self.faults


def parse_id(event_id: str) -> Place | None:
    """`<tag>-<attempt>-<at>`, attempts counted from 1, `at` from 0; None for anything else."""
    match = _ID.fullmatch(event_id)
    return Place(match[1] or "", int(match[2]), int(match[3])) if match else None

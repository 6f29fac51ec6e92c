"""What one client has heard of one answer in the dialect of others, where no event has an id.

Invariant: what it has in the end must be the answer of the run's record, thoughts as well, and
the pieces of its text, which are numbered, must come one after the other: one that is lost,
repeated or misplaced is known by the frame that comes behind it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from locustfiles.agent import STAMP, numbers_of
from locustfiles.kit.ledger import AFTER_THE_END, LOST, OUT_OF_ORDER, TERMINAL
from plateau_sse.cli.dialects import INTERRUPTED, Event, Spoken

DATA = "data: "
# The last frame of all; what comes behind it is too late.
DONE = "[DONE]"


class Malformed(ValueError):
    """No frame of this dialect."""


class Hearing:
    """One client's, over as many responses as it takes. `end` is the terminal event."""

    def __init__(self, spoken: Spoken) -> None:
        self.end: Event | None = None
        self.faults: Counter[str] = Counter()
        self.events = 0
        self._spoken = spoken
        self.begin_anew()

    def begin_anew(self) -> None:
        """Another response tells the answer from its first word."""
        self._ear = self._spoken.ear()
        self._is_done = False
        self._forget()

    def _forget(self) -> None:
        self._text: list[str] = []
        self._thoughts: list[str] = []
        self._pieces = 0
        # Behind the last number.
        self._rest = ""

    @property
    def text(self) -> str:
        return "".join(self._text)

    def take(self, frame: bytes) -> list[Event]:
        """What a frame tells of. Raises Malformed."""
        lines = [line for line in frame.decode().split("\n") if line.startswith(DATA)]
        if len(lines) != 1:
            raise Malformed(f"not a frame: {frame[:80]!r}")
        try:
            events = list(self._ear(lines[0][len(DATA) :]))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise Malformed(f"{error!r}: {frame[:80]!r}") from None
        if self._is_done:
            self.faults[AFTER_THE_END] += 1
        self._is_done = self._is_done or lines[0] == DATA + DONE
        for event in events:
            self._hear(event)
        return events

    def _hear(self, event: Event) -> None:
        self.events += 1
        kind = event["type"]
        if self.end is not None:
            self.faults[AFTER_THE_END] += 1
        elif kind == "message.delta":
            self._text.append(event["text"])
            self._count(event["text"])
        elif kind == "reasoning.delta":
            self._thoughts.append(event["text"])
        elif kind == "run.restarted":
            self._forget()
        elif kind in TERMINAL and event.get("code") not in INTERRUPTED:
            self.end = event

    def _count(self, text: str) -> None:
        """A stamp may be cut in two."""
        self._rest += text
        end = 0
        for stamp in STAMP.finditer(self._rest):
            number, end = int(stamp[1]), stamp.end()
            if number != self._pieces:
                self.faults[LOST if number > self._pieces else OUT_OF_ORDER] += 1
            self._pieces = number + 1
        self._rest = self._rest[end:]

    def close(self) -> Counter[str]:
        """The faults of single frames."""
        return +self.faults

    def differs(self, record: Mapping[str, Any], pieces: int | None) -> str:
        """How what it has is not the answer of the run's record, "" where it is."""
        output, parts = record.get("output"), record.get("parts") or []
        if not output:
            return "an empty answer"
        if self.text != output:
            return "another text than its record's"
        thoughts = "".join(part["text"] for part in parts if part["type"] == "reasoning")
        if "".join(self._thoughts) != thoughts:
            return "other thoughts than its record's"
        if pieces is not None and numbers_of(output) != list(range(pieces)):
            return "pieces of the text are missing or misplaced"
        return ""

"""How far on the tape of an answer a reader has come (docs/events.md).

Invariant: each event is news once. One that is not next in line is not taken: what is missing
has to be asked for, from the last event that was taken.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

DELTAS = ("message.delta", "reasoning.delta")
TERMINAL = {
    "run.completed": "completed",
    "run.failed": "failed",
    "run.cancelled": "cancelled",
}
_EVENT_ID = re.compile(r"(?:([0-9a-f]{6})-)?([0-9]{1,9})-([0-9]{1,9})")


class Hole(Exception):
    """Something is missing before an event."""


class Place:
    """Where a reader is, who has read what came before `last_id`. `ended`: the terminal event
    was read."""

    def __init__(self, last_id: str = "") -> None:
        self.last_id = last_id
        self.ended = False
        # The number of the part that goes on, if its next delta comes now.
        self._open: Any = None
        self._stand(_EVENT_ID.fullmatch(last_id))
        # Whoever begins in the middle does not know which part is open there.
        self._is_sure = not last_id

    def take(self, event_id: str | None, event: Mapping[str, Any]) -> bool:
        """Whether the event is news. Raises Hole where another has to come before it."""
        kind = str(event.get("type", ""))
        found = _EVENT_ID.fullmatch(event_id or "")
        if kind == "run.restarted":
            # Without a place there is none to come back to.
            self.last_id = event_id if found and event_id else ""
            self._stand(found)
            self._open, self._is_sure = None, True
            return True
        # What is state has no id, and takes no place.
        if found is not None and event_id is not None:
            if not self._is_next(found, event_id, event):
                return False
            self.last_id = event_id
            self._stand(found)
            self._open, self._is_sure = event.get("part") if kind in DELTAS else None, True
        self.ended = kind in TERMINAL
        return True

    def _is_next(self, found: re.Match[str], event_id: str, event: Mapping[str, Any]) -> bool:
        """False for what was read already. Raises Hole."""
        tag, at = found[1] or "", (int(found[2]), int(found[3]))
        is_other = bool(self._tag and tag and tag != self._tag)
        if not is_other and at <= self._at:
            return False
        is_anew = is_other or at[0] != self._at[0]
        before = at[1] - _width(event, None if is_anew else self._open)
        expected = 0 if is_anew else self._at[1]
        is_within = not self._is_sure and before == expected - 1
        if self.last_id and before != expected and not is_within:
            raise Hole(f"something is missing before {event_id}")
        return True

    def _stand(self, found: re.Match[str] | None) -> None:
        self._tag = (found[1] or "") if found else ""
        self._at = (int(found[2]), int(found[3])) if found else (0, 0)


def _width(event: Mapping[str, Any], open_part: Any) -> int:
    """How much further the tape is behind the event than before it."""
    if event.get("type") not in DELTAS:
        return 1
    text = str(event.get("text", "")).encode("utf-8", "surrogatepass")
    return len(text) + int(event.get("part") != open_part)

"""Tapes made by hand: events with the ids that a service would give them.

Invariant: positions follow by the arithmetic of docs/events.md, whoever computes them.
"""

from __future__ import annotations

from typing import Any

Event = dict[str, Any]


def event(type_: str, **fields: Any) -> Event:
    return {"type": type_, **fields}


class Tape:
    """Events with their ids, as the tape of a run has them."""

    def __init__(self, attempt: int = 1, tag: str = "3fa29c") -> None:
        self.attempt, self.tag, self.at = attempt, tag, 0
        self._open: int | None = None

    @property
    def here(self) -> str:
        return f"{self.tag}-{self.attempt}-{self.at}"

    def say(
        self, text: str, part: int = 0, kind: str = "message", **more: Any
    ) -> tuple[str, Event]:
        self.at += len(text.encode()) + (part != self._open)
        self._open = part
        return self.here, event(f"{kind}.delta", part=part, text=text, **more)

    def mark(self, type_: str, **fields: Any) -> tuple[str, Event]:
        self.at, self._open = self.at + 1, None
        return self.here, event(type_, **fields)

    def started(self) -> tuple[str, Event]:
        return self.mark("run.started", run="r", agent="study", attempt=self.attempt)

    def restarted(self, reason: str = "attempt") -> tuple[str, Event]:
        return self.here, event("run.restarted", attempt=self.attempt, reason=reason)

    def completed(self, **fields: Any) -> tuple[str, Event]:
        return self.mark("run.completed", **fields)

"""Who speaks, where several parts of an agent do at once.

Invariant: one message is told to its end before another begins, each in its own order, so that
two that are made side by side are two, and not one of words that take turns. The one that began
first is told as it comes; what others say meanwhile waits, within the bound of an answer.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any

from plateau_sse.agents import AgentError, ToolDelta, Yielded

# As much as a tape has room for.
WAITING_CHARS = 256 * 1024


class Floor:
    """`speaker` is any name of a message that is not over."""

    def __init__(self) -> None:
        self._speaker: Hashable | None = None
        # What others have said, in the order in which they began.
        self._waiting: dict[Hashable, list[Yielded]] = {}
        self._over: set[Hashable] = set()
        self._chars = 0

    def say(self, speaker: Hashable, item: Yielded) -> Iterator[Yielded]:
        """What is told now: the item, or nothing yet. Raises AgentError."""
        if self._speaker is None:
            self._speaker = speaker
        if self._speaker == speaker:
            yield item
            return
        if isinstance(item, ToolDelta):
            # Nobody sees it being written: the whole call follows.
            return
        self._waiting.setdefault(speaker, []).append(item)
        self._chars += _size(item)
        if self._chars > WAITING_CHARS:
            said = f"What is said side by side passed {WAITING_CHARS // 1024} KiB."
            raise AgentError("output_too_large", said)

    def end(self, speaker: Hashable) -> Iterator[Yielded]:
        """It has said everything: what has waited for that."""
        if self._speaker != speaker:
            if speaker in self._waiting:
                self._over.add(speaker)
            return
        self._speaker = None
        while self._speaker is None and self._waiting:
            following = next(iter(self._waiting))
            yield from self._told(following)
            if following in self._over:
                self._over.discard(following)
            else:
                self._speaker = following

    def rest(self) -> Iterator[Yielded]:
        """Nobody says anything more."""
        for speaker in list(self._waiting):
            yield from self._told(speaker)
        self._speaker = None
        self._over.clear()

    def _told(self, speaker: Hashable) -> list[Yielded]:
        items = self._waiting.pop(speaker)
        self._chars -= sum(map(_size, items))
        return items


def _size(item: Any) -> int:
    text = item if isinstance(item, str) else getattr(item, "text", None)
    return len(text) if isinstance(text, str) else 100

"""Messages that were told and come once more, as a node's own and under other ids.

Invariant: a message that was told stands for one message of the state. Whatever else has the
same text was said again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from plateau_sse.agents.hosting.langgraph_blocks import text_of


@dataclass(slots=True)
class Told:
    """A message as it was told; its ids, since one changes midway over Responses, and those of
    its calls."""

    task: str
    ids: set[str] = field(default_factory=set)
    calls: set[str] = field(default_factory=set)
    text: str = ""


class Copies:
    """The messages of one run that are told, and not yet found in its state."""

    def __init__(self) -> None:
        self._told: list[Told] = []

    def add(self, told: Told) -> None:
        if told.text or told.calls:
            self._told.append(told)

    def found(self, message_ids: Iterable[str]) -> None:
        """In the state, under the ids that they were told by."""
        known = set(message_ids)
        self._told = [it for it in self._told if not it.ids & known]

    def takes(self, message: Any, task: str) -> bool:
        """Whether it says what one of them has said, and calls for nothing else; of those that
        the same task has told, where that is known."""
        text = text_of(message).strip()
        calls = {str(it.get("id") or "") for it in getattr(message, "tool_calls", None) or ()}
        for told in self._told:
            is_near = not task or told.task == task or told.task.startswith(f"{task}|")
            if is_near and told.text == text and calls <= told.calls:
                self._told.remove(told)
                return True
        return False

"""An exchange that an agent remembers by itself, but for what is new in it."""

from __future__ import annotations

from collections.abc import Sequence

from plateau_sse.agents import Message


def latest_of(messages: Sequence[Message]) -> Sequence[Message]:
    """What was said since the agent spoke: the rest it remembers itself."""
    spoken = [at for at, it in enumerate(messages) if it.role == "assistant"]
    return messages[spoken[-1] + 1 if spoken else 0 :]

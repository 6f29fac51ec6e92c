"""An exchange that an agent remembers by itself, but for what is new in it."""

from __future__ import annotations

from collections.abc import Sequence

from plateau_sse.agents import Message

UNANSWERED = "Nobody has answered whether this may be done; the conversation has gone on."


def latest_of(messages: Sequence[Message], *, waits: bool = False) -> Sequence[Message]:
    """What was said since the agent spoke: the rest it remembers itself. An agent that `waits`
    for an answer may have spoken by nothing but its question, which is no message: new is only
    what was said last."""
    if waits:
        return messages[-1:]
    spoken = [at for at, it in enumerate(messages) if it.role == "assistant"]
    return messages[spoken[-1] + 1 if spoken else 0 :]

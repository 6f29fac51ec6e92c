"""What the adapters of several frameworks need to read what they are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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


def file_url_of(file: Mapping[str, Any]) -> str:
    """Where the file of a part is, '' where it is not elsewhere. Dialects that know only one
    address of a file send it as its data."""
    for name in ("file_url", "file_data"):
        found = file.get(name)
        if isinstance(found, str) and found[:8].lower().startswith(("https://", "http://")):
            return found
    return ""

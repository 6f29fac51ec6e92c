"""What frameworks remember of a conversation, kept in Plateau's memory of it.

Each of these is for the agents of its framework, and imports that only when it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plateau_sse.agents.memory.langgraph import Checkpointer
    from plateau_sse.agents.memory.openai_agents import Session
    from plateau_sse.agents.memory.pydantic_ai import History

__all__ = ["Checkpointer", "History", "Session"]

_WHERE = {
    "Checkpointer": "langgraph",
    "History": "pydantic_ai",
    "Session": "openai_agents",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)

"""What OpenAI's routes ask alike: who answers, for whom, and how.

Invariant: a model is an agent's name, or one that `openai` may ask its endpoint for.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

from plateau_sse.api.bodies import invalid
from plateau_sse.api.requests import USER_CHARS
from plateau_sse.api.state import State
from plateau_sse.errors import Problem

# The agent that passes on what it is asked to an endpoint of its own.
OPENAI = "openai"
# What OpenAI's servers note beside a question. It has no part in the answer: the same question
# under another label is the same.
NOTES = (
    *("metadata", "safety_identifier", "store"),
    *("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"),
)


def flag_of(value: Any, field: str) -> bool:
    if value is not None and not isinstance(value, bool):
        raise invalid(field, "true or false.")
    return bool(value)


def user_of(user: Any) -> str:
    """As short as those of our own."""
    if user is not None and not isinstance(user, str):
        raise invalid("user", "Not a string.")
    if user and len(user) > USER_CHARS:
        return blake2b(user.encode("utf-8", "replace"), digest_size=16).hexdigest()
    return user or ""


async def agent_of(model: str, state: State) -> str:
    """The agent that answers as this model."""
    agents = await state["intake"].agents()
    if model in agents or not agents:
        return model
    settings = state["settings"]
    if OPENAI in agents and model in (settings.openai_model, *settings.openai_models):
        return OPENAI
    raise Problem(
        "unknown_agent",
        f"There is no model {model[:100]!r}: GET /v1/models lists those that there are.",
        extra={"field": "model"},
    )

"""What a person has answered to calls that waited for it.

Invariant: a call is approved by nothing but a plain yes; each answer belongs to a call that
waits, and each call that waits has one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plateau_sse.agents import AgentError

# What is answered to a request for approval; also where the arguments may be others.
APPROVAL: dict[str, Any] = {
    "type": "object",
    "properties": {"approved": {"type": "boolean"}, "reason": {"type": "string"}},
    "required": ["approved"],
}
EDITABLE = {
    **APPROVAL,
    "properties": {**APPROVAL["properties"], "arguments": {"type": "object"}},
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """`reason` is told to the model where it is not approved; `arguments` stand in for those
    that the model had written."""

    approved: bool
    reason: str = ""
    arguments: dict[str, Any] | None = None


def verdicts_of(
    resume: Sequence[Mapping[str, Any]], waiting: Collection[str]
) -> dict[str, Mapping[str, Any]]:
    """The answers by the ids of what waits. Raises AgentError."""
    found = {str(entry.get("id")): entry for entry in resume}
    if not waiting:
        raise AgentError(
            "invalid_options",
            "Nothing waits for an answer in this conversation: it was given, or the "
            "conversation has gone on.",
        )
    if missing := sorted(set(waiting) - set(found)):
        said = f"An answer is missing to {', '.join(missing)[:200]}: give all of them at once."
        raise AgentError("invalid_options", said)
    return {one: found[one] for one in waiting}


def verdict_of(entry: Mapping[str, Any]) -> Verdict:
    match entry.get("status"), entry.get("payload"):
        case ("cancelled", _) | (_, False):
            return Verdict(False)
        case (_, True):
            return Verdict(True)
        case (_, {"approved": True, "arguments": dict(arguments)}):
            return Verdict(True, "", arguments)
        case (_, {"approved": True}):
            return Verdict(True)
        case (_, {"approved": False, **rest}):
            return Verdict(False, str(rest.get("reason") or ""))
    raise AgentError(
        "invalid_options",
        'An approval is answered with the payload {"approved": true}, or false with a reason.',
    )

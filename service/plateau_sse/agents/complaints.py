"""How endpoints say that they have failed, where the status says that all is well.

Invariant: a chunk that says so in any of the ways in which endpoints do is an AgentError; one
that only carries what nobody here reads is none.
"""

from __future__ import annotations

import json
from typing import Any

from plateau_sse.agents import AgentError

MAX_MESSAGE = 500


def _in_order(*names: str) -> dict[str, None]:
    """A set that keeps its order. Most chunks have none of it, which one step tells."""
    return dict.fromkeys(" ".join(names).split())


# An error wherever they stand; what is one where there is no choice beside it; and what is
# content there: of another protocol.
ALWAYS = _in_order("err error errors error_msg error_message errorMessage error_code errorCode")
ALONE = _in_order("message msg detail details code fault exception title")
FOREIGN = _in_order(
    "content text response output outputs candidates delta completion generated_text result",
    "results answer data content_block choice message messages output_text",
)
FAILED = ("error", "failed", "failure")
# The same within a choice, and within its delta or message: there these are where they belong.
IN_CHOICE = _in_order(
    *(name for name in FOREIGN if name not in ("text", "delta", "message")),
    "tool_calls function_call",
)
IN_DELTA = _in_order(*(name for name in FOREIGN if name != "content"))
# Where endpoints put the words, the best first.
WORDS = (
    "error errors error_msg error_message errorMessage message msg detail details title "
    "status_msg error_code errorCode"
).split()


def complaint(chunk: dict[str, Any], *, has_choice: bool) -> AgentError | None:
    """What is wrong with it, if anything."""
    kinds = (chunk.get("object"), chunk.get("type"), chunk.get("status"))
    if (
        _said_in(chunk, ALWAYS)
        or any(isinstance(kind, str) and kind in FAILED for kind in kinds)
        or chunk.get("success") is False
    ):
        return reported(chunk)
    groq = chunk.get("x_groq")
    if isinstance(groq, dict) and _said_in(groq, ALWAYS):
        return reported(groq)
    base = chunk.get("base_resp")
    if isinstance(base, dict) and _says(base.get("status_code")):
        return reported(base)
    if has_choice:
        return None
    if _said_in(chunk, ALONE):
        return reported(chunk)
    return foreign(chunk)


def foreign(chunk: dict[str, Any]) -> AgentError | None:
    """Of a chunk in which no choice says anything: content of another protocol."""
    if _said_in(chunk, FOREIGN):
        return broken("the upstream sent JSON that is no chat completion")
    return None


def misplaced(
    choice: dict[str, Any], delta: dict[str, Any], message: dict[str, Any]
) -> AgentError | None:
    """An error within a choice, or content where nobody reads it."""
    for part, names in ((choice, IN_CHOICE), (delta, IN_DELTA), (message, IN_DELTA)):
        if _said_in(part, ALWAYS):
            return reported(part)
        if name := _said_in(part, names):
            return broken(f"it holds {name} in a place that is not understood")
    return None


def _said_in(of: dict[str, Any], names: dict[str, None]) -> str:
    """The first of the names under which it says something; '' where it is none."""
    if names.keys().isdisjoint(of):
        return ""
    return next((name for name in names if _says(of.get(name))), "")


def _says(value: Any) -> bool:
    return value not in (None, False, 0, "", "0", [], {})


def reported(what: Any) -> AgentError:
    said = what if isinstance(what, str) else json.dumps(what)
    return broken(f"the upstream reported an error: {message_of(said)}")


def message_of(body: str) -> str:
    """What an error body says, in whichever of the usual shapes, as one line."""
    said: Any = body
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        pass
    # Each may hold the next: {"error": {"message": …}}, {"detail": [{"msg": …}]}.
    for _ in range(4):
        if isinstance(said, list) and said:
            said = said[0]
        if not isinstance(said, dict):
            break
        # `true` says that there is an error, and no more.
        found = [said[name] for name in WORDS if said.get(name) not in (None, "", True, {}, [])]
        if not found:
            break
        said = found[0]
    return " ".join((said if isinstance(said, str) else json.dumps(said)).split())


def broken(what: str) -> AgentError:
    return AgentError(
        "upstream_broken_stream", f"The model's answer broke off: {what}.", retryable=True
    )

"""What a person has answered, with which an agent goes on that had asked for it.

Invariant: whatever the dialect, an agent is given the same: `id`, `status` and mostly a
`payload` of each answer, as the option `resume`; and where nothing else is said, a message that
says them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec

from plateau_sse import jsontext
from plateau_sse.api.bodies import DEPTH_MOST, invalid, too_deep
from plateau_sse.api.messages import told
from plateau_sse.jsontext import is_deeper

Message = dict[str, Any]
MOST, ID_CHARS = 100, 500


class Answered(msgspec.Struct, forbid_unknown_fields=True):
    """What a person has answered to the `input.request` of this `id`, or that nobody will."""

    id: Annotated[str, told(minLength=1, maxLength=ID_CHARS)]
    status: Literal["resolved", "cancelled"] = "resolved"
    payload: Any = None


def resume_of(answers: Sequence[Answered]) -> list[dict[str, Any]]:
    """As an agent is given them; Problem `invalid_request`."""
    if len(answers) > MOST:
        raise invalid("resume", f"At most {MOST} answers.")
    found: list[dict[str, Any]] = []
    for index, answer in enumerate(answers):
        if not 0 < len(answer.id) <= ID_CHARS:
            raise invalid(f"resume[{index}].id", "The id of what was asked.")
        one: dict[str, Any] = {"id": answer.id, "status": answer.status}
        if answer.payload is not None:
            one["payload"] = answer.payload
        found.append(one)
    if is_deeper(found, DEPTH_MOST):
        raise too_deep("resume")
    return found


def texts_of(resume: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each answer in words."""
    said = [entry["payload"] if "payload" in entry else entry["status"] for entry in resume]
    return [it if isinstance(it, str) else jsontext.encode(it).decode() for it in said]


def message_of(resume: Sequence[Mapping[str, Any]]) -> Message:
    """The user's message, where nothing else was said."""
    text = "\n".join(texts_of(resume))
    return {"role": "user", "content": text if text.strip() else "-"}

"""What a conversation keeps of an answer, told as its run did.

Invariant: a position on the tape of the run is the same position here, unless not all of the
answer is kept: then whoever has seen a part of it is told so, and all that is kept.
"""

from __future__ import annotations

from typing import Any

import msgspec

from plateau_sse.store.conversations.wholes import Whole
from plateau_sse.store.runs import events
from plateau_sse.store.runs.events import Event, Kind
from plateau_sse.store.runs.tape import Tape

_OPS: dict[str, Kind] = {"text": "t", "reasoning": "r"}


def tape_of(run_id: str, whole: Whole, attempt: int) -> Tape:
    tape = Tape(attempt or 1)
    tape.add(events.started(run_id, whole.agent, tape.attempt))
    for part in whole.parts:
        if part["type"] in _OPS:
            _say(tape, part)
        else:
            tape.add(Event(msgspec.json.encode(part), "m"))
    tape.add(_end_of(whole))
    return tape


def _say(tape: Tape, part: dict[str, Any]) -> None:
    number = str(part.get("part", tape.parts))
    continues = f" {part['continues']}" if "continues" in part else ""
    # It is another part, whatever was open.
    opening = events.delta(part["text"], _OPS[part["type"]], f"{number}{continues}")
    tape.add(opening)


def _end_of(whole: Whole) -> Event:
    if whole.status == "failed":
        why = "The answer was broken off; why is not kept."
        return events.failed("agent_error", why, retryable=False)
    if whole.status == "cancelled":
        return events.cancelled("requested")
    end = events.completed(
        None,
        cached=whole.cached,
        duration_ms=0,
        finish_reason=whole.finish_reason,
        model=None,
    )
    if whole.text is None:
        return end
    return end._replace(data=events.with_output(end.data, whole.text.encode()))

"""Cached answers as runs: the same routes serve them, from the cache entry alone.

Invariant: a hit needs no run, no runner and no record; its id names the entry, and the entry's
own token opens it.
"""

from __future__ import annotations

import hmac
import time
from typing import Any

from plateau_sse.errors import Problem
from plateau_sse.store.answers.cache import Cache
from plateau_sse.store.answers.packing import Answer
from plateau_sse.store.runs import events, ids
from plateau_sse.store.runs.reading import Entry


async def find(cache: Cache, run_id: str, *, token: str, owner: str) -> Answer:
    """The entry behind a hit's id; Problem where it is gone, or not the caller's. Raises
    StoreError: what is out of reach for a moment has not been evicted."""
    match = ids.HIT_ID.fullmatch(run_id)
    answer = await cache.read(match[1]) if match else None
    if answer is None:
        raise Problem("run_expired", "The cached answer has been evicted; ask again.")
    if owner:
        if answer.owner != owner:
            raise Problem("run_not_found", "There is no such run.")
    elif not hmac.compare_digest(token.encode(), answer.token.encode()):
        raise Problem("invalid_token", "The token is not this answer's.")
    return answer


def entries(run_id: str, answer: Answer) -> list[Entry]:
    """The events of a run that did at once what the cached one did."""
    data = [events.started(run_id, answer.agent, 1).data]
    data += [bytes(tool) for tool in answer.tools]
    if answer.text:
        data.append(events.delta(answer.text).data)
    end = events.completed(
        answer.usage,
        cached=True,
        duration_ms=answer.duration_ms,
        finish_reason=answer.finish_reason,
        output=answer.output,
    )
    data.append(end.data)
    return [Entry(ids.number(1, seq), event) for seq, event in enumerate(data, 1)]


def entries_after(run_id: str, answer: Answer, position: int) -> list[Entry]:
    """What follows `position`. One that lies ahead belongs to an answer that this one has
    replaced: its reader gets a snapshot, then the end."""
    found = entries(run_id, answer)
    last = found[-1]
    if position <= last.number:
        return [entry for entry in found if entry.number > position]
    covered = last.number - 1
    tools = b",".join(bytes(tool) for tool in answer.tools)
    data = events.snapshot("completed", answer.text, b"", tools, missed=len(found) - 1)
    return [Entry(covered, data), last]


def record(run_id: str, answer: Answer) -> dict[str, Any]:
    return {
        "id": run_id,
        "status": "completed",
        "agent": answer.agent,
        "attempt": 1,
        "cached": True,
        "output": answer.final,
        "error": None,
        "finish_reason": answer.finish_reason,
        "usage": answer.usage,
        "created_at": answer.stored_s,
        "started_at": answer.stored_s,
        "ended_at": answer.stored_s,
        "duration_ms": answer.duration_ms,
    }


def age_s(answer: Answer) -> int:
    return max(0, int(time.time()) - answer.stored_s)

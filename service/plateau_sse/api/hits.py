"""Cached answers as runs: the same routes serve them, from the cache entry alone.

Invariant: a hit needs no run, no runner and no record. Its id names the entry, and the entry's
own token opens it; a run that has expired is served from the entry that it left, for who could
read it before.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from typing import Any, Literal

from plateau_sse.errors import Problem
from plateau_sse.live import telling
from plateau_sse.live.dialect import Stand
from plateau_sse.live.paced import Make
from plateau_sse.owners import sees_answer
from plateau_sse.store.answers.answer import Answer
from plateau_sse.store.answers.cache import Cache
from plateau_sse.store.runs import events, ids
from plateau_sse.store.runs.tape import Entry, Inside, Tape


def key_of(run_id: str) -> str:
    """The key of the entry that a hit's id names; '' for the id of a run."""
    match = ids.HIT_ID.fullmatch(run_id)
    return match[1] if match else ""


async def find(cache: Cache, run_id: str, *, token: str, owner: str) -> Answer:
    """The entry behind a hit's id; Problem where it is gone, or not the caller's. Raises
    StoreError: what is out of reach for a moment has not been evicted."""
    answer = await cache.read(key_of(run_id))
    if answer is None:
        raise Problem("run_expired", "The cached answer has been evicted; ask again.")
    if owner:
        if not sees_answer(answer.owner, owner):
            raise Problem("run_not_found", "There is no such run.")
    elif not hmac.compare_digest(token.encode(), answer.token.encode()):
        if ids.is_of(token, key_of(run_id)):
            # An earlier entry's: who is told of a wrong token signs in anew, and not asks.
            raise Problem("run_expired", "The answer was replaced by a newer one; ask again.")
        raise Problem("invalid_token", "The token is not this answer's.")
    return answer


def again(cache: Cache, key: str, answer: Answer, say: Callable[[Answer], bytes]) -> Make:
    """How to say once more what has been said of this answer, without keeping it."""
    token = answer.token

    async def make() -> bytes | None:
        found = await cache.read(key)
        return None if found is None or found.token != token else say(found)

    return make


def frames(run_id: str, answer: Answer, seen: ids.Seen, stand: Stand) -> bytes:
    """What a reader has not seen, told as a run would be that did at once what the one did that
    gave the answer; nothing for who has seen the end."""
    return told(answer.tape(run_id), answer.tag, seen, stand)


def told(tape: Tape, tag: str, seen: ids.Seen, stand: Stand) -> bytes:
    """What a reader has not seen of a tape that has ended, whose events have this tag."""
    attempt, at = ids.split(seen.number)
    reason: Literal["", "attempt", "other", "rewound"] = ""
    entries: list[Entry] = []
    if not seen.number:
        entries = tape.entries()
    elif seen.tag not in ("", tag):
        reason = "other"
    elif attempt != tape.attempt:
        reason = "attempt" if attempt < tape.attempt else "rewound"
    elif at > tape.at:
        reason = "rewound"
    else:
        try:
            entries = tape.entries(at)
        except Inside:
            reason = "rewound"
    if reason:
        anew = events.restarted(tape.attempt, reason)
        entries = [Entry(ids.number(tape.attempt, 0), anew), *tape.entries()]
    return telling.whole(stand.dialect, stand.state, entries, tag.encode(), tape).content


def record(run_id: str, answer: Answer) -> dict[str, Any]:
    return {
        "id": run_id,
        "status": "completed",
        "agent": answer.agent,
        "attempt": answer.attempt,
        "cached": True,
        "output": answer.final,
        "error": None,
        "parts": answer.parts,
        "finish_reason": answer.finish_reason,
        "usage": answer.usage,
        "model": answer.model,
        "created_at": answer.stored_s,
        "started_at": answer.stored_s,
        "ended_at": answer.stored_s,
        "duration_ms": answer.duration_ms,
    }


def age_s(answer: Answer) -> int:
    return max(0, int(time.time()) - answer.stored_s)

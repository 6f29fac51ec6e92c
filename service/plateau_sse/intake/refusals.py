"""What a client is told whose run is not taken on.

Invariant: each says what to do, and those that pass say when to try again.
"""

from __future__ import annotations

from collections.abc import Iterable

from plateau_sse.errors import Problem
from plateau_sse.store.runs.shares import TOKENS_MOST


def conflict() -> Problem:
    return Problem(
        "idempotency_conflict",
        "This Idempotency-Key came with another request before.",
        extra={"field": "Idempotency-Key"},
    )


def crowded() -> Problem:
    return Problem(
        "too_many_callers",
        f"{TOKENS_MOST} callers have come with this Idempotency-Key; use another one.",
        headers={"Retry-After": "60"},
    )


def if_busy() -> Problem:
    return Problem(
        "invalid_request",
        "`if_busy` is `wait` (for the run before, as shipped) or `refuse`.",
        extra={"field": "options.if_busy"},
    )


def no_calls(call_ids: Iterable[str]) -> Problem:
    named = ", ".join(sorted(call_ids))[:100]
    return Problem(
        "invalid_request",
        f"This conversation has no answer that called {named}: send the calls, too (the "
        "`function_call` items, or the assistant's message with its `tool_calls`).",
        extra={"field": "messages"},
    )


def conversation_busy(waits: bool) -> Problem:
    said = "has as many runs as may wait" if waits else "has a run that is on"
    return Problem(
        "conversation_busy",
        f"The conversation {said}, and its agent answers one after the other; try again when "
        "that has ended.",
        headers={"Retry-After": "1"},
    )


def owner_limit() -> Problem:
    return Problem(
        "owner_limit",
        "Half of the queue is yours already; try again when some of your runs have ended.",
        headers={"Retry-After": "5"},
    )


def owner_bytes() -> Problem:
    return Problem(
        "owner_limit",
        "What was asked of your runs that have not ended takes a quarter of the store already; "
        "try again when some of them have.",
        headers={"Retry-After": "5"},
    )


def owner_answers() -> Problem:
    return Problem(
        "owner_limit",
        "What your runs that are on have said takes a quarter of the store, which is half "
        "full: end some of them, then send this again.",
        headers={"Retry-After": "5"},
    )


def rate_limited(per_minute: int, wait_ms: int) -> Problem:
    seconds = -(-wait_ms // 1000)
    return Problem(
        "rate_limited",
        f"{per_minute} runs may be begun in a minute; another may in {seconds} s. Answers that "
        "are cached, and runs that are shared, do not count.",
        headers={
            "Retry-After": str(seconds),
            "RateLimit-Policy": f'"runs";q={per_minute};w=60',
            "RateLimit": f'"runs";r=0;t={seconds}',
        },
    )


def store_full() -> Problem:
    return Problem(
        "store_full",
        "The store has no room for new runs; it has again when records have expired.",
        headers={"Retry-After": "30"},
    )


def queue_full(limit: int) -> Problem:
    return Problem(
        "queue_full",
        f"{limit} runs wait already; try again in a few seconds.",
        headers={"Retry-After": "5"},
    )


def external_full(limit: int) -> Problem:
    return Problem(
        "queue_full",
        f"{limit} external runs are on already; end some of them, or try again in a few "
        "seconds.",
        headers={"Retry-After": "5"},
    )


def no_runner() -> Problem:
    return Problem(
        "no_runner",
        "No runner is alive to execute new runs; cached answers are still served.",
        headers={"Retry-After": "5"},
    )


def closing() -> Problem:
    return Problem(
        "no_runner",
        "This server is stopping, and its store with it; try again in a few seconds.",
        headers={"Retry-After": "5"},
    )


def too_large(most: int) -> Problem:
    return Problem(
        "too_large", f"With what its conversation remembers it may have {most} bytes as JSON."
    )


def input_too_long(said: str) -> Problem:
    return Problem("too_large", said, extra={"field": "input"})


def unknown_agent(agent: str, known: Iterable[str]) -> Problem:
    return Problem(
        "unknown_agent",
        f"There is no agent {agent[:80]!r}; there are: {', '.join(sorted(known))}.",
        extra={"field": "agent"},
    )

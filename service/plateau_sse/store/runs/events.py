"""Events: what each looks like on the wire, and what becomes of it in the store.

Invariant: an event is one JSON object on one line with its `type` first; `op` tells append.lua
what it is to the tape, so no script ever parses JSON. docs/events.md lists them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, get_args

from plateau_sse.jsontext import encode as _encode

# Why a run that completed ended; `other` is whatever else an agent says.
FinishReason = Literal[
    "stop", "length", "content_filter", "tool_calls", "input_required", "other"
]
FINISH_REASONS: tuple[FinishReason, ...] = get_args(FinishReason)

# Of a part: text of the answer, or a thought.
Kind = Literal["t", "r"]
DELTAS: dict[str, bytes] = {"t": b"message.delta", "r": b"reasoning.delta"}

_TERMINAL_PREFIX = (
    b'{"type":"run.completed"',
    b'{"type":"run.failed"',
    b'{"type":"run.cancelled"',
)

# Of a delta's text as JSON: with what stands around it a frame stays within 8 KiB.
TEXT_BYTES = 8 * 1024 - 256
# What stands around it in the tail of a delta, and how long the number of a part may be.
_TAIL_BYTES = len(b',"text":,"continues":999}')
# Of an event that stays, as JSON.
MARK_BYTES = 32 * 1024
# Of one run: its text and thoughts, its marks, and how many marks and openings there may be.
# append.lua has the same.
TAPE_BYTES = 256 * 1024
MARKS_BYTES = 256 * 1024
POINTS_MOST = 1000


class Event(NamedTuple):
    """`op` says what `data` is to the tape:

    t r  a delta of text, of a thought: `arg` is its text, `data` what follows the number of its
         part in the JSON, which the script knows; `part` is that number where the producer
         gives it, and behind a space the part that it continues
    T R  the same, and one event with the one before it for who counts what it has sent
    m    a mark      e  the mark that ends the run: `arg` is the status
    s    state       p  progress: state of which the latest is kept
    """

    data: bytes
    op: str
    arg: str = ""
    part: str = ""


def delta(text: str, kind: Kind = "t", part: str = "") -> Event:
    """A delta, of at most `TEXT_BYTES` as JSON: `pieces` cuts what is longer."""
    _, _, continues = part.partition(" ")
    return Event(delta_tail(text, continues), kind, text, part)


def delta_tail(text: str, continues: str = "") -> bytes:
    end = b',"continues":%b}' % continues.encode() if continues else b"}"
    return b',"text":' + _encode(text) + end


def delta_tails(text: str, continues: str = "") -> Iterator[tuple[int, bytes]]:
    """The same of a text in as many deltas as it takes, cut as `pieces` does, each with its
    bytes of UTF-8; it is encoded once."""
    size = len(text.encode())
    if size <= TEXT_BYTES:
        tail = delta_tail(text, continues)
        if len(tail) <= TEXT_BYTES + _TAIL_BYTES:
            yield size, tail
            return
    half = len(text) // 2
    yield from delta_tails(text[:half], continues)
    yield from delta_tails(text[half:])


def delta_head(kind: str, part: int) -> bytes:
    """With the tail behind it, it is the event."""
    return b'{"type":"%b","part":%d' % (DELTAS[kind], part)


def pieces(text: str) -> Iterator[str]:
    """The text in pieces that each fit into a delta; characters stay whole."""
    if len(text) * 6 <= TEXT_BYTES or _fits(text):
        yield text
        return
    half = len(text) // 2
    yield from pieces(text[:half])
    yield from pieces(text[half:])


def _fits(text: str) -> bool:
    # What is too long as it is need not be encoded to be found so.
    return len(text.encode()) <= TEXT_BYTES and len(_encode(text)) <= TEXT_BYTES


def queued() -> bytes:
    """Told at once to whoever waits for a runner."""
    return _encode({"type": "run.queued"})


def started(run_id: str, agent: str, attempt: int) -> Event:
    event = {"type": "run.started", "run": run_id, "agent": agent, "attempt": attempt}
    return Event(_encode(event), "m")


def restarted(attempt: int, reason: Literal["attempt", "other", "rewound"]) -> bytes:
    """On no tape: its id is the position before everything of the attempt."""
    return _encode({"type": "run.restarted", "attempt": attempt, "reason": reason})


def progress(
    step: int, total_steps: int, current_agent: str, message: str, percentage: float
) -> Event:
    return Event(
        _encode(
            {
                "type": "run.progress",
                "step": step,
                "total_steps": total_steps,
                "current_agent": current_agent,
                "message": message,
                "percentage": percentage,
            }
        ),
        "p",
    )


def tool_call(call_id: str, name: str, arguments: Any, *, client: bool = False) -> Event:
    """`client`: whoever asked executes it."""
    event = {"type": "tool.call", "id": call_id, "name": name, "arguments": arguments}
    if client:
        event["client"] = True
    return Event(_encode(event), "m")


def tool_delta(call_id: str, name: str, arguments: str) -> Event:
    """All arguments so far."""
    event = {"type": "tool.delta", "id": call_id, "name": name, "arguments": arguments}
    return Event(_encode(event), "s")


def tool_result(call_id: str, output: Any, *, preliminary: bool = False) -> Event:
    event = {"type": "tool.result", "id": call_id, "output": output}
    if preliminary:
        event["preliminary"] = True
    return Event(_encode(event), "s" if preliminary else "m")


def tool_error(call_id: str, error: str) -> Event:
    return Event(_encode({"type": "tool.result", "id": call_id, "error": error}), "m")


def source(
    source_id: str,
    *,
    url: str | None = None,
    media_type: str | None = None,
    title: str | None = None,
    filename: str | None = None,
) -> Event:
    return Event(
        _filled(
            "source",
            id=source_id,
            url=url,
            media_type=media_type,
            title=title,
            filename=filename,
        ),
        "m",
    )


def file(media_type: str, url: str) -> Event:
    return Event(_encode({"type": "file", "media_type": media_type, "url": url}), "m")


def data(
    name: str, value: Any, data_id: str | None = None, *, transient: bool = False
) -> Event:
    event: dict[str, Any] = {"type": "data", "name": name}
    if data_id is not None:
        event["id"] = data_id
    event["value"] = value
    if transient:
        event["transient"] = True
    return Event(_encode(event), "s" if transient else "m")


def step(name: str) -> Event:
    return Event(_encode({"type": "step", "name": name}), "m")


def input_request(
    request_id: str,
    kind: Literal["approval", "question"],
    message: str,
    *,
    tool_call_id: str | None = None,
    schema: Any = None,
) -> Event:
    return Event(
        _filled(
            "input.request",
            id=request_id,
            kind=kind,
            tool_call_id=tool_call_id,
            message=message,
            schema=schema,
        ),
        "m",
    )


def completed(
    usage: dict[str, int] | None,
    *,
    cached: bool,
    duration_ms: int,
    finish_reason: FinishReason = "stop",
    model: str | None = None,
) -> Event:
    """Where the answer is not the text, `with_output` adds it: it is kept beside the tape."""
    event: dict[str, Any] = {
        "type": "run.completed",
        "finish_reason": finish_reason,
        "usage": usage,
        "model": model,
        "cached": cached,
        "duration_ms": duration_ms,
    }
    return Event(_encode(event), "e", "completed")


def with_output(end: bytes, output: bytes) -> bytes:
    """The terminal event with the answer that is not its text (UTF-8)."""
    return end[:-1] + b',"output":' + _encode(output.decode()) + b"}"


def failed(code: str, message: str, *, retryable: bool) -> Event:
    event = {"type": "run.failed", "code": code, "message": message, "retryable": retryable}
    return Event(_encode(event), "e", "failed")


def too_long(life_s: float) -> str:
    """What a run is told that was begun again and again."""
    return f"All its attempts took longer than {life_s:g} s."


def cancelled(reason: str) -> Event:
    return Event(_encode({"type": "run.cancelled", "reason": reason}), "e", "cancelled")


def is_terminal(data: bytes) -> bool:
    return data.startswith(_TERMINAL_PREFIX)


def _filled(type_: str, **members: Any) -> bytes:
    """Without the members that are None."""
    given = {name: value for name, value in members.items() if value is not None}
    return _encode({"type": type_, **given})

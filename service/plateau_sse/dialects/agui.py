"""AG-UI: messages, thoughts and calls of tools as they come, each event under an id.

Invariant: whatever is begun is ended before the run is, and a step before the next. An id is
that of the native event with the frame's `j` behind it (`3fa29c-1-500.15`), so that whoever
comes with `Last-Event-ID` is given what it lacks. What has no place on the tape has no id.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from plateau_sse import jsontext
from plateau_sse.content import untold
from plateau_sse.dialects import places
from plateau_sse.dialects.events import decode, text_of, type_of
from plateau_sse.live.dialect import OWN, PING, Due, Said, State
from plateau_sse.store.conversations.calls import arguments_of
from plateau_sse.store.runs import ids
from plateau_sse.store.runs.tape import Point, Tape

_PLACE = re.compile(r"(?:([0-9a-f]{6})-)?([1-9][0-9]{0,8})-([0-9]{1,9})\.([0-9]{1,2})")
_VERSION = "1.0"
_RESTARTED = "The answer has begun again, and what was sent cannot be taken back: ask again."
_KINDS = {b"message.delta": "text", b"reasoning.delta": "reasoning"}
_CONTENT = {"text": b"TEXT_MESSAGE_CONTENT", "reasoning": b"REASONING_MESSAGE_CONTENT"}


class _At(NamedTuple):
    """`open` is the kind and the number of the part that grows, `step` the name of the step
    that is on. `calls` of tools so far, `pending` those of them that the caller executes.
    `told`: something was that cannot be taken back, `text`: some of it in words, `asks`: a
    person. `after` and `void` as in Responses."""

    run: bytes = b""
    open: tuple[str, bytes] | None = None
    step: str | None = None
    pending: tuple[str, ...] = ()
    told: bool = False
    text: bool = False
    asks: bool = False
    after: int = -1
    void: bool = False


class _Frames:
    """What is told at one place, under ids from there on."""

    def __init__(self, at: _At, position: int, tag: bytes) -> None:
        self._after = at.after
        self._tag = tag
        self._place = places.of_mark(position)
        self.content = bytearray()

    def add(self, kind: str, own: bytes = b"", **members: Any) -> None:
        """With the members that are not None."""
        if self._place > self._after:
            self.content += _id(self._tag, self._place) + _frame(kind, own, **members)
        self._place += 1


class AgUi:
    name = "agui"
    recalls = True
    headers: Mapping[str, str] = {}
    ping = PING
    start: State = _At()

    def __init__(self) -> None:
        self._marks: dict[bytes, Callable[[_Frames, _At, _Event], _At]] = {
            b"run.started": _begin,
            b"tool.call": _call,
            b"tool.result": _result,
            b"source": _custom,
            b"file": _custom,
            b"data": _custom,
            b"step": _step,
            b"input.request": _ask,
        }

    def opening(self) -> bytes:
        return b""

    def parting(self, state: State) -> None:
        """A clean end is the run's: who is cut off comes back with `Last-Event-ID`."""

    def going_on(self, state: State, place: int, *, gone: bool = False) -> State:
        at: _At = state
        return at._replace(after=place, void=gone)

    def say(self, state: State, number: int, data: bytes, tag: bytes) -> Said:
        at: _At = state
        kind = type_of(data)
        if kind == b"run.restarted" or (at.void and number):
            return _restart(at)
        if kind in _KINDS:
            return _grow(at, _KINDS[kind], number, data, tag)
        if not number:
            return _state(at, kind, data)
        event = _Event(number, decode(data))
        if kind in (b"run.completed", b"run.failed", b"run.cancelled"):
            return _end(at, event, tag)
        frames = _Frames(at, number, tag)
        at = _close(frames, at)
        if kind in self._marks:
            at = self._marks[kind](frames, at, event)
        return Said(at._replace(after=-1), bytes(frames.content), False)


class _Event(NamedTuple):
    number: int
    has: dict[str, Any]


def seen(event_id: str) -> tuple[str, int] | None:
    """The tag and the place of an id of ours; None for what is none."""
    match = _PLACE.fullmatch(event_id.strip())
    if match is None or int(match[4]) > 15:
        return None
    return match[1] or "", places.of(ids.number(int(match[2]), int(match[3])), int(match[4]))


def own_of(thread_id: str, run_id: str) -> bytes:
    """The ids that its client has chosen, where OWN is."""
    return jsontext.encode({"threadId": thread_id, "runId": run_id})[1:-1]


def _id(tag: bytes, place: int) -> bytes:
    position, j = places.split(place)
    return b"id: %b-%d-%d.%d\n" % (tag, *ids.split(position), j)


def _frame(kind: str, own: bytes = b"", **members: Any) -> bytes:
    given = {name: value for name, value in members.items() if value is not None}
    told = jsontext.encode({"type": kind, **given})
    return b"data: %b%b}\n\n" % (told[:-1], b"," + own if own else b"")


def _message_id(at: _At, kind: str, part: bytes) -> bytes:
    return b"%b_%b_%b" % (b"msg" if kind == "text" else b"rs", at.run, part)


def _grow(at: _At, kind: str, number: int, data: bytes, tag: bytes) -> Said:
    """A delta of the part that is open is told at the cost of two searches in its bytes."""
    start = data.index(b'"part":') + 7
    part, text = data[start : data.index(b",", start)], text_of(data)
    content = b""
    if at.open != (kind, part):
        size = len(msgspec.json.decode(text).encode())
        frames = _Frames(at, number - size, tag)
        at = _close(frames, at)
        _open(frames, kind, _message_id(at, kind, part).decode())
        at = at._replace(open=(kind, part), told=True, text=at.text or kind == "text")
        content = bytes(frames.content)
    if at.after >= 0:
        at = at._replace(after=-1)
    if text != b'""':
        content += b'%bdata: {"type":"%b","messageId":"%b","delta":%b}\n\n' % (
            *(_id(tag, places.of_delta(number)), _CONTENT[kind]),
            *(_message_id(at, kind, part), text),
        )
    return Said(at, content, False)


def _open(frames: _Frames, kind: str, message_id: str) -> None:
    if kind == "text":
        frames.add("TEXT_MESSAGE_START", messageId=message_id, role="assistant")
        return
    frames.add("REASONING_START", messageId=message_id)
    frames.add("REASONING_MESSAGE_START", messageId=message_id, role="reasoning")


def _close(frames: _Frames, at: _At) -> _At:
    if at.open is None:
        return at
    kind, part = at.open
    message_id = _message_id(at, kind, part).decode()
    if kind == "text":
        frames.add("TEXT_MESSAGE_END", messageId=message_id)
    else:
        frames.add("REASONING_MESSAGE_END", messageId=message_id)
        frames.add("REASONING_END", messageId=message_id)
    return at._replace(open=None)


def _state(at: _At, kind: bytes, data: bytes) -> Said:
    """What is told and not kept."""
    event = decode(data)
    if kind == b"run.failed":
        return Said(at, _frame("RUN_ERROR", message=event["message"], code=event["code"]), True)
    if not at.run or kind not in (b"run.progress", b"data"):
        return Said(at, b"", False)
    return Said(at, _frame("CUSTOM", **_value_of(event)), False)


def _value_of(event: dict[str, Any]) -> dict[str, Any]:
    """The name of our own event, or of the agent's data, and what it holds."""
    if event["type"] == "data":
        value = jsontext.encode(event["value"])
        return {"name": event["name"], "value": msgspec.Raw(value)}
    name = event.pop("type").removeprefix("run.")
    return {"name": name, "value": event}


def _begin(frames: _Frames, at: _At, event: _Event) -> _At:
    if not at.run:
        frames.add("RUN_STARTED", OWN, protocolVersion=_VERSION)
    return at._replace(run=event.has["run"].encode())


def _call(frames: _Frames, at: _At, event: _Event) -> _At:
    call = event.has["id"]
    frames.add("TOOL_CALL_START", toolCallId=call, toolCallName=event.has["name"])
    if arguments := arguments_of(event.has):
        frames.add("TOOL_CALL_ARGS", toolCallId=call, delta=arguments)
    frames.add("TOOL_CALL_END", toolCallId=call)
    pending = (*at.pending, call) if event.has.get("client") else at.pending
    return at._replace(pending=pending, told=True)


def _result(frames: _Frames, at: _At, event: _Event) -> _At:
    result, (attempt, place) = event.has, ids.split(event.number)
    output = result.get("error", result.get("output"))
    if not isinstance(output, str):
        output = jsontext.encode(output).decode()
    frames.add(
        "TOOL_CALL_RESULT",
        messageId=f"tool_{at.run.decode()}_{attempt}_{place}",
        toolCallId=result["id"],
        content=output,
        role="tool",
    )
    return at._replace(told=True)


def _custom(frames: _Frames, at: _At, event: _Event) -> _At:
    frames.add("CUSTOM", **_value_of(event.has))
    return at._replace(told=True)


def _step(frames: _Frames, at: _At, event: _Event) -> _At:
    at = _end_step(frames, at)
    frames.add("STEP_STARTED", stepName=event.has["name"])
    return at._replace(step=event.has["name"], told=True)


def _end_step(frames: _Frames, at: _At) -> _At:
    if at.step is not None:
        frames.add("STEP_FINISHED", stepName=at.step)
    return at._replace(step=None)


def _ask(_: _Frames, at: _At, __: _Event) -> _At:
    """The end of the run tells it."""
    return at._replace(asks=True)


def _restart(at: _At) -> Said:
    if at.told or at.void:
        return Said(at, _frame("RUN_ERROR", message=_RESTARTED, code="restarted"), True)
    return Said(_At(at.run), b"", False)


def _end(at: _At, event: _Event, tag: bytes) -> Said:
    has = event.has
    then = at._replace(open=None, step=None, after=-1)

    answer = has.get("output") or ""

    def make(text: bytes, points: Sequence[Point]) -> bytes:
        frames = _Frames(at, event.number, tag)
        closed = _close(frames, at)
        if has["type"] == "run.failed":
            frames.add("RUN_ERROR", message=has["message"] or has["code"], code=has["code"])
            return bytes(frames.content)
        if not at.run:
            frames.add("RUN_STARTED", OWN, protocolVersion=_VERSION)
        parts = Tape(ids.split(event.number)[0], text, points).shown() if answer else []
        if rest := untold(parts, answer):
            message_id = _message_id(at, "text", b"output").decode()
            _open(frames, "text", message_id)
            frames.add("TEXT_MESSAGE_CONTENT", messageId=message_id, delta=rest)
            frames.add("TEXT_MESSAGE_END", messageId=message_id)
        _end_step(frames, closed)
        reason = has.get("finish_reason")
        frames.add(
            "RUN_FINISHED",
            OWN,
            outcome=_outcome(at, has, points),
            usage=_usage(has),
            metadata={"finishReason": reason} if reason else None,
        )
        return bytes(frames.content)

    if answer and at.text:
        return Said(then, b"", True, Due(0, None, make, points=True))
    if has.get("finish_reason") == "input_required" and at.asks:
        return Said(then, b"", True, Due(0, 0, make, points=True))
    return Said(then, make(b"", ()), True)


def _outcome(at: _At, event: Mapping[str, Any], points: Sequence[Point]) -> dict[str, Any]:
    if event["type"] == "run.cancelled":
        return {"type": "cancelled"}
    asked = [
        decode(it.data) for it in points if it.data and type_of(it.data) == b"input.request"
    ]
    if asked:
        return {"type": "interrupt", "interrupts": [_interrupt(it) for it in asked]}
    if at.pending:
        return {"type": "success", "pendingToolCallIds": list(at.pending)}
    return {"type": "success"}


def _interrupt(asked: Mapping[str, Any]) -> dict[str, Any]:
    schema, reason = asked.get("schema"), "input_required"
    if asked["kind"] == "approval":
        reason = "tool_call" if asked.get("tool_call_id") else "confirmation"
    found = {
        "id": asked["id"],
        "reason": reason,
        "message": asked["message"],
        "toolCallId": asked.get("tool_call_id"),
        "responseSchema": schema if isinstance(schema, dict) else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _usage(event: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    usage = event.get("usage")
    if not usage:
        return None
    names = {
        "input_tokens": "inputTokens",
        "output_tokens": "outputTokens",
        "cached_input_tokens": "cachedInputTokens",
        "reasoning_tokens": "reasoningTokens",
    }
    found: dict[str, Any] = {
        names[name]: count for name, count in usage.items() if name in names
    }
    if event.get("model"):
        found["model"] = event["model"]
    return [found]


AGUI = AgUi()

"""AI SDK's UI message stream, version 1: chunks that make the parts of a message.

Invariant: each part is begun before it grows and ended before the next begins, a tool is called
before it answers, and nothing is left in the making behind an error: the client fails on the
one and spins on the other. An attempt that begins again is taken back within its first step,
and is an error later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from plateau_sse import jsontext
from plateau_sse.content import untold
from plateau_sse.dialects.events import decode, text_of, type_of
from plateau_sse.dialects.ui_parts import chunk
from plateau_sse.jsontext import is_deeper
from plateau_sse.live.dialect import PING, Due, Said, State
from plateau_sse.store.runs import ids
from plateau_sse.store.runs.tape import Point, Tape

_DONE = b"data: [DONE]\n\n"
_FINISH = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content-filter",
    "tool_calls": "tool-calls",
    # As where a tool waits for its approval.
    "input_required": "tool-calls",
}
# Levels of arguments that are told as a value.
_DEPTH_MOST = 100
_RESTARTED = "The answer has begun again: ask again."
_NOTHING: frozenset[str] = frozenset()
_ENDS = (b"run.completed", b"run.failed", b"run.cancelled")
_KINDS = {b"message.delta": b"text", b"reasoning.delta": b"reasoning"}


class _At(NamedTuple):
    """`message_id` is that of the message which goes on, and `before` what is told again of it,
    until they are told: behind their start readers differ in `earlier` alone, the tools that
    were called in it before the run. `open` is the kind and the number of the part that grows;
    `inputs` are the tools whose arguments are on their way, with how much of them was told;
    `calls` all that were called, `pending` those of them that the agent executes and has not
    answered."""

    begun: bool = False
    message_id: str = ""
    before: bytes = b""
    open: tuple[bytes, bytes] | None = None
    # Steps that are over, and whether there is anything in this one.
    steps: int = 0
    filled: bool = False
    text: bool = False
    inputs: tuple[tuple[str, int], ...] = ()
    calls: frozenset[str] = _NOTHING
    pending: frozenset[str] = _NOTHING
    earlier: frozenset[str] = _NOTHING


_Step = tuple[_At, bytes]


class UiMessages:
    name = "ui"
    recalls = False
    headers: Mapping[str, str] = {"x-vercel-ai-ui-message-stream": "v1"}
    ping = PING
    start: State = _At()

    def __init__(self) -> None:
        self._marks: dict[bytes, Callable[[_At, dict[str, Any]], _Step]] = {
            b"run.started": _begin,
            b"tool.call": _call,
            b"tool.result": _result,
            b"source": _source,
            b"file": _file,
            b"data": _data,
            b"step": _step,
            b"input.request": _input_request,
        }
        self._ends: dict[bytes, Callable[[_At, dict[str, Any]], bytes]] = {
            b"run.failed": _failed,
            b"run.cancelled": _cancelled,
        }

    def opening(self) -> bytes:
        return b""

    def parting(self, state: State) -> None:
        """Its client takes a clean end for that of the answer, and resumes behind a connection
        that broke."""

    def say(self, state: State, number: int, data: bytes, tag: bytes) -> Said:
        at: _At = state
        kind = type_of(data)
        if kind in _KINDS:
            return Said(*_grow(at, _KINDS[kind], data), False)
        if not number and kind not in _ENDS:
            return Said(*_state(at, kind, data), False)
        if kind == b"run.restarted":
            return _take_back(at)
        at, content = _close(at)
        event = decode(data)
        if kind == b"run.completed":
            return _completed(at, content, number, event)
        if kind in self._ends:
            return Said(at, content + self._ends[kind](at, event) + _DONE, True)
        if kind in self._marks:
            at, said = self._marks[kind](at, event)
            content += said
        return Said(at, content, False)


def going_on(message_id: str, calls: Iterable[str] = (), before: bytes = b"") -> State:
    """Before an answer that goes on with this message, which has these calls of tools already;
    `before` are the chunks of what its client does not have of it any more. `UiMessages.start`
    is before one of its own."""
    return _At(message_id=message_id, earlier=frozenset(calls), before=before)


def _begin(at: _At, event: dict[str, Any]) -> _Step:
    if at.begun:
        # A later attempt at the same message.
        return at, b""
    message_id = at.message_id or f"msg_{event['run']}"
    started = chunk("start", messageId=message_id) + at.before + chunk("start-step")
    return at._replace(begun=True, message_id="", before=b""), started


def _close(at: _At) -> _Step:
    if at.open is None:
        return at, b""
    ended = b'data: {"type":"%b-end","id":"%b"}\n\n' % at.open
    return at._replace(open=None), ended


def _grow(at: _At, kind: bytes, data: bytes) -> _Step:
    """A delta is told at the cost of two searches in its bytes."""
    start = data.index(b'"part":') + 7
    part = (kind, data[start : data.index(b",", start)])
    content = b""
    if at.open != part:
        at, content = _close(at)
        at = at._replace(open=part, filled=True, text=at.text or kind == b"text")
        content += b'data: {"type":"%b-start","id":"%b"}\n\n' % part
    text = text_of(data)
    if text != b'""':
        content += b'data: {"type":"%b-delta","id":"%b","delta":%b}\n\n' % (*part, text)
    return at, content


def _state(at: _At, kind: bytes, data: bytes) -> _Step:
    """What is told and not kept."""
    if kind == b"tool.delta":
        return _write_input(at, decode(data))
    if kind == b"tool.result":
        return _result(at, decode(data))
    if kind == b"data":
        return _data(at, decode(data))
    if kind == b"run.progress":
        progress = decode(data)
        del progress["type"]
        return at, chunk("data-progress", data=progress, transient=True)
    return at, b""


def _write_input(at: _At, event: dict[str, Any]) -> _Step:
    call, arguments = event["id"], event["arguments"]
    if call in at.calls or not at.begun:
        return at, b""
    told = dict(at.inputs)
    content = b""
    if call not in told:
        content = chunk("tool-input-start", toolCallId=call, toolName=event["name"])
    rest = arguments[told.get(call, 0) :]
    if rest:
        content += chunk("tool-input-delta", toolCallId=call, inputTextDelta=rest)
    told[call] = max(told.get(call, 0), len(arguments))
    return at._replace(inputs=tuple(told.items()), filled=True), content


def _call(at: _At, event: dict[str, Any]) -> _Step:
    call = event["id"]
    # What it does not execute it must neither be asked to, nor wait for.
    executed = None if event.get("client") else True
    content = b""
    if call not in at.earlier:
        # One that a person had to approve is in the message already.
        content = chunk(
            "tool-input-available",
            toolCallId=call,
            toolName=event["name"],
            input=_value(event["arguments"]),
            providerExecuted=executed,
        )
    at = at._replace(
        filled=True,
        inputs=tuple(it for it in at.inputs if it[0] != call),
        calls=at.calls | {call},
        pending=at.pending | {call} if executed else at.pending,
    )
    return at, content


def _value(arguments: Any) -> Any:
    """Arguments are JSON text, or a value already; what is neither, or nests too deep to be
    told within another, stays a text."""
    if not isinstance(arguments, str):
        return arguments
    try:
        value = msgspec.json.decode(arguments) if arguments.strip() else {}
    except (msgspec.DecodeError, RecursionError):
        return arguments
    deep = isinstance(value, dict | list) and is_deeper(value, _DEPTH_MOST)
    return arguments if deep else value


def _result(at: _At, event: dict[str, Any]) -> _Step:
    call = event["id"]
    if call not in at.calls and call not in at.earlier:
        # The client knows no such call, and would fail.
        return at, b""
    executed = True if call in at.pending else None
    if "error" in event:
        content = chunk(
            "tool-output-error",
            toolCallId=call,
            errorText=event["error"],
            providerExecuted=executed,
        )
    else:
        output = {"toolCallId": call, "output": event["output"]}
        if executed:
            output["providerExecuted"] = True
        if event.get("preliminary"):
            output["preliminary"] = True
        content = b"data: %b\n\n" % jsontext.encode({"type": "tool-output-available"} | output)
    if not event.get("preliminary"):
        at = at._replace(pending=at.pending - {call})
    return at, content


def _source(at: _At, event: dict[str, Any]) -> _Step:
    at = at._replace(filled=True)
    title = event.get("title")
    if event.get("url"):
        told = {"sourceId": event["id"], "url": event["url"], "title": title}
        return at, chunk("source-url", **told)
    filename = event.get("filename")
    content = chunk(
        "source-document",
        sourceId=event["id"],
        mediaType=event["media_type"],
        title=title or filename or event["id"],
        filename=filename,
    )
    return at, content


def _file(at: _At, event: dict[str, Any]) -> _Step:
    content = chunk("file", url=event["url"], mediaType=event["media_type"])
    return at._replace(filled=True), content


def _data(at: _At, event: dict[str, Any]) -> _Step:
    told: dict[str, Any] = {"type": f"data-{event['name']}"}
    if "id" in event:
        told["id"] = event["id"]
    told["data"] = event["value"]
    if event.get("transient"):
        return at, b"data: %b\n\n" % jsontext.encode(told | {"transient": True})
    return at._replace(filled=True), b"data: %b\n\n" % jsontext.encode(told)


def _step(at: _At, event: dict[str, Any]) -> _Step:
    if not at.filled:
        return at, b""
    at = at._replace(steps=at.steps + 1, filled=False)
    return at, chunk("finish-step") + chunk("start-step")


def _input_request(at: _At, event: dict[str, Any]) -> _Step:
    call = event.get("tool_call_id")
    at = at._replace(filled=True)
    if event["kind"] == "approval" and call in at.calls:
        # It is the person's to answer, and no more the agent's.
        at = at._replace(pending=at.pending - {call})
        return at, chunk("tool-approval-request", approvalId=event["id"], toolCallId=call)
    del event["type"]
    return at, chunk("data-input-request", id=event["id"], data=event)


def _take_back(at: _At) -> Said:
    if not at.filled and not at.steps:
        return Said(at._replace(inputs=()), b"", False)
    if at.steps:
        at, content = _close(at)
        content += _unanswered(at, "The answer has begun again.")
        return Said(at, content + chunk("error", errorText=_RESTARTED) + _DONE, True)
    return Said(_At(begun=True, earlier=at.earlier), chunk("reset-step"), False)


def _completed(at: _At, before: bytes, number: int, event: dict[str, Any]) -> Said:
    """`before` ends the part that is open."""
    answer = event.get("output") or ""
    if not (answer and at.text):
        return Said(at, before + _finished(at, event, answer), True)

    def make(text: bytes, points: Sequence[Point]) -> bytes:
        parts = Tape(ids.split(number)[0], text, points).shown()
        return before + _finished(at, event, untold(parts, answer))

    return Said(at, b"", True, Due(0, None, make, points=True))


def _finished(at: _At, event: dict[str, Any], rest: str) -> bytes:
    """`rest` is the answer, where no part has said it."""
    content = b""
    if rest:
        content = chunk("text-start", id="output")
        content += chunk("text-delta", id="output", delta=rest)
        content += chunk("text-end", id="output")
    reason = _FINISH.get(event["finish_reason"], "other")
    # A question that waits for a person stays; a call that was cut off is none.
    content += _ended(dict(at.inputs), "The answer was cut off.")
    return content + chunk("finish-step") + chunk("finish", finishReason=reason) + _DONE


def _failed(at: _At, event: dict[str, Any]) -> bytes:
    content = _unanswered(at, "The answer failed.")
    return content + chunk("error", errorText=event["message"] or event["code"])


def _cancelled(at: _At, event: dict[str, Any]) -> bytes:
    content = _unanswered(at, "The answer was cancelled.")
    return content + chunk("abort", reason=event["reason"])


def _unanswered(at: _At, why: str) -> bytes:
    """What ends the tools that are still to answer, or to be called."""
    return _ended({*at.pending, *dict(at.inputs)}, why)


def _ended(calls: Iterable[str], why: str) -> bytes:
    return b"".join(
        chunk("tool-output-error", toolCallId=call, errorText=why) for call in sorted(calls)
    )


PLAIN = UiMessages()

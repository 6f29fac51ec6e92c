"""chat.completions: chunks of one choice, or one document.

Invariant: `[DONE]` and a `finish_reason` end a whole answer and nothing else. What cannot be
told here (sources, steps, tools that the agent itself executes) is left out, never bent; what
cannot be taken back (an attempt that begins again behind text that was sent) ends the stream
with an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from plateau_sse import jsontext
from plateau_sse.content import said_in, with_answer
from plateau_sse.dialects import openai_errors
from plateau_sse.dialects.events import decode, text_of, type_of
from plateau_sse.live.dialect import PING, Due, Said, State
from plateau_sse.store.conversations.calls import arguments_of
from plateau_sse.store.runs import ids
from plateau_sse.store.runs.tape import Point, Tape

_DONE = b"data: [DONE]\n\n"
_FINISH = {"stop": "stop", "length": "length", "content_filter": "content_filter"}
_RESTARTED = "The answer has begun again, and what was sent cannot be taken back: ask again."
_PARTED = "The stream ended before the answer did: ask again, and it goes on or is there."


class _At(NamedTuple):
    """`head` is what each chunk begins with, empty before the run has; `told`: something was
    that nobody can take back, `text`: some of it in words; `calls` of tools so far."""

    head: bytes = b""
    told: bool = False
    text: bool = False
    calls: int = 0


class ChatCompletions:
    """Chunks for whoever asked for `model`, with its usage at the end where `usage`. An answer
    that is no run of ours was `created` then, in seconds since the epoch."""

    name = "chat"
    recalls = False
    headers: Mapping[str, str] = {}
    ping = PING
    start: State = _At()

    def __init__(self, model: str, *, usage: bool, created: int = 0) -> None:
        self._model = model
        self._usage = usage
        self._created = created
        self._tail = b',"finish_reason":null}]%b}\n\n' % (b',"usage":null' if usage else b"")

    def opening(self) -> bytes:
        return b""

    def parting(self, state: State) -> bytes:
        """An error: these clients take a clean end for the answer's."""
        refusal = openai_errors.of_failure("interrupted", _PARTED, retryable=True)
        return _error_frame(refusal)

    def say(self, state: State, number: int, data: bytes, tag: bytes) -> Said:
        at: _At = state
        kind = type_of(data)
        if kind == b"message.delta":
            content = self._said(at, b"content", data)
            return Said(at if at.text else at._replace(told=True, text=True), content, False)
        if kind == b"reasoning.delta":
            content = self._said(at, b"reasoning_content", data)
            return Said(at if at.told else at._replace(told=True), content, False)
        if kind == b"tool.call":
            return self._call(at, decode(data))
        if kind == b"run.started":
            return self._begin(at, decode(data)["run"])
        if kind == b"run.restarted":
            if not at.told:
                return Said(at, b"", False)
            refusal = openai_errors.of_failure("restarted", _RESTARTED, retryable=True)
            return Said(at, _error_frame(refusal), True)
        if kind == b"run.completed":
            return self._completed(at, number, decode(data))
        if kind in (b"run.failed", b"run.cancelled"):
            return Said(at, _error_frame(refusal_of(decode(data))), True)
        return Said(at, b"", False)

    def _said(self, at: _At, member: bytes, data: bytes) -> bytes:
        """An opening may be empty, and is nothing to tell."""
        text = text_of(data)
        return b"" if text == b'""' else self._chunk(at, b'{"%b":%b}' % (member, text))

    def _chunk(self, at: _At, delta: bytes) -> bytes:
        return at.head + delta + self._tail

    def _begin(self, at: _At, run_id: str) -> Said:
        if at.head:
            # A later attempt, of which nothing was told that would have to be taken back.
            return Said(at, b"", False)
        opened = jsontext.encode(
            {
                "id": f"chatcmpl-{run_id}",
                "object": "chat.completion.chunk",
                "created": self._created or created_of(run_id),
                "model": self._model,
            }
        )
        head = b'data: %b,"choices":[{"index":0,"delta":' % opened[:-1]
        at = at._replace(head=head)
        return Said(at, self._chunk(at, b'{"role":"assistant","content":""}'), False)

    def _call(self, at: _At, event: dict[str, Any]) -> Said:
        if not event.get("client"):
            return Said(at, b"", False)
        call = {"index": at.calls, **_call_of(event)}
        content = self._chunk(at, jsontext.encode({"tool_calls": [call]}))
        return Said(at._replace(told=True, calls=at.calls + 1), content, False)

    def _completed(self, at: _At, number: int, end: dict[str, Any]) -> Said:
        answer = end.get("output") or ""
        if not (answer and at.text):
            return Said(at, self._end(at, end, answer), True)

        def make(text: bytes, points: Sequence[Point]) -> bytes:
            parts = Tape(ids.split(number)[0], text, points).shown()
            rest = with_answer(parts, answer).removeprefix(said_in(parts))
            return self._end(at, end, rest)

        return Said(at, b"", True, Due(0, None, make, points=True))

    def _end(self, at: _At, end: dict[str, Any], rest: str) -> bytes:
        """`rest` of the content is what the deltas have not said."""
        content = self._chunk(at, jsontext.encode({"content": rest})) if rest else b""
        reason = finish_reason_of(end["finish_reason"], at.calls)
        last = b',"usage":null' if self._usage else b""
        content += b'%b{},"finish_reason":"%b"}]%b}\n\n' % (at.head, reason.encode(), last)
        usage = usage_of(end["usage"])
        if self._usage and usage:
            opened = at.head[: at.head.index(b',"choices":')]
            content += b'%b,"choices":[],"usage":%b}\n\n' % (opened, jsontext.encode(usage))
        return content + _DONE


@lru_cache(64)
def chunks(model: str, *, usage: bool) -> ChatCompletions:
    """One for all who ask for the same: its frames are shared."""
    return ChatCompletions(model, usage=usage)


def document(run: Mapping[str, Any], model: str) -> dict[str, Any]:
    """The answer of a run that completed, as `GET /v1/runs/{id}` shows it."""
    thought, calls = "", []
    for part in run["parts"]:
        if part["type"] == "reasoning":
            thought += part["text"]
        elif part["type"] == "tool.call" and part.get("client"):
            calls.append(_call_of(part))
    text = with_answer(run["parts"], run["output"])
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if thought:
        message["reasoning_content"] = thought
    if calls:
        message |= {"content": text or None, "tool_calls": calls}
    choice = {
        "index": 0,
        "message": message,
        "finish_reason": finish_reason_of(run["finish_reason"], len(calls)),
        "logprobs": None,
    }
    found = {
        "id": f"chatcmpl-{run['id']}",
        "object": "chat.completion",
        "created": int(run["created_at"]),
        "model": model,
        "choices": [choice],
    }
    usage = usage_of(run["usage"])
    return found | {"usage": usage} if usage else found


def refusal_of(end: Mapping[str, Any]) -> openai_errors.Refusal:
    """Of a run that did not complete, from its end or from the error of its record."""
    if end.get("type") == "run.cancelled":
        end = {"code": "cancelled", "message": end["reason"], "retryable": False}
    message, retryable = end["message"], end["retryable"]
    if end["code"] == "cancelled":
        message = f"The answer was cancelled: {message}."
    return openai_errors.of_failure(end["code"], message, retryable=bool(retryable))


def created_of(run_id: str) -> int:
    """When a run of this id was created, in seconds since the epoch; 0 where none says."""
    return int(run_id[:12], 16) // 1000 if ids.RUN_ID.fullmatch(run_id) else 0


def finish_reason_of(reason: str, calls: int) -> str:
    return "tool_calls" if calls and reason == "tool_calls" else _FINISH.get(reason, "stop")


def usage_of(usage: Mapping[str, int] | None) -> dict[str, Any] | None:
    if not usage:
        return None
    given, made = usage.get("input_tokens", 0), usage.get("output_tokens", 0)
    found: dict[str, Any] = {
        "prompt_tokens": given,
        "completion_tokens": made,
        "total_tokens": given + made,
    }
    if "cached_input_tokens" in usage:
        found["prompt_tokens_details"] = {"cached_tokens": usage["cached_input_tokens"]}
    if "reasoning_tokens" in usage:
        found["completion_tokens_details"] = {"reasoning_tokens": usage["reasoning_tokens"]}
    return found


def _call_of(event: Mapping[str, Any]) -> dict[str, Any]:
    function = {"name": event["name"], "arguments": arguments_of(event)}
    return {"id": event["id"], "type": "function", "function": function}


def _error_frame(refusal: openai_errors.Refusal) -> bytes:
    return b"data: %b\n\n" % jsontext.encode({"error": refusal.error})

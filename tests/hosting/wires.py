"""How a model speaks: the pieces of what it says, as chat.completions and as Responses."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

USAGE = (10, 4, 5, 2)  # input, of which cached; output, of which thoughts


@dataclass(frozen=True, slots=True)
class Say:
    """`pause_s` comes after each word."""

    text: str
    cites: str = ""
    pause_s: float = 0


@dataclass(frozen=True, slots=True)
class Think:
    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """`id` is what the endpoint calls it; there are those that number calls anew in each turn.
    `arguments` that are a text are sent as they are."""

    name: str
    arguments: Any
    id: str = ""


@dataclass(frozen=True, slots=True)
class Refuse:
    text: str


@dataclass(frozen=True, slots=True)
class Status:
    """Instead of an answer."""

    code: int
    message: str = "no"


@dataclass(frozen=True, slots=True)
class Hang:
    """Says no more, until its client goes; nothing at all where it comes first."""


@dataclass(frozen=True, slots=True)
class Break:
    """The connection breaks here."""


@dataclass(frozen=True, slots=True)
class End:
    """Why it ends, where that is not what follows from what it has said."""

    reason: str


Piece = Say | Think | Call | Refuse | Status | Hang | Break | End


_ids = count(1)


def _pieces(text: str) -> list[str]:
    words = text.split(" ")
    return [f"{word} " for word in words[:-1]] + words[-1:]


def _arguments(call: Call) -> str:
    given = call.arguments
    return given if isinstance(given, str) else json.dumps(given)


class Chat:
    """chat.completions."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._head = {"id": f"chatcmpl-{next(_ids)}", "created": 1, "model": name}
        self._calls: list[str] = []
        self._reason = ""
        self._message: dict[str, Any] = {"role": "assistant", "content": None}

    def _chunk(self, delta: Any, reason: str | None = None) -> Any:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return self._head | {"object": "chat.completion.chunk", "choices": [choice]}

    def begin(self) -> Iterator[Any]:
        yield self._chunk({"role": "assistant", "content": ""})

    def piece(self, piece: Piece) -> Iterator[Any]:
        match piece:
            case Say(text=text):
                self._message["content"] = (self._message["content"] or "") + text
                yield from (self._chunk({"content": it}) for it in _pieces(text))
            case Think(text):
                self._message["reasoning_content"] = text
                yield from (self._chunk({"reasoning_content": it}) for it in _pieces(text))
            case Refuse(text):
                self._message["refusal"] = text
                yield self._chunk({"refusal": text})
            case End(reason):
                self._reason = reason
            case Call():
                yield from self._call(piece)

    def _call(self, call: Call) -> Iterator[Any]:
        call_id, text = call.id or f"call_{next(_ids)}", _arguments(call)
        function = {"name": call.name, "arguments": text}
        whole = {"id": call_id, "type": "function", "function": function}
        self._message.setdefault("tool_calls", []).append(whole)
        empty = {"name": call.name, "arguments": ""}
        head = {**whole, "index": len(self._calls), "function": empty}
        self._calls.append(text)
        yield self._chunk({"tool_calls": [head]})

    def _arguments(self) -> Iterator[Any]:
        """Of calls that are made at once a piece of each in turn."""
        for half in (0, 1):
            for index, text in enumerate(self._calls):
                middle = len(text) // 2
                function = {"arguments": (text[:middle], text[middle:])[half]}
                yield self._chunk({"tool_calls": [{"index": index, "function": function}]})

    def end(self) -> Iterator[Any]:
        yield from self._arguments()
        yield self._chunk({}, self._finish)
        yield self._head | {
            "object": "chat.completion.chunk",
            "choices": [],
            "usage": self._usage,
        }
        yield "[DONE]"

    @property
    def _finish(self) -> str:
        return self._reason or ("tool_calls" if self._calls else "stop")

    @property
    def _usage(self) -> Any:
        given, cached, made, thought = USAGE
        return {
            "prompt_tokens": given,
            "completion_tokens": made,
            "total_tokens": given + made,
            "prompt_tokens_details": {"cached_tokens": cached},
            "completion_tokens_details": {"reasoning_tokens": thought},
        }

    def whole(self) -> Any:
        choice = {"index": 0, "message": self._message, "finish_reason": self._finish}
        head = self._head | {"object": "chat.completion"}
        return head | {"choices": [choice], "usage": self._usage}


class Responses:
    def __init__(self, name: str) -> None:
        self._response: dict[str, Any] = {
            "id": f"resp_{next(_ids)}",
            "object": "response",
            "created_at": 1,
            "model": name,
            "status": "in_progress",
            "output": [],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
        }
        self._sequence = 0
        self._reason = ""

    def _event(self, kind: str, **members: Any) -> Any:
        self._sequence += 1
        return {"type": f"response.{kind}", "sequence_number": self._sequence, **members}

    def begin(self) -> Iterator[Any]:
        yield self._event("created", response=json.loads(json.dumps(self._response)))

    def piece(self, piece: Piece) -> Iterator[Any]:
        match piece:
            case Say():
                yield from self._say(piece)
            case Think(text):
                yield from self._think(text)
            case Refuse(text):
                yield from self._refuse(text)
            case End(reason):
                self._reason = reason
            case Call():
                item_id = f"fc_{next(_ids)}"
                call_id, text = piece.id or f"call_{next(_ids)}", _arguments(piece)
                item = {"id": item_id, "type": "function_call", "call_id": call_id}
                item |= {"name": piece.name, "arguments": text, "status": "completed"}
                half = len(text) // 2
                at = {"item_id": item_id, "output_index": self._index}
                kind = "function_call_arguments"
                events = [
                    self._event(f"{kind}.delta", delta=it, **at)
                    for it in (text[:half], text[half:])
                ]
                done = self._event(f"{kind}.done", arguments=text, name=piece.name, **at)
                yield from self._item(item, [*events, done])

    @property
    def _index(self) -> int:
        return len(self._response["output"])

    def _item(self, item: dict[str, Any], events: Sequence[Any]) -> Iterator[Any]:
        index = self._index
        begun = {"content": [], "summary": [], "arguments": ""}
        opened = {name: begun.get(name, value) for name, value in item.items()}
        opened["status"] = "in_progress"
        yield self._event("output_item.added", output_index=index, item=opened)
        yield from events
        self._response["output"].append(item)
        yield self._event("output_item.done", output_index=index, item=item)

    def _say(self, say: Say) -> Iterator[Any]:
        item_id = f"msg_{next(_ids)}"
        at = {"item_id": item_id, "output_index": self._index, "content_index": 0}
        part: dict[str, Any] = {"type": "output_text", "text": say.text, "annotations": []}
        empty = part | {"text": ""}
        events = [self._event("content_part.added", part=empty, **at)]
        for it in _pieces(say.text):
            events.append(self._event("output_text.delta", delta=it, logprobs=[], **at))
        if say.cites:
            cited: dict[str, Any] = {"type": "url_citation", "url": say.cites}
            cited |= {"title": "A page", "start_index": 0, "end_index": len(say.text)}
            part["annotations"].append(cited)
            kind = "output_text.annotation.added"
            events.append(self._event(kind, annotation_index=0, annotation=cited, **at))
        events.append(self._event("output_text.done", text=say.text, logprobs=[], **at))
        events.append(self._event("content_part.done", part=part, **at))
        item = {"id": item_id, "type": "message", "role": "assistant", "content": [part]}
        yield from self._item(item | {"status": "completed"}, events)

    def _refuse(self, text: str) -> Iterator[Any]:
        item_id = f"msg_{next(_ids)}"
        at = {"item_id": item_id, "output_index": self._index, "content_index": 0}
        part = {"type": "refusal", "refusal": text}
        events = [
            self._event("content_part.added", part=part | {"refusal": ""}, **at),
            self._event("refusal.delta", delta=text, **at),
            self._event("refusal.done", refusal=text, **at),
            self._event("content_part.done", part=part, **at),
        ]
        item = {"id": item_id, "type": "message", "role": "assistant", "content": [part]}
        yield from self._item(item | {"status": "completed"}, events)

    def _think(self, text: str) -> Iterator[Any]:
        item_id = f"rs_{next(_ids)}"
        at = {"item_id": item_id, "output_index": self._index, "summary_index": 0}
        part = {"type": "summary_text", "text": text}
        kind = "reasoning_summary"
        events = [self._event(f"{kind}_part.added", part=part | {"text": ""}, **at)]
        events += [self._event(f"{kind}_text.delta", delta=it, **at) for it in _pieces(text)]
        events.append(self._event(f"{kind}_text.done", text=text, **at))
        events.append(self._event(f"{kind}_part.done", part=part, **at))
        yield from self._item({"id": item_id, "type": "reasoning", "summary": [part]}, events)

    def end(self) -> Iterator[Any]:
        whole = self.whole()
        yield self._event(whole["status"], response=whole)

    def whole(self) -> Any:
        given, cached, made, thought = USAGE
        self._response["usage"] = {
            "input_tokens": given,
            "output_tokens": made,
            "total_tokens": given + made,
            "input_tokens_details": {"cached_tokens": cached},
            "output_tokens_details": {"reasoning_tokens": thought},
        }
        reasons = {"length": "max_output_tokens", "content_filter": "content_filter"}
        if reason := reasons.get(self._reason):
            self._response["incomplete_details"] = {"reason": reason}
        self._response["status"] = "incomplete" if reason else "completed"
        return self._response

"""What a run of pydantic-ai says, as what an agent yields.

Invariant: each of its events is read here and nowhere else. A call has one id of ours from its
first piece to its result, unique within the run, whatever the model calls it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from plateau_sse.agents import (
    Data,
    Finish,
    Output,
    Reasoning,
    Source,
    Step,
    ToolCall,
    ToolDelta,
    ToolError,
    ToolResult,
    Usage,
    Yielded,
)
from plateau_sse.agents.hosting.telling import Ids, file_of, jsonable

FINISH = {"stop": "stop", "tool_call": "stop", "error": "other"}


class Telling:
    """`kinds` are those of the tools that the model was told of (`function`, `output`,
    `external`, `unapproved`), by name; whoever drives the run fills them in, and notes what was
    raised by a call."""

    def __init__(self, name: str) -> None:
        self.kinds: dict[str, str] = {}
        self.raised: dict[str, Exception] = {}
        self.ids = Ids()
        self._name = name
        # Of the response that is coming in, by index: calls as they are so far.
        self._calls: dict[int, Any] = {}
        self._drafts: dict[int, str] = {}
        self._in_response = False
        self._rounds = 0
        # Of the round that is on; and whether one before it has said something.
        self._said = ""
        self._narrated = False
        self._sources: set[tuple[str, str]] = set()

    def tell(self, event: Any) -> Iterator[Yielded]:
        match event.event_kind:
            case "part_start":
                yield from self._start(event.index, event.part)
            case "part_delta":
                yield from self._delta(event.index, event.delta)
            case "part_end":
                yield from self._end(event)
            case "function_tool_call":
                self._in_response = False
                part = event.part
                client = self.kinds.get(part.tool_name) == "external"
                call_id = self.ids.of(part.tool_call_id)
                yield ToolCall(call_id, part.tool_name, _arguments(part), client=client)
            case "function_tool_result":
                self.raised.pop(event.part.tool_call_id, None)
                yield _result(self.ids.of(event.part.tool_call_id), event.part)
            case "output_tool_call" | "output_tool_result":
                self._in_response = False
            case "custom" if type(event).ui:
                yield Data(event.name, jsonable(event.to_payload()))

    def _start(self, index: int, part: Any) -> Iterator[Yielded]:
        if not self._in_response:
            yield from self._begin()
        match part.part_kind:
            case "text":
                yield from self._text(part.content, part.citations)
            case "thinking" if part.content:
                yield Reasoning(part.content)
            case "tool-call" if self.kinds.get(part.tool_name) != "output":
                self._calls[index] = part
                self._drafts[index] = self.ids.new(part.tool_call_id)
                yield ToolDelta(self._drafts[index], part.tool_name, _arguments(part))
            case "builtin-tool-call":
                self._calls[index] = part
                self._drafts[index] = self.ids.new(part.tool_call_id)
            case "builtin-tool-return":
                yield _result(self.ids.of(part.tool_call_id), part)
            case "file":
                yield file_of(part.content.media_type, part.content.data)

    def _begin(self) -> Iterator[Yielded]:
        """A response: of the second one on it is a new round."""
        self._in_response = True
        self._calls, self._drafts = {}, {}
        self._rounds += 1
        if self._rounds > 1:
            self._narrated = self._narrated or bool(self._said)
            self._said = ""
            yield Step(self._name)

    def _delta(self, index: int, delta: Any) -> Iterator[Yielded]:
        match delta.part_delta_kind:
            case "text":
                yield from self._text(delta.content_delta, delta.citations_delta)
            case "thinking" if delta.content_delta:
                yield Reasoning(delta.content_delta)
            case "tool_call" if index in self._calls:
                part = self._calls[index] = delta.apply(self._calls[index])
                if part.part_kind == "tool-call":
                    yield ToolDelta(self._drafts[index], part.tool_name, _arguments(part))

    def _text(self, text: str, citations: Any) -> Iterator[Yielded]:
        if text:
            self._said += text
            yield text
        for citation in citations or []:
            for source in citation.sources:
                yield from self._source(source)

    def _source(self, source: Any) -> Iterator[Yielded]:
        is_page = source.kind == "web"
        where = source.url if is_page else source.document_id or source.title or ""
        if (source.kind, where) in self._sources:
            return
        self._sources.add((source.kind, where))
        source_id = f"source-{len(self._sources)}"
        if is_page:
            yield Source(source_id, url=where, title=source.title)
        else:
            title = source.title or source.document_id or source.excerpts[0]
            yield Source(source_id, media_type="application/octet-stream", title=title)

    def _end(self, event: Any) -> Iterator[Yielded]:
        part = event.part
        if event.index in self._drafts:
            # Some models say the id only now.
            self.ids.same(part.tool_call_id, self._drafts[event.index])
        if part.part_kind == "builtin-tool-call":
            yield ToolCall(self.ids.of(part.tool_call_id), part.tool_name, _arguments(part))
        if event.next_part_kind is None:
            self._in_response = False

    def failed(self) -> Iterator[Yielded]:
        """The calls that the run has ended with. What they say may be a secret."""
        for theirs, error in self.raised.items():
            yield ToolError(self.ids.of(theirs), f"The tool failed ({type(error).__name__}).")

    def result(self, result: Any) -> Iterator[Yielded]:
        """What it ends with, but for requests that are left to somebody else."""
        output = result.output
        if isinstance(output, str):
            if self._narrated or output != self._said:
                yield Output(output)
        elif output is not None and not hasattr(output, "media_type"):
            yield from _structured(output)
        yield from self.ending(result)

    def ending(self, result: Any) -> Iterator[Yielded]:
        used, response = result.usage, _last_response(result)
        reasoning = getattr(used, "output_reasoning_tokens", 0)
        yield Usage(
            used.input_tokens,
            used.output_tokens,
            cached_input_tokens=used.cache_read_tokens,
            reasoning_tokens=reasoning or used.details.get("reasoning_tokens", 0),
            model=response.model_name if response else None,
        )
        reason = response.finish_reason if response else None
        if reason:
            yield Finish(FINISH.get(reason, reason))


def _structured(output: Any) -> Iterator[Yielded]:
    value = jsonable(output)
    yield Data("output", value)
    yield Output(json.dumps(value, ensure_ascii=False))


def _last_response(result: Any) -> Any:
    responses = (it for it in reversed(result.new_messages()) if it.kind == "response")
    return next(responses, None)


def _arguments(part: Any) -> str:
    return str(part.args_as_json_str()) if isinstance(part.args, dict) else part.args or ""


def _result(call_id: str, part: Any) -> Yielded:
    if part.outcome == "success":
        return ToolResult(call_id, jsonable(part.content))
    content = part.content
    return ToolError(call_id, content if isinstance(content, str) else str(jsonable(content)))

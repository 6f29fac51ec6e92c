"""What a run of the Agents SDK says, as what an agent yields.

Invariant: each of its events is read here and nowhere else. The SDK gives all items of a
chat.completions model one id, so they are known by their place in a response; a call has one id
of ours from its first piece to its result, unique within the run.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from contextlib import suppress
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

FINISH = {"max_output_tokens": "length", "content_filter": "content_filter"}
# Members of a call that the endpoint itself executes, which are no part of its result.
_CALL = ("id", "type", "name", "arguments", "call_id")


class Telling:
    """`failures` are the texts by which the SDK tells a model that a tool has failed, or was
    not approved."""

    def __init__(self, name: str, failures: set[str]) -> None:
        self.ids = Ids()
        self.failures = failures
        # Why the response broke off that came in last, if it did.
        self.cut = ""
        self._name = name
        self._model = ""
        self._rounds = 0
        self._drafts: dict[int, ToolDelta] = {}
        # Of the round that is on; and whether one before it has said something.
        self._said = ""
        self._narrated = False
        self._sources: set[str] = set()

    def tell(self, event: Any) -> Iterator[Yielded]:
        match event.type:
            case "raw_response_event":
                yield from self._raw(event.data)
            case "run_item_stream_event":
                yield from self._item(event.item)
            case "agent_updated_stream_event":
                self._name = event.new_agent.name

    def _raw(self, event: Any) -> Iterator[Yielded]:
        match event.type:
            case "response.created":
                yield from self._begin()
            case "response.output_text.delta" | "response.refusal.delta":
                yield from self._text(event.delta)
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
                if event.delta:
                    yield Reasoning(event.delta)
            case "response.reasoning_summary_part.added" if event.summary_index:
                yield Reasoning("\n\n")
            case "response.completed" | "response.incomplete":
                self._end(event.response)
            case _:
                yield from self._piece(event)

    def _piece(self, event: Any) -> Iterator[Yielded]:
        """Of a call, or beside the text."""
        match event.type:
            case "response.output_item.added" if event.item.type == "function_call":
                call_id = self.ids.new(event.item.call_id)
                yield self._draft(event.output_index, call_id, event.item.name, "")
            case "response.function_call_arguments.delta":
                draft = self._drafts.get(event.output_index)
                if draft is not None:
                    arguments = draft.arguments + event.delta
                    yield self._draft(event.output_index, draft.id, draft.name, arguments)
            case "response.output_text.annotation.added":
                yield from self._source(event.annotation)
            case "response.output_item.done" if event.item.type == "message":
                yield from self._sources_of(event.item)

    def _begin(self) -> Iterator[Yielded]:
        """A response: of the second one on it is a new round."""
        self._drafts, self.cut = {}, ""
        self._rounds += 1
        if self._rounds > 1:
            self._narrated = self._narrated or bool(self._said)
            self._said = ""
            yield Step(self._name)

    def _end(self, response: Any) -> None:
        self._model = response.model or self._model
        details = response.incomplete_details
        if response.status == "incomplete" or details is not None:
            self.cut = FINISH.get(getattr(details, "reason", None) or "", "other")

    def _text(self, text: str) -> Iterator[Yielded]:
        if text:
            self._said += text
            yield text

    def _draft(self, index: int, call_id: str, name: str, arguments: str) -> ToolDelta:
        draft = self._drafts[index] = ToolDelta(call_id, name, arguments)
        return draft

    def _sources_of(self, message: Any) -> Iterator[Yielded]:
        """Of endpoints that tell them with the whole message alone."""
        for part in message.content:
            for annotation in getattr(part, "annotations", None) or []:
                yield from self._source(annotation)

    def _source(self, annotation: Any) -> Iterator[Yielded]:
        found = annotation if isinstance(annotation, dict) else annotation.model_dump()
        url, file_id = found.get("url"), found.get("file_id")
        where = url or file_id
        if not where or where in self._sources:
            return
        self._sources.add(where)
        source_id = f"source-{len(self._sources)}"
        if url:
            yield Source(source_id, url=url, title=found.get("title"))
        else:
            name = found.get("filename")
            kind = "application/octet-stream"
            yield Source(source_id, title=name or file_id, media_type=kind, filename=name)

    def _item(self, item: Any) -> Iterator[Yielded]:
        match item.type:
            case "tool_call_item" | "handoff_call_item":
                yield from self._call(item)
            case "tool_call_output_item":
                yield self._result(item.call_id or "", item.output)
            case "handoff_output_item":
                yield self._result(item.raw_item["call_id"], item.raw_item["output"])

    def _call(self, item: Any) -> Iterator[Yielded]:
        raw = _members(item.raw_item)
        theirs = str(raw.get("call_id") or raw.get("id") or "")
        kind = str(raw.get("type") or "tool")
        if kind in ("function_call", "custom_tool_call"):
            arguments = raw.get("arguments", raw.get("input"))
            yield ToolCall(self.ids.of(theirs), str(raw.get("name")), arguments)
            return
        if kind == "image_generation_call":
            yield from _image(raw)
            return
        call_id, name = self.ids.of(theirs), raw.get("name") or kind.removesuffix("_call")
        asked = raw.get("arguments") or raw.get("action") or raw.get("queries") or {}
        yield ToolCall(call_id, str(name), asked)
        # Who executes it says both at once; what is executed here has a result of its own.
        if raw.get("error"):
            yield ToolError(call_id, str(raw["error"]))
        elif raw.get("status") == "completed" and not raw.get("call_id"):
            result = raw.get("output") or {it: raw[it] for it in raw if it not in _CALL}
            yield ToolResult(call_id, result)

    def _result(self, theirs: str, output: Any) -> Yielded:
        call_id = self.ids.of(theirs)
        if isinstance(output, str) and output in self.failures:
            return ToolError(call_id, output)
        return ToolResult(call_id, jsonable(output))

    def result(self, output: Any) -> Iterator[Yielded]:
        """What it ends with."""
        if isinstance(output, str):
            if self._narrated or output != self._said:
                yield Output(output)
        elif output is not None:
            value = jsonable(output)
            yield Data("output", value)
            # The model has written it as its text; told again where it is not all of that.
            if self._narrated or not self._said:
                yield Output(self._said or json.dumps(value, ensure_ascii=False))

    def ending(self, used: Any, before: tuple[int, int, int, int]) -> Iterator[Yielded]:
        """`before` is what an earlier run had used of `used`."""
        counts = [now - then for now, then in zip(counts_of(used), before, strict=True)]
        given, made, cached, thought = counts
        yield Usage(given, made, cached, thought, self._model or None)
        if self.cut:
            yield Finish(self.cut)


def counts_of(used: Any) -> tuple[int, int, int, int]:
    """Tokens that were given, made, given from a cache, and thought."""
    cached = used.input_tokens_details.cached_tokens or 0
    thought = used.output_tokens_details.reasoning_tokens or 0
    return used.input_tokens, used.output_tokens, cached, thought


def _members(raw: Any) -> dict[str, Any]:
    found = raw if isinstance(raw, dict) else raw.model_dump(mode="json", exclude_none=True)
    return dict(found)


def _image(raw: dict[str, Any]) -> Iterator[Yielded]:
    with suppress(binascii.Error):
        if data := base64.b64decode(raw.get("result") or "", validate=True):
            yield file_of(f"image/{raw.get('output_format') or 'png'}", data)

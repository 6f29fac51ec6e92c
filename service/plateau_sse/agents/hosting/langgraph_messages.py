"""LangGraph's messages, as they come, in Plateau's terms.

Invariant: what one model says is one message, told to its end before another begins. A message
is known by the task in which it is made and not by its id, which changes midway over OpenAI's
Responses; it is over with the piece that says so, or with its task. It is told once, also where
its node returns it as a message of its own. A call is told once, when it is whole, and so is
its result, whichever of the streams has it first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from plateau_sse.agents import (
    AgentError,
    Finish,
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
from plateau_sse.agents.hosting.floor import Floor
from plateau_sse.agents.hosting.langgraph_blocks import blocks_of, calls_of, file_in, text_of
from plateau_sse.agents.hosting.langgraph_copies import Copies, Told
from plateau_sse.agents.hosting.telling import Ids, jsonable

CALLS_MOST = 100
_CUT = ("length", "max_tokens", "max_output_tokens")
_FILTERED = ("content_filter", "refusal", "safety")


class _Open:
    """A message that is not over: the pieces of its calls, what they come to so far, and our
    ids of them."""

    def __init__(self) -> None:
        self.message_ids: set[str] = set()
        self.pieces: list[Any] = []
        self.ids: dict[str, str] = {}
        self.arguments: dict[Any, tuple[str, str, str]] = {}
        self.text: list[str] = []
        self.finish = ""


class Messages:
    """All that one run's models and tools say."""

    def __init__(self) -> None:
        self.ids = Ids()
        self.floor = Floor()
        self._open: dict[str, _Open] = {}
        # Calls of this run; those of before; those that have their results.
        self._called: set[str] = set()
        self._earlier: dict[str, ToolCall] = {}
        self._answered: set[str] = set()
        self._failed: dict[str, str] = {}
        self._outputs: dict[str, str] = {}
        # Those that are told, or were there before.
        self._known: set[str] | None = None
        self._told_ids: set[str] = set()
        self._copies = Copies()
        # The latest calls with our ids: what a person may be asked about.
        self.calls: list[ToolCall] = []
        self._sources = 0
        self._usage = Usage(0, 0, 0, 0)
        self._finish = ""
        # How many messages had a text, and that of the one which was over last; whether the
        # last of all is an answer, which calls are not.
        self.spoke, self.final, self.is_answered = 0, "", False

    def take(self, message: Any, metadata: Mapping[str, Any]) -> Iterator[Yielded]:
        """One piece, or one whole message, of the stream `messages`."""
        task = str(metadata.get("langgraph_checkpoint_ns", ""))
        kind = message.type
        if message.id:
            self._told_ids.add(message.id)
        if kind == "tool":
            yield from self._result(message)
        elif kind == "AIMessageChunk":
            if task not in self._open:
                yield from self._begin(task, metadata)
            yield from self._piece(task, message)
            if message.chunk_position == "last":
                yield from self.end(task)
        elif kind == "ai":
            # Made by a node, or by a model that does not stream.
            yield from self.end(task)
            is_model_s = "ls_model_type" in metadata
            if not is_model_s and self._copies.takes(message, task):
                return
            yield from self._begin(task, metadata)
            yield from self._piece(task, message)
            yield from self.end(task)

    def state(self, values: Any) -> Iterator[Yielded]:
        """The state after a step: messages that nobody has made by a model, nor as an object,
        come with it alone. The first one is that with which the run began."""
        found = values.get("messages") if isinstance(values, Mapping) else None
        found = [it for it in found or () if getattr(it, "type", "") in ("ai", "tool")]
        if self._known is None:
            self._known = {it.id for it in found}
            for message in found:
                for call in calls_of([message] if message.type == "ai" else []):
                    call_id = self.ids.of(call.id)
                    self._earlier[call_id] = replace(call, id=call_id)
            return
        self._copies.found(it.id for it in found)
        for message in found:
            is_new = message.id not in self._known
            self._known.add(message.id)
            if not is_new:
                continue
            is_told = message.id in self._told_ids
            if not (is_told or (message.type == "ai" and self._copies.takes(message, ""))):
                task = f"state:{message.id}"
                yield from self.take(message, {"langgraph_checkpoint_ns": task})
            if message.type == "ai" and (text := text_of(message)).strip():
                # Others may have said something since that is no part of it.
                self.final, self.is_answered = text, not message.tool_calls

    def tool(self, event: Mapping[str, Any]) -> Iterator[Yielded]:
        """What the stream `tools` says of a call."""
        call_id = self.ids.of(str(event.get("tool_call_id", "")))
        match event.get("event"):
            case "tool-started" if call_id not in self._called:
                self._called.add(call_id)
                arguments = jsonable(event.get("input") or {})
                call = ToolCall(call_id, str(event.get("tool_name", "")), arguments)
                yield from self.floor.say(("tool", call_id), call)
                yield from self.floor.end(("tool", call_id))
            case "tool-output-delta":
                so_far = self._outputs.get(call_id, "") + str(event.get("delta", ""))
                self._outputs[call_id] = so_far
                yield ToolResult(call_id, so_far, preliminary=True)
            case "tool-error":
                # It may be tried again, or told to the model in other words.
                self._failed[call_id] = str(event.get("message", ""))
            case "tool-finished":
                self._failed.pop(call_id, None)
                output = event.get("output")
                if getattr(output, "type", "") == "tool":
                    yield from self._result(output)

    def end(self, task: str) -> Iterator[Yielded]:
        """The task's message is over, if it has one."""
        found = self._open.pop(task, None)
        if found is None:
            return
        calls = list(calls_of(found.pieces))
        for call in calls:
            call_id = self._id_of(call.id, found)
            self._called.add(call_id)
            call = replace(call, id=call_id)
            self.calls = [*self.calls[-CALLS_MOST:], call]
            yield from self.floor.say(task, call)
        self._finish = found.finish
        if (text := "".join(found.text)).strip():
            self.spoke, self.final = self.spoke + 1, text
        self._copies.add(Told(task, found.message_ids, set(found.ids), text.strip()))
        self.is_answered = bool(text.strip()) and not calls
        if self._usage != Usage(0, 0, 0, 0):
            yield self._usage
        yield from self.floor.end(task)

    def rest(self, *, is_answer: bool) -> Iterator[Yielded]:
        """The run is over: what is still open; and of an answer why it ended."""
        for task in list(self._open):
            yield from self.end(task)
        yield from self.floor.rest()
        for call_id, said in self._failed.items():
            if call_id in self._called and call_id not in self._answered:
                yield ToolError(call_id, said)
        if not is_answer:
            return
        if self._finish.lower() in _CUT:
            yield Finish("length")
        elif self._finish.lower() in _FILTERED:
            yield Finish("content_filter")
        elif self._called - self._answered:
            # Nobody has executed them.
            yield Finish("tool_calls")

    def _begin(self, task: str, metadata: Mapping[str, Any]) -> Iterator[Yielded]:
        self._open[task] = _Open()
        name = metadata.get("lc_agent_name") or metadata.get("langgraph_node") or "step"
        yield from self.floor.say(task, Step(str(name)))

    def _piece(self, task: str, message: Any) -> Iterator[Yielded]:
        found = self._open[task]
        if message.id:
            found.message_ids.add(message.id)
        for item in self._told(message, found):
            yield from self.floor.say(task, item)
        if getattr(message, "tool_call_chunks", None) or getattr(message, "tool_calls", None):
            found.pieces.append(message)
        self._count(message, found)
        if refusal := message.additional_kwargs.get("refusal"):
            if not isinstance(refusal, str) or not "".join(found.text).strip():
                raise AgentError("content_filtered", "The model refused to answer.")

    def _told(self, message: Any, found: _Open) -> Iterator[Yielded]:
        for block in blocks_of(message):
            match block.get("type"):
                case "text" | "text-plain":
                    if text := str(block.get("text") or ""):
                        found.text.append(text)
                        yield text
                    yield from self._citations(block.get("annotations") or ())
                case "reasoning":
                    if thought := block.get("reasoning"):
                        yield Reasoning(str(thought))
                case "tool_call_chunk":
                    yield from self._draft(block, found)
                case "server_tool_call":
                    call_id = self._id_of(str(block.get("id", "")), found)
                    self._called.add(call_id)
                    yield ToolCall(call_id, str(block.get("name", "")), block.get("args", {}))
                case "server_tool_result":
                    yield from self._server_result(block)
                case "image" | "audio" | "video" | "file":
                    yield file_in(block)

    def _draft(self, chunk: Mapping[str, Any], found: _Open) -> Iterator[ToolDelta]:
        """The call so far, once its id and name are known."""
        key = chunk.get("index")
        key = chunk.get("id") if key is None else key
        theirs, name, so_far = found.arguments.get(key, ("", "", ""))
        theirs, name = theirs or chunk.get("id") or "", name or chunk.get("name") or ""
        so_far += chunk.get("args") or ""
        found.arguments[key] = theirs, name, so_far
        if theirs and name:
            yield ToolDelta(self._id_of(theirs, found), name, so_far)

    def _id_of(self, theirs: str, found: _Open) -> str:
        """A call of this message: in the next the same id is another call's."""
        if theirs not in found.ids:
            found.ids[theirs] = self.ids.new(theirs)
        return found.ids[theirs]

    def _citations(self, annotations: Sequence[Mapping[str, Any]]) -> Iterator[Source]:
        for it in annotations:
            url, title = it.get("url"), it.get("title")
            if it.get("type") != "citation" or not (url or title):
                continue
            self._sources += 1
            name, kind = f"source-{self._sources}", None if url else "text/plain"
            yield Source(name, url, title, media_type=kind)

    def _server_result(self, block: Mapping[str, Any]) -> Iterator[Yielded]:
        call_id = self.ids.of(str(block.get("tool_call_id", "")))
        if call_id in self._answered:
            return
        self._answered.add(call_id)
        output = jsonable(block.get("output"))
        if block.get("status") == "error":
            yield ToolError(call_id, str(output))
        else:
            yield ToolResult(call_id, output)

    def _result(self, message: Any) -> Iterator[Yielded]:
        call_id = self.ids.of(str(message.tool_call_id))
        if call_id in self._answered:
            return
        self._answered.add(call_id)
        self._failed.pop(call_id, None)
        self._outputs.pop(call_id, None)
        output = message.content if isinstance(message.content, str) else message.content_blocks
        if call_id in self._earlier and call_id not in self._called:
            # Of the run before, which has waited for a person: whoever reads this one alone
            # would not know what was called.
            self._called.add(call_id)
            yield from self.floor.say(("tool", call_id), self._earlier[call_id])
        result: Yielded = ToolResult(call_id, jsonable(output))
        if message.status == "error":
            result = ToolError(call_id, str(output))
        yield from self.floor.say(("tool", call_id), result)
        yield from self.floor.end(("tool", call_id))

    def _count(self, message: Any, found: _Open) -> None:
        said = message.response_metadata or {}
        details = said.get("incomplete_details") or {}
        found.finish = str(
            details.get("reason")
            or said.get("finish_reason")
            or said.get("stop_reason")
            or found.finish
        )
        used, model = message.usage_metadata or {}, said.get("model_name") or said.get("model")
        before = self._usage
        cached = (used.get("input_token_details") or {}).get("cache_read") or 0
        thought = (used.get("output_token_details") or {}).get("reasoning") or 0
        self._usage = Usage(
            before.input_tokens + (used.get("input_tokens") or 0),
            before.output_tokens + (used.get("output_tokens") or 0),
            (before.cached_input_tokens or 0) + cached,
            (before.reasoning_tokens or 0) + thought,
            str(model) if model else before.model,
        )

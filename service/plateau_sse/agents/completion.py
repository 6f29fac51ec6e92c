"""Builds a chat completion from the chunks of its stream (or from one whole document).

Invariant: tool calls come out complete or not at all, text comes out as valid Unicode, and an
answer counts as whole only once the upstream has said so (`finish_reason` or `[DONE]`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from plateau_sse.agents import AgentError, ToolCall, Usage, Yielded

MAX_MESSAGE = 500
MAX_TOOL_CALLS = 128
MAX_ARGUMENTS = 256 * 1024


@dataclass(slots=True)
class _Fragments:
    """A tool call that is still arriving."""

    id: str = ""
    name: str = ""
    arguments: str = ""


class Answer:
    """Feed it the data of each event; `is_whole` once the upstream has finished the answer,
    `is_done` once nothing more will come."""

    def __init__(self) -> None:
        self.is_whole = False
        self.is_done = False
        self._calls: dict[int, _Fragments] = {}
        self._half = ""

    def take(self, data: str) -> Iterator[Yielded]:
        """What one chunk adds; raises AgentError(upstream_broken_stream)."""
        if data.strip() == "[DONE]":
            self.is_whole = self.is_done = True
            return
        chunk = _parse(data)
        choice = _first_choice(chunk)
        part = choice.get("delta") or choice.get("message")
        if isinstance(part, dict):
            # A refusal is the model's answer, too, in a field of its own.
            for text in (part.get("content"), part.get("refusal")):
                if isinstance(text, str):
                    yield from self._text(text)
            self._collect(part.get("tool_calls"))
        if choice.get("finish_reason"):
            self.is_whole = True
            yield from self._complete_calls()
        yield from _usage(chunk.get("usage"))

    def finish(self) -> Iterator[Yielded]:
        """The rest, once the upstream has closed; raises where the answer is not whole."""
        if not self.is_whole:
            raise broken("the upstream stopped without finishing it")
        if self._half:
            self._half = ""
            yield "\ufffd"
        yield from self._complete_calls()

    def _text(self, text: str) -> Iterator[str]:
        # JSON escapes allow one half of a character here and the other in the next chunk.
        text = self._half + text
        self._half = ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        if text:
            yield text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")

    def _collect(self, fragments: Any) -> None:
        for position, fragment in enumerate(fragments if isinstance(fragments, list) else ()):
            if not isinstance(fragment, dict):
                continue
            index = fragment.get("index")
            call = self._calls.setdefault(
                index if isinstance(index, int) else position, _Fragments()
            )
            function = fragment.get("function")
            function = function if isinstance(function, dict) else {}
            call.id = call.id or _string(fragment.get("id"))
            call.name = call.name or _string(function.get("name"))
            call.arguments += _string(function.get("arguments"))
            if len(self._calls) > MAX_TOOL_CALLS or len(call.arguments) > MAX_ARGUMENTS:
                raise broken("its tool calls are too many or too long")

    def _complete_calls(self) -> Iterator[ToolCall]:
        for index, call in sorted(self._calls.items()):
            yield ToolCall(call.id or f"call_{index}", call.name, call.arguments)
        self._calls.clear()


def _parse(data: str) -> dict[str, Any]:
    try:
        chunk = json.loads(data)
    except (ValueError, RecursionError):
        raise broken("the upstream sent something that is not JSON") from None
    if not isinstance(chunk, dict):
        raise broken("the upstream sent JSON that is no object")
    if chunk.get("error"):
        raise broken(f"the upstream reported an error: {message_of(data)}")
    return chunk


def _first_choice(chunk: dict[str, Any]) -> dict[str, Any]:
    choices = chunk.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and choice.get("index", 0) == 0:
            return choice
    return {}


def _usage(usage: Any) -> Iterator[Usage]:
    if isinstance(usage, dict):
        counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
        yield Usage(*(count if isinstance(count, int) else 0 for count in counts))


def _string(value: Any) -> str:
    if isinstance(value, dict | list):
        # Some endpoints send the arguments as JSON, not as JSON in a string.
        return json.dumps(value)
    return value if isinstance(value, str) else ""


def message_of(body: str) -> str:
    """What an error body says, in whichever of the usual shapes, as one line."""
    said: Any = body
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        pass
    for name in ("error", "message", "detail"):
        if isinstance(said, dict) and said.get(name):
            said = said[name]
    return " ".join((said if isinstance(said, str) else json.dumps(said)).split())


def broken(what: str) -> AgentError:
    return AgentError(
        "upstream_broken_stream", f"The model's answer broke off: {what}.", retryable=True
    )

"""Checks what an agent yields, and makes events and the answer to be kept of it.

Invariant: whatever an agent yields becomes text or an event within its bounds, or an
AgentError; what is kept of it is what a snapshot of its run would hold.
"""

from __future__ import annotations

from typing import Any

import msgspec

from plateau_sse.agents import AgentError, Finish, Output, Progress, ToolCall, ToolResult, Usage
from plateau_sse.store.runs import events

# The longest answer: what a reader may have to be sent in one snapshot.
OUTPUT_BYTES = 256 * 1024
# A tool's arguments or output beyond this are cut: they are shown, not processed.
TOOL_BYTES = 16 * 1024
# As much of them is kept for the cache as a snapshot holds.
TOOLS_BYTES = 32 * 1024
MESSAGE_CHARS = 500


class TooLarge(AgentError):
    """The answer has passed OUTPUT_BYTES."""


class Yields:
    """All that one attempt of `agent` has yielded so far. `output` stands for the text where
    the agent says so; `tools` are events of theirs, encoded; `finish_reason` is why it
    ended."""

    def __init__(self, agent: str) -> None:
        self._agent = agent
        self._text: list[str] = []
        self._bytes = 0
        self._tools_bytes = 0
        self.output: str | None = None
        self.usage: dict[str, int] | None = None
        self.tools: list[bytes] = []
        self.finish_reason: events.FinishReason = "stop"
        # Calls as they were made, and those of them that `tools` has whole.
        self._calls = self._whole_calls = 0

    @property
    def text(self) -> str:
        return "".join(self._text)

    @property
    def is_whole(self) -> bool:
        """Whether it is an answer worth giving again: it ended well, has something to say and
        is kept as it was told."""
        if self._calls != self._whole_calls:
            return False
        if self.finish_reason == "tool_calls":
            return self._calls > 0
        said = self.tools or self.text.strip() or (self.output or "").strip()
        return self.finish_reason == "stop" and bool(said)

    def take(self, item: Any) -> str | events.Event | None:
        """What is to be written of it, if anything: more text, or an event."""
        match item:
            case str():
                return self._take_text(item) if item else None
            case Progress():
                return _progress(item)
            case ToolCall():
                return self._take_call(item)
            case ToolResult():
                return self._keep(events.tool_result(short(item.id), _bounded(item.output)))
            case Usage():
                self.usage = {
                    "input_tokens": _count(item.input_tokens),
                    "output_tokens": _count(item.output_tokens),
                }
                return None
            case Output():
                output = plain(item.text)
                self._grow(output)
                self.output = output
                return None
            case Finish():
                known = (it for it in events.FINISH_REASONS if it == item.reason)
                self.finish_reason = next(known, "other")
                return None
        raise AgentError(
            "agent_invalid_output",
            f"Agent {self._agent!r} yielded {type(item).__name__}, which is neither text nor "
            "an event.",
        )

    def _take_text(self, piece: str) -> str:
        piece = plain(piece)
        self._grow(piece)
        self._text.append(piece)
        return piece

    def _take_call(self, call: ToolCall) -> events.Event:
        told = (short(call.id), short(call.name), _bounded(call.arguments))
        kept = len(self.tools)
        event = self._keep(events.tool_call(*told))
        self._calls += 1
        # One that was cut, or that there was no room to keep, is none that whoever gets the
        # answer from the cache could execute.
        is_whole = told == (call.id, call.name, call.arguments)
        self._whole_calls += is_whole and len(self.tools) > kept
        return event

    def _keep(self, event: events.Event) -> events.Event:
        if self._tools_bytes + len(event.data) <= TOOLS_BYTES:
            self._tools_bytes += len(event.data)
            self.tools.append(event.data)
        return event

    def _grow(self, piece: str) -> None:
        self._bytes += len(piece.encode())
        if self._bytes > OUTPUT_BYTES:
            kib = OUTPUT_BYTES // 1024
            raise TooLarge("output_too_large", f"The answer passed {kib} KiB.")


def plain(text: str) -> str:
    """Lone surrogates, which no UTF-8 can carry, become question marks."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="replace").decode()
    return text


def short(value: object) -> str:
    return plain(str(value)[:MESSAGE_CHARS])


def _count(value: int) -> int:
    """Within what every reader's JSON can count."""
    return max(0, min(int(value), 2**53 - 1))


def _progress(item: Progress) -> events.Event:
    share = 100 * item.step / item.total_steps if item.total_steps else 0
    percentage = share if item.percentage is None else item.percentage
    return events.progress(
        _count(item.step),
        _count(item.total_steps),
        short(item.current_agent),
        short(item.message),
        round(min(100.0, max(0.0, float(percentage))), 1),
    )


def _bounded(value: Any) -> Any:
    """A JSON value as it is, if it is one and small; else its text, cut."""
    if not isinstance(value, str):
        try:
            encoded = msgspec.json.encode(value)
        except (TypeError, ValueError, RecursionError):
            value = str(value)
        else:
            if len(encoded) <= TOOL_BYTES:
                return value
            value = encoded.decode()
    text = value.encode(errors="replace")
    if len(text) <= TOOL_BYTES:
        return text.decode()
    return text[:TOOL_BYTES].decode(errors="ignore") + " …"

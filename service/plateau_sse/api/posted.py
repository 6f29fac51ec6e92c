"""The events that a producer outside may send, as it sends them.

Invariant: whatever is let through becomes events within their bounds, in the order and with the
numbers that its producer gave; nothing follows an end.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import msgspec

from plateau_sse.api.bodies import DEPTH_MOST, decode, invalid, too_deep
from plateau_sse.jsontext import is_deeper
from plateau_sse.store.runs import events
from plateau_sse.store.runs.events import Event

EVENTS_MOST = 1000
# Of ids and names, and of what is said of a failure.
NAME_CHARS = 500
# The members that may be any JSON.
_FREE = ("arguments", "output", "value", "schema")

# `$` alone would let a line end through, in Python.
CODE = r"^[a-z][a-z0-9_]{0,63}$(?!\n)"
Code = Annotated[str, msgspec.Meta(pattern=CODE)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
Name = Annotated[str, msgspec.Meta(max_length=NAME_CHARS)]
Part = Annotated[int, msgspec.Meta(ge=0, le=events.POINTS_MOST)]


class _Told(msgspec.Struct, tag_field="type", forbid_unknown_fields=True):
    """One event as its producer tells it."""


class _Said(_Told):
    """Text of a part: the open one where no number is given and its kind is the same."""

    kind: ClassVar[events.Kind]
    text: str
    part: Part | None = None
    continues: Part | None = None

    def cut(self) -> list[Event]:
        """In pieces that fit into deltas: the first counts, the others belong to it."""
        part = "" if self.part is None else str(self.part)
        given = part if self.continues is None else f"{part} {self.continues}"
        first, *others = events.pieces(self.text)
        going_on = (events.delta(piece, self.kind, part) for piece in others)
        return [
            events.delta(first, self.kind, given),
            *(event._replace(op=event.op.upper()) for event in going_on),
        ]


class Delta(_Said, tag="message.delta"):
    kind = "t"


class Reasoning(_Said, tag="reasoning.delta"):
    kind = "r"


class Progress(_Told, tag="run.progress"):
    step: Count = 0
    total_steps: Count = 0
    current_agent: Name = ""
    message: Name = ""
    percentage: Annotated[float, msgspec.Meta(ge=0, le=100)] | None = None

    def event(self, duration_ms: int) -> Event:
        share = 100 * self.step / self.total_steps if self.total_steps else 0.0
        percentage = share if self.percentage is None else self.percentage
        return events.progress(
            self.step, self.total_steps, self.current_agent, self.message, min(percentage, 100)
        )


class ToolCall(_Told, tag="tool.call"):
    id: Name
    name: Name
    arguments: Any = ""
    client: bool = False

    def event(self, duration_ms: int) -> Event:
        return events.tool_call(self.id, self.name, self.arguments, client=self.client)


class ToolDelta(_Told, tag="tool.delta"):
    id: Name
    name: Name
    arguments: str

    def event(self, duration_ms: int) -> Event:
        return events.tool_delta(self.id, self.name, self.arguments)


class ToolResult(_Told, tag="tool.result"):
    id: Name
    output: Any = msgspec.UNSET
    error: str | msgspec.UnsetType = msgspec.UNSET
    preliminary: bool = False

    def __post_init__(self) -> None:
        if (self.output is msgspec.UNSET) == (self.error is msgspec.UNSET):
            raise ValueError("Give either `output` or `error`")

    def event(self, duration_ms: int) -> Event:
        if isinstance(self.error, str):
            return events.tool_error(self.id, self.error)
        return events.tool_result(self.id, self.output, preliminary=self.preliminary)


class Source(_Told, tag="source"):
    id: Name
    url: str | None = None
    media_type: Name | None = None
    title: Name | None = None
    filename: Name | None = None

    def __post_init__(self) -> None:
        if not (self.url or self.media_type):
            raise ValueError("Give either `url` or `media_type`")

    def event(self, duration_ms: int) -> Event:
        return events.source(
            self.id,
            url=self.url,
            media_type=self.media_type,
            title=self.title,
            filename=self.filename,
        )


class File(_Told, tag="file"):
    media_type: Name
    url: str

    def event(self, duration_ms: int) -> Event:
        return events.file(self.media_type, self.url)


class Data(_Told, tag="data"):
    name: Name
    value: Any
    id: Name | None = None
    transient: bool = False

    def event(self, duration_ms: int) -> Event:
        return events.data(self.name, self.value, self.id, transient=self.transient)


class Step(_Told, tag="step"):
    name: Name

    def event(self, duration_ms: int) -> Event:
        return events.step(self.name)


class InputRequest(_Told, tag="input.request"):
    id: Name
    message: str
    kind: Literal["approval", "question"] = "question"
    tool_call_id: Name | None = None
    schema: Any = None

    def event(self, duration_ms: int) -> Event:
        return events.input_request(
            self.id,
            self.kind,
            self.message,
            tool_call_id=self.tool_call_id,
            schema=self.schema,
        )


class Usage(msgspec.Struct, forbid_unknown_fields=True):
    input_tokens: Count = 0
    output_tokens: Count = 0
    cached_input_tokens: Count | None = None
    reasoning_tokens: Count | None = None

    def known(self) -> dict[str, int]:
        """The two that every usage has, and what else was said."""
        found: dict[str, int | None] = msgspec.to_builtins(self)
        return {name: count for name, count in found.items() if count is not None}


class Completed(_Told, tag="run.completed"):
    finish_reason: events.FinishReason = "stop"
    usage: Usage | None = None
    model: Name | None = None
    output: str | None = None

    def event(self, duration_ms: int) -> Event:
        return events.completed(
            None if self.usage is None else self.usage.known(),
            cached=False,
            duration_ms=duration_ms,
            finish_reason=self.finish_reason,
            model=self.model,
        )


class Failed(_Told, tag="run.failed"):
    code: Code
    message: str = ""
    retryable: bool = False

    def event(self, duration_ms: int) -> Event:
        # An end is written whatever room there is, so there is a bound of what it may say.
        message = self.message[:NAME_CHARS]
        return events.failed(self.code, message, retryable=self.retryable)


class Cancelled(_Told, tag="run.cancelled"):
    reason: str = "by its producer"

    def event(self, duration_ms: int) -> Event:
        return events.cancelled(self.reason[:NAME_CHARS])


ExternalEvent = (
    Delta
    | Reasoning
    | Progress
    | ToolCall
    | ToolDelta
    | ToolResult
    | Source
    | File
    | Data
    | Step
    | InputRequest
    | Completed
    | Failed
    | Cancelled
)
Batch = list[ExternalEvent] | ExternalEvent


def made_of(batch: list[ExternalEvent], duration_ms: int) -> list[Event]:
    """As they are appended; a run that ends has taken so long."""
    made: list[Event] = []
    for item in batch:
        made += item.cut() if isinstance(item, _Said) else [item.event(duration_ms)]
    return made


def batch_of(body: bytes) -> list[ExternalEvent]:
    """The events of a body, one or an array; Problems as in `decode`."""
    found: Batch = decode(body, Batch)
    batch = found if isinstance(found, list) else [found]
    if len(batch) > EVENTS_MOST:
        raise invalid("", f"At most {EVENTS_MOST} events at once.")
    for index, item in enumerate(batch[:-1]):
        if isinstance(item, Completed | Failed | Cancelled):
            raise invalid(f"[{index}]", "Nothing can follow the event that ends a run.")
    for index, item in enumerate(batch):
        for name in _FREE:
            value = getattr(item, name, None)
            if isinstance(value, dict | list) and is_deeper(value, DEPTH_MOST):
                raise too_deep(f"[{index}].{name}" if batch is found else name)
    return batch

"""Appending to a run from outside: `POST /v1/runs/{id}/events`, for producers in any language.

Invariant: an array is appended whole or not at all; the script numbers the events, whatever
worker takes them, and recognises a repeat by its `first_seq`.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Annotated, Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from plateau_sse import jsontext
from plateau_sse.api.requests import decode, invalid, read_body, run_id_of
from plateau_sse.api.runs import absent, other_release, own_record
from plateau_sse.api.state import State, state_of
from plateau_sse.errors import Problem, StoreError
from plateau_sse.store.runs import events
from plateau_sse.store.runs.appending import Appended
from plateau_sse.store.runs.events import Event

EVENTS_MOST = 1000
# Of ids and names.
NAME_CHARS = 500

Code = Annotated[str, msgspec.Meta(pattern="^[a-z][a-z0-9_]{0,63}$")]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
Name = Annotated[str, msgspec.Meta(max_length=NAME_CHARS)]
Part = Annotated[int, msgspec.Meta(ge=0, le=events.POINTS_MOST)]


class _Told(msgspec.Struct, tag_field="type", forbid_unknown_fields=True):
    """One event as its producer tells it."""

    def made(self, duration_ms: int) -> list[Event]:
        """As they are appended: the first counts, the others belong to it."""
        return [self.event(duration_ms)]

    def event(self, duration_ms: int) -> Event:
        raise NotImplementedError


class _Said(_Told):
    """Text of a part: the open one where no number is given and its kind is the same."""

    text: str
    part: Part | None = None
    continues: Part | None = None

    def made(self, duration_ms: int) -> list[Event]:
        part = "" if self.part is None else str(self.part)
        given = part if self.continues is None else f"{part} {self.continues}"
        first, *others = events.pieces(self.text)
        going_on = (events.delta(piece, self.kind, part) for piece in others)
        return [
            events.delta(first, self.kind, given),
            *(event._replace(op=event.op.upper()) for event in going_on),
        ]

    @property
    def kind(self) -> events.Kind:
        raise NotImplementedError


class Delta(_Said, tag="message.delta"):
    @property
    def kind(self) -> events.Kind:
        return "t"


class Reasoning(_Said, tag="reasoning.delta"):
    @property
    def kind(self) -> events.Kind:
        return "r"


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
        if self.url is None and self.media_type is None:
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


class Usage(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    input_tokens: Count
    output_tokens: Count
    cached_input_tokens: Count | None = None
    reasoning_tokens: Count | None = None


class Completed(_Told, tag="run.completed"):
    finish_reason: events.FinishReason = "stop"
    usage: Usage | None = None
    model: Name | None = None
    output: str | None = None

    def event(self, duration_ms: int) -> Event:
        return events.completed(
            msgspec.to_builtins(self.usage),
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
        return events.failed(self.code, self.message, retryable=self.retryable)


class Cancelled(_Told, tag="run.cancelled"):
    reason: str = "by its producer"

    def event(self, duration_ms: int) -> Event:
        return events.cancelled(self.reason)


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


async def append(request: Request) -> Response:
    run_id = run_id_of(request)
    state = state_of(request.scope)
    # A run's token reads; to write one must be its owner.
    owner = state["access"].owner(request.headers)
    first_seq = _first_seq(request.query_params.get("first_seq"))
    batch = _batch(await read_body(request))
    record = await own_record(state, run_id, token="", owner=owner)
    if record.agent != "external":
        raise Problem("not_external", "Only runs of the agent `external` take events.")
    now_ms = int(time.time() * 1000)
    duration_ms = now_ms - (record.started_ms or now_ms)
    made = [event for item in batch for event in item.made(duration_ms)]
    if any(len(event.data) > events.MARK_BYTES for event in made):
        raise Problem("too_large", f"An event may have {events.MARK_BYTES} bytes.")
    last = batch[-1] if batch else None
    output = last.output if isinstance(last, Completed) else None
    if output is not None and len(output.encode()) > events.TAPE_BYTES:
        raise _too_large()
    appended = await state["streams"].append_external(
        run_id,
        record.attempt,
        made,
        first_seq=first_seq,
        output=output,
        # All there is of it: that it began, and its end.
        briefly=record.tape.at <= 1 and len(made) == 1 and output is None,
    )
    if appended.code == "ok":
        _count_end(state, last)
        if isinstance(last, Completed | Cancelled | Failed):
            await _make_room(state, run_id)
    return _answer(appended, run_id, len(batch), first_seq, state)


async def _make_room(state: State, run_id: str) -> None:
    """For another external run. Should it fail: at the limit it is found to have ended."""
    with suppress(StoreError):
        await state["external"].forget(run_id)


def _count_end(state: State, last: ExternalEvent | None) -> None:
    if isinstance(last, Completed):
        state["stats"].count("runs_completed")
    elif isinstance(last, Cancelled):
        state["stats"].count("runs_cancelled")
    elif isinstance(last, Failed):
        state["stats"].count(f"runs_failed_{last.code}")


def _batch(body: bytes) -> list[ExternalEvent]:
    found: Batch = decode(body, Batch)
    batch = found if isinstance(found, list) else [found]
    if len(batch) > EVENTS_MOST:
        raise invalid("", f"At most {EVENTS_MOST} events at once.")
    for index, item in enumerate(batch[:-1]):
        if isinstance(item, Completed | Failed | Cancelled):
            raise invalid(f"[{index}]", "Nothing can follow the event that ends a run.")
    return batch


def _first_seq(text: str | None) -> int:
    if text is None:
        return 0
    if not (text.isascii() and text.isdigit() and 1 <= len(text) <= 9 and int(text) > 0):
        raise invalid("first_seq", "The number of the first event, counted from 1.")
    return int(text)


def _answer(
    appended: Appended, run_id: str, count: int, first_seq: int, state: State
) -> Response:
    code, attempt, seq, parts = appended
    if code in ("ok", "dup"):
        first = first_seq or seq - count + 1
        content = {
            "id": run_id,
            "attempt": attempt,
            "first_seq": first,
            "last_seq": first + count - 1,
            "next_seq": seq + 1,
            "duplicate": code == "dup",
        }
        return Response(jsontext.encode(content), media_type="application/json")
    if code == "gap":
        raise Problem(
            "sequence_gap",
            f"The next event is number {seq + 1}: send again from there.",
            extra={"expected_seq": seq + 1},
        )
    if code == "full":
        raise _too_large()
    if code == "part":
        raise invalid(
            "part",
            f"The next part is number {parts}; only the open one goes on, and `continues` is "
            "the number of an earlier one.",
        )
    if code == "version":
        raise other_release()
    if code == "gone":
        raise absent(run_id, state)
    raise Problem("run_finished", f"The run has ended with event {seq}.")


def _too_large() -> Problem:
    return Problem(
        "output_too_large",
        "An answer may have 256 KiB of text and thoughts, as much of other events, and "
        f"{events.POINTS_MOST} of these and of parts together.",
    )


# GET is dispatched ahead of it: it is here for what other methods are told.
routes = [Route("/v1/runs/{run_id}/events", append, methods=["GET", "POST"])]

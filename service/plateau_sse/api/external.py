"""Appending to a run from outside: `POST /v1/runs/{id}/events`, for producers in any language.

Invariant: an array is appended whole or not at all; the script numbers the events, whatever
worker takes them, and recognises a repeat by its `first_seq`.
"""

from __future__ import annotations

import time
from typing import Annotated, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from plateau_sse import jsontext
from plateau_sse.api.requests import decode, invalid, read_body, run_id_of
from plateau_sse.api.runs import absent, own_record
from plateau_sse.api.state import State, state_of
from plateau_sse.errors import Problem
from plateau_sse.store.runs import events, ids
from plateau_sse.store.runs.appending import Appended
from plateau_sse.store.runs.events import Event

EVENTS_MOST = 1000
# One entry of a hundred: a stream of the largest takes 6 MiB.
EVENT_BYTES = 64 * 1024

Code = Annotated[str, msgspec.Meta(pattern="^[a-z][a-z0-9_]{0,63}$")]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]


class Delta(msgspec.Struct, tag_field="type", tag="message.delta", forbid_unknown_fields=True):
    text: str

    def event(self, duration_ms: int) -> Event:
        return events.delta(self.text)


class Progress(
    msgspec.Struct, tag_field="type", tag="run.progress", forbid_unknown_fields=True
):
    step: Count = 0
    total_steps: Count = 0
    current_agent: str = ""
    message: str = ""
    percentage: Annotated[float, msgspec.Meta(ge=0, le=100)] | None = None

    def event(self, duration_ms: int) -> Event:
        share = 100 * self.step / self.total_steps if self.total_steps else 0.0
        percentage = share if self.percentage is None else self.percentage
        return events.progress(
            self.step, self.total_steps, self.current_agent, self.message, min(percentage, 100)
        )


class ToolCall(msgspec.Struct, tag_field="type", tag="tool.call", forbid_unknown_fields=True):
    id: str
    name: str
    arguments: Any = ""

    def event(self, duration_ms: int) -> Event:
        return events.tool_call(self.id, self.name, self.arguments)


class ToolResult(
    msgspec.Struct, tag_field="type", tag="tool.result", forbid_unknown_fields=True
):
    id: str
    output: Any

    def event(self, duration_ms: int) -> Event:
        return events.tool_result(self.id, self.output)


class Usage(msgspec.Struct, forbid_unknown_fields=True):
    input_tokens: Count = 0
    output_tokens: Count = 0


class Completed(
    msgspec.Struct, tag_field="type", tag="run.completed", forbid_unknown_fields=True
):
    finish_reason: events.FinishReason = "stop"
    usage: Usage | None = None
    output: str | None = None

    def event(self, duration_ms: int) -> Event:
        return events.completed(
            msgspec.to_builtins(self.usage),
            cached=False,
            duration_ms=duration_ms,
            finish_reason=self.finish_reason,
            output=self.output,
        )


class Failed(msgspec.Struct, tag_field="type", tag="run.failed", forbid_unknown_fields=True):
    code: Code
    message: str = ""
    retryable: bool = False

    def event(self, duration_ms: int) -> Event:
        return events.failed(self.code, self.message, retryable=self.retryable)


class Cancelled(
    msgspec.Struct, tag_field="type", tag="run.cancelled", forbid_unknown_fields=True
):
    reason: str = "by its producer"

    def event(self, duration_ms: int) -> Event:
        return events.cancelled(self.reason)


ExternalEvent = Delta | Progress | ToolCall | ToolResult | Completed | Failed | Cancelled
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
    made = [item.event(now_ms - (record.started_ms or now_ms)) for item in batch]
    if any(len(event.data) > EVENT_BYTES for event in made):
        raise Problem("too_large", f"An event may have {EVENT_BYTES} bytes.")
    last = batch[-1] if batch else None
    appended = await state["streams"].append_external(
        run_id,
        record.attempt,
        made,
        first_seq=first_seq,
        usage=msgspec.to_builtins(last.usage) if isinstance(last, Completed) else None,
        output=last.output if isinstance(last, Completed) else None,
    )
    if appended.code == "ok":
        _count_end(state, last)
    return _answer(appended, run_id, len(made), first_seq, state)


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
    code, attempt, seq = appended
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
        raise Problem("output_too_large", "An answer may have 256 KiB.")
    if code == "gone":
        raise absent(run_id, state)
    raise Problem("run_finished", f"The run has ended with event {ids.show_of(attempt, seq)}.")


# GET is dispatched ahead of it: it is here for what other methods are told.
routes = [Route("/v1/runs/{run_id}/events", append, methods=["GET", "POST"])]

"""Checks what an agent yields, and makes of it what is written.

Invariant: whatever an agent yields becomes text, a thought or an event within its bounds, or an
AgentError. What people are shown may be cut and then says so; what a program is to take up (the
arguments of a call, data, a file, a source) is whole or refused: cut JSON is none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any, NamedTuple

from plateau_sse.agents import (
    AgentError,
    Data,
    File,
    Finish,
    InputRequest,
    Output,
    Progress,
    Reasoning,
    Source,
    Step,
    ToolCall,
    ToolDelta,
    ToolError,
    ToolResult,
    Usage,
)
from plateau_sse.runner.fitting import cut, json_text, made, plain, short, short_or_none
from plateau_sse.store.runs import events
from plateau_sse.store.runs.events import MARK_BYTES, MARKS_BYTES, TAPE_BYTES, Event, Kind


class TooLarge(AgentError):
    """The answer has passed a bound of its tape."""

    def __init__(self, what: str) -> None:
        super().__init__("output_too_large", f"The answer passed {what}.")


class Piece(NamedTuple):
    """Something that was said: text, or a thought."""

    kind: Kind
    text: str


class Draft(NamedTuple):
    """A call that is still being written; told as often as may be, so made when it is."""

    id: str
    name: str
    arguments: str

    def event(self) -> Event:
        return events.tool_delta(self.id, self.name, plain(self.arguments))


class Call(NamedTuple):
    """A call that is whole: its drafts are over."""

    id: str
    event: Event


class Yields:
    """All that one attempt of `agent` has yielded so far; `marks_bytes` are those of the marks
    that were there before. `output` stands for the text where the agent says so;
    `finish_reason` is why it ended, `model` who answered."""

    def __init__(self, agent: str, marks_bytes: int = 0) -> None:
        self._agent = agent
        self._marks_bytes = marks_bytes
        self._said_bytes = 0
        # Whether there is more than white space; whether a call was cut, so that whoever gets
        # the answer from the cache could not execute it; whether one is for the caller.
        self._says = False
        self._is_cut = self._asks = False
        self._halves: dict[Kind, str] = {}
        self.output: str | None = None
        self.usage: dict[str, int] | None = None
        self.model: str | None = None
        self._finish_reason: events.FinishReason | None = None
        self._waits = False

    @property
    def finish_reason(self) -> events.FinishReason:
        if self._finish_reason is not None:
            return self._finish_reason
        return "input_required" if self._waits else "stop"

    @property
    def is_whole(self) -> bool:
        """Whether it is an answer worth giving again: it ended well, has something to say and
        no call of it was cut."""
        if self._is_cut:
            return False
        if self.finish_reason == "tool_calls":
            return self._asks
        return self.finish_reason == "stop" and bool(self._says or (self.output or "").strip())

    def take(self, item: Any) -> Piece | Draft | Call | Event | None:
        """What is to be written of it, if anything. Raises AgentError."""
        try:
            return self._taken(item)
        except AgentError:
            raise
        except Exception as error:
            # A field of another type than it has, or one that cannot be said: also what a value
            # of the agent's own raises where it is asked for its text.
            raise self._invalid(
                f"yielded {_outline(item)}, of which nothing can be told ({_name(error)})"
            ) from error

    def _taken(self, item: Any) -> Piece | Draft | Call | Event | None:
        match item:
            case str():
                return self._say("t", item)
            case Reasoning():
                return self._say("r", item.text)
            case Progress():
                return _progress(item)
            case ToolDelta():
                return Draft(short(item.id), short(item.name), str(item.arguments))
            case ToolCall():
                return self._call(item)
            case Usage() | Output() | Finish():
                self._note(item)
                return None
        return self._told(item)

    def _told(self, item: Any) -> Event:
        match item:
            case ToolResult():
                return self._result(item)
            case ToolError():
                return self._shown(partial(events.tool_error, short(item.id)), str(item.error))
            case Source():
                return self._source(item)
            case File():
                event = events.file(short(item.media_type), plain(str(item.url)))
                self._says = True
                return self._mark(event, "the file")
            case Data():
                return self._data(item)
            case Step():
                return self._mark(events.step(short(item.name)), "the step")
            case InputRequest():
                return self._request(item)
        raise self._invalid(f"yielded {_name(item)}, which is neither text nor an event")

    def _note(self, item: Usage | Output | Finish) -> None:
        match item:
            case Usage():
                self._use(item)
            case Output():
                output = plain(item.text)
                self._check_said(self._said_bytes, output)
                self.output = output
            case Finish():
                known = (it for it in events.FINISH_REASONS if it == item.reason)
                self._finish_reason = next(known, "other")

    def _invalid(self, what: str) -> AgentError:
        return AgentError("agent_invalid_output", f"Agent {self._agent!r} {what}.")

    def _say(self, kind: Kind, piece: str) -> Piece | None:
        piece = self._halves.pop(kind, "") + piece
        if "\ud800" <= piece[-1:] <= "\udbff":
            # Of a character that was cut between two pieces, as those do who count in UTF-16.
            self._halves[kind], piece = piece[-1], piece[:-1]
        if not piece:
            return None
        return self._piece(kind, plain(piece))

    def before(self, item: Any) -> list[Piece]:
        """What must be said before the item is taken: it ends the open part."""
        goes_on = isinstance(
            item, str | Reasoning | Usage | Output | Finish | Progress | ToolDelta
        )
        return [] if goes_on else self.rest()

    def rest(self) -> list[Piece]:
        """Halves of characters whose other halves never came."""
        left, self._halves = self._halves, {}
        return [self._piece(kind, plain(half)) for kind, half in left.items()]

    def _piece(self, kind: Kind, piece: str) -> Piece:
        said_bytes = self._said_bytes + len(piece.encode())
        self._check_said(said_bytes, self.output or "")
        self._said_bytes = said_bytes
        # What it thinks is no answer.
        self._says = self._says or (kind == "t" and not piece.isspace())
        return Piece(kind, piece)

    def _check_said(self, said_bytes: int, output: str) -> None:
        if said_bytes + len(output.encode()) > TAPE_BYTES:
            raise TooLarge(f"{TAPE_BYTES // 1024} KiB of text and thoughts")

    def _call(self, call: ToolCall) -> Call:
        call_id, name = short(call.id), short(call.name)
        make = partial(events.tool_call, call_id, name, client=bool(call.client))
        event = made(make, call.arguments)
        is_whole = event is not None and (call_id, name) == (call.id, call.name)
        what = f"the call {call_id[:40]!r}, with its arguments,"
        if event is None:
            # Whoever looks on sees something of it.
            event = make(plain(str(call.arguments)))
        self._mark(event, what)
        self._says = True
        self._is_cut = self._is_cut or not is_whole
        self._asks = self._asks or bool(call.client)
        return Call(call_id, event)

    def _result(self, result: ToolResult) -> Event:
        is_preliminary = bool(result.preliminary)
        make = partial(events.tool_result, short(result.id), preliminary=is_preliminary)
        return self._shown(make, result.output, is_state=is_preliminary)

    def _shown(
        self, make: Callable[[Any], Event], value: Any, *, is_state: bool = False
    ) -> Event:
        """What a tool gave: for people to look at, so it may be cut."""
        event = made(make, value)
        if event is None:
            value = str(value)
            event = make(plain(value))
        if len(event.data) > MARK_BYTES:
            text = value if isinstance(value, str) else json_text(value)
            event = cut(make, plain(text))
        if is_state:
            return event
        self._says = True
        return self._mark(event, "a tool's output")

    def _source(self, source: Source) -> Event:
        if not (source.url or source.media_type):
            raise self._invalid("yielded a source that has neither url nor media_type")
        event = events.source(
            short(source.id),
            url=None if source.url is None else plain(str(source.url)),
            media_type=short_or_none(source.media_type),
            title=short_or_none(source.title),
            filename=short_or_none(source.filename),
        )
        return self._mark(event, "the source")

    def _data(self, item: Data) -> Event:
        name, is_state = short(item.name), bool(item.transient)
        make = partial(_data_of, name, short_or_none(item.id), is_state)
        event = made(make, item.value)
        what = f"the data {name[:40]!r}"
        if event is None:
            raise self._invalid(f"yielded {what} with a {_name(item.value)}, which is no JSON")
        if is_state:
            return self._checked(event, what)
        self._says = True
        return self._mark(event, what)

    def _request(self, item: InputRequest) -> Event:
        if item.kind not in ("approval", "question"):
            raise self._invalid(f"asked for an input of the kind {str(item.kind)[:40]!r}")
        request_id, what = short(item.id), "what it asks"
        if request_id != item.id:
            raise self._invalid("asked for an input under an id that is too long")
        make = partial(
            events.input_request,
            request_id,
            item.kind,
            plain(str(item.message)),
            tool_call_id=short_or_none(item.tool_call_id),
        )
        event = made(lambda schema: make(schema=schema), item.schema)
        if event is None:
            raise self._invalid("asked for an input with a schema that is no JSON")
        self._waits = True
        return self._mark(event, what)

    def _mark(self, event: Event, what: str) -> Event:
        self._checked(event, what)
        self._marks_bytes += len(event.data)
        if self._marks_bytes > MARKS_BYTES:
            raise TooLarge(f"{MARKS_BYTES // 1024} KiB of calls, results and the like")
        return event

    def _checked(self, event: Event, what: str) -> Event:
        if (size := len(event.data)) > MARK_BYTES:
            raise self._invalid(
                f"yielded too much at once: {what} would be an event of {size:,} bytes, where "
                f"{MARK_BYTES:,} are the most"
            )
        return event

    def _use(self, usage: Usage) -> None:
        if usage.model:
            self.model = short(usage.model)
        # Some SDKs say None where they have counted none.
        counts = {
            "input_tokens": _count(usage.input_tokens or 0),
            "output_tokens": _count(usage.output_tokens or 0),
        }
        others = {
            "cached_input_tokens": usage.cached_input_tokens,
            "reasoning_tokens": usage.reasoning_tokens,
        }
        counts |= {name: _count(it) for name, it in others.items() if it is not None}
        # With none used it tells the model alone.
        if any(counts.values()) or not usage.model:
            self.usage = counts


def _name(value: object) -> str:
    return type(value).__name__


def _outline(item: Any) -> str:
    """Its type and those of its fields: to ask a value for its text may be what failed."""
    if not is_dataclass(item):
        return _name(item)
    told = (f"{it.name}: {_name(getattr(item, it.name, None))}" for it in fields(item))
    return f"{_name(item)}({', '.join(told)})"


def _count(value: int) -> int:
    """Within what every reader's JSON can count."""
    return max(0, min(int(value), 2**53 - 1))


def _progress(item: Progress) -> Event:
    share = 100 * item.step / item.total_steps if item.total_steps else 0
    percentage = share if item.percentage is None else item.percentage
    return events.progress(
        _count(item.step),
        _count(item.total_steps),
        short(item.current_agent),
        short(item.message),
        round(min(100.0, max(0.0, float(percentage))), 1),
    )


def _data_of(name: str, data_id: str | None, transient: bool, value: Any) -> Event:
    return events.data(name, value, data_id, transient=transient)

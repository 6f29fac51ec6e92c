"""From the events of a run to its answer.

Invariant: whoever takes all events of a run, each once and in order, has what the run's record
has as its parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from plateau_sse.client.place import TERMINAL

Event = dict[str, Any]
# `type` says what it is: "text" and "reasoning" with their `part` and `text`, and as they came
# "tool.call" (its `output` or `error` with it), "source", "file", "data", "step",
# "input.request".
Part = dict[str, Any]

_TEXTS = {"message.delta": "text", "reasoning.delta": "reasoning"}
_MARKS = ("tool.call", "source", "file", "data", "step", "input.request")
_STATUSES = {"run.queued": "queued", "run.started": "running", **TERMINAL}


@dataclass(slots=True)
class Answer:
    """What has been said so far. `status`: connecting, queued, running, completed, failed or
    cancelled. `error` is that of a failed run, `reason` of a cancelled one, the members below
    it of a completed one."""

    status: str = "connecting"
    attempt: int = 0
    parts: list[Part] = field(default_factory=list)
    progress: Event | None = None
    error: Event | None = None
    reason: str | None = None
    finish_reason: str | None = None
    usage: dict[str, int] | None = None
    model: str | None = None
    cached: bool = False
    duration_ms: int | None = None
    output: str | None = None
    _open: Any = None

    @property
    def text(self) -> str:
        return "".join(part["text"] for part in self.parts if part["type"] == "text")

    @property
    def tools(self) -> list[Part]:
        return [part for part in self.parts if part["type"] == "tool.call"]

    @property
    def sources(self) -> list[Part]:
        return [part for part in self.parts if part["type"] == "source"]

    def take(self, event: Mapping[str, Any]) -> None:
        """Of an event that is not known nothing is kept."""
        kind = str(event.get("type", ""))
        self.status = _STATUSES.get(kind, self.status)
        if kind in _TEXTS:
            return self._say(_TEXTS[kind], event)
        if kind == "run.progress":
            self.progress = _without_type(event)
        elif kind == "run.restarted":
            self.parts, self.progress, self._open = [], None, None
            self.attempt = event.get("attempt", self.attempt)
        elif kind == "run.started":
            self.attempt = event.get("attempt", self.attempt)
        elif kind in TERMINAL:
            self._end(kind, event)
        elif not (event.get("preliminary") or event.get("transient")):
            self._mark(kind, event)

    def take_record(self, record: Mapping[str, Any]) -> None:
        """The parts as a record has them, or a message of a conversation."""
        self.parts, self._open = [], None
        deltas = {part: kind for kind, part in _TEXTS.items()}
        for part in record.get("parts") or []:
            self.take({**part, "type": deltas.get(part["type"], part["type"])})
            # Parts that follow each other are two, whatever their numbers.
            self._open = None

    def _say(self, kind: str, event: Mapping[str, Any]) -> None:
        number, text = event.get("part"), str(event.get("text", ""))
        last = self.parts[-1] if self.parts else {}
        # Whoever begins within a part has not seen it opened.
        if self._open == number and (last.get("type"), last.get("part")) == (kind, number):
            last["text"] += text
        else:
            more = {"continues": event["continues"]} if "continues" in event else {}
            self.parts.append({"type": kind, "part": number, "text": text, **more})
        self._open = number

    def _mark(self, kind: str, event: Mapping[str, Any]) -> None:
        if kind == "tool.result":
            self._result(event)
        elif kind == "data" and "id" in event:
            same = [it for it in self.parts if _names(it) == _names(event)]
            if same:
                same[0].update(event)
            else:
                self.parts.append(dict(event))
        elif kind in _MARKS:
            self.parts.append(dict(event))
        else:
            return
        self._open = None

    def _result(self, event: Mapping[str, Any]) -> None:
        # The latest call of that id: an agent may count its calls anew in each step.
        for part in reversed(self.parts):
            if part["type"] == "tool.call" and part.get("id") == event.get("id"):
                part.update(_without_type(event))
                return
        self.parts.append(dict(event))

    def _end(self, kind: str, event: Mapping[str, Any]) -> None:
        if kind == "run.completed":
            self.finish_reason = event.get("finish_reason")
            self.usage, self.model = event.get("usage"), event.get("model")
            self.cached = bool(event.get("cached"))
            self.duration_ms = event.get("duration_ms")
            output = event.get("output")
            self.output = self.text if output is None else output
        elif kind == "run.failed":
            self.error = _without_type(event)
        else:
            self.reason = event.get("reason")


def _names(event: Mapping[str, Any]) -> tuple[Any, ...]:
    return event["type"], event.get("name"), event.get("id")


def _without_type(event: Mapping[str, Any]) -> Event:
    return {name: value for name, value in event.items() if name != "type"}

"""Runs an agent right here and gives the events that a server would send.

Invariant: no server, no Redis and no network of its own; what comes out folds exactly as the
events of a real run do.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

from plateau_sse.agents import (
    AgentError,
    Data,
    File,
    Finish,
    Message,
    Output,
    Progress,
    Reasoning,
    Run,
    Source,
    Step,
    ToolCall,
    ToolDelta,
    ToolError,
    ToolResult,
    Usage,
)
from plateau_sse.agents.registry import RegisteredAgent, load_agent, load_agents
from plateau_sse.jsontext import encode
from plateau_sse.settings import Settings
from plateau_sse.store.runs import events
from plateau_sse.store.runs.events import Event, Kind
from plateau_sse.store.runs.tape import Tape

Show = Callable[[str], None]


def find(target: str) -> RegisteredAgent:
    """`module:callable`, or the name of an agent that a runner would have; SettingsError."""
    if ":" in target:
        return load_agent(target)
    agents = load_agents(Settings.from_env())
    return agents[target] if target in agents else load_agent(target)


def run_here(agent: RegisteredAgent, text: str, options: Mapping[str, Any], show: Show) -> None:
    """Runs the agent to its end; `show` gets each event as JSON, the last one is terminal.
    KeyboardInterrupt passes through, with the agent's own clean-up done."""
    run = Run("local", agent.name, text, (Message("user", text),), options)
    state = _State(show)
    state.send(events.started(run.id, agent.name, run.attempt))
    try:
        _drive(agent, run, state)
    except AgentError as error:
        state.fail(error.code, error.message, retryable=error.retryable)
    except BrokenPipeError:
        # Standard output is gone, which is no fault of the agent's.
        raise
    except Exception as error:
        # Whoever runs an agent here is writing it: show where it broke.
        traceback.print_exc()
        state.fail("agent_error", f"{type(error).__name__}: {error}")
    else:
        state.complete()


def _drive(agent: RegisteredAgent, run: Run, state: _State) -> None:
    result: Any = agent.call(run)
    if hasattr(result, "__aiter__"):
        asyncio.run(_drive_async(result, state))
    elif hasattr(result, "__iter__") and not isinstance(result, str | bytes | Mapping):
        for part in result:
            state.take(part)
    else:
        if asyncio.iscoroutine(result):
            result.close()
        kind = type(result).__name__
        raise AgentError("agent_invalid_output", f"The agent gave a {kind} and yields nothing.")


async def _drive_async(result: Any, state: _State) -> None:
    if not isinstance(result, AsyncGenerator):
        async for part in result:
            state.take(part)
        return
    async with aclosing(result) as parts:
        async for part in parts:
            state.take(part)


class _State:
    """The run so far: the tape, which numbers its parts, and what its last event says."""

    def __init__(self, show: Show) -> None:
        self._show = show
        self._began = time.monotonic()
        self._tape = Tape()
        self._usage: dict[str, int] | None = None
        self._model: str | None = None
        self._output: str | None = None
        self._finish_reason: events.FinishReason = "stop"

    def send(self, event: Event) -> None:
        self._tape.add(event)
        data = event.data
        if event.op == "t" or event.op == "r":
            data = events.delta_head(event.op, self._tape.points[-1].part) + data
        self._show(data.decode())

    def take(self, part: Any) -> None:
        match part:
            case str():
                self._say("t", part)
            case Reasoning():
                self._say("r", part.text)
            case Usage():
                self._use(part)
            case Output():
                self._output = _plain(part.text)
            case Finish():
                known = (it for it in events.FINISH_REASONS if it == part.reason)
                self._finish_reason = next(known, "other")
            case _:
                self.send(_event(part))

    def _say(self, kind: Kind, text: str) -> None:
        for piece in events.pieces(_plain(text)) if text else ():
            self.send(events.delta(piece, kind))

    def _use(self, usage: Usage) -> None:
        counts = {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "cached_input_tokens": usage.cached_input_tokens,
            "reasoning_tokens": usage.reasoning_tokens,
        }
        self._usage = {name: it for name, it in counts.items() if it is not None}
        self._model = usage.model or self._model

    def complete(self) -> None:
        end = events.completed(
            self._usage,
            cached=False,
            duration_ms=round((time.monotonic() - self._began) * 1000),
            finish_reason=self._finish_reason,
            model=self._model,
        )
        if self._output not in (None, self._tape.said()):
            end = end._replace(data=events.with_output(end.data, (self._output or "").encode()))
        self.send(end)

    def fail(self, code: str, message: str, *, retryable: bool = False) -> None:
        self.send(events.failed(code, _plain(message), retryable=retryable))


def _event(part: Any) -> Event:
    match part:
        case Progress():
            share = 100 * part.step / part.total_steps if part.total_steps else 0.0
            done = share if part.percentage is None else part.percentage
            told = (part.step, part.total_steps, part.current_agent, part.message)
            return events.progress(*told, done)
        case ToolCall():
            given = _value(part.arguments)
            return events.tool_call(part.id, part.name, given, client=part.client)
        case ToolDelta():
            return events.tool_delta(part.id, part.name, _plain(part.arguments))
        case ToolResult():
            output = _value(part.output)
            return events.tool_result(part.id, output, preliminary=part.preliminary)
        case ToolError():
            return events.tool_error(part.id, _plain(str(part.error)))
        case Source():
            return events.source(
                part.id,
                url=part.url,
                media_type=part.media_type,
                title=part.title,
                filename=part.filename,
            )
        case File():
            return events.file(part.media_type, part.url)
        case Data():
            value = _value(part.value)
            return events.data(part.name, value, part.id, transient=part.transient)
        case Step():
            return events.step(part.name)
    raise AgentError(
        "agent_invalid_output",
        f"The agent yielded a {type(part).__name__}, which is neither text nor one of the "
        "types of plateau_sse.agents.",
    )


def _plain(text: str) -> str:
    """Lone surrogates, which no UTF-8 can carry, become U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _value(value: Any) -> Any:
    """What is no JSON is shown as its text."""
    try:
        encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return _plain(str(value))
    return value

"""Runs an agent right here and gives the events that a server would send.

Invariant: no server, no Redis and no network of its own; what comes out folds exactly as the
events of a real run do.
"""

from __future__ import annotations

import asyncio
import json
import time
import traceback
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

from plateau_sse.agents import (
    AgentError,
    Finish,
    Message,
    Output,
    Progress,
    Run,
    ToolCall,
    ToolResult,
    Usage,
)
from plateau_sse.agents.registry import RegisteredAgent, load_agent, load_agents
from plateau_sse.settings import Settings
from plateau_sse.store.runs.events import FINISH_REASONS

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
    state.send({"type": "run.started", "run": run.id, "agent": agent.name, "attempt": 1})
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
    """The run so far, as far as its last event needs it."""

    def __init__(self, show: Show) -> None:
        self._show = show
        self._began = time.monotonic()
        self._usage: dict[str, int] | None = None
        self._output: str | None = None
        self._finish_reason = "stop"

    def send(self, event: Mapping[str, Any]) -> None:
        self._show(json.dumps(event, ensure_ascii=False, default=str))

    def take(self, part: Any) -> None:
        if isinstance(part, Usage):
            self._usage = {
                "input_tokens": part.input_tokens,
                "output_tokens": part.output_tokens,
            }
        elif isinstance(part, Output):
            self._output = part.text
        elif isinstance(part, Finish):
            known = part.reason in FINISH_REASONS
            self._finish_reason = part.reason if known else "other"
        else:
            self.send(_event(part))

    def complete(self) -> None:
        duration_ms = round((time.monotonic() - self._began) * 1000)
        event: dict[str, Any] = {
            "type": "run.completed",
            "finish_reason": self._finish_reason,
            "usage": self._usage,
            "cached": False,
            "duration_ms": duration_ms,
        }
        self.send(event if self._output is None else {**event, "output": self._output})

    def fail(self, code: str, message: str, *, retryable: bool = False) -> None:
        event = {"type": "run.failed", "code": code, "message": message}
        self.send({**event, "retryable": retryable})


def _event(part: Any) -> dict[str, Any]:
    match part:
        case str():
            return {"type": "message.delta", "text": part}
        case Progress():
            done = part.percentage
            if done is None:
                done = 100 * part.step / part.total_steps if part.total_steps else 0.0
            return {
                "type": "run.progress",
                "step": part.step,
                "total_steps": part.total_steps,
                "current_agent": part.current_agent,
                "message": part.message,
                "percentage": done,
            }
        case ToolCall():
            return {
                "type": "tool.call",
                "id": part.id,
                "name": part.name,
                "arguments": part.arguments,
            }
        case ToolResult():
            return {"type": "tool.result", "id": part.id, "output": part.output}
    raise AgentError(
        "agent_invalid_output",
        f"The agent yielded a {type(part).__name__}: what may be yielded is text, Progress, "
        "ToolCall, ToolResult, Usage, Output and Finish.",
    )

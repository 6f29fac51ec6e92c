"""Runs an agent right here and gives the events that a server would send.

Invariant: no server, no Redis and no network of its own; what comes out folds exactly as the
events of a real run do.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import replace
from typing import Any

from plateau_sse.agents import AgentError, Memory, Message, Run, Step
from plateau_sse.agents.registry import RegisteredAgent, load_agent, load_agents, open_agents
from plateau_sse.errors import SettingsError
from plateau_sse.runner.fitting import short
from plateau_sse.runner.holding import Drafts, Held
from plateau_sse.runner.yields import Call, Draft, Piece, Yields
from plateau_sse.settings import Settings
from plateau_sse.store.runs import events
from plateau_sse.store.runs.events import Event
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
    state = _State(show, run)
    try:
        _drive(agent, run, state)
        state.rest()
    except AgentError as error:
        state.fail(error.code, error.message, retryable=error.retryable)
    except (BrokenPipeError, SettingsError):
        # Standard output is gone, or the agent cannot be opened: no fault of its run's.
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        # Whoever runs an agent here is writing it: show where it broke. What ends a process or
        # cancels a task ends a run in a runner, too, and nothing else.
        traceback.print_exc()
        state.fail("agent_error", _told(error))
    else:
        state.complete()


def _told(error: BaseException) -> str:
    name, words = type(error).__name__, ""
    # An error of its author's may fail to say what it is.
    with suppress(Exception):
        words = str(error)
    return f"{name}: {words}" if words else name


def _drive(agent: RegisteredAgent, run: Run, state: _State) -> None:
    if agent.hosted is not None:
        asyncio.run(_drive_hosted(agent, run, state))
        return
    result: Any = agent.begin(run)
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


async def _drive_hosted(agent: RegisteredAgent, run: Run, state: _State) -> None:
    """What it remembers is gone with it."""
    async with AsyncExitStack() as stack:
        opened = (await open_agents({agent.name: agent}, stack))[agent.name]
        result: Any = opened.begin(replace(run, memory=Memory()))
        if hasattr(result, "__aiter__"):
            await _drive_async(result, state)
        else:
            for part in result:
                state.take(part)


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

    def __init__(self, show: Show, run: Run) -> None:
        self._show = show
        self._began = self._opened_at = time.monotonic()
        self._tape = Tape()
        self._held = Held(self._tape)
        self._drafts = Drafts()
        self._send(events.started(run.id, run.agent, run.attempt))
        self._yields = Yields(run.agent, self._tape.marks_bytes)

    def take(self, item: Any) -> None:
        """One thing that the agent yielded. Raises AgentError."""
        for piece in self._yields.before(item):
            self._held.add(piece)
        match self._yields.take(item):
            case Piece() as piece:
                self._held.add(piece)
                self._send_held()
            case Draft() as draft:
                self._drafts.add(draft)
                for event in self._drafts.take(time.monotonic()):
                    self._event(event)
            case Call(call_id, event):
                self._drafts.drop(call_id)
                self._event(event)
            case Event() as event:
                if isinstance(item, Step):
                    self._drafts.begin_step()
                self._event(event)

    def rest(self) -> None:
        """What the agent has left unfinished. Raises AgentError."""
        for piece in self._yields.rest():
            self._held.add(piece)

    def complete(self) -> None:
        self._send_held(ending=True)
        end = events.completed(
            self._yields.usage,
            cached=False,
            duration_ms=round((time.monotonic() - self._began) * 1000),
            finish_reason=self._yields.finish_reason,
            model=self._yields.model,
        )
        output = self._yields.output
        if output is not None and output != self._tape.said():
            end = end._replace(data=events.with_output(end.data, output.encode()))
        self._send(end)

    def fail(self, code: str, message: str, *, retryable: bool = False) -> None:
        self._send_held(ending=True)
        self._send(events.failed(code, short(message), retryable=retryable))

    def _event(self, event: Event) -> None:
        """A mark or a state, after what was said before it."""
        if event.op == "m":
            self._held.check_mark()
        self._send_held(ending=event.op == "m")
        self._send(event)

    def _send_held(self, *, ending: bool = False) -> None:
        """At once, but for what opens a part where parts take turns too often."""
        is_ripe = time.monotonic() >= self._opened_at + self._held.hold_s
        points = len(self._tape.points)
        opening = self._held.keeps_order or is_ripe
        for event in self._held.take(opening=opening, ending=ending):
            self._send(event)
        if len(self._tape.points) > points:
            self._opened_at = time.monotonic()

    def _send(self, event: Event) -> None:
        self._tape.add(event)
        data = event.data
        if event.op == "t" or event.op == "r":
            data = events.delta_head(event.op, self._tape.points[-1].part) + data
        self._show(data.decode())

"""LangGraph's graphs as agents.

Invariant: a run begins where its conversation is: with all messages where nobody keeps the
graph's state, with the new ones where it is kept (by the conversation's memory, or by a
checkpointer of the graph's own), with a person's answers where the graph waits for them. What
it waits for is asked, and its state kept until it is answered.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from plateau_sse.agents import AgentError, Data, Memory, Message, Output, Run, Yielded
from plateau_sse.agents.hosting import Hosted
from plateau_sse.agents.hosting.exchange import new_in, note
from plateau_sse.agents.hosting.faults import fault_of
from plateau_sse.agents.hosting.langgraph_blocks import custom
from plateau_sse.agents.hosting.langgraph_input import (
    as_taken,
    check_options,
    fields_of,
    going_on,
)
from plateau_sse.agents.hosting.langgraph_interrupts import Asking
from plateau_sse.agents.hosting.langgraph_messages import Messages
from plateau_sse.agents.hosting.telling import jsonable
from plateau_sse.agents.memory.said import Said

log = logging.getLogger("plateau.runner")

_MODES = ["messages", "custom", "tasks", "updates", "values", "tools"]
_INTERRUPT = "__interrupt__"
# Of a checkpoint's metadata, which has texts and numbers alone: what the user had said by then.
_SAID = "plateau_said"
# Of a conversation's states, those among which one is looked for that it is to go back to.
HISTORY_MOST = 500


async def run(graph: Any, run: Run, settings: Hosted) -> AsyncGenerator[Yielded, None]:
    thread, telling = _Thread(graph, run, settings), _Telling()
    try:
        given = await thread.begin()
        stream = thread.graph.astream(
            given,
            thread.config,
            context=await settings.deps_of(run),
            stream_mode=_MODES,
            subgraphs=True,
            **thread.how,
        )
        async with aclosing(stream) as parts:
            async for namespace, mode, data in parts:
                for item in telling.told(mode, data, "|".join(namespace)):
                    yield item
        for item in telling.outcome():
            yield item
        thread.end(waits=telling.asking.waits)
    except Exception as error:
        # What was said before that is told all the same.
        for item in telling.messages.rest(is_answer=False):
            yield item
        fault = fault_of(error)
        if fault is None or fault is error:
            raise
        raise fault from error
    finally:
        thread.close()


class _Telling:
    """What is told of one run, and the state that it has come to."""

    def __init__(self) -> None:
        self.messages = Messages()
        self.asking = Asking(self.messages)
        self._values: Any = None

    def told(self, mode: str, data: Any, namespace: str) -> Iterator[Yielded]:
        """A piece of one of the streams, of the graph or of one within it."""
        messages = self.messages
        match mode:
            case "messages":
                yield from messages.take(*data)
            case "custom":
                # A node may know Plateau's own types.
                is_ours = isinstance(data, Yielded) and not isinstance(data, str)
                yield data if is_ours else custom(data)
            case "tools":
                yield from messages.tool(data)
            case "tasks" if "input" in data:
                self.asking.note_task(data)
            case "tasks":
                task = f"{data['name']}:{data['id']}"
                yield from messages.end(f"{namespace}|{task}" if namespace else task)
                self.asking.note_end(data)
            case "updates" if isinstance(data, Mapping) and not namespace:
                self.asking.note(data.get(_INTERRUPT) or ())
            case "values" if not namespace:
                self._values = data
                yield from messages.state(data)

    def outcome(self) -> Iterator[Yielded]:
        """Once the graph has come to its end: the answer, where it is not all of the text; what
        has a form of its own, which is the answer where no text is; or what it waits for."""
        yield from self.messages.rest(is_answer=not self.asking.waits)
        yield from self.asking.requests()
        if self.messages.spoke > 1:
            yield Output(self.messages.final)
        values = self._values
        if self.asking.waits or values is None:
            return
        if isinstance(values, Mapping) and "messages" in values:
            values = values.get("structured_response")
        if values is not None:
            value = jsonable(values)
            yield Data("output", value)
            if not self.messages.is_answered:
                # Given by a call, or by no model at all: some clients read only text.
                yield Output(json.dumps(value, ensure_ascii=False))


class _Thread:
    """The graph as this run uses it, and what it keeps."""

    def __init__(self, graph: Any, run: Run, settings: Hosted) -> None:
        from plateau_sse.agents.memory.langgraph import Checkpointer

        self._run = run
        self._settings = settings
        self._memory: Memory | None = run.memory
        self._saver: Any = None
        # What it remembers stays between runs; else it is there only to wait for answers.
        self._is_kept = bool(graph.checkpointer)
        name = run.id
        if isinstance(graph.checkpointer, Checkpointer):
            self._saver = graph.checkpointer
        elif self._is_kept:
            name = run.id if run.memory is None else run.memory.thread
        else:
            self._saver = Checkpointer()
            graph = graph.copy(update={"checkpointer": self._saver})
        self.graph = graph
        # Nobody needs what lies between a run's beginning and its end.
        self.how: dict[str, Any] = {} if self._saver is None else {"durability": "exit"}
        self._name = name
        self.config: dict[str, Any] = {
            "configurable": {"thread_id": name},
            "recursion_limit": settings.max_steps,
            "metadata": {"plateau_run": run.id, "plateau_agent": run.agent},
        }

    async def begin(self) -> Any:
        """What the graph is given. Raises AgentError."""
        if self._saver is not None and self._memory is not None and self._memory.value:
            try:
                self._saver.load(self._name, self._memory.value)
            except ValueError as error:
                # Another release's: a conversation that never went on would be worse.
                log.warning("run %s: its memory is not read: %s", self._run.id, error)
        has_state = self._is_kept or (self._saver is not None and bool(self._run.resume))
        state = await self.graph.aget_state(self.config) if has_state else None
        if self._run.resume:
            from langgraph.types import Command

            if state is not None and (said := _said_in(state)):
                self.config["metadata"][_SAID] = said
            pending = () if state is None else state.interrupts
            return Command(resume=Asking.answers(pending, self._run.resume))
        if self._saver is not None and not self._is_kept:
            # It waited, and nobody has answered.
            self._saver.delete_thread(self._name)
        return await self._input(state if state is not None and state.values else None)

    async def _input(self, state: Any) -> Any:
        if self._settings.input is not None:
            return await self._settings.input_of(self._run)
        options = dict(self._run.options)
        options.pop("if_busy", None)
        fields = fields_of(self.graph)
        if "messages" not in fields:
            check_options(fields, options)
            return options
        from langchain_core.messages import convert_to_messages

        state, said = await self._new(state)
        try:
            messages = convert_to_messages([as_taken(it) for it in said])
        except (ValueError, KeyError, TypeError, NotImplementedError) as error:
            message = f"The graph does not take these messages ({type(error).__name__})."
            raise AgentError("invalid_options", message) from error
        known = {name: value for name, value in options.items() if name in fields}
        if state is not None:
            messages = going_on(state, messages)
        return {**known, "messages": messages}

    async def _new(self, state: Any) -> tuple[Any, Sequence[Message]]:
        """The state that the run goes on from, None for none, and what the user has said that
        is not in it."""
        run, said = self._run, Said()
        if not self._is_kept:
            return state, run.messages
        if state is not None:
            said = Said(_said_in(state))
            # It may have asked a person, and said nothing.
            has_spoken = any(it.role == "assistant" for it in run.messages)
            waits = bool(state.interrupts) or not has_spoken
            own = self._saver is None
            turns, new = new_in(run, said, waits=waits, keeps_broken=own)
            if turns < len(said.turns):
                state = await self._back_to(state, said, turns)
        if state is None:
            said, new = Said(), run.messages
        # Its states have no messages to be counted.
        size = 0 if state is None else len(said.turns) + 1
        note(run, said, new, size, joins=False)
        self.config["metadata"][_SAID] = said.told(size + 1)
        return state, new

    async def _back_to(self, state: Any, said: Said, turns: int) -> Any:
        """What the state was after so many turns of what was `said`: None for the beginning,
        with which Plateau's own checkpointer goes on, since it keeps the newest state alone.
        Where another has not kept it the state is what it is."""
        if self._saver is not None:
            self._saver.delete_thread(self._name)
            return None
        known = [it for turn in said.turns[:turns] for it in turn.digests]
        history = self.graph.aget_state_history(self.config, limit=HISTORY_MOST)
        async with aclosing(history) as states:
            async for found in states:
                is_it = Said(_said_in(found)).digests == known
                if is_it if turns else found.parent_config is None:
                    name = found.config["configurable"]["checkpoint_id"]
                    self.config["configurable"]["checkpoint_id"] = name
                    del said.turns[turns:]
                    return found if turns else None
        return state

    def end(self, *, waits: bool) -> None:
        """The run has ended well. Raises AgentError where it waits for what cannot come."""
        if self._memory is None:
            if waits:
                raise AgentError(
                    "invalid_options",
                    "The agent waits for a person's answer, and the run is in no conversation: "
                    "ask with a `conversation_id`, or in a chat.",
                )
        elif self._saver is not None:
            is_needed = waits or self._is_kept
            keep = self._saver.dump(self._name, waits=waits) if is_needed else b""
            self._memory.keep(keep)

    def close(self) -> None:
        if self._saver is not None:
            self._saver.delete_thread(self._name)


def _said_in(state: Any) -> str:
    return str((state.metadata or {}).get(_SAID, ""))

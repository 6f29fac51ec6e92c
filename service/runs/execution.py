"""One attempt at one run: from the claim to the terminal event.

Invariant: an attempt that this process has claimed ends in exactly one of three ways: its
terminal event is in the stream, the script has refused it, or it is handed back unfinished for
another attempt.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import aclosing, suppress
from functools import partial
from typing import Any

import msgspec

from service.agents import (
    AgentError,
    Message,
    Output,
    Progress,
    Run,
    ToolCall,
    ToolResult,
    Usage,
    Yielded,
)
from service.agents.registry import RegisteredAgent
from service.errors import StoreError
from service.runs.job import Job
from service.runs.keeper import Keeper
from service.runs.writer import Refused, Writer
from service.store import cache, events
from service.store.streams import Claimed, Streams

log = logging.getLogger("plateau.runner")

# The longest answer: what a reader may have to be sent in one snapshot.
OUTPUT_BYTES = 256 * 1024
# A tool's arguments or output beyond this are cut: they are shown, not processed.
TOOL_BYTES = 16 * 1024
# As much of them is kept for the cache as a snapshot holds.
TOOLS_BYTES = 32 * 1024
MESSAGE_CHARS = 500
# An agent that does not end when it is cancelled is left behind after two seconds.
STOP_TRIES, STOP_AGAIN_S = 10, 0.2

_DONE = object()


class Execution:
    """Drives one agent. `stop(reason)` cancels the run; cancelling the task hands it back."""

    def __init__(
        self,
        claimed: Claimed,
        run_id: str,
        *,
        agents: Mapping[str, RegisteredAgent],
        streams: Streams,
        keeper: Keeper,
        threads: Executor,
        timeout_s: float,
        count: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._claimed = claimed
        self._count = count
        self.run_id = run_id
        self._agents = agents
        self._keeper = keeper
        self._threads = threads
        self._timeout_s = timeout_s
        self._writer = Writer(streams, run_id, claimed.attempt, claimed.seq)
        self._job = Job.decode(claimed.request)
        self._started = time.monotonic()
        self._text: list[str] = []
        self._bytes = 0
        self._output: str | None = None
        self._usage: dict[str, int] | None = None
        self._tools: list[bytes] = []
        self._tools_bytes = 0
        self._driving: asyncio.Task[None] | None = None
        self._cancel_reason = claimed.cancel
        self._over = False
        # The event that the run has ended with; and the seconds from its asking to its text.
        self.last: events.Event | None = None
        self.first_text_s: float | None = None

    @property
    def cancelled(self) -> bool:
        """Whether somebody wants it cancelled: that needs no place among the running."""
        return self._cancel_reason is not None

    @property
    def agent(self) -> str:
        return self._claimed.agent

    @property
    def task_name(self) -> str:
        """Of the task that runs the agent's own code."""
        return f"agent {self.run_id}"

    def stop(self, reason: str) -> None:
        """Somebody asked to cancel the run."""
        self._cancel_reason = reason
        if self._driving is not None:
            self._driving.cancel()

    async def run(self) -> None:
        """Returns when the run has ended; Refused where it is no longer ours."""
        try:
            last = await self._outcome()
            usage = self._usage
            output = self._output if last.arg == "completed" else None
            if last.arg == "completed":
                await self._remember()
            await self._writer.finish(last, usage=usage, output=output)
            self.last = last
            await self._keeper.free(self._job, self.run_id)
        except BaseException:
            await self._writer.abandon()
            raise

    async def _outcome(self) -> events.Event:
        """The event that the run ends with."""
        if self._cancel_reason is not None:
            return events.cancelled(self._cancel_reason)
        self._driving = asyncio.create_task(self._drive(), name=self.task_name)
        try:
            finished, _ = await asyncio.wait({self._driving}, timeout=self._timeout_s)
        except asyncio.CancelledError:
            await self._stop_driving()
            raise
        if not finished:
            await self._stop_driving()
            message = f"The attempt took longer than {self._timeout_s:g} s."
            return events.failed("timeout", message, retryable=True)
        try:
            self._driving.result()
        except asyncio.CancelledError as error:
            return self._failure(error)
        except AgentError as error:
            if self.cancelled:
                return self._failure(error)
            message = _short(error.message)
            return events.failed(error.code, message, retryable=error.retryable)
        except (Refused, StoreError):
            raise
        except Exception as error:
            return self._failure(error)
        return events.completed(
            self._usage, cached=False, duration_ms=self.elapsed_ms, output=self._output
        )

    async def _stop_driving(self) -> None:
        """Cancel the agent, again where it or a library swallows that, but not for ever: what
        it yields after its time is refused."""
        self._over = True
        assert self._driving is not None
        for _ in range(STOP_TRIES):
            self._driving.cancel()
            await asyncio.wait({self._driving}, timeout=STOP_AGAIN_S)
            if self._driving.done():
                # Retrieved: what a stopped agent raises is nobody's business.
                if not self._driving.cancelled():
                    self._driving.exception()
                return
        log.error(
            "run %s: agent %s does not stop",
            self.run_id,
            self._claimed.agent,
            extra={"request": self._job.request_id},
        )

    def _failure(self, error: BaseException) -> events.Event:
        """What came out of the agent: the answer to `stop`, or an error of its own."""
        if self._cancel_reason is not None:
            return events.cancelled(self._cancel_reason)
        log.error(
            "run %s: agent %s failed",
            self.run_id,
            self._claimed.agent,
            exc_info=error,
            extra={"request": self._job.request_id},
        )
        message = f"The agent failed ({type(error).__name__})."
        return events.failed("agent_error", message, retryable=False)

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._started

    @property
    def elapsed_ms(self) -> int:
        return int(self.elapsed_s * 1000)

    async def _drive(self) -> None:
        try:
            await self._drive_agent()
        except (SystemExit, KeyboardInterrupt) as error:
            # Out of a task these end the process, and every other run with it.
            raise RuntimeError(f"the agent called for {type(error).__name__}") from error

    async def _drive_agent(self) -> None:
        name = self._claimed.agent
        agent = self._agents.get(name)
        if agent is None:
            raise AgentError("agent_unknown", f"This runner has no agent {name!r}.")
        yielded: Any = agent.call(self._run())
        if isinstance(yielded, AsyncIterator):
            if not hasattr(yielded, "aclose"):
                async for item in yielded:
                    await self._take(item)
                return
            async with aclosing(yielded):  # type: ignore[type-var]
                async for item in yielded:
                    await self._take(item)
        elif isinstance(yielded, Iterator):
            await self._drive_in_thread(yielded)
        else:
            if hasattr(yielded, "close"):
                yielded.close()
            raise AgentError(
                "agent_invalid_output",
                f"Agent {name!r} must be a generator; it returned {type(yielded).__name__}.",
            )

    async def _drive_in_thread(self, items: Iterator[Yielded]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            step = loop.run_in_executor(self._threads, next, items, _DONE)
            try:
                # A thread cannot be cancelled: it is left to finish its step.
                item: Any = await asyncio.shield(step)
                if item is _DONE:
                    return
                await self._take(item)
            except BaseException:
                step.add_done_callback(partial(self._close_after, items))
                raise

    def _close_after(self, items: Iterator[Yielded], done: asyncio.Future[Any]) -> None:
        # Retrieve the outcome of a step that nobody awaits any more, and let the generator go,
        # in a thread as it ran: what it does last may block.
        if not done.cancelled():
            done.exception()
        close = getattr(items, "close", None)
        if close is not None:
            with suppress(RuntimeError):
                self._threads.submit(close)

    def _run(self) -> Run:
        messages = [Message(m["role"], m["content"]) for m in self._job.messages]
        asked = next((m.content for m in reversed(messages) if m.role == "user"), "")
        return Run(
            id=self.run_id,
            agent=self._claimed.agent,
            input=asked,
            messages=messages,
            options=self._job.options,
            attempt=self._claimed.attempt,
            conversation=self._job.conversation or None,
        )

    async def _take(self, item: Any) -> None:
        """One thing that the agent yielded."""
        if self._over:
            raise asyncio.CancelledError
        if isinstance(item, str):
            await self._take_text(item)
        elif isinstance(item, Progress):
            await self._writer.event(_progress(item))
        elif isinstance(item, ToolCall):
            call_id, name = _short(item.id), _short(item.name)
            await self._take_tool(events.tool_call(call_id, name, _bounded(item.arguments)))
        elif isinstance(item, ToolResult):
            await self._take_tool(events.tool_result(_short(item.id), _bounded(item.output)))
        elif isinstance(item, Usage):
            self._usage = {
                "input_tokens": _count(item.input_tokens),
                "output_tokens": _count(item.output_tokens),
            }
        elif isinstance(item, Output):
            output = _plain(item.text)
            self._grow(output)
            self._output = output
        else:
            raise AgentError(
                "agent_invalid_output",
                f"Agent {self._claimed.agent!r} yielded {type(item).__name__}, "
                "which is neither text nor an event.",
            )

    async def _take_text(self, piece: str) -> None:
        if not piece:
            return
        piece = _plain(piece)
        self._grow(piece)
        self._text.append(piece)
        await self._writer.text(piece)
        if self.first_text_s is None and self._job.asked_ms:
            self.first_text_s = max(0.0, time.time() - self._job.asked_ms / 1000)

    async def _take_tool(self, event: events.Event) -> None:
        if self._tools_bytes + len(event.data) <= TOOLS_BYTES:
            self._tools_bytes += len(event.data)
            self._tools.append(event.data)
        await self._writer.event(event)

    def _grow(self, piece: str) -> None:
        self._bytes += len(piece.encode())
        if self._bytes > OUTPUT_BYTES:
            self._count("outputs_too_large")
            log.info("run %s: its answer is too large", self.run_id)
            raise AgentError(
                "output_too_large", f"The answer passed {OUTPUT_BYTES // 1024} KiB."
            )

    async def _remember(self) -> None:
        """Keep the answer before the end is announced: who asks then gets a hit."""
        agent = self._agents[self._claimed.agent]
        answer = cache.answer_of(
            agent=agent.name,
            owner=self._claimed.owner,
            text="".join(self._text),
            output=self._output,
            usage=self._usage,
            tools=self._tools,
            duration_ms=self.elapsed_ms,
        )
        attempt = self._claimed.attempt
        await self._keeper.keep(
            self._job, self.run_id, answer, version=agent.version, attempt=attempt
        )


def _plain(text: str) -> str:
    """Lone surrogates, which no UTF-8 can carry, become question marks."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="replace").decode()
    return text


def _short(value: object) -> str:
    return _plain(str(value)[:MESSAGE_CHARS])


def _count(value: int) -> int:
    """Within what every reader's JSON can count."""
    return max(0, min(int(value), 2**53 - 1))


def _progress(item: Progress) -> events.Event:
    share = 100 * item.step / item.total_steps if item.total_steps else 0
    percentage = share if item.percentage is None else item.percentage
    return events.progress(
        _count(item.step),
        _count(item.total_steps),
        _short(item.current_agent),
        _short(item.message),
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

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
from typing import Any, cast

from plateau_sse.agents import AgentError, Message, Run, Yielded
from plateau_sse.agents.registry import RegisteredAgent
from plateau_sse.content import latest_text
from plateau_sse.errors import StoreError
from plateau_sse.runner.fitting import short
from plateau_sse.runner.keeper import Keeper
from plateau_sse.runner.writer import Refused, Writer
from plateau_sse.runner.yields import Call, Draft, Piece, TooLarge, Yields
from plateau_sse.store.answers.answer import answer_of
from plateau_sse.store.conversations.wholes import Status
from plateau_sse.store.queue.job import Job
from plateau_sse.store.runs import events
from plateau_sse.store.runs.streams import Claimed, Streams
from plateau_sse.store.runs.tape import Tape

log = logging.getLogger("plateau.runner")

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
        # As the claim began it.
        self._tape = Tape(claimed.attempt)
        self._tape.add(events.started(run_id, claimed.agent, claimed.attempt))
        self._writer = Writer(streams, run_id, claimed.seq, self._tape)
        self._job = Job.decode(claimed.request)
        self._started = time.monotonic()
        self._yields = Yields(claimed.agent, self._tape.marks_bytes)
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
        """Returns when the run has ended; Refused where it is no longer ours. What is kept of
        it is kept before its end is announced, and after all that was said is on the tape."""
        try:
            last = await self._outcome()
            await self._writer.close()
            output = self._output() if last.arg == "completed" else None
            await self._keep(cast(Status, last.arg), output)
            self.last = await self._writer.finish(last, output=output)
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
            message = short(error.message)
            return events.failed(error.code, message, retryable=error.retryable)
        except (Refused, StoreError):
            raise
        except Exception as error:
            return self._failure(error)
        return events.completed(
            self._yields.usage,
            cached=False,
            duration_ms=self.elapsed_ms,
            finish_reason=self._yields.finish_reason,
            model=self._yields.model,
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
        return Run(
            id=self.run_id,
            agent=self._claimed.agent,
            input=latest_text(self._job.messages),
            messages=[Message.of(message) for message in self._job.messages],
            options=self._job.options,
            attempt=self._claimed.attempt,
            conversation=self._job.conversation or None,
        )

    async def _take(self, item: Any) -> None:
        """One thing that the agent yielded."""
        if self._over:
            raise asyncio.CancelledError
        try:
            match self._yields.take(item):
                case Piece() as piece:
                    await self._writer.say(piece)
                    self._note_text(piece)
                case Draft() as draft:
                    await self._writer.draft(draft)
                case Call() as call:
                    await self._writer.call(call.id, call.event)
                case events.Event() as event:
                    await self._writer.event(event)
        except TooLarge as error:
            self._count("outputs_too_large")
            log.info("run %s: %s", self.run_id, error)
            raise

    def _note_text(self, piece: Piece) -> None:
        if piece.kind == "t" and self.first_text_s is None and self._job.asked_ms:
            self.first_text_s = max(0.0, time.time() - self._job.asked_ms / 1000)

    def _output(self) -> str | None:
        """The answer, where it is not the text."""
        output = self._yields.output
        return None if output == self._tape.said() else output

    async def _keep(self, status: Status, output: str | None) -> None:
        """Before the end is announced: who asks then gets a hit."""
        await self._keeper.remember(
            self._job,
            self.run_id,
            self._tape,
            output=output,
            status=status,
            attempt=self._claimed.attempt,
        )
        if status != "completed" or not self._yields.is_whole:
            return
        agent = self._agents[self._claimed.agent]
        answer = answer_of(
            tape=self._tape,
            run_id=self.run_id,
            agent=agent.name,
            owner=self._claimed.owner,
            output=output,
            usage=self._yields.usage,
            model=self._yields.model,
            duration_ms=self.elapsed_ms,
            finish_reason=self._yields.finish_reason,
        )
        await self._keeper.cache(self._job, self.run_id, answer, version=agent.version)

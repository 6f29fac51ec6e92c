"""One attempt at one run: from the claim to the terminal event.

Invariant: an attempt that this process has claimed ends in exactly one of three ways: its
terminal event is in the stream, the script has refused it, or it is handed back unfinished for
another attempt.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, cast

import msgspec

from plateau_sse.agents import NO_TRACE, AgentError, Memory, Message, Run, Step
from plateau_sse.agents.registry import RegisteredAgent
from plateau_sse.content import latest_text
from plateau_sse.errors import StoreError, StoreFull
from plateau_sse.owners import kept_for
from plateau_sse.runner.beat import Beat
from plateau_sse.runner.driving import Driving
from plateau_sse.runner.fitting import short
from plateau_sse.runner.keeper import Keeper
from plateau_sse.runner.threads import Threads
from plateau_sse.runner.writer import Refused, Writer, without_room
from plateau_sse.runner.yields import Call, Draft, Piece, TooLarge, Yields
from plateau_sse.store.answers.answer import Answer, answer_of
from plateau_sse.store.conversations.wholes import Status
from plateau_sse.store.queue.job import Job
from plateau_sse.store.runs import events
from plateau_sse.store.runs.streams import Claimed, Streams
from plateau_sse.store.runs.tape import Tape
from plateau_sse.tracing import RunTrace, Tracing

log = logging.getLogger("plateau.runner")

# What an agent has for cleaning up where its run is handed back: this process is leaving.
HAND_BACK_S = 1.0


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
        threads: Threads,
        beat: Beat,
        timeout_s: float,
        life_s: float = float("inf"),
        count: Callable[[str], None] = lambda _: None,
        tracing: Tracing | None = None,
    ) -> None:
        self._claimed = claimed
        self._count = count
        self.run_id = run_id
        self._agents = agents
        self._keeper = keeper
        self._threads = threads
        self._beat = beat
        self._timeout_s = timeout_s
        # From the beginning of the first attempt on.
        self._life_s = life_s
        # As the claim began it.
        self._tape = Tape(claimed.attempt)
        self._tape.add(events.started(run_id, claimed.agent, claimed.attempt))
        self._writer = Writer(streams, run_id, claimed.seq, self._tape)
        self._job = Job.decode(claimed.request)
        self._started = time.monotonic()
        self._trace: RunTrace | None = None
        if tracing is not None:
            job = self._job
            self._trace = tracing.run(
                run_id, claimed.agent, claimed.attempt, job.traceparent, job.asked_ms
            )
        self._yields = Yields(claimed.agent, self._tape.marks_bytes)
        # What it remembers, and whether it began with anything.
        self._memory: Memory | None = None
        self._recalled = False
        self._driving: Driving | None = None
        self._cancel_reason = claimed.cancel
        # The event that the run has ended with; and the seconds from its asking to its text.
        self.last: events.Event | None = None
        self.first_text_s: float | None = None

    def end_trace(self) -> None:
        """Also of one that never ran, but waited for its place. Once is enough."""
        trace, self._trace = self._trace, None
        if trace is not None:
            trace.end(self.end, self.usage)

    @property
    def cancelled(self) -> bool:
        """Whether somebody wants it cancelled."""
        return self._cancel_reason is not None

    @property
    def is_decided(self) -> bool:
        """Whether its end is known before it is executed: that needs no place among the
        running."""
        return self.cancelled or self._left_s <= 0

    @property
    def _left_s(self) -> float:
        """Of its life."""
        return self._life_s - self._claimed.age_s - self.elapsed_s

    @property
    def agent(self) -> str:
        return self._claimed.agent

    @property
    def memory_place(self) -> str:
        """That of what its agent remembers, '' where that is nothing: its runs are executed
        one after the other."""
        return self._job.memory

    @property
    def end(self) -> str:
        """`completed`, `cancelled`, or the code that it failed with; '' before."""
        if self.last is None:
            return ""
        if self.last.arg == "failed":
            return str(msgspec.json.decode(self.last.data)["code"])
        return self.last.arg

    @property
    def usage(self) -> Mapping[str, int] | None:
        """What it has used, in tokens, as far as it has said so."""
        return self._yields.usage

    def stop(self, reason: str) -> None:
        """Somebody asked to cancel the run."""
        self._cancel_reason = reason
        if self._driving is not None:
            self._driving.stop()

    async def run(self) -> None:
        """Returns when the run has ended; Refused where it is no longer ours. What is kept of
        it is kept before its end is announced, and after all that was said is on the tape; that
        it was this run's answer, once it is: another end or attempt may still come between."""
        try:
            last = await self._remembered(await self._outcome())
            try:
                await self._writer.close(last)
            except StoreFull:
                last = without_room(last)
            output = self._output() if last.arg == "completed" else None
            kept = await self._keep(cast(Status, last.arg), output)
            self.last = await self._writer.finish(last, output=output)
            await self._keeper.free(self._job, self.run_id)
            await self._settle(stays=self.last is last and last.arg == "completed")
            if kept is not None and self.last is last:
                await self._keeper.point(self._job, self.run_id, *kept)
        finally:
            # It hands what it takes to this, and so each would keep the other: nothing here is
            # left to the collector, which does not see how large a tape is.
            self._driving = None
            await self._writer.abandon()
            self.end_trace()

    async def _outcome(self) -> events.Event:
        """The event that the run ends with."""
        if self.is_decided:
            return self._stopped(at_end_of_life=True)
        agent = self._agents.get(self.agent)
        if agent is None:
            message = f"This runner has no agent {self.agent!r}."
            return events.failed("agent_unknown", message, retryable=False)
        self._memory = await self._keeper.recall(self._job, self.agent, self.run_id)
        self._recalled = self._memory is not None and bool(self._memory.value)
        time_s = min(self._timeout_s, self._left_s)
        with self._beat.marks.of(self.run_id, agent.name) as mark:
            self._driving = Driving(
                agent,
                self._run(),
                self._take,
                threads=self._threads,
                mark=mark,
                name=f"agent {self.run_id}",
            )
            done = await self._driving.is_done(time_s, HAND_BACK_S)
        if not done:
            return self._stopped(at_end_of_life=time_s < self._timeout_s)
        try:
            self._driving.result()
            # It is the agent's still, also where it is too much.
            for piece in self._yields.rest():
                await self._writer.say(piece)
        except asyncio.CancelledError as error:
            return self._failure(error)
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

    async def _remembered(self, last: events.Event) -> events.Event:
        """What its agent is to remember is kept: the event that the run ends with then."""
        if self._memory is None or last.arg != "completed":
            return last
        try:
            keep = self._keeper.keep_memory
            await keep(self._job, self.agent, self.run_id, self._memory)
        except AgentError as error:
            return self._failure(error)
        return last

    async def _settle(self, *, stays: bool) -> None:
        if self._memory is None or not (self._memory.is_new or self._claimed.attempt > 1):
            return
        settle = self._keeper.settle_memory
        await settle(self._job, self.agent, self.run_id, stays=stays)

    def _stopped(self, *, at_end_of_life: bool) -> events.Event:
        if self._cancel_reason is not None:
            return events.cancelled(self._cancel_reason)
        message = f"The attempt took longer than {self._timeout_s:g} s."
        if at_end_of_life:
            message = events.too_long(self._life_s)
        return events.failed("timeout", message, retryable=True)

    def _failure(self, error: BaseException) -> events.Event:
        """What came out of the agent: the answer to `stop`, or an error of its own."""
        if self._cancel_reason is not None:
            return events.cancelled(self._cancel_reason)
        if isinstance(error, AgentError):
            if error.__cause__ is not None:
                # Of which the reader is told no more than what kind it is of.
                log.warning("run %s: %s", self.run_id, error.code, exc_info=error.__cause__)
            message = short(error.message)
            return events.failed(error.code, message, retryable=error.retryable)
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

    def _run(self) -> Run:
        # What a person has answered is no option of an endpoint's.
        options = {**self._job.options}
        resume = options.pop("resume", None)
        return Run(
            id=self.run_id,
            agent=self._claimed.agent,
            input=latest_text(self._job.messages),
            messages=[Message.of(message) for message in self._job.messages],
            options=options,
            attempt=self._claimed.attempt,
            conversation=self._job.conversation or None,
            resume=resume if isinstance(resume, list) else (),
            memory=self._memory,
            trace=self._trace or NO_TRACE,
        )

    async def _take(self, item: Any) -> None:
        """One thing that the agent yielded."""
        try:
            for piece in self._yields.before(item):
                await self._writer.say(piece)
            match self._yields.take(item):
                case Piece() as piece:
                    await self._writer.say(piece)
                    self._note_text(piece)
                case Draft() as draft:
                    await self._writer.draft(draft)
                case Call() as call:
                    await self._writer.call(call.id, call.event)
                case events.Event() as event if isinstance(item, Step):
                    await self._writer.step(event)
                case events.Event() as event:
                    await self._writer.event(event)
        except TooLarge as error:
            self._count("outputs_too_large")
            log.info("run %s: %s", self.run_id, error)
            raise

    def _note_text(self, piece: Piece) -> None:
        if piece.kind == "t" and self.first_text_s is None and self._job.asked_ms:
            if self._trace is not None:
                self._trace.first_text()
            self.first_text_s = max(0.0, time.time() - self._job.asked_ms / 1000)

    def _output(self) -> str | None:
        """The answer, where it is not the text."""
        output = self._yields.output
        return None if output == self._tape.said() else output

    async def _keep(self, status: Status, output: str | None) -> tuple[Answer, str] | None:
        """Before the end is announced: who asks then gets a hit. What is in the cache then, and
        its key."""
        about = {"status": status, "agent": self.agent}
        if status == "completed":
            about["finish_reason"] = self._yields.finish_reason
        await self._keeper.remember(
            self._job,
            self.run_id,
            self._tape,
            output=output,
            attempt=self._claimed.attempt,
            **about,
        )
        if status != "completed" or not self._yields.is_whole:
            return None
        if self._recalled or (self._memory is not None and self._memory.is_new):
            # It follows from more than what was asked.
            return None
        agent = self._agents[self._claimed.agent]
        if agent.hosted is not None and not agent.hosted.cache:
            # Of the version that was asked answers may be kept.
            return None
        answer = answer_of(
            tape=self._tape,
            run_id=self.run_id,
            agent=agent.name,
            owner=kept_for(self._claimed.owner, agent.version),
            output=output,
            usage=self._yields.usage,
            model=self._yields.model,
            duration_ms=self.elapsed_ms,
            finish_reason=self._yields.finish_reason,
        )
        put = self._keeper.cache
        key = await put(self._job, self.run_id, answer, version=agent.version)
        return (answer, key) if key else None

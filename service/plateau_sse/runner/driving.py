"""An agent's own code: called, taken from, and stopped.

Invariant: an agent that is to stop is told so once, and has a grace in which to clean up; only
then it is told again, and not for ever. What it yields meanwhile is refused.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

from plateau_sse.agents import AgentError, Run, Yielded
from plateau_sse.agents.registry import RegisteredAgent
from plateau_sse.runner.marks import MARK, Mark, contained
from plateau_sse.runner.threads import DONE, Threads
from plateau_sse.tasks import TURN_S

log = logging.getLogger("plateau.runner")

# For what an agent does last: it may have something to undo.
STOP_GRACE_S = 5.0
# Then it, or a library of its, has swallowed that; it is left behind after two seconds more.
STOP_TRIES, STOP_AGAIN_S = 10, 0.2
# For closing where nothing more is taken, and what somebody pays for may still be coming in.
CLOSE_S = 1.0


class Driving:
    """One agent at work on `run`, in a task of its own; `take` gets what it yields."""

    def __init__(
        self,
        agent: RegisteredAgent,
        run: Run,
        take: Callable[[Any], Awaitable[None]],
        *,
        threads: Threads,
        mark: Mark,
        name: str,
    ) -> None:
        self._agent = agent
        self._run = run
        self._take_item = take
        self._threads = threads
        self._mark = mark
        self._over = False
        self._wish = asyncio.Event()
        context = contextvars.copy_context()
        context.run(MARK.set, mark)
        self._task = asyncio.create_task(self._drive(), name=name, context=context)

    def stop(self) -> None:
        """Somebody wants it to end; harmless where that was said before."""
        self._wish.set()

    async def is_done(self, timeout_s: float, hand_back_s: float) -> bool:
        """Whether it has ended by itself: not once it was stopped, or its time was up. Who is
        cancelled meanwhile stops it within `hand_back_s`, and a little more."""
        wishing = asyncio.create_task(self._wish.wait())
        first = asyncio.FIRST_COMPLETED
        try:
            await asyncio.wait({self._task, wishing}, timeout=timeout_s, return_when=first)
        except asyncio.CancelledError:
            await self._stop(hand_back_s)
            raise
        finally:
            wishing.cancel()
        if not self._task.done():
            await self._stop(STOP_GRACE_S)
            return False
        return True

    def result(self) -> None:
        """Raises what it has raised, once: that remembers where it was raised, which is here,
        and is not to be kept here, too."""
        try:
            self._task.result()
        finally:
            del self._task

    async def _stop(self, grace_s: float) -> None:
        self._over = True
        for wait_s in (grace_s, *[STOP_AGAIN_S] * STOP_TRIES):
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=wait_s)
            if self._task.done():
                # Retrieved: what a stopped agent raises is nobody's business.
                if not self._task.cancelled():
                    self._task.exception()
                del self._task
                return
        log.error("run %s: agent %s does not stop", self._run.id, self._agent.name)

    async def _drive(self) -> None:
        try:
            await self._drive_agent()
        except (Exception, asyncio.CancelledError):
            raise
        except BaseException as error:
            # Out of a task SystemExit ends the process, and every other run with it; a panic of
            # Rust's is nobody's, and the run would be taken for one whose runner died.
            raise contained(error) from error

    async def _drive_agent(self) -> None:
        yielded: Any = self._agent.begin(self._run)
        if isinstance(yielded, AsyncIterator):
            turn_at = time.monotonic()
            try:
                async for item in yielded:
                    await self._take(item)
                    if time.monotonic() - turn_at > TURN_S:
                        # Whose model sends a whole answer at once has nothing to wait for.
                        await asyncio.sleep(0)
                        turn_at = time.monotonic()
            except BaseException as error:
                await _close(yielded, error)
                raise
        elif isinstance(yielded, Iterator):
            await self._drive_in_thread(yielded)
        else:
            if hasattr(yielded, "close"):
                yielded.close()
            raise AgentError(
                "agent_invalid_output",
                f"Agent {self._agent.name!r} must be a generator; "
                f"it returned {type(yielded).__name__}.",
            )

    async def _take(self, item: Any) -> None:
        if self._over:
            raise asyncio.CancelledError
        await self._take_item(item)

    async def _drive_in_thread(self, items: Iterator[Yielded]) -> None:
        steps = self._threads.begin(items, self._mark)
        try:
            while (item := await steps.next()) is not DONE:
                await self._take(item)
        finally:
            # A thread cannot be cancelled: it is left to finish its step.
            self._threads.leave(steps)


async def _close(agent: Any, error: BaseException) -> None:
    """Close what has yielded something that was not taken. Who was told to stop has the grace
    of that; else what it does last may go on with all that it asked a model for."""
    if not hasattr(agent, "aclose"):
        return
    if isinstance(error, asyncio.CancelledError):
        await agent.aclose()
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_S):
            await agent.aclose()


def bound_closing(loop: asyncio.AbstractEventLoop) -> None:
    """From now on a generator that is dropped unfinished (as those within an agent are when it
    is closed) has `CLOSE_S` to close, then it is cancelled; by default it may take for ever."""

    def dropped(generator: AsyncGenerator[Any, Any]) -> None:
        # Where it is collected, which may be anywhere: in another run's context, with its mark.
        if not loop.is_closed():
            context = contextvars.Context()
            loop.call_soon_threadsafe(close, generator, context=context)

    def close(generator: AsyncGenerator[Any, Any]) -> None:
        closing = loop.create_task(_closed(generator))
        timer = loop.call_later(CLOSE_S, closing.cancel)
        closing.add_done_callback(lambda _: timer.cancel())

    sys.set_asyncgen_hooks(finalizer=dropped)


async def _closed(generator: AsyncGenerator[Any, Any]) -> None:
    try:
        await generator.aclose()
    except Exception as error:
        log.info("a generator that was dropped: %r", error)

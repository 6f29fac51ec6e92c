"""What an attempt leaves behind in its runner: nothing, however it ends.

A cycle would be collected one day. Until then it holds a tape of up to 256 KiB, and the
collector counts objects, not bytes: 34 such tapes waited for it under faults.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from plateau_sse.agents import AgentError, Run, Yielded
from plateau_sse.runner.execution import Execution
from plateau_sse.runner.writer import Refused
from plateau_sse.store.runs.streams import Streams
from tests.executions import execution_of
from tests.store import claim, on_streams, text_of, until

SAID = "a" * 1000


async def asynchronous(run: Run) -> AsyncIterator[Yielded]:
    yield SAID


def plain(run: Run) -> Iterator[Yielded]:
    yield SAID


async def breaks(run: Run) -> AsyncIterator[Yielded]:
    yield SAID
    raise ValueError("no more")


def breaks_in_a_thread(run: Run) -> Iterator[Yielded]:
    yield SAID
    raise ValueError("no more")


async def fails(run: Run) -> AsyncIterator[Yielded]:
    yield SAID
    raise AgentError("not_today", "Come back tomorrow.")


async def says_what_is_no_event(run: Run) -> AsyncIterator[Any]:
    yield SAID
    yield 7


async def says_too_much(run: Run) -> AsyncIterator[Yielded]:
    for _ in range(300):
        yield SAID


async def waits(run: Run) -> AsyncIterator[Yielded]:
    yield SAID
    await asyncio.get_running_loop().create_future()


def waits_in_a_thread(run: Run) -> Iterator[Yielded]:
    while True:
        yield SAID[:1]


async def goes_on(run: Run) -> AsyncIterator[Yielded]:
    while True:
        yield SAID[:1]
        await asyncio.sleep(0.001)


async def to_its_end(execution: Execution, streams: Streams, redis: Any) -> None:
    await execution.run()


async def stopped(execution: Execution, streams: Streams, redis: Any) -> None:
    running = asyncio.create_task(execution.run())
    await begun(execution, redis)
    execution.stop("asked")
    await running


async def handed_back(execution: Execution, streams: Streams, redis: Any) -> None:
    running = asyncio.create_task(execution.run())
    await begun(execution, redis)
    running.cancel()
    await asyncio.wait({running})
    assert running.cancelled()


async def fenced(execution: Execution, streams: Streams, redis: Any) -> None:
    running = asyncio.create_task(execution.run())
    await begun(execution, redis)
    await claim(streams, execution.run_id, 2, "r2")
    await asyncio.wait({running})
    assert isinstance(running.exception(), Refused)


async def begun(execution: Execution, redis: Any) -> None:
    async def said() -> bool:
        return bool(await text_of(redis, execution.run_id))

    await until(said, "the agent has said something")


@pytest.mark.parametrize(
    ("agent", "end", "how"),
    [
        (asynchronous, to_its_end, {}),
        (plain, to_its_end, {}),
        (None, to_its_end, {}),
        (breaks, to_its_end, {}),
        (breaks_in_a_thread, to_its_end, {}),
        (fails, to_its_end, {}),
        (says_what_is_no_event, to_its_end, {}),
        (says_too_much, to_its_end, {}),
        (waits, to_its_end, {"timeout_s": 0.1}),
        (waits_in_a_thread, to_its_end, {"timeout_s": 0.1}),
        (waits, stopped, {}),
        (waits_in_a_thread, stopped, {}),
        (waits, handed_back, {}),
        (waits_in_a_thread, handed_back, {}),
        (goes_on, fenced, {}),
    ],
)
def test_an_attempt_leaves_no_tape_to_the_collector(
    streams_url: str,
    agent: Callable[..., Any] | None,
    end: Callable[..., Any],
    how: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What is logged here is kept for the test's own report, with all that its trace knows.
    monkeypatch.setattr(logging.getLogger("plateau.runner"), "disabled", True)

    async def scenario(streams: Streams, redis: Any) -> None:
        gc.collect()
        gc.disable()
        try:
            async with execution_of(streams, agent, **how) as execution:
                tape = weakref.ref(execution._tape)
                await end(execution, streams, redis)
                del execution

            # A thread may have its last step still to end.
            async def freed() -> bool:
                return tape() is None

            await until(freed, "the tape is gone", timeout_s=5)
        finally:
            gc.enable()

    on_streams(streams_url, scenario)

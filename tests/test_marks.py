"""In whose code a runner is: also in what its agent has begun, in tasks and in threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextvars import ContextVar
from functools import partial
from threading import get_native_id
from typing import Any

import anyio
import uvloop

from plateau_sse.agents import Run
from plateau_sse.agents.registry import RegisteredAgent
from plateau_sse.runner.driving import Driving, bound_closing
from plateau_sse.runner.marks import Inside, Marks, make_task
from plateau_sse.runner.threads import Threads
from plateau_sse.runner.tools import Tools
from tests.processes import wait_until
from tests.store import until

R1 = Inside("r1", "notes")


def here(marks: Marks) -> Inside | None:
    """In whose code the calling thread is said to be."""
    return marks.threads().get(get_native_id())


async def drive(marks: Marks, agent: Callable[..., Any], run_id: str = "r1") -> None:
    """The agent, executed as a runner's loop does it; what it yields is nothing."""

    async def take(_: Any) -> None:
        await asyncio.sleep(0)

    registered = RegisteredAgent("notes", "1", agent, False)
    with marks.of(run_id, "notes") as mark:
        run = Run(run_id, "notes", "", [])
        driving = Driving(registered, run, take, threads=Threads(), mark=mark, name="agent")
        assert await driving.is_done(10, 1)
        driving.result()


def on_loop(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(make_task)
        loop.set_default_executor(Tools(2))
        async with asyncio.timeout(20):
            await scenario()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())


def test_whatever_an_agent_begins_is_marked_as_its_runs() -> None:
    marks = Marks(2)
    seen: list[Inside | None] = []

    def look() -> None:
        seen.append(here(marks))

    async def step() -> None:
        look()
        await asyncio.sleep(0)
        look()

    async def agent(run: Run) -> AsyncIterator[str]:
        look()
        yield "a"
        await asyncio.create_task(step())
        await asyncio.gather(step(), step())
        async with asyncio.TaskGroup() as group:
            group.create_task(step())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(step)
        await asyncio.to_thread(look)
        await asyncio.get_running_loop().run_in_executor(None, look)
        look()

    def generator(run: Run) -> Iterator[str]:
        try:
            look()
            yield "a"
        finally:
            look()

    async def scenario() -> None:
        await drive(marks, agent)
        assert seen == [R1] * 14
        seen.clear()
        await drive(marks, generator)
        assert seen == [R1] * 2
        # The loop goes on with what is nobody's.
        look()
        await asyncio.to_thread(look)
        await asyncio.create_task(step())
        assert seen[2:] == [None] * 4

    on_loop(scenario)


def test_two_runs_are_told_apart_in_one_loop() -> None:
    marks = Marks(2)
    seen: set[tuple[str, Inside | None]] = set()

    async def agent(run: Run) -> AsyncIterator[str]:
        async def step() -> None:
            for _ in range(5):
                seen.add((run.id, here(marks)))
                await asyncio.sleep(0)

        await asyncio.gather(step(), step())
        yield "a"

    async def scenario() -> None:
        await asyncio.gather(drive(marks, agent, "r1"), drive(marks, agent, "r2"))

    on_loop(scenario)
    assert seen == {("r1", R1), ("r2", Inside("r2", "notes"))}


def test_a_step_of_the_loop_leaves_a_tools_mark_alone() -> None:
    marks = Marks(1)
    told: list[int] = []
    done = threading.Event()

    def tool() -> None:
        told.append(get_native_id())
        done.wait(10)

    async def is_there() -> bool:
        return bool(told)

    async def agent(run: Run) -> AsyncIterator[str]:
        waiting = asyncio.create_task(asyncio.to_thread(tool))
        await until(is_there, "the tool is there")
        yield "a"
        assert marks.threads() == {told[0]: R1, get_native_id(): R1}
        done.set()
        await waiting

    on_loop(lambda: drive(marks, agent))
    assert marks.threads() == {}


def test_what_goes_on_when_its_run_has_ended_is_nobodys() -> None:
    marks = Marks(1)
    done = threading.Event()

    def tool() -> None:
        done.wait(10)

    async def is_there() -> bool:
        return len(marks.threads()) == 2

    async def leaves(run: Run) -> AsyncIterator[str]:
        left.append(asyncio.create_task(asyncio.to_thread(tool)))
        await until(is_there, "the tool is there")
        yield "a"

    async def looks(run: Run) -> AsyncIterator[str]:
        # It has the place of the one before.
        seen.append(marks.threads())
        yield "a"

    async def scenario() -> None:
        await drive(marks, leaves)
        await drive(marks, looks, "r2")
        assert seen == [{get_native_id(): Inside("r2", "notes")}]
        done.set()
        await left[0]

    left: list[asyncio.Task[None]] = []
    seen: list[dict[int, Inside]] = []
    on_loop(scenario)


def test_threads_that_end_give_back_their_cells() -> None:
    marks = Marks(1)
    seen: list[Inside | None] = []

    def generator(run: Run) -> Iterator[str]:
        seen.append(here(marks))
        yield "a"

    def has_at_most(threads: int) -> bool:
        return threading.active_count() <= threads

    async def scenario() -> None:
        for _ in range(20):
            before = threading.active_count()
            await drive(marks, generator)
            wait_until(partial(has_at_most, before), "it has ended")

    on_loop(scenario)
    assert seen == [R1] * 20


def test_a_group_of_tasks_is_cancelled_as_ever() -> None:
    """anyio looks at the coroutine of each: whether it has begun."""
    marks = Marks(1)
    ended: list[str] = []

    async def endless() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            ended.append("endless")

    async def agent(run: Run) -> AsyncIterator[str]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(endless)
            yield "a"
            tasks.cancel_scope.cancel()

    on_loop(lambda: drive(marks, agent))
    assert ended == ["endless"]


def test_what_closes_a_dropped_generator_is_no_other_runs() -> None:
    """It is collected anywhere, in whatever context is there just then."""
    marks = Marks(1)
    dropped: list[Any] = []
    seen: list[tuple[Inside | None, str]] = []
    tenant: ContextVar[str] = ContextVar("tenant", default="nobody's")

    async def another() -> AsyncIterator[str]:
        try:
            yield "a"
        finally:
            seen.append((here(marks), tenant.get()))

    async def agent(run: Run) -> AsyncIterator[str]:
        tenant.set("ann")
        dropped.clear()
        yield "a"

    async def closed() -> bool:
        return bool(seen)

    async def scenario() -> None:
        bound_closing(asyncio.get_running_loop())
        generator = another()
        await anext(generator)
        dropped.append(generator)
        del generator
        await drive(marks, agent)
        await until(closed, "it is closed")

    on_loop(scenario)
    assert seen == [(None, "nobody's")]

"""Opening hosted agents: with the runner, and closed with it.

Invariant: what a factory gave is entered once and left once, however the runner ends; whatever
it raises is told as what is wrong with that agent.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack
from typing import Any

from plateau_sse.agents import Run, Yielded
from plateau_sse.agents.hosting import OWN, Hosted, framework_of, is_factory, unfinished
from plateau_sse.agents.hosting.current import CURRENT
from plateau_sse.errors import SettingsError

Call = Callable[[Run], AsyncGenerator[Yielded, None]]


async def opened(hosted: Hosted, name: str, stack: AsyncExitStack) -> tuple[Any, str]:
    """What is called with a run, and whose agent that is; `stack` closes what has been opened
    for it. Raises SettingsError."""
    try:
        agent = await _made(hosted.target, stack)
        framework = framework_of(agent)
        if not framework:
            return _own(agent), OWN
        adapter = importlib.import_module(f"plateau_sse.agents.hosting.{framework}")
        if hasattr(adapter, "check"):
            adapter.check(agent, hosted)
    except SettingsError as error:
        raise SettingsError(f"Agent {name}: {error}") from None
    except (Exception, SystemExit) as error:
        raise SettingsError(
            f"Agent {name} cannot be opened: {type(error).__name__}: {error}"
        ) from error

    def call(run: Run) -> AsyncGenerator[Yielded, None]:
        # In the context of the run's own task, which calls it.
        CURRENT.set(run)
        given: AsyncGenerator[Yielded, None] = adapter.run(agent, run, hosted)
        return given

    return call, framework


async def _made(target: Any, stack: AsyncExitStack) -> Any:
    """The agent itself, of a factory what it makes."""
    if framework_of(target) or not is_factory(target):
        return target
    made = target()
    if inspect.isawaitable(made):
        made = await made
    if framework_of(made):
        # Some agents are context managers, too, which is theirs to use.
        return made
    if isinstance(made, AbstractAsyncContextManager):
        return await stack.enter_async_context(made)
    if isinstance(made, AbstractContextManager):
        return stack.enter_context(made)
    return made


def _own(agent: Any) -> Any:
    """A generator in Plateau's own form."""
    if said := unfinished(agent):
        raise SettingsError(f"it is {said}.")
    if inspect.isgeneratorfunction(agent) or inspect.isasyncgenfunction(agent):
        return agent
    if callable(agent) and not is_factory(agent):
        return agent
    raise SettingsError(
        f"it is, or makes, a {type(agent).__name__}, which is no agent of LangGraph, "
        "pydantic-ai or OpenAI's Agents SDK, nor a function that takes a run and yields."
    )

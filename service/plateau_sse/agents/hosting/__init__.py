"""Agents of frameworks, hosted as they are: what is known of them before they are run.

Invariant: an object is known by the names of the classes in its type's line of ancestors, so
that no framework is imported to ask; whoever made the object has imported it. Each has an
adapter, a module beside this one with `run(agent, run, settings)`: an asynchronous generator of
what agents yield. It is imported when the first of its agents is opened.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plateau_sse.errors import SettingsError
from plateau_sse.owners import CacheScope

if TYPE_CHECKING:
    from plateau_sse.agents import Run

# LangGraph's own limit is 10,007.
MAX_STEPS = 50

# What `plateau agents` calls a generator, and a factory that has not been called.
OWN, FACTORY = "generator", "factory"

# The adapter of each, by the package and the name of a class among its ancestors.
FRAMEWORKS = {
    ("langgraph", "Pregel"): "langgraph",
    ("pydantic_ai", "AbstractAgent"): "pydantic_ai",
    ("agents", "AgentBase"): "openai_agents",
}
# Packages that an adapter's agents need, whatever else their modules import.
DISTRIBUTIONS = {
    "langgraph": "langgraph",
    "pydantic_ai": "pydantic-ai-slim",
    "openai_agents": "openai-agents",
}
# What is nearly an agent, and what makes it one.
UNFINISHED = {("langgraph", "StateGraph"): "a graph that is not compiled: add .compile()"}


@dataclass(frozen=True, slots=True)
class Hosted:
    """A framework's agent, a factory of one, or a generator as Plateau has them, with what is
    said of it. As shipped its answers are not cached, nobody joins its runs, and a run whose
    runner died is not begun again: a framework's agent may have acted."""

    target: Any
    cache: bool = False
    cache_scope: CacheScope = "user"
    max_steps: int = MAX_STEPS
    attempts: int = 1
    timeout_s: float | None = None
    deps: Callable[[Run], Any] | Any = None
    input: Callable[[Run], Any] | None = None
    version: str | None = None

    @property
    def kind(self) -> str:
        """Whose agent it is, as far as that is known before it is opened."""
        return framework_of(self.target) or (FACTORY if is_factory(self.target) else OWN)

    async def deps_of(self, run: Run) -> Any:
        """What the agent is given beside its input, for this run."""
        return await _awaited(self.deps(run) if callable(self.deps) else self.deps)

    async def input_of(self, run: Run) -> Any:
        """What it is given instead of the messages, where `input` says that."""
        return await _awaited(None if self.input is None else self.input(run))


def hosted(
    target: Any,
    *,
    cache: bool = False,
    cache_scope: CacheScope = "user",
    max_steps: int = MAX_STEPS,
    attempts: int = 1,
    timeout_s: float | None = None,
    deps: Callable[[Run], Any] | Any = None,
    input: Callable[[Run], Any] | None = None,
    version: str | None = None,
) -> Hosted:
    """An agent of a framework with what AGENTS cannot say of it. `target` is the agent, or a
    function without parameters that makes it: plain, asynchronous, or a context manager of
    either kind, which is opened with the runner and closed with it.

    `cache`: answers are cached, and equal questions join one run; for each user alone, or with
    `cache_scope="owner"` for all users of an owner. `max_steps`: rounds of the agent, then
    `too_many_steps`. `attempts`: tries of a run whose runner dies. `timeout_s`: of one, at most
    RUN_TIMEOUT_S. `deps`: what the framework calls dependencies or context, or a function of
    the run that gives it. `input`: a function of the run that gives the agent's input instead
    of the messages. Either function may be asynchronous. `version`: instead of a digest of the
    project. Raises SettingsError."""
    if cache_scope not in ("user", "owner"):
        raise SettingsError(f"cache_scope must be 'user' or 'owner', not {cache_scope!r}.")
    for name, least, value in (("max_steps", 1, max_steps), ("attempts", 1, attempts)):
        if not isinstance(value, int) or value < least:
            raise SettingsError(f"{name} must be a whole number from {least}, not {value!r}.")
    if timeout_s is not None and not timeout_s > 0:
        raise SettingsError(f"timeout_s must be more than 0, not {timeout_s!r}.")
    if input is not None and not callable(input):
        raise SettingsError("input must be a function that takes a run.")
    return Hosted(
        target,
        cache,
        cache_scope,
        max_steps,
        attempts,
        timeout_s,
        deps,
        input,
        None if version is None else str(version),
    )


async def _awaited(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def framework_of(found: Any) -> str:
    """The adapter of an agent, '' for what is none of a framework's."""
    return _among(found, FRAMEWORKS)


def as_hosted(found: Any) -> Hosted | None:
    """What AGENTS names, where it is to be hosted; None for what is called as it is. Raises
    SettingsError."""
    target = found.target if isinstance(found, Hosted) else found
    if said := unfinished(target):
        raise SettingsError(f"it is {said}.")
    if isinstance(found, Hosted):
        return found
    return Hosted(found) if framework_of(found) or is_factory(found) else None


def unfinished(found: Any) -> str:
    """What it is, and what makes an agent of it; '' for everything else."""
    return _among(found, UNFINISHED)


def _among(found: Any, known: Mapping[tuple[str, str], str]) -> str:
    for ancestor in type(found).__mro__:
        package = ancestor.__module__.partition(".")[0]
        if said := known.get((package, ancestor.__qualname__)):
            return said
    return ""


def is_factory(found: Any) -> bool:
    """Whether it can be called as it is, to make an agent: one that is an agent itself takes a
    run."""
    if not callable(found) or inspect.isgeneratorfunction(found):
        return False
    if inspect.isasyncgenfunction(found):
        return False
    try:
        parameters = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):
        return False
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return all(
        it.default is not inspect.Parameter.empty or it.kind in optional for it in parameters
    )

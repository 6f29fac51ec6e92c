"""Which agents there are: the shipped ones and those that AGENTS names.

Invariant: an agent's version changes whenever its answers may change (its source, and for
`openai` the endpoint and the model), since cache keys are made of name and version.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import logging
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from plateau_sse.agents import (
    Agent,
    AgentError,
    Run,
    Yielded,
    chunks,
    complaints,
    completion,
    definitions,
    framing,
    heard,
    openai,
    questions,
    ranking,
    redacting,
    sentences,
    stopwords,
    study,
    terms,
    toolcalls,
)
from plateau_sse.agents.hosting import OWN, Hosted, as_hosted, project
from plateau_sse.agents.hosting.opening import opened
from plateau_sse.content import too_long
from plateau_sse.errors import SettingsError
from plateau_sse.importpath import put_current_directory_last
from plateau_sse.owners import FOR_ALL_USERS
from plateau_sse.settings import Settings

log = logging.getLogger("plateau.runner")

# Frameworks are imported within half of it.
NOTICED_S = 20.0
STUDY_SOURCES = (study, sentences, stopwords, ranking, terms, definitions, questions)
OPENAI_SOURCES = (
    openai,
    framing,
    completion,
    chunks,
    heard,
    toolcalls,
    complaints,
    redacting,
)


@dataclass(frozen=True, slots=True)
class RegisteredAgent:
    """`is_sync`: its call is known to give a plain generator, which belongs in a thread. Of a
    callable that is no generator function that is not known before it has been called. `note`
    is what its author should know, '' for nothing; `hosted` what is said of one that is to be
    opened before it is called; `kind` whose it is, and `origin` where it comes from. An input
    has at most `input_bytes`, None for what a request may have."""

    name: str
    version: str
    call: Agent
    is_sync: bool
    note: str = ""
    hosted: Hosted | None = None
    kind: str = OWN
    origin: str = ""
    input_bytes: int | None = None

    def begin(self, run: Run) -> Any:
        """What its call gives. Raises AgentError where the input is too long for it."""
        if self.input_bytes is not None:
            said = too_long(self.name, run.input, self.input_bytes)
            if said:
                raise AgentError("invalid_options", said)
        return self.call(run)


def load_agents(settings: Settings) -> dict[str, RegisteredAgent]:
    """The shipped agents and those of `settings`, which win; raises SettingsError."""
    shipped = (
        RegisteredAgent(
            "study",
            _digest(*map(_source, STUDY_SOURCES)) + FOR_ALL_USERS,
            study.study,
            False,
            input_bytes=study.INPUT_BYTES,
        ),
        RegisteredAgent(
            "openai", _openai_version(settings), openai.make_openai(settings), False
        ),
    )
    agents = {agent.name: agent for agent in shipped}
    for name, target in settings.agents:
        if target:
            agents[name] = load_agent(target, name, settings.agent_version)
        elif agents.pop(name, None) is None:
            raise SettingsError(f"AGENTS has -{name}, and there is no agent {name!r}.")
    return agents


async def open_agents(
    agents: Mapping[str, RegisteredAgent], stack: AsyncExitStack
) -> dict[str, RegisteredAgent]:
    """With what hosted ones need opened; `stack` closes it. Raises SettingsError."""
    found = dict(agents)
    for name, agent in agents.items():
        if agent.hosted is not None:
            with _noticed(f"Agent {name}: opening it"):
                call, kind = await opened(agent.hosted, name, stack)
            is_sync = inspect.isgeneratorfunction(call)
            found[name] = replace(agent, call=call, kind=kind, is_sync=is_sync)
    return found


def load_agent(target: str, name: str = "", release: str = "") -> RegisteredAgent:
    """The agent at `module:object`, by default under the object's own name; the current
    directory is importable. `release` is a part of the version of one that is hosted. Raises
    SettingsError, which says what to do."""
    module_name, colon, attribute = target.partition(":")
    if not (module_name and colon and attribute):
        raise SettingsError(f"An agent is given as module:callable, not {target!r}.")
    before = set(sys.modules)
    found: Any = _import(module_name, target)
    note = _shadowed(module_name)
    for part in attribute.split("."):
        if not hasattr(found, part):
            asked = f"Is it spelt like that in {_origin(sys.modules[module_name])}?"
            raise SettingsError(
                f"Agent {target}: {module_name} has no {attribute!r}. {note or asked}"
            )
        found = getattr(found, part)
    if note:
        log.warning("agent %s: %s", target, note)
    try:
        hosted = as_hosted(found)
    except SettingsError as error:
        raise SettingsError(f"Agent {target}: {error}") from None
    if hosted is not None:
        version = hosted.version
        if version is None:
            brought = sys.modules.keys() - before
            version = project.version_of(module_name, brought, hosted.kind, release)
        version += _ending_of(hosted.cache_scope)
        agent = RegisteredAgent(name or attribute, version, _unopened, False, note)
        most = _input_bytes_of(hosted.target, target)
        return replace(agent, hosted=hosted, kind=hosted.kind, origin=target, input_bytes=most)
    _check_callable(found, target)
    version = getattr(found, "version", None)
    version = _digest(_source_of(found)) if version is None else str(version)
    return RegisteredAgent(
        name or attribute,
        version + _scope_of(found, target),
        found,
        inspect.isgeneratorfunction(found)
        or inspect.isgeneratorfunction(getattr(found, "__call__", None)),  # noqa: B004
        note,
        origin=target,
        input_bytes=_input_bytes_of(found, target),
    )


def _unopened(run: Run) -> AsyncIterator[Yielded]:
    raise RuntimeError(f"the agent {run.agent!r} has not been opened")


def _import(module_name: str, target: str) -> ModuleType:
    put_current_directory_last()
    importlib.invalidate_caches()
    try:
        with _noticed(f"Agent {target}: importing {module_name}"):
            return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name + ".").startswith(error.name + "."):
            where = f"neither in {Path.cwd()} nor among the installed packages."
            note = _shadowed(module_name)
            raise SettingsError(
                f"Agent {target}: there is no module {error.name!r}"
                + (f". {note}" if note else f", {where}")
            ) from None
        raise SettingsError(
            f"Agent {target}: {module_name} needs {error.name!r}, which is not installed."
        ) from error
    except SystemExit as error:
        # A script that leaves as it is imported would take whoever imports it along, with an
        # exit code of its own and without a word: a runner again and again.
        raise SettingsError(
            f"Agent {target}: importing {module_name} ends the process (SystemExit: {error})."
        ) from error
    except Exception as error:
        raise SettingsError(
            f"Agent {target}: importing {module_name} failed: {type(error).__name__}: {error}"
        ) from error


@contextmanager
def _noticed(what: str) -> Iterator[None]:
    """Says so where it takes long: until it is through a runner takes no runs, and who waits
    for one that hangs could not know for whom."""
    words = "%s has taken %g s so far; a runner takes no runs before."
    timer = threading.Timer(NOTICED_S, log.warning, (words, what, NOTICED_S))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _shadowed(module_name: str) -> str:
    """A sentence where the current directory has this module, and another one was imported."""
    top, *_ = names = module_name.split(".")
    path = Path.cwd().joinpath(*names)
    files = (path.with_name(f"{path.name}.py"), path / "__init__.py")
    ours = next((file for file in files if file.is_file()), None)
    imported = sys.modules.get(top)
    if ours is None or imported is None:
        return ""
    origin = _origin(imported)
    found, here = Path(origin).resolve(), Path.cwd().resolve()
    # A virtual environment may lie below the current directory, too.
    if found == here / f"{top}.py" or found.is_relative_to(here / top):
        return ""
    return (
        f"{ours} is not what was imported: installed packages come first, and {origin} has the "
        f"name {top!r}. Give yours another one."
    )


def _origin(module: ModuleType) -> str:
    """The file or folder that it came from, or what stands for one."""
    folders = list(getattr(module, "__path__", ()))
    return str(getattr(module, "__file__", None) or next(iter(folders), "Python itself"))


def _check_callable(found: Any, target: str) -> None:
    if not callable(found):
        raise SettingsError(
            f"Agent {target} is a {type(found).__name__}, not a function: name a function that "
            "takes a run and yields."
        )
    if inspect.iscoroutinefunction(found):
        raise SettingsError(
            f"Agent {target} returns once instead of yielding: give each piece of the answer "
            "with `yield`, not the whole with `return`."
        )


def _scope_of(found: Any, target: str) -> str:
    """For whom an answer is kept: the user who asked, or all of the owner's."""
    scope = getattr(found, "cache_scope", "user")
    if scope not in ("user", "owner"):
        raise SettingsError(
            f"Agent {target}: its `cache_scope` is 'user' or 'owner', not {scope!r}."
        )
    return _ending_of(scope)


def _input_bytes_of(found: Any, target: str) -> int | None:
    most = getattr(found, "input_bytes", None)
    if most is not None and (type(most) is not int or most < 1):
        raise SettingsError(
            f"Agent {target}: its `input_bytes` is a number of bytes, not {most!r}."
        )
    return most


def _ending_of(scope: str) -> str:
    """Of the version of an agent whose answers are kept for these."""
    return FOR_ALL_USERS if scope == "owner" else ""


def _source_of(found: Any) -> bytes:
    while isinstance(found, functools.partial):
        found = found.func
    module = sys.modules.get(getattr(inspect.unwrap(found), "__module__", ""))
    return _source(module) if module else b""


def _source(module: ModuleType) -> bytes:
    path = getattr(module, "__file__", None)
    try:
        return Path(path).read_bytes() if path else b""
    except OSError:
        return b""


def _openai_version(settings: Settings) -> str:
    models = (settings.openai_model, *settings.openai_fallback_models)
    where = [text.encode() for text in (settings.openai_base_url, *models)]
    return _digest(*map(_source, OPENAI_SOURCES), *where) + FOR_ALL_USERS


def _digest(*parts: bytes) -> str:
    digest = hashlib.blake2b(digest_size=6)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()

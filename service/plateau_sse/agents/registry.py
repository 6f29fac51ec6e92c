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
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from plateau_sse.agents import (
    Agent,
    complaints,
    completion,
    definitions,
    heard,
    openai,
    questions,
    ranking,
    sentences,
    stopwords,
    study,
    terms,
    toolcalls,
)
from plateau_sse.errors import SettingsError
from plateau_sse.importpath import put_current_directory_last
from plateau_sse.settings import Settings

log = logging.getLogger("plateau.runner")

STUDY_SOURCES = (study, sentences, stopwords, ranking, terms, definitions, questions)
OPENAI_SOURCES = (openai, completion, heard, toolcalls, complaints)


@dataclass(frozen=True, slots=True)
class RegisteredAgent:
    """`is_sync`: its call is known to give a plain generator, which belongs in a thread. Of a
    callable that is no generator function that is not known before it has been called. `note`
    is what its author should know, '' for nothing."""

    name: str
    version: str
    call: Agent
    is_sync: bool
    note: str = ""


def load_agents(settings: Settings) -> dict[str, RegisteredAgent]:
    """The shipped agents and those of `settings`, which win; raises SettingsError."""
    shipped = (
        RegisteredAgent("study", _digest(*map(_source, STUDY_SOURCES)), study.study, False),
        RegisteredAgent(
            "openai", _openai_version(settings), openai.make_openai(settings), False
        ),
    )
    agents = {agent.name: agent for agent in shipped}
    for name, target in settings.agents:
        agents[name] = load_agent(target, name)
    return agents


def load_agent(target: str, name: str = "") -> RegisteredAgent:
    """The agent at `module:callable`, by default under the callable's own name; the current
    directory is importable. Raises SettingsError, which says what to do."""
    module_name, colon, attribute = target.partition(":")
    if not (module_name and colon and attribute):
        raise SettingsError(f"An agent is given as module:callable, not {target!r}.")
    found: Any = _import(module_name, target)
    note = _shadowed(module_name)
    for part in attribute.split("."):
        if not hasattr(found, part):
            asked = f"Is it spelt like that in {_origin(sys.modules[module_name])}?"
            raise SettingsError(
                f"Agent {target}: {module_name} has no {attribute!r}. {note or asked}"
            )
        found = getattr(found, part)
    _check_callable(found, target)
    if note:
        log.warning("agent %s: %s", target, note)
    version = getattr(found, "version", None)
    return RegisteredAgent(
        name or attribute,
        _digest(_source_of(found)) if version is None else str(version),
        found,
        inspect.isgeneratorfunction(found)
        or inspect.isgeneratorfunction(getattr(found, "__call__", None)),  # noqa: B004
        note,
    )


def _import(module_name: str, target: str) -> ModuleType:
    put_current_directory_last()
    importlib.invalidate_caches()
    try:
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
    except Exception as error:
        raise SettingsError(
            f"Agent {target}: importing {module_name} failed: {type(error).__name__}: {error}"
        ) from error


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
    where = (settings.openai_base_url.encode(), settings.openai_model.encode())
    return _digest(*map(_source, OPENAI_SOURCES), *where)


def _digest(*parts: bytes) -> str:
    digest = hashlib.blake2b(digest_size=6)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()

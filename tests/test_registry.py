"""Which agents there are, their versions, and what is said of those that cannot be loaded."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from plateau_sse.agents.registry import load_agent, load_agents
from plateau_sse.agents.study import study
from plateau_sse.errors import SettingsError
from plateau_sse.settings import Settings

MODULE = "notes_for_registry"
SOURCE = """
import functools

async def notes(run):
    yield "text"

def plain(run):
    yield "text"

def factory(run):
    return notes(run)

class Holder:
    version = 7
    def __call__(self, run):
        yield "text"

async def returns(run):
    return "text"

held = Holder()
part = functools.partial(plain)
number = 3
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with an agent module, made the current one, forgotten afterwards."""
    (tmp_path / f"{MODULE}.py").write_text(SOURCE)
    (tmp_path / "breaks_for_registry.py").write_text("1 / 0\n")
    (tmp_path / "needs_for_registry.py").write_text("import not_installed_anywhere\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield tmp_path
    for name in [name for name in sys.modules if name.endswith("_for_registry")]:
        del sys.modules[name]


def test_the_shipped_agents_are_always_there() -> None:
    agents = load_agents(Settings())
    assert set(agents) == {"study", "openai"}
    assert agents["study"].call is study
    assert not agents["study"].is_sync
    assert agents["study"].version == load_agents(Settings())["study"].version


def test_another_model_or_endpoint_is_another_version() -> None:
    versions = {
        load_agents(Settings(openai_base_url=url, openai_model=model))["openai"].version
        for url in ("", "http://a/v1", "http://b/v1")
        for model in ("", "small", "large")
    }
    assert len(versions) == 9


def test_agents_come_from_the_current_directory_and_override_shipped_ones(here: Path) -> None:
    named = (("notes", f"{MODULE}:notes"), ("study", f"{MODULE}:plain"))
    agents = load_agents(Settings(agents=named))
    assert set(agents) == {"study", "openai", "notes"}
    assert (agents["notes"].is_sync, agents["study"].is_sync) == (False, True)
    assert agents["notes"].version == agents["study"].version


@pytest.mark.parametrize(
    ("attribute", "is_sync"),
    [("notes", False), ("plain", True), ("factory", False), ("held", True), ("part", True)],
)
def test_plain_generators_are_told_apart(here: Path, attribute: str, is_sync: bool) -> None:
    agent = load_agent(f"{MODULE}:{attribute}")
    assert (agent.name, agent.is_sync) == (attribute, is_sync)


def test_the_version_is_the_agents_own_or_follows_its_source(here: Path) -> None:
    assert load_agent(f"{MODULE}:held").version == "7"
    before = load_agent(f"{MODULE}:notes").version
    assert before == load_agent(f"{MODULE}:part").version
    (here / f"{MODULE}.py").write_text(SOURCE + "# changed\n")
    assert load_agent(f"{MODULE}:notes").version != before


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("notes", "module:callable"),
        ("no_such_module:notes", "there is no module 'no_such_module', neither in"),
        (f"{MODULE}.sub:notes", "there is no module"),
        (f"{MODULE}:nots", "has no 'nots'"),
        (f"{MODULE}:number", "is a int, not a function"),
        (f"{MODULE}:returns", "with `yield`"),
        ("breaks_for_registry:a", "failed: ZeroDivisionError"),
        ("needs_for_registry:a", "needs 'not_installed_anywhere'"),
    ],
)
def test_what_cannot_be_loaded_says_why(here: Path, target: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_agent(target)
    assert said in str(caught.value)

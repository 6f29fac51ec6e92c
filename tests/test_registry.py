"""Which agents there are, their versions, and what is said of those that cannot be loaded."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from plateau_sse.agents import AgentError, Run, registry
from plateau_sse.agents.registry import load_agent, load_agents
from plateau_sse.agents.study import study
from plateau_sse.errors import SettingsError
from plateau_sse.importpath import put_current_directory_last
from plateau_sse.runner.taking import about_of
from plateau_sse.settings import Settings
from tests.processes import plateau

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
# However long that takes: until whoever waits for it has been told.
SLOW = """
import threading

def wait():
    for thread in threading.enumerate():
        # Others, as that of a test's own limit, go off much later.
        if isinstance(thread, threading.Timer) and thread.interval < 1:
            thread.join()

wait()

def a():
    wait()
    return plain
"""


# Of a package that is installed here, and of a module of Python's own.
PACKAGE, OWN = "iniconfig", "colorsys"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with an agent module, made the current one, forgotten afterwards."""
    (tmp_path / f"{MODULE}.py").write_text(SOURCE)
    (tmp_path / "breaks_for_registry.py").write_text("1 / 0\n")
    (tmp_path / "leaves_for_registry.py").write_text("raise SystemExit(0)\n")
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


def test_an_agent_says_how_long_an_input_may_be(here: Path) -> None:
    file = here / f"{MODULE}.py"
    assert load_agent(f"{MODULE}:notes").input_bytes is None
    file.write_text(
        SOURCE
        + "notes.input_bytes = 3\nplain.input_bytes = '3'\n"
        + "from plateau_sse.agents import hosted\nkept = hosted(notes)\n"
    )
    del sys.modules[MODULE]
    agent = load_agent(f"{MODULE}:notes")
    agent.begin(Run("1", "notes", "abc", ()))
    with pytest.raises(AgentError, match="notes reads") as caught:
        agent.begin(Run("1", "notes", "abcd", ()))
    assert caught.value.code == "invalid_options"
    assert about_of(load_agent(f"{MODULE}:kept")).input_bytes == 3
    with pytest.raises(SettingsError, match="input_bytes"):
        load_agent(f"{MODULE}:plain")


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
        ("leaves_for_registry:a", "leaves_for_registry ends the process (SystemExit: 0)."),
        ("needs_for_registry:a", "needs 'not_installed_anywhere'"),
    ],
)
def test_what_cannot_be_loaded_says_why(here: Path, target: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_agent(target)
    assert said in str(caught.value)


def test_what_takes_long_is_named(
    here: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (here / "slow_for_registry.py").write_text(SOURCE + SLOW)
    load_agent(f"{MODULE}:plain")
    monkeypatch.setattr(registry, "NOTICED_S", 0.05)
    agent = load_agent("slow_for_registry:a", "s")
    assert "importing slow_for_registry has taken 0.05 s" in caplog.text

    async def opened() -> None:
        async with AsyncExitStack() as stack:
            await registry.open_agents({"s": agent}, stack)

    asyncio.run(opened())
    said = [record.getMessage() for record in caplog.records]
    assert said[1:] == [
        "Agent s: opening it has taken 0.05 s so far; a runner takes no runs before."
    ]


def test_the_current_directory_comes_last(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for before in (["", "/a"], [str(here), "/a"], ["/a"]):
        monkeypatch.setattr(sys, "path", before)
        put_current_directory_last()
        assert sys.path == ["/a", str(here)]
    # Where it was put on purpose it stays.
    monkeypatch.setattr(sys, "path", ["/a", str(here), "/b"])
    put_current_directory_last()
    assert sys.path == ["/a", str(here), "/b"]


@pytest.mark.parametrize("name", [PACKAGE, OWN])
@pytest.mark.parametrize("form", ["{}.py", "{}/__init__.py"])
def test_an_installed_module_is_told_from_one_of_the_same_name(
    here: Path, name: str, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    ours = here / form.format(name)
    ours.parent.mkdir(exist_ok=True)
    ours.write_text("def notes(run):\n    yield 'text'\n")
    with pytest.raises(SettingsError) as caught:
        load_agent(f"{name}:notes")
    assert f"{ours} is not what was imported" in str(caught.value)
    with pytest.raises(SettingsError) as caught:
        load_agent(f"{name}.support:notes")
    assert "there is no module" in str(caught.value)
    # It has what was asked for, and may not be what was meant: said, and not refused.
    meant = {PACKAGE: "IniConfig", OWN: "rgb_to_hsv"}[name]
    agent = load_agent(f"{name}:{meant}")
    assert agent.note in caplog.text and f"the name {name!r}" in agent.note


def test_a_submodule_that_an_installed_package_hides_is_named(here: Path) -> None:
    (here / PACKAGE).mkdir()
    (here / PACKAGE / "support.py").write_text("def notes(run):\n    yield 'text'\n")
    with pytest.raises(SettingsError) as caught:
        load_agent(f"{PACKAGE}.support:notes")
    said = str(caught.value)
    assert "support.py is not what was imported" in said and "Give yours another one" in said


def test_a_module_of_the_current_directory_needs_no_note(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (here / "own_for_registry").mkdir()
    (here / "own_for_registry" / "notes.py").write_text(SOURCE)
    for target in (f"{MODULE}:notes", "own_for_registry.notes:plain"):
        assert load_agent(target).note == ""
    assert not caplog.records


def test_a_file_of_the_current_directory_breaks_no_command(tmp_path: Path) -> None:
    for name in ("redis", "queue", "gunicorn", "msgspec", "starlette"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong one')\n")
    (tmp_path / "mine.py").write_text(SOURCE)
    found = plateau("ask", "--local", "mine:notes", "x", env={}, cwd=tmp_path)
    assert (found.returncode, found.stdout.strip()) == (0, "text"), found.stderr

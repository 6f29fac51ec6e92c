"""`plateau agents`, and the versions of hosted agents: in processes, as their users run it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.processes import REPOSITORY, path_of, plateau

AGENT = """
from plateau_sse.agents import hosted
from app.prompts import PROMPT

async def speak(run):
    from app import later
    yield PROMPT + later.WORD

print("what modules print is no part of the list")
agent = hosted(speak, max_steps=7, attempts=3, timeout_s=500)
fixed = hosted(speak, version="v1")
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__init__.py").touch()
    (tmp_path / "app" / "agent.py").write_text(AGENT)
    (tmp_path / "app" / "prompts.py").write_text("PROMPT = 'Be short.'\n")
    (tmp_path / "app" / "later.py").write_text("from . import deep\nWORD = deep.WORD\n")
    (tmp_path / "app" / "deep.py").write_text("WORD = 'Hi'\n")
    (tmp_path / "app" / "unused.py").write_text("NOBODY = 1\n")
    return tmp_path


def listed(project: Path, **env: str) -> dict[str, dict[str, Any]]:
    env = {"AGENTS": "a=app.agent:agent,b=app.agent:fixed", **env}
    done = plateau("agents", "--json", env=env, cwd=project)
    assert done.returncode == 0, done.stderr
    return {it["name"]: it for it in json.loads(done.stdout)["agents"]}


def test_it_says_what_a_runner_would_serve(project: Path) -> None:
    found = listed(project)
    assert set(found) == {"study", "openai", "a", "b"}
    agent = found["a"]
    assert (agent["kind"], agent["from"]) == ("generator", "app.agent:agent")
    assert (agent["cache"], agent["max_steps"], agent["memory"]) == (False, 7, True)
    # Within the bounds of the service.
    assert (agent["attempts"], agent["timeout_s"]) == (2, 120)
    assert found["b"]["version"] == "v1"
    assert (found["study"]["from"], found["study"]["cache"]) == ("shipped", True)
    done = plateau("agents", env={"AGENTS": "a=app.agent:agent"}, cwd=project)
    assert "A runner with them: " in done.stdout and "what modules print" not in done.stdout


def test_a_version_is_that_of_all_that_the_agent_is_made_of(project: Path) -> None:
    app, first = project / "app", listed(project)["a"]["version"]
    (app / "unused.py").write_text("NOBODY = 2\n")
    assert listed(project)["a"]["version"] == first
    seen = {first}
    # A prompt; what is imported when it is needed; what that imports.
    for name, text in (
        ("prompts", "PROMPT = 'Be long.'\n"),
        ("later", "from . import deep\nWORD = deep.WORD + '!'\n"),
        ("deep", "WORD = 'Ho'\n"),
    ):
        (app / f"{name}.py").write_text(text)
        changed = listed(project)["a"]["version"]
        assert changed not in seen, name
        seen.add(changed)
    released = listed(project, AGENT_VERSION="r2")
    assert released["a"]["version"] not in seen
    assert released["b"]["version"] == "v1"


def test_a_version_sees_the_packages_that_the_agent_imports(project: Path) -> None:
    python = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    packages = project / "user" / "lib" / python / "site-packages"

    def install(name: str, version: str) -> None:
        (packages / name).mkdir(parents=True, exist_ok=True)
        (packages / name / "__init__.py").touch()
        about = packages / f"{name}.dist-info"
        about.mkdir(exist_ok=True)
        (about / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
        (about / "top_level.txt").write_text(name)

    def version() -> str:
        paths = os.pathsep.join([str(packages), path_of(REPOSITORY)])
        env = {"PYTHONUSERBASE": str(project / "user"), "PYTHONPATH": paths}
        found: str = listed(project, **env)["a"]["version"]
        return found

    for name in ("used_by_all", "used_by_none"):
        install(name, "1.0")
    (project / "app" / "prompts.py").write_text("import used_by_all\nPROMPT = 'Hm.'\n")
    first = version()
    install("used_by_none", "1.1")
    assert version() == first
    install("used_by_all", "1.1")
    assert version() != first


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("agent = lambda: 5", "a int, which is no agent"),
        ("def agent():\n    raise OSError('no pool')", "cannot be opened: OSError: no pool"),
        ("def agent():\n    exit()", "cannot be opened: SystemExit: None"),
        ("exit()", "importing app_of_mine ends the process"),
        ("agent = 5", "is a int, not a function"),
        ("from plateau_sse.agents import hosted\nagent = hosted(5)", "makes, a int"),
        (
            "from plateau_sse.agents import hosted\nagent = hosted(print, max_steps=0)",
            "max_steps must be a whole number from 1, not 0",
        ),
    ],
)
def test_what_cannot_be_opened_is_told_in_one_line(
    tmp_path: Path, code: str, said: str
) -> None:
    (tmp_path / "app_of_mine.py").write_text(code)
    done = plateau("agents", env={"AGENTS": "a=app_of_mine:agent"}, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_hosted_agent_is_opened_by_ask_local(tmp_path: Path) -> None:
    (tmp_path / "app_of_mine.py").write_text(
        "from contextlib import asynccontextmanager\n"
        "@asynccontextmanager\n"
        "async def agent():\n"
        "    async def speak(run):\n"
        "        yield f'{run.input} {run.memory.value!r}'\n"
        "    yield speak\n"
        "    print('closed')\n"
    )
    done = plateau("ask", "--local", "app_of_mine:agent", "Hi", env={}, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Hi b''" in done.stdout and "closed" in done.stdout

"""docs/clients.md is true: its examples are run as they stand there, but for the address."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.packages import HERE, NODE, install
from tests.processes import REPOSITORY, Serving, environment, serving

PAGE = (REPOSITORY / "docs" / "clients.md").read_text()
ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def plateau(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("docs") / "data") as found:
        yield found


def example(language: str, holding: str, plateau: Serving) -> str:
    """The one in which this stands."""
    examples = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    found: str
    (found,) = [it for it in examples if holding in it]
    assert ADDRESS in found
    return found.replace(ADDRESS, plateau.url)


@pytest.mark.parametrize("holding", ["import ask, follow", "import ask_async"])
def test_the_examples_in_python(plateau: Serving, tmp_path: Path, holding: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", example("python", holding, plateau)],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment({}),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "mesas" in done.stdout


def test_the_example_of_openais_package(plateau: Serving, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", example("python", "chat.completions", plateau)],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment({}),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    whole, streamed = done.stdout[: len(done.stdout) // 2], done.stdout[len(done.stdout) // 2 :]
    assert whole.strip() == streamed.strip() != ""


def test_the_example_of_ai_sdk(plateau: Serving) -> None:
    if cause := install():
        pytest.skip(cause)
    done = subprocess.run(
        [NODE, "--input-type=module", "-e", example("js", 'from "ai"', plateau)],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment({}),
        # Where the package is.
        cwd=HERE,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("state: 'done'") >= 2


def test_the_example_of_responses(plateau: Serving, tmp_path: Path) -> None:
    """Broken off, it goes on: what it prints is the answer."""
    code = example("python", "client.responses", plateau)
    done = subprocess.run(
        [sys.executable, "-c", code + "print('\\n---')\nprint(last.response.output_text)"],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment({}),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    printed, _, answer = done.stdout.partition("\n---\n")
    assert printed == answer.removesuffix("\n") != ""


def test_the_example_of_ag_ui(plateau: Serving) -> None:
    if cause := install():
        pytest.skip(cause)
    done = subprocess.run(
        [NODE, "--input-type=module", "-e", example("js", "@ag-ui/client", plateau)],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment({}),
        cwd=HERE,
    )
    assert done.returncode == 0, done.stderr
    first, again = done.stdout[: len(done.stdout) // 2], done.stdout[len(done.stdout) // 2 :]
    assert first.strip() == again.strip() != ""

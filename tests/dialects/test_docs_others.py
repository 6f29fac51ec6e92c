"""docs/clients.md, on clients that have environments of their own: its examples are run as they
stand there, but for the address."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.packages import NODE, install
from tests.dialects.apart import programs_of
from tests.dialects.test_stock_clients import IN_NODE
from tests.processes import REPOSITORY, Serving, environment, serving

PAGE = (REPOSITORY / "docs" / "clients.md").read_text()
ADDRESS = "http://127.0.0.1:8000"
# By what its example imports: the environment it runs in, "" for Node's.
EXAMPLES = {
    "langchain_openai": "langchain",
    "pydantic_ai": "pydantic-ai",
    '"openai"': "",
    '"@ai-sdk/openai-compatible"': "",
}


@pytest.fixture(scope="module")
def plateau(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("docs") / "data") as found:
        yield found


def test_each_example_is_run() -> None:
    found = re.findall(r"```(?:py|mjs)\n(.*?)```", PAGE, re.DOTALL)
    assert len(found) == len(EXAMPLES)


@pytest.mark.parametrize("package", EXAMPLES)
def test_an_example_gives_an_answer(plateau: Serving, tmp_path: Path, package: str) -> None:
    found = re.findall(r"```(?:py|mjs)\n(.*?)```", PAGE, re.DOTALL)
    (code,) = (it for it in found if f" {package}" in it)
    assert ADDRESS in code
    code = code.replace(ADDRESS, plateau.url)
    if EXAMPLES[package]:
        command = [str(programs_of(EXAMPLES[package]) / "python"), "-P", "-c", code]
    else:
        if cause := install(IN_NODE):
            pytest.skip(cause)
        command = [str(NODE), "--input-type=module", "-e", code]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment({"PYTHONPATH": ""}),
        # Where Node's packages are.
        cwd=tmp_path if EXAMPLES[package] else IN_NODE,
    )
    assert done.returncode == 0, done.stderr
    assert "plateau is high and flat" in done.stdout

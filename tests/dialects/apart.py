"""Python clients in environments of their own, since what they pin is not what we do.

    .venv/bin/python -m tests.dialects.apart    # makes them: a minute or two, and a registry

Invariant: what is in one are the very files whose digests are in requirements/apart. CI makes
them before its tests; elsewhere what needs one that is not there is skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import REPOSITORY

LISTS = REPOSITORY / "requirements" / "apart"
ENVIRONMENTS = REPOSITORY / ".apart"
SERVE = REPOSITORY / "requirements" / "serve.txt"
# Whose agents the service hosts: it is in the same environment, in the versions that it pins.
HOSTED = ("langgraph", "openai-agents", "pydantic-ai")


def programs_of(name: str) -> Path:
    """Where the programs of that environment are, its Python among them."""
    if not _is_there(name):
        cause = f"there is no environment of {name}: .venv/bin/python -m {__name__} makes it"
        if os.environ.get("CI") == "true":
            pytest.fail(cause)
        pytest.skip(cause)
    return ENVIRONMENTS / name / "bin"


def make(name: str) -> None:
    """Unless it is there."""
    if _is_there(name):
        return
    folder = ENVIRONMENTS / name
    sys.stderr.write(f"Making the environment of {name} …\n")
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    lists = [argument for file in _files(name) for argument in ("-r", str(file))]
    subprocess.run([*pip, "--require-hashes", *lists], check=True)
    _stamp(name).write_text(_wanted(name))


def _is_there(name: str) -> bool:
    stamp = _stamp(name)
    return stamp.exists() and stamp.read_text() == _wanted(name)


def _stamp(name: str) -> Path:
    return ENVIRONMENTS / name / ".installed"


def _wanted(name: str) -> str:
    return "".join(file.read_text() for file in _files(name))


def _files(name: str) -> list[Path]:
    return [LISTS / f"{name}.txt", *[SERVE] * (name in HOSTED)]


if __name__ == "__main__":
    for file in sorted(LISTS.glob("*.txt")):
        make(file.stem)

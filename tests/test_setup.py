"""`scripts/setup` where a `.venv` is there already: of this folder, or of another one."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.processes import REPOSITORY

STAMP = """
printf '%s %s' serve "$(cat pyproject.toml requirements/serve.txt | cksum)" >.venv/.plateau
"""
PYTHON = """#!/bin/sh
# As far as setup asks it.
case "$1 $2" in
  "-Ec import os"*) echo "{}/service/plateau_sse/__init__.py";;
  "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python";;
  "-m pip") echo "$*" >>asked;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """One whose Python installs nothing."""
    folder = tmp_path / "checkout"
    (folder / "scripts").mkdir(parents=True)
    shutil.copy(REPOSITORY / "scripts" / "setup", folder / "scripts")
    shutil.copytree(REPOSITORY / "requirements", folder / "requirements")
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON.format(folder.resolve()))
    python.chmod(0o755)
    subprocess.run(["/bin/sh", "-c", STAMP], cwd=folder, check=True)
    return folder


def setup(folder: Path) -> tuple[str, bool]:
    """What it says, and whether it has installed anything."""
    other = folder / "python"
    other.write_text(PYTHON.format(folder.resolve()))
    other.chmod(0o755)
    done = subprocess.run(
        [folder / "scripts" / "setup", "serve"],
        env={**os.environ, "PYTHON": str(other)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr, (folder / "asked").exists()


def test_one_of_this_folder_is_taken(checkout: Path) -> None:
    assert setup(checkout) == ("", False)


def test_one_of_another_folder_is_made_anew(checkout: Path) -> None:
    moved = checkout.rename(checkout.with_name("moved"))
    (moved / ".venv" / "old").touch()
    said, installed = setup(moved)
    assert "making it anew" in said and installed
    assert not (moved / ".venv" / "old").exists()
    assert setup(moved)[0] == ""


def test_one_whose_python_is_gone_is_made_anew(checkout: Path) -> None:
    python = checkout / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/no/such/python3.10")
    said, installed = setup(checkout)
    assert "making it anew" in said and installed


def found_by_setup(tmp_path: Path, there: dict[str, str], **env: str) -> str:
    """The Python that it makes the environment with, of those."""
    folder = tmp_path / "new"
    (folder / "scripts").mkdir(parents=True)
    shutil.copy(REPOSITORY / "scripts" / "setup", folder / "scripts")
    shutil.copytree(REPOSITORY / "requirements", folder / "requirements")
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    for place, kind in there.items():
        python = tmp_path / place
        python.parent.mkdir(parents=True, exist_ok=True)
        python.write_text(NAMED.format(name=place, kind=kind))
        python.chmod(0o755)
    done = subprocess.run(
        [folder / "scripts" / "setup", "serve"],
        env={"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "HOME": str(tmp_path), **env},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return (folder / "made_with").read_text().strip()


PYENVS = ".pyenv/versions/3.12.1/bin/python3"
# `kind`: "old" is too old, "bare" has no ensurepip, "off" is a shim of what is not switched on.
NAMED = """#!/bin/sh
case "{kind} $2" in
  "off "*|"old import sys"*|"bare import ensurepip"*) exit 1;;
esac
case "$1 $2" in
  "-c "*) exit 0;;
  "--version "*) echo "{name}";;
  "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; echo "{name}" >made_with;;
esac
"""


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        # Whatever else this machine has in /usr/bin comes behind what is here.
        ({"bin/python3": "", "bin/python3.12": "", "bin/python3.13": ""}, "bin/python3.12"),
        ({"bin/python3": "", "bin/python3.12": "off", "bin/python3.13": ""}, "bin/python3.13"),
        ({"bin/python3": "", "bin/python3.12": "off", PYENVS: ""}, PYENVS),
        ({"bin/python3": "", "bin/python3.12": "bare", "bin/python3.13": "off"}, "bin/python3"),
        ({"bin/python3": "old", "bin/python3.12": "bare", "bin/python3.13": "bare",
          "bin/python3.14": "bare", "bin/python3.11": "bare"}, "bin/python3.12"),
    ],
)  # fmt: skip
def test_the_python_that_takes_the_least_memory_is_taken(
    tmp_path: Path, there: dict[str, str], taken: str
) -> None:
    assert found_by_setup(tmp_path, there) == taken


def test_one_that_is_named_is_taken(tmp_path: Path) -> None:
    there = {"bin/python3.12": "", "mine": "bare"}
    assert found_by_setup(tmp_path, there, PYTHON=str(tmp_path / "mine")) == "mine"


def test_pyenv_is_where_it_says(tmp_path: Path) -> None:
    there = {"bin/python3": "", "bin/python3.12": "off", "py/versions/3.12.9/bin/python3": ""}
    taken = found_by_setup(tmp_path, there, PYENV_ROOT=str(tmp_path / "py"))
    assert taken == "py/versions/3.12.9/bin/python3"

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

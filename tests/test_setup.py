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


# `kind`: "old" is too old, "bare" has no ensurepip, "off" is a shim of what is not switched on.
NAMED = """#!/bin/sh
case "{kind} $2" in
  "off "*|"old import sys"*|"bare import ctypes"*) exit 1;;
esac
case "$1 $2" in
  "-c "*) echo "a word of a wrapper"; exit 0;;
  "--version "*) echo "{name}";;
  "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; echo "{name}" >made_with;;
esac
"""
PYENVS = ".pyenv/versions"


def set_up(tmp_path: Path, there: dict[str, str], **env: str) -> tuple[str, str]:
    """Of these Pythons the one that a new environment is made with, and what is said."""
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
        # Whatever else this machine has comes behind what is here.
        env={"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "HOME": str(tmp_path), **env},
        capture_output=True,
        text=True,
    )
    made_with = folder / "made_with"
    assert (done.returncode == 0) == made_with.exists(), done.stderr
    return made_with.read_text().strip() if made_with.exists() else "", done.stderr


ALL_BARE = {f"bin/python3.{minor}": "bare" for minor in (11, 12, 13, 14)} | {
    "bin/python3": "old"
}


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        ({"bin/python3": "", "bin/python3.12": "", "bin/python3.13": ""}, "bin/python3.12"),
        ({"bin/python3": "", "bin/python3.12": "off", "bin/python3.13": ""}, "bin/python3.13"),
        (
            {"bin/python3": "", "bin/python3.12": "off"}
            | {f"{PYENVS}/3.12.{patch}/bin/python3": "" for patch in (2, 11)},
            f"{PYENVS}/3.12.11/bin/python3",
        ),
        (
            {"bin/python3": "", "bin/python3.12": "off", "bin/python3.13": "off"}
            | {f"{PYENVS}/3.13.{patch}/bin/python3": "" for patch in ("1t", "4-debug")},
            "bin/python3",
        ),
        (
            {"bin/python3": "", "bin/python3.12": "bare", "bin/python3.13": "off"},
            "bin/python3",
        ),
        (ALL_BARE, "bin/python3.12"),
    ],
)
def test_the_python_that_takes_the_least_memory_is_taken(
    tmp_path: Path, there: dict[str, str], taken: str
) -> None:
    assert set_up(tmp_path, there)[0] == taken


def test_one_that_is_named_is_taken(tmp_path: Path) -> None:
    there = {"bin/python3.12": "", "mine": "bare"}
    assert set_up(tmp_path, there, PYTHON=str(tmp_path / "mine"))[0] == "mine"


@pytest.mark.parametrize("named", ["/no/such/python3", "old", "python3.12 -I"])
def test_one_that_is_named_and_is_none_is_refused(tmp_path: Path, named: str) -> None:
    there = {"bin/python3.12": "", "bin/old": "old"}
    taken, said = set_up(tmp_path, there, PYTHON=named)
    assert not taken and f"PYTHON={named} is no Python 3.11 or newer" in said


@pytest.mark.parametrize("root", ["py", "with a space"])
def test_pyenv_is_where_it_says(tmp_path: Path, root: str) -> None:
    there = {"bin/python3": "", "bin/python3.12": "off"}
    there[f"{root}/versions/3.12.9/bin/python3"] = ""
    taken, _ = set_up(tmp_path, there, PYENV_ROOT=str(tmp_path / root))
    assert taken == f"{root}/versions/3.12.9/bin/python3"

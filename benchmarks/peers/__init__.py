"""Peers: other ways to do the same, measured beside it in the same run.

Invariant: a peer is the real program with the settings that its documentation advises; one that
cannot be had here is named as skipped, with the reason, and never guessed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

# Each pins what it needs.
ENVIRONMENTS = Path(__file__).resolve().parents[2] / ".peers"
INSTALL_S = 900


class Absent(Exception):
    """The peer is not on this machine and could not be installed; says why."""


def need(package: str, *found: str) -> None:
    """Have Debian's `package`, one of whose files or programs is `found`."""
    if any(os.path.exists(name) or shutil.which(name) for name in found):
        return
    if not shutil.which("apt-get") or os.geteuid() != 0:
        raise Absent(f"{package} is not installed, and only root can install it")
    command = ["apt-get", "install", "-q", "-y", "--no-install-recommends", package]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
    )
    if done.returncode:
        raise Absent(f"apt-get could not install {package}: {done.stderr.strip()[-200:]}")


def environment_of(name: str, package: str) -> Path:
    """Where the programs of an environment of its own are, which has that package from PyPI;
    made on first use. Raises Absent."""
    folder = ENVIRONMENTS / name
    programs = folder / "bin"
    if (programs / name).exists():
        return programs
    folder.parent.mkdir(exist_ok=True)
    for step in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(programs / "pip"), "install", "--quiet", package],
    ):
        sys.stderr.write(f"installing {package}: {' '.join(step[-3:])}\n")
        done = subprocess.run(step, capture_output=True, text=True, timeout=INSTALL_S)
        if done.returncode:
            raise Absent(f"{package} could not be installed: {done.stderr.strip()[-200:]}")
    return programs

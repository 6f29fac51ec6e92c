"""`plateau doctor` as tests run it: its findings, and what becomes of what it says to do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.processes import environment, plateau

needs_redis_cli = pytest.mark.skipif(
    shutil.which("redis-cli") is None, reason="what mends is a command of redis-cli"
)


@dataclass
class Examined:
    """One run of it. `text` is all that it printed."""

    code: int
    text: str
    findings: dict[str, dict[str, Any]]

    def level(self, check: str) -> str:
        """Of that check; empty where it said nothing of it."""
        return str(self.findings.get(check, {}).get("level", ""))

    def said(self, check: str) -> str:
        return str(self.findings[check]["text"])

    def mend(self, check: str) -> str:
        return str(self.findings[check]["mend"])

    def ill(self) -> list[str]:
        """What is not ok, but for the machine and its load, which are not the test's."""
        return [
            check
            for check, it in self.findings.items()
            if it["level"] != "ok"
            and not check.startswith("machine")
            and not check.endswith(".latency")
        ]


def examine(env: Mapping[str, str], cwd: Path, *flags: str, timeout_s: float = 30) -> Examined:
    ended = plateau("doctor", "--json", *flags, env=env, cwd=cwd, timeout_s=timeout_s)
    assert ended.stderr == "", ended.stderr
    found = json.loads(ended.stdout)["findings"]
    by_check = {finding["check"]: finding for finding in found}
    assert len(by_check) == len(found), "each check has a name of its own"
    assert all(bool(it["mend"]) == (it["level"] != "ok") for it in found)
    return Examined(ended.returncode, ended.stdout, by_check)


def mended(env: Mapping[str, str], mend: str) -> dict[str, str]:
    """Do what was said, in a shell: gives the settings as they then are."""
    shell = subprocess.run(
        ["bash", "-c", f"set -e; set -a; {mend}; echo; env -0"],
        env=environment(env),
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    is_command = "redis-cli" in mend
    if is_command:
        assert shell.stdout.startswith("OK\n"), shell.stdout + shell.stderr
    shown = shell.stdout.partition("\n\n" if is_command else "\n")[2]
    after = dict(line.split("=", 1) for line in shown.split("\0") if "=" in line)
    names = set(env) | {mend.partition("=")[0]}
    return {name: after[name] for name in names & set(after) - set(os.environ)}

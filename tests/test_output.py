"""Standard output that takes no more: each command ends with a line, and a run with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import environment
from tests.test_ask import COMMAND, WAIT_S, fake_plateau, tape_of
from tests.tokens import SECRET

FULL = "the output cannot be written: No space left on device"


def run(
    folder: Path, *arguments: str, shell: str, **env: str
) -> subprocess.CompletedProcess[str]:
    """`shell` is what a shell is told to do with what it says."""
    words = [
        "/bin/sh",
        "-c",
        f'exec "$@" {shell}',
        "/bin/sh",
        sys.executable,
        "-m",
        "plateau_sse",
    ]
    return subprocess.run(
        [*words, *arguments],
        env=environment({"DATA_DIR": str(folder / "data"), **env}),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("ask", "A text. It has parts.", "--local", "study"),
        ("doctor", "--acl"),
        ("agents",),
        ("token", "--user", "ann"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_full_disk_is_a_line(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = run(tmp_path, *arguments, shell=">/dev/full", JWT_SECRET=SECRET)
    assert done.returncode == 1, done
    assert done.stderr.splitlines()[-1] == f"plateau {arguments[0]}: {FULL}"
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


@pytest.mark.parametrize("shell", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_what_is_closed_is_nowhere(tmp_path: Path, shell: str) -> None:
    done = run(tmp_path, "token", "--user", "ann", shell=shell, JWT_SECRET=SECRET)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_whoever_cannot_be_told_ends_the_run() -> None:
    with fake_plateau(tape_of("begun ")[:-1], None) as plateau, open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, "ask", "text", "--url", plateau.url],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=WAIT_S,
        )
        assert plateau.cancelled.is_set()
    assert (done.returncode, done.stderr) == (1, f"plateau ask: {FULL}\n")

"""A terminal for tests: what a program draws on it, and what is typed into it.

    with terminal(["-m", "plateau_sse", "top"], env={}) as shown:
        wait_until(lambda: "All is well." in shown.text, "it is drawn")

Invariant: when a `with` block ends, however it ends, the program is gone.
"""

from __future__ import annotations

import fcntl
import os
import re
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.processes import environment

SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# What is shown at once.
FRAME = re.compile(r"\x1b\[\?2026h(.*?)\x1b\[\?2026l", re.DOTALL)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Terminal:
    """`raw` is all that was ever written to it."""

    def __init__(self, process: subprocess.Popen[bytes], keys: int) -> None:
        self.process = process
        self._keys = keys
        self._written = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        # The other end has gone: EIO on Linux.
        with suppress(OSError):
            while chunk := os.read(self._keys, 65536):
                self._written += chunk

    @property
    def raw(self) -> str:
        return self._written.decode(errors="replace")

    @property
    def lines(self) -> list[str]:
        """The screen as it was drawn last, whole."""
        frames = FRAME.findall(self.raw)
        return SEQUENCE.sub("", frames[-1]).split("\r\n") if frames else []

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def echoes(self) -> bool:
        return bool(termios.tcgetattr(self._keys)[3] & termios.ECHO)

    def type(self, keys: bytes) -> None:
        os.write(self._keys, keys)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._keys, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def join(self) -> None:
        """Once nobody has it open any more."""
        self._reader.join(10)


@contextmanager
def terminal(
    arguments: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    columns: int = 80,
    rows: int = 24,
) -> Iterator[Terminal]:
    """This Python with `arguments`, on a terminal of its own."""
    keys, inner = os.openpty()
    # `inner` stays open here: a terminal that nobody has open cannot be looked at.
    fcntl.ioctl(keys, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env=environment({"TERM": "xterm-256color", "NO_COLOR": "", **env}),
        cwd=cwd,
        stdin=inner,
        stdout=inner,
        stderr=inner,
        start_new_session=True,
    )
    opened = Terminal(process, keys)
    try:
        yield opened
    finally:
        process.kill()
        process.wait(10)
        os.close(inner)
        opened.join()
        os.close(keys)

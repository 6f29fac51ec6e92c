"""Standard output that takes no more: a full disk, a reader that has left, nothing at all.

Invariant: it ends a command with one line and without a traceback; a reader that has had
enough, as `| head` has, is no fault and gets none.
"""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress

# Of writing to what is open already: it names no file.
_FAULTS = (
    errno.EPIPE,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.EBADF,
    errno.ENXIO,
)


class Unwritable(BrokenPipeError):
    """As good as a reader that has left: who has nobody to tell ends what was asked for."""


def is_output(error: OSError) -> bool:
    return error.errno in _FAULTS and error.filename is None


def gone(error: OSError, command: str = "") -> int:
    """Says so, keeps the interpreter from writing there at its exit; gives the exit status."""
    if error.errno != errno.EPIPE:
        name = f"plateau {command}".rstrip()
        with suppress(OSError):
            sys.stderr.write(f"{name}: the output cannot be written: {error.strerror}\n")
            sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
    return 1


def open_what_is_closed() -> None:
    """Where a shell has closed one of the three (`>&-`), Python has None in its place."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))

"""The directory that a `plateau serve` keeps its Redis servers' files in.

Invariant: one serve at a time has it. Its Redis servers inherit the lock, so that after a
killed serve the next one waits until they have let go of their files. What the directory says
of where those servers are, and of the password that they ask for, is true while the lock is
held; nobody but its owner can read it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plateau_sse.errors import SettingsError

# Redis servers whose master was killed are gone well within this.
ORPHANS_S = 5.0
LOCK = "lock"
ADDRESSES = "servers.json"


class DataDir:
    """Made with its lock taken; `lock_fd` is for the servers to inherit, and `password` what
    they ask for: whoever cannot read this directory is not to read what is in them."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.password = secrets.token_hex(16)
        try:
            # Only what we create: one that was there is somebody's decision.
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.lock_fd = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise SettingsError(f"DATA_DIR={path} cannot be used: {error.strerror}.") from None
        try:
            self._lock()
        except BaseException:
            os.close(self.lock_fd)
            raise
        # A killed predecessor's.
        (self.path / ADDRESSES).unlink(missing_ok=True)
        os.ftruncate(self.lock_fd, 0)
        os.pwrite(self.lock_fd, b"%d" % os.getpid(), 0)

    def _lock(self) -> None:
        deadline = time.monotonic() + ORPHANS_S
        while True:
            try:
                fcntl.flock(self.lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise
            owner = os.pread(self.lock_fd, 20, 0).decode()
            if _is_alive(owner) or time.monotonic() > deadline:
                raise SettingsError(
                    f"DATA_DIR={self.path} is in use by another plateau serve (pid {owner}): "
                    "stop that one, or give this one a DATA_DIR of its own."
                )
            time.sleep(0.05)

    def inside(self, name: str) -> Path:
        """A private directory of that name in it."""
        path = self.path / name
        path.mkdir(mode=0o700, exist_ok=True)
        return path

    def publish(self, urls: Mapping[Any, str]) -> None:
        """Say where the servers are, by role, for `running` to find. OSError."""
        new = self.path / f"{ADDRESSES}.new"
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            json.dump(dict(urls), file)
        new.replace(self.path / ADDRESSES)

    def close(self) -> None:
        (self.path / ADDRESSES).unlink(missing_ok=True)
        os.close(self.lock_fd)


@dataclass(frozen=True, slots=True)
class Running:
    """The serve that has a directory. `urls`: of the servers that it started, by role; None
    while they are not ready."""

    pid: str
    urls: dict[str, str] | None


def running(path: Path) -> Running | None:
    """Who has the directory; None where nobody has. Changes nothing. OSError where it may not
    be looked at."""
    try:
        fd = os.open(path / LOCK, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        # Shared, and for an instant: a serve that starts meanwhile tries again.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        return Running(os.pread(fd, 20, 0).decode(), _addresses(path))
    finally:
        os.close(fd)


def _addresses(path: Path) -> dict[str, str] | None:
    try:
        text = (path / ADDRESSES).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    return {str(role): str(url) for role, url in json.loads(text).items()}


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True

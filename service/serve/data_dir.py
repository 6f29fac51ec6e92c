"""The directory that a `plateau serve` keeps its Redis servers' files in.

Invariant: one serve at a time has it. Its Redis servers inherit the lock, so that after a
killed serve the next one waits until they have let go of their files.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path

from service.errors import SettingsError

# Redis servers whose master was killed are gone well within this.
ORPHANS_S = 5.0


class DataDir:
    """Made with its lock taken; `lock_fd` is for the servers to inherit."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        try:
            # Only what we create: one that was there is somebody's decision.
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.lock_fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise SettingsError(f"DATA_DIR={path} cannot be used: {error.strerror}.") from None
        try:
            self._lock()
        except BaseException:
            os.close(self.lock_fd)
            raise
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

    def close(self) -> None:
        os.close(self.lock_fd)


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True

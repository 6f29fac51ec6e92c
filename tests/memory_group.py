"""A control group with a bound of memory, for a service of a test.

    with memory_group(tmp_path) as group:
        with serving(..., arguments=group.serve):
            group.bound_by(group.used() / 0.95)
            group.set_free()

Where none can be made (this user may not, or the machine hands no memory on to groups), files
stand in its place, and the service looks for its groups there: `is_real` says which it is.

Invariant: what is made is gone when the block ends; whoever was in it has ended by then.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from os import getpid
from pathlib import Path

from plateau_sse.ops import cgroup
from tests.processes import wait_until

# What files say is in use.
USED = 100 * 1024**2
_SERVE = """
from plateau_sse.cli import main
raise SystemExit(main(["serve"]))
"""
_ENTER = """
import os
from pathlib import Path
Path({folder!r}, "cgroup.procs").write_text(str(os.getpid()))
"""
_LOOK_THERE = """
from functools import partial
from pathlib import Path
from plateau_sse.ops import cgroup
cgroup.memory = partial(cgroup.memory, root=Path({root!r}))
"""


@dataclass(frozen=True)
class MemoryGroup:
    """`serve` are Python's arguments of a `plateau serve` that is in it."""

    folder: Path
    names: cgroup._Names
    serve: tuple[str, str]
    is_real: bool

    def used(self) -> int:
        """As the service takes it: without what goes first."""
        idle = cgroup._stat(self.folder / "memory.stat", self.names.idle)
        return int((self.folder / self.names.used).read_text()) - idle

    def bound_by(self, size: float) -> None:
        (self.folder / self.names.limit).write_text(str(int(size)))

    def set_free(self) -> None:
        is_old = self.names.limit == "memory.limit_in_bytes"
        (self.folder / self.names.limit).write_text("-1" if is_old else "max")


@contextmanager
def memory_group(tmp_path: Path) -> Iterator[MemoryGroup]:
    found = _made()
    if found is None:
        yield _of_files(tmp_path / "groups")
        return
    folder, names = found
    enter = _ENTER.format(folder=str(folder))
    try:
        yield MemoryGroup(folder, names, ("-c", enter + _SERVE), is_real=True)
    finally:
        wait_until(lambda: _is_gone(folder), "nobody is left in the group")


def _made() -> tuple[Path, cgroup._Names] | None:
    """Within the group of this process, or one around it."""
    for around in cgroup._groups(None, "memory", cgroup.ROOT):
        folder = around / f"plateau-test-{getpid()}"
        with suppress(OSError):
            folder.mkdir()
            for names in cgroup._VERSIONS:
                if (folder / names.limit).exists():
                    return folder, names
            folder.rmdir()
    return None


def _is_gone(folder: Path) -> bool:
    with suppress(OSError):
        folder.rmdir()
    return not folder.exists()


def _of_files(root: Path) -> MemoryGroup:
    names = cgroup._VERSIONS[0]
    folder = root / "sys" / "fs" / "cgroup"
    folder.mkdir(parents=True)
    (folder / names.used).write_text(str(USED))
    serve = _LOOK_THERE.format(root=str(root)) + _SERVE
    group = MemoryGroup(folder, names, ("-c", serve), is_real=False)
    group.set_free()
    return group

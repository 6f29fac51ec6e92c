"""What the kernel says of memory: of a process, and of the cgroup that a host bills."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from service.ops import process


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in the place of /sys/fs/cgroup, and `own` in that of /proc/self/cgroup."""
    monkeypatch.setattr(process, "_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(process, "_OWN", tmp_path / "own")
    return tmp_path


def lay_out(folder: Path, own: str, files: Mapping[str, str]) -> None:
    (folder / "own").write_text(own)
    for name, content in files.items():
        path = folder / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def test_version_2_in_a_container(kernel: Path) -> None:
    lay_out(kernel, "0::/\n", {"memory.current": "3000\n", "memory.max": "5000\n"})
    assert process.cgroup() == (3000, 5000)


def test_version_2_of_a_service_of_the_machine(kernel: Path) -> None:
    """At the root there is no figure; where this process is there are."""
    unit = "system.slice/plateau.service"
    files = {f"{unit}/memory.current": "3000\n", f"{unit}/memory.max": "max\n"}
    lay_out(kernel, f"0::/{unit}\n", files)
    assert process.cgroup() == (3000, None)


def test_version_2_whose_path_is_the_hosts(kernel: Path) -> None:
    """The path leads to nothing that is seen from here: the root is what counts."""
    own = "0::/docker/0123456789abcdef\n"
    lay_out(kernel, own, {"memory.current": "3000\n", "memory.max": "5000\n"})
    assert process.cgroup() == (3000, 5000)


def test_pages_that_nobody_needs_are_not_in_use(kernel: Path) -> None:
    stat = "anon 1800\nfile 1200\ninactive_file 1000\nactive_file 200\n"
    files = {"memory.current": "3000", "memory.max": "5000", "memory.stat": stat}
    lay_out(kernel, "0::/\n", files)
    assert process.cgroup() == (2000, 5000)


OWN_1 = "9:name=systemd:/\n5:cpu,cpuacct:/x\n4:memory:/docker/0123\n0::/\n"


def version_1(folder: str, used: int, limit: int) -> dict[str, str]:
    return {
        f"memory/{folder}memory.usage_in_bytes": f"{used}\n",
        f"memory/{folder}memory.limit_in_bytes": f"{limit}\n",
        f"memory/{folder}memory.stat": "inactive_file 1\ntotal_inactive_file 100\n",
    }


def test_version_1(kernel: Path) -> None:
    lay_out(kernel, OWN_1, version_1("", 3000, 5000))
    assert process.cgroup() == (2900, 5000)


def test_version_1_where_the_path_is_seen(kernel: Path) -> None:
    files = version_1("", 90_000, 95_000) | version_1("docker/0123/", 3000, 5000)
    lay_out(kernel, OWN_1, files)
    assert process.cgroup() == (2900, 5000)


def test_version_1_without_a_limit(kernel: Path) -> None:
    """It then says a number near 2**63."""
    lay_out(kernel, OWN_1, version_1("", 3000, 9_223_372_036_854_771_712))
    assert process.cgroup() == (2900, None)


def test_no_cgroup_at_all(kernel: Path) -> None:
    assert process.cgroup() == (None, None)


def test_this_machine_gives_an_answer() -> None:
    used, limit = process.cgroup()
    assert used is None or used > 0
    assert limit is None or limit > 0


def test_memory_of_this_process() -> None:
    pss, rss = process.memory()
    assert 0 < pss <= rss
    info = psutil.Process().memory_full_info()
    assert pss == pytest.approx(info.pss, rel=0.1)
    assert rss == pytest.approx(info.rss, rel=0.1)
    assert process.memory(os.getpid())[1] == pytest.approx(rss, rel=0.1)


def test_memory_of_nobody() -> None:
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    assert process.memory(pid) == (0, 0)


def test_the_share_of_a_core_is_of_the_time_since_it_was_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used_s, at = [1.0], [100.0]
    monkeypatch.setattr(time, "process_time", lambda: used_s[0])
    monkeypatch.setattr(time, "monotonic", lambda: at[0])
    cpu = process.Cpu()
    used_s[0], at[0] = 1.5, 102.0
    assert cpu.share() == pytest.approx(0.25)
    at[0] = 104.0
    assert cpu.share() == 0
    # Twice in one moment.
    assert cpu.share() == 0

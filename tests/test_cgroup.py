"""What control groups allow and bill, in either version, in a container and outside."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from plateau_sse.ops import cgroup

OWN_1 = "9:name=systemd:/\n5:cpu,cpuacct:/x\n4:memory:/docker/0123\n0::/"


def groups(root: Path, of_process: str, files: Mapping[str, str]) -> Path:
    """A file system in which process 7 is in these groups; `files` lie under sys/fs/cgroup."""
    placed = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    for name, text in {**placed, "proc/7/cgroup": of_process}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def version_2(folder: str, used: int, limit: int | str) -> dict[str, str]:
    return {f"{folder}memory.current": str(used), f"{folder}memory.max": str(limit)}


def version_1(folder: str, used: int, limit: int) -> dict[str, str]:
    return {
        f"memory/{folder}memory.usage_in_bytes": str(used),
        f"memory/{folder}memory.limit_in_bytes": str(limit),
        f"memory/{folder}memory.stat": "inactive_file 1\ntotal_inactive_file 100",
    }


@pytest.mark.parametrize(
    ("of_process", "files", "used", "limit"),
    [
        ("0::/", version_2("", 3000, 5000), 3000, 5000),
        ("0::/", version_2("", 3000, "max"), 3000, None),
        # The root of a machine has no figures; where the process is there are.
        ("0::/a/b", version_2("a/b/", 3000, "max"), 3000, None),
        # The path is the host's and leads to nothing that is seen from here.
        ("0::/docker/0123456789abcdef", version_2("", 3000, 5000), 3000, 5000),
        ("0::/a/b", version_2("a/", 4000, 5000) | version_2("a/b/", 3000, 9000), 4000, 5000),
        ("0::/a/b", version_2("a/", 4000, 9000) | version_2("a/b/", 3000, 5000), 3000, 5000),
        (OWN_1, version_1("", 3000, 5000), 2900, 5000),
        (
            OWN_1,
            version_1("", 90_000, 95_000) | version_1("docker/0123/", 3000, 5000),
            2900,
            5000,
        ),
        # Without a limit it says a number near 2**63.
        (OWN_1, version_1("", 3000, 9_223_372_036_854_771_712), 2900, None),
        ("", version_2("", 3000, 5000), 3000, 5000),
        ("0::/", {}, None, None),
    ],
)
def test_memory_is_that_of_the_strictest_group(
    tmp_path: Path,
    of_process: str,
    files: Mapping[str, str],
    used: int | None,
    limit: int | None,
) -> None:
    assert cgroup.memory(7, groups(tmp_path, of_process, files)) == (used, limit)


def test_pages_that_nobody_needs_are_not_in_use(tmp_path: Path) -> None:
    stat = "anon 1800\nfile 1200\ninactive_file 1000\nactive_file 200"
    files = version_2("", 3000, 5000) | {"memory.stat": stat}
    assert cgroup.memory(7, groups(tmp_path, "0::/", files)) == (2000, 5000)


def test_this_machine_gives_an_answer() -> None:
    used, limit = cgroup.memory()
    assert used is None or used > 0
    assert limit is None or limit > 0


@pytest.mark.parametrize(
    ("of_process", "files"),
    [
        ("0::/a", {"a/cpu.max": "50000 100000"}),
        ("0::/a/b", {"a/cpu.max": "50000 100000", "a/b/cpu.max": "max 100000"}),
        (
            "2:cpu,cpuacct:/",
            {"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"},
        ),
    ],
)
def test_a_quota_counts_as_cores(
    tmp_path: Path, of_process: str, files: Mapping[str, str]
) -> None:
    assert cgroup.cores(7, groups(tmp_path, of_process, files)) == 0.5


def test_without_a_quota_all_cores_count(tmp_path: Path) -> None:
    root = groups(tmp_path, "0::/", {"cpu.max": "max 100000"})
    assert cgroup.cores(7, root) == cgroup.cores(8, root) == len(os.sched_getaffinity(0))

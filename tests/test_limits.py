"""What doctor makes of what the machine allows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from plateau_sse.cli.checks import directory, machine
from plateau_sse.serve.data_dir import LOCK, DataDir
from plateau_sse.settings import Settings
from tests.processes import environment, free_ports

MIB = 1024**2


def test_bounds_that_do_not_fit_are_an_error_and_made_to_fit() -> None:
    settings = Settings(stream_max_memory=600 * MIB)
    found = machine._bounds(settings, 512 * MIB)
    assert found.level == "error"
    smaller = Settings.from_env(dict([found.mend.split("=")]))
    assert machine._bounds(smaller, 512 * MIB).level == "ok"
    elsewhere = Settings(stream_max_memory=600 * MIB, redis_url="redis://box/0")
    assert machine._bounds(elsewhere, 512 * MIB).level == "ok"


def test_a_warning_beyond_the_limit_is_one() -> None:
    found = machine._memory_warn(Settings(memory_warn_mb=600), 512 * MIB)
    assert (found.level, found.mend) == ("warning", "MEMORY_WARN_MB=409")
    assert machine._memory_warn(Settings(), 512 * MIB).level == "ok"


@pytest.mark.parametrize(
    ("mode", "bound", "warned"),
    [("0", 64, False), ("0", 400, True), ("1", 400, False), ("2", 64, True)],
)
def test_overcommitting_is_told_only_where_it_matters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, bound: int, warned: bool
) -> None:
    (tmp_path / "mode").write_text(mode + "\n")
    monkeypatch.setattr(machine, "OVERCOMMIT", tmp_path / "mode")
    settings = Settings(stream_max_memory=bound * MIB)
    assert bool([*machine._forks(settings, 512 * MIB)]) is warned


def test_a_place_for_heartbeats_that_cannot_be_written_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "SHARED_MEMORY", "/nowhere")
    assert machine._heartbeats().mend == "mount -t tmpfs -o mode=1777 tmpfs /nowhere"


@pytest.mark.parametrize(
    ("soft", "hard", "mend"),
    [
        (256, 8192, None),
        (256, 512, "LimitNOFILE=65536  # in the unit that starts it"),
        (4096, 4096, None),
    ],
)
def test_few_open_files_are_few_readers(
    tmp_path: Path, soft: int, hard: int, mend: str | None
) -> None:
    command = f"ulimit -Sn {soft} && ulimit -Hn {hard} && exec {sys.executable} -m plateau_sse"
    env = environment({"DATA_DIR": str(tmp_path / "d"), "PORT": str(free_ports())})
    shown = subprocess.run(
        ["bash", "-c", f"{command} doctor --json"],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        timeout=30,
    )
    findings = {it["check"]: it for it in json.loads(shown.stdout)["findings"]}
    assert findings["machine.open_files"]["mend"] == mend
    assert f"this shell may open {soft} files" in findings["machine.open_files"]["text"]


def test_where_a_serve_runs_its_own_limits_are_looked_at(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    assert machine._whose(settings) == (os.getpid(), "this shell")
    data_dir = DataDir(tmp_path)
    assert machine._whose(settings) == (os.getpid(), f"plateau serve (pid {os.getpid()})")
    data_dir.close()
    with psutil.Popen(["sleep", "60"]) as other:
        soft, _ = other.rlimit(psutil.RLIMIT_NOFILE)
        other.rlimit(psutil.RLIMIT_NOFILE, (200, soft))
        assert "may open 200 files" in machine._open_files(other.pid, "it").text
        other.kill()


# DATA_DIR


def looked_at(path: Path, **settings: str) -> dict[str, str]:
    found = directory.check(Settings(data_dir=path, **settings))  # type: ignore[arg-type]
    return {it.check: f"{it.level}: {it.text}" for it in found}


def test_a_data_dir_is_told_with_who_has_it(tmp_path: Path) -> None:
    path = tmp_path / "some" / "data"
    assert looked_at(path)["data_dir"].startswith("ok: ")
    assert "serve will make it" in looked_at(path)["data_dir"]
    data_dir = DataDir(path)
    assert f"plateau serve (pid {os.getpid()}) has it" in looked_at(path)["data_dir"]
    data_dir.close()
    assert "it can be written, and nothing runs in it" in looked_at(path)["data_dir"]


def test_a_data_dir_that_is_none_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "file is no directory" in looked_at(tmp_path / "file" / "data")["data_dir"]
    (tmp_path / LOCK).symlink_to(LOCK)
    assert looked_at(tmp_path)["data_dir"].startswith("error: ")


def test_a_data_dir_that_cannot_be_written_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    assert looked_at(tmp_path / "data")["data_dir"] == (
        f"error: DATA_DIR={tmp_path / 'data'}: {tmp_path} cannot be written"
    )


def test_a_data_dir_that_is_not_used_is_not_looked_at(tmp_path: Path) -> None:
    both = {"redis_url": "redis://a/0", "cache_redis_url": "redis://b/0"}
    assert looked_at(tmp_path, **both) == {
        "data_dir": "ok: not used: both Redis servers have a URL"
    }


def test_room_on_the_disk_is_needed_thrice(tmp_path: Path) -> None:
    free = psutil.disk_usage(str(tmp_path)).free
    for share, level in ((0.1, "ok"), (0.6, "warning"), (1.5, "error")):
        settings = Settings(data_dir=tmp_path, stream_max_memory=int(share * free))
        (found,) = [it for it in directory.check(settings) if it.check == "data_dir.room"]
        assert found.level == level
        if level != "ok":
            smaller = Settings.from_env(dict([found.mend.split("=")]))
            assert directory._room(smaller, tmp_path).level == "ok"

"""What a data directory says of the serve that has it."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

import pytest

from plateau_sse.serve.data_dir import ADDRESSES, LOCK, DataDir, Running, running

URLS = {"streams": "redis://127.0.0.1:8001/0", "cache": "redis://127.0.0.1:8002/0"}


def test_the_addresses_are_found_while_it_is_had_and_no_longer(tmp_path: Path) -> None:
    path = tmp_path / "data"
    assert running(path) is None
    assert not path.exists(), "looking changes nothing"
    data_dir = DataDir(path)
    assert running(path) == Running(str(os.getpid()), None)
    data_dir.publish(URLS)
    assert running(path) == Running(str(os.getpid()), URLS)
    data_dir.close()
    assert running(path) is None
    assert {entry.name for entry in path.iterdir()} == {LOCK}


def test_the_addresses_are_private_whoever_left_what(tmp_path: Path) -> None:
    data_dir = DataDir(tmp_path)
    (tmp_path / ADDRESSES).touch(0o644)
    data_dir.publish(URLS)
    assert stat.S_IMODE((tmp_path / ADDRESSES).stat().st_mode) == 0o600
    assert {entry.name for entry in tmp_path.iterdir()} == {LOCK, ADDRESSES}
    data_dir.close()


def test_a_killed_serves_addresses_are_nobodys(tmp_path: Path) -> None:
    data_dir = DataDir(tmp_path)
    data_dir.publish(URLS)
    # As the kernel does it.
    os.close(data_dir.lock_fd)
    assert (tmp_path / ADDRESSES).exists()
    assert running(tmp_path) is None
    successor = DataDir(tmp_path)
    assert running(tmp_path) == Running(str(os.getpid()), None)
    successor.close()


def test_looking_lets_others_look_and_take_it(tmp_path: Path) -> None:
    DataDir(tmp_path).close()
    with (tmp_path / LOCK).open() as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        assert running(tmp_path) is None
    DataDir(tmp_path).close()


def test_what_is_no_directory_is_had_by_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert running(tmp_path / "file") is None


def test_a_lock_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    # Root may read what permissions forbid, but no loop.
    (tmp_path / LOCK).symlink_to(LOCK)
    with pytest.raises(OSError):
        running(tmp_path)

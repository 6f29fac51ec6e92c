"""What the kernel says of a process' memory and CPU."""

from __future__ import annotations

import os
import time

import psutil
import pytest

from plateau_sse.ops import process


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

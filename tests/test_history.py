"""What a worker remembers for the ops page: ten minutes of what it has seen."""

from __future__ import annotations

import time

import pytest

from plateau_sse.ops.history import KEPT_S, MOMENTS, History
from plateau_sse.settings import Settings
from plateau_sse.store.figures.workers import REPORT_S
from tests.pictures import HOST, MIB, seen


def history() -> History:
    return History(Settings(), HOST)


def test_a_moment_is_what_the_picture_says() -> None:
    remembered = history()
    remembered.remember(seen())
    (moment,) = remembered.told()
    assert abs(time.time() - moment.at) < 5
    # Two workers, their master and a runner.
    assert (moment.memory_bytes, moment.readers) == (78 * MIB, 6)
    assert moment.events_per_s == 0


def test_what_could_not_be_seen_is_not_0() -> None:
    remembered = history()
    remembered.remember(seen(streams="no answer", depth=None, workers=[], lately_s=0.0))
    (moment,) = remembered.told()
    assert moment[1:] == (None, None, None)


def test_ten_minutes_are_kept_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    # A whole second, so that the first of them is ten minutes old to the last bit.
    remembered, began = history(), float(int(time.time()))
    for number in range(3 * MOMENTS):
        monkeypatch.setattr(time, "time", lambda at=number: began + at * REPORT_S)
        remembered.remember(seen())
    told = remembered.told()
    assert len(told) == MOMENTS
    assert told[-1].at - told[0].at == KEPT_S
    # Of one that has not looked for a while, since it was held up.
    monkeypatch.setattr(time, "time", lambda: told[-1].at + KEPT_S / 2)
    assert len(remembered.told()) == (MOMENTS + 1) // 2
    monkeypatch.setattr(time, "time", lambda: told[-1].at + 2 * KEPT_S)
    assert remembered.told() == []

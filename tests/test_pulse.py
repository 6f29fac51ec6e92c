"""When a stale lease tells of a death: with the clock in the test's hand."""

from __future__ import annotations

import pytest

from plateau_sse.store.redis import pulse
from plateau_sse.store.redis.pulse import Pulse


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pulse, "time", clock)
    return clock


def test_who_looks_for_the_first_time_believes_it(clock: Clock) -> None:
    assert Pulse(pause_s=3, grace_s=6).heard()


def test_a_steady_store_is_believed(clock: Clock) -> None:
    heart = Pulse(pause_s=3, grace_s=6)
    for _ in range(20):
        assert heart.heard()
        clock.now += 2.9


def test_after_a_pause_holders_get_their_time(clock: Clock) -> None:
    heart = Pulse(pause_s=3, grace_s=6)
    heart.heard()
    clock.now += 20
    believed = []
    for _ in range(8):
        believed.append(heart.heard())
        clock.now += 1
    assert believed == [False] * 6 + [True] * 2


def test_a_pause_during_the_grace_begins_it_anew(clock: Clock) -> None:
    heart = Pulse(pause_s=3, grace_s=6)
    heart.heard()
    for pause_s in (10, 4, 5):
        clock.now += pause_s
        assert not heart.heard()
    clock.now += 2
    assert not heart.heard()

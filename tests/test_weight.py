"""When a worker is too heavy, and what it costs to know."""

from __future__ import annotations

import pytest

from plateau_sse.live import weight as weight_module
from plateau_sse.live.guard import Guard
from plateau_sse.live.weight import Weight


class Scale:
    """Shows one after the other; `looks` is how often it was read."""

    def __init__(self, *shown: int) -> None:
        self._shown = list(shown)
        self.looks = 0

    def __call__(self) -> int:
        self.looks += 1
        return self._shown.pop(0)


def test_without_a_bound_nobody_looks() -> None:
    scale = Scale()
    assert not Weight(0, scale).is_too_much and not scale.looks


def test_however_many_ask_it_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scale = Scale(5, 11, 11, 9)
    weight = Weight(10, scale)
    assert [weight.is_too_much for _ in range(100)] == [False] * 100 and scale.looks == 1
    monkeypatch.setattr(weight_module, "LOOK_S", 0.0)
    assert weight.is_too_much and weight.bytes == 11 and scale.looks == 3
    assert not weight.is_too_much


def test_what_nothing_uses_is_given_back_first() -> None:
    scale = Scale(11, 9)
    assert not Weight(10, scale).is_too_much and scale.looks == 2


def test_what_cannot_be_known_is_not_too_much() -> None:
    assert not Weight(10, Scale(0)).is_too_much


def test_a_guard_puts_streams_off_and_counts_them() -> None:
    counted: list[str] = []
    guard = Guard(lambda name, _=1: counted.append(name), weight=Weight(1, Scale(2, 2)))
    assert not guard.takes_stream(0) and not guard.takes_stream(5)
    assert counted == ["streams_put_off"] * 2

"""Dialects that are broken on purpose: the tests of dialects find it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from plateau_sse.dialects import agui, responses, ui_messages
from plateau_sse.live.dialect import Stand
from tests.dialects import test_dialects as dialects
from tests.dialects import test_places as places

Break = Callable[[pytest.MonkeyPatch], None]


def forget_ends_of_responses(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(responses, "_close", lambda *_: None)


def forget_ends_of_agui(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(agui, "_close", lambda _, at: at._replace(open=None))


def forget_ends_of_ui(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ui_messages, "_close", lambda at: (at._replace(open=None), b""))


def repeat_numbers(frames: Any, patch: pytest.MonkeyPatch) -> None:
    add = frames.add

    def add_at_the_same_place(self: Any, *told: Any, **members: Any) -> None:
        place = self._place
        add(self, *told, **members)
        self._place = place

    patch.setattr(frames, "add", add_at_the_same_place)


def share_frames_of_other_positions(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Stand, "is_at", lambda self, other: self.dialect is other.dialect)


# Each with a test that is to find it.
BROKEN: dict[str, tuple[Break, Callable[[], None]]] = {
    "a part of Responses never ends": (
        forget_ends_of_responses,
        lambda: dialects.test_whatever_is_begun_is_ended(dialects.DIALECTS["responses"]),
    ),
    "a part of AG-UI never ends": (
        forget_ends_of_agui,
        lambda: dialects.test_whatever_is_begun_is_ended(dialects.DIALECTS["agui"]),
    ),
    "a part of AI SDK never ends": (
        forget_ends_of_ui,
        lambda: dialects.test_whatever_is_begun_is_ended(dialects.DIALECTS["ui"]),
    ),
    "a number of Responses is repeated": (
        partial(repeat_numbers, responses._Frames),
        lambda: places.test_numbers_only_grow_and_the_rest_follows_behind_each(
            places.ROWS["responses"]
        ),
    ),
    "an id of AG-UI is repeated": (
        partial(repeat_numbers, agui._Frames),
        lambda: places.test_numbers_only_grow_and_the_rest_follows_behind_each(
            places.ROWS["agui"]
        ),
    ),
    "a frame from another position is shared": (
        share_frames_of_other_positions,
        lambda: dialects.test_a_frame_is_right_for_all_who_are_in_one_state(
            dialects.DIALECTS["ui"]
        ),
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_it_is_found(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    broken, finds = BROKEN[name]
    broken(monkeypatch)
    # More than one where it shows in more than one way.
    with pytest.raises((AssertionError, ExceptionGroup)):
        finds()

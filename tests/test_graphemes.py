"""Cutting text: by characters, and never through the middle of what a reader sees as one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plateau_sse.store.conversations.graphemes import PARTS_MOST, cut

FAMILY = "👩‍👩‍👧‍👦"
THUMB = "👍🏽"
FLAG = "🇩🇪"
SCOTLAND = "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f"
ACCENT = "e\u0301"
KEYCAP = "1\ufe0f\u20e3"
HEART = "❤\ufe0f"


@pytest.mark.parametrize(
    "whole", [FAMILY, THUMB, FLAG, SCOTLAND, ACCENT, KEYCAP, HEART, "\r\n"]
)
def test_what_is_one_character_is_kept_or_left_whole(whole: str) -> None:
    text = "ab" + whole + "cd"
    for most in range(len(text) + 1):
        kept = cut(text, most)
        assert len(kept) <= most and text.startswith(kept)
        assert kept == text[:most] or kept == "ab", (most, kept)
    assert cut(text, 2) == "ab"
    assert cut(text, 2 + len(whole)) == "ab" + whole


def test_flags_are_counted_from_where_they_begin() -> None:
    text = "🇩🇪🇫🇷🇮🇹🇪🇸"
    assert [cut(text, most) for most in (1, 2, 3, 4, 5)] == [
        "",
        text[:2],
        text[:2],
        text[:4],
        text[:4],
    ]


def test_a_heap_of_marks_is_cut_all_the_same() -> None:
    text = "a" + "\u0301" * 1000
    assert len(cut(text, 200)) == 200
    assert PARTS_MOST < 200


@given(st.text(), st.integers(0, 60))
def test_a_cut_is_a_beginning_within_the_bound(text: str, most: int) -> None:
    kept = cut(text, most)
    assert text.startswith(kept) and len(kept) <= most
    assert len(text) > most or kept == text


@given(st.text(st.characters(max_codepoint=0x2FF, exclude_characters="\r\n")))
def test_letters_alone_are_counted_out(text: str) -> None:
    assert cut(text, 20) == text[:20]

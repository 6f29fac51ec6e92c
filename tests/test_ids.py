"""Ids: they order as positions do, tell their age, and nothing else passes for one."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plateau_sse.store.redis import keys
from plateau_sse.store.runs import ids

NUMBERS = st.tuples(st.integers(1, 999_999_999), st.integers(0, 999_999_999))
TAGS = st.sampled_from(["", "3fa29c", "000000"])


@given(NUMBERS, NUMBERS)
def test_numbers_order_as_positions_do(one: tuple[int, int], other: tuple[int, int]) -> None:
    assert (ids.number(*one) < ids.number(*other)) == (one < other)
    assert 0 < ids.number(*one)


@given(NUMBERS, TAGS)
def test_an_event_id_is_shown_and_read_back(pair: tuple[int, int], tag: str) -> None:
    number = ids.number(*pair)
    assert ids.split(number) == pair
    assert ids.show(number) == f"{pair[0]}-{pair[1]}"
    shown = f"{tag}-{ids.show(number)}" if tag else ids.show(number)
    assert ids.parse(shown) == ids.seen(shown) == ids.seen(f" {shown} ") == (number, tag)


@pytest.mark.parametrize(
    "text",
    [
        *("", "-", "1", "1-", "-1", "0-1", "01-1", "1-01", "1-00", "+1-1", "1--1", "1-1-1"),
        *(" 1-1", "1-1 ", "1-1\n", "1.0-1", "1_0-1", "0x1-1", "a-b", "None", "*", "$", "0"),
        *("1234567890-1", "1-1234567890", "1-" + "9" * 10_000, "١-١", "1\u20101", "²-1"),
        *("3fa29-1-1", "3fa29cc-1-1", "3FA29C-1-1", "3fa29g-1-1", "-1-1", "3fa29c-", "3fa29c"),
        *("3fa29c-0-1", "3fa29c-1-1-1", "3fa29c-1", "3fa29c--1-1"),
    ],
)
def test_anything_else_is_no_event_id(text: str) -> None:
    with pytest.raises(ValueError, match="not an event id") as caught:
        ids.parse(text)
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "0", "null", "undefined", "None", "a-b", "*", "-1", "1690000000000-0"),
        *("0-0", "0-1", "1-1-1", "3FA29C-1-1", "abcdefg-1-1", "1700000000000-1-1"),
    ],
)
def test_what_is_none_of_ours_is_no_position(text: str) -> None:
    assert ids.seen(text) == ids.NOTHING_SEEN == (0, "")


@pytest.mark.parametrize(
    "text", ["1-", "1-01", "1-1x", "3fa29c-1-", "3fa29c-1-1x", "3fa29c-01-1", "1-1234567890"]
)
def test_one_of_ours_that_is_damaged_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an event id"):
        ids.seen(text)


@given(st.text())
def test_no_text_does_worse_than_being_refused(text: str) -> None:
    try:
        number, tag = ids.parse(text)
    except ValueError:
        return
    assert (f"{tag}-" if tag else "") + ids.show(number) == text


@pytest.mark.parametrize(
    ("before", "head", "follows"),
    [
        # Before everything.
        ("1-0", None, True),
        ("2-0", None, True),
        ("1-1", None, False),
        # Where it begins is where it goes on.
        ("1-1", "1-1", True),
        ("1-7", "1-7", True),
        ("1-8", "1-7", False),
        ("1-6", "1-7", False),
        ("1-0", "1-7", False),
        # A later attempt begins with it.
        ("2-0", "1-7", True),
        ("3-0", "1-7", True),
        ("2-0", "2-0", True),
        ("2-1", "1-7", False),
        ("2-7", "1-7", False),
        ("1-0", "2-7", False),
        ("2-0", "2-7", False),
    ],
)
def test_what_can_follow_what(before: str, head: str | None, follows: bool) -> None:
    seen = 0 if head is None else ids.parse(head).number
    assert ids.follows(ids.parse(before).number, seen) is follows


def test_a_tag_is_the_run_s_own() -> None:
    tags = {ids.tag_of(ids.new_run_id()) for _ in range(200)}
    # Random characters, none of the time: of runs that were made in one instant, too.
    assert len(tags) > 190 and all(len(tag) == 6 for tag in tags)
    run_id = ids.new_run_id()
    assert ids.parse(f"{ids.tag_of(run_id)}-1-5") == (ids.number(1, 5), ids.tag_of(run_id))


def test_a_run_id_begins_with_its_time_and_is_its_own() -> None:
    before = time.time()
    made = [ids.new_run_id() for _ in range(1000)]
    assert len(set(made)) == 1000
    assert all(ids.RUN_ID.fullmatch(run_id) for run_id in made)
    created = [time.time() - ids.age_s(run_id) for run_id in made]
    assert before - 0.1 <= min(created) and max(created) <= time.time() + 0.1
    assert [run_id[:12] for run_id in made] == sorted(run_id[:12] for run_id in made)
    # An old one is old; the smallest there is does not fail.
    assert ids.age_s("0" * 32) == pytest.approx(time.time(), abs=5)


@pytest.mark.parametrize(
    "text", ["", "0" * 31, "0" * 33, "G" * 32, "A" * 32, "0" * 31 + "\n", "hit-" + "0" * 24]
)
def test_anything_else_is_no_run_id(text: str) -> None:
    assert ids.RUN_ID.fullmatch(text) is None


def test_a_hit_is_not_a_run() -> None:
    found = ids.HIT_ID.fullmatch("hit-" + "0" * 24)
    assert found is not None and found[1] == "0" * 24
    assert ids.HIT_ID.fullmatch("0" * 24) is None


def test_tokens_have_128_bits_and_fit_into_a_url() -> None:
    tokens = {ids.new_token() for _ in range(1000)}
    assert len(tokens) == 1000
    for token in tokens:
        assert len(token) == 22 and token.replace("-", "").replace("_", "").isalnum()


def test_the_keys_of_a_run_are_on_one_node() -> None:
    run_id = ids.new_run_id()
    key = keys.run(run_id)
    assert key.record == "run:{" + run_id + "}"
    assert list(key) == [
        key.record + suffix for suffix in ("", ":text", ":events", ":tokens", ":marks")
    ]
    assert keys.channel(run_id) == key.record
    assert keys.channel(run_id) == keys.run(run_id).record

"""Who speaks where several do at once."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from plateau_sse.agents import AgentError, ToolCall, ToolDelta, Yielded
from plateau_sse.agents.hosting.floor import WAITING_CHARS, Floor


def test_whoever_began_first_is_told_as_it_comes() -> None:
    floor = Floor()
    assert list(floor.say("a", "1")) == ["1"]
    assert list(floor.say("b", "x")) == []
    assert list(floor.say("a", "2")) == ["2"]
    assert list(floor.end("a")) == ["x"]
    # The next is told as it comes, too.
    assert list(floor.say("b", "y")) == ["y"]


def test_any_number_side_by_side_is_told_one_after_the_other() -> None:
    draws = random.Random(7)
    for _ in range(200):
        left = {name: [f"{name}{n}" for n in range(draws.randint(1, 5))] for name in "abcd"}
        whole = {name: list(words) for name, words in left.items()}
        floor, told = Floor(), list[Yielded]()
        while left:
            name = draws.choice(sorted(left))
            if left[name]:
                told += floor.say(name, left[name].pop(0))
            else:
                del left[name]
                told += floor.end(name)
        told += floor.rest()
        assert sorted(map(str, told)) == sorted(it for words in whole.values() for it in words)
        for name, words in whole.items():
            at = told.index(words[0])
            assert told[at : at + len(words)] == words, (name, told)


def test_of_a_call_that_waits_no_drafts_are_kept() -> None:
    """Each holds all of its arguments so far; the whole call follows."""
    floor = Floor()
    list(floor.say("a", "1"))
    call = ToolCall("c1", "write", "x" * 10_000)
    for size in range(0, 10_000, 4):
        assert list(floor.say("b", ToolDelta("c1", "write", "x" * size))) == []
    assert list(floor.say("b", call)) == []
    assert list(floor.end("a")) == [call]
    # Who is told as it comes is seen writing.
    draft = ToolDelta("c2", "write", "y")
    assert list(floor.say("b", draft)) == [draft]


def test_what_waits_has_a_bound() -> None:
    floor = Floor()
    list(floor.say("a", "1"))

    def much() -> Iterator[Yielded]:
        while True:
            yield from floor.say("b", "x" * (WAITING_CHARS // 4))

    with pytest.raises(AgentError) as caught:
        list(much())
    assert caught.value.code == "output_too_large"

"""What is new of a request to an agent that remembers, by what it says and by what was said."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plateau_sse.agents import Memory, Message, Run
from plateau_sse.agents.hosting.exchange import new_in, note
from plateau_sse.agents.memory.said import DIGESTS_MOST, Said, digests_of

CUT = "[cancelled]"


def messages_of(words: str) -> list[Message]:
    """`u1 a1`: the user's and the agent's, by their first letters; `t`: a tool's, `s`: the
    system's, `b`: an answer that Plateau knows to have been broken off."""
    roles = {"u": "user", "a": "assistant", "t": "tool", "s": "system", "b": "assistant"}
    return [
        Message(roles[it[0]], f"{it} … {CUT}" if it[0] == "b" else it) for it in words.split()
    ]


def words_of(messages: Sequence[Message]) -> str:
    return " ".join(it.text.partition(" ")[0] for it in messages)


def run_of(words: str, conversation: str | None = None, replaced: int = 0) -> Run:
    memory = Memory(b"x", replaced=replaced)
    return Run("r", "a", "", messages_of(words), conversation=conversation, memory=memory)


def said_of(turns: str) -> Said:
    """`u1|u2,u3`: turns of two messages of the memory each."""
    said, count = Said(), 0
    for turn in turns.split("|") if turns else ():
        said.begin(digests_of(messages_of(turn.replace(",", " "))), count)
        count += 2
    return Said(said.told(count), count)


HISTORIES = {
    "goes on": ("u1|u2", "u1 a1 u2 a2 u3", 2, "u3"),
    "with its instructions": ("u1", "s u1 a1 u2", 1, "u2"),
    "was stopped": ("u1", "u1 a1 u2 a2 u3", 1, "u2 a2 u3"),
    "was stopped twice": ("u1", "u1 a1 u2 u3 a3 u4", 1, "u2 u3 a3 u4"),
    "after one that was": ("u1|u2,u3", "u1 a1 u2 a2 u3 a3 u4", 2, "u4"),
    "asks again": ("u1|u2", "u1 a1 u2", 1, "u2"),
    "asks again at once": ("u1", "s u1", 0, "s u1"),
    "asks again what was broken off": ("u1", "u1 a1 u2", 1, "u2"),
    "asks again, behind one that was stopped": ("u1|u2,u3", "u1 a1 u2 a2 u3", 1, "u2 a2 u3"),
    "asks an earlier one again": ("u1|u2|u3", "u1 a1 u2", 1, "u2"),
    "is edited": ("u1|u2|u3", "u1 a1 u2 a2 u4", 2, "u4"),
    "is edited at first": ("u1|u2", "u9", 0, "u9"),
    "is edited within a turn": ("u1|u2,u3", "u1 a1 u2 a2 u9", 1, "u2 a2 u9"),
    "says the same": ("u1", "u1 a1 u1", 1, "u1"),
    "says the same all the time": ("u1|u1|u1", "u1 a1 u1 a1 u1 a1 u1", 3, "u1"),
    "has the end of it": ("u1|u2|u3", "u2 a2 u3 a3 u4", 3, "u4"),
    "has the end of it, and asks again": ("u1|u2|u3", "u2 a2 u3", 2, "u3"),
    "has the results of calls": ("u1|u2", "u1 a1 u2 a2 t2", 2, "t2"),
    "has results, and goes on": ("u1|u2", "u1 a1 u2 a2 t2 u3", 2, "t2 u3"),
    "has results alone": ("u1|u2", "a2 t2", 2, "t2"),
    "has no digests": ("", "u1 a1 u2 a2 u3", 0, "u3"),
    "has an end that is not known": ("u1|u2", "a5 u6", 2, "u6"),
    "has nothing that is known": ("u1|u2", "u5 u6", 2, "u5 u6"),
}


@pytest.mark.parametrize("case", HISTORIES)
def test_a_client_that_has_the_history(case: str) -> None:
    turns, words, stays, new = HISTORIES[case]
    found = new_in(run_of(words), said_of(turns))
    assert (found[0], words_of(found[1])) == (stays, new)


# What Plateau itself puts before what is new is a part of it, and may be cut.
CONVERSATIONS = {
    "goes on": ("u1|u2", "u1 a1 u2 a2 u3", 0, 2, "u3"),
    "the context is its end": ("u1|u2", "a2 u3", 0, 2, "u3"),
    "there is no context": ("u1|u2", "u3", 0, 2, "u3"),
    "says the same": ("u1|u1", "u1 a1 u1", 0, 2, "u1"),
    "says the same without a context": ("u1", "u1", 0, 1, "u1"),
    "another agent was asked": ("u1", "u1 a1 u2 a2 u3", 0, 1, "u3"),
    "was stopped": ("u1", "u1 a1 u2 b2 u3", 0, 1, "u2 b2 u3"),
    "was stopped twice": ("u1", "u1 a1 u2 b2 u3 b3 u4", 0, 1, "u2 b2 u3 b3 u4"),
    "was stopped without a word": ("u1", "u1 a1 u2 u3", 0, 1, "u2 u3"),
    "was stopped at first": ("", "u2 b2 u3", 0, 0, "u2 b2 u3"),
    "its question is forgotten": ("u1", "b2 u3", 0, 1, "u3"),
    "asks again": ("u1|u2", "u1 a1 u2", 1, 1, "u2"),
    "asks again at once": ("u1", "u1", 1, 0, "u1"),
    "asks again what was broken off": ("u1", "u1 a1 u2", 1, 1, "u2"),
    "asks again what was said before, too": ("u2|u1", "u2 a2 u1 a1 u2", 1, 2, "u2"),
    "asks the same again, which has failed": ("u1|u2", "u1 a1 u2 a2 u2", 1, 2, "u2"),
    "asks the same again": ("u1|u2|u2", "u1 a1 u2 a2 u2", 1, 2, "u2"),
    "asks the same again, of which it has the end": ("u1|u2|u2", "u2 a2 u2", 1, 2, "u2"),
    "says the same all the time, which has failed": ("u2|u2", "u2 a2 u2 a2 u2", 1, 2, "u2"),
    "asks again, behind others": ("u1|u2|u3", "u1 a1 u2", 2, 1, "u2"),
}


@pytest.mark.parametrize("case", CONVERSATIONS)
def test_a_client_that_has_what_is_new(case: str) -> None:
    turns, words, replaced, stays, new = CONVERSATIONS[case]
    found = new_in(run_of(words, "c", replaced), said_of(turns))
    assert (found[0], words_of(found[1])) == (stays, new)


def test_what_was_asked_while_something_waits_is_told() -> None:
    """Also where nothing came of it."""
    for words in ("u1 a1 u2 u3 u4", "u1 a1 u2 u3 b3 u4"):
        stays, new = new_in(run_of(words, "c"), said_of("u1|u2"), waits=True)
        assert (stays, words_of(new)) == (2, words.partition("u2 ")[2])
    # Its question is not known.
    assert words_of(new_in(run_of("u1 a1 u2 u3", "c"), said_of(""), waits=True)[1]) == "u3"


def test_a_checkpointer_that_has_what_failed_is_not_told_it_again() -> None:
    run, said = run_of("u1 a1 u2 u3 u4", "c"), said_of("u1|u2|u3")
    assert words_of(new_in(run, said, keeps_broken=True)[1]) == "u4"
    # Whoever has not is.
    assert words_of(new_in(run, said_of("u1"))[1]) == "u2 u3 u4"
    run = run_of("u1 a1 u2 b2 u3", "c")
    assert words_of(new_in(run, said_of("u1|u2"), keeps_broken=True)[1]) == "u3"


def test_a_text_that_was_cut_is_no_edit() -> None:
    said = Said()
    note(run_of("u1"), said, [Message("user", "as much as there was …")], 0, joins=False)
    run = Run(
        "r", "a", "", [Message("user", "as much as there was room for"), *messages_of("a u2")]
    )
    assert words_of(new_in(run, Said(said.told(2), 2))[1]) == "u2"


def test_a_memory_without_digests_has_what_its_client_has_said() -> None:
    run, said = run_of("u1 a1 u2 a2 u3"), Said()
    note(run, said, run.messages[-1:], 4, joins=False)
    assert said.digests == digests_of(run.messages)
    assert [it.begins for it in said.turns] == [0, 4]
    # In a conversation what was said before is not known.
    run, said = run_of("u1 a1 u2 a2 u3", "c"), Said()
    note(run, said, run.messages[-1:], 4, joins=False)
    assert said.digests == digests_of(run.messages[-1:])


def test_a_memory_goes_back_by_whole_turns() -> None:
    said = said_of("u1|u2|u3")
    assert (said.back_to(2), said.digests) == (4, digests_of(messages_of("u1 u2")))
    # The oldest exchange gave way, and of the next one a part.
    said = Said(said_of("u1|u2|u3").told(6), 3)
    assert (said.back_to(2), len(said.turns)) == (1, 2)
    said = Said(said_of("u1|u2|u3").told(6), 3)
    assert (said.back_to(1), said.turns) == (0, [])
    # What others have made smaller goes back to nothing.
    said = said_of("u1|u2")
    said.begin(["d"], 4)
    (turn,) = Said(said.told(3), 3).turns
    assert (turn.begins, len(turn.digests)) == (0, 3)
    # What has left nothing is not known.
    said = said_of("u1")
    said.begin(["d"], 2)
    assert len(Said(said.told(2), 2).turns) == 1


@pytest.mark.parametrize("told", ["", "x", "1", "0 x", "0 1:a 2", "z 1:a", "\x00"])
def test_what_cannot_be_read_says_nothing(told: str) -> None:
    said = Said(told, 4)
    assert said.turns == [] and new_in(run_of("u1 a1 u2"), said)[0] == 0


@given(st.lists(st.integers(0, 30), min_size=1, max_size=20), st.booleans())
def test_however_long_it_goes_on_only_what_is_new_is_new(sizes: list[int], joins: bool) -> None:
    """Each run is told some messages, the others before the last being those of runs that
    were stopped; their digests are bounded."""
    words, told, size = "", "", 0
    for number, count in enumerate(sizes):
        new = " ".join(f"u{number}.{at} a{at}" for at in range(count)) + f" u{number}"
        run, said = run_of(f"{words} {new}"), Said(told, size)
        turns, found = new_in(run, said) if told else (0, run.messages)
        assert turns == len(said.turns)
        assert words_of(found) == words_of(messages_of(new))
        note(run, said, found, size, joins=joins)
        size += 2
        words, told = f"{words} {new} a{number}", said.told(size)
        assert len(said.digests) <= DIGESTS_MOST and len(told) < DIGESTS_MOST * 16

"""Questions and answers as the cache knows them: keys that meet only where they should, and
answers that come out as they went in."""

from __future__ import annotations

import time
from base64 import urlsafe_b64decode
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plateau_sse.store.answers import packing
from plateau_sse.store.answers.answer import Answer, answer_of
from plateau_sse.store.answers.cache import Question, agent_tag, key_of
from plateau_sse.store.answers.packing import pack, unpack
from plateau_sse.store.redis import keys
from plateau_sse.store.runs import events, ids
from plateau_sse.store.runs.tape import Inside, Tape
from tests.store import answer, decoded, done, tape_of, texts


def question(**changed: Any) -> Question:
    messages = [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Why?"}]
    usual = Question("notes", "1", "ann", "u1", "", messages, {"task": "quiz", "n": 1})
    return usual._replace(**changed)


def test_a_key_is_128_bits_behind_its_agent_and_stays_the_same() -> None:
    key = key_of(question())
    assert ids.HIT_ID.fullmatch(f"hit-{key}")
    assert len(urlsafe_b64decode(key[2:] + "==")) == 16
    assert key[:2] == agent_tag("notes") == key_of(question(user="u2"))[:2]
    # With its prefix it fills an allocation of 32 bytes, and not one of 48.
    assert len(keys.cache(key)) == 30
    assert key_of(question()) == key_of(question())


def test_the_order_of_members_does_not_matter() -> None:
    options = {"b": {"y": [1, {"q": 1, "p": 2}], "x": None}, "a": 1, "é": 2, "雪": 3}
    turned = {"雪": 3, "é": 2, "a": 1, "b": {"x": None, "y": [1, {"p": 2, "q": 1}]}}
    assert list(options) != list(turned)
    assert key_of(question(options=options)) == key_of(question(options=turned))
    messages = [{"content": "Why?", "role": "user"}]
    same = [{"role": "user", "content": "Why?"}]
    assert key_of(question(messages=messages)) == key_of(question(messages=same))


def test_every_part_of_a_question_makes_a_key_of_its_own() -> None:
    user = {"role": "user", "content": "Why?"}
    different = [
        question(),
        question(agent="notes2"),
        question(version="2"),
        question(owner="bob"),
        question(owner=""),
        question(user="u2"),
        question(user=""),
        question(conversation="c1"),
        # What one part ends with is not what the next begins with.
        question(owner="annu", user="1"),
        question(agent="notes1", version=""),
        question(messages=[]),
        question(messages=[user]),
        question(messages=[user, user]),
        question(messages=[{"role": "assistant", "content": "Why?"}]),
        question(messages=[{"role": "user", "content": "Why? "}]),
        question(messages=[{"role": "user", "content": "why?"}]),
        question(messages=[user, {"role": "system", "content": "Be brief"}]),
        question(messages=[{"role": "system", "content": "Be brief"}, user, user]),
        # The same to the eye, not to an agent.
        question(messages=[{"role": "user", "content": "\u00e9"}]),
        question(messages=[{"role": "user", "content": "e\u0301"}]),
    ]
    assert len({key_of(each) for each in different}) == len(different)


def test_options_of_different_types_are_different_options() -> None:
    """JSON tells `1`, `1.0`, `"1"` and `true` apart, and so may an agent."""
    values = [1, 1.0, "1", "1.0", True, "true", None, "null", [1], ["1"], [[1]], {}, [], ""]
    values += [0, 0.0, -0.0, False, 2, 10**20, 1e20, 0.1, {"n": 1}, {"n": 1.0}, {"n": None}]
    made = [key_of(question(options={"n": value})) for value in values]
    assert len(set(made)) == len(values)
    assert key_of(question(options={})) not in made
    nested = [key_of(question(options={"deep": [{"n": value}]})) for value in values]
    assert len({*made, *nested}) == 2 * len(values)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


def turned_round(value: Any) -> Any:
    """An equal value whose members come in the opposite order."""
    if isinstance(value, dict):
        return {name: turned_round(value[name]) for name in reversed(value)}
    return [turned_round(item) for item in value] if isinstance(value, list) else value


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(max_size=3), JSON), st.dictionaries(st.text(max_size=3), JSON))
def test_keys_are_equal_where_the_options_are(one: Any, other: Any) -> None:
    key = key_of(question(options=one))
    assert key == key_of(question(options=turned_round(one)))
    # `repr` of what has been through JSON tells True from 1.
    same = repr(sorted_deeply(one)) == repr(sorted_deeply(other))
    assert (key == key_of(question(options=other))) == same


def sorted_deeply(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: sorted_deeply(value[name]) for name in sorted(value)}
    return [sorted_deeply(item) for item in value] if isinstance(value, list) else value


def test_a_million_different_questions_have_a_million_keys() -> None:
    usual = [{"role": "user", "content": "Why?"}]
    digests = set()
    for number in range(250_000):
        digests.add(key_of(question(options={"n": number}, messages=usual)))
        digests.add(key_of(question(user=f"u{number}", messages=usual)))
        digests.add(key_of(question(conversation=f"u{number}", messages=usual)))
        other = [{"role": "user", "content": f"u{number}"}]
        digests.add(key_of(question(messages=other)))
    assert len(digests) == 1_000_000


# Values

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
VALUES = TEXT | st.integers(-(2**40), 2**40) | st.none() | st.lists(TEXT, max_size=2)
MARKS = st.one_of(
    st.builds(events.tool_call, TEXT, TEXT, VALUES),
    st.builds(events.tool_result, TEXT, VALUES),
    st.builds(events.tool_error, TEXT, TEXT),
    st.builds(events.source, TEXT, url=TEXT),
    st.builds(events.data, TEXT, VALUES, TEXT),
    st.builds(events.step, TEXT),
)
DELTAS = st.builds(events.delta, TEXT, st.sampled_from(["t", "r"]))
COUNTS = st.integers(0, 2**53)
USAGE = st.none() | st.fixed_dictionaries(
    {"input_tokens": COUNTS, "output_tokens": COUNTS},
    optional={"cached_input_tokens": COUNTS, "reasoning_tokens": COUNTS},
)


@st.composite
def tapes(draw: st.DrawFn) -> Tape:
    """As far as it has come before its end."""
    tape = tape_of(ids.new_run_id(), attempt=draw(st.integers(1, 300)))
    for event in draw(st.lists(DELTAS | MARKS, max_size=12)):
        if event.op in ("t", "r") and tape.parts and draw(st.booleans()):
            # Goes on with an earlier part, which opens one of its own.
            continued = draw(st.integers(0, tape.parts - 1))
            kind: Any = event.op
            event = events.delta(event.arg, kind, f"{tape.parts} {continued}")
        tape.add(event)
    return tape


ANSWERS = st.fixed_dictionaries(
    {
        "output": st.none() | TEXT,
        "usage": USAGE,
        "model": st.none() | TEXT,
        "agent": TEXT,
        "owner": TEXT | st.sampled_from(["anonymous", "a1" * 12]),
        "duration_ms": COUNTS,
        "finish_reason": st.sampled_from(["stop", "tool_calls"]),
    }
)


@settings(max_examples=400, deadline=None)
@given(tape=tapes(), said=ANSWERS, has_ended=st.booleans())
def test_what_comes_out_is_what_went_in(tape: Tape, said: Any, has_ended: bool) -> None:
    run_id = ids.new_run_id()
    whole = Tape(tape.attempt, bytes(tape.text), tape.points)
    whole.add(done())
    answer = answer_of(tape=whole if has_ended else tape, run_id=run_id, **said)
    found = unpack(pack(answer))
    assert found is not None and found == answer
    assert found.tag == ids.tag_of(run_id)
    assert found.final == (tape.said() if said["output"] is None else said["output"])
    # As it was, from every position, but for what names the run and how it ended.
    again = found.tape(run_id)
    assert (again.at, again.shown()) == (whole.at, whole.shown())
    assert again.said("r") == whole.said("r")
    for at in range(1, whole.at):
        try:
            entries = whole.entries(at)
        except Inside:
            with pytest.raises(Inside):
                again.entries(at)
        else:
            assert again.entries(at)[:-1] == entries[:-1]
            assert again.entries(at)[-1].number == entries[-1].number
    assert again.entries(whole.at) == []


@given(said=ANSWERS)
def test_a_hit_begins_and_ends_as_the_run_that_is_asked_about(said: dict[str, Any]) -> None:
    tape = tape_of(ids.new_run_id(), *texts("Because."), attempt=3)
    found = answer_of(tape=tape, run_id=ids.new_run_id(), **said).tape("hit-x")
    first, _, last = (decoded(entry.data) for entry in found.entries())
    assert first == {
        "type": "run.started",
        "run": "hit-x",
        "agent": said["agent"],
        "attempt": 3,
    }
    end = {name: said[name] for name in ("finish_reason", "usage", "model", "duration_ms")}
    end |= {"type": "run.completed", "cached": True}
    assert last == (end if said["output"] is None else end | {"output": said["output"]})


def test_the_usual_answer_costs_its_tag_and_no_more() -> None:
    """24 bytes of head and a byte for its duration; beside its text the agent's name, 0xff and
    what zstd needs."""
    usual = pack(answer("", agent="n", owner="anonymous"))
    assert len(usual) <= 25 + len(b"n\xff") + 5
    model = pack(answer("", agent="n", owner="anonymous", model="m"))
    assert len(model) <= len(usual) + 2


def test_an_empty_output_is_not_no_output() -> None:
    with_output, without = unpack(pack(answer(output=""))), unpack(pack(answer()))
    assert with_output is not None and without is not None
    assert with_output.final == "" and without.final == "Because."


def test_thoughts_are_no_part_of_what_is_said_in_the_end() -> None:
    tape = tape_of(
        "", events.delta("Hm.", "r"), *texts("Be"), events.step("2"), *texts("cause")
    )
    made = answer_of(tape=tape, run_id=ids.new_run_id(), **USUAL)
    assert (made.text, made.final) == (b"Hm.Because", "Because")


USUAL: dict[str, Any] = {
    "agent": "notes",
    "owner": "ann",
    "output": None,
    "usage": None,
    "duration_ms": 5,
}


def test_an_answer_knows_when_it_was_made_and_has_a_token_of_its_own() -> None:
    tape = tape_of("", *texts("t"))
    made = [answer_of(tape=tape, run_id=ids.new_run_id(), **USUAL) for _ in range(2)]
    assert made[0].token != made[1].token and len(made[0].token) >= 22
    assert abs(made[0].stored_s - time.time()) < 5
    assert unpack(pack(made[0])) == made[0]


RICH = tape_of(
    "",
    events.delta("A thought, hé. ", "r"),
    events.tool_call("1", "look", {"at": 1}),
    events.tool_error("1", "nothing there"),
    *texts("An answer that is long enough to be damaged in many places. 雪🏔"),
    events.delta("Another", "r", "2 0"),
)
WHOLE = [
    answer("An answer that is long enough to be damaged in many places."),
    answer_of(tape=RICH, run_id=ids.new_run_id(), **USUAL),
]


@pytest.mark.parametrize("whole", WHOLE, ids=["text", "rich"])
def test_a_damaged_entry_is_a_miss(whole: Answer) -> None:
    packed = pack(whole)
    for at in range(len(packed)):
        assert unpack(packed[:at]) is None
        # One that can be read all the same is of the right shape, not an error.
        for bit in range(8):
            check(unpack(packed[:at] + bytes([packed[at] ^ 1 << bit]) + packed[at + 1 :]))


def check(found: Answer | None) -> None:
    """Whatever it says, it can be told."""
    if found is not None:
        tape = found.tape("hit-x")
        said = tape.entries()
        assert said[-1].number == ids.number(tape.attempt, tape.at)
        tape.shown()
        assert isinstance(found.final, str)


@pytest.mark.parametrize(
    ("shape", "text", "marks"),
    [
        ("t", "text", [b'{"type":"step"}']),
        ("t m", "text", []),
        ("t m", "text", [b"[1]"]),
        ("t m", "text", [b'{"kind":"step"}']),
        ("t 9m", "text", [b'{"type":"step"}']),
        ("t 1m", "é", [b'{"type":"step"}']),
        ("m", "text", [b'{"type":"step"}']),
        ("3t", "text", []),
        ("t 2m 1t", "text", [b'{"type":"step"}']),
        ("x", "text", []),
        ("t 12345678t", "text", []),
        ("", "text", []),
    ],
)
def test_what_is_no_tape_is_a_miss(shape: str, text: str, marks: list[bytes]) -> None:
    more = msgspec.json.encode([None, None, 1, shape])
    rest = b"\xff".join([b"notes", text.encode(), more, *marks])
    whole = pack(answer(text, owner="anonymous"))
    # Of one that says more: head, duration, and this.
    packed = bytes([32]) + whole[1:25] + packing.compressor(packing.DICTIONARY).compress(rest)
    assert unpack(packed) is None


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_an_entry_of_another_shape_is_a_miss(content: bytes) -> None:
    check(unpack(content))

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

from plateau_sse.store.answers.cache import Question, agent_tag, answer_of, key_of
from plateau_sse.store.answers.packing import Answer, pack, unpack
from plateau_sse.store.redis import keys
from plateau_sse.store.runs import ids
from tests.store import ANSWER_TOKEN, answer


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

TOOLS = st.lists(JSON.map(lambda value: msgspec.Raw(msgspec.json.encode(value))), max_size=3)
USAGE = st.none() | st.fixed_dictionaries(
    {"input_tokens": st.integers(0, 2**53), "output_tokens": st.integers(0, 2**53)}
)


@settings(max_examples=200, deadline=None)
@given(
    text=st.text(),
    output=st.none() | st.text(),
    usage=USAGE,
    tools=TOOLS,
    names=st.tuples(
        st.text(max_size=5), st.text(max_size=5) | st.sampled_from(["anonymous", "a1" * 12])
    ),
    reason=st.sampled_from(["stop", "tool_calls"]),
)
def test_what_comes_out_is_what_went_in(
    text: str, output: str | None, usage: Any, tools: Any, names: tuple[str, str], reason: Any
) -> None:
    before = Answer(text, 1, ANSWER_TOKEN, 0, usage, output, tools, *names, reason)
    after = unpack(pack(before))
    assert after is not None
    assert after.text.encode() == text.encode() and after.output == output
    assert (after.usage, after.agent, after.owner) == (usage, *names)
    assert [bytes(tool) for tool in after.tools] == [bytes(tool) for tool in tools]
    assert after.finish_reason == reason
    assert (after.stored_s, after.token, after.duration_ms) == (1, ANSWER_TOKEN, 0)
    assert after.final == (text if output is None else output)


def test_an_empty_output_is_not_no_output() -> None:
    with_output, without = unpack(pack(answer(output=""))), unpack(pack(answer()))
    assert with_output is not None and without is not None
    assert with_output.final == "" and without.final == "Because."


def test_an_answer_knows_when_it_was_made_and_has_a_token_of_its_own() -> None:
    made = [
        answer_of(
            agent="notes",
            owner="ann",
            text="t",
            output=None,
            usage=None,
            tools=[b'{"type":"tool.call"}'],
            duration_ms=5,
            finish_reason="stop",
        )
        for _ in range(2)
    ]
    assert made[0].token != made[1].token and len(made[0].token) >= 22
    assert abs(made[0].stored_s - time.time()) < 5
    assert unpack(pack(made[0])) == made[0]


@pytest.mark.parametrize("at", range(0, 60, 3))
def test_a_damaged_entry_is_a_miss(at: int) -> None:
    packed = pack(answer("An answer that is long enough to be damaged in many places."))
    assert unpack(packed[:at]) is None
    # One that can be read all the same is of the right shape, not an error.
    unpack(packed[:at] + bytes([packed[at] ^ 0xFF]) + packed[at + 1 :])


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_an_entry_of_another_shape_is_a_miss(content: bytes) -> None:
    found = unpack(content)
    assert found is None or isinstance(found.text, str)

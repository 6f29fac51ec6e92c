"""Reading requests: bodies, positions and preferences."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plateau_sse.api.bodies import DEPTH_MOST
from plateau_sse.api.messages import MESSAGES_MOST
from plateau_sse.api.requests import (
    WAIT_MOST_S,
    RunRequest,
    check_run_id,
    parse_run,
    seen_of,
    wait_of,
)
from plateau_sse.errors import Problem
from plateau_sse.store.runs import ids

USER = {"role": "user", "content": "Hi"}
MIB = 1024 * 1024


def parsed(**members: Any) -> RunRequest:
    return parse_run(json.dumps({"agent": "notes", **members}).encode())


def refused(**members: Any) -> Problem:
    with pytest.raises(Problem) as caught:
        parsed(**members)
    return caught.value


def nested(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = {"a": value} if level % 2 else [value]
    return value


def test_the_defaults_of_a_request() -> None:
    request = parsed(input="Hi")
    assert (request.agent, request.user, request.options) == ("notes", "", {})
    assert (request.cache.mode, request.cache.ttl_s) == ("use", None)
    assert request.exchange() == [USER]


def test_a_whole_request() -> None:
    exchange = [{"role": "system", "content": "Be brief."}, USER]
    request = parsed(
        messages=exchange,
        user="ann",
        options={"length": 3},
        cache={"mode": "refresh", "ttl_s": 60},
    )
    assert request.exchange() == exchange
    assert (request.user, request.options) == ("ann", {"length": 3})
    assert (request.cache.mode, request.cache.ttl_s) == ("refresh", 60)


def test_requests_share_no_defaults() -> None:
    assert parsed(input="Hi").options is not parsed(input="Hi").options


@pytest.mark.parametrize(
    "members",
    [
        {"input": " x "},
        {"input": "x", "messages": None},
        {"input": None, "messages": [USER]},
        {"messages": [{"role": "user", "content": ""}, USER]},
        {"messages": [USER] * MESSAGES_MOST},
        {"input": "x", "user": "u" * 200},
        {"input": "x", "cache": {}},
        {"input": "x", "cache": {"ttl_s": None}},
        {"input": "x", "cache": {"ttl_s": 1, "mode": "off"}},
        {"input": "x", "cache": {"ttl_s": 30 * 86_400}},
        {"input": "x", "options": nested(DEPTH_MOST)},
        {
            "messages": [
                {"role": "user", "content": [{"type": "x", "a": nested(DEPTH_MOST - 2)}]}
            ]
        },
    ],
)
def test_what_is_just_within_bounds(members: dict[str, Any]) -> None:
    parsed(**members)


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({}, "input"),
        ({"input": "x", "messages": [USER]}, "input"),
        ({"input": "\u00a0\n"}, "input"),
        ({"messages": [USER] * (MESSAGES_MOST + 1)}, "messages"),
        ({"messages": [USER, {"role": "user", "content": "\t"}]}, "messages"),
        ({"messages": [USER, {"role": "function", "content": "x"}]}, "messages[1].role"),
        ({"messages": [USER, {"role": "user", "content": 5}]}, "messages[1].content"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"input": "x", "more": 1}, "more"),
        ({"input": "x", "cache": {"more": 1}}, "cache.more"),
        ({"input": "x", "user": "u" * 201}, "user"),
        ({"input": "x", "cache": {"ttl_s": 30 * 86_400 + 1}}, "cache.ttl_s"),
        ({"input": "x", "options": nested(DEPTH_MOST + 1)}, "options"),
    ],
)
def test_the_field_that_is_wrong_is_named(members: dict[str, Any], field: str) -> None:
    problem = refused(**members)
    assert (problem.code, problem.status) == ("invalid_request", 422)
    assert problem.document()["field"] == field


def test_what_is_said_of_a_long_name_is_short() -> None:
    problem = refused(input="x", **{"n" * 5000: 1})
    assert len(json.dumps(problem.document())) < 1000


@pytest.mark.parametrize("levels", [1000, MIB // 8])
@pytest.mark.parametrize(
    ("start", "end", "field"),
    [
        (b'"input":"x","options":{"a":', b"}", "options"),
        (b'"messages":[{"role":"user","content":[{"type":"x","a":', b"}]}]", "messages"),
        (
            b'"options":{"messages":[{"a":"\\"["}]},"messages":[{"role":"user","content":[{"a":',
            b"}]}]",
            "messages",
        ),
    ],
)
def test_nesting_too_deep_is_refused_by_name(
    start: bytes, end: bytes, field: str, levels: int
) -> None:
    """Whether the parser can still follow it is another matter with each release of Python."""
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        nested = opening * levels + b"1" + closing * levels
        with pytest.raises(Problem) as caught:
            parse_run(b'{"agent":"notes",%b%b%b}' % (start, nested, end))
        named: str = caught.value.document()["field"]
        # Of a message that the parser could still follow it is known which.
        assert named == field or named.startswith(f"{field}[0].content")


def test_what_is_too_deep_is_looked_for_within_bounds() -> None:
    """A megabyte of pairs before it is not looked through; neither is its name a guess."""
    many = b"[" + b"[]," * (MIB // 6) + b"[]]"
    deep = b"[" * 100_000 + b"]" * 100_000
    with pytest.raises(Problem) as caught:
        parse_run(b'{"agent":"n","input":"x","options":{"a":%b,"b":%b}}' % (many, deep))
    assert caught.value.document()["field"] == ""


# What is asked

IMAGE = {
    "type": "image_url",
    "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"},
}
PARTS = [
    {"type": "text", "text": "What "},
    IMAGE,
    {"type": "text", "text": "is this?", "cache_control": {"type": "ephemeral"}},
    {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
    {"type": "file", "file": {"file_id": "f1"}},
    {"type": "image", "image": "AA=="},
    {"type": "audio"},
    {"type": "of tomorrow", "x": [1, {"y": None}]},
]
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "Rain.", "tool_call_id": "c1"}


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": PARTS}],
        [{"role": "user", "content": [IMAGE]}],
        [{"role": "developer", "content": "Be brief."}, USER],
        [USER, CALLING, RESULT],
        [USER, CALLING | {"content": "I look."}, RESULT],
        [USER, CALLING | {"content": []}, RESULT],
        [USER, CALLING, RESULT | {"content": [{"type": "text", "text": "Rain."}]}],
        [
            USER,
            CALLING | {"tool_calls": [{"id": "c1", "type": "custom", "custom": {}}]},
            RESULT,
        ],
        [{"role": "user", "content": "Hi", "name": "ann"}],
    ],
)
def test_what_is_asked_is_passed_on_as_it_is(messages: list[dict[str, Any]]) -> None:
    assert parsed(messages=messages).exchange() == messages


def test_what_was_not_said_is_not_passed_on() -> None:
    said: dict[str, Any] = USER | {"name": None, "tool_calls": []}
    assert parsed(messages=[said | {"tool_call_id": None}]).exchange() == [USER]
    absent = {"role": "assistant", "tool_calls": [CALL]}
    assert parsed(messages=[absent, RESULT]).exchange() == [CALLING, RESULT]


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([{"role": "user", "content": []}], "messages[0].content"),
        ([{"role": "user", "content": None}], "messages[0].content"),
        (
            [{"role": "assistant", "content": None, "tool_calls": []}, USER],
            "messages[0].content",
        ),
        ([{"role": "user", "content": {"type": "text"}}], "messages[0].content"),
        ([{"role": "user", "content": ["x"]}], "messages[0].content[0]"),
        ([{"role": "user", "content": [IMAGE, {}]}], "messages[0].content[1].type"),
        ([{"role": "user", "content": [{"type": 5}]}], "messages[0].content[0].type"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
        (
            [{"role": "user", "content": [{"type": "text", "text": None}]}],
            "messages[0].content[0].text",
        ),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": 1}]}],
            "messages[0].content[0].image_url",
        ),
        (
            [{"role": "user", "content": [{"type": "input_audio"}]}],
            "messages[0].content[0].input_audio",
        ),
        ([{"role": "user", "content": [{"type": "file"}]}], "messages[0].content[0].file"),
        ([USER | {"tool_calls": [CALL]}], "messages[0].tool_calls"),
        ([CALLING | {"tool_calls": {}}, RESULT], "messages[0].tool_calls"),
        ([CALLING | {"tool_calls": [5]}, RESULT], "messages[0].tool_calls[0]"),
        ([CALLING | {"tool_calls": [{}]}, RESULT], "messages[0].tool_calls[0].id"),
        (
            [CALLING | {"tool_calls": [{"id": "c1", "function": {}}]}, RESULT],
            "messages[0].tool_calls[0].function",
        ),
        ([CALLING, {"role": "tool", "content": "Rain."}], "messages[1].tool_call_id"),
        ([CALLING, RESULT | {"tool_call_id": ""}], "messages[1].tool_call_id"),
        ([USER | {"tool_call_id": "c1"}], "messages[0].tool_call_id"),
        ([USER | {"tool_call_id": 1}], "messages[0].tool_call_id"),
        ([USER | {"name": 1}], "messages[0].name"),
        ([USER | {"nom": "ann"}], "messages[0].nom"),
        ([{"role": "user", "content": [{"type": "text", "text": " "}]}], "messages"),
        ([CALLING], "messages"),
        ([USER, {"role": "system", "content": "x"}], "messages"),
        (
            [{"role": "user", "content": [{"type": "x", "a": nested(DEPTH_MOST)}]}],
            "messages[0].content",
        ),
        (
            [CALLING | {"tool_calls": [CALL | {"a": nested(DEPTH_MOST)}]}, RESULT],
            "messages[0].tool_calls",
        ),
    ],
)
def test_what_is_wrong_in_a_message_is_named(messages: Any, field: str) -> None:
    problem = refused(messages=messages)
    assert (problem.code, problem.document()["field"]) == ("invalid_request", field)


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        (
            [{"role": "system", "content": "x"}, {"role": "developer", "content": "x"}, USER],
            None,
        ),
        ([CALLING, RESULT], None),
        # A tool may have nothing to say.
        ([CALLING, RESULT | {"content": ""}], None),
        ([CALLING, RESULT, USER], None),
        ([USER, USER], "messages[0]"),
        ([USER, CALLING, RESULT], "messages[0]"),
        ([{"role": "assistant", "content": "x"}, USER], "messages[0]"),
    ],
)
def test_in_a_conversation_only_what_is_new_is_sent(messages: Any, field: str | None) -> None:
    if field is None:
        parsed(messages=messages, conversation_id="c1")
        return
    problem = refused(messages=messages, conversation_id="c1")
    assert problem.document()["field"] == field


# Halves of surrogate pairs


@pytest.mark.parametrize(
    ("escaped", "text"),
    [
        (r"\ud83d", "\ufffd"),
        (r"a\uDE00b", "a\ufffdb"),
        (r"\ud83d\ud83d\ude00\ude00", "\ufffd\U0001f600\ufffd"),
        (r"\\ud83d \ud83d", "\\ud83d \ufffd"),
        (r"\\ud83d\ude00", "\\ud83d\ufffd"),
        (r"\ud83d\n\u00e9\u2028", "\ufffd\n\u00e9\u2028"),
        ("\u00e9\U0001f600" + r"\ud83d", "\u00e9\U0001f600\ufffd"),
    ],
)
def test_half_a_character_becomes_the_mark_of_one_that_is_not_known(
    escaped: str, text: str
) -> None:
    body = (
        '{"agent":"notes","user":"%s","options":{"%s":["%s",1.5,null]},'
        '"messages":[{"role":"user","content":"%s"},'
        '{"role":"user","content":[{"type":"text","text":"%s"}]}]}'
    ) % ((escaped,) * 5)
    request = parse_run(body.encode())
    assert request.user == text and request.options == {text: [text, 1.5, None]}
    first, second = request.exchange()
    assert first["content"] == text
    assert second["content"] == [{"type": "text", "text": text}]


PIECES = [r"\\", r"\ud83d", r"\uDE00", r"\ufffd", r"\n", r"\t", "u", "d83d", "é", "\U0001f600"]


@settings(deadline=None, derandomize=True, database=None)
@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=12).map("".join))
def test_every_half_and_nothing_else_is_mended(escaped: str) -> None:
    """As a parser has it that lets halves through."""
    text = f'"x{escaped}"'
    read = re.sub("[\ud800-\udfff]", "\ufffd", json.loads(text))
    assert parse_run(f'{{"agent":"notes","input":{text}}}'.encode()).input == read


@pytest.mark.parametrize(
    "body",
    [
        b'{"agent":"notes","input":"\\ud800\\ud83d\\ude00 \\x"}',
        b'{"agent":"notes","input":"\\ud83d\\ude00","user":tru}',
        b'{"agent":"notes","input":"\\ud800 \\\x00d83d"}',
        b'{"agent":"notes","input":"\\ud800"',
        b'{"agent":"notes","input":"\\ud800","options":{"a":NaN}}',
        b'{"agent":"notes","input":"\\ud800","options":{"a":1e999}}',
        b'{"agent":"notes","input":"\\ud800","user":"\xed\xa0\x80"}',
        b'{"agent":"notes","input":"\\ud8"}',
    ],
)
def test_what_is_wrong_beside_half_a_character_stays_wrong(body: bytes) -> None:
    with pytest.raises(Problem) as caught:
        parse_run(body)
    assert caught.value.status in (400, 422)


def test_a_misspelt_member_beside_half_a_character_is_named() -> None:
    with pytest.raises(Problem) as caught:
        parse_run(rb'{"agent":"notes","input":"\ud800","optoins":{}}')
    assert caught.value.document()["field"] == "optoins"


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"nul"])
def test_what_is_not_json(body: bytes) -> None:
    with pytest.raises(Problem) as caught:
        parse_run(body)
    assert (caught.value.code, caught.value.status) == ("bad_json", 400)


@settings(deadline=None, derandomize=True, database=None)
@given(st.binary() | st.text().map(lambda text: json.dumps({"agent": text}).encode()))
def test_nothing_but_a_problem_comes_of_bad_bytes(body: bytes) -> None:
    try:
        parse_run(body)
    except Problem as problem:
        assert problem.status in (400, 422)


# Positions


@pytest.mark.parametrize(
    ("header", "query", "seen"),
    [
        (None, None, ids.NOTHING_SEEN),
        ("", "", ids.NOTHING_SEEN),
        (None, "1-2", ids.Seen(ids.number(1, 2))),
        ("", "0a1b2c-1-2", ids.Seen(ids.number(1, 2), "0a1b2c")),
        ("0a1b2c-2-1", None, ids.Seen(ids.number(2, 1), "0a1b2c")),
        ("2-0", "1-2", ids.Seen(ids.number(2, 0))),
        ("2-1", "nonsense", ids.Seen(ids.number(2, 1))),
        ("999999999-999999999", None, ids.Seen(ids.number(999_999_999, 999_999_999))),
    ],
)
def test_the_header_beats_the_query(
    header: str | None, query: str | None, seen: ids.Seen
) -> None:
    assert seen_of(header, query) == seen


@pytest.mark.parametrize(
    "text",
    [
        *("1-", "01-1", "1-x", "1-1.0", "1-0x1", "1-١", "1-+1", "1-1,", "1-" + "9" * 10),
        *("0a1b2c-1-", "0a1b2c-01-1", "0a1b2c-1-1,", "0a1b2c-1-x"),
    ],
)
def test_a_damaged_position(text: str) -> None:
    for header, query in ((text, None), (text, "1-1"), (None, text)):
        with pytest.raises(Problem) as caught:
            seen_of(header, query)
        assert (caught.value.code, caught.value.status) == ("bad_event_id", 400)


@pytest.mark.parametrize(
    "text",
    [
        *("0", "1", "42", "-1", "0-0", "0-1", "00-7", "null", "undefined", "NaN", " "),
        *("٠-١", "١-١", "x", "1700000000000-0", "1700000000000-12", "9999999999-1", "-1-1"),
        *("550e8400-e29b-41d4-a716-446655440000", "12345678-1234-1234-1234-123456789012"),
        *("42-message", "20240101-abc", "12345678-9abc"),
        *("evt_1-1", "1-1-1", "msg-3", "W/1-1", "{}", "[object Object]", "false"),
    ],
)
def test_what_is_none_of_ours_is_no_position(text: str) -> None:
    assert seen_of(text) == seen_of(None, text, None) == ids.NOTHING_SEEN
    # A client that says nothing in one place may say it in another.
    seen = ids.Seen(ids.number(1, 2))
    assert seen_of(text, None, "1-2") == seen_of(text, "1-2") == seen


@pytest.mark.parametrize("text", [" 1-2", "1-2 ", "1-2\n", "\t1-2\r\n"])
def test_white_space_is_no_part_of_a_position(text: str) -> None:
    assert seen_of(text) == ids.Seen(ids.number(1, 2))


@given(st.integers(1, 999_999_999), st.integers(0, 999_999_999))
def test_every_event_id_is_a_position(attempt: int, at: int) -> None:
    assert seen_of(f"{attempt}-{at}", None) == ids.Seen(ids.number(attempt, at))
    assert seen_of(f"00fa12-{attempt}-{at}").tag == "00fa12"


# Run ids


@pytest.mark.parametrize("run_id", [ids.new_run_id(), "hit-" + "0a" * 12], ids=["run", "hit"])
def test_a_run_id_that_is_one(run_id: str) -> None:
    check_run_id(run_id)


@pytest.mark.parametrize(
    "run_id", ["", "0" * 31, "0" * 33, "A" * 32, "0" * 32 + "\n", "hit-", "hit-" + "0" * 31]
)
def test_a_run_id_that_is_none(run_id: str) -> None:
    with pytest.raises(Problem) as caught:
        check_run_id(run_id)
    assert caught.value.code == "run_not_found"


# Preferences


@pytest.mark.parametrize(
    ("prefer", "wait_s"),
    [
        ("", None),
        ("wait=10", 10),
        ("wait=0", 0),
        ("WAIT=10", 10),
        ("wait = 10", 10),
        ('wait="10"', 10),
        ("wait=10;foo=bar", 10),
        ("respond-async, wait=10", 10),
        ("respond-async,wait=10,handling=lenient", 10),
        ("wait=121", WAIT_MOST_S),
        ("wait=999999", WAIT_MOST_S),
        ("wait", None),
        ("wait=", None),
        ("wait=-1", None),
        ("wait=1.5", None),
        ("wait=soon", None),
        ("wait=²", None),
        ("await=10", None),
        ("no-wait=10", None),
        ("wait=10x", None),
    ],
)
def test_how_long_to_wait(prefer: str, wait_s: int | None) -> None:
    assert wait_of(prefer) == wait_s

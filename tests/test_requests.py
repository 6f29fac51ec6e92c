"""Reading requests: bodies, positions and preferences."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plateau_sse.api.requests import (
    BODY_BYTES,
    MESSAGES_MOST,
    OPTIONS_DEPTH,
    WAIT_MOST_S,
    RunRequest,
    check_run_id,
    parse_run,
    position_of,
    wait_of,
)
from plateau_sse.errors import Problem
from plateau_sse.store.runs import ids

USER = {"role": "user", "content": "Hi"}


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
        {"input": "x", "options": nested(OPTIONS_DEPTH)},
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
        ({"messages": [USER, {"role": "developer", "content": "x"}]}, "messages[1].role"),
        ({"messages": [USER, {"role": "user", "content": 5}]}, "messages[1].content"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"input": "x", "more": 1}, "more"),
        ({"input": "x", "cache": {"more": 1}}, "cache.more"),
        ({"input": "x", "user": "u" * 201}, "user"),
        ({"input": "x", "cache": {"ttl_s": 30 * 86_400 + 1}}, "cache.ttl_s"),
        ({"input": "x", "options": nested(OPTIONS_DEPTH + 1)}, "options"),
    ],
)
def test_the_field_that_is_wrong_is_named(members: dict[str, Any], field: str) -> None:
    problem = refused(**members)
    assert (problem.code, problem.status) == ("invalid_request", 422)
    assert problem.document()["field"] == field


def test_what_is_said_of_a_long_name_is_short() -> None:
    problem = refused(input="x", **{"n" * 5000: 1})
    assert len(json.dumps(problem.document())) < 1000


@pytest.mark.parametrize("levels", [1000, BODY_BYTES // 8])
def test_nesting_too_deep_is_refused_by_name(levels: int) -> None:
    """Whether the parser can still follow it is another matter with each release of Python."""
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        nested = opening * levels + b"1" + closing * levels
        with pytest.raises(Problem) as caught:
            parse_run(b'{"agent":"notes","input":"x","options":{"a":%b}}' % nested)
        assert caught.value.document()["field"] == "options"


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"agent":"\\ud800"}', b"nul"])
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
    ("header", "query", "position"),
    [
        (None, None, 0),
        ("", "", 0),
        (None, "1-2", ids.number(1, 2)),
        ("", "1-2", ids.number(1, 2)),
        ("2-1", None, ids.number(2, 1)),
        ("2-1", "1-2", ids.number(2, 1)),
        ("2-1", "nonsense", ids.number(2, 1)),
        ("999999999-999999999", None, ids.number(999_999_999, 999_999_999)),
    ],
)
def test_the_header_beats_the_query(
    header: str | None, query: str | None, position: int
) -> None:
    assert position_of(header, query) == position


@pytest.mark.parametrize(
    "text", ["1-", "01-1", "1-x", "1-1.0", "1-0x1", "1-١", "1-+1", "1-1,", "1-" + "9" * 10]
)
def test_a_damaged_position(text: str) -> None:
    for header, query in ((text, None), (text, "1-1"), (None, text)):
        with pytest.raises(Problem) as caught:
            position_of(header, query)
        assert (caught.value.code, caught.value.status) == ("bad_event_id", 400)


@pytest.mark.parametrize(
    "text",
    [
        *("0", "1", "42", "-1", "0-0", "0-1", "1-0", "00-7", "null", "undefined", "NaN", " "),
        *("٠-١", "١-١", "x", "1700000000000-0", "1700000000000-12", "9999999999-1", "-1-1"),
        *("550e8400-e29b-41d4-a716-446655440000", "12345678-1234-1234-1234-123456789012"),
        *("42-message", "20240101-abc", "12345678-9abc"),
        *("evt_1-1", "1-1-1", "msg-3", "W/1-1", "{}", "[object Object]", "false"),
    ],
)
def test_what_is_none_of_ours_is_no_position(text: str) -> None:
    assert position_of(text) == position_of(None, text, None) == 0
    # A client that says nothing in one place may say it in another.
    assert position_of(text, None, "1-2") == position_of(text, "1-2") == ids.number(1, 2)


@pytest.mark.parametrize("text", [" 1-2", "1-2 ", "1-2\n", "\t1-2\r\n"])
def test_white_space_is_no_part_of_a_position(text: str) -> None:
    assert position_of(text) == ids.number(1, 2)


@given(st.integers(1, 999_999_999), st.integers(1, 999_999_999))
def test_every_event_id_is_a_position(attempt: int, seq: int) -> None:
    assert position_of(f"{attempt}-{seq}", None) == ids.number(attempt, seq)
    assert ids.show(position_of(f"{attempt}-{seq}", None)) == f"{attempt}-{seq}"


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

"""Tool calls of a model: each is told once, whole, with an id of its own; or is an error."""

from __future__ import annotations

import json
from typing import Any

import pytest

from plateau_sse.agents.toolcalls import Calls, answered_in
from tests.model_answers import (
    become,
    call,
    calls,
    choice,
    delta,
    document,
    end,
    message,
    said,
)

HELLO = delta(content="Hello ")
A, B = ("weather", '{"city": "Köln"}'), ("clock", '{"zone": 1}')


def whole(index: Any = ..., **ids: str) -> list[dict[str, Any]]:
    """Both calls, each in one fragment; `index` for each of them."""
    numbered = {} if index is ... else {"index": index}
    pairs = zip((A, B), ("a", "b"), strict=True)
    return [call(*it, **numbered, **({"id": ids[n]} if n in ids else {})) for it, n in pairs]


def cut(
    fields_a: dict[str, Any], fields_b: dict[str, Any], **first: Any
) -> list[dict[str, Any]]:
    """Both calls, each begun, then gone on with in three fragments."""
    found = []
    for (name, arguments), fields in ((A, fields_a), (B, fields_b)):
        found.append(call(name, "", **fields))
        again = {key: it for key, it in fields.items() if key not in first}
        found += [
            call("", arguments[at : at + 6], **again) for at in range(0, len(arguments), 6)
        ]
    return found


CALLED: dict[str, bytes] = {
    **{
        f"{how}, {together}": said(
            *([calls(*found)] if together == "at once" else map(calls, found)),
            end("tool_calls"),
        )
        for together in ("at once", "one by one")
        for how, found in {
            "whole": [call(*A, id="a", index=0), call(*B, id="b", index=1)],
            "whole, 0 for both": whole(0, a="a", b="b"),
            "whole, null for both": whole(None, a="a", b="b"),
            "whole, '0' for both": whole("0", a="a", b="b"),
            "whole, without an index": whole(a="a", b="b"),
            "whole, strings": [call(*A, id="a", index="0"), call(*B, id="b", index="1")],
            "whole, counted from 1": [call(*A, id="a", index=1), call(*B, id="b", index=2)],
            "whole, twice": [*whole(0, a="a", b="b"), *whole(0, a="a", b="b")],
        }.items()
    },
    **{
        how: said(*map(calls, found), end("tool_calls"))
        for how, found in {
            "cut": cut({"id": "a", "index": 0}, {"id": "b", "index": 1}, id=1),
            "cut, the id each time": cut({"id": "a", "index": 0}, {"id": "b", "index": 1}),
            "cut, 0 for both": cut({"id": "a", "index": 0}, {"id": "b", "index": 0}, id=1),
            "cut, 0 for both, the id each time": cut(
                {"id": "a", "index": 0}, {"id": "b", "index": 0}
            ),
            "cut, without an index": cut({"id": "a"}, {"id": "b"}, id=1),
            "cut, null, the id each time": cut(
                {"id": "a", "index": None}, {"id": "b", "index": None}
            ),
            "cut, strings": cut({"id": "a", "index": "0"}, {"id": "b", "index": "1"}, id=1),
            "cut, the index only at first": cut(
                {"id": "a", "index": 0}, {"id": "b", "index": 1}, index=1
            ),
        }.items()
    },
    "in turn": said(
        calls(call("weather", "", id="a", index=0), call("clock", "", id="b", index=1)),
        *[
            calls(call("", one, index=0), call("", other, index=1))
            for one, other in ((A[1][:5], B[1][:5]), (A[1][5:], B[1][5:]))
        ],
        end("tool_calls"),
    ),
    "in turn, without an index": said(
        calls(call("weather", "", id="a"), call("clock", "", id="b")),
        calls(call("", A[1]), call("", B[1])),
        end("tool_calls"),
    ),
    "the id after the name": said(
        calls(call("weather", "", index=0)),
        calls(call("", A[1], id="a", index=0)),
        calls(call(*B, id="b", index=1)),
        end("tool_calls"),
    ),
    "the name each time": said(
        calls(call("weather", "", id="a", index=0)),
        calls(call("weather", A[1][:5], id="a", index=0)),
        calls(call("weather", A[1][5:], index=0)),
        calls(call(*B, id="b", index=0)),
        end("tool_calls"),
    ),
    "with the end": said(
        choice(delta={"tool_calls": whole(0, a="a", b="b")}, finish_reason="tool_calls")
    ),
    "the end in each chunk": said(
        *[
            choice(delta={"tool_calls": [it]}, finish_reason="tool_calls")
            for it in cut({"id": "a", "index": 0}, {"id": "b", "index": 0}, id=1)
        ]
    ),
    "in a message, beside an empty delta": said(
        end("tool_calls", message=message(None, tool_calls=whole(a="a", b="b")))
    ),
    "once more in a message": said(
        calls(*whole(0, a="a", b="b")),
        end("tool_calls", message=message(None, tool_calls=whole(a="a", b="b"))),
    ),
    "arguments that are JSON": said(
        calls(
            call("weather", {"city": "Köln"}, id="a", index=0),
            call("clock", {"zone": 1}, id="b", index=1),
        ),
        end("tool_calls"),
    ),
    "flat": said(
        calls(
            *[{"id": n, "name": it[0], "arguments": it[1]} for n, it in (("a", A), ("b", B))]
        ),
        end("tool_calls"),
    ),
    "a document": document("tool_calls", message=message(None, tool_calls=whole(a="a", b="b"))),
}


@pytest.mark.parametrize("body", CALLED.values(), ids=CALLED)
def test_each_tool_call_is_told_once_and_whole(
    streams_url: str, cache_url: str, body: bytes
) -> None:
    told, kept = become(streams_url, cache_url, body)
    assert told.last["type"] == "run.completed", told.last
    found = [
        (it["id"], it["name"], json.loads(it["arguments"])) for it in told.only("tool.call")
    ]
    assert found == [("a", A[0], json.loads(A[1])), ("b", B[0], json.loads(B[1]))]
    assert kept is not None and kept.finish_reason == told.last["finish_reason"] == "tool_calls"
    assert kept.parts == told.record.parts and len(kept.parts) == 2
    # Whoever asked executes them; drafts are of the same calls, and no longer than they.
    assert all(it["client"] is True for it in told.only("tool.call"))
    whole = {it["id"]: it["arguments"] for it in told.only("tool.call")}
    for draft in told.only("tool.delta"):
        assert whole[draft["id"]].startswith(draft["arguments"]) and draft["arguments"]


def test_a_call_is_shown_while_it_is_written(streams_url: str, cache_url: str) -> None:
    body = said(
        calls(call("weather", "", id="a", index=0)),
        calls(call("", A[1][:5], index=0)),
        calls(call("", A[1][5:], index=0)),
        end("tool_calls"),
    )
    told, _ = become(streams_url, cache_url, body)
    drafts = [(it["id"], it["name"], it["arguments"]) for it in told.only("tool.delta")]
    # The first at once; the next one would have been due after the call was there.
    assert drafts == [("a", A[0], A[1][:5])]
    assert told.types == ["run.started", "tool.call", "run.completed"]


DRAFTED: dict[str, tuple[list[dict[str, Any]], list[tuple[str, str]]]] = {
    "as it comes": (
        [call("a", "", id="x", index=0), call("", "{", index=0), call("", "}", index=0)],
        [("x", "{"), ("x", "{}")],
    ),
    "two in turn": (
        [
            call("a", "", id="x", index=0),
            call("b", "[", id="y", index=1),
            call("", "{}", index=0),
            call("", "]", index=1),
        ],
        [("y", "["), ("x", "{}"), ("y", "[]")],
    ),
    "an id that comes late": (
        [call("a", "{", index=0), call("", "}", id="x", index=0)],
        [("x", "{}")],
    ),
    "no ids": ([call("a", "{}", index=0)], []),
    "one id for two": (
        [call("a", "{}", id="x", index=0), call("b", "[]", id="x", index=1)],
        [("x", "{}")],
    ),
    "too long": ([call("a", json.dumps("x" * 40_000), id="x", index=0)], []),
}


@pytest.mark.parametrize(("fragments", "expected"), DRAFTED.values(), ids=DRAFTED)
def test_a_draft_has_the_id_that_the_call_will_have(
    fragments: list[dict[str, Any]], expected: list[tuple[str, str]]
) -> None:
    found, drafts = Calls(), []
    for fragment in fragments:
        found.add({"tool_calls": [fragment]})
        drafts += [(it.id, it.arguments) for it in found.drafts()]
    assert drafts == expected
    ids = [it.id for it in found.complete()]
    assert {call_id for call_id, _ in drafts} <= set(ids) and len(set(ids)) == len(ids)


NAMED_IN_PIECES: dict[str, bytes] = {
    "pieces": said(
        calls(call("wea", "", id="a", index=0)),
        calls(call("ther", "", index=0)),
        calls(call("", A[1], index=0)),
        end("tool_calls"),
    ),
    "all so far": said(
        calls(call("wea", "", id="a", index=0)),
        calls(call("weather", "", id="a", index=0)),
        calls(call("", A[1], index=0)),
        end("tool_calls"),
    ),
}


@pytest.mark.parametrize("body", NAMED_IN_PIECES.values(), ids=NAMED_IN_PIECES)
def test_a_name_in_pieces_is_one_name(streams_url: str, cache_url: str, body: bytes) -> None:
    told, _ = become(streams_url, cache_url, body)
    (found,) = told.only("tool.call")
    assert (found["id"], found["name"], found["arguments"]) == ("a", *A)


UNNAMED: dict[str, tuple[bytes, list[tuple[str, str, str]]]] = {
    "no ids": (said(calls(*whole(0)), end("tool_calls")), [("call_0", *A), ("call_1", *B)]),
    "neither ids nor index": (
        said(*map(calls, whole()), end("tool_calls")),
        [("call_0", *A), ("call_1", *B)],
    ),
    "one tool twice, without ids": (
        said(
            calls(call("a", "{}", index=0), call("a", '{"n": 1}', index=0)), end("tool_calls")
        ),
        [("call_0", "a", "{}"), ("call_1", "a", '{"n": 1}')],
    ),
    "one id for two": (
        said(calls(call(*A, id="x", index=0), call(*B, id="x", index=1)), end("tool_calls")),
        [("x", *A), ("x_1", *B)],
    ),
    "no arguments": (
        said(calls(call("a", "", id="x", index=0)), end("tool_calls")),
        [("x", "a", "")],
    ),
    "an id that is a number": (
        said(calls(call("a", "{}", id=7, index=0)), end("tool_calls")),
        [("7", "a", "{}")],
    ),
    "a function call": (
        said(
            delta(function_call={"name": "weather", "arguments": ""}),
            *[delta(function_call={"arguments": it}) for it in (A[1][:5], A[1][5:])],
            end("function_call"),
        ),
        [("call_0", *A)],
    ),
    "a function call with its name each time": (
        said(
            *[
                delta(function_call={"name": A[0], "arguments": it})
                for it in (A[1][:5], A[1][5:])
            ],
            end("function_call"),
        ),
        [("call_0", *A)],
    ),
}


@pytest.mark.parametrize(("body", "expected"), UNNAMED.values(), ids=UNNAMED)
def test_a_tool_call_has_an_id_of_its_own(
    streams_url: str, cache_url: str, body: bytes, expected: list[tuple[str, str, str]]
) -> None:
    told, _ = become(streams_url, cache_url, body)
    assert told.last["type"] == "run.completed", told.last
    assert [
        (it["id"], it["name"], it["arguments"]) for it in told.only("tool.call")
    ] == expected


def test_an_id_of_a_call_that_was_answered_is_no_other_calls() -> None:
    """Models number theirs anew in each answer, and a page shows both in one message."""
    asked: list[dict[str, Any]] = [
        {"role": "tool", "tool_call_id": it, "content": "-"} for it in ("call_0", "x", "x_1")
    ]
    taken = answered_in(asked)
    for fragments, expected in (
        (whole(0), ["call_1", "call_2"]),
        ([call(*A, id="x", index=0), call(*B, id="x", index=1)], ["x_0", "x_2"]),
        ([call(*A, id="y", index=0), call(*B, id="x", index=1)], ["y", "x_2"]),
    ):
        found = Calls(taken)
        drafts = set()
        for fragment in fragments:
            found.add({"tool_calls": [fragment]})
            drafts |= {it.id for it in found.drafts()}
        assert [it.id for it in found.complete()] == expected
        assert drafts <= set(expected)


NOT_UNDERSTOOD: dict[str, bytes] = {
    "arguments that are cut, and a reason": said(
        calls(call("save", '{"a": ', id="a")), end("tool_calls")
    ),
    "arguments that are cut, and stop": said(calls(call("save", '{"a": ', id="a")), end()),
    "arguments that grow": said(
        calls(call("save", '{"a"', id="a")), calls(call("", '{"a":1}')), end("tool_calls")
    ),
    "calls in the choice": said(
        HELLO, choice(delta={}, tool_calls=[call(*A, id="a")], finish_reason="stop")
    ),
    "tool calls that are no list": said(HELLO, delta(tool_calls={"a": 1}), end()),
    "tool calls that are no objects": said(HELLO, delta(tool_calls=["you"]), end()),
    "a tool call without a name": said(HELLO, calls(call("", "{}", id="a", index=0)), end()),
    "a tool call with a name that is none": said(
        HELLO, calls({"index": 0, "function": {"name": 5, "arguments": "{}"}}), end()
    ),
    "a function that is none": said(HELLO, delta(function_call="you"), end()),
    "a tool of another kind": said(
        HELLO,
        calls({"type": "custom", "id": "a", "custom": {"name": "x", "input": "y"}}),
        end(),
    ),
    "a tool call that goes on after its end": said(
        calls(call("a", "{", index=0)), end("tool_calls"), calls(call("", "}", index=0))
    ),
    "an id of 501 characters": said(calls(call("a", "{}", id="x" * 501, index=0)), end()),
    "a name of 501 characters": said(calls(call("x" * 501, "{}", id="a", index=0)), end()),
    "an id of 501, in pieces": said(*[calls(call("a", "", id="x" * 501, index=0))] * 2, end()),
    "129 tool calls": said(
        *[calls(call("a", "{}", id=f"c{n}", index=n)) for n in range(129)], end("tool_calls")
    ),
    "arguments of 257 KiB": said(
        *[calls(call("a", "x" * 1024, id="a", index=0)) for _ in range(257)], end("tool_calls")
    ),
}


@pytest.mark.parametrize("body", NOT_UNDERSTOOD.values(), ids=NOT_UNDERSTOOD)
def test_what_is_not_understood_is_an_error(
    streams_url: str, cache_url: str, body: bytes
) -> None:
    told, kept = become(streams_url, cache_url, body)
    assert told.last["type"] == "run.failed", told.last
    assert (told.last["code"], kept) == ("upstream_broken_stream", None)


def test_a_call_that_is_sent_again_behind_its_end_is_one_call() -> None:
    """Also where it has got another id than the endpoint's."""
    found = Calls(frozenset(["call_0"]))
    fragment = {"tool_calls": [call(*A, id="call_0", index=0)]}
    told = []
    for _ in range(2):
        found.add(fragment)
        told += [it.id for it in found.complete()]
    assert told == ["call_0_0"]


def test_what_came_of_a_call_is_not_read_anew_with_each_fragment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Endpoints that repeat id and name would cost a runner the square of its length."""
    read: list[int] = []

    def loads(text: str) -> Any:
        read.append(len(text))
        return json_loads(text)

    json_loads = json.loads
    monkeypatch.setattr("plateau_sse.agents.toolcalls.json.loads", loads)
    arguments = json.dumps({"text": "abcd " * 2000})
    found = Calls()
    for at in range(0, len(arguments), 5):
        found.add({"tool_calls": [call("write", arguments[at : at + 5], id="a", index=0)]})
    (told,) = found.complete()
    assert told.arguments == arguments and sum(read) < 5 * len(arguments)

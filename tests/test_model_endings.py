"""How an answer of a model ends: only a whole one is cached, every other one is told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.model_answers import (
    DONE,
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

HI = delta(content="Hi")
USAGE = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 11}}
NO_ERROR: list[Any] = [None, "", {}, False, [], 0]
CALL = calls(call("weather", "{}", id="a", index=0))

WHOLE: dict[str, tuple[bytes, str]] = {
    "stop": (said(HI, end()), "stop"),
    "stop, and no [DONE]": (said(HI, end(), done=False), "stop"),
    "stop with the text": (said(choice(delta={"content": "Hi"}, finish_reason="stop")), "stop"),
    "stop in each chunk": (
        said(*[choice(delta={"content": it}, finish_reason="stop") for it in "Hi"]),
        "stop",
    ),
    "usage behind it": (said(HI, end(), USAGE), "stop"),
    "usage and no choices": (said(HI, end(), {**USAGE, "choices": None}), "stop"),
    "usage alone": (said(HI, end(), {"usage": USAGE["usage"]}), "stop"),
    "a chunk of nothing": (said({}, HI, end(), {"id": "x"}), "stop"),
    "filters' results first": (
        said({"choices": [], "prompt_filter_results": [{"prompt_index": 0}]}, HI, end()),
        "stop",
    ),
    "an error that is none": (
        said(HI, *[{"error": it, **USAGE} for it in NO_ERROR], end()),
        "stop",
    ),
    "an error of the choice that is none": (said(HI, end(error=None)), "stop"),
    "a code that is none": (said({**HI, "code": 0, "message": "", "msg": None}, end()), "stop"),
    "a code beside a choice": (said({**HI, "code": 200, "message": "ok"}, end()), "stop"),
    "a status of MiniMax that is none": (
        said({**HI, "base_resp": {"status_code": 0, "status_msg": ""}}, end()),
        "stop",
    ),
    "pings": (
        said(
            b": ping\n\n", b'event: ping\ndata: {"type": "ping"}\n\n', HI, b"data:\n\n", end()
        ),
        "stop",
    ),
    "a document": (
        document(message=message("Hi")),
        "stop",
    ),
    "a document behind a byte order mark": (
        b"\xef\xbb\xbf\r\n" + document(message=message("Hi")),
        "stop",
    ),
    "tool calls": (said(CALL, end("tool_calls")), "tool_calls"),
    "tool calls and text": (said(HI, CALL, end("tool_calls")), "tool_calls"),
    "tool calls, and then stop": (said(CALL, end("tool_calls"), end("stop")), "tool_calls"),
    "tool calls, and stop": (said(CALL, end()), "stop"),
    **{
        f"{spelt} for stop": (said(HI, end(spelt)), "stop")
        for spelt in ("STOP", "end_turn", "eos", "stop_sequence", " stop ", "COMPLETE")
    },
    **{
        f"{spelt} for tool_calls": (said(CALL, end(spelt)), "tool_calls")
        for spelt in ("function_call", "tool_use", "tool-calls")
    },
}


@pytest.mark.parametrize(("body", "reason"), WHOLE.values(), ids=WHOLE)
def test_a_whole_answer_is_told_and_kept(
    streams_url: str, cache_url: str, body: bytes, reason: str
) -> None:
    told, kept = become(streams_url, cache_url, body)
    assert (told.last["type"], told.last["finish_reason"]) == ("run.completed", reason)
    assert told.record.finish_reason == reason
    assert kept is not None and kept.finish_reason == reason
    assert kept.parts == told.record.parts
    assert told.text == "Hi" or reason == "tool_calls" or told.only("tool.call")


TOLD: dict[str, tuple[bytes, str]] = {
    "length": (said(HI, end("length")), "length"),
    "length, and then stop": (said(HI, end("length"), end("stop")), "length"),
    "tool calls, and then length": (said(CALL, end("tool_calls"), end("length")), "length"),
    "length and nothing else": (said(end("length"), USAGE), "length"),
    "a filter, and nothing else": (said(end("content_filter")), "content_filter"),
    "no reason but [DONE]": (said(HI), "other"),
    "white space alone": (said(delta(content=" \n"), end()), "stop"),
    "tool calls that are none": (said(HI, end("tool_calls")), "tool_calls"),
    "a tool call that is cut": (
        said(HI, calls(call("weather", '{"ci', id="a", index=0)), end("length")),
        "length",
    ),
    "a document": (
        document("length", message=message("Hi")),
        "length",
    ),
    **{
        f"{spelt} for length": (said(HI, end(spelt)), "length")
        for spelt in ("max_tokens", "MAX_TOKENS", "model_length", "max-tokens")
    },
    **{
        f"{spelt} for content_filter": (said(HI, end(spelt)), "content_filter")
        for spelt in (
            "content-filter",
            "safety",
            "SAFETY",
            "recitation",
            "RECITATION",
            "refusal",
        )
    },
    **{
        f"{spelt!r} for other": (said(HI, end(spelt)), "other")
        for spelt in (
            "load",
            "MALFORMED_FUNCTION_CALL",
            1,
            True,
            {"a": 1},
        )
    },
}


@pytest.mark.parametrize(("body", "reason"), TOLD.values(), ids=TOLD)
def test_an_answer_that_ends_otherwise_is_told_and_not_kept(
    streams_url: str, cache_url: str, body: bytes, reason: str
) -> None:
    told, kept = become(streams_url, cache_url, body)
    assert (told.last["type"], told.last["finish_reason"]) == ("run.completed", reason)
    assert (told.record.finish_reason, told.record.status) == (reason, "completed")
    assert kept is None


ERRORS: list[dict[str, Any]] = [
    {"error": {"message": "said so", "type": "server_error", "code": 500}},
    {"error": "said so"},
    {"error": {"code": 1302, "msg": "said so"}},
    {"error": ["said so"]},
    {"error": True, "message": "said so"},
    {"errors": [{"message": "said so"}]},
    {"object": "error", "message": "said so", "code": 40303},
    {"type": "error", "error": {"type": "overloaded_error", "message": "said so"}},
    {"type": "error", "message": "said so"},
    {"status": "error", "message": "said so"},
    {"detail": "said so"},
    {"detail": [{"loc": ["body"], "msg": "said so"}]},
    {"message": "said so", "code": 429},
    {"message": "said so"},
    {"code": "InvalidParameter", "message": "said so", "request_id": "1"},
    {"code": 400, "msg": "said so"},
    {"error_msg": "said so", "error_code": 17},
    {"error_code": 336, "error_msg": "said so", "choices": [{"delta": {"content": "x"}}]},
    {"choices": [], "error": {"message": "said so"}},
    {"choices": [], "message": "said so", "code": 503},
    {"choices": None, "base_resp": {"status_code": 1004, "status_msg": "said so"}},
    {"choices": [{"index": 0, "error": {"message": "said so"}}]},
    {"choices": [{"delta": {"content": ""}, "error": {"message": "said so"}}]},
    {"choices": [{"delta": {"error": "said so"}}]},
    {"choices": [{"delta": {"error_msg": "said so"}}]},
    {"choices": [{"index": 0, "error_code": 5, "message": {"error": "said so"}}]},
    {"status": "failed", "reason": "said so"},
    {"success": False, "reason": "said so"},
    {"err": "said so"},
    {"title": "said so", "status": 500},
    {"fault": {"message": "said so"}},
]


@pytest.mark.parametrize("error", ERRORS, ids=str)
def test_an_error_in_a_good_status_is_one(
    streams_url: str, cache_url: str, error: dict[str, Any]
) -> None:
    """Alone, after a part of the text, after the last word; as a stream and as a document."""
    for body in (
        said(error),
        said(HI, error),
        said(HI, end(), error),
        said(HI, error, end()),
        json.dumps(error).encode(),
    ):
        told, kept = become(streams_url, cache_url, body)
        assert (told.last["type"], told.last["code"]) == (
            "run.failed",
            "upstream_broken_stream",
        )
        assert "said so" in told.last["message"]
        assert (told.record.finish_reason, kept) == (None, None)


FAILED: dict[str, bytes] = {
    "nothing": b"",
    "[DONE] alone": DONE,
    "comments alone": b": hello\n\n" + DONE,
    "an empty candidate": said(delta(role="assistant", content=""), end()),
    "an empty document": document(message=message("")),
    "an empty list of parts": said(delta(content=[]), end()),
    "no candidate": said(USAGE),
    "an unknown reason alone": said(end("abort")),
    "tool calls that are none, alone": said(end("tool_calls")),
    "a thought alone": said(delta(reasoning_content="Hm."), end()),
    "event: error": said(HI, b"event: error\ndata: said so\n\n", end()),
    "event: error, as JSON": said(HI, b'event: error\ndata: {"x": "said so"}\n\n', end()),
    "event: error, and [DONE]": said(HI, end(), b"event: error\n" + DONE),
    "event: Error": said(HI, b"event: Error\ndata: said so\n\n", end()),
    "event: exception": said(HI, b'event: exception\ndata: {"x": "so"}\n\n', end()),
    "more beside [DONE]": said(HI, end(), b'data: [DONE]{"error": "x"}\n\n', done=False),
    "the reason is an error": said(HI, end("error")),
    "the network is the reason": said(HI, end("network_error")),
    "an abort is the reason": said(HI, end("abort")),
    "a page": b"<!doctype html><html><body>Sign in</body></html>",
    "text": b"Service unavailable",
    "a list": b'[{"error": {"message": "no"}}]',
    "an empty reason": said(HI, end(""), done=False),
    "a reason that is none yet": said(HI, end("null"), done=False),
    "a document without a reason": document(None, message=message("Hi")),
    "another protocol's chunks": said({"response": "Hi"}, {"done": True}, end()),
    "another protocol's message": said({"message": {"content": "Hi"}, "done": False}, end()),
    "another protocol's candidates": said({"candidates": [{"content": "Hi"}]}, end()),
}


@pytest.mark.parametrize("body", FAILED.values(), ids=FAILED)
def test_what_is_no_answer_is_an_error(streams_url: str, cache_url: str, body: bytes) -> None:
    told, kept = become(streams_url, cache_url, body)
    assert (told.last["type"], told.last["code"]) == ("run.failed", "upstream_broken_stream")
    assert told.last["retryable"] is True
    assert kept is None


@pytest.mark.parametrize(
    ("kind", "body", "ended"),
    [
        # What it is called does not count where it is a stream or a document.
        ("text/html", said(HI, end()), "run.completed"),
        ("text/html", b"<html>Sign in</html>", "run.failed"),
        ("application/json", said(HI, end()), "run.completed"),
        ("text/plain", said(HI, end()), "run.completed"),
        ("application/problem+json", b'{"title": "no", "status": 500}', "run.failed"),
        ("text/event-stream", b'{"error": "no"}', "run.failed"),
        (
            "text/plain",
            document(message=message("Hi")),
            "run.completed",
        ),
    ],
)
def test_what_came_counts_and_not_what_it_is_called(
    streams_url: str, cache_url: str, kind: str, body: bytes, ended: str
) -> None:
    told, kept = become(streams_url, cache_url, body, kind)
    assert told.last["type"] == ended
    assert (kept is not None) == (ended == "run.completed")


LONG = '{"x": "' + "x" * 33_000 + '"}'
TOO_LONG: dict[str, tuple[bytes, str]] = {
    "a call": (
        said(calls(call("save", LONG, id="a", index=0)), end("tool_calls")),
        "agent_invalid_output",
    ),
    "calls together": (
        said(
            *(
                calls(call("save", json.dumps("x" * 30_000), id=f"c{n}", index=n))
                for n in range(9)
            ),
            end("tool_calls"),
        ),
        "output_too_large",
    ),
}


@pytest.mark.parametrize(("body", "code"), TOO_LONG.values(), ids=TOO_LONG)
def test_calls_beyond_the_bounds_fail_the_run(
    streams_url: str, cache_url: str, body: bytes, code: str
) -> None:
    told, kept = become(streams_url, cache_url, body)
    assert (told.last["type"], told.last["code"], kept) == ("run.failed", code, None)

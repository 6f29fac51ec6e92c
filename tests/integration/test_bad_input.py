"""Bodies that are wrong, over real sockets: each mistake has its problem document, none ends in
a 500 or a traceback, and nothing stays behind in Redis."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from plateau_sse.errors import PROBLEMS
from tests.integration.api_client import api_serving, assert_problem, nothing_stays
from tests.processes import Serving

MIB = 1024 * 1024
ACCEPTS = ["application/json", "text/event-stream"]


@pytest.fixture(scope="module")
def plateau(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with api_serving(tmp_path_factory.mktemp("bad")) as running:
        yield running


@pytest.fixture(scope="module")
def client(plateau: Serving) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=plateau.url, timeout=30, trust_env=False) as opened:
        yield opened


@pytest.fixture(autouse=True)
def nothing_is_left_behind(plateau: Serving) -> Iterator[None]:
    with nothing_stays(plateau):
        yield


class Bad(NamedTuple):
    """A body of `POST /v1/runs` and the answer that it deserves."""

    name: str
    body: bytes
    code: str
    field: str | None = None


def bad(name: str, field: str, code: str = "invalid_request", /, **members: Any) -> Bad:
    """A valid body but for these members; None takes one away."""
    body = {"agent": "echo", "input": "x"} | members
    whole = {key: value for key, value in body.items() if value is not None}
    return Bad(name, json.dumps(whole).encode(), code, field)


def options(name: str, text: str, code: str = "bad_json", field: str | None = None) -> Bad:
    """A valid body with this text as an option."""
    return Bad(
        name, b'{"agent":"echo","input":"x","options":{"a":%s}}' % text.encode(), code, field
    )


def says(role: str, content: Any = "x", **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


BODIES = [
    # Not JSON
    Bad("empty", b"", "bad_json"),
    Bad("blank", b" \n", "bad_json"),
    Bad("words", b"agent=echo&input=x", "bad_json"),
    Bad("cut off", b'{"agent":"echo","input":"x"', "bad_json"),
    Bad("with a tail", b'{"agent":"echo","input":"x"} {}', "bad_json"),
    Bad("single quotes", b"{'agent':'echo'}", "bad_json"),
    Bad("trailing comma", b'{"agent":"echo","input":"x",}', "bad_json"),
    Bad("two marks", b'\xef\xbb\xbf\xef\xbb\xbf{"agent":"echo","input":"x"}', "bad_json"),
    Bad("UTF-16", '{"agent":"echo","input":"x"}'.encode("utf-16"), "bad_json"),
    Bad("Latin-1", b'{"agent":"echo","input":"\xe9"}', "bad_json"),
    Bad("overlong UTF-8", b'{"agent":"echo","input":"\xc0\xaf"}', "bad_json"),
    Bad("bad UTF-8 in a name", b'{"agent":"echo","input":"x","\xff":1}', "bad_json"),
    Bad("surrogate in UTF-8", b'{"agent":"echo","input":"\xed\xa0\x80"}', "bad_json"),
    Bad("half an escape", b'{"agent":"echo","input":"\\ud80"}', "bad_json"),
    Bad("surrogate in the agent", b'{"agent":"\\udfff","input":"x"}', "unknown_agent", "agent"),
    Bad("raw NUL", b'{"agent":"echo","input":"\x00"}', "bad_json"),
    Bad("raw line end", b'{"agent":"echo","input":"a\nb"}', "bad_json"),
    options("NaN", "NaN"),
    options("Infinity", "-Infinity"),
    options("leading zero", "01"),
    # Not a request
    Bad("an array", b"[]", "invalid_request", ""),
    Bad("a string", b'"echo"', "invalid_request", ""),
    Bad("null", b"null", "invalid_request", ""),
    Bad("a number", b"1", "invalid_request", ""),
    Bad("100,000 arrays", b"[" * 100_000, "invalid_request", ""),
    bad("no agent", "agent", agent=None),
    bad("agent is a number", "agent", agent=1),
    bad("agent is empty", "agent", agent=""),
    bad("agent is too long", "agent", agent="e" * 101),
    bad("unknown agent", "agent", "unknown_agent", agent="nobody"),
    bad("agent in other letters", "agent", "unknown_agent", agent="Echo"),
    bad("agent with a NUL", "agent", "unknown_agent", agent="echo\0"),
    bad("agent of the outside", "agent", "unknown_agent", agent="../echo"),
    bad("input is a number", "input", input=1),
    bad("input is an array", "input", input=["x"]),
    bad("input is empty", "input", input=""),
    bad("input is blank", "input", input=" \n\t\u2003"),
    bad("neither input nor messages", "input", input=None),
    bad("both input and messages", "input", messages=[says("user")]),
    bad("no messages", "messages", input=None, messages=[]),
    bad("messages is an object", "messages", input=None, messages=says("user")),
    bad("a message is a string", "messages[0]", input=None, messages=["x"]),
    bad("unknown role", "messages[0].role", input=None, messages=[says("root")]),
    bad("result of no call", "messages[0].tool_call_id", input=None, messages=[says("tool")]),
    bad(
        "part of no type",
        "messages[0].content[0].type",
        input=None,
        messages=[says("user", [{"text": "x"}])],
    ),
    bad("no role", "messages[0].role", input=None, messages=[{"content": "x"}]),
    bad("role is null", "messages[0].role", input=None, messages=[{"role": None}]),
    bad("no content", "messages[0].content", input=None, messages=[{"role": "user"}]),
    bad("content of parts", "messages[0].content", input=None, messages=[says("user", [])]),
    bad("blank message", "messages", input=None, messages=[says("user", " ")]),
    bad("assistant last", "messages", input=None, messages=[says("user"), says("assistant")]),
    bad("1,001 messages", "messages", input=None, messages=[says("user")] * 1001),
    bad("misnamed message", "messages[0].nom", input=None, messages=[says("user", nom="n")]),
    bad("unknown member", "inputs", inputs="x"),
    bad("unknown member with a mark", "a`b", **{"a`b": 1}),
    bad("unknown member of great length", "y" * 200, **{"y" * 100_000: 1}),
    bad("user is a number", "user", user=5),
    bad("user is too long", "user", user="u" * 201),
    bad("options is an array", "options", options=[]),
    bad("options is a string", "options", options="{}"),
    bad("101 levels", "options", options=json.loads('{"a":' * 101 + "1" + "}" * 101)),
    options(
        "100,000 levels of arrays", "[" * 100_000 + "]" * 100_000, "invalid_request", "options"
    ),
    options("100,000 levels of objects", '{"a":' * 100_000, "invalid_request", "options"),
    options("a number out of range", "1e999", "invalid_request", "options[...]"),
    options("a number of 5,000 digits", "9" * 5000, "invalid_request", "options[...]"),
    bad("cache is true", "cache", cache=True),
    bad("unknown cache mode", "cache.mode", cache={"mode": "never"}),
    bad("cache mode is a number", "cache.mode", cache={"mode": 1}),
    bad("unknown member of cache", "cache.ttl", cache={"ttl": 5}),
    bad("life of nothing", "cache.ttl_s", cache={"ttl_s": 0}),
    bad("life before birth", "cache.ttl_s", cache={"ttl_s": -1}),
    bad("half a second of life", "cache.ttl_s", cache={"ttl_s": 0.5}),
    bad("life as text", "cache.ttl_s", cache={"ttl_s": "60"}),
    bad("a life too long", "cache.ttl_s", cache={"ttl_s": 30 * 86_400 + 1}),
    bad("a life of 80 bits", "cache.ttl_s", cache={"ttl_s": 2**80}),
]


@pytest.mark.parametrize("accept", ACCEPTS)
@pytest.mark.parametrize("case", BODIES, ids=[case.name for case in BODIES])
def test_a_bad_body(client: httpx.Client, case: Bad, accept: str) -> None:
    headers = {"Accept": accept, "Content-Type": "application/json", "Prefer": "wait=5"}
    response = client.post("/v1/runs", content=case.body, headers=headers)
    problem = assert_problem(response, PROBLEMS[case.code][0], case.code)
    assert problem.get("field") == case.field
    assert len(response.content) < 1000


# Size


def chunks(total: int) -> Iterator[bytes]:
    yield b'{"agent":"echo","input":"'
    for _ in range(total // 65536):
        yield b"x" * 65536
    yield b'"}'


@pytest.mark.parametrize("accept", ACCEPTS)
@pytest.mark.parametrize("size", [MIB + 1, 10 * MIB])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_large(
    client: httpx.Client, size: int, chunked: bool, accept: str
) -> None:
    content = chunks(size) if chunked else b"".join(chunks(size))
    response = client.post("/v1/runs", content=content, headers={"Accept": accept})
    assert_problem(response, 413, "too_large")
    assert response.headers["connection"] == "close"


def test_a_smaller_bound_is_a_setting(tmp_path: Path) -> None:
    with (
        api_serving(tmp_path, {"MAX_BODY_BYTES": "16kb"}) as small,
        httpx.Client(base_url=small.url, timeout=30, trust_env=False) as client,
    ):
        start, end = b'{"agent":"nobody","input":"', b'"}'
        whole = start + b"x" * (16 * 1024 - len(start) - len(end)) + end
        assert_problem(client.post("/v1/runs", content=whole), 422, "unknown_agent")
        problem = assert_problem(
            client.post("/v1/runs", content=whole + b" "), 413, "too_large"
        )
        assert "16384" in problem["detail"]


@pytest.mark.parametrize("accept", ACCEPTS)
def test_a_text_that_is_too_long_for_its_agent_is_told_by_name(
    client: httpx.Client, accept: str
) -> None:
    text = "w1 " * 30_000
    said = [{"role": "user", "content": text}]
    part = {"id": "1", "role": "user", "parts": [{"type": "text", "text": text}]}
    for path, body in (
        ("/v1/runs", {"agent": "study", "input": text}),
        ("/v1/chat/completions", {"model": "study", "messages": said}),
        ("/v1/responses", {"model": "study", "input": text}),
        ("/api/chat?agent=study", {"id": "c", "messages": [part]}),
        ("/agui/study", {"threadId": "t", "runId": "r", "messages": [{"id": "1", **said[0]}]}),
    ):
        refused = client.post(path, json=body, headers={"Accept": accept})
        assert refused.status_code == 413, (path, refused.text)
        assert "study reads 64 KiB at a time, and this text has 88" in refused.text


def test_the_largest_body_is_read(client: httpx.Client) -> None:
    start, end = b'{"agent":"nobody","input":"', b'"}'
    whole = start + b"x" * (MIB - len(start) - len(end)) + end
    assert_problem(client.post("/v1/runs", content=whole), 422, "unknown_agent")
    assert_problem(client.post("/v1/runs", content=whole + b" "), 413, "too_large")

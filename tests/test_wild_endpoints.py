"""Endpoints out there, each as the bytes that it sends: what a stock SDK accepts we accept, and
what is no whole answer is never given as one.

Most stand in public reports of clients that broke on them; a case names whose it is. Where a
stock SDK makes something of the same bytes, it is the same text.
"""

from __future__ import annotations

import gzip
import json
from typing import Any, cast

import openai
import pytest

from plateau_sse.agents import (
    Data,
    File,
    ToolCall,
    Usage,
)
from tests.model_answers import DONE, call, calls, choice, delta, document, end, message, said
from tests.raw_model import CLOSE, GO, LAST, PINGS, Step, chunk, chunked, head_of, raw_model
from tests.wild import tell

TEXT = "Hello you"
HELLO, YOU = delta(content="Hello "), delta(content="you")
WHOLE = said(HELLO, YOU, end())
# How soon an answer is there whose end is said, and whose connection stays open.
AT_ONCE_S = 2.0


def sdk_text(url: str) -> str | None:
    """What a stock SDK makes of the same: the text, None where it raises."""
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=5) as client:
        asked: list[Any] = [{"role": "user", "content": "Hi"}]
        pieces = []
        try:
            stream = client.chat.completions.create(model="m", messages=asked, stream=True)
            for it in cast("Any", stream):
                for one in (it.choices if it else None) or []:
                    pieces.append(str((one.delta and one.delta.content) or ""))
        except Exception:
            return None
    return "".join(pieces)


def http(body: bytes, kind: str = "text/event-stream") -> list[Step]:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return [head.encode() + body]


def to_the_end(*pieces: bytes) -> list[Step]:
    """A body that says nowhere that it ends but by the connection's end."""
    return [head_of("Connection: close"), *pieces, CLOSE]


def raw(*lines: str) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def js(chunk: Any) -> str:
    return json.dumps(chunk)


NO_CHOICE: dict[str, Any] = {"id": "", "choices": [], "model": "", "object": ""}
FILTERS = {"hate": {"filtered": False, "severity": "safe"}}
EACH = [choice(delta={"content": it}, finish_reason="stop") for it in ("Hello ", "you")]

# What is whole, and is given: by its name, what came and what it is made of.
ACCEPTED: dict[str, list[Step]] = {
    # Patience: the end is said, and the connection stays open.
    "no [DONE], left open": [chunked(said(HELLO, YOU, end(), done=False)), GO],
    "no [DONE], left open with pings": [chunked(said(HELLO, YOU, end(), done=False)), PINGS],
    "usage and no [DONE], left open": [
        chunked(said(HELLO, YOU, end(), {**NO_CHOICE, "usage": {}}, done=False)),
        PINGS,
    ],
    "[DONE], left open": [chunked(WHOLE), GO],
    "no [DONE], to the end (llama-box, Bedrock gateways)": to_the_end(
        said(HELLO, YOU, end(), done=False)
    ),
    # Wholeness: what is sent again.
    "stop in every chunk, [DONE] (LiteLLM)": to_the_end(said(*EACH)),
    "stop in every chunk, a last one of HTTP": [chunked(said(*EACH, done=False)), LAST],
    "the last chunk is the whole message (MiniMax)": http(
        said(HELLO, YOU, end(message=message(TEXT)))
    ),
    "the last delta is all of them, with the reason": http(
        said(HELLO, YOU, choice(delta={"content": TEXT}, finish_reason="stop"))
    ),
    "the last delta is all of them, before the reason (RAGFlow)": http(
        said(HELLO, YOU, delta(content=TEXT), end())
    ),
    "two ends (LM Studio)": http(said(HELLO, YOU, end(), end())),
    # Shapes: data that is none.
    "empty data lines": http(
        said(b"data:\n\n", HELLO, b"data: \n\n", YOU, b"data:\n\n", end())
    ),
    "null": http(said(b"data: null\n\n", HELLO, b"data: null\n\n", YOU, end())),
    "numbers": http(said(b"data: 1\n\n", HELLO, b"data: 0.5\n\n", YOU, b"data: 2\n\n", end())),
    "truth values": http(said(b"data: true\n\n", HELLO, YOU, b"data: false\n\n", end())),
    "comments (OpenRouter, DeepSeek)": http(
        said(b": OPENROUTER PROCESSING\n\n", b":\n\n", HELLO, b": keep-alive\n\n", YOU, end())
    ),
    "comments wrapped as data": http(
        said(b"data: : OPENROUTER PROCESSING\n\n", HELLO, YOU, end())
    ),
    "pings by name": http(
        said(
            b"event: heartbeat\ndata: ping\n\n", HELLO, YOU, b"event: ping\ndata: {}\n\n", end()
        )
    ),
    "retry and id alone": http(said(b"retry: 10\n\n", HELLO, b"id: 7\n\n", YOU, end())),
    "no delta (Azure's filters)": http(
        said(
            {**NO_CHOICE, "prompt_filter_results": [{"content_filter_results": FILTERS}]},
            HELLO,
            YOU,
            choice(
                finish_reason=None, content_filter_results=FILTERS, content_filter_offsets={}
            ),
            end(),
        )
    ),
    "delta is null": http(said(HELLO, YOU, choice(delta=None, finish_reason="stop"))),
    "choices are null": http(said({"choices": None}, HELLO, {"choices": [None]}, YOU, end())),
    "content is null beside thoughts": http(
        said(delta(content=None, reasoning_content=None), HELLO, YOU, end())
    ),
    "an empty reason until it ends (xAI)": http(
        said(choice(delta={"content": TEXT}, finish_reason=""), end())
    ),
    "other members (OpenAI's padding, llama.cpp's timings)": http(
        said({**HELLO, "obfuscation": "xY7"}, {**YOU, "timings": {"predicted_ms": 1.5}}, end())
    ),
    # Shapes: framing.
    "text/plain": http(WHOLE, "text/plain; charset=utf-8"),
    "text/html (gateways in PHP)": http(WHOLE, "text/html; charset=UTF-8"),
    "application/x-ndjson that is a stream": http(WHOLE, "application/x-ndjson"),
    "application/json that is a stream": http(WHOLE, "application/json"),
    "application/octet-stream": http(WHOLE, "application/octet-stream"),
    "a byte order mark": http(b"\xef\xbb\xbf" + WHOLE),
    "CR LF": http(WHOLE.replace(b"\n", b"\r\n")),
    "CR": http(WHOLE.replace(b"\n", b"\r")),
    "no space behind the colon (Alibaba)": http(WHOLE.replace(b"data: ", b"data:")),
    "no blank line behind the last event": to_the_end(said(HELLO, YOU, end(), done=False)[:-2]),
    "events that one line end keeps apart": http(WHOLE.replace(b"\n\n", b"\n") + b"\n"),
    "data on a line of its own": http(WHOLE.replace(b"data: {", b"data:\n {")),
    "data: data:": http(WHOLE.replace(b"data: ", b"data: data: ")),
    "no name before the last chunk (GPUStack)": http(
        said(HELLO, YOU).replace(DONE, b"") + raw(js(end()), "", "data: [DONE]", "")
    ),
    "lines of JSON": http(raw(js(HELLO), js(YOU), js(end())), "application/x-ndjson"),
    "lines of JSON, left open": [
        chunked(raw(js(HELLO)), raw(js(YOU), js(end()))),
        GO,
    ],
    "a document": http(document(message=message(TEXT)), "application/json"),
    "a document called a stream": http(document(message=message(TEXT))),
    "a document on many lines": http(
        json.dumps(json.loads(document(message=message(TEXT))), indent=2).encode() + b"\n"
    ),
    "a document behind white space (OpenRouter)": [
        chunked(b"\n         \n", b"\n         \n", document(message=message(TEXT))),
        LAST,
    ],
    "a document that ends as a stream (9router)": http(
        document(message=message(TEXT)) + b"\n\ndata: [DONE]\n\n"
    ),
    "[DONE] as JSON": http(said(HELLO, YOU, end(), b'data: "[DONE]"\n\n', done=False)),
    "compressed unasked": [
        head_of("Content-Encoding: gzip", f"Content-Length: {len(gzip.compress(WHOLE))}")
        + gzip.compress(WHOLE)
    ],
    "one byte a chunk": [
        head_of("Transfer-Encoding: chunked")
        + b"".join(chunk(WHOLE[at : at + 1]) for at in range(len(WHOLE)))
        + LAST
    ],
    # The connection.
    "a reset behind the end": [
        head_of("Content-Length: 9999") + said(HELLO, YOU, end(), done=False),
        CLOSE,
    ],
    "HTTP/1.0": [head_of(status="HTTP/1.0 200 OK") + WHOLE, CLOSE],
}


def is_read_by_sdks(name: str) -> bool:
    """Of what is left open a stock SDK hears the end no sooner than its own patience ends."""
    return "left open" not in name


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_whole_answer_is_taken_however_it_is_sent(name: str) -> None:
    with raw_model(ACCEPTED[name]) as model:
        told = tell(model.base_url)
    assert (told.text, told.reason) == (TEXT, "stop"), told
    assert told.rest_s < AT_ONCE_S


AGAIN = "the last"


@pytest.mark.parametrize("name", [name for name in ACCEPTED if is_read_by_sdks(name)])
def test_a_stock_sdk_finds_no_text_that_we_do_not(name: str) -> None:
    """Of what it cannot read we make more; what is sent twice it has twice."""
    with raw_model(ACCEPTED[name]) as model:
        text = sdk_text(model.base_url)
    assert text is None or text in TEXT or name.startswith(AGAIN)


# The answer is there, and says why it is not whole: told, and never kept.
OTHERWISE: dict[str, tuple[list[Step], str]] = {
    "[DONE] and no reason": (http(said(HELLO, YOU)), "other"),
    "length": (http(said(HELLO, YOU, end("length"))), "length"),
    "a filter (Azure)": (http(said(HELLO, YOU, end("content_filter"))), "content_filter"),
    "cut within what it repeats": (
        http(said(HELLO, YOU, delta(content=TEXT), end("length"))),
        "length",
    ),
}


@pytest.mark.parametrize(("script", "reason"), OTHERWISE.values(), ids=OTHERWISE)
def test_an_answer_that_is_not_whole_says_so(script: list[Step], reason: str) -> None:
    with raw_model(script) as model:
        told = tell(model.base_url)
    assert told.text.startswith(TEXT) and told.reason == reason


# What is no answer: the code, and what its message says.
NONE: dict[str, tuple[list[Step], str]] = {
    "stop in every chunk, and a cut": (to_the_end(said(*EACH, done=False)), "no end"),
    "stop in every chunk, and a reset": (
        [head_of("Content-Length: 9999") + said(*EACH, done=False), CLOSE],
        "broke off",
    ),
    "thoughts alone": (
        http(said(delta(reasoning_content="Hm. "), delta(reasoning_content="So."), end())),
        "but its thoughts",
    ),
    "thoughts alone, in a document": (
        http(document(message=message(None, reasoning="Hm."))),
        "but its thoughts",
    ),
    "an end that never came (vLLM)": (to_the_end(said(HELLO, YOU, done=False)), "without"),
    "an error as a field (llama.cpp)": (
        http(said(HELLO, b'error: {"code":500,"message":"said so"}\n\n')),
        "said so",
    ),
    "an error as a field, at once (llama.cpp)": (
        http(said(b'error: {"code":400,"message":"said so"}\n\n')),
        "said so",
    ),
    "an error without a name": (
        http(
            said(HELLO).replace(DONE, b"")
            + raw('{"error": {"message": "said so"}}', "", "data: [DONE]", "")
        ),
        "said so",
    ),
    "an error behind the end": (http(said(HELLO, YOU, end(), {"error": "said so"})), "said so"),
    "an error in x_groq": (
        http(said(HELLO, {**end(), "x_groq": {"id": "r", "error": "said so"}})),
        "said so",
    ),
    "an error in lines of JSON": (
        http(raw(js(HELLO), '{"error": "said so"}'), "application/x-ndjson"),
        "said so",
    ),
    "no room for the rest (DeepSeek)": (
        http(said(HELLO, end("insufficient_system_resource"))),
        "insufficient_system_resource",
    ),
    "an abort (vLLM)": (http(said(HELLO, end("abort"))), "abort"),
    "JSON that is cut (GLM)": (
        http(said(HELLO, b'data: {"id":"1","object":"chat.cdata: {"id":"2"}\n\n', YOU, end())),
        "not JSON",
    ),
    "a page": (http(b"<!doctype html><title>Sign in</title>", "text/html"), "a page"),
    "a text": (http(b"upstream error: read ECONNRESET\n"), "without"),
    "a list": (http(b'[{"error": {"message": "no"}}]'), "no object"),
    "nothing": (http(b""), "without"),
    "white space": (http(b" " * 1000), "without"),
    "a chunk in a string": (http(said(json.dumps(js(HELLO)).encode(), end())), "without"),
    "an event of more than 16 MiB": (
        [head_of(), b"data: ", b"x" * (17 * 1024 * 1024)],
        "bytes",
    ),
}


@pytest.mark.parametrize(("script", "message"), NONE.values(), ids=NONE)
def test_what_is_no_answer_is_an_error_that_says_why(script: list[Step], message: str) -> None:
    with raw_model(script) as model:
        told = tell(model.base_url)
    assert told.error == "upstream_broken_stream", told
    assert message in told.message


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("6", "6"),
        ("0", "0"),
        ("0.50", "0.50"),
        ("1e3", "1e3"),
        ("-0.0", "-0.0"),
        ("155724", "155724"),
    ],
)
def test_a_word_that_looks_like_a_number_is_the_word(written: str, text: str) -> None:
    """Workers AI sends it as one."""
    piece = b'data: {"choices":[{"index":0,"delta":{"content":%s}}]}\n\n' % written.encode()
    thought = piece.replace(b"content", b"reasoning_content")
    with raw_model(
        http(said(thought, delta(content="["), piece, delta(content="]"), end()))
    ) as at:
        told = tell(at.base_url)
    assert (told.text, told.thoughts, told.reason) == (f"[{text}]", text, "stop")


def test_a_text_that_repeats_itself_and_goes_on_is_told_as_it_is() -> None:
    body = said(HELLO, YOU, delta(content=TEXT), delta(content="!"), end())
    with raw_model(http(body)) as model:
        assert tell(model.base_url).text == TEXT + TEXT + "!"
    short = said(delta(content="ha"), delta(content="ha"), end())
    with raw_model(http(short)) as model:
        assert tell(model.base_url).text == "haha"


def test_line_ends_that_are_none_of_sse_keep_nothing_apart() -> None:
    """JSON may hold them as they are; Python's `splitlines` knows eight of them."""
    text = "{a}\u2028{b}\x85{c}"
    body = json.dumps(delta(content=text), ensure_ascii=False)
    with raw_model(http(b"data: " + body.encode() + b"\n\n" + said(end()))) as model:
        assert tell(model.base_url).text == text


def test_counts_are_found_where_groq_has_them() -> None:
    usage = {"prompt_tokens": 23, "completion_tokens": 19, "total_time": 0.02}
    with raw_model(http(said(HELLO, YOU, {**end(), "x_groq": {"usage": usage}}))) as model:
        assert tell(model.base_url).only(Usage) == [Usage(23, 19)]


def test_a_call_that_is_whole_is_told_though_the_socket_stays_open() -> None:
    body = said(calls(call("f", "{}", id="c1", index=0)), end("tool_calls"), done=False)
    with raw_model([chunked(body), PINGS]) as model:
        told = tell(model.base_url)
    assert told.only(ToolCall) == [ToolCall("c1", "f", "{}", client=True)]
    assert told.reason == "tool_calls" and told.rest_s < AT_ONCE_S


def image(size: int) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * size}}


def test_an_image_of_megabytes_is_left_out_and_said() -> None:
    """And one that is small enough is told."""
    images = [image(2_000), image(5_000_000)]
    with raw_model(http(said(HELLO, delta(images=images), YOU, end()))) as model:
        told = tell(model.base_url)
    assert told.text == TEXT and told.reason == "other"
    assert [len(it.url) for it in told.only(File)] == [2_022]
    about = {"type": "file", "media_type": "image/png", "bytes": 5_000_022}
    assert told.only(Data) == [Data("left_out", about)]


def test_images_have_a_bound_together() -> None:
    images = [
        {"image_url": {"url": f"data:image/png;base64,{n}{'A' * 25_000}"}} for n in range(9)
    ]
    with raw_model(http(said(HELLO, delta(images=images), YOU, end()))) as model:
        told = tell(model.base_url)
    assert told.text == TEXT and told.reason == "other"
    assert (len(told.only(File)), len(told.only(Data))) == (5, 4)


def test_an_answer_of_an_image_alone_that_is_left_out_is_none() -> None:
    with raw_model(http(said(delta(content="", images=[image(5_000_000)]), end()))) as model:
        told = tell(model.base_url)
    assert told.error == "agent_invalid_output" and "5,000,022 bytes" in told.message

"""How an endpoint is asked: with what, as whom, by which way, how often, and how patiently."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from plateau_sse.agents import Message, Usage
from tests.forward_proxy import forward_proxy
from tests.raw_model import (
    CLOSE,
    GO,
    PINGS,
    RawModel,
    Step,
    chunk,
    chunked,
    event,
    head_of,
    raw_model,
    sized,
    stream_of,
)
from tests.upstreams import agent_of, ask
from tests.wild import tell

FIRST = sized(stream_of("first"))
KEY = "sk-secret-key"


@pytest.fixture(autouse=True)
def _own_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine's are."""
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


def refusal(status: str, body: Any = b"", *lines: str) -> list[Step]:
    return [sized(body, *lines, status=f"HTTP/1.1 {status}")]


@contextmanager
def after(seconds: float, model: RawModel) -> Iterator[None]:
    """Let the script go on then."""
    timer = threading.Timer(seconds, model.go.set)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


@pytest.mark.parametrize(
    "script",
    [
        [GO, FIRST],
        [head_of("Transfer-Encoding: chunked"), GO, chunk(stream_of("first")) + b"0\r\n\r\n"],
        # Who thinks before the first word has said whose word it will be.
        [
            chunked(event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})),
            GO,
            chunk(stream_of("first")) + b"0\r\n\r\n",
        ],
    ],
    ids=["no head", "no body", "a role alone"],
)
def test_before_the_first_word_it_may_be_silent_as_long_as_the_run(script: list[Step]) -> None:
    with raw_model(script) as model, after(2.5, model):
        told = tell(model.base_url, openai_silence_s=1)
    assert (told.text, told.reason) == ("first", "stop")


def test_between_two_words_it_may_not() -> None:
    word = event({"choices": [{"delta": {"content": "first"}}]})
    with raw_model([chunked(word), GO]) as model:
        told = tell(model.base_url, openai_silence_s=1)
    assert (told.text, told.error) == ("first", "upstream_timeout")


def test_the_runs_own_time_is_the_end_of_patience() -> None:
    with raw_model([GO]) as model:
        began = time.monotonic()
        told = tell(model.base_url, run_timeout_s=1, openai_silence_s=60)
    assert told.error == "upstream_timeout" and time.monotonic() - began < 10


REFUSED: dict[str, list[Step]] = {
    "Mistral": refusal(
        "422 Unprocessable",
        b'{"object":"error","message":{"detail":[{"type":"extra_forbidden","loc":["body",'
        b'"stream_options","include_usage"],"msg":"Extra inputs are not permitted"}]}}',
    ),
    "Azure": refusal(
        "400 Bad Request",
        b'{"error":{"message":"Unrecognized request argument supplied: stream_options"}}',
    ),
    "a gateway": refusal("500 Oops", b'json: unknown field "stream_options"'),
    "in the stream": [sized(event({"error": {"message": "no such field: include_usage"}}))],
}


@pytest.mark.parametrize("script", REFUSED.values(), ids=REFUSED)
def test_who_refuses_to_count_is_asked_without_and_never_again(script: list[Step]) -> None:
    with raw_model(script) as model:
        told = tell(model.base_url, runs=2)
    assert told.text == "secondsecond"
    asked = ["stream_options" in body for _, body in model.requests]
    assert asked == [True, False, False]


REFUSED_THOUGHTS: dict[str, list[list[Step]]] = {
    "Mistral": [
        refusal(
            "422 Unprocessable",
            b'{"object":"error","message":{"detail":[{"type":"extra_forbidden","loc":["body",'
            b'"messages",1,"assistant","reasoning_content"],"msg":"Extra inputs"}]}}',
        )
    ],
    "one by one": [
        refusal("400 Bad", b'{"error": {"message": "unknown: stream_options"}}'),
        refusal("400 Bad", b'{"error": {"message": "unknown: reasoning_content"}}'),
    ],
}
THOUGHTFUL = [
    Message("user", "Hi"),
    Message("assistant", None, [{"id": "c"}], reasoning_content="Hm."),
    Message("tool", "x", tool_call_id="c"),
]


@pytest.mark.parametrize("scripts", REFUSED_THOUGHTS.values(), ids=REFUSED_THOUGHTS)
def test_who_refuses_thoughts_is_asked_without_and_never_again(
    scripts: list[list[Step]],
) -> None:
    first, *then = scripts
    with raw_model(first, then=then) as model:
        told = tell(model.base_url, runs=2, messages=THOUGHTFUL)
    assert (told.text, told.error) == ("secondsecond", "")
    asked = ["reasoning_content" in body["messages"][1] for _, body in model.requests]
    assert asked == [*[True] * len(scripts), False, False]


def test_who_misses_a_thought_is_sent_them_the_next_time() -> None:
    """It names what it was sent, and was asked without that in vain."""
    missed = refusal("400 Bad", b'{"error": {"message": "Missing reasoning_content in 3"}}')

    async def ask_twice(agent: Any) -> list[str]:
        return [await ask(agent, THOUGHTFUL) for _ in range(2)]

    with raw_model(missed, then=[missed]) as model:
        told = asyncio.run(ask_twice(agent_of(model.base_url)))
    assert told == ["upstream_rejected", "second"]
    asked = ["reasoning_content" in body["messages"][1] for _, body in model.requests]
    assert asked == [True, False, True]


def test_what_is_refused_for_another_reason_is_refused() -> None:
    with raw_model(refusal("400 Bad", b'{"error": {"message": "no such tool"}}')) as model:
        told = tell(model.base_url)
    assert (told.error, told.message) == ("upstream_rejected", "400: no such tool")
    assert len(model.requests) == 1


def test_options_that_were_asked_for_are_passed_on_untouched() -> None:
    """Gemini has a member `extra_body` of its own."""
    options = {
        "temperature": 0.25,
        "extra_body": {"google": {"thinking_config": {"include_thoughts": True}}},
        "stream_options": {"include_usage": False},
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "made_up": None,
        "stream": False,
        "messages": [],
    }
    with raw_model([FIRST]) as model:
        assert tell(model.base_url, options).text == "first"
    told = {"stream": True, "messages": [{"role": "user", "content": "Hi"}], "model": "m"}
    assert model.requests[0][1] == options | told


def test_models_are_those_of_the_settings() -> None:
    with raw_model([FIRST]) as model:
        for name, error in (("other", ""), ("m", ""), ("else", "invalid_options")):
            told = tell(model.base_url, {"model": name}, openai_models=("other",))
            assert told.error == error
        assert tell(model.base_url, {"model": "other"}).error == "invalid_options"
    assert [body["model"] for _, body in model.requests] == ["other", "m"]


@pytest.mark.parametrize(
    ("base", "path"),
    [
        ("/v1", "/v1/chat/completions"),
        ("/v1/", "/v1/chat/completions"),
        ("", "/chat/completions"),
        ("/v1/chat/completions", "/v1/chat/completions"),
        (
            "/openai/deployments/gpt?api-version=2024-10-21",
            "/openai/deployments/gpt/chat/completions?api-version=2024-10-21",
        ),
    ],
)
def test_the_path_goes_before_a_query(base: str, path: str) -> None:
    with raw_model([FIRST]) as model:
        told = tell(model.base_url.removesuffix("/v1") + base)
    assert told.text == "first"
    assert model.heads[0].startswith(f"POST {path} HTTP/1.1")


def test_the_key_goes_in_the_header_that_is_asked_for() -> None:
    with raw_model([FIRST]) as model:
        tell(model.base_url, openai_api_key=KEY, openai_auth_header="api-key")
        tell(model.base_url, openai_api_key=KEY)
    azure, usual = model.heads
    assert f"api-key: {KEY}" in azure and "authorization" not in azure.lower()
    assert f"Authorization: Bearer {KEY}" in usual


RETRIED: dict[str, list[Step]] = {
    "429": refusal("429 Slow", b"{}", "Retry-After: 0"),
    "429 with milliseconds": refusal("429 Slow", b"{}", "retry-after-ms: 5", "Retry-After: 60"),
    "429 with a date": refusal("429 Slow", b"", "Retry-After: Sun, 06 Nov 1994 08:49:37 GMT"),
    "408": refusal("408 Timeout"),
    "409": refusal("409 Conflict"),
    "500": refusal("500 Oops", b"<html>oops</html>"),
    "503": refusal("503 Busy"),
    "who says so": refusal("418 Teapot", b"", "x-should-retry: true"),
    "a cut before the first word": [head_of("Content-Length: 999"), CLOSE],
    "no head": [CLOSE],
    "an error in the stream": [sized(event({"error": "overloaded"}))],
    "an answer of nothing": [sized(b"data: [DONE]\n\n")],
}


@pytest.mark.parametrize("script", RETRIED.values(), ids=RETRIED)
def test_what_fails_before_the_first_word_is_asked_again(script: list[Step]) -> None:
    with raw_model(script, then=[script]) as model:
        told = tell(model.base_url, retries=2)
    assert (told.text, len(model.requests)) == ("second", 3)


def test_it_is_not_asked_for_ever() -> None:
    script = refusal("429 Slow", b'{"error": {"message": "slow down"}}', "Retry-After: 0")
    with raw_model(script, then=[script] * 5) as model:
        told = tell(model.base_url, retries=2)
    assert (told.error, told.message) == ("upstream_rate_limited", "slow down")
    assert len(model.requests) == 3


WORD = event({"choices": [{"delta": {"content": "Hello"}}]})
THOUGHT = event({"choices": [{"delta": {"reasoning_content": "Hm."}}]})
NOT_RETRIED: dict[str, tuple[list[Step], str]] = {
    "after a word": ([head_of("Content-Length: 999") + WORD, CLOSE], "upstream_broken_stream"),
    "after a thought": ([sized(THOUGHT + event({"error": "no"}))], "upstream_broken_stream"),
    "400": (refusal("400 Bad"), "upstream_rejected"),
    "401": (refusal("401 Who"), "upstream_rejected"),
    "who says no": (
        refusal("500 Oops", b"", "x-should-retry: false"),
        "upstream_error",
    ),
    "a quota that is spent": (
        refusal("429 No", b'{"error": {"code": "insufficient_quota", "message": "pay"}}'),
        "upstream_rate_limited",
    ),
    "who wants to be left alone for long": (
        refusal("429 No", b"", "Retry-After: 3600"),
        "upstream_rate_limited",
    ),
}


@pytest.mark.parametrize(("script", "code"), NOT_RETRIED.values(), ids=NOT_RETRIED)
def test_what_fails_otherwise_is_not_asked_again(script: list[Step], code: str) -> None:
    with raw_model(script) as model:
        told = tell(model.base_url, retries=2)
    assert (told.error, len(model.requests)) == (code, 1)


def test_retry_after_is_waited_for() -> None:
    script = refusal("429 Slow", b"", "Retry-After: 1.5")
    began = time.monotonic()
    with raw_model(script) as model:
        assert tell(model.base_url, retries=2).text == "second"
    assert 1.5 <= time.monotonic() - began < 10


def test_a_model_that_is_loading_is_waited_for() -> None:
    """llama.cpp says so for as long as it takes; that is no try."""
    body = b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}'
    script = refusal("503 Service Unavailable", body)
    with raw_model(script, then=[script] * 3) as model:
        told = tell(model.base_url, retries=1)
    assert (told.text, len(model.requests)) == ("second", 5)


def test_other_models_are_asked_in_turn() -> None:
    scripts = [refusal("404 No", b'{"error": "no such model"}'), refusal("429 Slow", b"")]
    usage = {"choices": [], "model": "c", "usage": {"prompt_tokens": 1}}
    third = [sized(event(usage) + stream_of("third"))]
    with raw_model(scripts[0], then=[scripts[1], third]) as model:
        told = tell(model.base_url, openai_fallback_models=("b", "m", "c"))
    assert (told.text, told.only(Usage)) == ("third", [Usage(1, 0, model="c")])
    assert [body["model"] for _, body in model.requests] == ["m", "b", "c"]


def test_another_model_is_not_kept_waiting_for_the_first() -> None:
    began = time.monotonic()
    with raw_model(refusal("429 Slow", b"", "Retry-After: 20")) as model:
        told = tell(model.base_url, retries=2, openai_fallback_models=("b",))
    assert told.text == "second" and time.monotonic() - began < 10


def test_what_was_told_is_not_asked_of_another_model() -> None:
    with raw_model([head_of("Content-Length: 999") + WORD, CLOSE]) as model:
        told = tell(model.base_url, retries=2, openai_fallback_models=("b",))
    assert (told.text, told.error) == ("Hello", "upstream_broken_stream")
    assert len(model.requests) == 1


def test_the_error_is_that_of_the_last_model() -> None:
    with raw_model(refusal("429 Slow"), then=[refusal("400 Bad", b"no")]) as model:
        told = tell(model.base_url, openai_fallback_models=("b",))
    assert (told.error, told.message) == ("upstream_rejected", "400: no")


@pytest.mark.parametrize("status", ["307 Temporary Redirect", "308 Permanent Redirect"])
def test_a_question_that_is_sent_on_within_the_endpoint_is_asked_there(status: str) -> None:
    """As a stock SDK does; servers do so for a slash."""
    moved = refusal(status, b"", "Location: /v2/chat/completions/?x=1")
    with raw_model(moved) as model:
        told = tell(model.base_url, openai_api_key=KEY)
    assert told.text == "second"
    assert model.heads[1].startswith("POST /v2/chat/completions/?x=1 HTTP/1.1")
    assert f"Bearer {KEY}" in model.heads[1] and model.requests[0][1] == model.requests[1][1]


@pytest.mark.parametrize(
    ("status", "where"),
    [
        ("307 Moved", "http://127.0.0.2:1/v1/chat/completions"),
        ("307 Moved", "http://localhost:1/"),
        ("308 Moved", ""),
        ("307 Moved", "ftp://127.0.0.1/"),
        ("302 Found", "/v2/chat/completions"),
    ],
)
def test_a_question_is_not_sent_on_elsewhere_with_its_key(status: str, where: str) -> None:
    lines = [f"Location: {where}"] if where else []
    script = refusal(status, b"", *lines)
    with raw_model(script, then=[script] * 5) as model:
        told = tell(model.base_url, openai_api_key=KEY)
    assert told.error == "upstream_rejected" and "is not followed there" in told.message


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """What a server of `localhost` speaks whom SSL_CERT_FILE alone vouches for."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_ssl_cert_file_says_whom_to_trust(trusted: ssl.SSLContext) -> None:
    with raw_model([FIRST], trusted) as model:
        assert tell(model.base_url).text == "first"


def test_a_file_of_no_certificates_is_a_matter_of_settings(
    trusted: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "empty.pem").write_text("nothing")
    for path in (tmp_path / "none.pem", tmp_path / "empty.pem"):
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        with raw_model([FIRST], trusted) as model:
            told = tell(model.base_url)
        assert told.error == "upstream_not_configured" and "SSL_CERT_FILE" in told.message


def test_a_secure_endpoint_is_reached_through_a_tunnel(
    trusted: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    with raw_model([FIRST], trusted) as model, forward_proxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("//", "//me:secret@"))
        told = tell(model.base_url, openai_api_key=KEY, runs=2)
    assert told.text == "firstsecond"
    port = model.base_url.rpartition(":")[2].removesuffix("/v1")
    assert proxy.asked == [f"CONNECT localhost:{port} HTTP/1.1"]
    assert "Proxy-Authorization: Basic bWU6c2VjcmV0" in proxy.heads[0]
    assert KEY not in proxy.heads[0] and "Proxy-Authorization" not in model.heads[0]


def test_another_endpoint_is_asked_through_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with raw_model([FIRST]) as model, forward_proxy() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        assert tell(model.base_url).text == "first"
        assert proxy.asked == [f"POST {model.base_url}/chat/completions HTTP/1.1"]
        monkeypatch.setenv("NO_PROXY", "127.0.0.0/8")
        assert tell(model.base_url).text == "second"
        assert len(proxy.asked) == 1


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 407 Who are you\r\n\r\n", "the proxy of HTTPS_PROXY: it answered 407"),
        (b"", "the proxy of HTTPS_PROXY: it gave no answer"),
        (b"SSH-2.0\r\n\r\n", "the proxy of HTTPS_PROXY: it answered no HTTP"),
    ],
)
def test_a_proxy_that_makes_no_tunnel_is_named(
    answer: bytes, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with forward_proxy() as proxy:
        proxy.answer = answer
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        told = tell("https://localhost:1/v1")
    assert told.error == "upstream_unreachable" and said in told.message


def test_a_proxy_that_cannot_be_used_is_a_matter_of_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "socks5://me:secret@box:1")
    told = tell("https://localhost:1/v1")
    assert told.error == "upstream_not_configured"
    assert told.message.startswith("HTTPS_PROXY must be http://host:port")
    assert "secret" not in told.message


def test_pings_are_no_words() -> None:
    """Before the first word they may come for as long as the run may take."""
    word = chunk(stream_of("first")) + b"0\r\n\r\n"
    with raw_model([chunked(), PINGS, word]) as model, after(2.5, model):
        assert tell(model.base_url, openai_silence_s=1).text == "first"

"""The agent `openai`: any endpoint that speaks OpenAI's /chat/completions.

Invariant: an answer is complete, says why it is not (`Finish`), or is an error. Whatever way
the upstream breaks (refusal, cut, nonsense, silence) ends as an AgentError with a code of its
own; and when the run is given up, so is the connection upstream.

The API key is in the request's header and nowhere else: it is cut out of what upstreams say.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from plateau_sse.agents import Agent, AgentError, Run, Yielded
from plateau_sse.agents.complaints import MAX_MESSAGE, broken, message_of
from plateau_sse.agents.completion import Answer
from plateau_sse.eventsource import EventReader, TooLong
from plateau_sse.settings import Settings

if TYPE_CHECKING:
    from plateau_sse.agents.upstream import Response, Upstream

SILENCE_S = 30.0
# For what may follow the last word (usage, `[DONE]`), and for what may follow `[DONE]`: the end
# of the body.
USAGE_S = 5.0
REST_S, REST_BYTES = 0.05, 4096
# White space, and a byte order mark, may come before what tells a stream from a document.
WHITE, MAX_WHITE = b" \t\r\n\xef\xbb\xbf", 64 * 1024
MAX_ERROR_BODY = 64 * 1024
MAX_JSON_BODY = 4 * 1024 * 1024

OPTIONS = frozenset(
    "model temperature top_p max_tokens max_completion_tokens seed stop tools tool_choice "
    "parallel_tool_calls response_format presence_penalty frequency_penalty logit_bias "
    "reasoning_effort verbosity service_tier".split()
)


def make_openai(settings: Settings, *, silence_s: float = SILENCE_S) -> Agent:
    """The agent for `settings`. `silence_s`: how long the upstream may send no byte at all."""
    url = settings.openai_base_url.rstrip("/") + "/chat/completions"

    @cache
    def upstream() -> Upstream:
        # TLS, HTTP and all are imported on the first run, and in no other process.
        from plateau_sse.agents.upstream import Upstream

        return Upstream(url, silence_s)

    async def openai(run: Run) -> AsyncGenerator[Yielded, None]:
        # Escaped to ASCII: half a surrogate pair in the input is then still valid JSON.
        body = json.dumps(_payload(run, settings)).encode()
        try:
            endpoint = upstream()
        except ValueError as error:
            said = f"OPENAI_BASE_URL is no address: {error}."
            raise AgentError("upstream_not_configured", said) from None
        async with aclosing(_complete(endpoint, body, settings.openai_api_key)) as parts:
            async for part in parts:
                yield part

    return openai


def _payload(run: Run, settings: Settings) -> dict[str, Any]:
    unknown = sorted(set(run.options) - OPTIONS)
    if unknown:
        raise AgentError(
            "invalid_options",
            f"openai has no option {unknown[0]!r}: it takes {', '.join(sorted(OPTIONS))}.",
        )
    model = run.options.get("model", settings.openai_model)
    if not isinstance(model, str):
        raise AgentError("invalid_options", "model must be a string.")
    if not settings.openai_base_url:
        raise AgentError("upstream_not_configured", "OPENAI_BASE_URL is not set.")
    if not settings.openai_api_key.isascii():
        raise AgentError("upstream_not_configured", "OPENAI_API_KEY must be plain ASCII.")
    if not model:
        raise AgentError("upstream_not_configured", "OPENAI_MODEL is not set: name a model.")
    messages = [message.as_sent() for message in run.messages]
    return {
        **run.options,
        "model": model,
        "messages": messages or [{"role": "user", "content": run.input}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def _complete(upstream: Upstream, body: bytes, key: str) -> AsyncGenerator[Yielded, None]:
    import zlib

    import h11

    from plateau_sse.agents.upstream import Unreachable

    answer = Answer()
    try:
        async with (
            upstream.post(body, _headers(key)) as response,
            aclosing(_read_answer(response, answer)) as parts,
        ):
            async for part in parts:
                yield part
    except AgentError as error:
        raise _presentable(error, key) from None
    except (Unreachable, OSError, h11.ProtocolError, zlib.error, TooLong) as error:
        # Broken after the model had finished: the answer is whole all the same.
        if not answer.is_whole:
            raise _presentable(_fault(error), key) from None
    for part in answer.finish():
        yield part


def _headers(key: str) -> dict[str, str]:
    headers = {
        "Accept": "text/event-stream",
        # A compressing proxy would hold pieces back until its buffer is full.
        "Accept-Encoding": "identity",
        "Content-Type": "application/json",
    }
    if key:
        headers["Authorization"] = f"Bearer {key}"
    return headers


async def _read_answer(response: Response, answer: Answer) -> AsyncGenerator[Yielded, None]:
    if not 200 <= response.status < 300:
        raise await _refusal(response)
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "text/html":
        raise broken(f"it answered with {kind}, is OPENAI_BASE_URL right?")
    # What came is what counts: there are streams that are called application/json.
    head = b""
    while not head.strip(WHITE) and len(head) < MAX_WHITE and (piece := await response.read()):
        head += piece
    read = _read_json if head.lstrip(WHITE)[:1] in (b"{", b"[") else _read_events
    async with aclosing(read(head, response, answer)) as parts:
        async for part in parts:
            yield part


async def _read_events(
    chunk: bytes, response: Response, answer: Answer
) -> AsyncGenerator[Yielded, None]:
    reader, by = EventReader(), None
    while chunk:
        messages = reader.feed(chunk)
        for message in messages:
            for part in answer.take(message.data, message.event):
                yield part
            if answer.is_done:
                if next(messages, None) is None:
                    await _read_rest(reader, response)
                return
        if not answer.is_whole:
            by = None
        elif by is None:
            by = asyncio.get_running_loop().time() + USAGE_S
        chunk = await response.read(by)
    for message in reader.finish():
        for part in answer.take(message.data, message.event):
            yield part


async def _read_rest(reader: EventReader, response: Response) -> None:
    """To the end of the body, so that the connection can be kept. One that says anything more,
    or too much of nothing, is not read to its end, and so is closed."""
    by, left = asyncio.get_running_loop().time() + REST_S, REST_BYTES
    while left > 0 and (chunk := await response.read(by)):
        left -= len(chunk)
        if next(reader.feed(chunk), None) is not None:
            return


async def _read_json(
    body: bytes, response: Response, answer: Answer
) -> AsyncGenerator[Yielded, None]:
    """Some endpoints answer with one document although a stream was asked for."""
    body += await _read(response, MAX_JSON_BODY + 1)
    if len(body) > MAX_JSON_BODY:
        raise broken("its document is too long")
    for part in answer.take(body.decode("utf-8-sig", "replace")):
        yield part


async def _read(response: Response, most: int) -> bytes:
    body = bytearray()
    while len(body) < most and (piece := await response.read()):
        body += piece
    return bytes(body[:most])


async def _refusal(response: Response) -> AgentError:
    import zlib

    import h11

    status, body = response.status, b""
    # The status says enough where the body breaks off.
    with suppress(OSError, h11.ProtocolError, zlib.error):
        body = await _read(response, MAX_ERROR_BODY)
    said = message_of(body.decode("utf-8", "replace")) or response.reason
    if status == 429:
        return AgentError("upstream_rate_limited", said, retryable=True)
    if status >= 500:
        return AgentError("upstream_error", f"{status}: {said}", retryable=True)
    if status < 400:
        said = f"it answered {status}, and redirects are not followed: correct OPENAI_BASE_URL."
        return AgentError("upstream_rejected", said)
    return AgentError("upstream_rejected", f"{status}: {said}", retryable=status == 408)


def _fault(error: Exception) -> AgentError:
    """What an error of the connection means."""
    import h11

    from plateau_sse.agents.upstream import Unreachable

    if isinstance(error, h11.LocalProtocolError):
        what = "OPENAI_BASE_URL or OPENAI_API_KEY does not fit in a request."
        return AgentError("upstream_not_configured", what)
    if isinstance(error, Unreachable):
        what = f"The model's endpoint could not be reached: {error}."
        return AgentError("upstream_unreachable", what, retryable=True)
    if isinstance(error, TimeoutError):
        what = "The model's endpoint fell silent."
        return AgentError("upstream_timeout", what, retryable=True)
    return broken(f"{type(error).__name__}: {error}".rstrip(": "))


def _presentable(error: AgentError, key: str) -> AgentError:
    """Without the key, and only then cut, so that no piece of the key is left."""
    said = error.message.replace(key, "[key]") if key else error.message
    if len(said) > MAX_MESSAGE:
        said = said[: MAX_MESSAGE - 1] + "…"
    return AgentError(error.code, said, retryable=error.retryable)

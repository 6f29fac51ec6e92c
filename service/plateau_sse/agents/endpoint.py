"""One question to the endpoint of a model, and its answer.

Invariant: an answer is complete, says why it is not (`Finish`), or is an AgentError with a
code of its own, whatever way the endpoint breaks: refusal, cut, nonsense, silence. When its
generator is closed, so is the connection.

The API key is in the request's header and nowhere else: it is cut out of what endpoints say, as
are addresses of their networks (`redacting`).
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import time
import zlib
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from typing import Any

import h11

from plateau_sse.addresses import key_header, url_of
from plateau_sse.agents import AgentError, Usage, Yielded
from plateau_sse.agents.complaints import MAX_MESSAGE, broken, message_of
from plateau_sse.agents.completion import Answer
from plateau_sse.agents.framing import read_answer
from plateau_sse.agents.redacting import redacted
from plateau_sse.agents.toolcalls import answered_in
from plateau_sse.agents.upstream import Misconfigured, Response, Unreachable, Upstream
from plateau_sse.eventsource import TooLong
from plateau_sse.settings import Settings

HEADERS = {
    "Accept": "text/event-stream",
    # A compressing proxy would hold pieces back until its buffer is full.
    "Accept-Encoding": "identity",
    "Content-Type": "application/json",
}
NOTHING: Mapping[str, str] = {}
MAX_ERROR_BODY = 64 * 1024
# A refusal has its reason at once, or none that is worth waiting for.
REFUSAL_S = 5.0
# What comes of a connection that breaks, or of a body that is none.
BREAKS = (OSError, h11.ProtocolError, zlib.error, TooLong)
# What is sent to those that do not refuse it, with the names by which they do.
COUNTS, THOUGHTS = "stream_options", "reasoning_content"
REFUSALS = {COUNTS: (COUNTS, "include_usage"), THOUGHTS: (THOUGHTS,)}


class Refused(AgentError):
    """A status that is no answer. `retry_after_s`: when the endpoint wants to be asked again;
    `retries` where it says whether; `is_loading` where it will answer once it has its model."""

    retry_after_s: float | None = None
    retries: bool | None = None
    is_loading = False
    names: frozenset[str] = frozenset()


class Endpoint:
    """Of `settings`. ValueError where its address, or its proxy's, is none."""

    def __init__(self, settings: Settings) -> None:
        url = url_of(settings.openai_base_url)
        # A model may have to be loaded before it says anything: the run's own time bounds that.
        self._upstream = Upstream(url, settings.run_timeout_s)
        self._silence_s = settings.openai_silence_s
        self._key = settings.openai_api_key
        self._headers = HEADERS | key_header(settings.openai_auth_header, self._key)
        # What models do not take: of those that the settings name.
        self._refused: dict[str, frozenset[str]] = {}

    async def ask(
        self, payload: Mapping[str, Any], more: Mapping[str, str] = NOTHING
    ) -> AsyncGenerator[Yielded, None]:
        """The answer to what is asked, with counts if the endpoint has any, and with what was
        thought before its calls if it takes that. `more` are headers beside its own."""
        model, has_begun = payload["model"], False
        without = self._refused.get(model, frozenset())
        while True:
            asked, extras = _with_extras(payload, without)
            try:
                async with aclosing(self._ask(asked, more)) as parts:
                    async for part in parts:
                        if without and not has_begun:
                            # Only what is answered without them shows that it was for them.
                            self._refused[model] = without
                        has_begun = True
                        yield part
                return
            except AgentError as error:
                refused = extras & _names_in(error)
                if has_begun or not refused:
                    raise
                without |= refused

    async def _ask(
        self, payload: Mapping[str, Any], more: Mapping[str, str]
    ) -> AsyncGenerator[Yielded, None]:
        # Escaped to ASCII: half a surrogate pair in the input is then still valid JSON.
        body = json.dumps(payload).encode()
        answer, has_end = Answer(answered_in(payload["messages"])), True
        try:
            async with self._upstream.post(body, {**self._headers, **more}) as response:
                has_end = response.has_end
                if not 200 <= response.status < 300:
                    raise await _refusal(response)
                async with aclosing(read_answer(response, answer)) as parts:
                    async for part in parts:
                        if not isinstance(part, Usage):
                            response.silence_s = self._silence_s
                        yield part
        except AgentError as error:
            raise self._presentable(error) from None
        except (Unreachable, Misconfigured, *BREAKS) as error:
            # Broken after the model had finished: the answer is whole all the same.
            if not answer.is_whole:
                raise self._presentable(_fault(error)) from None
        try:
            for part in answer.finish(has_end=has_end):
                yield part
        except AgentError as error:
            raise self._presentable(error) from None

    def _presentable(self, error: AgentError) -> AgentError:
        """Without the key, and only then cut, so that no piece of the key is left."""
        said = redacted(error.message, self._key)
        error.message = said if len(said) <= MAX_MESSAGE else said[: MAX_MESSAGE - 1] + "…"
        error.args = (error.message,)
        return error


def _with_extras(
    payload: Mapping[str, Any], without: frozenset[str]
) -> tuple[Mapping[str, Any], frozenset[str]]:
    """What is asked, and which of REFUSALS it has that could be left out."""
    extras = set()
    if COUNTS not in payload and COUNTS not in without:
        payload = {**payload, COUNTS: {"include_usage": True}}
        extras.add(COUNTS)
    if any(THOUGHTS in it for it in payload["messages"]):
        if THOUGHTS not in without:
            extras.add(THOUGHTS)
        else:
            messages = [
                {name: value for name, value in it.items() if name != THOUGHTS}
                for it in payload["messages"]
            ]
            payload = {**payload, "messages": messages}
    return payload, frozenset(extras)


def _names_in(error: AgentError) -> frozenset[str]:
    return error.names if isinstance(error, Refused) else _named(error.message)


def _named(text: str) -> frozenset[str]:
    return frozenset(it for it, names in REFUSALS.items() if any(n in text for n in names))


async def _refusal(response: Response) -> Refused:
    body, by = b"", asyncio.get_running_loop().time() + REFUSAL_S
    # The status says enough where the body breaks off.
    with suppress(*BREAKS):
        while len(body) < MAX_ERROR_BODY and (piece := await response.read(by)):
            body += piece
    text = body[:MAX_ERROR_BODY].decode("utf-8", "replace")
    is_page = text.lstrip("\ufeff \t\r\n").startswith("<")
    said = "" if is_page else message_of(text)
    error = _refused(response.status, said or response.reason)
    error.names = _named(text)
    error.is_loading = response.status == 503 and "loading" in said.lower()
    error.retry_after_s = _retry_after_s(response.headers)
    error.retries = {"true": True, "false": False}.get(
        response.headers.get("x-should-retry", "").lower()
    )
    if "insufficient_quota" in text:
        error.retries = False
    return error


def _refused(status: int, said: str) -> Refused:
    if status == 429:
        return Refused("upstream_rate_limited", said, retryable=True)
    if status >= 500:
        return Refused("upstream_error", f"{status}: {said}", retryable=True)
    if status < 400:
        said = f"it answered {status}, and is not followed there: correct OPENAI_BASE_URL."
        return Refused("upstream_rejected", said)
    return Refused("upstream_rejected", f"{status}: {said}", retryable=status in (408, 409))


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """As OpenAI's packages read it: milliseconds in a header of its own, seconds, a date."""
    with suppress(ValueError):
        return max(0.0, float(headers.get("retry-after-ms", "")) / 1000)
    given = headers.get("retry-after", "")
    with suppress(ValueError):
        return max(0.0, float(given))
    with suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(given).timestamp() - time.time())
    return None


def _fault(error: Exception) -> AgentError:
    """What an error of the connection means."""
    if isinstance(error, h11.LocalProtocolError):
        what = "OPENAI_BASE_URL or OPENAI_API_KEY does not fit in a request."
        return AgentError("upstream_not_configured", what)
    if isinstance(error, Unreachable):
        what = f"The model's endpoint could not be reached: {error}."
        return AgentError("upstream_unreachable", what, retryable=True)
    if isinstance(error, TimeoutError):
        what = "The model's endpoint fell silent."
        return AgentError("upstream_timeout", what, retryable=True)
    if isinstance(error, Misconfigured):
        return AgentError("upstream_not_configured", f"{error}.")
    return broken(f"{type(error).__name__}: {error}".rstrip(": "))

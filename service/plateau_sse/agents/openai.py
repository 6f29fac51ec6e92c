"""The agent `openai`: any endpoint that speaks OpenAI's /chat/completions.

Invariant: what was told is never asked for again. Before the first word of an answer a question
that failed may be asked once more, and then another model; from then on a failure is the run's.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from plateau_sse.agents import Agent, AgentError, Run, Usage, Yielded
from plateau_sse.settings import Settings

if TYPE_CHECKING:
    from plateau_sse.agents.endpoint import Endpoint

log = logging.getLogger("plateau.runner")

# As often as OpenAI's own packages.
RETRIES = 2
FIRST_WAIT_S = 0.5
# What is to be waited for longer is an error, which says so; where there is another model that
# can be asked, sooner.
MAX_WAIT_S, MAX_WAIT_FOR_NEXT_S = 30.0, 2.0
# An endpoint that says that it is loading its model is asked as long as the run may take.
LOADING_S = 1.0


def make_openai(settings: Settings, *, retries: int = RETRIES) -> Agent:
    """The agent for `settings`; a question that fails is asked up to `retries` times more."""

    @cache
    def endpoint() -> Endpoint:
        # TLS, HTTP and all are imported on the first run, and in no other process.
        from plateau_sse.agents.endpoint import Endpoint

        return Endpoint(settings)

    async def openai(run: Run) -> AsyncGenerator[Yielded, None]:
        models = _models(run, settings)
        payload = _payload(run, settings)
        by = asyncio.get_running_loop().time() + settings.run_timeout_s
        try:
            asked = endpoint()
        except ValueError as error:
            raise AgentError("upstream_not_configured", f"{error}.") from None
        for model in models:
            is_last = model == models[-1]
            with run.trace.call("model") as headers:
                question = partial(asked.ask, {**payload, "model": model}, headers)
                async with aclosing(_answer(question, retries, by, is_last=is_last)) as parts:
                    async for part in parts:
                        if isinstance(part, AgentError):
                            log.info("run %s: %s of %s", run.id, part.code, model)
                            break
                        yield part
                    else:
                        return

    return openai


async def _answer(
    question: Callable[[], AsyncGenerator[Yielded, None]],
    retries: int,
    by: float,
    *,
    is_last: bool,
) -> AsyncGenerator[Yielded | AgentError, None]:
    """The answer of whichever try; at last an AgentError where another model is asked."""
    for tried in itertools.count():
        told = False
        try:
            async with aclosing(question()) as parts:
                async for part in parts:
                    told = told or not isinstance(part, Usage)
                    yield part
            return
        except AgentError as error:
            wait_s = _wait_s(error, tried, retries, is_last=is_last)
            if told or error.code == "upstream_not_configured":
                raise
            if wait_s >= by - asyncio.get_running_loop().time():
                if is_last:
                    raise
                yield error
                return
        await asyncio.sleep(wait_s)


def _wait_s(error: AgentError, tried: int, retries: int, *, is_last: bool) -> float:
    """How long until the same model is asked again; infinite where it is not to be."""
    if getattr(error, "is_loading", False) and is_last:
        return LOADING_S
    says = getattr(error, "retries", None)
    if tried >= retries or not (error.retryable if says is None else says):
        return math.inf
    wait_s = getattr(error, "retry_after_s", None)
    if wait_s is None:
        # Whoever failed together does not come back together.
        wait_s = FIRST_WAIT_S * 2**tried * random.uniform(0.75, 1.0)
    return wait_s if wait_s <= (MAX_WAIT_S if is_last else MAX_WAIT_FOR_NEXT_S) else math.inf


def _models(run: Run, settings: Settings) -> list[str]:
    """Which to ask, one after the other."""
    model = run.options.get("model", settings.openai_model)
    if not isinstance(model, str):
        raise AgentError("invalid_options", "model must be a string.")
    if not model:
        raise AgentError("upstream_not_configured", "OPENAI_MODEL is not set: name a model.")
    if model not in (settings.openai_model, *settings.openai_models):
        said = (
            f"There is no model {model[:100]!r}: OPENAI_MODELS lists those that may be asked."
        )
        raise AgentError("invalid_options", said)
    return list(dict.fromkeys([model, *settings.openai_fallback_models]))


def _payload(run: Run, settings: Settings) -> dict[str, Any]:
    """All that is asked but for the model."""
    denied = sorted(set(run.options) & set(settings.openai_options_deny))
    if denied:
        raise AgentError("invalid_options", f"The option {denied[0]} is not open to callers.")
    if not settings.openai_base_url:
        raise AgentError("upstream_not_configured", "OPENAI_BASE_URL is not set.")
    if not settings.openai_api_key.isascii():
        raise AgentError("upstream_not_configured", "OPENAI_API_KEY must be plain ASCII.")
    messages = [message.as_sent() for message in run.messages]
    return {
        **run.options,
        "messages": messages or [{"role": "user", "content": run.input}],
        "stream": True,
    }

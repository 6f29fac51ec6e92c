"""What an error of a framework means to whoever waits for the answer.

Invariant: errors are told apart by the names of the classes among their ancestors and by the
status of HTTP that they carry, so that nothing is imported to ask; of what they say nothing is
passed on, since it may hold a key, an address or a whole response. The log has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from plateau_sse.agents import AgentError

_STEPS = "too_many_steps"
_FILTERED = "content_filtered"
_BROKEN = "upstream_broken_stream"
_UNREACHABLE = "upstream_unreachable"
_KINDS = {
    "GraphRecursionError": _STEPS,
    "MaxTurnsExceeded": _STEPS,
    "UsageLimitExceeded": _STEPS,
    "InputGuardrailTripwireTriggered": _FILTERED,
    "OutputGuardrailTripwireTriggered": _FILTERED,
    "ToolInputGuardrailTripwireTriggered": _FILTERED,
    "ToolOutputGuardrailTripwireTriggered": _FILTERED,
    "ContentFilterError": _FILTERED,
    "ContentFilterFinishReasonError": _FILTERED,
    "ModelRefusalError": _FILTERED,
    "OpenAIRefusalError": _FILTERED,
    "RateLimitError": "upstream_rate_limited",
    "ModelRateLimitError": "upstream_rate_limited",
    "ModelQuotaExceededError": "upstream_rejected",
    "ModelRequestRejectedError": "upstream_rejected",
    "ModelServerError": "upstream_error",
    "ModelUnavailableError": "upstream_error",
    "ModelTimeoutError": "upstream_timeout",
    "APITimeoutError": "upstream_timeout",
    "ConnectTimeout": _UNREACHABLE,
    "TimeoutException": "upstream_timeout",
    "StreamChunkTimeoutError": "upstream_timeout",
    "APIConnectionError": _UNREACHABLE,
    "ConnectError": _UNREACHABLE,
    "ModelConnectionError": _UNREACHABLE,
    "RemoteProtocolError": _BROKEN,
    "ReadError": _BROKEN,
    "ModelBehaviorError": _BROKEN,
    "UnexpectedModelBehavior": _BROKEN,
    "LengthFinishReasonError": _BROKEN,
}
_MESSAGES = {
    _STEPS: "The agent took as many steps as it may",
    _FILTERED: "The agent, or its model, refused to answer",
    _BROKEN: "The model's answer broke off, or is not understood",
    "upstream_rate_limited": "The model's endpoint is rate limiting",
    "upstream_timeout": "The model's endpoint fell silent",
    _UNREACHABLE: "The model's endpoint could not be reached",
    "upstream_error": "The model's endpoint failed",
    "upstream_rejected": "The model's endpoint refused the request",
}
_FINAL = (_STEPS, _FILTERED, "upstream_rejected")
# Errors that were raised from others, which were raised from others.
_CAUSES_MOST = 5


def fault_of(error: BaseException) -> AgentError | None:
    """As the run is to end; None for an error of the agent's own. Raise it `from error`."""
    for one in _causes(error):
        if isinstance(one, AgentError):
            return one
        if code := _code(one):
            if code == _UNREACHABLE and any(_code(it) == _BROKEN for it in _causes(one)):
                # What broke in the middle has the name of what was never there.
                code = _BROKEN
            name, status = type(one).__name__, _status(one)
            said = f"{_MESSAGES[code]} ({f'{status}, ' if status else ''}{name})."
            return AgentError(code, said, retryable=code not in _FINAL or status == 408)
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(_CAUSES_MOST):
        if error is None:
            return
        yield error
        if isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        else:
            error = error.__cause__


def _code(error: BaseException) -> str:
    status = _status(error)
    if status == 429:
        return "upstream_rate_limited"
    if status >= 500:
        return "upstream_error"
    for ancestor in type(error).__mro__:
        if code := _KINDS.get(ancestor.__name__):
            return code
    return "upstream_rejected" if status >= 400 else ""


def _status(error: BaseException) -> int:
    """That of the response which it tells of, 0 for none."""
    response: Any = getattr(error, "response", None)
    found = getattr(error, "status_code", getattr(response, "status_code", 0))
    return found if isinstance(found, int) else 0

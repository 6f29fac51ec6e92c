"""Errors as OpenAI's API tells them, before a stream and within one.

Invariant: the packages that read them ask again by themselves after some statuses: what would
fail again says `x-should-retry: false`, which they obey.
"""

from __future__ import annotations

from typing import Any, NamedTuple

# Of runs that failed, where another try may do better; what is not here is 502.
_STATUSES = {
    "invalid_options": 400,
    "upstream_rate_limited": 429,
    "queue_timeout": 503,
    "store_full": 503,
    "record_lost": 503,
    "timeout": 504,
    "upstream_timeout": 504,
    "cancelled": 409,
}
# Executed to no end already, as often as may be or for as long: who asks again by itself would
# have it done a few times more. A person may.
_TRIED = ("runner_lost", "timeout")
# Of what was asked, where their status is another than ours.
_OURS = {"invalid_request": 400, "unknown_agent": 404, "run_expired": 404}
# What they call it.
_CODES = {
    "unauthorized": "invalid_api_key",
    "token_expired": "invalid_api_key",
    "unknown_agent": "model_not_found",
    "queue_full": "rate_limit_exceeded",
    "owner_limit": "rate_limit_exceeded",
    "rate_limited": "rate_limit_exceeded",
    "too_many_readers": "rate_limit_exceeded",
    "too_many_callers": "rate_limit_exceeded",
    "upstream_rate_limited": "rate_limit_exceeded",
}


class Refusal(NamedTuple):
    """`error` is the object that the document, or the last frame of a stream, has as its only
    member."""

    status: int
    error: dict[str, Any]
    may_retry: bool

    @property
    def headers(self) -> dict[str, str]:
        return {"x-should-retry": "true" if self.may_retry else "false"}


def of_problem(code: str, status: int, detail: str, field: str) -> Refusal:
    """Of a request that was refused with a problem of ours."""
    status = _OURS.get(code, status)
    return _refusal(code, status, detail, field, may_retry=status in (429, 503))


def of_failure(code: str, message: str, *, retryable: bool) -> Refusal:
    """Of a run that failed or was cancelled."""
    may_retry = retryable and code not in _TRIED
    status = _STATUSES.get(code, 503 if may_retry else 502)
    return _refusal(code, status, message, "", may_retry=may_retry)


def _refusal(code: str, status: int, message: str, field: str, *, may_retry: bool) -> Refusal:
    kind = "invalid_request_error"
    if status == 429:
        kind = "rate_limit_error"
    elif status >= 500:
        kind = "server_error"
    error = {
        "message": message or code,
        "type": kind,
        "param": field or None,
        "code": _CODES.get(code, code),
    }
    return Refusal(status, error, may_retry)

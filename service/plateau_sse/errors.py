"""The tree of errors, and the problem document that each becomes over HTTP.

    PlateauError
    ├── SettingsError          a setting is missing or wrong; says which and what to do
    ├── StoreError             a Redis did not do what was asked
    │   ├── StoreUnavailable   it does not answer
    │   │   └── WritesRefused  it answers, and takes no writes for now
    │   └── StoreFull          it refuses to grow (noeviction)
    └── Problem                what a client is told (RFC 9457), by `code`

Invariant: every `code` that can reach a client is a key of `PROBLEMS`, and every code of a
`run.failed` event a key of `RUN_FAILURES`; docs/errors.md lists both, and a test compares.
"""

from __future__ import annotations

from typing import Any

PROBLEMS: dict[str, tuple[int, str]] = {
    "bad_request": (400, "The request cannot be read"),
    "bad_json": (400, "The body is not JSON"),
    "bad_event_id": (400, "The event id is malformed"),
    "previous_response_not_found": (400, "Nothing can go on from that response"),
    "origin_not_allowed": (403, "The page's origin is not allowed"),
    "insufficient_scope": (403, "The token does not allow this"),
    "other_user": (403, "The token is another user's"),
    "admin_closed": (403, "Administration is closed"),
    "unauthorized": (401, "A valid key or token is needed"),
    "token_expired": (401, "The token has expired"),
    "invalid_token": (401, "The token does not open this run"),
    "not_found": (404, "There is no such thing"),
    "run_not_found": (404, "There is no such run"),
    "method_not_allowed": (405, "The method is not allowed here"),
    "run_finished": (409, "The run has finished"),
    "conversation_busy": (409, "The conversation has another run"),
    "sequence_gap": (409, "Events are missing before these"),
    "other_release": (409, "The run is another release's"),
    "not_external": (409, "The run has a producer of its own"),
    "run_expired": (410, "The run's record has expired"),
    "too_large": (413, "The body is too large"),
    "output_too_large": (413, "The answer would be too large"),
    "host_not_allowed": (421, "The host is not one of this service's"),
    "unsupported_encoding": (415, "The body is compressed"),
    "invalid_request": (422, "The request is not valid"),
    "idempotency_conflict": (422, "The key came with another request"),
    "unknown_agent": (422, "There is no such agent"),
    "queue_full": (429, "Too many runs are waiting"),
    "owner_limit": (429, "Too many of your runs have not ended"),
    "rate_limited": (429, "Too many runs were begun in a minute"),
    "too_many_readers": (429, "Too many of your streams are open"),
    "too_many_attempts": (429, "Too many wrong keys are being sent"),
    "too_many_callers": (429, "Too many callers share the run"),
    "too_many_feeds": (429, "Too many live pages are open"),
    "internal_error": (500, "Something broke on our side"),
    "unsupported_transfer_encoding": (501, "The body is sent in a way that is not understood"),
    "keys_unavailable": (503, "The keys of tokens cannot be fetched"),
    "busy": (503, "No room for another stream"),
    "no_runner": (503, "No runner is alive"),
    "store_unavailable": (503, "The store does not answer"),
    "store_full": (503, "The store is full"),
    "too_many_bodies": (503, "Too many large bodies are on their way"),
}

RUN_FAILURES: dict[str, str] = {
    "agent_error": "the agent raised an error",
    "agent_invalid_output": "the agent yielded something that is not an event",
    "agent_unknown": "no runner has had the agent for QUEUE_TIMEOUT_S",
    "invalid_options": "the agent does not take these options or this input",
    "output_too_large": "the answer passed a bound of the tape",
    "memory_too_large": "what a hosted agent is to remember passed 256 KiB",
    "memory_conflict": "another run has changed what its conversation remembers",
    "too_many_steps": "a hosted agent took as many steps as it may (`max_steps`)",
    "content_filtered": "a guardrail, or the model, refused to answer",
    "timeout": "the attempt took longer than RUN_TIMEOUT_S",
    "runner_lost": "its runners died, MAX_ATTEMPTS times",
    "producer_lost": "its external producer was silent for EXTERNAL_IDLE_S",
    "queue_timeout": "nobody claimed it within QUEUE_TIMEOUT_S",
    "record_lost": "the store lost the run",
    "store_full": "the store stayed full, and had no room for the rest of the answer",
    "upstream_not_configured": "OPENAI_BASE_URL or the model is not set",
    "upstream_unreachable": "the model's endpoint could not be reached",
    "upstream_rejected": "the model's endpoint refused the request (4xx)",
    "upstream_rate_limited": "the model's endpoint is rate limiting (429)",
    "upstream_error": "the model's endpoint failed (5xx)",
    "upstream_broken_stream": "the model's answer broke off, is empty, or is not understood",
    "upstream_timeout": "the model's endpoint fell silent",
}


class PlateauError(Exception):
    """Root of all errors that Plateau raises on purpose."""


class SettingsError(PlateauError):
    """A setting is missing or wrong."""


class StoreError(PlateauError):
    """A Redis did not do what was asked of it."""


class StoreUnavailable(StoreError):
    """It does not answer, or the connection broke."""


class WritesRefused(StoreUnavailable):
    """It answers, and takes no writes: it was demoted, cannot save, or lacks replicas."""


class StoreFull(StoreError):
    """It refuses to grow."""


class Problem(PlateauError):
    """What a client is told; `detail` says what to do, `extra` are further members."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        headers: dict[str, str] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.status, self.title = PROBLEMS[code]
        self.detail = detail
        self.headers = headers or {}
        self.extra = extra or {}

    def document(self) -> dict[str, Any]:
        """The members of an application/problem+json body."""
        return {
            "type": "about:blank",
            "title": self.title,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            **self.extra,
        }

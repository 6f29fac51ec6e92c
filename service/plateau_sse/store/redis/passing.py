"""Errors of Redis that pass, though the server answers: it cannot do that now, or is no longer
the one to ask.

Invariant: a connection on which such an error came is closed: the next is made to whatever the
address stands for by then, so nobody stays with a server that was demoted behind it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from redis import exceptions
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

# It answers, and takes no writes: a replica by now, a disk that is full, too few replicas,
# somebody's script that does not end, a cluster that is not whole.
REFUSES_WRITES = frozenset(
    "READONLY MISCONF NOREPLICAS BUSY MASTERDOWN CLUSTERDOWN TRYAGAIN".split()
)
# It has just begun, or has become another's replica while a command waited.
PASSING = REFUSES_WRITES | {"LOADING", "UNBLOCKED"}
# In a pipeline redis-py puts words of its own before it.
_CODE = re.compile(r"(?:^|caused error: \(['\"])([A-Z]+) ")
_ANSWERED = (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.ResponseError)


def code_of(error: BaseException) -> str:
    """The word with which Redis begins an error, '' where there is none."""
    if isinstance(error, exceptions.RedisError) and error.status_code:
        return str(error.status_code)
    match = _CODE.search(str(error))
    return match[1] if match else ""


def passes(error: BaseException) -> bool:
    """Whether the same may be done later, or over another connection."""
    if isinstance(error, exceptions.ResponseError):
        return code_of(error) in PASSING
    return isinstance(error, exceptions.ConnectionError | exceptions.TimeoutError | OSError)


def _backoff() -> ExponentialBackoff:
    return ExponentialBackoff(cap=0.5, base=0.05)


class Again(AsyncRetry):
    """Once the connection is closed, the same over a new one, so many times."""

    def __init__(self, retries: int) -> None:
        super().__init__(_backoff(), retries, _ANSWERED)

    def call_with_retry(
        self,
        do: Callable[[], Any],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> Any:
        return super().call_with_retry(do, fail, is_retryable or passes, with_failure_count)


class BlockingAgain(Retry):
    """The same for a thread."""

    def __init__(self, retries: int) -> None:
        super().__init__(_backoff(), retries, _ANSWERED)

    def call_with_retry(
        self,
        do: Callable[[], Any],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> Any:
        return super().call_with_retry(do, fail, is_retryable or passes, with_failure_count)

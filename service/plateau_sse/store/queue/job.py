"""What a run was asked: written by the web worker that took it on, read by the runner.

Invariant: what is kept of a request is as bounded as the request. Both sides agree on this one
struct; unknown members are ignored, so that a newer
web worker and an older runner can share a Redis.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Job(msgspec.Struct, omit_defaults=True):
    """`version` is the one of its agent that it was asked of. `cache_key`, and the digest
    `question` that it is made of beside the version, are empty where the answer is not to be
    stored, `flight` where nobody may join, `place` (the name of the conversation `conversation`
    in the store) where there is none, `instead_of` the messages there of whose place this takes
    that. `asked_ms` is when it was asked, since the epoch; `format` is that of the entries
    under `cache_key`."""

    messages: list[dict[str, Any]]
    options: dict[str, Any] = {}
    user: str = ""
    version: str = ""
    cache_key: str = ""
    ttl_s: int | None = None
    flight: str = ""
    conversation: str = ""
    place: str = ""
    instead_of: list[str] = []
    # The user whose run it is, where its answer is all users'.
    reader: str = ""
    # Whose share of all conversations it is in.
    account: str = ""
    asked_ms: int = 0
    format: str = ""
    # Of the request that it came with, for the logs.
    request_id: str = ""
    # The place of what its agent remembers; empty where that is nothing.
    memory: str = ""
    # Of the span that asked, '' where nothing is traced.
    traceparent: str = ""
    question: str = ""

    def encode(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Job:
        return msgspec.json.decode(data, type=cls)

"""What a run was asked: written by the web worker that took it on, read by the runner.

Invariant: what is kept of a request is as bounded as the request. Both sides agree on this one
struct; unknown members are ignored, so that a newer
web worker and an older runner can share a Redis.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Job(msgspec.Struct, omit_defaults=True):
    """`cache_key` is empty where the answer is not to be stored, `flight` where nobody may
    join, `place` (the name of the conversation `conversation` in the store) where there is
    none. `asked_ms` is when it was asked, since the epoch; `format` is that of the entries
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
    asked_ms: int = 0
    format: str = ""
    # Of the request that it came with, for the logs.
    request_id: str = ""

    def encode(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Job:
        return msgspec.json.decode(data, type=cls)
